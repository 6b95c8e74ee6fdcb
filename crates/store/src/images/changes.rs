//! The Dockerfile instructions that `docker import -c` and `docker commit -c` take, applied to a configuration.

use longshore_model::{Error, Result};
use serde_json::{Map, Value, json};

/// Applies instructions in their order. Later ones replace earlier ones where Docker's do.
///
/// # Errors
/// `InvalidParameter` for an instruction that is not allowed here or is malformed.
pub fn apply(mut config: Map<String, Value>, changes: &[String]) -> Result<Map<String, Value>> {
    for change in changes.iter().flat_map(|change| change.lines()) {
        let change = change.trim();
        if change.is_empty() || change.starts_with('#') {
            continue;
        }
        let (name, rest) = change
            .split_once(char::is_whitespace)
            .unwrap_or((change, ""));
        instruction(&mut config, &name.to_uppercase(), rest.trim())?;
    }
    Ok(config)
}

fn instruction(config: &mut Map<String, Value>, name: &str, rest: &str) -> Result<()> {
    let required = || -> Result<&str> {
        if rest.is_empty() {
            return Err(Error::invalid(format!(
                "{name} requires at least one argument"
            )));
        }
        Ok(rest)
    };
    match name {
        "CMD" | "ENTRYPOINT" => {
            let key = if name == "CMD" { "Cmd" } else { "Entrypoint" };
            config.insert(key.to_owned(), json!(command(rest, config)));
        }
        "ENV" => {
            for (key, value) in pairs(required()?, name)? {
                let list = array(config, "Env");
                let start = format!("{key}=");
                let text = json!(format!("{start}{value}"));
                match list
                    .iter_mut()
                    .find(|v| v.as_str().is_some_and(|v| v.starts_with(&start)))
                {
                    Some(old) => *old = text,
                    None => list.push(text),
                }
            }
        }
        "LABEL" => {
            for (key, value) in pairs(required()?, name)? {
                object(config, "Labels").insert(key, json!(value));
            }
        }
        "EXPOSE" => {
            for port in words(required()?)? {
                let port = if port.contains('/') {
                    port
                } else {
                    format!("{port}/tcp")
                };
                check_port(&port)?;
                object(config, "ExposedPorts").insert(port, json!({}));
            }
        }
        "VOLUME" => {
            let paths = match serde_json::from_str::<Vec<String>>(required()?) {
                Ok(paths) => paths,
                Err(_) => words(rest)?,
            };
            for path in paths {
                if path.is_empty() {
                    return Err(Error::invalid(
                        "VOLUME specified can not be an empty string",
                    ));
                }
                object(config, "Volumes").insert(path, json!({}));
            }
        }
        "USER" => set(config, "User", &words(required()?)?.join(" ")),
        "WORKDIR" => {
            let path = words(required()?)?.join(" ");
            let before = config
                .get("WorkingDir")
                .and_then(Value::as_str)
                .unwrap_or("/");
            let path = if path.starts_with('/') {
                path
            } else {
                format!("{}/{path}", before.trim_end_matches('/'))
            };
            set(config, "WorkingDir", &path);
        }
        "STOPSIGNAL" => {
            if longshore_model::signal::parse(required()?).is_none() {
                return Err(Error::invalid(format!("invalid signal: {rest}")));
            }
            set(config, "StopSignal", rest);
        }
        "ONBUILD" => array(config, "OnBuild").push(json!(trigger(required()?)?)),
        "HEALTHCHECK" => {
            let check = healthcheck(required()?)?;
            config.insert("Healthcheck".to_owned(), check);
        }
        _ => {
            return Err(Error::invalid(format!(
                "{name} is not a valid change command"
            )));
        }
    }
    Ok(())
}

/// An instruction for images that are built on this one.
fn trigger(text: &str) -> Result<&str> {
    let first = text.split_whitespace().next().unwrap_or_default();
    match first.to_uppercase().as_str() {
        "ONBUILD" => Err(Error::invalid(
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        )),
        name @ ("MAINTAINER" | "FROM") => Err(Error::invalid(format!(
            "{name} isn't allowed as an ONBUILD trigger"
        ))),
        _ => Ok(text),
    }
}

/// The exec form `["a","b"]` as it is, the shell form behind the image's shell.
fn command(text: &str, config: &Map<String, Value>) -> Vec<String> {
    if let Ok(list) = serde_json::from_str::<Vec<String>>(text) {
        return list;
    }
    let shell = config
        .get("Shell")
        .and_then(|shell| serde_json::from_value::<Vec<String>>(shell.clone()).ok())
        .unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
    shell.into_iter().chain([text.to_owned()]).collect()
}

fn healthcheck(text: &str) -> Result<Value> {
    let mut check = Map::new();
    let mut rest = text;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        rest = after.trim_start();
        let (key, value) = flag.split_once('=').unwrap_or((flag, ""));
        let field = match key {
            "interval" => "Interval",
            "timeout" => "Timeout",
            "start-period" => "StartPeriod",
            "start-interval" => "StartInterval",
            "retries" => {
                let retries: u32 = value
                    .parse()
                    .map_err(|_| Error::invalid(format!("invalid retries: {value}")))?;
                check.insert("Retries".to_owned(), json!(retries));
                continue;
            }
            _ => return Err(Error::invalid(format!("unknown flag: {key}"))),
        };
        check.insert(field.to_owned(), json!(duration(value)?));
    }
    let (kind, arguments) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let arguments = arguments.trim();
    let test = match kind.to_uppercase().as_str() {
        "NONE" if arguments.is_empty() => vec!["NONE".to_owned()],
        "NONE" => return Err(Error::invalid("HEALTHCHECK NONE takes no arguments")),
        "CMD" if arguments.is_empty() => {
            return Err(Error::invalid("Missing command after HEALTHCHECK CMD"));
        }
        "CMD" => match serde_json::from_str::<Vec<String>>(arguments) {
            Ok(list) => std::iter::once("CMD".to_owned()).chain(list).collect(),
            Err(_) => vec!["CMD-SHELL".to_owned(), arguments.to_owned()],
        },
        _ => {
            return Err(Error::invalid(format!(
                "Unknown type \"{}\" in HEALTHCHECK (try CMD)",
                kind.to_uppercase()
            )));
        }
    };
    check.insert("Test".to_owned(), json!(test));
    Ok(Value::Object(check))
}

