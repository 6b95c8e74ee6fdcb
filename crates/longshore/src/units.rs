//! Sizes, durations and limits as Docker's programs read and print them (the rules of docker/go-units and Go's `time`).

/// Reads a size such as `64m`, `1.5GiB`, `512`: units of 1024, any case, `b` and `ib` optional.
pub fn bytes(text: &str) -> Option<i64> {
    let text = text.trim();
    let end = text
        .rfind(|c: char| c.is_ascii_digit() || c == '.')
        .map_or(0, |last| last + 1);
    let (number, unit) = text.split_at(end);
    let number: f64 = number
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
        .then(|| number.parse().ok())??;
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let mut letters = unit.chars();
    let shift = match letters.next() {
        None => 0,
        Some('b') if letters.as_str().is_empty() => 0,
        Some(letter) if matches!(letters.as_str(), "" | "b" | "ib") => {
            10 * (1 + "kmgtp".find(letter)?)
        }
        Some(_) => return None,
    };
    let size = number * (1u64 << shift) as f64;
    // More than an i64 holds is no size.
    (size < 9.2e18).then_some(size as i64)
}

/// Names that `--ulimit` knows (RLIMIT_* in lower case).
const ULIMITS: &[&str] = &[
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Reads `nofile=1024[:4096]` as (name, soft, hard); -1 is no limit.
///
/// # Errors
/// Docker's texts.
pub fn ulimit(text: &str) -> Result<(String, i64, i64), String> {
    let bad = || format!("invalid ulimit argument: {text}");
    let (name, limits) = text.split_once('=').ok_or_else(bad)?;
    if !ULIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let (soft, hard) = match limits.split_once(':') {
        Some((soft, hard)) => (soft, Some(hard)),
        None => (limits, None),
    };
    let soft: i64 = soft.parse().map_err(|_| bad())?;
    let hard: i64 = match hard {
        Some(hard) => hard.parse().map_err(|_| bad())?,
        None => soft,
    };
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        ));
    }
    Ok((name.to_owned(), soft, hard))
}

/// Reads a Go duration (`1h30m`, `1.5s`, `300ms`, `-5s`, `0`) as nanoseconds.
pub fn duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        total += number
            * match &rest[..letters] {
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &rest[letters..];
    }
    (total < 9.2e18).then_some((sign * total) as i64)
}

/// Go's `%.<digits>g`.
fn general(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let scientific = format!("{value:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| {
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text.to_owned()
        }
    };
    if exponent < -4 || exponent >= digits as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim(mantissa), exponent.abs());
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    trim(&format!("{value:.decimals$}"))
}

fn scaled(size: f64, base: f64, digits: usize, names: &[&str]) -> String {
    let (mut size, mut index) = (size, 0);
    while size >= base && index + 1 < names.len() {
        size /= base;
        index += 1;
    }
    format!("{}{}", general(size, digits), names[index])
}

/// A size in decimal units with three digits: `1.09MB`.
pub fn human_size(size: i64) -> String {
    let names = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    scaled(size as f64, 1000.0, 3, &names)
}

/// A size in decimal units with four digits: `762.3kB`.
pub fn human_size_fine(size: i64) -> String {
    let names = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    scaled(size as f64, 1000.0, 4, &names)
}

/// A size in units of 1024 with four digits: `23.47GiB`.
pub fn binary_size(size: i64) -> String {
    let names = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    scaled(size as f64, 1024.0, 4, &names)
}

/// A span in words: `About a minute`, `3 weeks`.
pub fn human_duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".into(),
        () if seconds == 1 => "1 second".into(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, size) in [
            ("32", 32),
            ("32b", 32),
            ("32k", 32 << 10),
            ("32Kb", 32 << 10),
            ("32 mib", 32 << 20),
            ("1.5g", 3 << 29),
            ("2T", 2 << 40),
        ] {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        for bad in [
            "", "m", "-1", "1x", "1kk", "1 kbb", "1..2m", "9999999p", "0x1",
        ] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_printed() {
        assert_eq!(human_size(0), "0B");
        assert_eq!(human_size(999), "999B");
        assert_eq!(human_size(1_094_000), "1.09MB");
        assert_eq!(human_size(124_000_000), "124MB");
        assert_eq!(human_size(1_000_000), "1MB");
        assert_eq!(binary_size(25_200_000_000), "23.47GiB");
        assert_eq!(binary_size(64 << 20), "64MiB");
    }

    #[test]
    fn limits() {
        assert_eq!(ulimit("nofile=1:2"), Ok(("nofile".into(), 1, 2)));
        assert_eq!(ulimit("core=-1"), Ok(("core".into(), -1, -1)));
        assert_eq!(ulimit("core=0:-1"), Ok(("core".into(), 0, -1)));
        assert!(ulimit("nofile=2:1").is_err());
        assert!(ulimit("x=1").is_err());
        assert!(ulimit("nofile").is_err());
    }

    #[test]
    fn durations() {
        assert_eq!(duration("1h30m"), Some(5400 * 1_000_000_000));
        assert_eq!(duration("1.5s"), Some(1_500_000_000));
        assert_eq!(duration("300ms"), Some(300_000_000));
        assert_eq!(duration("-10m"), Some(-600 * 1_000_000_000));
        assert_eq!(duration("0"), Some(0));
        for bad in ["", "5", "m", "1y", "1h5"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn spans_in_words() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (600, "10 minutes"),
            (3600, "About an hour"),
            (90_000, "25 hours"),
            (3 * 86_400, "3 days"),
            (20 * 86_400, "2 weeks"),
            (90 * 86_400, "3 months"),
            (800 * 86_400, "2 years"),
        ] {
            assert_eq!(human_duration(seconds), words);
        }
    }
}
