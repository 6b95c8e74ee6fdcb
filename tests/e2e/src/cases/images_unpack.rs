//! What we unpack beside what dockerd unpacks: owners, modes, times, attributes, contents.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use e2e::{check::Outcome, engine, ensure, fail, same};
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use super::{images::load, images_save::Dockerd, own::Own};
use crate::{cases::cases, context::Ctx, images::image, runner::Case};

pub fn list() -> Vec<Case> {
    cases!("unpack", Daemon; same_tree_as_dockerd).to_vec()
}

/// Everything about the files of a tree; names of one inode as the first of them.
fn look(root: &Path) -> Outcome<BTreeMap<Vec<u8>, String>> {
    let (mut seen, mut inodes) = (BTreeMap::new(), BTreeMap::new());
    let mut open = vec![PathBuf::new()];
    while let Some(name) = open.pop() {
        let path = root.join(&name);
        let meta = fs::symlink_metadata(&path)?;
        let content = if meta.is_dir() {
            let mut below: Vec<PathBuf> = fs::read_dir(&path)?
                .map(|e| Ok(name.join(e?.file_name())))
                .collect::<Outcome<_>>()?;
            below.sort();
            open.extend(below.into_iter().rev());
            String::new()
        } else if meta.is_file() {
            format!("{:x?}", &Sha256::digest(fs::read(&path)?)[..8])
        } else if meta.is_symlink() {
            fs::read_link(&path)?.display().to_string()
        } else {
            format!("device {}", meta.rdev())
        };
        let mut list = vec![0u8; 4096];
        let length = rustix::fs::llistxattr(&path, list.as_mut_slice()).unwrap_or(0);
        let mut xattrs = Vec::new();
        for key in list[..length].split(|b| *b == 0) {
            // dockerd's own marks
            if key.is_empty() || key.starts_with(b"trusted.") {
                continue;
            }
            let mut value = vec![0u8; 4096];
            let length =
                rustix::fs::lgetxattr(&path, OsStr::from_bytes(key), value.as_mut_slice())?;
            xattrs.push(format!(
                "{}={:?}",
                String::from_utf8_lossy(key),
                &value[..length]
            ));
        }
        xattrs.sort();
        let bytes = name.as_os_str().as_bytes().to_vec();
        let first: &Vec<u8> = inodes.entry(meta.ino()).or_insert_with(|| bytes.clone());
        let size = if meta.is_dir() { 0 } else { meta.len() };
        let line = format!(
            "{:o} {}:{} {size} {}.{:09} as {:?} {content} {xattrs:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            String::from_utf8_lossy(first)
        );
        seen.insert(bytes, line);
    }
    Ok(seen)
}

/// A layer with what layers may have.
fn rich() -> Outcome<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |kind: EntryType,
                   name: &str,
                   link: &str,
                   mode: u32,
                   data: &[u8],
                   pax: &[(&str, &[u8])]|
     -> Outcome {
        if !pax.is_empty() {
            tar.append_pax_extensions(pax.iter().copied())?;
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        header.set_uid(7);
        header.set_gid(8);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1)?;
            header.set_device_minor(7)?;
        }
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        Ok(tar.append(&header, data)?)
    };
    let capability = [1u8, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = format!("dir/{}", "l".repeat(200));
    let folder: &[u8] = b"1500000000.123456789";
    add(
        EntryType::Directory,
        "dir/",
        "",
        0o1777,
        b"",
        &[("mtime", folder)],
    )?;
    add(
        EntryType::Regular,
        "dir/setuid",
        "",
        0o6755,
        b"x",
        &[("uid", b"3000000"), ("gid", b"4000000")],
    )?;
    add(
        EntryType::Regular,
        "dir/caps",
        "",
        0o755,
        b"c",
        &[("SCHILY.xattr.security.capability", &capability)],
    )?;
    add(
        EntryType::Regular,
        "dir/nanos",
        "",
        0o600,
        b"",
        &[("mtime", b"1600000000.987654321")],
    )?;
    add(
        EntryType::Link,
        "dir/hard",
        "dir/setuid",
        0o6755,
        b"",
        &[("uid", b"3000000"), ("gid", b"4000000")],
    )?;
    add(
        EntryType::Symlink,
        "dir/soft",
        "../nowhere",
        0o777,
        b"",
        &[],
    )?;
    add(EntryType::Char, "dir/char", "", 0o666, b"", &[])?;
    add(EntryType::Block, "dir/block", "", 0o660, b"", &[])?;
    add(EntryType::Fifo, "dir/pipe", "", 0o600, b"", &[])?;
    add(
        EntryType::Regular,
        "short",
        "",
        0o644,
        b"long",
        &[("path", long.as_bytes())],
    )?;
    Ok(tar.into_inner()?)
}

/// The folder of an image's only layer, of ours and of dockerd's.
fn trees(own: &Own, other: &Dockerd, name: &str) -> Outcome<[PathBuf; 2]> {
    let ours = own.ctx.json(&format!("/images/{name}/json"))?;
    let Some(layer) = ours["RootFS"]["Layers"][0].as_str() else {
        fail!("no layer: {ours}");
    };
    let folder = own.engine.setup.root.join("data/layers");
    let theirs = other.ctx.json(&format!("/images/{name}/json"))?;
    let Some(upper) = theirs["GraphDriver"]["Data"]["UpperDir"].as_str() else {
        fail!("no UpperDir: {}", theirs["GraphDriver"]);
    };
    Ok([
        folder.join(layer.trim_start_matches("sha256:")),
        upper.into(),
    ])
}

fn same_tree_as_dockerd(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let other = Dockerd::start(ctx)?;
    let archive = image("e2e-rich:1", &json!({"Cmd": ["x"]}), &[rich()?])?;
    for side in [&own.ctx, &other.ctx] {
        load(side, &archive)?;
        engine::load(&side.world.socket, "busybox", &ctx.world.archive)?;
    }
    let mut names = vec!["e2e-rich:1", "busybox:latest"];
    // a whole distribution, where the archive has one
    if own.ctx.get("/images/debian:trixie-slim/json")?.status == 200 {
        names.push("debian:trixie-slim");
    }
    for name in names {
        let [ours, theirs] = trees(&own, &other, name)?;
        let (ours, theirs) = (look(&ours)?, look(&theirs)?);
        ensure!(ours.len() > 5, "{name}: {} files", ours.len());
        // the layer's own folder is described by no entry
        for (path, line) in theirs.iter().filter(|(path, _)| !path.is_empty()) {
            same!(
                ours.get(path).map_or("missing", String::as_str),
                line.as_str(),
                "{name}: {}",
                String::from_utf8_lossy(path)
            );
        }
        same!(ours.len(), theirs.len(), "{name}");
    }
    other.done()?;
    own.done()
}
