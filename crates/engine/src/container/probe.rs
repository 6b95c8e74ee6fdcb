//! Running health checks: the actor decides when, a task beside it runs the probe and brings the result.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use longshore_model::{Timestamp, id::random_hex};
use longshore_store::Durability;
use tokio::{io::AsyncReadExt, net::UnixStream, sync::oneshot, time::Instant};

use super::{
    actor::{Actor, Command},
    exec::{ExecRequest, command_line},
    health::{self, Health, HealthResult, HealthStatus},
    registry::Handle,
};
use crate::{
    Engine, Inner,
    api::{ExecSnapshot, ExecSpec},
};

/// How long the start of a probe may take; it does not count towards the probe's own limit.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long a killed probe may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// A container with this label set to `true` is restarted when it becomes unhealthy.
const AUTOHEAL: &str = "longshore.autoheal";

impl Actor {
    /// The check, where the container is to be probed.
    fn probe_command(&self) -> Option<Vec<String>> {
        let spec = &self.definition.spec;
        health::command(spec.healthcheck.as_ref()?, &spec.shell)
    }

    /// A run begins.
    pub(super) fn health_starts(&mut self) {
        let before = self.run.health.take();
        if self.probe_command().is_some() {
            self.run.health = Some(Health::starting(before));
            self.plan_probe();
        }
    }

    /// The run has ended, or is paused. A probe that is under way counts no more.
    pub(super) fn health_stops(&mut self) {
        self.probe_at = None;
        if let Some(health) = &mut self.run.health {
            health.stopped();
        }
    }

    /// The next probe of a running container.
    pub(super) fn plan_probe(&mut self) {
        let state = &self.run.state;
        let wanted = state.phase.is_running() && !self.is_paused();
        let check = self.definition.spec.healthcheck.as_ref();
        self.probe_at = match (&self.run.health, check) {
            (Some(health), Some(check)) if wanted => {
                let pause = health.pause(check, state.started_at, Timestamp::now());
                Some(Instant::now() + pause)
            }
            _ => None,
        };
    }

    /// It is time.
    pub(super) async fn probe(&mut self) {
        self.probe_at = None;
        let Some(command) = self.probe_command() else {
            return;
        };
        let (Ok(handle), Ok((ours, theirs))) = (
            self.engine.containers.find(self.definition.id.as_str()),
            crate::stdio::pair(),
        ) else {
            return self.plan_probe();
        };
        let exec_id = random_hex();
        let spec = ExecSpec {
            cmd: command.clone(),
            attach_stdout: true,
            attach_stderr: true,
            ..ExecSpec::default()
        };
        let made = ExecSnapshot {
            id: exec_id.clone(),
            container_id: self.definition.id.to_string(),
            spec: spec.clone(),
            running: false,
            exit_code: None,
            pid: 0,
        };
        self.engine.execs.insert(made, true);
        let line = command_line(&command);
        let attributes = || BTreeMap::from([("execID".to_owned(), exec_id.clone())]);
        let events = ["exec_create", "exec_start"]
            .map(|what| self.event(&format!("{what}: {line}"), attributes()));
        if let Some(health) = &mut self.run.health {
            health.probe = Some(exec_id.clone());
        }
        if let Err(error) = self.commit(events.into(), Durability::Survives).await {
            tracing::warn!(container = %self.definition.id, "probe not recorded: {error}");
        }
        let (reply, started) = oneshot::channel();
        let request = ExecRequest {
            exec_id: exec_id.clone(),
            spec,
            socket: Some(theirs),
        };
        self.exec(request, reply).await;
        let check = self.definition.spec.healthcheck.as_ref();
        let probe = Probe {
            engine: self.engine.clone(),
            handle,
            exec_id,
            stream: ours,
            timeout: check.map_or(START_PATIENCE, health::timeout),
        };
        tokio::spawn(probe.run(started));
    }

    /// A probe's result. One that began before the last pause or in an earlier run is of no interest any more.
    pub(super) async fn probed(&mut self, exec_id: &str, result: HealthResult) {
        let started = self.run.state.started_at;
        let (Some(health), Some(check)) = (&mut self.run.health, &self.definition.spec.healthcheck)
        else {
            return;
        };
        if health.probe.as_deref() != Some(exec_id) {
            return;
        }
        health.probe = None;
        let changed = health.judge(check, result, started);
        let status = health.status;
        let mut events = Vec::new();
        if changed {
            let action = format!("health_status: {}", status.word());
            events.push(self.event(&action, BTreeMap::new()));
        }
        if let Err(error) = self.commit(events, Durability::Survives).await {
            tracing::error!(container = %self.definition.id, "health not recorded: {error}");
            self.publish();
        }
        self.plan_probe();
        if changed && status == HealthStatus::Unhealthy {
            self.heal();
        }
    }

    /// Restarts an unhealthy container whose label asks for it.
    fn heal(&self) {
        let labels = &self.definition.spec.labels;
        if labels.get(AUTOHEAL).map(String::as_str) != Some("true") {
            return;
        }
        let id = self.definition.id.to_string();
        tracing::warn!(container = %id, "unhealthy: restarted, as its label {AUTOHEAL} says");
        let engine = Engine {
            inner: self.engine.clone(),
        };
        tokio::spawn(async move {
            if let Err(error) = engine.restart_container(&id, None, None).await {
                tracing::error!(container = %id, "unhealthy, and not restarted: {error}");
            }
        });
    }

