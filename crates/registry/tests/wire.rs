//! The client against servers of the test's own: TLS with an authority and a client's certificate, mirrors, a proxy, stalls.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use longshore_model::Reference;
use longshore_registry::{
    Actions, Credentials, Failure, Limits, Proxies, Registry, Session, Settings, Target,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

const BODY: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"digest":"x","size":1},"layers":[]}"#;

/// What a server does with a request line; `None` hangs.
type Answer = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(tls: Option<Arc<ServerConfig>>, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = seen.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (tls, answer, log) = (tls.clone(), answer.clone(), log.clone());
                thread::spawn(move || match tls {
                    Some(config) => {
                        let connection = ServerConnection::new(config).unwrap();
                        serve(StreamOwned::new(connection, stream), &answer, &log);
                    }
                    None => serve(stream, &answer, &log),
                });
            }
        });
        Self { port, seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(stream: impl Read + Write, answer: &Answer, log: &Mutex<Vec<String>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_until(b'\n', &mut head) {
                // A TLS greeting has no lines.
                Ok(n) if n > 0 && head[0] != 0x16 => {}
                _ => return,
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let line = head.lines().next().unwrap_or_default().to_owned();
        log.lock().unwrap().push(head);
        let Some(text) = answer(&line) else {
            thread::sleep(Duration::from_secs(20));
            return;
        };
        if stream.get_mut().write_all(text.as_bytes()).is_err() || stream.get_mut().flush().is_err()
        {
            return;
        }
    }
}

fn manifest(line: &str) -> String {
    let body = if line.starts_with("HEAD") { "" } else { BODY };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\n\
         Docker-Content-Digest: sha256:{}\r\n\r\n{body}",
        BODY.len(),
        "a".repeat(64)
    )
}

fn always() -> Answer {
    Arc::new(|line| Some(manifest(line)))
}

/// A folder that goes away.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let name = format!("registry-test-{}", longshore_model::id::random_hex());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
    fn folder(&self, host: &str) -> PathBuf {
        let path = self.0.join(host);
        fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn settings(certs: &Path) -> Settings {
    Settings {
        certs: certs.to_owned(),
        proxies: Proxies::default(),
        limits: Limits {
            stall: Duration::from_millis(200),
            pause: Duration::from_millis(5),
            attempts: 2,
            ..Limits::default()
        },
        ..Settings::new(Vec::new(), Vec::new(), "test".to_owned())
    }
}

async fn session(settings: Settings, name: &str) -> Session {
    let reference = Reference::parse(name).unwrap();
    let registry = Registry::new(settings);
    let session = registry.session(&reference, Credentials::default(), Actions::Pull);
    session.await.unwrap()
}

async fn resolve(settings: Settings, name: &str) -> Result<Target, Failure> {
    session(settings, name).await.resolve("v1").await
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// Certificate and key.
    fn sign(&self, name: &str) -> (String, String) {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn server(&self, name: &str, asks_clients: bool) -> Arc<ServerConfig> {
        let (certificate, key) = self.sign(name);
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if asks_clients {
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap())
                .unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let config = builder.with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        );
        Arc::new(config.unwrap())
    }
}

#[tokio::test]
async fn own_authority() {
    let authority = Authority::new();
    let server = Server::start(Some(authority.server("r.localhost", false)), always());
    let host = format!("r.localhost:{}", server.port);
    let name = format!("{host}/x");
    let scratch = Scratch::new();
    let refused = resolve(settings(&scratch.0), &name)
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(
        refused,
        format!(
            "failed to do request: Head \"https://{host}/v2/x/manifests/v1\": tls: failed to verify certificate: x509: certificate signed by unknown authority"
        )
    );
    fs::write(scratch.folder(&host).join("ca.crt"), &authority.pem).unwrap();
    let found = resolve(settings(&scratch.0), &name).await.unwrap();
    assert_eq!(found.size, BODY.len() as u64);
    // For another name the certificate is not.
    let other = format!("other.localhost:{}", server.port);
    fs::write(scratch.folder(&other).join("ca.crt"), &authority.pem).unwrap();
    let refused = resolve(settings(&scratch.0), &format!("{other}/x"))
        .await
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("x509: certificate is not valid"),
        "{refused}"
    );
    // The operator may not care.
    let careless = Settings {
        insecure: vec![other.clone()],
        ..settings(&Scratch::new().0)
    };
    resolve(careless, &format!("{other}/x")).await.unwrap();
}

#[tokio::test]
async fn certificate_of_the_client() {
    let authority = Authority::new();
    let server = Server::start(Some(authority.server("r.localhost", true)), always());
    let host = format!("r.localhost:{}", server.port);
    let scratch = Scratch::new();
    let folder = scratch.folder(&host);
    fs::write(folder.join("ca.crt"), &authority.pem).unwrap();
    let refused = resolve(settings(&scratch.0), &format!("{host}/x")).await;
    assert!(refused.unwrap_err().is_request());
    let (certificate, key) = authority.sign("me");
    fs::write(folder.join("client.cert"), certificate).unwrap();
    fs::write(folder.join("client.key"), key).unwrap();
    resolve(settings(&scratch.0), &format!("{host}/x"))
        .await
        .unwrap();
}

