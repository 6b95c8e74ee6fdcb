//! What an older API version meant, said in the newest one's terms. Runs before everything else, so that the rest of
//! create knows one version. Source: the version history of the API documents and dockerd's answers.

use longshore_model::{Error, Result};

use crate::{
    dto::{
        container::{ContainerConfig, EndpointSettings, NetworkingConfig},
        hostconfig::{HostConfig, PortBinding},
    },
    version::ApiVersion,
};

/// Brings a request of API `version` up to date; answers warnings for the client.
///
/// # Errors
/// 400: the version does not know what was asked, or the parts of the request contradict each other.
pub fn upgrade(
    version: ApiVersion,
    cgroup_unified: bool,
    config: &mut ContainerConfig,
    host: &mut HostConfig,
    networking: &mut NetworkingConfig,
) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    default_network(host, networking);
    if version.before(25) {
        host.auto_remove = false;
    }
    if version.before(40) && host.ipc_mode.is_empty() {
        "shareable".clone_into(&mut host.ipc_mode);
    }
    if version.before(41) && host.cgroupns_mode.is_empty() && !cgroup_unified {
        "host".clone_into(&mut host.cgroupns_mode);
    }
    mounts(version, host)?;
    if version.before(42) {
        host.console_size = (0, 0);
    }
    if version.before(43) {
        host.annotations = None;
    }
    if version.before(44) {
        if let Some(healthcheck) = &mut config.healthcheck {
            healthcheck.start_interval = 0;
        }
        if let Some(endpoints) = networking.endpoints_config.as_ref().filter(|e| e.len() > 1) {
            let names: Vec<&str> = endpoints.keys().map(String::as_str).collect();
            return Err(Error::invalid(format!(
                "Container cannot be created with multiple network endpoints: {}",
                names.join(", ")
            )));
        }
    }
    if version.before(48) {
        for endpoint in networking
            .endpoints_config
            .iter_mut()
            .flatten()
            .filter_map(|(_, e)| e.as_mut())
        {
            endpoint.gw_priority = 0;
        }
    }
    warnings.extend(volume_driver(version, host));
    warnings.extend(mac_address(version, config, host, networking)?);
    warnings.extend(interface_sysctls(version, host, networking)?);
    warnings.extend(empty_bindings(version, host));
    if host.pids_limit.is_some_and(|limit| limit <= 0) {
        host.pids_limit = None;
    }
    Ok(warnings)
}

/// `default` and nothing mean the default bridge, also as a key of the endpoints.
fn default_network(host: &mut HostConfig, networking: &mut NetworkingConfig) {
    if !host.network_mode.is_empty() && host.network_mode != "default" {
        return;
    }
    "bridge".clone_into(&mut host.network_mode);
    if let Some(endpoints) = &mut networking.endpoints_config
        && let Some(endpoint) = endpoints.remove("default")
    {
        endpoints.insert("bridge".to_owned(), endpoint);
    }
}

fn mounts(version: ApiVersion, host: &mut HostConfig) -> Result<()> {
    for mount in host.mounts.iter_mut().flatten() {
        if version.before(42) {
            if mount.r#type != "volume" {
                mount.volume_options = None;
            }
            if mount.r#type != "tmpfs" {
                mount.tmpfs_options = None;
            }
        }
        if let Some(bind) = &mut mount.bind_options {
            if version.before(40) {
                bind.non_recursive = false;
            }
            if version.before(42) {
                bind.create_mountpoint = false;
            }
            if version.before(44) && mount.r#type == "bind" && bind.read_only_force_recursive {
                return Err(Error::invalid(
                    "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer",
                ));
            }
        }
        if version.since(42) {
            for (name, given, kind) in [
                ("VolumeOptions", mount.volume_options.is_some(), "volume"),
                ("BindOptions", mount.bind_options.is_some(), "bind"),
                ("TmpfsOptions", mount.tmpfs_options.is_some(), "tmpfs"),
            ] {
                if given && mount.r#type != kind {
                    return Err(Error::invalid(format!(
                        "{name} must not be specified on mount type {:?}",
                        mount.r#type
                    )));
                }
            }
        }
        if version.before(45)
            && mount
                .volume_options
                .as_ref()
                .is_some_and(|v| !v.subpath.is_empty())
        {
            return Err(Error::invalid(
                "VolumeOptions.Subpath needs API v1.45 or newer",
            ));
        }
        if version.before(48) && mount.r#type == "image" {
            return Err(Error::invalid(
                "Mount type \"Image\" needs API v1.48 or newer",
            ));
        }
    }
    Ok(())
}

