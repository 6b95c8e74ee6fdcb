//! `docker search`

use longshore_model::{Error, Result};
use longshore_registry::{Failure, Found};

use crate::Engine;

impl Engine {
    /// Asks the index of `host` (`None`: Docker Hub's) for repositories.
    ///
    /// # Errors
    /// 500 with the reason why it cannot be asked.
    pub async fn search_images(
        &self,
        host: Option<&str>,
        term: &str,
        limit: u32,
    ) -> Result<Vec<Found>> {
        let found = self.inner.registry.search(host, term, limit).await;
        found.map_err(|failure| match failure {
            // dockerd's search has Go's words alone.
            Failure::Request {
                method, url, cause, ..
            } => Error::system(format!("{method} \"{url}\": {cause}")),
            other => Error::system(other.to_string()),
        })
    }
}
