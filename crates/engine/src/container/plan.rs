//! From a container's definition to a launch plan: every look-up is done here, the shim only carries out.

use std::path::{Path, PathBuf};

use longshore_model::{
    ContainerId, Error, Result,
    config::DaemonConfig,
    mount::{MountSource, ReadOnlyRecursive},
};
use longshore_shim::protocol::{
    CgroupPlan, DeviceNode, DevicePlan, InterfacePlan, LaunchPlan, MountKind, MountPlan,
    NamespaceMode, NamespacePlan, ProcessPlan, RootfsPlan, StackedPlan,
};

use super::{
    networking::{self, Plugged},
    record::{Definition, ResolvedMount},
    security,
    spec::{ContainerSpec, IpcMode, NetworkMode},
};

/// What a plan needs from outside the definition.
pub(crate) struct Surroundings<'a> {
    pub config: &'a DaemonConfig,
    pub filters: &'a security::Filters,
    pub cgroup_v2: bool,
    pub upper: PathBuf,
    pub work: PathBuf,
    pub plugged: &'a [Plugged],
    /// Namespaces to join, by mode: `container:` targets resolved to (pid, start time).
    pub joins: Joins,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Joins {
    pub net: Option<(i32, u64)>,
    pub pid: Option<(i32, u64)>,
    pub ipc: Option<(i32, u64)>,
}

/// Below each hierarchy's mount: `docker/<id>` unless `--cgroup-parent` says otherwise.
pub(crate) fn cgroup_path(config: &DaemonConfig, definition: &Definition) -> String {
    cgroup_path_of(config, &definition.spec.cgroup_parent, &definition.id)
}

pub(crate) fn cgroup_path_of(config: &DaemonConfig, own_parent: &str, id: &ContainerId) -> String {
    let own = own_parent.trim_matches('/');
    let parent = if own.is_empty() {
        config.cgroup_parent.trim_matches('/')
    } else {
        own
    };
    let parent = if parent.is_empty() { "docker" } else { parent };
    format!("{parent}/{id}")
}

