//! A WebSocket client of a few lines: the handshake, masked frames out, frames in.

use std::io::{Read, Write};

use e2e::{
    check::Outcome,
    fail,
    http::{Connection, Headers},
};

/// A connection after its handshake.
pub struct WebSocket {
    connection: Connection,
}

/// Opens a websocket; also gives the status and headers of the handshake's answer.
pub fn open(mut connection: Connection, path: &str) -> Outcome<(WebSocket, Headers)> {
    let headers = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Origin", "http://localhost"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    connection.request("GET", path, &headers, None)?;
    let (status, headers) = connection.head("GET")?;
    if status != 101 {
        let mut text = String::new();
        connection.read_to_string(&mut text)?;
        fail!("status {status} instead of 101: {text}");
    }
    // the answer that RFC 6455 gives for its sample key
    if headers.get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
        fail!("wrong accept key: {headers:?}");
    }
    Ok((WebSocket { connection }, headers))
}

impl WebSocket {
    /// Sends one binary message.
    pub fn send(&mut self, data: &[u8]) -> Outcome {
        let Ok(length) = u8::try_from(data.len())
            .map_err(drop)
            .and_then(|n| if n < 126 { Ok(n) } else { Err(()) })
        else {
            fail!("message too long for this client");
        };
        let mut frame = vec![0x82, 0x80 | length, 1, 2, 3, 4];
        frame.extend(
            data.iter()
                .enumerate()
                .map(|(i, b)| b ^ [1, 2, 3, 4][i % 4]),
        );
        Ok(self.connection.socket().write_all(&frame)?)
    }

    /// The next message's bytes; `None` at the end.
    pub fn receive(&mut self) -> Outcome<Option<Vec<u8>>> {
        let mut head = [0u8; 2];
        if self.connection.read_exact(&mut head).is_err() {
            return Ok(None);
        }
        let length = match head[1] & 0x7f {
            126 => {
                let mut long = [0; 2];
                self.connection.read_exact(&mut long)?;
                u64::from(u16::from_be_bytes(long))
            }
            127 => {
                let mut long = [0; 8];
                self.connection.read_exact(&mut long)?;
                u64::from_be_bytes(long)
            }
            short => u64::from(short),
        };
        let mut data = vec![0; usize::try_from(length)?];
        self.connection.read_exact(&mut data)?;
        match head[0] & 0xf {
            8 => Ok(None),
            9 | 10 => self.receive(),
            _ => Ok(Some(data)),
        }
    }

    /// Reads messages until the text was seen.
    pub fn until(&mut self, text: &str) -> Outcome<String> {
        let mut seen = String::new();
        while !seen.contains(text) {
            let Some(data) = self.receive()? else {
                fail!("the websocket ended after {seen:?}");
            };
            seen += &String::from_utf8_lossy(&data);
        }
        Ok(seen)
    }
}
