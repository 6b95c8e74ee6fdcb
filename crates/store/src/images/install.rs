//! From content that has arrived to an image that can be used: check, unpack, make durable, record.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::Read,
    path::PathBuf,
    sync::Arc,
};

use longshore_model::{Error, Reference, Result, Timestamp};
use rustix::io::Errno;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Images, Loaded,
    blobs::{Arrived, read_document},
    gc::Pins,
    init, layers,
    manifest::{Descriptor, ImageConfig, Index, Manifest, Platform},
    pulled::{self, Shared},
    put_tag,
    record::{Brief, Image, ImageLayer, LayerRecord, NamedTag, PlatformImage, Tag},
    to_json,
    work::Work,
};
use crate::{
    durable,
    records::{Batch, Durability, NewEvent, Table},
    tarball::codec::{Compression, digest},
};

/// Indexes within indexes at most.
const DEPTH_MAX: u32 = 3;

/// Content on its way in. What it has made visible is pinned until it is dropped; by then a record names it, or it goes.
pub struct Incoming<'a> {
    images: &'a Images,
    pins: Pins<'a>,
    arrived: HashMap<String, Arrived>,
    fresh_layers: Vec<(String, LayerRecord)>,
    /// Layers that were unpacked while they came, by their blob's digest.
    prepared: HashMap<String, Shared>,
    /// Blobs and layer folders in their place, with how many inodes they have, that may not be durable yet.
    unsynced: Vec<(PathBuf, u64)>,
    counter: u64,
    work: Work,
}

/// A name to give, and the descriptor that came with it.
pub struct Name {
    pub reference: Option<Reference>,
    pub descriptor: Descriptor,
}

impl<'a> Incoming<'a> {
    pub fn new(images: &'a Images) -> Result<Self> {
        Ok(Self {
            images,
            pins: Pins::new(images),
            arrived: HashMap::new(),
            fresh_layers: Vec::new(),
            prepared: HashMap::new(),
            unsynced: Vec::new(),
            counter: 0,
            work: images.works.make()?,
        })
    }

    /// Where the next file may be written.
    pub fn next_path(&mut self) -> PathBuf {
        self.counter += 1;
        self.work.path().join(format!("in-{}", self.counter))
    }

    pub fn add(&mut self, arrived: Arrived) {
        self.arrived.insert(arrived.digest.clone(), arrived);
    }

    /// A layer that is unpacked already, for whoever takes it first.
    pub fn prepare(&mut self, digest: String, layer: Shared) {
        self.prepared.insert(digest, layer);
    }

    /// A document that is made here; its bytes are those of Go's encoder for the same fields.
    pub fn add_document(
        &mut self,
        document: &impl Serialize,
        media_type: &str,
    ) -> Result<Descriptor> {
        let bytes = to_json(document)?;
        let path = self.next_path();
        durable::replace(&path, &bytes, 0o600, durable::Outlive::Daemon)?;
        let descriptor = Descriptor {
            media_type: media_type.to_owned(),
            digest: digest(&bytes),
            size: bytes.len() as u64,
            ..Descriptor::default()
        };
        self.add(Arrived {
            path,
            digest: descriptor.digest.clone(),
            size: descriptor.size,
        });
        Ok(descriptor)
    }

    pub fn has(&self, digest: &str) -> bool {
        self.arrived.contains_key(digest) || self.images.blobs.has(digest)
    }

    pub fn document(&self, digest: &str) -> Result<Vec<u8>> {
        read_document(self.open(digest)?, digest)
    }

    pub fn compression(&self, digest: &str) -> Result<Compression> {
        let mut start = Vec::new();
        self.open(digest)?
            .take(6)
            .read_to_end(&mut start)
            .map_err(|e| Error::io(format_args!("read {digest}"), e))?;
        Ok(Compression::detect(&start))
    }

    fn open(&self, digest: &str) -> Result<File> {
        match self.arrived.get(digest) {
            Some(arrived) => File::open(&arrived.path)
                .map_err(|e| Error::io(format_args!("open {}", arrived.path.display()), e)),
            None => self.images.blobs.open(digest),
        }
    }

