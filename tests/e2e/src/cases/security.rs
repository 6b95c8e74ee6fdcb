//! What a container may not do, and who it is.

use e2e::{check::Outcome, ensure, has, lacks, same};
use serde_json::{Value, json};

use crate::{
    cases::cases,
    context::{Ctx, Out},
    runner::Case,
};

pub fn list() -> Vec<Case> {
    cases!("security", Any;
        default_capabilities, cap_drop_all, cap_add, cap_add_all, cap_bad_names, user_has_no_effective_capabilities, seccomp_is_on, seccomp_denies,
        seccomp_allows_with_capability, seccomp_unconfined, seccomp_own_profile, seccomp_bad_profile, no_new_privileges, no_new_privileges_stops_setuid,
        keyctl_denied, users, user_missing, groups_added, supplementary_groups_of_image, ulimits, ulimit_bad, privileged, read_only_paths,
        host_processes_unseen, cgroup_is_read_only, no_new_mounts, chroot_works, ping_works, setuid_works_by_default, oom_score, security_opt_bad,
    )
    .to_vec()
}

const ALL_14: u64 = 0xa804_25fb;

fn capabilities(ctx: &Ctx, body: &Value) -> Outcome<std::collections::BTreeMap<String, u64>> {
    let mut full = json!({"Cmd": ["grep", "Cap", "/proc/self/status"]});
    crate::context::merge(&mut full, body);
    let out = ctx.run("caps", &full)?.ok()?;
    out.stdout
        .lines()
        .filter_map(|l| l.split_once(":\t"))
        .map(|(name, value)| Ok((name.to_owned(), u64::from_str_radix(value.trim(), 16)?)))
        .collect()
}

fn default_capabilities(ctx: &Ctx) -> Outcome {
    let caps = capabilities(ctx, &json!({}))?;
    same!(
        caps["CapInh"],
        0,
        "inheritable capabilities are a hole (CVE-2022-24769)"
    );
    same!(
        (
            caps["CapPrm"],
            caps["CapEff"],
            caps["CapBnd"],
            caps["CapAmb"]
        ),
        (ALL_14, ALL_14, ALL_14, 0)
    );
    Ok(())
}

fn cap_drop_all(ctx: &Ctx) -> Outcome {
    let caps = capabilities(
        ctx,
        &json!({"HostConfig": {"CapDrop": ["ALL"], "CapAdd": ["NET_BIND_SERVICE"]}}),
    )?;
    same!((caps["CapEff"], caps["CapBnd"]), (1 << 10, 1 << 10));
    let caps = capabilities(ctx, &json!({"HostConfig": {"CapDrop": ["all"]}}))?;
    same!((caps["CapEff"], caps["CapBnd"]), (0, 0));
    Ok(())
}

fn cap_add(ctx: &Ctx) -> Outcome {
    for name in ["NET_ADMIN", "CAP_NET_ADMIN", "net_admin"] {
        let caps = capabilities(
            ctx,
            &json!({"HostConfig": {"CapAdd": [name], "CapDrop": ["MKNOD"]}}),
        )?;
        same!(caps["CapEff"], (ALL_14 | 1 << 12) & !(1 << 27), "{name}");
    }
    Ok(())
}

fn cap_add_all(ctx: &Ctx) -> Outcome {
    // runc 1.1 does not know how to give all on new kernels
    if !ctx.api(44) {
        return Ok(());
    }
    let caps = capabilities(
        ctx,
        &json!({"HostConfig": {"CapAdd": ["ALL"], "CapDrop": ["SYS_ADMIN"]}}),
    )?;
    ensure!(
        caps["CapEff"] & (1 << 21) == 0 && caps["CapEff"] & (1 << 12) != 0,
        "{:x}",
        caps["CapEff"]
    );
    Ok(())
}

