//! Images as the engine means them: what a container is made from, Docker's rules for tags and removal.

use std::{collections::BTreeMap, fs::File, os::fd::OwnedFd, path::PathBuf, sync::Arc};

use longshore_model::{Error, Reference, Result, Timestamp};
use longshore_store::{
    Batch, Durability, NewEvent, Store,
    images::{
        self, Image, Lease, LoadRequest, Loaded, PlatformImage,
        manifest::{ImageConfig, Platform, RunConfig},
    },
};

use crate::{
    Engine, Inner,
    api::{
        ContainerSpec, Filters, Healthcheck, HistoryEntry, ImageDeleted, ImageDetail,
        ImageIdentity, ImageSummary, Snapshot,
    },
    filter,
};

mod save;

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

    fn summary(&self, image: &Image) -> Result<ImageSummary> {
        let tags = self.images().tags_of(image.id());
        let mut repo_tags = Vec::new();
        let mut repo_digests: Vec<String> = Vec::new();
        for named in tags {
            // A name that was pulled by its digest is no tag.
            if named.reference.digest.is_none() {
                repo_tags.push(named.reference.familiar());
            }
            let digest = format!("{}@{}", named.reference.familiar_name(), image.id());
            if !repo_digests.contains(&digest) {
                repo_digests.push(digest);
            }
        }
        let mut summary = ImageSummary {
            id: image.id().to_owned(),
            repo_tags,
            repo_digests,
            size: image.size(),
            containers: -1,
            content_size: image.content_size(),
            unpacked_size: image.unpacked_size(),
            ..ImageSummary::default()
        };
        if let Some(manifest) = image.main() {
            let config = self.images().config(manifest)?;
            summary.created = Timestamp::parse_rfc3339(&config.created).unwrap_or_default();
            summary.labels = config.config.labels.clone().unwrap_or_default();
            summary.identity = identity(image, manifest);
        }
        Ok(summary)
    }
}

impl Engine {
    /// # Errors
    /// Filter values that are not valid; a configuration that cannot be read.
    pub async fn list_images(&self, all: bool, filters: &Filters) -> Result<Vec<ImageSummary>> {
        let _ = all;
        let query = Query::new(self, filters)?;
        let mut found = Vec::new();
        for image in self.inner.images().list() {
            let mut summary = self.inner.summary(&image)?;
            if query.wants(&mut summary) {
                found.push(summary);
            }
        }
        found.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        Ok(found)
    }

    /// By reference, id or id prefix.
    ///
    /// # Errors
    /// `No such image: X:latest` (404).
    pub async fn image(&self, name: &str) -> Result<ImageDetail> {
        let resolved = self.inner.images().resolve(name)?;
        let summary = self.inner.summary(&resolved.image)?;
        let manifest = resolved.image.main();
        let config = manifest
            .map(|m| self.inner.images().config(m))
            .transpose()?;
        let tags = self.inner.images().tags_of(resolved.image.id());
        Ok(ImageDetail {
            diff_ids: manifest
                .map(|m| m.layers.iter().map(|l| l.diff_id.clone()).collect())
                .unwrap_or_default(),
            config: config.map(|c| c.raw.clone()).unwrap_or_default(),
            last_tagged: tags.iter().map(|t| Timestamp(t.tag.tagged_nano)).max(),
            summary,
        })
    }

    /// # Errors
    /// 404.
    pub async fn image_history(&self, name: &str) -> Result<Vec<HistoryEntry>> {
        let resolved = self.inner.images().resolve(name)?;
        let Some(manifest) = resolved.image.main() else {
            return Ok(Vec::new());
        };
        let tags = self.inner.images().tags_of(resolved.image.id());
        let steps = self.inner.images().history(manifest)?;
        Ok(steps
            .into_iter()
            .enumerate()
            .map(|(at, step)| HistoryEntry {
                id: if at == 0 {
                    resolved.image.id().to_owned()
                } else {
                    "<missing>".to_owned()
                },
                created: Timestamp::parse_rfc3339(&step.created).unwrap_or_default(),
                created_by: step.created_by,
                tags: if at == 0 {
                    tags.iter().map(|t| t.reference.familiar()).collect()
                } else {
                    Vec::new()
                },
                size: step.size,
                comment: step.comment,
            })
            .collect())
    }

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
            store.images().load(File::from(archive), request).map(drop)
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

