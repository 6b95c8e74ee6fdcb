//! What Terraform's docker provider sends, call by call: create, refresh without a difference, update, destroy.
//!
//! The order of the calls, the fields that are compared with the plan and the texts that are matched are those of the
//! provider's sources; a real `terraform` needs the provider from a registry.

use e2e::{
    check::{Outcome, until},
    ensure, has, same,
};
use serde_json::{Value, json};

use crate::{
    cases::cases,
    context::{Ctx, merge},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    cases!("terraform", Any; provider, container, container_full, networks_advanced, image, network, volume, removal_is_over_at_once).to_vec()
}

/// Each client begins so.
fn provider(ctx: &Ctx) -> Outcome {
    let ping = ctx.call("HEAD", "/_ping", None)?.expect(200)?;
    let version = ping.headers.get("Api-Version").to_owned();
    // Feature gates of the provider compare versions as text.
    for gate in ["1.37", "1.40", "1.41"] {
        ensure!(version.as_str() >= gate, "{version} sorts before {gate}");
    }
    same!(ctx.json("/version")?["ApiVersion"], version.as_str());
    Ok(())
}

/// The body of `docker_container` with nothing but name and image.
fn minimal(over: &Value) -> Value {
    let mut body = json!({
        "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false, "AttachStderr": false,
        "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": null, "Cmd": ["sleep", "600"], "Image": "busybox",
        "Volumes": null, "WorkingDir": "", "Entrypoint": null, "OnBuild": null, "Labels": {},
        "HostConfig": {
            "Binds": null, "ContainerIDFile": "", "LogConfig": {"Type": "", "Config": null}, "NetworkMode": "bridge",
            "PortBindings": null, "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "AutoRemove": false,
            "VolumeDriver": "", "VolumesFrom": null, "CapAdd": null, "CapDrop": null, "Dns": null, "DnsOptions": null,
            "DnsSearch": null, "ExtraHosts": null, "GroupAdd": null, "IpcMode": "", "Cgroup": "", "Links": null,
            "OomScoreAdj": 0, "PidMode": "", "Privileged": false, "PublishAllPorts": false, "ReadonlyRootfs": false,
            "SecurityOpt": null, "UTSMode": "", "UsernsMode": "", "ShmSize": 67_108_864, "ConsoleSize": [0, 0],
            "Isolation": "", "CpuShares": 0, "Memory": 0, "NanoCpus": 0, "CgroupParent": "", "BlkioWeight": 0,
            "CpusetCpus": "", "CpusetMems": "", "Devices": null, "DeviceCgroupRules": null, "MemoryReservation": 0,
            "MemorySwap": 0, "Ulimits": null, "Init": false, "MaskedPaths": null, "ReadonlyPaths": null,
        },
        "NetworkingConfig": {},
    });
    merge(&mut body, over);
    body
}

fn create(ctx: &Ctx, suffix: &str, over: &Value) -> Outcome<String> {
    let path = format!("/containers/create?name={}", ctx.name(suffix));
    let made = ctx.post(&path, &minimal(over))?.expect(201)?.json()?;
    Ok(made["Id"].as_str().unwrap_or_default().to_owned())
}

/// How the provider reads: the whole list, its id in there, then inspect.
fn refresh(ctx: &Ctx, id: &str) -> Outcome<Value> {
    let all = ctx.json("/containers/json?all=1")?;
    let known = |one: &Value| one["Id"] == id;
    ensure!(
        all.as_array().is_some_and(|a| a.iter().any(known)),
        "{id} is not in the list"
    );
    ctx.inspect(id)
}

/// What the provider does to remove a container.
fn destroy(ctx: &Ctx, id: &str) -> Outcome {
    let stopped = ctx.act(&format!("/containers/{id}/stop?t=0"))?.status;
    ensure!(matches!(stopped, 204 | 304), "stop answered {stopped}");
    ctx.delete(&format!("/containers/{id}?force=1&v=1"))?
        .expect(204)?;
    let gone = ctx
        .act(&format!("/containers/{id}/wait?condition=removed"))?
        .expect(404)?;
    has!(gone.message(), "No such container");
    Ok(())
}

