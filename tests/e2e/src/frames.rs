//! The multiplexed stream of logs, attach and exec: 8 bytes of header, then the payload.

use std::io::{self, Read};

use crate::{
    check::{Fail, Outcome},
    fail,
};

/// One frame: 1 is standard output, 2 standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub stream: u8,
    pub data: Vec<u8>,
}

impl Frame {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }
}

/// The next frame; `None` at a clean end.
pub fn next(reader: &mut impl Read) -> Outcome<Option<Frame>> {
    let mut header = [0u8; 8];
    let mut got = 0;
    while got < 8 {
        match reader.read(&mut header[got..]) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => fail!("stream ends inside a frame header"),
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Fail(format!("reading a frame: {e}"))),
        }
    }
    let [stream, 0, 0, 0, a, b, c, d] = header else {
        fail!("not a frame header: {header:?}");
    };
    if stream == 0 || stream > 3 {
        fail!("frame of stream {stream}");
    }
    let mut data = vec![0; u32::from_be_bytes([a, b, c, d]) as usize];
    reader
        .read_exact(&mut data)
        .map_err(|e| Fail(format!("frame cut: {e}")))?;
    Ok(Some(Frame { stream, data }))
}

/// All frames up to the end.
pub fn all(reader: &mut impl Read) -> Outcome<Vec<Frame>> {
    let mut frames = Vec::new();
    while let Some(frame) = next(reader)? {
        frames.push(frame);
    }
    Ok(frames)
}

/// What went to one of the streams, joined.
pub fn joined(frames: &[Frame], stream: u8) -> String {
    let bytes: Vec<u8> = frames
        .iter()
        .filter(|f| f.stream == stream)
        .flat_map(|f| f.data.iter().copied())
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
