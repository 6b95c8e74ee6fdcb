//! Credentials as `docker login` keeps them: `~/.docker/config.json`. Programs that keep them elsewhere are not asked.

use std::path::PathBuf;

use longshore_model::Reference;
use serde_json::{Value, json};

/// The value of `X-Registry-Auth` for a reference; `{}` when there is nothing to say.
pub fn for_reference(reference: &str) -> String {
    let Ok(reference) = Reference::parse(reference) else {
        return encode(b"{}");
    };
    let text = std::fs::read(path()).unwrap_or_default();
    let config: Value = serde_json::from_slice(&text).unwrap_or_default();
    encode(find(&config, &reference.domain).to_string().as_bytes())
}

fn path() -> PathBuf {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".docker");
    folder.unwrap_or_else(home).join("config.json")
}

fn find(config: &Value, domain: &str) -> Value {
    let server = if domain == "docker.io" {
        "https://index.docker.io/v1/"
    } else {
        domain
    };
    match config.pointer("/auths").and_then(|auths| auths.get(server)) {
        Some(entry) => json!({
            "auth": entry["auth"].as_str().unwrap_or_default(),
            "identitytoken": entry["identitytoken"].as_str().unwrap_or_default(),
            "serveraddress": server,
        }),
        None => json!({}),
    }
}

/// Base64 of RFC 4648's alphabet for addresses, padded.
fn encode(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let index = (bits >> (18 - 6 * at)) & 63;
            let letter = ALPHABET.get(index as usize).copied().unwrap_or(b'=');
            out.push(if at <= chunk.len() {
                char::from(letter)
            } else {
                '='
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries() {
        let config = json!({"auths": {"r:5000": {"auth": "YTpi"}, "https://index.docker.io/v1/": {"auth": "eDp5"}}});
        assert_eq!(find(&config, "r:5000")["auth"], "YTpi");
        assert_eq!(find(&config, "docker.io")["auth"], "eDp5");
        assert_eq!(find(&config, "other"), json!({}));
        assert_eq!(find(&Value::Null, "other"), json!({}));
    }

    #[test]
    fn base64() {
        for (text, want) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("{}", "e30="),
            ("??>", "Pz8-"),
        ] {
            assert_eq!(encode(text.as_bytes()), want);
        }
    }
}
