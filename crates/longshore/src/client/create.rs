//! From the flags of `run` and `create` to the body of `POST /containers/create`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{
    failure::{Done, Failure, reason},
    mounts, networks, ports,
};
use crate::{flags::Parsed, units};

/// Everything that a create request holds. Only what was asked for is in it: the rest is the daemon's to decide.
///
/// # Errors
/// Values that cannot be read, options that exclude each other; with Docker's texts where it has them.
pub fn body(parsed: &Parsed, detach: bool) -> Done<Value> {
    let mut config = Map::new();
    let mut arguments = parsed.arguments.iter();
    let image = arguments.next().map_or("", String::as_str);
    if image.is_empty() {
        return Err(Failure::usage("invalid reference format"));
    }
    config.insert("Image".into(), image.into());
    let command: Vec<&String> = arguments.collect();
    if !command.is_empty() {
        config.insert("Cmd".into(), json!(command));
    }
    put_process(&mut config, parsed, detach)?;
    let mut host = Map::new();
    put_texts(&mut host, parsed);
    put_resources(&mut host, parsed)?;
    put_security(&mut host, parsed)?;
    put_policy(&mut host, parsed)?;
    ports::put(&mut config, &mut host, parsed)?;
    mounts::put(&mut config, &mut host, parsed)?;
    networks::put(&mut config, &mut host, parsed)?;
    config.insert("HostConfig".into(), Value::Object(host));
    Ok(Value::Object(config))
}

/// What the container's process is.
fn put_process(config: &mut Map<String, Value>, parsed: &Parsed, detach: bool) -> Done {
    for (flag, key) in [
        ("hostname", "Hostname"),
        ("domainname", "Domainname"),
        ("user", "User"),
        ("workdir", "WorkingDir"),
        ("stop-signal", "StopSignal"),
    ] {
        if let Some(value) = parsed.text(flag) {
            config.insert(key.into(), value.into());
        }
    }
    if let Some(entrypoint) = parsed.text("entrypoint") {
        // Empty on purpose: it takes the image's away.
        config.insert("Entrypoint".into(), json!([entrypoint]));
    }
    if let Some(seconds) = parsed.number("stop-timeout") {
        config.insert("StopTimeout".into(), seconds.into());
    }
    let streams: Vec<String> = parsed
        .list("attach")
        .iter()
        .map(|stream| stream.to_lowercase())
        .collect();
    if let Some(bad) = streams
        .iter()
        .find(|name| !["stdin", "stdout", "stderr"].contains(&name.as_str()))
    {
        return Err(Failure::usage(format_args!(
            "invalid argument \"{bad}\" for \"-a, --attach\" flag: valid streams are STDIN, STDOUT and STDERR"
        )));
    }
    if detach && !streams.is_empty() {
        return Err(Failure::usage(
            "conflicting options: cannot specify both --attach and --detach",
        ));
    }
    let interactive = parsed.on("interactive");
    let wanted = |name: &str| !detach && (streams.is_empty() || streams.iter().any(|s| s == name));
    let stdin = wanted("stdin") && (interactive || !streams.is_empty());
    config.insert("AttachStdin".into(), stdin.into());
    config.insert("AttachStdout".into(), wanted("stdout").into());
    config.insert("AttachStderr".into(), wanted("stderr").into());
    config.insert("Tty".into(), parsed.on("tty").into());
    config.insert("OpenStdin".into(), interactive.into());
    config.insert("StdinOnce".into(), (interactive && stdin).into());
    let env = environment(parsed)?;
    if !env.is_empty() {
        config.insert("Env".into(), env.into());
    }
    let labels = labels(parsed)?;
    if !labels.is_empty() {
        config.insert("Labels".into(), Value::Object(labels));
    }
    if let Some(health) = health(parsed)? {
        config.insert("Healthcheck".into(), health);
    }
    Ok(())
}

/// `--env-file` first, then `--env`; a name alone takes the value that it has here, if any.
pub fn environment(parsed: &Parsed) -> Done<Vec<String>> {
    let mut all = Vec::new();
    for file in parsed.list("env-file") {
        for line in read_lines(file)? {
            match line.split_once('=') {
                Some((name, _)) if name.is_empty() || name.contains([' ', '\t']) => {
                    return Err(Failure::usage(format_args!(
                        "invalid environment variable in {file}: {line}"
                    )));
                }
                Some(_) => all.push(line),
                None => all.extend(std::env::var(&line).map(|value| format!("{line}={value}"))),
            }
        }
    }
    for variable in parsed.list("env") {
        all.push(match (variable.contains('='), std::env::var(variable)) {
            (false, Ok(value)) => format!("{variable}={value}"),
            _ => variable.clone(),
        });
    }
    if all
        .iter()
        .any(|variable| variable.starts_with('=') || variable.is_empty())
    {
        return Err(Failure::usage("invalid environment variable: no name"));
    }
    Ok(all)
}

