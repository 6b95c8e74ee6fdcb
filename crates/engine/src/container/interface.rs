//! What an endpoint's driver options say about the interface in the container.

use longshore_model::{Error, Result};

use super::spec::EndpointSpec;

/// Names the interface.
const NAME: &str = "com.docker.network.endpoint.ifname";
/// Settings of the interface: `net.ipv4.conf.IFNAME.log_martians=1`, with commas.
const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";
/// Stands for the interface's name.
const PLACEHOLDER: &str = "IFNAME";

/// The name that is asked for.
pub(super) fn name(endpoint: &EndpointSpec) -> Option<&String> {
    endpoint
        .driver_opts
        .get(NAME)
        .filter(|name| !name.is_empty())
}

/// (name below /proc/sys, value) of each setting for an interface of this name.
///
/// # Errors
/// dockerd's text for what is no setting of an interface.
pub(super) fn sysctls(endpoint: &EndpointSpec, interface: &str) -> Result<Vec<(String, String)>> {
    let Some(text) = endpoint.driver_opts.get(SYSCTLS) else {
        return Ok(Vec::new());
    };
    text.split(',')
        .filter(|setting| !setting.is_empty())
        .map(|setting| one(setting, interface))
        .collect()
}

fn one(setting: &str, interface: &str) -> Result<(String, String)> {
    let bad = || {
        Error::invalid(format!(
            "unrecognised network interface sysctl '{setting}'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V'"
        ))
    };
    let (key, value) = setting.split_once('=').ok_or_else(bad)?;
    let parts: Vec<&str> = key.split('.').collect();
    let plain = |part: &&str| {
        let bytes = part.bytes();
        !part.is_empty()
            && bytes
                .into_iter()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    match parts.as_slice() {
        ["net", family, table, PLACEHOLDER, rest @ ..]
            if !rest.is_empty() && [family, table].into_iter().chain(rest).all(plain) =>
        {
            // With slashes, because an interface's name may have dots.
            let name = format!("net/{family}/{table}/{interface}/{}", rest.join("/"));
            Ok((name, value.to_owned()))
        }
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings() {
        let of = |text: &str| {
            let mut endpoint = EndpointSpec::default();
            endpoint
                .driver_opts
                .insert(SYSCTLS.to_owned(), text.to_owned());
            sysctls(&endpoint, "eth1.5")
        };
        let two = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=2";
        assert_eq!(
            of(two).expect("valid"),
            [
                (
                    "net/ipv4/conf/eth1.5/log_martians".to_owned(),
                    "1".to_owned()
                ),
                ("net/ipv6/conf/eth1.5/accept_ra".to_owned(), "2".to_owned()),
            ]
        );
        assert!(of("").expect("valid").is_empty());
        for bad in [
            "net.ipv4.conf.eth0.forwarding=1",
            "net.ipv4.conf.IFNAME.forwarding",
            "kernel.x.y.IFNAME.z=1",
            "net.ipv4.conf.IFNAME.../../x=1",
            "net.ipv4.conf.IFNAME.a/b=1",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
