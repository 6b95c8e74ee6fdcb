//! Volumes that have to be mounted (tmpfs, nfs, binds): mounted for the first container that runs with them, unmounted
//! after the last.
//!
//! Who uses a volume is a set of containers, not a count: taking it twice or giving it back twice changes nothing, and after
//! the daemon's death the set is what the adopted containers say. A mount can take as long as its server takes, so no lock
//! is held meanwhile; others who want the same volume wait for it, nobody else does.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use longshore_model::{ContainerId, Error, Result};
use longshore_store::{Store, VolumeMount};

use crate::{Inner, volume::Volumes};

#[derive(Default)]
struct Use {
    users: BTreeSet<ContainerId>,
    mounted: bool,
    /// Somebody is mounting or unmounting it.
    busy: bool,
}

/// The volumes in use, by name. Blocking.
#[derive(Default)]
pub(crate) struct VolumeUses {
    all: Mutex<HashMap<String, Use>>,
    idle: Condvar,
}

type Guard<'a> = MutexGuard<'a, HashMap<String, Use>>;

impl VolumeUses {
    /// The map, when nobody is at work on this volume.
    fn quiet(&self, name: &str) -> Guard<'_> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        self.idle
            .wait_while(all, |all| all.get(name).is_some_and(|u| u.busy))
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the work that [`Self::quiet`] and `busy` began.
    fn finish(&self, name: &str, change: impl FnOnce(&mut Use)) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = all.get_mut(name) {
            entry.busy = false;
            change(entry);
            if entry.users.is_empty() && !entry.mounted {
                all.remove(name);
            }
        }
        self.idle.notify_all();
    }

    /// `user` runs with the volume from now on; mounts it when it is not. Volumes without options need nothing.
    ///
    /// # Errors
    /// What mounting gives, in dockerd's words.
    pub(crate) fn acquire(
        &self,
        store: &Store,
        volumes: &Volumes,
        name: &str,
        user: &ContainerId,
        resolve: &dyn Fn(&str) -> Result<IpAddr>,
    ) -> Result<()> {
        let Some(mut what) = volumes.mount_of(name) else {
            return Ok(());
        };
        let mut all = self.quiet(name);
        let entry = all.entry(name.to_owned()).or_default();
        if entry.mounted {
            entry.users.insert(user.clone());
            return Ok(());
        }
        entry.busy = true;
        drop(all);
        let result = store
            .volumes()
            .create(name)
            .and_then(|_| store.volumes().unmount(name))
            .and_then(|()| with_addresses(&mut what, resolve))
            .and_then(|()| store.volumes().mount(name, &what));
        self.finish(name, |entry| {
            if result.is_ok() {
                entry.mounted = true;
                entry.users.insert(user.clone());
            }
        });
        result.map_err(|error| {
            let path = store.volumes().path(name);
            let text = format!("error while mounting volume '{}'", path.display());
            Error::new(error.kind, format!("{text}: {}", error.message))
        })
    }

    /// `user` does not run with the volume any more; unmounts it when nobody does.
    pub(crate) fn release(&self, store: &Store, name: &str, user: &ContainerId) {
        let mut all = self.quiet(name);
        let Some(entry) = all.get_mut(name) else {
            return;
        };
        entry.users.remove(user);
        if !entry.users.is_empty() || !entry.mounted {
            return;
        }
        entry.busy = true;
        drop(all);
        let result = store.volumes().unmount(name);
        if let Err(error) = &result {
            tracing::error!(volume = name, "not unmounted: {error}");
        }
        self.finish(name, |entry| entry.mounted = result.is_err());
    }

    /// At the start of the daemon: a container that runs uses the volume, as it did before.
    pub(crate) fn adopt(&self, store: &Store, volumes: &Volumes, name: &str, user: &ContainerId) {
        if volumes.mount_of(name).is_none() {
            return;
        }
        let mounted = store.volumes().is_mounted(name);
        let mut all = self.quiet(name);
        let entry = all.entry(name.to_owned()).or_default();
        entry.users.insert(user.clone());
        entry.mounted |= mounted;
    }

    /// After all were adopted: what nobody uses was left by a daemon that died.
    pub(crate) fn sweep(&self, store: &Store, volumes: &Volumes) {
        for name in volumes.mountable() {
            let used = self.quiet(&name).contains_key(&name);
            if !used
                && store.volumes().is_mounted(&name)
                && let Err(error) = store.volumes().unmount(&name)
            {
                tracing::error!(volume = name, "not unmounted: {error}");
            }
        }
    }
}

/// The kernel's network file systems want addresses: names in `addr=` and, for cifs, in `//host/share` are looked up.
fn with_addresses(what: &mut VolumeMount, resolve: &dyn Fn(&str) -> Result<IpAddr>) -> Result<()> {
    if !matches!(what.kind.as_str(), "nfs" | "nfs4" | "cifs") {
        return Ok(());
    }
    let named = |text: &str| !text.is_empty() && text.parse::<IpAddr>().is_err();
    let given = what
        .options
        .split(',')
        .find_map(|word| word.strip_prefix("addr="));
    if let Some(host) = given.map(str::to_owned) {
        if named(&host) {
            let (from, to) = (format!("addr={host}"), format!("addr={}", resolve(&host)?));
            what.options = what.options.replacen(&from, &to, 1);
        }
        return Ok(());
    }
    let host = what
        .device
        .strip_prefix("//")
        .and_then(|rest| rest.split('/').next());
    if what.kind == "cifs"
        && let Some(host) = host.filter(|host| named(host)).map(str::to_owned)
    {
        what.device = what.device.replacen(&host, &resolve(&host)?.to_string(), 1);
    }
    Ok(())
}

impl Inner {
    /// The volumes among a container's mounts that are mounted while they are used; none for most containers.
    pub(crate) fn mounted_volumes<'a>(
        &self,
        mounts: impl Iterator<Item = &'a crate::api::MountPoint>,
    ) -> Vec<String> {
        let names: BTreeSet<&String> = mounts
            .filter(|point| point.kind == "volume")
            .map(|point| &point.name)
            .collect();
        let wanted = |name: &&String| self.volumes.mount_of(name).is_some();
        names.into_iter().filter(wanted).cloned().collect()
    }

    /// Takes them all, or none.
    pub(crate) fn acquire_volumes(&self, names: &[String], user: &ContainerId) -> Result<()> {
        // Blocking code on a thread of its own: it may wait for the runtime.
        let resolve = |host: &str| {
            let found = self.runtime.block_on(longshore_registry::lookup(host));
            let found = found.and_then(|all| all.into_iter().next().ok_or_else(String::new));
            found.map_err(|reason| {
                Error::system(format!(
                    "error resolving passed in network volume address: {reason}"
                ))
            })
        };
        for (at, name) in names.iter().enumerate() {
            let taken = self
                .volume_uses
                .acquire(&self.store, &self.volumes, name, user, &resolve);
            if let Err(error) = taken {
                self.release_volumes(&names[..at], user);
                return Err(error);
            }
        }
        Ok(())
    }

    pub(crate) fn release_volumes(&self, names: &[String], user: &ContainerId) {
        for name in names {
            self.volume_uses.release(&self.store, name, user);
        }
    }
}
