//! The keys that let go of a terminal: their notation, and finding them in what the client types.

/// Docker's default: ctrl-p, ctrl-q.
const DEFAULT: [u8; 2] = [16, 17];

/// The notation is wrong: what was not understood.
#[derive(Debug, PartialEq, Eq)]
pub struct BadKeys(pub String);

/// `ctrl-p,ctrl-q`, `a,b`, `ctrl-@`; empty for the default.
///
/// # Errors
/// [`BadKeys`]
pub fn parse(text: &str) -> Result<Vec<u8>, BadKeys> {
    if text.is_empty() {
        return Ok(DEFAULT.to_vec());
    }
    text.split(',')
        .map(|key| {
            let bad = || BadKeys(key.to_owned());
            if let [byte] = key.as_bytes() {
                return Ok(*byte);
            }
            match key.strip_prefix("ctrl-").map(str::as_bytes) {
                Some([letter @ (b'a'..=b'z' | b'A'..=b'Z')]) => {
                    Ok(letter.to_ascii_lowercase() - b'a' + 1)
                }
                Some([b'@']) => Ok(0),
                Some([b'[']) => Ok(27),
                Some([b'\\']) => Ok(28),
                Some([b']']) => Ok(29),
                Some([b'^']) => Ok(30),
                Some([b'_']) => Ok(31),
                _ => Err(bad()),
            }
        })
        .collect()
}

/// Looks for the keys in a stream. What may be the beginning of them is held back until the next byte decides.
pub struct Detector {
    keys: Vec<u8>,
    matched: usize,
}

impl Detector {
    pub fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// Appends to `out` what goes on to the container; true when the keys are complete (the rest is dropped).
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        if self.keys.is_empty() {
            out.extend_from_slice(input);
            return false;
        }
        for &byte in input {
            // After a wrong key the longest end of what was typed that still begins the sequence is kept.
            while self.matched > 0 && self.keys[self.matched] != byte {
                let keep = (1..self.matched)
                    .rev()
                    .find(|&n| self.keys[..n] == self.keys[self.matched - n..self.matched])
                    .unwrap_or(0);
                out.extend_from_slice(&self.keys[..self.matched - keep]);
                self.matched = keep;
            }
            if self.keys[self.matched] == byte {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return true;
                }
            } else {
                out.push(byte);
            }
        }
        false
    }

    /// What is held back, at the end of input.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.keys[..self.matched]);
        self.matched = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn notation() {
        for (text, want) in [
            ("", Ok(vec![16, 17])),
            ("ctrl-p,ctrl-q", Ok(vec![16, 17])),
            (
                "a,ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_",
                Ok(vec![b'a', 0, 27, 28, 29, 30, 31]),
            ),
            ("ctrl-1", Err(BadKeys("ctrl-1".into()))),
            ("ab", Err(BadKeys("ab".into()))),
            ("a,,b", Err(BadKeys(String::new()))),
        ] {
            assert_eq!(parse(text), want, "{text}");
        }
    }

    #[test]
    fn held_back_and_let_go() {
        let mut detector = Detector::new(vec![1, 2]);
        let mut out = Vec::new();
        assert!(!detector.feed(&[1], &mut out) && out.is_empty());
        assert!(!detector.feed(&[1, 3], &mut out));
        assert_eq!(out, [1, 1, 3]);
        assert!(detector.feed(&[9, 1, 2, 7], &mut out));
        assert_eq!(out, [1, 1, 3, 9]);
        assert!(!detector.feed(&[1], &mut out));
        detector.finish(&mut out);
        assert_eq!(out, [1, 1, 3, 9, 1]);
    }

    proptest! {
        /// However the input is cut: everything before the first place where the keys stand comes through, and no more.
        #[test]
        fn same_as_a_search(keys in prop::collection::vec(0u8..3, 1..4), input in prop::collection::vec(0u8..3, 0..24),
            cut in 1usize..5)
        {
            let mut detector = Detector::new(keys.clone());
            let mut out = Vec::new();
            let found = input.chunks(cut).any(|piece| detector.feed(piece, &mut out));
            let place = input.windows(keys.len()).position(|window| window == keys);
            prop_assert_eq!(found, place.is_some());
            match place {
                Some(place) => prop_assert_eq!(&out, &input[..place].to_vec()),
                None => {
                    detector.finish(&mut out);
                    prop_assert_eq!(&out, &input);
                }
            }
        }
    }
}
