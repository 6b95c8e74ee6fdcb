//! The name server in namespaces of its own: a container that asks, a host with servers, and what goes wrong between them.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use longshore_network::dns::{Member, Membership, Resolver, Scope, Upstream, place};
use support::Namespace;

const A: u16 = 1;
const TXT: u16 = 16;
const AAAA: u16 = 28;

fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|l| !l.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// (code, truncated, number of answers, last bytes)
#[derive(Debug, PartialEq)]
struct Answer {
    code: u8,
    truncated: bool,
    count: u16,
    bytes: Vec<u8>,
}

fn read(bytes: &[u8], id: u16) -> Answer {
    assert_eq!(bytes[..2], id.to_be_bytes(), "the id of the question");
    assert!(bytes[2] & 0x80 != 0, "a response");
    Answer {
        code: bytes[3] & 15,
        truncated: bytes[2] & 2 != 0,
        count: u16::from_be_bytes([bytes[6], bytes[7]]),
        bytes: bytes.to_vec(),
    }
}

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(place::ADDRESS), 53);

fn ask(container: &Namespace, name: &str, kind: u16) -> Option<Answer> {
    let name = name.to_owned();
    container.run(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(SERVER).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(6)))
            .unwrap();
        socket.send(&question(77, &name, kind)).unwrap();
        let mut buffer = [0; 65535];
        let length = socket.recv(&mut buffer).ok()?;
        Some(read(&buffer[..length], 77))
    })
}

fn ask_by_tcp(container: &Namespace, names: &[&str]) -> Vec<Answer> {
    container.run(|| {
        let mut stream = TcpStream::connect(SERVER).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(6)))
            .unwrap();
        for (id, name) in (1u16..).zip(names) {
            let question = question(id, name, A);
            stream
                .write_all(&u16::try_from(question.len()).unwrap().to_be_bytes())
                .unwrap();
            stream.write_all(&question).unwrap();
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answers = Vec::new();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let mut rest = &all[..];
        while let [high, low, body @ ..] = rest {
            let (one, more) = body.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            answers.push(read(one, u16::from_be_bytes([one[0], one[1]])));
            rest = more;
        }
        answers
    })
}

/// What a server of the test does with a question.
#[derive(Clone, Copy)]
enum Behaviour {
    /// One address.
    Answer([u8; 4]),
    Code(u8),
    Silent,
    /// A reply of so many bytes.
    Long(usize),
    /// First replies with a wrong id and a wrong name, then the right one.
    Forged([u8; 4]),
}

fn reply(question: &[u8], behaviour: Behaviour) -> Vec<u8> {
    let mut reply = question.to_vec();
    reply[2] |= 0x80;
    match behaviour {
        Behaviour::Answer(ip) | Behaviour::Forged(ip) => {
            reply[7] = 1;
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
            reply.extend(ip);
        }
        Behaviour::Code(code) => reply[3] = code,
        Behaviour::Long(size) => reply.resize(size, 0),
        Behaviour::Silent => {}
    }
    reply
}

/// A name server in the calling thread's namespace; counts questions.
fn server(address: &str, behaviour: Behaviour) -> (SocketAddr, Arc<AtomicUsize>) {
    let udp = UdpSocket::bind((address, 0)).unwrap();
    let at = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(at).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            count.fetch_add(1, Ordering::SeqCst);
            if matches!(behaviour, Behaviour::Silent) {
                continue;
            }
            if matches!(behaviour, Behaviour::Forged(_)) {
                let mut wrong = reply(&buffer[..length], Behaviour::Answer([6, 6, 6, 6]));
                wrong[0] ^= 1;
                udp.send_to(&wrong, peer).unwrap();
                let mut wrong = reply(&buffer[..length], Behaviour::Answer([6, 6, 6, 6]));
                wrong[13] ^= 1;
                udp.send_to(&wrong, peer).unwrap();
            }
            let _ = udp.send_to(&reply(&buffer[..length], behaviour), peer);
        }
    });
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut question = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut question).unwrap();
            let reply = reply(&question, behaviour);
            // In pieces, as networks do.
            for piece in [
                &u16::try_from(reply.len()).unwrap().to_be_bytes()[..],
                &reply[..5],
                &reply[5..],
            ] {
                stream.write_all(piece).unwrap();
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    (at, asked)
}

