//! `--init`: a first process that passes signals on to the user's process, reaps orphans, and ends as that ends.
//! It is a copy of the launching process, not another program: nothing to mount, nothing to find in the image.

use longshore_sys::{clone, process as sys_process, signals};

use crate::{
    channel::{Channel, Word},
    plan::LaunchFailure,
    process::Image,
};

/// What Docker's init is called.
const NAME: &std::ffi::CStr = c"docker-init";
const PATH: &str = "/sbin/docker-init";

/// Runs `image` as a child and stays as init. Returns only when the child cannot be started.
pub(crate) fn run(channel: Channel, terminal: bool, image: Image) -> (Channel, LaunchFailure) {
    let waiting = match signals::block_all() {
        Ok(waiting) => waiting,
        Err(error) => return (channel, LaunchFailure::system("block signals", error)),
    };
    let child = clone::fork(|| {
        if terminal {
            let _ = rustix::process::setpgid(None, None);
            // The terminal's foreground belongs to the program; SIGTTOU is still blocked.
            let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpgrp());
        }
        longshore_sys::exec::reset_signals();
        let failure = match channel.send(&Word::Executing) {
            Ok(()) => image.execute(),
            Err(error) => LaunchFailure::system("report the exec", error),
        };
        let _ = channel.send(&Word::Failed(failure));
        127
    });
    let child = match child {
        Ok(child) => child,
        Err(error) => return (channel, LaunchFailure::system("fork below init", error)),
    };
    drop(channel);
    rename(&image);
    let code = serve(&waiting, child);
    signals::exit_now(code)
}

/// Shows itself as Docker's init would; merely cosmetic.
fn rename(image: &Image) {
    let _ = rustix::thread::set_name(NAME);
    let mut line = [PATH.as_bytes(), b"\0--\0"].concat();
    for arg in image.args() {
        line.extend_from_slice(arg.as_bytes_with_nul());
    }
    let _ = sys_process::set_command_line(&line);
}

fn serve(waiting: &signals::SignalSet, child: i32) -> i32 {
    loop {
        let Ok(signal) = waiting.wait() else { continue };
        if signal != libc::SIGCHLD {
            // The child may be gone already; its SIGCHLD is next then.
            let _ = signals::kill(child, signal);
            continue;
        }
        while let Some((pid, code)) = signals::reap_any() {
            if pid == child {
                return code;
            }
        }
    }
}
