//! 256-bit random object ids, printed as 64 hex digits.

use std::fmt;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

/// A container's id: 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerId(String);

impl ContainerId {
    /// A new random id. Its first twelve digits are never all decimal: Docker avoids that because
    /// a hostname made of digits alone is taken for a number by some programs.
    pub fn random() -> Self {
        loop {
            let id = random_hex();
            if id[..12].bytes().any(|b| b.is_ascii_alphabetic()) {
                return Self(id);
            }
        }
    }
    /// Takes an id that was stored; `None` when it is not 64 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 64
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
        .then(|| Self(text.to_owned()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The first twelve digits: default host name, what the CLI prints.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// 64 random hex digits (exec ids, endpoint ids, network ids, anonymous volume names).
pub fn random_hex() -> String {
    hex(&random_bytes::<32>())
}

/// Random bytes from the kernel. Early boot blocks until the pool is ready, as getrandom(2) does.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    let mut filled = 0;
    while filled < N {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("getrandom: {error}"),
        }
    }
    bytes
}

/// Lower-case hex of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| {
            [
                DIGITS[usize::from(b >> 4)] as char,
                DIGITS[usize::from(b & 15)] as char,
            ]
        })
        .collect()
}
