//! The zygote: a small process with one thread that does nothing but fork shims and helpers for files. The daemon has many threads and much memory, so it
//! never forks itself. The zygote ends when the daemon does.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
};

use longshore_sys::{
    clone::{CloneOptions, clone_process},
    exec::{close_on_exec_from, reset_signals},
    mount::{Attributes, set_attributes},
    signal,
    title::Title,
};
use rustix::{
    fs::{CWD, MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::Errno,
    mount::{OpenTreeFlags, open_tree},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
    process::setsid,
};

use crate::{
    control::send_now,
    files::helper_main,
    protocol::{LaunchFailure, Message},
    start::shim_main,
};

/// The role's name: the argument with which the binary is to call [`zygote_main`].
pub const ROLE: &str = "shim-zygote";

/// What ps shows of a shim.
const SHIM_TITLE: &str = "longshore-shim";
/// What ps shows of a helper for files.
const FILES_TITLE: &str = "longshore-files";

/// What the daemon asks for: the byte of its message.
const SHIM: u8 = 1;
const FILES: u8 = 2;

/// The zygote's life. Its standard input is a SEQPACKET socket; each message carries one descriptor, the stream socket of a shim to be.
/// To be called before anything makes a thread.
pub fn zygote_main() -> ! {
    signal::ignore_child_exits();
    signal::ignore_broken_pipes();
    let _ = rustix::thread::set_name(c"longshore-zygot");
    let title = Title::find().ok();
    // Found out once, inherited by every shim.
    let _ = longshore_launcher::cgroup::Layout::host();
    let null = File::options().read(true).write(true).open("/dev/null");
    let code = match null {
        Ok(null) => serve(null.as_fd(), title),
        Err(_) => 1,
    };
    std::process::exit(code)
}

fn serve(null: BorrowedFd<'_>, title: Option<Title>) -> i32 {
    loop {
        let (socket, role) = match receive(rustix::stdio::stdin()) {
            Ok(Next::Child(socket, role)) => (socket, role),
            Ok(Next::Nothing) => continue,
            Ok(Next::End) => return 0,
            Err(_) => return 1,
        };
        let mut socket = Some(socket);
        let forked = clone_process(&CloneOptions::default(), || {
            become_child(socket.take(), role, null, title)
        });
        // A helper's daemon sees its socket closed.
        if let (Err(error), Some(socket), SHIM) = (forked, socket, role) {
            // The daemon learns why instead of just seeing its socket closed.
            let failure = LaunchFailure::system("fork of the shim", error);
            let _ = send_now(&socket, &Message::LaunchFailed(failure), Vec::new());
        }
    }
}

/// In the fork: nothing of the zygote stays, then the life of a shim or a helper begins.
fn become_child(
    socket: Option<OwnedFd>,
    role: u8,
    null: BorrowedFd<'_>,
    title: Option<Title>,
) -> i32 {
    let Some(socket) = socket else { return 1 };
    reset_signals();
    signal::ignore_broken_pipes();
    // The zygote's socket is its standard input: it goes with this.
    let closed = rustix::stdio::dup2_stdin(null)
        .and_then(|()| rustix::stdio::dup2_stdout(null))
        .and_then(|()| rustix::stdio::dup2_stderr(null));
    if closed.is_err() {
        return 1;
    }
    let _ = setsid();
    let (name, shown) = if role == SHIM {
        (c"longshore-shim", SHIM_TITLE)
    } else {
        (c"longshore-files", FILES_TITLE)
    };
    let _ = rustix::thread::set_name(name);
    if let Some(title) = title {
        title.set(shown);
    }
    let result = if role == SHIM {
        shim_main(socket)
    } else {
        helper_main(socket)
    };
    i32::from(result.is_err())
}

enum Next {
    /// Its socket, and [`SHIM`] or [`FILES`].
    Child(OwnedFd, u8),
    /// A message without descriptor.
    Nothing,
    End,
}

fn receive(control: BorrowedFd<'_>) -> io::Result<Next> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let message = loop {
        let mut parts = [IoSliceMut::new(&mut byte)];
        match recvmsg(control, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    if message.bytes == 0 {
        return Ok(Next::End);
    }
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = part {
            return Ok(fds
                .next()
                .map_or(Next::Nothing, |socket| Next::Child(socket, byte[0])));
        }
    }
    Ok(Next::Nothing)
}

/// The daemon's handle on its zygote. Dropping it ends the zygote; shims go on.
#[derive(Debug)]
pub struct Zygote {
    socket: OwnedFd,
    child: Child,
}

impl Zygote {
    /// Forks a shim that talks over `socket`. Any thread may call it, at any time.
    ///
    /// # Errors
    /// `EPIPE` when the zygote is gone, `EAGAIN` when it takes nothing: nobody waits for it.
    pub fn fork(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.ask(SHIM, socket)
    }

    /// Forks a helper for files that talks over `socket`.
    ///
    /// # Errors
    /// As [`Self::fork`].
    pub(crate) fn fork_helper(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.ask(FILES, socket)
    }

    fn ask(&self, role: u8, socket: BorrowedFd<'_>) -> io::Result<()> {
        let fds = [socket];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Errno::TOOBIG.into());
        }
        let byte = [role];
        loop {
            let parts = [IoSlice::new(&byte)];
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.socket, &parts, &mut ancillary, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// False when the zygote has ended: then another one is wanted.
    pub fn alive(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&now)).is_ok_and(|ready| ready == 0)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // The other end reads the end of the stream and exits.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// Starts the zygote: this very binary, with the arguments `shim-zygote`. It is executed from a read-only mount that nobody can reach by a
/// path, so that a container which gets hold of /proc/<pid>/exe of a shim cannot write to the binary (CVE-2019-5736).
///
/// # Errors
/// When the binary cannot be opened or executed.
pub fn spawn_zygote() -> io::Result<Zygote> {
    let binary = protected_binary()?;
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // Whatever our own parent left open would live on in every shim, and keep its readers waiting.
    close_on_exec_from(3)?;
    let child = Command::new(format!("/proc/self/fd/{}", binary.as_raw_fd()))
        .arg0("longshore-zygote")
        .arg(ROLE)
        .env_clear()
        // Without a cache of freed blocks, whole pages get free when the launch plan is dropped, and go back to the kernel.
        .env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()?;
    Ok(Zygote {
        socket: ours,
        child,
    })
}

fn protected_binary() -> io::Result<OwnedFd> {
    match read_only_clone() {
        Ok(mount) => Ok(mount),
        // Before Linux 5.12, or where mounts are not allowed.
        Err(_) => sealed_copy(),
    }
}

fn read_only_clone() -> io::Result<OwnedFd> {
    const MOUNT_ATTR_RDONLY: u64 = 1;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, "/proc/self/exe", flags)?;
    let attributes = Attributes {
        set: MOUNT_ATTR_RDONLY,
        ..Attributes::default()
    };
    set_attributes(mount.as_fd(), "", false, &attributes)?;
    Ok(mount)
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut copy = File::from(memfd_create("longshore", flags)?);
    io::copy(&mut File::open("/proc/self/exe")?, &mut copy)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&copy, seals)?;
    Ok(copy.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn neither_form_of_the_binary_can_be_written() {
        let flags = rustix::fs::fstatvfs(read_only_clone().expect("run as root")).unwrap();
        assert!(flags.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
        let mut copy = File::from(sealed_copy().unwrap());
        assert!(copy.metadata().unwrap().len() > 0);
        assert_eq!(
            copy.write(b"x").unwrap_err().raw_os_error(),
            Some(libc::EPERM)
        );
    }
}
