//! Restart policies.

use std::fs;

use e2e::{
    check::{Outcome, until},
    ensure, same,
};
use rustix::process::Signal;
use serde_json::json;

use super::own::{Own, kill};
use crate::{
    cases::cases,
    context::{Ctx, now, pause},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    [
        cases!("restart", Any;
            on_failure_gives_up, on_failure_is_content_with_success, always_until_stopped, stop_ends_the_pause,
            removed_while_restarting, events_of_a_restart, stop_at_any_moment, wait_hears_each_end,
        )
        .to_vec(),
        cases!("restart", Daemon; host_restarts, stop_is_remembered,).to_vec(),
    ]
    .concat()
}

fn policy(name: &str, tries: i64) -> serde_json::Value {
    json!({"RestartPolicy": {"Name": name, "MaximumRetryCount": tries}})
}

fn on_failure_gives_up(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "exit 3"], "HostConfig": policy("on-failure", 2)}),
    )?;
    until(20, "the last try", || {
        let now = ctx.inspect(&id)?;
        Ok((now["RestartCount"] == 2 && now["State"]["Status"] == "exited").then_some(()))
    })?;
    pause(1500);
    let end = ctx.inspect(&id)?;
    same!(end["RestartCount"], 2);
    same!(end["State"]["ExitCode"], 3);
    Ok(())
}

fn on_failure_is_content_with_success(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["true"], "HostConfig": policy("on-failure", 0)}),
    )?;
    same!(ctx.wait(&id)?, 0);
    pause(500);
    let end = ctx.inspect(&id)?;
    same!(end["State"]["Status"], "exited");
    same!(end["RestartCount"], 0);
    Ok(())
}

fn always_until_stopped(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "echo run; sleep 0.2"], "HostConfig": policy("always", 0)}),
    )?;
    until(30, "three runs", || {
        Ok(ctx.inspect(&id)?["RestartCount"]
            .as_i64()
            .filter(|n| *n >= 2)
            .map(drop))
    })?;
    ctx.act(&format!("/containers/{id}/stop?t=0"))?
        .expect(204)?;
    let stopped = ctx.inspect(&id)?;
    same!(stopped["State"]["Restarting"], false);
    same!(stopped["State"]["Running"], false);
    pause(1500);
    same!(ctx.inspect(&id)?["RestartCount"], stopped["RestartCount"]);
    Ok(())
}

fn stop_ends_the_pause(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["false"], "HostConfig": policy("unless-stopped", 0)}),
    )?;
    until(30, "the long pause", || {
        let state = ctx.inspect(&id)?;
        Ok(
            (state["State"]["Restarting"] == true && state["RestartCount"].as_i64() >= Some(4))
                .then_some(()),
        )
    })?;
    let listed = ctx.json("/containers/json")?.to_string();
    ensure!(listed.contains(&id), "a restarting container is not listed");
    ctx.act(&format!("/containers/{id}/stop"))?.expect(204)?;
    same!(ctx.inspect(&id)?["State"]["Status"], "exited");
    Ok(())
}

fn removed_while_restarting(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["false"], "HostConfig": policy("always", 0)}),
    )?;
    until(30, "a pause", || {
        let state = ctx.inspect(&id)?;
        Ok(
            (state["State"]["Restarting"] == true && state["RestartCount"].as_i64() >= Some(3))
                .then_some(()),
        )
    })?;
    same!(ctx.delete(&format!("/containers/{id}"))?.status, 409);
    same!(
        ctx.delete(&format!("/containers/{id}?force=1"))?.status,
        204
    );
    same!(ctx.get(&format!("/containers/{id}/json"))?.status, 404);
    Ok(())
}

fn events_of_a_restart(ctx: &Ctx) -> Outcome {
    let since = crate::context::now();
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "exit 1"], "HostConfig": policy("on-failure", 1)}),
    )?;
    until(20, "the end", || {
        let now = ctx.inspect(&id)?;
        Ok((now["RestartCount"] == 1 && now["State"]["Status"] == "exited").then_some(()))
    })?;
    let events = ctx.events(
        &since,
        &crate::context::now(),
        &json!({"container": [id], "type": ["container"]}),
    )?;
    let actions: Vec<&str> = events.iter().filter_map(|e| e["Action"].as_str()).collect();
    same!(actions, ["create", "start", "die", "start", "die"]);
    Ok(())
}

