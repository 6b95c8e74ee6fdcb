//! Questions about images. None of them waits for a change under way.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
};

use longshore_model::{
    Error, Reference, Result,
    reference::{check_digest, is_identifier},
};

use super::{
    Images,
    manifest::{Descriptor, ImageConfig, Index, Manifest, Platform},
    record::{Brief, Image, NamedTag, PlatformImage},
};

/// What a name or id stands for.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub image: Arc<Image>,
    /// The name by which it was found; `None` when it was found by its id.
    pub tag: Option<Arc<NamedTag>>,
}

/// One line of `docker history`, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryItem {
    /// RFC 3339 text as in the image; empty when missing.
    pub created: String,
    pub created_by: String,
    pub comment: String,
    /// Bytes of the step's layer on the disk; 0 for a step without a layer.
    pub size: u64,
}

impl Images {
    /// All images, ordered by id.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.read().images.values().cloned().collect()
    }

    pub fn get(&self, id: &str) -> Option<Arc<Image>> {
        self.read().images.get(id).cloned()
    }

    /// All names, ordered by canonical reference.
    pub fn tags(&self) -> Vec<Arc<NamedTag>> {
        self.read().tags.values().cloned().collect()
    }

    /// An image's names, ordered by canonical reference (the order of `RepoTags`).
    pub fn tags_of(&self, id: &str) -> Vec<Arc<NamedTag>> {
        let state = self.read();
        let tags = state.tags.values();
        tags.filter(|named| named.tag.image == id)
            .cloned()
            .collect()
    }

    /// All images with their names, ordered by id; the names by canonical reference.
    pub fn list_named(&self) -> Vec<(Arc<Image>, Vec<Arc<NamedTag>>)> {
        let state = self.read();
        let mut names: HashMap<&str, Vec<Arc<NamedTag>>> = HashMap::new();
        for named in state.tags.values() {
            let own = names.entry(&named.tag.image).or_default();
            own.push(named.clone());
        }
        let images = state.images.values();
        images
            .map(|image| (image.clone(), names.remove(image.id()).unwrap_or_default()))
            .collect()
    }

    /// Ids of the images that were made from others here, by their parents' ids.
    pub fn children(&self) -> HashMap<String, Vec<String>> {
        let state = self.read();
        let mut children: HashMap<String, Vec<String>> = HashMap::new();
        for image in state.images.values().filter(|i| !i.parent.is_empty()) {
            let own = children.entry(image.parent.clone()).or_default();
            own.push(image.id().to_owned());
        }
        children
    }

    /// What lists show of a configuration.
    ///
    /// # Errors
    /// A configuration that cannot be read, where the record does not have it.
    pub fn brief(&self, manifest: &PlatformImage) -> Result<Brief> {
        if let Some(brief) = &manifest.brief {
            return Ok(brief.clone());
        }
        let config = self.config(manifest)?;
        Ok(Brief {
            created: config.created.clone(),
            labels: config.config.labels.clone().unwrap_or_default(),
        })
    }

    /// The manifests that an image's index names, those whose content is not here as well. Empty for an image without an
    /// index.
    ///
    /// # Errors
    /// An index that cannot be read.
    pub fn index_of(&self, image: &Image) -> Result<Vec<Descriptor>> {
        let id = image.id();
        if image.manifests.iter().any(|m| m.descriptor.digest == id) {
            return Ok(Vec::new());
        }
        let bytes = self.blobs.document(id)?;
        let index: Index = serde_json::from_slice(&bytes)
            .map_err(|e| Error::system(format!("image index {id}: {e}")))?;
        Ok(index.manifests)
    }

    /// The layers of an attestation manifest, each a statement.
    ///
    /// # Errors
    /// A manifest that cannot be read.
    pub fn statements(&self, manifest: &Descriptor) -> Result<Vec<Descriptor>> {
        let bytes = self.blobs.document(&manifest.digest)?;
        let read: Manifest = serde_json::from_slice(&bytes)
            .map_err(|e| Error::system(format!("manifest {}: {e}", manifest.digest)))?;
        Ok(read.layers)
    }

    /// A small blob whole.
    ///
    /// # Errors
    /// `NotFound`; one that is too large for a document.
    pub fn small_blob(&self, digest: &str) -> Result<Vec<u8>> {
        self.blobs.document(digest)
    }

    /// `RepoDigests` as inspect shows them: each repository of the image's names once, with the image's digest. The list of
    /// images shows only the last of these.
    pub fn repo_digests(&self, id: &str) -> Vec<String> {
        let mut digests: Vec<String> = Vec::new();
        for named in self.tags_of(id) {
            let digest = format!("{}@{id}", named.reference.familiar_name());
            if !digests.contains(&digest) {
                digests.push(digest);
            }
        }
        digests
    }

    /// Who has this name? The reference must have a tag (see [`Reference::or_latest`]).
    pub fn tag_named(&self, reference: &Reference) -> Option<Arc<NamedTag>> {
        self.read().tags.get(&reference.canonical()).cloned()
    }

    /// Finds an image by what a user types: a name (`latest` unless a tag is given), `name@digest`, an id with or without
    /// `sha256:`, or the beginning of one. A name goes before an id, as in dockerd.
    ///
    /// # Errors
    /// `NotFound` with `No such image: ...`; `InvalidParameter` for text that is neither name nor id, or an id that
    /// several images begin with.
    pub fn resolve(&self, text: &str) -> Result<Resolved> {
        let state = self.read();
        let by_id = |id: &str| {
            state.images.get(id).map(|image| Resolved {
                image: image.clone(),
                tag: None,
            })
        };
        if is_identifier(text) || check_digest(text).is_ok() {
            let id = format!("sha256:{}", text.trim_start_matches("sha256:"));
            let missing = || Error::not_found(format!("No such image: {id}"));
            return by_id(&id).ok_or_else(missing);
        }
        let reference = Reference::parse(text)?.or_latest();
        if let Some(digest) = &reference.digest {
            let name = reference.name();
            let same_repository = |named: &&Arc<NamedTag>| {
                named.tag.image == *digest && named.reference.name() == name
            };
            if let Some(named) = state.tags.values().find(same_repository)
                && let Some(image) = state.images.get(digest)
            {
                let tag = Some(named.clone());
                let image = image.clone();
                return Ok(Resolved { image, tag });
            }
        }
        if let Some(named) = state.tags.get(&reference.canonical())
            && let Some(image) = state.images.get(&named.tag.image)
        {
            return Ok(Resolved {
                image: image.clone(),
                tag: Some(named.clone()),
            });
        }
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        if !prefix.is_empty()
            && prefix.len() <= 64
            && prefix
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            let from = format!("sha256:{prefix}");
            let mut matches = state
                .images
                .range(from.clone()..)
                .take_while(|(id, _)| id.starts_with(&from));
            if let Some((_, image)) = matches.next() {
                if matches.next().is_some() {
                    return Err(Error::invalid(format!("ambiguous reference: {text}")));
                }
                let image = image.clone();
                return Ok(Resolved { image, tag: None });
            }
        }
        Err(Error::not_found(format!(
            "No such image: {}",
            reference.familiar()
        )))
    }

    /// The configuration of an image for one platform. Read from the disk once.
    ///
    /// # Errors
    /// A blob that is missing or no configuration.
    pub fn config(&self, manifest: &PlatformImage) -> Result<Arc<ImageConfig>> {
        let digest = &manifest.config.digest;
        if let Some(config) = self.read().configs.get(digest) {
            return Ok(config.clone());
        }
        let bytes = self.blobs.document(digest)?;
        let config = ImageConfig::parse(&bytes)
            .map_err(|e| Error::system(format!("image configuration {digest}: {e}")))?;
        let config = Arc::new(config);
        self.write().configs.insert(digest.clone(), config.clone());
        Ok(config)
    }

    /// How the image was made, newest step first.
    ///
    /// # Errors
    /// A configuration that cannot be read.
    pub fn history(&self, manifest: &PlatformImage) -> Result<Vec<HistoryItem>> {
        let config = self.config(manifest)?;
        let mut sizes = manifest.layers.iter().map(|layer| layer.unpacked_size);
        let mut items: Vec<HistoryItem> = config
            .history
            .iter()
            .map(|step| HistoryItem {
                created: step.created.clone(),
                created_by: step.created_by.clone(),
                comment: step.comment.clone(),
                size: if step.empty_layer {
                    0
                } else {
                    sizes.next().unwrap_or(0)
                },
            })
            .collect();
        items.reverse();
        Ok(items)
    }

    /// Lower directories of a container's root, topmost first: the mount points' folder, then the image's layers.
    /// Layers that are not unpacked yet are unpacked now.
    ///
    /// # Errors
    /// `NotFound` when the image is not here for that platform; failures of unpacking.
    pub fn rootfs(&self, image: &Image, platform: Option<&Platform>) -> Result<Vec<PathBuf>> {
        let none = || {
            let wanted = platform.cloned().unwrap_or_else(Platform::host);
            Error::not_found(format!(
                "image {} does not provide the specified platform ({})",
                image.id(),
                wanted.text()
            ))
        };
        let manifest = image.for_platform(platform).ok_or_else(none)?;
        if manifest.is_unpacked() {
            return Ok(self.lower(manifest));
        }
        let unpacked = self.unpack_image(image, &manifest.descriptor.digest)?;
        let manifest = unpacked.for_platform(platform).ok_or_else(none)?;
        Ok(self.lower(manifest))
    }

    fn lower(&self, manifest: &PlatformImage) -> Vec<PathBuf> {
        let init = manifest.init.iter().map(|name| self.init_path(name));
        let layers = manifest.layers.iter().rev();
        init.chain(layers.filter_map(|layer| Some(self.layer_path(layer.folder.as_ref()?))))
            .collect()
    }

    /// An open file of a blob, for `docker save` and push. The image should be leased meanwhile.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn blob(&self, digest: &str) -> Result<std::fs::File> {
        self.blobs.open(digest)
    }

    /// Bytes on the disk that several images share, by image: the `SharedSize` of the list.
    pub fn shared_sizes(&self) -> HashMap<String, u64> {
        let state = self.read();
        let mut users: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
        for image in state.images.values() {
            for (name, size) in parts(image) {
                let user = users.entry(name).or_insert((size, 0));
                user.1 += 1;
            }
        }
        let shared = |image: &Arc<Image>| {
            parts(image)
                .into_iter()
                .filter(|(name, _)| users.get(name).is_some_and(|user| user.1 > 1))
                .map(|(_, size)| size)
                .sum()
        };
        state
            .images
            .iter()
            .map(|(id, image)| (id.clone(), shared(image)))
            .collect()
    }

    /// Bytes on the disk of all images, shared parts once (`LayersSize` of system/df).
    pub fn total_size(&self) -> u64 {
        let state = self.read();
        let all: BTreeMap<&str, u64> = state
            .images
            .values()
            .flat_map(|image| parts(image))
            .collect();
        all.values().sum()
    }
}

/// Blobs and unpacked layers of an image with their sizes.
fn parts(image: &Image) -> BTreeMap<&str, u64> {
    let blobs = image
        .blobs
        .iter()
        .map(|(digest, size)| (digest.as_str(), *size));
    let layers = image.manifests.iter().flat_map(|m| &m.layers);
    blobs
        .chain(layers.filter_map(|layer| Some((layer.folder.as_deref()?, layer.unpacked_size))))
        .collect()
}
