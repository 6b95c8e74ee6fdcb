//! What the local driver mounts (tmpfs, binds), who shares it and when it goes; mounts of images.

use std::fs;

use e2e::{check::Outcome, ensure, has, same};
use serde_json::{Value, json};

use super::own::Own;
use crate::{cases::cases, context::Ctx, runner::Case};

pub fn list() -> Vec<Case> {
    [
        cases!("volumedriver", Any; tmpfs_is_shared_and_goes_after_the_last, bind_is_seen_at_the_mountpoint, bad_options,
            missing_device, servers_by_name, failed_start_leaves_no_mount, removed_with_content_elsewhere, volumes_from_keeps_details, usage,
            by_mount_with_options, many_at_once, cli, binds_and_what_is_mounted_below)
        .to_vec(),
        cases!("volumedriver", Daemon; counted_over_kill, left_mount_goes_at_the_start).to_vec(),
        cases!("imagemount", Daemon; whole_image, part_of_an_image, image_is_kept).to_vec(),
    ]
    .concat()
}

/// Makes a volume; gives its mountpoint.
fn volume(ctx: &Ctx, name: &str, options: &Value) -> Outcome<String> {
    let made = ctx
        .post(
            "/volumes/create",
            &json!({"Name": name, "DriverOpts": options}),
        )?
        .expect(201)?
        .json()?;
    Ok(made["Mountpoint"].as_str().unwrap_or_default().to_owned())
}

fn tmpfs_options() -> Value {
    json!({"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=750"})
}

/// What a command in a container prints.
fn says(ctx: &Ctx, id: &str, words: &[&str]) -> Outcome<String> {
    Ok(ctx.exec(id, &json!({"Cmd": words}))?.stdout)
}

/// How often something is mounted at a place.
fn mounts_at(place: &str) -> Outcome<usize> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let at = |line: &&str| line.split(' ').nth(4) == Some(place);
    Ok(table.lines().filter(at).count())
}

fn tmpfs_is_shared_and_goes_after_the_last(ctx: &Ctx) -> Outcome {
    let name = ctx.name("v");
    let point = volume(ctx, &name, &tmpfs_options())?;
    let body = json!({"Cmd": ["sleep", "600"], "HostConfig": {"Binds": [format!("{name}:/t")]}});
    same!(mounts_at(&point)?, 0);
    let first = ctx.launch("a", &body)?;
    same!(mounts_at(&point)?, 1);
    let second = ctx.launch("b", &body)?;
    let mount = says(
        ctx,
        &first,
        &["sh", "-c", "echo shared > /t/f; grep ' /t ' /proc/mounts"],
    )?;
    has!(mount, "tmpfs /t tmpfs rw,");
    has!(mount, "size=1024k,mode=750");
    same!(says(ctx, &second, &["cat", "/t/f"])?, "shared\n");
    same!(fs::read_to_string(format!("{point}/f"))?, "shared\n");
    ctx.act(&format!("/containers/{first}/restart?t=0"))?
        .expect(204)?;
    ctx.kill(&first)?;
    ctx.wait(&first)?;
    same!(mounts_at(&point)?, 1);
    same!(says(ctx, &second, &["cat", "/t/f"])?, "shared\n");
    ctx.remove(&second)?;
    same!(mounts_at(&point)?, 0);
    same!(fs::read_dir(&point)?.count(), 0);
    ctx.remove(&first)
}

fn bind_is_seen_at_the_mountpoint(ctx: &Ctx) -> Outcome {
    let name = ctx.name("v");
    let dir = ctx.world.scratch.join(&name);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("there"), "content")?;
    let point = volume(
        ctx,
        &name,
        &json!({"type": "none", "device": dir, "o": "bind,ro"}),
    )?;
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sleep", "600"], "HostConfig": {"Binds": [format!("{name}:/data")]}}),
    )?;
    same!(fs::read_to_string(format!("{point}/there"))?, "content");
    let out = says(
        ctx,
        &id,
        &["sh", "-c", "cat /data/there; touch /data/x 2>&1; true"],
    )?;
    has!(out, "content");
    has!(out, "Read-only file system");
    ctx.remove(&id)?;
    same!(mounts_at(&point)?, 0);
    ensure!(dir.join("there").exists(), "the folder lost its file");
    Ok(())
}

