//! Images that go because the disk fills up.

use std::{fs, path::Path, process::Command};

use e2e::{
    check::{Outcome, until},
    engine::{Engine, Kind, Setup},
    ensure, fail, has, same,
};
use serde_json::{Value, json};

use super::images::load;
use crate::{
    cases::cases,
    context::{Ctx, now},
    images::{Entry, image, layer},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    cases!("image_gc", Daemon; least_recently_used_first, refuses_bad_marks).to_vec()
}

const SIZE: u64 = 600 << 20;
const IMAGE: usize = 20 << 20;

/// A file system of its own, so that its fill can be chosen.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn new(path: &'a Path) -> Outcome<Self> {
        fs::create_dir_all(path)?;
        let options = format!("size={SIZE}");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(path)
            .status()?;
        ensure!(done.success(), "mount: {done}");
        Ok(Self(path))
    }

    fn used(&self) -> Outcome<u64> {
        let found = rustix::fs::statvfs(self.0)?;
        Ok((found.f_blocks - found.f_bfree) * found.f_frsize)
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
        let _ = fs::remove_dir(self.0);
    }
}

fn noise(seed: u32) -> Vec<u8> {
    let mut state = seed;
    (0..IMAGE)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

fn make(ctx: &Ctx, tag: &str, labels: &Value) -> Outcome {
    let seed = tag.bytes().map(u32::from).sum();
    let own = layer(&[Entry::File("noise", &noise(seed), 0o644)])?;
    let config = json!({"Cmd": ["x"], "Labels": labels});
    load(ctx, &image(&format!("gc:{tag}"), &config, &[own])?).map(drop)
}

fn there(ctx: &Ctx, tag: &str) -> Outcome<bool> {
    Ok(ctx.get(&format!("/images/gc:{tag}/json"))?.status == 200)
}

fn least_recently_used_first(ctx: &Ctx) -> Outcome {
    let Some(binary) = ctx.world.binary.clone() else {
        fail!("needs --binary");
    };
    let root = ctx.world.scratch.join("gc");
    let disk = Disk::new(&root)?;
    let config = ctx.world.scratch.join("gc.json");
    fs::write(&config, "{}")?;
    let flags = [
        "--bridge",
        "none",
        "--config-file",
        &config.display().to_string(),
    ];
    let mut engine = Engine::start(Setup {
        kind: Kind::Longshore,
        binary,
        root: root.clone(),
        isolate: false,
        extra: flags.map(str::to_owned).to_vec(),
        marker: format!("{}-gc", ctx.world.marker),
    })?;
    let mut world = ctx.world.clone();
    world.socket = engine.socket();
    let own = Ctx {
        world,
        prefix: ctx.prefix.clone(),
        unnamed: std::sync::Mutex::default(),
    };
    for tag in ["used", "kept", "first", "second", "third"] {
        let labels = match tag {
            "kept" => json!({"precious": "yes"}),
            _ => json!({}),
        };
        make(&own, tag, &labels)?;
    }
    let container = own.create("c", &json!({"Image": "gc:used"}))?;
    engine.stop()?;
    // Above the high mark by a little; two images, 40 MB each, bring it below the low one.
    let used = disk.used()?;
    let high = used * 100 / SIZE - 1;
    let low = (used - (60 << 20)) * 100 / SIZE;
    let marks = json!({"image-gc": {"high": high, "low": low, "keep-labels": ["precious=yes"], "min-age": "0s"}});
    fs::write(&config, marks.to_string())?;
    let since = now();
    engine.launch()?;
    until(20, "two images gone", || {
        Ok((!there(&own, "first")? && !there(&own, "second")?).then_some(()))
    })?;
    for tag in ["used", "kept", "third"] {
        ensure!(there(&own, tag)?, "{tag} is gone");
    }
    let events = until(10, "the event of the collection", || {
        let events = own.events(&since, &now(), &json!({"type": ["image"]}))?;
        Ok(events
            .iter()
            .any(|e| e["Action"] == "prune")
            .then_some(events))
    })?;
    let actions: Vec<&str> = events.iter().filter_map(|e| e["Action"].as_str()).collect();
    same!(actions, ["untag", "delete", "untag", "delete", "prune"]);
    let last = &events[4]["Actor"]["Attributes"];
    same!(last["reason"], "disk-pressure");
    // While it runs: what comes in pushes out what is older.
    for tag in ["fourth", "fifth", "sixth"] {
        make(&own, tag, &json!({}))?;
    }
    until(30, "the oldest is gone", || {
        Ok((!there(&own, "third")?).then_some(()))
    })?;
    for tag in ["used", "kept", "sixth"] {
        ensure!(there(&own, tag)?, "{tag} is gone");
    }
    own.remove(&container)?;
    engine.stop()?;
    drop(engine);
    Ok(())
}

fn refuses_bad_marks(ctx: &Ctx) -> Outcome {
    let Some(binary) = &ctx.world.binary else {
        fail!("needs --binary");
    };
    let config = ctx.world.scratch.join("bad-gc.json");
    for (marks, says) in [
        (json!({"high": 80}), "lacks low"),
        (json!({"high": 80, "low": 90}), "above high"),
        (json!({"high": 180, "low": 90}), "percentage"),
        (json!({"high": 80, "low": 70, "bogus": 1}), "no key bogus"),
        (
            json!({"high": 80, "low": 70, "min-age": "soon"}),
            "duration",
        ),
        (json!(true), "must be an object"),
    ] {
        fs::write(&config, json!({"image-gc": marks}).to_string())?;
        let out = Command::new(binary)
            .args(["daemon", "--validate", "--config-file"])
            .arg(&config)
            .output()?;
        ensure!(!out.status.success(), "{marks} was taken");
        has!(String::from_utf8_lossy(&out.stderr), says);
    }
    Ok(())
}
