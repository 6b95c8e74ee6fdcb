//! DNS messages (RFC 1035, EDNS of RFC 6891) as far as a resolver needs them that answers from a table and forwards the rest:
//! questions are read, answers written, everything else goes through as it came.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const A: u16 = 1;
pub const PTR: u16 = 12;
pub const AAAA: u16 = 28;
const OPT: u16 = 41;
const IN: u16 = 1;

/// Codes of a response.
pub const SERVER_FAILURE: u8 = 2;
pub const REFUSED: u8 = 5;
const FORMAT_ERROR: u8 = 1;
const NOT_IMPLEMENTED: u8 = 4;

const HEADER: usize = 12;
/// What a client takes over UDP when it does not say more.
const LEAST_SIZE: usize = 512;
/// Seconds that an answer may be kept, as dockerd says.
const TTL: u32 = 600;

const RESPONSE: u8 = 0x80;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;

/// A question as a client sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    bytes: Vec<u8>,
    /// Lower case, without the last dot. Bytes that would be mistaken for a dot are escaped: such a name is in no table.
    pub name: String,
    pub kind: u16,
    pub class: u16,
    question_end: usize,
    /// What the client says it takes over UDP, 512 at least.
    pub udp_size: usize,
}

/// What is no question to be answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Too short, or a response itself: an answer would only make noise.
    Ignore,
    /// To be sent back.
    Answer(Vec<u8>),
}

impl Query {
    /// # Errors
    /// Anything but one question of an ordinary query.
    pub fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        if bytes.len() < HEADER || bytes[2] & RESPONSE != 0 {
            return Err(Unreadable::Ignore);
        }
        let refuse = |code| Unreadable::Answer(bare(bytes, code));
        if (bytes[2] >> 3) & 0xf != 0 {
            return Err(refuse(NOT_IMPLEMENTED));
        }
        if count(bytes, 0) != 1 {
            return Err(refuse(FORMAT_ERROR));
        }
        let (name, after) = read_name(bytes, HEADER).ok_or_else(|| refuse(FORMAT_ERROR))?;
        let (kind, class) = (u16_at(bytes, after), u16_at(bytes, after + 2));
        let (Some(kind), Some(class)) = (kind, class) else {
            return Err(refuse(FORMAT_ERROR));
        };
        let question_end = after + 4;
        let udp_size = edns_size(bytes, question_end).ok_or_else(|| refuse(FORMAT_ERROR))?;
        Ok(Self {
            name,
            kind,
            class,
            question_end,
            udp_size: udp_size.max(LEAST_SIZE),
            bytes: bytes.to_vec(),
        })
    }

    /// An address or a name is asked for, and not of some other protocol's.
    pub fn is_internet(&self) -> bool {
        self.class == IN
    }

    /// The question as it is asked upstream: byte for byte, but with an id that nobody can guess.
    pub fn with_id(&self, id: u16) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        bytes
    }

    /// Is this the reply to [`Self::with_id`]?
    pub fn is_answered_by(&self, reply: &[u8], id: u16) -> bool {
        if reply.len() < HEADER || reply[2] & RESPONSE == 0 || reply[..2] != id.to_be_bytes() {
            return false;
        }
        if count(reply, 0) == 0 {
            // Some servers leave the question out of an error.
            return code(reply) != 0;
        }
        let Some((name, after)) = read_name(reply, HEADER) else {
            return false;
        };
        name == self.name
            && u16_at(reply, after) == Some(self.kind)
            && u16_at(reply, after + 2) == Some(self.class)
    }

    /// A reply from upstream as the client gets it. What is longer than `limit` becomes an empty, truncated one, which makes
    /// the client ask again over TCP.
    pub fn pass_on(&self, mut reply: Vec<u8>, limit: usize) -> Vec<u8> {
        if reply.len() > limit {
            let mut short = self.head(code(&reply));
            short[2] |= TRUNCATED;
            return short;
        }
        reply[..2].copy_from_slice(&self.bytes[..2]);
        reply
    }

    /// An answer without records.
    pub fn answer_empty(&self, code: u8) -> Vec<u8> {
        self.head(code)
    }

    /// An answer with records for the name in the question; as many as fit into `limit`.
    pub fn answer(&self, records: &[Record], limit: usize) -> Vec<u8> {
        let mut answer = self.head(0);
        let mut written = 0u16;
        for record in records {
            let before = answer.len();
            record.write(&mut answer);
            if answer.len() > limit || written == u16::MAX {
                answer.truncate(before);
                answer[2] |= TRUNCATED;
                break;
            }
            written += 1;
        }
        answer[6..8].copy_from_slice(&written.to_be_bytes());
        answer
    }

    fn head(&self, code: u8) -> Vec<u8> {
        let mut head = bare(&self.bytes, code);
        head[4..6].copy_from_slice(&1u16.to_be_bytes());
        head.extend_from_slice(&self.bytes[HEADER..self.question_end]);
        head
    }
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Ptr(String),
}

