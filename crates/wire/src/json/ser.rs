//! Output as Go's `encoding/json` writes it.

use std::io;

use bytes::Bytes;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

/// `value` as compact JSON, `<`, `>`, `&` and the two line separators escaped.
///
/// Our own types always serialise: a failure is a bug and gives `null`, with a line in the log.
pub fn to_vec(value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let mut serializer = Serializer::with_formatter(&mut out, Go);
    if let Err(error) = value.serialize(&mut serializer) {
        tracing::error!(%error, "a value cannot be written as JSON");
        return b"null".to_vec();
    }
    out
}

/// The same with a newline behind it, as `json.Encoder` does.
pub fn to_line(value: &impl Serialize) -> Bytes {
    let mut out = to_vec(value);
    out.push(b'\n');
    out.into()
}

/// Go's escapes on top of the compact form.
struct Go;

impl Formatter for Go {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut done = 0;
        for (at, c) in fragment.char_indices() {
            if matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}') {
                CompactFormatter.write_string_fragment(writer, &fragment[done..at])?;
                write!(writer, "\\u{:04x}", u32::from(c))?;
                done = at + c.len_utf8();
            }
        }
        CompactFormatter.write_string_fragment(writer, &fragment[done..])
    }
}
