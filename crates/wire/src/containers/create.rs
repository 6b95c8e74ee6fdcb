//! `POST /containers/create`: from a request of any API version to the engine's [`ContainerSpec`], with dockerd's checks
//! in dockerd's words. What needs the image, other containers or the disk is the engine's to check.

mod adapt;
mod log;
mod mounts;
pub(crate) mod network;
mod platform;
pub(crate) mod resources;
pub(crate) mod security;
mod text;
mod upgrade;
pub(crate) mod validate;

#[cfg(test)]
mod fields;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use hyper::StatusCode;
use longshore_engine::{
    Engine,
    api::{
        ContainerSpec, CreateRequest, Healthcheck, IpcMode, LogSpec, Mode, ProcessSpec,
        RestartPolicy, SystemInfo,
    },
};
use longshore_model::{Error, Result, config::DaemonConfig};
use tokio::sync::OnceCell;

use crate::{
    dto::{
        container::{ContainerConfig, CreateAnswer, CreateBody, Echo},
        hostconfig::HostConfig,
    },
    json,
    request::Request,
    response::Response,
    version::ApiVersion,
};

/// What the machine can do; asked once, it does not change while the daemon lives.
pub struct HostFacts {
    pub cgroup_unified: bool,
    pub cpus: usize,
    /// Lists as the kernel prints them, `0-3`.
    pub cpus_online: String,
    pub mems_online: String,
    pub memory_limit: bool,
    pub swap_limit: bool,
    pub memory_swappiness: bool,
    pub oom_kill_disable: bool,
    pub pids_limit: bool,
    pub cpu_cfs: bool,
    pub cpu_shares: bool,
    pub cpu_realtime: bool,
    pub cpuset: bool,
    /// Major and minor number of a device node.
    pub device_number: fn(&str) -> std::io::Result<(u32, u32)>,
}

impl HostFacts {
    fn new(info: &SystemInfo) -> Self {
        let unified = info.cgroup_version == 2;
        let online = |path: &str, default: String| {
            std::fs::read_to_string(path).map_or(default, |text| text.trim().to_owned())
        };
        let last = info.cpus.saturating_sub(1);
        Self {
            cgroup_unified: unified,
            cpus: info.cpus,
            cpus_online: online("/sys/devices/system/cpu/online", format!("0-{last}")),
            mems_online: online("/sys/devices/system/node/online", "0".to_owned()),
            memory_limit: info.memory_limit,
            swap_limit: info.swap_limit,
            memory_swappiness: info.memory_limit && !unified,
            oom_kill_disable: info.oom_kill_disable && !unified,
            pids_limit: info.pids_limit,
            cpu_cfs: info.cpu_cfs,
            cpu_shares: info.cpu_shares,
            // Real-time group scheduling is not compiled into the kernels of the distributions.
            cpu_realtime: false,
            cpuset: info.cpuset,
            device_number,
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self {
            cgroup_unified: false,
            cpus: 2,
            cpus_online: "0-1".to_owned(),
            mems_online: "0".to_owned(),
            memory_limit: true,
            swap_limit: true,
            memory_swappiness: true,
            oom_kill_disable: true,
            pids_limit: true,
            cpu_cfs: true,
            cpu_shares: true,
            cpu_realtime: false,
            cpuset: true,
            device_number: |_| Ok((8, 0)),
        }
    }
}

fn device_number(path: &str) -> std::io::Result<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    let number = std::fs::metadata(path)?.rdev();
    Ok((rustix::fs::major(number), rustix::fs::minor(number)))
}

pub(crate) async fn facts(engine: &Engine) -> &'static HostFacts {
    static FACTS: OnceCell<HostFacts> = OnceCell::const_new();
    FACTS
        .get_or_init(|| async { HostFacts::new(&engine.system_info().await) })
        .await
}

/// What a conversion needs to know besides the body.
pub struct Context<'a> {
    pub version: ApiVersion,
    pub facts: &'a HostFacts,
    pub config: &'a DaemonConfig,
    /// `?platform=`
    pub platform: &'a str,
    /// Id of a container by name or id, for `container:<x>` modes.
    pub lookup: &'a dyn Fn(&str) -> Option<String>,
}

/// A request that passed.
pub struct Accepted {
    pub spec: ContainerSpec,
    pub echo: Echo,
    pub warnings: Vec<String>,
}

/// `POST /containers/create`
pub async fn create(mut request: Request) -> Result<Response> {
    let tree = json::parse_body(&json::read_bytes(&mut request).await?)?;
    let has_config = names_config(&tree);
    let body: CreateBody = json::decode(tree, "")?;
    if !has_config {
        return Err(Error::invalid(
            "config cannot be empty in order to create a container",
        ));
    }
    let engine = request.engine.clone();
    let facts = facts(&engine).await;
    let accepted = convert(
        body,
        &Context {
            version: request.version,
            facts,
            config: engine.config(),
            platform: request.query.get("platform"),
            lookup: &|name| {
                engine
                    .container(name)
                    .ok()
                    .map(|found| found.id.to_string())
            },
        },
    )?;
    let echo = String::from_utf8(json::to_vec(&accepted.echo)).unwrap_or_default();
    let name = request.query.get("name").to_owned();
    let created = engine
        .create_container(CreateRequest {
            name,
            spec: accepted.spec,
            echo,
        })
        .await?;
    let mut warnings = created.warnings;
    warnings.extend(accepted.warnings);
    Ok(Response::json(
        StatusCode::CREATED,
        &CreateAnswer {
            id: created.id,
            warnings,
        },
    ))
}

