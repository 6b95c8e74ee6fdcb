//! Images as the engine means them: what a container is made from, Docker's rules for tags and removal.

use std::{collections::BTreeMap, fs::File, os::fd::OwnedFd, path::PathBuf, sync::Arc};

use longshore_model::{Error, Reference, Result};
use longshore_store::{
    NewEvent, Store,
    images::{
        self, Image, Lease, LoadRequest, Loaded, PlatformImage,
        manifest::{ImageConfig, Platform, RunConfig},
    },
};

use crate::{
    Engine, Inner,
    api::{ContainerSpec, Healthcheck, ImageIdentity},
};

mod commit;
mod gc;
mod inspect;
mod list;
mod prune;
mod remove;
mod save;
mod search;

pub use commit::Commit;
pub(crate) use gc::LastUse;
pub use save::SavedImages;

/// Progress of a load: one text a line of Docker's JSON stream (its `stream` field).
pub type Progress = tokio::sync::mpsc::Sender<String>;

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

/// What a container takes from its image.
pub(crate) struct ContainerImage {
    pub identity: ImageIdentity,
    /// Topmost first.
    pub layers: Vec<PathBuf>,
    pub config: Arc<ImageConfig>,
    /// Held as long as the container exists.
    pub lease: Lease,
}

impl ContainerImage {
    /// Fills in what the client left open, by dockerd's rules: an own entry point takes the image's command away, too;
    /// environment and labels of the client win; ports and volumes add up.
    pub(crate) fn apply(&self, spec: &mut ContainerSpec) {
        let image: &RunConfig = &self.config.config;
        let process = &mut spec.process;
        let or_image = |own: &mut String, image: &str| {
            if own.is_empty() {
                image.clone_into(own);
            }
        };
        or_image(&mut process.user, &image.user);
        or_image(&mut process.working_dir, &image.working_dir);
        or_image(&mut spec.stop_signal, &image.stop_signal);
        if process.entrypoint.as_ref().is_none_or(Vec::is_empty) {
            if process.cmd.as_ref().is_none_or(Vec::is_empty) {
                process.cmd.clone_from(&image.cmd);
            }
            if process.entrypoint.is_none() {
                process.entrypoint.clone_from(&image.entrypoint);
            }
        }
        let name_of = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
        for entry in &image.env {
            if !process.env.iter().any(|own| name_of(own) == name_of(entry)) {
                process.env.push(entry.clone());
            }
        }
        for (label, value) in image.labels.iter().flatten() {
            spec.labels
                .entry(label.clone())
                .or_insert_with(|| value.clone());
        }
        for port in image.exposed_ports.keys() {
            let port = if port.contains('/') {
                port.clone()
            } else {
                format!("{port}/tcp")
            };
            spec.exposed_ports.insert(port);
        }
        spec.anonymous_volumes.extend(image.volumes.keys().cloned());
        spec.stop_timeout = spec.stop_timeout.or(image.stop_timeout);
        if let Some(inherited) = image.healthcheck.as_ref().and_then(healthcheck) {
            let own = spec.healthcheck.get_or_insert_with(Healthcheck::default);
            if own.test.is_empty() {
                own.test = inherited.test;
            }
            for (own, inherited) in [
                (&mut own.interval, inherited.interval),
                (&mut own.timeout, inherited.timeout),
                (&mut own.start_period, inherited.start_period),
                (&mut own.start_interval, inherited.start_interval),
                (&mut own.retries, inherited.retries),
            ] {
                if *own == 0 {
                    *own = inherited;
                }
            }
        }
    }
}

fn healthcheck(value: &serde_json::Value) -> Option<Healthcheck> {
    let number = |name: &str| {
        value
            .get(name)
            .and_then(serde_json::Value::as_i64)
            .unwrap_or(0)
    };
    let test = value
        .get("Test")?
        .as_array()?
        .iter()
        .filter_map(|word| word.as_str().map(str::to_owned))
        .collect();
    Some(Healthcheck {
        test,
        interval: number("Interval"),
        timeout: number("Timeout"),
        start_period: number("StartPeriod"),
        start_interval: number("StartInterval"),
        retries: number("Retries"),
    })
}

