//! Files in and out of containers: archive, diff, export.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use e2e::{
    check::{Fail, Outcome, patience},
    ensure, fail, has,
    http::{Response, escape},
    same,
};
use serde_json::{Value, json};

use super::own::Own;
use crate::{
    cases::cases,
    context::{Ctx, now},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    cases!("copy", Any;
        stat_of_everything, stat_missing, get_file, get_directory, get_link_itself, get_through_volume_and_bind, created_container,
        stopped_container, put_into_running, put_absolute_names, put_errors, put_read_only, put_replaces, put_compressed,
        put_owner, put_links_and_nodes, put_garbage, put_broken_off, put_mounted_file, names_that_lead_out, links_stay_inside,
        running_tmpfs, whole_root, special_files, changes, changes_of_created, export, export_running, events_of_copies, large_file,
        client_that_goes, client_that_does_not_read, start_beside_copies, swapped_links, cli_both_ways, cli_archive_mode, docker_py,
    )
    .into_iter()
    .chain(cases!("copy", Daemon; killed_daemon))
    .collect()
}

/// One entry of an archive.
#[derive(Clone, Debug, Default, PartialEq)]
struct Entry {
    kind: u8,
    mode: u32,
    owner: (u64, u64),
    link: String,
    data: Vec<u8>,
}

fn archive_path(id: &str, path: &str) -> String {
    format!("/containers/{id}/archive?path={}", escape(path))
}

fn get(ctx: &Ctx, id: &str, path: &str) -> Outcome<Vec<(String, Entry)>> {
    read(&ctx.get(&archive_path(id, path))?.expect(200)?.body)
}

fn read(bytes: &[u8]) -> Outcome<Vec<(String, Entry)>> {
    let mut all = Vec::new();
    for entry in tar::Archive::new(bytes).entries()? {
        let mut entry = entry?;
        let header = entry.header().clone();
        let mut data = Vec::new();
        entry.read_to_end(&mut data)?;
        let link = entry.link_name()?.map(|l| l.display().to_string());
        all.push((
            String::from_utf8_lossy(&entry.path_bytes()).into_owned(),
            Entry {
                kind: header.entry_type().as_byte(),
                mode: header.mode()?,
                owner: (header.uid()?, header.gid()?),
                link: link.unwrap_or_default(),
                data,
            },
        ));
    }
    Ok(all)
}

fn names(entries: &[(String, Entry)]) -> Vec<&str> {
    entries.iter().map(|(name, _)| name.as_str()).collect()
}

fn data(entries: &[(String, Entry)], name: &str) -> Outcome<String> {
    match entries.iter().find(|(n, _)| n == name) {
        Some((_, entry)) => Ok(String::from_utf8_lossy(&entry.data).into_owned()),
        None => fail!("no {name} in {:?}", names(entries)),
    }
}

/// Names are written as they are: absolute ones, and those with dots.
fn pack(entries: &[(&str, Entry)]) -> Outcome<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, entry) in entries {
        let mut header = tar::Header::new_ustar();
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        if !entry.link.is_empty() {
            let field = &mut header.as_old_mut().linkname;
            field[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        }
        header.set_entry_type(tar::EntryType::new(if entry.kind == 0 {
            b'0'
        } else {
            entry.kind
        }));
        header.set_mode(if entry.mode == 0 { 0o644 } else { entry.mode });
        header.set_uid(entry.owner.0);
        header.set_gid(entry.owner.1);
        header.set_mtime(1_700_000_000);
        header.set_size(entry.data.len() as u64);
        if matches!(entry.kind, b'3' | b'4') {
            header.set_device_major(1)?;
            header.set_device_minor(3)?;
        }
        header.set_cksum();
        tar.append(&header, entry.data.as_slice())?;
    }
    Ok(tar.into_inner()?)
}

fn file(text: &str) -> Entry {
    Entry {
        data: text.as_bytes().to_vec(),
        ..Entry::default()
    }
}

fn put(ctx: &Ctx, id: &str, query: &str, body: &[u8]) -> Outcome<Response> {
    let headers = [("Content-Type", "application/x-tar")];
    let path = format!("/containers/{id}/archive?path={query}");
    Ok(ctx.connect()?.call("PUT", &path, &headers, Some(body))?)
}

fn stat(ctx: &Ctx, id: &str, path: &str) -> Outcome<Value> {
    let answer = ctx
        .call("HEAD", &archive_path(id, path), None)?
        .expect(200)?;
    let header = answer.headers.get("X-Docker-Container-Path-Stat");
    Ok(serde_json::from_slice(&STANDARD.decode(header)?)?)
}

fn script(ctx: &Ctx, host: Value, text: &str) -> Outcome<String> {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", format!("{text}\necho ready; exec sleep 600")], "HostConfig": host}),
    )?;
    ctx.log_has(&id, "ready")?;
    Ok(id)
}

