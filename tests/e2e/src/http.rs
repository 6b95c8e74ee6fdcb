//! HTTP/1.1 over a unix socket, as small as the cases need it: requests, streamed bodies, upgraded connections.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::Value;

use crate::check::{Fail, Outcome, patience};

/// No read of a case waits longer than this (times [`patience`]).
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The answer to a request, its body read to the end.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Headers,
    pub body: Vec<u8>,
}

/// Header lines in their order.
#[derive(Debug, Default)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The value of a header, or an empty text.
    pub fn get(&self, name: &str) -> &str {
        self.0
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map_or("", |(_, v)| v)
    }
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; fails with the body's text when it is none.
    pub fn json(&self) -> Outcome<Value> {
        serde_json::from_slice(&self.body).map_err(|e| {
            Fail(format!(
                "status {}: no JSON ({e}): {}",
                self.status,
                self.text()
            ))
        })
    }

    /// Docker's error text: `{"message": ...}`, or an empty text.
    pub fn message(&self) -> String {
        serde_json::from_slice::<Value>(&self.body)
            .ok()
            .and_then(|v| Some(v.get("message")?.as_str()?.to_owned()))
            .unwrap_or_default()
    }

    /// Fails unless the status is the one wanted.
    pub fn expect(self, status: u16) -> Outcome<Self> {
        if self.status == status {
            return Ok(self);
        }
        Err(Fail(format!(
            "status {} instead of {status}: {}",
            self.status,
            self.text()
        )))
    }
}

enum Framing {
    Length(u64),
    Chunked { left: u64, first: bool },
    ToEnd,
    Done,
}

/// One connection; several requests may follow each other on it.
pub struct Connection {
    reader: BufReader<UnixStream>,
    framing: Framing,
}

impl Connection {
    pub fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE * patience()))?;
        stream.set_write_timeout(Some(PATIENCE * patience()))?;
        Ok(Self {
            reader: BufReader::with_capacity(65536, stream),
            framing: Framing::Done,
        })
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// Sends a request. A body comes with its length; without one nothing is said about it.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> io::Result<()> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: docker\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = body {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body.unwrap_or_default());
        self.send(&bytes)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&line);
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Reads status line and headers; the body can be read after it.
    pub fn head(&mut self, method: &str) -> io::Result<(u16, Headers)> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let start = self.line()?;
        let status: u16 = start
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .ok_or_else(|| bad(&start))?;
        let mut headers = Headers::default();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad(&line))?;
            headers.0.push((name.to_owned(), value.trim().to_owned()));
        }
        self.framing = if status == 101 {
            Framing::ToEnd
        } else if method == "HEAD" || status == 204 || status == 304 || status < 200 {
            Framing::Done
        } else if headers
            .get("Transfer-Encoding")
            .eq_ignore_ascii_case("chunked")
        {
            Framing::Chunked {
                left: 0,
                first: true,
            }
        } else if let Ok(length) = headers.get("Content-Length").parse() {
            Framing::Length(length)
        } else {
            Framing::ToEnd
        };
        Ok((status, headers))
    }

    /// A request and its whole answer. A server may answer, and close, before it has read all of a body.
    pub fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> io::Result<Response> {
        let sent = self.request(method, path, headers, body);
        self.answer(method).map_err(|e| sent.err().unwrap_or(e))
    }

    /// The whole answer to a request that was sent.
    pub fn answer(&mut self, method: &str) -> io::Result<Response> {
        let (status, headers) = self.head(method)?;
        let mut body = Vec::new();
        self.read_to_end(&mut body)?;
        Ok(Response {
            status,
            headers,
            body,
        })
    }

    /// The socket, to write to or to shut one side of.
    pub fn socket(&self) -> &UnixStream {
        self.reader.get_ref()
    }

    /// One line of the body without its end; `None` at the end of the body.
    pub fn body_line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        let mut byte = [0];
        while self.read(&mut byte)? == 1 {
            if byte[0] == b'\n' {
                return Ok(Some(
                    String::from_utf8_lossy(&line)
                        .trim_end_matches('\r')
                        .to_owned(),
                ));
            }
            line.push(byte[0]);
        }
        Ok((!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned()))
    }
}

impl Read for Connection {
    /// The body's bytes, without the framing.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let limit = match self.framing {
            Framing::Done => return Ok(0),
            Framing::ToEnd => u64::MAX,
            Framing::Length(left) => left,
            Framing::Chunked { left: 0, first } => {
                if !first {
                    self.line()?;
                }
                let line = self.line()?;
                let size = u64::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16)
                    .map_err(|_| {
                        io::Error::new(io::ErrorKind::InvalidData, format!("chunk size {line:?}"))
                    })?;
                if size == 0 {
                    while !self.line()?.is_empty() {}
                    self.framing = Framing::Done;
                    return Ok(0);
                }
                self.framing = Framing::Chunked {
                    left: size,
                    first: false,
                };
                size
            }
            Framing::Chunked { left, .. } => left,
        };
        if limit == 0 {
            self.framing = Framing::Done;
            return Ok(0);
        }
        let most = usize::try_from(limit)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let got = self.reader.read(&mut buffer[..most])?;
        let count = got as u64;
        match &mut self.framing {
            Framing::Length(left) => {
                if got == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *left -= count;
            }
            Framing::Chunked { left, .. } => {
                if got == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *left -= count;
            }
            Framing::ToEnd | Framing::Done => {}
        }
        Ok(got)
    }
}

/// A text as a query value.
pub fn escape(text: &str) -> String {
    text.bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}
