//! What this program does inside a container.

use std::{
    io::{Read, Write},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket},
    path::Path,
    thread,
    time::Duration,
};

use e2e::{
    check::{Fail, Outcome},
    fail,
    http::Connection,
};

/// Prints the line of /proc/self/status with real, effective, saved and file system user id.
pub fn ids() -> Outcome<bool> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    println!(
        "{}",
        status
            .lines()
            .find(|l| l.starts_with("Uid:"))
            .unwrap_or_default()
    );
    Ok(true)
}

/// The address without the mapping of IPv4 into IPv6.
fn plain(address: SocketAddr) -> String {
    address.ip().to_canonical().to_string()
}

/// Answers each TCP connection and each datagram with the address that it came from, and our host name.
pub fn serve(port: u16) -> Outcome<bool> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim().to_owned();
    let datagrams = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| UdpSocket::bind(("0.0.0.0", port)))?;
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))?;
    let host = name.clone();
    thread::spawn(move || {
        let mut buffer = [0; 65536];
        while let Ok((length, from)) = datagrams.recv_from(&mut buffer) {
            let answer = format!("{} {host} {length}", plain(from));
            let _ = datagrams.send_to(answer.as_bytes(), from);
        }
    });
    println!("serving");
    for stream in listener.incoming() {
        let mut stream = stream?;
        let host = name.clone();
        thread::spawn(move || {
            let mut text = Vec::new();
            let from = stream.peer_addr().map(plain).unwrap_or_default();
            let _ = stream.read_to_end(&mut text);
            let _ = stream.write_all(format!("{from} {host} {}", text.len()).as_bytes());
        });
    }
    Ok(true)
}

/// Sends a few bytes and prints the answer.
pub fn ask(protocol: &str, address: &str, port: u16) -> Outcome<bool> {
    let patience = Duration::from_secs(3) * e2e::check::patience();
    let target = (address, port)
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| Fail("no address".into()))?;
    let mut answer = String::new();
    if protocol == "udp" {
        let local: SocketAddr = if target.is_ipv6() {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        } else {
            ([0, 0, 0, 0], 0).into()
        };
        let socket = UdpSocket::bind(local)?;
        socket.connect(target)?;
        socket.set_read_timeout(Some(patience))?;
        socket.send(b"hello")?;
        let mut buffer = [0; 2000];
        let length = socket.recv(&mut buffer)?;
        answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
    } else {
        let mut stream = TcpStream::connect_timeout(&target, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(b"hello")?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_string(&mut answer)?;
    }
    if !answer.ends_with(" 5") {
        fail!("strange answer {answer:?}");
    }
    println!("{answer}");
    Ok(true)
}

/// GET over a unix socket, printed line by line.
pub fn get(socket: &Path, path: &str) -> Outcome<bool> {
    let mut connection = Connection::open(socket)?;
    connection.request("GET", path, &[], None)?;
    let (status, _) = connection.head("GET")?;
    while let Some(line) = connection.body_line()? {
        println!("{line}");
        std::io::stdout().flush()?;
    }
    Ok(status == 200)
}
