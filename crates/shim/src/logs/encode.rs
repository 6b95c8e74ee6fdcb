//! One log entry as JSON text, byte for byte as Docker's json-file driver writes it.

use longshore_model::Timestamp;

use crate::stdio::Stream;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `text` as a JSON string, quotes included. Like Go's encoder for bytes: `<`, `>`, `&`, U+2028 and U+2029 are escaped,
/// control characters other than newline and carriage return become `\u00XX`, each byte that is no UTF-8 becomes `\ufffd`.
pub fn json_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    for chunk in text.utf8_chunks() {
        valid_text(out, chunk.valid());
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
    out.push(b'"');
}

fn valid_text(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut start = 0;
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        let plain = (byte >= 0x20 && !matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&' | 0xe2))
            || (byte == 0xe2 && !is_separator(&bytes[at..]));
        if plain {
            at += 1;
            continue;
        }
        out.extend_from_slice(&bytes[start..at]);
        at += 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            0xe2 => {
                // U+2028, U+2029: e2 80 a8, e2 80 a9
                let last = bytes[at + 1] & 0xf;
                out.extend_from_slice(b"\\u202");
                out.push(HEX[usize::from(last)]);
                at += 2;
            }
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 0xf)]);
            }
        }
        start = at;
    }
    out.extend_from_slice(&bytes[start..]);
}

fn is_separator(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xe2, 0x80, 0xa8]) || bytes.starts_with(&[0xe2, 0x80, 0xa9])
}

/// Formats times, keeping the text of the current second.
#[derive(Default)]
pub struct Clock {
    second: Option<i64>,
    prefix: String,
}

impl Clock {
    /// Appends RFC 3339 with as many fraction digits as needed, in UTC.
    fn write(&mut self, out: &mut Vec<u8>, time_nano: i64) {
        let second = time_nano.div_euclid(1_000_000_000);
        let fraction = time_nano.rem_euclid(1_000_000_000);
        if self.second != Some(second) {
            self.prefix = Timestamp(second * 1_000_000_000).rfc3339();
            self.prefix.pop();
            self.second = Some(second);
        }
        out.extend_from_slice(self.prefix.as_bytes());
        if fraction != 0 {
            let digits = format!(".{fraction:09}");
            out.extend_from_slice(digits.trim_end_matches('0').as_bytes());
        }
        out.push(b'Z');
    }
}

/// Appends one entry and its newline. `whole`: the line ended in the container's output.
pub fn entry(
    out: &mut Vec<u8>,
    clock: &mut Clock,
    stream: Stream,
    line: (&[u8], &[u8]),
    whole: bool,
    attrs: &str,
    time_nano: i64,
) {
    out.extend_from_slice(b"{\"log\":");
    if line.0.is_empty() {
        json_string(out, line.1);
    } else {
        json_string(out, &[line.0, line.1].concat());
    }
    if whole {
        out.pop();
        out.extend_from_slice(b"\\n\"");
    }
    out.extend_from_slice(b",\"stream\":\"");
    out.extend_from_slice(stream.name().as_bytes());
    out.push(b'"');
    if !attrs.is_empty() {
        out.extend_from_slice(b",\"attrs\":");
        out.extend_from_slice(attrs.as_bytes());
    }
    out.extend_from_slice(b",\"time\":\"");
    clock.write(out, time_nano);
    out.extend_from_slice(b"\"}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &[u8]) -> String {
        let mut out = Vec::new();
        json_string(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn escapes_as_go_does() {
        assert_eq!(encoded(b"a\"b\\c\td\r\n"), r#""a\"b\\c\u0009d\r\n""#);
        assert_eq!(
            encoded(b"<a href='x'>&</a>"),
            r#""\u003ca href='x'\u003e\u0026\u003c/a\u003e""#
        );
        assert_eq!(
            encoded("\u{2028}é\u{2029}\u{2030}€".as_bytes()),
            "\"\\u2028é\\u2029\u{2030}€\""
        );
        assert_eq!(encoded(b"\x1b[0m\x7f\0"), "\"\\u001b[0m\x7f\\u0000\"");
    }

    #[test]
    fn each_broken_byte_is_one_replacement() {
        assert_eq!(encoded(b"a\xe2\x82b"), r#""a\ufffd\ufffdb""#);
        assert_eq!(encoded(b"\xff\xfe"), r#""\ufffd\ufffd""#);
        assert_eq!(encoded(b"\xe2"), r#""\ufffd""#);
        assert_eq!(encoded(b"\xe2\x80"), r#""\ufffd\ufffd""#);
    }

    #[test]
    fn an_entry() {
        let mut out = Vec::new();
        let mut clock = Clock::default();
        let at = 1_795_466_465_006_579_400;
        entry(
            &mut out,
            &mut clock,
            Stream::Stdout,
            (b"he", b"llo"),
            true,
            "",
            at,
        );
        entry(
            &mut out,
            &mut clock,
            Stream::Stderr,
            (b"", b"x"),
            false,
            r#"{"tag":"t"}"#,
            1_795_466_465_000_000_000,
        );
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"log\":\"hello\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-23T20:41:05.0065794Z\"}\n\
             {\"log\":\"x\",\"stream\":\"stderr\",\"attrs\":{\"tag\":\"t\"},\"time\":\"2026-11-23T20:41:05Z\"}\n"
        );
    }
}
