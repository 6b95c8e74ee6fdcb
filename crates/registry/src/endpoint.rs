//! Where a registry's content can be had: mirrors first, then the registry itself.

use std::{net::IpAddr, path::Path};

use hyper::Uri;

use crate::{
    hosts::{self, Host},
    proxy::in_network,
    settings::Settings,
    tls::Trust,
    uri::host_and_port,
};

/// The name that references have for Docker Hub.
pub const HUB: &str = "docker.io";
/// Where Docker Hub's registry really is.
pub const HUB_SERVER: &str = "registry-1.docker.io";

/// One server that has a registry's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `https://host:port/v2`, no slash at the end.
    pub base: String,
    /// `host:port` as credentials name it.
    pub authority: String,
    pub pull: bool,
    pub resolve: bool,
    pub push: bool,
    pub trust: Trust,
    pub headers: Vec<(String, String)>,
    /// A mirror is told whose content is wanted.
    pub mirror_of: Option<String>,
}

/// The servers for a registry, in the order of trying. Blocking: reads `certs.d`.
///
/// # Errors
/// Settings that cannot be understood.
pub fn endpoints(settings: &Settings, registry: &str) -> Result<Vec<Endpoint>, String> {
    let folder = hosts::read(&settings.certs, registry)?;
    let mut found = Vec::new();
    for host in folder.mirrors {
        found.push(mirror(settings, registry, host)?);
    }
    if registry == HUB && found.is_empty() {
        for address in &settings.mirrors {
            let mut host = Host {
                address: address.clone(),
                pull: true,
                resolve: true,
                ..Host::default()
            };
            if let Ok(uri) = address.parse::<Uri>() {
                let name = uri.authority().map_or("", |a| a.as_str());
                host.trust = folder_trust(&settings.certs, name);
            }
            found.push(mirror(settings, registry, host)?);
        }
    }
    found.extend(server(settings, registry, folder.server)?);
    Ok(found)
}

fn folder_trust(certs: &Path, name: &str) -> Trust {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Trust::default();
    }
    hosts::certificates(&certs.join(name))
}

fn mirror(settings: &Settings, registry: &str, mut host: Host) -> Result<Endpoint, String> {
    let uri: Uri = host
        .address
        .parse()
        .map_err(|_| format!("invalid mirror address {:?}", host.address))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
        return Err(format!("invalid mirror address {:?}", host.address));
    }
    let (name, port) = host_and_port(&uri);
    host.trust.skip_verify |= is_insecure(settings, &name, port);
    Ok(endpoint(&uri, host, Some(registry.to_owned())))
}

fn endpoint(uri: &Uri, host: Host, mirror_of: Option<String>) -> Endpoint {
    let authority = uri.authority().map_or("", |a| a.as_str());
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let path = uri.path().trim_end_matches('/');
    let version = if host.override_path || path.ends_with("/v2") {
        ""
    } else {
        "/v2"
    };
    Endpoint {
        base: format!(
            "{}://{authority}{path}{version}",
            uri.scheme_str().unwrap_or("https")
        ),
        authority: authority.to_owned(),
        pull: host.pull,
        resolve: host.resolve,
        push: host.push,
        trust: host.trust,
        headers: host.headers,
        mirror_of,
    }
}

/// The registry itself. One that is insecure is tried by HTTPS, then without TLS.
fn server(settings: &Settings, registry: &str, mut host: Host) -> Result<Vec<Endpoint>, String> {
    let address = match host.address.as_str() {
        "" if registry == HUB => format!("https://{HUB_SERVER}"),
        "" => format!("https://{registry}"),
        address if address.contains("://") => address.to_owned(),
        address => format!("https://{address}"),
    };
    let bad = || format!("invalid registry address {address:?}");
    let uri: Uri = address.parse().map_err(|_| bad())?;
    if uri.authority().is_none() {
        return Err(bad());
    }
    let (name, port) = host_and_port(&uri);
    let insecure = is_insecure(settings, &name, port);
    host.trust.skip_verify |= insecure;
    let secure = endpoint(&uri, host.clone(), None);
    if !insecure || uri.scheme_str() != Some("https") {
        return Ok(vec![secure]);
    }
    let plain = Endpoint {
        base: secure.base.replacen("https://", "http://", 1),
        ..secure.clone()
    };
    Ok(vec![secure, plain])
}

/// Loopback is insecure by nature; others when the operator says so.
pub fn is_insecure(settings: &Settings, host: &str, port: u16) -> bool {
    if host == "localhost" || host.parse::<IpAddr>().is_ok_and(|a| a.is_loopback()) {
        return true;
    }
    let with_port = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    settings.insecure.iter().any(|rule| {
        let rule = rule
            .trim_start_matches("http://")
            .trim_start_matches("https://");
        rule.eq_ignore_ascii_case(host)
            || rule.eq_ignore_ascii_case(&with_port)
            || in_network(rule, host)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            certs: "/nonexistent".into(),
            proxies: crate::proxy::Proxies::default(),
            ..Settings::new(
                vec!["10.0.0.0/8".to_owned(), "plain.example:5000".to_owned()],
                vec!["https://mirror.example/hub/".to_owned()],
                "longshore".to_owned(),
            )
        }
    }

    #[test]
    fn where_names_lead() {
        for (registry, bases) in [
            (
                "docker.io",
                vec![
                    "https://mirror.example/hub/v2",
                    "https://registry-1.docker.io/v2",
                ],
            ),
            ("ghcr.io", vec!["https://ghcr.io/v2"]),
            (
                "127.0.0.1:5000",
                vec!["https://127.0.0.1:5000/v2", "http://127.0.0.1:5000/v2"],
            ),
            (
                "localhost",
                vec!["https://localhost/v2", "http://localhost/v2"],
            ),
            (
                "[::1]:5000",
                vec!["https://[::1]:5000/v2", "http://[::1]:5000/v2"],
            ),
            (
                "10.1.1.1",
                vec!["https://10.1.1.1/v2", "http://10.1.1.1/v2"],
            ),
            (
                "plain.example:5000",
                vec![
                    "https://plain.example:5000/v2",
                    "http://plain.example:5000/v2",
                ],
            ),
            ("plain.example", vec!["https://plain.example/v2"]),
        ] {
            let found = endpoints(&settings(), registry).unwrap();
            let found: Vec<&str> = found.iter().map(|e| e.base.as_str()).collect();
            assert_eq!(found, bases, "{registry}");
        }
        let hub = endpoints(&settings(), "docker.io").unwrap();
        assert_eq!(hub[0].mirror_of.as_deref(), Some("docker.io"));
        assert!(!hub[0].push && hub[1].push);
    }

    #[test]
    fn bad_mirrors() {
        for bad in ["mirror", "ftp://x", "https://a b"] {
            let settings = Settings {
                mirrors: vec![bad.to_owned()],
                ..settings()
            };
            assert!(endpoints(&settings, "docker.io").is_err(), "{bad}");
        }
    }
}
