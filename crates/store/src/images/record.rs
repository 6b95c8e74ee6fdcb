//! What is kept about images, tags and layers, and its form in the database (JSON).

use std::collections::BTreeMap;

use longshore_model::Reference;
use serde::{Deserialize, Serialize};

use super::manifest::{Descriptor, Platform};

/// An image. Its id is the digest of its manifest, or of its index when it has several platforms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    pub descriptor: Descriptor,
    /// The platforms whose content is here; at least one.
    pub manifests: Vec<PlatformImage>,
    /// Every blob of the image: digest and size.
    pub blobs: BTreeMap<String, u64>,
    /// When the image came here, nanoseconds since the epoch.
    pub stored_nano: i64,
    /// Id of the image that it was made from here; empty for one that came from elsewhere.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub parent: String,
}

/// The image for one platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformImage {
    pub descriptor: Descriptor,
    pub platform: Platform,
    pub config: Descriptor,
    /// Lowest first.
    pub layers: Vec<ImageLayer>,
    /// Folder of mount points that lies on top of the layers; set when the layers are unpacked.
    pub init: Option<String>,
    /// A manifest about another one (provenance): nothing to run.
    pub attestation: bool,
    /// What lists show of the configuration, so that they read no blobs. `None` in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brief: Option<Brief>,
}

/// What a list of images shows of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brief {
    /// RFC 3339; empty when the image does not say.
    pub created: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayer {
    pub blob: Descriptor,
    pub diff_id: String,
    /// Folder of the unpacked layer, when it is unpacked.
    pub folder: Option<String>,
    /// Bytes of the unpacked layer on the disk.
    pub unpacked_size: u64,
}

/// A name of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// Id of the image.
    pub image: String,
    /// When it was given, nanoseconds since the epoch (`Metadata.LastTagTime`).
    pub tagged_nano: i64,
    /// Descriptor as the archive or registry gave it with this name: its annotations may differ from name to name.
    pub descriptor: Descriptor,
}

/// An unpacked layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    pub allocated: u64,
    pub apparent: u64,
    pub inodes: u64,
}

/// A name together with its tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTag {
    pub reference: Reference,
    pub tag: Tag,
}

impl Image {
    pub fn id(&self) -> &str {
        &self.descriptor.digest
    }

    /// The platform's image that a container gets: the wanted platform's, or this machine's.
    pub fn for_platform(&self, wanted: Option<&Platform>) -> Option<&PlatformImage> {
        let host = Platform::host();
        let wanted = wanted.unwrap_or(&host);
        self.manifests
            .iter()
            .find(|m| !m.attestation && wanted.runs(&m.platform))
    }

    /// The one to describe when nobody asked for a platform: this machine's, or the first.
    pub fn main(&self) -> Option<&PlatformImage> {
        self.for_platform(None)
            .or_else(|| self.manifests.iter().find(|m| !m.attestation))
    }

    /// Bytes of the blobs.
    pub fn content_size(&self) -> u64 {
        self.blobs.values().sum()
    }

    /// Bytes of the unpacked layers.
    pub fn unpacked_size(&self) -> u64 {
        let layers: BTreeMap<_, _> = self
            .manifests
            .iter()
            .flat_map(|m| &m.layers)
            .filter_map(|layer| Some((layer.folder.as_ref()?, layer.unpacked_size)))
            .collect();
        layers.values().sum()
    }

    /// `Size` in Docker's answers: blobs and unpacked layers.
    pub fn size(&self) -> u64 {
        self.content_size() + self.unpacked_size()
    }
}

impl PlatformImage {
    pub fn is_unpacked(&self) -> bool {
        self.init.is_some() && self.layers.iter().all(|layer| layer.folder.is_some())
    }
    /// Bytes of manifest, configuration and layers as stored.
    pub fn content_size(&self) -> u64 {
        let layers: u64 = self.layers.iter().map(|layer| layer.blob.size).sum();
        self.descriptor.size + self.config.size + layers
    }
    pub fn unpacked_size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.unpacked_size).sum()
    }
}
