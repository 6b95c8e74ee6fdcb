//! Messages for journald and syslog, as dockerd's drivers word them.

use longshore_model::Timestamp;

use crate::{
    protocol::{RemoteProtocol, SyslogFormat},
    stdio::Stream,
};

/// One line of output, or a piece of a long one.
pub struct Message<'a> {
    pub stream: Stream,
    pub text: (&'a [u8], &'a [u8]),
    /// The line ends here.
    pub whole: bool,
    pub time_nano: i64,
}

/// Severities of syslog: information for stdout, error for stderr.
fn severity(stream: Stream) -> u8 {
    match stream {
        Stream::Stdout => 6,
        Stream::Stderr => 3,
    }
}

/// Turns messages into datagrams or lines.
pub struct Format {
    protocol: RemoteProtocol,
    host: String,
    /// Tells this run's entries from those of others (`CONTAINER_LOG_EPOCH`).
    epoch: String,
    count: u64,
    /// Of each stream: which long line is under way, and how many pieces it had.
    partial: [Option<(u64, u64)>; 2],
    partials: u64,
}

impl Format {
    pub fn new(protocol: RemoteProtocol) -> Self {
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        Self {
            protocol,
            host,
            epoch: format!("{:016x}{:08x}", Timestamp::now().0, std::process::id()),
            count: 0,
            partial: [None; 2],
            partials: 0,
        }
    }

    pub fn encode(&mut self, message: &Message<'_>) -> Vec<u8> {
        match &self.protocol {
            RemoteProtocol::Journald { .. } => self.journal(message),
            RemoteProtocol::Syslog { .. } => self.syslog(message),
        }
    }

    /// The journal's native protocol: a field a line; a value with line ends has its length in front.
    fn journal(&mut self, message: &Message<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        let RemoteProtocol::Journald { fields } = &self.protocol else {
            return out;
        };
        let text = [message.text.0, message.text.1].concat();
        field(&mut out, "MESSAGE", &text);
        field(
            &mut out,
            "PRIORITY",
            severity(message.stream).to_string().as_bytes(),
        );
        for (name, value) in fields {
            field(&mut out, name, value.as_bytes());
        }
        let time = Timestamp(message.time_nano).rfc3339();
        field(&mut out, "SYSLOG_TIMESTAMP", time.as_bytes());
        self.count += 1;
        field(&mut out, "CONTAINER_LOG_EPOCH", self.epoch.as_bytes());
        field(
            &mut out,
            "CONTAINER_LOG_ORDINAL",
            self.count.to_string().as_bytes(),
        );
        let under_way = &mut self.partial[message.stream.index()];
        if !message.whole || under_way.is_some() {
            let (id, ordinal) = under_way.unwrap_or_else(|| {
                self.partials += 1;
                (self.partials, 0)
            });
            let ordinal = ordinal + 1;
            let id_text = format!("{}-{id}", self.epoch);
            if !message.whole {
                field(&mut out, "CONTAINER_PARTIAL_MESSAGE", b"true");
            }
            field(&mut out, "CONTAINER_PARTIAL_ID", id_text.as_bytes());
            field(
                &mut out,
                "CONTAINER_PARTIAL_ORDINAL",
                ordinal.to_string().as_bytes(),
            );
            let last: &[u8] = if message.whole { b"true" } else { b"false" };
            field(&mut out, "CONTAINER_PARTIAL_LAST", last);
            *under_way = (!message.whole).then_some((id, ordinal));
        }
        out
    }

