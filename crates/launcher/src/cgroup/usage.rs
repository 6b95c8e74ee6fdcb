//! What the processes of a container have used, as its control groups count it.

use std::{collections::BTreeMap, fs, io, path::Path};

use super::Cgroup;

/// Nanoseconds of one tick of `cpuacct.stat` (USER_HZ is 100 on every architecture that we build for).
const TICK: u64 = 10_000_000;

/// Everything that is counted, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu: CpuUsage,
    pub memory: MemoryUsage,
    /// Processes and threads.
    pub pids: u64,
    /// 0: no limit.
    pub pids_limit: u64,
    pub block: BlockUsage,
}

/// Times in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuUsage {
    pub total: u64,
    /// By processor; version 1 only.
    pub per_cpu: Vec<u64>,
    pub kernel: u64,
    pub user: u64,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled: u64,
}

/// In bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    pub usage: u64,
    /// Version 1 only.
    pub max_usage: u64,
    /// `u64::MAX`: none.
    pub limit: u64,
    /// How often the limit was hit.
    pub failures: u64,
    /// Lines of memory.stat; which ones differs between the versions.
    pub stats: BTreeMap<&'static str, u64>,
}

/// Traffic with block devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockUsage {
    /// Version 2 counts bytes only.
    pub unified: bool,
    pub service_bytes: Vec<BlockCount>,
    pub serviced: Vec<BlockCount>,
    pub queued: Vec<BlockCount>,
    pub service_time: Vec<BlockCount>,
    pub wait_time: Vec<BlockCount>,
    pub merged: Vec<BlockCount>,
    pub time: Vec<BlockCount>,
    pub sectors: Vec<BlockCount>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockCount {
    pub major: u64,
    pub minor: u64,
    /// `Read`, `Write`, ...; version 2: `read`, `write`
    pub operation: String,
    pub value: u64,
}

/// Of version 1's memory.stat, as containerd reports it.
const MEMORY_V1: &[&str] = &[
    "active_anon",
    "active_file",
    "cache",
    "dirty",
    "hierarchical_memory_limit",
    "hierarchical_memsw_limit",
    "inactive_anon",
    "inactive_file",
    "mapped_file",
    "pgfault",
    "pgmajfault",
    "pgpgin",
    "pgpgout",
    "rss",
    "rss_huge",
    "total_active_anon",
    "total_active_file",
    "total_cache",
    "total_dirty",
    "total_inactive_anon",
    "total_inactive_file",
    "total_mapped_file",
    "total_pgfault",
    "total_pgmajfault",
    "total_pgpgin",
    "total_pgpgout",
    "total_rss",
    "total_rss_huge",
    "total_unevictable",
    "total_writeback",
    "unevictable",
    "writeback",
];

/// Of version 2's.
const MEMORY_V2: &[&str] = &[
    "active_anon",
    "active_file",
    "anon",
    "anon_thp",
    "file",
    "file_dirty",
    "file_mapped",
    "file_writeback",
    "inactive_anon",
    "inactive_file",
    "kernel_stack",
    "pgactivate",
    "pgdeactivate",
    "pgfault",
    "pglazyfree",
    "pglazyfreed",
    "pgmajfault",
    "pgrefill",
    "pgscan",
    "pgsteal",
    "shmem",
    "slab",
    "slab_reclaimable",
    "slab_unreclaimable",
    "sock",
    "thp_collapse_alloc",
    "thp_fault_alloc",
    "unevictable",
    "workingset_activate",
    "workingset_nodereclaim",
    "workingset_refault",
];