/// Ends daemon, shims and containers without a word, and takes away what does not survive a reboot.
fn lose_power(own: &mut Own, ids: &[String]) -> Outcome {
    let pids: Vec<i64> = ids
        .iter()
        .map(|id| {
            Ok(own.ctx.inspect(id)?["State"]["Pid"]
                .as_i64()
                .unwrap_or_default())
        })
        .collect::<Outcome<_>>()?;
    own.engine.kill()?;
    for (shim, _) in own.processes() {
        kill(i64::from(shim), Signal::KILL)?;
    }
    for pid in pids.into_iter().filter(|pid| *pid > 0) {
        let _ = kill(pid, Signal::KILL);
    }
    until(10, "everything gone", || {
        Ok(own.processes().is_empty().then_some(()))
    })?;
    for id in ids {
        for root in [
            "", "memory/", "cpu/", "cpuacct/", "cpuset/", "pids/", "blkio/", "devices/",
            "freezer/", "systemd/", "unified/",
        ] {
            let group = format!("/sys/fs/cgroup/{root}docker/{id}");
            if fs::exists(&group)? {
                until(10, "an empty control group", || {
                    Ok(fs::remove_dir(&group).is_ok().then_some(()))
                })?;
            }
        }
    }
    Ok(fs::remove_dir_all(
        own.engine.setup.root.join("exec/containers"),
    )?)
}

fn host_restarts(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let service = |name: &str, depends_on: &str, policy: &str| {
        json!({
            "Cmd": ["sleep", "600"], "HostConfig": {"RestartPolicy": {"Name": policy}},
            "Labels": {"com.docker.compose.project": "p", "com.docker.compose.service": name,
                "com.docker.compose.depends_on": depends_on},
        })
    };
    // Made in the wrong order.
    let web = own
        .ctx
        .launch("web", &service("web", "db:service_healthy:false", "always"))?;
    let db = own.ctx.launch("db", &service("db", "", "unless-stopped"))?;
    let net = own.ctx.launch(
        "net",
        &json!({"Cmd": ["sleep", "600"], "HostConfig":
            {"NetworkMode": format!("container:{db}"), "RestartPolicy": {"Name": "on-failure"}}}),
    )?;
    let plain = own.ctx.sleeper("plain")?;
    let stopped = own
        .ctx
        .launch("stopped", &service("s", "", "unless-stopped"))?;
    own.ctx
        .act(&format!("/containers/{stopped}/stop?t=0"))?
        .expect(204)?;
    let ids = [&web, &db, &net, &plain, &stopped].map(Clone::clone);
    lose_power(&mut own, &ids)?;
    let since = now();
    own.engine.launch()?;
    for id in [&web, &db, &net] {
        own.ctx.status(id, "running")?;
    }
    pause(300);
    for id in [&plain, &stopped] {
        same!(own.ctx.inspect(id)?["State"]["Status"], "exited");
    }
    let filter = json!({"event": ["start"], "type": ["container"]});
    let events = own.ctx.events(&since, &now(), &filter)?;
    let order: Vec<&str> = events
        .iter()
        .filter_map(|e| e["Actor"]["ID"].as_str())
        .collect();
    same!(order.first().copied(), Some(db.as_str()));
    same!(order.len(), 3);
    own.done()
}

/// `always` comes back with the daemon after a stop, `unless-stopped` does not.
fn stop_is_remembered(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let sleep = |name: &str| json!({"Cmd": ["sleep", "600"], "HostConfig": policy(name, 0)});
    let always = own.ctx.launch("a", &sleep("always"))?;
    let unless = own.ctx.launch("b", &sleep("unless-stopped"))?;
    let killed = own.ctx.launch("c", &sleep("unless-stopped"))?;
    own.ctx
        .act(&format!("/containers/{always}/stop?t=0"))?
        .expect(204)?;
    own.ctx
        .act(&format!("/containers/{unless}/stop?t=0"))?
        .expect(204)?;
    own.ctx.kill(&killed)?;
    own.ctx.wait(&killed)?;
    pause(500);
    for _ in 0..2 {
        own.crash()?;
        own.ctx.status(&always, "running")?;
        for id in [&unless, &killed] {
            same!(own.ctx.inspect(id)?["State"]["Status"], "exited");
        }
    }
    own.done()
}

/// A stop is heard in the pause, while it starts and while it runs.
fn stop_at_any_moment(ctx: &Ctx) -> Outcome {
    let body = json!({"Cmd": ["sh", "-c", "exit 1"], "HostConfig": policy("always", 0)});
    for n in 0..12 {
        let id = ctx.launch(&format!("c{n}"), &body)?;
        // The first pause is 100 ms, the second 200.
        pause(60 + 23 * n);
        ctx.act(&format!("/containers/{id}/stop?t=5"))?
            .expect(204)?;
        let ended = ctx.inspect(&id)?;
        same!(ended["State"]["Status"], "exited", "{n}");
        pause(250);
        same!(
            ctx.inspect(&id)?["RestartCount"],
            ended["RestartCount"],
            "{n}"
        );
        ctx.remove(&id)?;
    }
    Ok(())
}

fn wait_hears_each_end(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "sleep 0.5; exit 4"], "HostConfig": policy("always", 0)}),
    )?;
    same!(ctx.wait(&id)?, 4);
    let answer = ctx.delete(&format!("/containers/{id}"))?;
    same!(answer.status, 409);
    ensure!(
        answer
            .message()
            .to_lowercase()
            .contains("stop the container before"),
        "{}",
        answer.message()
    );
    same!(ctx.wait(&id)?, 4);
    ctx.remove(&id)
}
