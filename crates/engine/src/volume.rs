//! Volumes of the local driver.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use longshore_model::{Error, Result, Timestamp, id::random_hex};
use longshore_store::{Batch, Durability, Store, Table, VolumeMount};
use serde::{Deserialize, Serialize};

use crate::{
    Engine,
    api::{Filters, PruneReport, VolumeCreate, VolumeDetail},
    filter, names,
};

/// Label that marks a volume without a name of the user's (dockerd's own mark).
const ANONYMOUS: &str = "com.docker.volume.anonymous";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    name: String,
    created: Timestamp,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    options: BTreeMap<String, String>,
}

/// All volumes by name. The lock is held for look-ups and changes of the map.
#[derive(Default)]
pub(crate) struct Volumes {
    all: Mutex<BTreeMap<String, VolumeRecord>>,
}

impl Volumes {
    pub(crate) fn open(store: &Store) -> Result<Self> {
        let volumes = Self::default();
        for (key, bytes) in store.records(Table::Volume)? {
            match serde_json::from_slice::<VolumeRecord>(&bytes) {
                Ok(record) => {
                    volumes.lock().insert(record.name.clone(), record);
                }
                Err(error) => store.quarantine(Table::Volume, &key, &error.to_string())?,
            }
        }
        Ok(volumes)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, VolumeRecord>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The volume, made (directory now, record and event in `batch`) when it is not there. No name: a new anonymous one.
    ///
    /// # Errors
    /// A bad name, another driver than `local`, options that are not supported.
    pub(crate) fn get_or_make(
        &self,
        store: &Store,
        request: VolumeCreate,
        batch: &mut Batch,
    ) -> Result<VolumeDetail> {
        let VolumeCreate {
            mut name,
            driver,
            mut labels,
            options,
        } = request;
        if !driver.is_empty() && driver != "local" {
            return Err(Error::not_found(format!(
                "create {name}: error looking up volume plugin {driver}: plugin \"{driver}\" not found"
            )));
        }
        if name.is_empty() {
            name = random_hex();
            labels.insert(ANONYMOUS.to_owned(), String::new());
        } else if name.len() == 1 {
            return Err(Error::invalid(format!(
                "create {name}: volume name is too short, names should be at least two alphanumeric characters"
            )));
        } else if !names::valid(&name) {
            return Err(Error::invalid(format!(
                "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
                 \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
            )));
        }
        let known = self.lock().get(&name).cloned();
        if let Some(record) = known {
            return Ok(detail(store, &record));
        }
        check_options(&name, &options)?;
        store.volumes().create(&name)?;
        let record = VolumeRecord {
            name: name.clone(),
            created: Timestamp::now(),
            labels,
            options,
        };
        let bytes = serde_json::to_vec(&record).map_err(|e| Error::system(e.to_string()))?;
        batch.put(Table::Volume, name.clone(), bytes);
        batch.event(volume_event("create", &name, BTreeMap::new()));
        let made = detail(store, &record);
        self.lock().insert(name, record);
        Ok(made)
    }

    /// Takes a volume out, its record with `batch`. Its directory goes when that is committed: [`Self::removed`].
    pub(crate) fn remove_from(&self, name: &str, batch: &mut Batch) -> Option<VolumeRecord> {
        let record = self.lock().remove(name)?;
        batch.delete(Table::Volume, name);
        batch.event(volume_event("destroy", name, BTreeMap::new()));
        Some(record)
    }

    /// After the commit: directory to the trash; or back, when it was refused.
    pub(crate) fn removed(&self, store: &Store, record: VolumeRecord, committed: bool) {
        if !committed {
            self.lock().insert(record.name.clone(), record);
            return;
        }
        // Never the content of what is mounted there, should somebody have mounted something.
        let volumes = store.volumes();
        let gone = volumes
            .unmount(&record.name)
            .and_then(|()| volumes.remove(&record.name));
        if let Err(error) = gone {
            tracing::error!(volume = record.name, "not removed: {error}");
        }
    }

    /// Start-up: records and directories made to agree. A directory without record is of a volume half made (empty: it
    /// goes) or half removed (it is a volume again, nobody has been told otherwise).
    pub(crate) fn sweep(&self, store: &Store) -> Result<()> {
        let mut missing: Vec<String> = self.lock().keys().cloned().collect();
        let mut batch = Batch::new();
        for name in store.volumes().known_on_disk()? {
            if let Some(at) = missing.iter().position(|known| *known == name) {
                missing.swap_remove(at);
                continue;
            }
            if store.volumes().remove_empty(&name) {
                continue;
            }
            let anonymous = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
            let label = anonymous.then(|| (ANONYMOUS.to_owned(), String::new()));
            let record = VolumeRecord {
                name: name.clone(),
                created: Timestamp::now(),
                labels: label.into_iter().collect(),
                options: BTreeMap::new(),
            };
            let bytes = serde_json::to_vec(&record).map_err(|e| Error::system(e.to_string()))?;
            tracing::warn!(volume = name, "had no record any more");
            batch.put(Table::Volume, name.clone(), bytes);
            self.lock().insert(name, record);
        }
        for name in missing {
            tracing::warn!(volume = name, "had no directory any more");
            store.volumes().create(&name)?;
        }
        if !batch.is_empty() {
            store.commit(batch, Durability::Durable)?;
        }
        Ok(())
    }

    /// What has to be mounted for this volume while somebody uses it.
    pub(crate) fn mount_of(&self, name: &str) -> Option<VolumeMount> {
        let all = self.lock();
        let options = &all.get(name)?.options;
        let option = |key: &str| options.get(key).cloned().unwrap_or_default();
        let mount = VolumeMount {
            device: option("device"),
            kind: option("type"),
            options: option("o"),
        };
        (!mount.device.is_empty() || !mount.kind.is_empty()).then_some(mount)
    }

    /// Names of the volumes that are mounted while they are used.
    pub(crate) fn mountable(&self) -> Vec<String> {
        let names: Vec<String> = self.lock().keys().cloned().collect();
        let wanted = |name: &String| self.mount_of(name).is_some();
        names.into_iter().filter(wanted).collect()
    }

    fn get(&self, name: &str) -> Result<VolumeRecord> {
        let found = self.lock().get(name).cloned();
        found.ok_or_else(|| Error::not_found(format!("get {name}: no such volume")))
    }

    fn records(&self) -> Vec<VolumeRecord> {
        self.lock().values().cloned().collect()
    }
}

/// The local driver's rules for its options.
fn check_options(name: &str, options: &BTreeMap<String, String>) -> Result<()> {
    const KNOWN: [&str; 4] = ["type", "o", "device", "size"];
    const NEEDS: [(&str, &[&str]); 3] = [
        ("device", &["type"]),
        ("type", &["device"]),
        ("o", &["device", "type"]),
    ];
    let refuse = |reason: String| Err(Error::invalid(format!("create {name}: {reason}")));
    if let Some(unknown) = options.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        return refuse(format!("invalid option: \"{unknown}\""));
    }
    if let Some(size) = options.get("size")
        && size != "0"
    {
        // A quota of the file system below; dockerd refuses likewise where it has none.
        return refuse("quota size requested but no quota support".to_owned());
    }
    for (option, needed) in NEEDS {
        let missing = needed.iter().find(|key| !options.contains_key(**key));
        if let Some(missing) = missing.filter(|_| options.contains_key(option)) {
            return refuse(format!("missing required option: \"{missing}\""));
        }
    }
    Ok(())
}