fn bad_options(ctx: &Ctx) -> Outcome {
    for (options, text) in [
        (json!({"bogus": "x"}), "invalid option: \"bogus\""),
        (
            json!({"type": "tmpfs"}),
            "missing required option: \"device\"",
        ),
        (json!({"device": "/x"}), "missing required option: \"type\""),
        (
            json!({"o": "bind", "device": "/x"}),
            "missing required option: \"type\"",
        ),
    ] {
        let answer = ctx.post(
            "/volumes/create",
            &json!({"Name": ctx.name("v"), "DriverOpts": options}),
        )?;
        ensure!(ctx.refused(answer.status), "{options}: {}", answer.status);
        has!(answer.message(), text);
        same!(ctx.get(&format!("/volumes/{}", ctx.name("v")))?.status, 404);
    }
    Ok(())
}

fn missing_device(ctx: &Ctx) -> Outcome {
    let name = ctx.name("v");
    let point = volume(
        ctx,
        &name,
        &json!({"type": "none", "device": "/no/such/folder", "o": "bind"}),
    )?;
    // nocopy: dockerd mounts at create, too, to copy.
    let id = ctx.create(
        "c",
        &json!({"HostConfig": {"Binds": [format!("{name}:/data:nocopy")]}}),
    )?;
    let answer = ctx.act(&format!("/containers/{id}/start"))?;
    same!(answer.status, 500);
    let want = format!(
        "error while mounting volume '{point}': failed to mount local volume: mount /no/such/folder:{point}, flags: 0x1000: \
         no such file or directory"
    );
    same!(answer.message(), want);
    same!(ctx.inspect(&id)?["State"]["Running"], false);
    Ok(())
}

/// Names of servers are looked up. This kernel may have no nfs: what the mount was tried with is told then.
fn servers_by_name(ctx: &Ctx) -> Outcome {
    for (suffix, host, text) in [
        ("v", "localhost", "data: addr=127.0.0.1,"),
        ("w", "192.0.2.7", "data: addr=192.0.2.7,"),
        (
            "x",
            "no-such-host.invalid",
            "error resolving passed in network volume address: ",
        ),
    ] {
        let options = json!({"type": "nfs", "device": ":/export", "o": format!("addr={host},soft,timeo=1,retrans=1")});
        volume(ctx, &ctx.name(suffix), &options)?;
        let body = json!({"HostConfig": {"Binds": [format!("{}:/data:nocopy", ctx.name(suffix))]}});
        let id = ctx.create(suffix, &body)?;
        let answer = ctx.act(&format!("/containers/{id}/start"))?;
        same!(answer.status, 500);
        has!(answer.message(), text);
    }
    Ok(())
}

fn failed_start_leaves_no_mount(ctx: &Ctx) -> Outcome {
    let name = ctx.name("v");
    let point = volume(ctx, &name, &tmpfs_options())?;
    let id = ctx.create(
        "c",
        &json!({"Cmd": ["/no/such/program"], "HostConfig": {"Binds": [format!("{name}:/t")]}}),
    )?;
    for _ in 0..3 {
        same!(ctx.act(&format!("/containers/{id}/start"))?.status, 400);
        same!(mounts_at(&point)?, 0);
    }
    Ok(())
}

/// Removing a volume never reaches into what it stands for.
fn removed_with_content_elsewhere(ctx: &Ctx) -> Outcome {
    let name = ctx.name("v");
    let dir = ctx.world.scratch.join(&name);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("precious"), "x")?;
    let point = volume(
        ctx,
        &name,
        &json!({"type": "none", "device": dir, "o": "bind"}),
    )?;
    ctx.sh(
        "c",
        json!({"Binds": [format!("{name}:/data")]}),
        "cat /data/precious",
    )?
    .ok()?;
    ctx.delete(&format!("/volumes/{name}"))?.expect(204)?;
    ensure!(dir.join("precious").exists(), "the folder was emptied");
    ensure!(!fs::exists(&point)?, "{point} is still there");
    Ok(())
}