fn cap_bad_names(ctx: &Ctx) -> Outcome {
    for host in [
        json!({"CapAdd": ["BOGUS"]}),
        json!({"CapDrop": ["CAP_BOGUS"]}),
    ] {
        let answer = ctx.post(
            "/containers/create",
            &json!({"Image": "busybox", "HostConfig": host}),
        )?;
        same!(answer.status, 400);
        has!(answer.message().to_lowercase(), "bogus");
    }
    Ok(())
}

fn user_has_no_effective_capabilities(ctx: &Ctx) -> Outcome {
    let caps = capabilities(ctx, &json!({"User": "nobody"}))?;
    same!((caps["CapPrm"], caps["CapEff"], caps["CapAmb"]), (0, 0, 0));
    same!(caps["CapBnd"], ALL_14);
    Ok(())
}

fn seccomp_is_on(ctx: &Ctx) -> Outcome {
    let out = ctx.sh(
        "c",
        json!({}),
        "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status",
    )?;
    same!(out.stdout, "NoNewPrivs:\t0\nSeccomp:\t2\n");
    Ok(())
}

fn seccomp_denies(ctx: &Ctx) -> Outcome {
    // CAP_SYS_ADMIN is not there, so these fail either way; the filter says EPERM before the kernel looks
    for command in [
        "mount -t tmpfs none /mnt",
        "unshare -m true",
        "unshare -U true",
        "umount /proc/bus",
        "swapoff /x",
        "hwclock -s",
        "insmod /x",
    ] {
        let out = ctx.sh("c", json!({}), &format!("mkdir -p /mnt; {command}"))?;
        ensure!(out.code != 0, "{command} worked");
    }
    let out = ctx.sh("c", json!({}), "unshare -U true")?;
    has!(out.stderr, "Operation not permitted");
    Ok(())
}

fn seccomp_allows_with_capability(ctx: &Ctx) -> Outcome {
    ctx.sh(
        "c",
        json!({"CapAdd": ["SYS_ADMIN"]}),
        "mkdir -p /m && unshare -m true && mount -t tmpfs none /m",
    )?
    .ok()?;
    Ok(())
}

fn seccomp_unconfined(ctx: &Ctx) -> Outcome {
    let out = ctx.sh(
        "c",
        json!({"SecurityOpt": ["seccomp=unconfined"]}),
        "grep Seccomp: /proc/self/status",
    )?;
    same!(out.stdout, "Seccomp:\t0\n");
    Ok(())
}

fn seccomp_own_profile(ctx: &Ctx) -> Outcome {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
        {"names": ["chmod", "fchmodat", "fchmod"], "action": "SCMP_ACT_ERRNO"},
    ]});
    let option = format!("seccomp={profile}");
    let out = ctx.sh(
        "c",
        json!({"SecurityOpt": [option]}),
        "mkdir /x; chmod 700 /tmp; echo still here",
    )?;
    has!(out.stderr, "No space left on device");
    has!(out.stderr, "Operation not permitted");
    same!(out.line(), "still here");
    Ok(())
}

fn seccomp_bad_profile(ctx: &Ctx) -> Outcome {
    for profile in ["{not json", "{\"defaultAction\":\"SCMP_ACT_BOGUS\"}"] {
        let body = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"SecurityOpt": [format!("seccomp={profile}")]}});
        let made = ctx.post(&format!("/containers/create?name={}", ctx.name("c")), &body)?;
        if made.status == 201 {
            let started = ctx.act(&format!("/containers/{}/start", ctx.name("c")))?;
            ensure!(started.status >= 400, "{profile} was accepted");
            ctx.remove(&ctx.name("c"))?;
        }
    }
    Ok(())
}

fn no_new_privileges(ctx: &Ctx) -> Outcome {
    for option in [
        "no-new-privileges",
        "no-new-privileges=true",
        "no-new-privileges:true",
    ] {
        let out = ctx.sh(
            "c",
            json!({"SecurityOpt": [option]}),
            "grep NoNewPrivs /proc/self/status",
        )?;
        same!(out.stdout, "NoNewPrivs:\t1\n", "{option}");
    }
    let out = ctx.sh(
        "c",
        json!({"SecurityOpt": ["no-new-privileges=false"]}),
        "grep NoNewPrivs /proc/self/status",
    )?;
    same!(out.stdout, "NoNewPrivs:\t0\n");
    Ok(())
}