/// # Errors
/// Capabilities, seccomp profiles, devices or limits that are not valid.
pub(crate) fn build(definition: &Definition, around: &Surroundings<'_>) -> Result<LaunchPlan> {
    let spec = &definition.spec;
    let security = &spec.security;
    let joined = |join: Option<(i32, u64)>, host: bool| match (join, host) {
        (Some((pid, start_time)), _) => NamespaceMode::JoinPid { pid, start_time },
        (None, true) => NamespaceMode::Host,
        (None, false) => NamespaceMode::New,
    };
    let host_network = spec.network.mode == NetworkMode::Host;
    let private_cgroup = spec.cgroupns_private.unwrap_or_else(|| {
        around
            .config
            .default_cgroupns_mode
            .as_deref()
            .map_or(around.cgroup_v2 && !security.privileged, |m| m == "private")
    });
    let paths = |own: &Option<Vec<String>>, default: &[&str]| match own {
        _ if security.privileged => Vec::new(),
        Some(own) => own.clone(),
        None => default.iter().map(ToString::to_string).collect(),
    };
    let mut sysctls = Vec::new();
    if !host_network && around.joins.net.is_none() {
        // As dockerd has set them since 20.10, so that non-root processes may bind low ports and ping.
        sysctls.push((
            "net.ipv4.ip_unprivileged_port_start".to_owned(),
            "0".to_owned(),
        ));
        sysctls.push((
            "net.ipv4.ping_group_range".to_owned(),
            "0 2147483647".to_owned(),
        ));
    }
    sysctls.retain(|(name, _)| !spec.sysctls.contains_key(name));
    sysctls.extend(
        spec.sysctls
            .iter()
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    check_sysctls(spec, host_network)?;
    sysctls.extend(networking::settings(&spec.network, around.plugged)?);
    let own_uts = !spec.uts_host;
    Ok(LaunchPlan {
        id: definition.id.to_string(),
        rootfs: RootfsPlan {
            lower: definition.layers.clone(),
            upper: around.upper.clone(),
            work: around.work.clone(),
            read_only: security.read_only_rootfs,
            shared_propagation: definition.mounts.iter().any(|m| {
                m.spec.propagation.ends_with("shared") || m.spec.propagation.ends_with("slave")
            }),
        },
        mounts: mounts(definition)?,
        namespaces: NamespacePlan {
            pid: joined(around.joins.pid, spec.pid_mode == super::spec::Mode::Host),
            net: joined(around.joins.net, host_network),
            ipc: joined(around.joins.ipc, spec.ipc_mode == IpcMode::Host),
            uts: if own_uts {
                NamespaceMode::New
            } else {
                NamespaceMode::Host
            },
            cgroup: if private_cgroup {
                NamespaceMode::New
            } else {
                NamespaceMode::Host
            },
            shm_from: match (&spec.ipc_mode, around.joins.ipc) {
                (IpcMode::Host, _) => Some(PathBuf::from("/dev/shm")),
                (_, Some((pid, _))) => Some(PathBuf::from(format!("/proc/{pid}/root/dev/shm"))),
                _ => None,
            },
        },
        hostname: own_uts.then(|| definition.hostname.clone()),
        domainname: (own_uts && !spec.domainname.is_empty()).then(|| spec.domainname.clone()),
        interfaces: interfaces(&spec.network, around.plugged),
        resolver: None,
        sysctls,
        masked_paths: paths(&security.masked_paths, security::MASKED_PATHS),
        readonly_paths: paths(&security.readonly_paths, security::READONLY_PATHS),
        devices: DevicePlan {
            all: security.privileged,
            nodes: devices(spec)?.into_iter().map(|(node, _)| node).collect(),
        },
        shm_size: if spec.shm_size == 0 {
            around.config.default_shm_size
        } else {
            spec.shm_size
        },
        no_shm: spec.ipc_mode == IpcMode::None,
        // Only what is the container's own: a namespace of cgroup2.
        writable_cgroups: security.writable_cgroups == Some(true)
            && private_cgroup
            && around.cgroup_v2,
        cgroup: cgroup(definition, around)?,
        process: process(definition, around)?,
        init: spec.init.unwrap_or(around.config.default_init),
        privileged: security.privileged,
    })
}

/// Only settings of a namespace that is the container's own may be written: any other is the whole host's.
fn check_sysctls(spec: &ContainerSpec, host_network: bool) -> Result<()> {
    const OF_IPC: &[&str] = &[
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    for name in spec.sysctls.keys() {
        let own = if OF_IPC.contains(&name.as_str()) || name.starts_with("fs.mqueue.") {
            spec.ipc_mode != IpcMode::Host
        } else if name.starts_with("net.") {
            !host_network
        } else {
            name == "kernel.domainname" && !spec.uts_host
        };
        if !own {
            return Err(Error::invalid(format!(
                "failed to create task for container: failed to create shim task: OCI runtime create failed: runc \
                 create failed: sysctl \"{name}\" is not in a separate kernel namespace"
            )));
        }
    }
    Ok(())
}

/// In the order in which the container numbers them.
fn interfaces(spec: &super::spec::NetworkSpec, plugged: &[Plugged]) -> Vec<InterfacePlan> {
    let routes = networking::default_routes(spec, plugged);
    plugged
        .iter()
        .map(|p| {
            let endpoint = &p.endpoint;
            InterfacePlan {
                host_name: endpoint.host_name.clone(),
                bridge_index: endpoint.bridge_index,
                name: endpoint.interface.clone(),
                mac: endpoint.mac,
                mtu: endpoint.mtu,
                addresses: endpoint.addresses(),
                gateways: routes
                    .iter()
                    .filter(|(interface, _)| *interface == endpoint.interface)
                    .map(|(_, gateway)| *gateway)
                    .collect(),
                ipv6: endpoint.ip6.is_some(),
                isolated: endpoint.isolated,
                stacked: endpoint.stacked.as_ref().map(|stacked| StackedPlan {
                    kind: stacked.kind.clone(),
                    mode: stacked.mode,
                    flags: stacked.flags,
                    parent: stacked.parent,
                }),
            }
        })
        .collect()
}

fn cgroup(definition: &Definition, around: &Surroundings<'_>) -> Result<CgroupPlan> {
    let spec = &definition.spec;
    let mut device_rules: Vec<String> = security::DEVICE_RULES
        .iter()
        .map(ToString::to_string)
        .collect();
    for (node, permissions) in devices(spec)? {
        let kind = if node.block { 'b' } else { 'c' };
        device_rules.push(format!(
            "{kind} {}:{} {permissions}",
            node.major, node.minor
        ));
    }
    device_rules.extend(spec.device_cgroup_rules.iter().cloned());
    Ok(CgroupPlan {
        path: cgroup_path(around.config, definition),
        resources: spec.resources.clone(),
        device_rules,
        allow_all_devices: spec.security.privileged,
    })
}

/// The host's device nodes that `--device` names (a directory gives all nodes in it), with their permissions.
fn devices(spec: &ContainerSpec) -> Result<Vec<(DeviceNode, String)>> {
    let mut found = Vec::new();
    if spec.security.privileged {
        return Ok(found);
    }
    for (host, inside, permissions) in &spec.devices {
        let missing = |error: std::io::Error| {
            Error::invalid(format!(
                "error gathering device information while adding custom device \"{host}\": {}",
                longshore_model::error::go_errno(&error)
            ))
        };
        let path = std::fs::canonicalize(host).map_err(missing)?;
        let permissions = if permissions.is_empty() {
            "rwm".to_owned()
        } else {
            permissions.clone()
        };
        if path.is_dir() {
            for entry in std::fs::read_dir(&path).map_err(missing)?.flatten() {
                let name = entry.file_name();
                let below = format!(
                    "{}/{}",
                    inside.trim_end_matches('/'),
                    name.to_string_lossy()
                );
                found.extend(node(&entry.path(), &below).map(|n| (n, permissions.clone())));
            }
        } else {
            let node = node(&path, inside).ok_or_else(|| {
                Error::invalid(format!("error gathering device information while adding custom device \"{host}\": not a device node"))
            })?;
            found.push((node, permissions));
        }
    }
    Ok(found)
}

fn node(host: &Path, inside: &str) -> Option<DeviceNode> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let metadata = std::fs::metadata(host).ok()?;
    let kind = metadata.file_type();
    (kind.is_block_device() || kind.is_char_device()).then(|| DeviceNode {
        path: inside.to_owned(),
        block: kind.is_block_device(),
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

pub(crate) fn mounts(definition: &Definition) -> Result<Vec<MountPlan>> {
    let mut all = Vec::new();
    for mount in &definition.mounts {
        all.push(mount_plan(mount)?);
    }
    let file = |target: &str, source: &str| MountPlan {
        target: target.to_owned(),
        kind: MountKind::Bind {
            source: PathBuf::from(source),
            recursive: true,
            read_only_recursive: None,
            propagation: String::new(),
            copy_up: false,
        },
        read_only: false,
    };
    let taken = |target: &str| definition.mounts.iter().any(|m| m.spec.target == target);
    for (target, source) in [
        ("/etc/resolv.conf", &definition.paths.resolv_conf),
        ("/etc/hostname", &definition.paths.hostname),
        ("/etc/hosts", &definition.paths.hosts),
    ] {
        if !taken(target) && !source.is_empty() {
            all.push(file(target, source));
        }
    }
    // Parents before what is mounted below them, else in the order given (stable sort).
    all.sort_by_key(|mount| mount.target.matches('/').count());
    Ok(all)
}

fn mount_plan(mount: &ResolvedMount) -> Result<MountPlan> {
    let spec = &mount.spec;
    let bind = |source: PathBuf, copy_up: bool| MountKind::Bind {
        source,
        recursive: spec.recursive,
        read_only_recursive: match spec.read_only_recursive {
            ReadOnlyRecursive::IfPossible => None,
            ReadOnlyRecursive::No => Some(false),
            ReadOnlyRecursive::Force => Some(true),
        },
        propagation: spec.propagation.clone(),
        copy_up,
    };
    let kind = match &spec.source {
        MountSource::Bind { path, create } => {
            prepare_bind(path, *create)?;
            bind(PathBuf::from(path), false)
        }
        MountSource::Volume {
            no_copy, subpath, ..
        } => {
            let root = Path::new(&mount.point.source);
            let source = if subpath.is_empty() {
                root.to_owned()
            } else {
                volume_subpath(root, subpath)?
            };
            bind(source, !no_copy && subpath.is_empty())
        }
        MountSource::Tmpfs {
            size,
            mode,
            options,
        } => tmpfs(*size, *mode, options),
        MountSource::Image { subpath, .. } => MountKind::Image {
            layers: mount
                .image
                .as_ref()
                .map_or_else(Vec::new, |i| i.layers.clone()),
            subpath: subpath.clone(),
        },
    };
    Ok(MountPlan {
        target: spec.target.clone(),
        kind,
        read_only: spec.read_only,
    })
}

/// `-v` makes a missing source directory, as dockerd does; `--mount` refuses.
fn prepare_bind(path: &str, create: bool) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && create => {
            std::fs::create_dir_all(path).map_err(|e| {
                Error::io(
                    format!("error while creating mount source path '{path}': mkdir {path}"),
                    e,
                )
            })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::invalid(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {path}"
        ))),
        Err(error) => Err(Error::io(format!("stat {path}"), error)),
    }
}

/// A folder inside a volume; it must exist and may not leave the volume by a symlink.
fn volume_subpath(root: &Path, subpath: &str) -> Result<PathBuf> {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    let shown = root.join(subpath);
    let dir = rustix::fs::open(
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| Error::io(format!("open {}", root.display()), e))?;
    let flags = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    longshore_shim::host::resolve::open(&dir, subpath, OFlags::PATH | OFlags::CLOEXEC, flags)
        .map_err(|error| {
            let text = longshore_model::error::go_errno(&error.into());
            Error::not_found(format!(
                "cannot access path {0}: lstat {0}: {text}",
                shown.display()
            ))
        })?;
    Ok(shown)
}

fn tmpfs(size: u64, mode: Option<u32>, options: &str) -> MountKind {
    let mut data = Vec::new();
    let mut flags: Vec<String> = Vec::new();
    if size > 0 {
        data.push(("size".to_owned(), size.to_string()));
    }
    if let Some(mode) = mode {
        data.push(("mode".to_owned(), format!("{mode:o}")));
    }
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option.split_once('=') {
            Some((key, value)) => data.push((key.to_owned(), value.to_owned())),
            None => flags.push(option.to_owned()),
        }
    }
    // Docker's defaults; an option of the user's takes their place.
    for (default, opposite) in [("noexec", "exec"), ("nosuid", "suid"), ("nodev", "dev")] {
        if !flags.iter().any(|f| f == opposite || f == default) {
            flags.push(default.to_owned());
        }
    }
    MountKind::Tmpfs { data, flags }
}

