//! Driver options of a bridge network.

use std::{collections::BTreeMap, net::IpAddr};

use longshore_model::{Error, Result};
use longshore_network::{GatewayMode, Stacked};

const BRIDGE: &str = "com.docker.network.bridge.";
const MTU: &str = "com.docker.network.driver.mtu";

/// What the options of a bridge network say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BridgeOptions {
    /// Empty: named by the network's id.
    pub name: String,
    pub icc: bool,
    pub masquerade: bool,
    pub host_ip: Option<IpAddr>,
    /// 0: the default bridge's.
    pub mtu: u32,
    pub modes: [GatewayMode; 2],
}

impl BridgeOptions {
    /// Reads the options; those of other programs pass, as dockerd lets them.
    ///
    /// # Errors
    /// 400 for a value that cannot be read; 501 for what dockerd does and we do not.
    pub(crate) fn read(options: &BTreeMap<String, String>, internal: bool) -> Result<Self> {
        let mut read = Self {
            name: String::new(),
            icc: true,
            masquerade: true,
            host_ip: None,
            mtu: 0,
            modes: [GatewayMode::Nat; 2],
        };
        for (key, value) in options {
            if key == MTU {
                read.mtu = value
                    .parse()
                    .ok()
                    .filter(|mtu| *mtu <= 65535)
                    .ok_or_else(|| bad(key, value, "strconv.Atoi"))?;
                continue;
            }
            match key.strip_prefix(BRIDGE) {
                Some("name") => read.name.clone_from(value),
                Some("enable_icc") => read.icc = truth(key, value)?,
                Some("enable_ip_masquerade") => read.masquerade = truth(key, value)?,
                Some("host_binding_ipv4") => {
                    read.host_ip = host_ip(value)?;
                }
                Some("gateway_mode_ipv4") => read.modes[0] = mode(value)?,
                Some("gateway_mode_ipv6") => read.modes[1] = mode(value)?,
                Some("inhibit_ipv4" | "trusted_host_interfaces")
                    if !value.is_empty() && crate::filter::truth(value) != Some(false) =>
                {
                    return Err(not_yet(key));
                }
                _ if key.starts_with("com.docker.network.host_ipv") => return Err(not_yet(key)),
                _ => {}
            }
        }
        if read.modes.contains(&GatewayMode::Isolated) && !internal {
            return Err(Error::invalid(
                "gateway mode 'isolated' can only be used for an internal network",
            ));
        }
        Ok(read)
    }
}

/// What the options of a macvlan or ipvlan network say.
///
/// # Errors
/// 400 for a mode that there is not; 501 for networks without a parent interface, which dockerd gives one of their own.
pub(crate) fn stacked(driver: &str, options: &BTreeMap<String, String>) -> Result<Stacked> {
    let option = |name: &str| options.get(name).map_or("", String::as_str);
    let parent = option("parent");
    if parent.is_empty() {
        return Err(Error::not_implemented(format!(
            "{driver} networks without a parent interface (-o parent=...) are not implemented by longshore yet"
        )));
    }
    let unknown =
        |what: &str| Error::invalid(format!("requested {driver} mode '{what}' is not valid"));
    let mut stacked = Stacked {
        kind: driver.to_owned(),
        mode: 0,
        flags: 0,
        parent: 0,
        on: parent.to_owned(),
    };
    if driver == "macvlan" {
        stacked.mode = match option("macvlan_mode") {
            "private" => 1,
            "vepa" => 2,
            "" | "bridge" => 4,
            "passthru" => 8,
            other => return Err(unknown(other)),
        };
    } else {
        stacked.mode = match option("ipvlan_mode") {
            "" | "l2" => 0,
            "l3" => 1,
            "l3s" => 2,
            other => return Err(unknown(other)),
        };
        stacked.flags = match option("ipvlan_flag") {
            "" | "bridge" => 0,
            "private" => 1,
            "vepa" => 2,
            other => {
                return Err(Error::invalid(format!(
                    "requested ipvlan flag '{other}' is not valid"
                )));
            }
        };
    }
    Ok(stacked)
}

