//! Images: loading, names, removing, sharing, crashes.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use common::{
    Scratch,
    archive::{self, Tar, gzip, layout, saved, sha256, zstd},
    assert_tidy, load, open,
};
use longshore_model::{ErrorKind, Reference};
use longshore_store::{
    EventRange, Lease, Store,
    images::{ImportRequest, LoadRequest, manifest::Platform},
};

fn base() -> Vec<u8> {
    Tar::new()
        .dir("etc/", 0o755)
        .file("etc/passwd", b"root:x:0:0::/:/bin/sh\n")
        .file("bin", b"x")
        .done()
}

fn names(store: &Store) -> Vec<String> {
    let tags = store.images().tags();
    tags.iter()
        .map(|named| named.reference.familiar())
        .collect()
}

#[test]
fn old_archives_load_and_again_changes_nothing() {
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    let plain = saved(&["a:1", "b"], &[base()], <[u8]>::to_vec);
    for _ in 0..2 {
        assert_eq!(
            load(&store, &plain).unwrap(),
            ["Loaded image: a:1", "Loaded image: b:latest"]
        );
        assert_eq!(store.images().list().len(), 1);
        assert_eq!(names(&store), ["a:1", "b:latest"]);
        assert_tidy(&store);
    }
    let image = store.images().resolve("a:1").unwrap().image;
    assert_eq!(
        image.descriptor.media_type,
        "application/vnd.docker.distribution.manifest.v2+json"
    );
    assert_eq!(image.descriptor.platform, Platform::parse("linux/amd64"));
    // The manifest is the one that containerd makes of the same archive.
    let mut manifest = Vec::new();
    std::io::Read::read_to_end(&mut store.images().blob(image.id()).unwrap(), &mut manifest)
        .unwrap();
    let config = archive::config(&[base()], "amd64");
    assert_eq!(
        String::from_utf8(manifest).unwrap(),
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"sha256:{}","size":{}}},"layers":[{{"mediaType":"application/vnd.docker.image.rootfs.diff.tar","digest":"sha256:{}","size":{}}}]}}"#,
            sha256(&config),
            config.len(),
            sha256(&base()),
            base().len()
        )
    );
    let main = image.main().unwrap();
    assert_eq!(
        store.images().config(main).unwrap().config.cmd,
        Some(vec!["sh".to_owned()])
    );
    let history = store.images().history(main).unwrap();
    assert_eq!(history[0].created_by, "test");
    assert_eq!(history[0].size, main.unpacked_size());
    assert_eq!(store.events(EventRange::default()).unwrap().len(), 4);
    drop(store);
    let (store, report) = open(scratch.path());
    assert!(
        report.removed.is_empty() && report.quarantined.is_empty(),
        "{report:?}"
    );
    assert_eq!(*store.images().resolve("b").unwrap().image, *image);
    assert_tidy(&store);
}

#[test]
fn compressed_archives_and_layers() {
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    for (i, pack) in [gzip, zstd].into_iter().enumerate() {
        let tag = format!("x:{i}");
        let archive = pack(&saved(&[&tag], &[base()], pack));
        assert_eq!(
            load(&store, &archive).unwrap(),
            [format!("Loaded image: {tag}")]
        );
    }
    let archive = saved(&[], &[base()], gzip);
    let lines = load(&store, &archive).unwrap();
    assert!(
        lines[0].starts_with("Loaded image ID: sha256:"),
        "{lines:?}"
    );
    // Three ways to store it, one unpacked layer.
    assert_eq!(
        std::fs::read_dir(scratch.path().join("layers"))
            .unwrap()
            .count(),
        1
    );
    assert_tidy(&store);
}