    /// Containers made from an image.
    fn image_users(&self, id: &str) -> Vec<Arc<Snapshot>> {
        self.containers()
            .into_iter()
            .filter(|s| s.image.id == id)
            .collect()
    }

    /// Takes a name away, and the image with its last name. Docker's rules: in use needs force, a running container's
    /// image stays whatever is said.
    ///
    /// # Errors
    /// 404; 409 with the reason.
    pub async fn remove_image(
        &self,
        name: &str,
        force: bool,
        no_prune: bool,
    ) -> Result<Vec<ImageDeleted>> {
        let _ = no_prune;
        let resolved = self.inner.images().resolve(name)?;
        let id = resolved.image.id().to_owned();
        let tags = self.inner.images().tags_of(&id);
        let users = self.image_users(&id);
        let conflict = |what: &str, how: &str, why: String| {
            Err(Error::conflict(format!(
                "conflict: unable to delete {what} ({how}) - {why}"
            )))
        };
        let mut gone = Vec::new();
        let mut names: Vec<Reference> = Vec::new();
        if let Some(named) = &resolved.tag {
            let own = named.reference.clone();
            if let (1, Some(user), false) = (tags.len(), users.first(), force) {
                let why = format!(
                    "container {} is using its referenced image {}",
                    user.id.short(),
                    short(&id)
                );
                return conflict(&own.familiar(), "must be forced", why);
            }
            names.push(own);
        } else {
            let repositories: std::collections::BTreeSet<_> =
                tags.iter().map(|t| t.reference.name()).collect();
            if let Some(user) = users.iter().find(|s| s.state.running()) {
                let why = format!(
                    "image is being used by running container {}",
                    user.id.short()
                );
                return conflict(short(&id), "cannot be forced", why);
            }
            if let (Some(user), false) = (users.first(), force) {
                let why = format!(
                    "image is being used by stopped container {}",
                    user.id.short()
                );
                return conflict(short(&id), "must be forced", why);
            }
            if repositories.len() > 1 && !force {
                return conflict(
                    short(&id),
                    "must be forced",
                    "image is referenced in multiple repositories".to_owned(),
                );
            }
            names.extend(tags.iter().map(|t| t.reference.clone()));
        }
        let last = names.len() == tags.len();
        let (store, image_id, in_use) = (self.inner.store.clone(), id.clone(), !users.is_empty());
        gone.extend(names.iter().map(|n| ImageDeleted::Untagged(n.familiar())));
        crate::blocking(move || {
            for name in &names {
                store
                    .images()
                    .untag(name, vec![image_event("untag", &image_id, &image_id)])?;
            }
            if last && !in_use {
                store
                    .images()
                    .remove(&image_id, vec![image_event("delete", &image_id, &image_id)])?;
            }
            Ok(())
        })
        .await?;
        if last && !in_use {
            gone.push(ImageDeleted::Deleted(id));
        }
        Ok(gone)
    }

