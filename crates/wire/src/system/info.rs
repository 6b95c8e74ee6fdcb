//! `GET /info`

use std::collections::BTreeMap;

use longshore_engine::api::SystemInfo;
use longshore_model::{Result, Timestamp, config::DaemonConfig};
use serde::Serialize;
use serde_json::{Value, json};

use super::version::VERSION;
use crate::{request::Request, response::Response, version::ApiVersion};

/// Docker's keys, in dockerd's order.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    #[serde(rename = "ID")]
    id: String,
    containers: usize,
    containers_running: usize,
    containers_paused: usize,
    containers_stopped: usize,
    images: usize,
    driver: &'static str,
    driver_status: Value,
    plugins: Value,
    memory_limit: bool,
    swap_limit: bool,
    cpu_cfs_period: bool,
    cpu_cfs_quota: bool,
    #[serde(rename = "CPUShares")]
    cpu_shares: bool,
    #[serde(rename = "CPUSet")]
    cpu_set: bool,
    pids_limit: bool,
    #[serde(rename = "IPv4Forwarding")]
    ipv4_forwarding: bool,
    debug: bool,
    #[serde(rename = "NFd")]
    n_fd: usize,
    oom_kill_disable: bool,
    n_goroutines: usize,
    system_time: String,
    logging_driver: String,
    cgroup_driver: &'static str,
    cgroup_version: String,
    n_events_listener: usize,
    kernel_version: String,
    operating_system: String,
    #[serde(rename = "OSVersion")]
    os_version: String,
    #[serde(rename = "OSType")]
    os_type: &'static str,
    architecture: &'static str,
    index_server_address: &'static str,
    registry_config: Value,
    #[serde(rename = "NCPU")]
    n_cpu: usize,
    mem_total: u64,
    generic_resources: Value,
    docker_root_dir: String,
    http_proxy: &'static str,
    https_proxy: &'static str,
    no_proxy: &'static str,
    name: String,
    labels: Vec<String>,
    experimental_build: bool,
    server_version: &'static str,
    runtimes: BTreeMap<&'static str, Runtime>,
    default_runtime: &'static str,
    swarm: Value,
    live_restore_enabled: bool,
    isolation: &'static str,
    init_binary: &'static str,
    containerd_commit: Value,
    runc_commit: Value,
    init_commit: Value,
    security_options: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    firewall_backend: Option<Value>,
    #[serde(rename = "CDISpecDirs")]
    cdi_spec_dirs: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    containerd: Option<Value>,
    warnings: Vec<String>,
    /// Before 1.50.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    bridge_netfilter: Option<BridgeNetfilter>,
}

#[derive(Serialize)]
struct BridgeNetfilter {
    #[serde(rename = "BridgeNfIptables")]
    ip4: bool,
    #[serde(rename = "BridgeNfIp6tables")]
    ip6: bool,
}

#[derive(Serialize)]
struct Runtime {
    path: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
}

/// Go's architecture name.
pub(super) const fn arch(name: &'static [u8]) -> &'static str {
    match name {
        b"x86_64" => "amd64",
        b"aarch64" => "arm64",
        b"arm" => "arm",
        b"riscv64" => "riscv64",
        b"s390x" => "s390x",
        b"powerpc64" => "ppc64le",
        _ => "unknown",
    }
}

/// Registries as dockerd lists them: networks are reached insecurely by address, everything else by name.
fn registries(config: &DaemonConfig) -> Value {
    let mut networks = vec!["::1/128".to_owned(), "127.0.0.0/8".to_owned()];
    let mut index = serde_json::Map::new();
    for registry in &config.insecure_registries {
        if registry.contains('/') {
            networks.push(registry.clone());
        } else {
            let entry =
                json!({ "Name": registry, "Mirrors": [], "Secure": false, "Official": false });
            index.insert(registry.clone(), entry);
        }
    }
    let mirrors = &config.registry_mirrors;
    index.insert(
        "docker.io".to_owned(),
        json!({ "Name": "docker.io", "Mirrors": mirrors, "Secure": true, "Official": true }),
    );
    json!({ "InsecureRegistryCIDRs": networks, "IndexConfigs": index, "Mirrors": mirrors })
}

/// The names that clients ask for; both are this engine's own launcher.
fn runtimes(version: ApiVersion) -> BTreeMap<&'static str, Runtime> {
    let features = r#"{"ociVersionMin":"1.0.0","ociVersionMax":"1.2.1"}"#;
    ["io.containerd.runc.v2", "runc"]
        .into_iter()
        .map(|name| {
            let status = version
                .since(44)
                .then(|| json!({ "org.opencontainers.runtime-spec.features": features }));
            let path = "longshore";
            (name, Runtime { path, status })
        })
        .collect()
}