fn volume_driver(version: ApiVersion, host: &HostConfig) -> Option<String> {
    if version.before(48) || host.volume_driver.is_empty() {
        return None;
    }
    let ambiguous = host.mounts.iter().flatten().any(|mount| {
        mount.r#type == "volume"
            && mount
                .volume_options
                .as_ref()
                .and_then(|v| v.driver_config.as_ref())
                .is_none_or(|driver| driver.name.is_empty())
    });
    ambiguous.then(|| {
        "WARNING: the container-wide volume-driver configuration is ignored for volumes specified via 'mount'. \
         Use '--mount type=volume,volume-driver=...' instead"
            .to_owned()
    })
}

/// Bridge or a network that a user made: the modes with interfaces of their own.
pub fn has_own_interfaces(mode: &str) -> bool {
    mode != "host" && mode != "none" && !mode.starts_with("container:")
}

/// The container-wide MAC address moves to the endpoint of the main network.
fn mac_address(
    version: ApiVersion,
    config: &mut ContainerConfig,
    host: &HostConfig,
    networking: &mut NetworkingConfig,
) -> Result<Option<String>> {
    let mac = config.mac_address.clone();
    let own = has_own_interfaces(&host.network_mode);
    if version.before(44) {
        if mac.is_empty() {
            for endpoint in networking
                .endpoints_config
                .iter_mut()
                .flatten()
                .filter_map(|(_, e)| e.as_mut())
            {
                endpoint.mac_address.clear();
            }
            return Ok(None);
        }
        if !own {
            return Err(Error::invalid(
                "conflicting options: mac-address and the network mode",
            ));
        }
        endpoint_of_mode(version, &host.network_mode, networking)?.mac_address = mac;
        config.mac_address.clear();
        return Ok(None);
    }
    if mac.is_empty() {
        return Ok(None);
    }
    if own {
        let endpoint = endpoint_of_mode(version, &host.network_mode, networking).map_err(|e| {
            e.context("unable to migrate container-wide MAC address to a specific network")
        })?;
        if endpoint.mac_address.is_empty() {
            endpoint.mac_address = mac;
        } else if endpoint.mac_address != mac {
            return Err(Error::invalid(
                "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be \
                 left empty",
            ));
        }
    }
    config.mac_address.clear();
    Ok(Some(
        "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead."
            .to_owned(),
    ))
}

/// The endpoint that container-wide settings are meant for; made when there is none at all.
fn endpoint_of_mode<'a>(
    version: ApiVersion,
    mode: &str,
    networking: &'a mut NetworkingConfig,
) -> Result<&'a mut EndpointSettings> {
    let endpoints = networking.endpoints_config.get_or_insert_default();
    let key = if endpoints.is_empty() {
        endpoints.insert(mode.to_owned(), Some(EndpointSettings::default()));
        Some(mode.to_owned())
    } else if version.before(44) {
        endpoints.keys().next().cloned()
    } else {
        endpoints.contains_key(mode).then(|| mode.to_owned())
    };
    key.and_then(|key| endpoints.get_mut(&key)).map(|e| e.get_or_insert_default()).ok_or_else(|| {
        Error::invalid("HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks")
    })
}

const ENDPOINT_SYSCTLS: &str = "com.docker.network.endpoint.sysctls";

/// `net.ipv4.conf.eth0.x` can only be set once the interface is there: it becomes an option of the endpoint.
fn interface_sysctls(
    version: ApiVersion,
    host: &mut HostConfig,
    networking: &mut NetworkingConfig,
) -> Result<Option<String>> {
    if !has_own_interfaces(&host.network_mode) {
        return Ok(None);
    }
    let mut moved = Vec::new();
    let mut settings = Vec::new();
    for (key, value) in host.sysctls.iter().flatten() {
        let parts: Vec<&str> = key.splitn(5, '.').collect();
        let [net, family, table, interface, leaf] = parts[..] else {
            continue;
        };
        if net != "net" || !interface.starts_with("eth") {
            continue;
        }
        if version.since(48) {
            return Err(Error::invalid(format!(
                "interface specific sysctl setting {key:?} must be supplied using driver option '{ENDPOINT_SYSCTLS}'"
            )));
        }
        if interface != "eth0" {
            return Err(Error::invalid(format!(
                "unable to determine network endpoint for sysctl {key}, use driver option '{ENDPOINT_SYSCTLS}' to set \
                 per-interface sysctls"
            )));
        }
        moved.push(key.clone());
        settings.push(format!("net.{family}.{table}.IFNAME.{leaf}={value}"));
    }
    if moved.is_empty() {
        return Ok(None);
    }
    let mut option = settings.join(",");
    let warning = format!(
        "Migrated sysctl {:?} to DriverOpts{{{ENDPOINT_SYSCTLS:?}:{option:?}}}.",
        moved.join(",")
    );
    let options = endpoint_of_mode(version, &host.network_mode, networking)
        .map_err(|e| e.context(format!("unable to find a network for sysctl {}", moved[0])))?
        .driver_opts
        .get_or_insert_default();
    if let Some(old) = options.get(ENDPOINT_SYSCTLS) {
        option = format!("{option},{old}");
    }
    options.insert(ENDPOINT_SYSCTLS.to_owned(), option);
    if let Some(sysctls) = &mut host.sysctls {
        sysctls.retain(|key, _| !moved.contains(key));
    }
    Ok(Some(warning))
}

