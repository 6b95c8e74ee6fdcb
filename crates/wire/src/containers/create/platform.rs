//! `?platform=` of create.

use longshore_model::{Error, Result};

/// `?platform=os[/arch[/variant]]`
///
/// # Errors
/// 400
pub fn parse(text: &str) -> Result<Option<String>> {
    if text.is_empty() {
        return Ok(None);
    }
    let parts: Vec<&str> = text.split('/').collect();
    let word = |part: &&str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    if !parts.iter().all(word) {
        return Err(Error::invalid(format!(
            "{text:?}: invalid platform specifier: invalid argument"
        )));
    }
    if parts.len() > 3 {
        return Err(Error::invalid(format!(
            "{text:?}: cannot parse platform specifier: invalid argument"
        )));
    }
    let normal = text.to_ascii_lowercase();
    match normal.as_str() {
        "linux" => Ok(Some("linux".to_owned())),
        // An architecture alone means linux.
        "amd64" | "x86_64" | "arm64" | "aarch64" | "arm" | "386" | "riscv64" | "ppc64le"
        | "s390x" => Ok(Some(format!("linux/{}", architecture(&normal)))),
        _ if parts.len() == 1 => Err(Error::invalid(format!(
            "{text:?}: unknown operating system or architecture: invalid argument"
        ))),
        _ => {
            let mut parts: Vec<&str> = normal.split('/').collect();
            parts[1] = architecture(parts[1]);
            Ok(Some(parts.join("/")))
        }
    }
}

fn architecture(name: &str) -> &str {
    match name {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "armhf" | "armel" => "arm",
        "i386" => "386",
        other => other,
    }
}
