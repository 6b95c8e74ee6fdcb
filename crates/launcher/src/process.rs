//! The last steps of a process before its exec: standard streams, limits, identity, filter, capabilities.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use longshore_sys::{exec, process as sys_process, seccomp};
use rustix::{
    fs::{Access, AtFlags, CWD, FileType, Gid, Mode, Uid},
    thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::{
    caps,
    channel::{Channel, Word},
    devices,
    failure::Context,
    init,
    parent::StdioFds,
    plan::{LaunchFailure, LaunchFailureKind, ProcessPlan},
    user::{self, Identity},
};

/// Where the process reads and writes.
#[derive(Debug)]
pub(crate) struct Streams {
    pub stdio: StdioFds,
    /// The slave; replaces all three streams.
    pub terminal: Option<OwnedFd>,
    /// /dev/null, for reading and writing.
    pub null: OwnedFd,
}

/// The process inside its namespaces, with its root in place, still with all privileges.
#[derive(Debug)]
pub(crate) struct Candidate<'a> {
    pub root: BorrowedFd<'a>,
    pub process: &'a ProcessPlan,
    pub streams: Streams,
    pub channel: Channel,
    /// Our init becomes this process and runs the plan's as its child.
    pub init: bool,
}

impl Candidate<'_> {
    /// Becomes the user's process. Returns only when that fails.
    pub(crate) fn execute(self) -> (Channel, LaunchFailure) {
        match self.prepare() {
            Err(failure) => (self.channel, failure),
            Ok(image) if self.init => {
                init::run(self.channel, self.streams.terminal.is_some(), image)
            }
            Ok(image) => {
                // The slave is on the standard streams; the exec closes the rest.
                let failure = match self.channel.send(&Word::Executing) {
                    Ok(()) => image.execute(),
                    Err(error) => LaunchFailure::system("report the exec", error),
                };
                (self.channel, failure)
            }
        }
    }

    fn prepare(&self) -> Result<Image, LaunchFailure> {
        let process = self.process;
        let identity = user::resolve(self.root, &process.user, &process.additional_groups)?;
        self.streams.install(&identity)?;
        set_rlimits(&process.rlimits)?;
        exec::reset_signals();
        rustix::process::umask(Mode::from_raw_mode(0o022));
        exec::close_on_exec_from(3).context("mark descriptors close-on-exec")?;
        let filter = process.seccomp.as_deref();
        // Without no_new_privs a filter needs CAP_SYS_ADMIN, which is about to go.
        if let (Some(filter), false) = (filter, process.no_new_privileges) {
            seccomp::install_filter(filter).context("error loading seccomp filter into kernel")?;
        }
        become_user(&identity, process.capabilities)?;
        enter_directory(&process.cwd)?;
        if process.no_new_privileges {
            set_no_new_privs(true).context("set no_new_privs")?;
            if let Some(filter) = filter {
                seccomp::install_filter(filter)
                    .context("error loading seccomp filter into kernel")?;
            }
        }
        Image::find(process, &identity)
    }
}

impl Streams {
    fn install(&self, identity: &Identity) -> Result<(), LaunchFailure> {
        // The first process of a pid namespace or a fresh exec leads no group, so this cannot fail; a second time it may.
        let _ = rustix::process::setsid();
        let chosen = |own: &Option<OwnedFd>| -> Result<OwnedFd, LaunchFailure> {
            let fd = self
                .terminal
                .as_ref()
                .or(own.as_ref())
                .unwrap_or(&self.null);
            // Above the standard streams, so that none is overwritten before it is placed.
            rustix::io::fcntl_dupfd_cloexec(fd, 10).context("duplicate a standard stream")
        };
        let streams = [
            chosen(&self.stdio.stdin)?,
            chosen(&self.stdio.stdout)?,
            chosen(&self.stdio.stderr)?,
        ];
        for stream in &streams {
            give(stream.as_fd(), identity.uid)?;
        }
        rustix::stdio::dup2_stdin(&streams[0]).context("install standard input")?;
        rustix::stdio::dup2_stdout(&streams[1]).context("install standard output")?;
        rustix::stdio::dup2_stderr(&streams[2]).context("install standard error")?;
        if self.terminal.is_some() {
            rustix::process::ioctl_tiocsctty(&streams[0])
                .context("set the controlling terminal")?;
        }
        Ok(())
    }
}

/// Lets the user open its own /dev/stdout again. Never for /dev/null, whose node all share.
fn give(stream: BorrowedFd<'_>, uid: u32) -> Result<(), LaunchFailure> {
    let stat = rustix::fs::fstat(stream).context("look at a standard stream")?;
    if stat.st_uid == uid || devices::is_null(stream).unwrap_or(true) {
        return Ok(());
    }
    match rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), None) {
        // Some kinds of files have no owner to change.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::PERM | rustix::io::Errno::ROFS) => Ok(()),
        result => result.context("give a standard stream to the user"),
    }
}

/// What we may not raise stays as high as it is.
fn set_rlimits(limits: &[(u32, u64, u64)]) -> Result<(), LaunchFailure> {
    for &(resource, soft, hard) in limits {
        let doing = || format!("error setting rlimit type {resource}");
        match sys_process::set_rlimit(resource, soft, hard) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                let (_, most) = sys_process::rlimit(resource).context(doing())?;
                sys_process::set_rlimit(resource, soft.min(most), hard.min(most))
                    .context(doing())?;
            }
            result => result.context(doing())?,
        }
    }
    Ok(())
}

