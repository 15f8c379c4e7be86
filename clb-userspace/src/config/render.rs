//! Problems for people, in the look of rustc, and for programs, as JSON.
//!
//! annotate-snippets draws, and is given only the lines that it has to show: a file may have a million lines, and a line
//! a million characters.

use std::{fmt, ops::Range, sync::Arc};

use annotate_snippets::{Annotation, AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet};
use serde_json::{Value, json};

use super::{
    lines::Lines,
    problem::{Problem, Severity},
};

/// Whether to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// Escape sequences for a terminal.
    Always,
    /// Plain text.
    Never,
}

/// All problems of one file, in the order of the file.
#[derive(Clone)]
pub struct Problems {
    file_name: String,
    text: Arc<str>,
    in_order: Vec<Problem>,
}

impl Problems {
    pub(super) fn new(file_name: &str, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| (problem.place.start, problem.code));
        let text = if problems.is_empty() { "" } else { text };
        Self { file_name: file_name.into(), text: text.into(), in_order: problems }
    }

    /// Whether there is neither an error nor a warning.
    pub fn is_empty(&self) -> bool {
        self.in_order.is_empty()
    }

    /// Errors and warnings.
    pub fn len(&self) -> usize {
        self.in_order.len()
    }

    /// How many refuse the file.
    pub fn errors(&self) -> usize {
        self.in_order.iter().filter(|problem| problem.code.severity() == Severity::Error).count()
    }

    /// How many do not.
    pub fn warnings(&self) -> usize {
        self.len() - self.errors()
    }

    /// The problems as a person reads them, each ended by an empty line.
    pub fn render(&self, color: Color) -> String {
        let renderer = match color {
            Color::Always => Renderer::styled(),
            Color::Never => Renderer::plain(),
        };
        let lines = Lines::new(&self.text);
        let mut rendered = String::new();
        for problem in &self.in_order {
            rendered.push_str(&renderer.render(&[self.group(problem, &lines)]));
            rendered.push_str("\n\n");
        }
        rendered
    }

    /// An array with one object per problem.
    pub fn to_json(&self) -> Value {
        let lines = Lines::new(&self.text);
        let object = |problem: &Problem| {
            let (line, column) = lines.position(problem.place.start as usize);
            json!({
                "code": problem.code.name(),
                "severity": problem.code.severity(),
                "message": problem.message,
                "file": self.file_name,
                "line": line,
                "column": column,
                "help": problem.help,
            })
        };
        self.in_order.iter().map(object).collect()
    }

    fn group<'p>(&'p self, problem: &'p Problem, lines: &Lines<'p>) -> Group<'p> {
        let level = match problem.code.severity() {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(&problem.message).id(problem.code.name());
        let mut group = Group::with_title(title).elements(self.drawn(problem, lines));
        for (place, label) in problem.labels.iter().filter(|(place, _)| lines.shown_line(*place).is_none()) {
            let (line, column) = lines.position(place.start as usize);
            group = group.element(Level::NOTE.message(format!("{label}: {}:{line}:{column}", self.file_name)));
        }
        group.element(Level::HELP.message(&problem.help))
    }

    /// The place of the problem, and the lines that matter. Of a line that is too long to show only the place is named.
    fn drawn<'p>(&'p self, problem: &'p Problem, lines: &Lines<'p>) -> Vec<Element<'p>> {
        let mut drawn = Vec::new();
        if lines.shown_line(problem.place).is_none() {
            let (line, column) = lines.position(problem.place.start as usize);
            drawn.push(Origin::path(&self.file_name).line(line).char_column(column).into());
        }
        for Excerpt { first_line, shown, marks } in excerpts(problem, lines) {
            let annotation = |mark: Mark<'p>| -> Annotation<'p> {
                mark.kind.span(mark.range.start - shown.start..mark.range.end - shown.start).label(mark.label)
            };
            let snippet = Snippet::source(lines.part(shown.clone())).path(&self.file_name).line_start(first_line);
            drawn.push(snippet.annotations(marks.into_iter().map(annotation)).into());
        }
        drawn
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |count: usize, of: &str| format!("{count} {of}{}", if count == 1 { "" } else { "s" });
        let (errors, warnings) = (counted(self.errors(), "error"), counted(self.warnings(), "warning"));
        write!(formatter, "{errors} and {warnings} in {}", self.file_name)
    }
}

impl fmt::Debug for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.render(Color::Never))
    }
}

/// A place to draw carets or dashes under.
struct Mark<'p> {
    range: Range<usize>,
    kind: AnnotationKind,
    label: Option<&'p str>,
}

/// Lines that are near to each other, and the marks on them.
struct Excerpt<'p> {
    first_line: usize,
    shown: Range<usize>,
    marks: Vec<Mark<'p>>,
}

/// What can be shown of the file, first the lines with the problem itself.
fn excerpts<'p>(problem: &'p Problem, lines: &Lines<'_>) -> Vec<Excerpt<'p>> {
    let mut marks = vec![(problem.place, AnnotationKind::Primary, None)];
    let elsewhere = problem.labels.iter().filter(|(place, _)| place.start != problem.place.start);
    marks.extend(elsewhere.map(|(place, label)| (*place, AnnotationKind::Context, Some(&**label))));
    let mut excerpts: Vec<Excerpt<'p>> = Vec::new();
    for (place, kind, label) in marks {
        let Some(shown) = lines.shown_line(place) else { continue };
        let (line, _) = lines.position(shown.start);
        let mark = Mark { range: place.start as usize..(place.end as usize).min(shown.end), kind, label };
        match excerpts.iter_mut().find(|excerpt| Lines::are_near(&excerpt.shown, &shown)) {
            Some(excerpt) => {
                excerpt.first_line = excerpt.first_line.min(line);
                excerpt.shown = excerpt.shown.start.min(shown.start)..excerpt.shown.end.max(shown.end);
                excerpt.marks.push(mark);
            }
            None => excerpts.push(Excerpt { first_line: line, shown, marks: vec![mark] }),
        }
    }
    excerpts
}
