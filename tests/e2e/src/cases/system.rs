//! ping, version, info, disk usage, prune, and what a node outside a swarm answers.

use std::process::Command;

use e2e::{check::Outcome, ensure, has, same};
use serde_json::{Value, json};

use crate::{cases::cases, context::Ctx, runner::Case};

pub fn list() -> Vec<Case> {
    [
        cases!("system", Any;
            ping, version, info, cli_version_and_info, auth, no_swarm_manager, disk_usage, api_headers, error_shape, cli_against_newest, plain_curl,
        )
        .to_vec(),
        cases!("prune", Alone; containers, containers_filtered, volumes, images_dangling, cli_system_prune, list_while_things_change).to_vec(),
        cases!("docker_py", Alone; life_of_a_container, errors_are_its_classes, logs_and_exec, events_and_wait).to_vec(),
    ]
    .concat()
}

fn ping(ctx: &Ctx) -> Outcome {
    let newest = format!("{}.{}", ctx.world.api.0, ctx.world.api.1);
    for method in ["GET", "HEAD"] {
        let answer = ctx.call(method, "/_ping", None)?;
        same!(answer.status, 200);
        same!(answer.text(), if method == "GET" { "OK" } else { "" });
        same!(answer.headers.get("Api-Version"), newest);
        same!(answer.headers.get("Ostype"), "linux");
        same!(answer.headers.get("Docker-Experimental"), "false");
        has!(answer.headers.get("Cache-Control"), "no-cache");
        ensure!(!answer.headers.get("Server").is_empty(), "no Server header");
        has!(answer.headers.get("Content-Type"), "text/plain");
    }
    same!(ctx.get("/v1.41/_ping")?.text(), "OK");
    Ok(())
}

fn version(ctx: &Ctx) -> Outcome {
    let value = ctx.json("/version")?;
    for field in [
        "Version",
        "ApiVersion",
        "MinAPIVersion",
        "GitCommit",
        "GoVersion",
        "Os",
        "Arch",
        "KernelVersion",
        "BuildTime",
    ] {
        ensure!(value[field].is_string(), "{field} is {}", value[field]);
    }
    same!(
        (&value["Os"], &value["Arch"]),
        (&json!("linux"), &json!("amd64"))
    );
    has!(
        value["Components"][0]["Name"].as_str().unwrap_or_default(),
        "Engine"
    );
    // clients compare these as text
    ensure!(
        value["ApiVersion"].as_str().is_some_and(|v| v.len() == 4),
        "{}",
        value["ApiVersion"]
    );
    Ok(())
}

fn info(ctx: &Ctx) -> Outcome {
    ctx.sleeper("c")?;
    let value = ctx.json("/info")?;
    for field in [
        "ID",
        "Name",
        "Driver",
        "DockerRootDir",
        "OperatingSystem",
        "OSType",
        "Architecture",
        "ServerVersion",
        "KernelVersion",
        "CgroupDriver",
        "CgroupVersion",
        "LoggingDriver",
        "DefaultRuntime",
    ] {
        ensure!(
            value[field].as_str().is_some_and(|v| !v.is_empty()),
            "{field} is {}",
            value[field]
        );
    }
    ensure!(
        value["Containers"].as_i64() >= Some(1) && value["ContainersRunning"].as_i64() >= Some(1),
        "{}",
        value["ContainersRunning"]
    );
    ensure!(
        value["NCPU"].as_i64() >= Some(1) && value["MemTotal"].as_i64() > Some(1_000_000),
        "{} {}",
        value["NCPU"],
        value["MemTotal"]
    );
    same!(value["Swarm"]["LocalNodeState"], "inactive");
    has!(value["Plugins"]["Volume"].to_string(), "local");
    has!(value["Plugins"]["Network"].to_string(), "bridge");
    has!(value["SecurityOptions"].to_string(), "seccomp");
    Ok(())
}

fn cli_version_and_info(ctx: &Ctx) -> Outcome {
    let out = ctx
        .docker(&["version", "--format", "{{.Server.APIVersion}}"])?
        .ok()?;
    same!(
        out.line(),
        format!("{}.{}", ctx.world.api.0, ctx.world.api.1)
    );
    let out = ctx
        .docker(&["info", "--format", "{{.OSType}} {{.Runtimes}}"])?
        .ok()?;
    has!(out.stdout, "linux");
    Ok(())
}

