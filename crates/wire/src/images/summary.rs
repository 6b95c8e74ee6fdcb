//! `GET /images/json`

use std::collections::{BTreeMap, HashMap};

use longshore_engine::{
    Engine,
    api::{ImagePlatform, ImageQuery, ImageSummary, ImageTarget, ManifestKind, ManifestSummary},
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

/// A pointer to content, in OCI's words.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
}

impl From<ImageTarget> for Descriptor {
    fn from(target: ImageTarget) -> Self {
        let ImageTarget {
            media_type,
            digest,
            size,
            annotations,
            platform,
        } = target;
        Self {
            media_type,
            digest,
            size,
            annotations,
            platform: platform.map(Platform::from),
        }
    }
}

/// One manifest of an image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Manifest {
    #[serde(rename = "ID")]
    id: String,
    descriptor: Descriptor,
    available: bool,
    size: ManifestSize,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_data: Option<ImageData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attestation_data: Option<AttestationData>,
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
#[serde(rename_all = "PascalCase")]
struct AttestationData {
    r#for: String,
}

#[derive(Clone, Debug, Serialize)]
struct Platform {
    architecture: String,
    os: String,
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    os_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
}

impl From<ImagePlatform> for Platform {
    fn from(platform: ImagePlatform) -> Self {
        let ImagePlatform {
            architecture,
            os,
            os_version,
            variant,
        } = platform;
        Self {
            architecture,
            os,
            os_version,
            variant,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Unpacked {
    unpacked: u64,
}

impl From<ManifestSummary> for Manifest {
    fn from(manifest: ManifestSummary) -> Self {
        let content = manifest.content_size;
        let mut made = Self {
            id: manifest.target.digest.clone(),
            descriptor: manifest.target.into(),
            available: manifest.available,
            size: ManifestSize {
                content,
                total: content,
            },
            kind: "unknown",
            image_data: None,
            attestation_data: None,
        };
        match manifest.kind {
            ManifestKind::Image {
                platform,
                unpacked_size: unpacked,
                containers,
            } => {
                made.kind = "image";
                made.size.total += unpacked;
                made.image_data = Some(ImageData {
                    platform: platform.into(),
                    size: Unpacked { unpacked },
                    containers: (!containers.is_empty()).then_some(containers),
                });
            }
            ManifestKind::Attestation { about } => {
                made.kind = "attestation";
                made.attestation_data = Some(AttestationData { r#for: about });
            }
            ManifestKind::Unknown => {}
        }
        made
    }
}

impl Summary {
    /// The newest form of it: what later clients do not know is taken away by [`Self::at`].
    pub(crate) fn new(image: ImageSummary, users: usize) -> Self {
        let ImageSummary {
            id,
            parent,
            created,
            repo_tags,
            repo_digests,
            nameless: _,
            labels,
            size,
            shared_size,
            target,
            manifests,
        } = image;
        let manifests: Vec<_> = manifests.into_iter().map(Manifest::from).collect();
        Self {
            containers: i64::try_from(users).unwrap_or(i64::MAX),
            created: created.seconds(),
            id,
            labels,
            parent_id: parent,
            descriptor: Some(target.into()),
            manifests: (!manifests.is_empty()).then_some(manifests),
            repo_digests: (!repo_digests.is_empty()).then_some(repo_digests),
            repo_tags: (!repo_tags.is_empty()).then_some(repo_tags),
            shared_size,
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

/// How many containers, in any state, were made from an image, by its id.
pub(crate) fn users(engine: &Engine) -> HashMap<String, usize> {
    let mut users: HashMap<String, usize> = HashMap::new();
    for container in engine.containers() {
        *users.entry(container.image.id.clone()).or_default() += 1;
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
    let query = ImageQuery {
        all: request.query.bool("all"),
        filters,
        manifests: request.version.since(47) && request.query.bool("manifests"),
        shared_size: request.version.since(42) && request.query.bool("shared-size"),
    };
    let images = request.engine.list_images(query).await?;
    let users = users(&request.engine);
    let views: Vec<_> = images
        .into_iter()
        .map(|image| {
            let users = users.get(&image.id).copied().unwrap_or_default();
            Summary::new(image, users).at(request.version)
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
            shared_size: -1,
            target: sample_target(),
            ..ImageSummary::default()
        }
    }

    fn sample_target() -> ImageTarget {
        ImageTarget {
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            digest: "sha256:30".to_owned(),
            size: 405,
            ..ImageTarget::default()
        }
    }

    fn sample_manifest() -> ManifestSummary {
        ManifestSummary {
            target: sample_target(),
            available: true,
            content_size: 1_085_086,
            kind: ManifestKind::Image {
                platform: ImagePlatform {
                    architecture: "amd64".to_owned(),
                    os: "linux".to_owned(),
                    ..ImagePlatform::default()
                },
                unpacked_size: 2_048_000,
                containers: vec!["c1".to_owned(), "c2".to_owned()],
            },
        }
    }

    fn text(image: ImageSummary, minor: u32, manifests: bool) -> String {
        let image = ImageSummary {
            manifests: manifests.then(sample_manifest).into_iter().collect(),
            ..image
        };
        let view = Summary::new(image, 2).at(ApiVersion::v1(minor));
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
