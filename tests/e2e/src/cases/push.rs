//! Push, and the way of an image through Debian's registry and skopeo.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE};
use e2e::{
    check::{Outcome, until},
    ensure, fail, has, same,
};
use serde_json::json;

use super::pull::{content, pulled};
use crate::{cases::cases, context::Ctx, images::image, runner::Case};

pub fn list() -> Vec<Case> {
    cases!("push", Any; round_trip, mounted_and_existing, all_tags, missing, credentials, distribution)
        .to_vec()
}

/// Debian's registry on a free port.
struct Real {
    port: u16,
    child: Child,
    folder: std::path::PathBuf,
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// `user`: name and password that it wants.
fn real(ctx: &Ctx, name: &str, user: bool) -> Outcome<Real> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let folder = ctx.world.scratch.join(ctx.name(name));
    fs::create_dir_all(&folder)?;
    let auth = if user {
        // test:secret
        let line = "test:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
        fs::write(folder.join("htpasswd"), line)?;
        format!(
            "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            folder.join("htpasswd").display()
        )
    } else {
        String::new()
    };
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n{auth}",
        folder.join("data").display()
    );
    fs::write(folder.join("config.yml"), config)?;
    let child = Command::new("docker-registry")
        .arg("serve")
        .arg(folder.join("config.yml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let real = Real {
        port,
        child,
        folder,
    };
    until(20, "the registry answers", || {
        Ok(TcpStream::connect(("127.0.0.1", port)).ok().map(drop))
    })?;
    Ok(real)
}

/// Loads an image of two layers under a name.
fn loaded(ctx: &Ctx, name: &str) -> Outcome {
    let layers = [content(ctx, "a", 200_000)?, content(ctx, "b", 3000)?];
    let config = json!({"Cmd": ["sh"], "Labels": {"case": ctx.prefix}});
    super::images::load(ctx, &image(name, &config, &layers)?)?;
    Ok(())
}

fn digest(text: &str) -> Outcome<String> {
    match text
        .split("digest: ")
        .nth(1)
        .and_then(|t| t.split_whitespace().next())
    {
        Some(digest) => Ok(digest.to_owned()),
        None => fail!("no digest in {text}"),
    }
}

/// load, push, `skopeo copy`, pull: the same bytes all the way.
fn round_trip(ctx: &Ctx) -> Outcome {
    let registry = real(ctx, "r", false)?;
    let name = format!("127.0.0.1:{}/some/thing:v1", registry.port);
    let copy = format!("127.0.0.1:{}/other/thing:v1", registry.port);
    loaded(ctx, &name)?;
    let out = ctx.docker(&["push", &name])?.ok()?;
    has!(
        out.stdout,
        format!(
            "The push refers to repository [127.0.0.1:{}/some/thing]",
            registry.port
        )
    );
    has!(out.stdout, "Pushed");
    let pushed = digest(&out.stdout)?;
    if ctx.api(49) {
        let id = ctx.json(&format!("/images/{name}/json"))?["Id"].clone();
        same!(id, json!(pushed));
    }
    let mut skopeo = Command::new("skopeo");
    skopeo.args([
        "copy",
        "--quiet",
        "--preserve-digests",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
    ]);
    skopeo.args([format!("docker://{name}"), format!("docker://{copy}")]);
    ctx.command(skopeo, "")?.ok()?;
    let before = ctx.json(&format!("/images/{name}/json"))?;
    ctx.delete(&format!("/images/{name}"))?.expect(200)?;
    let said = pulled(ctx, &copy)?;
    has!(said.join("\n"), format!("Digest: {pushed}"));
    let after = ctx.json(&format!("/images/{copy}/json"))?;
    for field in ["Id", "RootFS", "Config", "Created"] {
        same!(after[field], before[field], "{field}");
    }
    ctx.delete(&format!("/images/{copy}"))?.expect(200)?;
    Ok(())
}

fn mounted_and_existing(ctx: &Ctx) -> Outcome {
    let registry = real(ctx, "r", false)?;
    let name = format!("127.0.0.1:{}/some/thing:v1", registry.port);
    let other = format!("127.0.0.1:{}/other:v1", registry.port);
    loaded(ctx, &name)?;
    ctx.docker(&["push", &name])?.ok()?;
    has!(
        ctx.docker(&["push", &name])?.ok()?.stdout,
        "Layer already exists"
    );
    ctx.docker(&["tag", &name, &other])?.ok()?;
    has!(
        ctx.docker(&["push", &other])?.ok()?.stdout,
        "Mounted from some/thing"
    );
    for name in [&name, &other] {
        ctx.delete(&format!("/images/{name}"))?.expect(200)?;
    }
    Ok(())
}

