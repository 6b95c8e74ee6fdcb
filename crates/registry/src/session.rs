//! One pull or push: a repository of a registry, with credentials, over the endpoints that have its content.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, StatusCode, Uri,
    header::{ACCEPT, CONTENT_LENGTH, HeaderName, HeaderValue},
};
use longshore_model::{Error, Reference, id::hex};
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use crate::{
    auth::{self, Credentials, Grants, Login},
    challenge,
    endpoint::{Endpoint, endpoints},
    failure::Failure,
    http::{Call, Client, Payload, Reply, range},
    settings::{Limits, Settings},
    transfer::BlobStream,
    uri::{join, with_query},
};

/// A manifest or index, at most.
const MANIFEST_MAX: usize = 8 << 20;
const TAGS_MAX: usize = 16 << 20;

/// The daemon's registry client. Cheap while nobody pulls.
pub struct Registry {
    settings: Arc<Settings>,
    /// Insecure registries that were found to have no TLS.
    plain: Mutex<HashSet<String>>,
}

/// What will be done with a repository: the scope of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actions {
    Pull,
    Push,
}

/// What a tag or digest stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
}

/// A manifest or index with its bytes; the digest is that of the bytes.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub target: Target,
    pub bytes: Bytes,
}

/// One pull or push.
pub struct Session {
    registry: Arc<Registry>,
    pub(crate) client: Client,
    grants: Grants,
    endpoints: Vec<Endpoint>,
    /// The endpoint that answered last: the others only when it fails.
    preferred: AtomicUsize,
    /// Repository below the registry.
    pub(crate) path: String,
    /// The repository with its registry, for texts.
    name: String,
    pub(crate) scopes: Vec<String>,
}

/// A request below a repository.
pub(crate) struct Ask<'a> {
    pub method: Method,
    /// Below `/v2/<repository>`: `/manifests/latest`.
    pub rest: &'a str,
    pub headers: HeaderMap,
    pub scopes: &'a [String],
}

impl Registry {
    pub fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            settings: Arc::new(settings),
            plain: Mutex::default(),
        })
    }

    pub fn limits(&self) -> &Limits {
        &self.settings.limits
    }

    /// Begins to work with a reference's repository. Nothing is sent yet.
    ///
    /// # Errors
    /// Settings for the registry that cannot be understood.
    pub async fn session(
        self: &Arc<Self>,
        reference: &Reference,
        credentials: Credentials,
        actions: Actions,
    ) -> Result<Session, Failure> {
        let endpoints = self.endpoints(&reference.domain).await?;
        let action = match actions {
            Actions::Pull => "pull",
            Actions::Push => "pull,push",
        };
        Ok(Session {
            client: Client::new(self.settings.clone()),
            grants: Grants::new(credentials, &reference.domain),
            endpoints,
            preferred: AtomicUsize::new(0),
            name: reference.name(),
            scopes: vec![format!("repository:{}:{action}", reference.path)],
            path: reference.path.clone(),
            registry: self.clone(),
        })
    }

    /// Tries credentials: `docker login`.
    ///
    /// # Errors
    /// They are refused, or the registry cannot be asked.
    pub async fn login(&self, credentials: &Credentials) -> Result<Login, Failure> {
        let server = credentials.server.trim_start_matches("https://");
        let server = server.trim_start_matches("http://");
        let server = match server.split('/').next().unwrap_or_default() {
            "" | "index.docker.io" => "docker.io",
            host => host,
        };
        let client = Client::new(self.settings.clone());
        let mut first = None;
        for endpoint in self.endpoints(server).await? {
            if endpoint.mirror_of.is_some() {
                continue;
            }
            match auth::login(&client, &endpoint, credentials).await {
                Err(failure) if failure.is_request() => {
                    first.get_or_insert(failure);
                }
                done => return done,
            }
        }
        Err(first.unwrap_or_else(|| no_endpoint(server)))
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.settings.clone())
    }

    pub(crate) async fn endpoints(&self, registry: &str) -> Result<Vec<Endpoint>, Failure> {
        let (settings, name) = (self.settings.clone(), registry.to_owned());
        let found = tokio::task::spawn_blocking(move || endpoints(&settings, &name))
            .await
            .map_err(|e| Failure::Content(Error::system(e.to_string())))?
            .map_err(|why| Failure::Content(Error::system(why)))?;
        let plain = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        let (secure, other): (Vec<_>, Vec<_>) = found.into_iter().partition(|e| {
            e.base.starts_with("https://")
                && plain.contains(&e.base.replacen("https://", "http://", 1))
        });
        // Without TLS first where that has worked; with it all the same when it does not any more.
        Ok(other.into_iter().chain(secure).collect())
    }
}

