//! Pulling: names to content to an image. One layer is fetched once however many pulls want it; what has come is kept when a
//! pull breaks off.

mod content;
mod layer;
mod lines;

use std::{sync::Arc, time::Duration};

use longshore_model::{Error, ErrorKind, Reference, Result};
use longshore_registry::{Actions, Credentials, Failure, Registry, Session, Settings, Target};
use longshore_store::{
    NewEvent,
    images::{Held, Loaded, Pulled, manifest::Platform},
};

pub(crate) use layer::Downloads;
pub use lines::{Detail, Line, Lines};

use self::{
    content::{Content, Wanted},
    layer::Waiting,
    lines::Shown,
};
use crate::{Engine, Inner};

/// How often the bars move.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// `POST /images/create?fromImage=`
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// Without tag and digest: all tags of the repository.
    pub reference: Reference,
    /// `linux/arm64`; none: this machine's.
    pub platform: Option<String>,
    pub credentials: Credentials,
}

/// Holds blobs for a task. Letting go may mean collecting garbage, which is no work for a thread of the runtime.
pub(crate) struct Keep(Option<Held>);

impl Keep {
    pub fn new(held: Held) -> Self {
        Self(Some(held))
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        let held = self.0.take();
        tokio::task::spawn_blocking(move || drop(held));
    }
}

/// The registry client as the daemon is configured.
pub(crate) fn registry(config: &longshore_model::config::DaemonConfig) -> Arc<Registry> {
    let mut settings = Settings::new(
        config.insecure_registries.clone(),
        config.registry_mirrors.clone(),
        format!("longshore/{}", env!("CARGO_PKG_VERSION")),
    );
    settings.limits.attempts = config.max_download_attempts;
    let [http, https, exceptions] = &config.proxies;
    let proxies = &mut settings.proxies;
    for (own, said) in [
        (&mut proxies.http, http),
        (&mut proxies.https, https),
        (&mut proxies.exceptions, exceptions),
    ] {
        if let Some(said) = said {
            own.clone_from(said);
        }
    }
    Registry::new(settings)
}

/// An event about a name rather than an image, as dockerd has it for pull and push.
pub(crate) fn name_event(action: &str, reference: &Reference) -> NewEvent {
    let name = ("name".to_owned(), reference.familiar_name());
    crate::events::event("image", action, &reference.familiar(), [name].into())
}

/// `failed to resolve reference "x": ...`, and what Docker makes of a refusal.
pub(crate) fn resolving(failure: Failure, reference: &Reference) -> Error {
    let full = reference.canonical();
    match failure {
        Failure::Unauthorized(why) if why.contains("no basic auth credentials") => {
            Error::system(format!(
                "failed to resolve reference \"{full}\": pull access denied, repository does not exist or may require authorization: {why}"
            ))
        }
        Failure::Unauthorized(_) => Error::not_found(format!(
            "pull access denied for {}, repository does not exist or may require 'docker login'",
            reference.familiar_name()
        )),
        other => Error::from(other).context(format!("failed to resolve reference \"{full}\"")),
    }
}

impl Engine {
    /// Pulls an image, or all tags of a repository. Progress goes to `lines`; dropping the future cancels what nobody else
    /// waits for. An error before the first line is an answer of its own for the client.
    ///
    /// # Errors
    /// 404 for what the registry does not have; 500 for what it does not give; 400 for a bad platform.
    pub async fn pull_image(&self, request: PullRequest, lines: &Lines) -> Result<()> {
        let platform = crate::image::platform(request.platform.as_deref())?;
        let session = self
            .inner
            .registry
            .session(&request.reference, request.credentials, Actions::Pull)
            .await
            .map_err(|failure| resolving(failure, &request.reference))?;
        let session = Arc::new(session);
        if !request.reference.is_name_only() {
            return self
                .inner
                .pull_one(&session, &request.reference, platform.as_ref(), lines)
                .await;
        }
        let tags = session.tags().await.map_err(|failure| match failure {
            Failure::NotFound(_) => Error::not_found(format!(
                "failed to resolve reference \"{}\": {}: not found",
                request.reference.name(),
                request.reference.name()
            )),
            other => resolving(other, &request.reference),
        })?;
        for tag in tags {
            let reference = request.reference.with_tag(&tag)?;
            self.inner
                .pull_one(&session, &reference, platform.as_ref(), lines)
                .await?;
        }
        Ok(())
    }
}

