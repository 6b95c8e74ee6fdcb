//! Inspect and history.

use longshore_engine::api::{AttestationQuery, HistoryEntry, ImageDetail};
use longshore_model::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    platform,
    summary::{Descriptor, Manifest},
};
use crate::{request::Request, response::Response, version::ApiVersion};

/// An image as inspect shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Inspect {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    docker_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<String>,
    config: Map<String, Value>,
    architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
    os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    os_version: Option<String>,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    virtual_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    graph_driver: Option<Value>,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
    metadata: Metadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    descriptor: Option<Descriptor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifests: Option<Vec<Manifest>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    #[serde(rename = "Type")]
    kind: &'static str,
    layers: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    last_tag_time: String,
}

/// What a config had before 1.52 though an image never set it.
fn legacy_config(config: &mut Map<String, Value>, version: ApiVersion) {
    let mut zero = json!({
        "Cmd": null, "Entrypoint": null, "Env": null, "Labels": null, "OnBuild": null, "User": "",
        "Volumes": null, "WorkingDir": "",
    });
    if version.before(50) {
        // Fields of a container, never of an image.
        let older = json!({
            "AttachStderr": false, "AttachStdin": false, "AttachStdout": false, "Domainname": "", "Hostname": "",
            "Image": "", "OpenStdin": false, "StdinOnce": false, "Tty": false,
        });
        if let (Value::Object(zero), Value::Object(older)) = (&mut zero, older) {
            zero.extend(older);
        }
    }
    if let Value::Object(zero) = zero {
        for (key, value) in zero {
            config.entry(key).or_insert(value);
        }
    }
}

/// True for what Go leaves out by `omitempty`.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(true) => false,
    }
}

fn view(image: ImageDetail, version: ApiVersion) -> Inspect {
    let ImageDetail {
        summary,
        config: blob,
        diff_ids,
        last_tagged,
    } = image;
    let text = |key: &str| blob[key].as_str().unwrap_or_default().to_owned();
    let legacy = version.before(52);
    // Always there in old answers, only when it says something in new ones.
    let field = |text: String| (legacy || !text.is_empty()).then_some(text);
    let mut config = blob["config"].as_object().cloned().unwrap_or_default();
    config.retain(|_, value| !is_empty(value));
    if legacy {
        legacy_config(&mut config, version);
    }
    let created = match blob["created"].as_str() {
        Some(created) if !created.is_empty() => created.to_owned(),
        _ => summary.created.rfc3339(),
    };
    let os_version = text("os.version");
    Inspect {
        parent: field(summary.parent),
        comment: field(comment(&blob)),
        created,
        docker_version: legacy.then(|| text("docker_version")),
        author: field(text("author")),
        config,
        architecture: text("architecture"),
        variant: text("variant"),
        os: text("os"),
        os_version: (!os_version.is_empty()).then_some(os_version),
        size: summary.size,
        virtual_size: version.before(44).then_some(summary.size),
        graph_driver: legacy.then(|| json!({ "Data": null, "Name": "overlayfs" })),
        root_fs: RootFs {
            kind: "layers",
            layers: diff_ids,
        },
        metadata: Metadata {
            last_tag_time: last_tagged.unwrap_or_default().rfc3339(),
        },
        descriptor: version.since(48).then(|| summary.target.into()),
        manifests: (!summary.manifests.is_empty())
            .then(|| summary.manifests.into_iter().map(Manifest::from).collect()),
        id: summary.id,
        repo_tags: summary.repo_tags,
        repo_digests: summary.repo_digests,
    }
}

