//! What the operator says about registries.

use std::{path::PathBuf, time::Duration};

use crate::proxy::Proxies;

/// How patient the client is.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Name, TCP and TLS together, for one address.
    pub connect: Duration,
    /// From the request's end to the head of the answer.
    pub answer: Duration,
    /// Without a single byte of a body.
    pub stall: Duration,
    /// Tries of one request, and of a download since its last progress.
    pub attempts: u32,
    /// Pause before the second try; it doubles with each one.
    pub pause: Duration,
    /// The longest pause that a `Retry-After` may ask for.
    pub pause_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            answer: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            attempts: 5,
            pause: Duration::from_millis(250),
            pause_max: Duration::from_secs(60),
        }
    }
}

/// Settings of the daemon.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Hosts, host:port, or networks in CIDR notation that need no trusted certificate, or have plain HTTP only.
    pub insecure: Vec<String>,
    /// Mirrors of Docker Hub (`registry-mirrors`).
    pub mirrors: Vec<String>,
    /// One folder a registry, with `hosts.toml`, `*.crt`, `*.cert` and `*.key`.
    pub certs: PathBuf,
    pub proxies: Proxies,
    pub limits: Limits,
    /// `User-Agent`
    pub agent: String,
}

impl Settings {
    /// Docker's folder of certificates, and the proxies of this process's environment.
    pub fn new(insecure: Vec<String>, mirrors: Vec<String>, agent: String) -> Self {
        Self {
            insecure,
            mirrors,
            certs: PathBuf::from("/etc/docker/certs.d"),
            proxies: Proxies::from_environment(),
            limits: Limits::default(),
            agent,
        }
    }
}
