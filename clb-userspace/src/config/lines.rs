//! The lines of a file: positions for people from byte offsets, and the parts of the text that a message shows.

use std::{borrow::Cow, cell::Cell, ops::Range};

use super::problem::Place;

/// A longer line, in bytes, is not shown.
const LONGEST_SHOWN: usize = 2000;
/// Lines that are not further apart, in bytes, are shown in one excerpt, with the lines between them folded.
const NEAR: usize = 8000;

/// A text and where its lines begin.
pub struct Lines<'t> {
    text: &'t str,
    /// `\n`, `\r\n` and `\r` end a line (YAML 1.2.2, section 5.4).
    starts: Vec<usize>,
    is_ascii: bool,
    /// The last offset whose column was counted, and that: problems come in order, and a line can be the whole file.
    counted: Cell<(usize, usize)>,
}

impl<'t> Lines<'t> {
    pub fn new(text: &'t str) -> Self {
        let bytes = text.as_bytes();
        let ends_line = |at: usize| bytes[at] == b'\n' || (bytes[at] == b'\r' && bytes.get(at + 1) != Some(&b'\n'));
        let mut starts = vec![0];
        starts.extend((0..bytes.len()).filter(|&at| ends_line(at)).map(|at| at + 1));
        Self { text, starts, is_ascii: text.is_ascii(), counted: Cell::new((0, 1)) }
    }

    /// Line and column, both from 1; the column in characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|&start| start <= offset);
        let start = self.starts[line - 1];
        if self.is_ascii {
            return (line, offset - start + 1);
        }
        let (from, column) = match self.counted.get() {
            (counted, column) if (start..=offset).contains(&counted) => (counted, column),
            _ => (start, 1),
        };
        let column = column + self.text[from..offset].chars().count();
        self.counted.set((offset, column));
        (line, column)
    }

    /// The line on which a place begins, without its end; `None` if it is too long to be shown.
    pub fn shown_line(&self, place: Place) -> Option<Range<usize>> {
        let next = self.starts.partition_point(|&start| start <= place.start as usize);
        let start = self.starts[next - 1];
        let end = self.starts.get(next).copied().unwrap_or(self.text.len());
        let line = self.text[start..end].trim_end_matches(['\r', '\n']);
        // A place at the line's end, as of a missing bracket, is behind the last character that is shown.
        (line.len() <= LONGEST_SHOWN).then(|| start..(start + line.len()).max(place.start as usize))
    }

    /// Whether two lines can be shown in one excerpt.
    pub fn are_near(one: &Range<usize>, other: &Range<usize>) -> bool {
        one.end.max(other.end) - one.start.min(other.start) <= NEAR
    }

    /// A part of the text, of the same length, with line ends that every tool knows and without what acts on a terminal.
    pub fn part(&self, range: Range<usize>) -> Cow<'t, str> {
        // The other control characters are either refused or replaced by annotate-snippets.
        let acts = |character: char| matches!(character, '\u{80}'..='\u{9f}');
        let part = &self.text[range];
        if !part.contains(|character| character == '\r' || acts(character)) {
            return part.into();
        }
        part.replace("\r\n", " \n").replace('\r', "\n").replace(acts, "·").into()
    }
}
