//! Limits: memory, processors, block devices, processes, ulimits, devices. dockerd drops what the kernel cannot do, with a
//! warning, and refuses what makes no sense.

use longshore_engine::api::Resources;
use longshore_model::{Error, Result};

use super::HostFacts;
use crate::dto::hostconfig::{HostConfig, ThrottleDevice};

const MINIMUM_MEMORY: i64 = 6 * 1024 * 1024;
const PERIOD: i64 = 100_000;

/// What the limits are for: those of a new container are completed, those of an update only change what they name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Create,
    Update,
}

/// Checks and adjusts the limits in place (what inspect will show); answers warnings.
///
/// # Errors
/// 400
pub fn verify(host: &mut HostConfig, facts: &HostFacts, purpose: Purpose) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    if (host.cpu_realtime_period != 0 || host.cpu_realtime_runtime != 0) && !facts.cpu_realtime {
        return Err(Error::invalid(
            "kernel does not support CPU real-time scheduler",
        ));
    }
    if host.cpu_realtime_period != 0 && host.cpu_realtime_runtime > host.cpu_realtime_period {
        return Err(Error::invalid(
            "cpu real-time runtime cannot be higher than cpu real-time period",
        ));
    }
    if host.cpu_shares < 0 {
        return Err(Error::invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            host.cpu_shares
        )));
    }
    memory(host, facts, purpose, &mut warnings)?;
    processors(host, facts, &mut warnings)?;
    block_io(host)?;
    if host.pids_limit.is_some() && !facts.pids_limit {
        warnings.push(
            "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded."
                .to_owned(),
        );
        host.pids_limit = None;
    }
    Ok(warnings)
}

fn memory(
    host: &mut HostConfig,
    facts: &HostFacts,
    purpose: Purpose,
    warnings: &mut Vec<String>,
) -> Result<()> {
    if host.memory_swappiness == Some(-1) {
        host.memory_swappiness = None;
    }
    if host.memory != 0 && host.memory < MINIMUM_MEMORY {
        return Err(Error::invalid("Minimum memory limit allowed is 6MB"));
    }
    if host.memory > 0 && !facts.memory_limit {
        warnings.push(
            "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded."
                .to_owned(),
        );
        host.memory = 0;
        host.memory_swap = -1;
    }
    if host.memory > 0 && host.memory_swap != -1 && !facts.swap_limit {
        warnings.push(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without \
             swap."
                .to_owned(),
        );
        host.memory_swap = -1;
    }
    if host.memory > 0 && host.memory_swap > 0 && host.memory_swap < host.memory {
        return Err(Error::invalid(
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ));
    }
    if host.memory == 0 && host.memory_swap > 0 && purpose == Purpose::Create {
        return Err(Error::invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ));
    }
    if host.memory_swappiness.is_some() && !facts.memory_swappiness {
        warnings.push(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness \
             discarded."
                .to_owned(),
        );
        host.memory_swappiness = None;
    }
    if let Some(value) = host
        .memory_swappiness
        .filter(|value| !(0..=100).contains(value))
    {
        return Err(Error::invalid(format!(
            "Invalid value: {value}, valid memory swappiness range is 0-100"
        )));
    }
    if host.memory_reservation > 0 && host.memory_reservation < MINIMUM_MEMORY {
        return Err(Error::invalid("Minimum memory reservation allowed is 6MB"));
    }
    if host.memory > 0 && host.memory_reservation > 0 && host.memory < host.memory_reservation {
        return Err(Error::invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ));
    }
    if host.kernel_memory > 0 {
        warnings.push(
            "Specifying a kernel memory limit is deprecated and will be removed in a future release.".to_owned(),
        );
    }
    if !facts.oom_kill_disable {
        if host.oom_kill_disable == Some(true) {
            warnings.push(
                "Your kernel does not support OomKillDisable. OomKillDisable discarded.".to_owned(),
            );
        }
        host.oom_kill_disable = None;
    } else if host.oom_kill_disable == Some(true) && host.memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running \
             out of resources."
                .to_owned(),
        );
    }
    if purpose == Purpose::Update {
        return Ok(());
    }
    // dockerd's default: as much swap as memory.
    if host.memory > 0 && host.memory_swap == 0 {
        host.memory_swap = host.memory.saturating_mul(2);
    }
    if facts.oom_kill_disable {
        host.oom_kill_disable.get_or_insert(false);
    }
    Ok(())
}