fn setuid(ctx: &Ctx, host: Value) -> Outcome<Out> {
    // a copy of this program with the setuid bit, run by nobody
    let mut full = json!({"Binds": [format!("{}:/probe:ro", std::env::current_exe()?.display())]});
    crate::context::merge(&mut full, &host);
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", "cp /probe /suid && chmod 4755 /suid && touch /ready && sleep 600"], "HostConfig": full}))?;
    e2e::check::until(10, "copy", || {
        Ok((ctx.exec_sh(&id, "test -e /ready")?.code == 0).then_some(()))
    })?;
    let out = ctx.exec(&id, &json!({"Cmd": ["/suid", "ids"], "User": "nobody"}))?;
    ctx.remove(&id)?;
    Ok(out)
}

fn no_new_privileges_stops_setuid(ctx: &Ctx) -> Outcome {
    let out = setuid(ctx, json!({"SecurityOpt": ["no-new-privileges"]}))?;
    same!(
        out.stdout.split_whitespace().nth(2),
        Some("65534"),
        "{}",
        out.stdout
    );
    Ok(())
}

fn setuid_works_by_default(ctx: &Ctx) -> Outcome {
    let out = setuid(ctx, json!({}))?;
    same!(
        out.stdout.split_whitespace().nth(2),
        Some("0"),
        "{}",
        out.stdout
    );
    Ok(())
}

/// System calls that busybox has no tool for, made by the host's perl in a chroot of the host's files.
fn perl(ctx: &Ctx, host: &Value, script: &str) -> Outcome<Out> {
    let mut full = json!({"Binds": ["/:/host:ro"]});
    crate::context::merge(&mut full, host);
    ctx.run(
        "perl",
        &json!({"Cmd": ["chroot", "/host", "perl", "-e", script], "HostConfig": full}),
    )
}

fn keyctl_denied(ctx: &Ctx) -> Outcome {
    // keyctl, add_key, bpf, perf_event_open, userfaultfd, init_module, kexec_load, clone3 (must be ENOSYS, so that libraries fall back)
    for (name, number, wanted) in [
        ("keyctl", 250, 1),
        ("add_key", 248, 1),
        ("bpf", 321, 1),
        ("perf_event_open", 298, 1),
        ("init_module", 175, 1),
        ("kexec_load", 246, 1),
        ("clone3", 435, 38),
    ] {
        let out = perl(
            ctx,
            &json!({}),
            &format!("$r = syscall({number}, 0, 0, 0, 0, 0); print $r == -1 ? $! + 0 : 'worked'"),
        )?
        .ok()?;
        same!(out.stdout, wanted.to_string(), "errno of {name}");
    }
    let out = perl(ctx, &json!({}), "print syscall(39) > 0 ? 'ok' : 'no'")?.ok()?;
    same!(out.stdout, "ok", "getpid");
    Ok(())
}

fn users(ctx: &Ctx) -> Outcome {
    for (user, wanted) in [
        ("nobody", "65534 65534"),
        ("nobody:users", "65534 100"),
        ("1234", "1234 0"),
        ("1234:4321", "1234 4321"),
        ("33", "33 33"),
        ("0:33", "0 33"),
        ("operator", "37 37"),
        (":users", "0 100"),
    ] {
        let out = ctx.run(
            "c",
            &json!({"Cmd": ["sh", "-c", "echo $(id -u) $(id -g)"], "User": user}),
        )?;
        same!(out.line(), wanted, "user {user}");
    }
    same!(
        ctx.run(
            "c",
            &json!({"Cmd": ["sh", "-c", "echo $HOME"], "User": "nobody"})
        )?
        .line(),
        "/home"
    );
    same!(
        ctx.run(
            "c",
            &json!({"Cmd": ["sh", "-c", "echo $HOME"], "User": "1234"})
        )?
        .line(),
        "/"
    );
    same!(
        ctx.run(
            "c",
            &json!({"Cmd": ["sh", "-c", "echo $HOME"], "User": "nobody", "Env": ["HOME=/mine"]})
        )?
        .line(),
        "/mine"
    );
    Ok(())
}

