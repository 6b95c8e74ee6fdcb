//! The helper's life: one request, its answers, the end.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
};

use longshore_launcher::{
    plan::{LaunchFailure, LaunchFailureKind},
    view,
};
use rustix::{
    fs::{Mode, OFlags},
    process::{DumpableBehavior, PidfdFlags, Signal},
};

use super::{
    Answer, Failure, FailureKind, FilesRequest, ViewPlan, Work, changes, extract, pack, tree::Tree,
};
use crate::frame::{FRAME_LIMIT, FrameReader, FrameWriter, LAUNCH_LIMIT, Received};

/// Carries out the one request that comes over `control`.
///
/// # Errors
/// The daemon went away; nobody is left to tell.
pub(crate) fn helper_main(control: OwnedFd) -> io::Result<()> {
    // With the daemon the zygote ends, and with that we do, wherever we are stuck.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // Nothing in a container whose mounts we visit may look into us.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::umask(Mode::empty());
    let frame = match FrameReader::new(LAUNCH_LIMIT).receive(&control)? {
        Received::Frame(frame) => frame,
        Received::Pending | Received::Closed => return Ok(()),
    };
    let request: FilesRequest = postcard::from_bytes(&frame.body).map_err(io::Error::other)?;
    let myself = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    let mut speaker = Speaker { control };
    speaker.send(&Answer::Hello, vec![myself])?;
    let data = frame.fds.into_iter().next().map(File::from);
    let last = match carry_out(request, data, &mut speaker) {
        Ok(()) => Answer::Done,
        Err(failure) => Answer::Failed(failure),
    };
    speaker.say(&last)
}

/// The way back to the daemon.
pub(super) struct Speaker {
    control: OwnedFd,
}

impl Speaker {
    pub fn say(&mut self, answer: &Answer) -> io::Result<()> {
        self.send(answer, Vec::new())
    }

    fn send(&mut self, answer: &Answer, fds: Vec<OwnedFd>) -> io::Result<()> {
        let mut writer = FrameWriter::default();
        writer.push(&serde_json::to_vec(answer)?, fds, FRAME_LIMIT)?;
        writer.flush(self.control.as_fd()).map(drop)
    }
}

fn carry_out(
    request: FilesRequest,
    data: Option<File>,
    speaker: &mut Speaker,
) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let descriptors = rustix::fs::open("/proc/self/fd", flags, Mode::empty())
        .map_err(|e| super::tree::trouble("open /proc/self/fd", e))?;
    let root = view::root(&request.view).map_err(|failure| match request.view {
        ViewPlan::Running { .. } => Failure {
            kind: FailureKind::Gone,
            message: failure.message,
        },
        ViewPlan::Idle { .. } => unseen(failure),
    })?;
    let tree = Tree { root, descriptors };
    let deaf = |error: io::Error| super::tree::trouble("answer the daemon", error);
    let pipe = || data.ok_or_else(|| super::tree::invalid("the request came without a pipe"));
    match request.work {
        Work::Stat { path } => {
            let (stat, ..) = tree.stat(&path)?;
            speaker.say(&Answer::Stat(stat)).map_err(deaf)
        }
        Work::Pack { path } => {
            let found = pack::Found::at(&tree, &path)?;
            speaker
                .say(&Answer::Stat(found.stat.clone()))
                .map_err(deaf)?;
            pack::path(&tree, found, pipe()?)
        }
        Work::Export => {
            speaker.say(&Answer::Ready).map_err(deaf)?;
            pack::everything(&tree, pipe()?)
        }
        Work::Unpack {
            path,
            keep_kinds,
            owner,
            read_only_root,
        } => {
            let rules = extract::Rules {
                keep_kinds,
                owner,
                read_only_root,
            };
            extract::into(&tree, &path, &rules, pipe()?)
        }
        Work::Changes { upper, lower } => {
            let base = view::base(&lower).map_err(unseen)?;
            changes::find(&tree, &base, &upper, |found| {
                speaker.say(&Answer::Changes(found)).map_err(deaf)
            })
        }
    }
}

fn unseen(failure: LaunchFailure) -> Failure {
    Failure {
        kind: match failure.kind {
            LaunchFailureKind::Invalid => FailureKind::Invalid,
            LaunchFailureKind::NotFound
            | LaunchFailureKind::NotExecutable
            | LaunchFailureKind::System
            | LaunchFailureKind::Log => FailureKind::System,
        },
        message: failure.message,
    }
}
