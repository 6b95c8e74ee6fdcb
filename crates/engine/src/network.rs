//! Networks as the engine knows them: the default `bridge`, `host` and `none`. User-defined networks come later.

use std::collections::BTreeMap;

use longshore_model::{Error, Result, Timestamp, id::random_hex, port::PublishedPort};
use longshore_network::{self as mechanism, Bridge, BridgeSpec, Protocol};
use longshore_store::{Batch, Durability, Store, Table};
use serde::{Deserialize, Serialize};

use crate::{
    Engine, Inner,
    api::{ContainerSpec, Filters, IpamPool, NetworkDetail, NetworkMember, NetworkMode},
    filter,
};

/// Names that Docker keeps for itself.
const PREDEFINED: &[(&str, &str)] = &[("bridge", "bridge"), ("host", "host"), ("none", "null")];

/// What is stored of a network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    pub id: String,
    pub name: String,
    pub driver: String,
    pub created: Timestamp,
}

/// Reads the predefined networks, makes their records at the first start: their ids stay the same for good.
pub(crate) fn open(store: &Store) -> Result<Vec<NetworkRecord>> {
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
        };
        let bytes = serde_json::to_vec(&record).map_err(|e| Error::system(e.to_string()))?;
        batch.put(Table::Network, record.id.clone(), bytes);
        found.push(record);
    }
    if !batch.is_empty() {
        store.commit(batch, Durability::Durable)?;
    }
    Ok(found)
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

/// The network a mode stands for in `NetworkSettings.Networks`; joined namespaces have none of their own.
pub(crate) fn network_name(mode: &NetworkMode) -> Option<String> {
    match mode {
        NetworkMode::Bridge => Some("bridge".to_owned()),
        NetworkMode::Host => Some("host".to_owned()),
        NetworkMode::None => Some("none".to_owned()),
        NetworkMode::Named(name) => Some(name.clone()),
        NetworkMode::Container(_) => None,
    }
}

/// What `-p` and `-P` ask of the mechanism.
pub(crate) fn wanted_ports(spec: &ContainerSpec) -> Vec<mechanism::PortBinding> {
    let mut wanted: Vec<mechanism::PortBinding> = spec
        .network
        .port_bindings
        .iter()
        .filter_map(|binding| {
            Some(mechanism::PortBinding {
                proto: Protocol::parse(&binding.protocol)?,
                container_port: binding.container_port,
                host_ip: binding.host_ip,
                host_port: binding.host_port,
                host_port_end: binding.host_port_end,
            })
        })
        .collect();
    if spec.network.publish_all {
        for port in &spec.exposed_ports {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            let (Ok(number), Some(proto)) = (number.parse::<u16>(), Protocol::parse(protocol))
            else {
                continue;
            };
            if !wanted
                .iter()
                .any(|w| w.container_port == number && w.proto == proto)
            {
                wanted.push(mechanism::PortBinding {
                    proto,
                    container_port: number,
                    host_ip: None,
                    host_port: 0,
                    host_port_end: 0,
                });
            }
        }
    }
    wanted
}

pub(crate) fn from_mechanism(ports: Vec<mechanism::PublishedPort>) -> Vec<PublishedPort> {
    ports
        .into_iter()
        .map(|port| PublishedPort {
            container_port: port.container_port,
            protocol: port.proto.as_str().to_owned(),
            host_ip: port.host_ip,
            host_port: port.host_port,
        })
        .collect()
}

pub(crate) fn to_mechanism(ports: &[PublishedPort]) -> Vec<mechanism::PublishedPort> {
    ports
        .iter()
        .filter_map(|port| {
            Some(mechanism::PublishedPort {
                proto: Protocol::parse(&port.protocol)?,
                container_port: port.container_port,
                host_ip: port.host_ip,
                host_port: port.host_port,
            })
        })
        .collect()
}

impl Inner {
    pub(crate) fn network_id(&self, name: &str) -> Option<String> {
        self.networks
            .iter()
            .find(|network| network.name == name)
            .map(|network| network.id.clone())
    }

    /// (id, name, driver) of the default bridge, for events.
    pub(crate) fn default_network(&self) -> Option<(String, String, String)> {
        self.named("bridge")
    }

    /// The same for `host` and `none`; nothing for the other modes.
    pub(crate) fn special_network(&self, mode: &NetworkMode) -> Option<(String, String, String)> {
        match mode {
            NetworkMode::Host => self.named("host"),
            NetworkMode::None => self.named("none"),
            NetworkMode::Bridge | NetworkMode::Container(_) | NetworkMode::Named(_) => None,
        }
    }

    fn named(&self, name: &str) -> Option<(String, String, String)> {
        let network = self.networks.iter().find(|network| network.name == name)?;
        Some((
            network.id.clone(),
            network.name.clone(),
            network.driver.clone(),
        ))
    }

