//! What was likely meant by a word that is none of those that are known.

/// Words that differ in so many letters are others (as BuildKit has it).
const FAR: usize = 3;

/// The one of `known` that is nearest to `word`; none if it is one of them.
pub(super) fn similar<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.into_iter().map(|other| (distance(word, other), other)).min()?;
    (1..FAR).contains(&near.0).then_some(near.1)
}

/// How many letters differ (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let changed = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(corner + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_meant() {
        let known = ["FROM", "COPY", "RUN"];
        for (word, meant) in [
            ("FORM", Some("FROM")),
            ("COPIE", Some("COPY")),
            ("RUN", None),
            ("run", None),
            ("NOTHING", None),
            ("", None),
        ] {
            assert_eq!(similar(word, known), meant, "{word}");
        }
        assert_eq!(similar("a", []), None);
    }
}
