//! Layers: what an archive may put into a directory, and what it may not.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    ffi::OsStr,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use common::{
    Scratch,
    archive::{Tar, gzip, saved},
    assert_tidy, load, only_layer, open,
};
use longshore_store::Store;
use tar::{EntryType, Header};

/// Loads an image of one layer; the folder of it, or the error.
fn unpack(layer: Tar) -> (Scratch, Store, Result<PathBuf, String>) {
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    let result = load(&store, &saved(&["x"], &[layer.done()], gzip));
    assert_tidy(&store);
    let result = result.map(|_| only_layer(&store)).map_err(|e| e.message);
    (scratch, store, result)
}

fn unpacked(layer: Tar) -> (Scratch, Store, PathBuf) {
    let (scratch, store, result) = unpack(layer);
    (scratch, store, result.unwrap())
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0u8; 256];
    let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(length);
    Some(value)
}

fn is_whiteout(path: &Path) -> bool {
    let meta = std::fs::symlink_metadata(path).unwrap();
    meta.file_type().is_char_device() && meta.rdev() == 0
}

#[test]
fn everything_that_a_file_has() {
    let mut owned = Header::new_gnu();
    owned.set_path("setuid").unwrap();
    owned.set_mode(0o104_755);
    owned.set_uid(1000);
    owned.set_gid(4_000_000_000);
    owned.set_size(3);
    owned.set_mtime(12);
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(200));
    let capability = [1u8, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layer = Tar::new()
        .raw(EntryType::Directory, b"./", b"", 0o711, b"")
        .header(owned, b"abc")
        .pax(&[("mtime", b"1234567890.123456789")])
        .dir("dir", 0o1777)
        .file("dir/later", b"changes the directory's time")
        .raw(EntryType::Char, b"null", b"", 0o666, b"")
        .raw(EntryType::Block, b"disk", b"", 0o660, b"")
        .raw(EntryType::Fifo, b"pipe", b"", 0o600, b"")
        .symlink("link", "/etc/passwd")
        .hardlink("hard", "setuid")
        .hardlink("hard-to-link", "link")
        .raw(EntryType::Regular, b"\xFF\xFE", b"", 0o644, b"not UTF-8")
        .pax(&[("path", long.as_bytes())])
        .file("short", b"long")
        .raw(
            EntryType::GNULongName,
            b"././@LongLink",
            b"",
            0,
            format!("gnu-{}\0", "n".repeat(150)).as_bytes(),
        )
        .file("cut", b"gnu")
        .pax(&[
            ("SCHILY.xattr.user.a", b"b\0c"),
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ])
        .file("xattrs", b"")
        .pax(&[("uid", b"77"), ("gid", b"78"), ("comment", b"multi\nline")])
        .file("pax-owner", b"");
    let (_scratch, _store, root) = unpacked(layer);
    let meta = |name: &str| std::fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!(meta("").mode() & 0o7777, 0o711);
    assert_eq!(
        (
            meta("setuid").mode() & 0o7777,
            meta("setuid").uid(),
            meta("setuid").gid()
        ),
        (0o4755, 1000, 4_000_000_000)
    );
    assert_eq!(meta("setuid").mtime(), 12);
    assert_eq!(
        (meta("dir").mtime(), meta("dir").mtime_nsec()),
        (1_234_567_890, 123_456_789)
    );
    assert_eq!(meta("dir").mode() & 0o7777, 0o1777);
    assert_eq!(
        (meta("null").rdev(), meta("null").mode() & 0o7777),
        (rustix::fs::makedev(1, 3), 0o666)
    );
    assert!(
        meta("null").file_type().is_char_device() && meta("disk").file_type().is_block_device()
    );
    assert!(meta("pipe").file_type().is_fifo());
    assert_eq!(
        std::fs::read_link(root.join("link")).unwrap(),
        Path::new("/etc/passwd")
    );
    assert_eq!(meta("hard").ino(), meta("setuid").ino());
    assert_eq!(meta("hard-to-link").ino(), meta("link").ino());
    assert_eq!(
        std::fs::read(root.join(OsStr::from_bytes(b"\xFF\xFE"))).unwrap(),
        b"not UTF-8"
    );
    assert_eq!(std::fs::read(root.join(&long)).unwrap(), b"long");
    assert!(root.join(format!("gnu-{}", "n".repeat(150))).exists());
    let xattrs = root.join("xattrs");
    assert_eq!(xattr(&xattrs, "user.a").unwrap(), b"b\0c");
    assert_eq!(xattr(&xattrs, "security.capability").unwrap(), capability);
    assert_eq!(xattr(&xattrs, "trusted.overlay.redirect"), None);
    assert_eq!((meta("pax-owner").uid(), meta("pax-owner").gid()), (77, 78));
}

