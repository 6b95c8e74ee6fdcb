//! Entries of a tar stream: v7, ustar, pax and GNU headers. Everything that an archive says about itself is bounded:
//! no memory is taken because a header names a size.

use std::{
    io::{self, Read},
    ops::Range,
};

use tar::{EntryType, GnuExtSparseHeader, Header};

use super::sparse::{self, Map};

const BLOCK: usize = 512;
// Where the fields are in a header.
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
/// Bytes of one pax header or long name at most (Go's limit too).
const META_MAX: u64 = 1 << 20;

/// A point in time: seconds since the epoch and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    pub seconds: i64,
    pub nanos: u32,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    /// Target in `link`.
    HardLink,
    /// Target in `link`.
    Symlink,
    Char {
        major: u32,
        minor: u32,
    },
    Block {
        major: u32,
        minor: u32,
    },
    Fifo,
    /// A type that is not known here.
    Other(u8),
}

/// One entry. Its content follows in the reader.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As in the archive, any bytes.
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: Kind,
    /// Length of the file when it is whole, holes included.
    pub size: u64,
    /// The pieces that the archive holds, for a sparse file.
    pub sparse: Option<Map>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: Time,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads entries one after the other.
pub struct TarReader<R> {
    inner: R,
    /// Content of the current entry that has not been read yet, and the padding behind it.
    content: u64,
    padding: u64,
}

