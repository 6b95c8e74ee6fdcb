//! Reads a container's log, rotated and compressed files included, from any point on, and goes on where it stopped when the
//! log has grown or was rotated meanwhile.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use flate2::{bufread::GzDecoder, read::MultiGzDecoder};
use longshore_model::Timestamp;
use serde::Deserialize;

use super::rotate::rotated_path;
use crate::stdio::Stream;

/// What to read. Times are nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// Begin this many entries before the end; None reads all. Counted before `since` and `until` are looked at, as dockerd does.
    pub tail: Option<u64>,
    /// Entries before it are passed over.
    pub since_nano: Option<i64>,
    /// The first entry after it ends the reading for good.
    pub until_nano: Option<i64>,
    /// Only what is there at the opening, as dockerd reads without `follow`: a container that writes as fast as it is read
    /// would keep its reader for ever.
    pub present: bool,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub stream: Stream,
    pub time_nano: i64,
    /// As logged: ends with a newline unless `partial`.
    pub line: Vec<u8>,
    pub attrs: BTreeMap<String, String>,
    /// The line goes on in the next entry of the same stream (or the output ended without newline).
    pub partial: bool,
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow, default)]
    log: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    stream: std::borrow::Cow<'a, str>,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
    #[serde(borrow)]
    time: std::borrow::Cow<'a, str>,
}

/// Reads ahead this much.
const BLOCK: usize = 64 << 10;
/// A longer entry is damage: 16 KiB of text, escaped, and the attributes stay far below.
const ENTRY_LIMIT: usize = 4 << 20;
/// More rotated files than anybody keeps; bounds the search.
const INDEX_LIMIT: u32 = 10_000;

enum Content {
    Plain(File),
    Compressed(Box<MultiGzDecoder<BufReader<File>>>),
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Compressed(decoder) => decoder.read(buffer),
        }
    }
}

/// One file of the log, open.
struct LogFile {
    content: Content,
    identity: Identity,
    /// Bytes taken from a plain file.
    offset: u64,
    /// No further than this in a plain file.
    end: u64,
    buffer: Vec<u8>,
    /// Where the next entry begins in `buffer`.
    at: usize,
    /// Where to look for its end.
    searched: usize,
    skipping: bool,
}

type Identity = (u64, u64);

/// What one step gave.
enum Step {
    Line(Vec<u8>),
    Damage,
    End,
}

