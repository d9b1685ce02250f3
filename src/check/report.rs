//! What `diffluent check` says: lines in sections, each ok, a warning or a failure, with what to do about it.

use std::fmt;

/// How bad a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Works.
    Ok,
    /// Works, but a person should know.
    Warning,
    /// Does not work.
    Failure,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Failure => "FAILURE",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// What to do about it.
    pub advice: Option<String>,
}

impl Line {
    /// Something works.
    pub fn ok(what: impl Into<String>) -> Self {
        Self { level: Level::Ok, what: what.into(), advice: None }
    }

    /// Something works, but a person should know, and perhaps do `advice`.
    pub fn warning(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Warning, what: what.into(), advice: Some(advice.into()) }
    }

    /// Something does not work until somebody does `advice`.
    pub fn failure(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Failure, what: what.into(), advice: Some(advice.into()) }
    }
}

/// The findings about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// What they are about.
    pub title: String,
    /// In the order in which they were looked for.
    pub lines: Vec<Line>,
}

impl Section {
    /// A section without findings.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), lines: Vec::new() }
    }

    /// Adds a finding.
    pub fn push(&mut self, line: Line) {
        self.lines.push(line);
    }

    /// Adds findings.
    pub fn extend(&mut self, lines: impl IntoIterator<Item = Line>) {
        self.lines.extend(lines);
    }
}

/// All findings. `Display` is what the operator reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    sections: Vec<Section>,
}

impl CheckReport {
    /// A report of these sections.
    pub fn new(sections: Vec<Section>) -> Self {
        Self { sections }
    }

    /// The findings, by what they are about.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// How many lines are of this level.
    pub fn count(&self, level: Level) -> usize {
        self.sections.iter().flat_map(|section| &section.lines).filter(|line| line.level == level).count()
    }

    /// What the process exits with: 0 when nothing failed (there may be warnings), 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        u8::from(self.count(Level::Failure) > 0)
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for section in &self.sections {
            writeln!(f, "{}", section.title)?;
            for line in &section.lines {
                writeln!(f, "  {:<8} {}", line.level.word(), line.what)?;
                if let Some(advice) = &line.advice {
                    writeln!(f, "           -> {advice}")?;
                }
            }
            writeln!(f)?;
        }
        let (warnings, failures) = (self.count(Level::Warning), self.count(Level::Failure));
        match (failures, warnings) {
            (0, 0) => write!(f, "All well."),
            (0, n) => write!(f, "All works; {}.", plural(n, "warning")),
            (n, 0) => write!(f, "{}.", plural(n, "failure")),
            (n, m) => write!(f, "{}, {}.", plural(n, "failure"), plural(m, "warning")),
        }
    }
}

/// `1 topic`, `2 topics`.
pub(crate) fn plural(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Some of the names, and how many more there are.
pub(crate) fn some_of<T: fmt::Display>(names: &[T]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = names.iter().take(SHOWN).map(ToString::to_string).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_reads_as_a_list_with_what_to_do() {
        let mut section = Section::new("local cluster");
        section.push(Line::ok("a:9092 answers"));
        section.push(Line::failure("b:9092: connection refused", "start it"));
        let report = CheckReport::new(vec![section]);
        let text = report.to_string();
        assert_eq!(
            text,
            "local cluster\n  ok       a:9092 answers\n  FAILURE  b:9092: connection refused\n           -> start it\n\n1 failure."
        );
        assert_eq!(report.exit_code(), 1);
    }

    #[test]
    fn warnings_alone_exit_with_0() {
        let mut section = Section::new("x");
        section.push(Line::warning("hm", "look"));
        let report = CheckReport::new(vec![section]);
        assert_eq!((report.exit_code(), report.count(Level::Warning)), (0, 1));
        assert!(report.to_string().ends_with("All works; 1 warning."));
    }

    #[test]
    fn long_lists_of_names_are_cut() {
        assert_eq!(some_of(&["a", "b"]), "a, b");
        assert_eq!(some_of(&[1, 2, 3, 4, 5, 6, 7]), "1, 2, 3, 4, 5 and 2 more");
    }
}
