//! Network mode, endpoints, published ports, links and extra hosts.

use std::{collections::BTreeMap, net::IpAddr};

use longshore_engine::api::{EndpointSpec, NetworkMode, NetworkSpec, PortBindingSpec};
use longshore_model::{Error, Result};

use super::{
    text::{parse_address, parse_mac, parse_port, parse_port_range},
    upgrade::has_own_interfaces,
};
use crate::dto::{
    container::{ContainerConfig, EndpointSettings, NetworkingConfig, Set},
    hostconfig::{HostConfig, PortBinding},
};

/// Rewrites the keys and addresses of a request into their normal form (`80` -> `80/tcp`), as dockerd's decoder does.
///
/// # Errors
/// 400
pub fn normalise(
    config: &mut ContainerConfig,
    host: &mut HostConfig,
    networking: &mut NetworkingConfig,
) -> Result<()> {
    if let Some(ports) = config.exposed_ports.take() {
        let mut normal = Set::new();
        for key in ports.into_keys().filter(|key| !key.is_empty()) {
            let (port, protocol) = parse_port(&key)?;
            normal.insert(
                format!("{port}/{protocol}"),
                crate::dto::container::Empty {},
            );
        }
        config.exposed_ports = Some(normal);
    }
    let mut normal: BTreeMap<String, Option<Vec<PortBinding>>> = BTreeMap::new();
    for (key, bindings) in host.port_bindings.take().unwrap_or_default() {
        let key = if key.is_empty() {
            "invalid port".to_owned()
        } else {
            let (port, protocol) = parse_port(&key)?;
            format!("{port}/{protocol}")
        };
        let mut bindings = bindings;
        for binding in bindings.iter_mut().flatten() {
            binding.host_ip = normal_address(&binding.host_ip)?;
        }
        normal.insert(key, bindings);
    }
    host.port_bindings = Some(normal);
    for address in host.dns.iter_mut().flatten() {
        *address = normal_address(address)?;
    }
    for endpoint in networking
        .endpoints_config
        .iter_mut()
        .flatten()
        .filter_map(|(_, e)| e.as_mut())
    {
        parse_mac(&endpoint.mac_address)?;
        if let Some(ipam) = &mut endpoint.ipam_config {
            ipam.ipv4_address = normal_address(&ipam.ipv4_address)?;
            ipam.ipv6_address = normal_address(&ipam.ipv6_address)?;
        }
    }
    parse_mac(&config.mac_address).map(|_| ())
}

fn normal_address(text: &str) -> Result<String> {
    Ok(parse_address(text)?
        .map(|ip| ip.to_string())
        .unwrap_or_default())
}

/// `HostConfig.NetworkMode` after `default` has become `bridge`.
pub fn mode(text: &str) -> NetworkMode {
    match text {
        "" | "default" | "bridge" => NetworkMode::Bridge,
        "host" => NetworkMode::Host,
        "none" => NetworkMode::None,
        other => match other.strip_prefix("container:") {
            Some(container) => NetworkMode::Container(container.to_owned()),
            None => NetworkMode::Named(other.to_owned()),
        },
    }
}

/// The text of a mode as inspect and list print it.
pub fn mode_text(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::Bridge => "bridge".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Container(id) => format!("container:{id}"),
        NetworkMode::Named(name) => name.clone(),
    }
}

