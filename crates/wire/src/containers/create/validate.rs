//! The checks of create that need nothing but the request, in dockerd's order and words.

use longshore_model::{Error, Result, signal};

use super::text::{clean_path, no_nul};
use crate::dto::{
    container::{ContainerConfig, HealthConfig},
    hostconfig::{HostConfig, RestartPolicy},
};

fn conflict(what: &str) -> Error {
    Error::invalid(format!("conflicting options: {what}"))
}

/// Options that exclude each other because of the network mode; runs before the mode's default is filled in.
///
/// # Errors
/// 400
pub fn network_mode(config: &ContainerConfig, host: &HostConfig) -> Result<()> {
    let full = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
    let mode = host.network_mode.as_str();
    if mode == "container" || mode.starts_with("container:") {
        if mode
            .strip_prefix("container:")
            .unwrap_or_default()
            .is_empty()
        {
            return Err(Error::invalid(
                "invalid network mode: invalid container format container:<name|id>",
            ));
        }
        if !config.hostname.is_empty() {
            return Err(conflict("hostname and the network mode"));
        }
        if full(&host.links) {
            return Err(conflict(
                "container type network can't be used with links. This would result in undefined behavior",
            ));
        }
        if full(&host.dns) {
            return Err(conflict("dns and the network mode"));
        }
        if full(&host.extra_hosts) {
            return Err(conflict("custom host-to-IP mapping and the network mode"));
        }
        if host.publish_all_ports || host.port_bindings.as_ref().is_some_and(|p| !p.is_empty()) {
            return Err(conflict(
                "port publishing and the container type network mode",
            ));
        }
        if config.exposed_ports.as_ref().is_some_and(|p| !p.is_empty()) {
            return Err(conflict(
                "port exposing and the container type network mode",
            ));
        }
    }
    if host.uts_mode == "host" && !config.hostname.is_empty() {
        return Err(conflict("hostname and the UTS mode"));
    }
    if mode == "host" && full(&host.links) {
        return Err(conflict(
            "host type networking can't be used with links. This would result in undefined behavior",
        ));
    }
    if !matches!(host.isolation.to_ascii_lowercase().as_str(), "" | "default") {
        return Err(Error::invalid(format!(
            "invalid isolation ({}): linux only supports 'default'",
            host.isolation
        )));
    }
    if host.io_maximum_bandwidth != 0 {
        return Err(Error::invalid(
            "invalid option: QoS maximum bandwidth configuration is not supported on linux",
        ));
    }
    if host.io_maximum_iops != 0 {
        return Err(Error::invalid(
            "invalid option: QoS maximum IOPs configuration is not supported on linux",
        ));
    }
    Ok(())
}

/// `Config`: working directory (cleaned in place), stop signal, environment, health check.
///
/// # Errors
/// 400
pub fn config(config: &mut ContainerConfig) -> Result<()> {
    if !config.working_dir.is_empty() {
        if !config.working_dir.starts_with('/') {
            return Err(Error::invalid(format!(
                "the working directory '{}' is invalid, it needs to be an absolute path",
                config.working_dir
            )));
        }
        config.working_dir = clean_path(&config.working_dir);
    }
    if !config.stop_signal.is_empty() && signal::parse(&config.stop_signal).is_none() {
        return Err(Error::invalid(format!(
            "invalid signal: {}",
            config.stop_signal
        )));
    }
    for variable in config.env.iter().flatten() {
        if variable.is_empty() || variable.starts_with('=') {
            return Err(Error::invalid(format!(
                "invalid environment variable: {variable}"
            )));
        }
        no_nul("environment variable", variable)?;
    }
    for argument in config.cmd.iter().chain(&config.entrypoint).flatten() {
        no_nul("command", argument)?;
    }
    no_nul("working directory", &config.working_dir)?;
    no_nul("user", &config.user)?;
    hostname(&config.hostname)?;
    hostname(&config.domainname)?;
    config.healthcheck.as_ref().map_or(Ok(()), healthcheck)
}

/// The kernel takes 64 bytes; blanks and slashes would break /etc/hosts.
fn hostname(name: &str) -> Result<()> {
    let bad = |c: char| c.is_control() || c.is_whitespace() || c == '/';
    if name.len() > 64 || name.contains(bad) {
        return Err(Error::invalid(format!("invalid hostname: {name:?}")));
    }
    Ok(())
}