fn processors(host: &mut HostConfig, facts: &HostFacts, warnings: &mut Vec<String>) -> Result<()> {
    if host.nano_cpus > 0 && host.cpu_period > 0 {
        return Err(Error::invalid(
            "Conflicting options: Nano CPUs and CPU Period cannot both be set",
        ));
    }
    if host.nano_cpus > 0 && host.cpu_quota > 0 {
        return Err(Error::invalid(
            "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
        ));
    }
    if host.nano_cpus > 0 && !facts.cpu_cfs {
        return Err(Error::invalid(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted",
        ));
    }
    let available = i64::try_from(facts.cpus).unwrap_or(i64::MAX);
    if host.nano_cpus < 0 || host.nano_cpus > available.saturating_mul(1_000_000_000) {
        return Err(Error::invalid(format!(
            "range of CPUs is from 0.01 to {available}.00, as there are only {available} CPUs available"
        )));
    }
    if host.cpu_shares > 0 {
        if facts.cpu_shares {
            host.cpu_shares = host.cpu_shares.clamp(2, 262_144);
        } else {
            warnings.push(
                "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.".to_owned(),
            );
            host.cpu_shares = 0;
        }
    }
    if (host.cpu_period != 0 || host.cpu_quota != 0) && !facts.cpu_cfs {
        warnings.push(
            "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded."
                .to_owned(),
        );
        (host.cpu_period, host.cpu_quota) = (0, 0);
    }
    if host.cpu_period != 0 && !(1_000..=1_000_000).contains(&host.cpu_period) {
        return Err(Error::invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1_000 {
        return Err(Error::invalid(
            "CPU cfs quota can not be less than 1ms (i.e. 1000)",
        ));
    }
    if host.cpu_percent > 0 {
        warnings.push("linux does not support CPU percent. Percent discarded.".to_owned());
        host.cpu_percent = 0;
    }
    let pinned = !host.cpuset_cpus.is_empty() || !host.cpuset_mems.is_empty();
    if pinned && !facts.cpuset {
        warnings.push(
            "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded."
                .to_owned(),
        );
        host.cpuset_cpus.clear();
        host.cpuset_mems.clear();
    }
    cpuset("CPUs", "cpus", &host.cpuset_cpus, &facts.cpus_online)?;
    cpuset(
        "memory nodes",
        "mems",
        &host.cpuset_mems,
        &facts.mems_online,
    )
}

/// `0-2,7` as ranges; None when it is no such list. 8192 is the kernel's own limit for processors.
fn parse_set(text: &str) -> Option<Vec<(u32, u32)>> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range: (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (range.0 <= range.1 && range.1 <= 8192).then_some(range)
        })
        .collect()
}

fn cpuset(what: &str, short: &str, wanted: &str, available: &str) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let Some(ranges) = parse_set(wanted) else {
        return Err(Error::invalid(format!(
            "Invalid value {wanted} for cpuset {short}: invalid argument"
        )));
    };
    let have = parse_set(available).unwrap_or_default();
    let present = |n: u32| {
        have.iter()
            .any(|(first, last)| (*first..=*last).contains(&n))
    };
    if !ranges
        .iter()
        .all(|(first, last)| (*first..=*last).all(present))
    {
        return Err(Error::invalid(format!(
            "Requested {what} are not available - requested {wanted}, available: {available}"
        )));
    }
    Ok(())
}

fn block_io(host: &HostConfig) -> Result<()> {
    if host.blkio_weight != 0 && !(10..=1000).contains(&host.blkio_weight) {
        return Err(Error::invalid("Range of blkio weight is from 10 to 1000"));
    }
    Ok(())
}

