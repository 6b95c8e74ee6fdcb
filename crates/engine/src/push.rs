//! Pushing: an image's blobs to a registry, then its manifest, byte for byte as it came here.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use longshore_model::{Error, Reference, Result};
use longshore_registry::{Actions, Content, Credentials, Failure, Session, Uploaded};
use longshore_store::{
    Batch, Durability,
    images::{
        Held, Image, PlatformImage,
        manifest::{Descriptor, Index, Platform},
    },
};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    Engine, Inner,
    pull::{Detail, Keep, Line, Lines, TICK, name_event},
};

/// Repositories that are asked to lend a blob.
const LENDERS_MAX: usize = 3;

/// `POST /images/{name}/push`
#[derive(Clone, Debug)]
pub struct PushRequest {
    /// Without a tag: all tags of the repository.
    pub reference: Reference,
    /// Only the manifest for this platform.
    pub platform: Option<String>,
    pub credentials: Credentials,
}

/// What goes to the registry for one tag.
struct Plan {
    /// Named by the tag.
    target: Descriptor,
    /// The index that could not be pushed whole.
    instead_of: Option<Descriptor>,
    /// Layers first, then configurations; each once.
    blobs: Vec<Blob>,
    /// Manifests that the target names, in the order of sending.
    children: Vec<Descriptor>,
}

struct Blob {
    descriptor: Descriptor,
    is_layer: bool,
}

/// A layer's line.
struct Sending {
    digest: String,
    size: u64,
    sent: Arc<AtomicU64>,
    shown: u64,
    is_layer: bool,
    waits: bool,
    done: bool,
}

fn pushing(failure: Failure) -> Error {
    match failure {
        Failure::Unauthorized(why) => Error::system(format!(
            "push access denied, repository does not exist or may require authorization: {why}"
        )),
        other => Error::from(other),
    }
}

impl Engine {
    /// Pushes a tag, or all tags of a repository. Progress goes to `lines`.
    ///
    /// # Errors
    /// 404 for a name that nothing has; 500 for what the registry refuses.
    pub async fn push_image(&self, request: PushRequest, lines: &Lines) -> Result<()> {
        let reference = &request.reference;
        let platform = crate::image::platform(request.platform.as_deref())?;
        if reference.digest.is_some() {
            return Err(Error::invalid("cannot push a digest reference"));
        }
        let session = self
            .inner
            .registry
            .session(reference, request.credentials, Actions::Push)
            .await
            .map_err(pushing)?;
        let session = Arc::new(session);
        let text = format!("The push refers to repository [{}]", reference.name());
        lines.send(Line::new("", text)).await;
        let mut references = vec![reference.clone()];
        if reference.is_name_only() {
            let name = reference.name();
            let all = self.inner.images().tags();
            let own = all.iter().map(|named| &named.reference);
            references = own
                .filter(|r| r.name() == name && r.digest.is_none())
                .cloned()
                .collect();
            if references.is_empty() {
                return Err(Error::not_found(format!(
                    "An image does not exist locally with the tag: {}",
                    reference.familiar_name()
                )));
            }
        }
        for reference in references {
            self.inner
                .push_one(&session, &reference, platform.as_ref(), lines)
                .await?;
        }
        Ok(())
    }
}