impl From<IpAddr> for Record {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::A(v4),
            IpAddr::V6(v6) => Self::Aaaa(v6),
        }
    }
}

impl Record {
    fn write(&self, to: &mut Vec<u8>) {
        let (kind, data) = match self {
            Self::A(v4) => (A, v4.octets().to_vec()),
            Self::Aaaa(v6) => (AAAA, v6.octets().to_vec()),
            Self::Ptr(name) => (PTR, wire_name(name)),
        };
        // A pointer to the name in the question.
        to.extend_from_slice(&[0xc0, HEADER as u8]);
        to.extend_from_slice(&kind.to_be_bytes());
        to.extend_from_slice(&IN.to_be_bytes());
        to.extend_from_slice(&TTL.to_be_bytes());
        to.extend_from_slice(&u16::try_from(data.len()).unwrap_or_default().to_be_bytes());
        to.extend_from_slice(&data);
    }
}

/// The response code of a message of at least a header's length.
pub fn code(message: &[u8]) -> u8 {
    message.get(3).map_or(0, |byte| byte & 0xf)
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` (lower case, no last dot) asks for.
pub fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(parts) = name.strip_suffix(".in-addr.arpa") {
        let parts: Vec<&str> = parts.split('.').rev().collect();
        return parts.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let nibbles: Vec<&str> = name.strip_suffix(".ip6.arpa")?.split('.').rev().collect();
    if nibbles.len() != 32 || nibbles.iter().any(|nibble| nibble.len() != 1) {
        return None;
    }
    let value = u128::from_str_radix(&nibbles.concat(), 16).ok()?;
    Some(IpAddr::V6(value.into()))
}

/// A header that answers `query`, without question or records.
fn bare(query: &[u8], code: u8) -> Vec<u8> {
    let flags = RESPONSE | (query[2] & 0x78) | (query[2] & RECURSION_DESIRED);
    let mut head = vec![query[0], query[1], flags, RECURSION_AVAILABLE | code];
    head.resize(HEADER, 0);
    head
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

/// Number of questions (0), answers (1), authorities (2), further records (3).
fn count(bytes: &[u8], section: usize) -> u16 {
    u16_at(bytes, 4 + 2 * section).unwrap_or(0)
}

/// The name of a question, and where it ends. Compression has no place there.
fn read_name(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let start = at;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return Some((name, at));
        }
        let label = bytes.get(at..at + length).filter(|_| length < 64)?;
        at += length;
        if at - start > 254 {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        for &byte in label {
            match byte {
                b'.' | b'\\' | 0..=b' ' | 0x7f.. => name.push_str(&format!("\\{byte:03}")),
                _ => name.push(byte.to_ascii_lowercase().into()),
            }
        }
    }
}

/// Where a name ends that may be compressed.
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = *bytes.get(at)?;
        match length {
            0 => return Some(at + 1),
            0xc0.. => return Some(at + 2),
            64.. => return None,
            _ => at += 1 + usize::from(length),
        }
    }
}

/// The UDP size in the OPT record after the question; 0 without one, None for records that cannot be read.
fn edns_size(bytes: &[u8], mut at: usize) -> Option<usize> {
    let records = (1..=3).map(|section| usize::from(count(bytes, section)));
    for _ in 0..records.sum() {
        at = skip_name(bytes, at)?;
        let (kind, class) = (u16_at(bytes, at)?, u16_at(bytes, at + 2)?);
        if kind == OPT {
            return Some(class.into());
        }
        let length = u16_at(bytes, at + 8)?;
        at += 10 + usize::from(length);
        if at > bytes.len() {
            return None;
        }
    }
    Some(0)
}

/// A name as labels; what is too long for DNS is left out.
fn wire_name(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        if let (Ok(length @ 1..64), true) = (u8::try_from(label.len()), wire.len() < 190) {
            wire.push(length);
            wire.extend_from_slice(label.as_bytes());
        }
    }
    wire.push(0);
    wire
}

/// A question as a client would send it, for tests.
#[cfg(test)]
pub(super) fn question(id: u16, name: &str, kind: u16, size: Option<u16>) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(size.is_some())]);
    bytes.extend(wire_name(name));
    bytes.extend(kind.to_be_bytes());
    bytes.extend(IN.to_be_bytes());
    if let Some(size) = size {
        bytes.extend([0, 0, 41]);
        bytes.extend(size.to_be_bytes());
        bytes.extend([0; 6]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn questions() {
        let query = Query::read(&question(7, "Web.Net1", A, Some(1232))).unwrap();
        assert_eq!(query.name, "web.net1");
        assert_eq!((query.kind, query.udp_size), (A, 1232));
        assert_eq!(
            Query::read(&question(7, "", A, None)).unwrap().udp_size,
            512
        );
        let mut response = question(7, "x", A, None);
        response[2] |= RESPONSE;
        assert_eq!(Query::read(&response), Err(Unreadable::Ignore));
        let mut update = question(7, "x", A, None);
        update[2] |= 5 << 3;
        let Err(Unreadable::Answer(answer)) = Query::read(&update) else {
            panic!("an update is no question");
        };
        assert_eq!(code(&answer), NOT_IMPLEMENTED);
        let whole = question(7, "web", A, None);
        let Err(Unreadable::Answer(answer)) = Query::read(&whole[..whole.len() - 1]) else {
            panic!("half a question is none");
        };
        assert_eq!((code(&answer), &answer[..2]), (FORMAT_ERROR, &[0u8, 7][..]));
    }

    #[test]
    fn answers() {
        let asked = question(0x1234, "web", A, None);
        let query = Query::read(&asked).unwrap();
        let answer = query.answer(&[Record::A([10, 0, 0, 2].into())], 512);
        let mut want = vec![0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
        want.extend(&asked[12..]);
        want.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 2, 88, 0, 4, 10, 0, 0, 2]);
        assert_eq!(answer, want);
        let many: Vec<Record> = (0..100).map(|n| Record::A([10, 0, 0, n].into())).collect();
        let short = query.answer(&many, 512);
        assert!(short.len() <= 512 && short[2] & TRUNCATED != 0);
        assert_eq!(count(&short, 1), 30);
        assert_eq!(count(&query.answer(&many, 65535), 1), 100);
        let name = query.answer(&[Record::Ptr("web.net1".into())], 512);
        assert!(name.ends_with(b"\x03web\x04net1\0"));
    }

    #[test]
    fn replies_must_fit() {
        let query = Query::read(&question(1, "example.com", AAAA, None)).unwrap();
        let sent = query.with_id(99);
        assert_eq!(sent[..2], [0, 99]);
        let reply_to = |name: &str, kind| {
            let mut reply = question(99, name, kind, None);
            reply[2] |= RESPONSE;
            reply
        };
        assert!(query.is_answered_by(&reply_to("EXAMPLE.com", AAAA), 99));
        assert!(!query.is_answered_by(&reply_to("example.com", AAAA), 98));
        assert!(!query.is_answered_by(&reply_to("example.org", AAAA), 99));
        assert!(!query.is_answered_by(&reply_to("example.com", A), 99));
        assert!(!query.is_answered_by(&sent, 99));
        let passed = query.pass_on(reply_to("example.com", AAAA), 512);
        assert_eq!(passed[..2], [0, 1]);
        let mut long = reply_to("example.com", AAAA);
        long.resize(600, 0);
        let cut = query.pass_on(long, 512);
        assert!(cut[2] & TRUNCATED != 0 && cut.len() < 40);
    }

    #[test]
    fn reverse_names() {
        assert_eq!(
            reverse_address("2.0.18.172.in-addr.arpa"),
            Some("172.18.0.2".parse().unwrap())
        );
        let six = "8.b.d.0.1.0.0.2.ip6.arpa";
        assert_eq!(reverse_address(six), None);
        let six = format!("1.{}8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(23));
        assert_eq!(reverse_address(&six), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(reverse_address("in-addr.arpa"), None);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(query) = Query::read(&bytes) {
                prop_assert!(query.answer(&[Record::A([1, 2, 3, 4].into())], 512).len() <= 512);
                prop_assert!(query.udp_size >= 512);
            }
        }

        #[test]
        fn nearly_questions(at in 0usize..40, byte: u8, name in "[a-z.]{0,20}") {
            let mut bytes = question(5, &name, A, Some(4096));
            let length = bytes.len();
            bytes[at % length] = byte;
            if let Ok(query) = Query::read(&bytes) {
                let answer = query.answer_empty(0);
                prop_assert!(answer.len() >= 12 && answer[..2] == bytes[..2]);
                let _ = query.is_answered_by(&bytes, 5);
            }
        }

        #[test]
        fn names_come_back(name in "[a-z0-9-]{1,20}(\\.[a-z0-9_-]{1,20}){0,5}") {
            let query = Query::read(&question(5, &name, A, None)).unwrap();
            prop_assert_eq!(query.name, name);
        }
    }
}