fn volumes_from_keeps_details(ctx: &Ctx) -> Outcome {
    let name = ctx.name("v");
    volume(ctx, &name, &tmpfs_options())?;
    let folder = ctx.world.scratch.join(ctx.name("d"));
    fs::create_dir_all(&folder)?;
    let first = ctx.launch(
        "a",
        &json!({"Cmd": ["sleep", "600"], "Volumes": {"/anon": {}}, "HostConfig": {"Binds": [format!("{name}:/t"), format!("{}:/b:ro", folder.display())]}}),
    )?;
    says(ctx, &first, &["sh", "-c", "echo 1 > /t/f"])?;
    let second = ctx.launch(
        "b",
        &json!({"Cmd": ["sleep", "600"], "HostConfig": {"VolumesFrom": [first]}}),
    )?;
    same!(says(ctx, &second, &["cat", "/t/f"])?, "1\n");
    let third = ctx.launch(
        "c",
        &json!({"Cmd": ["sleep", "600"], "HostConfig": {"VolumesFrom": [format!("{second}:ro")]}}),
    )?;
    let points = |id: &str| -> Outcome<Vec<(String, String, bool)>> {
        let got = ctx.inspect(id)?;
        let mut all: Vec<_> = got["Mounts"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|m| {
                (
                    m["Destination"].as_str().unwrap_or_default().to_owned(),
                    m["Mode"].as_str().unwrap_or_default().to_owned(),
                    m["RW"] == true,
                )
            })
            .collect();
        all.sort();
        Ok(all)
    };
    let point = |path: &str, mode: &str, rw| (path.to_owned(), mode.to_owned(), rw);
    same!(
        points(&first)?,
        [
            point("/anon", "", true),
            point("/b", "ro", false),
            point("/t", "z", true)
        ]
    );
    same!(
        points(&second)?,
        [
            point("/anon", "", true),
            point("/b", "", false),
            point("/t", "", true)
        ]
    );
    same!(
        points(&third)?,
        [
            point("/anon", "", false),
            point("/b", "", false),
            point("/t", "", false)
        ]
    );
    Ok(())
}

fn usage(ctx: &Ctx) -> Outcome {
    let name = ctx.name("v");
    volume(ctx, &name, &json!({}))?;
    let row = || -> Outcome<Value> {
        let all = ctx.json("/system/df?type=volume")?;
        let list = all["Volumes"].as_array().cloned().unwrap_or_default();
        Ok(list
            .into_iter()
            .find(|v| v["Name"] == name.as_str())
            .unwrap_or_default()["UsageData"]
            .clone())
    };
    same!(row()?, json!({"RefCount": 0, "Size": 0}));
    let body = json!({"Cmd": ["sh", "-c", "head -c 100000 /dev/zero > /d/f"], "HostConfig": {"Binds": [format!("{name}:/d")]}});
    let id = ctx.launch("a", &body)?;
    ctx.wait(&id)?;
    ctx.create("b", &body)?;
    same!(row()?, json!({"RefCount": 2, "Size": 100_000}));
    ctx.remove(&id)?;
    same!(row()?["RefCount"], 1);
    Ok(())
}

fn by_mount_with_options(ctx: &Ctx) -> Outcome {
    let name = ctx.name("v");
    let mount = json!({"Type": "volume", "Source": name, "Target": "/t", "VolumeOptions": {"NoCopy": true, "Labels": {"k": "v"},
        "DriverConfig": {"Name": "local", "Options": tmpfs_options()}}});
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sleep", "600"], "HostConfig": {"Mounts": [mount]}}),
    )?;
    has!(
        says(ctx, &id, &["cat", "/proc/mounts"])?,
        "tmpfs /t tmpfs rw"
    );
    let got = ctx.json(&format!("/volumes/{name}"))?;
    same!(
        (&got["Labels"], &got["Options"]),
        (&json!({"k": "v"}), &tmpfs_options())
    );
    ctx.remove(&id)
}

