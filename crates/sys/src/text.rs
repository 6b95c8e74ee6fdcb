//! The program's own code in memory.

/// Lets go of the pages of this program's code that are mapped here; those that are needed come back from the page cache, one
/// fault for sixteen of them. After a start most never are: parsing of flags and configuration, reading of the store, images.
/// Only mappings of our own file that are executable and were never writable are touched. Returns how many there were.
pub fn let_go() -> usize {
    let Ok(own) = std::fs::metadata("/proc/self/exe") else {
        return 0;
    };
    let inode = std::os::unix::fs::MetadataExt::ino(&own).to_string();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let code = maps.lines().filter_map(|line| code_of(line, &inode));
    code.filter(|&(start, length)| {
        // SAFETY: MADV_DONTNEED on a private, file-backed mapping drops page table entries. The mapping is r-xp and of our
        // own executable: none of its pages was ever written (the linker puts what is relocated into other segments), so
        // each comes back from the file with the same content. The file cannot be written to while it runs (ETXTBSY).
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) == 0 }
    })
    .count()
}

/// Start and length of a line of /proc/self/maps that is code of the file with this inode.
fn code_of(line: &str, inode: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_whitespace();
    let (range, access) = (fields.next()?, fields.next()?);
    if access != "r-xp" || fields.nth(2)? != inode {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (
        usize::from_str_radix(start, 16).ok()?,
        usize::from_str_radix(end, 16).ok()?,
    );
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let line = "0047a000-00e7b000 r-xp 00279000 fe:00 5310694   /usr/bin/longshore";
        assert_eq!(code_of(line, "5310694"), Some((0x47a000, 0xa01000)));
        assert_eq!(code_of(line, "1"), None);
        assert_eq!(code_of(&line.replace("r-xp", "r--p"), "5310694"), None);
    }

    #[test]
    fn code_goes_on_after_it_was_let_go() {
        assert!(let_go() >= 1);
        assert_eq!((1..=10).sum::<i32>(), 55);
    }
}
