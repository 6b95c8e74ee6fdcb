//! `/networks`

mod connect;

use std::{collections::BTreeMap, net::IpAddr};

use hyper::StatusCode;
use longshore_engine::api::{IpamPool, NetworkDetail, NetworkMember};
use longshore_model::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{filters, json, request::Request, response::Response, version::ApiVersion};

pub(crate) use connect::{connect, disconnect};

type Strings = BTreeMap<String, String>;

/// A network as list and inspect show it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    name: String,
    id: String,
    created: String,
    scope: &'static str,
    driver: String,
    #[serde(rename = "EnableIPv4", skip_serializing_if = "Option::is_none")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_from: ConfigFrom,
    config_only: bool,
    options: Strings,
    labels: Strings,
    #[serde(skip_serializing_if = "Option::is_none")]
    containers: Option<BTreeMap<String, Member>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ConfigFrom {
    network: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename = "IPAM", rename_all = "PascalCase")]
struct Ipam {
    driver: String,
    options: Option<Strings>,
    config: Option<Vec<Pool>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename = "IPAMConfig", rename_all = "PascalCase")]
struct Pool {
    #[serde(skip_serializing_if = "String::is_empty")]
    subnet: String,
    #[serde(rename = "IPRange", skip_serializing_if = "String::is_empty")]
    ip_range: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    gateway: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    auxiliary_addresses: Strings,
}

#[derive(Debug, Serialize)]
struct Member {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    #[serde(rename = "MacAddress")]
    mac_address: String,
    #[serde(rename = "IPv4Address")]
    ipv4_address: String,
    #[serde(rename = "IPv6Address")]
    ipv6_address: String,
}

