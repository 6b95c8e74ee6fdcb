//! Output as the docker CLI prints it: tables, shortened ids, indented JSON.

use std::io::Write;

use serde_json::Value;

/// Writes to stdout at once. Nobody reading any more ends the program, quietly, as it ends any filter.
pub fn emit(bytes: impl AsRef<[u8]>) {
    let mut out = std::io::stdout().lock();
    if out
        .write_all(bytes.as_ref())
        .and_then(|()| out.flush())
        .is_err()
    {
        // 128 + SIGPIPE
        std::process::exit(141);
    }
}

/// Writes to stderr at once; with stderr gone there is nowhere to complain.
pub fn emit_error(bytes: impl AsRef<[u8]>) {
    let _ = std::io::stderr().lock().write_all(bytes.as_ref());
}

/// Lines of cells as columns: each as wide as its widest cell and three blanks, ten at least; the last one is not padded
/// (docker's settings of Go's tabwriter).
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| width(cell) + 3).max().unwrap_or(0).max(10)
        })
        .collect();
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            out.push_str(cell);
            if column + 1 < row.len() {
                out.extend(std::iter::repeat_n(' ', widths[column] - width(cell)));
            }
        }
        out.push('\n');
    }
    out
}

/// The first 12 hex digits of an id, without its algorithm.
pub fn short_id(id: &str) -> &str {
    let id = id.split_once(':').map_or(id, |(_, hex)| hex);
    id.get(..12).unwrap_or(id)
}

/// At most `length` characters, the last one an ellipsis if anything was cut.
pub fn ellipsis(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(length.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Go's `strconv.Quote`, for what command lines hold.
pub fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// JSON text with the keys in their order, `indent` more blanks a level (Go's `json.Indent`).
pub fn indent_json(text: &str, prefix: &str, indent: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0_usize;
    let mut characters = text.trim().chars().peekable();
    let break_line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(prefix);
        out.extend(std::iter::repeat_n(indent, depth));
    };
    while let Some(c) = characters.next() {
        match c {
            '"' => {
                out.push('"');
                while let Some(c) = characters.next() {
                    out.push(c);
                    match c {
                        '\\' => out.extend(characters.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '{' | '[' => {
                out.push(c);
                while characters.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                if let Some(end) = characters.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    break_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                break_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(',');
                break_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

/// A field as text: texts as they are, nothing for null, anything else as JSON.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_dockers() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let rows: Vec<Vec<String>> = vec![
            row(&["CONTAINER ID", "IMAGE", "COMMAND", "PORTS", "NAMES"]),
            row(&[
                "e8eeb34bc5c2",
                "busybox",
                "\"sh -c 'trap \\\"echo b…\"",
                "",
                "x",
            ]),
        ];
        assert_eq!(
            table(&rows),
            "CONTAINER ID   IMAGE     COMMAND                   PORTS     NAMES\n\
             e8eeb34bc5c2   busybox   \"sh -c 'trap \\\"echo b…\"             x\n"
        );
    }

    #[test]
    fn json_keeps_its_order() {
        assert_eq!(
            indent_json(
                r#"{"b":{},"a":[1,"x\":{"],"e":[],"n":null}"#,
                "    ",
                "    "
            ),
            "{\n        \"b\": {},\n        \"a\": [\n            1,\n            \"x\\\":{\"\n        ],\n        \"e\": [],\n        \"n\": null\n    }"
        );
    }

    #[test]
    fn short_texts() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("abc"), "abc");
        assert_eq!(ellipsis("abcdef", 5), "abcd…");
        assert_eq!(ellipsis("abcde", 5), "abcde");
        assert_eq!(quote("a \"b\"\n"), "\"a \\\"b\\\"\\n\"");
    }
}
