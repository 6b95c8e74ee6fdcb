//! Capabilities, security options, masked paths.

use longshore_engine::api::{SeccompSpec, SecuritySpec};
use longshore_model::{Error, Result};

use super::text::parse_bool;
use crate::dto::hostconfig::HostConfig;

/// Docker's list of paths that a container sees as empty. Source: inspect of a container in recordings.
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Docker's list of paths that a container cannot write.
pub const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// linux/capability.h, by number.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The security part of a request.
///
/// # Errors
/// 400; 501 for an AppArmor profile or SELinux label, which this engine cannot apply.
pub fn convert(host: &HostConfig) -> Result<SecuritySpec> {
    let mut spec = SecuritySpec {
        privileged: host.privileged,
        cap_add: capabilities("CapAdd", &host.cap_add)?,
        cap_drop: capabilities("CapDrop", &host.cap_drop)?,
        read_only_rootfs: host.readonly_rootfs,
        masked_paths: host.masked_paths.clone(),
        readonly_paths: host.readonly_paths.clone(),
        group_add: host.group_add.clone().unwrap_or_default(),
        userns_mode: host.userns_mode.clone(),
        ..SecuritySpec::default()
    };
    for option in host.security_opt.iter().flatten() {
        security_option(option, &mut spec)?;
    }
    Ok(spec)
}

fn capabilities(field: &str, names: &Option<Vec<String>>) -> Result<Vec<String>> {
    names
        .iter()
        .flatten()
        .map(|name| {
            let upper = name.to_ascii_uppercase();
            if upper == "ALL" {
                return Ok(upper);
            }
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if CAPABILITIES.contains(&bare) {
                Ok(format!("CAP_{bare}"))
            } else {
                Err(Error::invalid(format!(
                    "invalid {field}: unknown capability: \"CAP_{bare}\""
                )))
            }
        })
        .collect()
}

fn security_option(option: &str, spec: &mut SecuritySpec) -> Result<()> {
    match option {
        "no-new-privileges" => {
            spec.no_new_privileges = Some(true);
            return Ok(());
        }
        // SELinux off, which it always is here.
        "disable" => return Ok(()),
        _ => {}
    }
    // `:` as separator is the old form.
    let Some((key, value)) = option.split_once('=').or_else(|| option.split_once(':')) else {
        return Err(Error::invalid(format!(
            "invalid --security-opt 1: {option:?}"
        )));
    };
    let bad = || Error::invalid(format!("invalid --security-opt 2: {option:?}"));
    match key {
        "no-new-privileges" => spec.no_new_privileges = Some(parse_bool(value).ok_or_else(bad)?),
        "seccomp" => spec.seccomp = seccomp(value)?,
        // The docker CLI turns this one into empty path lists itself; other clients may send it as it is.
        "systempaths" if value == "unconfined" => {
            spec.masked_paths = Some(Vec::new());
            spec.readonly_paths = Some(Vec::new());
        }
        "writable-cgroups" => spec.writable_cgroups = Some(parse_bool(value).ok_or_else(bad)?),
        "label" if value == "disable" => {}
        "label" => return Err(Error::not_implemented("SELinux labels are not supported")),
        "apparmor" => value.clone_into(&mut spec.apparmor),
        _ => return Err(bad()),
    }
    Ok(())
}

fn seccomp(value: &str) -> Result<SeccompSpec> {
    match value {
        "unconfined" => return Ok(SeccompSpec::Unconfined),
        "builtin" | "" => return Ok(SeccompSpec::Default),
        _ => {}
    }
    match crate::json::from_text::<SeccompShape>(value.as_bytes()) {
        Ok(_) => Ok(SeccompSpec::Profile(value.to_owned())),
        Err(error) => Err(Error::invalid(format!(
            "Decoding seccomp profile failed: {error}"
        ))),
    }
}

/// Only the outer form is looked at here; the launcher reads the rest.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct SeccompShape {}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(json: &str) -> Result<SecuritySpec> {
        convert(&serde_json::from_str(json).expect("host config"))
    }

    #[test]
    fn options() {
        let spec = run(
            r#"{"CapAdd":["net_admin","ALL"],"CapDrop":["CAP_CHOWN"],
                "SecurityOpt":["no-new-privileges:true","seccomp=unconfined","label=disable","writable-cgroups=true"]}"#,
        )
        .unwrap();
        assert_eq!(spec.cap_add, ["CAP_NET_ADMIN", "ALL"]);
        assert_eq!(spec.cap_drop, ["CAP_CHOWN"]);
        assert_eq!(spec.no_new_privileges, Some(true));
        assert_eq!(spec.seccomp, SeccompSpec::Unconfined);
        assert_eq!(spec.writable_cgroups, Some(true));
        for (json, want) in [
            (
                r#"{"CapAdd":["x"]}"#,
                "invalid CapAdd: unknown capability: \"CAP_X\"",
            ),
            (
                r#"{"CapDrop":["cap_y"]}"#,
                "invalid CapDrop: unknown capability: \"CAP_Y\"",
            ),
            (
                r#"{"SecurityOpt":["x"]}"#,
                "invalid --security-opt 1: \"x\"",
            ),
            (
                r#"{"SecurityOpt":["x=y"]}"#,
                "invalid --security-opt 2: \"x=y\"",
            ),
            (
                r#"{"SecurityOpt":["no-new-privileges=z"]}"#,
                "invalid --security-opt 2: \"no-new-privileges=z\"",
            ),
        ] {
            assert_eq!(run(json).unwrap_err().message, want);
        }
        let error = run(r#"{"SecurityOpt":["seccomp={"]}"#).unwrap_err();
        assert!(
            error
                .message
                .starts_with("Decoding seccomp profile failed: "),
            "{}",
            error.message
        );
        assert!(
            run(r#"{"SecurityOpt":["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}"]}"#).is_ok()
        );
    }
}
