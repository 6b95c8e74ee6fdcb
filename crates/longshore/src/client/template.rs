//! `--format`: the part of Go's templates that people type. Text, `{{.Field.Field}}`, `{{json .Field}}`,
//! `{{index .Field "key"}}`, `{{join .Field ","}}`, `{{len .Field}}`, `{{upper .X}}`, `{{lower .X}}`,
//! `{{println .X}}`. Conditions and loops are not there: the error says so.

use serde_json::Value;

use super::text::plain;

/// A template, read.
#[derive(Debug)]
pub struct Template(Vec<Part>);

#[derive(Debug)]
enum Part {
    Text(String),
    Action(Vec<Word>),
}

#[derive(Clone, Debug, PartialEq)]
enum Word {
    /// `.A.B`; empty for `.`.
    Path(Vec<String>),
    Name(String),
    Text(String),
    Number(usize),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What cannot be evaluated here, in words.
    pub fn parse(text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find("{{") {
            parts.push(Part::Text(unescape(&rest[..start])));
            let tail = &rest[start + 2..];
            let end = tail
                .find("}}")
                .ok_or_else(|| "template parsing error: unclosed action".to_owned())?;
            parts.push(Part::Action(words(&tail[..end])?));
            rest = &tail[end + 2..];
        }
        parts.push(Part::Text(unescape(rest)));
        Ok(Template(parts))
    }

    /// The text for one value.
    ///
    /// # Errors
    /// A function that is not there, an argument of the wrong kind.
    pub fn render(&self, value: &Value) -> Result<String, String> {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Action(words) => out.push_str(&go_text(&evaluate(words, value)?)),
            }
        }
        Ok(out)
    }

    /// Titles of a `table` template: the last field of each action in capitals.
    pub fn titles<'a>(&'a self, title: impl Fn(&'a str) -> &'a str) -> String {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Action(words) => {
                    let path = words.iter().rev().find_map(|word| match word {
                        Word::Path(path) => path.last(),
                        _ => None,
                    });
                    let name = path.map_or("", String::as_str);
                    out.push_str(title(name));
                }
            }
        }
        out
    }
}

/// The title of a column by its field.
pub fn title(field: &str) -> &str {
    match field {
        "ID" => "ID",
        "Names" => "NAMES",
        "Image" => "IMAGE",
        "Command" => "COMMAND",
        "CreatedAt" => "CREATED AT",
        "RunningFor" | "CreatedSince" => "CREATED",
        "Ports" => "PORTS",
        "State" => "STATE",
        "Status" => "STATUS",
        "Size" => "SIZE",
        "Labels" => "LABELS",
        "Mounts" => "MOUNTS",
        "Networks" => "NETWORKS",
        "LocalVolumes" => "LOCAL VOLUMES",
        "Repository" => "REPOSITORY",
        "Tag" => "TAG",
        "Digest" => "DIGEST",
        other => other,
    }
}

/// `\t` and `\n` written out, as people type them in single quotes.
fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

fn words(action: &str) -> Result<Vec<Word>, String> {
    let unsupported = || {
        format!(
            "template {{{{{action}}}}} is not supported here: text, fields, json, index, join, len, upper, lower, println are"
        )
    };
    let mut words = Vec::new();
    let mut rest = action.trim().trim_matches('-').trim();
    while !rest.is_empty() {
        let quoted = rest.strip_prefix(['"', '`']);
        if let Some(tail) = quoted {
            let mark = &rest[..1];
            let end = tail.find(mark).ok_or_else(unsupported)?;
            words.push(Word::Text(tail[..end].to_owned()));
            rest = tail[end + 1..].trim_start();
            continue;
        }
        let end = rest.find(' ').unwrap_or(rest.len());
        let word = &rest[..end];
        rest = rest[end..].trim_start();
        words.push(match word.strip_prefix('.') {
            Some(path) => Word::Path(
                path.split('.')
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned)
                    .collect(),
            ),
            None if word.chars().all(|c| c.is_ascii_digit()) => {
                Word::Number(word.parse().map_err(|_| unsupported())?)
            }
            None if word.chars().all(char::is_alphanumeric) => Word::Name(word.to_owned()),
            None => return Err(unsupported()),
        });
    }
    let known = match words.first() {
        Some(Word::Path(_)) => words.len() == 1,
        Some(Word::Name(name)) => [
            "json", "index", "join", "len", "upper", "lower", "println", "print",
        ]
        .contains(&name.as_str()),
        _ => false,
    };
    if known { Ok(words) } else { Err(unsupported()) }
}

