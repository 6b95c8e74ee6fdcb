//! Images: blobs, unpacked layers, names. One writer at a time changes them; readers never wait for the disk.

pub(crate) mod blobs;
mod changes;
mod commit;
mod gc;
mod import;
pub(crate) mod ingest;
mod init;
pub(crate) mod install;
mod layers;
mod load;
pub mod manifest;
mod merged;
mod pulled;
mod query;
mod record;
mod save;
mod work;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use longshore_model::{Error, Reference, Result, Timestamp};

pub use commit::CommitRequest;
pub use gc::{Held, Lease};
pub use import::ImportRequest;
pub use ingest::{Follower, Growth, Ingest, PreparedLayer};
pub use load::{LoadRequest, Loaded};
pub use pulled::{Pulled, Shared};
pub use query::{HistoryItem, Resolved};
pub use record::{Brief, Image, ImageLayer, LayerRecord, NamedTag, PlatformImage, Tag};
pub use save::Saving;

use self::{blobs::Blobs, manifest::ImageConfig, work::Works};
use crate::{
    records::{Batch, Committer, Durability, NewEvent, Table},
    trash::Trash,
};

/// The images of a data root.
pub struct Images {
    root: PathBuf,
    blobs: Blobs,
    works: Works,
    trash: Trash,
    committer: Committer,
    /// Held while records change. Never taken while `state` is held.
    change: Mutex<()>,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    images: BTreeMap<String, Arc<Image>>,
    /// By canonical reference.
    tags: BTreeMap<String, Arc<NamedTag>>,
    layers: HashMap<String, LayerRecord>,
    configs: HashMap<String, Arc<ImageConfig>>,
    leases: HashMap<String, usize>,
    /// Digests of blobs and names of layer folders that somebody is working with.
    pins: HashMap<String, usize>,
}

/// Records as the database has them at start-up.
pub(crate) struct StoredImages {
    pub images: Vec<(String, Vec<u8>)>,
    pub tags: Vec<(String, Vec<u8>)>,
    pub layers: Vec<(String, Vec<u8>)>,
}

/// A record that cannot be used: table, key, why.
pub(crate) type Unusable = (Table, String, String);

impl Images {
    /// Takes the records over and puts aside what cannot be used.
    pub(crate) fn open(
        data_root: &Path,
        trash: Trash,
        committer: Committer,
        stored: StoredImages,
    ) -> Result<(Self, Vec<Unusable>)> {
        let images = Self {
            root: data_root.to_owned(),
            blobs: Blobs::new(data_root),
            works: Works::new(data_root, trash.clone()),
            trash,
            committer,
            change: Mutex::new(()),
            state: RwLock::default(),
        };
        let unusable = images.take_over(stored);
        let mut batch = Batch::new();
        for (table, key, reason) in &unusable {
            batch.quarantine(*table, key, reason);
        }
        if !batch.is_empty() {
            images.committer.commit(batch, Durability::Durable)?;
        }
        Ok((images, unusable))
    }

    fn take_over(&self, stored: StoredImages) -> Vec<Unusable> {
        let mut unusable = Vec::new();
        let mut state = self.write();
        for (key, value) in stored.layers {
            match serde_json::from_slice::<LayerRecord>(&value) {
                Ok(record) if self.layer_path(&key).is_dir() => {
                    state.layers.insert(key, record);
                }
                Ok(_) => unusable.push((Table::Layer, key, "its folder is missing".to_owned())),
                Err(e) => unusable.push((Table::Layer, key, e.to_string())),
            }
        }
        for (key, value) in stored.images {
            match serde_json::from_slice::<Image>(&value) {
                Ok(mut image) => match self.check_loaded(&key, &mut image, &state) {
                    Ok(()) => drop(state.images.insert(key, Arc::new(image))),
                    Err(reason) => unusable.push((Table::Image, key, reason)),
                },
                Err(e) => unusable.push((Table::Image, key, e.to_string())),
            }
        }
        for (key, value) in stored.tags {
            let tag = serde_json::from_slice::<Tag>(&value).map_err(|e| e.to_string());
            let reference = Reference::parse(&key).map_err(|e| e.message);
            match tag.and_then(|tag| Ok((tag, reference?))) {
                Ok((tag, reference)) if state.images.contains_key(&tag.image) => {
                    let named = NamedTag { reference, tag };
                    state.tags.insert(key, Arc::new(named));
                }
                Ok(_) => unusable.push((Table::Tag, key, "its image is missing".to_owned())),
                Err(reason) => unusable.push((Table::Tag, key, reason)),
            }
        }
        unusable
    }