impl Inner {
    async fn push_one(
        self: &Arc<Self>,
        session: &Arc<Session>,
        reference: &Reference,
        platform: Option<&Platform>,
        lines: &Lines,
    ) -> Result<()> {
        let missing = || Error::not_found(format!("tag does not exist: {}", reference.familiar()));
        let named = self.images().tag_named(reference).ok_or_else(missing)?;
        let held = Held::take(&self.store, &named.tag.image).ok_or_else(missing)?;
        let _held = Keep::new(held);
        let image = self.images().get(&named.tag.image).ok_or_else(missing)?;
        let (inner, wanted, of) = (self.clone(), platform.cloned(), image.clone());
        let plan = crate::blocking(move || inner.plan_push(&of, wanted.as_ref())).await?;
        if let Some(index) = plan.instead_of.clone() {
            let both = Box::new((index, plan.target.clone()));
            let line = Line {
                detail: Detail::InsteadOfIndex(both),
                ..Line::default()
            };
            lines.send(line).await;
        }
        self.send_blobs(session, reference, &plan, lines).await?;
        for child in &plan.children {
            self.send_manifest(session, &child.digest, child).await?;
        }
        let tag = reference.tag.as_deref().unwrap_or("latest");
        self.send_manifest(session, tag, &plan.target).await?;
        let text = format!(
            "{tag}: digest: {} size: {}",
            plan.target.digest, plan.target.size
        );
        lines.send(Line::new("", text)).await;
        let mut batch = Batch::new();
        batch.event(name_event("push", reference));
        self.commit(batch, Durability::Survives, || {}).await
    }

    fn plan_push(&self, image: &Image, platform: Option<&Platform>) -> Result<Plan> {
        let whole = |manifest: &&PlatformImage| {
            let blobs = manifest.layers.iter().map(|l| &l.blob);
            blobs
                .chain([&manifest.config])
                .all(|blob| self.images().has_blob(&blob.digest))
        };
        let here: Vec<&PlatformImage> = image.manifests.iter().filter(whole).collect();
        let single = |manifest: &PlatformImage, index: Option<&Descriptor>| Plan {
            target: plain(&manifest.descriptor),
            instead_of: index.map(plain),
            blobs: blobs_of(&[manifest]),
            children: Vec::new(),
        };
        if let Some(wanted) = platform {
            return here
                .iter()
                .find(|m| !m.attestation && wanted.runs(&m.platform))
                .map(|m| single(m, None))
                .ok_or_else(|| {
                    Error::not_found(format!(
                        "image {} does not provide the specified platform ({})",
                        image.id(),
                        wanted.text()
                    ))
                });
        }
        let top = here.iter().find(|m| m.descriptor.digest == image.id());
        if let Some(manifest) = top {
            return Ok(single(manifest, None));
        }
        let document = self.images().document(image.id());
        let document = document.ok_or_else(|| Error::system("the image's index is missing"))?;
        let index: Index = serde_json::from_slice(&document)
            .map_err(|e| Error::system(format!("{}: {e}", image.id())))?;
        let is_here = |entry: &Descriptor| here.iter().any(|m| m.descriptor.digest == entry.digest);
        let mut real = here.iter().filter(|m| !m.attestation);
        if !index.manifests.iter().all(is_here)
            && let (Some(only), None) = (real.next(), real.next())
        {
            return Ok(single(only, Some(&image.descriptor)));
        }
        Ok(Plan {
            target: plain(&image.descriptor),
            instead_of: None,
            blobs: blobs_of(&here),
            children: here.iter().map(|m| plain(&m.descriptor)).collect(),
        })
    }

    /// Repositories of the same registry that have the blob, as far as we know.
    fn lenders(&self, reference: &Reference, digest: &str) -> Vec<String> {
        let mut found = BTreeSet::new();
        for named in self.images().tags() {
            let other = &named.reference;
            if other.domain == reference.domain
                && other.path != reference.path
                && self
                    .images()
                    .get(&named.tag.image)
                    .is_some_and(|image| image.blobs.contains_key(digest))
            {
                found.insert(other.path.clone());
            }
        }
        found.into_iter().take(LENDERS_MAX).collect()
    }

