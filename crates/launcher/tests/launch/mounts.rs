//! Binds, volumes, tmpfs, read-only roots.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::PathBuf,
};

use longshore_launcher::plan::*;

use super::{Case, sandbox::*};

pub const CASES: &[Case] = &[
    ("binds", binds),
    ("submounts_read_only", submounts_read_only),
    ("propagation", propagation),
    ("tmpfs", tmpfs),
    ("volume_copy_up", volume_copy_up),
    ("read_only_root", read_only_root),
    ("many_layers", many_layers),
    ("mount_failures", mount_failures),
    ("own_shm", own_shm),
];

pub fn bind(source: PathBuf, target: &str) -> MountPlan {
    MountPlan {
        target: target.to_owned(),
        kind: MountKind::Bind {
            source,
            recursive: true,
            read_only_recursive: None,
            propagation: String::new(),
            copy_up: false,
        },
        read_only: false,
    }
}

fn binds() {
    let mut sandbox = Sandbox::new().script(
        "cat /made/up/file /data/x; echo new > /data/y; touch /ro/z; ls -l /made | cut -c1-10",
    );
    let host = sandbox.directory.join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("x"), "from the host\n").unwrap();
    sandbox.plan.mounts = vec![
        bind(host.join("x"), "/made/up/file"),
        bind(host.clone(), "/data"),
        MountPlan {
            read_only: true,
            ..bind(host.clone(), "/ro")
        },
    ];
    let outcome = sandbox.run();
    assert_eq!(
        outcome.out, "from the host\nfrom the host\ntotal 4\ndrwxr-xr-x\n",
        "{}",
        outcome.err
    );
    assert!(
        outcome.err.contains("/ro/z: Read-only file system"),
        "{}",
        outcome.err
    );
    assert_eq!(fs::read_to_string(host.join("y")).unwrap(), "new\n");
}

/// A mount on the host for the time of a case.
struct HostMount(PathBuf);