fn stat_of_everything(ctx: &Ctx) -> Outcome {
    let id = script(
        ctx,
        json!({}),
        "mkdir -p /d/e; echo -n hello > /d/f; chmod 4755 /d/f; ln -s f /d/l; ln -s /nowhere/x /d/dead; \
         ln -s ../../d/e /d/up; mkfifo /d/p; mkdir -m 1777 /d/t",
    )?;
    let of = |path: &str| stat(ctx, &id, path);
    let file = of("/d/f")?;
    same!(
        (file["name"].clone(), file["size"].clone()),
        (json!("f"), json!(5))
    );
    same!(file["mode"], json!(0o755u32 | 1 << 23));
    has!(file["mtime"].as_str().unwrap_or_default(), "Z");
    same!(of("/d/e")?["mode"], json!(0o755u32 | 1 << 31));
    same!(of("/d/t/")?["mode"], json!(0o777u32 | 1 << 31 | 1 << 20));
    same!(of("/d/t/")?["name"], "t");
    same!(of("/d/p")?["mode"], json!(0o644u32 | 1 << 25));
    let link = of("/d/l")?;
    same!(link["mode"], json!(0o777u32 | 1 << 27));
    same!(link["linkTarget"], "/d/f");
    same!(of("/d/dead")?["linkTarget"], "/nowhere/x");
    same!(of("/d/up")?["linkTarget"], "/d/e");
    same!(of("/d/up/")?["linkTarget"], "", "a slash follows the link");
    same!(of("/")?["name"], "/");
    same!(of("d/f")?["size"], 5, "a relative path begins at the root");
    Ok(())
}

fn stat_missing(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let name = ctx.name("c");
    for (method, of) in [("HEAD", &name), ("GET", &name), ("GET", &id)] {
        let answer = ctx
            .call(method, &archive_path(of, "/no/such"), None)?
            .expect(404)?;
        if method == "GET" {
            same!(
                answer.message(),
                format!("Could not find the file /no/such in container {of}")
            );
        }
    }
    let answer = ctx.get(&format!("/containers/{id}/archive"))?.expect(400)?;
    has!(answer.message(), "path");
    let answer = ctx
        .get(&archive_path("no-such-container", "/"))?
        .expect(404)?;
    has!(answer.message(), "No such container: no-such-container");
    let under = ctx.get(&archive_path(&id, "/etc/passwd/x"))?;
    ensure!(
        under.status >= 400,
        "below a file: {} {}",
        under.status,
        under.message()
    );
    Ok(())
}

fn get_file(ctx: &Ctx) -> Outcome {
    let id = script(
        ctx,
        json!({}),
        "echo hello > /tmp/f; chmod 640 /tmp/f; chown 7:8 /tmp/f",
    )?;
    let answer = ctx.get(&archive_path(&id, "/tmp/f"))?.expect(200)?;
    same!(answer.headers.get("Content-Type"), "application/x-tar");
    let header = STANDARD.decode(answer.headers.get("X-Docker-Container-Path-Stat"))?;
    has!(
        String::from_utf8_lossy(&header),
        "\"name\":\"f\",\"size\":6"
    );
    let entries = read(&answer.body)?;
    same!(names(&entries), ["f"]);
    let entry = &entries[0].1;
    same!(
        (entry.kind, entry.mode & 0o7777, entry.owner),
        (b'0', 0o640, (7, 8))
    );
    same!(data(&entries, "f")?, "hello\n");
    Ok(())
}

fn get_directory(ctx: &Ctx) -> Outcome {
    let id = script(
        ctx,
        json!({}),
        "mkdir -p /s/b/c; echo 1 > /s/a; ln /s/a /s/b/hard; ln -s ../a /s/b/link; echo 2 > /s/z",
    )?;
    let entries = get(ctx, &id, "/s")?;
    same!(
        names(&entries),
        ["s/", "s/a", "s/b/", "s/b/c/", "s/b/hard", "s/b/link", "s/z"]
    );
    let hard = &entries[4].1;
    same!((hard.kind, hard.link.as_str()), (b'1', "s/a"));
    same!(entries[5].1.link, "../a");
    same!(
        names(&get(ctx, &id, "/s/.")?),
        ["./", "./a", "./b/", "./b/c/", "./b/hard", "./b/link", "./z"]
    );
    same!(names(&get(ctx, &id, "/s/b/../b/c/")?), ["c/"]);
    Ok(())
}

fn get_link_itself(ctx: &Ctx) -> Outcome {
    let id = script(
        ctx,
        json!({}),
        "mkdir /r; echo x > /r/f; ln -s /r /l; ln -s /gone /dead",
    )?;
    let link = get(ctx, &id, "/l")?;
    same!(names(&link), ["l"]);
    same!((link[0].1.kind, link[0].1.link.as_str()), (b'2', "/r"));
    same!(get(ctx, &id, "/dead")?[0].1.link, "/gone");
    same!(names(&get(ctx, &id, "/l/")?), ["l/", "l/f"]);
    same!(names(&get(ctx, &id, "/l/f")?), ["f"]);
    Ok(())
}

fn folder(ctx: &Ctx, name: &str) -> Outcome<PathBuf> {
    let path = ctx.world.scratch.join(ctx.name(name));
    fs::create_dir_all(&path)?;
    Ok(path)
}

fn get_through_volume_and_bind(ctx: &Ctx) -> Outcome {
    let bind = folder(ctx, "bind")?;
    fs::write(bind.join("of-host"), "from the host")?;
    let (volume, host) = (ctx.name("v"), bind.display().to_string());
    let id = script(
        ctx,
        json!({"Binds": [format!("{volume}:/vol"), format!("{host}:/mnt/b:ro")]}),
        "echo inside > /vol/f; mkdir -p /deep; ln -s /vol /deep/link",
    )?;
    for round in ["running", "stopped"] {
        same!(data(&get(ctx, &id, "/vol/f")?, "f")?, "inside\n", "{round}");
        same!(
            data(&get(ctx, &id, "/deep/link/f")?, "f")?,
            "inside\n",
            "{round}"
        );
        same!(
            data(&get(ctx, &id, "/mnt")?, "mnt/b/of-host")?,
            "from the host",
            "{round}"
        );
        let body = pack(&[("put", file(round))])?;
        put(ctx, &id, "/vol", &body)?.expect(200)?;
        same!(data(&get(ctx, &id, "/vol/put")?, "put")?, round);
        let refused = put(ctx, &id, "/mnt/b", &body)?;
        ensure!(ctx.refused(refused.status), "{round}: {}", refused.status);
        has!(refused.message(), "mounted volume is marked read-only");
        if round == "running" {
            ctx.kill(&id)?;
            ctx.wait(&id)?;
        }
    }
    same!(fs::read_dir(&bind)?.count(), 1);
    Ok(())
}

