//! What a container engine means: create, start, stop, images, networks, volumes, events. No HTTP, no Docker JSON.

use std::{collections::BTreeMap, sync::Arc};

use longshore_model::{Error, Result, config::DaemonConfig};

pub mod api;
pub mod container;

use api::*;

/// The engine. Cheap to clone; every method may be called from any task.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: DaemonConfig,
}

fn todo_<T>(what: &str) -> Result<T> {
    Err(Error::not_implemented(format!(
        "{what} is not implemented yet"
    )))
}

/// Containers.
impl Engine {
    pub fn config(&self) -> &DaemonConfig {
        &self.inner.config
    }
    /// By full id, name (with or without `/`) or unambiguous id prefix, as Docker looks up.
    ///
    /// # Errors
    /// `No such container: X` (404); ambiguous prefix (400).
    pub fn container(&self, name_or_id: &str) -> Result<Arc<Snapshot>> {
        Err(Error::not_found(format!("No such container: {name_or_id}")))
    }
    /// All containers, newest first. Never waits.
    pub fn containers(&self) -> Vec<Arc<Snapshot>> {
        Vec::new()
    }
    /// Containers that match `filters` (all of the API document; unknown names are wire's to refuse), newest first.
    /// `all` false and no status filter: running ones only. `limit` > 0: that many, of any state.
    pub fn list_containers(
        &self,
        all: bool,
        limit: usize,
        filters: &Filters,
    ) -> Result<Vec<Arc<Snapshot>>> {
        let _ = (all, limit, filters);
        Ok(Vec::new())
    }
    pub async fn create_container(&self, request: CreateRequest) -> Result<Created> {
        let _ = request;
        todo_("create")
    }
    pub async fn start_container(&self, name: &str) -> Result<()> {
        self.container(name).map(|_| ())
    }
    /// `timeout` in seconds: None = the container's own or 10, negative = for ever. 304 (NotModified) when not running.
    pub async fn stop_container(
        &self,
        name: &str,
        signal: Option<String>,
        timeout: Option<i64>,
    ) -> Result<()> {
        let _ = (signal, timeout);
        self.container(name).map(|_| ())
    }
    pub async fn restart_container(
        &self,
        name: &str,
        signal: Option<String>,
        timeout: Option<i64>,
    ) -> Result<()> {
        let _ = (signal, timeout);
        self.container(name).map(|_| ())
    }
    /// `signal` empty: SIGKILL.
    pub async fn kill_container(&self, name: &str, signal: &str) -> Result<()> {
        let _ = signal;
        self.container(name).map(|_| ())
    }
    /// Looks the container up at once (404 comes before the response starts); the future resolves at the condition.
    pub fn wait_container(
        &self,
        name: &str,
        condition: WaitCondition,
    ) -> Result<impl Future<Output = WaitResult> + Send + 'static> {
        let _ = condition;
        self.container(name)?;
        Ok(async {
            WaitResult {
                exit_code: 0,
                error: None,
            }
        })
    }
    pub async fn attach_container(
        &self,
        name: &str,
        request: AttachRequest,
    ) -> Result<StdioStream> {
        let _ = request;
        self.container(name)?;
        todo_("attach")
    }
    pub async fn resize_container(&self, name: &str, rows: u16, columns: u16) -> Result<()> {
        let _ = (rows, columns);
        self.container(name).map(|_| ())
    }
    /// Lines in order; the channel ends when all is read (and, with follow, the container has ended).
    pub async fn container_logs(
        &self,
        name: &str,
        request: LogsRequest,
    ) -> Result<tokio::sync::mpsc::Receiver<Result<LogLine>>> {
        let _ = request;
        self.container(name)?;
        todo_("logs")
    }
    /// `ps_args` empty: `-ef`.
    pub async fn container_top(&self, name: &str, ps_args: &str) -> Result<TopResult> {
        let _ = ps_args;
        self.container(name)?;
        todo_("top")
    }
    pub async fn rename_container(&self, name: &str, new_name: &str) -> Result<()> {
        let _ = new_name;
        self.container(name).map(|_| ())
    }
    pub async fn remove_container(&self, name: &str, request: RemoveRequest) -> Result<()> {
        let _ = request;
        self.container(name).map(|_| ())
    }
    pub async fn prune_containers(&self, filters: &Filters) -> Result<PruneReport> {
        let _ = filters;
        todo_("prune")
    }
    /// (bytes of the writable layer, bytes of the whole root file system)
    pub async fn container_size(&self, name: &str) -> Result<(u64, u64)> {
        self.container(name)?;
        todo_("size")
    }
    pub async fn create_exec(&self, container: &str, spec: ExecSpec) -> Result<String> {
        let _ = spec;
        self.container(container)?;
        todo_("exec")
    }
    pub fn exec(&self, id: &str) -> Result<ExecSnapshot> {
        Err(Error::not_found(format!("No such exec instance: {id}")))
    }
    /// Starts it. `detach`: no stream. Failures of the process itself (no such file ...) are `Ok` with a stream that
    /// holds the text: see `ExecStart`.
    pub async fn start_exec(
        &self,
        id: &str,
        detach: bool,
        console_size: Option<(u16, u16)>,
    ) -> Result<ExecStart> {
        let _ = (detach, console_size);
        Err(Error::not_found(format!("No such exec instance: {id}")))
    }
    pub async fn resize_exec(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let _ = (rows, columns);
        Err(Error::not_found(format!("No such exec instance: {id}")))
    }
}

