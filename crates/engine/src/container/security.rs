//! What a container's processes may do: capability sets, seccomp filter, path masks, device rules. Docker's defaults.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use longshore_model::{Error, Result};
use longshore_shim::host::seccomp;

use super::spec::{SeccompSpec, SecuritySpec};

/// Capability names by number (linux/capability.h).
const CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The fourteen that Docker grants by default.
const DEFAULT: u64 = 0xa804_25fb;

/// Every capability that this kernel knows and this process may pass on.
pub(crate) fn all_capabilities() -> u64 {
    let named = (1u64 << CAPABILITIES.len()) - 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bounding.map_or(named, |have| named & have)
}

fn bit(name: &str) -> Option<u64> {
    let short = name.strip_prefix("CAP_").unwrap_or(name);
    CAPABILITIES
        .iter()
        .position(|known| *known == short)
        .map(|number| 1 << number)
}

/// The capability mask of a container: Docker's defaults, then `--cap-add`/`--cap-drop`, `ALL` on either side.
///
/// # Errors
/// An unknown name.
pub(crate) fn capabilities(spec: &SecuritySpec) -> Result<u64> {
    let all = all_capabilities();
    if spec.privileged {
        return Ok(all);
    }
    let mask = |names: &[String], what: &str| -> Result<u64> {
        names
            .iter()
            .filter(|name| name.as_str() != "ALL")
            .try_fold(0, |mask, name| {
                bit(name).map(|b| mask | b).ok_or_else(|| {
                    Error::invalid(format!("invalid {what}: unknown capability: \"{name}\""))
                })
            })
    };
    let (add, drop) = (
        mask(&spec.cap_add, "CapAdd")?,
        mask(&spec.cap_drop, "CapDrop")?,
    );
    let has_all = |names: &[String]| names.iter().any(|name| name == "ALL");
    let caps = match (has_all(&spec.cap_add), has_all(&spec.cap_drop)) {
        (true, _) => all & !drop,
        (false, true) => add,
        (false, false) => (DEFAULT & !drop) | add,
    };
    Ok(caps & all)
}

/// A compiled filter, shared by the containers that have it.
type Program = Arc<Vec<u8>>;

/// Compiled filters by what they depend on: compiling costs more than the rest of a plan.
#[derive(Default)]
pub(crate) struct Filters {
    compiled: Mutex<HashMap<(u64, SeccompKey), Program>>,
}

#[derive(PartialEq, Eq, Hash)]
enum SeccompKey {
    Default,
    Profile(String),
}

impl Filters {
    /// The filter for a container with these capabilities; None: unconfined.
    ///
    /// # Errors
    /// A profile that is not valid.
    pub(crate) fn get(&self, spec: &SecuritySpec, caps: u64) -> Result<Option<Arc<Vec<u8>>>> {
        let key = match &spec.seccomp {
            SeccompSpec::Unconfined => return Ok(None),
            SeccompSpec::Default if spec.privileged => return Ok(None),
            SeccompSpec::Default => SeccompKey::Default,
            SeccompSpec::Profile(json) => SeccompKey::Profile(json.clone()),
        };
        if let Some(found) = self
            .compiled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(caps, key.clone_ref()))
        {
            return Ok(Some(found.clone()));
        }
        let program = match &key {
            SeccompKey::Default => seccomp::default_filter(caps),
            SeccompKey::Profile(json) => seccomp::from_oci_profile(json, caps)
                .map_err(|failure| Error::invalid(failure.message))?,
        };
        let program = Arc::new(program);
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if compiled.len() >= 64 {
            compiled.clear();
        }
        compiled.insert((caps, key), program.clone());
        Ok(Some(program))
    }
}

impl SeccompKey {
    fn clone_ref(&self) -> Self {
        match self {
            Self::Default => Self::Default,
            Self::Profile(json) => Self::Profile(json.clone()),
        }
    }
}

/// Paths that Docker hides (as recorded from dockerd 29).
pub const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths that Docker makes read-only.
pub const READONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Device access of an ordinary container, after "deny all": making any node, using the harmless ones and terminals.
pub(crate) const DEVICE_RULES: &[&str] = &[
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// A profile of AppArmor's, where the host has AppArmor: refused, for the container would run without it.
///
/// # Errors
/// 501
pub(crate) fn confinement(spec: &SecuritySpec) -> Result<()> {
    let wanted = !matches!(spec.apparmor.as_str(), "" | "unconfined" | "docker-default");
    let enabled = || {
        std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.starts_with('Y'))
    };
    if wanted && enabled() {
        return Err(Error::not_implemented(format!(
            "AppArmor profiles are not implemented by longshore yet: {}",
            spec.apparmor
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_masks() {
        let all = all_capabilities();
        let spec = |add: &[&str], drop: &[&str]| SecuritySpec {
            cap_add: add.iter().map(ToString::to_string).collect(),
            cap_drop: drop.iter().map(ToString::to_string).collect(),
            ..SecuritySpec::default()
        };
        let caps = |add: &[&str], drop: &[&str]| capabilities(&spec(add, drop)).ok();
        assert_eq!(caps(&[], &[]), Some(DEFAULT & all));
        assert_eq!(
            caps(&["CAP_NET_BIND_SERVICE"], &["ALL"]),
            Some((1 << 10) & all)
        );
        assert_eq!(caps(&["ALL"], &["CAP_CHOWN"]), Some(all & !1));
        assert_eq!(caps(&["CAP_BOGUS"], &[]), None);
    }
}
