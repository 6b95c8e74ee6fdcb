//! `docker save`: what is asked for is found before the first byte, then written as fast as the receiver takes it.

use std::io::Write;

use longshore_model::Result;
use longshore_store::{
    Batch, Durability,
    images::{Saving, manifest::Platform},
};

use super::{image_event, platform};
use crate::Engine;

/// An archive that is ready to be written.
pub struct SavedImages(Saving);

impl SavedImages {
    /// Writes the archive. Runs on a thread of its own, so that `out` may block.
    ///
    /// # Errors
    /// The receiver has gone; a damaged blob. The archive has no end then.
    pub async fn write(self, out: impl Write + Send + 'static) -> Result<()> {
        crate::blocking(move || self.0.write(out)).await
    }
}

impl Engine {
    /// Prepares an archive of the named images, with `platforms` (`os/arch[/variant]`) or all that is here.
    ///
    /// # Errors
    /// 404 for a name or a platform that is not here; 400 for bad ones.
    pub async fn save_images(
        &self,
        names: Vec<String>,
        platforms: &[String],
    ) -> Result<SavedImages> {
        let platforms: Vec<Platform> = platforms
            .iter()
            .filter_map(|text| platform(Some(text)).transpose())
            .collect::<Result<_>>()?;
        let store = self.inner.store.clone();
        let saving = crate::blocking(move || Saving::prepare(&store, &names, &platforms)).await?;
        let mut batch = Batch::new();
        for id in &saving.images {
            batch.event(image_event("save", id, id));
        }
        self.inner
            .commit(batch, Durability::Survives, || {})
            .await?;
        Ok(SavedImages(saving))
    }
}
