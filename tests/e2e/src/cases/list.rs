//! The list of containers, and inspect.

use e2e::{check::Outcome, ensure, has, http::escape, same};
use serde_json::{Value, json};

use crate::{cases::cases, context::Ctx, runner::Case};

pub fn list() -> Vec<Case> {
    [
        cases!("list", Any;
            all_or_running, fields, filter_status, filter_name_is_a_pattern, filter_id, filter_label, filter_ancestor, filter_exited,
            filter_volume, filter_network, filter_publish_and_expose, filter_before_and_since, filters_combined, filters_of_old_clients,
            bad_filters, limit, size, cli_table, status_texts, command_text, ports_shown,
        )
        .to_vec(),
        cases!("inspect", Any;
            mirror, mirror_of_many_fields, fed_back_to_create, size_when_asked, hostname_is_short_id, network_settings, state_of_running,
            paths_named_by_id, mounts_shown, image_id_is_the_same_everywhere, version_hides_fields, cli_format,
        )
        .to_vec(),
    ]
    .concat()
}

/// Short names (without the case's prefix) that a filter finds, sorted.
fn found(ctx: &Ctx, filters: &Value) -> Outcome<Vec<String>> {
    let mut full = filters.clone();
    if full.get("label").is_none() {
        full["label"] = json!([format!("e2e={}", ctx.prefix)]);
    }
    let list = ctx.json(&format!(
        "/containers/json?all=1&filters={}",
        escape(&full.to_string())
    ))?;
    let own = format!("/{}.", ctx.prefix);
    let mut names: Vec<String> = list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|c| Some(c["Names"][0].as_str()?.strip_prefix(&own)?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

fn all_or_running(ctx: &Ctx) -> Outcome {
    ctx.create("made", &json!({}))?;
    ctx.sleeper("up")?;
    same!(found(ctx, &json!({}))?, ["made", "up"]);
    let filter = escape(&json!({"label": [format!("e2e={}", ctx.prefix)]}).to_string());
    let list = ctx.json(&format!("/containers/json?filters={filter}"))?;
    same!(list.as_array().map(Vec::len), Some(1));
    same!(list[0]["State"], "running");
    Ok(())
}

fn one(ctx: &Ctx, id: &str, query: &str) -> Outcome<Value> {
    let filter = escape(&json!({"id": [id]}).to_string());
    let list = ctx.json(&format!("/containers/json?all=1&filters={filter}{query}"))?;
    same!(list.as_array().map(Vec::len), Some(1));
    Ok(list[0].clone())
}

fn fields(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["sleep", "600"], "Labels": {"a": "b"}}))?;
    let row = one(ctx, &id, "")?;
    same!(row["Id"], id.as_str());
    same!(row["Names"], json!([format!("/{}", ctx.name("c"))]));
    same!(row["Image"], "busybox");
    same!(row["Command"], "sleep 600");
    same!(row["State"], "running");
    has!(row["Status"].as_str().unwrap_or_default(), "Up ");
    same!(row["Labels"]["a"], "b");
    ensure!(
        row["Created"].as_i64().unwrap_or_default() > 1_600_000_000,
        "Created {}",
        row["Created"]
    );
    same!(
        row["HostConfig"]["NetworkMode"],
        if ctx.api(44) { "bridge" } else { "default" }
    );
    has!(
        row["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
            .as_str()
            .unwrap_or_default(),
        "."
    );
    has!(
        row["NetworkSettings"]["Networks"]["bridge"]["Gateway"]
            .as_str()
            .unwrap_or_default(),
        "."
    );
    same!(row["Ports"], json!([]));
    same!(row["Mounts"], json!([]));
    same!(row["SizeRw"], Value::Null);
    Ok(())
}