/// The image's own comment, or the one of its last step.
fn comment(blob: &Value) -> String {
    let own = blob["comment"].as_str().filter(|text| !text.is_empty());
    let last = || blob["history"].as_array()?.last()?["comment"].as_str();
    own.or_else(last).unwrap_or_default().to_owned()
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Step {
    comment: String,
    created: i64,
    created_by: String,
    id: String,
    size: u64,
    tags: Option<Vec<String>>,
}

impl From<HistoryEntry> for Step {
    fn from(entry: HistoryEntry) -> Self {
        let HistoryEntry {
            id,
            created,
            created_by,
            tags,
            size,
            comment,
        } = entry;
        Self {
            comment,
            created: created.seconds(),
            created_by,
            id,
            size,
            tags: (!tags.is_empty()).then_some(tags),
        }
    }
}

/// `GET /images/{name}/json`
pub(crate) async fn inspect(request: Request) -> Result<Response> {
    let manifests = request.version.since(48) && request.query.bool("manifests");
    let platform = platform::one(&request, 49)?;
    if manifests && platform.is_some() {
        return Err(Error::invalid(
            "conflicting options: manifests and platform options cannot both be set",
        ));
    }
    let image = request
        .engine
        .image(request.name(), platform.as_deref(), manifests)
        .await?;
    Ok(Response::ok(&view(image, request.version)))
}

/// `GET /images/{name}/history`
pub(crate) async fn history(request: Request) -> Result<Response> {
    let platform = platform::one(&request, 48)?;
    let steps = request
        .engine
        .image_history(request.name(), platform.as_deref())
        .await?;
    let steps: Vec<_> = steps.into_iter().map(Step::from).collect();
    Ok(Response::ok(&steps))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    descriptor: Descriptor,
    predicate_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    statement: Option<Value>,
}

/// `GET /images/{name}/attestations`
pub(crate) async fn attestations(request: Request) -> Result<Response> {
    let query = AttestationQuery {
        platform: platform::one(&request, 53)?,
        types: request.query.all("type").map(str::to_owned).collect(),
        statement: request.query.bool("statement"),
    };
    let found = request
        .engine
        .image_attestations(request.name(), query)
        .await?;
    let found: Vec<_> = found
        .into_iter()
        .map(|one| Statement {
            descriptor: one.target.into(),
            predicate_type: one.predicate_type,
            statement: one.statement,
        })
        .collect();
    Ok(Response::ok(&found))
}

#[cfg(test)]
mod tests {
    use longshore_engine::api::ImageSummary;

    use super::*;

    fn shape(minor: u32) -> Value {
        let image = ImageDetail {
            summary: ImageSummary {
                id: "sha256:7e".to_owned(),
                repo_tags: vec!["busybox:latest".to_owned()],
                repo_digests: vec!["busybox@sha256:7e".to_owned()],
                size: 5,
                ..ImageSummary::default()
            },
            config: json!({
                "architecture": "amd64", "os": "linux", "created": "2026-11-23T20:22:29.062473285Z",
                "config": { "Cmd": ["sh"], "Env": ["PATH=/bin"], "Labels": null, "Healthcheck": { "Test": ["CMD", "x"] } },
                "history": [{ "comment": "Imported from -" }],
            }),
            diff_ids: vec!["sha256:74".to_owned()],
            last_tagged: None,
        };
        serde_json::from_slice(&crate::json::to_vec(&view(image, ApiVersion::v1(minor)))).unwrap()
    }

    fn keys(value: &Value) -> Vec<&str> {
        let mut keys: Vec<_> = value
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn as_recorded_at_1_50() {
        let shape = shape(50);
        assert_eq!(
            keys(&shape),
            [
                "Architecture",
                "Author",
                "Comment",
                "Config",
                "Created",
                "Descriptor",
                "DockerVersion",
                "GraphDriver",
                "Id",
                "Metadata",
                "Os",
                "Parent",
                "RepoDigests",
                "RepoTags",
                "RootFS",
                "Size"
            ]
        );
        assert_eq!(
            keys(&shape["Config"]),
            [
                "Cmd",
                "Entrypoint",
                "Env",
                "Healthcheck",
                "Labels",
                "OnBuild",
                "User",
                "Volumes",
                "WorkingDir"
            ]
        );
        assert_eq!(shape["Comment"], "Imported from -");
        assert_eq!(
            shape["RootFS"],
            json!({ "Layers": ["sha256:74"], "Type": "layers" })
        );
    }

    #[test]
    fn as_recorded_at_1_56() {
        let shape = shape(55);
        assert_eq!(
            keys(&shape),
            [
                "Architecture",
                "Comment",
                "Config",
                "Created",
                "Descriptor",
                "Id",
                "Metadata",
                "Os",
                "RepoDigests",
                "RepoTags",
                "RootFS",
                "Size"
            ]
        );
        assert_eq!(keys(&shape["Config"]), ["Cmd", "Env", "Healthcheck"]);
    }

    #[test]
    fn older() {
        assert!(shape(49)["Config"]["Hostname"] == "");
        assert!(shape(43)["VirtualSize"] == 5 && shape(44).get("VirtualSize").is_none());
        assert!(shape(47).get("Descriptor").is_none());
    }
}
