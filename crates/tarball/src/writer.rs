//! Entries of a tar stream as Go's archive/tar writes them: ustar headers, a pax header in front where one cannot say it.

use std::io::{self, Write};

use super::{
    reader::{Entry, Kind, invalid},
    sparse::Map,
};

const BLOCK: usize = 512;
const NAME: usize = 100;
const PREFIX: usize = 155;
/// Largest numbers that the octal fields hold.
const SMALL_MAX: u64 = 0o7_777_777;
const LARGE_MAX: u64 = 0o77_777_777_777;

/// Writes an archive entry by entry. Each entry's content must be as long as its header says.
pub struct TarWriter<W: Write> {
    inner: W,
    /// Content of the current entry that has not come yet, and the padding behind it.
    content: u64,
    padding: usize,
}

impl<W: Write> TarWriter<W> {
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            content: 0,
            padding: 0,
        }
    }

    /// Begins an entry; `Entry::size` bytes of content follow for a file, or as much as its sparse map holds.
    pub fn begin(&mut self, entry: &Entry) -> io::Result<()> {
        self.end()?;
        let mut pax = Pax::default();
        let map = entry.sparse.as_ref().map(sparse_text);
        let stored = match (&entry.kind, &entry.sparse, &map) {
            (Kind::File, Some(pieces), Some(text)) => text.len() as u64 + stored(pieces),
            (Kind::File, ..) => entry.size,
            _ => 0,
        };
        if entry.sparse.is_some() {
            pax.add("GNU.sparse.major", b"1");
            pax.add("GNU.sparse.minor", b"0");
            pax.add("GNU.sparse.name", &entry.path);
            pax.add("GNU.sparse.realsize", entry.size.to_string().as_bytes());
        }
        let header = header(entry, stored, &mut pax)?;
        if !pax.text.is_empty() {
            self.meta(&pax.text)?;
        }
        self.inner.write_all(&header)?;
        self.expect(stored);
        if let Some(text) = &map {
            self.write(text)?;
        }
        Ok(())
    }

    /// Content of the current entry.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.content = self
            .content
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| invalid("more content than the header says"))?;
        self.inner.write_all(bytes)
    }

    /// The two blocks of zeros at the end.
    pub fn finish(mut self) -> io::Result<W> {
        self.end()?;
        self.inner.write_all(&[0; 2 * BLOCK])?;
        self.inner.flush()?;
        Ok(self.inner)
    }

    fn end(&mut self) -> io::Result<()> {
        if self.content > 0 {
            return Err(invalid("less content than the header says"));
        }
        self.inner.write_all(&[0; BLOCK][..self.padding])?;
        self.padding = 0;
        Ok(())
    }

    fn expect(&mut self, size: u64) {
        self.content = size;
        self.padding = padding(size);
    }

    fn meta(&mut self, text: &[u8]) -> io::Result<()> {
        let mut block = [0u8; BLOCK];
        put(&mut block[..NAME], b"PaxHeaders.0/entry");
        octal(&mut block[100..108], 0);
        octal(&mut block[108..116], 0);
        octal(&mut block[116..124], 0);
        octal(&mut block[124..136], text.len() as u64);
        octal(&mut block[136..148], 0);
        finish_header(&mut block, b'x');
        self.inner.write_all(&block)?;
        self.inner.write_all(text)?;
        self.inner
            .write_all(&[0; BLOCK][..padding(text.len() as u64)])
    }
}

fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    (BLOCK - over) % BLOCK
}

/// Records of a pax header.
#[derive(Default)]
struct Pax {
    text: Vec<u8>,
}

impl Pax {
    fn add(&mut self, key: &str, value: &[u8]) {
        self.record(key.as_bytes(), value);
    }

    fn record(&mut self, key: &[u8], value: &[u8]) {
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.text.extend_from_slice(format!("{length} ").as_bytes());
        self.text.extend_from_slice(key);
        self.text.push(b'=');
        self.text.extend_from_slice(value);
        self.text.push(b'\n');
    }
}

