//! Binds, tmpfs, devices, the root file system.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use e2e::{check::Outcome, ensure, has, same};
use serde_json::{Value, json};

use crate::{cases::cases, context::Ctx, runner::Case};

pub fn list() -> Vec<Case> {
    [
        cases!("mounts", Any;
            bind, bind_read_only, bind_file, bind_creates_missing_source, mount_refuses_missing_source, bind_through_symlink, propagation,
            bad_binds, same_target_twice, read_only_root, tmpfs, tmpfs_by_mount, shm_size, standard_mounts, masked_paths, dev_nodes,
            etc_files_are_writable, docker_env_file, target_through_symlink_stays_inside, nested_targets, working_dir_is_made,
            proc_is_not_writable, root_is_overlay_and_private, mount_over_etc_hosts, device_of_host, relative_target_refused,
        )
        .to_vec(),
    ]
    .concat()
}

/// A folder of the host that goes away with the run.
pub(super) fn folder(ctx: &Ctx, name: &str) -> Outcome<PathBuf> {
    let path = ctx.world.scratch.join(ctx.name(name));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path)?;
    Ok(path)
}

fn bind(ctx: &Ctx) -> Outcome {
    let host = folder(ctx, "d")?;
    fs::write(host.join("in"), "from host")?;
    let binds = json!({"Binds": [format!("{}:/m", host.display())]});
    same!(
        ctx.sh("c", binds, "cat /m/in; echo back > /m/out")?.stdout,
        "from host"
    );
    same!(fs::read_to_string(host.join("out"))?, "back\n");
    Ok(())
}

fn bind_read_only(ctx: &Ctx) -> Outcome {
    let host = folder(ctx, "d")?;
    for host_config in [
        json!({"Binds": [format!("{}:/m:ro", host.display())]}),
        json!({"Mounts": [{"Type": "bind", "Source": host, "Target": "/m", "ReadOnly": true}]}),
    ] {
        let out = ctx.sh(
            "c",
            host_config,
            "touch /m/x; mount -o remount,rw /m; touch /m/x",
        )?;
        ensure!(out.code != 0, "wrote to a read-only bind");
        has!(out.stderr, "Read-only file system");
    }
    ensure!(!host.join("x").exists(), "the file is there");
    Ok(())
}

fn bind_file(ctx: &Ctx) -> Outcome {
    let host = folder(ctx, "d")?;
    fs::write(host.join("f"), "content")?;
    let out = ctx.sh(
        "c",
        json!({"Binds": [format!("{}/f:/a/b/c/f", host.display())]}),
        "cat /a/b/c/f",
    )?;
    same!(out.stdout, "content");
    Ok(())
}

fn bind_creates_missing_source(ctx: &Ctx) -> Outcome {
    let host = folder(ctx, "d")?.join("not/yet");
    ctx.sh(
        "c",
        json!({"Binds": [format!("{}:/m", host.display())]}),
        "touch /m/x",
    )?
    .ok()?;
    ensure!(host.join("x").exists(), "the source was not made");
    Ok(())
}

fn mount_refuses_missing_source(ctx: &Ctx) -> Outcome {
    let missing = folder(ctx, "d")?.join("absent");
    let body = json!({"Image": "busybox", "HostConfig": {"Mounts": [{"Type": "bind", "Source": missing, "Target": "/m"}]}});
    let answer = ctx.post(&format!("/containers/create?name={}", ctx.name("c")), &body)?;
    same!(answer.status, 400);
    has!(answer.message(), "bind source path does not exist");
    ensure!(!missing.exists(), "the source was made");
    same!(
        ctx.get(&format!("/containers/{}/json", ctx.name("c")))?
            .status,
        404
    );
    Ok(())
}

fn bind_through_symlink(ctx: &Ctx) -> Outcome {
    let host = folder(ctx, "d")?;
    fs::create_dir(host.join("real"))?;
    fs::write(host.join("real/f"), "x")?;
    symlink("real", host.join("link"))?;
    same!(
        ctx.sh(
            "c",
            json!({"Binds": [format!("{}/link:/m", host.display())]}),
            "cat /m/f"
        )?
        .stdout,
        "x"
    );
    Ok(())
}

fn propagation(ctx: &Ctx) -> Outcome {
    let host = folder(ctx, "d")?;
    for mode in ["rprivate", "private"] {
        let out = ctx
            .sh(
                "c",
                json!({"Binds": [format!("{}:/m:{mode}", host.display())]}),
                "grep ' /m ' /proc/self/mountinfo",
            )?
            .ok()?;
        ensure!(
            !out.stdout.contains("shared:") && !out.stdout.contains("master:"),
            "{mode}: {}",
            out.stdout
        );
    }
    let answer = ctx.post(
        "/containers/create",
        &json!({"Image": "busybox", "HostConfig": {"Binds": ["/tmp:/m:bogusmode"]}}),
    )?;
    ensure!(ctx.refused(answer.status), "{}", answer.status);
    has!(answer.message(), "invalid mode: bogusmode");
    Ok(())
}

