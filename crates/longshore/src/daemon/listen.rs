//! The places where the daemon listens: made before any request can come, taken away at the end.

use std::{
    fs,
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use longshore_model::config::Listen;
use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    net::{AddressFamily, SocketType},
};

use super::config::DEFAULT_GROUP;

/// A listening socket.
#[derive(Debug)]
pub enum Bound {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// All listening sockets, and what to unlink at the end.
#[derive(Default)]
pub struct Listeners {
    pub bound: Vec<Bound>,
    /// For the log: `unix:///var/run/docker.sock`.
    pub names: Vec<String>,
    files: Vec<SocketFile>,
}

/// A socket file that we made.
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    /// Unlinks it if it is still ours: another daemon may have taken its place.
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == (self.device, self.inode));
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Listeners {
    /// Binds all places of `listen`. `inherited` are the descriptors that a service manager passed.
    ///
    /// # Errors
    /// The first place that cannot be had, in words for the operator; those bound before are let go.
    pub fn bind(
        listen: &[Listen],
        group: &str,
        mut inherited: Vec<(String, OwnedFd)>,
    ) -> Result<Listeners, String> {
        let mut listeners = Listeners::default();
        for place in listen {
            match place {
                Listen::Unix(path) => listeners.unix(path, group)?,
                Listen::Tcp(address) => listeners.tcp(address)?,
                Listen::Fd(name) => listeners.inherited(name, &mut inherited)?,
            }
        }
        Ok(listeners)
    }

    fn unix(&mut self, path: &Path, group: &str) -> Result<(), String> {
        let (socket, file) = bind_unix(path, group)
            .map_err(|error| format!("can't create unix socket {}: {error}", path.display()))?;
        self.files.push(file);
        self.bound.push(Bound::Unix(socket));
        self.names.push(format!("unix://{}", path.display()));
        Ok(())
    }

    fn tcp(&mut self, address: &str) -> Result<(), String> {
        for address in resolve(address)? {
            if !address.ip().is_loopback() {
                tracing::warn!(
                    host = %format!("tcp://{address}"),
                    "DANGER: this address has no TLS and is not loopback: everyone who can reach it is root on this machine"
                );
            }
            let socket = TcpListener::bind(address)
                .map_err(|error| format!("cannot listen at tcp://{address}: {error}"))?;
            // Port 0 asks the kernel for one: the log says which.
            let address = socket.local_addr().unwrap_or(address);
            self.names.push(format!("tcp://{address}"));
            self.bound.push(Bound::Tcp(socket));
        }
        Ok(())
    }

    /// `fd://` takes all, `fd://NAME` those of that name or number (3 is the first).
    fn inherited(
        &mut self,
        name: &str,
        inherited: &mut Vec<(String, OwnedFd)>,
    ) -> Result<(), String> {
        let all = matches!(name, "" | "*");
        let found = self.bound.len();
        let mut others = Vec::new();
        for (index, (its, descriptor)) in inherited.drain(..).enumerate() {
            if all || its == name || (index + 3).to_string() == name {
                self.bound.push(recognise(descriptor)?);
                self.names.push(format!("fd://{its}"));
            } else {
                others.push((its, descriptor));
            }
        }
        *inherited = others;
        if self.bound.len() == found {
            return Err(format!(
                "no sockets found via socket activation for fd://{name}: make sure the service was started by systemd"
            ));
        }
        Ok(())
    }
}

/// The descriptors that the environment announces (`LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`), with their names.
///
/// # Errors
/// An announced descriptor is not open.
pub fn inherited() -> Result<Vec<(String, OwnedFd)>, String> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let count = i32::try_from(number("LISTEN_FDS").unwrap_or(0)).unwrap_or(0);
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let descriptors = longshore_sys::activation::take_descriptors(count)
        .map_err(|error| format!("a descriptor that LISTEN_FDS announces: {error}"))?;
    Ok(descriptors
        .into_iter()
        .map(|descriptor| (names.next().unwrap_or_default().to_owned(), descriptor))
        .collect())
}

/// What kind of listening socket is it?
fn recognise(descriptor: OwnedFd) -> Result<Bound, String> {
    let refused = |error: &dyn std::fmt::Display| format!("socket activation: {error}");
    match rustix::net::sockopt::socket_type(&descriptor) {
        Ok(SocketType::STREAM) => {}
        Ok(_) => return Err(refused(&"not a stream socket")),
        Err(error) => return Err(refused(&error)),
    }
    match rustix::net::sockopt::socket_domain(&descriptor).map_err(|error| refused(&error))? {
        AddressFamily::UNIX => Ok(Bound::Unix(descriptor.into())),
        AddressFamily::INET | AddressFamily::INET6 => Ok(Bound::Tcp(descriptor.into())),
        other => Err(refused(&format!("address family {}", other.as_raw()))),
    }
}

