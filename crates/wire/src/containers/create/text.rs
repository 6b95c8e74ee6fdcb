//! Small parsers with Go's rules, because clients were written against Go's.

use std::net::IpAddr;

use longshore_model::{Error, Result};

/// Go's `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `path.Clean`: the shortest name of the same path by text alone.
pub fn clean_path(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if absolute => {}
            other => parts.push(other),
        }
    }
    match (absolute, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// Go's `filepath.IsLocal`: does not leave the directory it is looked up in.
pub fn is_local_path(path: &str) -> bool {
    if path.is_empty() || path.starts_with('/') {
        return false;
    }
    let cleaned = clean_path(path);
    cleaned != ".." && !cleaned.starts_with("../")
}

/// A port number as Go's `ParseUint(_, 10, 16)` reads it; the error is Go's reason.
pub fn parse_port_number(text: &str) -> std::result::Result<u16, &'static str> {
    if text.is_empty() {
        return Err("value is empty");
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("invalid syntax");
    }
    text.parse().map_err(|_| "value out of range")
}

/// `80`, `80/tcp`, `80/UDP` -> number and protocol in lower case.
///
/// # Errors
/// 400 as dockerd's JSON decoder words it.
pub fn parse_port(text: &str) -> Result<(u16, String)> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, ""));
    let number = parse_port_number(number).map_err(|reason| {
        Error::invalid(format!("invalid JSON: invalid port '{number}': {reason}"))
    })?;
    let protocol = if protocol.is_empty() {
        "tcp".to_owned()
    } else {
        protocol.to_ascii_lowercase()
    };
    Ok((number, protocol))
}

/// `8000`, `8000-8010` -> first and last.
pub fn parse_port_range(text: &str) -> Option<(u16, u16)> {
    let numbers = text.split('/').next()?;
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let (first, last) = (
        parse_port_number(first).ok()?,
        parse_port_number(last).ok()?,
    );
    (first <= last).then_some((first, last))
}

/// An address where empty means none.
///
/// # Errors
/// 400 as dockerd's JSON decoder words it.
pub fn parse_address(text: &str) -> Result<Option<IpAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    // A zone (`fe80::1%eth0`) is accepted by Go; it means nothing here and is cut.
    let bare = text.split('%').next().unwrap_or_default();
    bare.parse().map(Some).map_err(|_| {
        Error::invalid(format!(
            "invalid JSON: ParseAddr({text:?}): unable to parse IP"
        ))
    })
}

/// `aa:bb:cc:dd:ee:ff`, with `-` as well, or `aabb.ccdd.eeff`.
///
/// # Errors
/// 400 as dockerd's JSON decoder words it.
pub fn parse_mac(text: &str) -> Result<Option<[u8; 6]>> {
    if text.is_empty() {
        return Ok(None);
    }
    let bad = || Error::invalid(format!("invalid JSON: address {text}: invalid MAC address"));
    let (separator, width) = match text {
        _ if text.contains(':') => (':', 2),
        _ if text.contains('-') => ('-', 2),
        _ => ('.', 4),
    };
    let groups: Vec<&str> = text.split(separator).collect();
    if groups
        .iter()
        .any(|g| g.len() != width || !g.bytes().all(|b| b.is_ascii_hexdigit()))
    {
        return Err(bad());
    }
    let digits = groups.concat();
    let mut mac = [0u8; 6];
    if digits.len() != 12 {
        return Err(bad());
    }
    for (index, byte) in mac.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[index * 2..index * 2 + 2], 16).map_err(|_| bad())?;
    }
    Ok(Some(mac))
}

/// Refuses the byte that no C string can hold.
pub fn no_nul(what: &str, text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(Error::invalid(format!(
            "invalid {what}: contains a NUL byte"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cleans_like_go() {
        for (given, want) in [
            ("", "."),
            ("/", "/"),
            ("/../a", "/a"),
            ("a/../..", ".."),
            ("//a/./b//", "/a/b"),
            ("../a/../b", "../b"),
            ("/a/../../..", "/"),
        ] {
            assert_eq!(clean_path(given), want, "{given}");
        }
        assert!(
            is_local_path("a/../b")
                && !is_local_path("a/../../b")
                && !is_local_path("/a")
                && !is_local_path("")
        );
    }

    #[test]
    fn ports_and_addresses() {
        assert_eq!(parse_port("80").unwrap(), (80, "tcp".into()));
        assert_eq!(parse_port("53/UDP").unwrap(), (53, "udp".into()));
        assert_eq!(
            parse_port("x").unwrap_err().message,
            "invalid JSON: invalid port 'x': invalid syntax"
        );
        assert_eq!(
            parse_port("70000").unwrap_err().message,
            "invalid JSON: invalid port '70000': value out of range"
        );
        assert_eq!(parse_port_range("8000-8010"), Some((8000, 8010)));
        assert_eq!(parse_port_range("8010-8000"), None);
        assert_eq!(parse_port_range(""), None);
        assert_eq!(
            parse_address("bogus").unwrap_err().message,
            "invalid JSON: ParseAddr(\"bogus\"): unable to parse IP"
        );
        assert_eq!(
            parse_mac("02:42:ac:11:00:02").unwrap(),
            Some([2, 0x42, 0xac, 0x11, 0, 2])
        );
        assert_eq!(
            parse_mac("0242.ac11.0002").unwrap(),
            Some([2, 0x42, 0xac, 0x11, 0, 2])
        );
        assert!(parse_mac("02:42").is_err() && parse_mac("é2:42:ac:11:00:02").is_err());
    }

    proptest! {
        #[test]
        fn a_clean_path_stays(path in "[a./]{0,12}") {
            let once = clean_path(&path);
            prop_assert_eq!(clean_path(&once), once.clone());
            prop_assert_eq!(path.starts_with('/'), once.starts_with('/'));
            if once.starts_with('/') {
                prop_assert!(!once.split('/').any(|p| p == ".."));
            }
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,20}") {
            let _ = parse_port(&text);
            let _ = parse_port_range(&text);
            let _ = parse_address(&text);
            let _ = parse_mac(&text);
        }

        #[test]
        fn every_port_is_read(port: u16) {
            prop_assert_eq!(parse_port(&port.to_string()).unwrap().0, port);
        }
    }
}