impl Cgroup {
    /// Reads the counters.
    ///
    /// # Errors
    /// `NotFound` when the groups are gone. A controller that the host lacks counts nothing and is no error.
    pub fn usage(&self) -> io::Result<Usage> {
        let mut usage = Usage::default();
        if let (true, Some(root)) = (self.layout.v1.is_empty(), &self.layout.unified) {
            unified(&root.join(&self.path), &mut usage)?;
            return Ok(usage);
        }
        // One group stands for all: they come and go together.
        if let Some(directory) = self.accounting() {
            fs::metadata(directory)?;
        }
        if let Some(directory) = self.directory_of("cpuacct") {
            accounted_v1(&directory, &mut usage.cpu);
        }
        if let Some(directory) = self.directory_of("cpu") {
            throttled(&text(&directory, "cpu.stat"), &mut usage.cpu, 1);
        }
        if let Some(directory) = self.directory_of("memory") {
            usage.memory = memory_v1(&directory);
        }
        if let Some(directory) = self.directory_of("pids") {
            usage.pids = number(&directory, "pids.current");
            usage.pids_limit = number(&directory, "pids.max");
        }
        if let Some(directory) = self.directory_of("blkio") {
            usage.block = block_v1(&directory);
        }
        Ok(usage)
    }
}

/// A file's text, empty when it is not there.
fn text(directory: &Path, name: &str) -> String {
    fs::read_to_string(directory.join(name)).unwrap_or_default()
}

/// A file's number, 0 for `max` and for a file that is not there.
fn number(directory: &Path, name: &str) -> u64 {
    text(directory, name).trim().parse().unwrap_or(0)
}

/// Lines of a name and a number.
fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, value.trim().parse().ok()?))
    })
}

fn accounted_v1(directory: &Path, cpu: &mut CpuUsage) {
    cpu.total = number(directory, "cpuacct.usage");
    cpu.per_cpu = text(directory, "cpuacct.usage_percpu")
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    for (name, value) in pairs(&text(directory, "cpuacct.stat")) {
        match name {
            "user" => cpu.user = value * TICK,
            "system" => cpu.kernel = value * TICK,
            _ => {}
        }
    }
}

/// `cpu.stat`; `scale` makes nanoseconds of its times.
fn throttled(text: &str, cpu: &mut CpuUsage, scale: u64) {
    for (name, value) in pairs(text) {
        match name {
            "nr_periods" => cpu.periods = value,
            "nr_throttled" => cpu.throttled_periods = value,
            "throttled_time" | "throttled_usec" => cpu.throttled = value * scale,
            "usage_usec" => cpu.total = value * scale,
            "user_usec" => cpu.user = value * scale,
            "system_usec" => cpu.kernel = value * scale,
            _ => {}
        }
    }
}

/// The wanted lines; those that this kernel does not have are 0, as containerd shows them.
fn wanted(text: &str, names: &'static [&'static str]) -> BTreeMap<&'static str, u64> {
    let found: BTreeMap<&str, u64> = pairs(text).collect();
    let value = |name: &str| found.get(name).copied().unwrap_or(0);
    names
        .iter()
        .map(|name| {
            // Counted apart for pages of files and others since Linux 5.9.
            let both = value(&format!("{name}_anon")) + value(&format!("{name}_file"));
            let sum = if name.starts_with("workingset") {
                both
            } else {
                0
            };
            (*name, value(name) + sum)
        })
        .collect()
}

fn memory_v1(directory: &Path) -> MemoryUsage {
    let mut stats = wanted(&text(directory, "memory.stat"), MEMORY_V1);
    if !directory.join("memory.memsw.limit_in_bytes").exists() {
        stats.remove("hierarchical_memsw_limit");
    }
    MemoryUsage {
        usage: number(directory, "memory.usage_in_bytes"),
        max_usage: number(directory, "memory.max_usage_in_bytes"),
        limit: number(directory, "memory.limit_in_bytes"),
        failures: number(directory, "memory.failcnt"),
        stats,
    }
}

/// `8:0 Read 4096` lines, or `8:0 4096`; the `Total` without a device is left out.
fn counts(text: &str) -> Vec<BlockCount> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (major, minor) = words.next()?.split_once(':')?;
            let (operation, value) = match (words.next()?, words.next()) {
                (operation, Some(value)) => (operation, value),
                (value, None) => ("", value),
            };
            Some(BlockCount {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                operation: operation.to_owned(),
                value: value.parse().ok()?,
            })
        })
        .collect()
}