fn created_container(ctx: &Ctx) -> Outcome {
    let volume = ctx.name("v");
    let id = ctx.create(
        "c",
        &json!({"Cmd": ["sh", "-c", "cat /new/dir/f /vol/g"], "HostConfig": {"Binds": [format!("{volume}:/vol")]}}),
    )?;
    same!(stat(ctx, &id, "/bin/busybox")?["name"], "busybox");
    ensure!(
        names(&get(ctx, &id, "/bin")?).contains(&"bin/busybox"),
        "no busybox"
    );
    // As Terraform uploads: whole names, no parents.
    put(
        ctx,
        &id,
        "/",
        &pack(&[("/new/dir/f", file("one\n")), ("/vol/g", file("two\n"))])?,
    )?
    .expect(200)?;
    same!(data(&get(ctx, &id, "/new/dir/f")?, "f")?, "one\n");
    same!(
        stat(ctx, &id, "/new/dir")?["mode"],
        json!(0o755u32 | 1 << 31)
    );
    ctx.start(&id)?;
    same!(ctx.wait(&id)?, 0);
    same!(ctx.logs(&id, "")?.0, "one\ntwo\n");
    Ok(())
}

fn stopped_container(ctx: &Ctx) -> Outcome {
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "cat /tmp/in 2>/dev/null; echo out > /tmp/out; rm -f /etc/group"]}),
    )?;
    ctx.wait(&id)?;
    same!(data(&get(ctx, &id, "/tmp/out")?, "out")?, "out\n");
    ctx.get(&archive_path(&id, "/etc/group"))?.expect(404)?;
    put(ctx, &id, "/tmp", &pack(&[("in", file("back\n"))])?)?.expect(200)?;
    ctx.start(&id)?;
    ctx.wait(&id)?;
    same!(ctx.logs(&id, "")?.0, "back\n");
    Ok(())
}

fn put_into_running(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let body = pack(&[
        (
            "d/",
            Entry {
                kind: b'5',
                mode: 0o750,
                owner: (5, 6),
                ..Entry::default()
            },
        ),
        (
            "d/f",
            Entry {
                mode: 0o4711,
                owner: (7, 8),
                ..file("text")
            },
        ),
        ("./e/f/g", file("deep")),
    ])?;
    let answer = put(ctx, &id, "/tmp", &body)?.expect(200)?;
    same!(answer.body.len(), 0);
    let seen = ctx
        .exec_sh(
            &id,
            "cd /tmp; stat -c '%n %a %u:%g %Y' d d/f e/f; cat d/f e/f/g",
        )?
        .ok()?
        .stdout;
    has!(seen, "d 750 5:6 1700000000\nd/f 4711 7:8 1700000000\n");
    has!(seen, "e/f 755 0:0 ");
    has!(seen, "textdeep");
    Ok(())
}

fn put_absolute_names(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    put(
        ctx,
        &id,
        "/tmp/",
        &pack(&[("/x/y", file("1")), ("//z", file("2"))])?,
    )?
    .expect(200)?;
    same!(ctx.exec_sh(&id, "cat /tmp/x/y /tmp/z")?.ok()?.stdout, "12");
    Ok(())
}

fn put_errors(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let body = pack(&[("f", file("x"))])?;
    let missing = put(ctx, &id, "/no/such", &body)?.expect(404)?;
    same!(
        missing.message(),
        format!("Could not find the file /no/such in container {id}")
    );
    let file_target = put(ctx, &id, "/etc/passwd", &body)?;
    ensure!(ctx.refused(file_target.status), "{}", file_target.status);
    has!(file_target.message(), "extraction point is not a directory");
    put(ctx, "no-such", "/", &body)?.expect(404)?;
    let answer = put(ctx, &id, "", &body)?.expect(400)?;
    has!(answer.message(), "path");
    Ok(())
}

fn put_read_only(ctx: &Ctx) -> Outcome {
    let volume = ctx.name("v");
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sleep", "600"], "HostConfig": {"ReadonlyRootfs": true, "Binds": [format!("{volume}:/vol")]}}),
    )?;
    let body = pack(&[("f", file("x"))])?;
    for round in 0..2 {
        let refused = put(ctx, &id, "/tmp", &body)?;
        ensure!(ctx.refused(refused.status), "{}", refused.status);
        has!(refused.message(), "container rootfs is marked read-only");
        put(ctx, &id, "/vol", &body)?.expect(200)?;
        same!(data(&get(ctx, &id, "/vol/f")?, "f")?, "x");
        if round == 0 {
            ctx.kill(&id)?;
            ctx.wait(&id)?;
        }
    }
    Ok(())
}