fn volume_event(
    action: &str,
    name: &str,
    mut attributes: BTreeMap<String, String>,
) -> longshore_store::NewEvent {
    attributes.insert("driver".to_owned(), "local".to_owned());
    crate::events::event("volume", action, name, attributes)
}

fn detail(store: &Store, record: &VolumeRecord) -> VolumeDetail {
    VolumeDetail {
        name: record.name.clone(),
        driver: "local".to_owned(),
        mountpoint: store
            .volumes()
            .path(&record.name)
            .to_string_lossy()
            .into_owned(),
        created: record.created,
        labels: record.labels.clone(),
        options: record.options.clone(),
        anonymous: record.labels.contains_key(ANONYMOUS),
        ref_count: -1,
        size: -1,
    }
}

impl Engine {
    /// Ids of the containers that use a volume, running or not.
    fn volume_users(&self, name: &str) -> Vec<String> {
        let uses = |s: &crate::api::Snapshot| {
            s.mounts
                .iter()
                .any(|m| m.kind == "volume" && m.name == name)
        };
        self.containers()
            .iter()
            .filter(|s| uses(s))
            .map(|s| s.id.to_string())
            .collect()
    }

    /// # Errors
    /// Filter values that are not valid.
    pub async fn list_volumes(&self, filters: &Filters) -> Result<Vec<VolumeDetail>> {
        let dangling = filter::boolean(filters, "dangling")?;
        let any = |name: &str, test: &dyn Fn(&str) -> bool| {
            filters
                .get(name)
                .is_none_or(|values| values.is_empty() || values.iter().any(|v| test(v)))
        };
        let wanted = |record: &VolumeRecord| {
            any("name", &|v| record.name.contains(v))
                && any("driver", &|v| v == "local")
                && filter::labels(&record.labels, filters)
                && dangling.is_none_or(|want| want == self.volume_users(&record.name).is_empty())
        };
        let store = &self.inner.store;
        Ok(self
            .inner
            .volumes
            .records()
            .iter()
            .filter(|r| wanted(r))
            .map(|r| detail(store, r))
            .collect())
    }

