//! One small process a container: owns its stdio, terminal, log and exit status, so that the daemon may come and go.
//! `protocol` is what both sides say; `client` the daemon's side; `zygote` forks shims; the rest runs in the shim, but for
//! `logs::reader` and `logs::watch`, by which the daemon reads what the shim has written.

mod attached;
pub mod client;
mod control;
mod execs;
mod exit;
pub mod files;
pub mod frame;
pub mod host;
mod launch;
mod listen;
pub mod logs;
mod poll;
pub mod protocol;
mod requests;
mod server;
mod start;
pub mod stdio;
pub mod zygote;
