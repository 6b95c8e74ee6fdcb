//! What containers use: once, one shot, every second.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use e2e::{
    check::{Fail, Outcome, patience, until},
    ensure, has,
    http::Connection,
    same,
};
use serde_json::{Value, json};

use super::own::Own;
use crate::{
    cases::cases,
    context::{Ctx, pause},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    [
        cases!("stats", Any;
            once, every_second, one_shot, one_shot_of_a_stream, stopped, over_stop_and_removal, without_network, paused,
            blocks_and_limits, cli, no_such_container,
        )
        .to_vec(),
        cases!("stats", Daemon; two_hundred_clients,).to_vec(),
    ]
    .concat()
}

const BUSY: &str = "while :; do i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done; usleep 1000; done";

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn cpu(sample: &Value, part: &str) -> u64 {
    number(&sample[part]["cpu_usage"]["total_usage"])
}

fn unified() -> bool {
    !fs::exists("/sys/fs/cgroup/memory").unwrap_or(false)
}

fn once(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", BUSY], "HostConfig": {"Memory": 64 << 20, "PidsLimit": 50}}),
    )?;
    let answer = ctx
        .get(&format!("/containers/{id}/stats?stream=false"))?
        .expect(200)?;
    same!(answer.headers.get("Content-Type"), "application/json");
    let s = answer.json()?;
    same!(s["id"], id);
    same!(s["name"], format!("/{}", ctx.name("c")));
    ensure!(
        cpu(&s, "cpu_stats") > cpu(&s, "precpu_stats") && cpu(&s, "precpu_stats") > 0,
        "{s}"
    );
    let system = |part: &str| number(&s[part]["system_cpu_usage"]);
    ensure!(system("cpu_stats") > system("precpu_stats"), "{s}");
    ensure!(number(&s["cpu_stats"]["online_cpus"]) > 0, "{s}");
    ensure!(s["read"].as_str() > s["preread"].as_str(), "{s}");
    same!(s["memory_stats"]["limit"], 64 << 20);
    let used = number(&s["memory_stats"]["usage"]);
    ensure!(used > 0 && used < 64 << 20, "{s}");
    ensure!(number(&s["pids_stats"]["current"]) >= 1, "{s}");
    same!(s["pids_stats"]["limit"], 50);
    let eth0 = &s["networks"]["eth0"];
    for key in [
        "rx_bytes",
        "rx_packets",
        "rx_errors",
        "rx_dropped",
        "tx_bytes",
        "tx_packets",
        "tx_errors",
        "tx_dropped",
    ] {
        ensure!(eth0[key].is_u64(), "{key}: {s}");
    }
    let keys: Vec<&str> = s["memory_stats"]["stats"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .collect();
    let wanted = if unified() { "anon" } else { "total_rss" };
    ensure!(
        keys.contains(&wanted) && keys.contains(&"inactive_file"),
        "{keys:?}"
    );
    same!(
        s["cpu_stats"]["cpu_usage"]["percpu_usage"].is_array(),
        !unified()
    );
    Ok(())
}

/// Reads `count` samples of a stream.
fn follow(connection: &mut Connection, id: &str, count: usize) -> Outcome<Vec<Value>> {
    connection.request("GET", &format!("/containers/{id}/stats"), &[], None)?;
    let (status, headers) = connection.head("GET")?;
    same!(status, 200);
    same!(headers.get("Transfer-Encoding"), "chunked");
    let mut samples = Vec::new();
    while samples.len() < count {
        let line = connection
            .body_line()?
            .ok_or_else(|| Fail("the stream has ended".into()))?;
        samples.push(serde_json::from_str(&line)?);
    }
    Ok(samples)
}

fn every_second(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", BUSY]}))?;
    let start = Instant::now();
    let samples = follow(&mut ctx.connect()?, &id, 4)?;
    let took = start.elapsed();
    ensure!(
        took > Duration::from_millis(1800) && took < Duration::from_secs(8),
        "4 samples took {took:?}"
    );
    for pair in samples.windows(2) {
        let [before, after] = pair else { continue };
        same!(after["preread"], before["read"]);
        same!(after["precpu_stats"], before["cpu_stats"]);
        ensure!(
            cpu(after, "cpu_stats") > cpu(after, "precpu_stats"),
            "{after}"
        );
    }
    Ok(())
}

fn one_shot(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let start = Instant::now();
    let s = ctx.json(&format!(
        "/containers/{id}/stats?stream=false&one-shot=true"
    ))?;
    ensure!(
        start.elapsed() < Duration::from_millis(900),
        "it took {:?}",
        start.elapsed()
    );
    same!(s["preread"], "0001-01-01T00:00:00Z");
    same!(cpu(&s, "precpu_stats"), 0);
    ensure!(number(&s["pids_stats"]["current"]) == 1, "{s}");
    Ok(())
}

fn one_shot_of_a_stream(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let answer = ctx.get(&format!("/containers/{id}/stats?stream=true&one-shot=true"))?;
    same!(answer.status, 400);
    has!(
        answer.message(),
        "cannot have stream=true and one-shot=true"
    );
    Ok(())
}

fn stopped(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["true"]}))?;
    for query in ["stream=false", "stream=false&one-shot=true"] {
        let s = ctx.json(&format!("/containers/{id}/stats?{query}"))?;
        same!(s["read"], "0001-01-01T00:00:00Z", "{query}");
        same!(s["memory_stats"], json!({}));
        same!(s["pids_stats"], json!({}));
        same!(s["cpu_stats"]["cpu_usage"]["total_usage"], 0);
        same!(s["blkio_stats"]["io_service_bytes_recursive"], Value::Null);
        ensure!(s.get("networks").is_none(), "{s}");
    }
    Ok(())
}

