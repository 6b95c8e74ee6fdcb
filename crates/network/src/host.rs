//! Switches of the host's network stack, under /proc/sys/net of the calling thread's network namespace.

use std::{fs, io, path::PathBuf};

use longshore_model::{Error, Result};

use crate::nft::rules::Filtered;

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(name)
}

fn is_on(name: &str) -> bool {
    fs::read_to_string(path(name)).is_ok_and(|text| text.trim() != "0")
}

/// Writes a switch unless it has the value already (it may be read-only then).
fn set(name: &str, value: &str) -> io::Result<()> {
    let path = path(name);
    if fs::read_to_string(&path).is_ok_and(|text| text.trim() == value) {
        return Ok(());
    }
    fs::write(path, value)
}

/// Switches IPv4 forwarding on. True: it was off.
///
/// # Errors
/// The switch is off and cannot be changed.
pub fn forward_ipv4() -> Result<bool> {
    let was_off = !is_on("ipv4/ip_forward");
    set("ipv4/ip_forward", "1").map_err(|e| Error::io("cannot switch on IPv4 forwarding", e))?;
    Ok(was_off)
}

/// Switches IPv6 forwarding on. True: it was off.
///
/// # Errors
/// The switches are off and cannot be changed.
pub fn forward_ipv6() -> Result<bool> {
    let was_off = !is_on("ipv6/conf/all/forwarding");
    for name in ["ipv6/conf/default/forwarding", "ipv6/conf/all/forwarding"] {
        set(name, "1").map_err(|e| Error::io("cannot switch on IPv6 forwarding", e))?;
    }
    Ok(was_off)
}

/// Lets 127.0.0.0/8 be sent to a bridge. False: that cannot be had.
pub fn allow_loopback(bridge: &str) -> bool {
    set(&format!("ipv4/conf/{bridge}/route_localnet"), "1").is_ok()
}

/// IPv6 on a bridge: on for bridges that have a subnet. Without one nothing is changed.
pub fn enable_ipv6(bridge: &str) {
    // Best effort: adding the address fails with a clear error if this did not work.
    let _ = set(&format!("ipv6/conf/{bridge}/disable_ipv6"), "0");
    let _ = set(&format!("ipv6/conf/{bridge}/accept_ra"), "0");
}

/// Writes `net/...` below /proc/sys, as the calling thread's network namespace sees it.
///
/// # Errors
/// A name outside net, or what the kernel says.
pub fn write_setting(name: &str, value: &str) -> io::Result<()> {
    let inside = name
        .strip_prefix("net/")
        .filter(|rest| !rest.split('/').any(|part| part.is_empty() || part == ".."))
        .ok_or(io::ErrorKind::InvalidInput)?;
    fs::write(path(inside), value)
}

/// IPv6 on a container's interface, in the calling thread's namespace.
pub fn switch_ipv6(interface: &str, on: bool) {
    // A kernel without IPv6 has no such switch.
    let value = if on { "0" } else { "1" };
    let _ = set(&format!("ipv6/conf/{interface}/disable_ipv6"), value);
}

/// Whether bridged frames pass the IP hooks; false as well when br_netfilter is not there.
pub fn bridged_frames_are_filtered() -> Filtered {
    Filtered {
        ipv4: is_on("bridge/bridge-nf-call-iptables"),
        ipv6: is_on("bridge/bridge-nf-call-ip6tables"),
    }
}