/// Nanoseconds of Go's duration text: `1m30s`, `500ms`, `1.5h`.
fn duration(text: &str) -> Result<i64> {
    let bad = || Error::invalid(format!("invalid duration {text:?}"));
    let mut rest = text;
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        let unit = &rest[digits..];
        let end = unit
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(unit.len());
        let factor = match &unit[..end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(bad()),
        };
        total += number * factor;
        rest = &unit[end..];
    }
    if text.is_empty() || !(0.0..9.2e18).contains(&total) {
        return Err(bad());
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
    Ok(total as i64)
}

fn check_port(port: &str) -> Result<()> {
    let (range, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let fits = range
        .splitn(2, '-')
        .all(|n| n.parse::<u16>().is_ok_and(|n| n > 0));
    if fits && matches!(protocol, "tcp" | "udp" | "sctp") {
        return Ok(());
    }
    Err(Error::invalid(format!("invalid containerPort: {port}")))
}

/// `key=value ...`, or the old form `key value with blanks`.
fn pairs(text: &str, name: &str) -> Result<Vec<(String, String)>> {
    let words = words(text)?;
    let first = words.first().map(String::as_str).unwrap_or_default();
    if !first.contains('=') {
        let (key, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| Error::invalid(format!("{name} must have two arguments")))?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err(Error::invalid(format!("{name} names can not be blank"))),
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(Error::invalid(format!(
                "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
            ))),
        })
        .collect()
}

/// Words as a shell splits them: quotes, backslashes; no variables.
fn words(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => {
                let next = chars.next().unwrap_or('\\');
                let word = word.get_or_insert_default();
                if quote.is_some() && !matches!(next, '"' | '\\' | '$') {
                    word.push('\\');
                }
                word.push(next);
            }
            (c @ ('"' | '\''), None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(Error::invalid(
            "unexpected end of statement while looking for matching quote",
        ));
    }
    words.extend(word);
    Ok(words)
}

fn set(config: &mut Map<String, Value>, key: &str, value: &str) {
    config.insert(key.to_owned(), json!(value));
}

fn array<'a>(config: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let value = config.entry(key).or_insert_with(|| json!([]));
    if !value.is_array() {
        *value = json!([]);
    }
    match value {
        Value::Array(list) => list,
        _ => unreachable!("made an array just now"),
    }
}

fn object<'a>(config: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let value = config.entry(key).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object just now"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(changes: &[&str]) -> Result<Value> {
        let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
        apply(Map::new(), &changes).map(Value::Object)
    }

    #[test]
    fn instructions() {
        let config = run(&[
            "ENV X=1 Y='a b' Z=\"q\\\"\"",
            "ENV X=2\nENV OLD a  b",
            "CMD [\"sh\",\"-c\"]",
            "entrypoint echo hi",
            "EXPOSE 80 53/udp 1000-1002",
            "LABEL a.b=\"c d\"",
            "USER nobody",
            "WORKDIR /a",
            "WORKDIR b",
            "VOLUME [\"/v\"]",
            "VOLUME /w /x",
            "STOPSIGNAL SIGUSR1",
            "ONBUILD RUN x",
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl x",
        ])
        .unwrap();
        assert_eq!(
            config,
            json!({
                "Env": ["X=2", "Y=a b", "Z=q\"", "OLD=a  b"],
                "Cmd": ["sh", "-c"],
                "Entrypoint": ["/bin/sh", "-c", "echo hi"],
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "1000-1002/tcp": {}},
                "Labels": {"a.b": "c d"},
                "User": "nobody",
                "WorkingDir": "/a/b",
                "Volumes": {"/v": {}, "/w": {}, "/x": {}},
                "StopSignal": "SIGUSR1",
                "OnBuild": ["RUN x"],
                "Healthcheck": {"Test": ["CMD-SHELL", "curl x"], "Interval": 90_000_000_000i64, "Retries": 3},
            })
        );
    }

    #[test]
    fn refused() {
        for bad in [
            "RUN x",
            "FROM y",
            "ENV",
            "ENV X",
            "ENV =a",
            "ENV a=b c",
            "EXPOSE x",
            "EXPOSE 0",
            "STOPSIGNAL NOPE",
            "ONBUILD ONBUILD x",
            "ONBUILD FROM x",
            "HEALTHCHECK NO",
            "HEALTHCHECK CMD",
            "HEALTHCHECK --interval=x CMD y",
            "LABEL \"a=b",
            "VOLUME [\"\"]",
        ] {
            assert!(run(&[bad]).is_err(), "{bad}");
        }
        assert_eq!(
            run(&["RUN x"]).unwrap_err().message,
            "RUN is not a valid change command"
        );
    }
}
