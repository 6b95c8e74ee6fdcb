//! Networks: the predefined `bridge`, `host` and `none`, and those that users make.
//!
//! A network is a record and, for the bridge driver, a link of the host. The record comes first: one that says `making`
//! belongs to a create that was never answered and is undone at the next start; a link that no record knows is removed there.

mod attach;
mod create;
mod options;
mod ports;
mod remove;
mod view;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
};

use longshore_model::{Error, Result, Timestamp, id::random_hex};
use longshore_network::{self as mechanism, Bridge, BridgeSpec, PoolPlan, Subnet};
use longshore_store::{Batch, Durability, NewEvent, Store, Table};
use serde::{Deserialize, Serialize};

use crate::{
    Inner,
    api::{IpamPool, NetworkMode},
};

pub(crate) use attach::Attachment;
pub(crate) use options::BridgeOptions;
pub(crate) use ports::{from_mechanism, to_mechanism, wanted_ports};

/// Names that Docker keeps for itself, and their drivers.
const PREDEFINED: &[(&str, &str)] = &[("bridge", "bridge"), ("host", "host"), ("none", "null")];

pub(crate) fn predefined(name: &str) -> bool {
    PREDEFINED.iter().any(|(known, _)| *known == name)
}

/// What is stored of a network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    pub id: String,
    pub name: String,
    pub driver: String,
    pub created: Timestamp,
    /// None for the predefined ones.
    #[serde(default)]
    pub user: Option<UserNetwork>,
}

/// What is stored of a network that a user made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct UserNetwork {
    /// Its create has not been answered.
    pub making: bool,
    /// Name of the bridge; for other drivers a name that no link has.
    pub link: String,
    pub internal: bool,
    pub attachable: bool,
    pub enable_ipv4: bool,
    pub enable_ipv6: bool,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub ipam_driver: String,
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// As inspect shows it.
    pub ipam: Vec<IpamPool>,
    /// As the mechanism decided.
    pub plans: Vec<PoolPlan>,
    /// Subnets that the user asked for: only in these may containers ask for an address.
    pub configured: Vec<Subnet>,
}

impl NetworkRecord {
    /// An event about this network alone.
    pub(crate) fn event(&self, action: &str) -> NewEvent {
        let attributes = BTreeMap::from([
            ("name".to_owned(), self.name.clone()),
            ("type".to_owned(), self.driver.clone()),
        ]);
        crate::events::event("network", action, &self.id, attributes)
    }

    fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::system(e.to_string()))
    }
}

/// All networks, in the order in which they were made. The lock is held for look-ups and insertions only.
#[derive(Default)]
pub(crate) struct Networks {
    shared: RwLock<Shared>,
}

#[derive(Default)]
struct Shared {
    all: Vec<Arc<NetworkRecord>>,
    /// Names of networks that are being made.
    reserved: HashSet<String>,
    /// Names of their links.
    links: HashSet<String>,
}

