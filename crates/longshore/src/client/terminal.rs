//! The user's terminal: raw mode, size, the keys that detach.

use std::io::IsTerminal;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Is stdin a terminal?
pub fn stdin_is_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// Rows and columns of the terminal at stdout, if it is one.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// The terminal at stdin in raw mode until this is dropped.
pub struct Raw(Termios);

impl Raw {
    /// None when stdin is no terminal.
    pub fn enter() -> Option<Raw> {
        let old = tcgetattr(std::io::stdin()).ok()?;
        let mut raw = old.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Raw(old))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Looks for the keys that detach in what is typed.
pub struct DetachKeys {
    keys: Vec<u8>,
    /// How many of them have just been typed.
    typed: usize,
}

impl DetachKeys {
    /// Reads `ctrl-p,ctrl-q` or `a,b`; empty is the default.
    ///
    /// # Errors
    /// A key that there is not.
    pub fn parse(text: &str) -> Result<DetachKeys, String> {
        let text = if text.is_empty() {
            "ctrl-p,ctrl-q"
        } else {
            text
        };
        let keys = text
            .split(',')
            .map(|key| match key.strip_prefix("ctrl-").map(str::as_bytes) {
                Some([letter @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')]) => {
                    Ok(letter & 0x1f)
                }
                None if key.len() == 1 => Ok(key.as_bytes()[0]),
                _ => Err(format!(
                    "invalid detach keys ({text}): unknown key \"{key}\""
                )),
            })
            .collect::<Result<_, _>>()?;
        Ok(DetachKeys { keys, typed: 0 })
    }

    /// What of `input` goes to the container; None when the last key was typed.
    pub fn filter(&mut self, input: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(input.len());
        for &byte in input {
            if byte == self.keys[self.typed] {
                self.typed += 1;
                if self.typed == self.keys.len() {
                    return None;
                }
                continue;
            }
            // No detaching after all: what was held back goes first.
            out.extend_from_slice(&self.keys[..self.typed]);
            self.typed = usize::from(byte == self.keys[0]);
            if self.typed == 0 {
                out.push(byte);
            }
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys() {
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.filter(b"ab").unwrap(), b"ab");
        assert_eq!(keys.filter(b"\x10").unwrap(), b"");
        assert_eq!(keys.filter(b"x").unwrap(), b"\x10x");
        assert_eq!(keys.filter(b"\x10\x10").unwrap(), b"\x10");
        assert!(keys.filter(b"\x11").is_none());
        assert!(DetachKeys::parse("a,ctrl-c").is_ok());
        assert!(DetachKeys::parse("ctrl-1").is_err());
        assert!(DetachKeys::parse("ab").is_err());
    }
}
