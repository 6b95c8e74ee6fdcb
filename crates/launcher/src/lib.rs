//! Makes containers: namespaces, root file system, cgroups, devices, identity, exec. Runs in the shim, a process with
//! one thread; nothing here knows HTTP, the engine or tokio.

mod binds;
pub mod caps;
pub mod cgroup;
mod channel;
mod child;
mod copy;
mod devices;
pub mod exec;
mod failure;
mod filesystems;
mod image_mount;
mod init;
mod mounts;
mod namespaces;
mod net;
pub mod parent;
pub mod plan;
mod process;
pub mod pty;
mod resolver;
mod rootfs;
pub mod seccomp;
pub mod user;
pub mod view;

pub use namespaces::start_time_of;
