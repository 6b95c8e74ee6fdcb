//! What an image consists of: index, manifest, configuration, and the list of its layers.

use std::sync::Arc;

use longshore_model::{Error, Reference, Result};
use longshore_registry::{Session, Target};
use longshore_store::images::manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, Descriptor, ImageConfig, Index, Manifest, OCI_INDEX,
    OCI_MANIFEST, Platform,
};

use super::{no_platform, resolving};
use crate::Inner;

/// Indexes within indexes at most.
const DEPTH_MAX: u32 = 3;
const LAYERS_MAX: usize = 1024;

/// A layer to bring here.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub descriptor: Descriptor,
    pub diff_id: String,
    /// Unpack it: the image is for the platform that runs here, or that was asked for.
    pub unpack: bool,
}

/// An image's parts. The documents are here, the layers may not be.
pub(super) struct Content {
    pub target: Descriptor,
    /// Index, manifest, configuration, with their bytes.
    documents: Vec<(String, Vec<u8>)>,
    pub layers: Vec<Wanted>,
}

impl Content {
    /// Digests of everything.
    pub fn digests(&self) -> Vec<String> {
        let documents = self.documents.iter().map(|(digest, _)| digest.clone());
        let layers = self.layers.iter().map(|l| l.descriptor.digest.clone());
        documents.chain(layers).collect()
    }
}

impl Inner {
    /// Reads what a target consists of. Documents that are here are not fetched.
    pub(super) async fn content(
        self: &Arc<Self>,
        session: &Session,
        reference: &Reference,
        target: &Target,
        platform: Option<&Platform>,
    ) -> Result<Content> {
        let mut at = Descriptor {
            media_type: target.media_type.clone(),
            digest: target.digest.clone(),
            size: target.size,
            ..Descriptor::default()
        };
        let mut content = Content {
            target: at.clone(),
            documents: Vec::new(),
            layers: Vec::new(),
        };
        let wanted = platform.cloned().unwrap_or_else(Platform::host);
        for _ in 0..=DEPTH_MAX {
            check_kind(&at.media_type)?;
            let bytes = self.manifest(session, reference, &at.digest).await?;
            if at.digest == target.digest {
                content.target.size = bytes.len() as u64;
            }
            content.documents.push((at.digest.clone(), bytes.clone()));
            let shape: serde_json::Value = parse(&bytes, &at.digest)?;
            let is_index = at.is_index() || (!at.is_manifest() && shape.get("manifests").is_some());
            if !is_index {
                self.manifest_content(session, &mut content, &at, &bytes, &wanted)
                    .await?;
                return Ok(content);
            }
            let index: Index = parse(&bytes, &at.digest)?;
            at = choose(&index, &wanted).ok_or_else(|| no_platform(&wanted))?;
        }
        Err(Error::invalid("image index is nested too deeply"))
    }

    async fn manifest_content(
        &self,
        session: &Session,
        content: &mut Content,
        at: &Descriptor,
        bytes: &[u8],
        wanted: &Platform,
    ) -> Result<()> {
        let manifest: Manifest = parse(bytes, &at.digest)?;
        if manifest.layers.len() > LAYERS_MAX {
            return Err(Error::invalid(format!("{}: too many layers", at.digest)));
        }
        for layer in manifest.layers.iter().chain([&manifest.config]) {
            longshore_model::reference::check_digest(&layer.digest)?;
            if layer.media_type.contains("foreign") || layer.media_type.contains("nondistributable")
            {
                return Err(Error::not_implemented(format!(
                    "layer {} has the media type {:?}: foreign layers are not supported",
                    layer.digest, layer.media_type
                )));
            }
        }
        let digest = &manifest.config.digest;
        let document = match self.known(digest).await {
            Some(document) => document,
            None => {
                let fetched = session.document(digest).await.map_err(Error::from)?;
                self.keep(digest, fetched.to_vec()).await?
            }
        };
        let config = ImageConfig::parse(&document);
        content.documents.push((digest.clone(), document));
        let is_image = |layer: &Descriptor| {
            layer.media_type.is_empty()
                || layer
                    .media_type
                    .starts_with("application/vnd.oci.image.layer.")
                || layer
                    .media_type
                    .starts_with("application/vnd.docker.image.rootfs.")
        };
        // An artifact that is no image: content to keep, nothing to unpack.
        if !manifest.layers.iter().all(is_image) {
            return Err(Error::not_implemented(format!(
                "{} is no container image: its layers cannot be unpacked",
                at.digest
            )));
        }
        let config = config.map_err(|e| Error::invalid(format!("{digest}: {e}")))?;
        let diff_ids = config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(Error::invalid(format!(
                "mismatched image rootfs and manifest layers: {} diff ids, {} layers",
                diff_ids.len(),
                manifest.layers.len()
            )));
        }
        let unpack = wanted.runs(at.platform.as_ref().unwrap_or(&config.platform));
        content.layers = manifest
            .layers
            .into_iter()
            .zip(diff_ids)
            .map(|(descriptor, diff_id)| Wanted {
                descriptor,
                diff_id,
                unpack,
            })
            .collect();
        Ok(())
    }

    async fn manifest(
        &self,
        session: &Session,
        reference: &Reference,
        digest: &str,
    ) -> Result<Vec<u8>> {
        longshore_model::reference::check_digest(digest)?;
        if let Some(known) = self.known(digest).await {
            return Ok(known);
        }
        let fetched = session
            .manifest(digest)
            .await
            .map_err(|failure| resolving(failure, reference))?;
        check_kind(&fetched.target.media_type)?;
        self.keep(digest, fetched.bytes.to_vec()).await
    }

    /// Documents that were here at the first look, and then not any more, are kept again.
    pub(super) async fn refresh(&self, content: &Content) -> Result<()> {
        for (digest, bytes) in &content.documents {
            if self.known(digest).await.is_none() {
                self.keep(digest, bytes.clone()).await?;
            }
        }
        Ok(())
    }

    async fn known(&self, digest: &str) -> Option<Vec<u8>> {
        let (store, digest) = (self.store.clone(), digest.to_owned());
        let look = crate::blocking(move || Ok(store.images().document(&digest)));
        look.await.ok().flatten()
    }

    async fn keep(&self, digest: &str, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let (store, digest) = (self.store.clone(), digest.to_owned());
        crate::blocking(move || {
            store.images().keep_document(&digest, &bytes)?;
            Ok(bytes)
        })
        .await
    }
}