fn put_replaces(ctx: &Ctx) -> Outcome {
    let id = script(
        ctx,
        json!({}),
        "mkdir -p /w/dir/sub; echo old > /w/file; echo keep > /w/dir/sub/k; ln -s /etc/passwd /w/link",
    )?;
    let directory = Entry {
        kind: b'5',
        mode: 0o755,
        ..Entry::default()
    };
    for (name, entry, text) in [
        ("dir", file("now a file"), "cannot overwrite directory"),
        ("file/", directory.clone(), "cannot overwrite non-directory"),
    ] {
        let answer = put(
            ctx,
            &id,
            "/w&noOverwriteDirNonDir=true",
            &pack(&[(name, entry)])?,
        )?;
        ensure!(answer.status >= 400, "{name}: {}", answer.status);
        has!(answer.message(), text);
    }
    // A link is replaced, never followed.
    put(
        ctx,
        &id,
        "/w&noOverwriteDirNonDir=1",
        &pack(&[("link", file("mine"))])?,
    )?
    .expect(200)?;
    let seen = ctx.exec_sh(&id, "cat /w/link; grep -c root /etc/passwd")?;
    has!(seen.ok()?.stdout, "mine1");
    put(
        ctx,
        &id,
        "/w",
        &pack(&[("dir", file("now a file")), ("file/", directory)])?,
    )?
    .expect(200)?;
    let seen = ctx.exec_sh(&id, "cat /w/dir; test -d /w/file")?.ok()?;
    same!(seen.stdout, "now a file");
    Ok(())
}

fn put_compressed(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let scratch = folder(ctx, "z")?;
    fs::write(scratch.join("a.tar"), pack(&[("zipped", file("yes"))])?)?;
    let gzip = Command::new("gzip")
        .arg("-c")
        .arg(scratch.join("a.tar"))
        .output()?;
    put(ctx, &id, "/tmp", &gzip.stdout)?.expect(200)?;
    same!(data(&get(ctx, &id, "/tmp/zipped")?, "zipped")?, "yes");
    Ok(())
}

fn put_owner(ctx: &Ctx) -> Outcome {
    let id = ctx.launch("c", &json!({"Cmd": ["sleep", "600"], "User": "1:2"}))?;
    let entry = Entry {
        owner: (11, 12),
        ..file("x")
    };
    let body = pack(&[("f", entry)])?;
    for (query, want) in [("/tmp", "11:12\n"), ("/tmp&copyUIDGID=1", "1:2\n")] {
        // Older daemons look the user up on the host.
        if query.contains("copy") && !ctx.api(44) {
            continue;
        }
        put(ctx, &id, query, &body)?.expect(200)?;
        let seen = ctx.exec_sh(&id, "stat -c %u:%g /tmp/f")?.ok()?;
        same!(seen.stdout, want, "{query}");
    }
    Ok(())
}

fn put_links_and_nodes(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let kind = |kind: u8, link: &str| Entry {
        kind,
        link: link.to_owned(),
        ..Entry::default()
    };
    put(
        ctx,
        &id,
        "/tmp",
        &pack(&[
            ("a", file("x")),
            ("hard", kind(b'1', "a")),
            ("soft", kind(b'2', "/etc/passwd")),
            ("null", kind(b'3', "")),
            ("fifo", kind(b'6', "")),
        ])?,
    )?
    .expect(200)?;
    let seen = ctx
        .exec_sh(
            &id,
            "cd /tmp; stat -c %h a; readlink soft; stat -c %F null fifo",
        )?
        .ok()?;
    same!(
        seen.stdout,
        "2\n/etc/passwd\ncharacter special file\nfifo\n"
    );
    Ok(())
}

fn put_garbage(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let answer = put(ctx, &id, "/tmp", &[b'x'; 2000])?;
    ensure!(answer.status >= 400, "{}", answer.status);
    has!(answer.message(), "invalid tar header");
    let whole = pack(&[("f", file(&"y".repeat(5000)))])?;
    let answer = put(ctx, &id, "/tmp", &whole[..3000])?;
    ensure!(answer.status >= 400, "{}", answer.status);
    put(ctx, &id, "/tmp", b"")?.expect(200)?;
    same!(ctx.exec_sh(&id, "echo alive")?.stdout, "alive\n");
    Ok(())
}

fn put_broken_off(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let mut connection = ctx.connect()?;
    let head = format!(
        "PUT /containers/{id}/archive?path=/tmp HTTP/1.1\r\nHost: d\r\nContent-Length: 100000\r\n\r\n"
    );
    connection.send(head.as_bytes())?;
    connection.send(&pack(&[("part", file(&"z".repeat(9000)))])?[..4000])?;
    drop(connection);
    // The container is as free as ever.
    put(ctx, &id, "/tmp", &pack(&[("after", file("1"))])?)?.expect(200)?;
    ctx.kill(&id)?;
    ctx.wait(&id)?;
    let begin = Instant::now();
    ctx.start(&id)?;
    ensure!(
        begin.elapsed() < Duration::from_secs(8),
        "the start waited for a copy that is gone"
    );
    Ok(())
}

fn put_mounted_file(ctx: &Ctx) -> Outcome {
    let bind = folder(ctx, "bind")?;
    fs::write(bind.join("f"), "old")?;
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sleep", "600"], "HostConfig": {"Binds": [format!("{}/f:/tmp/f", bind.display())]}}),
    )?;
    let answer = put(ctx, &id, "/tmp", &pack(&[("f", file("new"))])?)?;
    if answer.status == 200 {
        same!(fs::read_to_string(bind.join("f"))?, "new");
    } else {
        // dockerd tries to replace it.
        has!(answer.message(), "device or resource busy");
    }
    Ok(())
}

