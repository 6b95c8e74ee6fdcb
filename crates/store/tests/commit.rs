//! Commit: what a container changed, made through a real overlay, becomes a layer that shows the same tree.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::BTreeMap,
    ffi::{CString, OsStr},
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Command,
};

use common::{
    Scratch,
    archive::{Tar, gzip, saved},
    assert_tidy, load, open,
};
use longshore_model::Reference;
use longshore_store::{Store, images::CommitRequest};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use serde_json::{Map, Value, json};

/// An overlay that goes away with the value.
struct Mounted(PathBuf);

impl Mounted {
    fn new(point: &Path, lower: &[PathBuf], upper: Option<(&Path, &Path)>) -> Self {
        fs::create_dir_all(point).unwrap();
        let lower: Vec<String> = lower.iter().map(|p| p.display().to_string()).collect();
        let mut options = format!("lowerdir={}", lower.join(":"));
        if let Some((upper, work)) = upper {
            fs::create_dir_all(upper).unwrap();
            fs::create_dir_all(work).unwrap();
            options += &format!(
                ",upperdir={},workdir={},redirect_dir=off,metacopy=off",
                upper.display(),
                work.display()
            );
        }
        let options = CString::new(options).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("overlay", point, "overlay", flags, Some(options.as_c_str())).unwrap();
        Self(point.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

/// Everything that can be seen of a tree; inodes as the first name that they have.
fn look(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let (mut seen, mut inodes) = (BTreeMap::new(), BTreeMap::new());
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
        if meta.is_dir() {
            let mut below: Vec<_> = fs::read_dir(&path)
                .unwrap()
                .map(|e| e.unwrap().path())
                .collect();
            below.sort();
            open.extend(below.into_iter().rev());
        }
        let content = match meta.file_type() {
            t if t.is_file() => format!("{:x?}", digest(&path)),
            t if t.is_symlink() => format!("{:?}", fs::read_link(&path).unwrap()),
            _ => String::new(),
        };
        let mut list = vec![0u8; 4096];
        let length = rustix::fs::llistxattr(&path, list.as_mut_slice()).unwrap();
        let xattrs: Vec<String> = list[..length]
            .split(|b| *b == 0)
            .filter(|n| !n.is_empty() && !n.starts_with(b"trusted."))
            .map(|n| {
                let mut value = vec![0u8; 4096];
                let length =
                    rustix::fs::lgetxattr(&path, OsStr::from_bytes(n), value.as_mut_slice())
                        .unwrap();
                format!("{}={:?}", String::from_utf8_lossy(n), &value[..length])
            })
            .collect();
        let first: &Vec<u8> = inodes.entry(meta.ino()).or_insert_with(|| name.to_vec());
        // The root's own times are of the upper directory, which is no part of the layer.
        let time = if name.is_empty() {
            (0, 0)
        } else {
            (meta.mtime(), meta.mtime_nsec())
        };
        let size = if meta.is_dir() { 0 } else { meta.len() };
        let line = format!(
            "{:o} {}:{} {size} {time:?} dev {} same as {:?} {content} {xattrs:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.rdev(),
            String::from_utf8_lossy(first)
        );
        seen.insert(name.to_vec(), line);
    }
    seen
}

fn digest(path: &Path) -> Vec<u8> {
    let out = Command::new("sha256sum").arg(path).output().unwrap();
    out.stdout[..64].to_vec()
}

fn base() -> Vec<u8> {
    Tar::new()
        .dir("etc", 0o755)
        .file("etc/passwd", b"root")
        .file("etc/gone", b"1")
        .dir("whole", 0o755)
        .file("whole/a", b"1")
        .file("whole/b", b"2")
        .dir("again", 0o755)
        .file("again/old", b"1")
        .file("was-file", b"1")
        .dir("was-dir", 0o755)
        .file("was-dir/x", b"1")
        .file("same", b"untouched")
        .file("touched", b"only its mode changes")
        .done()
}

fn xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn change(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::write(at("etc/passwd"), "root and me").unwrap();
    fs::remove_file(at("etc/gone")).unwrap();
    fs::remove_dir_all(at("whole")).unwrap();
    fs::remove_dir_all(at("again")).unwrap();
    fs::create_dir(at("again")).unwrap();
    fs::write(at("again/new"), "2").unwrap();
    fs::remove_file(at("was-file")).unwrap();
    fs::create_dir(at("was-file")).unwrap();
    fs::write(at("was-file/inside"), "x").unwrap();
    fs::remove_dir_all(at("was-dir")).unwrap();
    fs::write(at("was-dir"), "file now").unwrap();
    fs::set_permissions(at("touched"), fs::Permissions::from_mode(0o4711)).unwrap();
    lchown(at("touched"), Some(1000), Some(4_000_000_000)).unwrap();
    fs::set_permissions(at("touched"), fs::Permissions::from_mode(0o6711)).unwrap();
    fs::create_dir_all(at("new/deep")).unwrap();
    fs::set_permissions(at("new"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(at("new/deep/one"), "linked").unwrap();
    fs::hard_link(at("new/deep/one"), at("new/two")).unwrap();
    symlink("../../etc/passwd", at("new/link")).unwrap();
    symlink(format!("/{}", "t".repeat(300)), at("new/longlink")).unwrap();
    lchown(at("new/link"), Some(5), Some(6)).unwrap();
    fs::write(
        root.join(OsStr::from_bytes(b"new/\xFF\xFE name")),
        "not UTF-8",
    )
    .unwrap();
    fs::write(at(&format!("new/{}", "n".repeat(255))), "long").unwrap();
    fs::write(at("new/caps"), "x").unwrap();
    let capability = [1u8, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    xattr(&at("new/caps"), "security.capability", &capability);
    xattr(&at("new/caps"), "user.mine", b"a\0b=c\n");
    xattr(&at("new"), "user.folder", b"f");
    xattr(&at("new/deep"), "user.folder", &[7; 2000]);
    for (name, kind, device) in [
        ("new/null", FileType::CharacterDevice, (1, 3)),
        ("new/disk", FileType::BlockDevice, (7, 300)),
        ("new/pipe", FileType::Fifo, (0, 0)),
    ] {
        let device = rustix::fs::makedev(device.0, device.1);
        rustix::fs::mknodat(CWD, at(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    }
    let sparse = fs::File::create(at("new/sparse")).unwrap();
    sparse.write_all_at(b"start", 0).unwrap();
    sparse.write_all_at(b"middle", 300 << 20).unwrap();
    sparse.set_len(600 << 20).unwrap();
    let hole = fs::File::create(at("new/hole")).unwrap();
    hole.set_len(50 << 20).unwrap();
    let odd = fs::File::create(at("new/odd-time")).unwrap();
    let time = std::time::UNIX_EPOCH - std::time::Duration::from_millis(1500);
    odd.set_modified(time).unwrap();
}

fn commit(
    store: &Store,
    of: &str,
    upper: &Path,
    changes: &[&str],
) -> longshore_model::Result<String> {
    let base = store.images().resolve(of)?.image;
    let manifest = base.main().unwrap().descriptor.digest.clone();
    let config: Map<String, Value> = json!({"Cmd": ["sh"], "Env": ["A=1"]})
        .as_object()
        .cloned()
        .unwrap();
    let mut reads = 0;
    let id = store.images().commit(
        CommitRequest {
            base: &base,
            manifest: &manifest,
            upper: upper.to_owned(),
            author: "me".to_owned(),
            comment: "note".to_owned(),
            created_by: "sh -c x".to_owned(),
            config,
            changes: changes.iter().map(|c| (*c).to_owned()).collect(),
            reference: Some(Reference::parse("committed:1").unwrap()),
        },
        &mut || reads += 1,
        &mut |_| Vec::new(),
    )?;
    assert_eq!(reads, 1);
    Ok(id)
}

#[test]
fn a_commit_shows_the_same_tree() {
    let scratch = Scratch::new();
    let (store, _) = open(&scratch.path().join("data"));
    load(&store, &saved(&["base"], &[base()], gzip)).unwrap();
    let image = store.images().resolve("base").unwrap().image;
    let lower = store.images().rootfs(&image, None).unwrap();
    let (upper, work) = (scratch.path().join("upper"), scratch.path().join("work"));
    let point = scratch.path().join("merged");
    let container = Mounted::new(&point, &lower, Some((&upper, &work)));
    change(&point);
    // A socket cannot be kept in a layer.
    drop(UnixListener::bind(point.join("new/socket")).unwrap());
    let mut wanted = look(&point);
    assert!(wanted.remove(&b"new/socket"[..]).is_some());
    let id = commit(&store, "base", &upper, &["ENV B=2", "CMD [\"x\"]"]).unwrap();
    drop(container);
    let made = store.images().resolve("committed:1").unwrap().image;
    assert_eq!(made.id(), id);
    assert_eq!(made.parent, image.id());
    let lower = store.images().rootfs(&made, None).unwrap();
    assert_eq!(lower.len(), 3);
    let seen = Mounted::new(&point, &lower, None);
    let found = look(&point);
    // Mount points, which belong to no layer and are made new for what looks different.
    let point = |name: &[u8]| {
        let name = String::from_utf8_lossy(name);
        let files = [
            ".dockerenv",
            "etc/hosts",
            "etc/hostname",
            "etc/resolv.conf",
            "etc/mtab",
        ];
        files.contains(&name.as_ref())
            || ["dev", "proc", "sys"]
                .iter()
                .any(|top| name.starts_with(top))
    };
    for (name, line) in wanted.iter().filter(|(name, _)| !point(name)) {
        assert_eq!(
            found.get(name),
            Some(line),
            "{:?}",
            String::from_utf8_lossy(name)
        );
    }
    assert_eq!(found.len(), wanted.len());
    let sparse = fs::metadata(seen.0.join("new/sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 1 << 20, "holes were filled");
    drop(seen);
    let main = made.main().unwrap();
    assert!(main.content_size() < 1 << 20, "holes are in the blob");
    let config = store.images().config(main).unwrap();
    assert_eq!(config.config.env, ["A=1", "B=2"]);
    assert_eq!(config.config.cmd, Some(vec!["x".to_owned()]));
    assert_eq!(config.author, "me");
    let history = store.images().history(main).unwrap();
    assert_eq!(
        (history[0].comment.as_str(), history[0].created_by.as_str()),
        ("note", "sh -c x")
    );
    assert_eq!(history.len(), 2);
    assert_tidy(&store);
}

#[test]
fn nothing_changed_makes_no_layer() {
    let scratch = Scratch::new();
    let (store, _) = open(&scratch.path().join("data"));
    load(&store, &saved(&["base"], &[base()], gzip)).unwrap();
    let upper = scratch.path().join("upper");
    fs::create_dir(&upper).unwrap();
    commit(&store, "base", &upper, &["LABEL a=b"]).unwrap();
    let made = store.images().resolve("committed:1").unwrap().image;
    let main = made.main().unwrap();
    assert_eq!(main.layers.len(), 1);
    let config = store.images().config(main).unwrap();
    assert_eq!(config.raw["history"][1]["empty_layer"], true);
    assert_eq!(config.raw["config"]["Labels"]["a"], "b");
    assert_tidy(&store);
}

#[test]
fn what_cannot_be_committed() {
    let scratch = Scratch::new();
    let (store, _) = open(&scratch.path().join("data"));
    load(&store, &saved(&["base"], &[base()], gzip)).unwrap();
    let upper = scratch.path().join("upper");
    fs::create_dir(&upper).unwrap();
    let error = commit(&store, "base", &upper, &["RUN x"]).unwrap_err();
    assert_eq!(error.message, "RUN is not a valid change command");
    let moved = upper.join("moved");
    fs::create_dir(&moved).unwrap();
    xattr(&moved, "trusted.overlay.redirect", b"/etc");
    let error = commit(&store, "base", &upper, &[]).unwrap_err();
    assert!(error.message.contains("moved"), "{}", error.message);
    fs::remove_dir(&moved).unwrap();
    fs::write(upper.join(".wh.etc"), "").unwrap();
    assert!(commit(&store, "base", &upper, &[]).is_err());
    fs::remove_file(upper.join(".wh.etc")).unwrap();
    // Deeper than any descriptor table; never a crash, and nothing is left of it.
    let mut deep = rustix::fs::open(&upper, rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..1200 {
        rustix::fs::mkdirat(&deep, "d", Mode::from_raw_mode(0o755)).unwrap();
        deep =
            rustix::fs::openat(&deep, "d", rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    drop(deep);
    let error = commit(&store, "base", &upper, &[]).unwrap_err();
    assert!(
        error.message.contains("file name too long"),
        "{}",
        error.message
    );
    assert_tidy(&store);
    let gone = Command::new("rm").arg("-rf").arg(&upper).status().unwrap();
    assert!(gone.success());
}
