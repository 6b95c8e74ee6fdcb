//! Capabilities of the process to be executed.

use rustix::{
    io::Errno,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
        clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    },
};

/// Names by number, without `CAP_`.
const NAMES: [&str; 41] = [
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

/// Docker's default: 14 capabilities.
pub const DEFAULT: u64 = 0xa804_25fb;

/// Number of a capability by its name, with or without `CAP_`, in any case.
pub fn number(name: &str) -> Option<u32> {
    let name = name.to_ascii_uppercase();
    let bare = name.strip_prefix("CAP_").unwrap_or(&name);
    NAMES
        .iter()
        .position(|known| *known == bare)
        .map(|at| at as u32)
}

/// Name with `CAP_` of a capability's number.
pub fn name(number: u32) -> Option<String> {
    NAMES.get(number as usize).map(|name| format!("CAP_{name}"))
}

/// All capabilities that the calling process may give: its own and not dropped from the bounding set. A mask beyond it is cut down.
pub fn available() -> u64 {
    let permitted = capabilities(None).map_or(0, |sets| sets.permitted.bits());
    (0..64)
        .map(|bit| 1u64 << bit)
        .filter(|bit| permitted & bit != 0)
        .filter(|bit| {
            capability_is_in_bounding_set(CapabilitySet::from_bits_retain(*bit)).unwrap_or(false)
        })
        .fold(0, |mask, bit| mask | bit)
}

/// Takes everything outside `keep` from the bounding set: no later exec can win it back.
pub(crate) fn drop_bounding(keep: u64) -> Result<(), Errno> {
    for bit in (0..64).map(|bit| 1u64 << bit).filter(|bit| keep & bit == 0) {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(bit)) {
            Ok(()) => {}
            // Beyond the last capability that this kernel knows.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sets what the process has until its exec. Root keeps the mask; for others the kernel would clear it at exec, so they have nothing already.
/// Inheritable and ambient sets are empty (CVE-2022-24769).
pub(crate) fn apply(mask: u64, root: bool) -> Result<(), Errno> {
    let _ = clear_ambient_capability_set();
    let present = capabilities(None)?.permitted.bits();
    let own = if root {
        CapabilitySet::from_bits_retain(mask & present)
    } else {
        CapabilitySet::empty()
    };
    set_capabilities(
        None,
        CapabilitySets {
            effective: own,
            permitted: own,
            inheritable: CapabilitySet::empty(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!(number("CAP_SYS_ADMIN"), Some(21));
        assert_eq!(number("net_raw"), Some(13));
        assert_eq!(number("NONSENSE"), None);
        assert_eq!(name(40).as_deref(), Some("CAP_CHECKPOINT_RESTORE"));
        let defaults = [
            "CHOWN",
            "DAC_OVERRIDE",
            "FSETID",
            "FOWNER",
            "MKNOD",
            "NET_RAW",
            "SETGID",
            "SETUID",
            "SETFCAP",
            "SETPCAP",
            "NET_BIND_SERVICE",
            "SYS_CHROOT",
            "KILL",
            "AUDIT_WRITE",
        ];
        let mask = defaults
            .iter()
            .fold(0u64, |m, n| m | 1 << number(n).unwrap());
        assert_eq!(mask, DEFAULT);
    }
}