    /// After a restart of the daemon: the probe that was under way has lost its reader, the next one comes in its time.
    pub(super) async fn adopt_health(&mut self) {
        if self.run.health.is_none() {
            // It runs since before its engine could probe.
            if self.probe_command().is_some() {
                self.run.health = Some(Health::starting(None));
            }
        }
        let lost = self.run.health.as_mut().and_then(|h| h.probe.take());
        if let Some(exec_id) = lost {
            self.signal_exec(exec_id, 9, None).await;
        }
        self.plan_probe();
    }
}

/// One probe under way.
struct Probe {
    engine: Arc<Inner>,
    handle: Arc<Handle>,
    exec_id: String,
    stream: UnixStream,
    timeout: Duration,
}

type Started = oneshot::Receiver<longshore_model::Result<std::result::Result<i32, String>>>;

impl Probe {
    async fn run(mut self, started: Started) {
        let start = Timestamp::now();
        let (exit_code, output) = self.outcome(started).await;
        self.engine.execs.forget(&self.exec_id);
        let result = HealthResult {
            start,
            end: Timestamp::now(),
            exit_code,
            output,
        };
        let exec_id = self.exec_id;
        let told = Command::Probed { exec_id, result };
        self.engine.tell(&self.handle, told).await;
    }

    async fn outcome(&mut self, started: Started) -> (i32, String) {
        match tokio::time::timeout(START_PATIENCE, started).await {
            Ok(Ok(Ok(Ok(_)))) => {}
            Ok(Ok(Ok(Err(message)))) => {
                let text = format!(
                    "OCI runtime exec failed: exec failed: unable to start container process: {message}"
                );
                return (-1, text);
            }
            Ok(Ok(Err(error))) => return (-1, error.message),
            Ok(Err(_)) | Err(_) => {
                let id = &self.handle.id;
                return (
                    -1,
                    format!("timed out starting health check for container {id}"),
                );
            }
        }
        let mut output = Output::default();
        let end = tokio::time::timeout(self.timeout, self.end(&mut output)).await;
        if let Ok(exit_code) = end {
            return (exit_code, output.text());
        }
        let exec_id = self.exec_id.clone();
        let kill = |reply| Command::ExecSignal {
            exec_id,
            signal: 9,
            reply: Some(reply),
        };
        let ended = async {
            let _ = self.engine.ask(&self.handle, kill).await;
            // Dying probes must not pile up.
            let mut rest = Output::default();
            self.end(&mut rest).await;
        };
        let _ = tokio::time::timeout(KILL_PATIENCE, ended).await;
        let limit = health::go_duration(self.timeout);
        let text = match output.text() {
            text if text.is_empty() => format!("Health check exceeded timeout ({limit})"),
            text => format!("Health check exceeded timeout ({limit}): {text}"),
        };
        (-1, text)
    }

    /// Reads to the end of the output, then waits for the exit code.
    async fn end(&mut self, output: &mut Output) -> i32 {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = self.stream.read(&mut buffer).await {
            output.take(&buffer[..count]);
        }
        if let Some(settled) = self.engine.execs.settled(&self.exec_id) {
            let _ = settled.await;
        }
        self.engine.execs.exit_code(&self.exec_id).unwrap_or(-1)
    }
}

/// The beginning of what a probe printed, out of the frames in which it comes.
#[derive(Default)]
struct Output {
    header: Vec<u8>,
    /// Bytes of the present frame that are still to come.
    left: usize,
    kept: Vec<u8>,
    cut: bool,
}

impl Output {
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left == 0 {
                let (head, rest) = bytes.split_at(bytes.len().min(8 - self.header.len()));
                self.header.extend_from_slice(head);
                bytes = rest;
                if let [_, _, _, _, a, b, c, d] = self.header[..] {
                    self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                    self.header.clear();
                }
                continue;
            }
            let (body, rest) = bytes.split_at(bytes.len().min(self.left));
            self.left -= body.len();
            bytes = rest;
            let room = health::OUTPUT_LIMIT - self.kept.len();
            self.cut |= body.len() > room;
            self.kept.extend_from_slice(&body[..body.len().min(room)]);
        }
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.kept);
        format!("{text}{}", if self.cut { "..." } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::Output;

    #[test]
    fn output_is_unpacked_and_cut() {
        let mut stream = Vec::new();
        for (kind, text) in [(1_u8, "out\n"), (2, "err\n")] {
            stream.extend_from_slice(&[
                kind,
                0,
                0,
                0,
                0,
                0,
                0,
                u8::try_from(text.len()).expect("short"),
            ]);
            stream.extend_from_slice(text.as_bytes());
        }
        for step in [1, 3, 64] {
            let mut output = Output::default();
            stream.chunks(step).for_each(|part| output.take(part));
            assert_eq!(output.text(), "out\nerr\n", "{step} bytes at a time");
        }
        let mut output = Output::default();
        output.take(&[1, 0, 0, 0, 0, 0, 0x20, 0]);
        output.take(&[b'x'; 0x2000]);
        assert_eq!(output.text().len(), 4096 + 3);
        assert!(output.text().ends_with("x..."));
    }
}