#[tokio::test]
async fn mirrors_of_any_registry() {
    let mirror = Server::start(None, always());
    let empty = Server::start(
        None,
        Arc::new(|_| Some("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned())),
    );
    let scratch = Scratch::new();
    let text = format!(
        "[host.\"http://127.0.0.1:{}\"]\n[host.\"http://127.0.0.1:{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        empty.port, mirror.port
    );
    fs::write(scratch.folder("far.example").join("hosts.toml"), text).unwrap();
    resolve(settings(&scratch.0), "far.example/x")
        .await
        .unwrap();
    for server in [&empty, &mirror] {
        let seen = server.seen();
        assert!(
            seen[0].starts_with("HEAD /v2/x/manifests/v1?ns=far.example HTTP/1.1"),
            "{seen:?}"
        );
    }
    // Docker Hub's, by daemon.json.
    let hub = Settings {
        mirrors: vec![format!("http://127.0.0.1:{}/", mirror.port)],
        ..settings(&scratch.0)
    };
    resolve(hub, "busybox").await.unwrap();
    let last = mirror.seen().pop().unwrap();
    assert!(
        last.starts_with("HEAD /v2/library/busybox/manifests/v1?ns=docker.io "),
        "{last}"
    );
}

#[tokio::test]
async fn by_proxy() {
    let authority = Authority::new();
    let target = Server::start(Some(authority.server("far.example", false)), always());
    // One proxy: answers for plain HTTP, and leads CONNECT to our server whatever the name.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let (log, to) = (seen.clone(), target.port);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let log = log.clone();
            thread::spawn(move || relay(stream, to, &log));
        }
    });
    let scratch = Scratch::new();
    fs::write(scratch.folder("far.example").join("ca.crt"), &authority.pem).unwrap();
    let through = || Settings {
        insecure: vec!["plain.example".to_owned()],
        proxies: Proxies {
            http: format!("http://me:pw@127.0.0.1:{port}"),
            https: format!("127.0.0.1:{port}"),
            exceptions: String::new(),
        },
        ..settings(&scratch.0)
    };
    resolve(through(), "far.example/x").await.unwrap();
    assert_eq!(
        seen.lock().unwrap()[0].lines().next(),
        Some("CONNECT far.example:443 HTTP/1.1")
    );
    resolve(through(), "plain.example/x").await.unwrap();
    let last = seen.lock().unwrap().last().cloned().unwrap();
    assert!(
        last.starts_with("HEAD http://plain.example/v2/x/manifests/v1 HTTP/1.1"),
        "{last}"
    );
    assert!(
        last.to_lowercase()
            .contains("proxy-authorization: basic bwu6chc="),
        "{last}"
    );
}

fn relay(stream: TcpStream, to: u16, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let line = head.lines().next().unwrap_or_default().to_owned();
    log.lock().unwrap().push(head);
    let mut stream = stream;
    if line.starts_with("CONNECT plain.example") {
        let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n");
    } else if line.starts_with("CONNECT") {
        let target = TcpStream::connect(("127.0.0.1", to)).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            .unwrap();
        let (mut from, mut back) = (stream.try_clone().unwrap(), target.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut from, &mut back));
        let mut target = target;
        let _ = std::io::copy(&mut target, &mut stream);
    } else {
        let _ = stream.write_all(manifest(&line).as_bytes());
    }
}

/// A server that says nothing more is given up, in the head and in the body.
#[tokio::test]
async fn stalls_end() {
    let server = Server::start(
        None,
        Arc::new(|line| {
            // Half of what it promises, and then nothing; the connection stays.
            (line.contains("/blobs/"))
                .then(|| "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_owned())
        }),
    );
    let scratch = Scratch::new();
    let mut settings = settings(&scratch.0);
    settings.limits.answer = Duration::from_millis(300);
    let session = session(settings, &format!("127.0.0.1:{}/x", server.port)).await;
    let start = Instant::now();
    let digest = format!("sha256:{}", "b".repeat(64));
    let mut stream = session.blob(&digest, 0).await.unwrap();
    assert_eq!(stream.next().await.unwrap().as_deref(), Some(&b"half"[..]));
    let failure = stream.next().await.unwrap_err();
    assert!(
        failure.again() && failure.to_string().contains("no data for"),
        "{failure}"
    );
    let failure = session.resolve("v1").await.unwrap_err();
    assert!(
        failure
            .to_string()
            .contains("timeout awaiting response headers"),
        "{failure}"
    );
    assert!(start.elapsed() < Duration::from_secs(10));
}
