//! What registries say: an image's descriptor and platforms, and whether credentials are good.

use longshore_model::{Error, ErrorKind, Reference, Result};
use longshore_registry::{Actions, Credentials, Failure, Login};
use longshore_store::images::manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, Descriptor, ImageConfig, Index, Manifest, OCI_INDEX, Platform,
};

use crate::Engine;

/// `GET /distribution/{name}/json`
#[derive(Clone, Debug, Default)]
pub struct Distribution {
    pub descriptor: Descriptor,
    /// `None`: the manifest does not say, and dockerd does not look.
    pub platforms: Option<Vec<Platform>>,
}

impl Engine {
    /// Asks the registry about an image.
    ///
    /// # Errors
    /// 404 for what it does not have; 401 for what it does not show; 500 when it cannot be asked.
    pub async fn distribution(
        &self,
        reference: &Reference,
        credentials: Credentials,
    ) -> Result<Distribution> {
        let failed = |failure: Failure| match failure {
            Failure::NotFound(_) => Error::not_found(format!(
                "manifest for {} not found: manifest unknown: manifest unknown",
                reference.familiar()
            )),
            Failure::Unauthorized(why) => Error::new(
                ErrorKind::Unauthorized,
                format!(
                    "pull access denied for {}, repository does not exist or may require 'docker login': {why}",
                    reference.familiar_name()
                ),
            ),
            other => plain(&other),
        };
        let registry = &self.inner.registry;
        let session = registry
            .session(reference, credentials, Actions::Pull)
            .await
            .map_err(failed)?;
        let object = reference.digest.as_ref().or(reference.tag.as_ref());
        let object = object.map_or("latest", String::as_str);
        let found = session.manifest(object).await.map_err(failed)?;
        let target = &found.target;
        let mut platforms = None;
        // An OCI manifest has its platform in the configuration, too, but dockerd only looks into Docker's own.
        match target.media_type.as_str() {
            OCI_INDEX | DOCKER_LIST => {
                let index: Index = parse(&found.bytes)?;
                let all = index
                    .manifests
                    .into_iter()
                    .map(|m| m.platform.unwrap_or_default());
                platforms = Some(all.collect());
            }
            DOCKER_MANIFEST => {
                let manifest: Manifest = parse(&found.bytes)?;
                if let Ok(config) = session.document(&manifest.config.digest).await
                    && let Ok(config) = ImageConfig::parse(&config)
                    && !(config.platform.os.is_empty() && config.platform.architecture.is_empty())
                {
                    platforms = Some(vec![config.platform]);
                }
            }
            _ => {}
        }
        Ok(Distribution {
            descriptor: Descriptor {
                media_type: target.media_type.clone(),
                digest: target.digest.clone(),
                size: target.size,
                ..Descriptor::default()
            },
            platforms,
        })
    }

    /// Tries credentials on the registry that they are for.
    ///
    /// # Errors
    /// 401 when they are refused; 500 when the registry cannot be asked.
    pub async fn login(&self, credentials: &Credentials) -> Result<Login> {
        let login = self.inner.registry.login(credentials).await;
        login.map_err(|failure| match failure {
            Failure::Unauthorized(why) => Error::new(ErrorKind::Unauthorized, why),
            other => plain(&other),
        })
    }
}

/// A failed request without containerd's words in front.
fn plain(failure: &Failure) -> Error {
    match failure {
        Failure::Request {
            method, url, cause, ..
        } => Error::system(format!("{method} \"{url}\": {cause}")),
        other => Error::from(other.clone()),
    }
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::system(format!("manifest: {e}")))
}
