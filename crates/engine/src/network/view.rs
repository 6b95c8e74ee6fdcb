//! Networks as list and inspect show them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use longshore_model::{Error, Result};

use super::{NetworkRecord, predefined};
use crate::{
    Engine, Inner,
    api::{Filters, IpamPool, NetworkDetail, NetworkMember},
    filter,
};

/// Containers on a network, by their ids.
type Members = BTreeMap<String, NetworkMember>;

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
        let none = BTreeMap::new();
        let mut members = self.inner.all_members();
        let found = self.inner.networks.all().into_iter().filter(|network| {
            let labels = network.user.as_ref().map_or(&none, |user| &user.labels);
            any("name", &|v| network.name.contains(v))
                && any("id", &|v| network.id.contains(v))
                && any("driver", &|v| network.driver == v)
                && any("scope", &|v| v == "local")
                && any("type", &|v| (v == "builtin") == predefined(&network.name))
                && filter::labels(labels, filters)
        });
        let details: Vec<_> = found
            .map(|network| {
                let members = members.remove(&network.name).unwrap_or_default();
                self.inner.detail(&network, members)
            })
            .collect();
        Ok(details
            .into_iter()
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
        let network = self.inner.networks.find(name)?;
        let members = self.inner.all_members().remove(&network.name);
        Ok(self.inner.detail(&network, members.unwrap_or_default()))
    }
}

impl Inner {
    fn detail(&self, record: &Arc<NetworkRecord>, containers: Members) -> NetworkDetail {
        let mut detail = NetworkDetail {
            id: record.id.clone(),
            name: record.name.clone(),
            created: record.created,
            driver: record.driver.clone(),
            enable_ipv4: true,
            ipam_driver: "default".to_owned(),
            containers,
            ..NetworkDetail::default()
        };
        if let Some(user) = &record.user {
            detail.internal = user.internal;
            detail.attachable = user.attachable;
            detail.enable_ipv4 = user.enable_ipv4;
            detail.enable_ipv6 = user.enable_ipv6;
            detail.options.clone_from(&user.options);
            detail.labels.clone_from(&user.labels);
            detail.ipam_driver.clone_from(&user.ipam_driver);
            detail.ipam_options.clone_from(&user.ipam_options);
            detail.ipam.clone_from(&user.ipam);
        } else if record.name == "bridge" {
            self.default_bridge_detail(&mut detail);
        }
        detail
    }

    fn default_bridge_detail(&self, detail: &mut NetworkDetail) {
        let Some(bridge) = &self.bridge else { return };
        let text = |value: Option<String>| value.unwrap_or_default();
        detail.ipam = vec![IpamPool {
            subnet: text(bridge.subnet.map(|subnet| subnet.to_string())),
            gateway: text(bridge.gateway.map(|gateway| gateway.to_string())),
            ..IpamPool::default()
        }];
        let config = &self.config.bridge;
        let default_ip = config
            .default_ip
            .map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string());
        let options = [
            ("bridge.default_bridge", "true".to_owned()),
            ("bridge.enable_icc", config.icc.to_string()),
            (
                "bridge.enable_ip_masquerade",
                config.ip_masquerade.to_string(),
            ),
            ("bridge.host_binding_ipv4", default_ip),
            ("bridge.name", bridge.name.clone()),
            ("driver.mtu", bridge.mtu.to_string()),
        ];
        detail.options = options
            .into_iter()
            .map(|(key, value)| (format!("com.docker.network.{key}"), value))
            .collect();
    }

    /// Running containers by the names of their networks: one walk for all networks.
    fn all_members(&self) -> HashMap<String, Members> {
        let mut all: HashMap<String, Members> = HashMap::new();
        for snapshot in self.containers.snapshots() {
            if !snapshot.state.running() {
                continue;
            }
            for (network, state) in &snapshot.networks {
                let address = |ip: Option<std::net::IpAddr>, prefix: u8| {
                    ip.map(|ip| format!("{ip}/{prefix}")).unwrap_or_default()
                };
                let member = NetworkMember {
                    name: snapshot.name.clone(),
                    endpoint_id: state.endpoint_id.clone(),
                    mac_address: state.mac_address.clone(),
                    ipv4_address: address(state.ip_address, state.ip_prefix),
                    ipv6_address: address(state.ipv6_address, state.ipv6_prefix),
                };
                all.entry(network.clone())
                    .or_default()
                    .insert(snapshot.id.to_string(), member);
            }
        }
        all
    }
}