    /// Moves a blob to its place and keeps it there. Its size must be what the descriptor says.
    fn settle(&mut self, descriptor: &Descriptor) -> Result<()> {
        let digest = &descriptor.digest;
        let path = self.images.blobs.path(digest)?;
        self.pins.add(digest);
        if let Some(arrived) = self.arrived.get_mut(digest)
            && arrived.path != path
        {
            // One that is there already is durable; ours is not yet, and must not take its place.
            match durable::rename_new(&arrived.path, &path) {
                Ok(()) | Err(Errno::EXIST) => arrived.path.clone_from(&path),
                // Another pull of the same blob was faster.
                Err(Errno::NOENT) if path.exists() => arrived.path.clone_from(&path),
                Err(e) => return Err(Error::io(format_args!("rename {}", path.display()), e)),
            }
        }
        self.unsynced.push((path.clone(), 1));
        let found = std::fs::metadata(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::invalid(format!("content digest {digest}: not found"))
            }
            _ => Error::io(format_args!("stat {}", path.display()), e),
        })?;
        if found.len() != descriptor.size {
            return Err(Error::invalid(format!(
                "content digest {digest}: size is {}, not {}",
                found.len(),
                descriptor.size
            )));
        }
        Ok(())
    }

    /// Checks an image's content, moves it to its place, and unpacks the layers of the platform that runs here.
    pub fn assemble(&mut self, target: &Descriptor, wanted: Option<&Platform>) -> Result<Image> {
        let mut image = Image {
            descriptor: target.clone(),
            manifests: Vec::new(),
            blobs: BTreeMap::new(),
            stored_nano: Timestamp::now().0,
            parent: String::new(),
        };
        self.walk(
            target,
            target.platform.as_ref(),
            &mut image,
            wanted,
            DEPTH_MAX,
        )?;
        if let Some(known) = self.images.get(image.id()) {
            merge(&mut image, &known);
        }
        if image.manifests.iter().all(|m| m.attestation) {
            return Err(Error::not_found(match wanted {
                Some(platform) => format!("requested platform ({}) not found", platform.text()),
                None => format!("image {} has no content here", image.id()),
            }));
        }
        let host = Platform::host();
        let runs = wanted.unwrap_or(&host).clone();
        for manifest in &mut image.manifests {
            if !manifest.attestation && runs.runs(&manifest.platform) {
                self.unpack(manifest)?;
            }
        }
        Ok(image)
    }

    fn walk(
        &mut self,
        at: &Descriptor,
        platform: Option<&Platform>,
        image: &mut Image,
        wanted: Option<&Platform>,
        depth: u32,
    ) -> Result<()> {
        let document = self.document(&at.digest)?;
        let shape: serde_json::Value = parse(&document, &at.digest)?;
        // The media type may be missing; the content never lies about what it is.
        let is_index = at.is_index() || (!at.is_manifest() && shape.get("manifests").is_some());
        self.settle(at)?;
        image.blobs.insert(at.digest.clone(), at.size);
        if !is_index {
            return self.walk_manifest(at, &document, platform, image);
        }
        let depth = depth
            .checked_sub(1)
            .ok_or_else(|| Error::invalid("image index is nested too deeply"))?;
        let index: Index = parse(&document, &at.digest)?;
        for child in index.manifests {
            let chosen = |wanted: &Platform| {
                child.platform.as_ref().is_none_or(|p| wanted.runs(p)) || child.is_attestation()
            };
            let walked = image.blobs.contains_key(&child.digest);
            // Platforms that the archive has left out are no error.
            if wanted.is_none_or(chosen) && !walked && self.has(&child.digest) {
                self.walk(&child, child.platform.as_ref(), image, wanted, depth)?;
            }
        }
        Ok(())
    }

    fn walk_manifest(
        &mut self,
        at: &Descriptor,
        document: &[u8],
        platform: Option<&Platform>,
        image: &mut Image,
    ) -> Result<()> {
        let manifest: Manifest = parse(document, &at.digest)?;
        let all_here = self.has(&manifest.config.digest)
            && manifest.layers.iter().all(|layer| self.has(&layer.digest));
        if !all_here && at.digest != image.descriptor.digest {
            return Ok(());
        }
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            self.settle(blob)?;
            image.blobs.insert(blob.digest.clone(), blob.size);
        }
        let attestation = at.is_attestation()
            || platform.is_some_and(|p| p.os == "unknown")
            || !manifest.layers.iter().all(|l| is_layer(&l.media_type));
        let (mut diff_ids, mut own, mut brief) = (Vec::new(), Platform::default(), None);
        if !attestation {
            let config = self.document(&manifest.config.digest)?;
            let config = ImageConfig::parse(&config)
                .map_err(|e| Error::invalid(format!("{}: {e}", manifest.config.digest)))?;
            brief = Some(Brief {
                created: config.created,
                labels: config.config.labels.unwrap_or_default(),
            });
            diff_ids = config.rootfs.diff_ids;
            own = config.platform;
            if diff_ids.len() != manifest.layers.len() {
                return Err(Error::invalid(format!(
                    "mismatched image rootfs and manifest layers: {} diff ids, {} layers",
                    diff_ids.len(),
                    manifest.layers.len()
                )));
            }
            for diff_id in &diff_ids {
                self.images.blobs.path(diff_id)?;
            }
        }
        let layers = manifest.layers.into_iter().zip(diff_ids);
        image.manifests.push(PlatformImage {
            descriptor: at.clone(),
            platform: platform.cloned().unwrap_or(own),
            config: manifest.config,
            layers: layers
                .map(|(blob, diff_id)| ImageLayer {
                    blob,
                    diff_id,
                    folder: None,
                    unpacked_size: 0,
                })
                .collect(),
            init: None,
            attestation,
            brief,
        });
        Ok(())
    }

    /// Unpacks what is not unpacked yet, from the lowest layer up.
    fn unpack(&mut self, manifest: &mut PlatformImage) -> Result<()> {
        let mut lower: Vec<PathBuf> = Vec::new();
        let mut chain = String::new();
        for layer in &mut manifest.layers {
            let (name, record) = self.layer(layer, &lower, &chain)?;
            lower.insert(0, self.images.layer_path(&name));
            layer.folder = Some(name);
            layer.unpacked_size = record.allocated;
            chain = layers::chain_id(&chain, &layer.diff_id);
        }
        let folder = self.images.root.join("init");
        manifest.init = Some(init::ensure(&folder, self.work.path(), &lower)?);
        Ok(())
    }

    fn layer(
        &mut self,
        layer: &ImageLayer,
        lower: &[PathBuf],
        chain: &str,
    ) -> Result<(String, LayerRecord)> {
        let names = [
            layers::folder_name(&layer.diff_id, ""),
            layers::folder_name(&layer.diff_id, chain),
        ];
        for name in &names {
            // Pinned before the look: from then on it stays.
            self.pins.add(name);
            let known = self.images.read().layers.get(name).copied();
            let ours = self.fresh_layers.iter().find(|(fresh, _)| fresh == name);
            if let Some(record) = known.or(ours.map(|(_, record)| *record)) {
                return Ok((name.clone(), record));
            }
        }
        let ready = self.prepared.get(&layer.blob.digest).and_then(pulled::take);
        // Its work folder stays until what is in there has been moved.
        let (fresh, _work) = match ready {
            Some(ready) => (ready.prepared.finish(lower, chain)?, Some(ready.work)),
            None => {
                let blob = self.open(&layer.blob.digest)?;
                let work = self.work.path();
                let fresh = layers::unpack_blob(blob, &layer.diff_id, lower, chain, work)?;
                (fresh, None)
            }
        };
        self.pins.add(&fresh.name);
        let path = self.images.layer_path(&fresh.name);
        match std::fs::rename(&fresh.path, &path) {
            Ok(()) => {}
            // Somebody else has unpacked the same layer meanwhile.
            Err(_) if path.is_dir() => {}
            Err(e) => return Err(Error::io(format_args!("rename {}", path.display()), e)),
        }
        self.unsynced.push((path, fresh.record.inodes));
        self.fresh_layers.push((fresh.name.clone(), fresh.record));
        Ok((fresh.name, fresh.record))
    }

    fn sync(&mut self) -> Result<()> {
        durable::sync_trees(&self.images.root, &self.unsynced)?;
        self.unsynced.clear();
        Ok(())
    }

    /// Makes everything durable, then records the image and each name, one after the other.
    pub fn keep(
        &mut self,
        image: Image,
        mut names: Vec<Name>,
        events: &mut dyn FnMut(&Loaded) -> Vec<NewEvent>,
        done: &mut dyn FnMut(&Loaded),
    ) -> Result<()> {
        self.sync()?;
        if names.is_empty() {
            names.push(Name {
                reference: None,
                descriptor: image.descriptor.clone(),
            });
        }
        let image = Arc::new(image);
        for name in names {
            let loaded = Loaded {
                id: image.id().to_owned(),
                name: name.reference.clone(),
            };
            let events = events(&loaded);
            self.record(&image, name, events)?;
            done(&loaded);
        }
        Ok(())
    }

    fn record(&mut self, image: &Arc<Image>, name: Name, events: Vec<NewEvent>) -> Result<()> {
        let _change = self.images.lock_change();
        let mut batch = Batch::new();
        for (name, record) in &self.fresh_layers {
            batch.put(Table::Layer, name, to_json(record)?);
        }
        batch.put(Table::Image, image.id(), to_json(&**image)?);
        let named = name.reference.map(|reference| NamedTag {
            reference,
            tag: Tag {
                image: image.id().to_owned(),
                tagged_nano: Timestamp::now().0,
                descriptor: name.descriptor,
            },
        });
        if let Some(named) = &named {
            put_tag(&mut batch, named)?;
        }
        for event in events {
            batch.event(event);
        }
        self.images.committer.commit(batch, Durability::Durable)?;
        let mut state = self.images.write();
        state.layers.extend(self.fresh_layers.drain(..));
        state.images.insert(image.id().to_owned(), image.clone());
        if let Some(named) = named {
            let key = named.reference.canonical();
            state.tags.insert(key, Arc::new(named));
        }
        Ok(())
    }
}

