//! `/volumes`

use std::collections::BTreeMap;

use hyper::StatusCode;
use longshore_engine::api::{PruneReport, VolumeCreate, VolumeDetail};
use longshore_model::{Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{filters, json, request::Request, response::Response};

/// The label by which dockerd marks a volume that nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// A volume as list, inspect and create show it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Volume {
    created_at: String,
    driver: String,
    labels: Option<BTreeMap<String, String>>,
    mountpoint: String,
    name: String,
    options: Option<BTreeMap<String, String>>,
    scope: &'static str,
    /// Only in `/system/df`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage_data: Option<Usage>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Usage {
    pub(crate) ref_count: i64,
    pub(crate) size: i64,
}

/// A map, or null when it is empty.
fn filled(map: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then_some(map)
}

impl From<VolumeDetail> for Volume {
    fn from(volume: VolumeDetail) -> Self {
        let VolumeDetail {
            name,
            driver,
            mountpoint,
            created,
            mut labels,
            options,
            anonymous,
            ref_count: _,
            size: _,
        } = volume;
        if anonymous {
            labels.entry(ANONYMOUS.to_owned()).or_default();
        }
        Self {
            // Whole seconds, as dockerd reads them from the directory.
            created_at: Timestamp(created.seconds() * 1_000_000_000).rfc3339(),
            driver,
            labels: filled(labels),
            mountpoint,
            name,
            options: filled(options),
            scope: "local",
            usage_data: None,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    volumes: Vec<Volume>,
    warnings: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Create {
    name: String,
    driver: String,
    driver_opts: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Pruned {
    volumes_deleted: Vec<String>,
    space_reclaimed: u64,
}

/// `GET /volumes`
pub(crate) async fn list(request: Request) -> Result<Response> {
    let filters = filters::read(&request, &["dangling", "driver", "label", "name"])?;
    filters::boolean(&filters, "dangling")?;
    let volumes = request.engine.list_volumes(&filters).await?;
    Ok(Response::ok(&List {
        volumes: volumes.into_iter().map(Volume::from).collect(),
        warnings: None,
    }))
}

/// `GET /volumes/{name}`
pub(crate) async fn inspect(request: Request) -> Result<Response> {
    let volume = request.engine.volume(request.name()).await?;
    Ok(Response::ok(&Volume::from(volume)))
}

/// `POST /volumes/create`
pub(crate) async fn create(mut request: Request) -> Result<Response> {
    let Create {
        name,
        driver,
        driver_opts,
        labels,
    } = json::read(&mut request, "CreateRequest").await?;
    let wanted = VolumeCreate {
        name,
        driver: if driver.is_empty() {
            "local".to_owned()
        } else {
            driver
        },
        labels,
        options: driver_opts,
    };
    let volume = request.engine.create_volume(wanted).await?;
    Ok(Response::json(StatusCode::CREATED, &Volume::from(volume)))
}

/// `DELETE /volumes/{name}`
pub(crate) async fn remove(request: Request) -> Result<Response> {
    let force = request.query.bool("force");
    request.engine.remove_volume(request.name(), force).await?;
    Ok(Response::no_content())
}

/// `POST /volumes/prune`
pub(crate) async fn prune(request: Request) -> Result<Response> {
    let mut filters = filters::read(&request, &["all", "label", "label!"])?;
    filters::boolean(&filters, "all")?;
    if request.version.before(42) {
        // Named volumes were pruned too, then.
        filters.insert("all".to_owned(), vec!["true".to_owned()]);
    }
    let PruneReport {
        deleted,
        space_reclaimed,
    } = request.engine.prune_volumes(&filters).await?;
    Ok(Response::ok(&Pruned {
        volumes_deleted: deleted,
        space_reclaimed,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_recorded() {
        let volume = VolumeDetail {
            name: "v1".to_owned(),
            driver: "local".to_owned(),
            mountpoint: "/d/volumes/v1/_data".to_owned(),
            created: Timestamp(1_795_466_553_123_456_789),
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            ..VolumeDetail::default()
        };
        assert_eq!(
            json::to_vec(&Volume::from(volume.clone())),
            br#"{"CreatedAt":"2026-11-23T20:42:33Z","Driver":"local","Labels":{"a":"b"},"Mountpoint":"/d/volumes/v1/_data","Name":"v1","Options":null,"Scope":"local"}"#
        );
        let unnamed = VolumeDetail {
            anonymous: true,
            labels: BTreeMap::new(),
            ..volume
        };
        let text = String::from_utf8(json::to_vec(&Volume::from(unnamed))).unwrap();
        assert!(text.contains(r#""Labels":{"com.docker.volume.anonymous":""}"#));
    }
}