pub(crate) fn platform(text: Option<&str>) -> Result<Option<Platform>> {
    let Some(text) = text.filter(|t| !t.is_empty()) else {
        return Ok(None);
    };
    let bad = || {
        Error::invalid(format!(
            "\"{text}\" is an invalid OS/architecture component"
        ))
    };
    Platform::parse(text).map(Some).ok_or_else(bad)
}

fn identity(image: &Image, manifest: &PlatformImage) -> ImageIdentity {
    ImageIdentity {
        id: image.id().to_owned(),
        manifest_media_type: manifest.descriptor.media_type.clone(),
        manifest_digest: manifest.descriptor.digest.clone(),
        manifest_size: manifest.descriptor.size,
        architecture: manifest.platform.architecture.clone(),
        os: manifest.platform.os.clone(),
        variant: manifest.platform.variant.clone(),
    }
}

/// An image event; the name is in the attributes, as in dockerd.
fn image_event(action: &str, id: &str, name: &str) -> NewEvent {
    crate::events::event(
        "image",
        action,
        id,
        BTreeMap::from([("name".to_owned(), name.to_owned())]),
    )
}

/// Short form of an id for messages: twelve digits.
fn short(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

impl Inner {
    pub(crate) fn images(&self) -> &images::Images {
        self.store.images()
    }

    /// The image that a container is made from, unpacked and leased.
    pub(crate) async fn image_for_container(
        &self,
        name: &str,
        wanted: Option<&str>,
    ) -> Result<ContainerImage> {
        let wanted = platform(wanted)?;
        let (store, name) = (self.store.clone(), name.to_owned());
        // Known images need no I/O: the common case stays on this thread.
        let ready = |store: &Store, unpack: bool| -> Result<Option<ContainerImage>> {
            let images = store.images();
            let resolved = images.resolve(&name)?;
            self.last_use.note(resolved.image.id());
            let missing = || Error::not_found(format!("No such image: {name}"));
            let lease = Lease::take(store, resolved.image.id()).ok_or_else(missing)?;
            let image = lease.image().clone();
            let manifest = image.for_platform(wanted.as_ref());
            if !unpack && !manifest.is_some_and(PlatformImage::is_unpacked) {
                return Ok(None);
            }
            let layers = images.rootfs(&image, wanted.as_ref())?;
            let manifest = manifest.ok_or_else(missing)?;
            let config = images.config(manifest)?;
            Ok(Some(ContainerImage {
                identity: identity(&image, manifest),
                layers,
                config,
                lease,
            }))
        };
        if let Some(found) = ready(&store, false)? {
            return Ok(found);
        }
        let missing = Error::system(format!("image {name} cannot be unpacked"));
        let ready = {
            let (name, wanted) = (name.clone(), wanted.clone());
            move || {
                let images = store.images();
                let resolved = images.resolve(&name)?;
                images
                    .rootfs(&resolved.image, wanted.as_ref())
                    .map(|_| store)
            }
        };
        let store = crate::blocking(ready).await?;
        let images = store.images();
        let resolved = images.resolve(&name)?;
        let lease = Lease::take(&store, resolved.image.id()).ok_or_else(|| missing.clone())?;
        let image = lease.image().clone();
        let manifest = image.for_platform(wanted.as_ref()).ok_or(missing)?;
        let layers = images.rootfs(&image, wanted.as_ref())?;
        let config = images.config(manifest)?;
        Ok(ContainerImage {
            identity: identity(&image, manifest),
            layers,
            config,
            lease,
        })
    }

    /// Is `wanted` (name or id) the image `id`, or one that it builds upon?
    pub(crate) fn is_ancestor(&self, wanted: &str, id: &str, named: &str) -> bool {
        let Ok(ancestor) = self.images().resolve(wanted) else {
            return wanted == named;
        };
        if ancestor.image.id() == id {
            return true;
        }
        let Some(image) = self.images().get(id) else {
            return false;
        };
        let layers = |image: &Image| {
            image
                .main()
                .map(|m| {
                    m.layers
                        .iter()
                        .map(|l| l.diff_id.clone())
                        .collect::<Vec<_>>()
                })
                .unwrap_or_default()
        };
        let (base, own) = (layers(&ancestor.image), layers(&image));
        !base.is_empty() && base.len() < own.len() && own.starts_with(&base)
    }

    /// Bytes of an image's unpacked layers.
    pub(crate) fn root_size(&self, id: &str) -> u64 {
        self.images()
            .get(id)
            .map_or(0, |image| image.unpacked_size())
    }
}

impl Engine {
    /// Reads an archive (docker-archive or OCI layout, compressed or not) to its end, only the `wanted` platform of images
    /// that have several. Lines such as `Loaded image: busybox:latest` go to `progress`.
    ///
    /// # Errors
    /// What is no archive, or not what it says.
    pub async fn load_images(
        &self,
        archive: OwnedFd,
        wanted: Option<&str>,
        progress: Progress,
    ) -> Result<()> {
        let wanted = platform(wanted)?;
        let store = self.inner.store.clone();
        crate::blocking(move || {
            let mut events = |loaded: &Loaded| {
                let name = loaded
                    .name
                    .as_ref()
                    .map_or_else(|| loaded.id.clone(), Reference::familiar);
                vec![image_event("load", &loaded.id, &name)]
            };
            let request = LoadRequest {
                platform: wanted,
                events: &mut events,
                // A client that went away misses the line; the load goes on.
                progress: &mut |loaded| {
                    drop(progress.blocking_send(format!("{}\n", loaded.message())))
                },
            };
            let loaded = store.images().load(File::from(archive), request).map(drop);
            // Unpacking is over for long, as a rule: its code and memory need not stay.
            longshore_shim::host::slim();
            loaded
        })
        .await
    }

    /// Makes an image of one layer from a root file system's archive; the new image's id.
    ///
    /// # Errors
    /// A bad name, bad changes, what is no archive.
    pub async fn import_image(&self, archive: OwnedFd, request: ImportRequest) -> Result<String> {
        let reference = match (request.repository.as_str(), request.tag.as_str()) {
            ("", _) => None,
            (repository, "") => Some(Reference::parse(repository)?),
            (repository, tag) => Some(Reference::parse(&format!("{repository}:{tag}"))?),
        };
        let wanted = platform(request.platform.as_deref())?;
        let store = self.inner.store.clone();
        crate::blocking(move || {
            let request = images::ImportRequest {
                reference,
                message: if request.message.is_empty() {
                    "Imported from -".to_owned()
                } else {
                    request.message
                },
                changes: request.changes,
                platform: wanted,
            };
            let mut events = |loaded: &Loaded| {
                let name = loaded
                    .name
                    .as_ref()
                    .map_or_else(|| loaded.id.clone(), Reference::familiar);
                vec![image_event("import", &loaded.id, &name)]
            };
            store
                .images()
                .import(File::from(archive), request, &mut events)
        })
        .await
    }

    /// # Errors
    /// 404; 400 for a bad name.
    pub async fn tag_image(&self, name: &str, repository: &str, tag: &str) -> Result<()> {
        let image = self.inner.images().resolve(name)?.image;
        let text = if tag.is_empty() {
            repository.to_owned()
        } else {
            format!("{repository}:{tag}")
        };
        let reference = Reference::parse(&text)?;
        if reference.digest.is_some() {
            return Err(Error::invalid(
                "refusing to create a tag with a digest reference",
            ));
        }
        let reference = reference.or_latest();
        let store = self.inner.store.clone();
        crate::blocking(move || {
            let events = vec![image_event("tag", image.id(), &reference.familiar())];
            store.images().tag(&reference, image.id(), events)
        })
        .await
    }
}