fn process(definition: &Definition, around: &Surroundings<'_>) -> Result<ProcessPlan> {
    let spec = &definition.spec;
    let capabilities = security::capabilities(&spec.security)?;
    let seccomp = around.filters.get(&spec.security, capabilities)?;
    Ok(ProcessPlan {
        args: definition.command.clone(),
        env: environment(definition),
        cwd: spec.process.working_dir.clone(),
        user: spec.process.user.clone(),
        additional_groups: spec.security.group_add.clone(),
        capabilities,
        no_new_privileges: spec
            .security
            .no_new_privileges
            .unwrap_or(around.config.no_new_privileges),
        seccomp: seccomp.map(|program| program.as_ref().clone()),
        rlimits: rlimits(spec, around.config)?,
        oom_score_adj: (spec.oom_score_adj != 0).then_some(spec.oom_score_adj),
        terminal: spec.process.tty,
        console_size: (spec.process.console_size != (0, 0)).then_some(spec.process.console_size),
        stdin: spec.process.open_stdin,
    })
}

/// PATH, HOSTNAME, TERM with a terminal; what image and user say takes their place. The launcher adds HOME.
pub(crate) fn environment(definition: &Definition) -> Vec<String> {
    let spec = &definition.spec;
    let mut env = vec![
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        format!("HOSTNAME={}", definition.hostname),
    ];
    if spec.process.tty {
        env.push("TERM=xterm".to_owned());
    }
    merge_env(&mut env, &spec.process.env);
    env
}

