//! What inspect gives: a mirror of what create was given, and the state.

use e2e::{check::Outcome, ensure, has, http::escape, same};
use serde_json::{Value, json};

use crate::{cases::cases, context::Ctx, runner::Case};

pub fn list() -> Vec<Case> {
    [
        cases!("inspect", Any;
            mirror, mirror_of_many_fields, fed_back_to_create, size_when_asked, hostname_is_short_id, network_settings, state_of_running,
            paths_named_by_id, mounts_shown, image_id_is_the_same_everywhere, version_hides_fields, cli_format,
        )
        .to_vec(),
    ]
    .concat()
}

fn mirror(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["sleep", "1"]}))?;
    let got = ctx.inspect(&id)?;
    let host = &got["HostConfig"];
    for (field, wanted) in [
        ("Dns", json!([])),
        ("DnsOptions", json!([])),
        ("DnsSearch", json!([])),
        ("ExtraHosts", Value::Null),
        ("GroupAdd", Value::Null),
        ("Privileged", json!(false)),
        ("ReadonlyRootfs", json!(false)),
        ("Memory", json!(0)),
        ("CapAdd", Value::Null),
        ("Binds", Value::Null),
        ("AutoRemove", json!(false)),
        ("Links", Value::Null),
        ("UTSMode", json!("")),
        ("PidMode", json!("")),
        ("UsernsMode", json!("")),
        ("ShmSize", json!(67_108_864)),
        ("OomScoreAdj", json!(0)),
        ("VolumesFrom", Value::Null),
    ] {
        ensure!(
            host[field] == wanted || (host[field].is_null() && wanted == json!([])),
            "HostConfig.{field}: {} instead of {wanted}",
            host[field]
        );
    }
    let restart = host["RestartPolicy"]["Name"].as_str().unwrap_or_default();
    ensure!(restart == "no" || !ctx.api(44), "RestartPolicy {restart:?}");
    same!(got["Config"]["Cmd"], json!(["sleep", "1"]));
    same!(got["Config"]["Entrypoint"], Value::Null);
    same!(got["Path"], "sleep");
    same!(got["Args"], json!(["1"]));
    Ok(())
}

fn rich(volume: &str) -> Value {
    json!({
        "Cmd": ["sleep", "600"], "Entrypoint": ["env"], "Hostname": "h", "Domainname": "d.example", "User": "nobody", "Env": ["A=1", "B="],
        "WorkingDir": "/tmp", "Labels": {"x": "y"}, "StopSignal": "SIGINT", "StopTimeout": 3, "Tty": true, "OpenStdin": true, "StdinOnce": true,
        "ExposedPorts": {"70/tcp": {}}, "Volumes": {"/anon": {}},
        "HostConfig": {
            "Binds": [format!("{volume}:/data:ro"), "/tmp:/host"], "Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 65536}}],
            "Memory": 67_108_864, "MemorySwap": 134_217_728, "NanoCpus": 500_000_000, "CpuShares": 512, "PidsLimit": 50,
            "CapAdd": ["NET_ADMIN"], "CapDrop": ["MKNOD"], "Dns": ["9.9.9.9"], "DnsOptions": ["ndots:2"], "DnsSearch": ["s.example"],
            "ExtraHosts": ["foo:1.2.3.4"], "GroupAdd": ["audio"], "ReadonlyRootfs": true, "SecurityOpt": ["no-new-privileges"],
            "ShmSize": 1_048_576, "Sysctls": {"net.ipv4.ip_forward": "1"}, "Tmpfs": {"/run": "size=1m"}, "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}],
            "OomScoreAdj": 100, "Init": true, "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "IpcMode": "private", "NetworkMode": "bridge",
            "PortBindings": {"70/tcp": [{"HostIp": "0.0.0.0", "HostPort": ""}]}, "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
            "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/mynull", "CgroupPermissions": "rwm"}],
        },
    })
}

fn mirror_of_many_fields(ctx: &Ctx) -> Outcome {
    let asked = rich(&ctx.name("v"));
    let id = ctx.create("c", &asked)?;
    let got = ctx.inspect(&id)?;
    for (key, value) in asked["HostConfig"].as_object().into_iter().flatten() {
        // the CLI and old daemons may put the prefix in
        let plain = got["HostConfig"][key].to_string().replace("\"CAP_", "\"");
        if key != "Mounts" {
            same!(plain, value.to_string(), "HostConfig.{key}");
        }
    }
    same!(got["HostConfig"]["Mounts"][0]["Target"], "/t");
    for (key, value) in asked.as_object().into_iter().flatten() {
        match key.as_str() {
            "HostConfig" | "Env" | "Labels" => {}
            _ => same!(got["Config"][key], *value, "Config.{key}"),
        }
    }
    same!(got["Config"]["Labels"]["x"], "y");
    has!(got["Config"]["Env"].to_string(), "\"A=1\",\"B=\"");
    Ok(())
}

fn fed_back_to_create(ctx: &Ctx) -> Outcome {
    let first = ctx.create("c", &rich(&ctx.name("v")))?;
    let got = ctx.inspect(&first)?;
    let mut again = got["Config"].clone();
    again["HostConfig"] = got["HostConfig"].clone();
    again["NetworkingConfig"] = json!({"EndpointsConfig": got["NetworkSettings"]["Networks"]});
    let second = ctx.create("d", &again)?;
    let twin = ctx.inspect(&second)?;
    same!(twin["HostConfig"], got["HostConfig"]);
    same!(twin["Config"], got["Config"]);
    ctx.start(&second)?;
    same!(ctx.inspect(&second)?["State"]["Running"], true);
    Ok(())
}

