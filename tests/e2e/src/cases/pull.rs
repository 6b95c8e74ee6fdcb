//! Pulls: what the user sees, sharing, resuming, cancelling. The registry is the test's own.

use std::{process::Command, thread, time::Duration};

use e2e::{
    check::{Outcome, until},
    ensure, has,
    http::escape,
    same,
};
use serde_json::{Value, json};

use super::own::Own;
use crate::{
    cases::cases,
    context::{Ctx, pause},
    images::{Entry, layer},
    registry::{INDEX, MANIFEST, Registry},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    let any = cases!("pull", Any; progress_and_result, up_to_date, by_digest, platforms, refused_formats, all_tags, missing, event);
    let daemon = cases!("pull", Daemon; shared_layer, cancelled, cancelled_by_one_of_two, killed_at_random_moments, nothing_half_is_seen, run_pulls);
    [any.to_vec(), daemon.to_vec()].concat()
}

/// A layer of one file with content that only this case has.
pub fn content(ctx: &Ctx, name: &str, size: usize) -> Outcome<Vec<u8>> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    for byte in ctx.prefix.bytes().chain(name.bytes()) {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    }
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    layer(&[Entry::File(name, &bytes, 0o644)])
}

/// `POST /images/create`: status and lines.
pub fn pull(ctx: &Ctx, name: &str, more: &str) -> Outcome<(u16, Vec<Value>)> {
    let (image, tag) = name.rsplit_once(':').unwrap_or((name, ""));
    let path = format!("/images/create?fromImage={}&tag={tag}{more}", escape(image));
    let answer = ctx.act(&path)?;
    let text = answer.text();
    let mut lines = Vec::new();
    for line in text.lines().filter(|l| !l.trim().is_empty()) {
        lines.push(serde_json::from_str(line)?);
    }
    Ok((answer.status, lines))
}

/// A pull that must succeed; what it said.
pub fn pulled(ctx: &Ctx, name: &str) -> Outcome<Vec<String>> {
    let (status, lines) = pull(ctx, name, "")?;
    let said: Vec<String> = lines
        .iter()
        .map(|l| l["status"].as_str().unwrap_or_default().to_owned())
        .collect();
    ensure!(
        status == 200 && lines.iter().all(|l| l["error"].is_null()),
        "{status}: {lines:?}"
    );
    has!(said.last().cloned().unwrap_or_default(), "Status: ");
    Ok(said)
}

fn remove(ctx: &Ctx, name: &str) -> Outcome {
    ctx.delete(&format!("/images/{name}?force=1"))?
        .expect(200)?;
    Ok(())
}

fn progress_and_result(ctx: &Ctx) -> Outcome {
    let registry = Registry::start()?;
    let (target, _) = registry.add_image(
        "v1",
        &[content(ctx, "a", 5000)?, content(ctx, "b", 70_000)?],
    );
    let name = registry.name("some/image", "v1");
    let said = pulled(ctx, &name)?;
    same!(
        said.first().map(String::as_str),
        Some("Pulling from some/image")
    );
    for (text, times) in [
        ("Pulling fs layer", 2),
        ("Download complete", 2),
        ("Pull complete", 2),
    ] {
        same!(
            said.iter().filter(|s| *s == text).count(),
            times,
            "{text}: {said:?}"
        );
    }
    let digest = target["digest"].as_str().unwrap_or_default();
    has!(said.join("\n"), format!("Digest: {digest}"));
    has!(
        said.join("\n"),
        format!("Status: Downloaded newer image for {name}")
    );
    let image = ctx.json(&format!("/images/{name}/json"))?;
    same!(image["RepoTags"], json!([name]));
    let (repository, _) = name.rsplit_once(':').unwrap_or_default();
    same!(
        image["RepoDigests"],
        json!([format!("{repository}@{digest}")])
    );
    same!(image["RootFS"]["Layers"].as_array().map(Vec::len), Some(2));
    remove(ctx, &name)
}

fn up_to_date(ctx: &Ctx) -> Outcome {
    let registry = Registry::start()?;
    registry.add_image("v1", &[content(ctx, "a", 5000)?]);
    let name = registry.name("x", "v1");
    pulled(ctx, &name)?;
    let before = registry.seen().len();
    let said = pulled(ctx, &name)?;
    has!(
        said.join("\n"),
        format!("Status: Image is up to date for {name}")
    );
    ensure!(!said.iter().any(|s| s.contains("layer")), "{said:?}");
    let again = registry.seen().split_off(before);
    ensure!(
        !again.iter().any(|s| s.path.contains("/blobs/")),
        "{again:?}"
    );
    // A new image under the old name: the common layer is there.
    let (_, layers) =
        registry.add_image("v1", &[content(ctx, "a", 5000)?, content(ctx, "b", 5000)?]);
    let said = pulled(ctx, &name)?;
    has!(said.join("\n"), "Already exists");
    has!(said.join("\n"), "Downloaded newer image");
    same!(registry.fetches(&layers[0]).len(), 1);
    remove(ctx, &name)
}