fn container(ctx: &Ctx) -> Outcome {
    let id = create(ctx, "c", &json!({}))?;
    ctx.start(&id)?;
    let got = refresh(ctx, &id)?;
    let (config, host) = (&got["Config"], &got["HostConfig"]);
    same!(got["Name"], format!("/{}", ctx.name("c")));
    same!(config["Image"], "busybox");
    same!(host["NetworkMode"], "bridge");
    same!(
        host["RestartPolicy"],
        json!({"Name": "no", "MaximumRetryCount": 0})
    );
    // Whatever the daemon's own settings are, none of them may show here: the plan says "empty".
    for field in [
        "Dns",
        "DnsOptions",
        "DnsSearch",
        "GroupAdd",
        "ExtraHosts",
        "CapAdd",
        "CapDrop",
        "Sysctls",
        "StorageOpt",
        "Ulimits",
        "Mounts",
        "Tmpfs",
        "Binds",
    ] {
        let value = &host[field];
        let empty = value.is_null()
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty);
        ensure!(empty, "{field}: {value}");
    }
    for field in ["UsernsMode", "PidMode", "CgroupParent"] {
        same!(host[field], "", "{field}");
    }
    same!(config["Domainname"], "");
    for (field, want) in [
        ("ReadonlyRootfs", false),
        ("Privileged", false),
        ("PublishAllPorts", false),
        ("AutoRemove", false),
        ("Init", false),
    ] {
        same!(host[field], want, "{field}");
    }
    same!(config["Tty"], false);
    same!(config["OpenStdin"], false);
    same!(host["ShmSize"], 67_108_864);
    let address = &got["NetworkSettings"]["Networks"]["bridge"];
    ensure!(
        address["IPAddress"].as_str().is_some_and(|a| !a.is_empty()),
        "no address: {address}"
    );
    same!(got["State"]["Running"], true);
    destroy(ctx, &id)
}

fn container_full(ctx: &Ctx) -> Outcome {
    let volume = ctx.name("v");
    ctx.post("/volumes/create", &json!({"Name": volume}))?
        .expect(201)?;
    let mounts = json!([
        {"Type": "volume", "Source": volume, "Target": "/data", "ReadOnly": false},
        {"Type": "tmpfs", "Target": "/scratch", "TmpfsOptions": {"SizeBytes": 1_048_576, "Mode": 448}},
    ]);
    let over = json!({
        "Env": ["A=1"], "User": "1000:1000", "WorkingDir": "/tmp", "Labels": {"a": "b"},
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 200_000_000, "Timeout": 3_000_000_000_u64, "Retries": 2, "StartPeriod": 0},
        "HostConfig": {
            "Mounts": mounts, "Memory": 64 << 20, "MemorySwap": 128 << 20, "ShmSize": 32 << 20, "NanoCpus": 1_500_000_000,
            "CapAdd": ["NET_ADMIN"], "CapDrop": ["MKNOD"], "Dns": ["192.0.2.1"], "DnsSearch": ["example.org"],
            "ExtraHosts": ["one:192.0.2.7"], "GroupAdd": ["20"], "Init": true, "Sysctls": {"net.ipv4.ip_unprivileged_port_start": "0"},
            "Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": 2048}], "ReadonlyRootfs": true,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
            "PortBindings": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": ""}], "53/udp": [{"HostIp": "0.0.0.0", "HostPort": ""}]},
        },
    });
    let id = create(ctx, "c", &over)?;
    ctx.start(&id)?;
    let got = refresh(ctx, &id)?;
    let host = &got["HostConfig"];
    let sent = &over["HostConfig"];
    for field in [
        "Mounts",
        "Memory",
        "MemorySwap",
        "ShmSize",
        "NanoCpus",
        "Dns",
        "DnsSearch",
        "ExtraHosts",
        "GroupAdd",
        "Init",
        "Sysctls",
        "Ulimits",
        "ReadonlyRootfs",
        "LogConfig",
        "RestartPolicy",
    ] {
        let (mut is, mut was) = (host[field].clone(), sent[field].clone());
        // A field of the present API that this request has not, and one that dockerd leaves out when it is false.
        for value in [&mut is, &mut was] {
            for mount in value.as_array_mut().into_iter().flatten() {
                if let Some(mount) = mount.as_object_mut() {
                    mount.remove("ReadOnly");
                }
            }
        }
        same!(is, was, "{field}");
    }
    for (field, name) in [("CapAdd", "NET_ADMIN"), ("CapDrop", "MKNOD")] {
        // With or without CAP_, as versions differ; the provider takes both.
        let kept = host[field][0].as_str().unwrap_or_default();
        same!(kept.trim_start_matches("CAP_"), name, "{field}");
    }
    same!(got["Config"]["User"], "1000:1000");
    same!(got["Config"]["WorkingDir"], "/tmp");
    same!(got["Config"]["Healthcheck"]["Interval"], 200_000_000);
    // One binding for each one asked for: the twin of IPv6 would force a replacement.
    for key in ["80/tcp", "53/udp"] {
        let bindings = &got["NetworkSettings"]["Ports"][key];
        same!(bindings.as_array().map(Vec::len), Some(1), "{key}");
        same!(bindings[0]["HostIp"], "0.0.0.0", "{key}");
    }
    // `wait = true` of the resource
    until(10, "health", || {
        Ok((ctx.inspect(&id)?["State"]["Health"]["Status"] == "healthy").then_some(()))
    })?;
    // An update in place sends all of it each time; zeros change nothing.
    let update = json!({
        "CpuShares": 512, "Memory": 96 << 20, "MemorySwap": 192 << 20, "CpusetCpus": "", "NanoCpus": 0, "BlkioWeight": 0,
        "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0},
    });
    ctx.post(&format!("/containers/{id}/update"), &update)?
        .expect(200)?;
    let got = refresh(ctx, &id)?;
    let host = &got["HostConfig"];
    same!(host["CpuShares"], 512);
    same!(host["Memory"], 96 << 20);
    same!(host["RestartPolicy"]["Name"], "unless-stopped");
    same!(host["NanoCpus"], 1_500_000_000);
    same!(host["Mounts"], mounts_as_kept(&got, &mounts));
    destroy(ctx, &id)?;
    ctx.delete(&format!("/volumes/{volume}?force=1"))?
        .expect(204)
        .map(drop)
}

