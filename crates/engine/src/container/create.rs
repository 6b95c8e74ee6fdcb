//! Making a container: validate all, reserve the name, then act; what was made before a failure is undone.

use std::{collections::BTreeMap, sync::Arc};

use longshore_model::{
    ContainerId, Error, Result, Timestamp,
    mount::{MountSource, MountSpec, ReadOnlyRecursive},
};
use longshore_store::{Batch, Durability, Table, images::Lease};

use super::{
    actor::{Actor, Alive, container_event},
    record::{Definition, MountedImage, RUN_SUFFIX, ResolvedMount, RunRecord},
    snapshot::{MountPoint, Paths},
    spec::{ContainerSpec, IpcMode, Mode, NetworkMode},
};
use crate::{
    Engine, Inner,
    api::{CreateRequest, Created},
    names,
};

impl Engine {
    /// Makes a container: directories and records, no process.
    ///
    /// # Errors
    /// 400 for what is wrong in the request, 404 for a missing image or network, 409 for a name in use.
    pub async fn create_container(&self, request: CreateRequest) -> Result<Created> {
        let CreateRequest {
            name,
            mut spec,
            echo,
        } = request;
        let name = name.strip_prefix('/').unwrap_or(&name).to_owned();
        if !name.is_empty() && !names::valid(&name) {
            return Err(Error::invalid(format!(
                "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )));
        }
        let image = self
            .inner
            .image_for_container(&spec.image, spec.platform.as_deref())
            .await?;
        image.apply(&mut spec);
        let command = command(&spec)?;
        self.inner.check(&spec)?;
        self.inner.resolve_networks(&mut spec.network)?;
        let id = ContainerId::random();
        let name = self.reserve(name, &id)?;
        let made = self
            .inner
            .make(id.clone(), name.clone(), spec, echo, image, command)
            .await;
        if made.is_err() {
            self.inner.containers.release_name(&name, &id);
        }
        made.map(|warnings| Created {
            id: id.to_string(),
            warnings,
        })
    }

    fn reserve(&self, name: String, id: &ContainerId) -> Result<String> {
        let containers = &self.inner.containers;
        if !name.is_empty() {
            containers.reserve_name(&name, id)?;
            return Ok(name);
        }
        loop {
            let name = names::generate(|name| containers.name_taken(name));
            if containers.reserve_name(&name, id).is_ok() {
                return Ok(name);
            }
        }
    }
}

/// Entry point and command in one; an entry point of one empty word is none.
fn command(spec: &ContainerSpec) -> Result<Vec<String>> {
    let entrypoint = spec.process.entrypoint.iter().flatten().filter(|_| {
        spec.process
            .entrypoint
            .as_ref()
            .is_some_and(|e| e.len() != 1 || !e[0].is_empty())
    });
    let command: Vec<String> = entrypoint
        .chain(spec.process.cmd.iter().flatten())
        .cloned()
        .collect();
    if command.is_empty() {
        return Err(Error::invalid("no command specified"));
    }
    Ok(command)
}

impl Inner {
    /// What can be refused before anything is made.
    fn check(&self, spec: &ContainerSpec) -> Result<()> {
        super::security::capabilities(&spec.security)?;
        super::security::confinement(&spec.security)?;
        for mode in [&spec.pid_mode] {
            if let Mode::Container(other) = mode {
                self.containers.find(other)?;
            }
        }
        if let IpcMode::Container(other) = &spec.ipc_mode {
            self.containers.find(other)?;
        }
        if let NetworkMode::Container(other) = &spec.network.mode {
            self.containers.find(other)?;
        }
        for link in &spec.network.links {
            let name = link.split(':').next().unwrap_or(link);
            self.containers.find(name).map_err(|_| {
                Error::invalid(format!(
                    "could not get container for {name}: No such container: {name}"
                ))
            })?;
        }
        if matches!(
            spec.ipc_mode,
            IpcMode::Private
                | IpcMode::Shareable
                | IpcMode::None
                | IpcMode::Host
                | IpcMode::Container(_)
        ) && !spec.volumes_from.is_empty()
        {
            for (other, _) in &spec.volumes_from {
                self.containers.find(other)?;
            }
        }
        for mount in &spec.mounts {
            if let MountSource::Bind {
                path,
                create: false,
            } = &mount.source
                && !std::path::Path::new(path).exists()
            {
                return Err(Error::invalid(format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {path}"
                )));
            }
        }
        Ok(())
    }

    async fn make(
        self: &Arc<Self>,
        id: ContainerId,
        name: String,
        mut spec: ContainerSpec,
        echo: String,
        image: crate::image::ContainerImage,
        command: Vec<String>,
    ) -> Result<Vec<String>> {
        let mut batch = Batch::new();
        let mut mounted = Vec::new();
        let mounts = self
            .resolve_mounts(&mut spec, &mut batch, &mut mounted)
            .await;
        let volumes = batch.clone();
        let make = async {
            let mounts = mounts?;
            let hostname = self.hostname(&spec, &id);
            let engine = self.clone();
            let key = id.to_string();
            let paths = self.paths(&spec, &id);
            let definition = Definition {
                version: 1,
                id: id.clone(),
                name,
                created: Timestamp::now(),
                spec,
                echo,
                image: image.identity.clone(),
                layers: image.layers.clone(),
                command,
                hostname,
                mounts,
                paths,
            };
            super::logging::plan(&definition)?;
            let run = RunRecord::new();
            let lease = image.lease;
            let encode = |value: serde_json::Result<Vec<u8>>| {
                value.map_err(|e| Error::system(e.to_string()))
            };
            batch.put(
                Table::Container,
                key.clone(),
                encode(serde_json::to_vec(&definition))?,
            );
            batch.put(
                Table::Container,
                format!("{key}{RUN_SUFFIX}"),
                encode(serde_json::to_vec(&run))?,
            );
            batch.event(container_event(&definition, "create", &mut BTreeMap::new()));
            // Directories first: a record always has its directories; directories without a record are swept at start-up.
            engine.store.containers().prepare(&id)?;
            let registered = engine.clone();
            let committed = engine
                .commit(batch, Durability::Survives, move || {
                    // Findable before the create event is out.
                    registered.register(definition, run, lease);
                    // The container has leases of its own by now.
                    drop(mounted);
                })
                .await;
            if committed.is_err() {
                let _ = engine.store.containers().discard(&id);
            }
            committed.map(|()| Vec::new())
        };
        let made = make.await;
        // Volumes that were made for it are there, and others may use them by now: they stay, as in dockerd.
        if made.is_err()
            && !volumes.is_empty()
            && let Err(error) = self.commit(volumes, Durability::Survives, || {}).await
        {
            tracing::error!("volumes of a failed create not recorded: {error}");
        }
        made
    }

    fn register(self: &Arc<Self>, definition: Definition, run: RunRecord, lease: Lease) {
        let _runtime = self.runtime.enter();
        Actor::spawn(
            self,
            definition,
            run,
            Alive {
                lease: Some(lease),
                ..Alive::default()
            },
        );
    }

    /// The short id unless told otherwise; with the host's network or names, the host's.
    fn hostname(&self, spec: &ContainerSpec, id: &ContainerId) -> String {
        if !spec.hostname.is_empty() {
            return spec.hostname.clone();
        }
        match &spec.network.mode {
            NetworkMode::Host => crate::system::hostname(),
            NetworkMode::Container(other) => self
                .containers
                .find(other)
                .map_or_else(|_| id.short().to_owned(), |h| h.snapshot().hostname.clone()),
            _ if spec.uts_host => crate::system::hostname(),
            _ => id.short().to_owned(),
        }
    }

    fn paths(&self, spec: &ContainerSpec, id: &ContainerId) -> Paths {
        let dir = self.store.containers().dirs(id).dir;
        let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
        let shared = match &spec.network.mode {
            NetworkMode::Container(other) => self
                .containers
                .find(other)
                .ok()
                .map(|h| h.snapshot().paths.clone()),
            _ => None,
        };
        let kept = super::logging::kept(&spec.log, &dir, id.as_str());
        let kept = kept.map_or_else(String::new, |p| p.to_string_lossy().into_owned());
        let shown = matches!(spec.log.driver.as_str(), "json-file" | "");
        Paths {
            log: if shown { kept.clone() } else { String::new() },
            kept,
            hosts: shared
                .as_ref()
                .map_or_else(|| path("hosts"), |s| s.hosts.clone()),
            hostname: shared
                .as_ref()
                .map_or_else(|| path("hostname"), |s| s.hostname.clone()),
            resolv_conf: shared.map_or_else(|| path("resolv.conf"), |s| s.resolv_conf),
        }
    }

    /// Names every mount: volumes are made or found, `--volumes-from` copied in, anonymous volumes of the image added
    /// where nothing else is mounted.
    async fn resolve_mounts(
        self: &Arc<Self>,
        spec: &mut ContainerSpec,
        batch: &mut Batch,
        leases: &mut Vec<Lease>,
    ) -> Result<Vec<ResolvedMount>> {
        let mut mounts = self.inherited_mounts(spec)?;
        for mount in &spec.mounts {
            mounts.retain(|have: &ResolvedMount| have.spec.target != mount.target);
        }
        for mount in spec.mounts.clone() {
            mounts.push(self.resolve_mount(mount, batch, leases).await?);
        }
        for target in spec.anonymous_volumes.clone() {
            if mounts.iter().any(|m| m.spec.target == target) {
                continue;
            }
            let source = MountSource::Volume {
                name: String::new(),
                driver: String::new(),
                options: BTreeMap::new(),
                labels: BTreeMap::new(),
                no_copy: false,
                subpath: String::new(),
            };
            let mount = MountSpec {
                source,
                target,
                read_only: false,
                propagation: String::new(),
                mode: String::new(),
                recursive: true,
                read_only_recursive: ReadOnlyRecursive::IfPossible,
                from_mounts: false,
            };
            let mut mount = self.resolve_mount(mount, batch, leases).await?;
            mount.point.mode.clear();
            mounts.push(mount);
        }
        Ok(mounts)
    }

    fn inherited_mounts(&self, spec: &ContainerSpec) -> Result<Vec<ResolvedMount>> {
        let mut mounts: Vec<ResolvedMount> = Vec::new();
        for (other, mode) in &spec.volumes_from {
            let handle = self.containers.find(other)?;
            let snapshot = handle.snapshot();
            for point in snapshot
                .mounts
                .iter()
                .filter(|p| p.kind == "bind" || p.kind == "volume")
            {
                let source = if point.kind == "volume" {
                    MountSource::Volume {
                        name: point.name.clone(),
                        driver: point.driver.clone(),
                        options: BTreeMap::new(),
                        labels: BTreeMap::new(),
                        no_copy: true,
                        subpath: point.subpath.clone(),
                    }
                } else {
                    MountSource::Bind {
                        path: point.source.clone(),
                        create: false,
                    }
                };
                let mut point = point.clone();
                point.rw = point.rw && !mode.split(',').any(|word| word == "ro");
                point.mode.clear();
                let mount = MountSpec {
                    source,
                    target: point.destination.clone(),
                    read_only: !point.rw,
                    propagation: point.propagation.clone(),
                    mode: mode.clone(),
                    recursive: true,
                    read_only_recursive: ReadOnlyRecursive::IfPossible,
                    from_mounts: false,
                };
                mounts.retain(|have| have.spec.target != mount.target);
                mounts.push(ResolvedMount {
                    spec: mount,
                    point,
                    anonymous: false,
                    image: None,
                });
            }
        }
        Ok(mounts)
    }

    async fn resolve_mount(
        self: &Arc<Self>,
        mut spec: MountSpec,
        batch: &mut Batch,
        leases: &mut Vec<Lease>,
    ) -> Result<ResolvedMount> {
        let mut anonymous = false;
        let mut image = None;
        let mut point = MountPoint {
            kind: "bind".to_owned(),
            name: String::new(),
            source: String::new(),
            destination: spec.target.clone(),
            driver: String::new(),
            mode: spec.mode.clone(),
            rw: !spec.read_only,
            propagation: spec.propagation.clone(),
            subpath: String::new(),
        };
        match &mut spec.source {
            MountSource::Bind { path, .. } => {
                point.source.clone_from(path);
                if point.propagation.is_empty() {
                    "rprivate".clone_into(&mut point.propagation);
                }
            }
            MountSource::Image { reference, subpath } => {
                let mut mounted = self.image_for_container(reference, None).await?;
                // The mount points that every root gets are not the image's.
                mounted
                    .layers
                    .retain(|l| l.parent().and_then(|p| p.file_name()) != Some("init".as_ref()));
                "image".clone_into(&mut point.kind);
                point.name.clone_from(reference);
                point.source.clone_from(&mounted.identity.id);
                point.subpath.clone_from(subpath);
                point.rw = false;
                leases.push(mounted.lease);
                image = Some(MountedImage {
                    id: mounted.identity.id,
                    layers: mounted.layers,
                });
            }
            MountSource::Tmpfs { .. } => {
                point.kind = if spec.from_mounts {
                    "tmpfs".to_owned()
                } else {
                    String::new()
                };
            }
            MountSource::Volume {
                name,
                driver,
                options,
                labels,
                subpath,
                ..
            } => {
                point.subpath.clone_from(subpath);
                anonymous = name.is_empty();
                let request = crate::api::VolumeCreate {
                    name: name.clone(),
                    driver: driver.clone(),
                    labels: labels.clone(),
                    options: options.clone(),
                };
                let volume = self.volumes.get_or_make(&self.store, request, batch)?;
                name.clone_from(&volume.name);
                options.clone_from(&volume.options);
                "volume".clone_into(&mut point.kind);
                point.name = volume.name;
                point.source = volume.mountpoint;
                "local".clone_into(&mut point.driver);
                if point.mode.is_empty() {
                    "z".clone_into(&mut point.mode);
                }
            }
        }
        Ok(ResolvedMount {
            spec,
            point,
            anonymous,
            image,
        })
    }
}
