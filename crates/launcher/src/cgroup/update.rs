//! Limits of a running container: changed all together or not at all.

use std::{fs, io, path::PathBuf};

use super::{Cgroup, v1, v2, write_file};
use crate::plan::Resources;

/// The control files that an update may write, of both versions.
const KNOBS: &[&str] = &[
    "cpu.shares",
    "cpu.cfs_period_us",
    "cpu.cfs_quota_us",
    "cpu.rt_period_us",
    "cpu.rt_runtime_us",
    "cpuset.cpus",
    "cpuset.mems",
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.soft_limit_in_bytes",
    "blkio.weight",
    "blkio.bfq.weight",
    "cpu.weight",
    "cpu.max",
    "memory.max",
    "memory.swap.max",
    "memory.low",
    "io.weight",
    "io.bfq.weight",
    "pids.max",
];

/// Those with one line a device.
const DEVICE_KNOBS: &[(&str, &str)] = &[
    ("blkio.weight_device", "0"),
    ("blkio.throttle.read_bps_device", "0"),
    ("blkio.throttle.write_bps_device", "0"),
    ("blkio.throttle.read_iops_device", "0"),
    ("blkio.throttle.write_iops_device", "0"),
    ("io.max", "rbps=max wbps=max riops=max wiops=max"),
];

/// A control file as it was; for one with a line a device, the value that lifts a limit.
struct Saved {
    file: PathBuf,
    text: String,
    lift: Option<&'static str>,
}

impl Cgroup {
    /// Changes limits of a running container; what is 0, `None` or empty stays as it is. When the kernel refuses a value, those
    /// written before get their old ones back.
    ///
    /// # Errors
    /// What the kernel says to a value (`EBUSY` for a memory limit below what is used).
    pub fn update(&self, resources: &Resources) -> io::Result<()> {
        let before = self.save();
        let result = self.limit(resources);
        if result.is_err() {
            // Twice: memory and memory with swap bound each other, so one may have to wait for the other.
            for _ in 0..2 {
                before.iter().for_each(restore);
            }
        }
        result
    }

    fn limit(&self, resources: &Resources) -> io::Result<()> {
        if self.layout.v1.is_empty() {
            return match &self.layout.unified {
                Some(root) => v2::limit(&root.join(&self.path), resources),
                None => Ok(()),
            };
        }
        for hierarchy in &self.layout.v1 {
            v1::limit(hierarchy, &hierarchy.mount.join(&self.path), resources)?;
        }
        Ok(())
    }

    fn save(&self) -> Vec<Saved> {
        let plain = KNOBS.iter().map(|name| (*name, None));
        let devices = DEVICE_KNOBS.iter().map(|(name, lift)| (*name, Some(*lift)));
        let names: Vec<_> = plain.chain(devices).collect();
        let mut saved = Vec::new();
        for directory in self.directories() {
            for (name, lift) in &names {
                let file = directory.join(name);
                if let Ok(text) = fs::read_to_string(&file) {
                    let lift = *lift;
                    saved.push(Saved { file, text, lift });
                }
            }
        }
        saved
    }
}

/// Best effort: the error that the caller hears is the one that led here.
fn restore(saved: &Saved) {
    let now = fs::read_to_string(&saved.file).unwrap_or_default();
    if now == saved.text {
        return;
    }
    let Some(lift) = saved.lift else {
        // An empty write would be none.
        let _ = write_file(&saved.file, &format!("{}\n", saved.text.trim_end()));
        return;
    };
    let device = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    for line in now.lines() {
        let device = device(line);
        if !saved.text.lines().any(|old| old.starts_with(&device)) {
            let _ = write_file(&saved.file, &format!("{device} {lift}"));
        }
    }
    for line in saved.text.lines() {
        let _ = write_file(&saved.file, line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{Hierarchy, Layout};

    #[test]
    fn all_or_nothing() {
        let root = std::env::temp_dir().join(format!("longshore-update-{}", std::process::id()));
        let leaf = |name: &str| root.join(name).join("g");
        for (group, file, text) in [
            ("cpu", "cpu.shares", "1024\n"),
            ("cpu", "cpu.cfs_quota_us", "-1\n"),
            ("memory", "memory.limit_in_bytes", "9223372036854771712\n"),
        ] {
            fs::create_dir_all(leaf(group)).unwrap();
            fs::write(leaf(group).join(file), text).unwrap();
        }
        let v1 = ["cpu", "memory", "pids"].map(|name| Hierarchy {
            mount: root.join(name),
            name: name.to_owned(),
            controllers: vec![name.to_owned()],
        });
        let layout = Layout {
            v1: v1.to_vec(),
            unified: None,
        };
        let wanted = Resources {
            cpu_shares: 512,
            cpu_quota: 50_000,
            memory: 64 << 20,
            // There is no pids.max to write.
            pids_limit: 5,
            ..Resources::default()
        };
        let cgroup = Cgroup::at(layout, "g");
        assert!(cgroup.update(&wanted).is_err());
        let text = |group: &str, file: &str| {
            let text = fs::read_to_string(leaf(group).join(file)).unwrap();
            text.trim().to_owned()
        };
        let after = [
            text("cpu", "cpu.shares"),
            text("cpu", "cpu.cfs_quota_us"),
            text("memory", "memory.limit_in_bytes"),
        ];
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(after, ["1024", "-1", "9223372036854771712"]);
    }
}
