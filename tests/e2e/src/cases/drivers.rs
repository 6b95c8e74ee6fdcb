//! Log drivers besides json-file, their options and modes.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{TcpListener, UdpSocket},
    os::unix::net::{UnixDatagram, UnixListener},
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use e2e::{
    check::{Outcome, patience, until},
    ensure, fail, has, same,
};
use serde_json::{Value, json};

use super::own::Own;
use crate::{
    cases::cases,
    context::{Ctx, now},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    let mut all = cases!("drivers", Any;
        local, local_rotates, local_options, unknown_options, modes, labels_and_env_by_pattern, tags, syslog_unix, syslog_udp_formats,
        syslog_tcp, syslog_refused, syslog_stderr_and_facility, syslog_comes_back, blocking_loses_nothing, non_blocking_never_waits,
        cache_of_remote, cache_disabled, tail_of_a_large_log, follow_across_rotation, full_disk,
    )
    .to_vec();
    all.extend(cases!("drivers", Alone; journald));
    all.extend(cases!("drivers", Daemon; daemon_defaults));
    all
}

fn log_config(driver: &str, options: &Value) -> Value {
    json!({"LogConfig": {"Type": driver, "Config": options}})
}

/// Runs a script to its end with this log; gives the id.
fn done(ctx: &Ctx, name: &str, host: &Value, script: &str) -> Outcome<String> {
    let id = ctx.launch(
        name,
        &json!({"Cmd": ["sh", "-c", script], "HostConfig": host}),
    )?;
    ctx.wait(&id)?;
    Ok(id)
}

fn folder(ctx: &Ctx, name: &str) -> Outcome<PathBuf> {
    let path = ctx.world.scratch.join(ctx.name(name));
    fs::create_dir_all(&path)?;
    Ok(path)
}