fn user_missing(ctx: &Ctx) -> Outcome {
    for (user, text) in [
        (
            "absentuser",
            "unable to find user absentuser: no matching entries in passwd file",
        ),
        ("root:absentgroup", "unable to find group absentgroup"),
    ] {
        let id = ctx.create("c", &json!({"Cmd": ["true"], "User": user}))?;
        let answer = ctx.act(&format!("/containers/{id}/start"))?;
        ensure!(
            answer.status == 400 || answer.status == 500,
            "{user}: {}",
            answer.status
        );
        has!(answer.message(), text);
        ctx.remove(&id)?;
    }
    Ok(())
}

fn groups_added(ctx: &Ctx) -> Outcome {
    let out = ctx.run("c", &json!({"Cmd": ["id", "-G"], "User": "nobody", "HostConfig": {"GroupAdd": ["audio", "777"]}}))?;
    let mut groups: Vec<&str> = out.line().split(' ').collect();
    groups.sort_unstable();
    same!(groups, ["29", "65534", "777"]);
    Ok(())
}

fn supplementary_groups_of_image(ctx: &Ctx) -> Outcome {
    // /etc/group of the image has wheel:x:10:root
    let out = ctx.run("c", &json!({"Cmd": ["id", "-G"]}))?;
    same!(out.line(), "0 10");
    Ok(())
}

