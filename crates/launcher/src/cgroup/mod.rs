//! Control groups, v1, hybrid and v2.

use std::io;

/// The cgroups of one container, in all hierarchies. Only names them: nothing is removed on drop.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: String,
}

impl Cgroup {
    /// The existing cgroups at `path` (`CgroupPlan::path`) below the hierarchies of this host.
    pub fn open(path: &str) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Below each hierarchy, without leading slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// All processes in the container's cgroups and those below.
    pub fn pids(&self) -> io::Result<Vec<i32>> {
        Ok(Vec::new())
    }

    /// How often the kernel has killed one of its processes for want of memory.
    pub fn oom_kills(&self) -> io::Result<u64> {
        Ok(0)
    }

    /// SIGKILL to every process inside.
    pub fn kill(&self) -> io::Result<()> {
        Ok(())
    }

    /// Stops or continues all processes; returns when the kernel has done so.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        let _ = frozen;
        Ok(())
    }

    /// Removes the groups in all hierarchies; those that are gone already are passed over.
    ///
    /// # Errors
    /// `EBUSY` when a process is still inside.
    pub fn remove(&self) -> io::Result<()> {
        Ok(())
    }
}
