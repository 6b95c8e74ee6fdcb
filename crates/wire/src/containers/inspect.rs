//! `GET /containers/{name}/json`: a mirror of what create was given, with the container's state.

use longshore_engine::api::{Healthcheck, Phase, Snapshot, State};
use longshore_model::Result;

use super::view;
use crate::{
    dto::{
        container::{
            ContainerConfig, Echo, Empty, EndpointSettings, GraphDriverView, HealthConfig,
            InspectAnswer, NetworkSettingsView, RootFsStorage, SnapshotStorage, StateView,
            StorageView,
        },
        hostconfig::HostConfig,
    },
    request::Request,
    response::Response,
    version::ApiVersion,
};

/// Name of the file system that containers are made on, as dockerd with the containerd store calls it.
const DRIVER: &str = "overlayfs";

/// `GET /containers/{name}/json`
pub async fn inspect(request: Request) -> Result<Response> {
    let snapshot = request.engine.container(request.name())?;
    let sizes = if request.query.bool("size") {
        Some(request.engine.container_size(snapshot.id.as_str()).await?)
    } else {
        None
    };
    let name_of = |target: &str| {
        request
            .engine
            .container(target)
            .ok()
            .map(|found| found.name.clone())
    };
    Ok(Response::ok(&answer(
        &snapshot,
        sizes,
        request.version,
        &name_of,
    )))
}

/// The answer for one snapshot. `name_of` finds a link target's name now.
pub fn answer(
    snapshot: &Snapshot,
    sizes: Option<(u64, u64)>,
    version: ApiVersion,
    name_of: &dyn Fn(&str) -> Option<String>,
) -> InspectAnswer {
    // An echo that cannot be read costs only what was never in the spec.
    let echo: Echo = serde_json::from_str(&snapshot.echo).unwrap_or_else(|error| {
        tracing::warn!(container = %snapshot.id, %error, "the stored request cannot be read");
        Echo::default()
    });
    let mut networks = view::endpoints(snapshot, &echo.networking_config);
    if version.before(45) {
        for (name, endpoint) in &mut networks {
            if !matches!(name.as_str(), "bridge" | "host" | "none") {
                let aliases = endpoint.aliases.get_or_insert_default();
                for extra in [snapshot.id.short(), &snapshot.hostname] {
                    if !extra.is_empty() && !aliases.iter().any(|a| a == extra) {
                        aliases.push(extra.to_owned());
                    }
                }
            }
        }
    }
    let legacy = version.before(52);
    let mut config = config(snapshot, echo.config);
    if legacy {
        config.mac_address = wanted_mac(&echo.networking_config, &echo.host_config);
    }
    let bridge = if legacy {
        networks.get("bridge").cloned()
    } else {
        None
    };
    let paths = &snapshot.paths;
    InspectAnswer {
        id: snapshot.id.to_string(),
        created: snapshot.created.rfc3339(),
        path: snapshot.command.first().cloned().unwrap_or_default(),
        args: snapshot.command.iter().skip(1).cloned().collect(),
        state: state(snapshot),
        image: snapshot.image.id.clone(),
        resolv_conf_path: paths.resolv_conf.clone(),
        hostname_path: paths.hostname.clone(),
        hosts_path: paths.hosts.clone(),
        log_path: paths.log.clone(),
        name: format!("/{}", snapshot.name),
        restart_count: snapshot.restart_count,
        driver: DRIVER,
        platform: match snapshot.image.os.as_str() {
            "" => "linux".to_owned(),
            os => os.to_owned(),
        },
        mount_label: "",
        process_label: "",
        app_armor_profile: snapshot.spec.security.apparmor.clone(),
        exec_ids: (!snapshot.exec_ids.is_empty()).then(|| snapshot.exec_ids.clone()),
        host_config: host_config(snapshot, echo.host_config, name_of),
        graph_driver: legacy.then(|| GraphDriverView {
            data: None,
            name: DRIVER.to_owned(),
        }),
        storage: (!legacy).then(|| StorageView {
            root_fs: RootFsStorage {
                snapshot: SnapshotStorage {
                    name: DRIVER.to_owned(),
                },
            },
        }),
        size_rw: sizes.map(|(rw, _)| rw),
        size_root_fs: sizes.map(|(_, root)| root),
        mounts: view::mounts(&snapshot.mounts),
        config,
        network_settings: network_settings(snapshot, networks, bridge),
        image_manifest_descriptor: version
            .since(48)
            .then(|| view::manifest(&snapshot.image))
            .flatten(),
    }
}

fn state(snapshot: &Snapshot) -> StateView {
    let State {
        phase,
        exit_code,
        oom_killed,
        error,
        started_at,
        finished_at,
    } = &snapshot.state;
    StateView {
        status: phase.status(),
        running: phase.is_up(),
        paused: matches!(phase, Phase::Running { paused: true, .. }),
        restarting: matches!(phase, Phase::Restarting),
        oom_killed: *oom_killed,
        dead: matches!(phase, Phase::Dead),
        pid: phase.pid(),
        exit_code: *exit_code,
        error: error.clone(),
        started_at: started_at.rfc3339(),
        finished_at: finished_at.rfc3339(),
        health: view::health(snapshot),
    }
}