struct World {
    host: Arc<Namespace>,
    container: Arc<Namespace>,
    resolver: Resolver,
}

impl World {
    fn new() -> Self {
        let (host, container) = (Namespace::new(), Namespace::new());
        let resolver = Resolver::new().unwrap();
        let put = |container: &str, names: &[&str], addresses: Vec<IpAddr>| {
            let names = names.iter().map(|n| (*n).to_owned()).collect();
            resolver.set_member(("n1", "net1"), container, Member { names, addresses });
        };
        put("1", &["one", "web"], vec!["10.0.0.2".parse().unwrap()]);
        put("2", &["two", "web"], vec!["10.0.0.3".parse().unwrap()]);
        let many = (0..60).map(|n| IpAddr::from([10, 0, 1, n])).collect();
        put("3", &["many"], many);
        Self {
            host,
            container,
            resolver,
        }
    }

    fn scope(upstreams: &[(SocketAddr, bool)]) -> Scope {
        Scope {
            networks: vec![Membership {
                network: "n1".into(),
                ..Membership::default()
            }],
            upstreams: upstreams
                .iter()
                .map(|(address, from_host)| Upstream {
                    address: *address,
                    from_host: *from_host,
                })
                .collect(),
            ..Scope::default()
        }
    }

    /// Serves the container, from a thread of the host.
    fn attach(&self, scope: Scope) {
        self.host.run(|| {
            let sockets = place::open_in(self.container.fd.as_fd(), "c").unwrap();
            self.resolver.attach("c", sockets, scope).unwrap();
        });
    }
}

fn address(answer: &Answer) -> &[u8] {
    &answer.bytes[answer.bytes.len() - 4..]
}

