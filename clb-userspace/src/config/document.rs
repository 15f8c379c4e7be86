//! The file as a tree of nodes, each with its place.
//!
//! saphyr-parser reads the structure, because it knows the place of everything, also of what is read without an error;
//! `serde_yaml` then says what a scalar is and gives it its Rust type. One parser of the whole text and not two: two could
//! read one file in two ways.
//!
//! What a file can cost is bounded here, by the constants below. Aliases are copied where they are used, under the same
//! bounds. Problems that leave the structure whole are reported and reading goes on; others end it.

mod characters;

use std::{borrow::Cow, collections::HashMap, str::FromStr};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use serde::{Deserialize, de::value::BorrowedStrDeserializer};
use serde_yaml::Number;

use self::characters::{Characters, Lookahead};
use super::problem::{Code, Collected, Place, Problem};

/// The largest file that is read.
pub const MAX_FILE_BYTES: usize = 64 << 20;
/// How deep lists and mappings may nest. The configuration needs 6.
const MAX_DEPTH: usize = 32;
/// How many keys and values a file may have, aliases counted as often as they are used. Half a million backends with three
/// keys each need 3.5 million; the bound keeps a hostile file below 1 GiB of memory.
const MAX_NODES: usize = 5_000_000;

/// A value with its place.
#[derive(Clone, Debug)]
pub struct Node<'t> {
    pub place: Place,
    pub content: Content<'t>,
}

/// What a value is.
#[derive(Clone, Debug)]
pub enum Content<'t> {
    /// A scalar without quotes: YAML decides by its look whether it is text, a number or something else.
    Plain(Cow<'t, str>),
    /// A scalar that is text whatever it looks like.
    Quoted(Cow<'t, str>),
    List(Vec<Node<'t>>),
    Mapping(Vec<Entry<'t>>),
    /// A value whose problem is reported already.
    Unreadable,
}

/// A key and its value.
#[derive(Clone, Debug)]
pub struct Entry<'t> {
    pub key: Cow<'t, str>,
    pub place: Place,
    pub value: Node<'t>,
}

/// Reads the one document of a file, or `None` if its structure cannot be known.
pub fn parse<'t>(text: &'t str, problems: &mut Collected) -> Option<Node<'t>> {
    if let Some(at) = text.bytes().position(is_forbidden) {
        let message = format!("the character U+{:04X} cannot stand in a YAML file", text.as_bytes()[at]);
        problems.push(syntax(Place::new(at, at + 1), message, "remove it; is this really a text file?"));
        return None;
    }
    let lookahead = Lookahead::new();
    let mut parser = Parser::new(Characters::new(text, lookahead.clone()));
    let mut builder = Builder::new(text, problems);
    let ended = loop {
        let Some(event) = parser.next_event() else { break Ok(()) };
        if lookahead.is_exhausted() {
            break Err(builder.too_much_flow());
        }
        lookahead.renew();
        if let Err(problem) = event.map_err(|error| builder.not_yaml(&error)).and_then(|event| builder.take(event)) {
            break Err(problem);
        }
    };
    let Builder { root, .. } = builder;
    match (ended, root) {
        (Err(problem), _) => problems.push(problem),
        (Ok(()), Some(root)) => return Some(root),
        (Ok(()), None) => problems.push(empty()),
    }
    None
}

/// The problem of a file without any value.
pub fn empty() -> Problem {
    syntax(Place::new(0, 0), "the file is empty", "begin with `version: 1`; config/minimal-dsr.yaml is an example")
}

fn syntax(place: Place, message: impl Into<String>, help: impl Into<String>) -> Problem {
    Problem::new(Code::Syntax, place, message, help)
}

