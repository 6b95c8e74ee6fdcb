//! A registry that misbehaves as it is told: for pulls that must come through all the same.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, BufRead, BufReader, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use e2e::check::Outcome;
use serde_json::{Value, json};

use crate::images::sha256;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What is wrong with the next answers to requests for blobs of layers.
#[derive(Default)]
pub struct Faults {
    /// Bytes after which a connection is cut, one an answer.
    pub cuts: VecDeque<usize>,
    /// Statuses instead of content; 429 comes with `Retry-After: 1`.
    pub statuses: VecDeque<u16>,
    /// Other bytes of the same length.
    pub corrupt: bool,
    /// So many bytes too few, however often one asks.
    pub short: usize,
    /// Pieces of so many bytes, with a pause after each.
    pub drip: Option<(usize, Duration)>,
    /// Leads to this server for content.
    pub redirect: Option<u16>,
    /// Ranges are ignored.
    pub no_ranges: bool,
    /// A token is wanted, good for so many requests.
    pub token_uses: Option<u32>,
    uses: u32,
    tokens: u32,
}

/// One request that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub range: Option<usize>,
    pub authorization: String,
}

#[derive(Default)]
struct State {
    blobs: Mutex<BTreeMap<String, Vec<u8>>>,
    /// By repository and tag or digest.
    manifests: Mutex<BTreeMap<String, (String, Vec<u8>)>>,
    layers: Mutex<Vec<String>>,
    faults: Mutex<Faults>,
    seen: Mutex<Vec<Seen>>,
    port: Mutex<u16>,
}

/// A registry on loopback, for as long as the test runs.
#[derive(Clone)]
pub struct Registry {
    pub port: u16,
    state: Arc<State>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    pub fn start() -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State::default());
        *lock(&state.port) = port;
        let served = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = served.clone();
                thread::spawn(move || drop(serve(&state, stream)));
            }
        });
        Ok(Self { port, state })
    }

    /// The server that a redirect leads to has the same content.
    pub fn twin(&self) -> Outcome<Self> {
        let other = Self::start()?;
        lock(&other.state.blobs).clone_from(&lock(&self.state.blobs));
        Ok(other)
    }

    pub fn name(&self, repository: &str, tag: &str) -> String {
        format!("127.0.0.1:{}/{repository}:{tag}", self.port)
    }

    pub fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut lock(&self.state.faults));
    }

    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.state.seen).clone()
    }

    /// Requests for a blob's content.
    pub fn fetches(&self, digest: &str) -> Vec<Seen> {
        let wanted = format!("/blobs/{digest}");
        let mut seen = self.seen();
        seen.retain(|s| s.method == "GET" && s.path.ends_with(&wanted));
        seen
    }

    pub fn add_blob(&self, bytes: &[u8]) -> Value {
        let digest = format!("sha256:{}", sha256(bytes));
        lock(&self.state.blobs).insert(digest.clone(), bytes.to_vec());
        json!({"digest": digest, "size": bytes.len()})
    }

    pub fn add_manifest(&self, object: &str, media_type: &str, document: &Value) -> Value {
        let bytes = document.to_string().into_bytes();
        let digest = format!("sha256:{}", sha256(&bytes));
        let mut manifests = lock(&self.state.manifests);
        for key in [object, &digest] {
            manifests.insert(key.to_owned(), (media_type.to_owned(), bytes.clone()));
        }
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// An image of these layers (plain tar archives) under a tag; gives the manifest's descriptor and the layers' digests.
    pub fn add_image(&self, tag: &str, layers: &[Vec<u8>]) -> (Value, Vec<String>) {
        let ids: Vec<String> = layers
            .iter()
            .map(|l| format!("sha256:{}", sha256(l)))
            .collect();
        let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"], "Labels": {"tag": tag}},
            "rootfs": {"type": "layers", "diff_ids": ids}})
        .to_string();
        let mut config = self.add_blob(config.as_bytes());
        config["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
        let mut described = Vec::new();
        for layer in layers {
            let mut layer = self.add_blob(layer);
            layer["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar");
            described.push(layer);
        }
        lock(&self.state.layers).extend(ids.clone());
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": described});
        (self.add_manifest(tag, MANIFEST, &manifest), ids)
    }
}

struct Request {
    method: String,
    path: String,
    range: Option<usize>,
    authorization: String,
}

fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let mut word = || words.next().unwrap_or_default().to_owned();
    let mut request = Request {
        method: word(),
        path: word(),
        range: None,
        authorization: String::new(),
    };
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            return Ok(Some(request));
        }
        let Some((name, value)) = header.trim().split_once(':') else {
            // TLS, most likely.
            return Ok(None);
        };
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                request.range = value
                    .trim()
                    .strip_prefix("bytes=")
                    .and_then(|v| v.strip_suffix('-')?.parse().ok());
            }
            "authorization" => value.trim().clone_into(&mut request.authorization),
            _ => {}
        }
    }
}