impl LogFile {
    fn open(path: &Path, compressed: bool) -> io::Result<Self> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        let content = if compressed {
            Content::Compressed(Box::new(MultiGzDecoder::new(BufReader::new(file))))
        } else {
            Content::Plain(file)
        };
        Ok(Self {
            content,
            identity: (meta.dev(), meta.ino()),
            offset: 0,
            end: u64::MAX,
            buffer: Vec::new(),
            at: 0,
            searched: 0,
            skipping: false,
        })
    }

    fn seek(&mut self, offset: u64) -> io::Result<()> {
        if let Content::Plain(file) = &mut self.content {
            file.seek(SeekFrom::Start(offset))?;
            self.offset = offset;
        }
        self.buffer.clear();
        (self.at, self.searched, self.skipping) = (0, 0, false);
        Ok(())
    }

    /// The next line, without its newline. An unfinished line stays for the next call.
    fn step(&mut self) -> io::Result<Step> {
        loop {
            let unseen = &self.buffer[self.searched..];
            if let Some(end) = unseen.iter().position(|&b| b == b'\n') {
                let end = self.searched + end;
                let line = self.buffer[self.at..end].to_vec();
                (self.at, self.searched) = (end + 1, end + 1);
                if std::mem::take(&mut self.skipping) {
                    return Ok(Step::Damage);
                }
                return Ok(Step::Line(line));
            }
            self.searched = self.buffer.len();
            if self.searched - self.at > ENTRY_LIMIT {
                self.skipping = true;
                self.at = self.searched;
            }
            if self.fill()? == 0 {
                return Ok(Step::End);
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        self.buffer.drain(..self.at);
        self.searched -= self.at;
        self.at = 0;
        let start = self.buffer.len();
        let left = match self.content {
            Content::Plain(_) => {
                usize::try_from(self.end.saturating_sub(self.offset)).unwrap_or(BLOCK)
            }
            Content::Compressed(_) => BLOCK,
        };
        self.buffer.resize(start + left.min(BLOCK), 0);
        let count = loop {
            match self.content.read(&mut self.buffer[start..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A damaged or unfinished archive ends where it is damaged.
                Err(_) if matches!(self.content, Content::Compressed(_)) => break 0,
                other => break other.inspect_err(|_| self.buffer.truncate(start))?,
            }
        };
        self.buffer.truncate(start + count);
        self.offset += count as u64;
        Ok(count)
    }

    /// True when the file was cut below what was read already.
    fn was_emptied(&self) -> bool {
        match &self.content {
            Content::Plain(file) => file.metadata().is_ok_and(|m| m.len() < self.offset),
            Content::Compressed(_) => false,
        }
    }

    /// Moves to `wanted` entries before the end; returns how many there are, at most `wanted`.
    fn seek_tail(&mut self, wanted: u64) -> io::Result<u64> {
        if let Content::Plain(file) = &self.content {
            let length = file.metadata()?.len().min(self.end);
            let (offset, found) = tail_offset(file, length, wanted)?;
            self.seek(offset)?;
            return Ok(found);
        }
        Ok(0)
    }
}

/// Where the last `wanted` lines of the first `end` bytes of a file begin, and how many there are. Reads backwards from the end; an unfinished last line
/// is not counted, but included.
fn tail_offset(file: &File, mut end: u64, wanted: u64) -> io::Result<(u64, u64)> {
    let mut newlines = 0;
    let mut block = vec![0; BLOCK];
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        let part = &mut block[..(end - start) as usize];
        file.read_exact_at(part, start)?;
        for at in (0..part.len()).rev() {
            if part[at] == b'\n' {
                // The newline that ends the line before the wanted ones is where they begin.
                if newlines == wanted {
                    return Ok((start + at as u64 + 1, wanted));
                }
                newlines += 1;
            }
        }
        end = start;
    }
    Ok((0, newlines))
}

/// Reads one container's log.
pub struct LogReader {
    path: PathBuf,
    options: ReadOptions,
    current: Option<LogFile>,
    /// To be read after `current`, oldest first.
    following: VecDeque<LogFile>,
    damaged: u64,
    ended: bool,
}

impl LogReader {
    /// Opens the log at `path`. A log that does not exist (yet) is empty.
    ///
    /// # Errors
    /// What open(2) and read(2) say.
    pub fn open(path: &Path, options: ReadOptions) -> io::Result<Self> {
        let mut reader = Self {
            path: path.to_owned(),
            options,
            current: None,
            following: VecDeque::new(),
            damaged: 0,
            ended: false,
        };
        let mut wanted = options.tail.unwrap_or(u64::MAX);
        // Youngest first: a rotation meanwhile shows a file twice, never hides one.
        for index in 0..INDEX_LIMIT {
            let Some(mut file) = reader.open_index(index)? else {
                break;
            };
            let known = reader.following.front();
            if known.is_some_and(|known| known.identity == file.identity) {
                continue;
            }
            if options.present
                && index == 0
                && let Content::Plain(plain) = &file.content
            {
                file.end = plain.metadata()?.len();
            }
            if options.tail.is_some() {
                wanted -= match file.content {
                    Content::Plain(_) => file.seek_tail(wanted)?,
                    Content::Compressed(_) => {
                        let path = rotated_path(path, index, true);
                        let (trimmed, found) = compressed_tail(file, &path, wanted)?;
                        file = trimmed;
                        found
                    }
                };
            }
            reader.following.push_front(file);
            if wanted == 0 {
                break;
            }
        }
        reader.current = reader.following.pop_front();
        Ok(reader)
    }

    /// The file at a position: 0 is the log itself, then the rotated ones. None when there is none.
    fn open_index(&self, index: u32) -> io::Result<Option<LogFile>> {
        let candidates = if index == 0 {
            [Some((self.path.clone(), false)), None]
        } else {
            [false, true].map(|packed| Some((rotated_path(&self.path, index, packed), packed)))
        };
        for (path, compressed) in candidates.into_iter().flatten() {
            match LogFile::open(&path, compressed) {
                Ok(file) => return Ok(Some(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The next entry; None at the present end. A later call goes on when there is more ([`super::LogWatch`] tells when).
    ///
    /// # Errors
    /// What read(2) says. Damaged entries are no error: they are passed over and counted.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> io::Result<Option<LogEntry>> {
        while !self.ended {
            let Some(line) = self.next_line()? else {
                return Ok(None);
            };
            let Some(entry) = decode(&line) else {
                self.damaged += 1;
                continue;
            };
            let options = &self.options;
            if options
                .until_nano
                .is_some_and(|until| entry.time_nano > until)
            {
                self.ended = true;
            } else if options
                .since_nano
                .is_none_or(|since| entry.time_nano >= since)
            {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// True when nothing can come any more: `until` was reached.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Entries passed over because they could not be read.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let Some(current) = &mut self.current else {
                if self.options.present {
                    return Ok(None);
                }
                self.current = self.open_index(0)?;
                if self.current.is_none() {
                    return Ok(None);
                }
                continue;
            };
            match current.step()? {
                Step::Line(line) => return Ok(Some(line)),
                Step::Damage => self.damaged += 1,
                Step::End if !self.following.is_empty() => self.turn_page(),
                Step::End => {
                    if self.options.present || !self.look_further()? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// On to the next file of the queue; an entry that never got its newline is damage.
    fn turn_page(&mut self) {
        if self.current.as_ref().is_some_and(|c| c.at < c.buffer.len()) {
            self.damaged += 1;
        }
        self.current = self.following.pop_front();
    }

    /// At the end of the youngest file known: was it emptied or rotated? True when there may be more to read.
    fn look_further(&mut self) -> io::Result<bool> {
        let Some(current) = &mut self.current else {
            return Ok(false);
        };
        if current.was_emptied() {
            current.seek(0)?;
            return Ok(true);
        }
        let young = match std::fs::metadata(&self.path) {
            Ok(meta) => (meta.dev(), meta.ino()),
            // Between the two steps of a rotation, or removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if young == current.identity {
            return Ok(false);
        }
        // What was written between our end and the rotation.
        if current.fill()? > 0 {
            return Ok(true);
        }
        self.queue_successors()?;
        if self.following.is_empty() {
            return Ok(false);
        }
        self.turn_page();
        Ok(true)
    }

    /// Queues all files that are younger than the current one.
    fn queue_successors(&mut self) -> io::Result<()> {
        let Some(identity) = self.current.as_ref().map(|c| c.identity) else {
            return Ok(());
        };
        for index in 0..INDEX_LIMIT {
            let Some(file) = self.open_index(index)? else {
                break;
            };
            let packed_copy = matches!(file.content, Content::Compressed(_))
                && original_inode(&rotated_path(&self.path, index, true)) == Some(identity.1);
            if file.identity == identity || packed_copy {
                break;
            }
            let known = self.following.front();
            if known.is_none_or(|known| known.identity != file.identity) {
                self.following.push_front(file);
            }
        }
        Ok(())
    }
}

/// The inode number that the shim noted when it compressed a file.
fn original_inode(path: &Path) -> Option<u64> {
    let mut decoder = GzDecoder::new(BufReader::new(File::open(path).ok()?));
    // The header is parsed with the first byte.
    let _ = decoder.read(&mut [0]);
    let comment = decoder.header()?.comment()?;
    std::str::from_utf8(comment).ok()?.parse().ok()
}

/// A compressed file can only be read forwards: once to count, once more to pass over the beginning.
fn compressed_tail(mut file: LogFile, path: &Path, wanted: u64) -> io::Result<(LogFile, u64)> {
    let mut total: u64 = 0;
    while !matches!(file.step()?, Step::End) {
        total += 1;
    }
    let mut fresh = match LogFile::open(path, true) {
        Ok(fresh) if fresh.identity == file.identity => fresh,
        // Rotated away meanwhile: its place is taken by a younger one that was read already.
        Ok(_) => return Ok((file, 0)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((file, 0)),
        Err(error) => return Err(error),
    };
    for _ in 0..total.saturating_sub(wanted) {
        fresh.step()?;
    }
    Ok((fresh, total.min(wanted)))
}

fn decode(line: &[u8]) -> Option<LogEntry> {
    let record: Record<'_> = serde_json::from_slice(line).ok()?;
    let stream = match &*record.stream {
        "stderr" => Stream::Stderr,
        "stdout" => Stream::Stdout,
        _ => return None,
    };
    let time_nano = Timestamp::parse_rfc3339(&record.time)?.0;
    let line = record.log.into_owned().into_bytes();
    Some(LogEntry {
        stream,
        time_nano,
        partial: line.last() != Some(&b'\n'),
        line,
        attrs: record.attrs,
    })
}
