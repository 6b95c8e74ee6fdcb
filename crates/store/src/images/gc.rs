//! What keeps content alive: images, leases of containers, pins of work under way. The rest goes.

use std::{collections::HashSet, sync::Arc};

use longshore_model::{Error, Result};

use super::{Images, State, record::Image};
use crate::{
    records::{Batch, Durability, Table},
    store::Store,
};

/// Keeps an image from being removed, from before a container's record is written to after it is gone.
pub struct Lease {
    store: Store,
    image: Arc<Image>,
}

impl Lease {
    /// Takes a lease on an image. `None`: there is no such image (any more).
    pub fn take(store: &Store, id: &str) -> Option<Self> {
        let mut state = store.images().write();
        let image = state.images.get(id)?.clone();
        *state.leases.entry(id.to_owned()).or_default() += 1;
        drop(state);
        Some(Self {
            store: store.clone(),
            image,
        })
    }

    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.store.images().write();
        let id = self.image.id();
        if let Some(count) = state.leases.get_mut(id) {
            *count -= 1;
            if *count == 0 {
                state.leases.remove(id);
            }
        }
    }
}

impl State {
    fn unpin(&mut self, names: &[String]) {
        for name in names {
            if let Some(count) = self.pins.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.pins.remove(name);
                }
            }
        }
    }
}

/// Keeps blobs and layer folders that no record names yet.
pub(super) struct Pins<'a> {
    images: &'a Images,
    names: Vec<String>,
}

impl<'a> Pins<'a> {
    pub fn new(images: &'a Images) -> Self {
        Self {
            images,
            names: Vec::new(),
        }
    }

    /// A digest, or the name of a layer's folder.
    pub fn add(&mut self, name: &str) {
        let mut state = self.images.write();
        *state.pins.entry(name.to_owned()).or_default() += 1;
        self.names.push(name.to_owned());
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        self.images.write().unpin(&self.names);
    }
}

impl Images {
    /// Takes blobs and layers away that nothing uses. Returns the paths.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn collect_garbage(&self) -> Result<Vec<String>> {
        let _change = self.lock_change();
        let mut removed = Vec::new();
        let mut batch = Batch::new();
        // With `state` held for writing nobody can pin or lease between the look and the rename. Only renames happen here.
        let mut state = self.write();
        let used = Used::of(&state);
        let unused: Vec<String> = state
            .layers
            .keys()
            .filter(|name| !used.layers.contains(*name))
            .cloned()
            .collect();
        for name in &unused {
            state.layers.remove(name);
            batch.delete(Table::Layer, name);
        }
        for (folder, keep) in [
            (self.blobs.folder().to_owned(), &used.blobs),
            (self.root.join("layers"), &used.layers),
        ] {
            let entries = std::fs::read_dir(&folder)
                .map_err(|e| Error::io(format_args!("open {}", folder.display()), e))?;
            for entry in entries.flatten() {
                let name = entry.file_name();
                if name.to_str().is_some_and(|name| keep.contains(name)) {
                    continue;
                }
                // One that cannot be moved is tried again next time.
                if self.trash.take(&entry.path()).is_ok_and(|was| was) {
                    removed.push(entry.path().display().to_string());
                }
            }
        }
        drop(state);
        if !batch.is_empty() {
            // A crash before this leaves records of layers whose folder is missing: they are dropped at start-up.
            self.committer.commit(batch, Durability::Survives)?;
        }
        Ok(removed)
    }
}

impl Images {
    /// Takes away the folders of mount points that no image uses. Only for the start, and only when there are no
    /// containers: one may still run on a folder whose image is gone.
    pub(crate) fn clear_inits(&self) -> Vec<String> {
        let used: HashSet<String> = self
            .list()
            .iter()
            .flat_map(|image| &image.manifests)
            .filter_map(|manifest| manifest.init.clone())
            .collect();
        let Ok(entries) = std::fs::read_dir(self.root.join("init")) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter(|entry| !used.contains(entry.file_name().to_string_lossy().as_ref()))
            .filter(|entry| self.trash.take(&entry.path()).is_ok())
            .map(|entry| entry.path().display().to_string())
            .collect()
    }
}

/// Names of blob files and layer folders in use.
struct Used {
    blobs: HashSet<String>,
    layers: HashSet<String>,
}

impl Used {
    fn of(state: &State) -> Self {
        let mut used = Self {
            blobs: HashSet::new(),
            layers: HashSet::new(),
        };
        for image in state.images.values() {
            for digest in image.blobs.keys() {
                used.blobs.insert(hex(digest));
            }
            for layer in image.manifests.iter().flat_map(|m| &m.layers) {
                used.layers.extend(layer.folder.clone());
            }
        }
        for pin in state.pins.keys() {
            match pin.strip_prefix("sha256:") {
                Some(hex) => drop(used.blobs.insert(hex.to_owned())),
                None => drop(used.layers.insert(pin.clone())),
            }
        }
        used
    }
}

fn hex(digest: &str) -> String {
    digest.trim_start_matches("sha256:").to_owned()
}

/// Keeps blobs while somebody reads them, whoever removes their images meanwhile.
pub struct Held {
    store: Store,
    digests: Vec<String>,
}

impl Held {
    /// Holds an image's blobs. `None`: there is no such image (any more).
    pub fn take(store: &Store, id: &str) -> Option<Self> {
        let mut state = store.images().write();
        let digests: Vec<String> = state.images.get(id)?.blobs.keys().cloned().collect();
        for digest in &digests {
            *state.pins.entry(digest.clone()).or_default() += 1;
        }
        drop(state);
        Some(Self {
            store: store.clone(),
            digests,
        })
    }

    /// Holds blobs that need not be there yet.
    pub fn blobs(store: &Store, digests: Vec<String>) -> Self {
        let mut state = store.images().write();
        for digest in &digests {
            *state.pins.entry(digest.clone()).or_default() += 1;
        }
        drop(state);
        Self {
            store: store.clone(),
            digests,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let images = self.store.images();
        let mut state = images.write();
        state.unpin(&self.digests);
        let used = Used::of(&state);
        let orphans = self.digests.iter().any(|d| !used.blobs.contains(&hex(d)));
        drop(state);
        if orphans {
            // What cannot go now goes with the next collection.
            let _ = images.collect_garbage();
        }
    }
}
