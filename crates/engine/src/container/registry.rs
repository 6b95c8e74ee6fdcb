//! All containers by id and by name. The lock is held for look-ups and insertions only, never across I/O.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use longshore_model::{ContainerId, Error, Result};
use tokio::sync::{mpsc, watch};

use super::{actor::Command, gate::Gate, snapshot::Snapshot};

/// How to reach a container: its snapshot to read, its actor to ask.
pub(crate) struct Handle {
    pub id: ContainerId,
    pub commands: mpsc::Sender<Command>,
    pub view: watch::Receiver<Arc<Snapshot>>,
    /// Who may write into its layer.
    pub gate: Arc<Gate>,
}

impl Handle {
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.view.borrow().clone()
    }
}

#[derive(Default)]
pub(crate) struct Registry {
    maps: RwLock<Maps>,
}

#[derive(Default)]
struct Maps {
    by_id: BTreeMap<ContainerId, Arc<Handle>>,
    /// Names in use, reserved before anything else is made at create.
    names: HashMap<String, ContainerId>,
}

impl Registry {
    fn read(&self) -> RwLockReadGuard<'_, Maps> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, Maps> {
        self.maps.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Full id, then name (a slash in front is allowed), then unambiguous id prefix: Docker's order.
    pub(crate) fn find(&self, wanted: &str) -> Result<Arc<Handle>> {
        let missing = || Error::not_found(format!("No such container: {wanted}"));
        let maps = self.read();
        if let Some(handle) = ContainerId::parse(wanted).and_then(|id| maps.by_id.get(&id)) {
            return Ok(handle.clone());
        }
        let name = wanted.strip_prefix('/').unwrap_or(wanted);
        if let Some(handle) = maps.names.get(name).and_then(|id| maps.by_id.get(id)) {
            return Ok(handle.clone());
        }
        if wanted.is_empty() || !wanted.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(missing());
        }
        let mut matching = maps
            .by_id
            .values()
            .filter(|handle| handle.id.as_str().starts_with(wanted));
        match (matching.next(), matching.next()) {
            (Some(only), None) => Ok(only.clone()),
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "multiple IDs found with provided prefix: {wanted}"
            ))),
            (None, _) => Err(missing()),
        }
    }

    /// Reserves `name` for `id`.
    ///
    /// # Errors
    /// `Conflict. The container name ...` with the owner's id, as clients match it.
    pub(crate) fn reserve_name(&self, name: &str, id: &ContainerId) -> Result<()> {
        let mut maps = self.write();
        if let Some(owner) = maps.names.get(name) {
            return Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You have to \
                 remove (or rename) that container to be able to reuse that name."
            )));
        }
        maps.names.insert(name.to_owned(), id.clone());
        Ok(())
    }

    pub(crate) fn name_taken(&self, name: &str) -> bool {
        self.read().names.contains_key(name)
    }

    /// Gives a name back, if it is still this container's.
    pub(crate) fn release_name(&self, name: &str, id: &ContainerId) {
        let mut maps = self.write();
        if maps.names.get(name) == Some(id) {
            maps.names.remove(name);
        }
    }

    pub(crate) fn insert(&self, handle: Handle) {
        self.write()
            .by_id
            .insert(handle.id.clone(), Arc::new(handle));
    }

    pub(crate) fn remove(&self, id: &ContainerId, name: &str) {
        let mut maps = self.write();
        maps.by_id.remove(id);
        if maps.names.get(name) == Some(id) {
            maps.names.remove(name);
        }
    }

    pub(crate) fn handles(&self) -> Vec<Arc<Handle>> {
        self.read().by_id.values().cloned().collect()
    }

    /// All snapshots, newest first.
    pub(crate) fn snapshots(&self) -> Vec<Arc<Snapshot>> {
        let mut all: Vec<_> = self
            .handles()
            .iter()
            .map(|handle| handle.snapshot())
            .collect();
        all.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        all
    }
}