/// dockerd before 25 leaves `ReadOnly: false` out.
fn mounts_as_kept(got: &Value, sent: &Value) -> Value {
    if got["HostConfig"]["Mounts"][0].get("ReadOnly").is_some() {
        return sent.clone();
    }
    let mut sent = sent.clone();
    for mount in sent.as_array_mut().into_iter().flatten() {
        if let Some(mount) = mount.as_object_mut() {
            mount.remove("ReadOnly");
        }
    }
    sent
}

/// `networks_advanced` and `upload`: away from the bridge and to the network while the container is only created, then files
/// by absolute names whose folders are not there.
fn networks_advanced(ctx: &Ctx) -> Outcome {
    let network = ctx.name("n");
    let made = ctx
        .post(
            "/networks/create",
            &json!({"Name": network, "Driver": "bridge", "CheckDuplicate": true}),
        )?
        .expect(201)?
        .json()?;
    let net = made["Id"].as_str().unwrap_or_default();
    let id = create(ctx, "c", &json!({}))?;
    let leave = json!({"Container": id, "Force": false});
    ctx.post("/networks/bridge/disconnect", &leave)?
        .expect(200)?;
    let again = ctx.post("/networks/bridge/disconnect", &leave)?;
    has!(again.message(), "is not connected to the network bridge");
    let join = json!({"Container": id, "EndpointConfig": {"Aliases": ["web"], "IPAMConfig": {}}});
    ctx.post(&format!("/networks/{net}/connect"), &join)?
        .expect(200)?;
    let mut archive = tar::Builder::new(Vec::new());
    let name = b"/opt/made/by/upload.txt";
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_mode(0o600);
    header.set_size(5);
    header.set_cksum();
    archive.append(&header, b"hello".as_slice())?;
    let headers = [("Content-Type", "application/x-tar")];
    ctx.connect()?
        .call(
            "PUT",
            &format!("/containers/{id}/archive?noOverwriteDirNonDir=true&path=%2F"),
            &headers,
            Some(&archive.into_inner()?),
        )?
        .expect(200)?;
    ctx.start(&id)?;
    same!(
        ctx.exec_sh(&id, "cat /opt/made/by/upload.txt")?.stdout,
        "hello"
    );
    let got = refresh(ctx, &id)?;
    let networks = &got["NetworkSettings"]["Networks"];
    same!(
        networks.as_object().map(|n| n.keys().cloned().collect()),
        Some(vec![network.clone()])
    );
    let alias = networks[&network]["Aliases"].as_array();
    ensure!(
        alias.is_some_and(|a| a.iter().any(|name| name == "web")),
        "{networks}"
    );
    let shown = ctx.json(&format!("/networks/{net}"))?;
    same!(shown["Containers"][&id]["Name"], ctx.name("c"));
    // The loop of the provider when it removes a network goes on while this text comes.
    let busy = ctx.delete(&format!("/networks/{net}"))?;
    ensure!(
        ctx.refused(busy.status),
        "removal of a used network: {}",
        busy.status
    );
    has!(busy.message(), "has active endpoints");
    destroy(ctx, &id)?;
    ctx.delete(&format!("/networks/{net}"))?.expect(204)?;
    ctx.get(&format!("/networks/{net}"))?.expect(404).map(drop)
}