fn become_user(identity: &Identity, capabilities: u64) -> Result<(), LaunchFailure> {
    caps::drop_bounding(capabilities).context("drop capabilities from the bounding set")?;
    let groups: Vec<Gid> = identity
        .groups
        .iter()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    set_thread_groups(&groups).context("setgroups")?;
    let gid = Gid::from_raw(identity.gid);
    set_thread_res_gid(gid, gid, gid).context("setgid")?;
    let uid = Uid::from_raw(identity.uid);
    set_thread_res_uid(uid, uid, uid).context("setuid")?;
    caps::apply(capabilities, identity.uid == 0).context("set capabilities")
}

/// As the user, who may lack the permission.
fn enter_directory(cwd: &str) -> Result<(), LaunchFailure> {
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    let doing = || format!("chdir to cwd ({cwd:?}) set in config.json failed");
    rustix::process::chdir(cwd).map_err(|error| LaunchFailure::program(doing(), &error.into()))?;
    // A directory outside our root has no path in it: a descriptor of the host has leaked (CVE-2024-21626).
    let path = rustix::process::getcwd(Vec::new()).context("getcwd")?;
    if path.as_bytes().first() != Some(&b'/') {
        return Err(LaunchFailure::system(
            "current working directory is outside of container mount namespace root",
            rustix::io::Errno::PERM,
        ));
    }
    Ok(())
}

/// A program that has been found, with all that execve wants.
#[derive(Debug)]
pub(crate) struct Image {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Image {
    fn find(process: &ProcessPlan, identity: &Identity) -> Result<Self, LaunchFailure> {
        let name = process.args.first().map_or("", String::as_str);
        let path = look_up(name, &process.env)?;
        let text = |what: &str, value: &str| {
            CString::new(value)
                .map_err(|_| LaunchFailure::invalid(format!("{what} {value:?} holds a zero byte")))
        };
        let mut env = Vec::with_capacity(process.env.len() + 1);
        for variable in &process.env {
            env.push(text("environment variable", variable)?);
        }
        if !process
            .env
            .iter()
            .any(|variable| variable.starts_with("HOME="))
        {
            env.push(text("home", &format!("HOME={}", identity.home))?);
        }
        Ok(Self {
            path: text("path", &path)?,
            args: process
                .args
                .iter()
                .map(|arg| text("argument", arg))
                .collect::<Result<_, _>>()?,
            env,
        })
    }

    pub(crate) fn execute(&self) -> LaunchFailure {
        let error = exec::execve(&self.path, &self.args, &self.env);
        LaunchFailure::program(format_args!("exec {}", self.path.to_string_lossy()), &error)
    }

    pub(crate) fn args(&self) -> &[CString] {
        &self.args
    }
}

/// Finds the program as execvp would, with the words that Go's `exec.LookPath` has for failure.
fn look_up(name: &str, env: &[String]) -> Result<String, LaunchFailure> {
    if name.contains('/') {
        return match check_executable(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(error) => {
                let stat = if error.raw_os_error() == Some(libc::ENOENT)
                    || error.raw_os_error() == Some(libc::ENOTDIR)
                {
                    format!("exec: {name:?}: stat {name}")
                } else {
                    format!("exec: {name:?}")
                };
                Err(LaunchFailure::program(stat, &error))
            }
        };
    }
    let path = env
        .iter()
        .rev()
        .find_map(|variable| variable.strip_prefix("PATH="))
        .unwrap_or("");
    path.split(':')
        .map(|directory| if directory.is_empty() { "." } else { directory })
        .map(|directory| format!("{}/{name}", directory.trim_end_matches('/')))
        .find(|candidate| !name.is_empty() && check_executable(candidate).is_ok())
        .ok_or_else(|| LaunchFailure {
            kind: LaunchFailureKind::NotFound,
            message: format!("exec: {name:?}: executable file not found in $PATH"),
        })
}

fn check_executable(path: &str) -> io::Result<()> {
    let stat = rustix::fs::stat(Path::new(path))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    match rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        // A filter may not know faccessat2; exec itself will tell.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) if stat.st_mode & 0o111 != 0 => {
            Ok(())
        }
        result => Ok(result?),
    }
}

/// Sets the OOM killer's preference through the host's procfs, before that is out of reach. What needs a privilege we lack is left.
pub(crate) fn set_oom_score_adj(adjustment: Option<i32>) -> Result<(), LaunchFailure> {
    let Some(adjustment) = adjustment else {
        return Ok(());
    };
    match std::fs::write("/proc/self/oom_score_adj", adjustment.to_string()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result.context("set oom_score_adj"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(name: &str, env: &[&str]) -> LaunchFailure {
        look_up(
            name,
            &env.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>(),
        )
        .unwrap_err()
    }

    #[test]
    fn texts_of_missing_programs() {
        let not_found = failure("nosuchcmd", &["PATH=/bin:/usr/bin"]);
        assert_eq!(not_found.kind, LaunchFailureKind::NotFound);
        assert_eq!(
            not_found.message,
            "exec: \"nosuchcmd\": executable file not found in $PATH"
        );
        assert_eq!(
            failure("/nosuch", &[]).message,
            "exec: \"/nosuch\": stat /nosuch: no such file or directory"
        );
        let denied = failure("/etc/passwd", &[]);
        assert_eq!(denied.kind, LaunchFailureKind::NotExecutable);
        assert_eq!(denied.message, "exec: \"/etc/passwd\": permission denied");
        assert_eq!(
            failure("/tmp", &[]).message,
            "exec: \"/tmp\": is a directory"
        );
    }

    #[test]
    fn programs_are_found_in_path() {
        let env = ["PATH=/nosuch:/bin".to_owned()];
        assert_eq!(look_up("sh", &env).unwrap(), "/bin/sh");
        assert_eq!(look_up("/bin/sh", &[]).unwrap(), "/bin/sh");
    }
}
