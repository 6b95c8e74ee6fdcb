use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::{net::UnixStream, sync::oneshot, task::JoinHandle, time::timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::*;
use crate::{connection::Stream, stream::multiplex::frame};

const PATIENCE: Duration = Duration::from_secs(10);

/// A pump between a client and a container: the client's end, the container's end (the shim's), the pump's task.
fn start(
    tty: bool,
    keys: Option<&[u8]>,
    prefix: &'static [u8],
) -> (UnixStream, UnixStream, JoinHandle<()>) {
    let (client, ours) = UnixStream::pair().unwrap();
    let (shim, socket) = UnixStream::pair().unwrap();
    let io = HijackedIo::new(Arc::new(Stream::Unix(ours)), Bytes::from_static(prefix));
    let stream = StdioStream {
        socket: Some(socket),
        tty,
        replay: b"old".to_vec(),
        settled: None,
    };
    let task = tokio::spawn(raw(io, stream, keys.map(<[u8]>::to_vec)));
    (client, shim, task)
}

async fn read_exactly(from: &mut UnixStream, want: &[u8]) {
    let mut got = vec![0; want.len()];
    timeout(PATIENCE, from.read_exact(&mut got))
        .await
        .expect("in time")
        .unwrap();
    assert_eq!(got, want);
}

async fn read_to_end(from: &mut UnixStream) -> Vec<u8> {
    let mut got = Vec::new();
    timeout(PATIENCE, from.read_to_end(&mut got))
        .await
        .expect("in time")
        .unwrap();
    got
}

async fn ends(task: JoinHandle<()>) {
    timeout(PATIENCE, task)
        .await
        .expect("the pump ends")
        .unwrap();
}

#[tokio::test]
async fn output_goes_on_after_the_end_of_stdin() {
    let (mut client, mut shim, task) = start(false, Some(&[16, 17]), b"first ");
    client.write_all(b"line\n").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut shim).await, b"first line\n");
    read_exactly(&mut client, b"old").await;
    shim.write_all(b"late").await.unwrap();
    read_exactly(&mut client, b"late").await;
    drop(shim);
    ends(task).await;
    assert_eq!(read_to_end(&mut client).await, b"");
}

#[tokio::test]
async fn the_end_waits_for_the_exit() {
    let (mut client, ours) = UnixStream::pair().unwrap();
    let (shim, socket) = UnixStream::pair().unwrap();
    let (exit, settled) = oneshot::channel();
    let io = HijackedIo::new(Arc::new(Stream::Unix(ours)), Bytes::new());
    let stream = StdioStream {
        socket: Some(socket),
        tty: false,
        replay: Vec::new(),
        settled: Some(settled),
    };
    let task = tokio::spawn(raw(io, stream, None));
    drop(shim);
    let early = timeout(Duration::from_millis(100), client.read_u8()).await;
    assert!(early.is_err(), "{early:?}");
    exit.send(()).unwrap();
    ends(task).await;
    assert_eq!(read_to_end(&mut client).await, b"");
}

#[tokio::test]
async fn detach_keys_let_go_of_a_terminal_only() {
    let (mut client, mut shim, task) = start(true, Some(&[16, 17]), b"");
    client.write_all(b"a\x10").await.unwrap();
    read_exactly(&mut shim, b"a").await;
    client.write_all(b"b\x10\x11c").await.unwrap();
    ends(task).await;
    assert_eq!(read_to_end(&mut shim).await, b"\x10b");
    assert_eq!(read_to_end(&mut client).await, b"old");

    let (mut client, mut shim, task) = start(false, Some(&[16, 17]), b"");
    client.write_all(b"\x10\x11c").await.unwrap();
    read_exactly(&mut shim, b"\x10\x11c").await;
    drop(shim);
    ends(task).await;
}

#[tokio::test]
async fn a_container_that_reads_no_more_is_still_heard() {
    let (mut client, mut shim, task) = start(false, Some(&[]), b"");
    let std = shim.into_std().unwrap();
    std.shutdown(std::net::Shutdown::Read).unwrap();
    shim = UnixStream::from_std(std).unwrap();
    for _ in 0..3 {
        client.write_all(b"nobody reads this").await.unwrap();
    }
    shim.write_all(b"out").await.unwrap();
    read_exactly(&mut client, b"oldout").await;
    drop(shim);
    ends(task).await;
}

#[tokio::test]
async fn a_client_that_went_away_ends_it() {
    let (client, mut shim, task) = start(false, None, b"");
    drop(client);
    // The second write finds the broken pipe at the latest.
    for _ in 0..100 {
        if shim.write_all(b"out").await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ends(task).await;
}

#[tokio::test]
async fn a_client_without_stdin_is_not_read() {
    let (mut client, mut shim, task) = start(false, None, b"");
    client.write_all(b"ignored").await.unwrap();
    shim.write_all(b"x").await.unwrap();
    read_exactly(&mut client, b"oldx").await;
    shim.shutdown().await.unwrap();
    ends(task).await;
    assert_eq!(read_to_end(&mut shim).await, b"");
}

#[tokio::test]
async fn logs_without_a_stream_end_by_themselves() {
    let (mut client, ours) = UnixStream::pair().unwrap();
    let io = HijackedIo::new(Arc::new(Stream::Unix(ours)), Bytes::new());
    raw(
        io,
        StdioStream {
            socket: None,
            tty: false,
            replay: b"log".to_vec(),
            settled: None,
        },
        None,
    )
    .await;
    assert_eq!(read_to_end(&mut client).await, b"log");
}

#[tokio::test]
async fn a_websocket_has_no_frames() {
    for binary in [true, false] {
        let (client, ours) = UnixStream::pair().unwrap();
        let (mut shim, socket) = UnixStream::pair().unwrap();
        let io = HijackedIo::new(Arc::new(Stream::Unix(ours)), Bytes::new());
        let server = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        let stream = StdioStream {
            socket: Some(socket),
            tty: false,
            replay: frame(1, b"old"),
            settled: None,
        };
        let task = tokio::spawn(websocket(server, stream, Some(vec![16, 17]), binary));
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        client.send(Message::text("in")).await.unwrap();
        read_exactly(&mut shim, b"in").await;
        let (head, tail) = {
            let whole = frame(2, b"output");
            (whole[..5].to_vec(), whole[5..].to_vec())
        };
        shim.write_all(&head).await.unwrap();
        shim.write_all(&tail).await.unwrap();
        let mut got = Vec::new();
        while got.len() < 9 {
            let message = timeout(PATIENCE, client.next())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            assert_eq!(message.is_binary(), binary);
            got.extend_from_slice(&message.into_data());
        }
        assert_eq!(got, b"oldoutput");
        drop(shim);
        let last = timeout(PATIENCE, client.next()).await.unwrap();
        assert!(
            matches!(last, Some(Ok(Message::Close(_))) | None),
            "{last:?}"
        );
        ends(task).await;
    }
}