fn get<'a>(value: &'a Value, path: &[String]) -> &'a Value {
    path.iter().fold(value, |value, name| &value[name.as_str()])
}

fn evaluate(words: &[Word], value: &Value) -> Result<Value, String> {
    let argument = |index: usize| match words.get(index) {
        Some(Word::Path(path)) => Ok(get(value, path).clone()),
        Some(Word::Text(text)) => Ok(Value::from(text.as_str())),
        Some(Word::Number(number)) => Ok(Value::from(*number)),
        _ => Err("template: wrong number of arguments".to_owned()),
    };
    let Some(Word::Name(name)) = words.first() else {
        return argument(0);
    };
    let first = argument(1)?;
    Ok(match name.as_str() {
        "json" => first.to_string().into(),
        "upper" => plain(&first).to_uppercase().into(),
        "lower" => plain(&first).to_lowercase().into(),
        "println" => format!("{}\n", go_text(&first)).into(),
        "print" => go_text(&first).into(),
        "len" => match &first {
            Value::Array(items) => items.len(),
            Value::Object(items) => items.len(),
            other => plain(other).len(),
        }
        .into(),
        "join" => {
            let separator = plain(&argument(2)?);
            let items: Vec<String> = first.as_array().into_iter().flatten().map(plain).collect();
            items.join(&separator).into()
        }
        // `index`, with as many keys as given.
        _ => {
            let mut value = first;
            for index in 2..words.len() {
                value = match argument(index)? {
                    Value::Number(number) => {
                        value[number.as_u64().unwrap_or(u64::MAX) as usize].clone()
                    }
                    key => value[plain(&key)].clone(),
                };
            }
            value
        }
    })
}

/// A value as Go's templates print it.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_text).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(items) => {
            let items: Vec<String> = items
                .iter()
                .map(|(name, value)| format!("{name}:{}", go_text(value)))
                .collect();
            format!("map[{}]", items.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(template: &str) -> Result<String, String> {
        let value = json!({
            "Name": "/web", "State": {"Running": true, "Pid": 7}, "Args": ["-c", "x"],
            "Networks": {"bridge": {"IPAddress": "1.2.3.4"}}
        });
        Template::parse(template)?.render(&value)
    }

    #[test]
    fn what_people_type() {
        assert_eq!(render("{{.Name}} {{.State.Pid}}").unwrap(), "/web 7");
        assert_eq!(
            render("{{json .State}}").unwrap(),
            r#"{"Pid":7,"Running":true}"#
        );
        assert_eq!(render("{{ .Args }}").unwrap(), "[-c x]");
        assert_eq!(
            render("{{index .Args 1}}{{join .Args \", \"}}").unwrap(),
            "x-c, x"
        );
        assert_eq!(
            render("{{index .Networks \"bridge\" \"IPAddress\"}}").unwrap(),
            "1.2.3.4"
        );
        assert_eq!(
            render("a\\t{{upper .Name}}{{len .Args}}").unwrap(),
            "a\t/WEB2"
        );
    }

    #[test]
    fn what_is_not_there_says_so() {
        assert!(
            render("{{range .Args}}x{{end}}")
                .unwrap_err()
                .contains("not supported")
        );
        assert!(render("{{if .X}}").is_err());
        assert!(render("{{.Name").is_err());
    }

    #[test]
    fn titles_of_tables() {
        let template = Template::parse("{{.ID}}\\t{{.Names}}").unwrap();
        assert_eq!(template.titles(title), "ID\tNAMES");
    }
}