#[test]
fn whiteouts() {
    let layer = Tar::new()
        .file(".wh.gone", b"")
        .file("a/.wh..wh..opq", b"")
        .file("both", b"1")
        .file(".wh.both", b"")
        .dir("merged", 0o755)
        .file(".wh.merged", b"")
        .file(".wh.again", b"")
        .dir("again", 0o755)
        .file(".wh.file-again", b"")
        .file("file-again", b"2")
        .file(".wh..wh.plnk", b"")
        .dir("plain", 0o755);
    let (_scratch, _store, root) = unpacked(layer);
    let opaque = |name: &str| xattr(&root.join(name), "trusted.overlay.opaque");
    assert!(is_whiteout(&root.join("gone")));
    assert_eq!(opaque("a").unwrap(), b"y");
    assert_eq!(std::fs::read(root.join("both")).unwrap(), b"1");
    assert_eq!(
        opaque("merged").unwrap(),
        b"y",
        "hides the lower directory, keeps its own"
    );
    assert_eq!(opaque("again").unwrap(), b"y");
    assert_eq!(std::fs::read(root.join("file-again")).unwrap(), b"2");
    assert_eq!(opaque("plain"), None);
    assert!(!root.join(".wh..wh.plnk").exists() && !root.join("plnk").exists());
}

#[test]
fn later_entries_replace_earlier_ones() {
    let layer = Tar::new()
        .dir("d", 0o755)
        .file("d/inside", b"")
        .file("d", b"now a file")
        .file("f", b"")
        .dir("f", 0o700)
        .file("f/inside", b"x")
        .symlink("l", "f")
        .file("l", b"not through the link")
        .file("twice", b"1")
        .file("twice", b"2")
        .dir("kept", 0o755)
        .file("kept/x", b"")
        .dir("kept", 0o700);
    let (_scratch, _store, root) = unpacked(layer);
    assert_eq!(std::fs::read(root.join("d")).unwrap(), b"now a file");
    assert_eq!(std::fs::read(root.join("f/inside")).unwrap(), b"x");
    assert_eq!(
        std::fs::read(root.join("l")).unwrap(),
        b"not through the link"
    );
    assert_eq!(std::fs::read(root.join("twice")).unwrap(), b"2");
    assert!(root.join("kept/x").exists());
    assert_eq!(
        std::fs::metadata(root.join("kept")).unwrap().mode() & 0o7777,
        0o700
    );
}

#[test]
fn nothing_leaves_the_layer() {
    let outside = Scratch::new();
    let target = outside.path().join("victim");
    std::fs::write(&target, "safe").unwrap();
    let out = outside.path().display().to_string();
    let up = format!("{}{}", "../".repeat(12), out.trim_start_matches('/'));
    let attempts = [
        Tar::new().file(&format!("{up}/new"), b"evil"),
        Tar::new().file(&format!("{out}/new"), b"evil"),
        Tar::new()
            .symlink("l", &out)
            .file("l/new", b"evil")
            .file("l/victim", b"evil"),
        Tar::new().symlink("l", &up).file("l/victim", b"evil"),
        Tar::new()
            .symlink("a", "..")
            .symlink("b", "a/..")
            .file(&format!("b/../../{up}/new"), b"evil"),
        Tar::new()
            .symlink("l", &format!("{out}/victim"))
            .file("l", b"evil"),
        Tar::new()
            .symlink("l", &format!("{out}/made"))
            .file("l/deep/new", b"evil"),
        Tar::new()
            .symlink("l", &out)
            .dir("l", 0o777)
            .file("l/new", b"evil"),
        Tar::new().symlink("l", &out).file("l/.wh.victim", b""),
        Tar::new().symlink("l", &out).file("l/.wh..wh..opq", b""),
        Tar::new()
            .hardlink("h", &format!("{out}/victim"))
            .file("h", b"evil"),
        Tar::new().symlink("l", &out).hardlink("h", "l/victim"),
        Tar::new().hardlink("h", &format!("{up}/victim")),
        Tar::new()
            .symlink("l", "/proc/self/root")
            .file(&format!("l{out}/new"), b"evil"),
        Tar::new()
            .symlink("l", "/proc/self/fd/0")
            .file("l/new", b"evil"),
        Tar::new()
            .file("..", b"evil")
            .file(".wh...", b"")
            .file(".wh..", b""),
        Tar::new()
            .symlink("a", "b")
            .symlink("b", "a")
            .file("a/x", b""),
    ];
    for (i, attempt) in attempts.into_iter().enumerate() {
        let (scratch, _store, _) = unpack(attempt);
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "safe", "{i}");
        assert_eq!(std::fs::metadata(&target).unwrap().nlink(), 1, "{i}");
        let left: Vec<_> = std::fs::read_dir(outside.path())
            .unwrap()
            .flatten()
            .collect();
        assert_eq!(left.len(), 1, "{i}: {left:?}");
        assert_eq!(xattr(outside.path(), "trusted.overlay.opaque"), None, "{i}");
        let mode = std::fs::metadata(scratch.path()).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o710, "{i}");
    }
}