/// `"80/tcp": []` asked for an ephemeral port until 1.52; from 1.53 on it asks for nothing.
fn empty_bindings(version: ApiVersion, host: &mut HostConfig) -> Option<String> {
    let ports = host.port_bindings.as_mut()?;
    let is_empty =
        |bindings: &Option<Vec<PortBinding>>| bindings.as_ref().is_none_or(Vec::is_empty);
    if version.since(53) {
        ports.retain(|_, bindings| !is_empty(bindings));
        return None;
    }
    let mut filled = Vec::new();
    for (port, bindings) in ports.iter_mut().filter(|(_, b)| is_empty(b)) {
        filled.push(port.clone());
        *bindings = Some(vec![PortBinding::default()]);
    }
    (version == ApiVersion::v1(52) && !filled.is_empty()).then(|| {
        format!(
            "Following container port(s) have an empty list of port-bindings: {}. Starting with API 1.53, such bindings \
             will be discarded.",
            filled.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(
        minor: u32,
        body: &str,
    ) -> Result<(ContainerConfig, HostConfig, NetworkingConfig, Vec<String>)> {
        let body: crate::dto::container::CreateBody = serde_json::from_str(body).expect("body");
        let (mut config, mut host, mut networking) = body.split();
        let warnings = upgrade(
            ApiVersion::v1(minor),
            false,
            &mut config,
            &mut host,
            &mut networking,
        )?;
        Ok((config, host, networking, warnings))
    }

    #[test]
    fn defaults_of_old_versions() {
        let (_, host, _, _) = run(39, "{}").unwrap();
        assert_eq!(
            (host.ipc_mode.as_str(), host.cgroupns_mode.as_str()),
            ("shareable", "host")
        );
        assert_eq!(host.network_mode, "bridge");
        let (_, host, _, _) = run(50, "{}").unwrap();
        assert_eq!(
            (host.ipc_mode.as_str(), host.cgroupns_mode.as_str()),
            ("", "")
        );
    }

    #[test]
    fn mac_address_moves() {
        let body = r#"{"MacAddress":"02:42:0a:4d:00:c8"}"#;
        for minor in [40, 50] {
            let (config, _, networking, warnings) = run(minor, body).unwrap();
            let endpoints = networking.endpoints_config.unwrap();
            assert_eq!(
                endpoints["bridge"].as_ref().unwrap().mac_address,
                "02:42:0a:4d:00:c8"
            );
            assert!(config.mac_address.is_empty());
            assert_eq!(warnings.len(), usize::from(minor == 50));
        }
        let refused = run(
            40,
            r#"{"MacAddress":"02:42:0a:4d:00:c8","HostConfig":{"NetworkMode":"host"}}"#,
        );
        assert_eq!(
            refused.unwrap_err().message,
            "conflicting options: mac-address and the network mode"
        );
    }

    #[test]
    fn several_networks_need_144() {
        let body = r#"{"NetworkingConfig":{"EndpointsConfig":{"a":{},"b":{}}}}"#;
        assert_eq!(
            run(43, body).unwrap_err().message,
            "Container cannot be created with multiple network endpoints: a, b"
        );
        assert!(run(44, body).is_ok());
    }

    #[test]
    fn empty_port_bindings() {
        let body = r#"{"HostConfig":{"PortBindings":{"80/tcp":[]}}}"#;
        assert_eq!(run(53, body).unwrap().1.port_bindings.unwrap().len(), 0);
        let (_, host, _, warnings) = run(52, body).unwrap();
        assert_eq!(
            host.port_bindings.unwrap()["80/tcp"],
            Some(vec![PortBinding::default()])
        );
        assert!(warnings[0].starts_with("Following container port(s)"));
        assert!(run(51, body).unwrap().3.is_empty());
    }

    #[test]
    fn sysctls_of_an_interface() {
        let body = r#"{"HostConfig":{"Sysctls":{"net.ipv4.conf.eth0.forwarding":"1","net.core.somaxconn":"9"}}}"#;
        let (_, host, networking, _) = run(46, body).unwrap();
        assert_eq!(host.sysctls.unwrap().len(), 1);
        let endpoints = networking.endpoints_config.unwrap();
        let options = endpoints["bridge"]
            .as_ref()
            .unwrap()
            .driver_opts
            .as_ref()
            .unwrap();
        assert_eq!(
            options[ENDPOINT_SYSCTLS],
            "net.ipv4.conf.IFNAME.forwarding=1"
        );
        assert!(run(50, body).is_err());
    }
}