pub(super) fn refused(ctx: &Ctx, host: &Value) -> Outcome<String> {
    let answer = ctx.post(
        &format!("/containers/create?name={}", ctx.name("c")),
        &json!({"Image": "busybox", "HostConfig": host}),
    )?;
    ensure!(
        ctx.refused(answer.status),
        "{host}: status {} {}",
        answer.status,
        answer.text()
    );
    same!(
        ctx.get(&format!("/containers/{}/json", ctx.name("c")))?
            .status,
        404,
        "{host} left a container"
    );
    Ok(answer.message())
}

fn bad_binds(ctx: &Ctx) -> Outcome {
    has!(
        refused(ctx, &json!({"Binds": ["/a:/b:rw:more:x"]}))?,
        "invalid volume specification"
    );
    has!(
        refused(ctx, &json!({"Binds": ["/tmp:/"]}))?,
        "destination can't be '/'"
    );
    has!(
        refused(ctx, &json!({"Binds": ["bad name:/x"]}))?,
        "includes invalid characters for a local volume name"
    );
    refused(ctx, &json!({"Binds": [":/x"]}))?;
    refused(ctx, &json!({"Binds": ["/tmp:relative"]}))?;
    refused(ctx, &json!({"Mounts": [{"Type": "bogus", "Target": "/x"}]}))?;
    refused(ctx, &json!({"Mounts": [{"Type": "bind", "Target": "/x"}]}))?;
    refused(
        ctx,
        &json!({"Mounts": [{"Type": "bind", "Source": "relative", "Target": "/x"}]}),
    )?;
    refused(
        ctx,
        &json!({"Mounts": [{"Type": "tmpfs", "Source": "/tmp", "Target": "/x"}]}),
    )?;
    refused(
        ctx,
        &json!({"Mounts": [{"Type": "volume", "Source": "v", "Target": ""}]}),
    )?;
    Ok(())
}

fn same_target_twice(ctx: &Ctx) -> Outcome {
    has!(
        refused(ctx, &json!({"Binds": ["/tmp:/m", "/etc:/m"]}))?,
        "Duplicate mount point: /m"
    );
    has!(
        refused(
            ctx,
            &json!({"Binds": ["/tmp:/m"], "Mounts": [{"Type": "tmpfs", "Target": "/m/"}]})
        )?,
        "Duplicate mount point: /m"
    );
    Ok(())
}

fn read_only_root(ctx: &Ctx) -> Outcome {
    let out = ctx.sh(
        "c",
        json!({"ReadonlyRootfs": true, "Tmpfs": {"/run": ""}}),
        "touch /x; touch /run/x && echo run; touch /dev/shm/x && echo shm; touch /etc/y",
    )?;
    has!(out.stderr, "/x: Read-only file system");
    has!(out.stderr, "/etc/y: Read-only file system");
    same!(out.stdout, "run\nshm\n");
    Ok(())
}

fn tmpfs(ctx: &Ctx) -> Outcome {
    let out = ctx
        .sh(
            "c",
            json!({"Tmpfs": {"/t": "size=1m,mode=1700", "/u": ""}}),
            "grep -E ' /[tu] ' /proc/mounts; stat -c %a /t; df -k /t | tail -1",
        )?
        .ok()?;
    has!(
        out.stdout,
        "tmpfs /t tmpfs rw,nosuid,nodev,noexec,relatime,size=1024k,mode=1700"
    );
    has!(out.stdout, "tmpfs /u tmpfs rw,nosuid,nodev,noexec,relatime");
    has!(out.stdout, "\n1700\n");
    Ok(())
}