fn local(ctx: &Ctx) -> Outcome {
    let host = log_config("local", &json!({}));
    let id = done(
        ctx,
        "c",
        &host,
        "echo out; sleep 0.1; echo err >&2; printf end",
    )?;
    let (out, err) = ctx.logs(&id, "")?;
    same!((out.as_str(), err.as_str()), ("out\nend", "err\n"));
    same!(ctx.logs(&id, "&tail=1")?.0, "end");
    let seen = ctx.inspect(&id)?;
    same!(seen["LogPath"], "");
    same!(seen["HostConfig"]["LogConfig"]["Type"], "local");
    let id = ctx.launch(
        "d",
        &json!({"Cmd": ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done"], "HostConfig": host}),
    )?;
    same!(ctx.logs(&id, "&follow=1")?.0, "1\n2\n3\n");
    Ok(())
}

fn local_rotates(ctx: &Ctx) -> Outcome {
    for compress in ["true", "false"] {
        let options = json!({"max-size": "100k", "max-file": "4", "compress": compress});
        let id = done(ctx, compress, &log_config("local", &options), "seq 1 20000")?;
        let out = ctx.logs(&id, "")?.0;
        let numbers: Vec<u32> = out.lines().filter_map(|l| l.parse().ok()).collect();
        same!(numbers.last(), Some(&20_000));
        ensure!(
            numbers.len() < 20_000 && numbers.windows(2).all(|w| w[1] == w[0] + 1),
            "{} lines",
            numbers.len()
        );
        same!(ctx.logs(&id, "&tail=2")?.0, "19999\n20000\n");
    }
    Ok(())
}

fn refused(ctx: &Ctx, driver: &str, options: &Value) -> Outcome<String> {
    let body = json!({"Image": "busybox", "HostConfig": log_config(driver, options)});
    let answer = ctx.post("/containers/create", &body)?;
    if answer.status == 201 {
        // dockerd finds some of them at start only.
        let id = answer.json()?["Id"].as_str().unwrap_or_default().to_owned();
        let answer = ctx.act(&format!("/containers/{id}/start"))?;
        ensure!(answer.status >= 400, "{driver} {options} is accepted");
        return Ok(answer.message());
    }
    Ok(answer.message())
}

fn local_options(ctx: &Ctx) -> Outcome {
    has!(
        refused(ctx, "local", &json!({"tag": "x"}))?,
        "unknown log opt 'tag' for log driver local"
    );
    has!(
        refused(ctx, "json-file", &json!({"max-size": "x"}))?,
        "invalid size: 'x'"
    );
    has!(
        refused(
            ctx,
            "json-file",
            &json!({"max-file": "0", "max-size": "1k"})
        )?,
        "max-file cannot be less than 1"
    );
    Ok(())
}

fn unknown_options(ctx: &Ctx) -> Outcome {
    for driver in ["json-file", "syslog", "journald"] {
        has!(
            refused(ctx, driver, &json!({"no-such": "1"}))?,
            format!("unknown log opt 'no-such' for {driver} log driver")
        );
    }
    has!(
        refused(
            ctx,
            "syslog",
            &json!({"syslog-address": "carrier-pigeon://x"})
        )?,
        "carrier-pigeon"
    );
    has!(
        refused(
            ctx,
            "syslog",
            &json!({"syslog-address": "unix:///no/such/socket"})
        )?,
        "stat /no/such/socket: no such file or directory"
    );
    has!(
        refused(
            ctx,
            "syslog",
            &json!({"syslog-address": "udp://127.0.0.1:1", "syslog-facility": "x"})
        )?,
        "invalid syslog facility"
    );
    Ok(())
}

fn modes(ctx: &Ctx) -> Outcome {
    has!(
        refused(ctx, "json-file", &json!({"mode": "sometimes"}))?,
        "logging mode not supported: sometimes"
    );
    has!(
        refused(ctx, "json-file", &json!({"max-buffer-size": "1m"}))?,
        "max-buffer-size option is only supported with 'mode=non-blocking'"
    );
    let options = json!({"mode": "non-blocking", "max-buffer-size": "2m"});
    let id = done(ctx, "c", &log_config("json-file", &options), "seq 1 1000")?;
    same!(ctx.logs(&id, "&tail=1")?.0, "1000\n");
    Ok(())
}

fn labels_and_env_by_pattern(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["echo", "x"], "Env": ["APP_A=1", "APP_B=2", "OTHER=3"], "Labels": {"com.x": "4", "org.y": "5"},
            "HostConfig": log_config("json-file", &json!({"labels-regex": "^com\\.", "env-regex": "^APP_", "env": "OTHER"}))}),
    )?;
    ctx.wait(&id)?;
    let out = ctx.logs(&id, "&details=1")?.0;
    let mut found: Vec<&str> = out
        .split(' ')
        .next()
        .unwrap_or_default()
        .split(',')
        .collect();
    found.sort_unstable();
    same!(found, ["APP_A=1", "APP_B=2", "OTHER=3", "com.x=4"]);
    Ok(())
}

fn tags(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["echo", "x"], "HostConfig": log_config("json-file", &json!({"tag": "{{.Name}}|{{.ImageName}}|{{ .ID }}"}))}),
    )?;
    ctx.wait(&id)?;
    let out = ctx.logs(&id, "&details=1")?.0;
    let want = format!("tag={}%7Cbusybox%7C{} x\n", ctx.name("c"), &id[..12]);
    same!(out, want);
    has!(
        refused(ctx, "json-file", &json!({"tag": "{{.NoSuch}}"}))?,
        "NoSuch"
    );
    Ok(())
}

