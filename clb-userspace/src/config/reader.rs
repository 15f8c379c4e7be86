//! Reads typed values from nodes and reports what is wrong with each: unknown and missing keys, types, ranges.
//!
//! Knows how values look, not which there are: that is [`super::written`].

use std::{collections::HashSet, fmt, net::IpAddr, ops::RangeInclusive, time::Duration};

use serde::Deserialize;
use serde_yaml::Number;

use super::{
    document::{Content, Entry, Node, shortened},
    nearest::nearest,
    problem::{Code, Collected, Place, Problem},
    written::{Field, Given, List},
};

/// Collects the problems of single values.
pub struct Reader<'p> {
    problems: &'p mut Collected,
    /// What was reported at which text: a value that is used again through an alias is reported once.
    reported: HashSet<(u32, String)>,
}

/// Whether a key may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Required,
    Optional,
}

/// The keys and values of one mapping.
pub struct Fields<'n> {
    /// What the mapping describes.
    what: &'static str,
    /// The first key.
    pub place: Place,
    entries: &'n [Entry<'n>],
    /// Unknown keys that must have been meant as known ones.
    misspelt: Vec<(&'static str, &'n Entry<'n>)>,
}

impl<'n> Fields<'n> {
    /// The entry of the key.
    pub fn find(&self, key: &str) -> Option<&'n Entry<'n>> {
        let misspelt = || self.misspelt.iter().find(|(meant, _)| *meant == key).map(|(_, entry)| *entry);
        self.entries.iter().find(|entry| entry.key == key).or_else(misspelt)
    }
}

/// A type that a scalar can have.
pub trait Leaf<'n>: Deserialize<'n> {
    /// What is expected, in words.
    const EXPECTED: &'static str;

    /// What to write instead of this node.
    fn help(_instead_of: &Node<'_>) -> String {
        format!("write {}", Self::EXPECTED)
    }
}

impl<'n> Leaf<'n> for &'n str {
    const EXPECTED: &'static str = "text";

    fn help(instead_of: &Node<'_>) -> String {
        match &instead_of.content {
            Content::Plain(text) if !instead_of.is_null() => format!("put it in quotes: \"{text}\""),
            _ => "write text".into(),
        }
    }
}

impl Leaf<'_> for Number {
    const EXPECTED: &'static str = "a number";

    fn help(instead_of: &Node<'_>) -> String {
        match &instead_of.content {
            Content::Quoted(text) if text.parse::<Number>().is_ok() => format!("remove the quotes: {text}"),
            _ => "write a number, in digits and without quotes".into(),
        }
    }
}

impl Leaf<'_> for IpAddr {
    const EXPECTED: &'static str = "an IPv4 or IPv6 address";

    fn help(_instead_of: &Node<'_>) -> String {
        "write an address such as 10.0.1.11 or 2001:db8::11, without a prefix length or port".into()
    }
}

impl<'p> Reader<'p> {
    pub fn new(problems: &'p mut Collected) -> Self {
        Self { problems, reported: HashSet::new() }
    }

    /// Reports a problem of a single value.
    pub fn report(&mut self, problem: Problem) {
        if self.problems.is_full() {
            return;
        }
        let key = (problem.place.written, format!("{} {}", problem.code.name(), problem.message));
        if self.reported.insert(key) || !problem.place.is_alias() {
            self.problems.push(problem);
        }
    }