fn no_endpoint(name: &str) -> Failure {
    Failure::Content(Error::system(format!("no endpoint for {name} can do that")))
}

impl Session {
    pub fn limits(&self) -> &Limits {
        self.registry.limits()
    }

    /// What a tag or digest stands for now.
    ///
    /// # Errors
    /// `NotFound`; the failures of the wire.
    pub async fn resolve(&self, object: &str) -> Result<Target, Failure> {
        let rest = format!("/manifests/{object}");
        let reply = self
            .anywhere(|e| e.resolve, Method::HEAD, &rest, &accepting())
            .await
            .map_err(|failure| self.name_missing(failure, object))?;
        let media_type = reply.header("content-type").to_owned();
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        let digest = if longshore_model::reference::check_digest(object).is_ok() {
            object.to_owned()
        } else {
            reply.header("docker-content-digest").to_owned()
        };
        let size = reply.header(CONTENT_LENGTH.as_str()).parse().unwrap_or(0);
        let known = longshore_model::reference::check_digest(&digest).is_ok()
            && media_type.contains('/')
            && !matches!(
                media_type,
                "text/plain" | "application/json" | "application/octet-stream"
            );
        if known && size > 0 {
            return Ok(Target {
                media_type: media_type.to_owned(),
                digest,
                size,
            });
        }
        // A registry that does not tell: the content does.
        self.manifest(object).await.map(|manifest| manifest.target)
    }

    /// A manifest or index by tag or digest; bytes that a digest does not fit are refused.
    ///
    /// # Errors
    /// `NotFound`; content that is not what was asked for; the failures of the wire.
    pub async fn manifest(&self, object: &str) -> Result<Manifest, Failure> {
        let rest = format!("/manifests/{object}");
        let mut attempt = 1;
        let (bytes, declared) = loop {
            let reply = self
                .anywhere(|e| e.pull, Method::GET, &rest, &accepting())
                .await
                .map_err(|failure| self.name_missing(failure, object))?;
            let declared = reply.header("content-type").to_owned();
            match reply.collect(MANIFEST_MAX).await {
                Ok(bytes) => break (bytes, declared),
                Err(failure) => self.pause(&failure, &mut attempt).await?,
            }
        };
        let digest = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
        if longshore_model::reference::check_digest(object).is_ok() && digest != object {
            return Err(Failure::Content(Error::system(format!(
                "failed commit on ref \"manifest-{object}\": unexpected commit digest {digest}, expected {object}: failed precondition"
            ))));
        }
        Ok(Manifest {
            target: Target {
                media_type: media_type(&declared, &bytes),
                digest,
                size: bytes.len() as u64,
            },
            bytes,
        })
    }

