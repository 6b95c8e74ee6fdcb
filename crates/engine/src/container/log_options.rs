//! The options of `--log-opt`: sizes, and which labels and variables go along with each line.

use std::collections::BTreeMap;

use longshore_model::{Error, Result};

use super::record::Definition;

/// `10m`, `1.5g`, `512`, `-1` (no limit): bytes, decimal units as go-units reads them (`FromHumanSize`).
///
/// # Errors
/// Text that is no size.
pub(crate) fn size(text: &str) -> Result<u64> {
    let bad = || Error::invalid(format!("invalid size: '{text}'"));
    if text.trim() == "-1" {
        return Ok(0);
    }
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let number: f64 = lower[..digits].parse().map_err(|_| bad())?;
    let unit = lower[digits..]
        .trim()
        .trim_end_matches('b')
        .trim_end_matches('i');
    let factor = match unit {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "t" => 1e12,
        _ => return Err(bad()),
    };
    let bytes = number * factor;
    if !(0.0..1e18).contains(&bytes) {
        return Err(bad());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be within range above"
    )]
    Ok(bytes as u64)
}

/// The `attrs` object of each line: labels named by `labels=a,b`, variables named by `env=A,B`, the expanded `tag`.
pub(crate) fn attributes(
    definition: &Definition,
    option: &impl Fn(&str) -> Option<String>,
) -> String {
    let mut attributes = BTreeMap::new();
    let list = |name: &str| option(name).unwrap_or_default();
    for label in list("labels").split(',').filter(|l| !l.is_empty()) {
        if let Some(value) = definition.spec.labels.get(label) {
            attributes.insert(label.to_owned(), value.clone());
        }
    }
    for wanted in list("env").split(',').filter(|e| !e.is_empty()) {
        let found = definition
            .spec
            .process
            .env
            .iter()
            .filter_map(|e| e.split_once('='));
        if let Some((_, value)) = found.into_iter().find(|(name, _)| *name == wanted) {
            attributes.insert(wanted.to_owned(), value.to_owned());
        }
    }
    if let Some(tag) = option("tag").filter(|tag| !tag.is_empty()) {
        let id = definition.id.as_str();
        let tag = tag
            .replace("{{.ID}}", definition.id.short())
            .replace("{{.FullID}}", id)
            .replace("{{.Name}}", &definition.name)
            .replace("{{.ImageName}}", &definition.spec.image);
        attributes.insert("tag".to_owned(), tag);
    }
    if attributes.is_empty() {
        String::new()
    } else {
        serde_json::to_string(&attributes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes() {
        for (text, want) in [
            ("10m", Some(10_000_000)),
            ("1.5k", Some(1500)),
            ("7", Some(7)),
            ("-1", Some(0)),
            ("x", None),
            ("1q", None),
        ] {
            assert_eq!(size(text).ok(), want, "{text}");
        }
    }
}