    /// # Errors
    /// `get X: no such volume` (404).
    pub async fn volume(&self, name: &str) -> Result<VolumeDetail> {
        self.inner
            .volumes
            .get(name)
            .map(|record| detail(&self.inner.store, &record))
    }

    /// Makes a volume; one of that name is answered as it is.
    ///
    /// # Errors
    /// A bad name, an unknown driver, unsupported options.
    pub async fn create_volume(&self, request: VolumeCreate) -> Result<VolumeDetail> {
        let inner = self.inner.clone();
        let (made, batch) = crate::blocking(move || {
            let mut batch = Batch::new();
            let made = inner
                .volumes
                .get_or_make(&inner.store, request, &mut batch)?;
            Ok((made, batch))
        })
        .await?;
        if !batch.is_empty() {
            self.inner.commit(batch, Durability::Durable, || {}).await?;
        }
        Ok(made)
    }

    /// # Errors
    /// 404 (not with force); 409 `volume is in use`.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        match self.inner.volumes.get(name) {
            Err(_) if force => return Ok(()),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        let users = self.volume_users(name);
        if !users.is_empty() {
            return Err(Error::conflict(format!(
                "remove {name}: volume is in use - [{}]",
                users.join(", ")
            )));
        }
        self.drop_volume(name.to_owned()).await
    }

    async fn drop_volume(&self, name: String) -> Result<()> {
        let mut batch = Batch::new();
        let Some(record) = self.inner.volumes.remove_from(&name, &mut batch) else {
            return Ok(());
        };
        let committed = self.inner.commit(batch, Durability::Durable, || {}).await;
        let (inner, kept) = (self.inner.clone(), committed.is_ok());
        let tidy = move || {
            inner.volumes.removed(&inner.store, record, kept);
            Ok(())
        };
        crate::blocking(tidy).await?;
        committed
    }

    /// Removes volumes that no container uses: anonymous ones, or all with the filter `all`.
    ///
    /// # Errors
    /// Filter values that are not valid.
    pub async fn prune_volumes(&self, filters: &Filters) -> Result<PruneReport> {
        let all = filter::boolean(filters, "all")?.unwrap_or(false);
        let mut report = PruneReport {
            deleted: Vec::new(),
            space_reclaimed: 0,
        };
        for record in self.inner.volumes.records() {
            let eligible = all || record.labels.contains_key(ANONYMOUS);
            if !eligible
                || !filter::labels(&record.labels, filters)
                || !self.volume_users(&record.name).is_empty()
            {
                continue;
            }
            let (store, name) = (self.inner.store.clone(), record.name.clone());
            let size = crate::blocking(move || store.volumes().size(&name))
                .await
                .unwrap_or(0);
            self.drop_volume(record.name.clone()).await?;
            report.deleted.push(record.name);
            report.space_reclaimed += size;
        }
        let mut batch = Batch::new();
        let space = BTreeMap::from([("reclaimed".to_owned(), report.space_reclaimed.to_string())]);
        batch.event(crate::events::event("volume", "prune", "", space));
        self.inner
            .commit(batch, Durability::Survives, || {})
            .await?;
        Ok(report)
    }

    /// Volumes with sizes and users, for `system/df`.
    pub(crate) async fn volumes_with_usage(&self) -> Result<Vec<VolumeDetail>> {
        let mut all = self.list_volumes(&Filters::new()).await?;
        for volume in &mut all {
            volume.ref_count =
                i64::try_from(self.volume_users(&volume.name).len()).unwrap_or(i64::MAX);
            let (store, name) = (self.inner.store.clone(), volume.name.clone());
            let size = crate::blocking(move || store.volumes().size(&name)).await;
            volume.size = size.ok().and_then(|s| i64::try_from(s).ok()).unwrap_or(-1);
        }
        Ok(all)
    }
}