    /// Removes images that no container uses: those without a name, or with `dangling=false` all.
    ///
    /// # Errors
    /// Filter values that are not valid.
    pub async fn prune_images(&self, filters: &Filters) -> Result<(Vec<ImageDeleted>, u64)> {
        let dangling = filter::boolean(filters, "dangling")?.unwrap_or(true);
        let until = filter::until(filters)?;
        let before = self.inner.images().total_size();
        let mut gone = Vec::new();
        for image in self.inner.images().list() {
            let tags = self.inner.images().tags_of(image.id());
            let summary = self.inner.summary(&image)?;
            let wanted = (!dangling || tags.is_empty())
                && until.is_none_or(|until| summary.created.0 <= until)
                && filter::labels(&summary.labels, filters)
                && self.image_users(image.id()).is_empty();
            if !wanted {
                continue;
            }
            let (store, id) = (self.inner.store.clone(), image.id().to_owned());
            let removed = crate::blocking(move || {
                store
                    .images()
                    .remove(&id, vec![image_event("delete", &id, &id)])
            });
            // Leased meanwhile: somebody makes a container from it.
            if removed.await.is_ok() {
                gone.extend(
                    tags.iter()
                        .map(|t| ImageDeleted::Untagged(t.reference.familiar())),
                );
                gone.push(ImageDeleted::Deleted(image.id().to_owned()));
            }
        }
        let reclaimed = before.saturating_sub(self.inner.images().total_size());
        let mut batch = Batch::new();
        let space = BTreeMap::from([("reclaimed".to_owned(), reclaimed.to_string())]);
        batch.event(crate::events::event("image", "prune", "", space));
        self.inner
            .commit(batch, Durability::Survives, || {})
            .await?;
        Ok((gone, reclaimed))
    }
}

/// The filters of an image list.
struct Query<'a> {
    filters: &'a Filters,
    dangling: Option<bool>,
    until: Option<i64>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
}

impl<'a> Query<'a> {
    fn new(engine: &Engine, filters: &'a Filters) -> Result<Self> {
        let moment = |name: &str| -> Result<Option<Timestamp>> {
            let Some(value) = filters.get(name).and_then(|v| v.last()) else {
                return Ok(None);
            };
            let image = engine.inner.images().resolve(value)?.image;
            engine.inner.summary(&image).map(|s| Some(s.created))
        };
        Ok(Self {
            filters,
            dangling: filter::boolean(filters, "dangling")?,
            until: filter::until(filters)?,
            before: moment("before")?,
            since: moment("since")?,
        })
    }

    /// Also narrows the names to those that a `reference` filter matches.
    fn wants(&self, image: &mut ImageSummary) -> bool {
        if let Some(patterns) = self.filters.get("reference").filter(|p| !p.is_empty()) {
            let fits = |name: &str| patterns.iter().any(|p| reference_matches(p, name));
            image.repo_tags.retain(|tag| fits(tag));
            image.repo_digests.retain(|digest| fits(digest));
            if image.repo_tags.is_empty() && image.repo_digests.is_empty() {
                return false;
            }
        }
        self.dangling
            .is_none_or(|want| want == image.repo_tags.is_empty())
            && self.until.is_none_or(|until| image.created.0 <= until)
            && self.before.is_none_or(|before| image.created < before)
            && self.since.is_none_or(|since| image.created > since)
            && filter::labels(&image.labels, self.filters)
    }
}

/// Shell patterns against a familiar name, with or without its tag (Go's path.Match: `*` stops at a slash).
fn reference_matches(pattern: &str, name: &str) -> bool {
    let bare = name.split('@').next().unwrap_or(name);
    let bare = bare
        .rsplit_once(':')
        .filter(|(_, tag)| !tag.contains('/'))
        .map_or(bare, |(bare, _)| bare);
    glob(pattern.as_bytes(), name.as_bytes()) || glob(pattern.as_bytes(), bare.as_bytes())
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.first(), text.first()) {
        (None, None) => true,
        (Some(b'*'), _) => {
            glob(&pattern[1..], text)
                || text
                    .first()
                    .is_some_and(|c| *c != b'/' && glob(pattern, &text[1..]))
        }
        (Some(b'?'), Some(c)) if *c != b'/' => glob(&pattern[1..], &text[1..]),
        (Some(p), Some(c)) if p == c => glob(&pattern[1..], &text[1..]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::reference_matches;

    #[test]
    fn reference_patterns() {
        for (pattern, name, want) in [
            ("busybox", "busybox:latest", true),
            ("busybox:*", "busybox:latest", true),
            ("*/busybox", "busybox:latest", false),
            ("bus*", "busybox:glibc", true),
            ("localhost:5000/*", "localhost:5000/x:1", true),
            ("*", "a/b:1", false),
        ] {
            assert_eq!(reference_matches(pattern, name), want, "{pattern} {name}");
        }
    }
}
