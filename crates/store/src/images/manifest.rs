//! Documents of the OCI image format and of Docker's older one, as far as an engine reads them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// The name under which containerd's tools keep an image, in the annotations of an index.
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// The name that the OCI format has for the same.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What kind of processor and system an image is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default, deserialize_with = "or_default")]
    pub architecture: String,
    #[serde(default, deserialize_with = "or_default")]
    pub os: String,
    #[serde(
        rename = "os.version",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub variant: String,
}

impl Platform {
    /// This machine's, in Go's words.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            ..Self::default()
        }
    }

    /// Reads `linux/amd64`, `linux/arm/v7`, `amd64`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let first = parts.next().filter(|p| !p.is_empty())?.to_lowercase();
        let (os, architecture) = match parts.next() {
            Some(second) => (first, second.to_lowercase()),
            None if matches!(first.as_str(), "linux" | "windows" | "darwin") => {
                (first, Self::host().architecture)
            }
            None => ("linux".to_owned(), first),
        };
        let architecture = match architecture.as_str() {
            "x86_64" | "x86-64" => "amd64".to_owned(),
            "aarch64" => "arm64".to_owned(),
            "i386" => "386".to_owned(),
            _ => architecture,
        };
        let variant = parts.next().unwrap_or_default().to_lowercase();
        (parts.next().is_none() && !architecture.is_empty()).then(|| Self {
            architecture,
            os,
            os_version: String::new(),
            variant,
        })
    }

    /// Can `self`, the machine or what was asked for, run an image for `image`? An image that does not say runs anywhere. A
    /// processor also runs what was built for an older variant of its kind.
    pub fn runs(&self, image: &Self) -> bool {
        if image.architecture.is_empty() && image.os.is_empty() {
            return true;
        }
        image.os == self.os
            && image.architecture == self.architecture
            && (self.variant.is_empty() || image.level() <= self.level())
    }

    /// The variant as a number; where none is said, that which the name alone means.
    pub fn level(&self) -> u32 {
        let said = self.variant.strip_prefix('v');
        match (
            self.architecture.as_str(),
            said.and_then(|v| v.parse().ok()),
        ) {
            (_, Some(level)) => level,
            ("arm", None) => 7,
            ("arm64", None) => 8,
            _ => 1,
        }
    }

    /// `linux/arm/v7`
    pub fn text(&self) -> String {
        let mut text = format!("{}/{}", self.os, self.architecture);
        if !self.variant.is_empty() {
            text.push('/');
            text.push_str(&self.variant);
        }
        text
    }
}

/// A pointer to content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    #[serde(rename = "mediaType", default, deserialize_with = "or_default")]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    pub fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
    }
    pub fn is_manifest(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST)
    }
    /// A manifest that describes another one (provenance, SBOM): content, but nothing to run.
    pub fn is_attestation(&self) -> bool {
        self.annotations.contains_key("vnd.docker.reference.type")
    }
}

/// One image for one platform. Field order is that of the bytes that are written (and digested).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    #[serde(rename = "schemaVersion")]
    pub schema_version: u32,
    #[serde(rename = "mediaType", default, deserialize_with = "or_default")]
    pub media_type: String,
    pub config: Descriptor,
    #[serde(default, deserialize_with = "or_default")]
    pub layers: Vec<Descriptor>,
}

/// Several manifests.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Index {
    #[serde(default, deserialize_with = "or_default")]
    pub manifests: Vec<Descriptor>,
}

/// One entry of `manifest.json` in an archive that `docker save` writes.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SavedImage {
    pub config: String,
    #[serde(default, deserialize_with = "or_default")]
    pub repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub layers: Vec<String>,
}

/// An image's configuration document.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ImageConfig {
    #[serde(flatten)]
    pub platform: Platform,
    #[serde(default, deserialize_with = "or_default")]
    pub author: String,
    /// RFC 3339; empty when the image does not say.
    #[serde(default, deserialize_with = "or_default")]
    pub created: String,
    #[serde(default, deserialize_with = "or_default")]
    pub docker_version: String,
    #[serde(default, deserialize_with = "or_default")]
    pub config: RunConfig,
    #[serde(default, deserialize_with = "or_default")]
    pub rootfs: RootFs,
    #[serde(default, deserialize_with = "or_default")]
    pub history: Vec<HistoryEntry>,
    /// The document itself, for fields that are not listed here.
    #[serde(skip)]
    pub raw: serde_json::Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct RootFs {
    #[serde(default, deserialize_with = "or_default")]
    pub diff_ids: Vec<String>,
}

/// How a container of the image runs unless told otherwise. `None` and empty are told apart where Docker's answers do.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    #[serde(deserialize_with = "or_default")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    #[serde(deserialize_with = "or_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "or_default")]
    pub working_dir: String,
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(deserialize_with = "or_default")]
    pub stop_signal: String,
    pub stop_timeout: Option<i64>,
    pub healthcheck: Option<serde_json::Value>,
    pub shell: Option<Vec<String>>,
    pub on_build: Option<Vec<String>>,
}