/// The request's configuration with the values that the image filled in.
fn config(snapshot: &Snapshot, asked: ContainerConfig) -> ContainerConfig {
    let spec = &snapshot.spec;
    let command = |merged: &Option<Vec<String>>, asked: Option<Vec<String>>| match merged {
        Some(list) if list.iter().any(|part| !part.is_empty()) || list.len() > 1 => {
            Some(list.clone())
        }
        // What the client cleared stays as it wrote it: null or empty.
        _ => asked.filter(Vec::is_empty),
    };
    let set = |names: &std::collections::BTreeSet<String>| {
        (!names.is_empty()).then(|| names.iter().map(|name| (name.clone(), Empty {})).collect())
    };
    ContainerConfig {
        hostname: snapshot.hostname.clone(),
        domainname: spec.domainname.clone(),
        user: spec.process.user.clone(),
        exposed_ports: set(&spec.exposed_ports),
        env: if spec.process.env.is_empty() {
            asked.env
        } else {
            Some(spec.process.env.clone())
        },
        cmd: command(&spec.process.cmd, asked.cmd),
        healthcheck: spec.healthcheck.as_ref().map(healthcheck),
        volumes: set(&spec.anonymous_volumes),
        working_dir: spec.process.working_dir.clone(),
        entrypoint: command(&spec.process.entrypoint, asked.entrypoint),
        labels: Some(spec.labels.clone()),
        stop_signal: spec.stop_signal.clone(),
        // Not merged with the image; as given.
        attach_stdin: asked.attach_stdin,
        attach_stdout: asked.attach_stdout,
        attach_stderr: asked.attach_stderr,
        tty: asked.tty,
        open_stdin: asked.open_stdin,
        stdin_once: asked.stdin_once,
        args_escaped: asked.args_escaped,
        image: asked.image,
        network_disabled: asked.network_disabled,
        mac_address: String::new(),
        on_build: asked.on_build,
        stop_timeout: spec.stop_timeout,
        shell: asked.shell,
    }
}

fn healthcheck(check: &Healthcheck) -> HealthConfig {
    let Healthcheck {
        test,
        interval,
        timeout,
        start_period,
        start_interval,
        retries,
    } = check;
    HealthConfig {
        test: (!test.is_empty()).then(|| test.clone()),
        interval: *interval,
        timeout: *timeout,
        start_period: *start_period,
        start_interval: *start_interval,
        retries: *retries,
    }
}

fn host_config(
    snapshot: &Snapshot,
    mut host: HostConfig,
    name_of: &dyn Fn(&str) -> Option<String>,
) -> HostConfig {
    let links: Vec<String> = snapshot
        .spec
        .network
        .links
        .iter()
        .map(|link| {
            let (target, alias) = link.split_once(':').unwrap_or((link, link));
            let target = name_of(target).unwrap_or_else(|| target.to_owned());
            format!("/{target}:/{}/{alias}", snapshot.name)
        })
        .collect();
    host.links = (!links.is_empty()).then_some(links);
    host
}

/// The address that was asked for on the main network; old versions show it in `Config`.
fn wanted_mac(networking: &crate::dto::container::NetworkingConfig, host: &HostConfig) -> String {
    networking
        .endpoints_config
        .as_ref()
        .and_then(|endpoints| endpoints.get(&host.network_mode)?.as_ref())
        .map(|endpoint| endpoint.mac_address.clone())
        .unwrap_or_default()
}

fn network_settings(
    snapshot: &Snapshot,
    networks: std::collections::BTreeMap<String, EndpointSettings>,
    bridge: Option<EndpointSettings>,
) -> NetworkSettingsView {
    let mut settings = NetworkSettingsView {
        sandbox_id: snapshot.sandbox_id.clone(),
        sandbox_key: snapshot.sandbox_key.clone(),
        ports: view::port_map(snapshot),
        networks,
        endpoint_id: None,
        gateway: None,
        global_ipv6_address: None,
        global_ipv6_prefix_len: None,
        ip_address: None,
        ip_prefix_len: None,
        ipv6_gateway: None,
        mac_address: None,
    };
    if let Some(bridge) = bridge {
        settings.endpoint_id = Some(bridge.endpoint_id);
        settings.gateway = Some(bridge.gateway);
        settings.global_ipv6_address = Some(bridge.global_ipv6_address);
        settings.global_ipv6_prefix_len = Some(bridge.global_ipv6_prefix_len);
        settings.ip_address = Some(bridge.ip_address);
        settings.ip_prefix_len = Some(bridge.ip_prefix_len);
        settings.ipv6_gateway = Some(bridge.ipv6_gateway);
        settings.mac_address = Some(bridge.mac_address);
    }
    settings
}