    async fn send_blobs(
        self: &Arc<Self>,
        session: &Arc<Session>,
        reference: &Reference,
        plan: &Plan,
        lines: &Lines,
    ) -> Result<()> {
        let slots = Arc::new(Semaphore::new(self.config.max_concurrent_uploads.max(1)));
        let mut tasks: JoinSet<(usize, std::result::Result<Uploaded, Failure>)> = JoinSet::new();
        let mut sending = Vec::new();
        for (at, blob) in plan.blobs.iter().enumerate() {
            let sent = Arc::new(AtomicU64::new(0));
            let digest = blob.descriptor.digest.clone();
            sending.push(Sending {
                digest: digest.clone(),
                size: blob.descriptor.size,
                sent: sent.clone(),
                shown: 0,
                is_layer: blob.is_layer,
                waits: false,
                done: false,
            });
            let lenders = self.lenders(reference, &digest);
            let store = self.store.clone();
            let content = Content {
                digest: digest.clone(),
                size: blob.descriptor.size,
                open: Arc::new(move || store.images().blob(&digest)),
                sent,
            };
            let (session, slots) = (session.clone(), slots.clone());
            tasks.spawn(async move {
                let _slot = slots.acquire().await;
                (at, session.upload(&content, &lenders).await)
            });
        }
        loop {
            tokio::select! {
                ended = tasks.join_next() => match ended {
                    None => return Ok(()),
                    Some(ended) => {
                        let (at, done) = ended
                            .map_err(|e| Error::system(format!("internal error: {e}")))?;
                        let done = done.map_err(pushing)?;
                        if let Some(blob) = sending.get_mut(at) {
                            blob.finish(&done, lines).await;
                        }
                    }
                },
                () = tokio::time::sleep(TICK) => {
                    for blob in &mut sending {
                        blob.show(lines).await;
                    }
                }
            }
        }
    }

    async fn send_manifest(
        &self,
        session: &Session,
        object: &str,
        descriptor: &Descriptor,
    ) -> Result<()> {
        let (store, digest) = (self.store.clone(), descriptor.digest.clone());
        let missing = Error::system(format!("content digest {digest}: not found"));
        let bytes = crate::blocking(move || Ok(store.images().document(&digest))).await?;
        let bytes = bytes.ok_or(missing)?;
        session
            .put_manifest(object, &descriptor.media_type, bytes.into())
            .await
            .map_err(pushing)
    }
}

impl Sending {
    async fn show(&mut self, lines: &Lines) {
        if self.done || !self.is_layer {
            return;
        }
        let current = self.sent.load(Ordering::Relaxed);
        if current == 0 && !self.waits {
            self.waits = true;
            lines
                .send(Line::layer(&self.digest, "Waiting", Detail::Empty))
                .await;
        }
        if current != self.shown {
            self.shown = current;
            let total = self.size;
            let bar = Detail::Bytes { current, total };
            lines.send(Line::layer(&self.digest, "Pushing", bar)).await;
        }
    }

    async fn finish(&mut self, how: &Uploaded, lines: &Lines) {
        self.done = true;
        if !self.is_layer {
            return;
        }
        let status = match how {
            Uploaded::Existed => "Layer already exists".to_owned(),
            Uploaded::Mounted(from) => format!("Mounted from {from}"),
            Uploaded::Sent => "Pushed".to_owned(),
        };
        lines
            .send(Line::layer(&self.digest, status, Detail::Empty))
            .await;
    }
}

/// What a registry needs to know of a descriptor.
fn plain(descriptor: &Descriptor) -> Descriptor {
    Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.clone(),
        size: descriptor.size,
        ..Descriptor::default()
    }
}

fn blobs_of(manifests: &[&PlatformImage]) -> Vec<Blob> {
    let mut seen = BTreeSet::new();
    let mut blobs = Vec::new();
    let layers = manifests
        .iter()
        .flat_map(|m| &m.layers)
        .map(|l| (&l.blob, true));
    let configs = manifests.iter().map(|m| (&m.config, false));
    for (descriptor, is_layer) in layers.chain(configs) {
        if seen.insert(descriptor.digest.clone()) {
            blobs.push(Blob {
                descriptor: descriptor.clone(),
                is_layer,
            });
        }
    }
    blobs
}
