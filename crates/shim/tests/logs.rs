//! The log's writer and reader together, over real files.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use longshore_shim::{
    logs::{JsonFile, LogReader, LogWatch, ReadOptions, json_file::Rotation},
    stdio::Stream,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("longshore-logs-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
    fn log(&self) -> PathBuf {
        self.0.join("x-json.log")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn texts(reader: &mut LogReader) -> Vec<String> {
    std::iter::from_fn(|| reader.next().unwrap())
        .map(|entry| String::from_utf8(entry.line).unwrap())
        .collect()
}

fn read(path: &Path, tail: Option<u64>) -> Vec<String> {
    let options = ReadOptions {
        tail,
        ..ReadOptions::default()
    };
    texts(&mut LogReader::open(path, options).unwrap())
}

fn numbered(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|n| format!("line {n}\n")).collect()
}

fn push(log: &mut JsonFile, from: usize, to: usize) {
    for line in numbered(from, to) {
        log.push(Stream::Stdout, line.as_bytes());
    }
    log.flush();
}

#[test]
fn what_was_written_is_read() {
    let folder = Folder::new("plain");
    let mut log = JsonFile::open(
        &folder.log(),
        Rotation::default(),
        r#"{"a":"b"}"#.to_owned(),
    )
    .unwrap();
    log.push(Stream::Stdout, b"one\ntwo");
    log.push(Stream::Stderr, b"error <\xff>\n");
    log.finish();
    let mut reader = LogReader::open(&folder.log(), ReadOptions::default()).unwrap();
    let entries: Vec<_> = std::iter::from_fn(|| reader.next().unwrap()).collect();
    let seen: Vec<_> = entries
        .iter()
        .map(|e| {
            (
                e.stream,
                String::from_utf8_lossy(&e.line).into_owned(),
                e.partial,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (Stream::Stdout, "one\n".to_owned(), false),
            (Stream::Stderr, "error <\u{fffd}>\n".to_owned(), false),
            (Stream::Stdout, "two".to_owned(), true),
        ]
    );
    assert_eq!(entries[0].attrs["a"], "b");
}

#[test]
fn tail_counts_from_the_end() {
    let folder = Folder::new("tail");
    let mut log = JsonFile::open(&folder.log(), Rotation::default(), String::new()).unwrap();
    push(&mut log, 0, 5000);
    for tail in [0, 1, 2, 999, 4999, 5000, 9000] {
        let want = numbered(5000 - tail.min(5000), 5000);
        assert_eq!(read(&folder.log(), Some(tail as u64)), want, "{tail}");
    }
    assert_eq!(
        read(&folder.0.join("absent"), Some(3)),
        Vec::<String>::new()
    );
}

#[test]
fn since_and_until() {
    let folder = Folder::new("times");
    let lines: String = (0..10)
        .map(|n| {
            format!(
                "{{\"log\":\"{n}\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:0{n}.5Z\"}}\n"
            )
        })
        .collect();
    fs::write(folder.log(), lines).unwrap();
    let options = ReadOptions {
        tail: Some(8),
        since_nano: Some(3_500_000_000),
        until_nano: Some(6_000_000_000),
        ..ReadOptions::default()
    };
    let mut reader = LogReader::open(&folder.log(), options).unwrap();
    assert_eq!(texts(&mut reader), ["3", "4", "5"]);
    assert!(reader.ended());
}

/// Without follow a reader ends, however fast the container writes.
#[test]
fn only_what_was_there_at_the_opening() {
    let folder = Folder::new("present");
    let mut log = JsonFile::open(&folder.log(), Rotation::default(), String::new()).unwrap();
    push(&mut log, 0, 10);
    for (tail, first) in [(None, 0), (Some(3), 7)] {
        let options = ReadOptions {
            tail,
            present: true,
            ..ReadOptions::default()
        };
        let mut reader = LogReader::open(&folder.log(), options).unwrap();
        push(&mut log, 10, 20);
        assert_eq!(texts(&mut reader), numbered(first, 10), "{tail:?}");
        fs::write(folder.log(), "").unwrap();
        log = JsonFile::open(&folder.log(), Rotation::default(), String::new()).unwrap();
        push(&mut log, 0, 10);
    }
}

#[test]
fn damage_is_passed_over_and_counted() {
    let folder = Folder::new("damage");
    let mut log = JsonFile::open(&folder.log(), Rotation::default(), String::new()).unwrap();
    push(&mut log, 0, 1);
    let mut raw = fs::File::options().append(true).open(folder.log()).unwrap();
    raw.write_all(b"{\"log\":\"torn\n\0\0\0\0\n\n").unwrap();
    raw.write_all(&vec![b'x'; 9 << 20]).unwrap();
    raw.write_all(b"\n").unwrap();
    push(&mut log, 1, 2);
    raw.write_all(b"{\"log\":\"unfinished").unwrap();
    let mut reader = LogReader::open(&folder.log(), ReadOptions::default()).unwrap();
    assert_eq!(texts(&mut reader), numbered(0, 2));
    assert_eq!(reader.damaged(), 4);
    raw.write_all(b"\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:00Z\"}\n")
        .unwrap();
    assert_eq!(texts(&mut reader), ["unfinished"]);
}

#[test]
fn rotation_keeps_order_and_followers() {
    for (name, compress, max_file) in [
        ("packed", true, 4),
        ("moved", false, 4),
        ("single", false, 1),
    ] {
        let folder = Folder::new(name);
        let rotation = Rotation {
            max_size: 20_000,
            max_file,
            compress,
        };
        let mut log = JsonFile::open(&folder.log(), rotation, String::new()).unwrap();
        let mut follower = LogReader::open(&folder.log(), ReadOptions::default()).unwrap();
        let mut seen = Vec::new();
        // About 270 entries fill a file: a follower may sleep through one or two rotations.
        for step in 0..40 {
            push(&mut log, step * 50, step * 50 + 50);
            if max_file == 1 || step % 10 == 3 {
                seen.extend(texts(&mut follower));
            }
        }
        log.finish();
        seen.extend(texts(&mut follower));
        assert_eq!(seen, numbered(0, 2000), "{name}");
        let kept = read(&folder.log(), None);
        assert_eq!(kept, numbered(2000 - kept.len(), 2000), "{name}");
        let files = fs::read_dir(&folder.0).unwrap().count();
        assert_eq!(files, max_file as usize, "{name}");
        if max_file > 1 {
            assert!(kept.len() > 700, "{name}: {}", kept.len());
            for tail in [1, 100, 300, 700] {
                let want = numbered(2000 - tail, 2000);
                assert_eq!(
                    read(&folder.log(), Some(tail as u64)),
                    want,
                    "{name} {tail}"
                );
            }
        }
        assert_eq!(folder.0.join("x-json.log.1.gz").exists(), compress);
    }
}

#[test]
fn an_emptied_log_is_read_from_its_new_beginning() {
    let folder = Folder::new("emptied");
    let mut log = JsonFile::open(&folder.log(), Rotation::default(), String::new()).unwrap();
    push(&mut log, 0, 100);
    let mut reader = LogReader::open(&folder.log(), ReadOptions::default()).unwrap();
    assert_eq!(texts(&mut reader).len(), 100);
    fs::File::options()
        .write(true)
        .open(folder.log())
        .unwrap()
        .set_len(0)
        .unwrap();
    push(&mut log, 100, 103);
    assert_eq!(texts(&mut reader), numbered(100, 103));
}

#[test]
fn the_watch_tells_of_growth_and_nothing_else() {
    let folder = Folder::new("watch");
    let mut log = JsonFile::open(&folder.log(), Rotation::default(), String::new()).unwrap();
    let mut watch = LogWatch::new().unwrap();
    let key = watch.add(&folder.log()).unwrap();
    assert_eq!(watch.add(&folder.log()).unwrap(), key);
    assert_eq!(watch.changed().unwrap(), Vec::<i32>::new());
    let mut reader = LogReader::open(&folder.log(), ReadOptions::default()).unwrap();
    assert_eq!(texts(&mut reader), Vec::<String>::new());
    assert_eq!(
        watch.changed().unwrap(),
        Vec::<i32>::new(),
        "reading is no change"
    );
    push(&mut log, 0, 3);
    let mut fds = [PollFd::new(&watch, PollFlags::IN)];
    let second = Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    assert_eq!(poll(&mut fds, Some(&second)).unwrap(), 1);
    assert_eq!(watch.changed().unwrap(), [key]);
    assert_eq!(texts(&mut reader), numbered(0, 3));
    watch.remove(key);
    watch.remove(key);
    push(&mut log, 3, 4);
    assert_eq!(watch.changed().unwrap(), Vec::<i32>::new());
}

/// A file system of 64 KiB, unmounted on drop.
struct SmallDisk(Folder);

impl SmallDisk {
    fn new(name: &str) -> Self {
        let folder = Folder::new(name);
        mount(
            "tmpfs",
            &folder.0,
            "tmpfs",
            MountFlags::empty(),
            c"size=64k",
        )
        .expect("run as root");
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.0.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_is_reported_and_survived() {
    let disk = SmallDisk::new("full");
    let path = disk.0.log();
    let mut log = JsonFile::open(&path, Rotation::default(), String::new()).unwrap();
    fs::write(disk.0.0.join("ballast"), vec![0; 40 << 10]).unwrap();
    for step in 0..50 {
        push(&mut log, step * 10, step * 10 + 10);
    }
    let warning = log.take_warning().expect("a warning");
    assert!(warning.contains("no space left on device"), "{warning}");
    assert_eq!(log.take_warning(), None, "said once");
    fs::remove_file(disk.0.0.join("ballast")).unwrap();
    push(&mut log, 500, 501);
    let warning = log.take_warning().expect("the end of the trouble");
    let mut reader = LogReader::open(&path, ReadOptions::default()).unwrap();
    let seen = texts(&mut reader);
    assert_eq!(reader.damaged(), 0);
    let kept = seen.len() - 1;
    assert_eq!(seen[..kept], numbered(0, kept));
    assert_eq!(seen[kept], "line 500\n");
    assert!(
        warning.contains(&format!("{} entries were dropped", 500 - kept)),
        "{warning}"
    );
}

#[test]
fn the_tail_of_a_large_log_is_quick() {
    let folder = Folder::new("large");
    let line = "{\"log\":\"x\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:00Z\"}\n";
    let block = line.repeat(16_000);
    let mut file = fs::File::create(folder.log()).unwrap();
    for _ in 0..128 {
        file.write_all(block.as_bytes()).unwrap();
    }
    let begun = Instant::now();
    assert_eq!(read(&folder.log(), Some(10)).len(), 10);
    assert!(
        begun.elapsed() < Duration::from_millis(200),
        "{:?}",
        begun.elapsed()
    );
}

/// What dockerd 20.10 wrote for the same output, times left out.
#[test]
fn the_same_bytes_as_dockerd() {
    let mut output =
        b"plain\ntab\t<a href=\"x\">&</a> \\ back\r\n\n\x1b[31mred\x1b[0m \x7f \x01\n".to_vec();
    output
        .extend(b"bad \xff\xfe \xe2\x82 x\nsep \xe2\x80\xa8 \xe2\x80\xa9 \xe2\x82\xac \xc3\xa9\n");
    for (letter, count) in [
        (b'x', 40_000),
        (b'y', 16_384),
        (b'z', 16_383),
        (b'e', 20_000),
    ] {
        output.extend(vec![letter; count]);
        output.push(b'\n');
    }
    output.extend(b"tail");
    let long = |letter: &str, count: usize, end: &str| letter.repeat(count) + end;
    let want = [
        r"plain\n".to_owned(),
        r#"tab\u0009\u003ca href=\"x\"\u003e\u0026\u003c/a\u003e \\ back\r\n"#.to_owned(),
        r"\n".to_owned(),
        "\\u001b[31mred\\u001b[0m \x7f \\u0001\\n".to_owned(),
        r"bad \ufffd\ufffd \ufffd\ufffd x\n".to_owned(),
        r"sep \u2028 \u2029 € é\n".to_owned(),
        long("x", 16_384, ""),
        long("x", 16_384, ""),
        long("x", 7_232, r"\n"),
        long("y", 16_384, ""),
        r"\n".to_owned(),
        long("z", 16_383, r"\n"),
        long("e", 16_384, ""),
        long("e", 3_616, r"\n"),
        "tail".to_owned(),
    ];
    for chunk in [1, 7, 5000, 1 << 20] {
        let folder = Folder::new("same");
        let mut log = JsonFile::open(&folder.log(), Rotation::default(), String::new()).unwrap();
        for part in output.chunks(chunk) {
            log.push(Stream::Stdout, part);
        }
        log.finish();
        let text = fs::read_to_string(folder.log()).unwrap();
        let without_time = |line: &str| line.split(",\"time\":\"20").next().unwrap().to_owned();
        let seen: Vec<String> = text.lines().map(without_time).collect();
        let want: Vec<String> = want
            .iter()
            .map(|w| format!("{{\"log\":\"{w}\",\"stream\":\"stdout\""))
            .collect();
        assert_eq!(seen, want);
    }
}