/// Lines of a file of settings, without comments and blank lines.
fn read_lines(path: &str) -> Done<Vec<String>> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format_args!("open {path}: {}", reason(&error))))?;
    Ok(text
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect())
}

fn labels(parsed: &Parsed) -> Done<Map<String, Value>> {
    let mut labels = Map::new();
    let mut lines = Vec::new();
    for file in parsed.list("label-file") {
        lines.extend(read_lines(file)?);
    }
    lines.extend(parsed.list("label").iter().cloned());
    for line in lines {
        let (name, value) = line.split_once('=').unwrap_or((&line, ""));
        labels.insert(name.to_owned(), value.into());
    }
    Ok(labels)
}

fn health(parsed: &Parsed) -> Done<Option<Value>> {
    if parsed.on("no-healthcheck") {
        return Ok(Some(json!({"Test": ["NONE"]})));
    }
    let mut health = Map::new();
    if let Some(command) = parsed.text("health-cmd") {
        health.insert("Test".into(), json!(["CMD-SHELL", command]));
    }
    for (flag, key) in [
        ("health-interval", "Interval"),
        ("health-timeout", "Timeout"),
        ("health-start-period", "StartPeriod"),
        ("health-start-interval", "StartInterval"),
    ] {
        if let Some(text) = parsed.text(flag) {
            let time = units::duration(text)
                .filter(|time| *time >= 0)
                .ok_or_else(|| {
                    Failure::usage(format_args!("--{flag}: invalid duration \"{text}\""))
                })?;
            health.insert(key.into(), time.into());
        }
    }
    if let Some(retries) = parsed.number("health-retries") {
        health.insert("Retries".into(), retries.into());
    }
    Ok((!health.is_empty()).then_some(Value::Object(health)))
}

/// Flags whose value goes over as it is.
fn put_texts(host: &mut Map<String, Value>, parsed: &Parsed) {
    for (flag, key) in [
        ("cgroup-parent", "CgroupParent"),
        ("cgroupns", "CgroupnsMode"),
        ("cpuset-cpus", "CpusetCpus"),
        ("cpuset-mems", "CpusetMems"),
        ("ipc", "IpcMode"),
        ("pid", "PidMode"),
        ("runtime", "Runtime"),
        ("userns", "UsernsMode"),
        ("uts", "UTSMode"),
        ("volume-driver", "VolumeDriver"),
    ] {
        if let Some(value) = parsed.text(flag) {
            host.insert(key.into(), value.into());
        }
    }
    for (flag, key) in [
        ("add-host", "ExtraHosts"),
        ("cap-add", "CapAdd"),
        ("cap-drop", "CapDrop"),
        ("device-cgroup-rule", "DeviceCgroupRules"),
        ("dns", "Dns"),
        ("dns-option", "DnsOptions"),
        ("dns-search", "DnsSearch"),
        ("group-add", "GroupAdd"),
        ("link", "Links"),
        ("volumes-from", "VolumesFrom"),
    ] {
        if parsed.is_set(flag) {
            host.insert(key.into(), parsed.list(flag).into());
        }
    }
    for (flag, key) in [
        ("init", "Init"),
        ("oom-kill-disable", "OomKillDisable"),
        ("privileged", "Privileged"),
        ("publish-all", "PublishAllPorts"),
        ("read-only", "ReadonlyRootfs"),
        ("rm", "AutoRemove"),
    ] {
        if let Some(value) = parsed.switch(flag) {
            host.insert(key.into(), value.into());
        }
    }
    for (flag, key) in [
        ("annotation", "Annotations"),
        ("storage-opt", "StorageOpt"),
        ("sysctl", "Sysctls"),
    ] {
        if parsed.is_set(flag) {
            host.insert(key.into(), pairs(parsed.list(flag)));
        }
    }
}

/// `name=value` texts as an object.
fn pairs(texts: &[String]) -> Value {
    Value::Object(
        texts
            .iter()
            .map(|text| text.split_once('=').unwrap_or((text, "")))
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect(),
    )
}