fn warnings(info: &SystemInfo) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut missing = |there: bool, what: &str| {
        if !there {
            warnings.push(format!("WARNING: {what}"));
        }
    };
    missing(info.memory_limit, "No memory limit support");
    missing(
        info.swap_limit || !info.memory_limit,
        "No swap limit support",
    );
    missing(info.cpu_cfs, "No cpu cfs quota support");
    missing(info.cpu_shares, "No cpu shares support");
    missing(info.cpuset, "No cpuset support");
    missing(info.pids_limit, "No pids limit support");
    missing(info.ipv4_forwarding, "IPv4 forwarding is disabled");
    warnings
}

fn view(info: SystemInfo, config: &DaemonConfig, version: ApiVersion, tasks: usize) -> Info {
    let warnings = warnings(&info);
    let bridges: &[&str] = &["bridge", "host", "ipvlan", "macvlan", "null"];
    let or_default = |text: &str, default: &str| match text {
        "" => default.to_owned(),
        text => text.to_owned(),
    };
    Info {
        id: info.id,
        containers: info.containers,
        containers_running: info.running,
        containers_paused: info.paused,
        containers_stopped: info.stopped,
        images: info.images,
        driver: "overlayfs",
        // By this clients know that image ids are manifest digests.
        driver_status: json!([["driver-type", "io.containerd.snapshotter.v1"]]),
        plugins: json!({
            "Volume": ["local"], "Network": bridges, "Authorization": null, "Log": ["journald", "json-file", "local", "syslog"],
        }),
        memory_limit: info.memory_limit,
        swap_limit: info.swap_limit,
        cpu_cfs_period: info.cpu_cfs,
        cpu_cfs_quota: info.cpu_cfs,
        cpu_shares: info.cpu_shares,
        cpu_set: info.cpuset,
        pids_limit: info.pids_limit,
        ipv4_forwarding: info.ipv4_forwarding,
        debug: config.debug,
        n_fd: info.file_descriptors,
        oom_kill_disable: info.oom_kill_disable,
        n_goroutines: tasks,
        system_time: Timestamp::now().rfc3339(),
        logging_driver: or_default(&config.default_log_driver, "json-file"),
        cgroup_driver: "cgroupfs",
        cgroup_version: info.cgroup_version.max(1).to_string(),
        n_events_listener: info.event_listeners,
        kernel_version: info.kernel_version,
        operating_system: info.operating_system,
        os_version: info.os_version,
        os_type: "linux",
        architecture: std::env::consts::ARCH,
        index_server_address: "https://index.docker.io/v1/",
        registry_config: registries(config),
        n_cpu: info.cpus,
        mem_total: info.memory_total,
        generic_resources: Value::Null,
        docker_root_dir: or_default(&info.data_root, &config.data_root.to_string_lossy()),
        http_proxy: "",
        https_proxy: "",
        no_proxy: "",
        name: info.hostname,
        labels: config.labels.clone(),
        experimental_build: false,
        server_version: VERSION,
        runtimes: runtimes(version),
        default_runtime: "runc",
        swarm: json!({
            "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "",
            "RemoteManagers": null,
        }),
        // Containers always outlive the daemon here.
        live_restore_enabled: true,
        isolation: "",
        init_binary: "longshore",
        containerd_commit: json!({ "ID": "" }),
        runc_commit: json!({ "ID": "" }),
        init_commit: json!({ "ID": "" }),
        security_options: match info.cgroup_version {
            2 => vec!["name=seccomp,profile=builtin", "name=cgroupns"],
            _ => vec!["name=seccomp,profile=builtin"],
        },
        firewall_backend: version
            .since(49)
            .then(|| json!({ "Driver": "nftables", "Info": [["EnableUserlandProxy", "false"]] })),
        cdi_spec_dirs: Vec::new(),
        containerd: version
            .since(46)
            .then(|| json!({ "Address": "", "Namespaces": { "Containers": "", "Plugins": "" } })),
        warnings,
        bridge_netfilter: version.before(50).then_some(BridgeNetfilter {
            ip4: false,
            ip6: false,
        }),
    }
}

/// `GET /info`
pub(crate) async fn info(request: Request) -> Result<Response> {
    let info = request.engine.system_info().await;
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    let view = view(info, request.engine.config(), request.version, tasks);
    Ok(Response::ok(&view))
}

#[cfg(test)]
mod tests;