#[test]
fn evil_archives_are_refused() {
    let huge = |kind| {
        let mut header = Header::new_gnu();
        header.set_path("f").unwrap();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(1 << 62);
        header
    };
    let mut far = Header::new_gnu();
    far.set_path("f").unwrap();
    far.set_mode(0o644);
    far.set_uid(1 << 40);
    far.set_gid(0);
    far.set_mtime(0);
    far.set_size(0);
    for (what, layer) in [
        ("size", Tar::new().header(huge(EntryType::Regular), b"x")),
        (
            "long name",
            Tar::new().header(huge(EntryType::GNULongName), b"x"),
        ),
        (
            "pax header",
            Tar::new().header(huge(EntryType::XHeader), b"x"),
        ),
        ("owner", Tar::new().header(far, b"")),
        (
            "pax size",
            Tar::new()
                .pax(&[("size", b"99999999999999999999")])
                .file("f", b""),
        ),
        (
            "negative pax size",
            Tar::new().pax(&[("size", b"-1")]).file("f", b""),
        ),
        (
            "sparse map",
            Tar::new()
                .pax(&[
                    ("GNU.sparse.numblocks", b"1"),
                    ("GNU.sparse.size", b"10"),
                    ("GNU.sparse.map", b"5,100"),
                ])
                .file("f", &[1; 100]),
        ),
        (
            "sparse end",
            Tar::new()
                .pax(&[
                    ("GNU.sparse.numblocks", b"1"),
                    ("GNU.sparse.size", b"9223372036854775807"),
                    ("GNU.sparse.map", b"18446744073709551615,1"),
                ])
                .file("f", b"1"),
        ),
        ("link to nothing", Tar::new().hardlink("h", "missing")),
        (
            "link to itself",
            Tar::new().file("h", b"").hardlink("h", "h"),
        ),
        (
            "link to a directory",
            Tar::new().dir("d", 0o755).hardlink("h", "d"),
        ),
        (
            "file as a folder",
            Tar::new().file("f", b"").file("f/x", b""),
        ),
        (
            "unknown type",
            Tar::new().raw(EntryType::new(b'Z'), b"z", b"", 0o644, b""),
        ),
        ("empty link", Tar::new().symlink("l", "")),
        (
            "long component",
            Tar::new().pax(&[("path", &[b'a'; 300])]).file("f", b""),
        ),
    ] {
        let (_scratch, store, result) = unpack(layer);
        assert!(result.is_err(), "{what}");
        assert!(store.images().list().is_empty());
    }
}

