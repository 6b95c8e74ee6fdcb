//! What inspect and list share: a snapshot's parts in Docker's shapes.

use std::{collections::BTreeMap, net::IpAddr};

use longshore_engine::api::{
    EndpointState, HealthResult, ImageIdentity, MountPoint, NetworkMode, Snapshot,
};

use crate::dto::container::{
    EndpointSettings, Health, HealthResultView, ManifestDescriptor, MountView, NetworkingConfig,
    PlatformView, PortBindingView,
};

/// A network mode's text, as `HostConfig.NetworkMode` has it.
pub use super::create::network::mode_text;

fn address(ip: Option<IpAddr>) -> String {
    ip.map(|ip| ip.to_string()).unwrap_or_default()
}

fn non_empty<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

/// An endpoint: what is, with null for what is not.
pub fn endpoint(state: &EndpointState) -> EndpointSettings {
    let EndpointState {
        network_id,
        endpoint_id,
        gateway,
        ip_address,
        ip_prefix,
        mac_address,
        ipv6_gateway,
        ipv6_address,
        ipv6_prefix,
        aliases,
        dns_names,
        links,
        driver_opts,
        gw_priority,
        echo: _,
    } = state;
    EndpointSettings {
        ipam_config: None,
        links: non_empty(links),
        aliases: non_empty(aliases),
        driver_opts: (!driver_opts.is_empty()).then(|| driver_opts.clone()),
        gw_priority: *gw_priority,
        network_id: network_id.clone(),
        endpoint_id: endpoint_id.clone(),
        gateway: address(*gateway),
        ip_address: address(*ip_address),
        mac_address: mac_address.clone(),
        ip_prefix_len: i64::from(*ip_prefix),
        ipv6_gateway: address(*ipv6_gateway),
        global_ipv6_address: address(*ipv6_address),
        global_ipv6_prefix_len: i64::from(*ipv6_prefix),
        dns_names: non_empty(dns_names),
    }
}

/// The endpoints as inspect shows them: what the client asked for is given back as it was (null or empty).
pub fn endpoints(
    snapshot: &Snapshot,
    asked: &NetworkingConfig,
) -> BTreeMap<String, EndpointSettings> {
    let find = |name: &str, id: &str| {
        let asked = asked.endpoints_config.as_ref()?;
        asked.get(name).or_else(|| asked.get(id))?.as_ref()
    };
    snapshot
        .networks
        .iter()
        .map(|(name, state)| {
            let mut view = endpoint(state);
            let own: Option<EndpointSettings> = serde_json::from_str(&state.echo).ok();
            if let Some(asked) = own.as_ref().or_else(|| find(name, &state.network_id)) {
                view.ipam_config.clone_from(&asked.ipam_config);
                view.links.clone_from(&asked.links);
                view.aliases.clone_from(&asked.aliases);
                view.driver_opts.clone_from(&asked.driver_opts);
            }
            (name.clone(), view)
        })
        .collect()
}

/// The endpoints in a list: of what the client asked for only the wanted addresses. Source: recorded lists.
pub fn endpoint_summaries(snapshot: &Snapshot) -> BTreeMap<String, EndpointSettings> {
    let predefined = |name: &String| matches!(name.as_str(), "bridge" | "host" | "none");
    // Addresses can be asked for on networks of the user's only; the default ones need no look at the request.
    let mut all = if snapshot.networks.keys().all(predefined) {
        endpoints(snapshot, &NetworkingConfig::default())
    } else {
        let asked: Asked = serde_json::from_str(&snapshot.echo).unwrap_or_default();
        endpoints(snapshot, &asked.networking_config)
    };
    for view in all.values_mut() {
        view.links = None;
        view.aliases = None;
        view.driver_opts = None;
        view.dns_names = None;
    }
    all
}

/// The one part of the stored request that a list needs.
#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Asked {
    networking_config: NetworkingConfig,
}

pub fn mounts(mounts: &[MountPoint]) -> Vec<MountView> {
    mounts
        .iter()
        .filter(|mount| mount.shown())
        .map(|mount| {
            let MountPoint {
                kind,
                name,
                source,
                destination,
                driver,
                mode,
                rw,
                propagation,
                subpath: _,
            } = mount;
            MountView {
                r#type: kind.clone(),
                name: name.clone(),
                source: source.clone(),
                destination: destination.clone(),
                driver: driver.clone(),
                mode: mode.clone(),
                rw: *rw,
                propagation: propagation.clone(),
            }
        })
        .collect()
}

/// The descriptor of the image's manifest; None when it is not known.
pub fn manifest(image: &ImageIdentity) -> Option<ManifestDescriptor> {
    (!image.manifest_digest.is_empty()).then(|| ManifestDescriptor {
        media_type: image.manifest_media_type.clone(),
        digest: image.manifest_digest.clone(),
        size: image.manifest_size,
        platform: PlatformView {
            architecture: image.architecture.clone(),
            os: image.os.clone(),
            variant: image.variant.clone(),
        },
    })
}

/// True while the container has interfaces of its own that ports can be published on.
fn has_live_ports(snapshot: &Snapshot) -> bool {
    let own = !matches!(
        snapshot.spec.network.mode,
        NetworkMode::Host | NetworkMode::Container(_)
    );
    snapshot.state.running() && own && !snapshot.spec.network.disabled
}

/// `80/tcp` -> where it is published; None for a port that is only exposed. Empty while the container does not run.
pub fn port_map(snapshot: &Snapshot) -> BTreeMap<String, Option<Vec<PortBindingView>>> {
    if !has_live_ports(snapshot) {
        return BTreeMap::new();
    }
    let mut map: BTreeMap<String, Option<Vec<PortBindingView>>> = snapshot
        .spec
        .exposed_ports
        .iter()
        .map(|port| (port.clone(), None))
        .collect();
    for binding in &snapshot.spec.network.port_bindings {
        map.entry(format!("{}/{}", binding.container_port, binding.protocol))
            .or_default();
    }
    let mut published: Vec<_> = snapshot.ports.iter().collect();
    published.sort_by_key(|port| (port.container_port, port.host_ip, port.host_port));
    for port in published {
        map.entry(format!("{}/{}", port.container_port, port.protocol))
            .or_default()
            .get_or_insert_default()
            .push(PortBindingView {
                host_ip: port.host_ip.to_string(),
                // Of a routed network: the container's own port, none of the host's.
                host_port: if port.host_port == 0 {
                    String::new()
                } else {
                    port.host_port.to_string()
                },
            });
    }
    map
}

/// The health status word.
pub fn health_status(snapshot: &Snapshot) -> &'static str {
    let health = snapshot.health.as_ref();
    health.map_or("none", |health| health.status.word())
}

/// `State.Health` of inspect; absent without a health check and before the first start.
pub fn health(snapshot: &Snapshot) -> Option<Health> {
    let health = snapshot.health.as_ref()?;
    let result = |result: &HealthResult| HealthResultView {
        start: result.start.rfc3339(),
        end: result.end.rfc3339(),
        exit_code: result.exit_code,
        output: result.output.clone(),
    };
    Some(Health {
        status: health.status.word(),
        failing_streak: i64::from(health.failing_streak),
        log: Some(health.log.iter().map(result).collect()),
    })
}
