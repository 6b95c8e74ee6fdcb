//! What daemon and shim say to each other, over one stream socket: a frame is a little-endian u32 length and that many
//! bytes of JSON; descriptors travel as SCM_RIGHTS with the frame's first byte. JSON with serde defaults, because after an upgrade
//! a newer daemon talks to shims of an older one. The launch request alone is postcard: it is always read by the same binary.
//!
//! | daemon says | shim answers | later |
//! |---|---|---|
//! | `Launch` (first frame, postcard) | `Started` + descriptors, or `LaunchFailed` and the shim ends | `Exited` |
//! | `Attach` + socket | `Done` | the socket carries frames until the daemon closes it or has said `Release` |
//! | `Exec` (+ socket) | `ExecStarted` or `Failed` | `ExecExited`, then the end of the socket |
//! | `Resize`, `ExecResize`, `ExecSignal` | `Done` or `Failed` | |
//! | `Release` | nothing: clients get the end of their streams, the shim removes cgroups, socket and itself | |
//! | | `Oom`, at any time before `Exited` | |
//! | (connects again to `shim.sock`) | `Hello` | as before |

use std::{net::SocketAddr, path::PathBuf};

pub use longshore_launcher::plan::*;
use serde::{Deserialize, Serialize};

pub use crate::stdio::AttachStreams;

/// Version of this table; a shim says its own in `Hello`.
pub const PROTOCOL: u32 = 1;

/// The first frame that a new shim reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LaunchRequest {
    pub plan: LaunchPlan,
    /// `<exec-root>/containers/<id>`: exists; the shim makes `shim.sock` in it, and `exit.json` when the container has ended.
    pub run_dir: PathBuf,
    pub log: LogPlan,
    /// `StdinOnce`: the first attached client's end of input closes the container's stdin.
    pub stdin_once: bool,
    /// Clients that are attached before the container runs, so that they miss nothing: the frame carries one stream socket each,
    /// in this order.
    pub attach: Vec<AttachStreams>,
}

/// Where the container's output goes besides attached clients.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LogPlan {
    pub file: Option<FilePlan>,
    pub remote: Option<RemotePlan>,
}

/// Docker's json-file: one `{"log":...,"stream":...,"time":...}` a line, rotated to `.1`, `.2`...
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FilePlan {
    pub path: PathBuf,
    /// Bytes a file; 0 never rotates.
    pub max_size: u64,
    /// Files kept, 1 at least.
    pub max_file: u32,
    pub compress: bool,
    /// The `attrs` object of each line as JSON text (labels, env, tag options); empty for none.
    pub attrs: String,
}

/// A log that another program keeps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemotePlan {
    pub address: RemoteAddress,
    pub protocol: RemoteProtocol,
    /// Non-blocking mode: bytes that wait for the receiver before messages are dropped. None: the container waits.
    pub buffer: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum RemoteAddress {
    UnixStream(PathBuf),
    UnixDatagram(PathBuf),
    Tcp(SocketAddr),
    Udp(SocketAddr),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum RemoteProtocol {
    /// The journal's native protocol, with these fields in every entry.
    Journald { fields: Vec<(String, String)> },
    Syslog {
        format: SyslogFormat,
        /// 0 to 23.
        facility: u8,
        tag: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyslogFormat {
    /// Without the host's name, as syslog(3) writes it.
    Unix,
    Rfc3164,
    Rfc5424,
    /// With microseconds.
    Rfc5424Micro,
}

/// From the daemon to the shim.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Echoed in the answer.
    pub id: u64,
    pub body: RequestBody,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum RequestBody {
    /// Joins a client; the frame carries one stream socket. To the client the shim writes Docker's multiplexed frames
    /// (`[stream 1|2, 0, 0, 0, length big-endian u32]` + bytes) or, with a terminal, raw bytes. What the client writes goes
    /// to stdin when `stdin`; its shutdown is end of input.
    Attach {
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    /// Runs one more process; the frame carries one stream socket unless detached (`stdio` false).
    Exec {
        exec_id: String,
        process: Box<ProcessPlan>,
        stdio: bool,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        cgroup_path: String,
    },
    Resize {
        rows: u16,
        columns: u16,
    },
    ExecResize {
        exec_id: String,
        rows: u16,
        columns: u16,
    },
    /// Signal to an exec's process.
    ExecSignal {
        exec_id: String,
        signal: i32,
    },
    /// The exit is recorded: clean up and end.
    Release,
}

/// From the shim to the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// First word on every new connection after the launch. Carries the pidfd of the container's first process while it lives.
    Hello {
        protocol: u32,
        container: String,
        pid: i32,
        start_time: u64,
        exited: Option<Exit>,
        /// Those that run, and the last ones that have ended.
        execs: Vec<ExecState>,
        /// As in `Oom`.
        #[serde(default)]
        ooms: u64,
    },
    /// The container's memory has run out, for the `count`th time.
    Oom {
        count: u64,
    },
    /// Carries the sockets of the container's name server (UDP, TCP) if the plan has one, and the pidfd of its first process.
    Started {
        pid: i32,
        start_time: u64,
    },
    LaunchFailed(LaunchFailure),
    /// The first process has ended and all its output is written to log and clients.
    Exited(Exit),
    ExecStarted {
        id: u64,
        exec_id: String,
        pid: i32,
    },
    ExecExited {
        exec_id: String,
        code: i32,
    },
    Done {
        id: u64,
    },
    Failed {
        id: u64,
        failure: LaunchFailure,
    },
    /// Something the operator should know.
    Warning {
        text: String,
    },
    /// The log cannot be written, or (`failing` false) can be written again.
    Log {
        text: String,
        failing: bool,
    },
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 0 to 255; 128 + n for death by signal n.
    pub code: i32,
    pub oom_killed: bool,
    /// Nanoseconds since the epoch.
    pub time_nano: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecState {
    pub exec_id: String,
    pub pid: i32,
    /// None while it runs.
    pub code: Option<i32>,
}
