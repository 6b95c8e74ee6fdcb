//! The `filters` parameter: both of its JSON forms, and dockerd's errors.

use longshore_engine::api::Filters;
use longshore_model::{Error, Result};

use crate::{
    json::{self, Value},
    request::Request,
};

/// The request's `filters`, checked against the names that the endpoint knows.
///
/// # Errors
/// `invalid filter` for what is no filter JSON, `invalid filter 'x'` for an unknown name.
pub fn read(request: &Request, known: &[&str]) -> Result<Filters> {
    let filters = parse(request.query.get("filters"))?;
    check(&filters, known)?;
    Ok(filters)
}

/// Reads `{"label":["a","b"]}`, or the newer `{"label":{"a":true,"b":true}}`. Empty text is no filter at all.
///
/// # Errors
/// `invalid filter`
pub fn parse(text: &str) -> Result<Filters> {
    if text.is_empty() {
        return Ok(Filters::new());
    }
    let invalid = || Error::invalid("invalid filter");
    let mut value = json::parse_body(text.as_bytes()).map_err(|_| invalid())?;
    let members = match &mut value {
        Value::Null => return Ok(Filters::new()),
        Value::Object(members) => std::mem::take(members),
        _ => return Err(invalid()),
    };
    // One form for all: Go tries the map form for the whole text first, then the list form.
    let maps = members
        .iter()
        .all(|(_, value)| matches!(value, Value::Object(_) | Value::Null));
    let mut filters = Filters::new();
    for (name, value) in &members {
        let values = match value {
            Value::Null => Vec::new(),
            Value::Object(set) if maps => set
                .iter()
                .map(|(key, on)| match on {
                    Value::Bool(_) | Value::Null => Ok(key.clone()),
                    _ => Err(invalid()),
                })
                .collect::<Result<_>>()?,
            Value::Array(list) => list
                .iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text.clone()),
                    Value::Null => Ok(String::new()),
                    _ => Err(invalid()),
                })
                .collect::<Result<_>>()?,
            _ => return Err(invalid()),
        };
        let mut values: Vec<String> = values;
        values.sort();
        values.dedup();
        filters.insert(name.clone(), values);
    }
    Ok(filters)
}

/// Refuses names that the endpoint does not know.
///
/// # Errors
/// `invalid filter 'bogus'`
pub fn check(filters: &Filters, known: &[&str]) -> Result<()> {
    match filters.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::invalid(format!("invalid filter '{name}'"))),
    }
}

/// A filter that is one boolean, such as `dangling`.
///
/// # Errors
/// `invalid filter 'dangling=[x]'` for anything but one of true, 1, false, 0.
pub fn boolean(filters: &Filters, name: &str) -> Result<Option<bool>> {
    let Some(values) = filters.get(name) else {
        return Ok(None);
    };
    match values.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["true" | "1"] => Ok(Some(true)),
        ["false" | "0"] => Ok(Some(false)),
        _ => Err(bad_value(name, values)),
    }
}

/// `invalid filter 'name=[values]'`
pub fn bad_value(name: &str, values: &[String]) -> Error {
    Error::invalid(format!("invalid filter '{name}=[{}]'", values.join(" ")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(result: Result<Filters>) -> String {
        result.map_or_else(|e| e.message, |f| format!("{f:?}"))
    }

    #[test]
    fn forms() {
        for (given, want) in [
            ("", "{}"),
            ("{}", "{}"),
            ("null", "{}"),
            (r#"{"label":["b","a","a"]}"#, r#"{"label": ["a", "b"]}"#),
            (
                r#"{"label":{"a":true,"b":false}}"#,
                r#"{"label": ["a", "b"]}"#,
            ),
            (r#"{"label":null}"#, r#"{"label": []}"#),
            ("notjson", "invalid filter"),
            ("[]", "invalid filter"),
            (r#"{"a":"b"}"#, "invalid filter"),
            (r#"{"a":[1]}"#, "invalid filter"),
            (r#"{"a":{"b":"c"}}"#, "invalid filter"),
            (r#"{"a":["x"],"b":{"c":true}}"#, "invalid filter"),
            (r#"{"a":["x"]} trailing"#, "invalid filter"),
        ] {
            assert_eq!(text(parse(given)), want, "{given}");
        }
    }

    #[test]
    fn names_and_booleans() {
        let filters = parse(r#"{"dangling":["1"],"x":["maybe","no"]}"#).unwrap();
        assert_eq!(
            check(&filters, &["dangling"]).unwrap_err().message,
            "invalid filter 'x'"
        );
        assert_eq!(boolean(&filters, "dangling").unwrap(), Some(true));
        assert_eq!(boolean(&filters, "none").unwrap(), None);
        assert_eq!(
            boolean(&filters, "x").unwrap_err().message,
            "invalid filter 'x=[maybe no]'"
        );
    }

    proptest! {
        #[test]
        fn both_forms_agree(values in prop::collection::btree_set("[a-z=]{0,5}", 1..5)) {
            let list = serde_json::json!({ "label": values });
            let map: serde_json::Map<_, _> = values.iter().map(|v| (v.clone(), true.into())).collect();
            let map = serde_json::json!({ "label": map });
            prop_assert_eq!(parse(&list.to_string()).unwrap(), parse(&map.to_string()).unwrap());
        }

        #[test]
        fn any_text(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
