//! Binds, volumes, tmpfs, the root file system.

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
        cases!("volumes", Any;
            create_inspect_remove, create_twice, generated_name, labels_and_options, list_filters, remove_in_use, remove_missing,
            named_survives_container, anonymous_goes_with_v, anonymous_stays_without_v, auto_remove_takes_anonymous, copy_up, copy_up_once,
            nocopy, read_only, shared_by_two, volumes_from, image_volumes, bad_names, unknown_driver, force_remove, owner_is_kept, local_bind_options,
        )
        .to_vec(),
    ]
    .concat()
}

/// A folder of the host that goes away with the run.
fn folder(ctx: &Ctx, name: &str) -> Outcome<PathBuf> {
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

fn refused(ctx: &Ctx, host: &Value) -> Outcome<String> {
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

fn create_inspect_remove(ctx: &Ctx) -> Outcome {
    let name = ctx.name("v");
    let made = ctx
        .post("/volumes/create", &json!({"Name": name}))?
        .expect(201)?
        .json()?;
    same!(
        (&made["Name"], &made["Driver"], &made["Scope"]),
        (&json!(name), &json!("local"), &json!("local"))
    );
    same!(
        made["Options"].is_null() || made["Options"] == json!({}),
        true
    );
    let got = ctx.json(&format!("/volumes/{name}"))?;
    let point = got["Mountpoint"].as_str().unwrap_or_default();
    ensure!(std::path::Path::new(point).is_dir(), "no folder {point}");
    ensure!(
        got["CreatedAt"]
            .as_str()
            .is_some_and(|t| t.len() >= 20 && t.as_bytes()[10] == b'T'),
        "CreatedAt {}",
        got["CreatedAt"]
    );
    ctx.delete(&format!("/volumes/{name}"))?.expect(204)?;
    ensure!(
        !std::path::Path::new(point).exists(),
        "{point} is still there"
    );
    same!(ctx.get(&format!("/volumes/{name}"))?.status, 404);
    Ok(())
}

fn create_twice(ctx: &Ctx) -> Outcome {
    let body = json!({"Name": ctx.name("v"), "Labels": {"a": "b"}});
    let first = ctx.post("/volumes/create", &body)?.expect(201)?.json()?;
    same!(
        ctx.post("/volumes/create", &body)?.expect(201)?.json()?,
        first
    );
    Ok(())
}

fn generated_name(ctx: &Ctx) -> Outcome {
    let made = ctx
        .post("/volumes/create", &json!({}))?
        .expect(201)?
        .json()?;
    let name = made["Name"].as_str().unwrap_or_default();
    ctx.delete(&format!("/volumes/{name}"))?.expect(204)?;
    same!(name.len(), 64);
    Ok(())
}

fn labels_and_options(ctx: &Ctx) -> Outcome {
    let body = json!({"Name": ctx.name("v"), "Labels": {"k": "v"}, "DriverOpts": {"type": "none", "device": "/tmp", "o": "bind"}});
    ctx.post("/volumes/create", &body)?.expect(201)?;
    let got = ctx.json(&format!("/volumes/{}", ctx.name("v")))?;
    same!(got["Labels"], body["Labels"]);
    same!(got["Options"], body["DriverOpts"]);
    Ok(())
}

fn list_filters(ctx: &Ctx) -> Outcome {
    let key = ctx.name("k");
    for name in ["a", "b"] {
        ctx.post(
            "/volumes/create",
            &json!({"Name": ctx.name(name), "Labels": {&key: name}}),
        )?
        .expect(201)?;
    }
    ctx.create(
        "c",
        &json!({"HostConfig": {"Binds": [format!("{}:/x", ctx.name("a"))]}}),
    )?;
    let names = |filters: Value| -> Outcome<Vec<String>> {
        let list = ctx.json(&format!(
            "/volumes?filters={}",
            e2e::http::escape(&filters.to_string())
        ))?;
        let mut names: Vec<String> = list["Volumes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|v| Some(v["Name"].as_str()?.to_owned()))
            .collect();
        names.sort();
        Ok(names)
    };
    let (a, b) = (ctx.name("a"), ctx.name("b"));
    same!(names(json!({"label": [key]}))?, [a.clone(), b.clone()]);
    same!(
        names(json!({"label": [format!("{key}=b")]}))?,
        vec![b.clone()]
    );
    same!(names(json!({"name": [a]}))?, vec![a.clone()]);
    same!(names(json!({"dangling": ["true"], "label": [key]}))?, [b]);
    same!(names(json!({"dangling": ["false"], "label": [key]}))?, [a]);
    same!(names(json!({"driver": ["absent"]}))?, Vec::<String>::new());
    let bad = ctx.get(&format!(
        "/volumes?filters={}",
        e2e::http::escape(r#"{"bogus":["x"]}"#)
    ))?;
    ensure!(ctx.refused(bad.status), "bogus filter: {}", bad.status);
    Ok(())
}

fn remove_in_use(ctx: &Ctx) -> Outcome {
    let name = ctx.name("v");
    let id = ctx.create(
        "c",
        &json!({"HostConfig": {"Binds": [format!("{name}:/x")]}}),
    )?;
    for query in ["", "?force=1"] {
        let answer = ctx.delete(&format!("/volumes/{name}{query}"))?;
        same!(answer.status, 409);
        has!(answer.message(), "volume is in use");
        has!(answer.message(), id);
    }
    ctx.remove(&id)?;
    ctx.delete(&format!("/volumes/{name}"))?.expect(204)?;
    Ok(())
}

fn remove_missing(ctx: &Ctx) -> Outcome {
    let answer = ctx.delete("/volumes/absent")?;
    same!(answer.status, 404);
    has!(answer.message(), "get absent: no such volume");
    Ok(())
}

fn force_remove(ctx: &Ctx) -> Outcome {
    same!(ctx.delete("/volumes/absent?force=1")?.status, 204);
    Ok(())
}

fn named_survives_container(ctx: &Ctx) -> Outcome {
    let host = json!({"Binds": [format!("{}:/data", ctx.name("v"))]});
    ctx.sh("a", host.clone(), "echo kept > /data/f")?.ok()?;
    same!(ctx.sh("b", host, "cat /data/f")?.line(), "kept");
    Ok(())
}

fn anonymous(ctx: &Ctx, id: &str) -> Outcome<String> {
    Ok(ctx.inspect(id)?["Mounts"][0]["Name"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

fn anonymous_goes_with_v(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Volumes": {"/data": {}}}))?;
    let volume = anonymous(ctx, &id)?;
    same!(ctx.get(&format!("/volumes/{volume}"))?.status, 200);
    ctx.delete(&format!("/containers/{id}?v=1"))?.expect(204)?;
    same!(ctx.get(&format!("/volumes/{volume}"))?.status, 404);
    Ok(())
}

fn anonymous_stays_without_v(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Volumes": {"/data": {}}}))?;
    let volume = anonymous(ctx, &id)?;
    ctx.delete(&format!("/containers/{id}"))?.expect(204)?;
    same!(ctx.delete(&format!("/volumes/{volume}"))?.status, 204);
    Ok(())
}

fn auto_remove_takes_anonymous(ctx: &Ctx) -> Outcome {
    let named = ctx.name("v");
    let id = ctx.create("c", &json!({"Cmd": ["true"], "Volumes": {"/data": {}}, "HostConfig": {"AutoRemove": true, "Binds": [format!("{named}:/n")]}}))?;
    let mounts = ctx.inspect(&id)?["Mounts"].clone();
    let volume = mounts
        .as_array()
        .into_iter()
        .flatten()
        .find(|m| m["Destination"] == "/data")
        .and_then(|m| m["Name"].as_str().map(str::to_owned));
    ctx.start(&id)?;
    ctx.act(&format!("/containers/{id}/wait?condition=removed"))?;
    same!(
        ctx.get(&format!("/volumes/{}", volume.unwrap_or_default()))?
            .status,
        404
    );
    same!(ctx.get(&format!("/volumes/{named}"))?.status, 200);
    Ok(())
}

fn copy_up(ctx: &Ctx) -> Outcome {
    let host = json!({"Binds": [format!("{}:/etc", ctx.name("v"))]});
    let out = ctx
        .sh(
            "c",
            host,
            "cat /etc/passwd | head -1; stat -c %a /etc; cat /etc/hostname",
        )?
        .ok()?;
    has!(out.stdout, "root:x:0:0:root:/root:/bin/sh\n755\n");
    let out = ctx.sh(
        "d",
        json!({"Binds": [format!("{}:/tmp", ctx.name("t"))]}),
        "stat -c %a /tmp",
    )?;
    same!(out.line(), "1777", "the mode comes along");
    Ok(())
}

fn copy_up_once(ctx: &Ctx) -> Outcome {
    let host = json!({"Binds": [format!("{}:/etc", ctx.name("v"))]});
    ctx.sh("a", host.clone(), "rm /etc/group; echo x > /etc/new")?
        .ok()?;
    same!(
        ctx.sh("b", host, "test -e /etc/group || echo gone; cat /etc/new")?
            .stdout,
        "gone\nx\n"
    );
    Ok(())
}

fn nocopy(ctx: &Ctx) -> Outcome {
    for (name, host) in [
        (
            "a",
            json!({"Binds": [format!("{}:/var:nocopy", ctx.name("v"))]}),
        ),
        (
            "b",
            json!({"Mounts": [{"Type": "volume", "Source": ctx.name("w"), "Target": "/var", "VolumeOptions": {"NoCopy": true}}]}),
        ),
    ] {
        same!(ctx.sh(name, host, "ls -A /var | wc -l")?.line(), "0");
    }
    Ok(())
}

fn read_only(ctx: &Ctx) -> Outcome {
    let out = ctx.sh(
        "c",
        json!({"Binds": [format!("{}:/data:ro", ctx.name("v"))]}),
        "touch /data/x",
    )?;
    has!(out.stderr, "Read-only file system");
    Ok(())
}

fn shared_by_two(ctx: &Ctx) -> Outcome {
    let host = json!({"Binds": [format!("{}:/data", ctx.name("v"))]});
    let id = ctx.launch("a", &json!({"Cmd": ["sh", "-c", "while ! test -e /data/f; do sleep 0.05; done; echo seen"], "HostConfig": host}))?;
    ctx.sh("b", host, "touch /data/f")?.ok()?;
    same!(ctx.wait(&id)?, 0);
    Ok(())
}

fn volumes_from(ctx: &Ctx) -> Outcome {
    ctx.create("a", &json!({"Volumes": {"/anon": {}}, "HostConfig": {"Binds": [format!("{}:/data", ctx.name("v")), "/usr:/hostusr"]}}))?;
    ctx.sh(
        "w",
        json!({"VolumesFrom": [ctx.name("a")]}),
        "echo 1 > /data/f; echo 2 > /anon/f",
    )?
    .ok()?;
    let out = ctx.sh(
        "r",
        json!({"VolumesFrom": [format!("{}:ro", ctx.name("a"))]}),
        "cat /data/f /anon/f; test -d /hostusr/bin && echo usr; touch /data/x",
    )?;
    same!(out.stdout, "1\n2\nusr\n");
    has!(out.stderr, "Read-only file system");
    has!(
        refused(ctx, &json!({"VolumesFrom": ["absent"]}))?,
        "No such container: absent"
    );
    Ok(())
}

fn image_volumes(ctx: &Ctx) -> Outcome {
    let tag = format!("{}:1", ctx.name("img"));
    let base = crate::images::layer(&[
        crate::images::Entry::Folder("bin", 0o755),
        crate::images::Entry::File("bin/busybox", &fs::read("/bin/busybox")?, 0o755),
        crate::images::Entry::Link("bin/cat", "busybox"),
        crate::images::Entry::File("data/seed", b"seeded", 0o644),
    ])?;
    crate::cases::images::load(
        ctx,
        &crate::images::image(
            &tag,
            &json!({"Cmd": ["cat", "/data/seed"], "Env": ["PATH=/bin"], "Volumes": {"/data": {}}}),
            &[base],
        )?,
    )?;
    let id = ctx.launch("c", &json!({"Image": tag}))?;
    ctx.wait(&id)?;
    same!(ctx.logs(&id, "")?.0, "seeded");
    let mount = ctx.inspect(&id)?["Mounts"][0].clone();
    same!(
        (&mount["Destination"], &mount["Type"]),
        (&json!("/data"), &json!("volume"))
    );
    Ok(())
}

fn bad_names(ctx: &Ctx) -> Outcome {
    for name in ["bad/name", "a", ".x", "sp ace"] {
        let answer = ctx.post("/volumes/create", &json!({"Name": name}))?;
        ensure!(ctx.refused(answer.status), "{name}: {}", answer.status);
        ensure!(
            answer.message().contains("includes invalid characters")
                || answer.message().contains("too short"),
            "{name}: {}",
            answer.message()
        );
    }
    Ok(())
}

fn unknown_driver(ctx: &Ctx) -> Outcome {
    let answer = ctx.post(
        "/volumes/create",
        &json!({"Name": ctx.name("v"), "Driver": "absentdriver"}),
    )?;
    ensure!(answer.status >= 400, "an unknown driver was accepted");
    has!(answer.message(), "absentdriver");
    Ok(())
}

fn owner_is_kept(ctx: &Ctx) -> Outcome {
    let tag = format!("{}:1", ctx.name("img"));
    let made = ctx.launch("m", &json!({"Cmd": ["true"]}))?;
    ctx.wait(&made)?;
    let out = ctx.sh(
        "c",
        json!({"Binds": [format!("{}:/home", ctx.name("v"))]}),
        "chown 33:33 /home; touch /home/f; stat -c %u:%g /home",
    )?;
    same!(out.line(), "33:33", "{tag}");
    let out = ctx.sh(
        "d",
        json!({"Binds": [format!("{}:/home", ctx.name("v"))]}),
        "stat -c %u:%g /home",
    )?;
    same!(out.line(), "33:33");
    Ok(())
}

/// A volume may stand for a directory of the host.
fn local_bind_options(ctx: &Ctx) -> Outcome {
    let name = ctx.name("v");
    let dir = ctx.world.scratch.join(&name);
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("there"), "content")?;
    let options = json!({"type": "none", "device": dir, "o": "bind"});
    ctx.post(
        "/volumes/create",
        &json!({"Name": name, "DriverOpts": options}),
    )?
    .expect(201)?;
    let out = ctx
        .sh(
            "c",
            json!({"Binds": [format!("{name}:/data")]}),
            "cat /data/there; echo back > /data/from-inside",
        )?
        .ok()?;
    same!(out.line(), "content");
    same!(std::fs::read_to_string(dir.join("from-inside"))?, "back\n");
    let bad = ctx.post(
        "/volumes/create",
        &json!({"Name": ctx.name("w"), "DriverOpts": {"bogus": "x"}}),
    )?;
    ensure!(ctx.refused(bad.status), "a bogus option: {}", bad.status);
    Ok(())
}