/// A scheduler that counts knows more than the throttle does.
fn block_v1(directory: &Path) -> BlockUsage {
    let read = |name: &str| counts(&text(directory, &format!("blkio.{name}")));
    if !directory.join("blkio.io_serviced_recursive").exists() {
        return BlockUsage {
            service_bytes: read("throttle.io_service_bytes"),
            serviced: read("throttle.io_serviced"),
            ..BlockUsage::default()
        };
    }
    BlockUsage {
        unified: false,
        service_bytes: read("io_service_bytes_recursive"),
        serviced: read("io_serviced_recursive"),
        queued: read("io_queued_recursive"),
        service_time: read("io_service_time_recursive"),
        wait_time: read("io_wait_time_recursive"),
        merged: read("io_merged_recursive"),
        time: read("time_recursive"),
        sectors: read("sectors_recursive"),
    }
}

fn unified(directory: &Path, usage: &mut Usage) -> io::Result<()> {
    // Every group of version 2 has this file.
    let cpu = fs::read_to_string(directory.join("cpu.stat"))?;
    throttled(&cpu, &mut usage.cpu, 1000);
    let limit = text(directory, "memory.max");
    let events = text(directory, "memory.events");
    usage.memory = MemoryUsage {
        usage: number(directory, "memory.current"),
        max_usage: 0,
        limit: limit.trim().parse().unwrap_or(u64::MAX),
        failures: pairs(&events)
            .find(|(name, _)| *name == "oom")
            .map_or(0, |(_, count)| count),
        stats: wanted(&text(directory, "memory.stat"), MEMORY_V2),
    };
    usage.pids = number(directory, "pids.current");
    usage.pids_limit = number(directory, "pids.max");
    usage.block = BlockUsage {
        unified: true,
        service_bytes: bytes_v2(&text(directory, "io.stat")),
        ..BlockUsage::default()
    };
    Ok(())
}

/// `8:0 rbytes=1 wbytes=2 ...`
fn bytes_v2(text: &str) -> Vec<BlockCount> {
    let mut counts = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let device = words.next().and_then(|word| word.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(a, b)| (a.parse(), b.parse())) else {
            continue;
        };
        let of = |key: &str| {
            let value = line.split_whitespace().find_map(|w| w.strip_prefix(key));
            value.and_then(|v| v.parse().ok()).unwrap_or(0)
        };
        for (operation, key) in [("read", "rbytes="), ("write", "wbytes=")] {
            counts.push(BlockCount {
                major,
                minor,
                operation: operation.to_owned(),
                value: of(key),
            });
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_block_devices() {
        let v1 = counts("8:0 Read 4096\n8:0 Total 4096\n8:16 7\nTotal 4096\n");
        let shown: Vec<_> = v1
            .iter()
            .map(|c| (c.minor, c.operation.as_str(), c.value))
            .collect();
        assert_eq!(shown, [(0, "Read", 4096), (0, "Total", 4096), (16, "", 7)]);
        let v2 = bytes_v2("8:0 rbytes=5 wbytes=6 rios=1\n254:1 \nbad\n");
        let shown: Vec<_> = v2
            .iter()
            .map(|c| (c.major, c.operation.as_str(), c.value))
            .collect();
        assert_eq!(
            shown,
            [
                (8, "read", 5),
                (8, "write", 6),
                (254, "read", 0),
                (254, "write", 0)
            ]
        );
    }

    #[test]
    fn counted_apart_or_together() {
        let stats = wanted(
            "anon 5\nworkingset_refault_anon 1\nworkingset_refault_file 2\nnoise 9\n",
            MEMORY_V2,
        );
        assert_eq!((stats["anon"], stats["workingset_refault"]), (5, 3));
        assert_eq!(stats.len(), MEMORY_V2.len());
    }

    #[test]
    fn times() {
        let mut cpu = CpuUsage::default();
        throttled(
            "usage_usec 10\nuser_usec 4\nsystem_usec 6\nnr_periods 2\nnr_throttled 1\nthrottled_usec 3\n",
            &mut cpu,
            1000,
        );
        assert_eq!((cpu.total, cpu.user, cpu.kernel), (10_000, 4_000, 6_000));
        assert_eq!(
            (cpu.periods, cpu.throttled_periods, cpu.throttled),
            (2, 1, 3_000)
        );
    }
}
