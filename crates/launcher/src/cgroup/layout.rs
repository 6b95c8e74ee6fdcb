//! Which hierarchies the host has.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::fs::{FileType, Mode, OFlags};

const CGROUP_SUPER_MAGIC: u64 = 0x0027_e0eb;
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// One mounted v1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    pub mount: PathBuf,
    /// Its directory's name below /sys/fs/cgroup: `cpu,cpuacct`, `systemd`.
    pub name: String,
    /// The controllers it carries; for a named one without controllers `name=systemd`.
    pub controllers: Vec<String>,
}

/// The host's hierarchies. Pure v2: `v1` is empty and `unified` is the root. Hybrid: both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    pub v1: Vec<Hierarchy>,
    pub unified: Option<PathBuf>,
}

impl Layout {
    /// Looks at /sys/fs/cgroup once; processes forked afterwards have the answer.
    pub fn host() -> &'static Self {
        static HOST: OnceLock<Layout> = OnceLock::new();
        HOST.get_or_init(|| Self::detect(Path::new("/sys/fs/cgroup")))
    }

    /// Looks at the file systems mounted at and below `root`.
    pub fn detect(root: &Path) -> Self {
        if magic(root) == Some(CGROUP2_SUPER_MAGIC) {
            return Self {
                v1: Vec::new(),
                unified: Some(root.to_owned()),
            };
        }
        let mut layout = Self::default();
        let mut names = mount_order(root);
        names.dedup();
        for name in names {
            let mount = root.join(&name);
            match magic(&mount) {
                Some(CGROUP_SUPER_MAGIC) => layout.v1.push(Hierarchy {
                    controllers: controllers_of(&name),
                    mount,
                    name,
                }),
                Some(CGROUP2_SUPER_MAGIC) => layout.unified = Some(mount),
                _ => {}
            }
        }
        layout
    }
}

/// Names of the mounts directly below `root` in the order in which they were mounted: containers see them in that order.
fn mount_order(root: &Path) -> Vec<String> {
    let prefix = format!("{}/", root.display());
    std::fs::read_to_string("/proc/self/mountinfo")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter_map(|target| target.strip_prefix(&prefix))
        .filter(|name| !name.contains('/'))
        .map(str::to_owned)
        .collect()
}

fn controllers_of(name: &str) -> Vec<String> {
    if matches!(name, "systemd" | "elogind" | "openrc") {
        return vec![format!("name={name}")];
    }
    name.split(',').map(str::to_owned).collect()
}

/// Magic number of the file system at a directory that is no symbolic link.
fn magic(path: &Path) -> Option<u64> {
    let fd = rustix::fs::open(
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .ok()?;
    let stat = rustix::fs::fstat(&fd).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return None;
    }
    let statfs = rustix::fs::fstatfs(&fd).ok()?;
    u64::try_from(statfs.f_type).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_hierarchies() {
        let layout = Layout::host();
        assert!(!layout.v1.is_empty() || layout.unified.is_some());
    }

    #[test]
    fn names_tell_controllers() {
        assert_eq!(controllers_of("cpu,cpuacct"), ["cpu", "cpuacct"]);
        assert_eq!(controllers_of("systemd"), ["name=systemd"]);
    }
}
