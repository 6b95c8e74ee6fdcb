//! `WWW-Authenticate`: what a registry wants to see (RFC 7235, as forgiving as real registries need).

use std::collections::BTreeMap;

/// One scheme with its parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenge {
    /// Lower case: `bearer`, `basic`.
    pub scheme: String,
    /// Names in lower case.
    pub parameters: BTreeMap<String, String>,
}

impl Challenge {
    pub fn get(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }
}

/// Reads the challenges of one header's value. What cannot be read is left out.
pub fn parse(text: &str) -> Vec<Challenge> {
    let mut rest = Rest(text);
    let mut challenges: Vec<Challenge> = Vec::new();
    loop {
        rest.skip(|c| c.is_ascii_whitespace() || c == ',');
        let word = rest.token();
        if word.is_empty() {
            // Something that is no token: nothing sensible can follow.
            return challenges;
        }
        rest.skip(|c| c.is_ascii_whitespace());
        if !rest.0.starts_with('=') {
            challenges.push(Challenge {
                scheme: word.to_ascii_lowercase(),
                parameters: BTreeMap::new(),
            });
            continue;
        }
        rest.0 = &rest.0[1..];
        rest.skip(|c| c.is_ascii_whitespace());
        let value = if rest.0.starts_with('"') {
            rest.quoted()
        } else {
            rest.token().to_owned()
        };
        if let Some(challenge) = challenges.last_mut() {
            let name = word.to_ascii_lowercase();
            challenge.parameters.entry(name).or_insert(value);
        }
    }
}

struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn skip(&mut self, what: impl Fn(char) -> bool) {
        self.0 = self.0.trim_start_matches(what);
    }

    fn token(&mut self) -> &'a str {
        let end = self
            .0
            .find(|c: char| !c.is_ascii_graphic() || "\",=()<>@;?{}[]\\".contains(c))
            .unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        token
    }

    /// A quoted string; one that does not end goes to the end of the text.
    fn quoted(&mut self) -> String {
        let mut value = String::new();
        let mut chars = self.0.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.0 = &self.0[at + 1..];
                    return value;
                }
                '\\' => value.extend(chars.next().map(|(_, c)| c)),
                c => value.push(c),
            }
        }
        self.0 = "";
        value
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(scheme: &str, parameters: &[(&str, &str)]) -> Challenge {
        Challenge {
            scheme: scheme.to_owned(),
            parameters: parameters
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn what_registries_send() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull""#;
        assert_eq!(
            parse(hub),
            [one(
                "bearer",
                &[
                    ("realm", "https://auth.docker.io/token"),
                    ("service", "registry.docker.io"),
                    ("scope", "repository:library/x:pull"),
                ]
            )]
        );
        assert_eq!(
            parse(r#"Basic realm="a \"b\", c", Bearer Realm=x , error="insufficient_scope""#),
            [
                one("basic", &[("realm", "a \"b\", c")]),
                one("bearer", &[("realm", "x"), ("error", "insufficient_scope")]),
            ]
        );
        assert_eq!(parse("Negotiate"), [one("negotiate", &[])]);
        assert_eq!(parse(""), []);
        assert_eq!(parse("=x"), []);
        assert_eq!(
            parse("Bearer realm=\"open"),
            [one("bearer", &[("realm", "open")])]
        );
        assert_eq!(parse("Basic realm=é"), [one("basic", &[("realm", "")])]);
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,120}") {
            let _ = parse(&text);
        }

        #[test]
        fn quoted_values_come_back(value in "[ -~é]{0,40}", name in "[a-z]{1,8}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let parsed = parse(&format!("Bearer {name}=\"{quoted}\", last=\"1\""));
            prop_assume!(name != "last");
            prop_assert_eq!(parsed.len(), 1);
            prop_assert_eq!(parsed[0].get(&name), value);
            prop_assert_eq!(parsed[0].get("last"), "1");
        }
    }
}
