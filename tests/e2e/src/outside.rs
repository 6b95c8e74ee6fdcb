//! A host outside the engine's machine: a network namespace joined to ours by a pair of links.

use std::{
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, OnceLock},
};

use e2e::{
    check::{Fail, Outcome, until},
    fail,
};

/// Our address on the way to the outside host, and its own.
pub const OURS: &str = "192.0.2.1";
pub const THEIRS: &str = "192.0.2.2";
pub const OURS_6: &str = "2001:db8:1::1";

static OUTSIDE: OnceLock<Mutex<Option<Child>>> = OnceLock::new();

fn ip(words: &[&str]) -> Outcome {
    let output = Command::new("ip").args(words).output()?;
    if !output.status.success() {
        fail!("ip {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// The process that keeps the namespace; made at the first call.
fn keeper() -> Outcome<u32> {
    let mut place = OUTSIDE
        .get_or_init(Mutex::default)
        .lock()
        .map_err(|e| Fail(e.to_string()))?;
    if let Some(child) = place.as_ref() {
        return Ok(child.id());
    }
    let child = Command::new("unshare")
        .args(["--net", "sleep", "100000"])
        .stdin(Stdio::null())
        .spawn()?;
    let pid = child.id();
    *place = Some(child);
    let ours = std::fs::read_link("/proc/self/ns/net")?;
    until(5, "namespace of the outside host", || {
        Ok((std::fs::read_link(format!("/proc/{pid}/ns/net"))? != ours).then_some(()))
    })?;
    let near = format!("out{}", std::process::id() % 100_000);
    ip(&[
        "link",
        "add",
        &near,
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        &pid.to_string(),
    ])?;
    ip(&["addr", "add", &format!("{OURS}/24"), "dev", &near])?;
    ip(&[
        "addr",
        "add",
        &format!("{OURS_6}/64"),
        "dev",
        &near,
        "nodad",
    ])?;
    ip(&["link", "set", &near, "up"])?;
    let inner = [
        "ip link set lo up".to_owned(),
        format!("ip addr add {THEIRS}/24 dev eth0"),
        "ip addr add 2001:db8:1::2/64 dev eth0 nodad".to_owned(),
        "ip link set eth0 up".to_owned(),
    ]
    .join(" && ");
    let output = Command::new("nsenter")
        .args(["-t", &pid.to_string(), "-n", "sh", "-c", &inner])
        .output()?;
    if !output.status.success() {
        fail!("outside host: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(pid)
}

fn inside(words: &[&str]) -> Outcome<Command> {
    let pid = keeper()?.to_string();
    let mut command = Command::new("nsenter");
    command
        .args(["-t", &pid, "-n"])
        .arg(std::env::current_exe()?)
        .args(words);
    Ok(command)
}

/// Runs a command on the outside host.
pub fn run(words: &[&str]) -> Outcome<Output> {
    let pid = keeper()?.to_string();
    let mut command = Command::new("nsenter");
    Ok(command.args(["-t", &pid, "-n"]).args(words).output()?)
}

/// Runs a probe on the outside host.
pub fn probe(words: &[&str]) -> Outcome<Output> {
    Ok(inside(words)?.output()?)
}

/// Starts a probe on the outside host; ended when the child is killed.
pub fn serve(port: u16) -> Outcome<Child> {
    Ok(inside(&["serve", &port.to_string()])?
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?)
}

/// Takes the outside host away; its namespace and links go with the process.
pub fn close() {
    if let Some(child) = OUTSIDE.get().and_then(|o| o.lock().ok()?.take()).as_mut() {
        let _ = child.kill();
        let _ = child.wait();
        // the links go when the namespace is taken down, a moment later
        let near = format!("out{}", std::process::id() % 100_000);
        let _ = Command::new("ip")
            .args(["link", "del", &near])
            .stderr(Stdio::null())
            .status();
    }
}