fn not_yet(key: &str) -> Error {
    Error::not_implemented(format!(
        "the network option {key} is not implemented by longshore yet"
    ))
}

fn bad(key: &str, value: &str, function: &str) -> Error {
    Error::invalid(format!(
        "invalid value for option {key}: {function}: parsing {value:?}: invalid syntax"
    ))
}

fn truth(key: &str, value: &str) -> Result<bool> {
    crate::filter::truth(value).ok_or_else(|| bad(key, value, "strconv.ParseBool"))
}

fn host_ip(value: &str) -> Result<Option<IpAddr>> {
    if value.is_empty() {
        return Ok(None);
    }
    let address: IpAddr = value
        .parse()
        .map_err(|_| Error::invalid(format!("host binding IP address {value:?} is not valid")))?;
    // All addresses is what is done without the option.
    Ok((!address.is_unspecified() || address.is_ipv6()).then_some(address))
}

fn mode(value: &str) -> Result<GatewayMode> {
    match value {
        "" | "nat" => Ok(GatewayMode::Nat),
        "nat-unprotected" => Ok(GatewayMode::NatUnprotected),
        "routed" => Ok(GatewayMode::Routed),
        "isolated" => Ok(GatewayMode::Isolated),
        other => Err(Error::invalid(format!("unknown gateway mode {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[(&str, &str)]) -> Result<BridgeOptions> {
        let options = options
            .iter()
            .map(|(k, v)| (format!("com.docker.network.{k}"), (*v).to_owned()))
            .collect();
        BridgeOptions::read(&options, false)
    }

    #[test]
    fn stacked_options() {
        let read = |driver: &str, options: &[(&str, &str)]| {
            let options = options
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect();
            stacked(driver, &options)
        };
        let plain = read("macvlan", &[("parent", "eth1")]).expect("valid");
        assert_eq!((plain.mode, plain.on.as_str()), (4, "eth1"));
        let layer3 = read("ipvlan", &[("parent", "eth1"), ("ipvlan_mode", "l3")]);
        assert!(layer3.expect("valid").is_layer3());
        assert!(read("macvlan", &[]).is_err());
        assert!(read("macvlan", &[("parent", "e"), ("macvlan_mode", "l2")]).is_err());
        assert!(read("ipvlan", &[("parent", "e"), ("ipvlan_flag", "x")]).is_err());
    }

    #[test]
    fn options() {
        let all = read(&[
            ("bridge.name", "br9"),
            ("bridge.enable_icc", "false"),
            ("bridge.enable_ip_masquerade", "0"),
            ("bridge.host_binding_ipv4", "127.0.0.1"),
            ("driver.mtu", "1400"),
            ("bridge.gateway_mode_ipv4", "routed"),
            ("container_iface_prefix", "x"),
        ])
        .expect("valid");
        assert_eq!(
            (all.name.as_str(), all.icc, all.masquerade),
            ("br9", false, false)
        );
        assert_eq!(all.mtu, 1400);
        assert_eq!(all.host_ip, Some(IpAddr::from([127, 0, 0, 1])));
        assert_eq!(all.modes[0], GatewayMode::Routed);
        for bad in [
            ("bridge.enable_icc", "maybe"),
            ("driver.mtu", "-1"),
            ("bridge.host_binding_ipv4", "here"),
            ("bridge.gateway_mode_ipv4", "none"),
            ("bridge.gateway_mode_ipv4", "isolated"),
            ("bridge.inhibit_ipv4", "true"),
        ] {
            assert!(read(&[bad]).is_err(), "{bad:?}");
        }
        assert!(read(&[("bridge.inhibit_ipv4", "false")]).is_ok());
    }
}
