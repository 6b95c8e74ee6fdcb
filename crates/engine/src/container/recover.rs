//! Start-up: records and live shims become observations. A container that runs is adopted with all its streams; one that
//! ended meanwhile shows its exit; half-made runs are undone; what has no record is removed.

use std::{
    collections::{HashMap, HashSet},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use longshore_model::{ContainerId, Result, Timestamp};
use longshore_shim::host::Cgroup;
use longshore_shim::{
    client,
    protocol::{Exit, Message, RequestBody},
};
use longshore_store::Table;

use super::{
    actor::{Actor, Alive, Command},
    networking::{self, Plugged},
    order,
    phase::Phase,
    policy::{self, Ended},
    record::{Definition, RUN_SUFFIX, RunRecord},
    shim_link::ShimLink,
    snapshot::Snapshot,
};
use crate::{Inner, api::RemoveRequest};

/// How long a shim may take to say hello. All are asked side by side.
const HELLO_PATIENCE: Duration = Duration::from_secs(15);

/// How long killed processes may take to leave their cgroup.
const CLEAR_PATIENCE: Duration = Duration::from_secs(2);

/// Reads all records, adopts what lives. Corrupt rows are quarantined; the rest starts.
pub(crate) async fn recover(engine: &Arc<Inner>) -> Result<()> {
    let mut known_links = HashSet::new();
    let mut known_dirs: HashSet<String> = HashSet::new();
    let found = read(engine, &mut known_dirs).await?;
    for (definition, _) in &found {
        known_dirs.insert(definition.id.to_string());
        if let Err(error) = engine
            .containers
            .reserve_name(&definition.name, &definition.id)
        {
            tracing::error!("{error}");
        }
    }
    let mut adoptions = tokio::task::JoinSet::new();
    for (definition, run) in found {
        for p in &run.endpoints {
            known_links.insert(p.endpoint.host_name.clone());
        }
        let engine = engine.clone();
        adoptions.spawn(async move { adopt(&engine, definition, run).await });
    }
    let mut starting = Vec::new();
    while let Some(adopted) = adoptions.join_next().await {
        starting.extend(adopted.ok().flatten());
    }
    sweep(engine, known_dirs, known_links).await;
    remove_ended(engine).await;
    start_again(engine, &starting);
    Ok(())
}

/// Does the restart policy start it together with the daemon? Only what has run before.
fn comes_back(definition: &Definition, run: &RunRecord) -> bool {
    let ended = Ended {
        exit_code: run.state.exit_code,
        stopped: run.stopped_by_user,
        restarts: run.restart_count,
    };
    let ran = run.starts > 0 && matches!(run.state.phase, Phase::Exited | Phase::Restarting);
    ran && policy::starts_with_daemon(&definition.spec.restart, ended)
}

/// Starts them, those who are needed before those who need them.
fn start_again(engine: &Arc<Inner>, ids: &[ContainerId]) {
    let engine = engine.clone();
    let handles: Vec<_> = ids
        .iter()
        .filter_map(|id| engine.containers.find(id.as_str()).ok())
        .collect();
    let snapshots: Vec<_> = handles.iter().map(|handle| handle.snapshot()).collect();
    let all: Vec<&Snapshot> = snapshots.iter().map(AsRef::as_ref).collect();
    let waves = order::waves(&all);
    tokio::spawn(async move {
        for wave in waves {
            let mut starting = tokio::task::JoinSet::new();
            for handle in handles.iter().filter(|h| wave.contains(&h.id)).cloned() {
                let engine = engine.clone();
                starting.spawn(async move {
                    let started = engine.ask(&handle, |reply| Command::ComeBack { reply });
                    if let Err(error) = started.await {
                        tracing::error!(container = %handle.id, "not started with the daemon: {error}");
                    }
                });
            }
            while starting.join_next().await.is_some() {}
        }
    });
}

/// `--rm` containers that have ended, before the daemon's death or since. After all are adopted, so that a volume is seen
/// to be in use.
async fn remove_ended(engine: &Arc<Inner>) {
    for handle in engine.containers.handles() {
        let snapshot = handle.snapshot();
        let ended = match snapshot.state.phase {
            Phase::Exited => true,
            Phase::Created => !snapshot.state.error.is_empty(),
            Phase::Starting
            | Phase::Restarting
            | Phase::Running { .. }
            | Phase::Removing
            | Phase::Dead => false,
        };
        if !ended || !snapshot.spec.auto_remove {
            continue;
        }
        let request = RemoveRequest {
            force: true,
            volumes: true,
            link: false,
        };
        let given = snapshot.name.clone();
        let removed = engine.ask(&handle, |reply| Command::Remove {
            request,
            given,
            reply,
        });
        if let Err(error) = removed.await {
            tracing::error!(container = %snapshot.id, "not removed: {error}");
        }
    }
}

async fn read(
    engine: &Arc<Inner>,
    known_dirs: &mut HashSet<String>,
) -> Result<Vec<(Definition, RunRecord)>> {
    let engine = engine.clone();
    let (found, damaged) = crate::blocking(move || {
        let mut runs = HashMap::new();
        let mut definitions = Vec::new();
        let mut damaged = Vec::new();
        for (key, bytes) in engine.store.records(Table::Container)? {
            if let Some(id) = key.strip_suffix(RUN_SUFFIX) {
                match serde_json::from_slice::<RunRecord>(&bytes) {
                    Ok(mut run) => {
                        // A record from before there were networks other than the default bridge.
                        run.endpoints
                            .extend(run.endpoint.take().map(|endpoint| Plugged {
                                network: "bridge".to_owned(),
                                endpoint,
                            }));
                        runs.insert(id.to_owned(), run);
                    }
                    Err(error) => engine.quarantine(&key, &error.to_string()),
                }
            } else {
                match serde_json::from_slice::<Definition>(&bytes) {
                    Ok(definition) => definitions.push(definition),
                    Err(error) => {
                        engine.quarantine(&key, &error.to_string());
                        damaged.push(key);
                    }
                }
            }
        }
        let found: Vec<_> = definitions
            .into_iter()
            .map(|definition| {
                let run = runs
                    .remove(definition.id.as_str())
                    .unwrap_or_else(RunRecord::new);
                (definition, run)
            })
            .collect();
        Ok((found, damaged))
    })
    .await?;
    // What lies in the directories of a record that cannot be read may still be wanted.
    known_dirs.extend(damaged);
    Ok(found)
}

/// What start-up found of one container's run.
enum Found {
    Alive(
        ShimLink,
        OwnedFd,
        Vec<longshore_shim::protocol::ExecState>,
        u64,
    ),
    Ended(Exit, Option<ShimLink>),
}

/// Takes a container over; its id, when its policy starts it with the daemon.
async fn adopt(
    engine: &Arc<Inner>,
    definition: Definition,
    mut run: RunRecord,
) -> Option<ContainerId> {
    let was = run.state.phase.clone();
    if matches!(
        was,
        Phase::Created | Phase::Restarting | Phase::Exited | Phase::Removing | Phase::Dead
    ) {
        let comes_back = comes_back(&definition, &run);
        if was == Phase::Restarting {
            run.state.phase = Phase::Exited;
        }
        if was == Phase::Removing {
            run.state.phase = Phase::Dead;
        }
        // Ended, but the daemon died before it could let the shim go.
        let cgroup = super::plan::cgroup_path(&engine.config, &definition);
        let mut alive = Alive::default();
        if let Some(Found::Ended(_, Some(mut link))) = look(engine, &definition, 0).await {
            let _ = link.send(0, RequestBody::Release, Vec::new());
            alive.leaving = Some(link);
        } else {
            let run_dir = engine.run_dir(&definition.id);
            let _ = crate::blocking(move || {
                if run_dir.exists() {
                    clear_run(&run_dir, &cgroup);
                }
                Ok(())
            })
            .await;
        }
        let id = definition.id.clone();
        Actor::spawn(engine, definition, run, alive);
        return comes_back.then_some(id);
    }
    let found = look(engine, &definition, was.pid()).await;
    match (was, found) {
        (Phase::Running { .. }, Some(Found::Alive(link, pidfd, execs, ooms))) => {
            adopt_networks(engine, &definition, &run).await;
            for mount in definition
                .mounts
                .iter()
                .filter(|m| m.point.kind == "volume")
            {
                let (store, volumes) = (&engine.store, &engine.volumes);
                let name = &mount.point.name;
                engine
                    .volume_uses
                    .adopt(store, volumes, name, &definition.id);
            }
            for exec in &execs {
                engine
                    .execs
                    .adopt(definition.id.as_str(), &exec.exec_id, exec.pid, exec.code);
            }
            let running = execs
                .into_iter()
                .filter(|e| e.code.is_none())
                .map(|e| e.exec_id)
                .collect();
            let alive = Alive {
                link: Some(link),
                pidfd: Some(pidfd),
                exec_ids: running,
                ..Alive::default()
            };
            let actor = Actor::new(engine, definition, run, alive);
            actor.resume(ooms).await;
        }
        (Phase::Starting, Some(Found::Alive(mut link, pidfd, ..))) => {
            // The client was never told that it runs: undone.
            let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
            let _ = tokio::time::timeout(HELLO_PATIENCE, exit_of(&mut link)).await;
            return half_made(engine, definition, run, Some(link)).await;
        }
        (Phase::Starting, found) => {
            let link = if let Some(Found::Ended(_, link)) = found {
                link
            } else {
                None
            };
            return half_made(engine, definition, run, link).await;
        }
        (_, Some(Found::Ended(exit, link))) => {
            return gone(engine, definition, run, exit, link).await;
        }
        (_, None) => {
            let exit = Exit {
                code: 255,
                oom_killed: false,
                time_nano: Timestamp::now().0,
            };
            return gone(engine, definition, run, exit, None).await;
        }
        (_, Some(Found::Alive(..))) => {}
    }
    None
}

/// Addresses, ports and links of a container that goes on running.
async fn adopt_networks(engine: &Arc<Inner>, definition: &Definition, run: &RunRecord) {
    let front = networking::front(&definition.spec.network, &run.endpoints);
    let front = front.map(|endpoint| endpoint.endpoint_id.clone());
    for p in &run.endpoints {
        let has_ports = front.as_ref() == Some(&p.endpoint.endpoint_id);
        let ports = if has_ports { run.ports.as_slice() } else { &[] };
        let ports = crate::network::to_mechanism(ports);
        if let Err(error) = engine.network.adopt(&p.endpoint, &ports) {
            tracing::error!(container = %definition.id, network = %p.network, "not taken over: {error}");
        }
    }
    let (engine, id) = (engine.clone(), definition.id.clone());
    let (definition, run) = (definition.clone(), run.clone());
    let completed = crate::blocking(move || {
        let links = networking::complete(&engine, &definition, &run);
        super::dns::take_over(&engine, &definition, &run).and(links)
    })
    .await;
    if let Err(error) = completed {
        tracing::error!(container = %id, "its networks are not complete: {error}");
    }
}

/// Asks the shim; without one, looks for what it left.
async fn look(engine: &Arc<Inner>, definition: &Definition, pid: i32) -> Option<Found> {
    let run_dir = engine.run_dir(&definition.id);
    let dir = run_dir.clone();
    let connected = crate::blocking(move || Ok(client::connect(&dir).ok()))
        .await
        .ok()
        .flatten();
    if let Some(mut link) = connected.and_then(|fd| ShimLink::new(fd).ok()) {
        let hello = tokio::time::timeout(HELLO_PATIENCE, link.receive()).await;
        if let Ok(Ok(Some(Message::Hello {
            pid,
            start_time,
            exited,
            execs,
            ooms,
            ..
        }))) = hello
        {
            if let Some(exit) = exited {
                return Some(Found::Ended(exit, Some(link)));
            }
            if let Some(pidfd) = link.take_fd().or_else(|| same_process(pid, start_time)) {
                return Some(Found::Alive(link, pidfd, execs, ooms));
            }
            // It has ended, its last output is being read.
            let end = exit_of(&mut link);
            if let Ok(Some(exit)) = tokio::time::timeout(HELLO_PATIENCE, end).await {
                return Some(Found::Ended(exit, Some(link)));
            }
        }
        tracing::error!(container = %definition.id, "its shim does not answer");
    }
    let cgroup = super::plan::cgroup_path(&engine.config, definition);
    crate::blocking(move || {
        let exit = read_exit(&run_dir);
        if pid != 0 || run_dir.exists() {
            clear_run(&run_dir, &cgroup);
        }
        Ok(exit.map(|exit| Found::Ended(exit, None)))
    })
    .await
    .ok()
    .flatten()
}

/// The end that the shim tells of; None when it goes without.
async fn exit_of(link: &mut ShimLink) -> Option<Exit> {
    while let Ok(Some(message)) = link.receive().await {
        if let Message::Exited(exit) = message {
            return Some(exit);
        }
    }
    None
}

/// A pidfd, if `pid` is still the process that started at `start_time`.
fn same_process(pid: i32, start_time: u64) -> Option<OwnedFd> {
    let pidfd = rustix::process::pidfd_open(
        rustix::process::Pid::from_raw(pid)?,
        rustix::process::PidfdFlags::empty(),
    )
    .ok()?;
    (longshore_shim::host::start_time(pid).ok()? == start_time).then_some(pidfd)
}

/// What a shim wrote about the end, if it did.
pub(crate) fn read_exit(run_dir: &Path) -> Option<Exit> {
    client::read_record(run_dir).ok().flatten()
}

/// Ends whatever a run without a shim left: processes by cgroup, cgroups, run directory.
pub(crate) fn clear_run(run_dir: &Path, cgroup: &str) {
    // The shim first: it must not serve, record or make anything any more.
    if let Err(error) = client::kill_shim(run_dir) {
        tracing::warn!("shim of {} not killed: {error}", run_dir.display());
    }
    let cgroup = Cgroup::open(cgroup);
    if cgroup.pids().is_ok_and(|pids| !pids.is_empty()) {
        let _ = cgroup.kill();
    }
    let end = Instant::now() + CLEAR_PATIENCE;
    while let Err(error) = cgroup.remove() {
        if Instant::now() > end {
            tracing::warn!("cgroup {} not removed: {error}", cgroup.path());
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = std::fs::remove_dir_all(run_dir);
}

/// A run that ended while no daemon was there: recorded now, with its events.
async fn gone(
    engine: &Arc<Inner>,
    definition: Definition,
    run: RunRecord,
    exit: Exit,
    link: Option<ShimLink>,
) -> Option<ContainerId> {
    // Its address and ports are free: nobody has adopted them, and another container may have them by now.
    for p in &run.endpoints {
        // Still there when its namespace lives on in those who joined it.
        let (engine, link) = (engine.clone(), p.endpoint.host_name.clone());
        let _ = crate::blocking(move || engine.network.remove_link(&link)).await;
    }
    let mut run = run;
    run.ports.clear();
    Actor::settle(engine, definition, run, exit, link).await
}

/// A start that the daemon's death cut off: all that it made goes, the container is as before.
async fn half_made(
    engine: &Arc<Inner>,
    definition: Definition,
    mut run: RunRecord,
    link: Option<ShimLink>,
) -> Option<ContainerId> {
    if let Some(mut link) = link {
        let _ = link.send(0, RequestBody::Release, Vec::new());
        link.drain(HELLO_PATIENCE).await;
    }
    run.endpoints.clear();
    run.ports.clear();
    run.state.phase = if run.starts == 0 {
        Phase::Created
    } else {
        Phase::Exited
    };
    let bytes = serde_json::to_vec(&run).unwrap_or_default();
    let mut batch = longshore_store::Batch::new();
    batch.put(
        Table::Container,
        format!("{}{RUN_SUFFIX}", definition.id),
        bytes,
    );
    if let Err(error) = engine
        .commit(batch, longshore_store::Durability::Survives, || {})
        .await
    {
        tracing::error!(container = %definition.id, "{error}");
    }
    // It was being brought back, perhaps.
    let again = comes_back(&definition, &run).then(|| definition.id.clone());
    Actor::spawn(engine, definition, run, Alive::default());
    again
}

impl Actor {
    /// Starts the actor of a container that runs: what the last daemon had begun with it is finished first.
    async fn resume(mut self, ooms: u64) {
        self.out_of_memory(ooms).await;
        self.adopt_freeze().await;
        self.finish_update().await;
        self.adopt_health().await;
        self.enter();
    }

    /// Starts the actor of a container whose run has just been found ended. Its id, when its policy brings it back: in its turn,
    /// not by its own clock.
    async fn settle(
        engine: &Arc<Inner>,
        definition: Definition,
        run: RunRecord,
        exit: Exit,
        link: Option<ShimLink>,
    ) -> Option<ContainerId> {
        let mut actor = Self::new(
            engine,
            definition,
            run,
            Alive {
                link,
                ..Alive::default()
            },
        );
        actor.exited(exit).await;
        let again = actor.take_over_restart();
        actor.enter();
        again
    }
}

/// Removes what no record knows: directories, links, run directories with whatever runs there.
async fn sweep(engine: &Arc<Inner>, known: HashSet<String>, links: HashSet<String>) {
    let engine = engine.clone();
    let _ = crate::blocking(move || {
        // Of a damaged store the directories may be all that is left: they stay.
        if engine.store_whole {
            for id in engine.store.containers().known_on_disk()? {
                if !known.contains(id.as_str()) {
                    engine.store.containers().discard(&id)?;
                }
            }
            engine.volumes.sweep(&engine.store)?;
        }
        engine.volume_uses.sweep(&engine.store, &engine.volumes);
        for link in engine.network.stray_links(&links) {
            engine.network.remove_link(&link)?;
        }
        engine.network.settle();
        let runs: PathBuf = engine.config.exec_root.join("containers");
        for entry in std::fs::read_dir(&runs).into_iter().flatten().flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            if !known.contains(&id) {
                let parent = engine.config.cgroup_parent.trim_matches('/');
                let parent = if parent.is_empty() { "docker" } else { parent };
                clear_run(&entry.path(), &format!("{parent}/{id}"));
            }
        }
        Ok(())
    })
    .await;
}
