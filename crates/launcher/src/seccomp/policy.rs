//! What Docker lets a container's processes call by default.
//!
//! The policy is written down as what it refuses: everything that Linux had when it was last revised is allowed but for what is listed here.
//! Calls that are newer answer ENOSYS, so that programs fall back.

use std::collections::BTreeMap;

use super::{
    ALLOW, Action, Arch, ArchPolicy, Condition, ENOSYS, EPERM, Operator, Policy, Verdict, number,
    tables::SYSCALLS,
};
use crate::caps;

/// removexattrat, the newest call that the policy knows.
const NEWEST: u32 = 466;

/// Refused whatever the capabilities: they are obsolete, not confined by namespaces, or have been a way out of containers.
const REFUSED: &[&str] = &[
    // Keys and user-made page faults know no namespaces; io_uring passes by this very filter.
    "add_key",
    "request_key",
    "keyctl",
    "userfaultfd",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    // The host's memory, swap and kernel.
    "swapon",
    "swapoff",
    "kexec_load",
    "kexec_file_load",
    "nfsservctl",
    "migrate_pages",
    "move_pages",
    "pivot_root",
    "sysfs",
    "ustat",
    "uselib",
    "_sysctl",
    "vm86",
    "vm86old",
    // Removed or never implemented.
    "create_module",
    "get_kernel_syms",
    "query_module",
    "getpmsg",
    "putpmsg",
    "afs_syscall",
    "tuxcall",
    "security",
    "vserver",
    "bdflush",
    "break",
    "ftime",
    "gtty",
    "stty",
    "idle",
    "lock",
    "mpx",
    "prof",
    "profil",
    "ulimit",
    // Superseded forms of i386 that no C library has used for decades.
    "nice",
    "oldstat",
    "oldfstat",
    "oldlstat",
    "olduname",
    "oldolduname",
    "readdir",
    "sgetmask",
    "ssetmask",
    "sigaction",
    "signal",
    "sigpending",
    "sigsuspend",
];