/// What pax headers and GNU long names say about the next entry.
#[derive(Default)]
struct Overrides {
    pax: Vec<(Vec<u8>, Vec<u8>)>,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Overrides {
    fn get(&self, key: &str) -> Option<&[u8]> {
        let found = self.pax.iter().rev().find(|(k, _)| k == key.as_bytes());
        found.map(|(_, v)| v.as_slice())
    }
    fn number(&self, key: &str) -> io::Result<Option<u64>> {
        self.get(key).map(number).transpose()
    }
}

impl<R: Read> TarReader<R> {
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            content: 0,
            padding: 0,
        }
    }

    /// The next entry; what was not read of the last one is skipped. `None`: the end of the archive.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let mut overrides = Overrides::default();
        loop {
            self.skip_rest()?;
            let Some(block) = self.read_header()? else {
                return Ok(None);
            };
            let header = Header::from_byte_slice(&block);
            let size = field(header, SIZE)?;
            match header.entry_type() {
                EntryType::XHeader => {
                    overrides.pax = parse_pax(&self.read_meta(size)?)?;
                }
                EntryType::XGlobalHeader => drop(self.read_meta(size)?),
                EntryType::GNULongName => overrides.long_path = Some(self.read_name(size)?),
                EntryType::GNULongLink => overrides.long_link = Some(self.read_name(size)?),
                kind => return self.entry(header, kind, &overrides).map(Some),
            }
        }
    }

    /// The last entry's content, as much as fits into `buffer`; 0 at its end.
    pub fn read_content(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.content)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let got = self.inner.read(&mut buffer[..want])?;
        if got == 0 {
            return Err(truncated());
        }
        self.content -= got as u64;
        Ok(got)
    }

    /// The stream behind the archive.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// Reads the stream behind the archive to its end, so that a digest of it is whole.
    pub fn drain(mut self) -> io::Result<()> {
        io::copy(&mut self.inner, &mut io::sink()).map(drop)
    }

    fn entry(
        &mut self,
        header: &Header,
        kind: EntryType,
        overrides: &Overrides,
    ) -> io::Result<Entry> {
        let stored = overrides
            .number("size")?
            .map_or_else(|| field(header, SIZE), Ok)?;
        if i64::try_from(stored).is_err() {
            return Err(invalid("entry size out of range"));
        }
        let has_content = matches!(
            kind,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse
        ) || is_unknown(kind);
        self.expect(if has_content { stored } else { 0 });
        let mut path = overrides
            .long_path
            .clone()
            .unwrap_or_else(|| header.path_bytes().into_owned());
        if let Some(pax) = overrides.get("path") {
            path = pax.to_vec();
        }
        let link = overrides
            .get("linkpath")
            .map(<[u8]>::to_vec)
            .or_else(|| overrides.long_link.clone())
            .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
            .unwrap_or_default();
        // Archives older than ustar have no device fields.
        let device = || -> io::Result<(u32, u32)> {
            if header.as_ustar().is_none() && header.as_gnu().is_none() {
                return Ok((0, 0));
            }
            let part = |range| {
                u32::try_from(field(header, range)?)
                    .map_err(|_| invalid("device number out of range"))
            };
            Ok((part(MAJOR)?, part(MINOR)?))
        };
        let kind = match kind {
            // Archives older than ustar mark a directory by the slash alone.
            EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Link => Kind::HardLink,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Char => device().map(|(major, minor)| Kind::Char { major, minor })?,
            EntryType::Block => device().map(|(major, minor)| Kind::Block { major, minor })?,
            EntryType::Fifo => Kind::Fifo,
            other => Kind::Other(other.as_byte()),
        };
        let mut entry = Entry {
            path,
            link,
            kind,
            size: stored,
            sparse: None,
            // Some programs put the file type's bits there as well.
            mode: u32::try_from(field(header, MODE)? & 0o7777).unwrap_or(0),
            uid: overrides
                .number("uid")?
                .map_or_else(|| field(header, UID), Ok)?,
            gid: overrides
                .number("gid")?
                .map_or_else(|| field(header, GID), Ok)?,
            mtime: match overrides.get("mtime") {
                Some(text) => parse_time(text)?,
                None => Time {
                    seconds: signed_field(header, MTIME)?,
                    nanos: 0,
                },
            },
            xattrs: xattrs(overrides),
        };
        self.find_sparse(header, overrides, &mut entry)?;
        Ok(entry)
    }

    /// The four ways in which archives store files with holes.
    fn find_sparse(
        &mut self,
        header: &Header,
        overrides: &Overrides,
        entry: &mut Entry,
    ) -> io::Result<()> {
        if entry.kind != Kind::File {
            return Ok(());
        }
        if header.entry_type() == EntryType::GNUSparse {
            let gnu = header
                .as_gnu()
                .ok_or_else(|| invalid("sparse entry without GNU header"))?;
            let mut map = Map::default();
            for piece in &gnu.sparse {
                if !piece.is_empty() {
                    map.push(octal(piece.offset())?, octal(piece.length())?)?;
                }
            }
            let mut more = gnu.is_extended();
            while more {
                let mut extension = GnuExtSparseHeader::new();
                self.inner.read_exact(extension.as_mut_bytes())?;
                for piece in extension.sparse() {
                    if !piece.is_empty() {
                        map.push(octal(piece.offset())?, octal(piece.length())?)?;
                    }
                }
                more = extension.is_extended();
            }
            entry.size = octal(gnu.real_size())?;
            entry.sparse = Some(map);
        } else if overrides.get("GNU.sparse.major") == Some(b"1") {
            entry.size = overrides
                .number("GNU.sparse.realsize")?
                .ok_or_else(|| invalid("sparse entry without size"))?;
            entry.sparse = Some(sparse::read_map(|buffer| self.read_content(buffer))?);
        } else if overrides.get("GNU.sparse.numblocks").is_some() {
            entry.size = overrides
                .number("GNU.sparse.size")?
                .ok_or_else(|| invalid("sparse entry without size"))?;
            entry.sparse = Some(sparse::parse_map(&overrides.pax)?);
        } else {
            return Ok(());
        }
        if let Some(name) = overrides.get("GNU.sparse.name") {
            entry.path = name.to_vec();
        }
        if let Some(map) = &entry.sparse {
            map.check(entry.size, self.content)?;
        }
        Ok(())
    }

    fn expect(&mut self, size: u64) {
        self.content = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn skip_rest(&mut self) -> io::Result<()> {
        let rest = self.content + self.padding;
        (self.content, self.padding) = (0, 0);
        let skipped = io::copy(&mut (&mut self.inner).take(rest), &mut io::sink())?;
        if skipped < rest {
            return Err(truncated());
        }
        Ok(())
    }

    /// A header block; `None` at the end of the archive: a block of zeros, or the end of the stream between entries.
    fn read_header(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0u8; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(truncated()),
                n => filled += n,
            }
        }
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let sum = |signed: bool| -> i64 {
            block
                .iter()
                .enumerate()
                .map(|(i, b)| match i {
                    148..156 => i64::from(b' '),
                    _ if signed => i64::from(b.cast_signed()),
                    _ => i64::from(*b),
                })
                .sum()
        };
        let wanted = signed_field(Header::from_byte_slice(&block), CHECKSUM)?;
        // Some old programs summed up signed bytes.
        if wanted != sum(false) && wanted != sum(true) {
            return Err(invalid("invalid tar header"));
        }
        Ok(Some(block))
    }

    fn read_meta(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > META_MAX {
            return Err(invalid("header too long"));
        }
        self.expect(size);
        let mut text = Vec::new();
        let mut buffer = [0u8; 4096];
        loop {
            match self.read_content(&mut buffer)? {
                0 => return Ok(text),
                n => text.extend_from_slice(&buffer[..n]),
            }
        }
    }

    fn read_name(&mut self, size: u64) -> io::Result<Vec<u8>> {
        let mut name = self.read_meta(size)?;
        if let Some(end) = name.iter().position(|b| *b == 0) {
            name.truncate(end);
        }
        Ok(name)
    }
}

fn is_unknown(kind: EntryType) -> bool {
    !matches!(
        kind,
        EntryType::Regular
            | EntryType::Continuous
            | EntryType::GNUSparse
            | EntryType::Directory
            | EntryType::Link
            | EntryType::Symlink
            | EntryType::Char
            | EntryType::Block
            | EntryType::Fifo
    )
}

/// A number that the tar crate has read.
fn octal(read: io::Result<u64>) -> io::Result<u64> {
    read.map_err(|_| invalid("malformed number in tar header"))
}

/// A number that may not be negative.
fn field(header: &Header, range: Range<usize>) -> io::Result<u64> {
    u64::try_from(signed_field(header, range)?)
        .map_err(|_| invalid("negative number in tar header"))
}