fn filter_status(ctx: &Ctx) -> Outcome {
    ctx.create("made", &json!({}))?;
    ctx.sleeper("up")?;
    let id = ctx.launch("done", &json!({"Cmd": ["true"]}))?;
    ctx.wait(&id)?;
    same!(found(ctx, &json!({"status": ["created"]}))?, ["made"]);
    same!(found(ctx, &json!({"status": ["running"]}))?, ["up"]);
    same!(found(ctx, &json!({"status": ["exited"]}))?, ["done"]);
    same!(
        found(ctx, &json!({"status": ["exited", "created"]}))?,
        ["done", "made"]
    );
    same!(
        found(ctx, &json!({"status": ["paused"]}))?,
        Vec::<String>::new()
    );
    Ok(())
}

fn filter_name_is_a_pattern(ctx: &Ctx) -> Outcome {
    ctx.create("one", &json!({}))?;
    ctx.create("one2", &json!({}))?;
    let (one, both) = (ctx.name("one"), ["one".to_owned(), "one2".to_owned()]);
    same!(found(ctx, &json!({"name": [one]}))?, both);
    same!(found(ctx, &json!({"name": [format!("^{one}$")]}))?, ["one"]);
    same!(
        found(ctx, &json!({"name": [format!("^/{one}$")]}))?,
        ["one"]
    );
    same!(found(ctx, &json!({"name": [format!("/{one}")]}))?, both);
    same!(found(ctx, &json!({"name": ["absent", one]}))?, both);
    Ok(())
}

fn filter_id(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({}))?;
    ctx.create("d", &json!({}))?;
    same!(found(ctx, &json!({"id": [id]}))?, ["c"]);
    same!(found(ctx, &json!({"id": [id[..12]]}))?, ["c"]);
    Ok(())
}

fn filter_label(ctx: &Ctx) -> Outcome {
    let mine = format!("e2e={}", ctx.prefix);
    ctx.create("c", &json!({"Labels": {"k": "1", "z": ""}}))?;
    ctx.create("d", &json!({"Labels": {"k": "2"}}))?;
    for (labels, wanted) in [
        (json!([mine, "k"]), vec!["c", "d"]),
        (json!([mine, "k=1"]), vec!["c"]),
        (json!([mine, "k", "z"]), vec!["c"]),
        (json!([mine, "k=1", "k=2"]), vec![]),
        (json!([mine, "z="]), vec!["c"]),
    ] {
        same!(
            found(ctx, &json!({"label": labels}))?,
            wanted,
            "labels {labels}"
        );
    }
    Ok(())
}

fn filter_ancestor(ctx: &Ctx) -> Outcome {
    ctx.create("c", &json!({}))?;
    ctx.create("h", &json!({"Image": "hello-world"}))?;
    let id = ctx.json("/images/busybox/json")?["Id"].clone();
    for image in [json!("busybox"), json!("busybox:latest"), id.clone()] {
        same!(
            found(ctx, &json!({"ancestor": [image]}))?,
            ["c"],
            "ancestor {image}"
        );
    }
    same!(
        found(ctx, &json!({"ancestor": ["busybox", "hello-world"]}))?,
        ["c", "h"]
    );
    Ok(())
}

fn filter_exited(ctx: &Ctx) -> Outcome {
    for code in [0, 3] {
        let id = ctx.launch(
            &format!("c{code}"),
            &json!({"Cmd": ["sh", "-c", format!("exit {code}")]}),
        )?;
        ctx.wait(&id)?;
    }
    same!(found(ctx, &json!({"exited": ["3"]}))?, ["c3"]);
    same!(found(ctx, &json!({"exited": ["0", "3"]}))?, ["c0", "c3"]);
    let bad = ctx.get(&format!(
        "/containers/json?filters={}",
        escape(r#"{"exited":["x"]}"#)
    ))?;
    ensure!(bad.status >= 400, "exited=x: {}", bad.status);
    Ok(())
}

fn filter_volume(ctx: &Ctx) -> Outcome {
    let volume = ctx.name("v");
    ctx.create(
        "c",
        &json!({"HostConfig": {"Binds": [format!("{volume}:/data"), "/tmp:/hosttmp"]}}),
    )?;
    ctx.create("d", &json!({}))?;
    for filter in [volume.as_str(), "/data", "/hosttmp", "/tmp"] {
        same!(
            found(ctx, &json!({"volume": [filter]}))?,
            ["c"],
            "volume {filter}"
        );
    }
    Ok(())
}

fn filter_network(ctx: &Ctx) -> Outcome {
    ctx.launch("b", &json!({"Cmd": ["sleep", "600"]}))?;
    ctx.launch(
        "n",
        &json!({"Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": "none"}}),
    )?;
    same!(found(ctx, &json!({"network": ["bridge"]}))?, ["b"]);
    same!(found(ctx, &json!({"network": ["none"]}))?, ["n"]);
    let id = ctx.json("/networks/bridge")?["Id"].clone();
    same!(found(ctx, &json!({"network": [id]}))?, ["b"]);
    Ok(())
}