fn names_that_lead_out(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let answer = put(ctx, &id, "/tmp", &pack(&[("../../out", file("x"))])?)?;
    ensure!(answer.status >= 400, "{}", answer.status);
    let link = Entry {
        kind: b'1',
        link: "../../etc/passwd".to_owned(),
        ..Entry::default()
    };
    let answer = put(ctx, &id, "/tmp", &pack(&[("hard", link)])?)?;
    ensure!(answer.status >= 400, "{}", answer.status);
    same!(ctx.exec_sh(&id, "ls /tmp; ls /out 2>/dev/null")?.stdout, "");
    Ok(())
}

fn links_stay_inside(ctx: &Ctx) -> Outcome {
    let secret = folder(ctx, "secret")?;
    fs::write(secret.join("s"), "of the host")?;
    let path = secret.display().to_string();
    let id = script(
        ctx,
        json!({}),
        &format!(
            "ln -s {path} /esc; ln -s ../../../../../../../../{path} /up; ln -s /proc/1/root /proc-root; \
             mkdir -p /in{path}; echo mine > /in{path}/s; ln -s /in /out"
        ),
    )?;
    for through in ["/esc/s", "/up/s", "/esc", "/up"] {
        let answer = ctx.get(&archive_path(&id, through))?;
        ensure!(
            !answer.text().contains("of the host"),
            "{through} leads to the host"
        );
    }
    for through in ["/esc", "/up"] {
        let answer = put(ctx, &id, through, &pack(&[("planted", file("x"))])?)?;
        same!(answer.status, 404, "{through}: {}", answer.message());
    }
    // Entries of an archive go through links of the container, in the container.
    put(
        ctx,
        &id,
        "/",
        &pack(&[(format!("out{path}/s2").as_str(), file("2"))])?,
    )?
    .expect(200)?;
    same!(ctx.exec_sh(&id, &format!("cat /in{path}/s2"))?.stdout, "2");
    same!(fs::read_dir(&secret)?.count(), 1);
    Ok(())
}

fn running_tmpfs(ctx: &Ctx) -> Outcome {
    let id = script(
        ctx,
        json!({"Tmpfs": {"/t": "mode=755"}}),
        "echo in-memory > /t/f; echo shm > /dev/shm/s",
    )?;
    let answer = ctx.get(&archive_path(&id, "/t/f"))?;
    if answer.status == 404 {
        // dockerd looks past what is mounted in the container only.
        return Ok(());
    }
    same!(data(&read(&answer.body)?, "f")?, "in-memory\n");
    same!(data(&get(ctx, &id, "/dev/shm")?, "shm/s")?, "shm\n");
    put(ctx, &id, "/t", &pack(&[("in", file("x"))])?)?.expect(200)?;
    same!(ctx.exec_sh(&id, "cat /t/in")?.stdout, "x");
    Ok(())
}

fn whole_root(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let entries = get(ctx, &id, "/")?;
    let all = names(&entries);
    for want in ["/", "/bin/busybox", "/etc/passwd", "/proc/", "/dev/"] {
        ensure!(all.contains(&want), "no {want}");
    }
    ensure!(
        !all.iter().any(|n| n.starts_with("/proc/") && n.len() > 6),
        "/proc is copied"
    );
    ensure!(
        !entries.iter().any(|(_, e)| matches!(e.kind, b'3' | b'4')),
        "device nodes are copied"
    );
    ctx.kill(&id)?;
    ctx.wait(&id)?;
    has!(names(&get(ctx, &id, "/.")?).join(" "), "./bin/busybox");
    Ok(())
}

fn special_files(ctx: &Ctx) -> Outcome {
    let id = script(
        ctx,
        json!({}),
        "mkdir /s; mkfifo /s/p; mknod /s/n c 1 3; truncate -s 3000000 /s/hole; : > /s/empty; \
         f=/s/$(printf 'n%.0s' $(seq 150)); echo long > $f; touch \"/s/a b\n\"",
    )?;
    let entries = get(ctx, &id, "/s")?;
    let kinds: BTreeMap<&str, u8> = entries.iter().map(|(n, e)| (n.as_str(), e.kind)).collect();
    same!((kinds["s/p"], kinds["s/n"]), (b'6', b'3'));
    same!(
        entries
            .iter()
            .find(|(n, _)| n == "s/hole")
            .map(|(_, e)| e.data.len()),
        Some(3_000_000)
    );
    same!(data(&entries, &format!("s/{}", "n".repeat(150)))?, "long\n");
    ensure!(kinds.contains_key("s/a b\n"), "no odd name");
    Ok(())
}

fn diff(ctx: &Ctx, id: &str) -> Outcome<Vec<(String, i64)>> {
    let answer = ctx.json(&format!("/containers/{id}/changes"))?;
    Ok(answer
        .as_array()
        .into_iter()
        .flatten()
        .map(|c| {
            (
                c["Path"].as_str().unwrap_or_default().to_owned(),
                c["Kind"].as_i64().unwrap_or(-1),
            )
        })
        .collect())
}