fn ulimits(ctx: &Ctx) -> Outcome {
    let limits = json!({"Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}, {"Name": "core", "Soft": 0, "Hard": 0}, {"Name": "nproc", "Soft": 1000, "Hard": 1000}]});
    let out = ctx
        .sh("c", limits, "cat /proc/self/limits; ulimit -Hn")?
        .ok()?;
    let line = |name: &str| {
        out.stdout
            .lines()
            .find(|l| l.starts_with(name))
            .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
            .unwrap_or_default()
    };
    has!(line("Max open files"), "100 200");
    has!(line("Max core file size"), "0 0");
    has!(line("Max processes"), "1000 1000");
    Ok(())
}

fn ulimit_bad(ctx: &Ctx) -> Outcome {
    for limit in [
        json!({"Name": "bogus", "Soft": 1, "Hard": 1}),
        json!({"Name": "nofile", "Soft": 9, "Hard": 3}),
    ] {
        let made = ctx.post(
            &format!("/containers/create?name={}", ctx.name("c")),
            &json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Ulimits": [limit]}}),
        )?;
        if made.status == 201 {
            let started = ctx.act(&format!("/containers/{}/start", ctx.name("c")))?;
            ensure!(started.status >= 400, "{limit} was accepted");
            ctx.remove(&ctx.name("c"))?;
        }
    }
    Ok(())
}

fn privileged(ctx: &Ctx) -> Outcome {
    let id = ctx.create("c", &json!({"Cmd": ["sh", "-c", "grep -E 'CapEff|Seccomp:' /proc/self/status; ls /dev | wc -l; mkdir /m && mount -t tmpfs none /m && echo mounted; touch /proc/sys/kernel/x 2>&1 | grep -c Read-only; grep ' /sys ' /proc/mounts"], "HostConfig": {"Privileged": true}}))?;
    let started = ctx.act(&format!("/containers/{id}/start"))?;
    if !ctx.api(44) && started.status != 204 {
        has!(started.message(), "unable to apply caps");
        return Ok(());
    }
    ctx.wait(&id)?;
    let (out, _) = ctx.logs(&id, "")?;
    has!(out, "Seccomp:\t0");
    has!(out, "mounted\n0\n");
    has!(out, "sysfs /sys sysfs rw");
    let caps = out
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:\t"))
        .unwrap_or_default();
    ensure!(u64::from_str_radix(caps, 16)? > 0x1_ffff_ffff, "{caps}");
    Ok(())
}

fn read_only_paths(ctx: &Ctx) -> Outcome {
    let host = json!({"MaskedPaths": ["/proc/version"], "ReadonlyPaths": ["/proc/loadavg"]});
    let id = ctx.launch("c", &json!({"Cmd": ["sh", "-c", "wc -c < /proc/version; grep -c /proc/ /proc/mounts; sleep 600"], "HostConfig": host}))?;
    ctx.log_has(&id, "\n")?;
    has!(ctx.logs(&id, "")?.0, "0\n");
    let got = ctx.inspect(&id)?["HostConfig"].clone();
    same!(got["MaskedPaths"], json!(["/proc/version"]));
    same!(got["ReadonlyPaths"], json!(["/proc/loadavg"]));
    Ok(())
}

fn host_processes_unseen(ctx: &Ctx) -> Outcome {
    let out = ctx.sh(
        "c",
        json!({}),
        "ls -d /proc/[0-9]* | wc -l; cat /proc/1/comm; kill -0 2 2>/dev/null || true",
    )?;
    let count: u32 = out.stdout.lines().next().unwrap_or_default().parse()?;
    ensure!(count < 6, "{count} processes are seen");
    has!(out.stdout, "sh\n");
    Ok(())
}

fn cgroup_is_read_only(ctx: &Ctx) -> Outcome {
    let out = ctx.sh(
        "c",
        json!({}),
        "cd /sys/fs/cgroup/memory 2>/dev/null || cd /sys/fs/cgroup; mkdir evil",
    )?;
    has!(out.stderr, "Read-only file system");
    Ok(())
}

fn no_new_mounts(ctx: &Ctx) -> Outcome {
    let id = ctx.sleeper("c")?;
    let out = ctx.exec_sh(
        &id,
        "mount -o remount,rw /proc/sys; mount --bind /tmp /mnt; umount /proc/bus; echo done",
    )?;
    lacks!(out.stdout, "Permission");
    same!(out.line(), "done");
    same!(
        out.stderr.matches("not permitted").count()
            + out.stderr.matches("ermission denied").count()
            + out.stderr.matches("can't").count()
            >= 3,
        true,
        "{}",
        out.stderr
    );
    Ok(())
}

fn chroot_works(ctx: &Ctx) -> Outcome {
    let out = ctx
        .sh(
            "c",
            json!({}),
            "mkdir -p /r/bin && cp /bin/busybox /r/bin/ && chroot /r /bin/busybox ls /",
        )?
        .ok()?;
    same!(out.line(), "bin");
    Ok(())
}

fn ping_works(ctx: &Ctx) -> Outcome {
    ctx.sh("c", json!({}), "ping -c1 -W2 127.0.0.1 && ping -c1 -W2 $(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p')")?.ok()?;
    Ok(())
}

fn oom_score(ctx: &Ctx) -> Outcome {
    same!(
        ctx.sh(
            "c",
            json!({"OomScoreAdj": 321}),
            "cat /proc/self/oom_score_adj"
        )?
        .line(),
        "321"
    );
    same!(
        ctx.sh("c", json!({}), "cat /proc/self/oom_score_adj")?
            .line(),
        "0"
    );
    let bad = ctx.post(
        "/containers/create",
        &json!({"Image": "busybox", "HostConfig": {"OomScoreAdj": 2000}}),
    )?;
    ensure!(ctx.refused(bad.status), "{}", bad.status);
    has!(bad.message(), "oom score adj");
    Ok(())
}

fn security_opt_bad(ctx: &Ctx) -> Outcome {
    for option in ["bogus", "bogus=x", "no-new-privileges=maybe"] {
        let made = ctx.post(
            &format!("/containers/create?name={}", ctx.name("c")),
            &json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"SecurityOpt": [option]}}),
        )?;
        if made.status == 201 {
            let started = ctx.act(&format!("/containers/{}/start", ctx.name("c")))?;
            ensure!(started.status >= 400, "{option} was accepted");
            ctx.remove(&ctx.name("c"))?;
        }
    }
    Ok(())
}
