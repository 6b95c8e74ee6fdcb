//! Hierarchies of version 1: one directory a controller.

use std::{fs, io, path::Path, time::Duration};

use super::{Hierarchy, make_directory, write_file, write_if_there};
use crate::plan::{CgroupPlan, Resources};

/// Makes the group of one hierarchy, with its parents, and sets what the plan asks of its controllers.
pub fn create(hierarchy: &Hierarchy, path: &str, plan: &CgroupPlan) -> io::Result<()> {
    let leaf = hierarchy.mount.join(path);
    let cpuset = carries(hierarchy, "cpuset");
    if cpuset {
        // A new cpuset is empty and takes no process; with this on its parent it is born as a copy of that.
        if let Some(parent) = leaf.parent().filter(|p| *p != hierarchy.mount) {
            let _ = write_file(&parent.join("cgroup.clone_children"), "1");
        }
    }
    match make_directory(&leaf) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_parents(hierarchy, path, cpuset)?;
            make_directory(&leaf)?;
        }
        result => {
            result?;
        }
    }
    if cpuset {
        fill_cpuset(&leaf)?;
    }
    if carries(hierarchy, "devices") && !plan.allow_all_devices {
        devices(&leaf, &plan.device_rules)?;
    }
    limit(hierarchy, &leaf, &plan.resources)
}

fn carries(hierarchy: &Hierarchy, controller: &str) -> bool {
    hierarchy.controllers.iter().any(|c| c == controller)
}

fn make_parents(hierarchy: &Hierarchy, path: &str, cpuset: bool) -> io::Result<()> {
    let mut directory = hierarchy.mount.clone();
    let Some((parents, _)) = path.rsplit_once('/') else {
        return Ok(());
    };
    for part in parents.split('/') {
        directory.push(part);
        make_directory(&directory)?;
        if cpuset {
            fill_cpuset(&directory)?;
            write_file(&directory.join("cgroup.clone_children"), "1")?;
        }
    }
    Ok(())
}

/// Gives an empty cpuset what its parent has.
fn fill_cpuset(directory: &Path) -> io::Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = directory.join(name);
        if !fs::read_to_string(&file)?.trim().is_empty() {
            continue;
        }
        if let Some(parent) = directory.parent() {
            write_file(&file, fs::read_to_string(parent.join(name))?.trim())?;
        }
    }
    Ok(())
}

fn devices(leaf: &Path, rules: &[String]) -> io::Result<()> {
    write_file(&leaf.join("devices.deny"), "a")?;
    let allow = leaf.join("devices.allow");
    for rule in rules {
        write_file(&allow, rule)?;
    }
    Ok(())
}

/// Sets the limits that concern this hierarchy's controllers.
pub fn limit(hierarchy: &Hierarchy, leaf: &Path, resources: &Resources) -> io::Result<()> {
    for controller in &hierarchy.controllers {
        match controller.as_str() {
            "cpu" => cpu(leaf, resources)?,
            "cpuset" => {
                for (name, value) in [
                    ("cpuset.cpus", &resources.cpuset_cpus),
                    ("cpuset.mems", &resources.cpuset_mems),
                ] {
                    if !value.is_empty() {
                        write_file(&leaf.join(name), value)?;
                    }
                }
            }
            "memory" => memory(leaf, resources)?,
            "pids" => pids(leaf, resources)?,
            "blkio" => blkio(leaf, resources)?,
            _ => {}
        }
    }
    Ok(())
}

fn pids(leaf: &Path, resources: &Resources) -> io::Result<()> {
    match resources.pids_limit {
        0 => Ok(()),
        limit if limit < 0 => write_file(&leaf.join("pids.max"), "max"),
        limit => write_file(&leaf.join("pids.max"), &limit.to_string()),
    }
}

fn cpu(leaf: &Path, resources: &Resources) -> io::Result<()> {
    if resources.cpu_shares != 0 {
        write_file(&leaf.join("cpu.shares"), &resources.cpu_shares.to_string())?;
    }
    if resources.cpu_rt_period != 0 {
        write_if_there(
            &leaf.join("cpu.rt_period_us"),
            &resources.cpu_rt_period.to_string(),
        )?;
    }
    if resources.cpu_rt_runtime != 0 {
        write_if_there(
            &leaf.join("cpu.rt_runtime_us"),
            &resources.cpu_rt_runtime.to_string(),
        )?;
    }
    if resources.cpu_period != 0 {
        write_if_there(
            &leaf.join("cpu.cfs_period_us"),
            &resources.cpu_period.to_string(),
        )?;
    }
    if resources.cpu_quota != 0 {
        write_if_there(
            &leaf.join("cpu.cfs_quota_us"),
            &resources.cpu_quota.to_string(),
        )?;
    }
    Ok(())
}

fn memory(leaf: &Path, resources: &Resources) -> io::Result<()> {
    let limit = leaf.join("memory.limit_in_bytes");
    let swap = leaf.join("memory.memsw.limit_in_bytes");
    if resources.memory != 0 {
        let value = resources.memory.to_string();
        // Memory may never exceed memory plus swap: when it rises above the present sum, the sum goes first.
        if write_file(&limit, &value).is_err() {
            if resources.memory_swap != 0 {
                write_if_there(&swap, &resources.memory_swap.to_string())?;
            }
            write_file(&limit, &value)?;
        }
    }
    if resources.memory_swap != 0 {
        write_if_there(&swap, &resources.memory_swap.to_string())?;
    }
    if resources.memory_reservation != 0 {
        write_file(
            &leaf.join("memory.soft_limit_in_bytes"),
            &resources.memory_reservation.to_string(),
        )?;
    }
    if let Some(swappiness) = resources.swappiness {
        write_if_there(&leaf.join("memory.swappiness"), &swappiness.to_string())?;
    }
    if resources.oom_kill_disable {
        write_if_there(&leaf.join("memory.oom_control"), "1")?;
    }
    Ok(())
}

fn blkio(leaf: &Path, resources: &Resources) -> io::Result<()> {
    if resources.blkio_weight != 0 {
        let value = resources.blkio_weight.to_string();
        let classic = leaf.join("blkio.weight");
        let file = if classic.exists() {
            classic
        } else {
            leaf.join("blkio.bfq.weight")
        };
        write_if_there(&file, &value)?;
    }
    let throttles = [
        ("blkio.weight_device", &resources.blkio_weight_device),
        ("blkio.throttle.read_bps_device", &resources.blkio_read_bps),
        (
            "blkio.throttle.write_bps_device",
            &resources.blkio_write_bps,
        ),
        (
            "blkio.throttle.read_iops_device",
            &resources.blkio_read_iops,
        ),
        (
            "blkio.throttle.write_iops_device",
            &resources.blkio_write_iops,
        ),
    ];
    for (name, rules) in throttles {
        for (major, minor, value) in rules {
            write_if_there(&leaf.join(name), &format!("{major}:{minor} {value}"))?;
        }
    }
    Ok(())
}

pub fn freeze(leaf: &Path, frozen: bool) -> io::Result<()> {
    let file = leaf.join("freezer.state");
    let wanted = if frozen { "FROZEN" } else { "THAWED" };
    for _ in 0..1000 {
        write_file(&file, wanted)?;
        if fs::read_to_string(&file)?.trim() == wanted {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    if frozen {
        let _ = write_file(&file, "THAWED");
    }
    Err(io::Error::from_raw_os_error(libc::ETIMEDOUT))
}
