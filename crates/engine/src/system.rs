//! Facts about the machine, and what the engine occupies.

use std::{collections::BTreeMap, path::Path};

use longshore_model::Result;

use crate::{
    Engine,
    api::{DiskUsage, ImageQuery, Phase, SystemInfo},
};

/// What does not change while the daemon runs.
pub(crate) struct Facts {
    /// 1 (also hybrid) or 2.
    pub cgroup_version: u8,
    controllers: Vec<String>,
}

impl Facts {
    pub(crate) fn read() -> Self {
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers");
        if let Ok(text) = std::fs::read_to_string(unified) {
            let controllers = text.split_whitespace().map(str::to_owned).collect();
            return Self {
                cgroup_version: 2,
                controllers,
            };
        }
        let text = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
        let names = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_whitespace().next());
        let controllers = names.filter(|name| Path::new("/sys/fs/cgroup").join(name).is_dir());
        Self {
            cgroup_version: 1,
            controllers: controllers.map(str::to_owned).collect(),
        }
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

/// The host's name.
pub(crate) fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Bytes of the files below a directory; what cannot be read counts nothing. Does not follow links.
pub(crate) fn disk_size(path: &Path) -> u64 {
    let mut total = 0;
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) => total += metadata.len(),
                Err(_) => {}
            }
        }
    }
    total
}

/// Whether groups of the v2 tree at `root` have a limit for swap. The kernel's root group shows no limits; one below it
/// tells. Without any that has limits for memory nothing is known, and swap is taken as limited.
fn swap_is_limited(root: &Path) -> bool {
    let below = std::fs::read_dir(root).into_iter().flatten().flatten();
    let mut groups = std::iter::once(root.to_owned()).chain(below.map(|entry| entry.path()));
    groups
        .find(|group| group.join("memory.max").exists())
        .is_none_or(|group| group.join("memory.swap.max").exists())
}

/// A field of os-release, without its quotes.
fn os_release(text: &str, field: &str) -> String {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix('='));
    line.unwrap_or_default()
        .trim_matches(['"', '\''])
        .to_owned()
}

impl Engine {
    /// Numbers for `/info`.
    pub async fn system_info(&self) -> SystemInfo {
        let snapshots = self.containers();
        let count = |test: &dyn Fn(&Phase) -> bool| {
            snapshots.iter().filter(|s| test(&s.state.phase)).count()
        };
        let uname = rustix::system::uname();
        let facts = &self.inner.facts;
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = memory.lines().find_map(|l| {
            l.strip_prefix("MemTotal:")?
                .split_whitespace()
                .next()?
                .parse::<u64>()
                .ok()
        });
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let paused = count(&|p| matches!(p, Phase::Running { paused: true, .. }));
        let running =
            count(&|p| matches!(p, Phase::Running { paused: false, .. } | Phase::Restarting));
        SystemInfo {
            id: self.inner.id.clone(),
            containers: snapshots.len(),
            running,
            paused,
            stopped: snapshots.len() - running - paused,
            images: self.inner.images().list().len(),
            cgroup_version: facts.cgroup_version,
            event_listeners: self.inner.hub.listeners(),
            memory_total: kib.unwrap_or(0) * 1024,
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            kernel_version: uname.release().to_string_lossy().into_owned(),
            operating_system: os_release(&release, "PRETTY_NAME"),
            os_version: os_release(&release, "VERSION_ID"),
            hostname: hostname(),
            ipv4_forwarding: read("/proc/sys/net/ipv4/ip_forward").trim() == "1",
            file_descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            data_root: self.inner.config.data_root.to_string_lossy().into_owned(),
            memory_limit: facts.has("memory"),
            swap_limit: match facts.cgroup_version {
                2 => swap_is_limited(Path::new("/sys/fs/cgroup")),
                _ => Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
            },
            cpu_cfs: facts.has("cpu"),
            cpu_shares: facts.has("cpu"),
            cpuset: facts.has("cpuset"),
            pids_limit: facts.has("pids"),
            oom_kill_disable: facts.cgroup_version == 1 && facts.has("memory"),
        }
    }

    /// What containers, images and volumes occupy.
    ///
    /// # Errors
    /// Sizes that cannot be read.
    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        let mut container_sizes = BTreeMap::new();
        for snapshot in self.containers() {
            let id = snapshot.id.to_string();
            if let Ok(sizes) = self.container_size(&id).await {
                container_sizes.insert(id, sizes);
            }
        }
        let query = ImageQuery {
            shared_size: true,
            ..ImageQuery::default()
        };
        let images = self.list_images(query).await?;
        Ok(DiskUsage {
            layers_size: self.inner.images().total_size(),
            images,
            container_sizes,
            volumes: self.volumes_with_usage().await?,
        })
    }

    /// (bytes of the writable layer, bytes of the whole root file system)
    ///
    /// # Errors
    /// 404.
    pub async fn container_size(&self, name: &str) -> Result<(u64, u64)> {
        let snapshot = self.container(name)?;
        let upper = self.inner.store.containers().dirs(&snapshot.id).upper;
        let rw = crate::blocking(move || Ok(disk_size(&upper))).await?;
        Ok((rw, rw + self.inner.root_size(&snapshot.image.id)))
    }
}