/// Entries of `over` take the place of those of the same name; a bare name takes the variable away (Docker's rule).
pub(crate) fn merge_env(env: &mut Vec<String>, over: &[String]) {
    let name_of = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    for entry in over {
        let name = name_of(entry);
        let at = env.iter().position(|have| name_of(have) == name);
        match (at, entry.contains('=')) {
            (Some(at), true) => env[at].clone_from(entry),
            (Some(at), false) => {
                env.remove(at);
            }
            (None, true) => env.push(entry.clone()),
            (None, false) => {}
        }
    }
}

/// RLIMIT numbers by the names that `--ulimit` takes.
const RLIMITS: &[(&str, u32)] = &[
    ("cpu", 0),
    ("fsize", 1),
    ("data", 2),
    ("stack", 3),
    ("core", 4),
    ("rss", 5),
    ("nproc", 6),
    ("nofile", 7),
    ("memlock", 8),
    ("as", 9),
    ("locks", 10),
    ("sigpending", 11),
    ("msgqueue", 12),
    ("nice", 13),
    ("rtprio", 14),
    ("rttime", 15),
];

pub(crate) fn rlimits(spec: &ContainerSpec, config: &DaemonConfig) -> Result<Vec<(u32, u64, u64)>> {
    let wanted = config
        .default_ulimits
        .iter()
        .filter(|(name, ..)| !spec.ulimits.iter().any(|(own, ..)| own == name))
        .chain(&spec.ulimits);
    let value = |limit: i64| u64::try_from(limit).unwrap_or(u64::MAX);
    wanted
        .map(|(name, soft, hard)| {
            let number = RLIMITS
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, number)| *number);
            let number =
                number.ok_or_else(|| Error::invalid(format!("invalid ulimit type: {name}")))?;
            Ok((number, value(*soft), value(*hard)))
        })
        .collect()
}