fn by_digest(ctx: &Ctx) -> Outcome {
    let registry = Registry::start()?;
    let (target, _) = registry.add_image("v1", &[content(ctx, "a", 5000)?]);
    let digest = target["digest"].as_str().unwrap_or_default();
    let name = format!("127.0.0.1:{}/x@{digest}", registry.port);
    let out = ctx.docker(&["pull", &name])?.ok()?;
    has!(out.stdout, format!("{name}: Pulling from x"));
    has!(out.stdout, format!("Digest: {digest}"));
    let image = ctx.json(&format!("/images/{name}/json"))?;
    same!(image["RepoDigests"], json!([name]));
    same!(image["RepoTags"], json!([]));
    remove(ctx, &name)?;
    same!(ctx.get(&format!("/images/{name}/json"))?.status, 404);
    Ok(())
}

fn platforms(ctx: &Ctx) -> Outcome {
    let registry = Registry::start()?;
    let (mut amd, amd_layers) = registry.add_image("amd", &[content(ctx, "a", 5000)?]);
    let (mut arm, arm_layers) = registry.add_image("arm", &[content(ctx, "b", 5000)?]);
    amd["platform"] = json!({"os": "linux", "architecture": "amd64"});
    arm["platform"] = json!({"os": "linux", "architecture": "arm64", "variant": "v8"});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [arm, amd]});
    registry.add_manifest("multi", INDEX, &index);
    let name = registry.name("x", "multi");
    pulled(ctx, &name)?;
    same!(registry.fetches(&amd_layers[0]).len(), 1);
    same!(registry.fetches(&arm_layers[0]).len(), 0);
    let (status, lines) = pull(ctx, &name, "&platform=linux/s390x")?;
    let said = format!("{lines:?}");
    ensure!(
        status == 404 || said.contains("errorDetail"),
        "{status} {said}"
    );
    has!(
        said,
        "no matching manifest for linux/s390x in the manifest list entries"
    );
    let (status, lines) = pull(ctx, &name, "&platform=linux/arm64")?;
    ensure!(
        status == 200 && !format!("{lines:?}").contains("errorDetail"),
        "{lines:?}"
    );
    same!(registry.fetches(&arm_layers[0]).len(), 1);
    remove(ctx, &name)
}

fn refused_formats(ctx: &Ctx) -> Outcome {
    let registry = Registry::start()?;
    let old = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    registry.add_manifest(
        "old",
        old,
        &json!({"schemaVersion": 1, "name": "x", "tag": "old", "fsLayers": [], "history": []}),
    );
    let (status, lines) = pull(ctx, &registry.name("x", "old"), "")?;
    let said = format!("{lines:?}");
    ensure!(
        status >= 400 || said.contains("errorDetail"),
        "{status} {said}"
    );
    let config = registry.add_blob(br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:1"]}}"#);
    let mut foreign = registry.add_blob(b"far away");
    foreign["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    foreign["urls"] = json!(["http://127.0.0.1:1/x"]);
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [foreign]});
    registry.add_manifest("foreign", MANIFEST, &manifest);
    let (status, lines) = pull(ctx, &registry.name("x", "foreign"), "")?;
    let said = format!("{lines:?}");
    ensure!(
        status >= 400 || said.contains("errorDetail"),
        "{status} {said}"
    );
    Ok(())
}

fn all_tags(ctx: &Ctx) -> Outcome {
    // Listing tags is part of a real registry; without one the answer must be an error.
    let registry = Registry::start()?;
    let (status, lines) = pull(ctx, &format!("127.0.0.1:{}/x", registry.port), "")?;
    ensure!(
        status >= 400 || format!("{lines:?}").contains("errorDetail"),
        "{status} {lines:?}"
    );
    Ok(())
}