fn datagrams(socket: &UnixDatagram, count: usize) -> Outcome<Vec<String>> {
    socket.set_read_timeout(Some(Duration::from_secs(10 * u64::from(patience()))))?;
    let mut all = Vec::new();
    let mut buffer = vec![0u8; 1 << 17];
    while all.len() < count {
        let length = socket.recv(&mut buffer)?;
        all.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    Ok(all)
}

fn syslog_unix(ctx: &Ctx) -> Outcome {
    let path = folder(ctx, "s")?.join("log");
    let socket = UnixDatagram::bind(&path)?;
    let address = format!("unixgram://{}", path.display());
    let options = json!({"syslog-address": address, "tag": "t-{{.Name}}"});
    done(
        ctx,
        "c",
        &log_config("syslog", &options),
        "echo one; echo two",
    )?;
    let lines = datagrams(&socket, 2)?;
    let tag = format!("t-{}[", ctx.name("c"));
    ensure!(
        lines[0].starts_with("<30>") && lines[0].contains(&tag) && lines[0].ends_with("]: one\n"),
        "{lines:?}"
    );
    has!(lines[1], "]: two\n");
    // A stream socket, by the same kind of address.
    let path = folder(ctx, "s")?.join("stream");
    let listener = UnixListener::bind(&path)?;
    let options = json!({"syslog-address": format!("unix://{}", path.display())});
    let reader = thread::spawn(move || -> std::io::Result<String> {
        let mut text = String::new();
        BufReader::new(listener.accept()?.0).read_line(&mut text)?;
        Ok(text)
    });
    let id = done(ctx, "d", &log_config("syslog", &options), "echo streamed")?;
    let Ok(text) = reader.join() else {
        fail!("panic")
    };
    let text = text?;
    has!(text, format!(" {}[", &id[..12]));
    has!(text, "]: streamed\n");
    Ok(())
}

fn syslog_udp_formats(ctx: &Ctx) -> Outcome {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(10 * u64::from(patience()))))?;
    let address = format!("udp://{}", socket.local_addr()?);
    for (format, shape) in [
        ("", "<30>MON DD HH:MM:SS T[N]: hello"),
        ("rfc3164", "<30>MON DD HH:MM:SS HOST T[N]: hello"),
        ("rfc5424", "<30>1 TIME HOST T N T - hello"),
        ("rfc5424micro", "<30>1 TIME HOST T N T - hello"),
    ] {
        let mut options = json!({"syslog-address": address, "tag": "T"});
        if !format.is_empty() {
            options["syslog-format"] = json!(format);
        }
        done(
            ctx,
            &format!("c{format}"),
            &log_config("syslog", &options),
            "echo hello",
        )?;
        let mut buffer = [0u8; 2000];
        let length = socket.recv(&mut buffer)?;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let (words, shapes) = (text.split_whitespace(), shape.split_whitespace());
        same!(words.count(), shapes.clone().count(), "{format}: {text:?}");
        for (word, shape) in text.split_whitespace().zip(shapes) {
            let fits = match shape {
                "<30>MON" => word.starts_with("<30>") && word.len() == 7,
                "DD" | "HOST" => !word.is_empty(),
                "HH:MM:SS" => word.len() == 8,
                "T[N]:" => word.starts_with("T[") && word.ends_with("]:"),
                "TIME" => word.len() > 18 && word.contains('.') == (format == "rfc5424micro"),
                "N" => word.parse::<u32>().is_ok(),
                other => word == other,
            };
            ensure!(fits, "{format}: {word:?} is no {shape}: {text:?}");
        }
        ensure!(text.ends_with('\n'), "{text:?}");
    }
    Ok(())
}

fn syslog_tcp(ctx: &Ctx) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("tcp://{}", listener.local_addr()?);
    let reader = thread::spawn(move || -> std::io::Result<String> {
        let mut text = String::new();
        listener.accept()?.0.read_to_string(&mut text)?;
        Ok(text)
    });
    let options = json!({"syslog-address": address, "tag": "T"});
    done(ctx, "c", &log_config("syslog", &options), "seq 1 5000")?;
    let Ok(text) = reader.join() else {
        fail!("panic")
    };
    let text = text?;
    same!(text.lines().count(), 5000);
    has!(text, "]: 5000\n");
    Ok(())
}

fn syslog_refused(ctx: &Ctx) -> Outcome {
    let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let options = json!({"syslog-address": format!("tcp://{closed}")});
    let text = refused(ctx, "syslog", &options)?;
    has!(text, "failed to initialize logging driver: dial tcp");
    has!(text, "connection refused");
    Ok(())
}

