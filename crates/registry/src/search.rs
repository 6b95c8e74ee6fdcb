//! `docker search`: the index that Docker Hub has, and what is left of it elsewhere (version 1 of the registry API).

use hyper::{HeaderMap, Method, Uri};
use serde::Deserialize;

use crate::{
    Registry,
    failure::Failure,
    http::{Call, Client},
    tls::Trust,
    uri::escape,
};

/// Docker Hub's index.
const INDEX: &str = "index.docker.io";
const ANSWER_MAX: usize = 4 << 20;

/// One repository that an index has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Found {
    pub name: String,
    pub description: String,
    pub star_count: i64,
    pub is_official: bool,
    pub is_automated: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    results: Vec<Found>,
}

impl Registry {
    /// Asks an index (`None`: Docker Hub's) for repositories.
    ///
    /// # Errors
    /// It cannot be asked; a server without an index says 404.
    pub async fn search(
        &self,
        host: Option<&str>,
        term: &str,
        limit: u32,
    ) -> Result<Vec<Found>, Failure> {
        let client = self.client();
        let mut places: Vec<(String, Trust)> = Vec::new();
        match host {
            None | Some(INDEX | "docker.io") => {
                places.push((format!("https://{INDEX}"), Trust::default()));
            }
            Some(host) => {
                for endpoint in self.endpoints(host).await? {
                    if endpoint.mirror_of.is_none() {
                        let base = endpoint.base.trim_end_matches("/v2").to_owned();
                        places.push((base, endpoint.trust));
                    }
                }
            }
        }
        let mut first = None;
        for (base, trust) in places {
            let url = format!("{base}/v1/search?q={}&n={limit}", escape(term));
            match ask(&client, &url, &trust).await {
                Err(failure) if failure.is_request() => drop(first.get_or_insert(failure)),
                done => return done,
            }
        }
        Err(first.unwrap_or_else(|| Failure::NotFound(term.to_owned())))
    }
}

async fn ask(client: &Client, url: &str, trust: &Trust) -> Result<Vec<Found>, Failure> {
    let bad = |why: String| Failure::Content(longshore_model::Error::system(why));
    let uri: Uri = url
        .parse()
        .map_err(|_| bad(format!("invalid address {url:?}")))?;
    let call = Call {
        method: Method::GET,
        uri,
        headers: HeaderMap::new(),
        payload: None,
        trust,
    };
    let reply = client.get(call).await?;
    if reply.status.as_u16() != 200 {
        let status = reply.status.as_u16();
        reply.discard().await;
        return Err(bad(format!("Unexpected status code {status}")));
    }
    let body = reply.collect(ANSWER_MAX).await?;
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|e| bad(format!("error decoding registry search results: {e}")))?;
    Ok(answer.results)
}