#[test]
fn layouts_of_several_platforms() {
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    let other = Tar::new().file("arm", b"1").done();
    let archive = layout(
        "docker.io/library/multi:1",
        &[
            ("arm64", vec![other]),
            (&Platform::host().architecture, vec![base()]),
        ],
    );
    assert_eq!(load(&store, &archive).unwrap(), ["Loaded image: multi:1"]);
    let image = store.images().resolve("multi:1").unwrap().image;
    assert!(image.descriptor.is_index());
    assert_eq!(image.manifests.len(), 2);
    assert_eq!(
        image.descriptor.annotations["io.containerd.image.name"],
        "docker.io/library/multi:1"
    );
    let layers = |n: usize| {
        assert_eq!(
            std::fs::read_dir(scratch.path().join("layers"))
                .unwrap()
                .count(),
            n
        );
    };
    layers(1);
    let lower = store.images().rootfs(&image, None).unwrap();
    assert!(lower[1].join("etc/passwd").exists());
    let arm = Platform::parse("linux/arm64");
    let lower = store.images().rootfs(&image, arm.as_ref()).unwrap();
    assert!(lower[1].join("arm").exists());
    layers(2);
    let missing = store
        .images()
        .rootfs(&image, Platform::parse("linux/s390x").as_ref())
        .unwrap_err();
    assert_eq!(missing.kind, ErrorKind::NotFound);
    assert_tidy(&store);
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    let error = store
        .images()
        .load(
            archive.as_slice(),
            LoadRequest {
                platform: Platform::parse("linux/s390x"),
                events: &mut |_| vec![],
                progress: &mut |_| {},
            },
        )
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert_tidy(&store);
}