fn put_resources(host: &mut Map<String, Value>, parsed: &Parsed) -> Done {
    for (flag, key) in [
        ("blkio-weight", "BlkioWeight"),
        ("cpu-period", "CpuPeriod"),
        ("cpu-quota", "CpuQuota"),
        ("cpu-shares", "CpuShares"),
        ("memory-swappiness", "MemorySwappiness"),
        ("oom-score-adj", "OomScoreAdj"),
        ("pids-limit", "PidsLimit"),
    ] {
        if let Some(number) = parsed.number(flag) {
            host.insert(key.into(), number.into());
        }
    }
    for (flag, key) in [
        ("memory", "Memory"),
        ("memory-reservation", "MemoryReservation"),
        ("memory-swap", "MemorySwap"),
        ("shm-size", "ShmSize"),
    ] {
        if let Some(text) = parsed.text(flag) {
            let size = match text {
                "-1" if flag == "memory-swap" => Some(-1),
                text => units::bytes(text),
            };
            let size = size.ok_or_else(|| {
                Failure::usage(format_args!(
                    "invalid argument \"{text}\" for \"{}--{flag}\" flag: invalid size: '{text}'",
                    if flag == "memory" { "-m, " } else { "" }
                ))
            })?;
            host.insert(key.into(), size.into());
        }
    }
    if let Some(text) = parsed.text("cpus") {
        host.insert("NanoCpus".into(), nano_cpus(text)?.into());
    }
    let ulimits: Result<Vec<Value>, String> = parsed
        .list("ulimit")
        .iter()
        .map(|text| {
            units::ulimit(text)
                .map(|(name, soft, hard)| json!({"Name": name, "Soft": soft, "Hard": hard}))
                .map_err(|error| {
                    format!("invalid argument \"{text}\" for \"--ulimit\" flag: {error}")
                })
        })
        .collect();
    let ulimits = ulimits.map_err(Failure::usage)?;
    if !ulimits.is_empty() {
        host.insert("Ulimits".into(), ulimits.into());
    }
    let devices: Done<Vec<Value>> = parsed
        .list("device")
        .iter()
        .map(|text| device(text))
        .collect();
    let devices = devices?;
    if !devices.is_empty() {
        host.insert("Devices".into(), devices.into());
    }
    Ok(())
}

/// `1.5` processors as billionths; more digits than nine are refused as Docker does.
fn nano_cpus(text: &str) -> Done<i64> {
    let bad = || {
        Failure::usage(format_args!(
            "invalid argument \"{text}\" for \"--cpus\" flag: failed to parse {text} as a rational number"
        ))
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return Err(bad());
    }
    if fraction.len() > 9 {
        return Err(Failure::usage(
            "invalid argument for \"--cpus\" flag: value is too precise",
        ));
    }
    format!("{whole}{fraction:0<9}").parse().map_err(|_| bad())
}

/// `/dev/a[:/dev/b][:rwm]`
fn device(text: &str) -> Done<Value> {
    let parts: Vec<&str> = text.split(':').collect();
    let mode = |text: &str| !text.is_empty() && text.chars().all(|c| "rwm".contains(c));
    let (from, to, permissions) = match parts[..] {
        [from] => (from, from, "rwm"),
        [from, permissions] if mode(permissions) => (from, from, permissions),
        [from, to] => (from, to, "rwm"),
        [from, to, permissions] if mode(permissions) => (from, to, permissions),
        _ => {
            return Err(Failure::usage(format_args!("bad format for path: {text}")));
        }
    };
    Ok(json!({"PathOnHost": from, "PathInContainer": to, "CgroupPermissions": permissions}))
}

/// `--security-opt`; a seccomp policy in a file goes over as its content.
fn put_security(host: &mut Map<String, Value>, parsed: &Parsed) -> Done {
    let mut options = Vec::new();
    for option in parsed.list("security-opt") {
        match option.split_once(['=', ':']) {
            Some(("seccomp", path)) if !["unconfined", "builtin"].contains(&path) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    Failure::usage(format_args!(
                        "opening seccomp profile ({path}) failed: {}",
                        reason(&error)
                    ))
                })?;
                let policy: Value = serde_json::from_str(&text).map_err(|error| {
                    Failure::usage(format_args!(
                        "compacting json for seccomp profile ({path}) failed: {error}"
                    ))
                })?;
                options.push(format!("seccomp={policy}"));
            }
            // Docker's shortcut for no masked and no read-only paths.
            Some(("systempaths", "unconfined")) => {
                host.insert("MaskedPaths".into(), json!([]));
                host.insert("ReadonlyPaths".into(), json!([]));
            }
            _ => options.push(option.clone()),
        }
    }
    if !options.is_empty() {
        host.insert("SecurityOpt".into(), options.into());
    }
    Ok(())
}