fn missing(ctx: &Ctx) -> Outcome {
    let registry = Registry::start()?;
    let name = registry.name("nothing/here", "v1");
    let (status, lines) = pull(ctx, &name, "")?;
    if ctx.api(49) {
        same!(status, 404);
        let wanted = format!("failed to resolve reference \"{name}\": {name}: not found");
        same!(lines[0]["message"].as_str(), Some(wanted.as_str()));
    }
    ensure!(status >= 400, "{status} {lines:?}");
    for bad in ["UPPER", "a b", "x:-"] {
        same!(pull(ctx, bad, "")?.0, 400, "{bad}");
    }
    Ok(())
}

fn event(ctx: &Ctx) -> Outcome {
    let registry = Registry::start()?;
    registry.add_image("v1", &[content(ctx, "a", 5000)?]);
    let name = registry.name("x", "v1");
    let since = crate::context::now();
    pulled(ctx, &name)?;
    let events = ctx.events(&since, &crate::context::now(), &json!({"event": ["pull"]}))?;
    let own: Vec<_> = events
        .iter()
        .filter(|e| e["Actor"]["ID"] == json!(name))
        .collect();
    same!(own.len(), 1, "{events:?}");
    let (repository, _) = name.rsplit_once(':').unwrap_or_default();
    same!(own[0]["Actor"]["Attributes"]["name"], json!(repository));
    remove(ctx, &name)
}

/// Four pulls of three images that have a layer in common: it is fetched once.
fn shared_layer(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let registry = Registry::start()?;
    let common = content(ctx, "common", 200_000)?;
    let mut shared = String::new();
    for n in 0..3 {
        let (_, layers) = registry.add_image(
            &format!("v{n}"),
            &[common.clone(), content(ctx, &format!("own{n}"), 3000)?],
        );
        shared.clone_from(&layers[0]);
    }
    registry.set(|f| f.drip = Some((8192, Duration::from_millis(15))));
    let layers = own.engine.setup.root.join("data/layers");
    let folders = || -> Outcome<usize> { Ok(std::fs::read_dir(&layers)?.count()) };
    let before = folders()?;
    thread::scope(|scope| -> Outcome {
        let pulls: Vec<_> = [0, 1, 2, 0]
            .iter()
            .map(|n| {
                let name = registry.name("x", &format!("v{n}"));
                let own = &own;
                scope.spawn(move || pulled(&own.ctx, &name).map(drop))
            })
            .collect();
        for pull in pulls {
            pull.join()
                .unwrap_or_else(|_| Err(e2e::check::Fail("panic".into())))?;
        }
        Ok(())
    })?;
    same!(registry.fetches(&shared).len(), 1);
    // The common one, three of their own.
    same!(folders()? - before, 4);
    checked(own)
}

/// A pull on a connection that can be closed.
fn begin(ctx: &Ctx, name: &str) -> Outcome<e2e::http::Connection> {
    let (image, tag) = name.rsplit_once(':').unwrap_or_default();
    let path = format!("/images/create?fromImage={}&tag={tag}", escape(image));
    let mut connection = ctx.connect()?;
    connection.request("POST", &path, &[], None)?;
    connection.head("POST")?;
    Ok(connection)
}

fn cancelled(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let registry = Registry::start()?;
    let (_, layers) = registry.add_image("v1", &[content(ctx, "a", 400_000)?]);
    let name = registry.name("x", "v1");
    registry.set(|f| f.drip = Some((4096, Duration::from_millis(20))));
    let connection = begin(&own.ctx, &name)?;
    let ingest = own
        .engine
        .setup
        .root
        .join("data/ingest")
        .join(&layers[0][7..]);
    let size = || std::fs::metadata(&ingest).map_or(0, |m| m.len());
    until(10, "something came", || Ok((size() > 20_000).then_some(())))?;
    drop(connection);
    // It stops: two looks, the same size.
    until(5, "the download ended", || {
        let before = size();
        pause(200);
        Ok((size() == before).then_some(()))
    })?;
    let came = size();
    ensure!(came < 400_000, "all of it came");
    registry.set(|f| f.drip = None);
    pulled(&own.ctx, &name)?;
    let fetches = registry.fetches(&layers[0]);
    same!(
        fetches.last().and_then(|f| f.range).map(|r| r as u64),
        Some(came)
    );
    checked(own)
}

fn cancelled_by_one_of_two(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let registry = Registry::start()?;
    let (_, layers) = registry.add_image("v1", &[content(ctx, "a", 300_000)?]);
    let name = registry.name("x", "v1");
    registry.set(|f| f.drip = Some((4096, Duration::from_millis(15))));
    let first = begin(&own.ctx, &name)?;
    pause(200);
    thread::scope(|scope| -> Outcome {
        let second = scope.spawn(|| pulled(&own.ctx, &name));
        pause(200);
        drop(first);
        second
            .join()
            .unwrap_or_else(|_| Err(e2e::check::Fail("panic".into())))
            .map(drop)
    })?;
    same!(registry.fetches(&layers[0]).len(), 1);
    checked(own)
}

