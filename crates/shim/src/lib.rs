//! One small process a container: owns its stdio, terminal, log and exit status, so that the daemon may come and go.
//! `protocol` is what both sides say; `client` the daemon's side; `zygote` forks shims; the rest runs in the shim.

pub mod protocol;