/// Restart policy and log.
fn put_policy(host: &mut Map<String, Value>, parsed: &Parsed) -> Done {
    if let Some(policy) = parsed.text("restart") {
        let (name, count) = policy.split_once(':').unwrap_or((policy, ""));
        let count = match count {
            "" => 0,
            count => count.parse::<i64>().map_err(|_| {
                Failure::usage(
                    "invalid restart policy format: maximum retry count must be an integer",
                )
            })?,
        };
        if parsed.on("rm") && !["", "no"].contains(&name) {
            return Err(Failure::usage(
                "conflicting options: cannot specify both --restart and --rm",
            ));
        }
        host.insert(
            "RestartPolicy".into(),
            json!({"Name": name, "MaximumRetryCount": count}),
        );
    }
    if parsed.is_set("log-driver") || parsed.is_set("log-opt") {
        host.insert(
            "LogConfig".into(),
            json!({
                "Type": parsed.text_or_empty("log-driver"),
                "Config": pairs(parsed.list("log-opt")),
            }),
        );
    }
    if let Some(path) = parsed.text("cidfile") {
        if Path::new(path).exists() {
            return Err(Failure::usage(format_args!(
                "container ID file found, make sure the other container isn't running or delete {path}"
            )));
        }
        host.insert("ContainerIDFile".into(), path.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::create_flags, flags};

    fn create(arguments: &[&str]) -> Done<Value> {
        let parsed = flags::parse(create_flags::RUN, arguments, flags::Order::FlagsFirst).unwrap();
        body(&parsed, parsed.on("detach"))
    }

    #[test]
    fn only_what_was_asked_for() {
        assert_eq!(
            create(&["-d", "busybox", "sleep", "-1"]).unwrap(),
            json!({
                "Image": "busybox", "Cmd": ["sleep", "-1"],
                "AttachStdin": false, "AttachStdout": false, "AttachStderr": false,
                "Tty": false, "OpenStdin": false, "StdinOnce": false, "HostConfig": {}
            })
        );
    }

    #[test]
    fn streams() {
        let body = create(&["-it", "x"]).unwrap();
        for key in [
            "AttachStdin",
            "AttachStdout",
            "Tty",
            "OpenStdin",
            "StdinOnce",
        ] {
            assert_eq!(body[key], true, "{key}");
        }
        let body = create(&["-a", "STDERR", "x"]).unwrap();
        assert_eq!(
            (&body["AttachStdout"], &body["AttachStderr"]),
            (&json!(false), &json!(true))
        );
        assert!(create(&["-a", "x", "x"]).is_err());
        assert!(create(&["-d", "-a", "stdout", "x"]).is_err());
    }

    #[test]
    fn limits_and_policies() {
        let body = create(&[
            "-m",
            "64m",
            "--memory-swap=-1",
            "--cpus=.5",
            "--restart=on-failure:3",
            "--ulimit",
            "nofile=1:2",
            "--device=/dev/fuse:r",
            "--sysctl",
            "a.b=c",
            "--log-opt",
            "max-size=1m",
            "--init",
            "--pids-limit=-1",
            "--health-cmd=true",
            "--health-interval=2s",
            "x",
        ])
        .unwrap();
        let host = &body["HostConfig"];
        assert_eq!(host["Memory"], 64 << 20);
        assert_eq!(host["MemorySwap"], -1);
        assert_eq!(host["NanoCpus"], 500_000_000);
        assert_eq!(host["PidsLimit"], -1);
        assert_eq!(
            host["RestartPolicy"],
            json!({"Name": "on-failure", "MaximumRetryCount": 3})
        );
        assert_eq!(
            host["Ulimits"],
            json!([{"Name": "nofile", "Soft": 1, "Hard": 2}])
        );
        assert_eq!(host["Devices"][0]["PathInContainer"], "/dev/fuse");
        assert_eq!(host["Sysctls"], json!({"a.b": "c"}));
        assert_eq!(
            host["LogConfig"],
            json!({"Type": "", "Config": {"max-size": "1m"}})
        );
        assert_eq!(host["Init"], true);
        assert_eq!(body["Healthcheck"]["Interval"], 2_000_000_000);
        for bad in [
            &["-m", "x", "i"][..],
            &["--cpus", "a", "i"],
            &["--cpus", "0.0000000001", "i"],
            &["--rm", "--restart", "always", "i"],
            &["--device", "a:b:c:d", "i"],
            &["--ulimit", "x", "i"],
            &["--security-opt", "seccomp=/nonexistent", "i"],
            &["--env-file", "/nonexistent", "i"],
            &["--health-interval", "2", "i"],
        ] {
            assert!(create(bad).is_err(), "{bad:?}");
        }
    }
}
