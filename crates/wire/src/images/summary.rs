//! `GET /images/json`

use std::collections::{BTreeMap, HashMap};

use longshore_engine::{
    Engine,
    api::{ImageIdentity, ImageSummary},
};
use longshore_model::Result;
use serde::Serialize;

use crate::{filters, request::Request, response::Response, version::ApiVersion};

/// An image in a list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Summary {
    pub(crate) containers: i64,
    created: i64,
    id: String,
    labels: BTreeMap<String, String>,
    parent_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    descriptor: Option<Descriptor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifests: Option<Vec<Manifest>>,
    repo_digests: Option<Vec<String>>,
    repo_tags: Option<Vec<String>>,
    pub(crate) shared_size: i64,
    pub(crate) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    virtual_size: Option<u64>,
}

/// Where an image's manifest is, in OCI's words.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

impl Descriptor {
    pub(super) fn of(identity: &ImageIdentity) -> Self {
        Self {
            media_type: identity.manifest_media_type.clone(),
            digest: identity.manifest_digest.clone(),
            size: identity.manifest_size,
        }
    }
}

/// One platform of an image; we keep one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Manifest {
    #[serde(rename = "ID")]
    id: String,
    descriptor: Descriptor,
    available: bool,
    size: ManifestSize,
    kind: &'static str,
    image_data: ImageData,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ManifestSize {
    content: u64,
    total: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ImageData {
    platform: Platform,
    size: Unpacked,
    containers: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
struct Platform {
    architecture: String,
    os: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Unpacked {
    unpacked: u64,
}

impl Summary {
    /// The newest form of it: what later clients do not know is taken away by [`Self::at`].
    pub(crate) fn new(image: ImageSummary, users: Vec<String>, manifests: bool) -> Self {
        let ImageSummary {
            id,
            created,
            repo_tags,
            repo_digests,
            labels,
            size,
            containers: _,
            identity,
            content_size,
            unpacked_size,
        } = image;
        let containers = i64::try_from(users.len()).unwrap_or(i64::MAX);
        let descriptor = Descriptor::of(&identity);
        let manifest = Manifest {
            id: identity.manifest_digest,
            descriptor: descriptor.clone(),
            available: true,
            size: ManifestSize {
                content: content_size,
                total: size,
            },
            kind: "image",
            image_data: ImageData {
                platform: Platform {
                    architecture: identity.architecture,
                    os: identity.os,
                    variant: identity.variant,
                },
                size: Unpacked {
                    unpacked: unpacked_size,
                },
                containers: (!users.is_empty()).then_some(users),
            },
        };
        Self {
            containers,
            created: created.seconds(),
            id,
            labels,
            parent_id: String::new(),
            descriptor: Some(descriptor),
            manifests: manifests.then(|| vec![manifest]),
            repo_digests: (!repo_digests.is_empty()).then_some(repo_digests),
            repo_tags: (!repo_tags.is_empty()).then_some(repo_tags),
            shared_size: -1,
            size,
            virtual_size: None,
        }
    }

    /// As `GET /images/json` of a version gives it.
    fn at(mut self, version: ApiVersion) -> Self {
        if version.before(43) && self.repo_tags.is_none() && self.repo_digests.is_none() {
            self.repo_tags = Some(vec!["<none>:<none>".to_owned()]);
            self.repo_digests = Some(vec!["<none>@<none>".to_owned()]);
        }
        self.repo_tags.get_or_insert_default();
        self.repo_digests.get_or_insert_default();
        if version.before(44) {
            self.virtual_size = Some(self.size);
        }
        if version.before(48) {
            self.descriptor = None;
        }
        if version.before(51) {
            self.containers = -1;
        }
        self
    }
}

const FILTERS: &[&str] = &[
    "before",
    "dangling",
    "label",
    "label!",
    "reference",
    "since",
    "until",
];

/// Container ids by the id of the image they were made from, in any state.
pub(crate) fn users(engine: &Engine) -> HashMap<String, Vec<String>> {
    let mut users: HashMap<String, Vec<String>> = HashMap::new();
    for container in engine.containers() {
        let ids = users.entry(container.image.id.clone()).or_default();
        ids.push(container.id.to_string());
    }
    users
}

/// `GET /images/json`
pub(crate) async fn list(request: Request) -> Result<Response> {
    let mut filters = filters::read(&request, FILTERS)?;
    filters::boolean(&filters, "dangling")?;
    let legacy = request.query.get("filter");
    if request.version.before(41) && !legacy.is_empty() {
        filters.insert("reference".to_owned(), vec![legacy.to_owned()]);
    }
    let all = request.query.bool("all");
    let manifests = request.version.since(47) && request.query.bool("manifests");
    let images = request.engine.list_images(all, &filters).await?;
    let mut users = users(&request.engine);
    let views: Vec<_> = images
        .into_iter()
        .map(|image| {
            let users = users.remove(&image.id).unwrap_or_default();
            Summary::new(image, users, manifests).at(request.version)
        })
        .collect();
    Ok(Response::ok(&views))
}

#[cfg(test)]
mod tests {
    use longshore_model::Timestamp;

    use super::*;
    use crate::json;

    pub(crate) fn sample() -> ImageSummary {
        ImageSummary {
            id: "sha256:30".to_owned(),
            created: Timestamp(1_795_466_349_000_000_000),
            repo_tags: vec!["busybox:latest".to_owned()],
            repo_digests: vec!["busybox@sha256:30".to_owned()],
            size: 3_133_086,
            identity: ImageIdentity {
                manifest_media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
                manifest_digest: "sha256:30".to_owned(),
                manifest_size: 405,
                architecture: "amd64".to_owned(),
                os: "linux".to_owned(),
                ..ImageIdentity::default()
            },
            content_size: 1_085_086,
            unpacked_size: 2_048_000,
            ..ImageSummary::default()
        }
    }

    fn text(image: ImageSummary, minor: u32, manifests: bool) -> String {
        let users = vec!["c1".to_owned(), "c2".to_owned()];
        let view = Summary::new(image, users, manifests).at(ApiVersion::v1(minor));
        String::from_utf8(json::to_vec(&view)).unwrap()
    }

    #[test]
    fn as_recorded() {
        assert_eq!(
            text(sample(), 55, false),
            r#"{"Containers":2,"Created":1795466349,"Id":"sha256:30","Labels":{},"ParentId":"","Descriptor":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:30","size":405},"RepoDigests":["busybox@sha256:30"],"RepoTags":["busybox:latest"],"SharedSize":-1,"Size":3133086}"#
        );
        assert!(text(sample(), 50, true).contains(
            r#""Available":true,"Size":{"Content":1085086,"Total":3133086},"Kind":"image","ImageData":{"Platform":{"architecture":"amd64","os":"linux"},"Size":{"Unpacked":2048000},"Containers":["c1","c2"]}}]"#
        ));
    }

    #[test]
    fn versions() {
        let untagged = ImageSummary {
            repo_tags: vec![],
            repo_digests: vec![],
            ..sample()
        };
        assert!(
            text(untagged.clone(), 42, false)
                .contains(r#""RepoTags":["\u003cnone\u003e:\u003cnone\u003e"]"#)
        );
        assert!(text(untagged, 43, false).contains(r#""RepoTags":[]"#));
        assert!(text(sample(), 43, false).contains(r#""VirtualSize":3133086"#));
        assert!(!text(sample(), 47, false).contains("Descriptor"));
        assert!(text(sample(), 50, false).contains(r#""Containers":-1"#));
    }
}