fn header(entry: &Entry, stored: u64, pax: &mut Pax) -> io::Result<[u8; BLOCK]> {
    if entry.path.contains(&0) || entry.link.contains(&0) || entry.path.is_empty() {
        return Err(invalid("name that no archive can hold"));
    }
    let mut block = [0u8; BLOCK];
    match split_path(&entry.path) {
        Some((prefix, name)) if entry.sparse.is_none() => {
            put(&mut block[..NAME], name);
            put(&mut block[345..345 + PREFIX], prefix);
        }
        _ => {
            // What readers that do not know pax get: the end of the name.
            let from = entry.path.len().saturating_sub(NAME - 1);
            put(&mut block[..NAME], &entry.path[from..]);
            if entry.sparse.is_none() {
                pax.add("path", &entry.path);
            }
        }
    }
    if entry.link.len() <= NAME && entry.link.is_ascii() {
        put(&mut block[157..257], &entry.link);
    } else {
        put(
            &mut block[157..257],
            &entry.link[..NAME.min(entry.link.len())],
        );
        pax.add("linkpath", &entry.link);
    }
    octal(&mut block[100..108], u64::from(entry.mode & 0o7777));
    number(&mut block[108..116], entry.uid, SMALL_MAX, "uid", pax);
    number(&mut block[116..124], entry.gid, SMALL_MAX, "gid", pax);
    number(&mut block[124..136], stored, LARGE_MAX, "size", pax);
    mtime(&mut block[136..148], entry, pax);
    let kind = match entry.kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::Char { major, minor } => device(&mut block, b'3', major, minor)?,
        Kind::Block { major, minor } => device(&mut block, b'4', major, minor)?,
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
        Kind::Other(kind) => kind,
    };
    for (key, value) in &entry.xattrs {
        pax.record(&[b"SCHILY.xattr.", key.as_slice()].concat(), value);
    }
    finish_header(&mut block, kind);
    Ok(block)
}

fn device(block: &mut [u8; BLOCK], kind: u8, major: u32, minor: u32) -> io::Result<u8> {
    if u64::from(major) > SMALL_MAX || u64::from(minor) > SMALL_MAX {
        return Err(invalid("device number out of range"));
    }
    octal(&mut block[329..337], u64::from(major));
    octal(&mut block[337..345], u64::from(minor));
    Ok(kind)
}

fn mtime(field: &mut [u8], entry: &Entry, pax: &mut Pax) {
    let time = entry.mtime;
    match u64::try_from(time.seconds) {
        Ok(seconds) if seconds <= LARGE_MAX => {
            octal(field, seconds);
            if time.nanos == 0 {
                return;
            }
        }
        _ => octal(field, 0),
    }
    // A fraction counts away from zero in front of the point, as in Go.
    let (sign, seconds, nanos) = if time.seconds < 0 && time.nanos > 0 {
        let whole = time.seconds + 1;
        (
            if whole == 0 { "-" } else { "" },
            whole,
            1_000_000_000 - time.nanos,
        )
    } else {
        ("", time.seconds, time.nanos)
    };
    let mut text = format!("{sign}{seconds}.{nanos:09}");
    let short = text.trim_end_matches('0').trim_end_matches('.').len();
    text.truncate(short);
    pax.add("mtime", text.as_bytes());
}

fn number(field: &mut [u8], value: u64, max: u64, key: &str, pax: &mut Pax) {
    if value <= max {
        octal(field, value);
    } else {
        octal(field, 0);
        pax.add(key, value.to_string().as_bytes());
    }
}

/// Leading zeros and a NUL, over the whole field.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    put(field, text.as_bytes());
}

fn put(field: &mut [u8], bytes: &[u8]) {
    field[..bytes.len()].copy_from_slice(bytes);
}

fn finish_header(block: &mut [u8; BLOCK], kind: u8) {
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    if block[329] == 0 {
        octal(&mut block[329..337], 0);
        octal(&mut block[337..345], 0);
    }
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

/// Prefix and name of a path that ustar can hold.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if !path.is_ascii() {
        return None;
    }
    if path.len() <= NAME {
        return Some((&[], path));
    }
    // A slash at the very end belongs to the name.
    let last = path.len() - 1;
    let at = (1..last.min(PREFIX + 1))
        .rev()
        .find(|&at| path[at] == b'/')?;
    let (prefix, name) = (&path[..at], &path[at + 1..]);
    (name.len() <= NAME && prefix.len() <= PREFIX).then_some((prefix, name))
}