    /// A small blob whole, not verified.
    ///
    /// # Errors
    /// `NotFound`, the failures of the wire.
    pub async fn document(&self, digest: &str) -> Result<Bytes, Failure> {
        let rest = format!("/blobs/{digest}");
        let mut attempt = 1;
        loop {
            let reply = self
                .anywhere(|e| e.pull, Method::GET, &rest, &HeaderMap::new())
                .await
                .map_err(|failure| blob_missing(failure, digest))?;
            match reply.collect(MANIFEST_MAX).await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => self.pause(&failure, &mut attempt).await?,
            }
        }
    }

    /// A blob's bytes from `offset` on. Verifying them is the reader's.
    ///
    /// # Errors
    /// `NotFound`; the failures of the wire.
    pub async fn blob(&self, digest: &str, offset: u64) -> Result<BlobStream, Failure> {
        let mut headers = HeaderMap::new();
        // Compression on the way would change what is counted.
        headers.insert(
            hyper::header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        if offset > 0 {
            range(&mut headers, offset);
        }
        let rest = format!("/blobs/{digest}");
        let reply = self
            .once(|e| e.pull, Method::GET, &rest, &headers)
            .await
            .map_err(|failure| blob_missing(failure, digest))?;
        BlobStream::new(reply, offset)
    }

    /// All tags of the repository.
    ///
    /// # Errors
    /// `NotFound`; the failures of the wire.
    pub async fn tags(&self) -> Result<Vec<String>, Failure> {
        #[derive(serde::Deserialize)]
        struct Tags {
            tags: Option<Vec<String>>,
        }
        let mut found = Vec::new();
        let mut rest = "/tags/list".to_owned();
        loop {
            let reply = self
                .anywhere(|e| e.resolve, Method::GET, &rest, &HeaderMap::new())
                .await
                .map_err(|failure| match failure {
                    Failure::NotFound(_) => Failure::NotFound(self.name.clone()),
                    other => other,
                })?;
            let next = next_page(reply.header("link"));
            let body = reply.collect(TAGS_MAX).await?;
            let tags: Tags = serde_json::from_slice(&body).map_err(|e| {
                Failure::Content(Error::system(format!("tags of {}: {e}", self.name)))
            })?;
            let before = found.len();
            found.extend(tags.tags.into_iter().flatten());
            match next {
                // A registry that gives nothing more and says that there is more never ends.
                Some(query) if found.len() > before => rest = format!("/tags/list?{query}"),
                _ => return Ok(found),
            }
        }
    }

    fn name_missing(&self, failure: Failure, object: &str) -> Failure {
        match failure {
            Failure::NotFound(_) => {
                let separator = if object.contains(':') { '@' } else { ':' };
                Failure::NotFound(format!("{}{separator}{object}", self.name))
            }
            other => other,
        }
    }

    /// Waits before the next try, or gives up with the failure. `attempt` counts from 1.
    ///
    /// # Errors
    /// The failure, when another try does not help or there have been enough.
    pub async fn pause(&self, failure: &Failure, attempt: &mut u32) -> Result<(), Failure> {
        let limits = self.limits();
        // A registry that wants us to come back tomorrow: the user should hear of it now.
        let too_long = failure
            .retry_after()
            .is_some_and(|wait| wait > limits.pause_max);
        if *attempt >= limits.attempts || too_long || !failure.again() {
            return Err(failure.clone());
        }
        let pause = limits.pause * 2u32.saturating_pow(*attempt - 1);
        let pause = failure.retry_after().unwrap_or(pause).min(limits.pause_max);
        tracing::debug!(attempt, ?pause, "registry: {failure}");
        sleep(pause).await;
        *attempt += 1;
        Ok(())
    }

    /// Asks again when a later try may work.
    async fn anywhere(
        &self,
        can: impl Fn(&Endpoint) -> bool + Copy,
        method: Method,
        rest: &str,
        headers: &HeaderMap,
    ) -> Result<Reply, Failure> {
        let mut attempt = 1;
        loop {
            match self.once(can, method.clone(), rest, headers).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => {
                    self.pause(&failure, &mut attempt).await?;
                }
            }
        }
    }

    /// Asks the endpoints one after the other, the one that answered last first.
    pub(crate) async fn once(
        &self,
        can: impl Fn(&Endpoint) -> bool,
        method: Method,
        rest: &str,
        headers: &HeaderMap,
    ) -> Result<Reply, Failure> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let mut order: Vec<usize> = (0..self.endpoints.len()).collect();
        order.sort_by_key(|at| *at != preferred);
        let mut worst: Option<Failure> = None;
        for at in order {
            let Some(endpoint) = self.endpoints.get(at).filter(|e| can(e)) else {
                continue;
            };
            let ask = Ask {
                method: method.clone(),
                rest,
                headers: headers.clone(),
                scopes: &self.scopes,
            };
            let failure = match self.ask(endpoint, ask).await {
                Ok(reply) if reply.status.is_success() => {
                    self.prefer(at);
                    return Ok(reply);
                }
                Ok(reply) if reply.status == StatusCode::NOT_FOUND => {
                    if endpoint.mirror_of.is_none() {
                        // It speaks, and says no: pushes go there, by this scheme.
                        self.prefer(at);
                    }
                    reply.discard().await;
                    Failure::NotFound(self.name.clone())
                }
                Ok(reply) => reply.unexpected().await,
                Err(failure) => failure,
            };
            if worst
                .as_ref()
                .is_none_or(|worst| rank(&failure) > rank(worst))
            {
                worst = Some(failure);
            }
        }
        Err(worst.unwrap_or_else(|| no_endpoint(&self.name)))
    }

    fn prefer(&self, at: usize) {
        self.preferred.store(at, Ordering::Relaxed);
        if let Some(endpoint) = self.endpoints.get(at)
            && endpoint.base.starts_with("http://")
        {
            let mut plain = self
                .registry
                .plain
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            plain.insert(endpoint.base.clone());
        }
    }

    /// The endpoint that pushes go to.
    pub(crate) fn writer(&self) -> Result<&Endpoint, Failure> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        self.endpoints
            .get(preferred)
            .filter(|e| e.push)
            .or_else(|| self.endpoints.iter().find(|e| e.push))
            .ok_or_else(|| no_endpoint(&self.name))
    }

    /// One request without a body; authorization is fetched when it is asked for.
    pub(crate) async fn ask(&self, endpoint: &Endpoint, ask: Ask<'_>) -> Result<Reply, Failure> {
        let mut url = format!("{}/{}{}", endpoint.base, self.path, ask.rest);
        if let Some(registry) = &endpoint.mirror_of {
            url = with_query(&url, "ns", registry);
        }
        let uri: Uri = url.parse().map_err(|_| bad_address(&url))?;
        let mut answered = false;
        loop {
            let headers = self
                .headers(endpoint, ask.scopes, ask.headers.clone())
                .await?;
            let call = Call {
                method: ask.method.clone(),
                uri: uri.clone(),
                headers,
                payload: None,
                trust: &endpoint.trust,
            };
            let reply = if matches!(ask.method, Method::GET | Method::HEAD) {
                self.client.get(call).await?
            } else {
                self.client.send(call).await?
            };
            // A 401 from where a redirect led to is no question for us.
            if reply.status != StatusCode::UNAUTHORIZED
                || !crate::uri::same_server(&reply.uri, &uri)
            {
                return Ok(reply);
            }
            if answered {
                return Err(refusal(reply).await);
            }
            answered = true;
            self.grants
                .answer(&self.client, endpoint, ask.scopes, &reply)
                .await?;
            reply.discard().await;
        }
    }

    /// One request with a body, to an address that the registry gave.
    pub(crate) async fn send(
        &self,
        endpoint: &Endpoint,
        method: Method,
        uri: &Uri,
        headers: HeaderMap,
        payload: Payload,
    ) -> Result<Reply, Failure> {
        let base: Uri = endpoint
            .base
            .parse()
            .map_err(|_| bad_address(&endpoint.base))?;
        // An upload may be led elsewhere: to a storage that our token is no business of.
        let headers = if crate::uri::same_server(&base, uri) {
            self.headers(endpoint, &self.scopes, headers).await?
        } else {
            headers
        };
        let call = Call {
            method,
            uri: uri.clone(),
            headers,
            payload: Some(payload),
            trust: &endpoint.trust,
        };
        self.client.send(call).await
    }

    async fn headers(
        &self,
        endpoint: &Endpoint,
        scopes: &[String],
        mut headers: HeaderMap,
    ) -> Result<HeaderMap, Failure> {
        for (name, value) in &endpoint.headers {
            let bad =
                |_| Failure::Content(Error::system(format!("bad header {name:?} in hosts.toml")));
            let name: HeaderName = name.parse().map_err(|_| bad(()))?;
            headers.append(
                name.clone(),
                HeaderValue::from_str(value).map_err(|_| bad(()))?,
            );
        }
        self.grants
            .apply(&self.client, endpoint, scopes, &mut headers)
            .await?;
        Ok(headers)
    }

    /// An address below the repository at an endpoint.
    pub(crate) fn address(&self, endpoint: &Endpoint, rest: &str) -> Result<Uri, Failure> {
        let url = format!("{}/{}{rest}", endpoint.base, self.path);
        url.parse().map_err(|_| bad_address(&url))
    }
}

