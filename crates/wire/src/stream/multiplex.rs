//! The 8-byte frame headers by which stdout and stderr share a connection.

/// Number of the stream in a frame's first byte. 0 (stdin) is never sent.
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
/// An error of the engine itself in the midst of a stream.
pub const SYSTEM_ERROR: u8 = 3;

/// A frame: stream number, three zero bytes, length (big endian), payload.
pub fn frame(stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + payload.len());
    push_frame(&mut out, stream, payload);
    out
}

/// Appends a frame. Payloads beyond 4 GiB do not happen: they come from buffers.
pub fn push_frame(out: &mut Vec<u8>, stream: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&[stream, 0, 0, 0]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Takes frames apart as bytes come in, however they are cut.
#[derive(Debug, Default)]
pub struct Decoder {
    header: Vec<u8>,
    left: usize,
}

impl Decoder {
    /// Calls `each` with (stream number, piece of payload) for what `bytes` holds. A payload may come in several pieces.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(u8, &[u8])) {
        while !bytes.is_empty() {
            if self.left == 0 {
                let take = (8 - self.header.len()).min(bytes.len());
                self.header.extend_from_slice(&bytes[..take]);
                bytes = &bytes[take..];
                if self.header.len() < 8 {
                    return;
                }
                let length = [
                    self.header[4],
                    self.header[5],
                    self.header[6],
                    self.header[7],
                ];
                self.left = u32::from_be_bytes(length) as usize;
                if self.left == 0 {
                    self.header.clear();
                    continue;
                }
            }
            let take = self.left.min(bytes.len());
            if take > 0 {
                each(self.header[0], &bytes[..take]);
            }
            self.left -= take;
            bytes = &bytes[take..];
            if self.left == 0 {
                self.header.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same() {
        let mut wire = frame(STDOUT, b"hello\n");
        push_frame(&mut wire, STDERR, b"");
        push_frame(&mut wire, STDERR, b"oops");
        for cut in 1..wire.len() {
            let mut decoder = Decoder::default();
            let mut got = [Vec::new(), Vec::new()];
            for piece in wire.chunks(cut) {
                decoder.feed(piece, |stream, data| {
                    got[usize::from(stream) - 1].extend_from_slice(data);
                });
            }
            assert_eq!(got, [b"hello\n".to_vec(), b"oops".to_vec()], "cut {cut}");
        }
    }
}