#[test]
fn sparse_files_of_all_forms() {
    // The same file each time: 4 kB of a, a hole, 10 bytes of b at 1 MiB, a hole to 2 MiB.
    let content = [vec![b'a'; 4096], vec![b'b'; 10]].concat();
    let size: u64 = 2 << 20;
    let map = "0,4096,1048576,10";
    let mut old = Header::new_gnu();
    old.set_path("old").unwrap();
    old.set_entry_type(EntryType::GNUSparse);
    old.set_mode(0o644);
    old.set_uid(0);
    old.set_gid(0);
    old.set_mtime(0);
    old.set_size(content.len() as u64);
    let gnu = old.as_gnu_mut().unwrap();
    gnu.set_real_size(size);
    for (piece, (offset, length)) in gnu.sparse.iter_mut().zip([(0u64, 4096u64), (1 << 20, 10)]) {
        piece
            .offset
            .copy_from_slice(format!("{offset:011o}\0").as_bytes());
        piece
            .numbytes
            .copy_from_slice(format!("{length:011o}\0").as_bytes());
    }
    let mut block = b"2\n0\n4096\n1048576\n10\n".to_vec();
    block.resize(512, 0);
    let text = size.to_string();
    let layer = Tar::new()
        .header(old, &content)
        .pax(&[
            ("GNU.sparse.size", text.as_bytes()),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.offset", b"0"),
            ("GNU.sparse.numbytes", b"4096"),
            ("GNU.sparse.offset", b"1048576"),
            ("GNU.sparse.numbytes", b"10"),
        ])
        .file("v00", &content)
        .pax(&[
            ("GNU.sparse.size", text.as_bytes()),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.map", map.as_bytes()),
            ("GNU.sparse.name", b"v01"),
        ])
        .file("GNUSparseFile.0/v01", &content)
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"v10"),
            ("GNU.sparse.realsize", text.as_bytes()),
        ])
        .file("GNUSparseFile.0/v10", &[block, content.clone()].concat());
    let (_scratch, _store, root) = unpacked(layer);
    for name in ["old", "v00", "v01", "v10"] {
        let path = root.join(name);
        let data = std::fs::read(&path).unwrap();
        assert_eq!(data.len() as u64, size, "{name}");
        assert_eq!(data[..4096], content[..4096], "{name}");
        assert!(data[4096..1 << 20].iter().all(|b| *b == 0));
        assert_eq!(data[1 << 20..(1 << 20) + 10], content[4096..]);
        assert!(
            std::fs::metadata(&path).unwrap().blocks() * 512 < 100_000,
            "{name} has holes"
        );
    }
}

#[test]
fn folders_that_a_layer_does_not_describe_are_the_lower_layers() {
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    let base = || {
        Tar::new()
            .dir("tmp", 0o1777)
            .pax(&[
                ("uid", b"5"),
                ("SCHILY.xattr.user.k", b"v"),
                ("mtime", b"99.5"),
            ])
            .dir("tmp/own", 0o700)
            .dir("gone", 0o700)
            .done()
    };
    let middle = Tar::new().file(".wh.gone", b"").done();
    let top = Tar::new().file("tmp/own/f", b"").file("gone/g", b"").done();
    load(&store, &saved(&["x"], &[base(), middle, top.clone()], gzip)).unwrap();
    // The same layer on top of something else must not look the same.
    load(
        &store,
        &saved(
            &["y"],
            &[Tar::new().dir("tmp", 0o750).done(), top.clone()],
            gzip,
        ),
    )
    .unwrap();
    load(&store, &saved(&["z"], &[top], gzip)).unwrap();
    let lower = |name: &str| {
        let image = store.images().resolve(name).unwrap().image;
        store.images().rootfs(&image, None).unwrap()[1].clone()
    };
    let meta = |name: &str, path: &str| std::fs::metadata(lower(name).join(path)).unwrap();
    assert_eq!(meta("x", "tmp").mode() & 0o7777, 0o1777);
    assert_eq!(
        (
            meta("x", "tmp/own").mode() & 0o7777,
            meta("x", "tmp/own").uid()
        ),
        (0o700, 5)
    );
    assert_eq!(
        (
            meta("x", "tmp/own").mtime(),
            meta("x", "tmp/own").mtime_nsec()
        ),
        (99, 500_000_000)
    );
    assert_eq!(xattr(&lower("x").join("tmp/own"), "user.k").unwrap(), b"v");
    assert_eq!(
        meta("x", "gone").mode() & 0o7777,
        0o755,
        "was removed below"
    );
    assert_eq!(meta("y", "tmp").mode() & 0o7777, 0o750);
    assert_eq!(meta("z", "tmp").mode() & 0o7777, 0o755);
    assert_tidy(&store);
}