#[test]
fn names_ids_and_removal() {
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    let images = store.images();
    let top = Tar::new().file("top", b"1").done();
    load(&store, &saved(&["one"], &[base()], gzip)).unwrap();
    load(&store, &saved(&["two"], &[base(), top], gzip)).unwrap();
    let one = images.resolve("one").unwrap().image;
    let two = images.resolve("two:latest").unwrap().image;
    let hex = &one.id()["sha256:".len()..];
    for text in [
        one.id(),
        hex,
        &hex[..12],
        &format!("sha256:{}", &hex[..12]),
        &format!("one@{}", one.id()),
    ] {
        assert_eq!(images.resolve(text).unwrap().image.id(), one.id(), "{text}");
    }
    let missing = |text: &str| images.resolve(text).unwrap_err().message;
    assert_eq!(missing("nosuch"), "No such image: nosuch:latest");
    assert_eq!(
        missing(&"0".repeat(64)),
        format!("No such image: sha256:{}", "0".repeat(64))
    );
    assert_eq!(
        missing(&format!("two@{}", one.id())),
        format!("No such image: two@{}", one.id())
    );
    assert_eq!(
        images.resolve("A B").unwrap_err().kind,
        ErrorKind::InvalidParameter
    );

    let reference = |text: &str| Reference::parse(text).unwrap().or_latest();
    images.tag(&reference("x/y:z"), one.id(), vec![]).unwrap();
    assert_eq!(names(&store), ["one:latest", "two:latest", "x/y:z"]);
    images.tag(&reference("two"), one.id(), vec![]).unwrap();
    assert_eq!(images.tags_of(one.id()).len(), 3);
    images.tag(&reference("one:v2"), one.id(), vec![]).unwrap();
    let digest = |name: &str| format!("{name}@{}", one.id());
    assert_eq!(
        images.repo_digests(one.id()),
        [digest("one"), digest("two"), digest("x/y")]
    );
    assert!(images.untag(&reference("one:v2"), vec![]).unwrap());
    assert!(images.tags_of(two.id()).is_empty(), "the name went over");
    assert!(images.untag(&reference("x/y:z"), vec![]).unwrap());
    assert!(!images.untag(&reference("x/y:z"), vec![]).unwrap());
    assert_eq!(
        images
            .tag(&reference("q"), "sha256:0", vec![])
            .unwrap_err()
            .kind,
        ErrorKind::NotFound
    );

    // The base layer is shared: removing one image keeps it for the other.
    assert_eq!(
        images.shared_sizes()[one.id()],
        images.shared_sizes()[two.id()]
    );
    assert!(images.total_size() < one.size() + two.size());
    let lease = Lease::take(&store, one.id()).unwrap();
    assert_eq!(
        images.remove(one.id(), vec![]).unwrap_err().kind,
        ErrorKind::Conflict
    );
    drop(lease);
    images.remove(one.id(), vec![]).unwrap();
    assert!(Lease::take(&store, one.id()).is_none());
    assert!(names(&store).is_empty());
    let lower = images.rootfs(&two, None).unwrap();
    assert!(lower[1].join("top").exists() && lower[2].join("bin").exists());
    assert_tidy(&store);
    images.remove(two.id(), vec![]).unwrap();
    assert_eq!(
        images.remove(two.id(), vec![]).unwrap_err().kind,
        ErrorKind::NotFound
    );
    for folder in ["layers", "blobs/sha256"] {
        assert_eq!(
            std::fs::read_dir(scratch.path().join(folder))
                .unwrap()
                .count(),
            0
        );
    }
    assert_tidy(&store);
    drop(store);
    let (_store, report) = open(scratch.path());
    assert!(!report.removed.is_empty(), "the mount points' folder");
    assert_eq!(
        std::fs::read_dir(scratch.path().join("init"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn import_makes_an_image_of_one_layer() {
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    for (i, archive) in [base(), gzip(&base()), zstd(&base())]
        .into_iter()
        .enumerate()
    {
        let request = ImportRequest {
            reference: Some(Reference::parse(&format!("imp:{i}")).unwrap()),
            message: "note".to_owned(),
            changes: vec!["ENV X=1".to_owned()],
            platform: None,
        };
        let id = store
            .images()
            .import(archive.as_slice(), request, &mut |_| vec![])
            .unwrap();
        let image = store.images().resolve(&format!("imp:{i}")).unwrap().image;
        assert_eq!(image.id(), id);
        assert_eq!(
            image.descriptor.media_type,
            "application/vnd.oci.image.manifest.v1+json"
        );
        let config = store.images().config(image.main().unwrap()).unwrap();
        assert_eq!(config.config.env, ["X=1"]);
        assert_eq!(config.history[0].comment, "note");
        assert_eq!(
            config.rootfs.diff_ids,
            [format!("sha256:{}", sha256(&base()))]
        );
        let lower = store.images().rootfs(&image, None).unwrap();
        assert!(lower[1].join("etc/passwd").exists());
    }
    let request = ImportRequest {
        changes: vec!["RUN x".to_owned()],
        ..ImportRequest::default()
    };
    let error = store
        .images()
        .import(&b""[..], request, &mut |_| vec![])
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidParameter);
    let broken = &gzip(&base())[..60];
    assert!(
        store
            .images()
            .import(broken, ImportRequest::default(), &mut |_| vec![])
            .is_err()
    );
    assert!(
        store
            .images()
            .import(
                &b"no tar at all, but long enough to look like a block".repeat(20)[..],
                ImportRequest::default(),
                &mut |_| vec![]
            )
            .is_err()
    );
    assert_tidy(&store);
}

#[test]
fn broken_archives_leave_nothing() {
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    let good = saved(&["x"], &[base()], gzip);
    let lay = layout("docker.io/library/x:1", &[("amd64", vec![base()])]);
    let truncated_layer = saved(&["x"], &[base()], |l| gzip(l)[..80].to_vec());
    let wrong_layer = saved(&["x"], &[base()], |_| {
        gzip(&Tar::new().file("other", b"").done())
    });
    let mut flipped = lay.clone();
    // In the content of the first blob: its name does not fit any more.
    flipped[512 * 3 + 20] ^= 1;
    let no_layer = Tar::new()
        .file("c.json", &archive::config(&[base()], "amd64"))
        .file(
            "manifest.json",
            br#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":["gone.tar"]}]"#,
        )
        .done();
    let mismatch = Tar::new()
        .file("c.json", &archive::config(&[base(), base()], "amd64"))
        .file("l.tar", &base())
        .file(
            "manifest.json",
            br#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":["l.tar"]}]"#,
        )
        .done();
    let loop_of_links = Tar::new()
        .file("c.json", &archive::config(&[base()], "amd64"))
        .symlink("a", "b")
        .symlink("b", "a")
        .file(
            "manifest.json",
            br#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":["a"]}]"#,
        )
        .done();
    for (what, bytes) in [
        ("empty", vec![]),
        ("no tar", b"hello".repeat(300)),
        ("no image", Tar::new().file("a", b"b").done()),
        ("no json", Tar::new().file("manifest.json", b"{").done()),
        ("null", Tar::new().file("manifest.json", b"null").done()),
        ("bad name", saved(&["X Y"], &[base()], gzip)),
        ("truncated", good[..good.len() / 2].to_vec()),
        ("truncated gzip", gzip(&good)[..300].to_vec()),
        ("truncated layer", truncated_layer),
        ("wrong diff id", wrong_layer),
        ("bad digest", flipped),
        ("layer missing", no_layer),
        ("layer count", mismatch),
        ("links in a circle", loop_of_links),
        (
            "layout without index",
            Tar::new().file("oci-layout", b"{}").done(),
        ),
    ] {
        assert!(load(&store, &bytes).is_err(), "{what}");
        assert!(store.images().list().is_empty(), "{what}");
        for folder in ["layers", "blobs/sha256"] {
            let left = std::fs::read_dir(scratch.path().join(folder))
                .unwrap()
                .count();
            assert_eq!(left, 0, "{what} leaves {folder}");
        }
        assert_tidy(&store);
    }
    load(&store, &good).unwrap();
    load(&store, &lay).unwrap();
    assert_tidy(&store);
    assert!(store.images().resolve("x").is_ok());
}

#[test]
fn links_in_old_archives() {
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    let archive = Tar::new()
        .file("c.json", &archive::config(&[base()], "amd64"))
        .file("a/layer.tar", &base())
        .symlink("b/layer.tar", "../a/layer.tar")
        .file(
            "./manifest.json",
            br#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":["b/layer.tar"]}]"#,
        )
        .done();
    load(&store, &archive).unwrap();
    assert!(common::only_layer(&store).join("etc/passwd").exists());
}

#[test]
fn two_loads_at_once() {
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    std::thread::scope(|scope| {
        for i in 0..6 {
            let store = store.clone();
            scope.spawn(move || {
                let own = Tar::new()
                    .file("own", format!("{}", i % 3).as_bytes())
                    .done();
                let tag = format!("t{i}");
                load(&store, &saved(&[&tag], &[base(), own], gzip)).unwrap();
                if i == 5 {
                    store.images().collect_garbage().unwrap();
                }
            });
        }
    });
    assert_eq!(store.images().list().len(), 3);
    assert_eq!(names(&store).len(), 6);
    assert_tidy(&store);
}

#[test]
fn layers_lost_from_the_disk_are_unpacked_again() {
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    load(&store, &saved(&["x"], &[base()], gzip)).unwrap();
    let layer = common::only_layer(&store);
    drop(store);
    std::fs::remove_dir_all(&layer).unwrap();
    let (store, report) = open(scratch.path());
    assert_eq!(report.quarantined.len(), 1);
    assert!(common::only_layer(&store).join("etc/passwd").exists());
    assert_tidy(&store);
    // Without its configuration an image is none.
    let image = store.images().resolve("x").unwrap().image;
    let config = image.main().unwrap().config.digest.clone();
    drop(store);
    let path = scratch
        .path()
        .join("blobs/sha256")
        .join(&config["sha256:".len()..]);
    std::fs::remove_file(path).unwrap();
    let (store, report) = open(scratch.path());
    assert!(report.quarantined.iter().any(|q| q.table == "image"));
    assert!(report.quarantined.iter().any(|q| q.table == "tag"));
    assert!(store.images().list().is_empty());
    assert_tidy(&store);
}

#[test]
fn fsck_finds_what_is_wrong() {
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    load(&store, &saved(&["x"], &[base()], gzip)).unwrap();
    let image = store.images().resolve("x").unwrap().image;
    let layer = common::only_layer(&store);
    std::fs::write(layer.join("extra"), "1").unwrap();
    let blob = &image.main().unwrap().layers[0].blob.digest["sha256:".len()..];
    let blob = scratch.path().join("blobs/sha256").join(blob);
    let mut content = std::fs::read(&blob).unwrap();
    content[30] ^= 1;
    std::fs::write(&blob, content).unwrap();
    std::fs::create_dir(scratch.path().join("layers/stray")).unwrap();
    store
        .containers()
        .prepare(&longshore_model::ContainerId::random())
        .unwrap();
    let findings = store.fsck().unwrap();
    for part in ["blob sha256:", "layers/", "layers/stray", "containers/"] {
        assert!(
            findings.iter().any(|f| f.what.contains(part)),
            "{part}: {findings:?}"
        );
    }
    assert_eq!(findings.len(), 4, "{findings:?}");
}

#[test]
fn the_embedded_image() {
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    let payload = scratch.path().join("payload");
    std::fs::write(&payload, "#!program").unwrap();
    let id = store
        .images()
        .ensure_hello_image(&payload, &mut |_| vec![])
        .unwrap();
    assert_eq!(
        store
            .images()
            .ensure_hello_image(&payload, &mut |_| vec![])
            .unwrap(),
        id
    );
    let image = store
        .images()
        .resolve(longshore_store::HELLO)
        .unwrap()
        .image;
    let config = store.images().config(image.main().unwrap()).unwrap();
    assert_eq!(config.config.entrypoint, Some(vec!["/hello".to_owned()]));
    assert_eq!(config.config.cmd, Some(vec!["greet".to_owned()]));
    assert!(config.config.exposed_ports.contains_key("80/tcp"));
    let hello = common::only_layer(&store).join("hello");
    assert_eq!(std::fs::read(&hello).unwrap(), b"#!program");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&hello).unwrap());
    assert_eq!(mode & 0o7777, 0o755);
    std::fs::write(&payload, "#!newer program").unwrap();
    let newer = store
        .images()
        .ensure_hello_image(&payload, &mut |_| vec![])
        .unwrap();
    assert_ne!(newer, id);
    assert_eq!(store.images().list().len(), 1, "the old one is gone");
    assert_tidy(&store);
}

/// Child half of the kill test.
#[test]
#[ignore = "run as a child by kill_9_while_loading"]
fn child_loads_until_killed() {
    let Some(root) = std::env::var_os("STORE_TEST_ROOT") else {
        return;
    };
    let (store, _) = open(Path::new(&root));
    println!("child ready");
    for i in 0.. {
        let mut tar = Tar::new();
        for n in 0..200 {
            tar = tar.file(
                &format!("d{}/f{n}", n % 7),
                format!("{i} {n}").repeat(50).as_bytes(),
            );
        }
        load(
            &store,
            &saved(&[&format!("k:{i}")], &[base(), tar.done()], gzip),
        )
        .unwrap();
        if i % 3 == 2 {
            let image = store.images().resolve(&format!("k:{i}")).unwrap().image;
            store.images().remove(image.id(), vec![]).unwrap();
        }
    }
}

#[test]
fn kill_9_while_loading() {
    let scratch = Scratch::new();
    for round in 0..8u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "--nocapture",
                "child_loads_until_killed",
            ])
            .env("STORE_TEST_ROOT", scratch.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while let Some(Ok(line)) = lines.next() {
            if line.contains("child ready") {
                break;
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(37 * round + 11));
        child.kill().unwrap();
        child.wait().unwrap();
        let (store, report) = open(scratch.path());
        assert!(report.moved_aside.is_none());
        assert_tidy(&store);
        for image in store.images().list() {
            let lower = store.images().rootfs(&image, None).unwrap();
            assert_eq!(std::fs::read_dir(&lower[1]).unwrap().count(), 7, "whole");
        }
        assert_tidy(&store);
    }
}
