//! Making a network: validate all, reserve name and addresses, record the intent, make the link, record the network.

use std::{net::IpAddr, sync::Arc};

use longshore_model::{Error, ErrorKind, Result, Timestamp, id::random_hex};
use longshore_network::{self as mechanism, BridgeSpec, PoolPlan, Subnet, WantedPool};
use longshore_store::{Batch, Durability, Table};

use super::{BridgeOptions, NetworkRecord, UserNetwork, predefined};
use crate::{
    Engine, Inner,
    api::{IpamPool, NetworkDetail},
};

impl Engine {
    /// Makes a network; its id and a warning.
    ///
    /// # Errors
    /// 400 for what is wrong in the request, 403 for addresses that are taken, 404 for an unknown driver, 409 for the name.
    pub async fn create_network(&self, request: NetworkDetail) -> Result<(String, String)> {
        if request.name.trim().is_empty() {
            return Err(Error::invalid("invalid network name: name is empty"));
        }
        if predefined(&request.name) {
            return Err(Error::new(
                ErrorKind::Forbidden,
                format!(
                    "operation is not permitted on predefined {} network ",
                    request.name
                ),
            ));
        }
        self.inner.networks.reserve(&request.name)?;
        let name = request.name.clone();
        let made = self.inner.clone().make_network(request).await;
        if made.is_err() {
            self.inner.networks.release(&name);
        }
        made.map(|id| (id, String::new()))
    }
}

impl Inner {
    async fn make_network(self: Arc<Self>, request: NetworkDetail) -> Result<String> {
        let id = random_hex();
        let (mut user, wanted) = validate(&request, &id)?;
        check_driver(&request.driver)?;
        let link = user.link.clone();
        self.reserve_link(&id, &link)?;
        let families = [user.enable_ipv4, user.enable_ipv6];
        let (engine, key) = (self.clone(), link.clone());
        let reserved =
            crate::blocking(move || engine.network.reserve(&key, &wanted, families)).await;
        let made = match reserved {
            Ok(plans) => {
                user.ipam = shown(&request.ipam, &plans);
                user.plans = plans;
                self.clone().record_network(id, request, user).await
            }
            Err(error) => Err(error),
        };
        self.networks.release_link(&link);
        made
    }

    async fn record_network(
        self: Arc<Self>,
        id: String,
        request: NetworkDetail,
        user: UserNetwork,
    ) -> Result<String> {
        let mut record = NetworkRecord {
            id: id.clone(),
            name: request.name,
            driver: request.driver,
            created: Timestamp::now(),
            user: Some(user),
        };
        let made = self.clone().bring_up_network(&mut record).await;
        if made.is_err() {
            self.undo_network(&record).await;
        }
        made.map(|()| id)
    }

    async fn bring_up_network(self: Arc<Self>, record: &mut NetworkRecord) -> Result<()> {
        let mut batch = Batch::new();
        batch.put(Table::Network, record.id.clone(), record.encode()?);
        self.commit(batch, Durability::Survives, || {}).await?;
        let (engine, intended) = (self.clone(), record.clone());
        crate::blocking(move || match &intended.user {
            Some(user) => ensure(&engine.network, &intended, user),
            None => Ok(()),
        })
        .await?;
        if let Some(user) = &mut record.user {
            user.making = false;
        }
        let mut batch = Batch::new();
        batch.put(Table::Network, record.id.clone(), record.encode()?);
        batch.event(record.event("create"));
        let (engine, whole) = (self.clone(), record.clone());
        self.commit(batch, Durability::Survives, move || {
            engine.networks.insert(whole);
        })
        .await
    }

    /// Takes back what a failed create made.
    async fn undo_network(self: &Arc<Self>, record: &NetworkRecord) {
        let Some(user) = &record.user else { return };
        let (engine, link) = (self.clone(), user.link.clone());
        let undone = crate::blocking(move || {
            let retired = engine.network.retire(&link)?;
            engine.network.bury(retired)
        })
        .await;
        let mut batch = Batch::new();
        batch.delete(Table::Network, record.id.clone());
        let forgotten = self.commit(batch, Durability::Survives, || {}).await;
        for error in [undone.err(), forgotten.err()].into_iter().flatten() {
            tracing::error!(network = %record.name, "not undone: {error}");
        }
    }

