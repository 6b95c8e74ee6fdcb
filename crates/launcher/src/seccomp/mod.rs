//! System call filters: Docker's default policy, profiles in Docker's JSON, and the compiler for both.

mod compile;
mod policy;
mod profile;
mod tables;
#[cfg(test)]
mod tests;

use crate::plan::LaunchFailure;

/// The architectures that an x86_64 kernel runs. x32 has no tree of its own: its numbers are those of x86_64 with one bit set, so
/// they are judged alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arch {
    X86_64,
    I386,
}

/// What the kernel does with a call: `SECCOMP_RET_*` with its data.
pub(crate) type Action = u32;

const ALLOW: Action = 0x7fff_0000;
const ERRNO: Action = 0x0005_0000;
const KILL_PROCESS: Action = 0x8000_0000;
const KILL_THREAD: Action = 0;
const TRAP: Action = 0x0003_0000;
const TRACE: Action = 0x7ff0_0000;
const LOG: Action = 0x7ffc_0000;

const EPERM: Action = ERRNO | libc::EPERM as u32;
const ENOSYS: Action = ERRNO | libc::ENOSYS as u32;

/// Comparison of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// 0 to 5.
    pub argument: u32,
    pub operator: Operator,
    pub value: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// The argument, masked with this, equals the value.
    Masked(u64),
}

/// What becomes of one system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Plain(Action),
    /// The first rule whose conditions all hold decides; else the last action.
    Rules(Vec<(Vec<Condition>, Action)>, Action),
}

/// Number of a system call in an architecture.
pub(crate) fn number(name: &str, arch: Arch) -> Option<u32> {
    let at = tables::SYSCALLS
        .binary_search_by_key(&name, |entry| entry.0)
        .ok()?;
    let (_, x86_64, i386) = tables::SYSCALLS[at];
    u32::try_from(if arch == Arch::X86_64 { x86_64 } else { i386 }).ok()
}

/// Docker's default policy, compiled for a process with these capabilities (bit mask over capability numbers).
pub fn default_filter(capabilities: u64) -> Vec<u8> {
    compile::assemble(&compile::program(&policy::default_policy(capabilities)))
}

/// Compiles a profile in Docker's JSON (`--security-opt seccomp=FILE`) or the one of the OCI runtime specification, for a process with these capabilities.
///
/// # Errors
/// `Invalid` for a profile that cannot be read.
pub fn from_oci_profile(json: &str, capabilities: u64) -> Result<Vec<u8>, LaunchFailure> {
    let policy = profile::read(json, capabilities).map_err(|error| {
        LaunchFailure::invalid(format!("Decoding seccomp profile failed: {error}"))
    })?;
    Ok(compile::assemble(&compile::program(&policy)))
}

/// A policy of one or both architectures; calls by any other end the process.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub trees: Vec<ArchPolicy>,
}

/// What is decided for the calls of one architecture.
#[derive(Clone, Debug)]
pub(crate) struct ArchPolicy {
    pub arch: Arch,
    /// For x86_64: the x32 bit of a number is taken off before it is judged.
    pub fold_x32: bool,
    /// For numbers that have no entry.
    pub default: Action,
    /// For numbers above the highest that the policy's author knew; `None` treats them as others.
    pub newer: Option<(u32, Action)>,
    pub calls: std::collections::BTreeMap<u32, Verdict>,
}