/// What starting an exec gave.
pub enum ExecStart {
    /// Started without a stream.
    Detached,
    Attached(StdioStream),
    /// The process could not be run: dockerd answers 101/200 all the same and writes the text, `\r\n`-ended, as a stdout frame (recording 04).
    Failed {
        tty: bool,
        message: String,
    },
}

/// Events.
impl Engine {
    /// Subscribes without a gap between backlog and live events.
    pub async fn events(&self, request: EventsRequest) -> Result<EventStream> {
        let _ = request;
        todo_("events")
    }
}

/// Progress of a load or import: one call a line of Docker's JSON stream. The text as the client sees it (`stream` or `status`).
pub type Progress = tokio::sync::mpsc::Sender<String>;

/// Images.
impl Engine {
    pub async fn list_images(&self, all: bool, filters: &Filters) -> Result<Vec<ImageSummary>> {
        let _ = (all, filters);
        Ok(Vec::new())
    }
    /// By reference, id or id prefix. `No such image: X:latest` (404).
    pub async fn image(&self, name: &str) -> Result<ImageDetail> {
        Err(Error::not_found(format!("No such image: {name}")))
    }
    pub async fn image_history(&self, name: &str) -> Result<Vec<HistoryEntry>> {
        self.image(name).await.map(|_| Vec::new())
    }
    /// Reads an archive (docker-archive or OCI layout, compressed or not) from `archive` to its end.
    /// Lines such as `Loaded image: busybox:latest` go to `progress`.
    pub async fn load_images(
        &self,
        archive: std::os::fd::OwnedFd,
        quiet: bool,
        progress: Progress,
    ) -> Result<()> {
        let _ = (archive, quiet, progress);
        todo_("load")
    }
    /// `images/create?fromSrc=-`: the new image's id.
    pub async fn import_image(
        &self,
        archive: std::os::fd::OwnedFd,
        request: ImportRequest,
    ) -> Result<String> {
        let _ = (archive, request);
        todo_("import")
    }
    pub async fn tag_image(&self, name: &str, repository: &str, tag: &str) -> Result<()> {
        let _ = (repository, tag);
        self.image(name).await.map(|_| ())
    }
    pub async fn remove_image(
        &self,
        name: &str,
        force: bool,
        no_prune: bool,
    ) -> Result<Vec<ImageDeleted>> {
        let _ = (force, no_prune);
        self.image(name).await.map(|_| Vec::new())
    }
    pub async fn prune_images(&self, filters: &Filters) -> Result<(Vec<ImageDeleted>, u64)> {
        let _ = filters;
        todo_("image prune")
    }
}

/// `POST /images/create?fromSrc=`.
#[derive(Clone, Debug, Default)]
pub struct ImportRequest {
    /// Empty: no tag is given.
    pub repository: String,
    pub tag: String,
    pub message: String,
    /// Dockerfile lines (`CMD ["x"]`, `ENV a=b`).
    pub changes: Vec<String>,
    pub platform: Option<String>,
}

/// Networks and volumes.
impl Engine {
    pub async fn list_networks(&self, filters: &Filters) -> Result<Vec<NetworkDetail>> {
        let _ = filters;
        Ok(Vec::new())
    }
    /// By id, name or unambiguous id prefix. `network X not found` (404).
    pub async fn network(&self, name: &str) -> Result<NetworkDetail> {
        Err(Error::not_found(format!("network {name} not found")))
    }
    /// (id, warning)
    pub async fn create_network(&self, request: NetworkDetail) -> Result<(String, String)> {
        let _ = request;
        todo_("network create")
    }
    pub async fn remove_network(&self, name: &str) -> Result<()> {
        self.network(name).await.map(|_| ())
    }
    pub async fn list_volumes(&self, filters: &Filters) -> Result<Vec<VolumeDetail>> {
        let _ = filters;
        Ok(Vec::new())
    }
    pub async fn volume(&self, name: &str) -> Result<VolumeDetail> {
        Err(Error::not_found(format!("get {name}: no such volume")))
    }
    pub async fn create_volume(&self, request: VolumeCreate) -> Result<VolumeDetail> {
        let _ = request;
        todo_("volume create")
    }
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        let _ = force;
        self.volume(name).await.map(|_| ())
    }
    pub async fn prune_volumes(&self, filters: &Filters) -> Result<PruneReport> {
        let _ = filters;
        todo_("volume prune")
    }
}

/// The system as a whole.
impl Engine {
    pub async fn system_info(&self) -> SystemInfo {
        SystemInfo::default()
    }
    /// Sizes for `/system/df`: containers (id -> (rw, rootfs)), volumes with sizes, images.
    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        todo_("df")
    }
    /// Ends all streams (events, logs, attach) with EOF and refuses new work; containers stay.
    pub async fn shutdown(&self) {}
}

/// What `/system/df` counts.
#[derive(Default)]
pub struct DiskUsage {
    pub layers_size: u64,
    pub images: Vec<ImageSummary>,
    pub container_sizes: BTreeMap<String, (u64, u64)>,
    pub volumes: Vec<VolumeDetail>,
}