fn tmpfs_by_mount(ctx: &Ctx) -> Outcome {
    let host = json!({"Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 65536, "Mode": 0o770}}]});
    let out = ctx.sh(
        "c",
        host,
        "grep ' /t ' /proc/mounts; head -c 100000 /dev/zero > /t/f; stat -c '%a %s' /t /t/f",
    )?;
    has!(out.stdout, "size=64k");
    has!(out.stdout, "770 ");
    ensure!(
        !out.stdout.contains("100000"),
        "more was written than fits: {}",
        out.stdout
    );
    Ok(())
}

fn shm_size(ctx: &Ctx) -> Outcome {
    has!(
        ctx.sh("c", json!({}), "grep /dev/shm /proc/mounts")?.stdout,
        "size=65536k"
    );
    has!(
        ctx.sh(
            "c",
            json!({"ShmSize": 1_048_576}),
            "grep /dev/shm /proc/mounts"
        )?
        .stdout,
        "size=1024k"
    );
    has!(
        refused(ctx, &json!({"ShmSize": -1}))?.to_lowercase(),
        "shm size"
    );
    Ok(())
}

fn standard_mounts(ctx: &Ctx) -> Outcome {
    let mounts = ctx.sh("c", json!({}), "cat /proc/mounts")?.stdout;
    for line in [
        "proc /proc proc rw,nosuid,nodev,noexec,relatime 0 0",
        "tmpfs /dev tmpfs rw,nosuid,size=65536k,mode=755",
        "devpts /dev/pts devpts rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666 0 0",
        "sysfs /sys sysfs ro,nosuid,nodev,noexec,relatime 0 0",
        "mqueue /dev/mqueue mqueue rw,nosuid,nodev,noexec,relatime 0 0",
        "shm /dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=65536k",
        " /etc/resolv.conf ",
        " /etc/hostname ",
        " /etc/hosts ",
        "proc /proc/bus proc ro,",
        "proc /proc/fs proc ro,",
        "proc /proc/irq proc ro,",
        "proc /proc/sys proc ro,",
        "proc /proc/sysrq-trigger proc ro,",
    ] {
        // not every kernel has the last
        if line.contains("sysrq") && !std::path::Path::new("/proc/sysrq-trigger").exists() {
            continue;
        }
        has!(mounts, line);
    }
    has!(mounts, " /sys/fs/cgroup ");
    Ok(())
}

fn masked_paths(ctx: &Ctx) -> Outcome {
    let out = ctx.sh("c", json!({}), "for f in kcore keys timer_list; do test -e /proc/$f && echo $f $(head -c 10 /proc/$f | wc -c); done; ls -A /proc/acpi /sys/firmware /proc/scsi 2>/dev/null | grep -v : | grep -c .")?;
    for line in out.stdout.lines().filter(|l| l.contains(' ')) {
        ensure!(line.ends_with(" 0"), "{line} bytes of a masked file");
    }
    ensure!(
        out.stdout.ends_with("0\n"),
        "a masked folder has entries: {}",
        out.stdout
    );
    Ok(())
}

fn dev_nodes(ctx: &Ctx) -> Outcome {
    let out = ctx.sh("c", json!({}), "ls /dev; cat /dev/null; head -c 4 /dev/zero | wc -c; echo x > /dev/full; for l in ptmx fd stdin stdout stderr; do readlink /dev/$l; done; stat -c '%a %t,%T' /dev/null")?;
    has!(
        out.stdout.replace('\n', " "),
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
    has!(
        out.stdout,
        "pts/ptmx\n/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\n666 1,3\n"
    );
    has!(out.stderr, "No space left on device");
    let tty = ctx.launch(
        "t",
        &json!({"Tty": true, "Cmd": ["ls", "-l", "/dev/console"]}),
    )?;
    same!(ctx.wait(&tty)?, 0, "a terminal has /dev/console");
    Ok(())
}

fn etc_files_are_writable(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", "echo 1.1.1.1 mine >> /etc/hosts && echo '# x' >> /etc/resolv.conf && cat /etc/hosts && sleep 600"]}))?;
    ctx.log_has(&id, "1.1.1.1 mine")?;
    Ok(())
}

fn docker_env_file(ctx: &Ctx) -> Outcome {
    same!(
        ctx.sh("c", json!({}), "stat -c '%s %F' /.dockerenv")?
            .line(),
        "0 regular empty file"
    );
    Ok(())
}

fn target_through_symlink_stays_inside(ctx: &Ctx) -> Outcome {
    let host = folder(ctx, "d")?;
    fs::write(host.join("f"), "bound")?;
    // the image's own link points out of the root by an absolute path; it must be resolved inside
    let tag = format!("{}:1", ctx.name("img"));
    let base = crate::images::layer(&[
        crate::images::Entry::Folder("bin", 0o755),
        crate::images::Entry::File("bin/busybox", &fs::read("/bin/busybox")?, 0o755),
        crate::images::Entry::Link("bin/sh", "busybox"),
        crate::images::Entry::Link("bin/cat", "busybox"),
        crate::images::Entry::Folder("inside", 0o755),
        crate::images::Entry::Link("link", "/inside"),
        crate::images::Entry::Link("up", "../../../../../../../../inside"),
    ])?;
    crate::cases::images::load(
        ctx,
        &crate::images::image(&tag, &json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]}), &[base])?,
    )?;
    for target in ["/link/m", "/up/m"] {
        let out = ctx.run("c", &json!({"Image": tag, "Cmd": ["cat", "/inside/m/f"], "HostConfig": {"Binds": [format!("{}:{target}", host.display())]}}))?;
        same!(out.stdout, "bound", "target {target}: {}", out.stderr);
    }
    ensure!(
        !std::path::Path::new("/inside").exists(),
        "the host has /inside now"
    );
    Ok(())
}