    /// No two networks share a bridge.
    fn reserve_link(&self, id: &str, link: &str) -> Result<()> {
        let default = self.bridge.as_ref().is_some_and(|b| b.name == link);
        let other = if default {
            Err(self.networks.named("bridge"))
        } else {
            self.networks.reserve_link(link)
        };
        other.map_err(|other| {
            let other = other.map_or_else(String::new, |other| other.id.clone());
            Error::new(
                ErrorKind::Forbidden,
                format!(
                    "cannot create network {id} ({link}): conflicts with network {other} ({link}): networks have same \
                     bridge name"
                ),
            )
        })
    }
}

fn check_driver(driver: &str) -> Result<()> {
    match driver {
        "bridge" | "macvlan" | "ipvlan" => Ok(()),
        "host" | "null" => Err(Error::new(
            ErrorKind::Forbidden,
            format!("only one instance of \"{driver}\" network is allowed"),
        )),
        "overlay" => Err(Error::new(
            ErrorKind::Forbidden,
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to \
             swarm and try again.",
        )),
        other => Err(Error::not_found(format!("plugin {other:?} not found"))),
    }
}

/// Makes the mechanism's part of a recorded network, or finds it made.
pub(super) fn ensure(
    manager: &mechanism::Manager,
    record: &NetworkRecord,
    user: &UserNetwork,
) -> Result<()> {
    if record.driver != "bridge" {
        return ensure_stacked(manager, record, user);
    }
    let options = BridgeOptions::read(&user.options, user.internal)?;
    let gateway = |ipv6: bool| {
        let plan = user
            .plans
            .iter()
            .find(|plan| plan.subnet.address.is_ipv6() == ipv6)?;
        Some((plan.gateway, plan.subnet.prefix))
    };
    let spec = BridgeSpec {
        address: match gateway(false) {
            Some((IpAddr::V4(address), prefix)) => Some((address, prefix)),
            _ => None,
        },
        ipv6: match gateway(true) {
            Some((IpAddr::V6(address), prefix)) => Some((address, prefix)),
            _ => None,
        },
        mtu: if options.mtu == 0 { 1500 } else { options.mtu },
        masquerade: options.masquerade,
        icc: options.icc,
        modes: options.modes,
        host_ip: options.host_ip,
        ..spec(record, user)
    };
    manager.ensure_bridge(&spec).map(drop)
}

/// macvlan and ipvlan: nothing is made on the host, containers bring their links.
fn ensure_stacked(
    manager: &mechanism::Manager,
    record: &NetworkRecord,
    user: &UserNetwork,
) -> Result<()> {
    let stacked = super::options::stacked(&record.driver, &user.options)?;
    if user.making && !manager.has_link(&stacked.on) {
        return Err(Error::invalid(format!(
            "invalid subinterface vlan name {0}, example formatting is eth0.10: the parent interface {0} was not found on \
             the host",
            stacked.on
        )));
    }
    let spec = BridgeSpec {
        mtu: BridgeOptions::read(&user.options, user.internal)?.mtu,
        ..spec(record, user)
    };
    manager.ensure_stacked(&spec, &user.plans, stacked)
}

/// What is the same for all drivers.
fn spec(record: &NetworkRecord, user: &UserNetwork) -> BridgeSpec {
    BridgeSpec {
        name: user.link.clone(),
        no_ipv4: !user.enable_ipv4,
        ranges: user.plans.iter().filter_map(|plan| plan.range).collect(),
        reserved: user
            .plans
            .iter()
            .flat_map(|plan| plan.reserved.clone())
            .collect(),
        internal: user.internal,
        purpose: format!("network {}", record.id),
        ..BridgeSpec::default()
    }
}

