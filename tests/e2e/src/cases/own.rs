//! An engine of a case's own.

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};

use e2e::{
    check::{Fail, Outcome, until},
    engine::{self, Engine, Kind, Setup},
    ensure, fail,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::context::Ctx;

/// An engine of the case's own, and a context that talks to it.
pub(super) struct Own {
    pub(super) engine: Engine,
    pub(super) ctx: Ctx,
    pub(super) bridge: String,
}

static COUNT: AtomicU8 = AtomicU8::new(0);

impl Own {
    pub(super) fn start(ctx: &Ctx) -> Outcome<Self> {
        Self::start_with(ctx, &[])
    }

    pub(super) fn start_with(ctx: &Ctx, extra: &[String]) -> Outcome<Self> {
        let Some(binary) = ctx.world.binary.clone() else {
            fail!("needs --binary");
        };
        let number = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
        let bridge = format!("e2ebr{number}");
        let mut flags = vec![
            "--bridge".to_owned(),
            bridge.clone(),
            "--bip".to_owned(),
            format!("172.30.{number}.1/24"),
        ];
        flags.extend_from_slice(extra);
        let root = ctx.world.scratch.join(format!("own{number}"));
        let marker = format!("{}-own{number}", ctx.world.marker);
        let engine = Engine::start(Setup {
            kind: Kind::Longshore,
            binary,
            root,
            isolate: false,
            extra: flags,
            marker,
        })?;
        engine::load(&engine.socket(), "busybox:latest", &ctx.world.archive)?;
        let mut world = ctx.world.clone();
        world.socket = engine.socket();
        let ctx = Ctx {
            world,
            prefix: ctx.prefix.clone(),
            unnamed: std::sync::Mutex::default(),
        };
        Ok(Self {
            engine,
            ctx,
            bridge,
        })
    }

    /// kill -9 and start again.
    pub(super) fn crash(&mut self) -> Outcome {
        self.engine.kill()?;
        self.engine.launch()
    }

    pub(super) fn processes(&self) -> Vec<(i32, String)> {
        engine::processes(&self.engine.setup.marker, &self.engine.setup.root)
    }

    pub(super) fn ids(&self) -> Outcome<Vec<String>> {
        let list = self.ctx.json("/containers/json?all=1")?;
        Ok(list
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|c| Some(c["Id"].as_str()?.to_owned()))
            .collect())
    }

    /// Removes all containers, ends the daemon, and looks whether anything of it is left.
    pub(super) fn finish(mut self, ids: &BTreeSet<String>) -> Outcome {
        let mut seen = ids.clone();
        for id in self.ids()? {
            self.ctx.remove(&id)?;
            seen.insert(id);
        }
        until(10, "shims gone", || {
            Ok((self.processes().len() <= 2).then_some(()))
        })?;
        let status = self.engine.stop()?;
        ensure!(status.success(), "SIGTERM: the daemon ended with {status}");
        until(5, "processes gone", || {
            Ok(self.processes().is_empty().then_some(()))
        })?;
        let root = self.engine.setup.root.clone();
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let left: Vec<&str> = mounts
            .lines()
            .filter(|l| seen.iter().any(|id| l.contains(id.as_str())))
            .collect();
        ensure!(left.is_empty(), "mounts are left: {left:?}");
        let left = crate::host::named_after(&seen, &root);
        ensure!(left.is_empty(), "files or cgroups are left: {left:?}");
        let ports = Command::new("ip")
            .args(["-o", "link", "show", "master", &self.bridge])
            .output()?;
        let ports = String::from_utf8_lossy(&ports.stdout).into_owned();
        ensure!(ports.trim().is_empty(), "links are left: {ports}");
        Command::new("ip")
            .args(["link", "del", &self.bridge])
            .stderr(Stdio::null())
            .status()?;
        Ok(())
    }

    pub(super) fn done(self) -> Outcome {
        self.finish(&BTreeSet::new())
    }
}

pub(super) fn kill(pid: i64, signal: Signal) -> Outcome {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| Fail(format!("pid {pid}")))?;
    Ok(kill_process(pid, signal)?)
}

pub(super) fn pid(ctx: &Ctx, id: &str) -> Outcome<i64> {
    Ok(ctx.inspect(id)?["State"]["Pid"]
        .as_i64()
        .unwrap_or_default())
}