    fn detail(&self, record: &NetworkRecord) -> NetworkDetail {
        let mut detail = NetworkDetail {
            id: record.id.clone(),
            name: record.name.clone(),
            created: record.created,
            driver: record.driver.clone(),
            enable_ipv4: true,
            ipam_driver: "default".to_owned(),
            containers: self.members(&record.name),
            ..NetworkDetail::default()
        };
        if let (Some(bridge), "bridge") = (&self.bridge, record.name.as_str()) {
            detail.ipam = vec![IpamPool {
                subnet: format!("{}/{}", bridge.subnet.address, bridge.subnet.prefix),
                gateway: bridge.gateway.to_string(),
                ..IpamPool::default()
            }];
            let config = &self.config.bridge;
            let prefix = "com.docker.network";
            detail.options = BTreeMap::from([
                (format!("{prefix}.bridge.default_bridge"), "true".to_owned()),
                (
                    format!("{prefix}.bridge.enable_icc"),
                    config.icc.to_string(),
                ),
                (
                    format!("{prefix}.bridge.enable_ip_masquerade"),
                    config.ip_masquerade.to_string(),
                ),
                (
                    format!("{prefix}.bridge.host_binding_ipv4"),
                    config
                        .default_ip
                        .map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string()),
                ),
                (format!("{prefix}.bridge.name"), bridge.name.clone()),
                (format!("{prefix}.driver.mtu"), bridge.mtu.to_string()),
            ]);
        }
        detail
    }

    fn members(&self, network: &str) -> BTreeMap<String, NetworkMember> {
        let mut members = BTreeMap::new();
        for snapshot in self
            .containers
            .snapshots()
            .iter()
            .filter(|s| s.state.running())
        {
            let Some(state) = snapshot.networks.get(network) else {
                continue;
            };
            let address = state
                .ip_address
                .map(|ip| format!("{ip}/{}", state.ip_prefix));
            members.insert(
                snapshot.id.to_string(),
                NetworkMember {
                    name: snapshot.name.clone(),
                    endpoint_id: state.endpoint_id.clone(),
                    mac_address: state.mac_address.clone(),
                    ipv4_address: address.unwrap_or_default(),
                    ipv6_address: String::new(),
                },
            );
        }
        members
    }
}

impl Engine {
    /// # Errors
    /// Filter values that are not valid.
    pub async fn list_networks(&self, filters: &Filters) -> Result<Vec<NetworkDetail>> {
        let dangling = filter::boolean(filters, "dangling")?;
        let any = |name: &str, test: &dyn Fn(&str) -> bool| {
            filters
                .get(name)
                .is_none_or(|values| values.is_empty() || values.iter().any(|v| test(v)))
        };
        for kind in filters.get("type").into_iter().flatten() {
            if kind != "custom" && kind != "builtin" {
                return Err(Error::invalid(format!("invalid filter: 'type'='{kind}'")));
            }
        }
        let predefined = |name: &str| PREDEFINED.iter().any(|(known, _)| *known == name);
        let found = self.inner.networks.iter().filter(|network| {
            any("name", &|v| network.name.contains(v))
                && any("id", &|v| network.id.contains(v))
                && any("driver", &|v| network.driver == v)
                && any("scope", &|v| v == "local")
                && any("type", &|v| (v == "builtin") == predefined(&network.name))
                && filter::labels(&BTreeMap::new(), filters)
        });
        let details = found.map(|network| self.inner.detail(network));
        Ok(details
            .filter(|d| {
                dangling.is_none_or(|want| !predefined(&d.name) && want == d.containers.is_empty())
            })
            .collect())
    }

    /// By id, name or unambiguous id prefix.
    ///
    /// # Errors
    /// `network X not found` (404).
    pub async fn network(&self, name: &str) -> Result<NetworkDetail> {
        self.inner
            .find_network(name)
            .map(|network| self.inner.detail(network))
    }

    /// # Errors
    /// 409 for a predefined name; user-defined networks are not there yet (501).
    pub async fn create_network(&self, request: NetworkDetail) -> Result<(String, String)> {
        if request.name.is_empty() {
            return Err(Error::invalid("invalid network name: name is empty"));
        }
        if self
            .inner
            .networks
            .iter()
            .any(|network| network.name == request.name)
        {
            return Err(Error::conflict(format!(
                "network with name {} already exists",
                request.name
            )));
        }
        Err(Error::not_implemented(
            "user-defined networks are not implemented by longshore yet",
        ))
    }

    /// # Errors
    /// 404; 403 for the predefined ones.
    pub async fn remove_network(&self, name: &str) -> Result<()> {
        let network = self.inner.find_network(name)?;
        Err(Error::new(
            longshore_model::ErrorKind::Forbidden,
            format!(
                "{} is a pre-defined network and cannot be removed",
                network.name
            ),
        ))
    }
}

impl Inner {
    fn find_network(&self, wanted: &str) -> Result<&NetworkRecord> {
        let missing = || Error::not_found(format!("network {wanted} not found"));
        if let Some(exact) = self
            .networks
            .iter()
            .find(|n| n.id == wanted || n.name == wanted)
        {
            return Ok(exact);
        }
        let mut matching = self
            .networks
            .iter()
            .filter(|n| !wanted.is_empty() && n.id.starts_with(wanted));
        match (matching.next(), matching.next()) {
            (Some(only), None) => Ok(only),
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "network {wanted} is ambiguous (2 matches found based on ID prefix)"
            ))),
            (None, _) => Err(missing()),
        }
    }
}
