//! Makes containers: namespaces, root file system, cgroups, devices, identity, exec. Runs in the shim, a process with
//! one thread; nothing here knows HTTP, the engine or tokio.

pub mod plan;
