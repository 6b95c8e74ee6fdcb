//! From an address to a connection that HTTP can be spoken on: names, TCP, proxies, TLS.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{dns, proxy::Proxy, tls};

/// The answer of a proxy to CONNECT, at most.
const PROXY_HEAD_MAX: usize = 16 << 10;

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    pub tls: bool,
    pub host: String,
    pub port: u16,
}

/// Why there is no connection, in Go's words, and whether it may come later.
pub struct Refused {
    pub why: String,
    pub again: bool,
}

impl Refused {
    fn once(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            again: false,
        }
    }
}

/// Connects. `config` is for the registry's TLS, `proxy_config` for that of a proxy with TLS of its own.
pub async fn connect(
    to: &Address,
    proxy: Option<&Proxy>,
    config: Option<Arc<ClientConfig>>,
    proxy_config: Option<Arc<ClientConfig>>,
    patience: Duration,
) -> Result<Box<dyn Stream>, Refused> {
    let (host, port) = proxy.map_or((&to.host, to.port), |p| (&p.host, p.port));
    let stream = dial(host, port, patience).await.map_err(|refused| {
        if proxy.is_some() {
            Refused {
                why: format!("proxyconnect tcp: {}", refused.why),
                ..refused
            }
        } else {
            refused
        }
    })?;
    let finish = async {
        let mut stream: Box<dyn Stream> = Box::new(stream);
        if let Some(proxy) = proxy {
            if proxy.tls {
                stream = handshake(stream, &proxy.host, proxy_config).await?;
            }
            if to.tls {
                tunnel(&mut stream, to, proxy).await?;
            }
        }
        if to.tls {
            stream = handshake(stream, &to.host, config).await?;
        }
        Ok(stream)
    };
    timeout(patience, finish).await.unwrap_or_else(|_| {
        Err(Refused {
            why: "net/http: TLS handshake timeout".to_owned(),
            again: true,
        })
    })
}

async fn dial(host: &str, port: u16, patience: Duration) -> Result<TcpStream, Refused> {
    let addresses = dns::lookup(host).await.map_err(|why| Refused {
        again: why.ends_with("i/o timeout") || why.ends_with("server misbehaving"),
        why: format!("dial tcp: {why}"),
    })?;
    let mut first = None;
    for address in addresses {
        let to = SocketAddr::new(address, port);
        let refused = match timeout(patience, TcpStream::connect(to)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => Refused::once(format!(
                "dial tcp {to}: connect: {}",
                longshore_model::error::go_errno(&error)
            )),
            Err(_) => Refused {
                why: format!("dial tcp {to}: i/o timeout"),
                again: true,
            },
        };
        first.get_or_insert(refused);
    }
    Err(first.unwrap_or_else(|| Refused::once(format!("dial tcp: lookup {host}: no such host"))))
}

/// Asks the proxy for a way through.
async fn tunnel(stream: &mut Box<dyn Stream>, to: &Address, proxy: &Proxy) -> Result<(), Refused> {
    let host = if to.host.contains(':') {
        format!("[{}]", to.host)
    } else {
        to.host.clone()
    };
    let mut head = format!(
        "CONNECT {host}:{0} HTTP/1.1\r\nHost: {host}:{0}\r\n",
        to.port
    );
    if let Some(authorization) = &proxy.authorization {
        head.push_str("Proxy-Authorization: ");
        head.push_str(authorization);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    let cut = |e: &std::io::Error| Refused {
        why: longshore_model::error::go_errno(e),
        again: true,
    };
    stream
        .write_all(head.as_bytes())
        .await
        .map_err(|e| cut(&e))?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the head is the registry's.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= PROXY_HEAD_MAX {
            return Err(Refused::once("the proxy's answer is too long"));
        }
        answer.push(stream.read_u8().await.map_err(|e| cut(&e))?);
    }
    let line = String::from_utf8_lossy(&answer);
    let line = line.lines().next().unwrap_or_default();
    let status = line.split_once(' ').map_or("", |(_, status)| status);
    if status.starts_with("200") {
        return Ok(());
    }
    Err(Refused {
        why: status.get(4..).unwrap_or(status).to_owned(),
        again: status.starts_with('5'),
    })
}

async fn handshake(
    stream: Box<dyn Stream>,
    host: &str,
    config: Option<Arc<ClientConfig>>,
) -> Result<Box<dyn Stream>, Refused> {
    let config = config.ok_or_else(|| Refused::once("tls: not configured"))?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Refused::once(format!("tls: {host} is no host name")))?;
    match TlsConnector::from(config).connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => {
            let why = if error.kind() == std::io::ErrorKind::UnexpectedEof {
                "EOF".to_owned()
            } else {
                tls::explain(&error)
            };
            // A certificate does not get better; a connection that was cut may.
            let again = !why.contains("tls: ") && !why.starts_with("http: ");
            Err(Refused { why, again })
        }
    }
}