    /// The mapping's entries, with all unknown keys reported; `None` if it is no mapping.
    pub fn mapping<'n>(
        &mut self,
        what: &'static str,
        node: &'n Node<'n>,
        known: &[&'static str],
    ) -> Option<Fields<'n>> {
        let Content::Mapping(entries) = &node.content else {
            self.wrong_type(what, "a mapping", node, format!("write the keys {}", listed(known)));
            return None;
        };
        let place = entries.first().map_or(node.place, |first| first.place);
        let mut fields = Fields { what, place, entries, misspelt: Vec::new() };
        for entry in entries.iter().filter(|entry| !known.contains(&&*entry.key)) {
            if self.problems.is_full() {
                break;
            }
            let meant = nearest(&entry.key, known.iter().copied());
            let help = match meant {
                _ if entry.key == "<<" => "merge keys are not supported: write the keys out, or use an alias".into(),
                Some(meant) => format!("there is a key with a similar name: `{meant}`"),
                None => format!("{what} has the keys {}", listed(known)),
            };
            let message = format!("{what} has no key `{}`", shortened(&entry.key));
            self.report(Problem::new(Code::UnknownKey, entry.place, message, help));
            if let Some(meant) = meant.filter(|meant| fields.find(meant).is_none()) {
                fields.misspelt.push((meant, entry));
            }
        }
        Some(fields)
    }

    /// The value of a key, by `read`. A null is as good as no key where the key is optional.
    pub fn field<'n, T>(
        &mut self,
        fields: &Fields<'n>,
        key: &'static str,
        need: Need,
        read: impl FnOnce(&mut Self, &'static str, &'n Node<'n>) -> Field<T>,
    ) -> Field<T> {
        match (fields.find(key), need) {
            (Some(entry), Need::Required) if entry.value.is_null() => {
                let message = format!("`{key}` has no value");
                let help = "write a value after the colon";
                self.report(Problem::new(Code::Syntax, entry.value.place, message, help));
                Field::Wrong
            }
            (Some(entry), Need::Optional) if entry.value.is_null() => Field::Absent,
            (Some(entry), _) => read(self, key, &entry.value),
            (None, Need::Optional) => Field::Absent,
            (None, Need::Required) => {
                let message = format!("{} needs the key `{key}`", fields.what);
                let help = format!("add `{key}:`");
                self.report(Problem::new(Code::MissingKey, fields.place, message, help));
                Field::Wrong
            }
        }
    }

    /// The items of a list by `read`, which gives `None` for what it has reported. No list is an empty one.
    pub fn list<'n, T>(
        &mut self,
        fields: &Fields<'n>,
        key: &'static str,
        mut read: impl FnMut(&mut Self, &'n Node<'n>) -> Option<T>,
    ) -> List<T> {
        let mut list = List { items: Vec::new(), is_complete: true };
        match fields.find(key).map(|entry| &entry.value) {
            None => {}
            Some(node) if node.is_null() => {}
            Some(Node { content: Content::List(nodes), .. }) => {
                list.items.reserve_exact(nodes.len());
                for node in nodes {
                    if self.problems.is_full() {
                        list.is_complete = false;
                        break;
                    }
                    match read(self, node) {
                        Some(item) => list.items.push(item),
                        None => list.is_complete = false,
                    }
                }
            }
            Some(node) => {
                self.wrong_type(&format!("`{key}`"), "a list", node, "begin each item with `- ` on its own line");
                list.is_complete = false;
            }
        }
        list
    }

    /// A scalar of any type.
    pub fn leaf<'n, T: Leaf<'n>>(&mut self, key: &'static str, node: &'n Node<'n>) -> Field<T> {
        if let Some(value) = node.read() {
            return Field::Given(Given { value, place: node.place });
        }
        self.wrong_type(&format!("`{key}`"), T::EXPECTED, node, T::help(node));
        Field::Wrong
    }

    /// Text that is not empty.
    pub fn text<'n>(&mut self, key: &'static str, node: &'n Node<'n>) -> Field<&'n str> {
        let text = self.leaf::<&str>(key, node);
        if let Field::Given(Given { value: "", place }) = text {
            let message = format!("`{key}` is empty");
            self.report(Problem::new(Code::Syntax, place, message, "write a value between the quotes"));
            return Field::Wrong;
        }
        text
    }

    /// An address. IPv4-mapped IPv6 is IPv4: both are one address to the program's maps.
    pub fn address(&mut self, key: &'static str, node: &Node<'_>) -> Field<IpAddr> {
        self.leaf(key, node).map(|address: IpAddr| address.to_canonical())
    }

    /// A whole number in a range.
    pub fn number<T: TryFrom<u64>>(
        &mut self,
        (code, range): (Code, RangeInclusive<u64>),
        key: &'static str,
        node: &Node<'_>,
    ) -> Field<T> {
        let Field::Given(Given { value, place }) = self.leaf::<Number>(key, node) else { return Field::Wrong };
        let in_range = value.as_u64().filter(|value| range.contains(value));
        if let Some(Ok(value)) = in_range.map(T::try_from) {
            return Field::Given(Given { value, place });
        }
        let message = format!("`{key}` is {value}, which is not from {} to {}", range.start(), range.end());
        let help = format!("write a whole number from {} to {}", range.start(), range.end());
        self.report(Problem::new(code, place, message, help));
        Field::Wrong
    }

    /// A time with its unit, in a range.
    pub fn duration(
        &mut self,
        (code, range): (Code, RangeInclusive<Duration>),
        key: &'static str,
        node: &Node<'_>,
    ) -> Field<Duration> {
        let place = node.place;
        let Some(value) = node.read::<&str>().and_then(parse_duration) else {
            let help = match node.read::<Number>() {
                Some(number) => format!("write the unit: `{number}s` are seconds, `{number}m` minutes"),
                None => "write a whole number and its unit: `500ms`, `5s`, `2m` or `1h`".into(),
            };
            self.wrong_type(&format!("`{key}`"), "a time with its unit", node, help);
            return Field::Wrong;
        };
        if range.contains(&value) {
            return Field::Given(Given { value, place });
        }
        let (start, end) = (Seconds(*range.start()), Seconds(*range.end()));
        let message = format!("`{key}` is {}, which is not from {start} to {end}", Seconds(value));
        self.report(Problem::new(code, place, message, format!("write a time from {start} to {end}")));
        Field::Wrong
    }

    fn wrong_type(&mut self, what: &str, expected: &str, node: &Node<'_>, help: impl Into<String>) {
        if matches!(node.content, Content::Unreadable) {
            return;
        }
        let message = format!("{what} must be {expected}, not {}", node.description());
        self.report(Problem::new(Code::Syntax, node.place, message, help));
    }
}

/// Names in a sentence.
fn listed(names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// A whole number and its unit.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

/// A time as it is written in the file.
pub struct Seconds(pub Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.subsec_millis() {
            0 => write!(formatter, "{}s", self.0.as_secs()),
            _ => write!(formatter, "{}ms", self.0.as_millis()),
        }
    }
}