fn syslog_stderr_and_facility(ctx: &Ctx) -> Outcome {
    let path = folder(ctx, "s")?.join("log");
    let socket = UnixDatagram::bind(&path)?;
    let options = json!({"syslog-address": format!("unixgram://{}", path.display()), "syslog-facility": "local1"});
    done(ctx, "c", &log_config("syslog", &options), "echo bad >&2")?;
    let lines = datagrams(&socket, 1)?;
    ensure!(lines[0].starts_with("<139>"), "{lines:?}");
    Ok(())
}

fn syslog_comes_back(ctx: &Ctx) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let options = json!({"syslog-address": format!("tcp://{address}"), "tag": "T"});
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "i=0; while :; do i=$((i+1)); echo line-$i; sleep 0.1; done"], "HostConfig": log_config("syslog", &options)}),
    )?;
    let mut line = String::new();
    BufReader::new(listener.accept()?.0).read_line(&mut line)?;
    has!(line, "line-");
    // The receiver is restarted: the connection breaks, a new one comes.
    let mut again = String::new();
    BufReader::new(listener.accept()?.0).read_line(&mut again)?;
    has!(again, "line-");
    ctx.kill(&id)
}

/// A receiver that reads slowly holds up the container, and gets all of it.
fn blocking_loses_nothing(ctx: &Ctx) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let options =
        json!({"syslog-address": format!("tcp://{}", listener.local_addr()?), "tag": "T"});
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "seq 1 300000"], "HostConfig": log_config("syslog", &options)}),
    )?;
    let mut stream = BufReader::new(listener.accept()?.0);
    thread::sleep(Duration::from_millis(800));
    let (mut text, mut wanted) = (String::new(), 1u32);
    while stream.read_line(&mut text)? > 0 {
        let number: u32 = text
            .trim_end()
            .rsplit(' ')
            .next()
            .unwrap_or_default()
            .parse()?;
        same!(number, wanted, "lines in order");
        wanted += 1;
        text.clear();
    }
    same!(wanted, 300_001);
    same!(ctx.wait(&id)?, 0);
    Ok(())
}

/// A receiver that reads nothing does not hold up the container. With dockerd its end is held up all the same.
fn non_blocking_never_waits(ctx: &Ctx) -> Outcome {
    if ctx.world.binary.is_none() {
        return Ok(());
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let options = json!({"syslog-address": format!("tcp://{}", listener.local_addr()?), "mode": "non-blocking", "max-buffer-size": "100k"});
    let begin = Instant::now();
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "seq 1 500000"], "HostConfig": log_config("syslog", &options)}),
    )?;
    let stuck = listener.accept()?;
    same!(ctx.wait(&id)?, 0);
    ensure!(
        begin.elapsed() < Duration::from_secs(20 * u64::from(patience())),
        "it took {:?}",
        begin.elapsed()
    );
    // It can be started again, although the last run's lines were never taken.
    ctx.start(&id)?;
    drop(stuck);
    ctx.remove(&id)
}

fn cache_of_remote(ctx: &Ctx) -> Outcome {
    let path = folder(ctx, "s")?.join("log");
    let socket = UnixDatagram::bind(&path)?;
    let options = json!({"syslog-address": format!("unixgram://{}", path.display())});
    let id = done(
        ctx,
        "c",
        &log_config("syslog", &options),
        "echo kept; echo too >&2",
    )?;
    let (out, err) = ctx.logs(&id, "")?;
    same!((out.as_str(), err.as_str()), ("kept\n", "too\n"));
    same!(ctx.inspect(&id)?["LogPath"], "");
    drop(socket);
    Ok(())
}

fn cache_disabled(ctx: &Ctx) -> Outcome {
    let path = folder(ctx, "s")?.join("log");
    let socket = UnixDatagram::bind(&path)?;
    let options = json!({"syslog-address": format!("unixgram://{}", path.display()), "cache-disabled": "true"});
    let id = done(ctx, "c", &log_config("syslog", &options), "echo x")?;
    let answer = ctx.get(&format!("/containers/{id}/logs?stdout=1"))?;
    has!(
        answer.text(),
        "configured logging driver does not support reading"
    );
    same!(datagrams(&socket, 1)?.len(), 1);
    Ok(())
}