/// Containers that come and go in parallel: the mount is there while one runs, and gone afterwards.
fn many_at_once(ctx: &Ctx) -> Outcome {
    let name = ctx.name("v");
    let point = volume(ctx, &name, &tmpfs_options())?;
    let body = json!({"Cmd": ["sh", "-c", "grep -q ' /t tmpfs' /proc/mounts || exit 9; usleep 20000"], "HostConfig": {"Binds": [format!("{name}:/t")]}});
    let results: Vec<Outcome<i64>> = std::thread::scope(|scope| {
        let body = &body;
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                scope.spawn(move || {
                    let id = ctx.create(&format!("c{worker}"), body)?;
                    let mut worst = 0;
                    for _ in 0..4 {
                        ctx.start(&id)?;
                        worst = worst.max(ctx.wait(&id)?);
                    }
                    Ok(worst)
                })
            })
            .collect();
        workers.into_iter().filter_map(|w| w.join().ok()).collect()
    });
    for result in results {
        same!(result?, 0);
    }
    same!(mounts_at(&point)?, 0);
    Ok(())
}

fn cli(ctx: &Ctx) -> Outcome {
    let name = ctx.name("v");
    let made = ctx
        .docker(&[
            "volume",
            "create",
            "--opt",
            "type=tmpfs",
            "--opt",
            "device=tmpfs",
            "--opt",
            "o=size=1m",
            "--label",
            "a=b",
            &name,
        ])?
        .ok()?;
    same!(made.line(), name);
    let mount = format!("type=volume,src={name},dst=/t,readonly,volume-nocopy");
    let out = ctx
        .docker(&[
            "run",
            "--rm",
            "--mount",
            &mount,
            "busybox",
            "grep",
            " /t ",
            "/proc/mounts",
        ])?
        .ok()?;
    has!(out.stdout, "tmpfs /t tmpfs ro");
    let listed = ctx
        .docker(&[
            "volume",
            "ls",
            "-q",
            "-f",
            "label=a=b",
            "-f",
            &format!("name={name}"),
            "-f",
            "dangling=true",
        ])?
        .ok()?;
    same!(listed.line(), name);
    let gone = ctx.docker(&["volume", "rm", &name])?.ok()?;
    same!(gone.line(), name);
    Ok(())
}

/// `bind-recursive` and its kin: what of the mounts below a bind is seen, and what can be written.
fn binds_and_what_is_mounted_below(ctx: &Ctx) -> Outcome {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    let top = ctx.world.scratch.join(ctx.name("top"));
    let below = top.join("below");
    fs::create_dir_all(&below)?;
    mount("tmpfs", &below, "tmpfs", MountFlags::empty(), None)?;
    fs::write(below.join("seen"), "")?;
    let script = "ls /b/below; touch /b/x 2>/dev/null && echo top; touch /b/below/x 2>/dev/null && echo below; true";
    let run = |suffix: &str, read_only: bool, options: Value| -> Outcome<Vec<String>> {
        let mount = json!({"Type": "bind", "Source": top, "Target": "/b", "ReadOnly": read_only, "BindOptions": options});
        let out = ctx.sh(suffix, json!({"Mounts": [mount]}), script)?.ok()?;
        let _ = (
            fs::remove_file(top.join("x")),
            fs::remove_file(below.join("x")),
        );
        Ok(out.stdout.lines().map(str::to_owned).collect())
    };
    let check = || -> Outcome {
        same!(run("a", false, json!({}))?, ["seen", "top", "below"]);
        same!(
            run("b", false, json!({"NonRecursive": true}))?,
            ["top", "below"]
        );
        // Read-only has reached further down since 25.
        let whole: &[&str] = if ctx.api(44) {
            &["seen"]
        } else {
            &["seen", "below"]
        };
        same!(run("c", true, json!({}))?, whole);
        if ctx.api(44) {
            same!(
                run("d", true, json!({"ReadOnlyNonRecursive": true}))?,
                ["seen", "below"]
            );
            let forced = json!({"ReadOnlyForceRecursive": true, "Propagation": "rprivate"});
            same!(run("e", true, forced)?, ["seen"]);
        }
        Ok(())
    };
    let result = check();
    unmount(&below, UnmountFlags::DETACH)?;
    result
}

