//! Users and groups of a container, from its own /etc/passwd and /etc/group. The rules are those of Docker's
//! `USER` and `--user`.

use std::{io::Read, os::fd::BorrowedFd};

use rustix::fs::{FileType, OFlags};

use crate::{mounts::IN_ROOT, plan::LaunchFailure};

/// Who a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, `gid` itself first.
    pub groups: Vec<u32>,
    /// Home directory from passwd; `/` when the user is not listed.
    pub home: String,
}

/// Greatest id that Docker takes.
const MAX_ID: u32 = 0x7fff_ffff;
/// A passwd or group file larger than this is not read further.
const MAX_FILE: u64 = 16 << 20;

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Resolves `user`, `user:group`, `uid`, `uid:gid` or nothing (root) and further groups inside `root`.
///
/// # Errors
/// `Invalid` with Docker's texts (`unable to find user x: no matching entries in passwd file`).
pub fn resolve(
    root: BorrowedFd<'_>,
    user: &str,
    groups: &[String],
) -> Result<Identity, LaunchFailure> {
    let passwd = read(root, "/etc/passwd");
    let group = read(root, "/etc/group");
    resolve_in(&passwd, &group, user, groups)
}

/// The text of a file of the container; empty when there is none. Devices and pipes are not read: they could block.
fn read(root: BorrowedFd<'_>, path: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut text = Vec::new();
    if let Ok(fd) = longshore_sys::resolve::open(root, path, flags, IN_ROOT)
        && rustix::fs::fstat(&fd)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
    {
        // What could be read before an error still counts.
        let _ = std::fs::File::from(fd)
            .take(MAX_FILE)
            .read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn passwd_entries(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let field = |at: usize| fields.get(at).copied().unwrap_or("");
            PasswdEntry {
                name: field(0),
                uid: field(2).parse().unwrap_or(0),
                gid: field(3).parse().unwrap_or(0),
                home: field(5),
            }
        })
}

fn group_entries(text: &str) -> impl Iterator<Item = GroupEntry<'_>> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let field = |at: usize| fields.get(at).copied().unwrap_or("");
            GroupEntry {
                name: field(0),
                gid: field(2).parse().unwrap_or(0),
                members: field(3),
            }
        })
}

fn in_range(id: i64) -> Result<u32, LaunchFailure> {
    u32::try_from(id)
        .ok()
        .filter(|id| *id <= MAX_ID)
        .ok_or_else(|| LaunchFailure::invalid("uids and gids must be in range 0-2147483647"))
}

fn resolve_in(
    passwd: &str,
    group: &str,
    spec: &str,
    additional: &[String],
) -> Result<Identity, LaunchFailure> {
    let (user_word, group_word) = spec.split_once(':').unwrap_or((spec, ""));
    let number: Option<i64> = if user_word.is_empty() {
        Some(0)
    } else {
        user_word.parse().ok()
    };
    let entry = passwd_entries(passwd).find(|entry| {
        (!user_word.is_empty() && entry.name == user_word) || number == Some(i64::from(entry.uid))
    });
    let mut identity = Identity {
        home: "/".to_owned(),
        ..Identity::default()
    };
    let mut name = "";
    match (entry, number) {
        (Some(entry), _) => {
            identity.uid = entry.uid;
            identity.gid = entry.gid;
            if !entry.home.is_empty() {
                identity.home = entry.home.to_owned();
            }
            name = entry.name;
        }
        (None, Some(uid)) => identity.uid = in_range(uid)?,
        (None, None) => {
            return Err(LaunchFailure::invalid(format!(
                "unable to find user {user_word}: no matching entries in passwd file"
            )));
        }
    }
    let mut supplementary = Vec::new();
    if !group_word.is_empty() {
        identity.gid = group_id(group, group_word)?;
    } else if !name.is_empty() {
        supplementary.extend(
            group_entries(group)
                .filter(|entry| entry.members.split(',').any(|member| member == name))
                .map(|entry| entry.gid),
        );
    }
    for word in additional {
        supplementary.push(group_id(group, word)?);
    }
    identity.groups.push(identity.gid);
    for gid in supplementary {
        if !identity.groups.contains(&gid) {
            identity.groups.push(gid);
        }
    }
    Ok(identity)
}

fn group_id(group: &str, word: &str) -> Result<u32, LaunchFailure> {
    let number: Option<i64> = word.parse().ok();
    let entry = group_entries(group)
        .find(|entry| entry.name == word || number == Some(i64::from(entry.gid)));
    match (entry, number) {
        (Some(entry), _) => Ok(entry.gid),
        (None, Some(gid)) => in_range(gid),
        (None, None) => Err(LaunchFailure::invalid(format!(
            "unable to find group {word}: no matching entries in group file"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n\nweb:x:33:33::/var/www:\n12:x:99:98::/odd:\n";
    const GROUP: &str =
        "root:x:0:root\nadm:x:4:web,root\nweb:x:33:\nnobody:x:65534:\nvideo:x:44:web\n";

    fn id(spec: &str) -> Identity {
        resolve_in(PASSWD, GROUP, spec, &[]).unwrap()
    }

    fn text(spec: &str, groups: &[&str]) -> String {
        let groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        resolve_in(PASSWD, GROUP, spec, &groups)
            .unwrap_err()
            .message
    }

    #[test]
    fn users() {
        let root = id("");
        assert_eq!((root.uid, root.gid, root.home.as_str()), (0, 0, "/root"));
        assert_eq!(root.groups, [0, 4]);
        assert_eq!(id("root"), id("0"));
        let web = id("web");
        assert_eq!((web.uid, web.groups.as_slice()), (33, &[33, 4, 44][..]));
        assert_eq!(id("33"), web);
        assert_eq!(id("web:adm").groups, [4]);
        assert_eq!(id("web:1234").gid, 1234);
        let unknown = id("1000");
        assert_eq!(
            (unknown.uid, unknown.gid, unknown.home.as_str()),
            (1000, 0, "/")
        );
        assert_eq!(id("1000:1000").groups, [1000]);
        // A name of digits wins over the number when it comes first.
        assert_eq!(id("12").uid, 99);
    }

    #[test]
    fn additional_groups() {
        let groups = ["video".to_owned(), "7".to_owned(), "33".to_owned()];
        assert_eq!(
            resolve_in(PASSWD, GROUP, "nobody", &groups).unwrap().groups,
            [65534, 44, 7, 33]
        );
    }

    #[test]
    fn texts() {
        assert_eq!(
            text("nosuch", &[]),
            "unable to find user nosuch: no matching entries in passwd file"
        );
        assert_eq!(
            text("web:nosuch", &[]),
            "unable to find group nosuch: no matching entries in group file"
        );
        assert_eq!(
            text("web", &["x"]),
            "unable to find group x: no matching entries in group file"
        );
        assert_eq!(
            text("4294967296", &[]),
            "uids and gids must be in range 0-2147483647"
        );
        assert_eq!(
            text("-1", &[]),
            "uids and gids must be in range 0-2147483647"
        );
    }
}
