//! Files in and out of containers, export and diff: what to look at is decided here, a helper process does it
//! (`longshore_shim::files`).

use std::{collections::BTreeMap, os::fd::OwnedFd, sync::Arc, time::Duration};

use longshore_model::{ContainerId, Error, ErrorKind, Result};
pub use longshore_shim::files::{Change as FileChange, ChangeKind, PathStat};
use longshore_shim::{
    files::{
        Answer, Failure, FailureKind, FilesClient, FilesRequest, ViewPlan, Work, client::Heard,
    },
    protocol::{MountKind, RootfsPlan},
};
use tokio::{
    io::{AsyncReadExt, unix::AsyncFd},
    net::unix::pipe,
};

use super::{
    actor::Command, kill::ended, phase::Phase, plan, record::Definition, registry::Handle,
};
use crate::{Engine, Inner};

/// A file system of the container that does not answer for so long will not.
const PATIENCE: Duration = Duration::from_secs(60);
/// So often a container may end or start just as its files are looked at.
const TURNS: usize = 20;
/// Bytes of one piece of an archive.
const PIECE: usize = 64 << 10;

/// `PUT /containers/{id}/archive`.
#[derive(Clone, Debug, Default)]
pub struct UnpackRequest {
    /// The directory in the container to unpack into.
    pub path: String,
    /// `noOverwriteDirNonDir`
    pub keep_kinds: bool,
    /// `copyUIDGID`: what is made belongs to the container's user.
    pub to_user: bool,
}

/// An archive on its way out of a container.
pub struct ArchiveStream {
    pipe: pipe::Receiver,
    helper: Helper,
    done: bool,
}

impl ArchiveStream {
    /// The next piece; None when the archive is whole.
    ///
    /// # Errors
    /// It broke off: what was read so far is no archive.
    pub async fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
        if self.done {
            return Ok(None);
        }
        let mut piece = Vec::with_capacity(PIECE);
        let read = self.pipe.read_buf(&mut piece).await;
        if read.map_err(|e| Error::io("read archive", e))? > 0 {
            return Ok(Some(piece));
        }
        self.done = true;
        match self.helper.answer().await? {
            Answer::Done => Ok(None),
            _ => Err(unexpected()),
        }
    }
}

fn unexpected() -> Error {
    Error::system("unexpected word from the helper for files")
}

/// Volumes that are mounted only while they are used: here, by a copy. Given back when this goes.
struct Lent {
    engine: Arc<Inner>,
    names: Vec<String>,
    /// Not the container's own id: its run takes and gives back by that.
    user: ContainerId,
}

impl Lent {
    async fn take(engine: &Arc<Inner>, definition: &Definition) -> Result<Option<Self>> {
        let points = definition.mounts.iter().map(|mount| &mount.point);
        let names = engine.mounted_volumes(points);
        if names.is_empty() {
            return Ok(None);
        }
        let (engine, user) = (engine.clone(), ContainerId::random());
        crate::blocking(move || {
            engine.acquire_volumes(&names, &user)?;
            Ok(Some(Self {
                engine,
                names,
                user,
            }))
        })
        .await
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let (engine, names) = (self.engine.clone(), std::mem::take(&mut self.names));
        let user = self.user.clone();
        let runtime = self.engine.runtime.clone();
        drop(runtime.spawn_blocking(move || engine.release_volumes(&names, &user)));
    }
}

/// What to look at, and what has to stay meanwhile.
struct Sight {
    plan: ViewPlan,
    lent: Option<Lent>,
}

/// A helper process; it is killed when this goes.
struct Helper {
    client: AsyncFd<FilesClient>,
    /// Behind the client: what the helper uses goes after it.
    _lent: Option<Lent>,
}

impl Helper {
    async fn start(
        engine: &Arc<Inner>,
        sight: Sight,
        work: Work,
        data: Option<OwnedFd>,
    ) -> Result<Self> {
        let engine = engine.clone();
        let request = FilesRequest {
            view: sight.plan,
            work,
        };
        let client = crate::blocking(move || {
            let socket = engine.helper_socket()?;
            FilesClient::ask(socket, &request, data).map_err(|e| Error::io("ask the helper", e))
        })
        .await?;
        #[expect(
            deprecated,
            reason = "the replacement is unsafe, which only sys may say"
        )]
        let client = AsyncFd::with_interest(client, tokio::io::Interest::READABLE)
            .map_err(|e| Error::io("helper socket", e))?;
        Ok(Self {
            client,
            _lent: sight.lent,
        })
    }

    /// The next word.
    async fn hear(&mut self) -> Result<Answer> {
        let broken = |e: std::io::Error| Error::io("read from the helper for files", e);
        loop {
            let mut ready = self.client.readable_mut().await.map_err(broken)?;
            match ready.get_inner_mut().try_recv().map_err(broken)? {
                Heard::Answer(answer) => return Ok(answer),
                Heard::Pending => ready.clear_ready(),
                Heard::Closed => return Err(Error::system("the helper for files has ended")),
            }
        }
    }

    /// The next answer; a failure is an error.
    async fn answer(&mut self) -> Result<Answer> {
        match self.hear().await? {
            Answer::Failed(failure) => Err(explain(failure)),
            answer => Ok(answer),
        }
    }
}

