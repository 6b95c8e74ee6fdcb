//! What the local driver mounts for a volume with options: the words of mount(8)'s `-o` to flags and data, and the mount.

use std::{ffi::CString, path::Path};

use longshore_model::{Error, Result, error::go_errno};
use rustix::{
    io::Errno,
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_remount,
        unmount,
    },
};

/// What a volume's options ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeMount {
    /// Source: a path, `host:/export`, or any word for file systems without one.
    pub device: String,
    /// File system type; `none` or empty for binds.
    pub kind: String,
    /// The words of `o`, with commas.
    pub options: String,
}

#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    flags: MountFlags,
    propagation: MountPropagationFlags,
    data: String,
}

/// Words that set (true) or clear (false) flags; what is not here is the file system's own (`size=1m`).
fn flag(word: &str) -> Option<(bool, MountFlags)> {
    Some(match word {
        "defaults" => (false, MountFlags::empty()),
        "ro" => (true, MountFlags::RDONLY),
        "rw" => (false, MountFlags::RDONLY),
        "nosuid" => (true, MountFlags::NOSUID),
        "suid" => (false, MountFlags::NOSUID),
        "nodev" => (true, MountFlags::NODEV),
        "dev" => (false, MountFlags::NODEV),
        "noexec" => (true, MountFlags::NOEXEC),
        "exec" => (false, MountFlags::NOEXEC),
        "sync" => (true, MountFlags::SYNCHRONOUS),
        "async" => (false, MountFlags::SYNCHRONOUS),
        "dirsync" => (true, MountFlags::DIRSYNC),
        "mand" => (true, MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
        "nomand" => (false, MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
        "noatime" => (true, MountFlags::NOATIME),
        "atime" => (false, MountFlags::NOATIME),
        "nodiratime" => (true, MountFlags::NODIRATIME),
        "diratime" => (false, MountFlags::NODIRATIME),
        "relatime" => (true, MountFlags::RELATIME),
        "norelatime" => (false, MountFlags::RELATIME),
        "strictatime" => (true, MountFlags::STRICTATIME),
        "nostrictatime" => (false, MountFlags::STRICTATIME),
        "bind" => (true, MountFlags::BIND),
        "rbind" => (true, MountFlags::BIND | MountFlags::REC),
        _ => return None,
    })
}

fn propagation(word: &str) -> Option<MountPropagationFlags> {
    let (recursive, word) = match word.strip_prefix('r') {
        Some(rest) => (MountPropagationFlags::REC, rest),
        None => (MountPropagationFlags::empty(), word),
    };
    let kind = match word {
        "private" => MountPropagationFlags::PRIVATE,
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some(kind | recursive)
}

fn parse(options: &str) -> Parsed {
    let mut parsed = Parsed {
        flags: MountFlags::empty(),
        propagation: MountPropagationFlags::empty(),
        data: String::new(),
    };
    for word in options.split(',').filter(|word| !word.is_empty()) {
        if let Some((set, flags)) = flag(word) {
            parsed.flags.set(flags, set);
        } else if let Some(kind) = propagation(word) {
            parsed.propagation |= kind;
        } else {
            if !parsed.data.is_empty() {
                parsed.data.push(',');
            }
            parsed.data.push_str(word);
        }
    }
    parsed
}

impl VolumeMount {
    /// Mounts it at `target`. May take as long as the file system's server takes.
    ///
    /// # Errors
    /// `failed to mount local volume: mount DEVICE:TARGET...` in dockerd's words.
    pub(crate) fn mount_at(&self, target: &Path) -> Result<()> {
        let parsed = parse(&self.options);
        let failed = |error: Errno| {
            let mut text = format!(
                "failed to mount local volume: mount {}:{}",
                self.device,
                target.display()
            );
            if !parsed.flags.is_empty() {
                text.push_str(&format!(", flags: {:#x}", parsed.flags.bits()));
            }
            if !parsed.data.is_empty() {
                text.push_str(&format!(", data: {}", without_password(&parsed.data)));
            }
            Error::system(format!("{text}: {}", go_errno(&error.into())))
        };
        let data = CString::new(parsed.data.as_str()).map_err(|_| failed(Errno::INVAL))?;
        let data = (!parsed.data.is_empty()).then_some(data.as_c_str());
        mount(
            self.device.as_str(),
            target,
            self.kind.as_str(),
            parsed.flags,
            data,
        )
        .map_err(failed)?;
        let rest = || {
            if !parsed.propagation.is_empty() {
                mount_change(target, parsed.propagation)?;
            }
            // The kernel ignores `ro` and its like when it binds: once more on what is mounted.
            if parsed.flags.contains(MountFlags::BIND)
                && parsed.flags != parsed.flags & (MountFlags::BIND | MountFlags::REC)
            {
                mount_remount(target, parsed.flags - MountFlags::REC, "")?;
            }
            Ok(())
        };
        rest().map_err(|error| {
            let _ = unmount(target, UnmountFlags::DETACH);
            failed(error)
        })
    }
}

/// Passwords of network file systems are not for error texts.
fn without_password(data: &str) -> String {
    let words = data.split(',').map(|word| {
        if word.starts_with("password=") {
            "password=********"
        } else {
            word
        }
    });
    words.collect::<Vec<_>>().join(",")
}

/// Is something mounted at exactly this place?
pub(crate) fn is_mounted(target: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    statx(CWD, target, flags, StatxFlags::empty())
        .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Takes away whatever is mounted at this place, however often; users that still have it open keep it.
///
/// # Errors
/// What the kernel says; nothing mounted is no error.
pub(crate) fn unmount_all(target: &Path) -> Result<()> {
    // Nobody stacks more; a bound keeps a fault from becoming a loop.
    for _ in 0..64 {
        match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => {
                return Err(Error::io(
                    format_args!("umount {}", target.display()),
                    error,
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let parsed = parse("size=1m,nosuid,uid=1000,,ro,rw,rbind,rslave");
        assert_eq!(parsed.data, "size=1m,uid=1000");
        assert_eq!(
            parsed.flags,
            MountFlags::NOSUID | MountFlags::BIND | MountFlags::REC
        );
        assert_eq!(
            parsed.propagation,
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC
        );
        assert_eq!(parse("defaults").data, "");
    }

    #[test]
    fn passwords_are_hidden() {
        assert_eq!(
            without_password("username=a,password=secret,vers=3"),
            "username=a,password=********,vers=3"
        );
    }

    #[test]
    fn failures_read_as_dockerds() {
        let missing = VolumeMount {
            device: "/nosuch".into(),
            kind: "none".into(),
            options: "bind".into(),
        };
        let error = missing.mount_at(Path::new("/nosuch-target")).unwrap_err();
        assert_eq!(
            error.message,
            "failed to mount local volume: mount /nosuch:/nosuch-target, flags: 0x1000: no such file or directory"
        );
    }
}