    /// An image must have its documents. Layers that are not unpacked (any more) are when a container needs them.
    fn check_loaded(
        &self,
        key: &str,
        image: &mut Image,
        state: &State,
    ) -> std::result::Result<(), String> {
        if image.id() != key {
            return Err("key and content differ".to_owned());
        }
        for manifest in &mut image.manifests {
            for digest in [&manifest.descriptor.digest, &manifest.config.digest] {
                if !self.blobs.has(digest) {
                    return Err(format!("blob {digest} is missing"));
                }
            }
            for layer in &mut manifest.layers {
                let known = |name: &String| state.layers.contains_key(name);
                if !layer.folder.as_ref().is_some_and(known) {
                    layer.folder = None;
                    layer.unpacked_size = 0;
                    manifest.init = None;
                }
            }
            let present = |name: &String| self.init_path(name).is_dir();
            if !manifest.init.as_ref().is_some_and(present) {
                manifest.init = None;
            }
        }
        Ok(())
    }

    /// Gives an image a name; one that had it loses it. `events` are kept with the change.
    ///
    /// # Errors
    /// `NotFound` for an unknown image; when the database cannot be written.
    pub fn tag(&self, reference: &Reference, id: &str, events: Vec<NewEvent>) -> Result<()> {
        let _change = self.lock_change();
        let image = self
            .get(id)
            .ok_or_else(|| Error::not_found(format!("No such image: {id}")))?;
        let named = self.new_tag(reference, &image);
        let mut batch = Batch::new();
        put_tag(&mut batch, &named)?;
        for event in events {
            batch.event(event);
        }
        self.committer.commit(batch, Durability::Durable)?;
        self.write()
            .tags
            .insert(named.reference.canonical(), Arc::new(named));
        Ok(())
    }

    /// Takes a name away. `false`: there was none.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn untag(&self, reference: &Reference, events: Vec<NewEvent>) -> Result<bool> {
        let _change = self.lock_change();
        let key = reference.canonical();
        if !self.read().tags.contains_key(&key) {
            return Ok(false);
        }
        let mut batch = Batch::new();
        batch.delete(Table::Tag, &key);
        for event in events {
            batch.event(event);
        }
        self.committer.commit(batch, Durability::Durable)?;
        self.write().tags.remove(&key);
        Ok(true)
    }

    /// Removes an image with all its names, then what only it used. Docker's rules for when that is allowed are the
    /// engine's; an image under a [`Lease`] is refused here.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while it is leased; when the database cannot be written.
    pub fn remove(&self, id: &str, events: Vec<NewEvent>) -> Result<()> {
        self.remove_if(id, false, events).map(drop)
    }

    /// [`Self::remove`] for an image without a name. `false`: it has one (again), and stays.
    ///
    /// # Errors
    /// As [`Self::remove`].
    pub fn remove_nameless(&self, id: &str, events: Vec<NewEvent>) -> Result<bool> {
        self.remove_if(id, true, events)
    }

    fn remove_if(&self, id: &str, nameless: bool, events: Vec<NewEvent>) -> Result<bool> {
        let change = self.lock_change();
        let mut batch = Batch::new();
        let (image, tags) = {
            // A lease that is taken from here on finds no image.
            let mut state = self.write();
            if state.leases.contains_key(id) {
                return Err(Error::conflict(format!("image {id} is in use")));
            }
            if nameless && state.tags.values().any(|named| named.tag.image == id) {
                return Ok(false);
            }
            let missing = || Error::not_found(format!("No such image: {id}"));
            let image = state.images.remove(id).ok_or_else(missing)?;
            let (gone, stay): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut state.tags)
                .into_iter()
                .partition(|(_, named)| named.tag.image == id);
            state.tags = stay;
            state.configs.clear();
            (image, gone)
        };
        batch.delete(Table::Image, id);
        for key in tags.keys() {
            batch.delete(Table::Tag, key);
        }
        for event in events {
            batch.event(event);
        }
        if let Err(error) = self.committer.commit(batch, Durability::Durable) {
            let mut state = self.write();
            state.images.insert(id.to_owned(), image);
            state.tags.extend(tags);
            return Err(error);
        }
        drop(change);
        self.collect_garbage().map(|_| true)
    }

    fn new_tag(&self, reference: &Reference, image: &Image) -> NamedTag {
        NamedTag {
            reference: reference.clone(),
            tag: Tag {
                image: image.id().to_owned(),
                tagged_nano: Timestamp::now().0,
                descriptor: image.descriptor.clone(),
            },
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn layer_record(&self, name: &str) -> Option<LayerRecord> {
        self.read().layers.get(name).copied()
    }

    fn layer_path(&self, name: &str) -> PathBuf {
        self.root.join("layers").join(name)
    }

    fn init_path(&self, name: &str) -> PathBuf {
        self.root.join("init").join(name)
    }

    fn lock_change(&self) -> MutexGuard<'_, ()> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn put_tag(batch: &mut Batch, named: &NamedTag) -> Result<()> {
    let value = to_json(&named.tag)?;
    batch.put(Table::Tag, named.reference.canonical(), value);
    Ok(())
}

fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::system(format!("encode record: {e}")))
}