/// Which of several endpoints' failures tells the most.
fn rank(failure: &Failure) -> u8 {
    match failure {
        Failure::Request { .. } => 1,
        Failure::NotFound(_) => 2,
        _ => 3,
    }
}

fn bad_address(url: &str) -> Failure {
    Failure::Content(Error::invalid(format!("invalid address {url:?}")))
}

/// A 401 for credentials that the registry had asked for.
async fn refusal(reply: Reply) -> Failure {
    let error = reply
        .headers
        .get_all("www-authenticate")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(challenge::parse)
        .map(|challenge| challenge.get("error").to_owned())
        .find(|error| !error.is_empty());
    match error {
        Some(error) => {
            reply.discard().await;
            Failure::Unauthorized(format!("server message: {error}: authorization failed"))
        }
        None => reply.unexpected().await,
    }
}

fn accepting() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static(crate::ACCEPT));
    headers
}

fn blob_missing(failure: Failure, digest: &str) -> Failure {
    match failure {
        Failure::NotFound(_) => Failure::NotFound(format!("content at {digest}")),
        other => other,
    }
}

/// What a document says it is; else what the registry says; else what its fields look like.
fn media_type(declared: &str, bytes: &[u8]) -> String {
    let document: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    if let Some(own) = document.get("mediaType").and_then(|m| m.as_str())
        && !own.is_empty()
    {
        return own.to_owned();
    }
    let declared = declared.split(';').next().unwrap_or_default().trim();
    if declared.starts_with("application/vnd.") {
        return declared.to_owned();
    }
    let has = |key: &str| document.get(key).is_some();
    if has("manifests") {
        "application/vnd.oci.image.index.v1+json"
    } else if has("fsLayers") {
        "application/vnd.docker.distribution.manifest.v1+json"
    } else {
        "application/vnd.oci.image.manifest.v1+json"
    }
    .to_owned()
}

