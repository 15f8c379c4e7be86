//! The text as saphyr-parser's scanner takes it, with a bound on how far the scanner runs ahead.
//!
//! Where a flow collection could still turn out to be a key (`[a, b]: c`), the scanner keeps all of its tokens until it
//! sees the end. That is most of a file in JSON, and a gigabyte for a hostile one. So the characters that make tokens in
//! flow style are counted between two events, and too many of them end the input.

use std::{cell::Cell, rc::Rc};

use saphyr_parser::input::{Input, is_break};

/// How many more separators the scanner may consume before it must produce an event.
#[derive(Clone, Debug)]
pub struct Lookahead(Rc<Cell<u32>>);

impl Lookahead {
    /// How many `,`, `:`, `[` and `{` the scanner may hold back.
    const MAX_SEPARATORS: u32 = 500_000;

    pub fn new() -> Self {
        Self(Rc::new(Cell::new(Self::MAX_SEPARATORS)))
    }

    /// The scanner has produced an event.
    pub fn renew(&self) {
        self.0.set(Self::MAX_SEPARATORS);
    }

    /// Whether the input was ended early.
    pub fn is_exhausted(&self) -> bool {
        self.0.get() == 0
    }
}

/// The rest of the text.
#[derive(Debug)]
pub struct Characters<'t> {
    rest: &'t str,
    asked: usize,
    lookahead: Lookahead,
}

impl<'t> Characters<'t> {
    pub fn new(text: &'t str, lookahead: Lookahead) -> Self {
        Self { rest: text, asked: 0, lookahead }
    }

    fn next(&mut self) -> Option<char> {
        let mut characters = self.rest.chars();
        let next = characters.next()?;
        self.rest = characters.as_str();
        if matches!(next, ',' | ':' | '[' | '{') {
            let left = self.lookahead.0.get() - 1;
            self.lookahead.0.set(left);
            if left == 0 {
                self.rest = "";
            }
        }
        Some(next)
    }
}

impl Input for Characters<'_> {
    /// Everything is at hand; only the number that was asked for is remembered, because the scanner wants it back.
    #[inline]
    fn lookahead(&mut self, count: usize) {
        self.asked = self.asked.max(count);
    }

    #[inline]
    fn buflen(&self) -> usize {
        self.asked
    }

    /// The scanner reserves this much for every scalar.
    #[inline]
    fn bufmaxlen(&self) -> usize {
        16
    }

    #[inline]
    fn raw_read_ch(&mut self) -> char {
        self.next().unwrap_or('\0')
    }

    #[inline]
    fn raw_read_non_breakz_ch(&mut self) -> Option<char> {
        match self.peek_opt()? {
            '\0' | '\u{feff}' => None,
            next if is_break(next) => None,
            _ => self.next(),
        }
    }

    #[inline]
    fn skip(&mut self) {
        self.next();
    }

    #[inline]
    fn skip_n(&mut self, count: usize) {
        for _ in 0..count {
            self.next();
        }
    }

    #[inline]
    fn peek(&self) -> char {
        self.peek_opt().unwrap_or('\0')
    }

    #[inline]
    fn peek_nth(&self, n: usize) -> char {
        self.rest.chars().nth(n).unwrap_or('\0')
    }

    #[inline]
    fn peek_opt(&self) -> Option<char> {
        self.rest.chars().next()
    }
}