/// Checks the request and turns it into what is stored and what is wanted of addresses.
fn validate(request: &NetworkDetail, id: &str) -> Result<(UserNetwork, Vec<WantedPool>)> {
    if !matches!(request.ipam_driver.as_str(), "" | "default") {
        return Err(Error::not_found(format!(
            "plugin {:?} not found",
            request.ipam_driver
        )));
    }
    if !request.enable_ipv4 && !request.enable_ipv6 {
        return Err(Error::invalid("IPv4 or IPv6 must be enabled"));
    }
    let mut wanted = Vec::new();
    let mut faults = Vec::new();
    for pool in &request.ipam {
        match read_pool(pool, request.enable_ipv6) {
            Ok(Some(pool)) => wanted.push(pool),
            Ok(None) => {}
            Err(found) => faults.extend(found),
        }
    }
    if !faults.is_empty() {
        let text = match faults.as_slice() {
            [one] => one.clone(),
            several => several
                .iter()
                .map(|fault| format!("* {fault}"))
                .collect::<Vec<_>>()
                .join("\n"),
        };
        return Err(Error::invalid(format!("invalid network config:\n{text}")));
    }
    let is_bridge = request.driver == "bridge";
    let of = |ipv6: bool| {
        let family = wanted.iter().filter_map(|pool| pool.subnet);
        family.filter(|s| s.address.is_ipv6() == ipv6).count()
    };
    if !is_bridge && (of(false) > 1 || of(true) > 1) {
        return Err(Error::not_implemented(
            "several subnets of one family are not implemented by longshore yet",
        ));
    }
    if is_bridge && (of(false) > 1 || of(true) > 1) {
        return Err(Error::new(
            ErrorKind::Forbidden,
            "bridge driver doesn't support multiple subnets",
        ));
    }
    let mut link = format!("br-{}", id.get(..12).unwrap_or(id));
    if is_bridge {
        let options = BridgeOptions::read(&request.options, request.internal)?;
        if !options.name.is_empty() {
            link = options.name;
        }
    } else if matches!(request.driver.as_str(), "macvlan" | "ipvlan") {
        super::options::stacked(&request.driver, &request.options)?;
        // No link can have this name.
        link = format!("{}:{}", request.driver, id.get(..12).unwrap_or(id));
    }
    let user = UserNetwork {
        making: true,
        link,
        internal: request.internal,
        attachable: request.attachable,
        enable_ipv4: request.enable_ipv4,
        enable_ipv6: request.enable_ipv6,
        options: request.options.clone(),
        labels: request.labels.clone(),
        ipam_driver: "default".to_owned(),
        ipam_options: request.ipam_options.clone(),
        ipam: Vec::new(),
        plans: Vec::new(),
        configured: wanted.iter().filter_map(|pool| pool.subnet).collect(),
    };
    Ok((user, wanted))
}

/// One entry of the request's pools, with dockerd's faults. IPv6 entries of a network without IPv6 are passed over.
fn read_pool(pool: &IpamPool, ipv6: bool) -> std::result::Result<Option<WantedPool>, Vec<String>> {
    let Some((address, prefix)) = cidr(&pool.subnet) else {
        return Err(vec![format!(
            "invalid subnet {}: invalid CIDR block notation",
            pool.subnet
        )]);
    };
    if address.is_ipv6() && !ipv6 {
        return Ok(None);
    }
    let mut faults = Vec::new();
    let subnet = Subnet::of(address, prefix);
    if subnet.address != address {
        faults.push(format!(
            "invalid subnet {}: it should be {subnet}",
            pool.subnet
        ));
    }
    let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
    let mut range = None;
    if let Some((first, bits)) = cidr(&pool.ip_range) {
        let found = Subnet::of(first, bits);
        let text = &pool.ip_range;
        if first.is_ipv6() == address.is_ipv6() {
            if bits < prefix {
                faults.push(format!(
                    "invalid ip-range {text}: CIDR block is bigger than its parent subnet {subnet}"
                ));
            }
            if found.address != first {
                faults.push(format!("invalid ip-range {text}: it should be {found}"));
            }
            if !subnet.overlaps(&found) {
                faults.push(format!(
                    "invalid ip-range {text}: parent subnet {subnet} doesn't contain ip-range"
                ));
            }
        } else {
            faults.push(format!(
                "invalid ip-range {text}: parent subnet is an {family} block"
            ));
        }
        range = Some(found);
    }
    let mut inside = |what: &str, text: &str| -> Option<IpAddr> {
        let found: IpAddr = text.parse().ok()?;
        if found.is_ipv6() != address.is_ipv6() {
            faults.push(format!(
                "invalid {what}: parent subnet is an {family} block"
            ));
        } else if !subnet.contains(found) {
            faults.push(format!(
                "invalid {what}: parent subnet {subnet} doesn't contain this address"
            ));
        }
        Some(found)
    };
    let gateway = inside(&format!("gateway {}", pool.gateway), &pool.gateway);
    let reserved = pool
        .aux
        .iter()
        .filter_map(|(name, text)| inside(&format!("auxiliary address {name}"), text))
        .collect();
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Some(WantedPool {
        subnet: Some(subnet),
        range,
        gateway,
        reserved,
    }))
}

