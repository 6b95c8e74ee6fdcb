//! Names to addresses: `/etc/hosts`, then the servers of `/etc/resolv.conf`. Never getaddrinfo: in a static binary it loads
//! modules of a libc that may be another one.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

const PORT: u16 = 53;
/// The largest answer by UDP without extensions is 512; some servers send more all the same.
const ANSWER_MAX: usize = 4096;

/// What the files of this machine say. Read for each lookup: they change, and a pull needs few.
struct Config {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    ndots: usize,
    timeout: Duration,
    attempts: u32,
}

/// Addresses of a host, those of IPv4 first.
///
/// # Errors
/// In Go's words, without `dial tcp: ` in front: `lookup x on 10.0.0.53:53: no such host`.
pub async fn lookup(host: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![address]);
    }
    let read = |path: &'static str| tokio::task::spawn_blocking(move || read_small(path));
    let hosts = read("/etc/hosts").await.unwrap_or_default();
    let found = in_hosts(&hosts, host);
    if !found.is_empty() {
        return Ok(found);
    }
    if host == "localhost" || host.ends_with(".localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let config = Config::parse(&read("/etc/resolv.conf").await.unwrap_or_default());
    config.lookup(host).await
}

fn read_small(path: &str) -> String {
    let bytes = std::fs::read(Path::new(path)).unwrap_or_default();
    String::from_utf8_lossy(&bytes[..bytes.len().min(1 << 20)]).into_owned()
}

fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line
            .split('#')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else {
            continue;
        };
        if words.any(|name| name.eq_ignore_ascii_case(host)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found.sort_by_key(IpAddr::is_ipv6);
    found
}

impl Config {
    fn parse(text: &str) -> Self {
        let mut config = Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
        };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if config.servers.len() < 3 => {
                    let address: Option<IpAddr> =
                        words.next().and_then(|a| a.split('%').next()?.parse().ok());
                    config.servers.extend(address);
                }
                Some("domain") => config.search = words.take(1).map(str::to_owned).collect(),
                Some("search") => config.search = words.map(str::to_owned).collect(),
                Some("options") => words.for_each(|option| config.option(option)),
                _ => {}
            }
        }
        if config.servers.is_empty() {
            config.servers = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        }
        config
    }

    fn option(&mut self, option: &str) {
        let number = |text: &str| text.parse::<u32>().ok();
        match option.split_once(':') {
            Some(("ndots", n)) => self.ndots = number(n).map_or(1, |n| n.min(15) as usize),
            Some(("timeout", n)) => {
                self.timeout = Duration::from_secs(number(n).map_or(5, |n| n.clamp(1, 30)).into());
            }
            Some(("attempts", n)) => self.attempts = number(n).map_or(2, |n| n.clamp(1, 5)),
            _ => {}
        }
    }

    /// Full names to ask for, in order.
    fn candidates(&self, host: &str) -> Vec<String> {
        let whole = format!("{}.", host.trim_end_matches('.'));
        if host.ends_with('.') {
            return vec![whole];
        }
        let searched = self
            .search
            .iter()
            .map(|domain| format!("{whole}{}.", domain.trim_end_matches('.')));
        let dots = host.matches('.').count();
        if dots >= self.ndots {
            std::iter::once(whole.clone()).chain(searched).collect()
        } else {
            searched.chain([whole.clone()]).collect()
        }
    }

    async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let mut last = "no such host".to_owned();
        let mut server = self.servers.first().copied();
        for name in self.candidates(host) {
            match self.name(&name).await {
                Ok(found) if !found.is_empty() => return Ok(found),
                Ok(_) => {}
                Err((whom, why)) => (server, last) = (Some(whom), why),
            }
        }
        let server = server.map_or_else(String::new, |server| {
            format!(" on {}", SocketAddr::new(server, PORT))
        });
        Err(format!("lookup {host}{server}: {last}"))
    }

    /// Empty: there is no such name, or it has no addresses.
    async fn name(&self, name: &str) -> Result<Vec<IpAddr>, (IpAddr, String)> {
        let (v4, v6) = tokio::join!(
            self.records(name, RecordType::A),
            self.records(name, RecordType::AAAA)
        );
        match (v4, v6) {
            (Ok(v4), Ok(v6)) => Ok([v4, v6].concat()),
            (Ok(one), Err(_)) | (Err(_), Ok(one)) if !one.is_empty() => Ok(one),
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }

    async fn records(&self, name: &str, kind: RecordType) -> Result<Vec<IpAddr>, (IpAddr, String)> {
        let mut last = (IpAddr::V4(Ipv4Addr::LOCALHOST), "no such host".to_owned());
        for _ in 0..self.attempts {
            for server in &self.servers {
                let to = SocketAddr::new(*server, PORT);
                match timeout(self.timeout, ask(to, name, kind)).await {
                    Ok(Ok(found)) => return Ok(found),
                    Ok(Err(why)) => last = (*server, why),
                    Err(_) => last = (*server, "i/o timeout".to_owned()),
                }
            }
        }
        Err(last)
    }
}