/// The manifest for a platform: the newest variant that it runs.
fn choose(index: &Index, wanted: &Platform) -> Option<Descriptor> {
    let runs = |entry: &&Descriptor| {
        !entry.is_attestation()
            && entry
                .platform
                .as_ref()
                .is_none_or(|p| p.os != "unknown" && wanted.runs(p))
    };
    let level = |entry: &&Descriptor| {
        let platform = entry.platform.as_ref();
        let level = platform.map_or(0, Platform::level);
        // Nobody said which variant: the plain one before those that may be too new.
        if wanted.variant.is_empty() && level > wanted.level() {
            0
        } else {
            level
        }
    };
    let mut best: Option<&Descriptor> = None;
    for entry in index.manifests.iter().filter(runs) {
        if best.is_none_or(|best| level(&entry) > level(&best)) {
            best = Some(entry);
        }
    }
    best.cloned()
}

/// Formats that are refused by name.
fn check_kind(media_type: &str) -> Result<()> {
    if media_type.starts_with("application/vnd.docker.distribution.manifest.v1+") {
        return Err(Error::not_implemented(format!(
            "not implemented: media type \"{media_type}\" is no longer supported, please rebuild the image as \"{DOCKER_MANIFEST}\" or \"{OCI_MANIFEST}\""
        )));
    }
    let known = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST, ""];
    if known.contains(&media_type) || !media_type.starts_with("application/vnd.") {
        return Ok(());
    }
    Err(Error::not_implemented(format!(
        "media type {media_type:?} is not supported"
    )))
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], name: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::invalid(format!("{name}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[&str]) -> Index {
        let manifests = platforms.iter().map(|text| Descriptor {
            digest: (*text).to_owned(),
            platform: Platform::parse(text),
            ..Descriptor::default()
        });
        Index {
            manifests: manifests.collect(),
        }
    }

    fn chosen(platforms: &[&str], wanted: &str) -> Option<String> {
        let wanted = Platform::parse(wanted).unwrap();
        choose(&index(platforms), &wanted).map(|d| d.digest)
    }

    #[test]
    fn platforms() {
        let arm = [
            "linux/arm/v5",
            "linux/arm/v7",
            "linux/arm/v6",
            "linux/arm64/v8",
        ];
        assert_eq!(
            chosen(&arm, "linux/arm/v7").as_deref(),
            Some("linux/arm/v7")
        );
        assert_eq!(
            chosen(&arm, "linux/arm/v6").as_deref(),
            Some("linux/arm/v6")
        );
        assert_eq!(
            chosen(&arm, "linux/arm64").as_deref(),
            Some("linux/arm64/v8")
        );
        assert_eq!(chosen(&arm, "linux/amd64"), None);
        let amd = ["linux/amd64/v3", "linux/amd64", "windows/amd64"];
        assert_eq!(chosen(&amd, "linux/amd64").as_deref(), Some("linux/amd64"));
        assert_eq!(
            chosen(&amd, "linux/amd64/v3").as_deref(),
            Some("linux/amd64/v3")
        );
        assert_eq!(
            chosen(&amd, "linux/amd64/v2").as_deref(),
            Some("linux/amd64")
        );
    }

    #[test]
    fn attestations_are_never_chosen() {
        let mut index = index(&["unknown/unknown"]);
        assert!(choose(&index, &Platform::host()).is_none());
        index.manifests[0].platform = None;
        index.manifests[0].annotations =
            [("vnd.docker.reference.type".to_owned(), "x".to_owned())].into();
        assert!(choose(&index, &Platform::host()).is_none());
    }

    #[test]
    fn old_formats_are_refused() {
        for kind in ["v1+json", "v1+prettyjws"] {
            let kind = format!("application/vnd.docker.distribution.manifest.{kind}");
            let error = check_kind(&kind).unwrap_err();
            assert!(
                error.message.contains("no longer supported"),
                "{}",
                error.message
            );
        }
        assert!(check_kind("application/vnd.cncf.helm.config.v1+json").is_err());
        assert!(check_kind(OCI_INDEX).is_ok() && check_kind("text/plain").is_ok());
    }
}
