//! Writes a topology as YAML in any of the ways that people and programs write it, and knows where each value stands.
//!
//! The places come from counting what is written and not from a parser, so that they can be held against the loader's.
//! Block and flow style are mixed; with anchors, a value that was written before is often an alias of it, as is a whole
//! backend. What stands in an alias has the alias's place.

use std::{collections::BTreeMap, iter::repeat_n};

use proptest::prelude::*;

/// Values that are no text, which quotes would make them.
const NOT_TEXT: [&str; 10] = [
    "version",
    "port",
    "weight",
    "slots",
    "hash_seed",
    "healthy",
    "interfaces",
    "secondary_ips",
    "tunnel_sources",
    "source_addresses",
];

/// Lists of one item, which is what is wrong if something is.
const LISTS_OF_ONE: [&str; 2] = ["tunnel_sources", "source_addresses"];

/// What is to be written.
#[derive(Clone, Debug)]
pub enum Tree {
    Scalar(String),
    List(Vec<Self>),
    Mapping {
        /// From which the marks of its keys and values are made.
        name: String,
        entries: Vec<(&'static str, Self)>,
    },
}

impl Tree {
    /// A mapping of scalars.
    pub fn mapping(name: &str, entries: &[(&'static str, String)]) -> Self {
        let entries = entries.iter().map(|(key, value)| (*key, Self::Scalar(value.clone()))).collect();
        Self::Mapping { name: name.to_owned(), entries }
    }
}

/// Random decisions that shrink, in a circle.
#[derive(Clone)]
pub struct Choices<'c> {
    circle: std::iter::Cycle<std::slice::Iter<'c, u8>>,
}

impl<'c> Choices<'c> {
    pub fn new(choices: &'c [u8]) -> Self {
        Self { circle: choices.iter().cycle() }
    }

    /// A number below `of`.
    pub fn pick(&mut self, of: usize) -> usize {
        usize::from(*self.circle.next().expect("at least one choice")) % of
    }

    pub fn text(&mut self, of: &[&str]) -> String {
        of[self.pick(of.len())].to_owned()
    }
}

/// How a file is written.
#[derive(Clone, Debug)]
pub struct Way {
    comment: &'static str,
    line_end: &'static str,
    byte_order_mark: &'static str,
    quotes: Vec<&'static str>,
    has_anchors: bool,
    choices: Vec<u8>,
}

impl Way {
    pub fn any() -> impl Strategy<Value = Self> {
        let quotes = vec![vec![""], vec!["'"], vec!["\""], vec!["", "'", "\""]];
        let ways = (
            prop::sample::select(vec!["", "# note: {a}, [b] \"c", "# é — 负载均衡", "#"]),
            prop::sample::select(vec!["\n", "\r\n", "\r"]),
            prop::sample::select(vec!["", "\u{feff}"]),
            prop::sample::select(quotes),
            any::<bool>(),
            // All zeros, which is block style without aliases, is what failures shrink to.
            prop::collection::vec(any::<u8>(), 29),
        );
        ways.prop_map(|(comment, line_end, byte_order_mark, quotes, has_anchors, choices)| Self {
            comment,
            line_end,
            byte_order_mark,
            quotes,
            has_anchors,
            choices,
        })
    }

    pub fn write(&self, file: &Tree) -> Written {
        let mut writer = Writer {
            way: self,
            choices: Choices::new(&self.choices),
            anchors: BTreeMap::new(),
            written: Written { text: self.byte_order_mark.to_owned(), places: BTreeMap::new(), aliases: 0 },
            line: 1,
            column: 1,
        };
        writer.put("# made by a test");
        writer.end_line();
        writer.block(file, 0);
        writer.written
    }
}

/// The text, and where everything stands in it.
pub struct Written {
    pub text: String,
    /// Line and column of `mapping.key` (the value) and of `mapping.key:` (the key itself).
    pub places: BTreeMap<String, (u64, u64)>,
    /// How many values are aliases.
    pub aliases: u64,
}

struct Writer<'w> {
    way: &'w Way,
    choices: Choices<'w>,
    /// The anchors of what was written.
    anchors: BTreeMap<String, String>,
    written: Written,
    line: u64,
    column: u64,
}

impl Writer<'_> {
    /// Writes what begins on a line of its own.
    fn block(&mut self, tree: &Tree, indent: usize) {
        match tree {
            Tree::Scalar(_) => unreachable!("a scalar stands in a mapping"),
            Tree::List(items) => {
                for item in items {
                    self.item(item, indent);
                }
            }
            Tree::Mapping { name, entries } => {
                for (key, value) in entries {
                    self.indent(indent);
                    self.entry(name, key, value, indent);
                }
            }
        }
    }

    fn item(&mut self, item: &Tree, indent: usize) {
        self.indent(indent);
        self.put("- ");
        let is_flow = self.choices.pick(2) == 1;
        match self.anchor(item) {
            Anchor::Alias => self.end_line(),
            _ if is_flow => {
                self.flow(item, indent);
                self.end_line();
            }
            Anchor::New => {
                self.end_line();
                self.block(item, indent + 2);
            }
            Anchor::Without => {
                let Tree::Mapping { name, entries } = item else { unreachable!("a list has mappings") };
                for (at, (key, value)) in entries.iter().enumerate() {
                    self.indent(if at == 0 { 0 } else { indent + 2 });
                    self.entry(name, key, value, indent + 2);
                }
            }
        }
    }