fn all_tags(ctx: &Ctx) -> Outcome {
    let registry = real(ctx, "r", false)?;
    let repository = format!("127.0.0.1:{}/x", registry.port);
    let names = [format!("{repository}:v1"), format!("{repository}:v2")];
    loaded(ctx, &names[0])?;
    ctx.docker(&["tag", &names[0], &names[1]])?.ok()?;
    let out = ctx.docker(&["push", "-a", &repository])?.ok()?;
    for tag in ["v1: digest: ", "v2: digest: "] {
        has!(out.stdout, tag);
    }
    for name in &names {
        ctx.delete(&format!("/images/{name}"))?.expect(200)?;
    }
    let out = ctx.docker(&["pull", "-a", &repository])?.ok()?;
    has!(out.stdout, "v1: Pulling from x");
    has!(out.stdout, "v2: Pulling from x");
    for name in &names {
        ctx.delete(&format!("/images/{name}"))?.expect(200)?;
    }
    Ok(())
}

fn missing(ctx: &Ctx) -> Outcome {
    let out = ctx.docker(&["push", "127.0.0.1:1/nothing:v1"])?;
    same!(out.code, 1);
    if ctx.api(49) {
        has!(out.stderr, "tag does not exist: 127.0.0.1:1/nothing:v1");
        let name = "127.0.0.1:1/refused:v1".to_owned();
        loaded(ctx, &name)?;
        let out = ctx.docker(&["push", &name])?;
        has!(
            out.stderr,
            "dial tcp 127.0.0.1:1: connect: connection refused"
        );
        ctx.delete(&format!("/images/{name}"))?.expect(200)?;
    }
    Ok(())
}

/// A registry with passwords: login, push, pull, and what those get who have none.
fn credentials(ctx: &Ctx) -> Outcome {
    let registry = real(ctx, "r", true)?;
    let server = format!("127.0.0.1:{}", registry.port);
    let name = format!("{server}/x:v1");
    let login =
        |password: &str| json!({"username": "test", "password": password, "serveraddress": server});
    let answer = ctx.post("/auth", &login("secret"))?.expect(200)?;
    same!(answer.json()?["Status"], "Login Succeeded");
    let status = ctx.post("/auth", &login("wrong"))?.status;
    ensure!(ctx.refused(status), "{status}");
    loaded(ctx, &name)?;
    let header = |password: &str| BASE64_URL_SAFE.encode(login(password).to_string());
    let push = |auth: &str| -> Outcome<String> {
        let path = format!("/images/{server}/x/push?tag=v1");
        let mut connection = ctx.connect()?;
        let answer = connection.call("POST", &path, &[("X-Registry-Auth", auth)], None)?;
        Ok(answer.expect(200)?.text())
    };
    has!(
        push(&BASE64_URL_SAFE.encode("{}"))?,
        "no basic auth credentials"
    );
    has!(push(&header("wrong"))?, "errorDetail");
    has!(push(&header("secret"))?, "digest: sha256:");
    ctx.delete(&format!("/images/{name}"))?.expect(200)?;
    let pull = |auth: &str| -> Outcome<(u16, String)> {
        let path = format!("/images/create?fromImage={server}/x&tag=v1");
        let mut connection = ctx.connect()?;
        let answer = connection.call("POST", &path, &[("X-Registry-Auth", auth)], None)?;
        Ok((answer.status, answer.text()))
    };
    let (status, text) = pull("e30=")?;
    ensure!(status == 500, "{status} {text}");
    has!(text, "no basic auth credentials");
    let (status, text) = pull(&header("secret"))?;
    ensure!(
        status == 200 && text.contains("Status: Downloaded"),
        "{status} {text}"
    );
    ctx.delete(&format!("/images/{name}"))?.expect(200)?;
    Ok(())
}

fn distribution(ctx: &Ctx) -> Outcome {
    let registry = real(ctx, "r", false)?;
    let name = format!("127.0.0.1:{}/x:v1", registry.port);
    loaded(ctx, &name)?;
    let pushed = digest(&ctx.docker(&["push", &name])?.ok()?.stdout)?;
    let found = ctx.json(&format!("/distribution/{name}/json"))?;
    same!(found["Descriptor"]["digest"], json!(pushed));
    ensure!(
        found["Descriptor"]["size"].as_u64().unwrap_or(0) > 100,
        "{found}"
    );
    let missing = format!("/distribution/127.0.0.1:{}/x:v2/json", registry.port);
    ctx.get(&missing)?.expect(404)?;
    ctx.get("/distribution/UPPER/json")?.expect(400)?;
    ctx.delete(&format!("/images/{name}"))?.expect(200)?;
    Ok(())
}
