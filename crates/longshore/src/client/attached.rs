//! An attached process: what is typed goes in, what it writes comes out, until it ends or the user detaches.

use std::io::Read;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{
    failure::{Done, Failure},
    http::{Client, Hijacked},
    terminal::{self, DetachKeys},
    text::{emit, emit_error},
};

/// How an attached session ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The stream is over.
    Closed,
    /// The user typed the detach keys.
    Detached,
}

/// What the session is like.
pub struct Session {
    pub tty: bool,
    /// Pass stdin on.
    pub stdin: bool,
    pub detach_keys: String,
}

/// Copies both ways over a hijacked connection until its end.
///
/// # Errors
/// The connection broke, or carries what is no frame.
pub async fn pump(connection: Hijacked, session: &Session) -> Done<End> {
    let (reader, mut writer) = tokio::io::split(connection.stream);
    let mut keys = DetachKeys::parse(&session.detach_keys).map_err(Failure::usage)?;
    let raw = (session.tty && session.stdin)
        .then(terminal::Raw::enter)
        .flatten();
    let (tty, stdin) = (session.tty, session.stdin);
    let output = tokio::spawn(copy_output(connection.early.to_vec(), reader, tty));
    let input = async {
        if !stdin {
            return std::future::pending().await;
        }
        let mut typed = typed();
        while let Some(bytes) = typed.recv().await {
            let bytes = if tty {
                match keys.filter(&bytes) {
                    Some(bytes) => bytes,
                    None => return End::Detached,
                }
            } else {
                bytes
            };
            if writer.write_all(&bytes).await.is_err() {
                // The process takes no more; its output goes on.
                return std::future::pending().await;
            }
        }
        let _ = writer.shutdown().await;
        std::future::pending().await
    };
    let end = tokio::select! {
        ended = output => ended.map_err(Failure::new)?.map(|()| End::Closed),
        end = input => Ok(end),
    };
    drop(raw);
    end
}

/// Stdin piece by piece. A thread of its own reads it: it may block for ever, and ends with the process.
fn typed() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut buffer = [0; 32 << 10];
        loop {
            match std::io::stdin().lock().read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                        return;
                    }
                }
            }
        }
    });
    receiver
}

/// Copies what comes: raw with a terminal, else Docker's frames to stdout and stderr.
pub async fn copy_output(early: Vec<u8>, reader: impl AsyncRead + Unpin, tty: bool) -> Done {
    let mut frames = Frames {
        tty,
        pending: Vec::new(),
    };
    frames.take(&early)?;
    let mut reader = reader;
    let mut buffer = vec![0; 32 << 10];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(count) => frames.take(&buffer[..count])?,
            // A daemon that was killed resets the connection.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes the stream apart: `[1|2, 0, 0, 0, length as 4 bytes, big end first]`, then so many bytes.
pub struct Frames {
    pub tty: bool,
    pub pending: Vec<u8>,
}

impl Frames {
    /// Prints all that is complete.
    ///
    /// # Errors
    /// A header that is none.
    pub fn take(&mut self, bytes: &[u8]) -> Done {
        if self.tty {
            emit(bytes);
            return Ok(());
        }
        self.pending.extend_from_slice(bytes);
        let mut at = 0;
        while let Some((header, rest)) = self.pending[at..].split_first_chunk::<8>() {
            let [stream, _, _, _, a, b, c, d] = *header;
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            let Some(payload) = rest.get(..length) else {
                break;
            };
            match stream {
                0 | 1 => emit(payload),
                2 => emit_error(payload),
                3 => {
                    return Err(Failure::new(format_args!(
                        "error from daemon in stream: {}",
                        String::from_utf8_lossy(payload)
                    )));
                }
                other => {
                    return Err(Failure::new(format_args!("unrecognized stream: {other}")));
                }
            }
            at += 8 + length;
        }
        self.pending.drain(..at);
        Ok(())
    }
}

/// Tells the daemon the terminal's size, now and whenever it changes. `path` is that of the resize request.
pub async fn follow_size(client: &Client, path: &str) {
    let Ok(mut changed) = signal(SignalKind::window_change()) else {
        return;
    };
    loop {
        if let Some((rows, columns)) = terminal::size() {
            // It is refused while the process is not there yet, or not any more.
            let path = format!("{path}?h={rows}&w={columns}");
            for _ in 0..5 {
                if client.post(&path, None).await.is_ok() {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
        if changed.recv().await.is_none() {
            return;
        }
    }
}

/// Passes signals that reach this client on to the container.
pub async fn forward_signals(client: &Client, id: &str) {
    let (sender, mut signals) = mpsc::channel(8);
    for (name, kind) in [
        ("HUP", SignalKind::hangup()),
        ("INT", SignalKind::interrupt()),
        ("QUIT", SignalKind::quit()),
        ("TERM", SignalKind::terminate()),
        ("USR1", SignalKind::user_defined1()),
        ("USR2", SignalKind::user_defined2()),
        ("ALRM", SignalKind::alarm()),
    ] {
        let (Ok(mut stream), sender) = (signal(kind), sender.clone()) else {
            continue;
        };
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if sender.send(name).await.is_err() {
                    return;
                }
            }
        });
    }
    while let Some(name) = signals.recv().await {
        let _ = client
            .post(&format!("/containers/{id}/kill?signal={name}"), None)
            .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_may_come_in_any_pieces() {
        let mut frames = Frames {
            tty: false,
            pending: Vec::new(),
        };
        frames.take(&[1, 0, 0, 0, 0, 0]).unwrap();
        frames.take(&[0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9]).unwrap();
        assert_eq!(frames.pending, [9]);
        let mut frames = Frames {
            tty: false,
            pending: Vec::new(),
        };
        assert!(frames.take(&[7, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }
}
