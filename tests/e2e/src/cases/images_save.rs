//! Save, and load of what was saved: by us, by dockerd, by skopeo.

use std::{collections::BTreeMap, fs, io::Read, path::Path, process::Command};

use e2e::{
    check::Outcome,
    engine::{self, Engine, Kind, Setup},
    ensure, fail, has,
    http::escape,
    same,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{images::load, own::Own};
use crate::{
    cases::cases,
    context::Ctx,
    images::{Entry, image, layer},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    [
        cases!("save", Any; round_trip, one_name_all_tags, by_id_without_names, missing_names, several_images, platforms, while_removed, skopeo_reads)
            .as_slice(),
        cases!("save", Daemon; dockerd_loads_ours, we_load_dockerds)
            .as_slice(),
    ]
    .concat()
}

/// The files of an archive.
pub(super) fn files(archive: &[u8]) -> Outcome<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        files.insert(path, content);
    }
    Ok(files)
}

fn document(files: &BTreeMap<String, Vec<u8>>, name: &str) -> Outcome<Value> {
    match files.get(name) {
        Some(bytes) => Ok(serde_json::from_slice(bytes)?),
        None => fail!("no {name} in the archive: {:?}", files.keys()),
    }
}

/// Two small images with a layer that they share.
fn two(ctx: &Ctx) -> Outcome<[String; 2]> {
    let shared = layer(&[Entry::File("shared", ctx.prefix.as_bytes(), 0o644)])?;
    let mut tags = ["a", "b"].map(|t| format!("{}:{t}", ctx.name("img")));
    for tag in &mut tags {
        let own = layer(&[Entry::File("own", tag.as_bytes(), 0o600)])?;
        let config = json!({"Cmd": ["/own"], "Labels": {"tag": tag}});
        load(ctx, &image(tag, &config, &[shared.clone(), own])?)?;
    }
    Ok(tags)
}

fn save(ctx: &Ctx, names: &[&str]) -> Outcome<Vec<u8>> {
    let names: Vec<String> = names
        .iter()
        .map(|n| format!("names={}", escape(n)))
        .collect();
    let answer = ctx
        .get(&format!("/images/get?{}", names.join("&")))?
        .expect(200)?;
    same!(answer.headers.get("Content-Type"), "application/x-tar");
    Ok(answer.body)
}

fn id(ctx: &Ctx, name: &str) -> Outcome<String> {
    let found = ctx.json(&format!("/images/{name}/json"))?;
    Ok(found["Id"].as_str().unwrap_or_default().to_owned())
}

fn round_trip(ctx: &Ctx) -> Outcome {
    let [a, b] = two(ctx)?;
    let before = [id(ctx, &a)?, id(ctx, &b)?];
    let archive = save(ctx, &[&a, &b])?;
    let inside = files(&archive)?;
    let manifest = document(&inside, "manifest.json")?;
    same!(manifest.as_array().map(Vec::len), Some(2));
    for tag in [&a, &b] {
        ctx.delete(&format!("/images/{tag}"))?.expect(200)?;
    }
    let said = load(ctx, &archive)?;
    for tag in [&a, &b] {
        has!(said, format!("Loaded image: {tag}\\n"));
    }
    same!([id(ctx, &a)?, id(ctx, &b)?], before);
    // again, byte by byte
    let again = save(ctx, &[&a, &b])?;
    ensure!(files(&again)? == inside, "the second archive differs");
    if ctx.api(44) {
        for (name, content) in &inside {
            if let Some(hex) = name.strip_prefix("blobs/sha256/").filter(|h| !h.is_empty()) {
                let digest: String = Sha256::digest(content)
                    .iter()
                    .map(|b| format!("{b:02x}"))
                    .collect();
                same!(digest, hex);
            }
        }
        let index = document(&inside, "index.json")?;
        same!(index["manifests"][0]["digest"], before[0].as_str());
        same!(
            index["manifests"][0]["annotations"]["io.containerd.image.name"],
            format!("docker.io/library/{a}")
        );
        // the shared layer is there once
        same!(inside.keys().filter(|k| k.len() == 77).count(), 2 * 3 + 1);
    }
    Ok(())
}

