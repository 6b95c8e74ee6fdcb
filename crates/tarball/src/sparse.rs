//! Maps of sparse files: which pieces of a file an archive holds.

use std::io;

use super::reader::{invalid, number};

/// Pieces of one file at most; a real file with more is not known, and each costs memory.
const PIECES_MAX: usize = 1 << 20;

/// Pieces in ascending order: offset and length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    pub pieces: Vec<(u64, u64)>,
}

impl Map {
    pub fn push(&mut self, offset: u64, length: u64) -> io::Result<()> {
        if self.pieces.len() >= PIECES_MAX {
            return Err(invalid("too many pieces in a sparse file"));
        }
        self.pieces.push((offset, length));
        Ok(())
    }

    /// Pieces in order, inside the file, and as long together as what is stored.
    pub fn check(&self, size: u64, stored: u64) -> io::Result<()> {
        let bad = || invalid("malformed sparse map");
        let (mut end, mut total) = (0u64, 0u64);
        for (offset, length) in &self.pieces {
            if *offset < end {
                return Err(bad());
            }
            end = offset.checked_add(*length).ok_or_else(bad)?;
            total = total.checked_add(*length).ok_or_else(bad)?;
        }
        if end > size || total != stored || i64::try_from(size).is_err() {
            return Err(bad());
        }
        Ok(())
    }
}

/// Pax format 0.0 (pairs of `GNU.sparse.offset`, `GNU.sparse.numbytes`) and 0.1 (`GNU.sparse.map`).
pub fn parse_map(pax: &[(Vec<u8>, Vec<u8>)]) -> io::Result<Map> {
    let mut map = Map::default();
    let mut offset = None;
    for (key, value) in pax {
        match key.as_slice() {
            b"GNU.sparse.map" => {
                let numbers: Vec<u64> = value
                    .split(|b| *b == b',')
                    .filter(|text| !text.is_empty())
                    .map(number)
                    .collect::<io::Result<_>>()?;
                for pair in numbers.chunks(2) {
                    let [offset, length] = pair else {
                        return Err(invalid("malformed sparse map"));
                    };
                    map.push(*offset, *length)?;
                }
            }
            b"GNU.sparse.offset" => offset = Some(number(value)?),
            b"GNU.sparse.numbytes" => {
                let start = offset
                    .take()
                    .ok_or_else(|| invalid("malformed sparse map"))?;
                map.push(start, number(value)?)?;
            }
            _ => {}
        }
    }
    Ok(map)
}

/// Pax format 1.0: decimal lines in front of the content, padded to a whole block.
pub fn read_map(mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<Map> {
    let mut block = [0u8; 512];
    let mut at = block.len();
    let mut next_number = || -> io::Result<u64> {
        let mut value = 0u64;
        for digits in 0..21 {
            if at == block.len() {
                let mut filled = 0;
                while filled < block.len() {
                    match read(&mut block[filled..])? {
                        0 => return Err(invalid("malformed sparse map")),
                        n => filled += n,
                    }
                }
                at = 0;
            }
            let byte = block[at];
            at += 1;
            match byte {
                b'\n' if digits > 0 => return Ok(value),
                b'0'..=b'9' => {
                    value = value
                        .checked_mul(10)
                        .and_then(|v| v.checked_add(u64::from(byte - b'0')))
                        .ok_or_else(|| invalid("malformed sparse map"))?;
                }
                _ => return Err(invalid("malformed sparse map")),
            }
        }
        Err(invalid("malformed sparse map"))
    };
    let mut map = Map::default();
    for _ in 0..next_number()? {
        let offset = next_number()?;
        map.push(offset, next_number()?)?;
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_checked() {
        let map = |pieces: &[(u64, u64)]| Map {
            pieces: pieces.to_vec(),
        };
        assert!(map(&[(0, 4), (8, 2), (20, 0)]).check(20, 6).is_ok());
        assert!(map(&[(0, 4), (3, 2)]).check(20, 6).is_err());
        assert!(map(&[(u64::MAX, 2)]).check(20, 2).is_err());
        assert!(map(&[(0, 4)]).check(3, 4).is_err());
        assert!(map(&[(0, 4)]).check(20, 3).is_err());
        assert!(map(&[]).check(u64::MAX, 0).is_err());
    }

    #[test]
    fn version_one_from_content() {
        let mut text = b"2\n0\n3\n1024\n5\n".to_vec();
        text.resize(512, 0);
        let mut rest = text.as_slice();
        let map = read_map(|buffer| io::Read::read(&mut rest, buffer)).unwrap();
        assert_eq!(map.pieces, vec![(0, 3), (1024, 5)]);
        for bad in ["x\n", "\n", "99999999999999999999999\n", "5\n1\n"] {
            let mut text = bad.as_bytes().to_vec();
            text.resize(512, 0);
            let mut rest = text.as_slice();
            assert!(read_map(|buffer| io::Read::read(&mut rest, buffer)).is_err());
        }
    }
}
