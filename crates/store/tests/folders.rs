//! Directories of containers and volumes, and the trash.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    time::{Duration, Instant},
};

use common::{Scratch, open};
use longshore_model::ContainerId;

fn wait_until_empty(folder: &Path) {
    let started = Instant::now();
    while std::fs::read_dir(folder).unwrap().count() > 0 {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "the trash stays"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_container_comes_and_goes() {
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    let id = ContainerId::random();
    let dirs = store.containers().prepare(&id).unwrap();
    assert_eq!(
        store.containers().prepare(&id).unwrap(),
        dirs,
        "again is no error"
    );
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&dirs.upper), 0o755);
    assert_eq!(mode(&dirs.dir), 0o710);
    assert_eq!(
        store.containers().known_on_disk().unwrap(),
        vec![id.clone()]
    );
    std::fs::write(dirs.upper.join("f"), vec![0; 1234]).unwrap();
    assert_eq!(store.containers().size(&id).unwrap(), 1234);
    store.containers().discard(&id).unwrap();
    assert!(!dirs.dir.exists());
    store.containers().discard(&id).unwrap();
    wait_until_empty(&scratch.path().join("trash"));
}

#[test]
fn trash_of_any_depth_goes_and_nothing_else() {
    let scratch = Scratch::new();
    let outside = Scratch::new();
    std::fs::write(outside.path().join("keep"), "x").unwrap();
    let (store, _) = open(scratch.path());
    let id = ContainerId::random();
    let upper = store.containers().prepare(&id).unwrap().upper;
    symlink(outside.path(), upper.join("link")).unwrap();
    // Deeper than PATH_MAX, the stack and the descriptor limit allow.
    let mut folder = std::fs::File::open(&upper).unwrap();
    for _ in 0..2500 {
        let mode = rustix::fs::Mode::from_raw_mode(0o700);
        rustix::fs::mkdirat(&folder, "d", mode).unwrap();
        rustix::fs::symlinkat("/", &folder, "s").unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        folder = rustix::fs::openat(&folder, "d", flags, rustix::fs::Mode::empty())
            .unwrap()
            .into();
    }
    drop(folder);
    store.containers().discard(&id).unwrap();
    wait_until_empty(&scratch.path().join("trash"));
    assert!(outside.path().join("keep").exists());
}

#[test]
fn immutable_files_go_too() {
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    let id = ContainerId::random();
    let upper = store.containers().prepare(&id).unwrap().upper;
    std::fs::create_dir_all(upper.join("a/b")).unwrap();
    for path in ["a/b/f", "a/b", "a"] {
        if path.ends_with('f') {
            std::fs::write(upper.join(path), "x").unwrap();
        }
        let file = std::fs::File::open(upper.join(path)).unwrap();
        let flags = rustix::fs::ioctl_getflags(&file).unwrap();
        rustix::fs::ioctl_setflags(&file, flags | rustix::fs::IFlags::IMMUTABLE).unwrap();
    }
    store.containers().discard(&id).unwrap();
    wait_until_empty(&scratch.path().join("trash"));
}

#[test]
fn mounts_in_the_trash_are_not_entered() {
    let scratch = Scratch::new();
    let outside = Scratch::new();
    std::fs::write(outside.path().join("keep"), "x").unwrap();
    let (store, _) = open(scratch.path());
    let id = ContainerId::random();
    let upper = store.containers().prepare(&id).unwrap().upper;
    let point = upper.join("mnt");
    std::fs::create_dir(&point).unwrap();
    rustix::mount::mount_bind(outside.path(), &point).unwrap();
    store.containers().discard(&id).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    drop(store);
    assert!(outside.path().join("keep").exists());
    let left: Vec<_> = std::fs::read_dir(scratch.path().join("trash"))
        .unwrap()
        .flatten()
        .collect();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    for line in mounts.lines() {
        let target = line.split(' ').nth(1).unwrap();
        if Path::new(target).starts_with(scratch.path()) {
            rustix::mount::unmount(target, rustix::mount::UnmountFlags::empty()).unwrap();
        }
    }
    assert!(!left.is_empty());
    let (_store, _) = open(scratch.path());
    wait_until_empty(&scratch.path().join("trash"));
    assert!(outside.path().join("keep").exists());
}

#[test]
fn volumes() {
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    let volumes = store.volumes();
    let path = volumes.create("data").unwrap();
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o755, 0));
    std::fs::write(path.join("f"), "12345").unwrap();
    assert_eq!(volumes.create("data").unwrap(), path);
    assert_eq!(volumes.size("data").unwrap(), 5);
    assert_eq!(volumes.known_on_disk().unwrap(), vec!["data".to_owned()]);
    volumes.remove("data").unwrap();
    volumes.remove("data").unwrap();
    assert!(!path.exists());
    for name in ["", ".", "..", "a/b", "../x"] {
        assert!(volumes.create(name).is_err() && volumes.remove(name).is_err());
    }
}

#[test]
fn leftovers_in_tmp_are_removed_and_reported() {
    let scratch = Scratch::new();
    drop(open(scratch.path()));
    std::fs::create_dir_all(scratch.path().join("tmp/half/layer")).unwrap();
    let (_store, report) = open(scratch.path());
    assert_eq!(report.removed.len(), 1);
    assert!(report.removed[0].ends_with("tmp/half"));
    wait_until_empty(&scratch.path().join("trash"));
}
