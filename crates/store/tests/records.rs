//! Records and the journal: order, durability, quarantine, lock, broken databases.

mod common;

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::FileExt,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::{Scratch, open};
use longshore_model::ErrorKind;
use longshore_store::{Batch, Durability, EventRange, NewEvent, Store, Table};

fn event(action: &str) -> NewEvent {
    NewEvent {
        kind: "container".into(),
        action: action.into(),
        actor: "id".into(),
        attributes: [("name".to_owned(), "é\"x".to_owned())].into(),
        time_nano: 0,
    }
}

#[test]
fn records_and_events_survive_a_restart() {
    let scratch = Scratch::new();
    let (store, report) = open(scratch.path());
    assert!(report.quarantined.is_empty() && report.moved_aside.is_none());
    let mut batch = Batch::new();
    batch
        .put(Table::Container, "b", b"2".as_slice())
        .put(Table::Container, "a", b"1".as_slice())
        .put(Table::Volume, "a", b"v".as_slice())
        .event(event("create"))
        .event(event("start"));
    let events = store.commit(batch, Durability::Durable).unwrap();
    assert_eq!(events.iter().map(|e| e.seq).collect::<Vec<_>>(), vec![1, 2]);
    let mut batch = Batch::new();
    batch
        .put(Table::Container, "a", b"changed".as_slice())
        .delete(Table::Container, "b")
        .delete(Table::Container, "never was");
    store.commit(batch, Durability::Survives).unwrap();
    drop(store);

    let (store, _) = open(scratch.path());
    assert_eq!(
        store.records(Table::Container).unwrap(),
        vec![("a".to_owned(), b"changed".to_vec())]
    );
    assert_eq!(store.records(Table::Volume).unwrap().len(), 1);
    assert_eq!(store.last_seq(), 2);
    assert_eq!(store.events(EventRange::default()).unwrap(), events);
    let mut batch = Batch::new();
    batch.event(event("die"));
    assert_eq!(store.commit(batch, Durability::Survives).unwrap()[0].seq, 3);
}

#[test]
fn events_by_range() {
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    for i in 1..=50 {
        let mut batch = Batch::new();
        batch.event(NewEvent {
            time_nano: i * 10,
            ..event("x")
        });
        store.commit(batch, Durability::Survives).unwrap();
    }
    let seqs = |range| {
        let events = store.events(range).unwrap();
        (
            events.first().map_or(0, |e| e.seq),
            events.last().map_or(0, |e| e.seq),
            events.len(),
        )
    };
    let all = EventRange::default();
    assert_eq!(seqs(all), (1, 50, 50));
    let since = |n| EventRange {
        since_nano: Some(n),
        ..all
    };
    assert_eq!(seqs(since(0)), (1, 50, 50));
    assert_eq!(seqs(since(100)), (10, 50, 41));
    assert_eq!(seqs(since(101)), (11, 50, 40));
    assert_eq!(seqs(since(501)), (0, 0, 0));
    let between = EventRange {
        until_nano: Some(200),
        ..since(100)
    };
    assert_eq!(seqs(between), (10, 20, 11));
    let limited = EventRange {
        after_seq: Some(40),
        limit: Some(3),
        ..all
    };
    assert_eq!(seqs(limited), (41, 43, 3));
    let mut batch = Batch::new();
    batch.event(NewEvent {
        time_nano: 7,
        ..event("late")
    });
    let late = store.commit(batch, Durability::Survives).unwrap();
    assert_eq!(late[0].time_nano, 501, "time never goes back");
}

#[test]
fn concurrent_commits_keep_one_order() {
    let scratch = Scratch::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let (store, _) = Store::open(
        scratch.path(),
        Box::new(move |events| log.lock().unwrap().extend_from_slice(events)),
    )
    .unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = store.clone();
            scope.spawn(move || {
                for i in 0..100 {
                    let mut batch = Batch::new();
                    batch.put(Table::Container, format!("{thread}"), format!("{i}"));
                    batch.event(event(&format!("{thread}/{i}")));
                    batch.event(event("second"));
                    let durability = if i % 10 == 0 {
                        Durability::Durable
                    } else {
                        Durability::Survives
                    };
                    let events = store.commit(batch, durability).unwrap();
                    assert_eq!(events[1].seq, events[0].seq + 1);
                }
            });
        }
    });
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 1600);
    assert!(
        seen.windows(2)
            .all(|w| w[0].seq + 1 == w[1].seq && w[0].time_nano < w[1].time_nano)
    );
    assert_eq!(store.events(EventRange::default()).unwrap(), seen);
    for (_, value) in store.records(Table::Container).unwrap() {
        assert_eq!(value, b"99");
    }
}

#[test]
fn a_panicking_callback_stops_nobody() {
    let scratch = Scratch::new();
    let (store, _) = Store::open(
        scratch.path(),
        Box::new(|events| assert_ne!(events[0].action, "boom")),
    )
    .unwrap();
    let mut batch = Batch::new();
    batch.event(event("boom"));
    assert!(store.commit(batch, Durability::Survives).is_ok());
    let mut batch = Batch::new();
    batch.event(event("fine"));
    assert_eq!(store.commit(batch, Durability::Survives).unwrap()[0].seq, 2);
}