/// Everything about networks; answers warnings as well. The request is normalised and upgraded.
///
/// # Errors
/// 400
pub fn convert(
    config: &ContainerConfig,
    host: &HostConfig,
    networking: &NetworkingConfig,
) -> Result<(NetworkSpec, Vec<String>)> {
    let mut warnings = Vec::new();
    let mode = mode(&host.network_mode);
    for extra in host.extra_hosts.iter().flatten() {
        extra_host(extra)?;
    }
    let port_bindings = port_bindings(host)?;
    let links: Vec<String> = host
        .links
        .iter()
        .flatten()
        .map(|text| link(text))
        .collect::<Result<_>>()?;
    if mode == NetworkMode::Bridge && !links.is_empty() {
        warnings.push(
            "Links on the default bridge network are deprecated and will be removed in a future release. Use a custom \
             network instead."
                .to_owned(),
        );
    }
    if mode == NetworkMode::Host && !port_bindings.is_empty() {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    let mut endpoints = BTreeMap::new();
    let mut faults = Vec::new();
    for (name, settings) in networking.endpoints_config.iter().flatten() {
        match settings {
            None => faults.push(format!(
                "invalid config for network {name}: EndpointsConfig is nil"
            )),
            Some(settings) => match endpoint(name, settings)? {
                Ok(endpoint) => {
                    endpoints.insert(name.clone(), endpoint);
                }
                Err(fault) => faults.push(format!("invalid config for network {name}: {fault}")),
            },
        }
    }
    if !faults.is_empty() {
        return Err(Error::invalid(join_faults(&faults)));
    }
    match &mode {
        // The joined container's network is its own matter.
        NetworkMode::Container(_) => endpoints.clear(),
        _ if config.network_disabled => endpoints.clear(),
        other => {
            let main = mode_text(other);
            if matches!(other, NetworkMode::Host | NetworkMode::None)
                && endpoints.keys().any(|name| *name != main)
            {
                return Err(Error::invalid(match other {
                    NetworkMode::None => {
                        "container cannot be connected to multiple networks with one of the networks in private (none) mode"
                    }
                    _ => {
                        "container sharing network namespace with another container or host cannot be connected to any \
                         other network"
                    }
                }));
            }
            if endpoints.is_empty() {
                endpoints.insert(main, EndpointSpec::default());
            }
        }
    }
    let spec = NetworkSpec {
        mode,
        endpoints,
        dns: host.dns.clone().unwrap_or_default(),
        dns_search: host.dns_search.clone().unwrap_or_default(),
        dns_options: host.dns_options.clone().unwrap_or_default(),
        extra_hosts: host.extra_hosts.clone().unwrap_or_default(),
        links,
        port_bindings,
        publish_all: host.publish_all_ports,
        disabled: config.network_disabled,
    };
    Ok((spec, warnings))
}

/// Several faults are listed one a line, as dockerd joins them.
fn join_faults(faults: &[String]) -> String {
    match faults {
        [one] => one.clone(),
        several => several
            .iter()
            .map(|f| format!("* {f}"))
            .collect::<Vec<_>>()
            .join("\n"),
    }
}

/// One endpoint's settings; the inner error is a fault of the request in dockerd's words, which each caller introduces in
/// its own way.
///
/// # Errors
/// 400 for addresses that cannot be read.
pub fn endpoint(
    name: &str,
    settings: &EndpointSettings,
) -> Result<std::result::Result<EndpointSpec, String>> {
    let EndpointSettings {
        ipam_config,
        links,
        aliases,
        driver_opts,
        gw_priority,
        mac_address,
        // What the engine fills in; a client that feeds inspect back to create sends the old values.
        network_id: _,
        endpoint_id: _,
        gateway: _,
        ip_address: _,
        ip_prefix_len: _,
        ipv6_gateway: _,
        global_ipv6_address: _,
        global_ipv6_prefix_len: _,
        dns_names: _,
    } = settings;
    let ipam = ipam_config.clone().unwrap_or_default();
    let ipv4 = parse_address(&ipam.ipv4_address)?;
    let ipv6 = parse_address(&ipam.ipv6_address)?;
    let mut faults = Vec::new();
    let predefined = name == "bridge" || !has_own_interfaces(name) || name == "default";
    if predefined && (ipv4.is_some() || ipv6.is_some()) {
        faults.push(
            "user specified IP address is supported on user defined networks only".to_owned(),
        );
    }
    if predefined && aliases.as_ref().is_some_and(|a| !a.is_empty()) {
        faults.push(
            "network-scoped alias is supported only for containers in user defined networks"
                .to_owned(),
        );
    }
    if ipv4.is_some_and(|ip| !ip.is_ipv4() || ip.is_unspecified()) {
        faults.push(format!("invalid IPv4 address: {}", ipam.ipv4_address));
    }
    if ipv6.is_some_and(|ip| !ip.is_ipv6() || ip.is_unspecified()) {
        faults.push(format!("invalid IPv6 address: {}", ipam.ipv6_address));
    }
    if !faults.is_empty() {
        return Ok(Err(format!(
            "invalid endpoint settings:\n{}",
            join_faults(&faults)
        )));
    }
    Ok(Ok(EndpointSpec {
        ipv4_address: ipv4,
        ipv6_address: ipv6,
        mac_address: parse_mac(mac_address)?,
        aliases: aliases.clone().unwrap_or_default(),
        links: links.clone().unwrap_or_default(),
        driver_opts: driver_opts.clone().unwrap_or_default(),
        gw_priority: *gw_priority,
        echo: if predefined {
            String::new()
        } else {
            serde_json::to_string(settings).map_err(|e| Error::system(e.to_string()))?
        },
        ..EndpointSpec::default()
    }))
}

fn port_bindings(host: &HostConfig) -> Result<Vec<PortBindingSpec>> {
    let mut specs = Vec::new();
    for (key, bindings) in host.port_bindings.iter().flatten() {
        let bad = |text: &str| Error::invalid(format!("invalid port specification: {text:?}"));
        let (port, protocol) = parse_port(key).map_err(|_| bad(key))?;
        if port == 0 {
            return Err(bad(key));
        }
        if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
            return Err(Error::invalid(format!(
                "invalid port specification: {key:?}: unknown protocol"
            )));
        }
        for binding in bindings.iter().flatten() {
            let (first, last) = match binding.host_port.as_str() {
                "" => (0, 0),
                text => parse_port_range(text).ok_or_else(|| bad(text))?,
            };
            specs.push(PortBindingSpec {
                container_port: port,
                protocol: protocol.clone(),
                host_ip: parse_address(&binding.host_ip)?,
                host_port: first,
                host_port_end: last,
            });
        }
    }
    Ok(specs)
}