/// The query of the next page, from a `Link` header.
fn next_page(link: &str) -> Option<String> {
    let (target, rest) = link.strip_prefix('<')?.split_once('>')?;
    if !rest.contains("next") {
        return None;
    }
    let base: Uri = "http://registry/".parse().ok()?;
    join(&base, target)?.query().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn media_types() {
        for (declared, body, want) in [
            ("a/b", r#"{"mediaType":"x/y"}"#, "x/y"),
            (
                "application/vnd.x+json; charset=utf-8",
                "{}",
                "application/vnd.x+json",
            ),
            (
                "text/plain",
                r#"{"manifests":[]}"#,
                "application/vnd.oci.image.index.v1+json",
            ),
            (
                "",
                r#"{"fsLayers":[]}"#,
                "application/vnd.docker.distribution.manifest.v1+json",
            ),
            ("", "no json", "application/vnd.oci.image.manifest.v1+json"),
        ] {
            assert_eq!(media_type(declared, body.as_bytes()), want);
        }
    }

    #[test]
    fn pages() {
        assert_eq!(
            next_page("</v2/x/tags/list?last=b&n=2>; rel=\"next\"").as_deref(),
            Some("last=b&n=2")
        );
        assert_eq!(next_page("</v2/x>; rel=\"prev\""), None);
        assert_eq!(next_page(""), None);
    }

    proptest! {
        #[test]
        fn what_registries_say_never_panics(link in "\\PC{0,60}", declared in "\\PC{0,40}", body in "\\PC{0,60}") {
            let _ = next_page(&link);
            let _ = media_type(&declared, body.as_bytes());
        }
    }
}