/// Allowed to those that have one of the capabilities.
const WITH_CAPABILITY: &[(&str, &[&str])] = &[
    ("DAC_READ_SEARCH", &["open_by_handle_at"]),
    (
        "SYS_ADMIN",
        &[
            "bpf",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "lsm_get_self_attr",
            "lsm_list_modules",
            "lsm_set_self_attr",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("SYS_BOOT", &["reboot"]),
    ("SYS_CHROOT", &["chroot"]),
    (
        "SYS_MODULE",
        &["delete_module", "init_module", "finit_module"],
    ),
    ("SYS_PACCT", &["acct"]),
    ("SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("SYS_RAWIO", &["iopl", "ioperm"]),
    (
        "SYS_TIME",
        &["settimeofday", "stime", "clock_settime", "clock_settime64"],
    ),
    ("SYS_TTY_CONFIG", &["vhangup"]),
    (
        "SYS_NICE",
        &[
            "get_mempolicy",
            "mbind",
            "set_mempolicy",
            "set_mempolicy_home_node",
        ],
    ),
    ("SYSLOG", &["syslog"]),
    ("BPF", &["bpf"]),
    ("PERFMON", &["perf_event_open"]),
];

/// Address families of socket(2) that are refused: kernel code with a bad record that containers have no use for, such as AF_ALG
/// and AF_VSOCK (which reaches past network namespaces).
const REFUSED_FAMILIES: &[u64] = &[12, 19, 20, 23, 25, 34, 37, 38, 40];
/// AF_MCTP: the highest family that was known.
const HIGHEST_FAMILY: u64 = 45;

/// Execution domains for personality(2): Linux, 32-bit Linux, both also as 2.6 (UNAME26), or a mere question.
const PERSONALITIES: &[u64] = &[0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// All namespace flags of clone(2) but CLONE_NEWTIME, which it cannot take.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;

fn condition(argument: u32, operator: Operator, value: u64) -> Condition {
    Condition {
        argument,
        operator,
        value,
    }
}

/// The policy for a process with these capabilities.
pub(super) fn default_policy(capabilities: u64) -> Policy {
    let trees = [Arch::X86_64, Arch::I386]
        .into_iter()
        .map(|arch| ArchPolicy {
            arch,
            fold_x32: true,
            default: EPERM,
            newer: Some((NEWEST, ENOSYS)),
            calls: calls(arch, capabilities),
        })
        .collect();
    Policy { trees }
}

fn calls(arch: Arch, capabilities: u64) -> BTreeMap<u32, Verdict> {
    let mut calls = BTreeMap::new();
    for (name, _, _) in SYSCALLS {
        if let Some(number) = number(name, arch).filter(|number| *number <= NEWEST) {
            calls.insert(number, verdict(name, capabilities));
        }
    }
    if arch == Arch::X86_64 {
        for (number, name) in (X32_FIRST..).zip(X32_ONLY) {
            calls.insert(number, verdict(name, capabilities));
        }
    }
    calls
}

pub(super) fn verdict(name: &str, capabilities: u64) -> Verdict {
    let has = |capability: &str| {
        caps::number(capability).is_some_and(|number| capabilities & 1 << number != 0)
    };
    match name {
        _ if REFUSED.contains(&name) => return Verdict::Plain(EPERM),
        "clone" if !has("SYS_ADMIN") => {
            let no_namespace = condition(0, Operator::Masked(NAMESPACE_FLAGS), 0);
            return Verdict::Rules(vec![(vec![no_namespace], ALLOW)], EPERM);
        }
        // Its flags are in memory, which a filter cannot see; C libraries go back to clone.
        "clone3" if !has("SYS_ADMIN") => return Verdict::Plain(ENOSYS),
        "socket" => {
            let mut rules: Vec<(Vec<Condition>, Action)> = REFUSED_FAMILIES
                .iter()
                .map(|family| (vec![condition(0, Operator::Equal, *family)], EPERM))
                .collect();
            rules.push((
                vec![condition(0, Operator::LessOrEqual, HIGHEST_FAMILY)],
                ALLOW,
            ));
            return Verdict::Rules(rules, EPERM);
        }
        "personality" => {
            let rules = PERSONALITIES
                .iter()
                .map(|domain| (vec![condition(0, Operator::Equal, *domain)], ALLOW))
                .collect();
            return Verdict::Rules(rules, EPERM);
        }
        _ => {}
    }
    let mut gated = WITH_CAPABILITY
        .iter()
        .filter(|(_, names)| names.contains(&name))
        .peekable();
    if gated.peek().is_none() || gated.any(|(capability, _)| has(capability)) {
        Verdict::Plain(ALLOW)
    } else {
        Verdict::Plain(EPERM)
    }
}

/// Numbers that only x32 has, from 512 on.
pub(super) const X32_FIRST: u32 = 512;
pub(super) const X32_ONLY: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, capabilities: u64) -> Verdict {
        verdict(name, capabilities)
    }

    #[test]
    fn every_name_in_the_policy_is_a_call() {
        for name in REFUSED
            .iter()
            .chain(WITH_CAPABILITY.iter().flat_map(|(_, names)| *names))
        {
            let known = number(name, Arch::X86_64).or(number(name, Arch::I386));
            assert!(known.is_some(), "{name}");
        }
        for (capability, _) in WITH_CAPABILITY {
            assert!(caps::number(capability).is_some(), "{capability}");
        }
        for name in X32_ONLY {
            assert!(number(name, Arch::X86_64).is_some(), "{name}");
        }
        assert!(SYSCALLS.is_sorted_by_key(|entry| entry.0));
    }

    #[test]
    fn capabilities_open_calls() {
        let admin = 1 << 21;
        assert_eq!(of("mount", caps::DEFAULT), Verdict::Plain(EPERM));
        assert_eq!(of("mount", admin), Verdict::Plain(ALLOW));
        assert_eq!(of("clone3", caps::DEFAULT), Verdict::Plain(ENOSYS));
        assert_eq!(of("clone3", admin), Verdict::Plain(ALLOW));
        assert_eq!(of("clone", admin), Verdict::Plain(ALLOW));
        assert_eq!(of("bpf", 1 << 39), Verdict::Plain(ALLOW));
        assert_eq!(of("keyctl", u64::MAX), Verdict::Plain(EPERM));
        assert_eq!(of("chroot", caps::DEFAULT), Verdict::Plain(ALLOW));
        assert_eq!(of("ptrace", 0), Verdict::Plain(ALLOW));
    }
}
