//! One image: inspect, history, attestations.

use longshore_model::{Error, Result, Timestamp};
use longshore_store::images::{Image, PlatformImage, manifest::Descriptor};

use super::{list::target, platform};
use crate::{
    Engine,
    api::{Attestation, AttestationQuery, HistoryEntry, ImageDetail},
};

/// The in-toto type of a statement, in the annotations of its layer.
const PREDICATE: &str = "in-toto.io/predicate-type";

impl Engine {
    /// By reference, id or id prefix; `wanted`: the platform to describe (`os/arch[/variant]`), else this machine's, else
    /// the first. With `manifests` also what the image's index names.
    ///
    /// # Errors
    /// `No such image: X:latest` (404), also for a platform that the image does not have.
    pub async fn image(
        &self,
        name: &str,
        wanted: Option<&str>,
        manifests: bool,
    ) -> Result<ImageDetail> {
        let (engine, name, wanted) = (self.clone(), name.to_owned(), wanted.map(str::to_owned));
        crate::blocking(move || engine.image_now(&name, wanted.as_deref(), manifests)).await
    }

    fn image_now(&self, name: &str, wanted: Option<&str>, manifests: bool) -> Result<ImageDetail> {
        let images = self.inner.images();
        let resolved = images.resolve(name)?;
        let image = &resolved.image;
        let tags = images.tags_of(image.id());
        let mut summary = self.inner.summary(image, &tags)?;
        if let Some(named) = &resolved.tag {
            summary.target = target(&named.tag.descriptor);
        }
        let manifest = described(image, name, wanted)?;
        if manifests {
            let users = self.users_of_manifests();
            summary.manifests = self.inner.manifests(image, &summary.target, &users)?;
        }
        let config = manifest.map(|m| images.config(m)).transpose()?;
        Ok(ImageDetail {
            diff_ids: manifest
                .map(|m| m.layers.iter().map(|l| l.diff_id.clone()).collect())
                .unwrap_or_default(),
            config: config.map(|c| c.raw.clone()).unwrap_or_default(),
            last_tagged: tags.iter().map(|t| Timestamp(t.tag.tagged_nano)).max(),
            summary,
        })
    }

    /// How an image was made, the newest step first. Images that it was made from here are named.
    ///
    /// # Errors
    /// 404, also for a platform that the image does not have.
    pub async fn image_history(
        &self,
        name: &str,
        wanted: Option<&str>,
    ) -> Result<Vec<HistoryEntry>> {
        let (engine, name, wanted) = (self.clone(), name.to_owned(), wanted.map(str::to_owned));
        crate::blocking(move || {
            let images = engine.inner.images();
            let image = images.resolve(&name)?.image;
            let Some(manifest) = described(&image, &name, wanted.as_deref())? else {
                return Ok(Vec::new());
            };
            let mut current = Some(image.clone());
            let steps = images.history(manifest)?.into_iter().map(|step| {
                let own = current.take();
                // One step each: what a commit adds.
                current = own.as_ref().and_then(|image| images.get(&image.parent));
                let id = own.as_ref().map(|image| image.id().to_owned());
                let tags = id.as_deref().map(|id| images.tags_of(id));
                HistoryEntry {
                    id: id.unwrap_or_else(|| "<missing>".to_owned()),
                    created: Timestamp::parse_rfc3339(&step.created).unwrap_or_default(),
                    created_by: step.created_by,
                    tags: tags
                        .unwrap_or_default()
                        .iter()
                        .filter(|t| t.reference.digest.is_none())
                        .map(|t| t.reference.familiar())
                        .collect(),
                    size: step.size,
                    comment: step.comment,
                }
            });
            Ok(steps.collect())
        })
        .await
    }

    /// The statements about one platform of an image.
    ///
    /// # Errors
    /// 404, also for a platform that the image does not have.
    pub async fn image_attestations(
        &self,
        name: &str,
        query: AttestationQuery,
    ) -> Result<Vec<Attestation>> {
        let (engine, name) = (self.clone(), name.to_owned());
        crate::blocking(move || engine.attestations(&name, &query)).await
    }

    fn attestations(&self, name: &str, query: &AttestationQuery) -> Result<Vec<Attestation>> {
        let images = self.inner.images();
        let image = images.resolve(name)?.image;
        let manifest = match &query.platform {
            None => image.for_platform(None),
            Some(_) => described(&image, name, query.platform.as_deref())?,
        };
        let about = manifest.ok_or_else(|| not_provided(name, "linux"))?;
        let speaks = |d: &Descriptor| {
            d.is_attestation()
                && d.annotations.get("vnd.docker.reference.digest")
                    == Some(&about.descriptor.digest)
        };
        let mut found = Vec::new();
        for manifest in images.index_of(&image)?.iter().filter(|d| speaks(d)) {
            // Named by the index, but not here.
            let Ok(statements) = images.statements(manifest) else {
                continue;
            };
            for statement in statements {
                let kind = statement.annotations.get(PREDICATE);
                let predicate_type = kind.cloned().unwrap_or_default();
                if !query.types.is_empty() && !query.types.contains(&predicate_type) {
                    continue;
                }
                let content = match query.statement {
                    true => Some(read_statement(&images.small_blob(&statement.digest)?)?),
                    false => None,
                };
                found.push(Attestation {
                    target: target(&statement),
                    predicate_type,
                    statement: content,
                });
            }
        }
        Ok(found)
    }
}

fn read_statement(bytes: &[u8]) -> Result<serde_json::Value> {
    serde_json::from_slice(bytes).map_err(|e| Error::system(format!("attestation statement: {e}")))
}

/// The manifest to describe.
fn described<'a>(
    image: &'a Image,
    name: &str,
    wanted: Option<&str>,
) -> Result<Option<&'a PlatformImage>> {
    let Some(wanted) = platform(wanted)? else {
        return Ok(image.main());
    };
    image
        .for_platform(Some(&wanted))
        .map(Some)
        .ok_or_else(|| not_provided(name, &wanted.text()))
}

fn not_provided(name: &str, platform: &str) -> Error {
    Error::not_found(format!(
        "image with reference {name} was found but does not provide the specified platform ({platform})"
    ))
}
