//! The unified hierarchy.

use std::{fs, io, os::fd::AsFd, path::Path, time::Duration};

use super::{devices, make_directory, open_directory, write_file, write_if_there};
use crate::plan::Resources;

/// Makes the group with its parents; with `controllers` every controller that there is gets handed down to it.
pub fn make(root: &Path, path: &str, controllers: bool) -> io::Result<()> {
    let leaf = root.join(path);
    let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    match make_directory(&leaf) {
        Ok(_) if !controllers => return Ok(()),
        Ok(_) => {}
        Err(error) if missing(&error) => {}
        Err(error) => return Err(error),
    }
    let mut directory = root.to_owned();
    for part in path.split('/') {
        if controllers {
            hand_down(&directory)?;
        }
        directory.push(part);
        make_directory(&directory)?;
    }
    Ok(())
}

/// Enables for a group's children what the group itself has and they have not yet.
fn hand_down(directory: &Path) -> io::Result<()> {
    let file = directory.join("cgroup.subtree_control");
    let available = fs::read_to_string(directory.join("cgroup.controllers"))?;
    let enabled = fs::read_to_string(&file)?;
    for controller in available.split_whitespace() {
        if enabled.split_whitespace().any(|e| e == controller) {
            continue;
        }
        // One by one: a controller that cannot be enabled here (cpu with real-time processes about) leaves the others.
        let _ = write_file(&file, &format!("+{controller}"));
    }
    Ok(())
}

/// Sets limits; values are converted from the v1 scales that Docker's API speaks.
pub fn limit(leaf: &Path, r: &Resources) -> io::Result<()> {
    if r.cpu_shares != 0 {
        write_if_there(
            &leaf.join("cpu.weight"),
            &weight_of_shares(r.cpu_shares).to_string(),
        )?;
    }
    if r.cpu_quota != 0 || r.cpu_period != 0 {
        let period = if r.cpu_period == 0 {
            100_000
        } else {
            r.cpu_period
        };
        let quota = if r.cpu_quota > 0 {
            r.cpu_quota.to_string()
        } else {
            "max".to_owned()
        };
        write_if_there(&leaf.join("cpu.max"), &format!("{quota} {period}"))?;
    }
    for (name, value) in [
        ("cpuset.cpus", &r.cpuset_cpus),
        ("cpuset.mems", &r.cpuset_mems),
    ] {
        if !value.is_empty() {
            write_file(&leaf.join(name), value)?;
        }
    }
    let number = |value: i64| {
        if value < 0 {
            "max".to_owned()
        } else {
            value.to_string()
        }
    };
    if r.memory != 0 {
        write_file(&leaf.join("memory.max"), &number(r.memory))?;
    }
    if r.memory_swap != 0 {
        let swap = if r.memory_swap < 0 {
            -1
        } else {
            (r.memory_swap - r.memory.max(0)).max(0)
        };
        write_if_there(&leaf.join("memory.swap.max"), &number(swap))?;
    }
    if r.memory_reservation != 0 {
        write_if_there(&leaf.join("memory.low"), &number(r.memory_reservation))?;
    }
    if r.pids_limit != 0 {
        write_file(&leaf.join("pids.max"), &number(r.pids_limit))?;
    }
    io_limits(leaf, r)
}

fn io_limits(leaf: &Path, r: &Resources) -> io::Result<()> {
    if r.blkio_weight != 0 {
        let bfq = leaf.join("io.bfq.weight");
        if bfq.exists() {
            write_file(&bfq, &r.blkio_weight.to_string())?;
        } else {
            let weight = weight_of_blkio(r.blkio_weight);
            write_if_there(&leaf.join("io.weight"), &weight.to_string())?;
        }
    }
    for (major, minor, value) in &r.blkio_weight_device {
        write_if_there(
            &leaf.join("io.bfq.weight"),
            &format!("{major}:{minor} {value}"),
        )?;
    }
    let limits = [
        ("rbps", &r.blkio_read_bps),
        ("wbps", &r.blkio_write_bps),
        ("riops", &r.blkio_read_iops),
        ("wiops", &r.blkio_write_iops),
    ];
    for (name, rules) in limits {
        for (major, minor, value) in rules {
            let value = match value {
                0 => "max".to_owned(),
                rate => rate.to_string(),
            };
            write_if_there(
                &leaf.join("io.max"),
                &format!("{major}:{minor} {name}={value}"),
            )?;
        }
    }
    Ok(())
}

/// cpu.shares (2..262144, default 1024) as cpu.weight (1..10000, default 100): a curve through all three points, the one that
/// runc and crun agreed on.
fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

/// blkio.weight (10..1000) as io.weight (1..10000).
fn weight_of_blkio(weight: u16) -> u64 {
    1 + (u64::from(weight).saturating_sub(10)) * 9999 / 990
}

/// Everything is denied but what the rules allow.
pub fn devices(leaf: &Path, rules: &[String]) -> io::Result<()> {
    let program = devices::compile(rules)?;
    let program = longshore_sys::bpf::load_device_program(&program)?;
    let directory = open_directory(leaf)?;
    longshore_sys::bpf::attach_device_program(directory.as_fd(), program.as_fd())
}

pub fn freeze(leaf: &Path, frozen: bool) -> io::Result<()> {
    let wanted = if frozen { "frozen 1" } else { "frozen 0" };
    write_file(&leaf.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
    for _ in 0..1000 {
        if fs::read_to_string(leaf.join("cgroup.events"))?
            .lines()
            .any(|l| l == wanted)
        {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    if frozen {
        let _ = write_file(&leaf.join("cgroup.freeze"), "0");
    }
    Err(io::Error::from_raw_os_error(libc::ETIMEDOUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights() {
        assert_eq!(weight_of_shares(2), 1);
        assert_eq!(weight_of_shares(1024), 100);
        assert_eq!(weight_of_shares(262_144), 10_000);
        assert_eq!(weight_of_blkio(10), 1);
        assert_eq!(weight_of_blkio(1000), 10_000);
    }

    /// The kernel takes the program and asks it. Needs root and a v2 tree, with or without controllers.
    #[test]
    fn device_rules_are_enforced() {
        let root = super::super::Layout::host()
            .unified
            .clone()
            .expect("a cgroup2 mount");
        let name = format!("longshore-devices-{}", std::process::id());
        make(&root, &name, false).unwrap();
        let leaf = root.join(&name);
        devices(&leaf, &["c 1:5 r".to_owned(), "c 1:3 rwm".to_owned()]).unwrap();
        let script = format!(
            "echo $$ > {}/cgroup.procs; head -c 1 /dev/zero | wc -c; head -c 1 /dev/urandom || echo denied; (echo > /dev/zero) || echo denied",
            leaf.display()
        );
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .unwrap();
        super::super::remove_tree(&leaf).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "1\ndenied\ndenied\n"
        );
    }
}
