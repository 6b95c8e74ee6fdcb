//! Moves bytes between a client's connection and a container's stdio socket, both ways, until one side is done.
//!
//! Output ends when the socket does (the process has ended and its exit is recorded). A client that stops sending closes
//! stdin and goes on reading; one that is gone ends both ways (the connection itself notices and drops us).

use std::io;

use longshore_engine::api::StdioStream;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
};

use super::{detach::Detector, socket};
use crate::stream::{hijack::HijackedIo, multiplex::Decoder, websocket::Socket};

const BUFFER: usize = 16 << 10;

#[cfg(test)]
mod tests;

/// Why the way in ended.
enum Input {
    /// End of the client's input, or nobody reads it: output goes on.
    Ended,
    /// The detach keys were typed.
    Detached,
}

/// A hijacked connection. `keys`: None when stdin is not attached.
pub async fn raw(io: HijackedIo, stream: StdioStream, keys: Option<Vec<u8>>) {
    let StdioStream {
        socket,
        tty,
        replay,
        settled,
    } = stream;
    let (mut client_in, mut client_out) = io.into_split();
    if client_out.write_all(&replay).await.is_err() {
        return;
    }
    let Some(socket) = socket else { return };
    let (mut from, to) = socket.into_split();
    let output = async {
        copy(&mut from, &mut client_out).await?;
        settle(settled).await;
        Ok(())
    };
    match keys {
        None => {
            let _ = output.await;
        }
        Some(keys) => {
            let input = async {
                let mut stdin = Stdin::new(to, tty.then_some(keys));
                let mut buffer = vec![0; BUFFER];
                loop {
                    match client_in.read(&mut buffer).await {
                        Ok(n) if n > 0 => {
                            if let Some(ended) = stdin.write(&buffer[..n]).await {
                                return ended;
                            }
                        }
                        _ => return stdin.finish().await,
                    }
                }
            };
            both(output, input).await;
        }
    }
}

/// A websocket: messages in are stdin, messages out are output without frames.
pub async fn websocket(client: Socket, stream: StdioStream, keys: Option<Vec<u8>>, binary: bool) {
    let StdioStream {
        socket: stdio,
        tty,
        replay,
        settled,
    } = stream;
    let (mut client_out, mut client_in) = socket::split(client, binary);
    let mut frames = (!tty).then(Decoder::default);
    let mut strip = move |bytes: &[u8]| match &mut frames {
        None => bytes.to_vec(),
        Some(decoder) => {
            let mut out = Vec::with_capacity(bytes.len());
            decoder.feed(bytes, |_, data| out.extend_from_slice(data));
            out
        }
    };
    let replayed = strip(&replay);
    if !replayed.is_empty() && client_out.send(replayed).await.is_err() {
        return;
    }
    let Some(stdio) = stdio else {
        client_out.close().await;
        return;
    };
    let (mut from, to) = stdio.into_split();
    let output = async {
        let mut buffer = vec![0; BUFFER];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            let data = strip(&buffer[..n]);
            if !data.is_empty() {
                client_out.send(data).await?;
            }
        }
        settle(settled).await;
        client_out.close().await;
        io::Result::Ok(())
    };
    let attached = keys.is_some();
    let input = async {
        let mut stdin = Stdin::new(to, keys.filter(|_| tty));
        // Without stdin the messages are read all the same: pings and the close are among them.
        while let Some(data) = client_in.next().await {
            if attached && let Some(ended) = stdin.write(&data).await {
                return ended;
            }
        }
        // A websocket cannot be half closed: its end is the end of the client.
        if attached {
            stdin.finish().await;
        }
        Input::Detached
    };
    both(output, input).await;
}

/// Runs both ways until output is done, or input says to let go.
async fn both(output: impl Future<Output = io::Result<()>>, input: impl Future<Output = Input>) {
    tokio::pin!(output);
    tokio::select! {
        _ = &mut output => return,
        ended = input => if let Input::Detached = ended { return },
    }
    // Fails only when the client has gone.
    let _ = output.await;
}

/// The exit is visible before the client's stream ends: clients ask for the exit code at that moment.
async fn settle(settled: Option<tokio::sync::oneshot::Receiver<()>>) {
    if let Some(settled) = settled {
        // Nothing is ever sent: the sender is dropped when the exit is visible.
        let _ = settled.await;
    }
}

async fn copy(from: &mut OwnedReadHalf, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(()),
            n => to.write_all(&buffer[..n]).await?,
        }
    }
}

/// The container's end of stdin, behind the detach keys of a terminal.
struct Stdin {
    to: OwnedWriteHalf,
    detector: Option<Detector>,
    pending: Vec<u8>,
}

impl Stdin {
    fn new(to: OwnedWriteHalf, keys: Option<Vec<u8>>) -> Self {
        Self {
            to,
            detector: keys.map(Detector::new),
            pending: Vec::new(),
        }
    }

    /// None while input goes on. A container that reads no more (its stdin is closed) ends input, not output.
    async fn write(&mut self, data: &[u8]) -> Option<Input> {
        let Some(detector) = &mut self.detector else {
            return self
                .to
                .write_all(data)
                .await
                .is_err()
                .then_some(Input::Ended);
        };
        self.pending.clear();
        let detached = detector.feed(data, &mut self.pending);
        let failed = self.to.write_all(&self.pending).await.is_err();
        match (detached, failed) {
            (true, _) => Some(Input::Detached),
            (false, true) => Some(Input::Ended),
            (false, false) => None,
        }
    }

    /// End of input reaches the container.
    async fn finish(&mut self) -> Input {
        if let Some(detector) = &mut self.detector {
            self.pending.clear();
            detector.finish(&mut self.pending);
            let _ = self.to.write_all(&self.pending).await;
        }
        // Fails only when the shim has closed its end.
        let _ = self.to.shutdown().await;
        Input::Ended
    }
}