/// The engine's limits, after [`verify`].
///
/// # Errors
/// 400: a block device that is not there.
pub fn convert(host: &HostConfig, facts: &HostFacts) -> Result<Resources> {
    let unsigned = |value: i64| u64::try_from(value).unwrap_or(0);
    let (cpu_quota, cpu_period) = match host.nano_cpus {
        0 => (host.cpu_quota, unsigned(host.cpu_period)),
        nano => (nano / (1_000_000_000 / PERIOD), unsigned(PERIOD)),
    };
    let number = |path: &str| {
        (facts.device_number)(path).map_err(|e| {
            Error::invalid(format!(
                "stat {path}: {}",
                longshore_model::error::go_errno(&e)
            ))
        })
    };
    let throttle = |list: &Option<Vec<ThrottleDevice>>| {
        list.iter()
            .flatten()
            .map(|device| number(&device.path).map(|(major, minor)| (major, minor, device.rate)))
            .collect::<Result<Vec<_>>>()
    };
    Ok(Resources {
        cpu_shares: unsigned(host.cpu_shares),
        cpu_quota,
        cpu_period,
        cpu_rt_runtime: host.cpu_realtime_runtime,
        cpu_rt_period: unsigned(host.cpu_realtime_period),
        cpuset_cpus: host.cpuset_cpus.clone(),
        cpuset_mems: host.cpuset_mems.clone(),
        memory: host.memory,
        memory_swap: host.memory_swap,
        memory_reservation: host.memory_reservation,
        swappiness: host
            .memory_swappiness
            .and_then(|value| u64::try_from(value).ok()),
        oom_kill_disable: host.oom_kill_disable.unwrap_or(false),
        pids_limit: host.pids_limit.unwrap_or(0),
        blkio_weight: host.blkio_weight,
        blkio_weight_device: host
            .blkio_weight_device
            .iter()
            .flatten()
            .map(|d| number(&d.path).map(|(major, minor)| (major, minor, u64::from(d.weight))))
            .collect::<Result<_>>()?,
        blkio_read_bps: throttle(&host.blkio_device_read_bps)?,
        blkio_write_bps: throttle(&host.blkio_device_write_bps)?,
        blkio_read_iops: throttle(&host.blkio_device_read_iops)?,
        blkio_write_iops: throttle(&host.blkio_device_write_iops)?,
    })
}

/// (name, soft, hard)
///
/// # Errors
/// 400
pub fn ulimits(host: &HostConfig) -> Result<Vec<(String, i64, i64)>> {
    const NAMES: [&str; 16] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    host.ulimits
        .iter()
        .flatten()
        .map(|limit| {
            let name = limit.name.as_str();
            if !NAMES.contains(&name) {
                return Err(Error::invalid(format!("invalid ulimit type: {name}")));
            }
            if limit.hard != -1 && (limit.soft == -1 || limit.soft > limit.hard) {
                return Err(Error::invalid(format!(
                    "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                    limit.soft, limit.hard
                )));
            }
            Ok((name.to_owned(), limit.soft, limit.hard))
        })
        .collect()
}

/// (path on the host, path in the container, permissions)
///
/// # Errors
/// 400
pub fn devices(host: &HostConfig) -> Result<Vec<(String, String, String)>> {
    host.devices
        .iter()
        .flatten()
        .map(|device| {
            let bad = || {
                Error::invalid(format!(
                    "bad format for device mapping: {}:{}:{}",
                    device.path_on_host, device.path_in_container, device.cgroup_permissions
                ))
            };
            if !device.path_on_host.starts_with('/') {
                return Err(bad());
            }
            let or =
                |text: &str, default: &str| if text.is_empty() { default } else { text }.to_owned();
            let inside = or(&device.path_in_container, &device.path_on_host);
            let permissions = or(&device.cgroup_permissions, "rwm");
            if !inside.starts_with('/') || !permissions.chars().all(|c| "rwm".contains(c)) {
                return Err(bad());
            }
            Ok((device.path_on_host.clone(), inside, permissions))
        })
        .collect()
}

