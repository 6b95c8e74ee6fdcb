//! Who we are, to a registry: basic authentication and bearer tokens (Docker's token protocol and its OAuth2 form).

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hyper::{
    HeaderMap, Method, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use serde::Deserialize;

use crate::{
    challenge::{self, Challenge},
    endpoint::{Endpoint, HUB, HUB_SERVER},
    failure::Failure,
    http::{Call, Client, Payload, Reply},
    tls::Trust,
    uri::{escape, with_query},
};

/// A token is fetched anew so long before it ends.
const MARGIN: Duration = Duration::from_secs(5);
/// What the token protocol says a token lives when the server does not.
const LIFE: u64 = 60;
const TOKEN_MAX: usize = 1 << 20;
const CLIENT: &str = "longshore";

/// What a client sent along: `X-Registry-Auth`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
    /// A refresh token that `docker login` got.
    pub identity_token: String,
    /// A token for the registry itself.
    pub registry_token: String,
    /// Whose they are; empty: the registry's of the reference.
    pub server: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?} at {:?})", self.username, self.server)
    }
}

impl Credentials {
    /// Are they for this server? `registry`: the reference's domain.
    fn fit(&self, authority: &str, registry: &str) -> bool {
        let server = self.server.trim_start_matches("https://");
        let server = server.trim_start_matches("http://");
        let server = server.split('/').next().unwrap_or_default();
        let server = if server.is_empty() { registry } else { server };
        let server = match server {
            HUB | "index.docker.io" => HUB_SERVER,
            other => other,
        };
        server.eq_ignore_ascii_case(authority)
    }

    fn basic(&self) -> Option<String> {
        if self.username.is_empty() || self.password.is_empty() {
            return None;
        }
        let pair = format!("{}:{}", self.username, self.password);
        Some(format!("Basic {}", BASE64_STANDARD.encode(pair)))
    }
}

/// Answer to a login.
#[derive(Clone, Debug, Default)]
pub struct Login {
    /// To be kept instead of the password, when the registry has such a thing.
    pub identity_token: String,
}

/// A header that a server accepts, until when, and how to get the next.
#[derive(Clone)]
struct Grant {
    header: HeaderValue,
    until: Option<Instant>,
    challenge: Challenge,
}

/// Tokens of one session.
pub struct Grants {
    credentials: Credentials,
    registry: String,
    /// By server and scopes.
    known: Mutex<HashMap<(String, String), Grant>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Token {
    token: String,
    access_token: String,
    refresh_token: String,
    expires_in: u64,
}

impl Grants {
    pub fn new(credentials: Credentials, registry: &str) -> Self {
        Self {
            credentials,
            registry: registry.to_owned(),
            known: Mutex::default(),
        }
    }

    /// Adds what is known to be needed. A token that is about to end is replaced first.
    pub async fn apply(
        &self,
        client: &Client,
        endpoint: &Endpoint,
        scopes: &[String],
        headers: &mut HeaderMap,
    ) -> Result<(), Failure> {
        let fits = self.credentials.fit(&endpoint.authority, &self.registry);
        if fits && !self.credentials.registry_token.is_empty() {
            let text = format!("Bearer {}", self.credentials.registry_token);
            headers.insert(AUTHORIZATION, header(&text)?);
            return Ok(());
        }
        let key = (endpoint.authority.clone(), scopes.join(" "));
        let Some(grant) = self.get(&key) else {
            return Ok(());
        };
        let ends = |until: Instant| Instant::now() + MARGIN >= until;
        let grant = if grant.until.is_some_and(ends) {
            self.obtain(client, endpoint, scopes, &grant.challenge)
                .await?
        } else {
            grant
        };
        headers.insert(AUTHORIZATION, grant.header);
        Ok(())
    }

    /// Answers a 401: gets what it asks for. The answer has to be repeated then.
    pub async fn answer(
        &self,
        client: &Client,
        endpoint: &Endpoint,
        scopes: &[String],
        reply: &Reply,
    ) -> Result<(), Failure> {
        let mut challenges: Vec<Challenge> = reply
            .headers
            .get_all("www-authenticate")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        // A token rather than the password.
        challenges.sort_by_key(|challenge| challenge.scheme != "bearer");
        let known = |c: &&Challenge| matches!(c.scheme.as_str(), "bearer" | "basic");
        match challenges.iter().find(known) {
            Some(challenge) => self
                .obtain(client, endpoint, scopes, challenge)
                .await
                .map(drop),
            None => Err(Failure::Unauthorized(format!(
                "unexpected status from {} request to {}: 401 Unauthorized",
                reply.method,
                crate::uri::shown(&reply.uri)
            ))),
        }
    }

