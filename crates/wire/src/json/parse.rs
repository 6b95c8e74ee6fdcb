//! A JSON parser with the strictness, the leniency and the error texts of Go's `encoding/json`.

use std::fmt;

/// A JSON value. Numbers keep their text; objects keep their order and their repeated keys.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(String),
    String(String),
    Array(Vec<Value>),
    Object(Vec<(String, Value)>),
}

/// Why a text is no JSON.
#[derive(Debug, PartialEq, Eq)]
pub enum SyntaxError {
    /// Nothing but white space.
    Eof,
    UnexpectedEof,
    Other(String),
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eof => f.write_str("EOF"),
            Self::UnexpectedEof => f.write_str("unexpected EOF"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

type Result<T> = std::result::Result<T, SyntaxError>;

/// How deep arrays and objects may nest, as in Go.
const MAX_DEPTH: usize = 10_000;

/// Parses the first value of `bytes`; what follows it is returned unread.
pub(super) fn first(bytes: &[u8]) -> Result<(Value, &[u8])> {
    let mut parser = Parser { bytes, at: 0 };
    if parser.skip_space().is_none() {
        return Err(SyntaxError::Eof);
    }
    let value = parser.value()?;
    Ok((value, &bytes[parser.at..]))
}

/// `invalid character 'x' looking for ...`
pub(super) fn bad_character(byte: u8, context: &str) -> String {
    format!("invalid character {} {context}", quote(byte))
}

/// A byte as Go quotes it in these errors: as the Latin-1 character, with Go's escapes.
fn quote(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        0x07 => r"'\a'".to_owned(),
        0x08 => r"'\b'".to_owned(),
        0x0c => r"'\f'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        0x0b => r"'\v'".to_owned(),
        0x00..=0x1f | 0x7f => format!(r"'\x{byte:02x}'"),
        0x80..=0xa0 | 0xad => format!(r"'\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

/// A container that is not closed yet.
enum Open {
    Array(Vec<Value>),
    /// The members so far, and the key whose value comes next.
    Object(Vec<(String, Value)>, String),
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }
    fn skip_space(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
        self.peek()
    }
    fn next_token(&mut self) -> Result<u8> {
        self.skip_space().ok_or(SyntaxError::UnexpectedEof)
    }
    fn bad<T>(&self, byte: u8, context: &str) -> Result<T> {
        Err(SyntaxError::Other(bad_character(byte, context)))
    }

    /// One value. Nesting is kept on a stack of our own, so that depth costs heap and not call frames.
    fn value(&mut self) -> Result<Value> {
        let mut stack: Vec<Open> = Vec::new();
        loop {
            let mut value = match self.next_token()? {
                b'{' => {
                    self.at += 1;
                    if self.next_token()? == b'}' {
                        self.at += 1;
                        Value::Object(Vec::new())
                    } else {
                        let key = self.key("looking for beginning of object key string")?;
                        push(&mut stack, Open::Object(Vec::new(), key))?;
                        continue;
                    }
                }
                b'[' => {
                    self.at += 1;
                    if self.next_token()? == b']' {
                        self.at += 1;
                        Value::Array(Vec::new())
                    } else {
                        push(&mut stack, Open::Array(Vec::new()))?;
                        continue;
                    }
                }
                b'"' => Value::String(self.string()?),
                b't' => self.literal("true", Value::Bool(true))?,
                b'f' => self.literal("false", Value::Bool(false))?,
                b'n' => self.literal("null", Value::Null)?,
                b'-' | b'0'..=b'9' => self.number()?,
                other => return self.bad(other, "looking for beginning of value"),
            };
            // The value is complete: put it where it belongs, and close what ends with it.
            loop {
                let Some(open) = stack.pop() else {
                    return Ok(value);
                };
                match open {
                    Open::Array(mut items) => {
                        items.push(value);
                        match self.next_token()? {
                            b',' => {
                                self.at += 1;
                                stack.push(Open::Array(items));
                                break;
                            }
                            b']' => {
                                self.at += 1;
                                value = Value::Array(items);
                            }
                            other => return self.bad(other, "after array element"),
                        }
                    }
                    Open::Object(mut members, key) => {
                        members.push((key, value));
                        match self.next_token()? {
                            b',' => {
                                self.at += 1;
                                let key = self.key("looking for beginning of object key string")?;
                                stack.push(Open::Object(members, key));
                                break;
                            }
                            b'}' => {
                                self.at += 1;
                                value = Value::Object(members);
                            }
                            other => return self.bad(other, "after object key:value pair"),
                        }
                    }
                }
            }
        }
    }

    /// `"key" :`
    fn key(&mut self, context: &str) -> Result<String> {
        match self.next_token()? {
            b'"' => {}
            other => return self.bad(other, context),
        }
        let key = self.string()?;
        match self.next_token()? {
            b':' => self.at += 1,
            other => return self.bad(other, "after object key"),
        }
        Ok(key)
    }

    fn literal(&mut self, text: &str, value: Value) -> Result<Value> {
        for want in text.bytes() {
            match self.peek() {
                None => return Err(SyntaxError::UnexpectedEof),
                Some(byte) if byte == want => self.at += 1,
                Some(byte) => {
                    let context = format!("in literal {text} (expecting {})", quote(want));
                    return self.bad(byte, &context);
                }
            }
        }
        Ok(value)
    }

    fn digits(&mut self, context: &str) -> Result<()> {
        match self.peek() {
            Some(b'0'..=b'9') => {}
            Some(other) => return self.bad(other, context),
            None => return Err(SyntaxError::UnexpectedEof),
        }
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Value> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits("in numeric literal")?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        let text = String::from_utf8_lossy(&self.bytes[start..self.at]);
        Ok(Value::Number(text.into_owned()))
    }

    /// A string at its opening quote. Bytes that are no UTF-8 and lone surrogates become U+FFFD, as in Go.
    fn string(&mut self) -> Result<String> {
        self.at += 1;
        let mut out: Vec<u8> = Vec::new();
        loop {
            let rest = &self.bytes[self.at..];
            let plain = rest
                .iter()
                .position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f))
                .ok_or(SyntaxError::UnexpectedEof)?;
            out.extend_from_slice(&rest[..plain]);
            self.at += plain + 1;
            match rest[plain] {
                b'"' => {
                    return Ok(String::from_utf8(out).unwrap_or_else(|e| {
                        // Go replaces each bad byte, the standard library each bad sequence.
                        replace_bad_bytes(e.as_bytes())
                    }));
                }
                b'\\' => self.escape(&mut out)?,
                control => return self.bad(control, "in string literal"),
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let byte = self.peek().ok_or(SyntaxError::UnexpectedEof)?;
        self.at += 1;
        let plain = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => return self.unicode(out),
            other => return self.bad(other, "in string escape code"),
        };
        out.push(plain);
        Ok(())
    }

    fn unicode(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let unit = self.hex4()?;
        let mut found = char::from_u32(unit);
        if (0xd800..0xdc00).contains(&unit) && self.bytes[self.at..].starts_with(b"\\u") {
            let back = self.at;
            self.at += 2;
            let low = self.hex4()?;
            if (0xdc00..0xe000).contains(&low) {
                found = char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00));
            } else {
                self.at = back;
            }
        }
        let c = found.unwrap_or(char::REPLACEMENT_CHARACTER);
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    fn hex4(&mut self) -> Result<u32> {
        let mut value = 0;
        for _ in 0..4 {
            let byte = self.peek().ok_or(SyntaxError::UnexpectedEof)?;
            let Some(digit) = char::from(byte).to_digit(16) else {
                return self.bad(byte, "in \\u hexadecimal character escape");
            };
            value = value * 16 + digit;
            self.at += 1;
        }
        Ok(value)
    }
}

fn push(stack: &mut Vec<Open>, open: Open) -> Result<()> {
    if stack.len() >= MAX_DEPTH {
        return Err(SyntaxError::Other("exceeded max depth".to_owned()));
    }
    stack.push(open);
    Ok(())
}

fn replace_bad_bytes(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        for _ in chunk.invalid() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
    out
}

/// Deep values are taken apart level by level: dropping them recursively could overflow a task's stack.
impl Drop for Value {
    fn drop(&mut self) {
        let mut pending = Vec::new();
        take_children(self, &mut pending);
        while let Some(mut value) = pending.pop() {
            take_children(&mut value, &mut pending);
        }
    }
}

fn take_children(value: &mut Value, into: &mut Vec<Value>) {
    match value {
        Value::Array(items) => into.append(items),
        Value::Object(members) => into.extend(members.drain(..).map(|(_, value)| value)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
