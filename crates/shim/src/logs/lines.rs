//! Cuts output into lines as Docker's log copier does: a line longer than 16 KiB becomes several partial entries that share
//! the time of the first.

/// Bytes of the longest entry.
pub const PIECE: usize = 16 << 10;

/// One entry to be.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Kept from earlier output, then from this one; together at most [`PIECE`] bytes.
    pub text: (&'a [u8], &'a [u8]),
    /// A newline followed (it is not part of the text).
    pub whole: bool,
    pub time_nano: i64,
}

/// The unfinished line of one stream.
#[derive(Default)]
pub struct Lines {
    kept: Vec<u8>,
    /// Time of the first piece when the current line was cut already.
    cut_at: Option<i64>,
}

impl Lines {
    /// Gives every piece that `bytes` completes.
    pub fn push(
        &mut self,
        mut bytes: &[u8],
        now: impl Fn() -> i64,
        mut emit: impl FnMut(Piece<'_>),
    ) {
        while !bytes.is_empty() {
            let room = PIECE - self.kept.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = window.iter().position(|&b| b == b'\n') {
                emit(Piece {
                    text: (&self.kept, &bytes[..end]),
                    whole: true,
                    time_nano: self.cut_at.take().unwrap_or_else(&now),
                });
                self.kept = Vec::new();
                bytes = &bytes[end + 1..];
            } else if window.len() == room {
                let time_nano = *self.cut_at.get_or_insert_with(&now);
                emit(Piece {
                    text: (&self.kept, window),
                    whole: false,
                    time_nano,
                });
                self.kept = Vec::new();
                bytes = &bytes[room..];
            } else {
                self.kept.extend_from_slice(bytes);
                return;
            }
        }
    }

    /// Gives what is left at the end of the stream.
    pub fn finish(&mut self, now: impl Fn() -> i64, mut emit: impl FnMut(Piece<'_>)) {
        let kept = std::mem::take(&mut self.kept);
        let time_nano = self.cut_at.take();
        if !kept.is_empty() {
            emit(Piece {
                text: (&kept, &[]),
                whole: false,
                time_nano: time_nano.unwrap_or_else(now),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Entry = (usize, bool, i64);

    fn cut(parts: &[&[u8]]) -> (Vec<Entry>, Vec<u8>) {
        let (mut lines, mut seen, mut text) = (Lines::default(), Vec::new(), Vec::new());
        let clock = std::cell::Cell::new(0);
        let now = || {
            clock.set(clock.get() + 1);
            clock.get()
        };
        let mut emit = |piece: Piece<'_>| {
            seen.push((
                piece.text.0.len() + piece.text.1.len(),
                piece.whole,
                piece.time_nano,
            ));
            text.extend_from_slice(piece.text.0);
            text.extend_from_slice(piece.text.1);
            if piece.whole {
                text.push(b'\n');
            }
        };
        for part in parts {
            lines.push(part, now, &mut emit);
        }
        lines.finish(now, &mut emit);
        (seen, text)
    }

    #[test]
    fn lines_and_rest() {
        assert_eq!(
            cut(&[b"a\nbb", b"b\n\nc"]).0,
            [(1, true, 1), (3, true, 2), (0, true, 3), (1, false, 4)]
        );
    }

    #[test]
    fn long_lines_are_cut_and_keep_their_time() {
        let long = vec![b'x'; 2 * PIECE];
        assert_eq!(
            cut(&[&long, b"\nnext\n"]).0,
            [
                (PIECE, false, 1),
                (PIECE, false, 1),
                (0, true, 1),
                (4, true, 2)
            ]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn nothing_is_lost_and_cuts_do_not_matter(
            text in prop::collection::vec(prop_oneof![20 => Just(b'x'), 1 => Just(b'\n')], 0..60_000),
            at in any::<prop::sample::Index>(),
        ) {
            let whole = cut(&[&text]);
            prop_assert_eq!(&whole.1, &text);
            let at = if text.is_empty() { 0 } else { at.index(text.len()) };
            let halves = cut(&[&text[..at], &text[at..]]);
            let shape = |e: &[Entry]| e.iter().map(|x| (x.0, x.1)).collect::<Vec<_>>();
            prop_assert_eq!(shape(&whole.0), shape(&halves.0));
        }
    }
}
