//! The payload of the embedded image `longshore/hello`: this very binary as `/hello`. It runs as a container's first
//! process, so it handles its signals itself: the kernel drops those for which pid 1 has no handler.

use std::{
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    process::ExitCode,
    thread,
    time::Duration,
};

const GREETING: &str = "
Hello from longshore!

You see this because the engine made a container from the image longshore/hello,
started this program in it, and sent you its output.

Try next:
  longshore run -d --name web -p 8080:80 longshore/hello serve
  curl http://localhost:8080/
  longshore ps
  longshore logs web
  longshore exec web /hello
  longshore rm -f web

Every client of the Docker Engine API works as well: docker run longshore/hello
";

/// Runs `/hello [greet | serve [PORT] | sleep [SECONDS] | events [COUNT]]`.
pub fn main(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [] | ["greet"] => {
            print!("{GREETING}");
            ExitCode::SUCCESS
        }
        ["serve"] => serve(80),
        ["serve", port] => match port.parse() {
            Ok(port) => serve(port),
            Err(_) => usage(),
        },
        ["sleep"] => sleep(None),
        ["sleep", seconds] => match seconds.parse() {
            Ok(seconds) => sleep(Some(Duration::from_secs(seconds))),
            Err(_) => usage(),
        },
        ["events"] => events(usize::MAX),
        ["events", count] => match count.parse() {
            Ok(count) => events(count),
            Err(_) => usage(),
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: hello [greet | serve [PORT] | sleep [SECONDS] | events [COUNT]]");
    ExitCode::from(2)
}

/// Ends the process on SIGTERM and SIGINT, also as pid 1.
fn end_on_signals() {
    if let Err(error) =
        longshore_sys::signal::exit_on(&[longshore_sys::signal::TERM, longshore_sys::signal::INT])
    {
        eprintln!("hello: signals: {error}");
    }
}

fn sleep(time: Option<Duration>) -> ExitCode {
    end_on_signals();
    match time {
        Some(time) => thread::sleep(time),
        None => loop {
            thread::sleep(Duration::from_secs(3600));
        },
    }
    ExitCode::SUCCESS
}

fn serve(port: u16) -> ExitCode {
    end_on_signals();
    // Both families where the kernel has IPv6.
    let listener =
        TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)));
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("hello: port {port}: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("hello: serving on port {port}");
    loop {
        match listener.accept() {
            // A client that went away is no reason to end.
            Ok((mut client, _)) => drop(answer(&mut client)),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => {
                eprintln!("hello: accept: {error}");
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// The engine's socket, if it was mounted into the container.
const SOCKET: &str = "/var/run/docker.sock";

/// Prints the engine's events as they happen, `count` of them: what a container sees that was given the engine's socket.
fn events(count: usize) -> ExitCode {
    end_on_signals();
    match stream_events(count) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hello: {SOCKET}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn stream_events(count: usize) -> io::Result<()> {
    let mut socket = UnixStream::connect(SOCKET)?;
    socket.write_all(b"GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    // Head and chunk sizes are passed over: events are the lines that are objects.
    let events = BufReader::new(socket)
        .lines()
        .filter(|line| line.as_ref().map_or(true, |line| line.starts_with('{')));
    for event in events.take(count) {
        println!("{}", event?.trim_end());
    }
    Ok(())
}

/// Reads one request's head, whatever it asks for, and answers it. One client at a time: each gets a second.
fn answer(client: &mut TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(1)))?;
    client.set_write_timeout(Some(Duration::from_secs(1)))?;
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") && head.len() < 16 << 10 {
        match client.read(&mut chunk)? {
            0 => break,
            count => head.extend_from_slice(&chunk[..count]),
        }
    }
    if head.is_empty() {
        return Ok(());
    }
    let request = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    println!("{}", String::from_utf8_lossy(request).escape_debug());
    let body = format!("Hello from longshore! This is container {}.\n", hostname());
    let body_shown = if request.starts_with(b"HEAD ") {
        ""
    } else {
        &body
    };
    client.write_all(
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body_shown}",
            body.len()
        )
        .as_bytes(),
    )
}

fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