impl HostMount {
    fn tmpfs(at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        rustix::mount::mount(
            "tmpfs",
            &at,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            None,
        )
        .unwrap();
        Self(at)
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

fn submounts_read_only() {
    for (recursive, expected) in [(None, 2), (Some(true), 2), (Some(false), 1)] {
        let mut sandbox = Sandbox::new().script("touch /b/x; touch /b/below/x; true");
        let host = sandbox.directory.join("host");
        let _below = HostMount::tmpfs(host.join("below"));
        let mut mount = bind(host, "/b");
        mount.read_only = true;
        if let MountKind::Bind {
            read_only_recursive,
            ..
        } = &mut mount.kind
        {
            *read_only_recursive = recursive;
        }
        sandbox.plan.mounts = vec![mount];
        let outcome = sandbox.run();
        assert_eq!(
            outcome.err.matches("Read-only").count(),
            expected,
            "{recursive:?}: {}",
            outcome.err
        );
    }
}

/// What the host mounts later shows in a slave and shared bind, not in a private one; what the container mounts shows on the host only
/// when it is shared.
fn propagation() {
    for (name, inwards, outwards) in [
        ("", false, false),
        ("rslave", true, false),
        ("rshared", true, true),
    ] {
        let mut sandbox = Sandbox::new()
            .script("mkdir /b/inner; mount -t tmpfs inner /b/inner; while ! test -e /b/go; do sleep 0.01; done; ls /b/later");
        let host = HostMount::tmpfs(sandbox.directory.join("host"));
        rustix::mount::mount_change(&host.0, rustix::mount::MountPropagationFlags::SHARED).unwrap();
        fs::create_dir(host.0.join("later")).unwrap();
        let mut mount = bind(host.0.clone(), "/b");
        if let MountKind::Bind { propagation, .. } = &mut mount.kind {
            *propagation = name.to_owned();
        }
        sandbox.plan.mounts = vec![mount];
        sandbox.plan.rootfs.shared_propagation = !name.is_empty();
        sandbox.plan.process.capabilities |= 1 << 21;
        sandbox.plan.process.seccomp = None;
        let (stdio, out, err) = pipes();
        let launched = longshore_launcher::parent::launch(&sandbox.plan, stdio).unwrap();
        let later = HostMount::tmpfs(host.0.join("later"));
        fs::write(later.0.join("seen"), "").unwrap();
        fs::write(host.0.join("go"), "").unwrap();
        let outcome = sandbox.finish(launched, out, err);
        assert_eq!(outcome.out == "seen\n", inwards, "{name}: {outcome:?}");
        let mounted = fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains("/host/inner ");
        assert_eq!(mounted, outwards, "{name}");
        let _ = rustix::mount::unmount(host.0.join("inner"), rustix::mount::UnmountFlags::DETACH);
    }
}

fn tmpfs() {
    let mut sandbox =
        Sandbox::new().script("mount | grep -E ' /(run|t|tmp) '; stat -c %a /run /t /tmp");
    let tmpfs = |target: &str, data: &[(&str, &str)], flags: &[&str]| MountPlan {
        target: target.to_owned(),
        kind: MountKind::Tmpfs {
            data: data
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            flags: flags.iter().map(|f| (*f).to_owned()).collect(),
        },
        read_only: false,
    };
    fs::set_permissions(
        sandbox.lower().join("tmp"),
        fs::Permissions::from_mode(0o1770),
    )
    .unwrap();
    sandbox.plan.mounts = vec![
        tmpfs("/run", &[("size", "1m")], &[]),
        tmpfs(
            "/t",
            &[("size", "1000000"), ("mode", "700")],
            &["exec", "suid"],
        ),
        tmpfs("/tmp", &[], &["ro"]),
    ];
    let outcome = sandbox.run();
    let expected = "tmpfs on /run type tmpfs (rw,nosuid,nodev,noexec,relatime,size=1024k)
tmpfs on /t type tmpfs (rw,nodev,relatime,size=980k,mode=700)
tmpfs on /tmp type tmpfs (ro,nosuid,nodev,noexec,relatime,mode=1770)
1777
700
1770
";
    assert_eq!(outcome.out, expected, "{}", outcome.err);
}

fn volume_copy_up() {
    let mut sandbox =
        Sandbox::new().script("ls -R /data; cat /data/sub/link; echo more > /data/more");
    let image = sandbox.lower().join("data");
    fs::create_dir_all(image.join("sub")).unwrap();
    fs::write(image.join("file"), "content\n").unwrap();
    fs::set_permissions(image.join("file"), fs::Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::chown(image.join("file"), Some(12), Some(34)).unwrap();
    std::os::unix::fs::chown(&image, Some(56), Some(78)).unwrap();
    fs::set_permissions(&image, fs::Permissions::from_mode(0o2770)).unwrap();
    symlink("../file", image.join("sub/link")).unwrap();
    rustix::fs::setxattr(
        image.join("file"),
        "user.x",
        b"y",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let volume = sandbox.directory.join("volume");
    fs::create_dir(&volume).unwrap();
    let mut mount = bind(volume.clone(), "/data");
    if let MountKind::Bind { copy_up, .. } = &mut mount.kind {
        *copy_up = true;
    }
    sandbox.plan.mounts = vec![mount];
    let outcome = sandbox.run();
    assert_eq!(
        outcome.out, "/data:\nfile\nsub\n\n/data/sub:\nlink\ncontent\n",
        "{}",
        outcome.err
    );
    let (from, to) = (
        fs::metadata(image.join("file")).unwrap(),
        fs::metadata(volume.join("file")).unwrap(),
    );
    let of = |m: &fs::Metadata| (m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec());
    assert_eq!(of(&from), of(&to));
    let top = fs::metadata(&volume).unwrap();
    assert_eq!(
        (top.mode() & 0o7777, top.uid(), top.gid()),
        (0o2770, 56, 78)
    );
    let mut value = [0u8; 8];
    let length = rustix::fs::getxattr(volume.join("file"), "user.x", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"y");
    // A volume with content is left as it is.
    fs::remove_file(volume.join("file")).unwrap();
    assert_eq!(sandbox.run().out, "/data:\nmore\nsub\n\n/data/sub:\nlink\n");
}

fn read_only_root() {
    let mut sandbox = Sandbox::new()
        .script("touch /x; touch /dev/shm/ok && touch /tmp/ok && mount | head -1 | cut -c1-40");
    sandbox.plan.rootfs.read_only = true;
    sandbox.plan.mounts = vec![MountPlan {
        target: "/tmp".to_owned(),
        kind: MountKind::Tmpfs {
            data: Vec::new(),
            flags: Vec::new(),
        },
        read_only: false,
    }];
    let outcome = sandbox.run();
    assert!(
        outcome.err.contains("/x: Read-only file system"),
        "{}",
        outcome.err
    );
    assert_eq!(outcome.out, "overlay on / type overlay (ro,relatime,l\n");
}

fn many_layers() {
    let mut sandbox = Sandbox::new().script("cat /layer/*; cat /top");
    let mut lower = Vec::new();
    for number in (0..50).rev() {
        let layer = sandbox
            .directory
            .join(format!("a-layer-with-a-rather-long-name-{number:02}"));
        fs::create_dir_all(layer.join("layer")).unwrap();
        fs::write(layer.join(format!("layer/{number:02}")), "x").unwrap();
        fs::write(layer.join("top"), format!("\n{number}")).unwrap();
        lower.push(layer);
    }
    lower.push(sandbox.lower());
    sandbox.plan.rootfs.lower = lower;
    let outcome = sandbox.run();
    assert_eq!(
        outcome.out,
        format!("{}\n49", "x".repeat(50)),
        "{}",
        outcome.err
    );
}

fn mount_failures() {
    let mut sandbox = Sandbox::new();
    sandbox.plan.mounts = vec![bind("/nosuch/source".into(), "/x")];
    let failure = sandbox.failure();
    assert_eq!(
        failure.message,
        "error during container init: error mounting \"/nosuch/source\" to rootfs at \"/x\": no such file or directory"
    );
    sandbox.plan.mounts = vec![bind("/etc/passwd".into(), "/tmp")];
    assert!(sandbox.failure().message.ends_with(": not a directory"));
    sandbox.plan.mounts = vec![bind("/tmp".into(), "/etc/passwd")];
    assert!(sandbox.failure().message.ends_with(": not a directory"));
    sandbox.plan.mounts = vec![bind("/tmp".into(), "/proc/sys")];
    assert!(
        sandbox
            .failure()
            .message
            .ends_with("cannot be mounted because it is inside /proc")
    );
}

fn own_shm() {
    let mut sandbox = Sandbox::new().script("ls /dev/shm; mount | grep -c ' /dev/shm '");
    let host = sandbox.directory.join("shm");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("mine"), "").unwrap();
    sandbox.plan.mounts = vec![bind(host, "/dev/shm")];
    assert_eq!(sandbox.run().out, "mine\n1\n");
}
