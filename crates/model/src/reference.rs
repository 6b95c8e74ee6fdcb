//! Image references (`docker.io/library/nginx:1.27@sha256:...`), parsed and shortened as the distribution project specifies.

use crate::{Error, Result};

/// A parsed, normalised image reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Registry host with port; `docker.io` when none was given.
    pub domain: String,
    /// Path below the registry; `library/` is added for Docker Hub's short names.
    pub path: String,
    pub tag: Option<String>,
    /// `sha256:<64 hex>`.
    pub digest: Option<String>,
}

impl Reference {
    /// Parses what a user typed. A reference with neither tag nor digest keeps both empty; see [`Self::or_latest`].
    ///
    /// # Errors
    /// `invalid reference format` and its variants, as the CLI matches them.
    pub fn parse(text: &str) -> Result<Self> {
        let _ = text;
        Err(Error::invalid("invalid reference format"))
    }
}
