//! The protocol over real sockets, with a fake behind it that has one path a behaviour.

use std::{
    path::PathBuf,
    sync::atomic::AtomicU32,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use hyper::{Method, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::{
    error,
    request::{JSON_LIMIT, RequestBody},
    response::Response,
    server::{Listener, run},
    stream::{
        hijack::{MULTIPLEXED_STREAM, docker_head},
        websocket,
    },
};

/// How long anything in these tests may take.
const LIMIT: Duration = Duration::from_secs(20);

/// What happened inside, for the tests to look at.
#[derive(Default)]
struct Seen {
    finished: AtomicUsize,
    gone: AtomicUsize,
}

struct Fake {
    seen: Arc<Seen>,
    shutdown: watch::Receiver<bool>,
}

impl Answer for Fake {
    async fn answer(self: Arc<Self>, request: hyper::Request<Incoming>) -> Response {
        let (parts, incoming) = request.into_parts();
        let mut body = RequestBody::new(incoming, &parts.headers);
        let upgrade = parts.headers.contains_key(hyper::header::UPGRADE);
        match (parts.method, parts.uri.path()) {
            (Method::GET, "/ok") => Response::ok(&"ok"),
            (Method::GET, "/big") => Response::bytes(StatusCode::OK, "x/y", vec![b'b'; 4 << 20]),
            (Method::POST, "/body") => match body.collect(JSON_LIMIT).await {
                Ok(bytes) => Response::ok(&bytes.len()),
                Err(error) => error::response(&error),
            },
            (Method::POST, "/hijack") => {
                let sent = match body.collect(JSON_LIMIT).await {
                    Ok(sent) => sent,
                    Err(error) => return error::response(&error),
                };
                let head = docker_head(upgrade, MULTIPLEXED_STREAM);
                Response::hijack(Hijack::with_head(head, false, |io| echo(io, sent)))
            }
            (Method::POST, "/deaf") => {
                let seen = Arc::clone(&self.seen);
                let head = docker_head(upgrade, MULTIPLEXED_STREAM);
                Response::hijack(Hijack::with_head(head, true, |_io| async move {
                    let _count = OnDrop(seen);
                    pending().await
                }))
            }
            (Method::GET, "/stream") => {
                let (response, sender) = Response::stream("application/jsonl");
                let (seen, mut shutdown) = (Arc::clone(&self.seen), self.shutdown.clone());
                tokio::spawn(async move {
                    sender.send("first\n").await.unwrap();
                    tokio::select! {
                        () = sender.closed() => { seen.gone.fetch_add(1, Ordering::SeqCst); }
                        () = shut_down(&mut shutdown) => {}
                        () = sleep(Duration::from_secs(4)) => { let _ = sender.send("late\n").await; }
                    }
                });
                response
            }
            (Method::POST, "/slow") => {
                sleep(Duration::from_millis(500)).await;
                self.seen.finished.fetch_add(1, Ordering::SeqCst);
                Response::no_content()
            }
            (Method::GET, "/ws") => {
                websocket::accept_with(&parts.headers, |mut socket| async move {
                    // The client's message comes back as it is.
                    if let Some(Ok(message)) = socket.next().await {
                        socket.send(message).await.unwrap();
                    }
                })
                .unwrap_or_else(|error| error::response(&error))
            }
            (Method::GET, "/panic") => panic!("on purpose"),
            (Method::GET, "/304") => Response::empty(StatusCode::NOT_MODIFIED),
            _ => crate::route::page_not_found(),
        }
    }
}

struct OnDrop(Arc<Seen>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.gone.fetch_add(1, Ordering::SeqCst);
    }
}

/// Writes the request's body, then what comes, then a last word.
async fn echo(mut io: HijackedIo, body: Bytes) {
    let _ = io.write_all(&body).await;
    let mut buffer = [0; 1024];
    while let Ok(n) = io.read(&mut buffer).await {
        if n == 0 {
            break;
        }
        let _ = io.write_all(&buffer[..n]).await;
    }
    let _ = io.write_all(b"|bye").await;
}

struct Running {
    path: PathBuf,
    seen: Arc<Seen>,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
}

impl Running {
    fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "longshore-wire-{}-{}.sock",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::SeqCst)
        );
        let path = std::env::temp_dir().join(name);
        let listener = Listener::Unix(UnixListener::bind(&path).unwrap());
        let (stop, shutdown) = watch::channel(false);
        let seen = Arc::new(Seen::default());
        let fake = Fake {
            seen: Arc::clone(&seen),
            shutdown: shutdown.clone(),
        };
        let patience = Duration::from_secs(10);
        let server = tokio::spawn(run(vec![listener], fake, shutdown, patience, async {}));
        Self {
            path,
            seen,
            stop,
            server,
        }
    }
    async fn client(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.unwrap()
    }
    /// Sends, closes the sending side, and takes everything to EOF.
    async fn ask(&self, text: &str) -> String {
        let mut client = self.client().await;
        client.write_all(text.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        rest(&mut client).await
    }
    async fn stop(self) {
        self.stop.send_replace(true);
        timeout(LIMIT, self.server).await.unwrap().unwrap();
        std::fs::remove_file(&self.path).unwrap();
    }
}