fn size_when_asked(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({}))?;
    same!(ctx.inspect(&id)?["SizeRw"], Value::Null);
    let sized = ctx.json(&format!("/containers/{id}/json?size=1"))?;
    ensure!(
        sized["SizeRootFs"].as_i64().unwrap_or_default() > 1_000_000,
        "{}",
        sized["SizeRootFs"]
    );
    ensure!(sized["SizeRw"].is_i64(), "{}", sized["SizeRw"]);
    Ok(())
}

fn hostname_is_short_id(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({}))?;
    same!(ctx.inspect(&id)?["Config"]["Hostname"], id[..12]);
    Ok(())
}

fn network_settings(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let settings = ctx.inspect(&id)?["NetworkSettings"].clone();
    let bridge = &settings["Networks"]["bridge"];
    for field in [
        "IPAddress",
        "Gateway",
        "MacAddress",
        "NetworkID",
        "EndpointID",
    ] {
        ensure!(
            !bridge[field].as_str().unwrap_or_default().is_empty(),
            "no {field}: {bridge}"
        );
    }
    ensure!(
        bridge["IPPrefixLen"].as_i64().unwrap_or_default() > 0,
        "{bridge}"
    );
    let shown = ctx
        .exec_sh(
            &id,
            "ip -4 -o addr show eth0; cat /sys/class/net/eth0/address; ip route",
        )?
        .stdout;
    has!(shown, bridge["IPAddress"].as_str().unwrap_or("-"));
    has!(shown, bridge["MacAddress"].as_str().unwrap_or("-"));
    has!(
        shown,
        format!(
            "default via {} dev eth0",
            bridge["Gateway"].as_str().unwrap_or("-")
        )
    );
    ctx.kill(&id)?;
    ctx.wait(&id)?;
    e2e::check::until(5, "address gone", || {
        Ok(
            (ctx.inspect(&id)?["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] == "")
                .then_some(()),
        )
    })
}

fn state_of_running(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let state = ctx.inspect(&id)?["State"].clone();
    same!(state["Status"], "running");
    same!(state["FinishedAt"], "0001-01-01T00:00:00Z");
    same!(state["ExitCode"], 0);
    same!(state["Error"], "");
    ensure!(state["Pid"].as_i64().unwrap_or_default() > 1, "{state}");
    Ok(())
}

fn paths_named_by_id(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let got = ctx.inspect(&id)?;
    for (field, name) in [
        ("HostnamePath", "hostname"),
        ("HostsPath", "hosts"),
        ("ResolvConfPath", "resolv.conf"),
    ] {
        let path = got[field].as_str().unwrap_or_default();
        ensure!(path.contains(&id) && path.ends_with(name), "{field} {path}");
        ensure!(std::path::Path::new(path).exists(), "{path} is not there");
    }
    let mounts = ctx.exec_sh(&id, "cat /proc/self/mountinfo")?.stdout;
    has!(mounts, format!("/{id}/hostname"));
    // from outside: with cgroup2 the container has a cgroup namespace of its own
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", got["State"]["Pid"]))?;
    has!(groups, format!("/docker/{id}"));
    Ok(())
}

fn mounts_shown(ctx: &Ctx) -> Outcome {
    let volume = ctx.name("v");
    let id = ctx.create("c", &json!({"Volumes": {"/anon": {}}, "HostConfig": {"Binds": [format!("{volume}:/data:ro"), "/usr:/host"]}}))?;
    let mounts = ctx.inspect(&id)?["Mounts"].clone();
    let at = |target: &str| {
        mounts
            .as_array()
            .into_iter()
            .flatten()
            .find(|m| m["Destination"] == target)
            .cloned()
            .unwrap_or_default()
    };
    let named = at("/data");
    same!(
        (
            &named["Type"],
            &named["Name"],
            &named["RW"],
            &named["Driver"]
        ),
        (
            &json!("volume"),
            &json!(volume),
            &json!(false),
            &json!("local")
        )
    );
    let bind = at("/host");
    same!(
        (
            &bind["Type"],
            &bind["Source"],
            &bind["RW"],
            &bind["Propagation"]
        ),
        (
            &json!("bind"),
            &json!("/usr"),
            &json!(true),
            &json!("rprivate")
        )
    );
    same!(at("/anon")["Name"].as_str().map(str::len), Some(64));
    Ok(())
}

fn image_id_is_the_same_everywhere(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({}))?;
    let of_image = ctx.json("/images/busybox/json")?["Id"].clone();
    same!(ctx.inspect(&id)?["Image"], of_image);
    let filter = escape(&json!({"id": [id]}).to_string());
    let row = ctx.json(&format!("/containers/json?all=1&filters={filter}"))?[0].clone();
    same!(row["ImageID"], of_image);
    let list = ctx.json("/images/json")?;
    ensure!(
        list.as_array()
            .into_iter()
            .flatten()
            .any(|i| i["Id"] == of_image),
        "{of_image} is not in the list"
    );
    Ok(())
}

fn version_hides_fields(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let old = ctx.json(&format!("/v1.41/containers/{id}/json"))?;
    same!(
        old["NetworkSettings"]["IPAddress"],
        old["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    );
    if ctx.api(52) {
        same!(
            ctx.inspect(&id)?["NetworkSettings"]["IPAddress"],
            Value::Null
        );
    }
    Ok(())
}

fn cli_format(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    same!(
        ctx.docker(&["inspect", "-f", "{{.State.Running}} {{.Config.Image}}", &id])?
            .ok()?
            .line(),
        "true busybox"
    );
    let out = ctx.docker(&["inspect", "absent-thing"])?;
    same!(out.code, 1);
    has!(out.stderr.to_lowercase(), "no such object: absent-thing");
    Ok(())
}
