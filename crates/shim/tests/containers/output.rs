//! Output, input, terminals, logs, slow clients.

use std::time::{Duration, Instant};

use longshore_shim::{
    logs::{LogReader, ReadOptions},
    protocol::*,
    zygote::Zygote,
};

use crate::{Case, sandbox::*};

pub const CASES: &[Case] = &[
    ("output_to_client_and_log", output_to_client_and_log),
    ("early_and_late_clients", early_and_late_clients),
    (
        "stdin_once_ends_with_its_client",
        stdin_once_ends_with_its_client,
    ),
    (
        "stdin_stays_open_for_later_clients",
        stdin_stays_open_for_later_clients,
    ),
    (
        "stdin_of_a_client_that_closes",
        stdin_of_a_client_that_closes,
    ),
    (
        "large_input_with_backpressure",
        large_input_with_backpressure,
    ),
    ("terminal", terminal),
    (
        "a_closed_terminal_does_not_spin",
        a_closed_terminal_does_not_spin,
    ),
    ("a_client_that_stops_reading", a_client_that_stops_reading),
    (
        "a_slow_client_gets_everything",
        a_slow_client_gets_everything,
    ),
    ("log_is_rotated_and_packed", log_is_rotated_and_packed),
];

fn output_to_client_and_log(zygote: &Zygote) {
    let sandbox = Sandbox::script("echo out; echo err >&2; printf rest")
        .with(|request| request.attach = vec![OUTPUT]);
    let (mut client, theirs) = Client::pair();
    let mut daemon = sandbox.start_attached(zygote, vec![theirs]);
    let exit = daemon.exited();
    assert_eq!((exit.code, exit.oom_killed), (0, false));
    // The stream stays open until the daemon has recorded the exit.
    client.0.set_nonblocking(true).unwrap();
    let mut texts = [String::new(), String::new()];
    for _ in 0..3 {
        if texts.concat().len() < 12 {
            let (stream, body) = client.frame().unwrap();
            texts[usize::from(stream) - 1].push_str(&String::from_utf8(body).unwrap());
        }
    }
    assert_eq!(texts, ["out\nrest", "err\n"]);
    let waiting = std::io::Read::read(&mut client.0, &mut [0]).unwrap_err();
    assert_eq!(waiting.kind(), std::io::ErrorKind::WouldBlock);
    client.0.set_nonblocking(false).unwrap();
    daemon.release();
    assert_eq!(client.frame(), None);
    gone(&sandbox);
    let mut lines: Vec<String> = sandbox.logged().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["err", "out", "rest"]);
    let text = std::fs::read_to_string(sandbox.log_path()).unwrap();
    assert!(
        text.contains("{\"log\":\"out\\n\",\"stream\":\"stdout\",\"time\":\"20"),
        "{text}"
    );
    let record = longshore_shim::client::read_record(&sandbox.request.run_dir).unwrap();
    assert_eq!(record, Some(exit));
}

fn early_and_late_clients(zygote: &Zygote) {
    let sandbox = Sandbox::script("echo first; read x; echo $x; exit 3")
        .stdin(false)
        .with(|request| request.attach = vec![OUTPUT]);
    let (mut early, theirs) = Client::pair();
    let mut daemon = sandbox.start_attached(zygote, vec![theirs]);
    early.expect_frames("first\n");
    let mut late = daemon.attach(ALL);
    let mut errors_only = daemon.attach(AttachStreams {
        stderr: true,
        ..AttachStreams::default()
    });
    late.write(b"second\n");
    late.expect_frames("second\n");
    early.expect_frames("second\n");
    assert_eq!(daemon.finish(&sandbox).code, 3);
    assert_eq!(errors_only.frame(), None);
    assert_eq!(sandbox.logged(), "first\nsecond\n");
}

fn stdin_once_ends_with_its_client(zygote: &Zygote) {
    let sandbox = Sandbox::script("cat; echo end").stdin(true);
    let mut daemon = sandbox.start(zygote);
    let mut client = daemon.attach(ALL);
    client.write(b"hello\n");
    client.end_input();
    client.expect_frames("hello\nend\n");
    assert_eq!(daemon.finish(&sandbox).code, 0);
    assert_eq!(client.frame(), None);
}

fn stdin_stays_open_for_later_clients(zygote: &Zygote) {
    let sandbox = Sandbox::script("read a; echo 1$a; read b; echo 2$b").stdin(false);
    let mut daemon = sandbox.start(zygote);
    let mut first = daemon.attach(ALL);
    first.write(b"x\n");
    first.expect_frames("1x\n");
    // As in dockerd: the end of its input ends the client's attachment, not the container's stdin.
    first.end_input();
    assert_eq!(first.frame(), None);
    let mut second = daemon.attach(ALL);
    second.write(b"y\n");
    second.expect_frames("2y\n");
    assert_eq!(daemon.finish(&sandbox).code, 0);
}

fn stdin_of_a_client_that_closes(zygote: &Zygote) {
    let sandbox = Sandbox::script("cat").stdin(true);
    let mut daemon = sandbox.start(zygote);
    let mut client = daemon.attach(ALL);
    client.write(b"last words\n");
    drop(client);
    assert_eq!(daemon.finish(&sandbox).code, 0);
    assert_eq!(sandbox.logged(), "last words\n");
}