impl Networks {
    /// Reads the records; makes those of the predefined networks at the first start, so that their ids stay the same for
    /// good.
    pub(crate) fn open(store: &Store) -> Result<Self> {
        let mut found: Vec<NetworkRecord> = Vec::new();
        for (key, bytes) in store.records(Table::Network)? {
            match serde_json::from_slice(&bytes) {
                Ok(record) => found.push(record),
                Err(error) => store.quarantine(Table::Network, &key, &error.to_string())?,
            }
        }
        let mut batch = Batch::new();
        for (name, driver) in PREDEFINED {
            if found.iter().any(|network| network.name == *name) {
                continue;
            }
            let record = NetworkRecord {
                id: random_hex(),
                name: (*name).to_owned(),
                driver: (*driver).to_owned(),
                created: Timestamp::now(),
                user: None,
            };
            batch.put(Table::Network, record.id.clone(), record.encode()?);
            found.push(record);
        }
        // A create that the daemon's death cut off: its client never got an answer.
        found.retain(|record| {
            let whole = record.user.as_ref().is_none_or(|user| !user.making);
            if !whole {
                batch.delete(Table::Network, record.id.clone());
            }
            whole
        });
        if !batch.is_empty() {
            store.commit(batch, Durability::Durable)?;
        }
        found.sort_by_key(|record| record.created);
        let networks = Self::default();
        networks.write().all = found.into_iter().map(Arc::new).collect();
        Ok(networks)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Shared> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Shared> {
        self.shared.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn all(&self) -> Vec<Arc<NetworkRecord>> {
        self.read().all.clone()
    }

    pub(crate) fn named(&self, name: &str) -> Option<Arc<NetworkRecord>> {
        self.read().all.iter().find(|n| n.name == name).cloned()
    }

    /// By id, name or unambiguous id prefix.
    ///
    /// # Errors
    /// `network X not found` (404).
    pub(crate) fn find(&self, wanted: &str) -> Result<Arc<NetworkRecord>> {
        let missing = || Error::not_found(format!("network {wanted} not found"));
        let shared = self.read();
        let by = |test: &dyn Fn(&NetworkRecord) -> bool| shared.all.iter().find(|n| test(n));
        if let Some(exact) = by(&|n| n.id == wanted).or_else(|| by(&|n| n.name == wanted)) {
            return Ok(exact.clone());
        }
        let mut matching = shared
            .all
            .iter()
            .filter(|n| !wanted.is_empty() && n.id.starts_with(wanted));
        match (matching.next(), matching.next()) {
            (Some(only), None) => Ok(only.clone()),
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "network {wanted} is ambiguous ({} matches found based on ID prefix)",
                2 + matching.count()
            ))),
            (None, _) => Err(missing()),
        }
    }

    /// Keeps a name for a network that is being made.
    ///
    /// # Errors
    /// 409
    fn reserve(&self, name: &str) -> Result<()> {
        let mut shared = self.write();
        let taken = shared.all.iter().any(|network| network.name == name);
        if taken || !shared.reserved.insert(name.to_owned()) {
            return Err(Error::conflict(format!(
                "network with name {name} already exists"
            )));
        }
        Ok(())
    }

    /// Keeps a link's name for a network that is being made; else the network that has it (None: one that is being made,
    /// too).
    fn reserve_link(&self, link: &str) -> std::result::Result<(), Option<Arc<NetworkRecord>>> {
        let mut shared = self.write();
        let other = shared
            .all
            .iter()
            .find(|other| other.user.as_ref().is_some_and(|user| user.link == link));
        if let Some(other) = other {
            return Err(Some(other.clone()));
        }
        if shared.links.insert(link.to_owned()) {
            Ok(())
        } else {
            Err(None)
        }
    }

    fn release_link(&self, link: &str) {
        self.write().links.remove(link);
    }

    fn release(&self, name: &str) {
        self.write().reserved.remove(name);
    }

    fn insert(&self, record: NetworkRecord) {
        let mut shared = self.write();
        shared.reserved.remove(&record.name);
        shared.all.push(Arc::new(record));
    }

    fn remove(&self, id: &str) {
        self.write().all.retain(|network| network.id != id);
    }
}

/// The default bridge's link, made when it is not there.
pub(crate) fn bridge(
    manager: &mechanism::Manager,
    config: &longshore_model::config::BridgeConfig,
) -> Result<Option<Bridge>> {
    if config.name == "none" {
        return Ok(None);
    }
    let address = match config.bip {
        Some((std::net::IpAddr::V4(address), prefix)) => Some((address, prefix)),
        Some((std::net::IpAddr::V6(_), _)) => {
            return Err(Error::invalid("--bip must be an IPv4 address"));
        }
        None => None,
    };
    let spec = BridgeSpec {
        name: config.name.clone(),
        address,
        mtu: config.mtu,
        masquerade: config.ip_masquerade,
        icc: config.icc,
        ..BridgeSpec::default()
    };
    manager.ensure_bridge(&spec).map(Some)
}

/// Brings the links of all networks into the state that their records say, and removes those that no record knows. A
/// network whose link cannot be made keeps its record: its containers say why they cannot start.
pub(crate) fn restore(manager: &mechanism::Manager, networks: &Networks, sweep: bool) {
    for record in networks.all() {
        let Some(user) = &record.user else { continue };
        if let Err(error) = create::ensure(manager, &record, user) {
            tracing::error!(network = %record.name, "not restored: {error}");
        }
    }
    if sweep {
        manager.sweep_bridges();
    }
}

impl Inner {
    pub(crate) fn network_id(&self, name: &str) -> Option<String> {
        self.networks.named(name).map(|network| network.id.clone())
    }

    /// The network that `host` and `none` stand for; nothing for the other modes.
    pub(crate) fn special_network(&self, mode: &NetworkMode) -> Option<Arc<NetworkRecord>> {
        match mode {
            NetworkMode::Host => self.networks.named("host"),
            NetworkMode::None => self.networks.named("none"),
            NetworkMode::Bridge | NetworkMode::Container(_) | NetworkMode::Named(_) => None,
        }
    }

    /// What the mechanism calls a network; None for those without addresses.
    ///
    /// # Errors
    /// The default bridge is switched off.
    pub(crate) fn network_link(&self, record: &NetworkRecord) -> Result<Option<String>> {
        match (&record.user, record.name.as_str()) {
            (Some(user), _) => Ok(Some(user.link.clone())),
            (None, "bridge") => match &self.bridge {
                Some(bridge) => Ok(Some(bridge.name.clone())),
                None => Err(Error::invalid("network bridge is disabled (--bridge=none)")),
            },
            (None, _) => Ok(None),
        }
    }
}