/// `c 189:* rmw` and the like.
///
/// # Errors
/// 400
pub fn device_rules(host: &HostConfig) -> Result<Vec<String>> {
    let number =
        |text: &str| text == "*" || (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    let fits = |rule: &str| {
        let parts: Vec<&str> = rule.split(' ').collect();
        let [kind, numbers, access] = parts[..] else {
            return false;
        };
        matches!(kind, "a" | "b" | "c")
            && numbers
                .split_once(':')
                .is_some_and(|(major, minor)| number(major) && number(minor))
            && (1..=3).contains(&access.len())
            && access.chars().all(|c| "rwm".contains(c))
    };
    host.device_cgroup_rules
        .iter()
        .flatten()
        .map(|rule| match fits(rule) {
            true => Ok(rule.clone()),
            false => Err(Error::invalid(format!(
                "invalid device cgroup rule format: '{rule}'"
            ))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(json: &str) -> Result<(Resources, HostConfig, Vec<String>)> {
        let mut host: HostConfig = serde_json::from_str(json).expect("host config");
        let facts = HostFacts::for_tests();
        let warnings = verify(&mut host, &facts, Purpose::Create)?;
        Ok((convert(&host, &facts)?, host, warnings))
    }

    #[test]
    fn limits() {
        let (resources, host, _) =
            run(r#"{"Memory":67108864,"NanoCpus":500000000,"MemorySwappiness":-1}"#).unwrap();
        assert_eq!(
            (resources.memory, resources.memory_swap),
            (67_108_864, 134_217_728)
        );
        assert_eq!(
            (resources.cpu_quota, resources.cpu_period),
            (50_000, 100_000)
        );
        assert_eq!(
            (host.memory_swap, host.memory_swappiness),
            (134_217_728, None)
        );
        assert_eq!(host.oom_kill_disable, Some(false));
        for (json, want) in [
            (r#"{"Memory":100}"#, "Minimum memory limit allowed is 6MB"),
            (
                r#"{"Memory":67108864,"MemorySwap":10}"#,
                "Minimum memoryswap limit should be larger than memory limit, see usage",
            ),
            (
                r#"{"MemorySwap":67108864}"#,
                "You should always set the Memory limit when using Memoryswap limit, see usage",
            ),
            (
                r#"{"NanoCpus":3000000000}"#,
                "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
            ),
            (
                r#"{"NanoCpus":1,"CpuQuota":5}"#,
                "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
            ),
            (
                r#"{"CpusetCpus":"0-9"}"#,
                "Requested CPUs are not available - requested 0-9, available: 0-1",
            ),
            (
                r#"{"CpusetCpus":"x"}"#,
                "Invalid value x for cpuset cpus: invalid argument",
            ),
            (
                r#"{"BlkioWeight":5}"#,
                "Range of blkio weight is from 10 to 1000",
            ),
        ] {
            assert_eq!(run(json).unwrap_err().message, want);
        }
        let (_, _, warnings) = run(r#"{"OomKillDisable":true}"#).unwrap();
        assert!(warnings[0].starts_with("OOM killer is disabled"));
    }

    #[test]
    fn devices_and_ulimits() {
        let host: HostConfig = serde_json::from_str(
            r#"{"Devices":[{"PathOnHost":"/dev/fuse"}],"DeviceCgroupRules":["c 189:* rmw"],
                "Ulimits":[{"Name":"nofile","Soft":100,"Hard":200}]}"#,
        )
        .unwrap();
        assert_eq!(
            devices(&host).unwrap(),
            [("/dev/fuse".into(), "/dev/fuse".into(), "rwm".into())]
        );
        assert_eq!(device_rules(&host).unwrap(), ["c 189:* rmw"]);
        assert_eq!(ulimits(&host).unwrap(), [("nofile".into(), 100, 200)]);
        let bad: HostConfig = serde_json::from_str(
            r#"{"DeviceCgroupRules":["x"],"Ulimits":[{"Name":"nofile","Soft":300,"Hard":200}]}"#,
        )
        .unwrap();
        assert_eq!(
            device_rules(&bad).unwrap_err().message,
            "invalid device cgroup rule format: 'x'"
        );
        assert!(ulimits(&bad).is_err());
    }
}
