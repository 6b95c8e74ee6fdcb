//! `X-Registry-Auth`: credentials that come along with a request.

use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use longshore_engine::Credentials;
use longshore_model::{Error, Result};
use serde::Deserialize;

/// Docker's `AuthConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AuthConfig {
    username: String,
    password: String,
    /// User and password in one, base64.
    auth: String,
    pub serveraddress: String,
    identitytoken: String,
    registrytoken: String,
}

impl From<AuthConfig> for Credentials {
    fn from(config: AuthConfig) -> Self {
        let mut credentials = Self {
            username: config.username,
            password: config.password,
            identity_token: config.identitytoken,
            registry_token: config.registrytoken,
            server: config.serveraddress,
        };
        if credentials.username.is_empty()
            && let Ok(pair) = decode(&config.auth)
            && let Ok(pair) = String::from_utf8(pair)
            && let Some((username, password)) = pair.split_once(':')
        {
            username.clone_into(&mut credentials.username);
            password
                .trim_end_matches('\0')
                .clone_into(&mut credentials.password);
        }
        credentials
    }
}

/// Reads the header's value; empty means none.
///
/// # Errors
/// What is no base64 or no JSON.
pub(super) fn credentials(header: &str) -> Result<Credentials> {
    if header.is_empty() {
        return Ok(Credentials::default());
    }
    let bad = |why: String| Error::invalid(format!("invalid X-Registry-Auth header: {why}"));
    let bytes = decode(header).map_err(|e| bad(e.to_string()))?;
    let config: AuthConfig = crate::json::from_text(&bytes).map_err(bad)?;
    Ok(config.into())
}

/// Clients use both alphabets, with and without padding.
fn decode(text: &str) -> std::result::Result<Vec<u8>, base64::DecodeError> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['-', '_']) {
        &URL_SAFE
    } else {
        &STANDARD
    };
    GeneralPurpose::new(alphabet, config).decode(text.trim())
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE};

    use super::*;

    #[test]
    fn headers() {
        let text = r#"{"username":"u","password":"p~~?>","serveraddress":"r:5000"}"#;
        for header in [
            BASE64_URL_SAFE.encode(text),
            BASE64_STANDARD_NO_PAD.encode(text),
        ] {
            let found = credentials(&header).unwrap();
            assert_eq!(
                (found.username.as_str(), found.password.as_str()),
                ("u", "p~~?>")
            );
            assert_eq!(found.server, "r:5000");
        }
        let pair = format!(r#"{{"auth":"{}"}}"#, BASE64_STANDARD_NO_PAD.encode("a:b:c"));
        let found = credentials(&BASE64_URL_SAFE.encode(pair)).unwrap();
        assert_eq!(
            (found.username.as_str(), found.password.as_str()),
            ("a", "b:c")
        );
        assert_eq!(credentials("e30=").unwrap(), Credentials::default());
        assert_eq!(credentials("").unwrap(), Credentials::default());
        for bad in ["!", "bm8gSlNPTg=="] {
            assert!(credentials(bad).is_err());
        }
    }
}