    async fn obtain(
        &self,
        client: &Client,
        endpoint: &Endpoint,
        scopes: &[String],
        challenge: &Challenge,
    ) -> Result<Grant, Failure> {
        let none = Credentials::default();
        let fits = self.credentials.fit(&endpoint.authority, &self.registry);
        let credentials = if fits { &self.credentials } else { &none };
        let (text, until) = if challenge.scheme == "basic" {
            let text = credentials.basic().ok_or_else(|| {
                Failure::Unauthorized("authorization failed: no basic auth credentials".to_owned())
            })?;
            (text, None)
        } else {
            let token = token(
                client,
                &endpoint.trust,
                credentials,
                challenge,
                scopes,
                false,
            )
            .await
            .map_err(|failure| in_token(failure, credentials))?;
            let life = match token.expires_in {
                0 => LIFE,
                seconds => seconds.min(24 * 3600),
            };
            let text = if token.token.is_empty() {
                token.access_token
            } else {
                token.token
            };
            let until = Instant::now() + Duration::from_secs(life);
            (format!("Bearer {text}"), Some(until))
        };
        let grant = Grant {
            header: header(&text)?,
            until,
            challenge: challenge.clone(),
        };
        let key = (endpoint.authority.clone(), scopes.join(" "));
        self.lock().insert(key, grant.clone());
        Ok(grant)
    }