impl Images {
    /// Unpacks one platform of an image that is here but not unpacked. Returns the image as it is then.
    pub(super) fn unpack_image(&self, image: &Image, manifest: &str) -> Result<Arc<Image>> {
        let mut incoming = Incoming::new(self)?;
        let mut unpacked = image.clone();
        for candidate in &mut unpacked.manifests {
            if candidate.descriptor.digest == manifest {
                incoming.unpack(candidate)?;
            }
        }
        incoming.sync()?;
        let _change = self.lock_change();
        let mut batch = Batch::new();
        for (name, record) in &incoming.fresh_layers {
            batch.put(Table::Layer, name, to_json(record)?);
        }
        // Removed meanwhile: then the layers go when the pins do.
        let Some(known) = self.get(image.id()) else {
            return Err(Error::not_found(format!("No such image: {}", image.id())));
        };
        merge(&mut unpacked, &known);
        batch.put(Table::Image, unpacked.id(), to_json(&unpacked)?);
        self.committer.commit(batch, Durability::Durable)?;
        let unpacked = Arc::new(unpacked);
        let mut state = self.write();
        state.layers.extend(incoming.fresh_layers.drain(..));
        let id = unpacked.id().to_owned();
        state.images.insert(id, unpacked.clone());
        Ok(unpacked)
    }
}

/// Adds what is known already of the same image: platforms that came earlier, layers that are unpacked.
fn merge(image: &mut Image, known: &Image) {
    image.stored_nano = known.stored_nano;
    if image.parent.is_empty() {
        image.parent.clone_from(&known.parent);
    }
    for (digest, size) in &known.blobs {
        image.blobs.entry(digest.clone()).or_insert(*size);
    }
    for manifest in &known.manifests {
        let same = image
            .manifests
            .iter_mut()
            .find(|m| m.descriptor.digest == manifest.descriptor.digest);
        match same {
            Some(same) if !same.is_unpacked() => *same = manifest.clone(),
            Some(_) => {}
            None => image.manifests.push(manifest.clone()),
        }
    }
}

fn is_layer(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.")
}

fn parse<T: DeserializeOwned>(bytes: &[u8], name: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::invalid(format!("{name}: {e}")))
}