/// How full the pools are, from 1.52 on.
#[derive(Debug, Serialize)]
struct Status {
    #[serde(rename = "IPAM")]
    ipam: Subnets,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Subnets {
    subnets: BTreeMap<String, Subnet>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Subnet {
    #[serde(rename = "IPsInUse")]
    in_use: u64,
    #[serde(rename = "DynamicIPsAvailable")]
    available: u64,
}

/// Addresses of a pool: taken ones and those that are left to give. Network, broadcast (IPv4) and gateway count as taken.
fn usage(pool: &IpamPool, members: &BTreeMap<String, NetworkMember>) -> Option<Subnet> {
    let (address, prefix) = pool.subnet.split_once('/')?;
    let v6 = address.parse::<IpAddr>().ok()?.is_ipv6();
    let bits = if v6 { 128u32 } else { 32 };
    let size = |prefix: &str| {
        let host = bits.checked_sub(prefix.parse().ok()?)?;
        Some(1u64.checked_shl(host).unwrap_or(u64::MAX))
    };
    let taken = members
        .values()
        .map(|m| if v6 { &m.ipv6_address } else { &m.ipv4_address })
        .filter(|address| !address.is_empty())
        .count() as u64;
    let reserved = u64::from(!pool.gateway.is_empty()) + if v6 { 1 } else { 2 };
    let in_use = taken + reserved + pool.aux.len() as u64;
    let total = size(prefix)?;
    let available = match pool.ip_range.split_once('/') {
        // Only members draw from the range; where they sit in it is the allocator's business.
        Some((_, range)) => size(range)?.saturating_sub(taken),
        None => total.saturating_sub(in_use),
    };
    Some(Subnet { in_use, available })
}

fn view(network: NetworkDetail, version: ApiVersion, detailed: bool) -> Network {
    let NetworkDetail {
        id,
        name,
        created,
        driver,
        internal,
        attachable,
        enable_ipv4,
        enable_ipv6,
        options,
        labels,
        ipam_driver,
        ipam,
        ipam_options,
        containers,
    } = network;
    let subnets: BTreeMap<_, _> = ipam
        .iter()
        .filter_map(|pool| Some((pool.subnet.clone(), usage(pool, &containers)?)))
        .collect();
    let status = (detailed && version.since(52) && !subnets.is_empty()).then_some(Status {
        ipam: Subnets { subnets },
    });
    let pools: Vec<_> = ipam.into_iter().map(Pool::from).collect();
    Network {
        name,
        id,
        created: created.rfc3339(),
        scope: "local",
        driver,
        enable_ipv4: version.since(47).then_some(enable_ipv4),
        enable_ipv6,
        ipam: Ipam {
            driver: ipam_driver,
            options: ipam_options,
            config: (!pools.is_empty()).then_some(pools),
        },
        internal,
        attachable,
        ingress: false,
        config_from: ConfigFrom::default(),
        config_only: false,
        options,
        labels,
        containers: (detailed || version.before(28)).then(|| {
            containers
                .into_iter()
                .map(|(id, m)| (id, m.into()))
                .collect()
        }),
        status,
    }
}

impl From<IpamPool> for Pool {
    fn from(pool: IpamPool) -> Self {
        let IpamPool {
            subnet,
            gateway,
            ip_range,
            aux,
        } = pool;
        Self {
            subnet,
            ip_range,
            gateway,
            auxiliary_addresses: aux,
        }
    }
}

impl From<NetworkMember> for Member {
    fn from(member: NetworkMember) -> Self {
        let NetworkMember {
            name,
            endpoint_id,
            mac_address,
            ipv4_address,
            ipv6_address,
        } = member;
        Self {
            name,
            endpoint_id,
            mac_address,
            ipv4_address,
            ipv6_address,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Create {
    name: String,
    driver: String,
    scope: String,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: Option<bool>,
    #[serde(rename = "IPAM")]
    ipam: Option<Ipam>,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_only: bool,
    config_from: Option<ConfigFrom>,
    options: Strings,
    labels: Strings,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
    warning: String,
}

/// Go's netip texts for a prefix, as they come out of its JSON decoder.
fn check_prefix(text: &str) -> Result<()> {
    let bad = |why: String| {
        Err(Error::invalid(format!(
            "invalid JSON: netip.ParsePrefix({text:?}): {why}"
        )))
    };
    if text.is_empty() {
        return Ok(());
    }
    let Some((address, bits)) = text.rsplit_once('/') else {
        return bad("no '/'".to_owned());
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return bad(format!("ParseAddr({address:?}): unable to parse IP"));
    };
    match bits.parse::<u8>() {
        Ok(n) if n <= if address.is_ipv4() { 32 } else { 128 } => Ok(()),
        Ok(_) => bad("prefix length out of range".to_owned()),
        Err(_) => bad(format!("bad bits after slash: {bits:?}")),
    }
}

fn check_address(text: &str) -> Result<()> {
    if text.is_empty() || text.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "invalid JSON: ParseAddr({text:?}): unable to parse IP"
    )))
}

impl Create {
    fn into_detail(self) -> Result<NetworkDetail> {
        let Self {
            name,
            driver,
            scope,
            enable_ipv4,
            enable_ipv6,
            ipam,
            internal,
            attachable,
            ingress,
            config_only,
            config_from,
            options,
            labels,
        } = self;
        let ipam = ipam.unwrap_or_default();
        let pools = ipam.config.unwrap_or_default();
        for pool in &pools {
            check_prefix(&pool.subnet)?;
            check_prefix(&pool.ip_range)?;
            check_address(&pool.gateway)?;
            pool.auxiliary_addresses
                .values()
                .try_for_each(|a| check_address(a))?;
        }
        if !matches!(scope.as_str(), "" | "local") || ingress {
            return Err(Error::new(
                longshore_model::ErrorKind::Forbidden,
                "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
            ));
        }
        if config_only || config_from.is_some_and(|from| !from.network.is_empty()) {
            return Err(Error::not_implemented(
                "networks that only hold a configuration are not implemented by longshore yet",
            ));
        }
        let or = |text: String, default: &str| {
            if text.is_empty() {
                default.to_owned()
            } else {
                text
            }
        };
        Ok(NetworkDetail {
            id: String::new(),
            name,
            created: Timestamp::now(),
            driver: or(driver, "bridge"),
            internal,
            attachable,
            enable_ipv4: enable_ipv4.unwrap_or(true),
            enable_ipv6: enable_ipv6.unwrap_or(false),
            options,
            labels,
            ipam_driver: or(ipam.driver, "default"),
            ipam: pools
                .into_iter()
                .map(|pool| IpamPool {
                    subnet: pool.subnet,
                    gateway: pool.gateway,
                    ip_range: pool.ip_range,
                    aux: pool.auxiliary_addresses,
                })
                .collect(),
            ipam_options: ipam.options,
            containers: BTreeMap::new(),
        })
    }
}

const FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];

/// `GET /networks`
pub(crate) async fn list(request: Request) -> Result<Response> {
    let filters = filters::read(&request, FILTERS)?;
    filters::boolean(&filters, "dangling")?;
    if let Some(bad) = filters
        .get("type")
        .and_then(|kinds| kinds.iter().find(|k| *k != "custom" && *k != "builtin"))
    {
        return Err(Error::invalid(format!("invalid filter: 'type'='{bad}'")));
    }
    let networks = request.engine.list_networks(&filters).await?;
    let views: Vec<_> = networks
        .into_iter()
        .map(|network| view(network, request.version, false))
        .collect();
    Ok(Response::ok(&views))
}

/// `GET /networks/{name}`
pub(crate) async fn inspect(request: Request) -> Result<Response> {
    let network = request.engine.network(request.name()).await?;
    let scope = request.query.get("scope");
    if !matches!(scope, "" | "local") {
        let name = request.name();
        return Err(Error::not_found(format!("network {name} not found")));
    }
    Ok(Response::ok(&view(network, request.version, true)))
}

/// `POST /networks/create`
pub(crate) async fn create(mut request: Request) -> Result<Response> {
    let wanted: Create = json::read(&mut request, "CreateRequest").await?;
    let (id, warning) = request.engine.create_network(wanted.into_detail()?).await?;
    Ok(Response::json(
        StatusCode::CREATED,
        &Created { id, warning },
    ))
}

/// `DELETE /networks/{name}`
pub(crate) async fn remove(request: Request) -> Result<Response> {
    request.engine.remove_network(request.name()).await?;
    Ok(Response::no_content())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Pruned {
    /// null when there was nothing to do.
    networks_deleted: Option<Vec<String>>,
}

/// `POST /networks/prune`: user-defined networks that no container uses.
pub(crate) async fn prune(request: Request) -> Result<Response> {
    let filters = filters::read(&request, &["label", "label!", "until"])?;
    let deleted = request.engine.prune_networks(&filters).await?;
    Ok(Response::ok(&Pruned {
        networks_deleted: (!deleted.is_empty()).then_some(deleted),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> NetworkDetail {
        NetworkDetail {
            id: "e80".to_owned(),
            name: "bridge".to_owned(),
            created: Timestamp(1_795_465_085_489_415_336),
            driver: "bridge".to_owned(),
            enable_ipv4: true,
            ipam_driver: "default".to_owned(),
            ipam: vec![IpamPool {
                subnet: "172.18.0.0/16".to_owned(),
                gateway: "172.18.0.1".to_owned(),
                ..IpamPool::default()
            }],
            containers: BTreeMap::from([(
                "c1".to_owned(),
                NetworkMember {
                    name: "web".to_owned(),
                    endpoint_id: "e1".to_owned(),
                    mac_address: "02:42:ac:12:00:02".to_owned(),
                    ipv4_address: "172.18.0.2/16".to_owned(),
                    ipv6_address: String::new(),
                },
            )]),
            ..NetworkDetail::default()
        }
    }

    fn text(version: u32, detailed: bool) -> String {
        let view = view(sample(), ApiVersion::v1(version), detailed);
        String::from_utf8(json::to_vec(&view)).unwrap()
    }

    const LISTED: &str = r#"{"Name":"bridge","Id":"e80","Created":"2026-11-23T20:18:05.489415336Z","Scope":"local","Driver":"bridge","EnableIPv4":true,"EnableIPv6":false,"IPAM":{"Driver":"default","Options":null,"Config":[{"Subnet":"172.18.0.0/16","Gateway":"172.18.0.1"}]},"Internal":false,"Attachable":false,"Ingress":false,"ConfigFrom":{"Network":""},"ConfigOnly":false,"Options":{},"Labels":{}"#;
    const CONTAINERS: &str = r#","Containers":{"c1":{"Name":"web","EndpointID":"e1","MacAddress":"02:42:ac:12:00:02","IPv4Address":"172.18.0.2/16","IPv6Address":""}}"#;

    #[test]
    fn as_recorded() {
        assert_eq!(text(50, false), format!("{LISTED}}}"));
        assert_eq!(text(50, true), format!("{LISTED}{CONTAINERS}}}"));
        // Four addresses in use with one container, as dockerd counts.
        let status = r#","Status":{"IPAM":{"Subnets":{"172.18.0.0/16":{"IPsInUse":4,"DynamicIPsAvailable":65532}}}}"#;
        assert_eq!(text(55, true), format!("{LISTED}{CONTAINERS}{status}}}"));
        assert!(!text(40, false).contains("EnableIPv4"));
        assert!(text(27, false).contains("Containers"));
    }

    fn parse(text: &str) -> Result<NetworkDetail> {
        json::from_slice::<Create>(text.as_bytes(), "CreateRequest")?.into_detail()
    }

    #[test]
    fn create_request() {
        let detail = parse(
            r#"{"Driver":"","Scope":"","IPAM":{"Driver":"default","Options":{},"Config":[{"Subnet":"10.77.0.0/24","IPRange":"10.77.0.128/25","Gateway":"10.77.0.1"}]},"ConfigFrom":null,"Name":"n2"}"#,
        )
        .unwrap();
        assert_eq!(detail.driver, "bridge");
        assert_eq!(detail.ipam[0].ip_range, "10.77.0.128/25");
        assert_eq!(detail.ipam_options, Some(BTreeMap::new()));
        assert!(detail.enable_ipv4 && !detail.enable_ipv6);
        for (config, want) in [
            (
                r#"{"Subnet":"bogus"}"#,
                r#"netip.ParsePrefix("bogus"): no '/'"#,
            ),
            (
                r#"{"Subnet":"1.2.3.4/99"}"#,
                r#"netip.ParsePrefix("1.2.3.4/99"): prefix length out of range"#,
            ),
            (
                r#"{"Gateway":"x"}"#,
                r#"ParseAddr("x"): unable to parse IP"#,
            ),
        ] {
            let text = format!(r#"{{"Name":"n","IPAM":{{"Config":[{config}]}}}}"#);
            assert_eq!(
                parse(&text).unwrap_err().message,
                format!("invalid JSON: {want}")
            );
        }
    }

    #[test]
    fn addresses_in_use() {
        let pool = |subnet: &str, range: &str| IpamPool {
            subnet: subnet.to_owned(),
            ip_range: range.to_owned(),
            gateway: "x".to_owned(),
            ..IpamPool::default()
        };
        let none = BTreeMap::new();
        let usage = |subnet, range| usage(&pool(subnet, range), &none);
        assert_eq!(
            usage("10.0.0.0/24", ""),
            Some(Subnet {
                in_use: 3,
                available: 253
            })
        );
        assert_eq!(
            usage("10.0.0.0/24", "10.0.0.128/25").unwrap().available,
            128
        );
        assert_eq!(usage("fd00::/64", "").unwrap().in_use, 2);
        assert_eq!(usage("bogus", ""), None);
    }
}
