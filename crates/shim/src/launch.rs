//! Makes the streams of a process and has the launcher run it with the other ends.

use std::os::fd::OwnedFd;

use longshore_launcher::{
    exec::{ExecTarget, exec_in},
    parent::{self, Launched, LaunchedProcess, StdioFds},
};
use rustix::{
    io::ioctl_fionbio,
    pipe::{PipeFlags, pipe_with},
};

use crate::{
    protocol::{LaunchFailure, LaunchPlan, ProcessPlan},
    stdio::StdioEnds,
};

/// Runs a container; gives our ends of its streams.
pub fn container(plan: &LaunchPlan) -> Result<(Launched, StdioEnds), LaunchFailure> {
    let (theirs, ours) = pipes(&plan.process, true)?;
    let mut launched = parent::launch(plan, theirs)?;
    let ends = terminal_ends(&plan.process, launched.process.terminal.take(), ours)?;
    Ok((launched, ends))
}

/// Runs one more process in a container. Without `stdio` nobody reads its output: it goes to /dev/null, or, with a terminal, is
/// read and thrown away.
pub fn exec(
    target: &ExecTarget<'_>,
    process: &ProcessPlan,
    stdio: bool,
) -> Result<(LaunchedProcess, StdioEnds), LaunchFailure> {
    let (theirs, ours) = pipes(process, stdio)?;
    let mut launched = exec_in(target, process, theirs)?;
    let ends = terminal_ends(process, launched.terminal.take(), ours)?;
    Ok((launched, ends))
}

fn pipes(process: &ProcessPlan, stdio: bool) -> Result<(StdioFds, StdioEnds), LaunchFailure> {
    let (mut theirs, mut ours) = (StdioFds::default(), StdioEnds::default());
    if process.terminal || !stdio {
        return Ok((theirs, ours));
    }
    let failed = |error| LaunchFailure::system("make standard streams", error);
    if process.stdin {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        ioctl_fionbio(&write, true).map_err(failed)?;
        (theirs.stdin, ours.stdin) = (Some(read), Some(write));
    }
    for (theirs, ours) in [
        (&mut theirs.stdout, &mut ours.stdout),
        (&mut theirs.stderr, &mut ours.stderr),
    ] {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        ioctl_fionbio(&read, true).map_err(failed)?;
        (*theirs, *ours) = (Some(write), Some(read));
    }
    Ok((theirs, ours))
}

/// A terminal is one descriptor for both directions; it is doubled, so that each direction is waited for by itself.
fn terminal_ends(
    process: &ProcessPlan,
    master: Option<OwnedFd>,
    pipes: StdioEnds,
) -> Result<StdioEnds, LaunchFailure> {
    let Some(master) = master else {
        return Ok(pipes);
    };
    let failed = |error| LaunchFailure::system("prepare terminal", error);
    ioctl_fionbio(&master, true).map_err(|error| failed(error.into()))?;
    let stdin = if process.stdin {
        Some(master.try_clone().map_err(failed)?)
    } else {
        None
    };
    Ok(StdioEnds {
        stdin,
        stdout: Some(master),
        stderr: None,
        terminal: true,
    })
}
