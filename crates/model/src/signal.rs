//! Signal names and numbers, as `docker kill -s` and `STOPSIGNAL` take them.

const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("UNUSED", 31),
];

/// `SIGTERM`, `term`, `15`, `RTMIN+3` -> the number. Docker's rule: digits are a number from 1 to 64, a name may have `SIG`
/// in front, in any case.
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(found) = NAMES.iter().find(|(n, _)| *n == name) {
        return Some(found.1);
    }
    let realtime = |rest: &str, base: i32, sign: i32, max: i32| match rest {
        "" => Some(base),
        _ => rest[1..]
            .parse::<i32>()
            .ok()
            .filter(|n| (0..=max).contains(n))
            .map(|n| base + sign * n),
    };
    if let Some(rest) = name
        .strip_prefix("RTMIN")
        .filter(|r| r.is_empty() || r.starts_with('+'))
    {
        return realtime(rest, 34, 1, 15);
    }
    name.strip_prefix("RTMAX")
        .filter(|r| r.is_empty() || r.starts_with('-'))
        .and_then(|r| realtime(r, 64, -1, 14))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn names_and_numbers() {
        for (text, want) in [
            ("SIGTERM", Some(15)),
            ("kill", Some(9)),
            ("9", Some(9)),
            ("0", None),
            ("65", None),
            ("BOGUS", None),
            ("RTMIN+3", Some(37)),
            ("SIGRTMAX-1", Some(63)),
            ("SIGRTMAX", Some(64)),
            ("RTMIN+99", None),
        ] {
            assert_eq!(parse(text), want, "{text}");
        }
    }
}