/// Pax format 1.0: the map in front of the content.
fn sparse_text(map: &Map) -> Vec<u8> {
    let mut text = format!("{}\n", map.pieces.len());
    for (offset, length) in &map.pieces {
        text.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn stored(map: &Map) -> u64 {
    map.pieces.iter().map(|(_, length)| length).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::reader::{TarReader, Time},
        *,
    };

    fn entry(path: &[u8]) -> Entry {
        Entry {
            path: path.to_vec(),
            link: Vec::new(),
            kind: Kind::File,
            size: 0,
            sparse: None,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            xattrs: Vec::new(),
        }
    }

    fn back(entry: &Entry, content: &[u8]) -> (Entry, Vec<u8>) {
        let mut writer = TarWriter::new(Vec::new());
        writer.begin(entry).unwrap();
        writer.write(content).unwrap();
        let bytes = writer.finish().unwrap();
        assert_eq!(bytes.len() % BLOCK, 0);
        let mut reader = TarReader::new(bytes.as_slice());
        let found = reader.next_entry().unwrap().unwrap();
        let (mut read, mut buffer) = (Vec::new(), [0u8; 64]);
        loop {
            match reader.read_content(&mut buffer).unwrap() {
                0 => break,
                n => read.extend_from_slice(&buffer[..n]),
            }
        }
        assert!(reader.next_entry().unwrap().is_none());
        (found, read)
    }

    fn same(found: &Entry, wanted: &Entry) {
        assert_eq!(found.path, wanted.path);
        assert_eq!(found.link, wanted.link);
        assert_eq!(found.kind, wanted.kind);
        assert_eq!((found.size, &found.sparse), (wanted.size, &wanted.sparse));
        assert_eq!(found.mode, wanted.mode);
        assert_eq!((found.uid, found.gid), (wanted.uid, wanted.gid));
        assert_eq!(found.mtime, wanted.mtime);
        assert_eq!(found.xattrs, wanted.xattrs);
    }

    #[test]
    fn the_header_of_a_saved_folder_is_gos() {
        let mut writer = TarWriter::new(Vec::new());
        let folder = Entry {
            kind: Kind::Directory,
            mode: 0o755,
            ..entry(b"blobs/")
        };
        writer.begin(&folder).unwrap();
        let bytes = writer.finish().unwrap();
        // From dockerd's recording of `docker save`.
        assert_eq!(&bytes[148..157], b"010306\0 5");
        assert_eq!(&bytes[257..265], b"ustar\x0000");
    }

    #[test]
    fn sparse_files() {
        let wanted = Entry {
            size: 1 << 40,
            sparse: Some(Map {
                pieces: vec![(0, 3), (1 << 30, 2), (1 << 40, 0)],
            }),
            ..entry(b"dir/sparse")
        };
        let (found, content) = back(&wanted, b"abcde");
        same(&found, &wanted);
        assert_eq!(content, b"abcde");
    }

    #[test]
    fn lengths_are_held_to() {
        let mut writer = TarWriter::new(Vec::new());
        let file = Entry {
            size: 3,
            ..entry(b"f")
        };
        writer.begin(&file).unwrap();
        assert!(writer.write(b"1234").is_err());
        let mut writer = TarWriter::new(Vec::new());
        writer.begin(&file).unwrap();
        writer.write(b"12").unwrap();
        assert!(writer.finish().is_err());
    }

    #[test]
    fn odd_times() {
        for (seconds, nanos) in [
            (-1, 0),
            (-1, 1),
            (-2, 750_000_000),
            (0, 500_000_000),
            (1 << 40, 7),
        ] {
            let wanted = Entry {
                mtime: Time { seconds, nanos },
                ..entry(b"f")
            };
            same(&back(&wanted, b"").0, &wanted);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            path in prop::collection::vec(1u8..=255, 1..400),
            link in prop::collection::vec(1u8..=255, 0..300),
            mode in 0u32..0o10000,
            uid in 0u64..u64::from(u32::MAX),
            gid in 0u64..10_000_000,
            seconds in -5_000_000_000i64..50_000_000_000,
            nanos in 0u32..1_000_000_000,
            xattr in prop::collection::vec(any::<u8>(), 0..300),
            content in prop::collection::vec(any::<u8>(), 0..1500),
            link_kind in any::<bool>(),
        ) {
            let path: Vec<u8> = path.into_iter().map(|b| if b == b'/' { b'_' } else { b }).collect();
            let kind = if link_kind { Kind::Symlink } else { Kind::File };
            let content = if link_kind { Vec::new() } else { content };
            let wanted = Entry {
                link, kind, mode, uid, gid,
                size: content.len() as u64,
                mtime: Time { seconds, nanos },
                xattrs: vec![(b"user.x".to_vec(), xattr)],
                ..entry(&path)
            };
            let (found, read) = back(&wanted, &content);
            same(&found, &wanted);
            prop_assert_eq!(read, content);
        }

        #[test]
        fn long_paths(parts in prop::collection::vec("[a-z]{1,60}", 1..12), slash in any::<bool>()) {
            let mut path = parts.join("/").into_bytes();
            if slash { path.push(b'/'); }
            let kind = if slash { Kind::Directory } else { Kind::File };
            let wanted = Entry { kind, ..entry(&path) };
            same(&back(&wanted, b"").0, &wanted);
        }
    }
}