/// Control characters, which YAML does not allow (YAML 1.2.2, section 5.1); tab and line breaks are none of them.
fn is_forbidden(byte: u8) -> bool {
    (byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r')) || byte == 0x7f
}

impl Node<'_> {
    /// Whether there is no value: nothing after the colon, or `null`.
    pub fn is_null(&self) -> bool {
        matches!(&self.content, Content::Plain(text) if matches!(&**text, "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The scalar in its Rust type; `None` if it has another.
    pub fn read<'n, T: Deserialize<'n>>(&'n self) -> Option<T> {
        let text = match &self.content {
            Content::Plain(text) => match Number::from_str(text) {
                Ok(number) => return T::deserialize(number).ok(),
                Err(_) if self.is_null() || self.is_boolean() => return None,
                Err(_) => text,
            },
            Content::Quoted(text) => text,
            Content::List(_) | Content::Mapping(_) | Content::Unreadable => return None,
        };
        T::deserialize(BorrowedStrDeserializer::<serde_yaml::Error>::new(text)).ok()
    }

    /// What the value is, to be told to a person.
    pub fn description(&self) -> String {
        match &self.content {
            Content::Plain(_) if self.is_null() => "null".into(),
            Content::Plain(text) if self.is_boolean() => format!("the boolean `{text}`"),
            Content::Plain(text) if Number::from_str(text).is_ok() => format!("the number `{text}`"),
            Content::Plain(text) | Content::Quoted(text) => format!("the text `{}`", shortened(text)),
            Content::List(_) => "a list".into(),
            Content::Mapping(_) => "a mapping".into(),
            Content::Unreadable => "unreadable".into(),
        }
    }

    fn is_boolean(&self) -> bool {
        matches!(&self.content, Content::Plain(text)
            if matches!(&**text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE"))
    }
}

/// Text for a message: a value may be longer than a person wants to read.
pub fn shortened(text: &str) -> Cow<'_, str> {
    const MAX_CHARACTERS: usize = 80;
    match text.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

/// Builds the tree from the parser's events.
struct Builder<'t, 'p> {
    offsets: Offsets<'t>,
    problems: &'p mut Collected,
    anchors: HashMap<usize, Anchored<'t>>,
    open: Vec<Collection<'t>>,
    root: Option<Node<'t>>,
    nodes: usize,
}

/// A list or mapping whose end is not reached.
struct Collection<'t> {
    place: Place,
    anchor: usize,
    is_tagged: bool,
    /// The number of nodes before it.
    nodes_before: usize,
    /// How many levels are inside.
    height: usize,
    content: Open<'t>,
}

enum Open<'t> {
    List(Vec<Node<'t>>),
    Mapping { entries: Vec<Entry<'t>>, key: Option<Key<'t>> },
}

/// A key whose value is not reached.
struct Key<'t> {
    /// `None` if it is reported.
    text: Option<Cow<'t, str>>,
    place: Place,
}

/// A value with an anchor, and what it costs to use it again.
struct Anchored<'t> {
    node: Node<'t>,
    nodes: usize,
    height: usize,
}

impl<'t, 'p> Builder<'t, 'p> {
    fn new(text: &'t str, problems: &'p mut Collected) -> Self {
        Self { offsets: Offsets::new(text), problems, anchors: HashMap::new(), open: Vec::new(), root: None, nodes: 0 }
    }

    fn take(&mut self, (event, span): (Event<'t>, Span)) -> Result<(), Problem> {
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                let place = self.offsets.place(span);
                Err(syntax(place, "a second document begins here", "keep one document in a file"))
            }
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::StreamEnd => {
                Ok(())
            }
            Event::Scalar(value, style, anchor, tag) => {
                let place = self.content_place(span);
                let text = self.borrowed(place, value);
                let content = match style {
                    _ if tag.is_some() => self.tagged(span),
                    ScalarStyle::Plain => Content::Plain(text),
                    _ => Content::Quoted(text),
                };
                self.count(1, place)?;
                self.add(Node { place, content }, anchor, 1, 0)
            }
            Event::Alias(anchor) => self.alias(anchor, span),
            Event::SequenceStart(anchor, tag) => self.open(span, anchor, tag.is_some(), Open::List(Vec::new())),
            Event::MappingStart(anchor, tag) => {
                self.open(span, anchor, tag.is_some(), Open::Mapping { entries: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
        }
    }

    fn open(&mut self, span: Span, anchor: usize, is_tagged: bool, content: Open<'t>) -> Result<(), Problem> {
        let place = self.content_place(span);
        if is_tagged {
            self.tagged(span);
        }
        if self.open.len() == MAX_DEPTH {
            return Err(too_deep(place));
        }
        let nodes_before = self.nodes;
        self.count(1, place)?;
        self.open.push(Collection { place, anchor, is_tagged, nodes_before, height: 0, content });
        Ok(())
    }

    fn close(&mut self, span: Span) -> Result<(), Problem> {
        let Some(Collection { mut place, anchor, is_tagged, nodes_before, height, content }) = self.open.pop() else {
            return Ok(());
        };
        place.end = place.end.max(self.offsets.byte(span.end.index()) as u32);
        let content = match content {
            _ if is_tagged => Content::Unreadable,
            Open::List(items) => Content::List(items),
            Open::Mapping { entries, .. } => Content::Mapping(self.without_duplicates(entries)),
        };
        self.add(Node { place, content }, anchor, self.nodes - nodes_before, height + 1)
    }

    /// Copies the anchor's value to where it is used.
    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Problem> {
        let place = self.offsets.place(span);
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(syntax(place, "an alias inside of its own anchor", "write the value out"));
        };
        let (nodes, height) = (anchored.nodes, anchored.height);
        if self.open.len() + height > MAX_DEPTH {
            return Err(too_deep(place));
        }
        let node = &anchored.node;
        // Counted before it is copied: the copy is what a bomb of aliases wants.
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(too_many(place));
        }
        let mut node = node.clone();
        node.move_to(place);
        self.add(node, 0, nodes, height)
    }

    /// Puts a finished value where it belongs.
    fn add(&mut self, mut node: Node<'t>, anchor: usize, nodes: usize, height: usize) -> Result<(), Problem> {
        if anchor > 0 {
            self.count(nodes, node.place)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), nodes, height });
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        parent.height = parent.height.max(height);
        match &mut parent.content {
            Open::List(items) => items.push(node),
            Open::Mapping { key: key @ None, .. } => {
                let (text, place) = match node.content {
                    Content::Plain(text) | Content::Quoted(text) => (Some(text), node.place),
                    Content::Unreadable => (None, node.place),
                    Content::List(_) | Content::Mapping(_) => {
                        self.problems.push(syntax(node.place, "a key must be text", "write a name before the colon"));
                        (None, node.place)
                    }
                };
                *key = Some(Key { text, place });
            }
            Open::Mapping { entries, key } => {
                if let Some(Key { text: Some(text), place }) = key.take() {
                    if node.is_null() && node.place.start == node.place.end {
                        // There is nothing to point at after the colon.
                        node.place = place;
                    }
                    entries.push(Entry { key: text, place, value: node });
                }
            }
        }
        Ok(())
    }

    /// Reports every key that stands again in one mapping. Which value is meant is not known, so the first has none.
    fn without_duplicates(&mut self, mut entries: Vec<Entry<'t>>) -> Vec<Entry<'t>> {
        const FEW: usize = 20;
        let is_duplicate = |at: usize| entries[..at].iter().any(|earlier| earlier.key == entries[at].key);
        if entries.len() <= FEW && !(1..entries.len()).any(is_duplicate) {
            return entries;
        }
        let mut seen = HashMap::new();
        let mut duplicates = HashMap::new();
        for (at, entry) in entries.iter().enumerate() {
            let first = *seen.entry(&*entry.key).or_insert(at);
            if first != at {
                duplicates.insert(at, first);
                if self.problems.is_full() {
                    continue;
                }
                let message = format!("the key `{}` stands twice in one mapping", shortened(&entry.key));
                let problem = syntax(entry.place, message, "keep one of them");
                self.problems.push(problem.label(entries[first].place, "first given here"));
            }
        }
        for &first in duplicates.values() {
            entries[first].value.content = Content::Unreadable;
        }
        let kept = entries.into_iter().enumerate().filter(|(at, _)| !duplicates.contains_key(at));
        kept.map(|(_, entry)| entry).collect()
    }

    fn tagged(&mut self, span: Span) -> Content<'t> {
        let place = self.offsets.place(span);
        let help = "remove the tag; put a value in quotes to make it text";
        self.problems.push(syntax(place, "tags such as `!!str` have no meaning here", help));
        Content::Unreadable
    }

    fn count(&mut self, nodes: usize, place: Place) -> Result<(), Problem> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES { Err(too_many(place)) } else { Ok(()) }
    }

    /// The place of a value without the anchor or tag before it.
    fn content_place(&mut self, span: Span) -> Place {
        let mut place = self.offsets.place(span);
        let bytes = self.offsets.text.as_bytes();
        let end = place.end as usize;
        let mut at = place.start as usize;
        while at < end && matches!(bytes[at], b'&' | b'!') {
            at += bytes[at..end].iter().take_while(|byte| !byte.is_ascii_whitespace()).count();
            while at < end && (bytes[at].is_ascii_whitespace() || bytes[at] == b'#') {
                let is_comment = bytes[at] == b'#';
                at += if is_comment { bytes[at..end].iter().take_while(|&&byte| byte != b'\n').count() } else { 1 };
            }
        }
        if at > place.start as usize {
            place = Place::new(at, end);
        }
        place
    }

    /// The text as a part of the file, if it stands there as it is: most do, and need no memory of their own.
    fn borrowed(&self, place: Place, value: Cow<'t, str>) -> Cow<'t, str> {
        let (start, end) = (place.start as usize, place.end as usize);
        let text = self.offsets.text;
        let quoted = || text.get(start + 1..end.saturating_sub(1));
        match [text.get(start..end), quoted()].into_iter().flatten().find(|&part| part == value) {
            Some(part) => Cow::Borrowed(part),
            None => value,
        }
    }

    fn not_yaml(&mut self, error: &ScanError) -> Problem {
        let at = self.offsets.byte(error.marker().index());
        let width = self.offsets.text[at..].chars().next().filter(|&c| c != '\n').map_or(0, char::len_utf8);
        if error.info() == "recursion limit exceeded" {
            return too_deep(Place::new(at, at + width));
        }
        let help = "look at the indentation, the quotes and the brackets up to this place";
        syntax(Place::new(at, at + width), format!("this is not YAML: {}", error.info()), help)
    }

    fn too_much_flow(&mut self) -> Problem {
        let place = self.open.last().map_or(Place::new(0, 0), |innermost| innermost.place);
        syntax(place, "too much in one pair of brackets or braces", "write long lists in block style, with `- `")
    }
}

