//! The host's time zone.

/// Seconds east of UTC at a moment (seconds since the epoch), by /etc/localtime or TZ; 0 when the host has none.
pub fn utc_offset(seconds: i64) -> i64 {
    let time: libc::time_t = seconds;
    // SAFETY: an all-zero tm is valid: numbers and a null pointer.
    let mut local: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both point to live values of this stack; localtime_r fills the second and keeps neither.
    let filled = unsafe { libc::localtime_r(&raw const time, &raw mut local) };
    if filled.is_null() { 0 } else { local.tm_gmtoff }
}