async fn rest(client: &mut UnixStream) -> String {
    let mut all = Vec::new();
    timeout(LIMIT, client.read_to_end(&mut all))
        .await
        .expect("the connection stays open")
        .unwrap();
    String::from_utf8(all).unwrap()
}

/// Reads until `what` is there.
async fn until(client: &mut UnixStream, what: &str) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&all).contains(what) {
        let n = timeout(LIMIT, client.read(&mut buffer))
            .await
            .expect("no answer")
            .unwrap();
        assert_ne!(n, 0, "EOF after {:?}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8(all).unwrap()
}

const UPGRADED: &str = "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
const RAW: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n";

fn post(path: &str, headers: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: d\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

const UP: &str = "Connection: Upgrade\r\nUpgrade: tcp\r\n";

#[tokio::test]
async fn hijack_with_and_without_upgrade() {
    let server = Running::start();
    // Input in the same packet as the head, then half close: the output still comes.
    let got = server.ask(&(post("/hijack", UP, "") + "stdin")).await;
    assert_eq!(got, format!("{UPGRADED}stdin|bye"));
    let got = server.ask(&(post("/hijack", "", "") + "stdin")).await;
    assert_eq!(got, format!("{RAW}stdin|bye"));
    // A JSON body in front of the input, with a length and in chunks.
    let got = server.ask(&(post("/hijack", UP, "{json}") + "in")).await;
    assert_eq!(got, format!("{UPGRADED}{{json}}in|bye"));
    let chunked = format!(
        "POST /hijack HTTP/1.1\r\nHost: d\r\n{UP}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\nin"
    );
    assert_eq!(
        server.ask(&chunked).await,
        format!("{UPGRADED}abcdefin|bye")
    );
    // HTTP/1.0 clients hijack too.
    let old = "POST /hijack HTTP/1.0\r\nContent-Length: 0\r\n\r\nin";
    assert_eq!(server.ask(old).await, format!("{RAW}in|bye"));
    server.stop().await;
}

#[tokio::test]
async fn hijack_behind_other_requests() {
    let server = Running::start();
    let get = "GET /ok HTTP/1.1\r\nHost: d\r\n\r\n";
    // Pipelined in one packet.
    let got = server
        .ask(&format!("{get}{get}{}in", post("/hijack", UP, "")))
        .await;
    assert_eq!(got.matches("\"ok\"\n").count(), 2, "{got}");
    assert!(got.ends_with(&format!("{UPGRADED}in|bye")), "{got}");
    // One after the other on a connection that is kept.
    let mut client = server.client().await;
    client.write_all(get.as_bytes()).await.unwrap();
    until(&mut client, "\"ok\"\n").await;
    let request = post("/hijack", UP, "");
    client.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(until(&mut client, "\r\n\r\n").await, UPGRADED);
    client.write_all(b"late").await.unwrap();
    assert_eq!(until(&mut client, "late").await, "late");
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, "|bye");
    server.stop().await;
}

#[tokio::test]
async fn hijack_waits_for_unread_answers() {
    let server = Running::start();
    let mut client = server.client().await;
    let both = format!(
        "GET /big HTTP/1.1\r\nHost: d\r\n\r\n{}in",
        post("/hijack", UP, "")
    );
    client.write_all(both.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    // The answer does not fit into the socket: nothing of it may get lost while the hijack waits.
    sleep(Duration::from_millis(300)).await;
    let got = rest(&mut client).await;
    assert_eq!(
        got.matches('b').count() - "|bye".matches('b').count(),
        4 << 20
    );
    assert!(got.ends_with(&format!("{UPGRADED}in|bye")));
    server.stop().await;
}

#[tokio::test]
async fn expect_continue() {
    let server = Running::start();
    let mut client = server.client().await;
    let head =
        "POST /hijack HTTP/1.1\r\nHost: d\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let got = until(&mut client, "\r\n\r\n").await;
    assert_eq!(got, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"{}in").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, format!("{RAW}{{}}in|bye"));
    server.stop().await;
}

#[tokio::test]
async fn hijack_with_api_headers_ends_with_its_client() {
    let server = Running::start();
    let mut client = server.client().await;
    let request = post("/deaf", UP, "");
    client.write_all(request.as_bytes()).await.unwrap();
    let head = until(&mut client, "\r\n\r\n").await;
    assert!(head.contains(
        "\r\nApi-Version: 1.55\r\nDocker-Experimental: false\r\nOstype: linux\r\nServer: Longshore/"
    ));
    // Half closed is not gone.
    client.shutdown().await.unwrap();
    sleep(TICK * 2).await;
    assert_eq!(server.seen.gone.load(Ordering::SeqCst), 0);
    drop(client);
    wait_for(|| server.seen.gone.load(Ordering::SeqCst) == 1).await;
    server.stop().await;
}

async fn wait_for(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "it never happened");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn dead_clients_end_their_streams() {
    let server = Running::start();
    let get = b"GET /stream HTTP/1.1\r\nHost: d\r\n\r\n";
    let mut half = server.client().await;
    half.write_all(get).await.unwrap();
    half.shutdown().await.unwrap();
    let mut dead = server.client().await;
    dead.write_all(get).await.unwrap();
    let head = until(&mut dead, "first\n").await;
    assert!(head.contains("\r\nTransfer-Encoding: chunked\r\n"));
    drop(dead);
    wait_for(|| server.seen.gone.load(Ordering::SeqCst) == 1).await;
    // The half-closed one gets everything.
    let got = rest(&mut half).await;
    assert!(
        got.ends_with("6\r\nfirst\n\r\n5\r\nlate\n\r\n0\r\n\r\n"),
        "{got}"
    );
    server.stop().await;
}

#[tokio::test]
async fn handlers_outlive_their_clients() {
    let server = Running::start();
    let mut client = server.client().await;
    let request = post("/slow", "", "");
    client.write_all(request.as_bytes()).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    drop(client);
    let seen = Arc::clone(&server.seen);
    // Shutdown waits for it, too.
    server.stop().await;
    assert_eq!(seen.finished.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn shutdown_drains() {
    let server = Running::start();
    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(server.client().await);
    }
    let mut stream = server.client().await;
    let get = b"GET /stream HTTP/1.1\r\nHost: d\r\n\r\n";
    stream.write_all(get).await.unwrap();
    until(&mut stream, "first\n").await;
    let mut slow = server.client().await;
    let request = post("/slow", "", "");
    slow.write_all(request.as_bytes()).await.unwrap();
    // A kept connection between two requests.
    let mut kept = server.client().await;
    kept.write_all(b"GET /ok HTTP/1.1\r\nHost: d\r\n\r\n")
        .await
        .unwrap();
    until(&mut kept, "\"ok\"\n").await;
    sleep(Duration::from_millis(50)).await;
    let start = Instant::now();
    server.stop.send_replace(true);
    assert_eq!(rest(&mut kept).await, "");
    assert!(rest(&mut stream).await.ends_with("0\r\n\r\n"));
    assert!(
        rest(&mut slow)
            .await
            .starts_with("HTTP/1.1 204 No Content\r\n")
    );
    for mut client in idle {
        assert_eq!(rest(&mut client).await, "");
    }
    assert!(start.elapsed() < Duration::from_secs(5));
    server.stop().await;
}

#[tokio::test]
async fn bodies_have_a_limit() {
    let server = Running::start();
    // A declared length is refused before the body is read, while the client still sends.
    let mut client = server.client().await;
    let head = "POST /body HTTP/1.1\r\nHost: d\r\nContent-Length: 104857600\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = client.into_split();
    let flood = tokio::spawn(async move {
        let block = vec![b' '; 1 << 20];
        let mut sent = 0;
        while sent < 100 && writer.write_all(&block).await.is_ok() {
            sent += 1;
        }
        sent
    });
    let mut got = vec![0; 4096];
    let n = timeout(LIMIT, reader.read(&mut got))
        .await
        .unwrap()
        .unwrap();
    let got = String::from_utf8_lossy(&got[..n]).into_owned();
    assert!(got.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{got}");
    assert!(
        got.ends_with("{\"message\":\"request body is too large: the limit is 8388608 bytes\"}\n")
    );
    drop(reader);
    flood.await.unwrap();
    // Chunks are counted.
    let mut client = server.client().await;
    let head = "POST /body HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    for _ in 0..9 {
        if client.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    assert!(
        until(&mut client, "too large")
            .await
            .contains("400 Bad Request")
    );
    // The largest one that is allowed.
    let got = server
        .ask(&post("/body", "", &" ".repeat(JSON_LIMIT)))
        .await;
    assert!(got.ends_with(&format!("{JSON_LIMIT}\n")));
    // A body that breaks off.
    let got = server
        .ask("POST /body HTTP/1.1\r\nHost: d\r\nContent-Length: 9\r\n\r\nabc")
        .await;
    assert!(got.starts_with("HTTP/1.1 400"), "{got}");
    server.stop().await;
}

#[tokio::test]
async fn answers_and_errors() {
    let server = Running::start();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: d\r\n\r\n");
    let got = server.ask(&get("/ok")).await;
    assert!(
        got.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"),
        "{got}"
    );
    assert!(got.contains("\r\nContent-Length: 5\r\n") && got.contains("\r\nDate: "));
    let got = server.ask(&get("/304")).await;
    assert!(
        got.starts_with("HTTP/1.1 304 Not Modified\r\nDate: ") && got.ends_with("\r\n\r\n"),
        "{got}"
    );
    assert!(!got.contains("Content-"), "{got}");
    let got = server.ask(&get("/nosuch")).await;
    assert!(got.starts_with("HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n"));
    assert!(
        got.ends_with("\r\n\r\n{\"message\":\"page not found\"}\n") && !got.contains("Api-Version")
    );
    // A panic ends its request, not the connection.
    let got = server.ask(&(get("/panic") + &get("/ok"))).await;
    assert!(
        got.starts_with("HTTP/1.1 500 ") && got.ends_with("\"ok\"\n"),
        "{got}"
    );
    // What is no HTTP ends the connection.
    assert!(
        server
            .ask("what is this\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 400 Bad Request\r\n")
    );
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let got = server.ask(preface).await;
    assert!(!got.contains("200"), "{got}");
    assert_eq!(server.ask("").await, "");
    server.stop().await;
}

#[tokio::test]
async fn a_head_must_come_in_time() {
    let server = Running::start();
    let mut slow = server.client().await;
    slow.write_all(b"GET /ok HT").await.unwrap();
    // Idle connections stay.
    let mut idle = server.client().await;
    let mut kept = server.client().await;
    kept.write_all(b"GET /ok HTTP/1.1\r\nHost: d\r\n\r\n")
        .await
        .unwrap();
    until(&mut kept, "\"ok\"\n").await;
    assert_eq!(rest(&mut slow).await, "");
    for client in [&mut idle, &mut kept] {
        client
            .write_all(b"GET /ok HTTP/1.1\r\nHost: d\r\n\r\n")
            .await
            .unwrap();
        until(client, "\"ok\"\n").await;
    }
    server.stop().await;
}

#[tokio::test]
async fn websockets() {
    use tokio_tungstenite::{client_async, tungstenite::Message};
    let server = Running::start();
    let (mut socket, answer) = client_async("ws://d/ws", server.client().await)
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    let message = Message::binary(&b"\x00\xffraw"[..]);
    socket.send(message.clone()).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), message);
    let got = server.ask("GET /ws HTTP/1.1\r\nHost: d\r\n\r\n").await;
    assert!(got.contains("400 Bad Request") && got.contains("not a websocket handshake"));
    server.stop().await;
}

/// Memory that is this process's own, in bytes.
fn own_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        * 1024
}

#[tokio::test]
async fn silent_connections_are_cheap() {
    let server = Running::start();
    let before = own_memory();
    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(server.client().await);
    }
    sleep(Duration::from_millis(200)).await;
    let each = own_memory().saturating_sub(before) / 1000;
    // Other tests run meanwhile, hence the room.
    assert!(each < 12_000, "{each} bytes a connection");
    // They all still work, also after the buffers of the first request have been given back.
    for _ in 0..2 {
        for client in idle.iter_mut().take(20) {
            client
                .write_all(b"GET /ok HTTP/1.1\r\nHost: d\r\n\r\n")
                .await
                .unwrap();
            until(client, "\"ok\"\n").await;
        }
        sleep(TICK * 3).await;
    }
    server.stop().await;
}
