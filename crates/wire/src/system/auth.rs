//! `POST /auth`: asks a registry whether credentials are good.

use std::{net::IpAddr, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::{
    StatusCode,
    client::conn::http1,
    header::{AUTHORIZATION, HOST},
};
use hyper_util::rt::TokioIo;
use longshore_model::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, time::timeout};

use crate::{json, request::Request, response::Response};

/// How long a registry may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Credentials {
    username: String,
    password: String,
    serveraddress: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    status: &'static str,
}

/// Host and port of a registry on this machine: the only ones that are spoken to without TLS.
fn loopback(server: &str) -> Option<(IpAddr, u16, String)> {
    let server = server.strip_prefix("http://").unwrap_or(server);
    let server = server.strip_prefix("https://").unwrap_or(server);
    let authority = server.split('/').next()?;
    let uri: hyper::Uri = format!("http://{authority}/").parse().ok()?;
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    let address = match host {
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        host => host.parse().ok()?,
    };
    address
        .is_loopback()
        .then(|| (address, uri.port_u16().unwrap_or(80), authority.to_owned()))
}

/// `POST /auth`
pub(crate) async fn auth(mut request: Request) -> Result<Response> {
    let credentials: Credentials = json::read(&mut request, "AuthConfig").await?;
    let Some((address, port, authority)) = loopback(&credentials.serveraddress) else {
        return Err(Error::not_implemented(
            "logging in to a registry beyond this host is not implemented by longshore yet",
        ));
    };
    let url = format!("http://{authority}/v2/");
    let status = timeout(PATIENCE, ask(address, port, &authority, &credentials))
        .await
        .map_err(|_| Error::system(format!("Get \"{url}\": no answer in time")))?
        .map_err(|error| Error::system(format!("Get \"{url}\": {error}")))?;
    match status {
        StatusCode::OK => Ok(Response::ok(&Answer {
            status: "Login Succeeded",
        })),
        StatusCode::UNAUTHORIZED => Err(Error::new(
            ErrorKind::Unauthorized,
            format!("login attempt to {url} failed with status: {status}"),
        )),
        status => Err(Error::system(format!(
            "login attempt to {url} failed with status: {status}"
        ))),
    }
}

/// `GET /v2/` with basic authentication.
async fn ask(
    address: IpAddr,
    port: u16,
    authority: &str,
    credentials: &Credentials,
) -> std::result::Result<StatusCode, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect((address, port)).await.map_err(|e| {
        let why = longshore_model::error::go_errno(&e);
        format!("dial tcp {address}:{port}: connect: {why}")
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| text(&e))?;
    let pair = format!("{}:{}", credentials.username, credentials.password);
    let request = hyper::Request::get("/v2/")
        .header(HOST, authority)
        .header(
            AUTHORIZATION,
            format!("Basic {}", BASE64_STANDARD.encode(pair)),
        )
        .body(Empty::<Bytes>::new())
        .map_err(|e| text(&e))?;
    let answer = sender.send_request(request);
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer.map(|a| a.status()).map_err(|e| text(&e)),
        // The connection has to be driven; it can only end first when it failed.
        ended = connection => Err(ended.err().map_or("EOF".to_owned(), |e| text(&e))),
    }
}

#[cfg(test)]
mod tests {
    use super::loopback;

    #[test]
    fn only_loopback() {
        for (server, want) in [
            ("127.0.0.1:5000", Some(5000)),
            ("http://localhost/v2/", Some(80)),
            ("[::1]:5000", Some(5000)),
            ("10.0.0.1:5000", None),
            ("registry.example.com", None),
            ("https://index.docker.io/v1/", None),
            ("127.0.0.1.example.com", None),
            ("", None),
        ] {
            assert_eq!(loopback(server).map(|(_, port, _)| port), want, "{server}");
        }
    }
}
