//! Defaults that dockerd writes into what it was given.

use longshore_engine::api::{ContainerSpec, IpcMode, LogSpec, Mode};
use longshore_model::config::DaemonConfig;

use super::{Context, network, security};
use crate::dto::hostconfig::HostConfig;

/// The daemon's log driver; `json-file` unless it was told otherwise.
pub fn default_log_driver(config: &DaemonConfig) -> &str {
    match config.default_log_driver.as_str() {
        "" => "json-file",
        given => given,
    }
}

/// Fills in what dockerd fills in, so that inspect shows the same: sizes, modes, log driver, path lists, restart policy.
pub fn fill_in(host: &mut HostConfig, context: &Context<'_>) {
    let config = context.config;
    if host.shm_size == 0 {
        host.shm_size = i64::try_from(config.default_shm_size).unwrap_or(64 << 20);
    }
    if host.ipc_mode.is_empty() {
        "private".clone_into(&mut host.ipc_mode);
    }
    if host.cgroupns_mode.is_empty() {
        let unified = context.facts.cgroup_unified;
        let default = match &config.default_cgroupns_mode {
            // Privileged containers of cgroup v1 manage the host's hierarchies.
            _ if host.privileged && !unified => "host",
            Some(mode) => mode.as_str(),
            None if unified => "private",
            None => "host",
        };
        default.clone_into(&mut host.cgroupns_mode);
    }
    for mode in [
        &mut host.pid_mode,
        &mut host.ipc_mode,
        &mut host.network_mode,
    ] {
        if let Some(id) = mode
            .strip_prefix("container:")
            .and_then(|name| (context.lookup)(name))
        {
            *mode = format!("container:{id}");
        }
    }
    if host.restart_policy.name.is_empty() {
        "no".clone_into(&mut host.restart_policy.name);
    }
    if host.runtime.is_empty() {
        "runc".clone_into(&mut host.runtime);
    }
    let default_driver = default_log_driver(context.config);
    let log = &mut host.log_config;
    if log.r#type.is_empty() {
        default_driver.clone_into(&mut log.r#type);
    }
    let options = log.config.get_or_insert_default();
    for (name, value) in &config.default_log_options {
        // How a copy is kept of what goes elsewhere is the same for all drivers.
        if log.r#type == default_driver || (name.starts_with("cache-") && log.r#type != "none") {
            options.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    let unmasked = host
        .security_opt
        .iter()
        .flatten()
        .any(|option| option == "systempaths=unconfined");
    if unmasked {
        host.masked_paths.get_or_insert_default();
        host.readonly_paths.get_or_insert_default();
    }
    if !host.privileged {
        let list = |paths: &[&str]| {
            paths
                .iter()
                .map(|path| (*path).to_owned())
                .collect::<Vec<_>>()
        };
        host.masked_paths
            .get_or_insert_with(|| list(&security::MASKED_PATHS));
        host.readonly_paths
            .get_or_insert_with(|| list(&security::READONLY_PATHS));
    }
}

/// Modes and the log, taken from the filled-in form so that inspect and the container cannot disagree.
pub fn finish(spec: &mut ContainerSpec, host: &HostConfig) {
    spec.pid_mode = match host.pid_mode.as_str() {
        "host" => Mode::Host,
        text => container_of(text).map_or(Mode::Private, Mode::Container),
    };
    spec.ipc_mode = match host.ipc_mode.as_str() {
        "host" => IpcMode::Host,
        "none" => IpcMode::None,
        "shareable" => IpcMode::Shareable,
        text => container_of(text).map_or(IpcMode::Private, IpcMode::Container),
    };
    spec.network.mode = network::mode(&host.network_mode);
    spec.cgroupns_private = Some(host.cgroupns_mode == "private");
    spec.log = LogSpec {
        driver: host.log_config.r#type.clone(),
        options: host.log_config.config.clone().unwrap_or_default(),
    };
}

fn container_of(mode: &str) -> Option<String> {
    mode.strip_prefix("container:").map(str::to_owned)
}