/// True when the body has any member of `Config`; without one Go's decoder leaves the embedded pointer nil.
fn names_config(tree: &json::Value) -> bool {
    const MEMBERS: [&str; 25] = [
        "Hostname",
        "Domainname",
        "User",
        "AttachStdin",
        "AttachStdout",
        "AttachStderr",
        "ExposedPorts",
        "Tty",
        "OpenStdin",
        "StdinOnce",
        "Env",
        "Cmd",
        "Healthcheck",
        "ArgsEscaped",
        "Image",
        "Volumes",
        "WorkingDir",
        "Entrypoint",
        "NetworkDisabled",
        "MacAddress",
        "OnBuild",
        "Labels",
        "StopSignal",
        "StopTimeout",
        "Shell",
    ];
    match tree {
        json::Value::Object(members) => members.iter().any(|(key, _)| {
            MEMBERS
                .iter()
                .any(|member| member.eq_ignore_ascii_case(key))
        }),
        _ => false,
    }
}

/// The whole conversion; pure but for the device numbers and the look-up that `context` holds.
///
/// # Errors
/// 400 in dockerd's words; 501 for what this engine cannot do.
pub fn convert(body: CreateBody, context: &Context<'_>) -> Result<Accepted> {
    let (mut config, mut host, mut networking) = body.split();
    network::normalise(&mut config, &mut host, &mut networking)?;
    validate::network_mode(&config, &host)?;
    let version = context.version;
    let facts = context.facts;
    let mut warnings = Vec::new();
    let upgrade_warnings = upgrade::upgrade(
        version,
        facts.cgroup_unified,
        &mut config,
        &mut host,
        &mut networking,
    )?;
    let platform = if version.since(41) {
        platform::parse(context.platform)?
    } else {
        None
    };
    validate::config(&mut config)?;
    let mounts = mounts::convert(&host, version)?;
    warnings.extend(mounts.warnings);
    let (network, network_warnings) = network::convert(&config, &host, &networking)?;
    let security = security::convert(&host)?;
    warnings.extend(resources::verify(
        &mut host,
        facts,
        resources::Purpose::Create,
    )?);
    validate::host_config(&host)?;
    log::check(&host, adapt::default_log_driver(context.config))?;
    warnings.extend(network_warnings);
    warnings.extend(upgrade_warnings);

    let mut spec = ContainerSpec {
        image: config.image.clone(),
        process: process(&config, &host),
        hostname: config.hostname.clone(),
        domainname: config.domainname.clone(),
        labels: config.labels.clone().unwrap_or_default(),
        exposed_ports: config
            .exposed_ports
            .iter()
            .flatten()
            .map(|(port, _)| port.clone())
            .collect(),
        anonymous_volumes: anonymous_volumes(&config)?,
        healthcheck: config.healthcheck.as_ref().map(|check| Healthcheck {
            test: check.test.clone().unwrap_or_default(),
            interval: check.interval,
            timeout: check.timeout,
            start_period: check.start_period,
            start_interval: check.start_interval,
            retries: check.retries,
        }),
        shell: config.shell.clone().unwrap_or_default(),
        stop_signal: config.stop_signal.clone(),
        stop_timeout: config.stop_timeout,
        mounts: mounts.mounts,
        volumes_from: mounts.volumes_from,
        network,
        pid_mode: Mode::Private,
        ipc_mode: IpcMode::Private,
        uts_host: host.uts_mode == "host",
        cgroupns_private: None,
        security,
        resources: resources::convert(&host, facts)?,
        devices: resources::devices(&host)?,
        device_cgroup_rules: resources::device_rules(&host)?,
        cgroup_parent: cgroup_parent(&host)?,
        ulimits: resources::ulimits(&host)?,
        oom_score_adj: i32::try_from(host.oom_score_adj).unwrap_or_default(),
        sysctls: host.sysctls.clone().unwrap_or_default(),
        shm_size: u64::try_from(host.shm_size).unwrap_or_default(),
        init: host.init,
        auto_remove: host.auto_remove,
        restart: RestartPolicy {
            name: host.restart_policy.name.clone(),
            maximum_retry_count: host.restart_policy.maximum_retry_count,
        },
        log: LogSpec::default(),
        runtime: host.runtime.clone(),
        annotations: host.annotations.clone().unwrap_or_default(),
        platform,
    };
    adapt::fill_in(&mut host, context);
    adapt::finish(&mut spec, &host);
    Ok(Accepted {
        spec,
        echo: Echo {
            config,
            host_config: host,
            networking_config: networking,
        },
        warnings,
    })
}

fn process(config: &ContainerConfig, host: &HostConfig) -> ProcessSpec {
    let side = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    ProcessSpec {
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        env: config.env.clone().unwrap_or_default(),
        working_dir: config.working_dir.clone(),
        user: config.user.clone(),
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        console_size: (side(host.console_size.0), side(host.console_size.1)),
    }
}

fn anonymous_volumes(config: &ContainerConfig) -> Result<BTreeSet<String>> {
    config
        .volumes
        .iter()
        .flatten()
        .map(|(target, _)| {
            if !target.starts_with('/') {
                return Err(Error::invalid(format!(
                    "invalid volume specification: '{target}': invalid mount path: '{target}' mount path must be absolute"
                )));
            }
            if text::clean_path(target) == "/" {
                return Err(Error::invalid(format!(
                    "invalid volume specification: '{target}': invalid specification: destination can't be '/'"
                )));
            }
            text::no_nul("volume", target)?;
            Ok(target.clone())
        })
        .collect()
}

/// A path below the hierarchies; it must not climb out of them.
fn cgroup_parent(host: &HostConfig) -> Result<String> {
    let parent = host.cgroup_parent.as_str();
    if parent.split('/').any(|part| part == "..") || parent.contains(|c: char| c.is_control()) {
        return Err(Error::invalid(format!("invalid cgroup parent: {parent:?}")));
    }
    Ok(parent.to_owned())
}
