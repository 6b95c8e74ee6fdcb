//! Control groups: v1, hybrid (v1 controllers and an empty v2 tree beside) and v2.
//!
//! Files under a hierarchy are the interface; no daemon of the host is asked. What the kernel of the host lacks (a controller, swap
//! accounting) is passed over, as the engine has warned about it at create.

mod devices;
mod layout;
mod oom;
mod update;
pub mod usage;
mod v1;
mod v2;

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

pub use layout::{Hierarchy, Layout};
pub use oom::OomWatch;
use rustix::fs::{Mode, OFlags};

use crate::plan::CgroupPlan;

/// The cgroups of one container, in all hierarchies. Only names them: nothing is removed on drop.
#[derive(Clone, Debug)]
pub struct Cgroup {
    layout: Layout,
    path: String,
}

impl Cgroup {
    /// The cgroups at `path` (`CgroupPlan::path`) below the hierarchies of this host; they need not exist.
    pub fn open(path: &str) -> Self {
        Self::at(Layout::host().clone(), path)
    }

    /// As [`Cgroup::open`] for hierarchies elsewhere.
    pub fn at(layout: Layout, path: &str) -> Self {
        Self {
            layout,
            path: path.trim_matches('/').to_owned(),
        }
    }

    /// Below each hierarchy, without leading slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// True while there is a group of this path in any hierarchy.
    pub fn exists(&self) -> bool {
        self.directories().any(|directory| directory.exists())
    }

    /// The hierarchies of the host.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The group's directory in the v2 tree, made when missing: what clone3 takes. `None` without a v2 tree.
    pub(crate) fn create_unified(&self, plan: &CgroupPlan) -> io::Result<Option<OwnedFd>> {
        let Some(root) = &self.layout.unified else {
            return Ok(None);
        };
        let leaf = root.join(&self.path);
        v2::make(root, &self.path, self.layout.v1.is_empty())?;
        if self.layout.v1.is_empty() {
            v2::limit(&leaf, &plan.resources)?;
            if !plan.allow_all_devices {
                v2::devices(&leaf, &plan.device_rules)?;
            }
        }
        open_directory(&leaf).map(Some)
    }

    /// Makes the groups of the v1 hierarchies and sets limits and device rules.
    pub(crate) fn create_v1(&self, plan: &CgroupPlan) -> io::Result<()> {
        for hierarchy in &self.layout.v1 {
            v1::create(hierarchy, &self.path, plan)?;
        }
        Ok(())
    }