fn changes(ctx: &Ctx) -> Outcome {
    let id = script(
        ctx,
        json!({}),
        "echo new > /newfile; rm /etc/group; echo x >> /etc/passwd; mkdir -p /a/b; echo 1 > /a/b/c; \
         touch /tmp/gone; rm /tmp/gone; chmod 700 /root 2>/dev/null; mv /bin/busybox /bin/bb; cp /bin/bb /bin/busybox",
    )?;
    for round in 0..2 {
        let found = diff(ctx, &id)?;
        for want in [
            ("/newfile", 1),
            ("/etc", 0),
            ("/etc/group", 2),
            ("/etc/passwd", 0),
            ("/a", 1),
            ("/a/b", 1),
            ("/a/b/c", 1),
            ("/bin/bb", 1),
            ("/bin", 0),
        ] {
            let want = (want.0.to_owned(), want.1);
            ensure!(found.contains(&want), "no {want:?} in {found:?}");
        }
        let at = |path: &str| found.iter().position(|(p, _)| p == path);
        ensure!(
            at("/etc") < at("/etc/group") && at("/a") < at("/a/b"),
            "a directory comes before what is in it: {found:?}"
        );
        ensure!(
            at("/etc/passwd") < at("/etc/group"),
            "what is gone comes last: {found:?}"
        );
        for never in [
            "/",
            "/tmp/gone",
            "/proc",
            "/dev",
            "/etc/hosts",
            "/.dockerenv",
        ] {
            ensure!(at(never).is_none(), "{never} in {found:?}");
        }
        if round == 0 {
            ctx.kill(&id)?;
            ctx.wait(&id)?;
        }
    }
    Ok(())
}

fn changes_of_created(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["true"]}))?;
    same!(diff(ctx, &id)?, []);
    ctx.get("/containers/no-such/changes")?.expect(404)?;
    // A directory of the image that is replaced by another, as a whole.
    ctx.remove(&id)?;
    let id = script(
        ctx,
        json!({}),
        "rm -r /etc/../usr 2>/dev/null; rm -rf /home /var; mkdir -p /var/x; mkdir /root 2>/dev/null; true",
    )?;
    let before = diff(ctx, &id)?;
    ensure!(
        before.contains(&("/var/x".to_owned(), 1)),
        "no /var/x in {before:?}"
    );
    Ok(())
}

fn export(ctx: &Ctx) -> Outcome {
    let volume = ctx.name("v");
    let id = ctx.launch(
        "c",
        &json!({"Cmd": ["sh", "-c", "echo mine > /made; echo v > /vol/inside; rm /etc/group"],
            "HostConfig": {"Binds": [format!("{volume}:/vol")]}}),
    )?;
    ctx.wait(&id)?;
    let answer = ctx.get(&format!("/containers/{id}/export"))?.expect(200)?;
    same!(
        answer.headers.get("Content-Type"),
        "application/octet-stream"
    );
    let entries = read(&answer.body)?;
    let all = names(&entries);
    same!(all.first().copied(), Some(".dockerenv"));
    same!(data(&entries, "made")?, "mine\n");
    for want in ["bin/", "bin/busybox", "etc/passwd", "vol/", "proc/", "dev/"] {
        ensure!(all.contains(&want), "no {want} in {all:?}");
    }
    for never in ["vol/inside", "etc/group"] {
        ensure!(!all.contains(&never), "{never} is there");
    }
    ctx.get("/containers/no-such/export")?.expect(404)?;
    Ok(())
}

fn export_running(ctx: &Ctx) -> Outcome {
    let id = script(
        ctx,
        json!({"Tmpfs": {"/t": ""}}),
        "echo live > /live; echo x > /t/hidden",
    )?;
    let tag = format!("{}:1", ctx.name("img"));
    let out = folder(ctx, "x")?.join("root.tar");
    ctx.docker(&["export", "-o", &out.display().to_string(), &id])?
        .ok()?;
    let entries = read(&fs::read(&out)?)?;
    same!(data(&entries, "live")?, "live\n");
    let all = names(&entries);
    ensure!(
        !all.iter()
            .any(|n| n.starts_with("proc/") && n.len() > 5 || *n == "t/hidden" || *n == "dev/null"),
        "mounts are in it"
    );
    ctx.docker(&["import", &out.display().to_string(), &tag])?
        .ok()?;
    let seen = ctx.docker(&["run", "--rm", &tag, "cat", "/live"])?.ok()?;
    same!(seen.line(), "live");
    Ok(())
}

fn events_of_copies(ctx: &Ctx) -> Outcome {
    let since = now();
    let id = ctx.sleeper("c")?;
    get(ctx, &id, "/etc/passwd")?;
    put(ctx, &id, "/tmp", &pack(&[("f", file("x"))])?)?.expect(200)?;
    ctx.get(&format!("/containers/{id}/export"))?.expect(200)?;
    stat(ctx, &id, "/tmp/f")?;
    ctx.get(&format!("/containers/{id}/changes"))?.expect(200)?;
    let events = ctx.events(&since, &now(), &json!({"container": [id]}))?;
    let actions: Vec<&str> = events.iter().filter_map(|e| e["Action"].as_str()).collect();
    let copies: Vec<&str> = actions
        .iter()
        .copied()
        .filter(|a| !matches!(*a, "create" | "start" | "connect"))
        .collect();
    same!(copies, ["archive-path", "extract-to-dir", "export"]);
    Ok(())
}

fn large_file(ctx: &Ctx) -> Outcome {
    let id = script(
        ctx,
        json!({}),
        "dd if=/dev/zero bs=1M count=300 2>/dev/null | tr '\\0' x > /big; md5sum /big > /sum",
    )?;
    let answer = ctx.get(&archive_path(&id, "/big"))?.expect(200)?;
    same!(answer.body.len(), 300 * 1024 * 1024 + 512 + 1024);
    put(ctx, &id, "/tmp", &answer.body)?.expect(200)?;
    let seen = ctx
        .exec_sh(&id, "md5sum /tmp/big; cat /sum; rm /tmp/big /big")?
        .ok()?
        .stdout;
    let sums: Vec<&str> = seen
        .lines()
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    same!(sums[0], sums[1]);
    Ok(())
}