impl Inner {
    async fn pull_one(
        self: &Arc<Self>,
        session: &Arc<Session>,
        reference: &Reference,
        platform: Option<&Platform>,
        lines: &Lines,
    ) -> Result<()> {
        let object = reference.digest.as_ref().or(reference.tag.as_ref());
        let object = object.map_or("latest", String::as_str);
        let target = session
            .resolve(object)
            .await
            .map_err(|failure| resolving(failure, reference))?;
        let _held = Keep::new(Held::blobs(&self.store, vec![target.digest.clone()]));
        let title = match &reference.digest {
            Some(_) => reference.canonical(),
            None => object.to_owned(),
        };
        let content = self.content(session, reference, &target, platform).await?;
        let _all_held = Keep::new(Held::blobs(&self.store, content.digests()));
        // Again: what was there at the first look may have gone before it was held.
        self.refresh(&content).await?;
        lines
            .send(Line::new(
                &title,
                format!("Pulling from {}", reference.path),
            ))
            .await;
        let before = self.images().tag_named(reference);
        let newer = before.is_none_or(|named| named.tag.image != target.digest);
        if newer || !self.is_complete(&target, platform) {
            self.fetch_and_install(session, reference, &target, platform, content, lines)
                .await?;
        } else {
            let (store, name, id) = (self.store.clone(), reference.clone(), target.digest.clone());
            let events = vec![name_event("pull", reference)];
            crate::blocking(move || store.images().tag(&name, &id, events)).await?;
        }
        let message = |text: String| Line::new("", text);
        lines
            .send(message(format!("Digest: {}", target.digest)))
            .await;
        let status = if newer {
            "Downloaded newer image for"
        } else {
            "Image is up to date for"
        };
        lines
            .send(message(format!(
                "Status: {status} {}",
                reference.familiar()
            )))
            .await;
        Ok(())
    }

    /// Is the image here, unpacked for the platform?
    fn is_complete(&self, target: &Target, platform: Option<&Platform>) -> bool {
        let Some(image) = self.images().get(&target.digest) else {
            return false;
        };
        let wanted = platform.cloned().unwrap_or_else(Platform::host);
        // An image without an index that is for another machine is kept packed.
        let mut all = image.manifests.iter();
        all.any(|m| m.descriptor.digest == image.id() && !wanted.runs(&m.platform))
            || image
                .for_platform(platform)
                .is_some_and(|m| m.is_unpacked())
    }

    async fn fetch_and_install(
        self: &Arc<Self>,
        session: &Arc<Session>,
        reference: &Reference,
        target: &Target,
        platform: Option<&Platform>,
        content: Content,
        lines: &Lines,
    ) -> Result<()> {
        let layers = self.fetch(session, &content, lines).await?;
        let pulled = Pulled {
            target: content.target.clone(),
            platform: platform.cloned(),
            blobs: content.digests(),
            layers: layers.iter().filter_map(Waiting::unpacked).collect(),
            name: reference.clone(),
        };
        // One at a time: a layer that two pulls have waited for is taken by one, and found by the other.
        let _turn = self.downloads.install.acquire().await;
        let (store, event) = (self.store.clone(), name_event("pull", reference));
        let id = crate::blocking(move || {
            let mut events = |_: &Loaded| vec![event.clone()];
            store.images().install_pulled(pulled, &mut events)
        })
        .await?;
        tracing::debug!(
            id,
            name = reference.familiar(),
            digest = target.digest,
            "pulled"
        );
        // Until here: their content is not collected, and nobody fetches it a second time.
        drop(layers);
        crate::blocking(|| {
            longshore_shim::host::slim();
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Brings all layers here. Shows nothing when nothing is missing, as dockerd.
    async fn fetch(
        self: &Arc<Self>,
        session: &Arc<Session>,
        content: &Content,
        lines: &Lines,
    ) -> Result<Vec<Waiting>> {
        let mut shown = Vec::new();
        let mut waiting: Vec<Waiting> = Vec::new();
        let missing = |layer: &&Wanted| !self.images().has_blob(&layer.descriptor.digest);
        if !content.layers.iter().any(|layer| missing(&layer)) {
            return Ok(waiting);
        }
        let mut changed = self.downloads.changes();
        for layer in &content.layers {
            let digest = &layer.descriptor.digest;
            if shown.iter().any(|s: &Shown| s.is(digest)) {
                continue;
            }
            let wait =
                missing(&layer).then(|| self.downloads.join(&self.store, session, layer.clone()));
            shown.push(Shown::begin(digest, wait.as_ref(), lines).await);
            waiting.extend(wait);
        }
        loop {
            let mut open = false;
            for layer in &mut shown {
                open |= layer.show(lines).await;
            }
            if let Some(error) = waiting.iter().find_map(Waiting::error) {
                return Err(error);
            }
            if !open {
                return Ok(waiting);
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }
}

/// Failures of content that Docker's users know by the text of containerd.
fn no_platform(platform: &Platform) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!(
            "no matching manifest for {} in the manifest list entries: no match for platform in manifest: not found",
            platform.text()
        ),
    )
}