fn nested_targets(ctx: &Ctx) -> Outcome {
    let (outer, inner) = (folder(ctx, "outer")?, folder(ctx, "inner")?);
    fs::write(inner.join("f"), "inner")?;
    let host = json!({"Binds": [format!("{}:/m/sub", inner.display()), format!("{}:/m", outer.display())]});
    same!(
        ctx.sh("c", host, "cat /m/sub/f")?.stdout,
        "inner",
        "the shorter target is mounted first"
    );
    Ok(())
}

fn working_dir_is_made(ctx: &Ctx) -> Outcome {
    same!(
        ctx.run("c", &json!({"Cmd": ["pwd"], "WorkingDir": "/made/for/me"}))?
            .line(),
        "/made/for/me"
    );
    let bad = ctx.post(
        "/containers/create",
        &json!({"Image": "busybox", "WorkingDir": "relative"}),
    )?;
    same!(bad.status, 400);
    has!(
        bad.message(),
        "the working directory 'relative' is invalid, it needs to be an absolute path"
    );
    Ok(())
}

fn proc_is_not_writable(ctx: &Ctx) -> Outcome {
    let out = ctx.sh("c", json!({}), "echo 1 > /proc/sys/kernel/panic; echo b > /proc/sysrq-trigger; echo x > /sys/kernel/uevent_helper; true")?;
    ensure!(
        out.stderr.matches("Read-only").count()
            + out.stderr.matches("nonexistent").count()
            + out.stderr.matches("ermission denied").count()
            >= 2,
        "{}",
        out.stderr
    );
    Ok(())
}

fn root_is_overlay_and_private(ctx: &Ctx) -> Outcome {
    let one = ctx.launch(
        "a",
        &json!({"Cmd": ["sh", "-c", "echo a > /bin/mark; rm /etc/group; sleep 600"]}),
    )?;
    let two = ctx.sleeper("b")?;
    e2e::check::until(5, "mark", || {
        Ok((ctx
            .exec_sh(&one, "test -e /bin/mark -a ! -e /etc/group")?
            .code
            == 0)
            .then_some(()))
    })?;
    same!(
        ctx.exec_sh(
            &two,
            "test -e /bin/mark || test -e /etc/group && echo clean"
        )?
        .line(),
        "clean"
    );
    has!(
        ctx.exec_sh(&one, "grep ' / ' /proc/mounts")?.stdout,
        "overlay / overlay rw,relatime"
    );
    Ok(())
}

fn mount_over_etc_hosts(ctx: &Ctx) -> Outcome {
    let host = folder(ctx, "d")?;
    fs::write(host.join("hosts"), "mine\n")?;
    let out = ctx.sh(
        "c",
        json!({"Binds": [format!("{}/hosts:/etc/hosts", host.display())]}),
        "cat /etc/hosts; grep -c ' /etc/hosts ' /proc/mounts",
    )?;
    same!(out.stdout, "mine\n1\n");
    Ok(())
}

fn device_of_host(ctx: &Ctx) -> Outcome {
    let device = |permissions: &str| json!({"Devices": [{"PathOnHost": "/dev/zero", "PathInContainer": "/dev/mine", "CgroupPermissions": permissions}]});
    same!(
        ctx.sh("c", device("rwm"), "head -c 3 /dev/mine | wc -c")?
            .line(),
        "3"
    );
    let out = ctx.sh("c", json!({"Devices": [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/f", "CgroupPermissions": "r"}]}), "stat -c %t,%T /dev/f; echo > /dev/f")?;
    if std::path::Path::new("/dev/fuse").exists() {
        has!(out.stdout, "a,e5");
        has!(out.stderr, "not permitted");
    }
    let bad = ctx.launch("d", &json!({"Cmd": ["true"], "HostConfig": {"Devices": [{"PathOnHost": "/dev/absent", "PathInContainer": "/dev/x", "CgroupPermissions": "rwm"}]}}));
    ensure!(bad.is_err(), "an absent device was accepted");
    // without a rule the node can be made but not opened
    let out = ctx.sh(
        "e",
        json!({}),
        "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk",
    )?;
    ensure!(out.code != 0, "a disk could be read");
    has!(out.stderr, "not permitted");
    Ok(())
}

fn relative_target_refused(ctx: &Ctx) -> Outcome {
    let bad = refused(
        ctx,
        &json!({"Mounts": [{"Type": "tmpfs", "Target": "relative"}]}),
    )?;
    has!(bad, "relative");
    Ok(())
}