fn explain(failure: Failure) -> Error {
    let kind = match failure.kind {
        FailureKind::NotFound => ErrorKind::NotFound,
        FailureKind::Invalid => ErrorKind::InvalidParameter,
        FailureKind::System | FailureKind::Gone => ErrorKind::System,
    };
    Error::new(kind, failure.message)
}

/// dockerd's words for a path that is not there.
fn name_missing(error: Error, path: &str, name: &str) -> Error {
    match error.kind {
        ErrorKind::NotFound => Error::not_found(format!(
            "Could not find the file {path} in container {name}"
        )),
        _ => error,
    }
}

impl Engine {
    /// What is at a path of a container, links not followed.
    ///
    /// # Errors
    /// 404 for container or path.
    pub async fn path_stat(&self, name: &str, path: &str) -> Result<PathStat> {
        let handle = self.inner.containers.find(name)?;
        let work = Work::Stat {
            path: path.to_owned(),
        };
        match self.inner.files(&handle, true, &work, None).await {
            Ok((_, Answer::Stat(stat))) => Ok(stat),
            Ok(_) => Err(unexpected()),
            Err(error) => Err(name_missing(error, path, name)),
        }
    }

    /// A path of a container as tar: a directory with all below it.
    ///
    /// # Errors
    /// 404 for container or path.
    pub async fn read_archive(&self, name: &str, path: &str) -> Result<(PathStat, ArchiveStream)> {
        let handle = self.inner.containers.find(name)?;
        let work = Work::Pack {
            path: path.to_owned(),
        };
        let (stat, stream) = match self.stream(&handle, true, &work).await {
            Ok((Answer::Stat(stat), stream)) => (stat, stream),
            Ok(_) => return Err(unexpected()),
            Err(error) => return Err(name_missing(error, path, name)),
        };
        self.note(&handle, "archive-path").await?;
        Ok((stat, stream))
    }

    /// Unpacks a tar archive, packed or not, into a directory of a container.
    ///
    /// # Errors
    /// 404 for container or path, 400 for what cannot be written to.
    pub async fn write_archive(
        &self,
        name: &str,
        request: UnpackRequest,
        archive: OwnedFd,
    ) -> Result<()> {
        let handle = self.inner.containers.find(name)?;
        let definition = self.inner.definition(&handle).await?;
        let ended = handle.gate.breaks_off();
        let spec = &definition.spec;
        let work = Work::Unpack {
            path: request.path.clone(),
            keep_kinds: request.keep_kinds,
            owner: if request.to_user {
                spec.process.user.clone()
            } else {
                String::new()
            },
            read_only_root: spec.security.read_only_rootfs,
        };
        let copied = self.inner.copy_in(&handle, &definition, &work, &archive);
        tokio::select! {
            result = copied => result.map_err(|error| name_missing(error, &request.path, name))?,
            () = ended => {
                return Err(Error::conflict("the copy was broken off: the container is started or removed"));
            }
        }
        self.note(&handle, "extract-to-dir").await
    }

    /// The whole root of a container as tar, without its mounts.
    ///
    /// # Errors
    /// 404; 409 while it is being removed.
    pub async fn export_container(&self, name: &str) -> Result<ArchiveStream> {
        let handle = self.inner.containers.find(name)?;
        let why = match handle.snapshot().state.phase {
            Phase::Dead => Some("Dead"),
            Phase::Removing => Some("being removed"),
            _ => None,
        };
        if let Some(why) = why {
            return Err(Error::conflict(format!(
                "cannot export container {} which is {why}",
                handle.id
            )));
        }
        let (Answer::Ready, stream) = self.stream(&handle, false, &Work::Export).await? else {
            return Err(unexpected());
        };
        self.note(&handle, "export").await?;
        Ok(stream)
    }

    /// What a container changed of its image.
    ///
    /// # Errors
    /// 404.
    pub async fn container_changes(&self, name: &str) -> Result<Vec<FileChange>> {
        let handle = self.inner.containers.find(name)?;
        let definition = self.inner.definition(&handle).await?;
        let dirs = self.inner.store.containers().dirs(&handle.id);
        let work = Work::Changes {
            upper: dirs.upper,
            lower: definition.layers.clone(),
        };
        let (mut helper, mut said) = self.inner.files(&handle, false, &work, None).await?;
        let mut all = Vec::new();
        loop {
            match said {
                Answer::Changes(mut some) => all.append(&mut some),
                Answer::Done => return Ok(all),
                _ => return Err(unexpected()),
            }
            said = helper.answer().await?;
        }
    }

    async fn stream(
        &self,
        handle: &Arc<Handle>,
        mounts: bool,
        work: &Work,
    ) -> Result<(Answer, ArchiveStream)> {
        let (writer, pipe) = pipe::pipe().map_err(|e| Error::io("pipe", e))?;
        let writer = writer
            .into_blocking_fd()
            .map_err(|e| Error::io("pipe", e))?;
        let (helper, said) = self
            .inner
            .files(handle, mounts, work, Some(&writer))
            .await?;
        let stream = ArchiveStream {
            pipe,
            helper,
            done: false,
        };
        Ok((said, stream))
    }