/// Binds `path`, mode 0660 and `root:group`, taking over a socket that nobody listens at any more.
fn bind_unix(path: &Path, group: &str) -> io::Result<(UnixListener, SocketFile)> {
    let folder = path
        .parent()
        .ok_or_else(|| io::Error::other("no such folder"))?;
    fs::create_dir_all(folder)?;
    let group = match group_id(group) {
        Ok(id) => id,
        // As dockerd: only the default group may be missing.
        Err(error) if group == DEFAULT_GROUP => {
            tracing::warn!(
                "could not change group {} to {group}: {error}",
                path.display()
            );
            0
        }
        Err(error) => return Err(error),
    };
    // Between the look at an old socket and its removal no other daemon may do the same.
    let _guard = lock_folder(folder)?;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(io::Error::other(
                "there is a file of that name which is no socket",
            ));
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            Ok(_) => {
                return Err(io::Error::new(
                    ErrorKind::AddrInUse,
                    "another daemon is listening there (dockerd? longshore?); stop it first",
                ));
            }
            // A full backlog: somebody is there, if slow.
            Err(error) => return Err(error),
        },
    }
    // Until group and mode are right only root may connect. No other thread runs yet that this mask could hit.
    let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(mask);
    let listener = bound?;
    let file = fs::symlink_metadata(path)?;
    let file = SocketFile {
        path: path.to_owned(),
        device: file.dev(),
        inode: file.ino(),
    };
    std::os::unix::fs::lchown(path, Some(0), Some(group))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok((listener, file))
}

/// An exclusive lock on a folder, held until the descriptor closes. Somebody else's lock is waited for, not for ever:
/// it guards only against two daemons that start at the same moment.
fn lock_folder(folder: &Path) -> io::Result<OwnedFd> {
    let descriptor = rustix::fs::open(
        folder,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    for _ in 0..100 {
        match rustix::fs::flock(&descriptor, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => return Err(error.into()),
            Ok(()) => break,
        }
    }
    Ok(descriptor)
}

/// A group's number, by name in /etc/group (a static program has no other source) or as a number.
fn group_id(group: &str) -> io::Result<u32> {
    if let Ok(id) = group.parse() {
        return Ok(id);
    }
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    find_group(&groups, group)
        .ok_or_else(|| io::Error::new(ErrorKind::NotFound, format!("group {group} not found")))
}

fn find_group(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// Numbers and names of /etc/hosts; a static program asks no name server.
fn resolve(address: &str) -> Result<Vec<SocketAddr>, String> {
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let found = look_up(&hosts, address);
    if found.is_empty() {
        return Err(format!(
            "cannot listen at tcp://{address}: want an IP address, or a name of /etc/hosts"
        ));
    }
    Ok(found)
}

fn look_up(hosts: &str, address: &str) -> Vec<SocketAddr> {
    let Some((name, port)) = address.rsplit_once(':') else {
        return Vec::new();
    };
    let Ok(port) = port.parse() else {
        return Vec::new();
    };
    let mut found: Vec<SocketAddr> = hosts
        .lines()
        .filter_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let ip = words.next()?.parse().ok()?;
            words
                .any(|word| word == name)
                .then(|| SocketAddr::new(ip, port))
        })
        .collect();
    if found.is_empty() && name == "localhost" {
        found.push(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("longshore-listen-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_live_socket_is_refused_and_a_stale_one_taken_over() {
        let folder = folder("unix");
        let path = folder.join("new/engine.sock");
        let place = [Listen::Unix(path.clone())];
        let first = Listeners::bind(&place, "0", Vec::new()).unwrap();
        let file = fs::metadata(&path).unwrap();
        assert_eq!(file.permissions().mode() & 0o7777, 0o660);
        let error = Listeners::bind(&place, "0", Vec::new()).err().unwrap();
        assert!(error.contains("another daemon"), "{error}");
        assert_eq!(fs::metadata(&path).unwrap().ino(), file.ino());
        drop(first);
        assert!(!path.exists());

        // A daemon that was killed leaves its file.
        drop(UnixListener::bind(&path).unwrap());
        let second = Listeners::bind(&place, "0", Vec::new()).unwrap();
        UnixStream::connect(&path).unwrap();
        // Another's file at our place stays.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "x").unwrap();
        drop(second);
        assert!(path.exists());
        let error = Listeners::bind(&place, "0", Vec::new()).err().unwrap();
        assert!(error.contains("no socket"), "{error}");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn groups() {
        let groups = "root:x:0:\ndocker:x:105:a,b\n";
        assert_eq!(find_group(groups, "docker"), Some(105));
        assert_eq!(find_group(groups, "dock"), None);
        assert_eq!(group_id("42").unwrap(), 42);
        let folder = folder("group");
        let place = [Listen::Unix(folder.join("x.sock"))];
        assert!(Listeners::bind(&place, "no-such-group", Vec::new()).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn names_come_from_the_hosts_file() {
        let hosts = "127.0.0.1 localhost\n::1 localhost # x\n10.0.0.1 box box.lan\n";
        assert_eq!(look_up(hosts, "localhost:1").len(), 2);
        assert_eq!(look_up("", "localhost:1").len(), 1);
        assert_eq!(
            look_up(hosts, "box.lan:80"),
            [SocketAddr::from(([10, 0, 0, 1], 80))]
        );
        assert!(look_up(hosts, "x:80").is_empty());
    }

    #[test]
    fn passed_sockets_are_told_apart() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let unused = TcpListener::bind("127.0.0.1:0").unwrap();
        let passed = vec![
            ("web".to_owned(), OwnedFd::from(tcp)),
            ("api".to_owned(), OwnedFd::from(unused)),
        ];
        let listeners = Listeners::bind(&[Listen::Fd("web".into())], "0", passed).unwrap();
        assert!(matches!(listeners.bound[..], [Bound::Tcp(_)]));
        assert!(Listeners::bind(&[Listen::Fd(String::new())], "0", Vec::new()).is_err());
    }
}
