//! Every field that the API document has, held against what the conversion does with it (`tests/api`).

use std::{collections::BTreeSet, fmt::Write as _, fs, path::PathBuf};

use longshore_model::Result;
use serde_json::{Value, json};

use super::{Accepted, tests::run};
use crate::version::ApiVersion;

/// What becomes of a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Effect {
    Works,
    Kept,
    Refused,
}

struct Row {
    path: String,
    effect: Effect,
    value: Value,
    remark: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(root().join("tests/api/create-fields.txt")).unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let parts: Vec<&str> = line.split('|').map(str::trim).collect();
            let [path, effect, value, remark] = parts[..] else {
                panic!("four parts: {line}");
            };
            Row {
                path: path.to_owned(),
                effect: match effect {
                    "works" => Effect::Works,
                    "kept" => Effect::Kept,
                    "refused" => Effect::Refused,
                    other => panic!("{path}: {other}"),
                },
                value: serde_json::from_str(value).unwrap_or_else(|e| panic!("{path}: {e}")),
                remark: remark.to_owned(),
            }
        })
        .collect()
}

/// What a field needs around it to mean anything.
fn surroundings(path: &str) -> Value {
    let mount = |mount: Value| json!({"HostConfig": {"Mounts": [mount]}});
    let bind = json!({"Type": "bind", "Source": "/tmp", "Target": "/t"});
    match path {
        p if p.starts_with("Config.Healthcheck.") => {
            json!({"Healthcheck": {"Test": ["CMD", "true"]}})
        }
        "HostConfig.RestartPolicy.MaximumRetryCount" => {
            json!({"HostConfig": {"RestartPolicy": {"Name": "on-failure"}}})
        }
        "HostConfig.VolumeDriver" => json!({"HostConfig": {"Binds": ["v:/v"]}}),
        "HostConfig.MemorySwap" => json!({"HostConfig": {"Memory": 64_000_000}}),
        p if p.contains(".Mounts.VolumeOptions") => {
            mount(json!({"Type": "volume", "Source": "v", "Target": "/t"}))
        }
        p if p.contains(".Mounts.TmpfsOptions") => mount(json!({"Type": "tmpfs", "Target": "/t"})),
        p if p.contains(".Mounts.ImageOptions") => {
            mount(json!({"Type": "image", "Source": "x", "Target": "/t"}))
        }
        p if p.contains(".BindOptions.ReadOnly") => {
            let mut bind = bind;
            bind["ReadOnly"] = json!(true);
            bind["BindOptions"] = json!({"Propagation": "rprivate"});
            mount(bind)
        }
        p if p.starts_with("HostConfig.Mounts.") => mount(bind),
        _ => json!({}),
    }
}

fn body(row: &Row, with_value: bool) -> Value {
    let mut body = surroundings(&row.path);
    body["Image"] = json!("x");
    if with_value {
        let mut place = &mut body;
        for part in row.path.trim_start_matches("Config.").split('.') {
            place = &mut place[part];
            if matches!(part, "Mounts" | "DeviceRequests") && !row.path.ends_with(part) {
                if !place.is_array() {
                    *place = json!([{}]);
                }
                place = &mut place[0];
            }
        }
        *place = row.value.clone();
    }
    body
}

fn spec(accepted: &Accepted) -> Value {
    serde_json::to_value(&accepted.spec).unwrap()
}

#[test]
fn each_field_does_what_the_table_says() {
    let ask =
        |row: &Row, with: bool| -> Result<Accepted> { run(ApiVersion::v1(55), &body(row, with)) };
    for row in rows() {
        let path = &row.path;
        let without = ask(&row, false).unwrap_or_else(|e| panic!("{path}: its surroundings: {e}"));
        let with = ask(&row, true);
        match (row.effect, with) {
            (Effect::Refused, Err(error)) => {
                assert!(error.message.contains(&row.remark), "{path}: {error}");
            }
            (Effect::Refused, Ok(_)) => panic!("{path} is not refused"),
            (_, Err(error)) => panic!("{path} is refused: {error}"),
            (Effect::Works, Ok(with)) => {
                assert_ne!(spec(&with), spec(&without), "{path} is ignored");
            }
            (Effect::Kept, Ok(with)) => {
                assert_eq!(spec(&with), spec(&without), "{path} changes something");
            }
        }
    }
}

#[test]
fn the_table_has_every_field_of_the_document() {
    let document = fs::read_to_string(root().join("tests/api/create-fields-1.55.txt")).unwrap();
    let document: BTreeSet<&str> = document.lines().collect();
    let rows = rows();
    let table: BTreeSet<&str> = rows.iter().map(|row| row.path.as_str()).collect();
    assert_eq!(table.len(), rows.len(), "a field is there twice");
    let missing: Vec<_> = document.difference(&table).collect();
    let unknown: Vec<_> = table.difference(&document).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "missing {missing:?}, unknown {unknown:?}"
    );
}

#[test]
fn create_fields_table() {
    let mut want = String::from(
        "# Fields of a create request\n\n\
         Made from `tests/api/create-fields.txt`; to make it anew: `UPDATE=1 cargo test -p longshore-wire create_fields`.\n\n\
         Works: the field changes how the container is made. Kept: inspect shows it and it changes nothing, as in dockerd.\n\
         Refused: such a value is an error with this text.\n\n| field | | remark |\n|---|---|---|\n",
    );
    for row in rows() {
        let effect = format!("{:?}", row.effect).to_lowercase();
        let remark = if row.effect == Effect::Refused {
            format!("`{}`: `{}`", row.value, row.remark)
        } else {
            row.remark.clone()
        };
        let _ = writeln!(want, "| `{}` | {effect} | {remark} |", row.path);
    }
    let path = root().join("docs/create-fields.md");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &want).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == want,
        "docs/create-fields.md is out of date: UPDATE=1 cargo test -p longshore-wire create_fields"
    );
}