    fn syslog(&mut self, message: &Message<'_>) -> Vec<u8> {
        let RemoteProtocol::Syslog {
            format,
            facility,
            tag,
        } = &self.protocol
        else {
            return Vec::new();
        };
        let priority = u32::from(*facility) * 8 + u32::from(severity(message.stream));
        let (pid, host) = (std::process::id(), &self.host);
        let head = match format {
            SyslogFormat::Unix => format!("<{priority}>{} {tag}[{pid}]: ", stamp()),
            SyslogFormat::Rfc3164 => format!("<{priority}>{} {host} {tag}[{pid}]: ", stamp()),
            SyslogFormat::Rfc5424 => {
                format!(
                    "<{priority}>1 {} {host} {tag} {pid} {tag} - ",
                    precise(false)
                )
            }
            SyslogFormat::Rfc5424Micro => {
                format!(
                    "<{priority}>1 {} {host} {tag} {pid} {tag} - ",
                    precise(true)
                )
            }
        };
        let mut out = head.into_bytes();
        out.extend_from_slice(message.text.0);
        out.extend_from_slice(message.text.1);
        out.push(b'\n');
        out
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// The host's wall clock: the time moved by its zone's offset, and the offset in seconds.
fn wall_clock() -> (jiff::Timestamp, i64) {
    let now = jiff::Timestamp::now();
    let offset = longshore_sys::zone::utc_offset(now.as_second());
    let moved = jiff::Timestamp::new(now.as_second() + offset, now.subsec_nanosecond());
    (moved.unwrap_or(now), offset)
}

/// Go's `time.Stamp`: `Jan _2 15:04:05`.
fn stamp() -> String {
    wall_clock().0.strftime("%b %e %H:%M:%S").to_string()
}

/// RFC 3339, to the second or to the microsecond.
fn precise(micro: bool) -> String {
    let (now, offset) = wall_clock();
    let format = if micro {
        "%Y-%m-%dT%H:%M:%S%.6f"
    } else {
        "%Y-%m-%dT%H:%M:%S"
    };
    let zone = if offset == 0 {
        "Z".to_owned()
    } else {
        let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.abs() / 60);
        format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    };
    format!("{}{zone}", now.strftime(format))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &[u8], whole: bool) -> Message<'_> {
        Message {
            stream: Stream::Stderr,
            text: (text, b""),
            whole,
            time_nano: 1_795_466_465_006_579_400,
        }
    }

    #[test]
    fn journal_entries() {
        let mut format = Format::new(RemoteProtocol::Journald {
            fields: vec![("CONTAINER_NAME".to_owned(), "c".to_owned())],
        });
        let text = String::from_utf8(format.encode(&message(b"hello", true))).unwrap();
        assert!(text.starts_with("MESSAGE=hello\nPRIORITY=3\nCONTAINER_NAME=c\n"));
        assert!(text.contains("SYSLOG_TIMESTAMP=2026-11-23T20:41:05.0065794Z\n"));
        assert!(text.contains("CONTAINER_LOG_ORDINAL=1\n") && !text.contains("PARTIAL"));
        let part = String::from_utf8(format.encode(&message(b"a", false))).unwrap();
        assert!(part.contains("CONTAINER_PARTIAL_MESSAGE=true\n"));
        assert!(part.contains("CONTAINER_PARTIAL_ORDINAL=1\nCONTAINER_PARTIAL_LAST=false\n"));
        let end = String::from_utf8(format.encode(&message(b"b", true))).unwrap();
        assert!(end.contains("CONTAINER_PARTIAL_ORDINAL=2\nCONTAINER_PARTIAL_LAST=true\n"));
        let odd = format.encode(&message(b"x\ry\nz", true));
        assert_eq!(&odd[..22], b"MESSAGE\n\x05\0\0\0\0\0\0\0x\ry\nz\n");
    }

    #[test]
    fn syslog_lines() {
        let line = |format| {
            let mut format = Format::new(RemoteProtocol::Syslog {
                format,
                facility: 3,
                tag: "t".to_owned(),
            });
            format.host = "h".to_owned();
            String::from_utf8(format.encode(&message(b"hello", true))).unwrap()
        };
        let pid = std::process::id();
        let unix = line(SyslogFormat::Unix);
        assert!(unix.starts_with("<27>") && unix.ends_with(&format!(" t[{pid}]: hello\n")));
        assert_eq!(unix.split(' ').next().unwrap().len(), 7);
        assert!(line(SyslogFormat::Rfc3164).ends_with(&format!(" h t[{pid}]: hello\n")));
        let new = line(SyslogFormat::Rfc5424);
        assert!(new.starts_with("<27>1 20") && new.ends_with(&format!("Z h t {pid} t - hello\n")));
        assert!(line(SyslogFormat::Rfc5424Micro).contains('.'));
    }
}