fn tail_of_a_large_log(ctx: &Ctx) -> Outcome {
    let options = json!({"max-size": "2g", "max-file": "2"});
    let script = "yes 0123456789012345678901234567890123456789012345678901234567890123456789 | head -n 2500000; echo last";
    let id = done(ctx, "c", &log_config("json-file", &options), script)?;
    let begin = Instant::now();
    has!(ctx.logs(&id, "&tail=2")?.0, "\nlast\n");
    ensure!(
        begin.elapsed() < Duration::from_millis(500 * u64::from(patience())),
        "the tail took {:?}",
        begin.elapsed()
    );
    let begin = Instant::now();
    let mut connection = ctx.connect()?;
    connection.request("GET", &format!("/containers/{id}/logs?stdout=1"), &[], None)?;
    same!(connection.head("GET")?.0, 200);
    let mut first = [0u8; 8];
    connection.read_exact(&mut first)?;
    ensure!(
        begin.elapsed() < Duration::from_millis(1000 * u64::from(patience())),
        "the first line took {:?}",
        begin.elapsed()
    );
    Ok(())
}

/// dockerd repeats lines when the log is rotated under a follower.
fn follow_across_rotation(ctx: &Ctx) -> Outcome {
    if ctx.world.binary.is_none() {
        return Ok(());
    }
    for (driver, compress) in [
        ("json-file", "false"),
        ("json-file", "true"),
        ("local", "true"),
    ] {
        let options = json!({"max-size": "50k", "max-file": "100", "compress": compress});
        let script = "for i in $(seq 1 40); do seq $((i*500-499)) $((i*500)); sleep 0.02; done";
        let id = ctx.launch(
            &format!("{driver}{compress}"),
            &json!({"Cmd": ["sh", "-c", script], "HostConfig": log_config(driver, &options)}),
        )?;
        let out = ctx.logs(&id, "&follow=1")?.0;
        let want: String = (1..=20_000).map(|n| format!("{n}\n")).collect();
        ensure!(
            out == want,
            "{driver} {compress}: {} of {} bytes",
            out.len(),
            want.len()
        );
    }
    Ok(())
}

/// The file system that has the log is full: output goes on, the log says so, an event tells.
fn full_disk(ctx: &Ctx) -> Outcome {
    if ctx.world.binary.is_none() {
        // dockerd says it in its own log only.
        return Ok(());
    }
    let id = ctx.create(
        "c",
        &json!({"Cmd": ["sh", "-c", "echo before; read x; seq 1 200000; echo done > /dev/null"], "OpenStdin": true}),
    )?;
    let path = PathBuf::from(ctx.inspect(&id)?["LogPath"].as_str().unwrap_or_default());
    let Some(dir) = path.parent() else {
        fail!("no log path")
    };
    // The log becomes a file of a small file system, by a link that the shim opens.
    let small = folder(ctx, "small")?;
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "none"])
        .arg(&small)
        .status()?;
    ensure!(mounted.success(), "mount: {mounted}");
    std::os::unix::fs::symlink(small.join("log"), &path)?;
    let since = now();
    let result = (|| -> Outcome {
        let mut attached =
            ctx.hijack(&format!("/containers/{id}/attach?stream=1&stdin=1"), None)?;
        ctx.start(&id)?;
        ctx.log_has(&id, "before")?;
        attached.send(b"\n")?;
        same!(ctx.wait(&id)?, 0, "the container is not held up");
        let event = until(10, "event of the full disk", || {
            let filters = json!({"container": [id], "event": ["log_error"]});
            Ok(ctx.events(&since, &now(), &filters)?.into_iter().next())
        })?;
        has!(
            event["Actor"]["Attributes"]["error"]
                .as_str()
                .unwrap_or_default(),
            "no space left on device"
        );
        Ok(())
    })();
    ctx.remove(&id)?;
    // The shim may still have the log open when the removal is answered.
    until(10, "umount", || {
        let unmounted = Command::new("umount").arg(&small).output()?;
        Ok(unmounted.status.success().then_some(()))
    })?;
    ensure!(!dir.exists() || result.is_err(), "the folder stays");
    result
}

