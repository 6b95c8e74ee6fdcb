//! `POST /commit`

use hyper::StatusCode;
use longshore_engine::Commit;
use longshore_model::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::archive::repository;
use crate::{
    request::{JSON_LIMIT, Request},
    response::Response,
};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Made<'a> {
    id: &'a str,
}

/// The fields of a container's configuration that an image's has, too.
const FIELDS: [&str; 12] = [
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "Labels",
    "OnBuild",
    "Shell",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
];

/// The body, if there is one.
fn config(body: &[u8]) -> Result<Option<Map<String, Value>>> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let bad = |why: String| Error::invalid(format!("invalid JSON: {why}"));
    let body: Value = serde_json::from_slice(body).map_err(|e| bad(e.to_string()))?;
    let mut given = match body {
        Value::Null => return Ok(None),
        Value::Object(given) => given,
        _ => return Err(bad("the configuration must be an object".to_owned())),
    };
    let mut config = Map::new();
    for field in FIELDS {
        let Some(mut value) = given.remove(field).filter(|value| !value.is_null()) else {
            continue;
        };
        // One word instead of a list, as old clients send it.
        if let ("Cmd" | "Entrypoint", Value::String(word)) = (field, &value) {
            value = json!([word]);
        }
        let fits = match field {
            "Cmd" | "Entrypoint" | "Env" | "OnBuild" | "Shell" => value
                .as_array()
                .is_some_and(|list| list.iter().all(Value::is_string)),
            "ExposedPorts" | "Healthcheck" | "Volumes" => value.is_object(),
            "Labels" => value
                .as_object()
                .is_some_and(|map| map.values().all(Value::is_string)),
            _ => value.is_string(),
        };
        if !fits {
            return Err(bad(format!("wrong type of {field}")));
        }
        let empty = match &value {
            Value::String(text) => text.is_empty(),
            // An empty list of words takes the container's away.
            Value::Array(list) => list.is_empty() && field != "Entrypoint",
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if !empty {
            config.insert(field.to_owned(), value);
        }
    }
    Ok(Some(config))
}

/// `POST /commit`
pub(crate) async fn commit(request: Request) -> Result<Response> {
    let query = &request.query;
    let (repository, tag) = repository(query.get("repo"), query.get("tag"))?;
    let mut commit = Commit {
        container: query.get("container").to_owned(),
        repository,
        tag,
        author: query.get("author").to_owned(),
        comment: query.get("comment").to_owned(),
        pause: query.bool_or("pause", true),
        changes: query.all("changes").map(str::to_owned).collect(),
        config: None,
    };
    let (engine, mut body) = (request.engine, request.body);
    commit.config = config(&body.collect(JSON_LIMIT).await?)?;
    let id = engine.commit_container(commit).await?;
    Ok(Response::json(StatusCode::CREATED, &Made { id: &id }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        for nothing in ["", " \n", "null"] {
            assert_eq!(config(nothing.as_bytes()).unwrap(), None);
        }
        let body = br#"{"Cmd":"sh","Env":null,"Hostname":"x","Labels":{},"User":"","Entrypoint":[],"Volumes":{"/v":{}}}"#;
        let found = config(body).unwrap().map(Value::Object);
        assert_eq!(
            found,
            Some(json!({"Cmd": ["sh"], "Entrypoint": [], "Volumes": {"/v": {}}}))
        );
        for bad in ["[]", "{", r#"{"Env":"x"}"#, r#"{"Labels":{"a":1}}"#, "1"] {
            assert!(config(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