#[test]
fn mount_points_lie_on_top_and_look_like_the_image() {
    let layer = Tar::new()
        .pax(&[("mtime", b"1000.25"), ("uid", b"3")])
        .dir("etc", 0o750)
        .file("etc/hosts", b"image's own")
        .symlink("sys", "/elsewhere")
        .file("etc/passwd", b"root");
    let (scratch, store, root) = unpacked(layer);
    let image = store.images().list()[0].clone();
    let init = store.images().rootfs(&image, None).unwrap()[0].clone();
    let meta = |path: &str| std::fs::symlink_metadata(init.join(path)).unwrap();
    assert_eq!((meta("etc").mode() & 0o7777, meta("etc").uid()), (0o750, 3));
    assert_eq!(
        (meta("etc").mtime(), meta("etc").mtime_nsec()),
        (1000, 250_000_000)
    );
    for folder in ["proc", "sys", "dev/pts", "dev/shm"] {
        assert!(meta(folder).is_dir(), "{folder}");
    }
    for file in [
        ".dockerenv",
        "dev/console",
        "etc/hosts",
        "etc/hostname",
        "etc/resolv.conf",
    ] {
        assert!(
            meta(file).is_file() && meta(file).len() == 0 && meta(file).mode() & 0o7777 == 0o755,
            "{file}"
        );
    }
    assert_eq!(
        std::fs::read_link(init.join("etc/mtab")).unwrap(),
        Path::new("/proc/mounts")
    );
    // As a container would see it.
    let point = scratch.path().join("merged");
    std::fs::create_dir(&point).unwrap();
    let options = format!("lowerdir={}:{}", init.display(), root.display());
    let options = std::ffi::CString::new(options).unwrap();
    rustix::mount::mount(
        "overlay",
        &point,
        "overlay",
        rustix::mount::MountFlags::RDONLY,
        Some(options.as_c_str()),
    )
    .unwrap();
    let seen = |path: &str| std::fs::read(point.join(path)).map_err(|e| e.kind());
    let (hosts, passwd, sys) = (
        seen("etc/hosts"),
        seen("etc/passwd"),
        std::fs::symlink_metadata(point.join("sys"))
            .unwrap()
            .is_dir(),
    );
    rustix::mount::unmount(&point, rustix::mount::UnmountFlags::empty()).unwrap();
    assert_eq!(
        (hosts.unwrap(), passwd.unwrap(), sys),
        (vec![], b"root".to_vec(), true)
    );
}

#[test]
fn many_entries_deep_paths() {
    let mut layer = Tar::new();
    let mut path = String::new();
    for i in 0..120 {
        path = format!("{path}d{i}/");
        layer = layer.pax(&[("path", path.as_bytes())]).dir("d", 0o755);
    }
    for i in 0..500 {
        let name = format!("{path}f{i}");
        layer = layer.pax(&[("path", name.as_bytes())]).file("f", b"");
    }
    let (_scratch, _store, root) = unpacked(layer);
    assert!(root.join(format!("{path}f499")).exists());
}

/// Flips bytes of a good archive: whatever comes out, nothing panics, leaves its folder or stays half done.
#[test]
fn damaged_archives() {
    let outside = Scratch::new();
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    let good = Tar::new()
        .dir("a", 0o755)
        .file("a/f", &[7; 700])
        .symlink("l", &outside.path().display().to_string())
        .file(".wh.x", b"")
        .hardlink("h", "a/f")
        .pax(&[
            ("path", b"longer"),
            ("mtime", b"1.5"),
            ("SCHILY.xattr.user.a", b"b"),
        ])
        .file("f", b"1")
        .pax(&[
            ("GNU.sparse.numblocks", b"1"),
            ("GNU.sparse.size", b"2000"),
            ("GNU.sparse.map", b"1000,4"),
        ])
        .file("s", b"1234")
        .file("l/f", b"2")
        .done();
    let mut state = 7u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap()
    };
    let (mut kept, mut refused) = (0, 0);
    for _ in 0..150 {
        let mut bytes = good.clone();
        for _ in 0..=next() % 3 {
            let block = next() % (bytes.len() / 512);
            let at = block * 512 + next() % 512;
            bytes[at] = b"\0/.17xgLKS\xFF"[next() % 11];
            // A right checksum, so that damage goes further than the first look.
            let header = &mut bytes[block * 512..block * 512 + 512];
            if header[148..156].iter().any(|b| *b != 0) {
                header[148..156].fill(b' ');
                let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
                header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            }
        }
        let request = longshore_store::images::ImportRequest::default();
        match store
            .images()
            .import(bytes.as_slice(), request, &mut |_| vec![])
        {
            Ok(id) => {
                kept += 1;
                store.images().remove(&id, vec![]).unwrap();
            }
            Err(_) => refused += 1,
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
    assert_tidy(&store);
    assert!(kept > 5 && refused > 5, "{kept} kept, {refused} refused");
}