/// `name:address`, or `name:host-gateway`.
fn extra_host(text: &str) -> Result<()> {
    let Some((name, address)) = text.split_once(':').filter(|(name, _)| !name.is_empty()) else {
        return Err(Error::invalid(format!("bad format for add-host: {text:?}")));
    };
    if name.contains(char::is_whitespace) {
        return Err(Error::invalid(format!("bad format for add-host: {text:?}")));
    }
    let bare = address
        .strip_prefix('[')
        .and_then(|a| a.strip_suffix(']'))
        .unwrap_or(address);
    if address != "host-gateway" && bare.parse::<IpAddr>().is_err() {
        return Err(Error::invalid(format!(
            "invalid IP address in add-host: {address:?}"
        )));
    }
    Ok(())
}

/// `target[:alias]`, or what inspect prints of it (`/target:/me/alias`), to `target:alias`.
fn link(text: &str) -> Result<String> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        [""] => Err(Error::invalid("empty string specified for links")),
        [target] => Ok(format!("{0}:{0}", target.trim_start_matches('/'))),
        [target, alias] if !target.is_empty() && !alias.is_empty() => {
            let alias = if target.starts_with('/') {
                alias.rsplit('/').next().unwrap_or(alias)
            } else {
                alias
            };
            Ok(format!("{}:{alias}", target.trim_start_matches('/')))
        }
        _ => Err(Error::invalid(format!("invalid link format: {text}"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(json: &str) -> Result<(NetworkSpec, Vec<String>)> {
        let body: crate::dto::container::CreateBody = serde_json::from_str(json).expect("body");
        let (mut config, mut host, mut networking) = body.split();
        super::super::upgrade::upgrade(
            crate::version::ApiVersion::v1(50),
            false,
            &mut config,
            &mut host,
            &mut networking,
        )?;
        normalise(&mut config, &mut host, &mut networking)?;
        convert(&config, &host, &networking)
    }

    #[test]
    fn ports() {
        let (spec, _) = run(
            r#"{"HostConfig":{"PortBindings":{"80":[{"HostIp":"127.0.0.1","HostPort":"8000-8010"}],"53/udp":[{}]}}}"#,
        )
        .unwrap();
        assert_eq!(spec.port_bindings.len(), 2);
        let web = spec
            .port_bindings
            .iter()
            .find(|p| p.container_port == 80)
            .unwrap();
        assert_eq!((web.host_port, web.host_port_end), (8000, 8010));
        for (ports, want) in [
            (
                r#"{"x/tcp":[{}]}"#,
                "invalid JSON: invalid port 'x': invalid syntax",
            ),
            (
                r#"{"80/tcp":[{"HostPort":"abc"}]}"#,
                "invalid port specification: \"abc\"",
            ),
            (r#"{"0/tcp":[{}]}"#, "invalid port specification: \"0/tcp\""),
            (
                r#"{"80/tcp":[{"HostIp":"x"}]}"#,
                "invalid JSON: ParseAddr(\"x\"): unable to parse IP",
            ),
            (
                r#"{"":[{}]}"#,
                "invalid port specification: \"invalid port\"",
            ),
        ] {
            let error =
                run(&format!(r#"{{"HostConfig":{{"PortBindings":{ports}}}}}"#)).unwrap_err();
            assert_eq!(error.message, want);
        }
    }

    #[test]
    fn endpoints_follow_the_mode() {
        let (spec, _) = run(r#"{"HostConfig":{"NetworkMode":"default"}}"#).unwrap();
        assert_eq!(spec.mode, NetworkMode::Bridge);
        assert_eq!(spec.endpoints.keys().collect::<Vec<_>>(), ["bridge"]);
        let (spec, _) = run(r#"{"HostConfig":{"NetworkMode":"container:x"}}"#).unwrap();
        assert!(spec.endpoints.is_empty());
        let fixed = r#"{"NetworkingConfig":{"EndpointsConfig":{"default":{"IPAMConfig":{"IPv4Address":"1.2.3.4"}}}}}"#;
        assert_eq!(
            run(fixed).unwrap_err().message,
            "invalid config for network bridge: invalid endpoint settings:\nuser specified IP address is supported on \
             user defined networks only"
        );
    }

    #[test]
    fn links_and_hosts() {
        assert_eq!(link("d1:alias").unwrap(), "d1:alias");
        assert_eq!(link("/d1:/c1/alias").unwrap(), "d1:alias");
        assert_eq!(link("d1").unwrap(), "d1:d1");
        assert_eq!(
            link("a:b:c").unwrap_err().message,
            "invalid link format: a:b:c"
        );
        assert!(
            extra_host("a:1.2.3.4").is_ok()
                && extra_host("a:::1").is_ok()
                && extra_host("a:host-gateway").is_ok()
        );
        assert_eq!(
            extra_host("a").unwrap_err().message,
            "bad format for add-host: \"a\""
        );
        assert_eq!(
            extra_host("a:x").unwrap_err().message,
            "invalid IP address in add-host: \"x\""
        );
        let (_, warnings) = run(r#"{"HostConfig":{"Links":["d1:alias"]}}"#).unwrap();
        assert!(warnings[0].starts_with("Links on the default bridge"));
    }

    proptest! {
        #[test]
        fn links_and_hosts_never_panic(text in "\\PC{0,24}") {
            let _ = link(&text);
            let _ = extra_host(&text);
        }
    }
}