/// A stream lasts as long as the container exists, not as long as it runs.
fn over_stop_and_removal(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let mut connection = ctx.connect()?;
    let first = follow(&mut connection, &id, 1)?;
    ensure!(number(&first[0]["pids_stats"]["current"]) == 1, "{first:?}");
    ctx.kill(&id)?;
    until(10, "an empty sample", || {
        let line = connection.body_line()?.unwrap_or_default();
        let s: Value = serde_json::from_str(&line)?;
        Ok((s["read"] == "0001-01-01T00:00:00Z").then_some(()))
    })?;
    ctx.start(&id)?;
    until(10, "a full sample", || {
        let line = connection.body_line()?.unwrap_or_default();
        let s: Value = serde_json::from_str(&line)?;
        Ok((number(&s["pids_stats"]["current"]) == 1).then_some(()))
    })?;
    ctx.remove(&id)?;
    until(10, "the end of the stream", || {
        Ok(connection.body_line()?.is_none().then_some(()))
    })
}

fn without_network(ctx: &Ctx) -> Outcome {
    for mode in ["none", "host"] {
        let id = ctx.launch(
            mode,
            &json!({"Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": mode}}),
        )?;
        let s = ctx.json(&format!(
            "/containers/{id}/stats?stream=false&one-shot=true"
        ))?;
        ensure!(s.get("networks").is_none(), "{mode}: {}", s["networks"]);
    }
    Ok(())
}

fn paused(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", BUSY]}))?;
    ctx.act(&format!("/containers/{id}/pause"))?.expect(204)?;
    let s = ctx.json(&format!("/containers/{id}/stats?stream=false"))?;
    same!(cpu(&s, "cpu_stats"), cpu(&s, "precpu_stats"));
    ctx.act(&format!("/containers/{id}/unpause"))?
        .expect(204)
        .map(drop)
}

fn blocks_and_limits(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let s = ctx.json(&format!(
        "/containers/{id}/stats?stream=false&one-shot=true"
    ))?;
    ensure!(s["pids_stats"].get("limit").is_none(), "{s}");
    let memory = fs::read_to_string("/proc/meminfo")?;
    let total = memory
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
    same!(
        Some(number(&s["memory_stats"]["limit"])),
        total.map(|t| t * 1024)
    );
    for key in [
        "io_service_bytes_recursive",
        "io_serviced_recursive",
        "io_queue_recursive",
        "sectors_recursive",
    ] {
        ensure!(s["blkio_stats"].get(key).is_some(), "{key}: {s}");
    }
    Ok(())
}

fn cli(ctx: &Ctx) -> Outcome {
    ctx.sleeper("c")?;
    let name = ctx.name("c");
    let out = ctx
        .docker(&[
            "stats",
            "--no-stream",
            "--format",
            "{{.Name}}|{{.MemUsage}}|{{.PIDs}}",
            &name,
        ])?
        .ok()?;
    let parts: Vec<&str> = out.line().split('|').collect();
    same!(parts.first().copied().unwrap_or_default(), name);
    same!(parts.get(2).copied().unwrap_or_default(), "1");
    ensure!(
        parts
            .get(1)
            .is_some_and(|m| m.contains("iB / ") && !m.starts_with("0B")),
        "{}",
        out.line()
    );
    Ok(())
}

fn no_such_container(ctx: &Ctx) -> Outcome {
    same!(ctx.get("/containers/nosuch/stats")?.status, 404);
    same!(
        ctx.get("/containers/nosuch/stats?stream=false")?.status,
        404
    );
    Ok(())
}

/// Processor time of a process, in ticks of 10 ms.
fn ticks(pid: u32) -> Outcome<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let field = |n: usize| {
        rest.split(' ')
            .nth(n)
            .and_then(|word| word.parse::<u64>().ok())
            .unwrap_or_default()
    };
    Ok(field(11) + field(12))
}

fn two_hundred_clients(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let ids: Vec<String> = (0..4)
        .map(|n| own.ctx.sleeper(&format!("c{n}")))
        .collect::<Outcome<_>>()?;
    let daemon = own.engine.pid();
    let socket: PathBuf = own.engine.socket();
    let clients: Vec<_> = (0..200)
        .map(|n| {
            let (socket, id) = (socket.clone(), ids[n % ids.len()].clone());
            thread::spawn(move || -> Outcome<usize> {
                let mut connection = Connection::open(&socket)?;
                Ok(follow(&mut connection, &id, 5)?.len())
            })
        })
        .collect();
    pause(1000);
    let (begin, start) = (ticks(daemon)?, Instant::now());
    for client in clients {
        let count = client.join().map_err(|_| Fail("panic".into()))??;
        same!(count, 5);
    }
    let share = (ticks(daemon)? - begin) as f64 / 100.0 / start.elapsed().as_secs_f64();
    println!(
        "     stats: 200 clients cost {:.1} % of a processor",
        share * 100.0
    );
    // Without optimisation, on a busy machine; an emulated one is slower still.
    ensure!(
        share < 0.5 * f64::from(patience()),
        "200 clients cost {share:.2} processors"
    );
    // Nobody listens: nothing runs.
    pause(1500);
    let begin = ticks(daemon)?;
    pause(2000);
    let idle = ticks(daemon)? - begin;
    ensure!(idle <= 2, "{idle} ticks with nobody listening");
    own.done()
}