/// Octal digits between blanks and NULs, nothing at all for 0, or GNU's binary form.
fn signed_field(header: &Header, range: Range<usize>) -> io::Result<i64> {
    let bytes = &header.as_bytes()[range];
    let bad = || invalid("malformed number in tar header");
    if bytes[0] & 0x80 != 0 {
        let negative = bytes[0] & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (i, byte) in bytes.iter().enumerate() {
            let byte = match (i, negative) {
                (0, false) => byte & 0x7F,
                _ => *byte,
            };
            value = (value << 8) | i128::from(byte);
        }
        return i64::try_from(value).map_err(|_| bad());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| bad())?;
    let text = text.trim_matches([' ', '\0']);
    let text = text.split('\0').next().unwrap_or_default();
    match text {
        "" => Ok(0),
        text => i64::from_str_radix(text, 8).map_err(|_| bad()),
    }
}

/// Records of the form `LENGTH KEY=VALUE\n`.
fn parse_pax(mut text: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let bad = || invalid("malformed pax header");
    let mut records = Vec::new();
    while !text.is_empty() {
        let space = text.iter().position(|b| *b == b' ').ok_or_else(bad)?;
        let length = usize::try_from(number(&text[..space])?).map_err(|_| bad())?;
        if length <= space + 1 || length > text.len() || text[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &text[space + 1..length - 1];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        text = &text[length..];
    }
    Ok(records)
}

fn xattrs(overrides: &Overrides) -> Vec<(Vec<u8>, Vec<u8>)> {
    overrides
        .pax
        .iter()
        .filter_map(|(key, value)| {
            let name = key.strip_prefix(b"SCHILY.xattr.")?;
            Some((name.to_vec(), value.clone()))
        })
        .collect()
}

/// `SECONDS[.FRACTION]`, possibly negative.
fn parse_time(text: &[u8]) -> io::Result<Time> {
    let bad = || invalid("malformed time in pax header");
    let text = std::str::from_utf8(text).map_err(|_| bad())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut seconds: i64 = whole.parse().map_err(|_| bad())?;
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let mut nanos: u32 = digits.parse().map_err(|_| bad())?;
    if whole.starts_with('-') && nanos > 0 {
        seconds = seconds.checked_sub(1).ok_or_else(bad)?;
        nanos = 1_000_000_000 - nanos;
    }
    Ok(Time { seconds, nanos })
}

pub fn number(text: &[u8]) -> io::Result<u64> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or_else(|| invalid("malformed number in tar header"))
}

pub fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "unexpected EOF")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let time = |seconds, nanos| Time { seconds, nanos };
        assert_eq!(parse_time(b"12").unwrap(), time(12, 0));
        assert_eq!(parse_time(b"12.5").unwrap(), time(12, 500_000_000));
        assert_eq!(parse_time(b"12.0000000019").unwrap(), time(12, 1));
        assert_eq!(parse_time(b"-1.25").unwrap(), time(-2, 750_000_000));
        assert!(parse_time(b"x").is_err());
    }

    #[test]
    fn numbers() {
        let read = |bytes: &[u8]| {
            let mut header = Header::new_old();
            header.as_mut_bytes()[MTIME].copy_from_slice(bytes);
            signed_field(&header, MTIME)
        };
        assert_eq!(read(b"00000000017\0").unwrap(), 15);
        assert_eq!(read(b"  17 \0\0\0\0\0\0\0").unwrap(), 15);
        assert_eq!(read(&[0; 12]).unwrap(), 0);
        assert_eq!(
            read(&[0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2]).unwrap(),
            (1 << 32) + 2
        );
        assert_eq!(read(&[0xFF; 12]).unwrap(), -1);
        assert!(read(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(read(b"0000000008x\0").is_err());
    }

    #[test]
    fn pax_records() {
        let parsed = parse_pax(b"12 a=b=c\nd\n\n6 e=f\n").unwrap();
        assert_eq!(parsed.len(), 2);
        assert_eq!(parsed[0], (b"a".to_vec(), b"b=c\nd\n".to_vec()));
        for bad in [
            &b"5 a=b"[..],
            b"99 a=b\n",
            b"3 a\n",
            b"0 a=b\n",
            b"x a=b\n",
            b"18446744073709551615 a=b\n",
        ] {
            assert!(parse_pax(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn garbage_is_an_error_and_not_a_panic() {
        let mut state = 1u32;
        for _ in 0..2000 {
            let mut bytes = vec![0u8; 2048];
            for byte in &mut bytes {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = (state >> 24) as u8;
            }
            let kinds = b"0125xgLKS7\0Z";
            bytes[156] = kinds[state as usize % kinds.len()];
            bytes[124..136].copy_from_slice(b"00000001000\0");
            let sum: u32 = bytes[..512]
                .iter()
                .enumerate()
                .map(|(i, b)| {
                    if (148..156).contains(&i) {
                        32
                    } else {
                        u32::from(*b)
                    }
                })
                .sum();
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            let mut reader = TarReader::new(bytes.as_slice());
            while let Ok(Some(_)) = reader.next_entry() {}
        }
    }
}