/// Ends the daemon and looks at everything in its store.
fn checked(own: Own) -> Outcome {
    let (root, binary) = (
        own.engine.setup.root.join("data"),
        own.engine.setup.binary.clone(),
    );
    own.done()?;
    let out = Command::new(binary).arg("fsck").arg(root).output()?;
    ensure!(
        out.status.success(),
        "fsck: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}

/// kill -9 again and again while images come: the next pull completes, and fetches nothing that had come.
fn killed_at_random_moments(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let registry = Registry::start()?;
    registry.set(|f| f.drip = Some((16 << 10, Duration::from_millis(4))));
    let rounds = if e2e::check::patience() > 1 { 10 } else { 50 };
    for round in 0..rounds {
        let tag = format!("v{round}");
        let mut layers = Vec::new();
        for (n, size) in [20_000, 150_000, 60_000].into_iter().enumerate() {
            layers.push(content(ctx, &format!("r{round}-{n}"), size)?);
        }
        let (_, digests) = registry.add_image(&tag, &layers);
        let name = registry.name("x", &tag);
        let connection = begin(&own.ctx, &name)?;
        // Anything between the first byte and past the end.
        thread::sleep(Duration::from_millis((round as u64 * 37) % 90));
        own.engine.kill()?;
        drop(connection);
        let ingest = own.engine.setup.root.join("data/ingest");
        let came: Vec<u64> = digests
            .iter()
            .map(|d| std::fs::metadata(ingest.join(&d[7..])).map_or(0, |m| m.len()))
            .collect();
        own.engine.launch()?;
        let before: Vec<usize> = digests.iter().map(|d| registry.fetches(d).len()).collect();
        pulled(&own.ctx, &name)?;
        for (n, digest) in digests.iter().enumerate() {
            let more = registry.fetches(digest).split_off(before[n]);
            if came[n] == layers[n].len() as u64 {
                ensure!(
                    more.is_empty(),
                    "round {round}, layer {n} had come: {more:?}"
                );
            }
            if let (Some(first), true) = (more.first(), came[n] > 0) {
                same!(
                    first.range.map(|r| r as u64),
                    Some(came[n]),
                    "round {round}, layer {n}"
                );
            }
        }
    }
    checked(own)
}

/// While it comes, nobody sees an image, and pruning takes nothing away from it.
fn nothing_half_is_seen(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let registry = Registry::start()?;
    registry.add_image(
        "v1",
        &[content(ctx, "a", 100_000)?, content(ctx, "b", 2000)?],
    );
    let name = registry.name("x", "v1");
    registry.set(|f| f.drip = Some((4096, Duration::from_millis(20))));
    thread::scope(|scope| -> Outcome {
        let pulling = scope.spawn(|| pulled(&own.ctx, &name));
        for _ in 0..5 {
            pause(60);
            if !pulling.is_finished() {
                same!(own.ctx.get(&format!("/images/{name}/json"))?.status, 404);
                own.ctx.act("/images/prune")?.expect(200)?;
            }
        }
        pulling
            .join()
            .unwrap_or_else(|_| Err(e2e::check::Fail("panic".into())))
            .map(drop)
    })?;
    own.ctx.get(&format!("/images/{name}/json"))?.expect(200)?;
    checked(own)
}

/// `docker run` of an image that is not here, from two sides at once.
fn run_pulls(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let registry = Registry::start()?;
    let base = layer(&[
        Entry::Folder("bin", 0o755),
        Entry::File("bin/busybox", &std::fs::read("/bin/busybox")?, 0o755),
        Entry::Link("bin/sh", "busybox"),
    ])?;
    let (_, layers) = registry.add_image("v1", &[base]);
    let name = registry.name("x", "v1");
    let run = || {
        own.ctx.docker(&[
            "run",
            "--rm",
            "--network",
            "none",
            &name,
            "sh",
            "-c",
            "echo it runs",
        ])
    };
    let (one, two) = thread::scope(|scope| {
        let two = scope.spawn(run);
        (run(), two.join())
    });
    has!(one?.ok()?.stdout, "it runs");
    let two = two.unwrap_or_else(|_| Err(e2e::check::Fail("panic".into())));
    has!(two?.ok()?.stdout, "it runs");
    same!(registry.fetches(&layers[0]).len(), 1);
    checked(own)
}
