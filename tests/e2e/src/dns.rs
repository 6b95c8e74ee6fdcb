//! A small DNS client and server, for what runs inside containers.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use e2e::{
    check::{Fail, Outcome},
    fail,
};

const KINDS: [(&str, u16); 6] = [
    ("A", 1),
    ("AAAA", 28),
    ("PTR", 12),
    ("TXT", 16),
    ("MX", 15),
    ("ANY", 255),
];
const CODES: [&str; 6] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED",
];

fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|l| !l.is_empty()) {
        bytes.push(label.len().min(63) as u8);
        bytes.extend(&label.as_bytes()[..label.len().min(63)]);
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// A name in a message, and where it ends.
fn name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut text, mut end) = (String::new(), None);
    for _ in 0..64 {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => return Some((text, end.unwrap_or(at + 1))),
            0xc0.. => {
                end.get_or_insert(at + 2);
                at = (length & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
            }
            _ => {
                text.push_str(&String::from_utf8_lossy(
                    message.get(at + 1..at + 1 + length)?,
                ));
                text.push('.');
                at += 1 + length;
            }
        }
    }
    None
}

/// The code, `TRUNCATED` when it is, and each address or name.
fn words(message: &[u8]) -> Option<Vec<String>> {
    let count = |at: usize| usize::from(u16::from_be_bytes([message[at], message[at + 1]]));
    let code = usize::from(*message.get(3)? & 15);
    let mut words = vec![CODES.get(code).unwrap_or(&"OTHER").to_string()];
    if message[2] & 2 != 0 {
        words.push("TRUNCATED".to_owned());
    }
    let mut at = 12;
    for _ in 0..count(4) {
        at = name(message, at)?.1 + 4;
    }
    for _ in 0..count(6) {
        at = name(message, at)?.1;
        let length = count(at + 8);
        let data = message.get(at + 10..at + 10 + length)?;
        match count(at) {
            1 => words.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).to_string()),
            28 => words.push(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).to_string()),
            12 => words.push(name(message, at + 10)?.0),
            _ => {}
        }
        at += 10 + length;
    }
    Some(words)
}

/// Asks and prints what [`words`] reads, on one line.
pub fn ask(wanted: &str, kind: &str, server: SocketAddr, tcp: bool) -> Outcome<bool> {
    let number = KINDS.iter().find(|(name, _)| *name == kind);
    let number = number.ok_or_else(|| Fail(format!("{kind}?")))?.1;
    let patience = Duration::from_secs(8) * e2e::check::patience();
    let question = question(4711, wanted, number);
    let mut answer = vec![0; 65535];
    let length = if tcp {
        let mut stream = TcpStream::connect_timeout(&server, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(&(question.len() as u16).to_be_bytes())?;
        stream.write_all(&question)?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let length = usize::from(u16::from_be_bytes(length));
        stream.read_exact(&mut answer[..length])?;
        length
    } else {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(patience))?;
        socket.send(&question)?;
        socket.recv(&mut answer)?
    };
    if length < 12 || answer[..2] != question[..2] {
        fail!("no answer to the question: {length} bytes");
    }
    let words = words(&answer[..length]).ok_or_else(|| Fail("unreadable".into()))?;
    println!("{}", words.join(" "));
    Ok(true)
}

/// A name server at port 53: every name has the address `answer`, but those below `absent`, and `slow` gets no answer.
pub fn serve(answer: Ipv4Addr) -> Outcome<bool> {
    let reply = move |question: &[u8]| -> Option<Vec<u8>> {
        let wanted = name(question, 12)?.0;
        let mut reply = question.to_vec();
        reply[2] |= 0x80;
        reply[3] |= 0x80;
        match wanted.as_str() {
            "slow." => return None,
            _ if wanted.ends_with("absent.") => reply[3] |= 3,
            _ if question.ends_with(&[0, 1, 0, 1]) => {
                reply[7] = 1;
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
                reply.extend(answer.octets());
            }
            _ => {}
        }
        Some(reply)
    };
    let datagrams = UdpSocket::bind("0.0.0.0:53")?;
    let listener = TcpListener::bind("0.0.0.0:53")?;
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = datagrams.recv_from(&mut buffer) {
            if let Some(reply) = reply(&buffer[..length]) {
                let _ = datagrams.send_to(&reply, from);
            }
        }
    });
    println!("serving");
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut question)?;
        if let Some(reply) = reply(&question) {
            stream.write_all(&(reply.len() as u16).to_be_bytes())?;
            stream.write_all(&reply)?;
        }
    }
    Ok(true)
}

/// Asks the same question again and again from several threads, each with some questions under way; prints how many were
/// answered in a second, and how many were not.
pub fn load(wanted: &str, server: SocketAddr, seconds: u64, threads: usize) -> Outcome<bool> {
    const UNDER_WAY: usize = 16;
    let (answered, lost) = (AtomicU64::new(0), AtomicU64::new(0));
    let end = Instant::now() + Duration::from_secs(seconds);
    let work = || -> Outcome {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut buffer = [0; 2048];
        let question = question(1, wanted, 1);
        for _ in 0..UNDER_WAY {
            socket.send(&question)?;
        }
        while Instant::now() < end {
            match socket.recv(&mut buffer) {
                Ok(length) if length > 12 && buffer[3] & 15 == 0 => {
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                _ => {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            let _ = socket.send(&question);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        all.into_iter()
            .try_for_each(|one| one.join().unwrap_or_else(|_| fail!("panicked")))
    })?;
    let rate = answered.load(Ordering::Relaxed) / seconds.max(1);
    println!("{rate} {}", lost.load(Ordering::Relaxed));
    Ok(true)
}