#[test]
fn names_of_the_network() {
    let world = World::new();
    world.attach(World::scope(&[]));
    let one = ask(&world.container, "One", A).unwrap();
    assert_eq!(
        (one.code, one.count, address(&one)),
        (0, 1, &[10, 0, 0, 2][..])
    );
    assert_eq!(ask(&world.container, "web.net1", A).unwrap().count, 2);
    for kind in [AAAA, TXT] {
        let none = ask(&world.container, "one", kind).unwrap();
        assert_eq!((none.code, none.count), (0, 0));
    }
    let back = ask(&world.container, "3.0.0.10.in-addr.arpa", 12).unwrap();
    assert!(back.bytes.ends_with(b"\x03two\x04net1\0"));
    let begin = Instant::now();
    assert_eq!(ask(&world.container, "nosuch", A).unwrap().code, 2);
    assert!(begin.elapsed() < Duration::from_secs(1));
    // Both get their turn as the first.
    let firsts: std::collections::BTreeSet<u8> = (0..60)
        .map(|_| {
            let answer = ask(&world.container, "web", A).unwrap();
            answer.bytes[answer.bytes.len() - 17]
        })
        .collect();
    assert_eq!(firsts.into_iter().collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn long_answers_are_cut_and_whole_over_tcp() {
    let world = World::new();
    world.attach(World::scope(&[]));
    let cut = ask(&world.container, "many", A).unwrap();
    assert!(cut.truncated && cut.bytes.len() <= 512 && cut.count > 20);
    let answers = ask_by_tcp(&world.container, &["many", "one", "nosuch", "web"]);
    let seen: Vec<_> = answers
        .iter()
        .map(|a| (a.code, a.truncated, a.count))
        .collect();
    assert_eq!(
        seen,
        [(0, false, 60), (0, false, 1), (2, false, 0), (0, false, 2)]
    );
}

#[test]
fn changes_are_seen_at_once_and_detaching_ends_it() {
    let world = World::new();
    world.attach(World::scope(&[]));
    assert_eq!(ask(&world.container, "new", A).unwrap().code, 2);
    let member = Member {
        names: vec!["new".to_owned()],
        addresses: vec!["10.0.0.9".parse().unwrap()],
    };
    world.resolver.set_member(("n1", "net1"), "1", member);
    assert_eq!(ask(&world.container, "new", A).unwrap().count, 1);
    assert_eq!(ask(&world.container, "one", A).unwrap().code, 2);
    world.resolver.remove_member("n1", "2");
    assert_eq!(ask(&world.container, "web", A).unwrap().code, 2);
    world.resolver.forget("n1");
    assert_eq!(ask(&world.container, "new", A).unwrap().code, 2);
    // Again, as a new daemon does: the rules lead to the new sockets.
    for _ in 0..3 {
        world.attach(World::scope(&[]));
        assert_eq!(ask(&world.container, "new", A).unwrap().code, 2);
    }
    world.resolver.detach("c");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(ask(&world.container, "new", A), None);
}

/// A daemon that comes back: the same port, and rules that are left as they are.
#[test]
fn rules_are_kept_where_they_are_right() {
    let world = World::new();
    let rules = || world.container.shell("nft -a list ruleset");
    world.attach(World::scope(&[]));
    let before = rules();
    assert!(
        before.contains("udp dport 53 dnat ip to 127.0.0.11:"),
        "{before}"
    );
    world.resolver.detach("c");
    std::thread::sleep(Duration::from_millis(100));
    world.attach(World::scope(&[]));
    assert_eq!(rules(), before);
    assert_eq!(ask(&world.container, "one", A).unwrap().count, 1);
    // While the old sockets are there another port is taken.
    world.attach(World::scope(&[]));
    assert_ne!(rules(), before);
    assert_eq!(ask(&world.container, "one", A).unwrap().count, 1);
}

#[test]
fn port_53_is_the_containers_own() {
    let world = World::new();
    world.attach(World::scope(&[]));
    world.container.run(|| {
        let all = UdpSocket::bind("0.0.0.0:53").unwrap();
        let listening = TcpListener::bind("0.0.0.0:53").unwrap();
        assert_eq!(ask(&world.container, "one", A).unwrap().count, 1);
        assert_eq!(ask_by_tcp(&world.container, &["one"])[0].count, 1);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"mine", "127.0.0.1:53").unwrap();
        let mut buffer = [0; 9];
        assert_eq!(all.recv(&mut buffer).unwrap(), 4);
        drop(listening);
    });
}

#[test]
fn servers_of_host_and_container() {
    let world = World::new();
    let (of_host, _) = world
        .host
        .run(|| server("127.0.0.53", Behaviour::Answer([1, 1, 1, 1])));
    let (own, _) = world
        .container
        .run(|| server("127.0.0.77", Behaviour::Answer([2, 2, 2, 2])));
    world.attach(World::scope(&[(of_host, true)]));
    assert_eq!(
        address(&ask(&world.container, "example.com", A).unwrap()),
        [1, 1, 1, 1]
    );
    assert_eq!(
        address(&ask_by_tcp(&world.container, &["example.com"])[0]),
        [1, 1, 1, 1]
    );
    world.attach(World::scope(&[(own, false)]));
    assert_eq!(
        address(&ask(&world.container, "example.com", A).unwrap()),
        [2, 2, 2, 2]
    );
    assert_eq!(
        address(&ask_by_tcp(&world.container, &["example.com"])[0]),
        [2, 2, 2, 2]
    );
    // The thread is back on the host.
    world
        .resolver
        .set_scope("c", World::scope(&[(of_host, true)]));
    assert_eq!(
        address(&ask(&world.container, "single", A).unwrap()),
        [1, 1, 1, 1]
    );
    let inside = Scope {
        internal: true,
        ..World::scope(&[(of_host, true)])
    };
    world.resolver.set_scope("c", inside);
    assert_eq!(ask(&world.container, "example.com", A).unwrap().code, 2);
    let dots = Scope {
        ndots: true,
        ..World::scope(&[(of_host, true)])
    };
    world.resolver.set_scope("c", dots);
    let quick = ask(&world.container, "single", A).unwrap();
    assert_eq!((quick.code, quick.count), (0, 0));
}

#[test]
fn the_next_server_is_asked() {
    let world = World::new();
    let start = |behaviour| world.host.run(|| server("127.0.0.1", behaviour));
    let (failing, failed) = start(Behaviour::Code(2));
    let (refusing, refused) = start(Behaviour::Code(5));
    let (silent, _) = start(Behaviour::Silent);
    let (good, _) = start(Behaviour::Answer([3, 3, 3, 3]));
    let (absent, known) = start(Behaviour::Code(3));
    let closed: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let ask_with = |servers: &[SocketAddr]| {
        let servers: Vec<_> = servers.iter().map(|s| (*s, true)).collect();
        world.attach(World::scope(&servers));
        let begin = Instant::now();
        (
            ask(&world.container, "example.com", A).unwrap(),
            begin.elapsed(),
        )
    };
    let (answer, took) = ask_with(&[failing, refusing, good]);
    assert_eq!(address(&answer), [3, 3, 3, 3]);
    assert!(took < Duration::from_secs(1));
    assert_eq!(
        (
            failed.load(Ordering::SeqCst),
            refused.load(Ordering::SeqCst)
        ),
        (1, 1)
    );
    let (answer, took) = ask_with(&[closed, good]);
    assert_eq!(address(&answer), [3, 3, 3, 3]);
    assert!(took < Duration::from_secs(1));
    let (answer, took) = ask_with(&[silent, good]);
    assert_eq!(address(&answer), [3, 3, 3, 3]);
    assert!(took < Duration::from_secs(3), "{took:?}");
    let (answer, took) = ask_with(&[absent, good]);
    assert_eq!(answer.code, 3);
    assert!(took < Duration::from_secs(1) && known.load(Ordering::SeqCst) == 1);
    let (answer, _) = ask_with(&[closed, refusing]);
    assert_eq!(answer.code, 2);
    let (answer, took) = ask_with(&[silent]);
    assert_eq!(answer.code, 2);
    assert!(took > Duration::from_secs(3), "{took:?}");
}

#[test]
fn forged_and_long_replies() {
    let world = World::new();
    let (forged, _) = world
        .host
        .run(|| server("127.0.0.1", Behaviour::Forged([4, 4, 4, 4])));
    world.attach(World::scope(&[(forged, true)]));
    assert_eq!(
        address(&ask(&world.container, "example.com", A).unwrap()),
        [4, 4, 4, 4]
    );
    let (long, _) = world
        .host
        .run(|| server("127.0.0.1", Behaviour::Long(4000)));
    world.attach(World::scope(&[(long, true)]));
    let cut = ask(&world.container, "example.com", A).unwrap();
    assert!(cut.truncated && cut.bytes.len() < 100);
    let whole = &ask_by_tcp(&world.container, &["example.com"])[0];
    assert_eq!((whole.truncated, whole.bytes.len()), (false, 4000));
}

#[test]
fn garbage_is_survived() {
    let world = World::new();
    world.attach(World::scope(&[]));
    world.container.run(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for length in 0..64usize {
            let bytes: Vec<u8> = (0..length)
                .map(|n| u8::try_from(n * 37 % 256).unwrap())
                .collect();
            socket.send_to(&bytes, SERVER).unwrap();
        }
        // Connections that say nothing, or half a question, and go away.
        for bytes in [&b""[..], b"\x00", b"\xff\xffabc", b"\x00\x00"] {
            let mut stream = TcpStream::connect(SERVER).unwrap();
            stream.write_all(bytes).unwrap();
        }
    });
    assert_eq!(ask(&world.container, "one", A).unwrap().count, 1);
}

/// How many questions a second; printed, and bounded generously because machines differ.
#[test]
fn thousands_a_second() {
    let world = World::new();
    world.attach(World::scope(&[]));
    let took = world.container.run(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(SERVER).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        let (question, mut buffer) = (question(1, "one", A), [0; 512]);
        let begin = Instant::now();
        for _ in 0..5000 {
            socket.send(&question).unwrap();
            socket.recv(&mut buffer).unwrap();
        }
        begin.elapsed()
    });
    println!(
        "{:.0} questions a second, one after the other",
        5000.0 / took.as_secs_f64()
    );
    assert!(took < Duration::from_secs(5), "{took:?}");
}
