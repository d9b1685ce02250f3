//! Medians with their spread, and tables that read well as text and as Markdown.

use std::fmt::Write;

/// What the rounds gave for one figure.
#[derive(Clone, Debug, Default)]
pub(super) struct Rounds(Vec<f64>);

impl Rounds {
    pub(super) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// The median; NaN when nothing was measured.
    pub(super) fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        let upper = sorted.get(middle).copied().unwrap_or(f64::NAN);
        if sorted.len().is_multiple_of(2) {
            let lower = middle.checked_sub(1).and_then(|lower| sorted.get(lower)).copied().unwrap_or(f64::NAN);
            return f64::midpoint(lower, upper);
        }
        upper
    }

    /// Round by round, this beside `other`.
    pub(super) fn over(&self, other: &Rounds) -> Rounds {
        Rounds(self.0.iter().zip(&other.0).map(|(this, other)| this / other).collect())
    }

    /// Round by round, this less `other`.
    pub(super) fn less(&self, other: &Rounds) -> Rounds {
        Rounds(self.0.iter().zip(&other.0).map(|(this, other)| this - other).collect())
    }

    /// `median (smallest to largest)`, with so many digits behind the point.
    pub(super) fn show(&self, digits: usize) -> String {
        let sorted = self.sorted();
        match (sorted.first(), sorted.last()) {
            (Some(first), Some(last)) if sorted.len() > 1 => {
                format!("{:.digits$} ({first:.digits$} to {last:.digits$})", self.median())
            }
            (Some(only), _) => format!("{only:.digits$}"),
            _ => "-".to_owned(),
        }
    }
}

/// A Markdown table whose columns are aligned.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(|&head| head.to_owned()).collect()] }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(super) fn text(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                // Writing to a string does not fail.
                let _ = write!(text, "| {cell:width$} ");
            }
            text.push_str("|\n");
            if index == 0 {
                for width in &widths {
                    let _ = write!(text, "|{}", "-".repeat(width + 2));
                }
                text.push_str("|\n");
            }
        }
        text
    }
}

/// The marks of a row and whether they were met.
#[derive(Debug)]
pub(super) struct Marks(Table);

impl Marks {
    pub(super) fn new() -> Self {
        Self(Table::new(&["mark", "at", "measured", ""]))
    }

    /// A mark that is met by a median of `limit` or less.
    pub(super) fn at_most(&mut self, what: &str, limit: f64, unit: &str, measured: &Rounds, digits: usize) {
        let met = measured.median() <= limit;
        self.judge(what, &format!("at most {limit} {unit}"), &measured.show(digits), met);
    }

    /// A mark that is met by a median of `limit` or more.
    pub(super) fn at_least(&mut self, what: &str, limit: f64, unit: &str, measured: &Rounds, digits: usize) {
        let met = measured.median() >= limit;
        self.judge(what, &format!("at least {limit} {unit}"), &measured.show(digits), met);
    }

    fn judge(&mut self, what: &str, at: &str, measured: &str, met: bool) {
        let verdict = if met { "met" } else { "**missed**" };
        self.0.row(vec![what.to_owned(), at.to_owned(), measured.to_owned(), verdict.to_owned()]);
    }

    pub(super) fn text(&self) -> String {
        self.0.text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_and_its_spread_the_ends() {
        let rounds = Rounds(vec![3.0, 1.0, 2.0]);
        assert_eq!(rounds.show(1), "2.0 (1.0 to 3.0)");
        assert_eq!(Rounds(vec![4.0, 1.0]).median(), 2.5);
        assert_eq!(rounds.over(&Rounds(vec![1.0, 1.0, 1.0])).median(), 2.0);
        assert!(Rounds::default().median().is_nan());
    }

    #[test]
    fn a_mark_without_figures_is_missed() {
        let mut marks = Marks::new();
        marks.at_most("nothing", 1.0, "s", &Rounds::default(), 1);
        assert!(marks.text().contains("missed"));
    }
}