#[test]
fn quarantined_records_are_out_of_use_and_reported() {
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    let mut batch = Batch::new();
    batch.put(Table::Network, "n", b"garbage".as_slice());
    store.commit(batch, Durability::Durable).unwrap();
    store
        .quarantine(Table::Network, "n", "does not parse")
        .unwrap();
    assert!(store.records(Table::Network).unwrap().is_empty());
    drop(store);
    let (_store, report) = open(scratch.path());
    assert_eq!(report.quarantined.len(), 1);
    assert_eq!(report.quarantined[0].reason, "does not parse");
}

#[test]
fn a_second_daemon_is_refused() {
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    let error = Store::open(scratch.path(), Box::new(|_| {})).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Conflict);
    let text = error.message;
    assert!(
        text.contains(&scratch.path().display().to_string()),
        "{text}"
    );
    assert!(
        text.contains(&format!("(pid {})", std::process::id())),
        "{text}"
    );
    drop(store);
    open(scratch.path());
}

#[test]
fn broken_databases_are_moved_aside() {
    for garbage in [0usize, 4096 * 2] {
        let scratch = Scratch::new();
        let (store, _) = open(scratch.path());
        let mut batch = Batch::new();
        for i in 0..2000 {
            batch.put(Table::Container, format!("{i:04}"), vec![7u8; 300]);
        }
        store.commit(batch, Durability::Durable).unwrap();
        drop(store);
        let path = scratch.path().join("db.sqlite");
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        // The header, or pages in the middle.
        let at = if garbage == 0 { 0 } else { 4096 * 60 };
        file.write_all_at(&vec![0xAB; garbage.max(100)], at)
            .unwrap();
        let (store, report) = open(scratch.path());
        let (aside, saved) = report.moved_aside.clone().unwrap();
        assert!(aside.exists());
        assert_eq!(store.records(Table::Container).unwrap().len(), saved);
        if garbage > 0 {
            assert!((1000..2000).contains(&saved), "{saved}");
        }
        let mut batch = Batch::new();
        batch.event(event("create"));
        assert!(store.commit(batch, Durability::Durable).is_ok());
    }
}

#[test]
fn a_newer_database_is_refused_and_left_alone() {
    let scratch = Scratch::new();
    drop(open(scratch.path()));
    let path = scratch.path().join("db.sqlite");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    // user_version, big endian, at offset 60 of the header.
    file.write_all_at(&99u32.to_be_bytes(), 60).unwrap();
    let error = Store::open(scratch.path(), Box::new(|_| {})).err().unwrap();
    assert!(error.message.contains("newer"), "{error}");
    assert!(path.exists());
}

/// Answers come at the speed of the disk's cache, not of a timer. The bound is loose: other work runs on the machine.
#[test]
fn a_commit_does_not_wait() {
    let scratch = Scratch::new();
    let (store, _) = open(scratch.path());
    let mut times: Vec<_> = (0..200)
        .map(|i| {
            let mut batch = Batch::new();
            batch.put(Table::Container, "c", format!("{i:04000}"));
            batch.event(event("start"));
            let started = Instant::now();
            store.commit(batch, Durability::Survives).unwrap();
            started.elapsed()
        })
        .collect();
    times.sort();
    println!("fastest {:?}, median {:?}", times[0], times[100]);
    assert!(times[100] < Duration::from_millis(5));
}

/// Child half of the kill test: commits until it is killed, printing each commit that was answered.
#[test]
#[ignore = "run as a child by kill_9_loses_nothing_answered"]
fn child_commits_until_killed() {
    let Some(root) = std::env::var_os("STORE_TEST_ROOT") else {
        return;
    };
    let (store, _) = open(std::path::Path::new(&root));
    for i in 1u64.. {
        let mut batch = Batch::new();
        batch.put(Table::Container, "c", format!("{i}"));
        batch.event(event("x"));
        let events = store.commit(batch, Durability::Survives).unwrap();
        println!("done {} {i}", events[0].seq);
    }
}

#[test]
fn kill_9_loses_nothing_answered() {
    let scratch = Scratch::new();
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "--nocapture",
                "child_commits_until_killed",
            ])
            .env("STORE_TEST_ROOT", scratch.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut last = (0, 0);
        let started = Instant::now();
        while let Some(Ok(line)) = lines.next() {
            if let Some(rest) = line.split("done ").nth(1) {
                let mut numbers = rest.split(' ').map(|n| n.parse::<u64>().unwrap());
                last = (numbers.next().unwrap(), numbers.next().unwrap());
            }
            if last.1 > 300 + round * 50 && started.elapsed() > Duration::from_millis(50) {
                child.kill().unwrap();
                break;
            }
        }
        child.wait().unwrap();
        let (store, report) = open(scratch.path());
        assert!(report.moved_aside.is_none());
        let value = store.records(Table::Container).unwrap()[0].1.clone();
        let value: u64 = String::from_utf8(value).unwrap().parse().unwrap();
        assert!(value >= last.1 && store.last_seq() >= last.0);
        assert_eq!(
            store.events(EventRange::default()).unwrap().len() as u64,
            store.last_seq(),
            "the record and its event went together"
        );
    }
}