    fn get(&self, key: &(String, String)) -> Option<Grant> {
        self.lock().get(key).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Grant>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn in_token(failure: Failure, credentials: &Credentials) -> Failure {
    let kind = if *credentials == Credentials::default() {
        "anonymous"
    } else {
        "oauth"
    };
    let text = format!("failed to authorize: failed to fetch {kind} token: {failure}");
    match failure {
        Failure::Status {
            status: 401 | 403, ..
        } => Failure::Unauthorized(text),
        Failure::Request {
            ref cause, again, ..
        } => Failure::Request {
            method: "Get".to_owned(),
            url: "token".to_owned(),
            cause: format!("failed to authorize: {cause}"),
            again,
        },
        other => other,
    }
}

/// Asks the token server that a challenge names.
async fn token(
    client: &Client,
    trust: &Trust,
    credentials: &Credentials,
    challenge: &Challenge,
    scopes: &[String],
    offline: bool,
) -> Result<Token, Failure> {
    let realm = challenge.get("realm");
    let bad = |why: &str| Failure::Unauthorized(format!("authorization failed: {why}"));
    let uri: Uri = realm
        .parse()
        .map_err(|_| bad("no realm specified for token auth challenge"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(bad("no realm specified for token auth challenge"));
    }
    let mut wanted: Vec<&str> = scopes.iter().map(String::as_str).collect();
    for scope in challenge.get("scope").split_whitespace() {
        if !wanted.contains(&scope) {
            wanted.push(scope);
        }
    }
    let service = challenge.get("service");
    // The token server may be another host: our certificate is not for it.
    let trust = Trust {
        identities: Vec::new(),
        ..trust.clone()
    };
    let mut headers = HeaderMap::new();
    let reply = if credentials.identity_token.is_empty() {
        let mut url = realm.to_owned();
        if !service.is_empty() {
            url = with_query(&url, "service", service);
        }
        for scope in &wanted {
            url = with_query(&url, "scope", scope);
        }
        if let Some(basic) = credentials.basic() {
            url = with_query(&url, "account", &credentials.username);
            headers.insert(AUTHORIZATION, header(&basic)?);
        }
        if offline {
            url = with_query(&url, "offline_token", "true");
            url = with_query(&url, "client_id", CLIENT);
        }
        let uri: Uri = url.parse().map_err(|_| bad("bad realm"))?;
        let call = Call {
            method: Method::GET,
            uri,
            headers,
            payload: None,
            trust: &trust,
        };
        client.get(call).await?
    } else {
        let form = format!(
            "grant_type=refresh_token&service={}&client_id={CLIENT}&scope={}&refresh_token={}",
            escape(service),
            escape(&wanted.join(" ")),
            escape(&credentials.identity_token)
        );
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded; charset=utf-8"),
        );
        let call = Call {
            method: Method::POST,
            uri,
            headers,
            payload: Some(Payload::bytes(form)),
            trust: &trust,
        };
        client.send(call).await?
    };
    if !reply.status.is_success() {
        return Err(reply.unexpected().await);
    }
    let body = reply.collect(TOKEN_MAX).await?;
    let token: Token = serde_json::from_slice(&body)
        .map_err(|e| bad(&format!("unable to decode token response: {e}")))?;
    if token.token.is_empty() && token.access_token.is_empty() {
        return Err(bad(
            "authorization server did not include a token in the response",
        ));
    }
    Ok(token)
}

/// Tries credentials on a registry. The failure is as Docker words it.
pub async fn login(
    client: &Client,
    endpoint: &Endpoint,
    credentials: &Credentials,
) -> Result<Login, Failure> {
    let url = format!("{}/", endpoint.base);
    let uri: Uri = url
        .parse()
        .map_err(|_| Failure::Unauthorized(format!("invalid registry address {url:?}")))?;
    let call = |headers: HeaderMap| Call {
        method: Method::GET,
        uri: uri.clone(),
        headers,
        payload: None,
        trust: &endpoint.trust,
    };
    let mut headers = HeaderMap::new();
    let mut identity_token = String::new();
    let mut reply = client.get(call(headers.clone())).await?;
    if reply.status.as_u16() == 401 {
        let challenges: Vec<Challenge> = reply
            .headers
            .get_all("www-authenticate")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        if let Some(bearer) = challenges.iter().find(|c| c.scheme == "bearer") {
            let offline = credentials.identity_token.is_empty();
            let token = token(client, &endpoint.trust, credentials, bearer, &[], offline)
                .await
                .map_err(|failure| match failure {
                    Failure::Status {
                        status: 401 | 403,
                        detail,
                        ..
                    } => {
                        let why = if detail.is_empty() {
                            "incorrect username or password"
                        } else {
                            &detail
                        };
                        let why = why.trim_start_matches("unauthorized: ");
                        Failure::Unauthorized(format!("Get \"{url}\": unauthorized: {why}"))
                    }
                    other => other,
                })?;
            identity_token = token.refresh_token;
            let bearer = if token.token.is_empty() {
                token.access_token
            } else {
                token.token
            };
            headers.insert(AUTHORIZATION, header(&format!("Bearer {bearer}"))?);
        } else if let Some(basic) = credentials.basic() {
            headers.insert(AUTHORIZATION, header(&basic)?);
        }
        reply.discard().await;
        reply = client.get(call(headers)).await?;
    }
    match reply.status.as_u16() {
        200 => {
            reply.discard().await;
            Ok(Login { identity_token })
        }
        status => {
            let text = format!(
                "login attempt to {url} failed with status: {}",
                crate::failure::status_text(status)
            );
            if status == 401 {
                Err(Failure::Unauthorized(text))
            } else {
                Err(Failure::Content(longshore_model::Error::system(text)))
            }
        }
    }
}

fn header(text: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        Failure::Unauthorized(
            "authorization failed: credentials that no header can have".to_owned(),
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_credentials() {
        let at = |server: &str| Credentials {
            server: server.to_owned(),
            ..Credentials::default()
        };
        for (server, authority, registry, fits) in [
            ("", "registry-1.docker.io", "docker.io", true),
            (
                "https://index.docker.io/v1/",
                "registry-1.docker.io",
                "docker.io",
                true,
            ),
            ("", "mirror.example", "docker.io", false),
            ("r.example:5000", "r.example:5000", "r.example:5000", true),
            (
                "http://R.example:5000/v2/",
                "r.example:5000",
                "r.example:5000",
                true,
            ),
            ("r.example", "r.example:5000", "r.example:5000", false),
            ("other.example", "r.example:5000", "r.example:5000", false),
        ] {
            assert_eq!(
                at(server).fit(authority, registry),
                fits,
                "{server} {authority}"
            );
        }
        let secret = Credentials {
            username: "u".to_owned(),
            password: "secret".to_owned(),
            ..Credentials::default()
        };
        assert!(!format!("{secret:?}").contains("secret"));
    }
}