fn one_name_all_tags(ctx: &Ctx) -> Outcome {
    two(ctx)?;
    let inside = files(&save(ctx, &[&ctx.name("img")])?)?;
    let tags = document(&inside, "manifest.json")?.to_string();
    for tag in ["a", "b"] {
        has!(tags, format!("{}:{tag}", ctx.name("img")));
    }
    Ok(())
}

fn by_id_without_names(ctx: &Ctx) -> Outcome {
    let [a, _] = two(ctx)?;
    let id = id(ctx, &a)?;
    for name in [id.as_str(), &id["sha256:".len()..][..12]] {
        let answer = ctx.get(&format!("/images/{name}/get"))?.expect(200)?;
        let manifest = document(&files(&answer.body)?, "manifest.json")?;
        same!(manifest[0]["RepoTags"], Value::Null, "{name}");
    }
    let archive = save(ctx, &[&id])?;
    ctx.delete(&format!("/images/{a}"))?.expect(200)?;
    let said = load(ctx, &archive)?;
    has!(said, format!("Loaded image ID: {id}"));
    ctx.delete(&format!("/images/{id}"))?.expect(200).map(drop)
}

fn missing_names(ctx: &Ctx) -> Outcome {
    for path in [
        "/images/get?names=busybox&names=absent",
        "/images/absent/get",
        "/images/absent:1/get",
    ] {
        let answer = ctx.get(path)?;
        if ctx.api(44) {
            same!(answer.status, 404, "{path}");
            has!(answer.message(), "No such image: absent:");
        } else {
            // the archive may have begun when the name was looked for
            has!(answer.text(), "reference does not exist");
        }
    }
    Ok(())
}

fn several_images(ctx: &Ctx) -> Outcome {
    let folder = ctx.world.scratch.join(&ctx.prefix);
    fs::create_dir_all(&folder)?;
    let archive = folder.join("s.tar");
    let path = archive.display().to_string();
    let [a, b] = two(ctx)?;
    ctx.docker(&["save", "-o", &path, &a, "busybox:latest", &b])?
        .ok()?;
    ctx.docker(&["rmi", &a, &b])?.ok()?;
    let out = ctx.docker(&["load", "-q", "-i", &path])?.ok()?.stdout;
    for tag in [a.as_str(), "busybox:latest", &b] {
        has!(out, format!("Loaded image: {tag}"));
    }
    Ok(fs::remove_dir_all(folder)?)
}

/// An index of two platforms; both have this machine's programs, so that either could run.
fn multi(ctx: &Ctx) -> Outcome<(String, Vec<u8>)> {
    let tag = format!("{}:1", ctx.name("multi"));
    let mut blobs = BTreeMap::new();
    let mut put = |bytes: Vec<u8>| {
        let hex: String = Sha256::digest(&bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let size = bytes.len();
        blobs.insert(format!("blobs/sha256/{hex}"), bytes);
        (format!("sha256:{hex}"), size)
    };
    let mut manifests = Vec::new();
    for architecture in ["arm64", "amd64"] {
        let tar = layer(&[Entry::File(architecture, ctx.prefix.as_bytes(), 0o644)])?;
        let (layer, layer_size) = put(tar);
        let config = json!({"architecture": architecture, "os": "linux", "config": {"Cmd": ["x"]},
            "rootfs": {"type": "layers", "diff_ids": [layer]}});
        let (config, config_size) = put(config.to_string().into_bytes());
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": layer_size}]});
        let (digest, size) = put(manifest.to_string().into_bytes());
        manifests.push(
            json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
            "platform": {"architecture": architecture, "os": "linux"}}),
        );
    }
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests});
    let (digest, size) = put(index.to_string().into_bytes());
    let top = json!({"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": digest, "size": size, "annotations": {"io.containerd.image.name": format!("docker.io/library/{tag}")}}]})
    .to_string();
    let mut entries: Vec<Entry> = blobs
        .iter()
        .map(|(path, bytes)| Entry::File(path, bytes, 0o444))
        .collect();
    entries.push(Entry::File("index.json", top.as_bytes(), 0o644));
    entries.push(Entry::File(
        "oci-layout",
        br#"{"imageLayoutVersion":"1.0.0"}"#,
        0o444,
    ));
    Ok((tag, layer(&entries)?))
}