/// One step of how the image was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct HistoryEntry {
    #[serde(default, deserialize_with = "or_default")]
    pub created: String,
    #[serde(default, deserialize_with = "or_default")]
    pub created_by: String,
    #[serde(default, deserialize_with = "or_default")]
    pub author: String,
    #[serde(default, deserialize_with = "or_default")]
    pub comment: String,
    #[serde(default, deserialize_with = "or_default")]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// Reads a configuration document.
    ///
    /// # Errors
    /// Text that is no such document.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let raw: serde_json::Value = serde_json::from_slice(bytes)?;
        let mut config: Self = serde_json::from_value(raw.clone())?;
        config.raw = raw;
        Ok(config)
    }
}

/// Go writes `null` where a value is empty.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn config_with_nulls() {
        let config = ImageConfig::parse(
            br#"{"architecture":"amd64","os":"linux","config":{"Cmd":["sh"],"Entrypoint":null,"Env":null,"Labels":null,"Volumes":null},
                "rootfs":{"type":"layers","diff_ids":["sha256:1"]},"history":null,"created":null,"x":1}"#,
        )
        .unwrap();
        assert_eq!(config.config.cmd, Some(vec!["sh".to_owned()]));
        assert_eq!(config.config.entrypoint, None);
        assert_eq!(config.platform, Platform::parse("linux/amd64").unwrap());
        assert_eq!(config.raw["x"], 1);
        assert!(ImageConfig::parse(b"[]").is_err());
        assert!(ImageConfig::parse(br#"{"config":{"Cmd":"sh"}}"#).is_err());
    }

    #[test]
    fn platforms() {
        let p = |text| Platform::parse(text).unwrap();
        assert_eq!(p("linux/arm/v7").text(), "linux/arm/v7");
        assert_eq!(p("aarch64").text(), "linux/arm64");
        assert!(Platform::parse("").is_none() && Platform::parse("a/b/c/d").is_none());
        assert!(p("linux/arm64").runs(&p("linux/arm64/v8")));
        assert!(p("linux/arm64/v8").runs(&p("linux/arm64")));
        assert!(!p("linux/amd64").runs(&p("linux/arm64")));
        assert!(!p("linux/amd64").runs(&p("windows/amd64")));
        assert!(p("linux/amd64").runs(&Platform::default()));
        assert!(p("linux/arm/v7").runs(&p("linux/arm/v6")));
        assert!(!p("linux/arm/v6").runs(&p("linux/arm")));
        assert!(!p("linux/amd64/v2").runs(&p("linux/amd64/v3")));
    }

    #[test]
    fn manifest_bytes_are_those_of_containerd() {
        let descriptor = |media_type: &str, digest: &str, size| Descriptor {
            media_type: media_type.to_owned(),
            digest: format!("sha256:{digest}"),
            size,
            ..Descriptor::default()
        };
        let manifest = Manifest {
            schema_version: 2,
            media_type: OCI_MANIFEST.to_owned(),
            config: descriptor(
                OCI_CONFIG,
                "ef4dbb1914d9a31d9e182a16adec881ddaacb97b302710c26b5087c6527c9b06",
                379,
            ),
            layers: vec![descriptor(
                OCI_LAYER_GZIP,
                "4bb436df9dab33a18aca484ca722c41675f3f906799a38735e2c7153611f31e4",
                1_084_064,
            )],
        };
        let bytes = serde_json::to_vec(&manifest).unwrap();
        assert_eq!(bytes.len(), 405);
        assert_eq!(
            crate::tarball::codec::digest(&bytes),
            "sha256:7e880495e9776786f5d950141cba7bdc148ddaf34a4d980d79e96e989a90b8f6"
        );
    }

    proptest! {
        /// Documents come from anybody.
        #[test]
        fn documents_never_panic(
            text in "\\PC{0,60}",
            kind in prop::sample::select(vec!["null", "{}", "[]", "1", "\"\"", "-1", "1e99", "[null]", "[{}]", "{\"digest\":\"x\",\"size\":1}"]),
            field in prop::sample::select(vec!["manifests", "layers", "config", "mediaType", "rootfs", "history", "platform", "architecture", "annotations"]),
        ) {
            for text in [text, format!("{{\"{field}\":{kind}}}"), format!("{{\"manifests\":[{{\"{field}\":{kind}}}]}}")] {
                let _ = serde_json::from_str::<Manifest>(&text);
                let _ = ImageConfig::parse(text.as_bytes());
                if let Ok(index) = serde_json::from_str::<Index>(&text) {
                    for entry in index.manifests {
                        let _ = (entry.is_attestation(), entry.platform.map(|p| (p.text(), p.level(), Platform::host().runs(&p))));
                    }
                }
                let _ = Platform::parse(&text);
            }
        }

        #[test]
        fn platforms_read_back(text in "[a-z]{2,6}/[a-z0-9]{2,6}(/v[0-9])?") {
            if let Some(platform) = Platform::parse(&text) {
                prop_assert_eq!(Platform::parse(&platform.text()), Some(platform.clone()));
                prop_assert!(platform.runs(&platform));
            }
        }
    }
}
