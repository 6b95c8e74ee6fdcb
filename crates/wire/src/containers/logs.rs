//! `GET /containers/{name}/logs`: one frame a line, or raw lines for a terminal.

use std::fmt::Write as _;

use longshore_engine::api::{LogLine, LogsRequest};
use longshore_model::{Error, Result, Timestamp};

use crate::{
    request::Request,
    response::Response,
    stream::{
        hijack::{MULTIPLEXED_STREAM, RAW_STREAM},
        multiplex::{STDERR, STDOUT, SYSTEM_ERROR, push_frame},
    },
};

/// Lines that have come already are sent in one chunk of about this many bytes.
const BATCH: usize = 32 << 10;

/// What is written in front of each line.
#[derive(Clone, Copy)]
struct Decoration {
    timestamps: bool,
    details: bool,
}

/// `GET /containers/{name}/logs`
pub async fn logs(request: Request) -> Result<Response> {
    let query = &request.query;
    let (stdout, stderr) = (query.bool("stdout"), query.bool("stderr"));
    if !stdout && !stderr {
        return Err(Error::invalid(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let asked = LogsRequest {
        follow: query.bool("follow"),
        stdout,
        stderr,
        // Everything that is no number means all of it.
        tail: query.get("tail").parse().ok(),
        since: timestamp("since", query.get("since"))?,
        until: timestamp("until", query.get("until"))?,
    };
    let decoration = Decoration {
        timestamps: query.bool("timestamps"),
        details: query.bool("details"),
    };
    let snapshot = request.engine.container(request.name())?;
    let tty = snapshot.spec.process.tty;
    let mut lines = request
        .engine
        .container_logs(snapshot.id.as_str(), asked)
        .await?;
    let multiplexed = !tty && request.version.since(42);
    let (response, body) = Response::stream(if multiplexed {
        MULTIPLEXED_STREAM
    } else {
        RAW_STREAM
    });
    tokio::spawn(async move {
        loop {
            let first = tokio::select! {
                line = lines.recv() => line,
                () = body.closed() => return,
            };
            let Some(first) = first else { return };
            let mut chunk = Vec::new();
            write_item(&mut chunk, first, tty, decoration);
            while chunk.len() < BATCH
                && let Ok(next) = lines.try_recv()
            {
                write_item(&mut chunk, next, tty, decoration);
            }
            if body.send(chunk).await.is_err() {
                return;
            }
        }
    });
    Ok(response)
}

/// `seconds[.fraction]` since the epoch, to nanoseconds; empty and 0 are no limit.
fn timestamp(name: &str, text: &str) -> Result<Option<i64>> {
    if text.is_empty() || text == "0" {
        return Ok(None);
    }
    let bad = || {
        Error::invalid(format!(
            "invalid value for {name:?}: strconv.ParseInt: parsing {text:?}: invalid syntax"
        ))
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().map_err(|_| bad())?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    // Nine digits: what is missing is zeros, what is beyond does not count.
    let nanos: i64 = format!("{:0<9.9}", fraction).parse().map_err(|_| bad())?;
    let nanos = if text.starts_with('-') { -nanos } else { nanos };
    Ok(Some(
        seconds.saturating_mul(1_000_000_000).saturating_add(nanos),
    ))
}

fn write_item(out: &mut Vec<u8>, item: Result<LogLine>, tty: bool, decoration: Decoration) {
    match item {
        Ok(line) => write_line(out, &line, tty, decoration),
        Err(error) => {
            let text = format!("Error grabbing logs: {error}\n");
            if tty {
                out.extend_from_slice(text.as_bytes());
            } else {
                push_frame(out, SYSTEM_ERROR, text.as_bytes());
            }
        }
    }
}

fn write_line(out: &mut Vec<u8>, line: &LogLine, tty: bool, decoration: Decoration) {
    let mut head = String::new();
    if decoration.timestamps {
        head.push_str(&fixed_time(line.time));
        head.push(' ');
    }
    if decoration.details {
        for (index, (name, value)) in line.attrs.iter().enumerate() {
            if index > 0 {
                head.push(',');
            }
            query_escape(&mut head, name);
            head.push('=');
            query_escape(&mut head, value);
        }
        head.push(' ');
    }
    if tty {
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&line.line);
        return;
    }
    let stream = if line.stderr { STDERR } else { STDOUT };
    if head.is_empty() {
        push_frame(out, stream, &line.line);
    } else {
        let mut whole = head.into_bytes();
        whole.extend_from_slice(&line.line);
        push_frame(out, stream, &whole);
    }
}

/// RFC 3339 in UTC with all nine digits of the fraction, so that lines align.
fn fixed_time(time: Timestamp) -> String {
    let whole = Timestamp(time.seconds().saturating_mul(1_000_000_000));
    // The zero of Timestamp is Go's zero time; a log line has a real time.
    let text = if whole.is_zero() {
        "1970-01-01T00:00:00Z".to_owned()
    } else {
        whole.rfc3339()
    };
    let text = text.strip_suffix('Z').unwrap_or(&text);
    format!("{text}.{:09}Z", time.0.rem_euclid(1_000_000_000))
}

/// Go's `url.QueryEscape`.
fn query_escape(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte))
            }
            b' ' => out.push('+'),
            other => {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn timestamps() {
        for (text, want) in [
            ("", None),
            ("0", None),
            ("1795466421", Some(1_795_466_421_000_000_000)),
            ("1.5", Some(1_500_000_000)),
            ("1.000000001", Some(1_000_000_001)),
            ("1.0000000019", Some(1_000_000_001)),
            ("-1.5", Some(-1_500_000_000)),
        ] {
            assert_eq!(timestamp("since", text).unwrap(), want, "{text}");
        }
        assert_eq!(
            timestamp("since", "x").unwrap_err().message,
            "invalid value for \"since\": strconv.ParseInt: parsing \"x\": invalid syntax"
        );
        assert!(timestamp("until", "1.x").is_err() && timestamp("until", "1.é").is_err());
    }

    #[test]
    fn a_line_with_everything() {
        let line = LogLine {
            stderr: true,
            time: Timestamp(1_795_466_470_185_896_293),
            line: b"started\n".to_vec(),
            attrs: BTreeMap::from([
                ("a b".to_owned(), "c/d".to_owned()),
                ("x".to_owned(), "1".to_owned()),
            ]),
        };
        let mut out = Vec::new();
        write_line(
            &mut out,
            &line,
            false,
            Decoration {
                timestamps: true,
                details: true,
            },
        );
        let text = b"2026-11-23T20:41:10.185896293Z a+b=c%2Fd,x=1 started\n";
        assert_eq!(
            &out[..8],
            &[2, 0, 0, 0, 0, 0, 0, u8::try_from(text.len()).unwrap()]
        );
        assert_eq!(&out[8..], text);
        let mut raw = Vec::new();
        write_line(
            &mut raw,
            &line,
            true,
            Decoration {
                timestamps: false,
                details: false,
            },
        );
        assert_eq!(raw, b"started\n");
        assert_eq!(
            fixed_time(Timestamp(1_795_466_470_000_000_000)),
            "2026-11-23T20:41:10.000000000Z"
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,24}") {
            let _ = timestamp("since", &text);
        }
    }
}