/// A journal of our own in the journal's place.
fn journald(ctx: &Ctx) -> Outcome {
    let path = PathBuf::from("/run/systemd/journal/socket");
    if path.exists() {
        fail!("a journal runs here: the case needs its place");
    }
    let made: Vec<PathBuf> = ["/run/systemd", "/run/systemd/journal"]
        .map(PathBuf::from)
        .into_iter()
        .filter(|folder| !folder.exists())
        .collect();
    has!(
        refused(ctx, "journald", &json!({}))?,
        "journald is not enabled on this host"
    );
    fs::create_dir_all("/run/systemd/journal")?;
    let result = UnixDatagram::bind(&path)
        .map_err(Into::into)
        .and_then(|socket| journal(ctx, &socket));
    let _ = fs::remove_file(&path);
    for folder in made.iter().rev() {
        let _ = fs::remove_dir(folder);
    }
    result
}

fn journal(ctx: &Ctx, socket: &UnixDatagram) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "echo hello; sleep 0.2; echo bad >&2; sleep 0.2; head -c 20000 /dev/zero | tr '\\0' a; echo"],
            "Env": ["APP=1"], "HostConfig": log_config("journald", &json!({"env": "APP", "tag": "{{.Name}}"}))}),
    )?;
    ctx.wait(&id)?;
    let entries = datagrams(socket, 4)?;
    let name = ctx.name("c");
    for line in [
        "MESSAGE=hello",
        "PRIORITY=6",
        &format!("CONTAINER_ID={}", &id[..12]),
        &format!("CONTAINER_ID_FULL={id}"),
        &format!("CONTAINER_NAME={name}"),
        &format!("CONTAINER_TAG={name}"),
        &format!("SYSLOG_IDENTIFIER={name}"),
        "IMAGE_NAME=busybox",
        "APP=1",
    ] {
        ensure!(
            entries[0].lines().any(|l| l == line),
            "no {line} in {}",
            entries[0]
        );
    }
    has!(entries[1], "PRIORITY=3\n");
    has!(entries[2], "CONTAINER_PARTIAL_MESSAGE=true\n");
    has!(entries[3], "CONTAINER_PARTIAL_LAST=true\n");
    // dockerd asks the journal itself, which is not the one that got it.
    if ctx.world.binary.is_some() {
        has!(ctx.logs(&id, "")?.0, "hello\n");
    }
    Ok(())
}

/// daemon.json's defaults, and what a container says against them.
fn daemon_defaults(ctx: &Ctx) -> Outcome {
    let config = ctx.world.scratch.join("logs.json");
    let options = json!({"max-size": "1m", "cache-max-size": "3m"});
    fs::write(
        &config,
        json!({"log-driver": "local", "log-opts": options}).to_string(),
    )?;
    let own = Own::start_with(ctx, &["--config-file".into(), config.display().to_string()])?;
    same!(own.ctx.json("/info")?["LoggingDriver"], "local");
    for (number, (log, want)) in [
        (
            json!({}),
            json!({"Type": "local", "Config": {"max-size": "1m", "cache-max-size": "3m"}}),
        ),
        (
            json!({"Type": "json-file"}),
            json!({"Type": "json-file", "Config": {"cache-max-size": "3m"}}),
        ),
        (
            json!({"Config": {"max-size": "2m"}}),
            json!({"Type": "local", "Config": {"max-size": "2m", "cache-max-size": "3m"}}),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let body = json!({"Cmd": ["echo", "x"], "HostConfig": {"LogConfig": log}});
        let id = own.ctx.launch(&format!("c{number}"), &body)?;
        own.ctx.wait(&id)?;
        same!(own.ctx.inspect(&id)?["HostConfig"]["LogConfig"], want);
        same!(own.ctx.logs(&id, "")?.0, "x\n");
    }
    own.done()
}