fn image(ctx: &Ctx) -> Outcome {
    let tag = ctx.name("image");
    ctx.act(&format!("/images/busybox/tag?repo={tag}&tag=one"))?
        .expect(201)?;
    let inspected = ctx.json(&format!("/images/{tag}:one/json"))?;
    let id = inspected["Id"].as_str().unwrap_or_default();
    ensure!(
        id.len() >= 12,
        "{id} is cut to twelve digits by the provider"
    );
    let listed = ctx.json("/images/json")?;
    ensure!(
        listed
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["Id"] == id)),
        "inspect and list have different ids"
    );
    ctx.delete(&format!("/images/{tag}:one"))?.expect(200)?;
    ctx.get(&format!("/images/{tag}:one/json"))?
        .expect(404)
        .map(drop)
}

fn network(ctx: &Ctx) -> Outcome {
    let name = ctx.name("n");
    let options = json!({"com.docker.network.driver.mtu": "1400"});
    let pools = json!([{"Subnet": "10.213.7.0/24", "Gateway": "10.213.7.1", "IPRange": "10.213.7.128/25", "AuxiliaryAddresses": {"router": "10.213.7.2"}}]);
    let body = json!({
        "Name": name, "CheckDuplicate": true, "Driver": "bridge", "Internal": false, "Attachable": false, "EnableIPv6": false,
        "Options": options, "Labels": {"a": "b"}, "IPAM": {"Driver": "default", "Options": {}, "Config": pools},
    });
    let made = ctx.post("/networks/create", &body)?.expect(201)?.json()?;
    let id = made["Id"].as_str().unwrap_or_default();
    let got = ctx.json(&format!("/networks/{id}"))?;
    same!(got["Options"], options);
    same!(got["IPAM"]["Config"], pools);
    same!(got["IPAM"]["Driver"], "default");
    same!(got["Driver"], "bridge");
    same!(got["Scope"], "local");
    same!(got["Internal"], false);
    same!(got["Labels"], json!({"a": "b"}));
    ctx.delete(&format!("/networks/{id}"))?.expect(204)?;
    ctx.get(&format!("/networks/{id}"))?.expect(404)?;
    // With nothing asked for, nothing may be added that a second plan would want to replace.
    let made = ctx
        .post(
            "/networks/create",
            &json!({"Name": name, "Driver": "bridge"}),
        )?
        .expect(201)?
        .json()?;
    let id = made["Id"].as_str().unwrap_or_default();
    let first = ctx.json(&format!("/networks/{id}"))?;
    same!(first["Options"], json!({}));
    same!(ctx.json(&format!("/networks/{id}"))?, first);
    ctx.delete(&format!("/networks/{id}"))?
        .expect(204)
        .map(drop)
}

fn volume(ctx: &Ctx) -> Outcome {
    let name = ctx.name("v");
    let options = json!({"type": "tmpfs", "device": "tmpfs", "o": "size=1m"});
    let body =
        json!({"Name": name, "Driver": "local", "DriverOpts": options, "Labels": {"a": "b"}});
    ctx.post("/volumes/create", &body)?.expect(201)?;
    let got = ctx.json(&format!("/volumes/{name}"))?;
    same!(got["Options"], options);
    same!(got["Labels"], json!({"a": "b"}));
    ensure!(got.get("ClusterVolume").is_none(), "{got}");
    let user = create(
        ctx,
        "c",
        &json!({"HostConfig": {"Mounts": [{"Type": "volume", "Source": name, "Target": "/v"}]}}),
    )?;
    let busy = ctx
        .delete(&format!("/volumes/{name}?force=1"))?
        .expect(409)?;
    has!(busy.message(), "volume is in use");
    ctx.delete(&format!("/containers/{user}?force=1&v=1"))?
        .expect(204)?;
    ctx.delete(&format!("/volumes/{name}?force=1"))?
        .expect(204)?;
    ctx.get(&format!("/volumes/{name}"))?.expect(404).map(drop)
}

/// A removed name is free in the same moment, and nothing waits for what is gone.
fn removal_is_over_at_once(ctx: &Ctx) -> Outcome {
    for _ in 0..5 {
        let id = create(ctx, "again", &json!({}))?;
        ctx.start(&id)?;
        destroy(ctx, &id)?;
        let missing = ctx
            .act(&format!("/containers/{id}/stop?t=0"))?
            .expect(404)?;
        has!(missing.message(), "No such container");
    }
    Ok(())
}