fn client_that_goes(ctx: &Ctx) -> Outcome {
    let id = script(ctx, json!({}), "truncate -s 2000000000 /sparse")?;
    for _ in 0..3 {
        let mut connection = ctx.connect()?;
        connection.request("GET", &archive_path(&id, "/sparse"), &[], None)?;
        connection.head("GET")?;
        let mut some = [0u8; 1000];
        connection.read_exact(&mut some)?;
        drop(connection);
    }
    ctx.kill(&id)?;
    ctx.wait(&id)?;
    ctx.start(&id)
}

/// dockerd holds the container's lock as long as an archive is read: inspect and start wait for the reader there.
fn client_that_does_not_read(ctx: &Ctx) -> Outcome {
    if ctx.world.binary.is_none() {
        return Ok(());
    }
    let id = script(ctx, json!({}), "truncate -s 2000000000 /sparse")?;
    ctx.kill(&id)?;
    ctx.wait(&id)?;
    let mut idle = ctx.connect()?;
    idle.request("GET", &archive_path(&id, "/sparse"), &[], None)?;
    idle.head("GET")?;
    // Nobody else waits for it.
    ctx.inspect(&id)?;
    same!(stat(ctx, &id, "/sparse")?["size"], 2_000_000_000u64);
    let begin = Instant::now();
    ctx.start(&id)?;
    ensure!(
        begin.elapsed() < Duration::from_secs(3 * u64::from(patience())),
        "the start waited for a reader: {:?}",
        begin.elapsed()
    );
    ctx.remove(&id)?;
    drop(idle);
    Ok(())
}

fn start_beside_copies(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["sh", "-c", "cat /f* | wc -c"]}))?;
    thread::scope(|scope| -> Outcome {
        let copies: Vec<_> = (0..6)
            .map(|n| {
                let id = &id;
                scope.spawn(move || -> Outcome {
                    let body = pack(&[(format!("f{n}").as_str(), file(&"x".repeat(10_000)))])?;
                    put(ctx, id, "/", &body)?.expect(200).map(drop)
                })
            })
            .collect();
        let started = ctx.start(&id);
        for copy in copies {
            copy.join().map_err(|_| Fail("panic".into()))??;
        }
        started
    })?;
    ctx.wait(&id)?;
    for n in 0..6 {
        same!(stat(ctx, &id, &format!("/f{n}"))?["size"], 10_000);
    }
    ctx.start(&id)?;
    ctx.wait(&id)?;
    has!(ctx.logs(&id, "")?.0, "60000\n");
    Ok(())
}

/// The container swaps a directory for a link to a host's path while copies go through it.
fn swapped_links(ctx: &Ctx) -> Outcome {
    let secret = folder(ctx, "secret")?;
    fs::write(secret.join("s"), "of the host")?;
    let path = secret.display().to_string();
    let id = script(
        ctx,
        json!({}),
        &format!(
            "mkdir -p /d/real{path} /d/keep; echo own > /d/keep/s; \
             (while :; do ln -s {path} /d/x 2>/dev/null; rm -f /d/x; mkdir /d/x 2>/dev/null; echo own > /d/x/s; \
             rm -rf /d/x; ln -s /d/keep /d/x; rm -f /d/x; done) &"
        ),
    )?;
    let end = Instant::now() + Duration::from_secs(8);
    let (mut seen, mut written) = (0, 0);
    while Instant::now() < end {
        for path in ["/d/x/s", "/d/x/", "/d"] {
            let answer = ctx.get(&archive_path(&id, path))?;
            ensure!(
                !answer.text().contains("of the host"),
                "read a file of the host through {path}"
            );
            seen += usize::from(answer.status == 200);
        }
        let body = pack(&[("x/planted", file("x")), ("x/s", file("planted"))])?;
        written += usize::from(put(ctx, &id, "/d", &body)?.status == 200);
        written +=
            usize::from(put(ctx, &id, "/d/x", &pack(&[("planted", file("x"))])?)?.status == 200);
    }
    ensure!(seen > 20 && written > 5, "{seen} read, {written} written");
    same!(fs::read_dir(&secret)?.count(), 1);
    same!(fs::read_to_string(secret.join("s"))?, "of the host");
    Ok(())
}

fn cli_both_ways(ctx: &Ctx) -> Outcome {
    let id = script(
        ctx,
        json!({}),
        "mkdir -p /app/sub; echo one > /app/f; echo two > /app/sub/g; ln -s f /app/l",
    )?;
    let out = folder(ctx, "out")?;
    let at = |name: &str| out.join(name).display().to_string();
    let from = |path: &str| format!("{id}:{path}");
    ctx.docker(&["cp", &from("/app"), &at("copy")])?.ok()?;
    same!(fs::read_to_string(out.join("copy/sub/g"))?, "two\n");
    same!(fs::read_link(out.join("copy/l"))?, PathBuf::from("f"));
    ctx.docker(&["cp", &from("/app/l"), &at("link")])?.ok()?;
    same!(fs::read_link(out.join("link"))?, PathBuf::from("f"));
    ctx.docker(&["cp", "-L", &from("/app/l"), &at("followed")])?
        .ok()?;
    same!(fs::read_to_string(out.join("followed"))?, "one\n");
    ctx.docker(&["cp", &from("/app/."), &at("")])?.ok()?;
    same!(fs::read_to_string(out.join("f"))?, "one\n");
    let mut tar = Command::new("docker");
    tar.args(["cp", &from("/app/f"), "-"]);
    has!(ctx.command(tar, "")?.ok()?.stdout, "one\n");

    fs::write(out.join("in"), "back\n")?;
    ctx.docker(&["cp", &at("in"), &from("/tmp/")])?.ok()?;
    ctx.docker(&["cp", &at("in"), &from("/tmp/renamed")])?
        .ok()?;
    ctx.docker(&["cp", &at("copy"), &from("/tmp")])?.ok()?;
    ctx.docker(&["cp", &at("copy/."), &from("/app/sub")])?
        .ok()?;
    let seen = ctx.exec_sh(
        &id,
        "cat /tmp/in /tmp/renamed /tmp/copy/sub/g /app/sub/sub/g",
    )?;
    same!(seen.ok()?.stdout, "back\nback\ntwo\ntwo\n");
    let missing = ctx.docker(&["cp", &from("/nosuch"), &at("x")])?;
    has!(
        missing.stderr,
        "Could not find the file /nosuch in container"
    );
    let missing = ctx.docker(&["cp", &at("in"), &from("/no/such/dir/")])?;
    has!(missing.stderr, "no such directory");
    let tar = pack(&[("piped", file("p"))])?;
    let text = String::from_utf8(tar)?;
    ctx.docker_with(&["cp", "-", &from("/tmp")], &text)?.ok()?;
    same!(ctx.exec_sh(&id, "cat /tmp/piped")?.stdout, "p");
    let listed = ctx.docker(&["diff", &id])?.ok()?;
    has!(listed.stdout, "A /app/sub/g\n");
    Ok(())
}