fn platforms(ctx: &Ctx) -> Outcome {
    if !ctx.api(48) {
        return Ok(());
    }
    let (tag, archive) = multi(ctx)?;
    load(ctx, &archive)?;
    let whole = files(&save(ctx, &[&tag])?)?;
    same!(whole.keys().filter(|k| k.len() == 77).count(), 7);
    let arm = escape(r#"{"os":"linux","architecture":"arm64"}"#);
    let part = ctx
        .get(&format!("/images/{tag}/get?platform={arm}"))?
        .expect(200)?;
    let inside = files(&part.body)?;
    same!(inside.keys().filter(|k| k.len() == 77).count(), 3);
    same!(
        document(&inside, "index.json")?["manifests"][0]["mediaType"],
        "application/vnd.oci.image.manifest.v1+json"
    );
    let other = escape(r#"{"os":"linux","architecture":"s390x"}"#);
    let answer = ctx.get(&format!("/images/{tag}/get?platform={other}"))?;
    same!(answer.status, 404);
    has!(
        answer.message(),
        "does not provide the specified platform (linux/s390x)"
    );
    let bad = ctx.get(&format!("/images/{tag}/get?platform=linux"))?;
    same!(bad.status, 400);
    // only one platform of what the archive has
    ctx.delete(&format!("/images/{tag}"))?.expect(200)?;
    let answer = ctx
        .connect()?
        .call(
            "POST",
            &format!("/images/load?platform={arm}"),
            &[("Content-Type", "application/x-tar")],
            Some(&archive),
        )?
        .expect(200)?;
    has!(answer.text(), format!("Loaded image: {tag}\\n"));
    let some = files(&save(ctx, &[&tag])?)?;
    same!(some.keys().filter(|k| k.len() == 77).count(), 4);
    Ok(())
}

/// The image goes while its archive is under way: what was begun is whole.
fn while_removed(ctx: &Ctx) -> Outcome {
    let tag = format!("{}:1", ctx.name("img"));
    // more than the sockets' buffers hold
    let mut content = vec![0u8; 24 << 20];
    let mut state = 1u32;
    for byte in &mut content {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    let big = layer(&[Entry::File("big", &content, 0o644)])?;
    load(ctx, &image(&tag, &json!({}), &[big])?)?;
    let mut connection = ctx.connect()?;
    connection.request("GET", &format!("/images/{tag}/get"), &[], None)?;
    ctx.delete(&format!("/images/{tag}"))?.expect(200)?;
    same!(ctx.get(&format!("/images/{tag}/json"))?.status, 404);
    let answer = connection.answer("GET")?.expect(200)?;
    let total: usize = files(&answer.body)?.values().map(Vec::len).sum();
    ensure!(total > content.len(), "{total} bytes");
    Ok(())
}

fn skopeo_reads(ctx: &Ctx) -> Outcome {
    let folder = ctx.world.scratch.join(&ctx.prefix);
    fs::create_dir_all(&folder)?;
    let [a, _] = two(ctx)?;
    let archive = folder.join("s.tar");
    fs::write(&archive, save(ctx, &[&a])?)?;
    let skopeo = |words: &[&str]| -> Outcome<String> {
        let mut command = Command::new("skopeo");
        command.args(words);
        Ok(ctx.command(command, "")?.ok()?.stdout)
    };
    let source = format!("docker-archive:{}:{a}", archive.display());
    let config: Value = serde_json::from_str(&skopeo(&["inspect", "--config", &source])?)?;
    let ours = ctx.json(&format!("/images/{a}/json"))?;
    same!(config["rootfs"]["diff_ids"], ours["RootFS"]["Layers"]);
    same!(config["config"]["Labels"], ours["Config"]["Labels"]);
    if ctx.api(44) {
        // What is an OCI image stays one, to the byte.
        let imported = format!("{}:oci", ctx.name("img"));
        let body = layer(&[Entry::File("x", b"1", 0o644)])?;
        ctx.connect()?
            .call(
                "POST",
                &format!("/images/create?fromSrc=-&repo={}&tag=oci", ctx.name("img")),
                &[("Content-Type", "application/x-tar")],
                Some(&body),
            )?
            .expect(200)?;
        fs::write(&archive, save(ctx, &[&imported])?)?;
        let raw = skopeo(&[
            "inspect",
            "--raw",
            &format!("oci-archive:{}:oci", archive.display()),
        ])?;
        let digest: String = Sha256::digest(raw.as_bytes())
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        same!(id(ctx, &imported)?, format!("sha256:{digest}"));
        let copied = folder.join("copied");
        skopeo(&[
            "copy",
            "--quiet",
            &format!("oci-archive:{}:oci", archive.display()),
            &format!("oci:{}:oci", copied.display()),
        ])?;
        ensure!(
            copied.join("blobs/sha256").join(&digest).exists(),
            "skopeo made another manifest"
        );
    }
    Ok(fs::remove_dir_all(folder)?)
}

/// A dockerd of the case's own, without networks: it only keeps images.
pub(super) struct Dockerd {
    engine: Engine,
    pub(super) ctx: Ctx,
}

impl Dockerd {
    pub(super) fn start(ctx: &Ctx) -> Outcome<Self> {
        let engine = Engine::start(Setup {
            kind: Kind::Dockerd,
            binary: "dockerd".into(),
            root: ctx.world.scratch.join("dockerd"),
            isolate: true,
            extra: ["--bridge", "none", "--iptables=false", "--ip6tables=false"]
                .map(str::to_owned)
                .to_vec(),
            marker: format!("{}-dockerd", ctx.world.marker),
        })?;
        let mut world = ctx.world.clone();
        world.socket = engine.socket();
        world.api = (1, 41);
        let ctx = Ctx {
            world,
            prefix: ctx.prefix.clone(),
            unnamed: std::sync::Mutex::default(),
        };
        Ok(Self { engine, ctx })
    }

    pub(super) fn done(mut self) -> Outcome {
        let root = self.engine.setup.root.clone();
        self.engine.stop()?;
        drop(self);
        Ok(fs::remove_dir_all(root)?)
    }
}

fn layers(ctx: &Ctx, name: &str) -> Outcome<Value> {
    let got = ctx.json(&format!("/images/{name}/json"))?;
    Ok(json!([
        got["RootFS"]["Layers"],
        got["Config"]["Cmd"],
        got["Config"]["Labels"]
    ]))
}

fn dockerd_loads_ours(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let other = Dockerd::start(ctx)?;
    let [a, b] = two(&own.ctx)?;
    let (multi, archive) = multi(&own.ctx)?;
    load(&own.ctx, &archive)?;
    let archive = save(&own.ctx, &[&a, &b, "busybox:latest", &multi])?;
    let said = load(&other.ctx, &archive)?;
    for tag in [&a, &b, "busybox:latest", &multi] {
        has!(said, format!("Loaded image: {tag}"));
        same!(layers(&other.ctx, tag)?, layers(&own.ctx, tag)?, "{tag}");
    }
    for tag in [&a, &b, &multi] {
        own.ctx.delete(&format!("/images/{tag}"))?.expect(200)?;
    }
    other.done()?;
    own.done()
}

fn we_load_dockerds(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let other = Dockerd::start(ctx)?;
    let [a, b] = two(&other.ctx)?;
    engine::load(
        &other.ctx.world.socket,
        "busybox",
        Path::new(&ctx.world.archive),
    )?;
    let archive = save(&other.ctx, &[&a, &b, "busybox:glibc"])?;
    let said = load(&own.ctx, &archive)?;
    for tag in [&a, &b, "busybox:glibc"] {
        has!(said, format!("Loaded image: {tag}"));
        same!(layers(&own.ctx, tag)?, layers(&other.ctx, tag)?, "{tag}");
    }
    let out = own.ctx.run(
        "c",
        &json!({"Image": "busybox:glibc", "Cmd": ["echo", "runs"]}),
    )?;
    same!(out.stdout, "runs\n");
    other.done()?;
    own.done()
}
