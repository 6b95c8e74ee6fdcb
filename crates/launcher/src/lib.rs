//! Makes containers: namespaces, root file system, cgroups, devices, identity, exec. Runs in the shim, a process with
//! one thread; nothing here knows HTTP, the engine or tokio.

pub mod cgroup;
pub mod exec;
mod failure;
pub mod parent;
pub mod plan;
pub mod pty;
pub mod seccomp;
pub mod user;
