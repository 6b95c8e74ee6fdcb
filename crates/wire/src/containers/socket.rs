//! The two directions of a websocket, as messages of bytes.

use std::io;

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio_tungstenite::tungstenite::Message;

use crate::stream::websocket::Socket;

/// Messages from the client.
pub struct Incoming(SplitStream<Socket>);

/// Messages to the client.
pub struct Outgoing {
    sink: SplitSink<Socket, Message>,
    binary: bool,
}

/// `binary`: messages out are binary (API 1.28 on), else text.
pub fn split(socket: Socket, binary: bool) -> (Outgoing, Incoming) {
    let (sink, stream) = socket.split();
    (Outgoing { sink, binary }, Incoming(stream))
}

impl Incoming {
    /// The next message with content; None when the client closed or broke off.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            match self.0.next().await? {
                Ok(Message::Binary(data)) => return Some(data.into()),
                Ok(Message::Text(text)) => return Some(text.as_bytes().to_vec()),
                // Pings are answered by the protocol's implementation.
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Ok(Message::Close(_)) | Err(_) => return None,
            }
        }
    }
}

impl Outgoing {
    /// # Errors
    /// The client has gone.
    pub async fn send(&mut self, data: Vec<u8>) -> io::Result<()> {
        let message = if self.binary {
            Message::binary(data)
        } else {
            Message::text(String::from_utf8_lossy(&data).into_owned())
        };
        self.sink.send(message).await.map_err(io::Error::other)
    }

    /// Says that no more will come.
    pub async fn close(&mut self) {
        // Fails only when the client has gone.
        let _ = self.sink.close().await;
    }
}
