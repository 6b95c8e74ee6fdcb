//! Compression of archives and layers, and digests of what flows by.

use std::io::{self, BufReader, Read, Write};

use longshore_model::id::hex;
use sha2::{Digest, Sha256};

/// How a stream is packed, told by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
    /// Known, but not unpacked here: `bzip2`, `xz`.
    Unsupported(&'static str),
}

impl Compression {
    pub fn detect(start: &[u8]) -> Self {
        if start.starts_with(&[0x1F, 0x8B, 0x08]) {
            Self::Gzip
        } else if start.starts_with(&[0x28, 0xB5, 0x2F, 0xFD])
            || (start.len() >= 4
                && (0x50..=0x5F).contains(&start[0])
                && start[1..4] == [0x2A, 0x4D, 0x18])
        {
            Self::Zstd
        } else if start.starts_with(b"BZh") {
            Self::Unsupported("bzip2")
        } else if start.starts_with(&[0xFD, b'7', b'z', b'X', b'Z', 0]) {
            Self::Unsupported("xz")
        } else {
            Self::None
        }
    }
}

/// The stream unpacked, with what packed it.
pub fn decompress<'a>(
    raw: impl Read + Send + 'a,
) -> io::Result<(Compression, Box<dyn Read + Send + 'a>)> {
    let mut buffered = BufReader::with_capacity(64 * 1024, raw);
    let mut start = [0u8; 6];
    let mut filled = 0;
    // The first read of a socket may give fewer bytes than the signature has.
    while filled < start.len() {
        match buffered.read(&mut start[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    let compression = Compression::detect(&start[..filled]);
    let whole = io::Cursor::new(start).take(filled as u64).chain(buffered);
    let reader: Box<dyn Read + Send + 'a> = match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(whole)?),
        Compression::Unsupported(name) => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("{name} compressed archives are not supported"),
            ));
        }
    };
    Ok((compression, reader))
}

/// Counts and digests what is read through it.
pub struct Hashing<R> {
    inner: R,
    hash: Sha256,
    length: u64,
}

impl<R> Hashing<R> {
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            length: 0,
        }
    }
    /// `sha256:...` and the length of everything that went through.
    pub fn finish(self) -> (String, u64) {
        (digest_text(&self.hash.finalize()), self.length)
    }
    pub fn into_parts(self) -> (R, String, u64) {
        (self.inner, digest_text(&self.hash.finalize()), self.length)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.hash.update(&buffer[..got]);
        self.length += got as u64;
        Ok(got)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let put = self.inner.write(buffer)?;
        self.hash.update(&buffer[..put]);
        self.length += put as u64;
        Ok(put)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// `sha256:` and the digest of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    digest_text(&Sha256::digest(bytes))
}

fn digest_text(hash: &[u8]) -> String {
    format!("sha256:{}", hex(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(bytes: &[u8]) -> io::Result<(Compression, Vec<u8>)> {
        let (compression, mut reader) = decompress(bytes)?;
        let mut out = Vec::new();
        reader.read_to_end(&mut out)?;
        Ok((compression, out))
    }

    #[test]
    fn all_kinds() {
        let text = b"some text".repeat(100);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(text.as_slice(), 1).unwrap();
        for (bytes, kind) in [
            (&text, Compression::None),
            (&gzip, Compression::Gzip),
            (&zstd, Compression::Zstd),
        ] {
            let (found, out) = unpack(bytes).unwrap();
            assert_eq!((found, &out), (kind, &text));
        }
        let twice = [gzip.clone(), gzip.clone()].concat();
        assert_eq!(unpack(&twice).unwrap().1.len(), 2 * text.len());
        assert!(unpack(&gzip[..gzip.len() - 5]).is_err(), "truncated");
        assert!(unpack(&zstd[..zstd.len() - 5]).is_err(), "truncated");
        assert!(unpack(b"BZh91").is_err());
        assert_eq!(unpack(b"").unwrap().1, b"");
        assert_eq!(unpack(b"a").unwrap().1, b"a");
    }

    #[test]
    fn digests() {
        let mut hashing = Hashing::new(&b"abc"[..]);
        io::copy(&mut hashing, &mut io::sink()).unwrap();
        assert_eq!(hashing.finish(), (digest(b"abc"), 3));
        assert_eq!(
            digest(b""),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