fn filter_publish_and_expose(ctx: &Ctx) -> Outcome {
    let body = json!({"Cmd": ["sleep", "600"], "ExposedPorts": {"81/tcp": {}, "18482/udp": {}}, "HostConfig": {"PortBindings": {"18482/udp": [{"HostPort": "18482"}]}}});
    ctx.launch("c", &body)?;
    same!(found(ctx, &json!({"expose": ["81/tcp"]}))?, ["c"]);
    same!(found(ctx, &json!({"expose": ["81"]}))?, ["c"]);
    same!(found(ctx, &json!({"expose": ["80-85/tcp"]}))?, ["c"]);
    same!(found(ctx, &json!({"publish": ["18482/udp"]}))?, ["c"]);
    same!(
        found(ctx, &json!({"publish": ["81"]}))?,
        Vec::<String>::new()
    );
    Ok(())
}

fn filter_before_and_since(ctx: &Ctx) -> Outcome {
    for name in ["a", "b", "c"] {
        ctx.create(name, &json!({}))?;
    }
    same!(found(ctx, &json!({"before": [ctx.name("b")]}))?, ["a"]);
    same!(found(ctx, &json!({"since": [ctx.name("b")]}))?, ["c"]);
    let bad = ctx.get(&format!(
        "/containers/json?filters={}",
        escape(r#"{"before":["absent"]}"#)
    ))?;
    same!(bad.status, if ctx.api(44) { 404 } else { 500 });
    Ok(())
}

fn filters_combined(ctx: &Ctx) -> Outcome {
    ctx.sleeper("up")?;
    ctx.create("made", &json!({}))?;
    same!(
        found(
            ctx,
            &json!({"name": [ctx.name("")], "status": ["running"], "ancestor": ["busybox"]})
        )?,
        ["up"]
    );
    same!(
        found(
            ctx,
            &json!({"name": [ctx.name("made")], "status": ["running"]})
        )?,
        Vec::<String>::new()
    );
    Ok(())
}

fn filters_of_old_clients(ctx: &Ctx) -> Outcome {
    ctx.create("c", &json!({}))?;
    let filter = escape(&json!({"label": {format!("e2e={}", ctx.prefix): true}}).to_string());
    same!(
        ctx.json(&format!("/containers/json?all=1&filters={filter}"))?
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    Ok(())
}

fn bad_filters(ctx: &Ctx) -> Outcome {
    for filters in [
        "notjson",
        "[]",
        "{\"name\":3}",
        "{\"bogus\":[\"x\"]}",
        "{\"status\":[\"flying\"]}",
        "{\"is-task\":[\"maybe\"]}",
    ] {
        let answer = ctx.get(&format!("/containers/json?filters={}", escape(filters)))?;
        ensure!(
            answer.status == 400 || (answer.status == 500 && !ctx.api(44)),
            "{filters}: {} {}",
            answer.status,
            answer.text()
        );
        ensure!(!answer.message().is_empty(), "{filters}: no message");
    }
    Ok(())
}

fn limit(ctx: &Ctx) -> Outcome {
    for name in ["a", "b", "c"] {
        ctx.create(name, &json!({}))?;
    }
    let filter = escape(&json!({"label": [format!("e2e={}", ctx.prefix)]}).to_string());
    let list = ctx.json(&format!("/containers/json?limit=2&filters={filter}"))?;
    let names: Vec<&Value> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|c| &c["Names"][0])
        .collect();
    same!(
        names,
        [
            &json!(format!("/{}", ctx.name("c"))),
            &json!(format!("/{}", ctx.name("b")))
        ],
        "newest first, also those that do not run"
    );
    let bad = ctx.get("/containers/json?limit=x")?.status;
    ensure!(ctx.refused(bad), "limit=x: {bad}");
    Ok(())
}

fn size(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "head -c 5000 /dev/zero > /f; sleep 600"]}),
    )?;
    e2e::check::until(10, "the file", || {
        Ok((ctx.exec_sh(&id, "wc -c < /f")?.line() == "5000").then_some(()))
    })?;
    let row = one(ctx, &id, "&size=1")?;
    let (rw, root) = (
        row["SizeRw"].as_i64().unwrap_or_default(),
        row["SizeRootFs"].as_i64().unwrap_or_default(),
    );
    ensure!((5000..100_000).contains(&rw), "SizeRw {rw}");
    ensure!(root > 1_000_000, "SizeRootFs {root}");
    Ok(())
}