fn serve(state: &State, stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    // A TLS greeting is no HTTP.
    if reader.fill_buf()?.first() == Some(&0x16) {
        stream.write_all(
            b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n",
        )?;
        return stream.shutdown(Shutdown::Both);
    }
    while let Some(request) = read(&mut reader)? {
        lock(&state.seen).push(Seen {
            method: request.method.clone(),
            path: request.path.clone(),
            range: request.range,
            authorization: request.authorization.clone(),
        });
        if !answer(state, &request, &mut stream)? {
            return stream.shutdown(Shutdown::Both);
        }
    }
    Ok(())
}

fn head(stream: &mut TcpStream, status: u16, headers: &str, length: usize) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{headers}\r\n");
    stream.write_all(head.as_bytes())
}

/// False: the connection is cut.
fn answer(state: &State, request: &Request, stream: &mut TcpStream) -> io::Result<bool> {
    let path = request.path.split('?').next().unwrap_or_default();
    if path == "/token" {
        let mut faults = lock(&state.faults);
        faults.tokens += 1;
        faults.uses = 0;
        let body = json!({"token": format!("t{}", faults.tokens), "expires_in": 300}).to_string();
        head(stream, 200, "", body.len())?;
        stream.write_all(body.as_bytes())?;
        return Ok(true);
    }
    if let Some(challenge) = challenge(state, request) {
        head(stream, 401, &challenge, 0)?;
        return Ok(true);
    }
    let object = path.rsplit('/').next().unwrap_or_default();
    if path.contains("/manifests/") {
        let found = lock(&state.manifests).get(object).cloned();
        let Some((media_type, bytes)) = found else {
            head(stream, 404, "", 0)?;
            return Ok(true);
        };
        let headers = format!(
            "Content-Type: {media_type}\r\nDocker-Content-Digest: sha256:{}\r\n",
            sha256(&bytes)
        );
        head(stream, 200, &headers, bytes.len())?;
        if request.method == "GET" {
            stream.write_all(&bytes)?;
        }
        return Ok(true);
    }
    let found = lock(&state.blobs).get(object).cloned();
    match found {
        Some(bytes) if path.contains("/blobs/") => {
            let is_layer = lock(&state.layers).iter().any(|l| l == object);
            blob(state, request, stream, bytes, is_layer)
        }
        _ => {
            head(stream, 404, "", 0)?;
            Ok(true)
        }
    }
}

fn challenge(state: &State, request: &Request) -> Option<String> {
    let mut faults = lock(&state.faults);
    let limit = faults.token_uses?;
    if request.authorization == format!("Bearer t{}", faults.tokens) && faults.uses < limit {
        faults.uses += 1;
        return None;
    }
    let port = *lock(&state.port);
    Some(format!(
        "WWW-Authenticate: Bearer realm=\"http://127.0.0.1:{port}/token\",service=\"test\",scope=\"repository:x:pull\"\r\n"
    ))
}

fn blob(
    state: &State,
    request: &Request,
    stream: &mut TcpStream,
    mut bytes: Vec<u8>,
    is_layer: bool,
) -> io::Result<bool> {
    let mut start = request.range.unwrap_or(0).min(bytes.len());
    let (mut cut, mut drip) = (None, None);
    if is_layer {
        let mut faults = lock(&state.faults);
        if let Some(port) = faults.redirect {
            let location = format!("Location: http://127.0.0.1:{port}{}\r\n", request.path);
            head(stream, 307, &location, 0)?;
            return Ok(true);
        }
        if let Some(status) = faults.statuses.pop_front() {
            let retry = if status == 429 {
                "Retry-After: 1\r\n"
            } else {
                ""
            };
            let body = json!({"errors": [{"code": "TOOBUSY", "message": "later"}]}).to_string();
            head(stream, status, retry, body.len())?;
            stream.write_all(body.as_bytes())?;
            return Ok(true);
        }
        if faults.corrupt {
            bytes.iter_mut().for_each(|b| *b = !*b);
        }
        bytes.truncate(bytes.len() - faults.short.min(bytes.len()));
        if faults.no_ranges {
            start = 0;
        }
        cut = faults.cuts.pop_front();
        drip = faults.drip;
    }
    let start = start.min(bytes.len());
    let rest = &bytes[start..];
    if start > 0 {
        let range = format!(
            "Content-Range: bytes {start}-{}/{}\r\n",
            bytes.len().max(1) - 1,
            bytes.len()
        );
        head(stream, 206, &range, rest.len())?;
    } else {
        head(stream, 200, "", rest.len())?;
    }
    let sent = cut.map_or(rest, |cut| &rest[..cut.min(rest.len())]);
    match drip {
        Some((size, pause)) => {
            for piece in sent.chunks(size) {
                stream.write_all(piece)?;
                thread::sleep(pause);
            }
        }
        None => stream.write_all(sent)?,
    }
    Ok(cut.is_none())
}