fn too_deep(place: Place) -> Problem {
    syntax(place, format!("more than {MAX_DEPTH} levels of lists and mappings"), "the configuration needs only 6")
}

fn too_many(place: Place) -> Problem {
    let message = format!("more than {MAX_NODES} keys and values, aliases counted as often as they are used");
    syntax(place, message, "make the file smaller, or write what the aliases stand for")
}

impl Node<'_> {
    /// Gives the value and all that is inside the place of an alias.
    fn move_to(&mut self, alias: Place) {
        let moved = |place: Place| Place { written: place.written, ..alias };
        self.place = moved(self.place);
        match &mut self.content {
            Content::Plain(_) | Content::Quoted(_) | Content::Unreadable => {}
            Content::List(items) => items.iter_mut().for_each(|item| item.move_to(alias)),
            Content::Mapping(entries) => {
                for entry in entries {
                    entry.place = moved(entry.place);
                    entry.value.move_to(alias);
                }
            }
        }
    }
}

/// From the parser's positions, which count characters, to bytes. Positions come nearly in order, so a cursor that walks
/// the text is enough.
struct Offsets<'t> {
    text: &'t str,
    is_ascii: bool,
    characters: usize,
    bytes: usize,
}

impl<'t> Offsets<'t> {
    fn new(text: &'t str) -> Self {
        Self { text, is_ascii: text.is_ascii(), characters: 0, bytes: 0 }
    }

    fn place(&mut self, span: Span) -> Place {
        Place::new(self.byte(span.start.index()), self.byte(span.end.index()))
    }

    fn byte(&mut self, index: usize) -> usize {
        if self.is_ascii {
            return index.min(self.text.len());
        }
        while self.characters < index {
            let Some(next) = self.text[self.bytes..].chars().next() else { break };
            self.bytes += next.len_utf8();
            self.characters += 1;
        }
        while self.characters > index {
            let Some(last) = self.text[..self.bytes].chars().next_back() else { break };
            self.bytes -= last.len_utf8();
            self.characters -= 1;
        }
        self.bytes
    }
}