    async fn note(&self, handle: &Handle, action: &str) -> Result<()> {
        let event = |reply| Command::Event {
            action: action.to_owned(),
            attributes: BTreeMap::new(),
            reply,
        };
        self.inner.ask(handle, event).await
    }
}

impl Inner {
    async fn definition(&self, handle: &Handle) -> Result<Box<Definition>> {
        self.ask(handle, |reply| Command::Define { reply }).await
    }

    /// Unpacks into the container; keeps others out while it does, and nobody when it is done: who starts the container
    /// waits with its actor, which must not be asked anything until then.
    async fn copy_in(
        self: &Arc<Self>,
        handle: &Arc<Handle>,
        definition: &Definition,
        work: &Work,
        archive: &OwnedFd,
    ) -> Result<()> {
        for _ in 0..TURNS {
            let before = handle.snapshot();
            let running = before.state.running();
            let _pass = handle.gate.pass(running).await;
            // A start or an end may have come in between.
            if handle.snapshot().state.running() != running {
                continue;
            }
            let sight = self.look(handle, definition, true, true).await?;
            let data = archive.try_clone().map_err(|e| Error::io("dup", e))?;
            let mut helper = Helper::start(self, sight, work.clone(), Some(data)).await?;
            match helper.hear().await? {
                Answer::Done => return Ok(()),
                Answer::Failed(failure) if failure.kind == FailureKind::Gone => {
                    if !ended(handle, before.exits, Some(PATIENCE)).await {
                        return Err(explain(failure));
                    }
                }
                Answer::Failed(failure) => return Err(explain(failure)),
                _ => return Err(unexpected()),
            }
        }
        Err(Error::conflict(
            "the container starts and ends too often to copy into it",
        ))
    }

    /// Has a helper look at the container's files; gives its first answer. `data` is its end of a pipe.
    async fn files(
        self: &Arc<Self>,
        handle: &Arc<Handle>,
        mounts: bool,
        work: &Work,
        data: Option<&OwnedFd>,
    ) -> Result<(Helper, Answer)> {
        for _ in 0..TURNS {
            let exits = handle.snapshot().exits;
            let definition = self.definition(handle).await?;
            let sight = self.look(handle, &definition, mounts, false).await?;
            let data = data.map(OwnedFd::try_clone).transpose();
            let data = data.map_err(|e| Error::io("dup", e))?;
            let mut helper = Helper::start(self, sight, work.clone(), data).await?;
            let said = tokio::time::timeout(PATIENCE, helper.hear())
                .await
                .map_err(|_| Error::system("the container's files do not answer"))??;
            match said {
                Answer::Failed(failure) if failure.kind == FailureKind::Gone => {
                    if !ended(handle, exits, Some(PATIENCE)).await {
                        return Err(explain(failure));
                    }
                }
                Answer::Failed(failure) => return Err(explain(failure)),
                said => return Ok((helper, said)),
            }
        }
        Err(Error::conflict(
            "the container starts and ends too often to look at its files",
        ))
    }

    /// How to see the container's root as it is now.
    async fn look(
        self: &Arc<Self>,
        handle: &Handle,
        definition: &Definition,
        mounts: bool,
        writable: bool,
    ) -> Result<Sight> {
        if let Phase::Running {
            pid, start_time, ..
        } = handle.snapshot().state.phase
        {
            let plan = ViewPlan::Running {
                pid,
                start_time,
                mounts,
            };
            return Ok(Sight { plan, lent: None });
        }
        let dirs = self.store.containers().dirs(&definition.id);
        let rootfs = RootfsPlan {
            lower: definition.layers.clone(),
            upper: dirs.upper,
            work: dirs.work,
            read_only: false,
            shared_propagation: false,
        };
        let (mut lent, mut plans) = (None, Vec::new());
        if mounts {
            lent = Lent::take(self, definition).await?;
            let definition = definition.clone();
            plans = crate::blocking(move || idle_mounts(&definition)).await?;
        }
        let plan = ViewPlan::Idle {
            rootfs,
            mounts: plans,
            writable,
        };
        Ok(Sight { plan, lent })
    }
}

/// Volumes, binds, and what the engine has written for the container if it ran already. A tmpfs exists while the container
/// runs only: what is copied to its place meanwhile goes into the layer, as in dockerd.
fn idle_mounts(definition: &Definition) -> Result<Vec<longshore_shim::protocol::MountPlan>> {
    let mut mounts = plan::mounts(definition)?;
    let own = [
        &definition.paths.resolv_conf,
        &definition.paths.hostname,
        &definition.paths.hosts,
    ];
    mounts.retain(|mount| match &mount.kind {
        MountKind::Tmpfs { .. } => false,
        MountKind::Image { .. } => true,
        MountKind::Bind { source, .. } => {
            !own.iter().any(|path| source == std::path::Path::new(path)) || source.exists()
        }
    });
    Ok(mounts)
}