fn counted_over_kill(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let point = volume(&own.ctx, "vol", &tmpfs_options())?;
    let body = json!({"Cmd": ["sleep", "600"], "HostConfig": {"Binds": ["vol:/t"]}});
    let first = own.ctx.launch("a", &body)?;
    says(&own.ctx, &first, &["sh", "-c", "echo kept > /t/f"])?;
    own.engine.kill()?;
    own.engine.launch()?;
    same!(mounts_at(&point)?, 1);
    let second = own.ctx.launch("b", &body)?;
    same!(says(&own.ctx, &second, &["cat", "/t/f"])?, "kept\n");
    same!(mounts_at(&point)?, 1);
    own.ctx.remove(&first)?;
    same!(mounts_at(&point)?, 1);
    own.ctx.remove(&second)?;
    same!(mounts_at(&point)?, 0);
    own.done()
}

fn left_mount_goes_at_the_start(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let point = volume(&own.ctx, "vol", &tmpfs_options())?;
    let id = own.ctx.launch(
        "a",
        &json!({"Cmd": ["sleep", "1"], "HostConfig": {"Binds": ["vol:/t"]}}),
    )?;
    own.engine.kill()?;
    std::thread::sleep(std::time::Duration::from_millis(1500));
    same!(mounts_at(&point)?, 1);
    own.engine.launch()?;
    same!(mounts_at(&point)?, 0);
    same!(own.ctx.inspect(&id)?["State"]["Status"], "exited");
    own.done()
}

fn image_mount(target: &str, options: &Value) -> Value {
    json!({"Type": "image", "Source": "busybox", "Target": target, "ImageOptions": options})
}

fn whole_image(ctx: &Ctx) -> Outcome {
    let out = ctx.sh(
        "c",
        json!({"Mounts": [image_mount("/i", &json!({}))]}),
        "ls /i/bin | grep -x busybox; ls -A /i/.dockerenv; touch /i/x",
    )?;
    has!(out.stdout, "busybox");
    has!(out.stderr, "/i/.dockerenv: No such file");
    has!(out.stderr, "Read-only file system");
    let id = ctx.create(
        "d",
        &json!({"HostConfig": {"Mounts": [image_mount("/i", &json!({}))]}}),
    )?;
    let point = ctx.inspect(&id)?["Mounts"][0].clone();
    same!(
        (
            &point["Type"],
            &point["Name"],
            &point["RW"],
            &point["Destination"]
        ),
        (
            &json!("image"),
            &json!("busybox"),
            &json!(false),
            &json!("/i")
        )
    );
    let answer = ctx.post("/containers/create", &json!({"Image": "busybox", "HostConfig": {"Mounts": [{"Type": "image", "Source": "nosuch", "Target": "/i"}]}}))?;
    same!(answer.status, 404);
    ctx.remove(&id)
}

fn part_of_an_image(ctx: &Ctx) -> Outcome {
    let part = |path: &str| json!({"Mounts": [image_mount("/i", &json!({"Subpath": path}))]});
    let out = ctx
        .sh(
            "c",
            part("etc"),
            "cat /i/passwd; cat /proc/mounts | grep -c ' /i '",
        )?
        .ok()?;
    has!(out.stdout, "root:");
    has!(out.stdout, "\n1\n");
    let file = ctx.sh("f", part("etc/passwd"), "cat /i")?.ok()?;
    has!(file.stdout, "root:");
    let id = ctx.create("m", &json!({"HostConfig": part("no/such")}))?;
    let answer = ctx.act(&format!("/containers/{id}/start"))?;
    ensure!(answer.status >= 400, "a missing part: {}", answer.status);
    has!(answer.message(), "no such file or directory");
    let bad = ctx.post(
        "/containers/create",
        &json!({"Image": "busybox", "HostConfig": part("../x")}),
    )?;
    same!(bad.status, 400);
    ctx.remove(&id)
}

fn image_is_kept(ctx: &Ctx) -> Outcome {
    let own = Own::start(ctx)?;
    let mount = json!({"Type": "image", "Source": "busybox", "Target": "/i"});
    own.ctx.docker(&["tag", "busybox", "other"])?.ok()?;
    let id = own.ctx.create(
        "c",
        &json!({"Image": "hello-world", "HostConfig": {"Mounts": [mount]}}),
    )?;
    let image = own.ctx.json("/images/busybox/json")?["Id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let refused = own.ctx.delete(&format!("/images/{image}?force=1"))?;
    same!(refused.status, 409);
    own.ctx.remove(&id)?;
    own.ctx
        .delete(&format!("/images/{image}?force=1"))?
        .expect(200)?;
    own.done()
}