fn cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let (address, prefix): (IpAddr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
    (prefix <= if address.is_ipv6() { 128 } else { 32 }).then_some((address, prefix))
}

/// The pools as inspect shows them: the user's, IPv4 before IPv6, then those that were chosen.
fn shown(asked: &[IpamPool], plans: &[PoolPlan]) -> Vec<IpamPool> {
    let mut pools: Vec<IpamPool> = Vec::new();
    for plan in plans {
        let subnet = plan.subnet.to_string();
        let given = asked
            .iter()
            .find(|pool| cidr(&pool.subnet).is_some_and(|(a, p)| Subnet::of(a, p) == plan.subnet));
        pools.push(IpamPool {
            subnet,
            gateway: plan.gateway.to_string(),
            ip_range: given.map(|pool| pool.ip_range.clone()).unwrap_or_default(),
            aux: given.map(|pool| pool.aux.clone()).unwrap_or_default(),
        });
    }
    // Stable: only the user's own are put in order.
    let own = pools
        .iter()
        .take_while(|pool| asked.iter().any(|a| cidr(&a.subnet) == cidr(&pool.subnet)))
        .count();
    pools[..own].sort_by_key(|pool| pool.subnet.contains(':'));
    pools
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(pools: &[(&str, &str, &str)]) -> NetworkDetail {
        NetworkDetail {
            name: "n".to_owned(),
            driver: "bridge".to_owned(),
            enable_ipv4: true,
            enable_ipv6: true,
            ipam: pools
                .iter()
                .map(|(subnet, range, gateway)| IpamPool {
                    subnet: (*subnet).to_owned(),
                    ip_range: (*range).to_owned(),
                    gateway: (*gateway).to_owned(),
                    ..IpamPool::default()
                })
                .collect(),
            ..NetworkDetail::default()
        }
    }

    fn fault(pools: &[(&str, &str, &str)]) -> String {
        validate(&request(pools), "1234567890abcdef")
            .expect_err("refused")
            .message
    }

    #[test]
    fn faults_in_dockers_words() {
        assert_eq!(
            fault(&[("10.1.2.3/24", "", "")]),
            "invalid network config:\ninvalid subnet 10.1.2.3/24: it should be 10.1.2.0/24"
        );
        assert_eq!(
            fault(&[("10.1.2.0/24", "10.1.3.0/25", "10.9.9.9")]),
            "invalid network config:\n* invalid ip-range 10.1.3.0/25: parent subnet 10.1.2.0/24 doesn't contain ip-range\n\
             * invalid gateway 10.9.9.9: parent subnet 10.1.2.0/24 doesn't contain this address"
        );
        assert_eq!(
            fault(&[("10.1.2.0/24", "10.0.0.0/8", "fd00::1")]),
            "invalid network config:\n* invalid ip-range 10.0.0.0/8: CIDR block is bigger than its parent subnet \
             10.1.2.0/24\n* invalid gateway fd00::1: parent subnet is an IPv4 block"
        );
        assert_eq!(
            fault(&[("10.1.2.0/24", "", ""), ("10.1.3.0/24", "", "")]),
            "bridge driver doesn't support multiple subnets"
        );
    }

    #[test]
    fn pools_as_shown() {
        let request = request(&[("fd00:77::/64", "", "")]);
        let (user, wanted) = validate(&request, "1234567890abcdef").expect("valid");
        assert_eq!(user.link, "br-1234567890ab");
        let plan = |subnet: &str, prefix: u8, gateway: &str| PoolPlan {
            subnet: Subnet::of(subnet.parse().expect("address"), prefix),
            range: None,
            gateway: gateway.parse().expect("address"),
            reserved: Vec::new(),
        };
        assert_eq!(wanted.len(), 1);
        let plans = [
            plan("fd00:77::", 64, "fd00:77::1"),
            plan("172.20.0.0", 16, "172.20.0.1"),
        ];
        let pools = shown(&request.ipam, &plans);
        assert_eq!(pools[0].subnet, "fd00:77::/64");
        assert_eq!(pools[1].gateway, "172.20.0.1");
    }
}