fn auth(ctx: &Ctx) -> Outcome {
    let answer = ctx.post(
        "/auth",
        &json!({"username": "a", "password": "b", "serveraddress": "127.0.0.1:1"}),
    )?;
    ensure!(answer.status >= 400, "credentials for nobody were accepted");
    ensure!(!answer.message().is_empty(), "no message");
    Ok(())
}

fn no_swarm_manager(ctx: &Ctx) -> Outcome {
    for path in [
        "/swarm",
        "/nodes",
        "/services",
        "/tasks",
        "/secrets",
        "/configs",
    ] {
        let answer = ctx.get(path)?;
        same!(answer.status, 503, "{path}");
        has!(answer.message(), "This node is not a swarm manager");
    }
    let answer = ctx.act("/swarm/leave")?;
    same!(answer.status, 503);
    has!(answer.message(), "This node is not part of a swarm");
    Ok(())
}

fn disk_usage(ctx: &Ctx) -> Outcome {
    let volume = ctx.name("v");
    ctx.sh(
        "c",
        json!({"Binds": [format!("{volume}:/d")]}),
        "head -c 100000 /dev/zero > /d/f",
    )?
    .ok()?;
    let value = ctx.json("/v1.41/system/df")?;
    ensure!(
        value["LayersSize"].as_i64() > Some(500_000),
        "{}",
        value["LayersSize"]
    );
    ensure!(
        value["Images"].as_array().is_some_and(|l| !l.is_empty()),
        "no images"
    );
    ensure!(
        value["Containers"].is_array() || value["Containers"].is_null(),
        "{}",
        value["Containers"]
    );
    let mine = value["Volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|v| v["Name"] == volume.as_str())
        .cloned()
        .unwrap_or_default();
    ensure!(
        mine["UsageData"]["Size"].as_i64() >= Some(100_000),
        "{mine}"
    );
    same!(mine["UsageData"]["RefCount"], 0);
    ctx.docker(&["system", "df"])?.ok()?;
    Ok(())
}

fn api_headers(ctx: &Ctx) -> Outcome {
    for path in [
        "/version",
        "/containers/json",
        "/v1.41/images/json",
        "/containers/absent/json",
    ] {
        let answer = ctx.get(path)?;
        same!(
            answer.headers.get("Content-Type"),
            "application/json",
            "{path}"
        );
        same!(answer.headers.get("Ostype"), "linux", "{path}");
        same!(
            answer.headers.get("Api-Version"),
            format!("{}.{}", ctx.world.api.0, ctx.world.api.1),
            "{path}"
        );
    }
    Ok(())
}

fn error_shape(ctx: &Ctx) -> Outcome {
    let value = ctx.get("/containers/absent/json")?.json()?;
    same!(value, json!({"message": "No such container: absent"}));
    Ok(())
}

fn cli_against_newest(ctx: &Ctx) -> Outcome {
    // the CLI negotiates down or up; both ends of the range must work
    for version in ["1.41", "1.30"] {
        let mut command = Command::new("env");
        command.args([
            format!("DOCKER_API_VERSION={version}").as_str(),
            "docker",
            "ps",
            "-a",
        ]);
        ctx.command(command, "")?.ok()?;
    }
    Ok(())
}

fn plain_curl(ctx: &Ctx) -> Outcome {
    let mut command = Command::new("curl");
    command
        .args(["-s", "--unix-socket"])
        .arg(&ctx.world.socket)
        .arg("http://localhost/_ping");
    same!(ctx.command(command, "")?.ok()?.stdout, "OK");
    Ok(())
}

fn containers(ctx: &Ctx) -> Outcome {
    let up = ctx.sleeper("up")?;
    let done = ctx.launch(
        "done",
        &json!({"Cmd": ["sh", "-c", "head -c 3000 /dev/zero > /f"]}),
    )?;
    ctx.wait(&done)?;
    let made = ctx.create("made", &json!({}))?;
    let answer = ctx.act("/containers/prune")?.expect(200)?.json()?;
    let mut gone: Vec<&str> = answer["ContainersDeleted"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    gone.sort_unstable();
    let mut wanted = [done.as_str(), made.as_str()];
    wanted.sort_unstable();
    same!(gone, wanted);
    ensure!(
        answer["SpaceReclaimed"].as_i64() >= Some(3000),
        "{}",
        answer["SpaceReclaimed"]
    );
    same!(ctx.inspect(&up)?["State"]["Running"], true);
    let answer = ctx.act("/containers/prune")?.expect(200)?.json()?;
    same!(
        (&answer["ContainersDeleted"], &answer["SpaceReclaimed"]),
        (&Value::Null, &json!(0))
    );
    Ok(())
}

fn containers_filtered(ctx: &Ctx) -> Outcome {
    let kept = ctx.create("kept", &json!({"Labels": {"keep": "1"}}))?;
    let gone = ctx.create("gone", &json!({"Labels": {"drop": "1"}}))?;
    let prune = |filters: Value| {
        ctx.act(&format!(
            "/containers/prune?filters={}",
            e2e::http::escape(&filters.to_string())
        ))
    };
    same!(
        prune(json!({"until": ["1h"]}))?.expect(200)?.json()?["ContainersDeleted"],
        Value::Null
    );
    same!(
        prune(json!({"label": ["drop=1"]}))?.expect(200)?.json()?["ContainersDeleted"],
        json!([gone])
    );
    same!(
        prune(json!({"label!": ["keep"]}))?.expect(200)?.json()?["ContainersDeleted"],
        Value::Null
    );
    let bad = prune(json!({"bogus": ["x"]}))?;
    ensure!(ctx.refused(bad.status), "{}", bad.status);
    ctx.inspect(&kept)?;
    Ok(())
}

fn volumes(ctx: &Ctx) -> Outcome {
    let anonymous = ctx
        .post("/volumes/create", &json!({}))?
        .expect(201)?
        .json()?["Name"]
        .clone();
    ctx.post("/volumes/create", &json!({"Name": ctx.name("v")}))?
        .expect(201)?;
    ctx.create("c", &json!({"Volumes": {"/used": {}}}))?;
    let answer = ctx.act("/volumes/prune")?.expect(200)?.json()?;
    let gone = answer["VolumesDeleted"].to_string();
    has!(gone, anonymous.as_str().unwrap_or("-"));
    if ctx.api(42) {
        ensure!(
            !gone.contains(&ctx.name("v")),
            "a named volume went: {gone}"
        );
        let all = ctx
            .act(&format!(
                "/volumes/prune?filters={}",
                e2e::http::escape(r#"{"all":["true"]}"#)
            ))?
            .expect(200)?
            .json()?;
        has!(all["VolumesDeleted"].to_string(), ctx.name("v"));
    }
    Ok(())
}

fn images_dangling(ctx: &Ctx) -> Outcome {
    let tag = format!("{}:1", ctx.name("img"));
    let layer = crate::images::layer(&[crate::images::Entry::File("f", b"x", 0o644)])?;
    crate::cases::images::load(ctx, &crate::images::image(&tag, &json!({}), &[layer])?)?;
    let first = ctx.json(&format!("/images/{tag}/json"))?["Id"].clone();
    ctx.act(&format!(
        "/images/busybox/tag?repo={}&tag=1",
        ctx.name("img")
    ))?
    .expect(201)?;
    let answer = ctx.act("/images/prune")?.expect(200)?.json()?;
    has!(
        answer["ImagesDeleted"].to_string(),
        first.as_str().unwrap_or("-")
    );
    same!(ctx.get("/images/busybox/json")?.status, 200);
    Ok(())
}

fn cli_system_prune(ctx: &Ctx) -> Outcome {
    ctx.create("c", &json!({}))?;
    let out = ctx.docker(&["container", "prune", "-f"])?.ok()?;
    has!(out.stdout, "Deleted Containers:");
    has!(out.stdout, "Total reclaimed space: 0B");
    Ok(())
}

fn list_while_things_change(ctx: &Ctx) -> Outcome {
    std::thread::scope(|scope| {
        let churn = scope.spawn(|| -> Outcome {
            for n in 0..15 {
                ctx.run(
                    &format!("c{n}"),
                    &json!({"Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}),
                )?;
            }
            Ok(())
        });
        while !churn.is_finished() {
            for row in ctx
                .json("/containers/json?all=1&size=0")?
                .as_array()
                .into_iter()
                .flatten()
            {
                let status = ctx
                    .get(&format!(
                        "/containers/{}/json",
                        row["Id"].as_str().unwrap_or_default()
                    ))?
                    .status;
                ensure!(
                    matches!(status, 200 | 404),
                    "inspect of a listed container: {status}"
                );
            }
        }
        churn.join().unwrap_or(Ok(()))
    })
}

/// Runs a script with docker-py.
pub fn python(ctx: &Ctx, script: &str) -> Outcome<String> {
    let mut command = Command::new(crate::host::python());
    command.args([
        "-c",
        &format!(
            "import docker, os\nc = docker.from_env()\nP = {:?}\n{script}",
            ctx.name("py")
        ),
    ]);
    Ok(ctx.command(command, "")?.ok()?.stdout)
}

fn life_of_a_container(ctx: &Ctx) -> Outcome {
    let out = python(
        ctx,
        r#"
print(sorted(c.containers.run("busybox", ["sh", "-c", "echo out; echo err >&2"], remove=True, stderr=True).decode().split()))
x = c.containers.create("busybox", ["sleep", "600"], name=P, labels={"a": "b"}, ports={"80/tcp": None}, volumes={"/tmp": {"bind": "/t", "mode": "ro"}}, mem_limit="32m")
x.start(); x.reload(); print(x.status, x.name == P, x.labels["a"], x.attrs["HostConfig"]["Memory"])
print(x.top()["Processes"][0][-1])
x.rename(P + "2"); x.reload(); print(x.name == P + "2")
x.stop(timeout=0); x.reload(); print(x.status, x.wait()["StatusCode"])
print([y.id for y in c.containers.list(all=True, filters={"label": "a=b"})] == [x.id])
x.remove(); print(c.containers.list(all=True, filters={"label": "a=b"}))
"#,
    )?;
    same!(
        out,
        "['err', 'out']\nrunning True b 33554432\nsleep 600\nTrue\nexited 137\nTrue\n[]\n"
    );
    Ok(())
}

fn errors_are_its_classes(ctx: &Ctx) -> Outcome {
    let out = python(
        ctx,
        r#"
import docker.errors as e
def t(f):
    try: f(); print("no error")
    except Exception as x: print(type(x).__name__)
t(lambda: c.containers.get("absent"))
t(lambda: c.images.get("absent"))
t(lambda: c.containers.create("absentimage"))
t(lambda: c.containers.run("busybox", "false", remove=True))
t(lambda: c.containers.run("busybox", "nosuch", name=P, remove=True))
t(lambda: c.volumes.get("absent"))
"#,
    )?;
    same!(
        out,
        "NotFound\nImageNotFound\nImageNotFound\nContainerError\nAPIError\nNotFound\n"
    );
    Ok(())
}

fn logs_and_exec(ctx: &Ctx) -> Outcome {
    let out = python(
        ctx,
        r#"
x = c.containers.run("busybox", ["sh", "-c", "for i in 1 2 3; do echo $i; done; sleep 600"], name=P, detach=True)
import time
while x.logs().count(b"\n") < 3: time.sleep(.05)
print(x.logs(tail=1)); print([l for l in x.logs(stream=True, follow=False)])
print(x.exec_run(["sh", "-c", "echo hi; exit 3"])); print(x.exec_run("sh -c 'echo o; echo e >&2'", demux=True))
print(b"".join(x.exec_run(["seq", "3"], stream=True).output))
s = x.attach_socket(params={"stdin": 1, "stream": 1}); s.close()
x.kill(); print(x.wait()["StatusCode"]); x.remove()
"#,
    )?;
    same!(
        out,
        "b'3\\n'\n[b'1\\n', b'2\\n', b'3\\n']\nExecResult(exit_code=3, output=b'hi\\n')\nExecResult(exit_code=0, output=(b'o\\n', b'e\\n'))\nb'1\\n2\\n3\\n'\n137\n"
    );
    Ok(())
}

fn events_and_wait(ctx: &Ctx) -> Outcome {
    let out = python(
        ctx,
        r#"
import time, threading
s = c.events(decode=True, filters={"container": P})
x = c.containers.create("busybox", ["sh", "-c", "exit 4"], name=P)
x.start()
print([next(s)["Action"] for _ in range(3)]); s.close()
print(x.wait()["StatusCode"]); x.remove()
print(c.ping(), c.version()["Os"], c.info()["OSType"])
"#,
    )?;
    same!(out, "['create', 'start', 'die']\n4\nTrue linux linux\n");
    Ok(())
}