    /// Moves the calling process, which must have one thread, into the groups of the v1 hierarchies. Writing 0 to `tasks` moves the
    /// writer alone and skips the kernel's wait for a grace period that `cgroup.procs` costs.
    pub(crate) fn join_v1(&self) -> io::Result<()> {
        for hierarchy in &self.layout.v1 {
            match write_file(&hierarchy.mount.join(&self.path).join("tasks"), "0") {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// The group's directory in the v2 tree if it exists.
    pub(crate) fn open_unified(&self) -> io::Result<Option<OwnedFd>> {
        match &self.layout.unified {
            Some(root) => open_directory(&root.join(&self.path)).map(Some),
            None => Ok(None),
        }
    }

    /// The v2 group below the container's own in which a process of it is now.
    ///
    /// # Errors
    /// `EBUSY` when the process has left the container's group, `ENOENT` without a v2 tree.
    pub(crate) fn open_group_of(&self, pid: i32) -> io::Result<OwnedFd> {
        let root = self
            .layout
            .unified
            .as_ref()
            .ok_or(io::ErrorKind::NotFound)?;
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let path = unified_path(&text).ok_or(io::ErrorKind::NotFound)?;
        let below = path.strip_prefix(&self.path);
        if !below.is_some_and(|rest| rest.starts_with('/')) || path.split('/').any(|p| p == "..") {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        open_directory(&root.join(path))
    }

    /// All processes in the container's cgroups and those below.
    pub fn pids(&self) -> io::Result<Vec<i32>> {
        let mut pids = Vec::new();
        if let Some(directory) = self.accounting() {
            collect_pids(&directory, &mut pids)?;
        }
        Ok(pids)
    }

    /// How often the kernel has killed one of its processes for want of memory; 0 where that is not counted.
    pub fn oom_kills(&self) -> io::Result<u64> {
        let file = match self.directory_of("memory") {
            Some(v1) => v1.join("memory.oom_control"),
            None => match &self.layout.unified {
                Some(root) if self.layout.v1.is_empty() => {
                    root.join(&self.path).join("memory.events")
                }
                _ => return Ok(0),
            },
        };
        let text = match fs::read_to_string(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            result => result?,
        };
        Ok(text
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "))
            .and_then(|count| count.trim().parse().ok())
            .unwrap_or(0))
    }

    /// SIGKILL to every process inside, until none is left that could fork.
    pub fn kill(&self) -> io::Result<()> {
        if let (Some(root), true) = (&self.layout.unified, self.layout.v1.is_empty())
            && write_file(&root.join(&self.path).join("cgroup.kill"), "1").is_ok()
        {
            return Ok(());
        }
        for _ in 0..64 {
            let pids = self.pids()?;
            if pids.is_empty() {
                return Ok(());
            }
            for pid in pids.into_iter().filter_map(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            // A frozen process of version 1 dies only when it is thawed.
            if let Some(freezer) = self.directory_of("freezer") {
                let _ = write_file(&freezer.join("freezer.state"), "THAWED");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// Stops or continues all processes; returns when the kernel has done so.
    ///
    /// # Errors
    /// `ENOSYS` without a freezer, `ETIMEDOUT` when a process does not stop within two seconds.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        if let Some(directory) = self.directory_of("freezer") {
            return v1::freeze(&directory, frozen);
        }
        match &self.layout.unified {
            Some(root) => v2::freeze(&root.join(&self.path), frozen),
            None => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
        }
    }

    /// Whether the processes are stopped by [`Self::freeze`].
    ///
    /// # Errors
    /// What the kernel says; `NotFound` without a freezer.
    pub fn frozen(&self) -> io::Result<bool> {
        if let Some(directory) = self.directory_of("freezer") {
            return Ok(fs::read_to_string(directory.join("freezer.state"))?.trim() != "THAWED");
        }
        let root = self
            .layout
            .unified
            .as_ref()
            .ok_or(io::ErrorKind::NotFound)?;
        let file = root.join(&self.path).join("cgroup.freeze");
        Ok(fs::read_to_string(file)?.trim() == "1")
    }

    /// Removes the groups in all hierarchies with those below; what is gone already is passed over.
    ///
    /// # Errors
    /// `EBUSY` when a process is still inside after half a second.
    pub fn remove(&self) -> io::Result<()> {
        let mut result = Ok(());
        for directory in self.directories() {
            if let Err(error) = remove_tree(&directory) {
                result = Err(error);
            }
        }
        result
    }

    fn directories(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.layout
            .v1
            .iter()
            .map(|hierarchy| &hierarchy.mount)
            .chain(&self.layout.unified)
            .map(|mount| mount.join(&self.path))
    }

    fn directory_of(&self, controller: &str) -> Option<PathBuf> {
        self.layout
            .v1
            .iter()
            .find(|h| h.controllers.iter().any(|c| c == controller))
            .map(|h| h.mount.join(&self.path))
    }

    /// Where the processes of the container are counted.
    fn accounting(&self) -> Option<PathBuf> {
        match &self.layout.unified {
            Some(root) => Some(root.join(&self.path)),
            None => self
                .directory_of("pids")
                .or_else(|| self.directory_of("memory"))
                .or_else(|| self.directories().next()),
        }
    }
}

/// The path of the v2 group in a /proc/pid/cgroup, without leading slash.
fn unified_path(text: &str) -> Option<&str> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(path.trim_start_matches('/'))
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Writes a control file that exists: never creates one, so that a missing knob is `NotFound`.
fn write_file(path: &Path, value: &str) -> io::Result<()> {
    let fd = rustix::fs::open(
        path,
        OFlags::WRONLY | OFlags::CLOEXEC | OFlags::TRUNC,
        Mode::empty(),
    )?;
    rustix::io::write(&fd, value.as_bytes())
        .map(drop)
        .map_err(|error| {
            let error = io::Error::from(error);
            io::Error::new(
                error.kind(),
                WriteError {
                    path: path.to_owned(),
                    value: value.to_owned(),
                    error,
                },
            )
        })
}

/// A value that the kernel refused, worded as runc does.
#[derive(Debug)]
struct WriteError {
    path: PathBuf,
    value: String,
    error: io::Error,
}

impl std::fmt::Display for WriteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "failed to write {:?}: write {}: {}",
            self.value,
            self.path.display(),
            crate::failure::errno_text(&self.error)
        )
    }
}

impl std::error::Error for WriteError {}

/// As [`write_file`]; a knob that this kernel does not have is passed over.
fn write_if_there(path: &Path, value: &str) -> io::Result<()> {
    match write_file(path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// mkdir that is content with an existing directory. True when it is new.
fn make_directory(path: &Path) -> io::Result<bool> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn collect_pids(directory: &Path, pids: &mut Vec<i32>) -> io::Result<()> {
    match fs::read_to_string(directory.join("cgroup.procs")) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // A threaded cgroup refuses to list its processes; its domain parent has listed them.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => return Err(error),
    }
    for child in children(directory)? {
        collect_pids(&child, pids)?;
    }
    Ok(())
}

fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// A group whose last process has just died may be busy for some milliseconds more.
fn remove_tree(directory: &Path) -> io::Result<()> {
    let mut pause = Duration::from_micros(500);
    let mut looked_below = false;
    loop {
        match rustix::fs::rmdir(directory) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(rustix::io::Errno::BUSY) => {}
            Err(error) => return Err(error.into()),
        }
        if !looked_below {
            looked_below = true;
            let below = children(directory)?;
            for child in &below {
                remove_tree(child)?;
            }
            if !below.is_empty() {
                continue;
            }
        }
        if pause > Duration::from_millis(250) {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        std::thread::sleep(pause);
        pause *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Resources;

    /// Directories with files as the kernel would show them.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[&str]) -> Self {
            let path = std::env::temp_dir()
                .join(format!("longshore-cgroup-{name}-{}", std::process::id()));
            for file in files {
                let file = path.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, "").unwrap();
            }
            Self(path)
        }

        fn text(&self, file: &str) -> String {
            fs::read_to_string(self.0.join(file)).unwrap()
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn resources() -> Resources {
        Resources {
            cpu_shares: 512,
            cpu_quota: 50_000,
            cpuset_cpus: "0-1".to_owned(),
            memory: 64 << 20,
            memory_swap: 96 << 20,
            memory_reservation: 32 << 20,
            pids_limit: -1,
            blkio_weight: 500,
            blkio_read_bps: vec![(8, 0, 1000)],
            ..Resources::default()
        }
    }

    #[test]
    fn group_of_a_process() {
        let text = "4:memory:/a\n0::/docker/x/init.scope\n";
        assert_eq!(unified_path(text), Some("docker/x/init.scope"));
        assert_eq!(unified_path("4:memory:/a\n"), None);
    }

    #[test]
    fn values_on_v2() {
        let names = [
            "g/cpu.weight",
            "g/cpu.max",
            "g/cpuset.cpus",
            "g/memory.max",
            "g/memory.swap.max",
            "g/memory.low",
            "g/pids.max",
            "g/io.weight",
            "g/io.max",
        ];
        let tree = Tree::new("v2", &names);
        let layout = Layout {
            v1: Vec::new(),
            unified: Some(tree.0.clone()),
        };
        Cgroup::at(layout, "/g").update(&resources()).unwrap();
        let expected = [
            "59",
            "50000 100000",
            "0-1",
            "67108864",
            "33554432",
            "33554432",
            "max",
            "4950",
            "8:0 rbps=1000",
        ];
        assert_eq!(names.map(|name| tree.text(name)), expected);
    }

    #[test]
    fn values_on_v1() {
        let names = [
            "cpu/g/cpu.shares",
            "cpu/g/cpu.cfs_quota_us",
            "cpuset/g/cpuset.cpus",
            "memory/g/memory.limit_in_bytes",
            "memory/g/memory.memsw.limit_in_bytes",
            "memory/g/memory.soft_limit_in_bytes",
            "pids/g/pids.max",
            "blkio/g/blkio.bfq.weight",
            "blkio/g/blkio.throttle.read_bps_device",
        ];
        let tree = Tree::new("v1", &names);
        let v1 = ["cpu", "cpuset", "memory", "pids", "blkio"].map(|name| Hierarchy {
            mount: tree.0.join(name),
            name: name.to_owned(),
            controllers: vec![name.to_owned()],
        });
        let layout = Layout {
            v1: v1.to_vec(),
            unified: None,
        };
        let cgroup = Cgroup::at(layout, "g");
        cgroup.update(&resources()).unwrap();
        let expected = [
            "512",
            "50000",
            "0-1",
            "67108864",
            "100663296",
            "33554432",
            "max",
            "500",
            "8:0 1000",
        ];
        assert_eq!(names.map(|name| tree.text(name)), expected);
        // A knob that the kernel lacks is passed over, but not a limit that must hold.
        fs::remove_file(tree.0.join("memory/g/memory.memsw.limit_in_bytes")).unwrap();
        cgroup.update(&resources()).unwrap();
        fs::remove_file(tree.0.join("memory/g/memory.limit_in_bytes")).unwrap();
        assert!(cgroup.update(&resources()).is_err());
    }

    #[test]
    fn counters() {
        let tree = Tree::new(
            "counters",
            &["g/cgroup.procs", "g/below/cgroup.procs", "g/memory.events"],
        );
        fs::write(tree.0.join("g/cgroup.procs"), "7\n8\n").unwrap();
        fs::write(tree.0.join("g/below/cgroup.procs"), "9\n").unwrap();
        fs::write(tree.0.join("g/memory.events"), "low 0\noom 3\noom_kill 2\n").unwrap();
        let layout = Layout {
            v1: Vec::new(),
            unified: Some(tree.0.clone()),
        };
        let cgroup = Cgroup::at(layout, "g");
        assert_eq!(cgroup.pids().unwrap(), [7, 8, 9]);
        assert_eq!(cgroup.oom_kills().unwrap(), 2);
    }
}