fn large_input_with_backpressure(zygote: &Zygote) {
    let sandbox = Sandbox::script("sleep 1; cat | wc -c").stdin(true);
    let mut daemon = sandbox.start(zygote);
    let mut client = daemon.attach(ALL);
    client.write(&vec![b'x'; 5 << 20]);
    client.end_input();
    client.expect_frames("5242880\n");
    assert_eq!(daemon.finish(&sandbox).code, 0);
}

fn terminal(zygote: &Zygote) {
    let sandbox = Sandbox::script("stty size; read x; stty size; echo got $x").terminal();
    let mut daemon = sandbox.start(zygote);
    let mut client = daemon.attach(ALL);
    until(|| sandbox.logged().contains("24 80"));
    let resize = RequestBody::Resize {
        rows: 11,
        columns: 33,
    };
    assert!(matches!(
        daemon.request(resize, Vec::new()),
        Message::Done { .. }
    ));
    client.write(b"word\r");
    client.expect("got word\r\n");
    assert_eq!(daemon.finish(&sandbox).code, 0);
    client.rest();
    assert!(
        sandbox.logged().contains("11 33\r\ngot word\r\n"),
        "{}",
        sandbox.logged()
    );
}

fn a_closed_terminal_does_not_spin(zygote: &Zygote) {
    let sandbox = Sandbox::script("exec sleep 1000 <&- >&- 2>&-").terminal();
    let mut daemon = sandbox.start(zygote);
    std::thread::sleep(Duration::from_millis(500));
    let shim = shims()[0];
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{shim}/stat")).unwrap();
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .filter_map(|f| f.parse().ok())
            .collect();
        // utime and stime are fields 14 and 15; the state (field 3) is no number.
        fields[10] + fields[11]
    };
    let before = ticks();
    std::thread::sleep(Duration::from_millis(500));
    assert!(ticks() - before < 5, "the shim spins");
    let resize = RequestBody::Resize {
        rows: 1,
        columns: 2,
    };
    assert!(matches!(
        daemon.request(resize, Vec::new()),
        Message::Done { .. }
    ));
    daemon.kill(9);
    assert_eq!(daemon.finish(&sandbox).code, 137);
}

/// 100 MB go past a client that reads nothing: log and other client are complete, the container ends, the client is told.
fn a_client_that_stops_reading(zygote: &Zygote) {
    let sandbox = Sandbox::script(
        "yes 0123456789012345678901234567890123456789012345678 | head -c 100000000",
    )
    .with(|request| request.attach = vec![OUTPUT, OUTPUT]);
    let (mut reading, first) = Client::pair();
    let (mut stuck, second) = Client::pair();
    let begun = Instant::now();
    let daemon = sandbox.start_attached(zygote, vec![first, second]);
    let reader = std::thread::spawn(move || {
        let mut total = 0;
        while let Some((_, body)) = reading.frame() {
            total += body.len();
        }
        total
    });
    let mut daemon = daemon;
    assert_eq!(daemon.exited().code, 0);
    let took = begun.elapsed();
    println!("  100 MB to log and client, 10 s of them held up: {took:?}");
    assert!(
        took > Duration::from_secs(10) && took < Duration::from_secs(40),
        "{took:?}"
    );
    daemon.release();
    assert_eq!(reader.join().unwrap(), 100_000_000);
    let (mut total, mut word) = (0, None);
    while let Some((stream, body)) = stuck.frame() {
        match stream {
            3 => word = Some(String::from_utf8(body).unwrap()),
            _ => total += body.len(),
        }
    }
    assert!(total > 1 << 20 && total < 3 << 20, "{total}");
    assert!(word.unwrap().contains("cut off"));
    let mut log = LogReader::open(&sandbox.log_path(), ReadOptions::default()).unwrap();
    let mut logged = 0;
    while let Some(entry) = log.next().unwrap() {
        logged += entry.line.len();
    }
    assert_eq!(logged, 100_000_000);
    gone(&sandbox);
}

fn a_slow_client_gets_everything(zygote: &Zygote) {
    let sandbox = Sandbox::script("seq 1 600000").with(|request| request.attach = vec![OUTPUT]);
    let (mut slow, theirs) = Client::pair();
    let mut daemon = sandbox.start_attached(zygote, vec![theirs]);
    std::thread::sleep(Duration::from_secs(1));
    let mut text = Vec::new();
    for _ in 0..20 {
        text.extend(slow.frame().unwrap().1);
        std::thread::sleep(Duration::from_millis(20));
    }
    let rest = std::thread::spawn(move || slow.frames());
    daemon.exited();
    daemon.release();
    let want: String = (1..=600_000).map(|n| format!("{n}\n")).collect();
    let text = String::from_utf8(text).unwrap() + &rest.join().unwrap()[0];
    assert!(text == want, "{} bytes of {}", text.len(), want.len());
    gone(&sandbox);
}

fn log_is_rotated_and_packed(zygote: &Zygote) {
    let sandbox = Sandbox::script("seq 1 100000").with(|request| {
        if let Some(file) = &mut request.log.file {
            (file.max_size, file.max_file, file.compress) = (1 << 20, 20, true);
        }
    });
    let daemon = sandbox.start(zygote);
    assert_eq!(daemon.finish(&sandbox).code, 0);
    let want: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!(sandbox.logged() == want);
    let packed = std::fs::read_dir(&sandbox.directory)
        .unwrap()
        .filter(|e| {
            e.as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .ends_with(".gz")
        })
        .count();
    assert!(packed >= 6, "{packed}");
}