fn cli_table(ctx: &Ctx) -> Outcome {
    ctx.sleeper("c")?;
    let out = ctx
        .docker(&["ps", "--filter", &format!("name={}", ctx.name("c"))])?
        .ok()?;
    has!(out.stdout, "CONTAINER ID");
    has!(out.stdout, "\"sleep 600\"");
    has!(out.stdout, "Up ");
    Ok(())
}

fn status_texts(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["sh", "-c", "exit 3"]}))?;
    same!(one(ctx, &id, "")?["Status"], "Created");
    ctx.start(&id)?;
    ctx.wait(&id)?;
    let status = one(ctx, &id, "")?["Status"].clone();
    ensure!(
        status
            .as_str()
            .is_some_and(|s| s.starts_with("Exited (3) ") && s.ends_with(" ago")),
        "{status}"
    );
    Ok(())
}

fn command_text(ctx: &Ctx) -> Outcome {
    let id = ctx.create(
        "c",
        &json!({"Cmd": ["sh", "-c", "echo a b"], "Entrypoint": ["env"]}),
    )?;
    let command = one(ctx, &id, "")?["Command"].clone();
    ensure!(
        command == "env sh -c 'echo a b'" || command == "env sh -c echo a b",
        "{command}"
    );
    Ok(())
}

fn ports_shown(ctx: &Ctx) -> Outcome {
    let body = json!({"Cmd": ["sleep", "600"], "ExposedPorts": {"90/tcp": {}, "91/tcp": {}}, "HostConfig": {"PortBindings": {"91/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}}});
    let id = ctx.launch("c", &body)?;
    let row = one(ctx, &id, "")?;
    let ports: Vec<&Value> = row["Ports"].as_array().into_iter().flatten().collect();
    same!(ports.len(), 2, "{ports:?}");
    let exposed = ports
        .iter()
        .find(|p| p["PrivatePort"] == 90)
        .ok_or_else(|| e2e::check::Fail("no 90".into()))?;
    same!(exposed["PublicPort"], Value::Null);
    let published = ports
        .iter()
        .find(|p| p["PrivatePort"] == 91)
        .ok_or_else(|| e2e::check::Fail("no 91".into()))?;
    same!(
        (&published["IP"], &published["Type"]),
        (&json!("127.0.0.1"), &json!("tcp"))
    );
    ensure!(
        published["PublicPort"].as_u64().unwrap_or_default() > 1024,
        "{published}"
    );
    Ok(())
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
    let mounts = ctx
        .exec_sh(&id, "cat /proc/self/mountinfo; cat /proc/self/cgroup")?
        .stdout;
    has!(mounts, format!("/{id}/hostname"));
    has!(mounts, format!("/docker/{id}"));
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
    same!(one(ctx, &id, "")?["ImageID"], of_image);
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