    /// An entry of a mapping in block style, from its key to the end of the line.
    fn entry(&mut self, name: &str, key: &str, value: &Tree, indent: usize) {
        self.mark(format!("{name}.{key}:"));
        self.put(key);
        self.put(":");
        let is_flow = match value {
            Tree::Scalar(_) => true,
            Tree::List(items) => items.is_empty() || self.choices.pick(4) == 1,
            Tree::Mapping { .. } => self.choices.pick(2) == 1,
        };
        if is_flow {
            self.put(" ");
            match value {
                Tree::Scalar(value) => self.scalar(name, key, value, ""),
                _ => self.flow(value, indent),
            }
            self.end_line();
        } else {
            self.end_line();
            self.block(value, indent + 2);
        }
    }

    /// Writes within brackets or braces.
    fn flow(&mut self, tree: &Tree, indent: usize) {
        // A colon is a part of an address in block style only.
        let least_quote = |value: &str| if value.contains("::") { "'" } else { "" };
        match tree {
            Tree::Scalar(_) => unreachable!("a scalar stands in a mapping"),
            Tree::List(items) => {
                self.put("[");
                for (at, item) in items.iter().enumerate() {
                    self.separate(at, indent);
                    match self.anchor(item) {
                        Anchor::Alias => {}
                        Anchor::New | Anchor::Without => self.flow(item, indent),
                    }
                }
                self.put("]");
            }
            Tree::Mapping { name, entries } => {
                self.put("{");
                for (at, (key, value)) in entries.iter().enumerate() {
                    self.separate(at, indent);
                    self.mark(format!("{name}.{key}:"));
                    self.put(&format!("{key}: "));
                    match value {
                        Tree::Scalar(value) => self.scalar(name, key, value, least_quote(value)),
                        _ => self.flow(value, indent),
                    }
                }
                self.put("}");
            }
        }
    }

    fn separate(&mut self, at: usize, indent: usize) {
        if at > 0 {
            self.put(",");
            if self.choices.pick(4) == 1 {
                self.end_line();
                self.indent(indent + 3);
            } else {
                self.put(" ");
            }
        }
    }

    fn scalar(&mut self, name: &str, key: &str, value: &str, least_quote: &str) {
        let is_text = !NOT_TEXT.contains(&key);
        let anchor = format!("{is_text} {value}");
        if !LISTS_OF_ONE.contains(&key) && self.is_alias(&anchor) {
            self.mark(format!("{name}.{key}"));
            return self.put_alias(&anchor);
        }
        if self.way.has_anchors && !value.starts_with('[') {
            self.put_anchor(anchor);
            self.put(" ");
        }
        let bracket = u64::from(LISTS_OF_ONE.contains(&key));
        self.written.places.insert(format!("{name}.{key}"), (self.line, self.column + bracket));
        let quote = self.way.quotes[self.choices.pick(self.way.quotes.len())];
        let quote = match (is_text, quote) {
            (false, _) => "",
            (true, "") => least_quote,
            (true, quote) => quote,
        };
        // A list is raw: its items have their quotes.
        self.put(&format!("{quote}{value}{quote}"));
    }

    /// Writes the anchor of a list's item, or the alias that stands for all of it.
    fn anchor(&mut self, item: &Tree) -> Anchor {
        let Tree::Mapping { name, entries } = item else { return Anchor::Without };
        if !self.way.has_anchors {
            return Anchor::Without;
        }
        let anchor = format!("{entries:?}");
        if self.is_alias(&anchor) {
            for (key, _) in entries {
                self.mark(format!("{name}.{key}"));
                self.mark(format!("{name}.{key}:"));
            }
            self.put_alias(&anchor);
            return Anchor::Alias;
        }
        self.put_anchor(anchor);
        // Before a flow collection; a block of its own begins on the next line.
        self.put(" ");
        Anchor::New
    }

    fn is_alias(&mut self, anchor: &str) -> bool {
        self.anchors.contains_key(anchor) && self.choices.pick(2) == 1
    }

    fn put_alias(&mut self, anchor: &str) {
        let alias = format!("*{}", self.anchors[anchor]);
        self.put(&alias);
        self.written.aliases += 1;
    }

    /// A name may be given again, which makes the later one count.
    fn put_anchor(&mut self, anchor: String) {
        let name = format!("a{}", self.anchors.len());
        let name = self.anchors.entry(anchor).or_insert(name);
        let name = format!("&{name}");
        self.put(&name);
    }

    fn put(&mut self, text: &str) {
        self.written.text += text;
        self.column += text.chars().count() as u64;
    }

    fn indent(&mut self, indent: usize) {
        self.put(&repeat_n(' ', indent).collect::<String>());
    }

    fn mark(&mut self, name: String) {
        self.written.places.insert(name, (self.line, self.column));
    }

    fn end_line(&mut self) {
        if !self.way.comment.is_empty() {
            self.put(" ");
            self.put(self.way.comment);
        }
        self.written.text += self.way.line_end;
        self.line += 1;
        self.column = 1;
    }
}

enum Anchor {
    Without,
    New,
    Alias,
}
