//! What a registry asks for when it answers 401: the `WWW-Authenticate` header (RFC 9110,
//! "WWW-Authenticate"; distribution's token authentication).
//!
//! **Invariant:** this module performs no I/O.

/// One scheme of authentication and its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    /// Lower case.
    pub(super) scheme: String,
    /// Names in lower case.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let (_, value) = self.parameters.iter().find(|(have, _)| have == name)?;
        Some(value)
    }
}

/// Parses one header's value, which may hold several challenges. What does not parse ends the
/// list: half a challenge is none.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header.trim_start_matches(SEPARATORS);
    while let Some((word, after)) = token(rest) {
        rest = match after.trim_start().strip_prefix('=') {
            // A word that is followed by `=` is a parameter of the scheme before it.
            Some(value) => {
                let Some((value, after)) = parameter_value(value.trim_start()) else { break };
                let Some(challenge) = challenges.last_mut() else { break };
                challenge.parameters.push((word.to_ascii_lowercase(), value));
                after
            }
            None => {
                let scheme = word.to_ascii_lowercase();
                challenges.push(Challenge { scheme, parameters: Vec::new() });
                after
            }
        }
        .trim_start_matches(SEPARATORS);
    }
    challenges
}

const SEPARATORS: [char; 3] = [' ', '\t', ','];

fn token(text: &str) -> Option<(&str, &str)> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A token or a quoted string, in which a backslash makes the next character plain.
fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        return token(text).map(|(value, rest)| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[index + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotes_commas_and_several_challenges() {
        let header = r#"Bearer realm="https://a.b/token?x=1,2",service="a \"b\"",scope=pull, BASIC realm="r", Negotiate"#;
        let [bearer, basic, negotiate] = &parse(header)[..] else { panic!("three: {header}") };
        assert_eq!(bearer.scheme, "bearer");
        assert_eq!(bearer.parameter("realm"), Some("https://a.b/token?x=1,2"));
        assert_eq!(bearer.parameter("service"), Some(r#"a "b""#));
        assert_eq!(bearer.parameter("scope"), Some("pull"));
        assert_eq!(basic.scheme, "basic");
        assert_eq!(basic.parameter("realm"), Some("r"));
        assert_eq!(negotiate.scheme, "negotiate");
    }

    #[test]
    fn what_is_cut_off_is_not_believed() {
        assert_eq!(parse(r#"Bearer realm="https://a"#)[0].parameter("realm"), None);
        assert_eq!(parse(r#"realm="x""#), []);
        assert_eq!(parse(""), []);
    }

    proptest! {
        #[test]
        fn no_header_panics(header in "\\PC{0,80}") {
            parse(&header);
        }
    }
}
