//! `docker image prune`

use std::{
    collections::{BTreeMap, HashSet},
    sync::atomic::{AtomicBool, Ordering},
};

use longshore_model::{Error, Reference, Result};
use longshore_store::{Batch, Durability, images::Image};

use super::image_event;
use crate::{
    Engine,
    api::{Filters, ImageDeleted},
    filter,
};

/// A prune under way: one at a time.
struct Running<'a>(&'a AtomicBool);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Engine {
    /// Removes images that no container uses: those without a name, or with `dangling=false` all. Of an image in use the
    /// names go that no container was made by.
    ///
    /// # Errors
    /// Filter values that are not valid; 409 while another prune runs.
    pub async fn prune_images(&self, filters: &Filters) -> Result<(Vec<ImageDeleted>, u64)> {
        static BUSY: AtomicBool = AtomicBool::new(false);
        let dangling = filter::boolean(filters, "dangling")?.unwrap_or(true);
        let until = filter::until(filters)?;
        if BUSY.swap(true, Ordering::AcqRel) {
            return Err(Error::conflict("a prune operation is already running"));
        }
        let _running = Running(&BUSY);
        let images = self.inner.images();
        let before = images.total_size();
        let (in_use, names_in_use) = self.images_in_use();
        let mut gone = Vec::new();
        for (image, tags) in images.list_named() {
            if dangling && !tags.is_empty() {
                continue;
            }
            let summary = self.inner.summary(&image, &tags)?;
            if until.is_some_and(|until| summary.created.0 > until)
                || !filter::labels(&summary.labels, filters)
            {
                continue;
            }
            let (stay, go): (Vec<_>, Vec<_>) = tags
                .into_iter()
                .partition(|t| names_in_use.contains(&t.reference.canonical()));
            let removed = self
                .prune_one(
                    &image,
                    go.iter().map(|t| t.reference.clone()).collect(),
                    stay.is_empty() && !in_use.contains(image.id()),
                )
                .await;
            // Leased meanwhile: somebody makes a container from it.
            gone.extend(removed.unwrap_or_default());
        }
        let reclaimed = before.saturating_sub(self.inner.images().total_size());
        let mut batch = Batch::new();
        let space = BTreeMap::from([("reclaimed".to_owned(), reclaimed.to_string())]);
        batch.event(crate::events::event("image", "prune", "", space));
        self.inner
            .commit(batch, Durability::Survives, || {})
            .await?;
        Ok((gone, reclaimed))
    }

    /// Ids of images, and canonical names, that containers were made of.
    fn images_in_use(&self) -> (HashSet<String>, HashSet<String>) {
        let (mut ids, mut names) = (HashSet::new(), HashSet::new());
        for snapshot in self.containers() {
            ids.insert(snapshot.image.id.clone());
            if let Ok(reference) = Reference::parse(&snapshot.spec.image) {
                names.insert(reference.or_latest().canonical());
            }
        }
        (ids, names)
    }

    async fn prune_one(
        &self,
        image: &Image,
        names: Vec<Reference>,
        whole: bool,
    ) -> Result<Vec<ImageDeleted>> {
        let (store, id) = (self.inner.store.clone(), image.id().to_owned());
        crate::blocking(move || {
            let images = store.images();
            let mut gone = Vec::new();
            let nameless = names.is_empty();
            for name in names {
                let familiar = name.familiar();
                if images.untag(&name, vec![image_event("untag", &id, &familiar)])? {
                    gone.push(ImageDeleted::Untagged(familiar));
                }
            }
            let removed = || images.remove_nameless(&id, vec![image_event("delete", &id, &id)]);
            if whole && removed().unwrap_or(false) {
                if nameless {
                    // dockerd's word for an image without a name.
                    gone.push(ImageDeleted::Untagged(id.clone()));
                }
                gone.push(ImageDeleted::Deleted(id));
            }
            Ok(gone)
        })
        .await
    }
}