fn healthcheck(check: &HealthConfig) -> Result<()> {
    const MINIMUM: i64 = 1_000_000;
    let HealthConfig {
        test: _,
        interval,
        timeout,
        start_period,
        start_interval,
        retries,
    } = check;
    let duration = |name: &str, value: i64| {
        if value != 0 && value < MINIMUM {
            return Err(Error::invalid(format!(
                "{name} in Healthcheck cannot be less than 1ms"
            )));
        }
        Ok(())
    };
    duration("Interval", *interval)?;
    duration("Timeout", *timeout)?;
    if *retries < 0 {
        return Err(Error::invalid("Retries in Healthcheck cannot be negative"));
    }
    duration("StartPeriod", *start_period)?;
    duration("StartInterval", *start_interval)
}

/// `HostConfig`: what remains after mounts, ports and resources have had their own checks.
///
/// # Errors
/// 400
pub fn host_config(host: &HostConfig) -> Result<()> {
    let container_mode = |mode: &str| {
        mode.strip_prefix("container:")
            .is_some_and(|c| !c.is_empty())
    };
    let ipc = host.ipc_mode.as_str();
    if !matches!(ipc, "" | "none" | "private" | "shareable" | "host") && !container_mode(ipc) {
        return Err(Error::invalid(format!("invalid IPC mode: {ipc}")));
    }
    let pid = host.pid_mode.as_str();
    if !matches!(pid, "" | "host") && !container_mode(pid) {
        return Err(Error::invalid(format!("invalid PID mode: {pid}")));
    }
    if host.shm_size < 0 {
        return Err(Error::invalid("SHM size can not be less than 0"));
    }
    if !matches!(host.uts_mode.as_str(), "" | "host") {
        return Err(Error::invalid(format!(
            "invalid UTS mode: {}",
            host.uts_mode
        )));
    }
    if !matches!(host.userns_mode.as_str(), "" | "host") {
        return Err(Error::invalid(format!(
            "invalid userns mode: {}",
            host.userns_mode
        )));
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(Error::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    if !matches!(host.cgroupns_mode.as_str(), "" | "private" | "host") {
        return Err(Error::invalid(format!(
            "invalid cgroup namespace mode: {}",
            host.cgroupns_mode
        )));
    }
    // Names that the tools of the Docker world use for the default runtime.
    if !matches!(
        host.runtime.as_str(),
        "" | "runc" | "longshore" | "io.containerd.runc.v2"
    ) {
        return Err(Error::invalid(format!(
            "unknown or invalid runtime name: {}",
            host.runtime
        )));
    }
    if host
        .annotations
        .iter()
        .flatten()
        .any(|(key, _)| key.is_empty())
    {
        return Err(Error::invalid(
            "invalid Annotations: the empty string is not permitted as an annotation key",
        ));
    }
    if host.storage_opt.as_ref().is_some_and(|o| !o.is_empty()) {
        return Err(Error::invalid(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        ));
    }
    if let Some(request) = host.device_requests.iter().flatten().next() {
        let sets: Vec<String> = request
            .capabilities
            .iter()
            .flatten()
            .map(|set| format!("[{}]", set.join(" ")))
            .collect();
        return Err(Error::invalid(format!(
            "could not select device driver {:?} with capabilities: [{}]",
            request.driver,
            sets.join(" ")
        )));
    }
    if host.auto_remove && !matches!(host.restart_policy.name.as_str(), "" | "no") {
        return Err(Error::invalid(
            "can't create 'AutoRemove' container with restart policy",
        ));
    }
    restart_policy(&host.restart_policy)
}

/// # Errors
/// 400: an unknown name, or a count where there can be none.
pub fn restart_policy(policy: &RestartPolicy) -> Result<()> {
    let count = policy.maximum_retry_count;
    match policy.name.as_str() {
        "always" | "unless-stopped" | "no" if count != 0 => {
            let negative = if count < 0 {
                " and cannot be negative"
            } else {
                ""
            };
            Err(Error::invalid(format!(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'{negative}"
            )))
        }
        "on-failure" if count < 0 => Err(Error::invalid(
            "invalid restart policy: maximum retry count cannot be negative",
        )),
        "" | "always" | "unless-stopped" | "no" | "on-failure" => Ok(()),
        other => Err(Error::invalid(format!(
            "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or \
             'unless-stopped'"
        ))),
    }
}
