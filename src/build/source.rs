//! The text of a Dockerfile, and errors that show where in it they are.

use crate::error::Error;

/// A Dockerfile as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// As it is called in errors.
    pub name: String,
    pub text: String,
}

impl Source {
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into() }
    }

    /// An error about line `number` (from 1), or about `word` in it.
    pub fn error(&self, number: usize, word: &str, said: impl AsRef<str>) -> Error {
        let column = self.column(number, word);
        let error = Error::invalid(format!("{}:{number}:{column}: {}", self.name, said.as_ref()));
        self.shown(error, number, column)
    }

    /// The same error, said of line `number`.
    pub fn blame(&self, error: Error, number: usize) -> Error {
        let column = self.column(number, "");
        let text = self.excerpt(number, column);
        let kind = error.kind();
        let hint = error.hint_text().map(str::to_owned);
        let told = Error::new(kind, format!("{}:{number}:{column}: {error}{text}", self.name));
        match hint {
            Some(hint) => told.hint(hint),
            None => told,
        }
    }

    /// The comments above line `number`, without their marks: those behind the instruction before it
    /// and behind the last comment that is empty.
    pub fn comments_above(&self, number: usize) -> Vec<&str> {
        let rows: Vec<&str> = self.text.lines().take(number.saturating_sub(1)).collect();
        let rows = rows.iter().rev().filter(|row| !row.trim().is_empty());
        let above = rows.map_while(|row| {
            row.trim_start().strip_prefix('#').map(str::trim).filter(|text| !text.is_empty())
        });
        let mut found: Vec<&str> = above.collect();
        found.reverse();
        found
    }

    fn shown(&self, error: Error, number: usize, column: usize) -> Error {
        Error::new(error.kind(), format!("{error}{}", self.excerpt(number, column)))
    }

    /// The line itself, and a mark beneath the column.
    fn excerpt(&self, number: usize, column: usize) -> String {
        let Some(line) = self.line(number) else { return String::new() };
        let margin = " ".repeat(number.to_string().len());
        // Tabs stay tabs, so that the mark stands where it should.
        let lead = line.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' });
        let lead: String = lead.collect();
        format!("\n  {number} | {line}\n  {margin} | {lead}^")
    }

    fn line(&self, number: usize) -> Option<&str> {
        self.text.lines().nth(number.checked_sub(1)?)
    }

    /// Where `word` stands in the line, counted in characters from 1; else where the line begins.
    fn column(&self, number: usize, word: &str) -> usize {
        let Some(line) = self.line(number) else { return 1 };
        let start = line.len() - line.trim_start().len();
        let at = line.find(word).filter(|_| !word.is_empty()).unwrap_or(start);
        line[..at].chars().count() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_show_the_line() {
        let source = Source::new("Dockerfile", "FROM x\n\tRUN --bogus=1 true\n");
        assert_eq!(
            source.error(2, "--bogus", "unknown flag: --bogus").to_string(),
            "Dockerfile:2:6: unknown flag: --bogus\n  2 | \tRUN --bogus=1 true\n    | \t    ^"
        );
        assert!(source.error(9, "", "gone").to_string().ends_with("Dockerfile:9:1: gone"));
        let source = Source::new("D", "# no\n\n #one \n# two\nFROM x\n#\nRUN y");
        assert_eq!(source.comments_above(5), ["no", "one", "two"]);
        assert!(source.comments_above(7).is_empty() && source.comments_above(1).is_empty());
    }
}
