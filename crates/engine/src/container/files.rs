//! The files that the engine writes for a container: /etc/hosts, /etc/hostname, /etc/resolv.conf. Bound from a directory
//! named by the container's full id, by which some programs find out who they are.

use std::net::IpAddr;

use longshore_model::{Error, Result};
use longshore_network::{
    Endpoint,
    hosts::{self, Hosts},
    resolv::{self, Mode, Overrides},
};

use super::{dns, networking::Plugged, record::Definition, spec::NetworkMode};
use crate::Inner;

/// Writes them anew for a run. A container that joins another's network uses the other's files.
pub(crate) fn write(engine: &Inner, definition: &Definition, plugged: &[Plugged]) -> Result<()> {
    let spec = &definition.spec;
    if matches!(spec.network.mode, NetworkMode::Container(_)) {
        return Ok(());
    }
    let put = |path: &str, content: &str| {
        std::fs::write(path, content).map_err(|e| Error::io(format!("write {path}"), e))
    };
    put(
        &definition.paths.hostname,
        &hosts::hostname(&definition.hostname, &spec.domainname),
    )?;
    let extra = extra_hosts(engine, definition)?;
    let host_network = spec.network.mode == NetworkMode::Host;
    let content = if host_network {
        let own = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        hosts::hosts_of_host_network(&own, &extra, true)
    } else {
        let addresses: Vec<_> = plugged
            .iter()
            .flat_map(|p| p.endpoint.addresses())
            .map(|(address, _)| address)
            .collect();
        hosts::hosts(&Hosts {
            hostname: &definition.hostname,
            domainname: &spec.domainname,
            addresses: &addresses,
            extra: &extra,
            links: &links(engine, definition),
            ipv6: true,
        })
    };
    put(&definition.paths.hosts, &content)?;
    let mode = if host_network {
        Mode::Host
    } else if dns::served(plugged) {
        Mode::Embedded
    } else {
        Mode::Legacy {
            ipv6: plugged.iter().any(|p| p.endpoint.ip6.is_some()),
        }
    };
    put(
        &definition.paths.resolv_conf,
        &resolv_conf(engine, definition, mode),
    )
}

/// What the user says about name servers, or else the daemon's settings.
pub(super) struct NameServers<'a> {
    nameservers: &'a [String],
    search: &'a [String],
    options: &'a [String],
}

impl NameServers<'_> {
    pub(super) fn overrides(&self) -> Overrides<'_> {
        Overrides {
            nameservers: self.nameservers,
            search: self.search,
            options: self.options,
        }
    }
}

pub(super) fn name_servers<'a>(engine: &'a Inner, definition: &'a Definition) -> NameServers<'a> {
    fn choose<'a>(own: &'a [String], default: &'a [String]) -> &'a [String] {
        if own.is_empty() { default } else { own }
    }
    let (own, config) = (&definition.spec.network, &engine.config);
    NameServers {
        nameservers: choose(&own.dns, &config.dns),
        search: choose(&own.dns_search, &config.dns_search),
        options: choose(&own.dns_options, &config.dns_options),
    }
}

fn resolv_conf(engine: &Inner, definition: &Definition, mode: Mode) -> String {
    let (path, host) = resolv::host_file(mode);
    let own = name_servers(engine, definition);
    resolv::resolv_conf((path, &host), &own.overrides(), mode)
}

/// Does the container's resolv.conf name the engine's name server?
pub(super) fn names_us(definition: &Definition) -> bool {
    let line = format!("nameserver {}", longshore_network::dns::place::ADDRESS);
    std::fs::read_to_string(&definition.paths.resolv_conf)
        .is_ok_and(|text| text.lines().any(|l| l == line))
}

/// A running container gets the engine's name server: its resolv.conf says so, unless somebody has edited it.
pub(super) fn use_name_server(engine: &Inner, definition: &Definition) {
    let path = &definition.paths.resolv_conf;
    let Ok(now) = std::fs::read_to_string(path) else {
        return;
    };
    let ours = [false, true]
        .map(|ipv6| resolv_conf(engine, definition, Mode::Legacy { ipv6 }))
        .contains(&now);
    let embedded = resolv_conf(engine, definition, Mode::Embedded);
    // In place: the file is mounted in the container.
    if ours && let Err(error) = std::fs::write(path, embedded) {
        tracing::error!(container = %definition.id, "write {path}: {error}");
    }
}

/// Adds the addresses of an endpoint to the /etc/hosts of a running container.
pub(super) fn add_host_lines(definition: &Definition, endpoint: &Endpoint) {
    let names = hosts::own_names(&definition.hostname, &definition.spec.domainname);
    edit_hosts(definition, |mut text| {
        for (address, _) in endpoint.addresses() {
            hosts::add(&mut text, address, &names);
        }
        text
    });
}

/// Takes the lines of an endpoint's addresses out again.
pub(super) fn remove_host_lines(definition: &Definition, endpoint: &Endpoint) {
    edit_hosts(definition, |text| {
        endpoint
            .addresses()
            .into_iter()
            .fold(text, |text, (address, _)| hosts::remove(&text, address))
    });
}

/// In place: the file is mounted in the container.
fn edit_hosts(definition: &Definition, edit: impl FnOnce(String) -> String) {
    let path = &definition.paths.hosts;
    let edited = std::fs::read_to_string(path).and_then(|text| std::fs::write(path, edit(text)));
    if let Err(error) = edited {
        tracing::warn!(container = %definition.id, "{path} is not up to date: {error}");
    }
}

/// `--add-host name:address`; `host-gateway` is the bridge's own address.
fn extra_hosts(engine: &Inner, definition: &Definition) -> Result<Vec<(String, IpAddr)>> {
    let gateway = engine.bridge.as_ref().and_then(|bridge| bridge.gateway);
    definition
        .spec
        .network
        .extra_hosts
        .iter()
        .map(|entry| {
            let (name, address) = entry.split_once([':', '=']).unwrap_or((entry, ""));
            let address = if address == "host-gateway" {
                gateway
            } else {
                address
                    .trim_start_matches('[')
                    .trim_end_matches(']')
                    .parse()
                    .ok()
            };
            let bad = || Error::invalid(format!("invalid IP address in add-host: \"{entry}\""));
            address
                .map(|address| (name.to_owned(), address))
                .ok_or_else(bad)
        })
        .collect()
}

/// Legacy links of the default bridge: names and address of each linked container that runs.
fn links(engine: &Inner, definition: &Definition) -> Vec<(String, IpAddr)> {
    let mut found = Vec::new();
    for link in &definition.spec.network.links {
        let (name, alias) = link.split_once(':').unwrap_or((link, link));
        let Ok(handle) = engine.containers.find(name) else {
            continue;
        };
        let other = handle.snapshot();
        if let Some(address) = other
            .networks
            .values()
            .find_map(|network| network.ip_address)
        {
            let alias = alias.trim_start_matches('/');
            found.push((
                hosts::link_names(alias, &other.hostname, &other.name),
                address,
            ));
        }
    }
    found
}