fn cli_archive_mode(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let out = folder(ctx, "out")?;
    let source = out.join("f");
    fs::write(&source, "x")?;
    std::os::unix::fs::chown(&source, Some(123), Some(456))?;
    let (path, target) = (source.display().to_string(), format!("{id}:/tmp/f"));
    ctx.docker(&["cp", "-a", &path, &target])?.ok()?;
    same!(
        ctx.exec_sh(&id, "stat -c %u:%g /tmp/f")?.stdout,
        "123:456\n"
    );
    Ok(())
}

fn docker_py(ctx: &Ctx) -> Outcome {
    let out = crate::cases::system::python(
        ctx,
        r#"
import io, tarfile
k = c.containers.create('busybox', ['sh', '-c', 'cat /data/in.txt; echo made > /data/out.txt'], name=P + '.py', volumes={P + '.vol': {'bind': '/data'}})
buffer = io.BytesIO()
tar = tarfile.open(fileobj=buffer, mode='w')
info = tarfile.TarInfo('in.txt'); info.size = 6
tar.addfile(info, io.BytesIO(b'hello\n')); tar.close()
assert k.put_archive('/data', buffer.getvalue())
k.start(); k.wait()
bits, stat = k.get_archive('/data/out.txt')
got = tarfile.open(fileobj=io.BytesIO(b''.join(bits)))
print(k.logs().decode().strip(), stat['name'], stat['size'], got.extractfile('out.txt').read().decode().strip())
names = tarfile.open(fileobj=io.BytesIO(b''.join(k.export()))).getnames()
print('bin/busybox' in names, 'data/out.txt' in names, k.diff())
try: k.get_archive('/nope')
except docker.errors.NotFound as e: print(e.explanation)
k.remove()
"#,
    )?;
    let mut lines = out.lines();
    same!(lines.next(), Some("hello out.txt 5 made"));
    let second = lines.next().unwrap_or_default();
    has!(second, "True False ");
    has!(
        lines.next().unwrap_or_default(),
        "Could not find the file /nope in container"
    );
    Ok(())
}

/// A process for files whose parent's parent is the daemon.
fn helper_of(daemon: u32) -> Option<u32> {
    let parent = |pid: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        fields.split_whitespace().nth(1)?.parse().ok()
    };
    let all = fs::read_dir("/proc").ok()?;
    all.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .find(|pid: &u32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.starts_with("longshore-files") && parent(*pid).and_then(parent) == Some(daemon)
        })
}

/// The daemon dies while copies run: their helpers go, the container is as startable as before.
fn killed_daemon(ctx: &Ctx) -> Outcome {
    let mut own = Own::start(ctx)?;
    let id = own.ctx.create(
        "c",
        &json!({"Cmd": ["sh", "-c", "cat /whole"], "HostConfig": {"Binds": ["cp-vol:/vol"]}}),
    )?;
    put(&own.ctx, &id, "/", &pack(&[("whole", file("there\n"))])?)?.expect(200)?;
    let mut writing = own.ctx.connect()?;
    let head = format!(
        "PUT /containers/{id}/archive?path=/ HTTP/1.1\r\nHost: d\r\nContent-Length: 100000\r\n\r\n"
    );
    writing.send(head.as_bytes())?;
    writing.send(&pack(&[("part", file(&"z".repeat(9000)))])?[..4000])?;
    let mut reading = own.ctx.connect()?;
    reading.request("GET", &archive_path(&id, "/"), &[], None)?;
    reading.head("GET")?;
    let daemon = own.engine.pid();
    let helper = e2e::check::until(10, "the helper", || Ok(helper_of(daemon)))?;
    own.crash()?;
    e2e::check::until(5, "end of the helper", || {
        let name = fs::read_to_string(format!("/proc/{helper}/comm"));
        Ok((!name.is_ok_and(|n| n.starts_with("longshore-files"))).then_some(()))
    })?;
    drop(reading);
    own.ctx.start(&id)?;
    same!(own.ctx.wait(&id)?, 0);
    same!(own.ctx.logs(&id, "")?.0, "there\n");
    own.ctx.remove(&id)?;
    own.ctx.delete("/volumes/cp-vol")?.expect(204)?;
    own.done()
}