/// One question to one server; by TCP when the answer is too large for UDP.
async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Result<Vec<IpAddr>, String> {
    let name = Name::from_ascii(name).map_err(|_| "no such host".to_owned())?;
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name, kind));
    let bytes = question.to_vec().map_err(|e| e.to_string())?;
    let answer = by_udp(server, &bytes, &question).await?;
    let answer = if answer.metadata.truncation {
        by_tcp(server, &bytes).await?
    } else {
        answer
    };
    match answer.metadata.response_code {
        ResponseCode::NoError => {}
        ResponseCode::NXDomain => return Ok(Vec::new()),
        _ => return Err("server misbehaving".to_owned()),
    }
    let address = |data: &RData| match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(a) => Some(IpAddr::V6(a.0)),
        _ => None,
    };
    Ok(answer
        .answers
        .iter()
        .filter_map(|r| address(&r.data))
        .collect())
}

async fn by_udp(server: SocketAddr, question: &[u8], asked: &Message) -> Result<Message, String> {
    let any: SocketAddr = if server.is_ipv6() {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await.map_err(|e| io(&e))?;
    let dial = |e: &std::io::Error| format!("dial udp {server}: connect: {}", io(e));
    socket.connect(server).await.map_err(|e| dial(&e))?;
    let from = socket
        .local_addr()
        .map_or_else(|_| String::new(), |a| a.to_string());
    let read = |e: &std::io::Error| format!("read udp {from}->{server}: read: {}", io(e));
    socket.send(question).await.map_err(|e| io(&e))?;
    let mut buffer = vec![0u8; ANSWER_MAX];
    loop {
        let length = socket.recv(&mut buffer).await.map_err(|e| read(&e))?;
        // Anybody can send something: only the answer to our question counts.
        if let Ok(answer) = Message::from_vec(&buffer[..length])
            && answer.metadata.id == asked.metadata.id
            && answer.queries == asked.queries
        {
            return Ok(answer);
        }
    }
}

async fn by_tcp(server: SocketAddr, question: &[u8]) -> Result<Message, String> {
    let mut stream = TcpStream::connect(server).await.map_err(|e| io(&e))?;
    let length = u16::try_from(question.len()).map_err(|e| e.to_string())?;
    let framed = [&length.to_be_bytes(), question].concat();
    stream.write_all(&framed).await.map_err(|e| io(&e))?;
    let length = stream.read_u16().await.map_err(|e| io(&e))?;
    let mut answer = vec![0u8; length.into()];
    stream.read_exact(&mut answer).await.map_err(|e| io(&e))?;
    Message::from_vec(&answer).map_err(|_| "cannot unmarshal DNS message".to_owned())
}

fn io(error: &std::io::Error) -> String {
    longshore_model::error::go_errno(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        let hosts = "127.0.0.1 localhost\n::1 Registry\n10.0.0.2\tregistry # x\nbad registry\n10.0.0.2 registry\n";
        let found: Vec<String> = in_hosts(hosts, "registry")
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, ["10.0.0.2", "::1"]);
        let config = Config::parse(
            "nameserver 10.0.0.53 # x\nnameserver fe80::1%eth0\nsearch a.example b.example.\noptions ndots:2 timeout:1 attempts:9\n",
        );
        assert_eq!(config.servers.len(), 2);
        assert_eq!(
            (config.ndots, config.attempts, config.timeout.as_secs()),
            (2, 5, 1)
        );
        assert_eq!(
            config.candidates("r.x"),
            ["r.x.a.example.", "r.x.b.example.", "r.x."]
        );
        assert_eq!(config.candidates("r.x.")[..], ["r.x."]);
        assert_eq!(config.candidates("a.b.c")[0], "a.b.c.");
        assert_eq!(Config::parse("").servers.len(), 2);
    }

    /// A server on loopback that knows one name.
    #[tokio::test(flavor = "current_thread")]
    async fn asks() {
        use hickory_proto::rr::{Record, rdata::A};
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let mut answer = question.clone().into_response();
                let query = question.queries[0].clone();
                if query.name().to_string() == "known." {
                    let data = RData::A(A(Ipv4Addr::new(10, 1, 2, 3)));
                    answer.add_answer(Record::from_rdata(query.name().clone(), 1, data));
                } else {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                }
                // Noise first.
                socket.send_to(b"noise", from).await.unwrap();
                socket
                    .send_to(&answer.to_vec().unwrap(), from)
                    .await
                    .unwrap();
            }
        });
        let found = ask(address, "known.", RecordType::A).await.unwrap();
        assert_eq!(found, [IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3))]);
        assert!(
            ask(address, "other.", RecordType::A)
                .await
                .unwrap()
                .is_empty()
        );
    }
}
