//! Docker's rules for taking names and images away.

use std::{collections::HashSet, sync::Arc};

use longshore_model::{Error, Reference, Result};
use longshore_store::images::{Image, NamedTag};

use super::{image_event, short};
use crate::{
    Engine,
    api::{ImageDeleted, Snapshot},
};

/// What stands in the way of a removal, and whether force helps.
fn conflict(what: &str, how: &str, why: String) -> Error {
    Error::conflict(format!("conflict: unable to delete {what} ({how}) - {why}"))
}

impl Engine {
    /// Containers made from an image.
    pub(super) fn image_users(&self, id: &str) -> Vec<Arc<Snapshot>> {
        self.containers()
            .into_iter()
            .filter(|s| s.image.id == id)
            .collect()
    }

    /// Takes a name away, and the image with its last name. In use needs force, a running container's image stays whatever
    /// is said. With the image go the nameless ones that it was made from, unless `keep_parents`.
    ///
    /// # Errors
    /// 404; 409 with the reason.
    pub async fn remove_image(
        &self,
        name: &str,
        force: bool,
        keep_parents: bool,
    ) -> Result<Vec<ImageDeleted>> {
        let images = self.inner.images();
        let resolved = images.resolve(name)?;
        let image = resolved.image;
        let tags = images.tags_of(image.id());
        let Some(named) = resolved.tag else {
            self.check_by_id(&image, &tags, force)?;
            return self.remove_whole(&image, tags, keep_parents).await;
        };
        // With a digest all of the repository's names are meant.
        let by_digest = Reference::parse(name).is_ok_and(|r| r.digest.is_some());
        let meant = |t: &&Arc<NamedTag>| match by_digest {
            true => t.reference.name() == named.reference.name(),
            false => t.reference == named.reference,
        };
        let meant: Vec<_> = tags.iter().filter(meant).cloned().collect();
        if meant.len() < tags.len() {
            return self.untag(&image, meant).await;
        }
        if let Some(user) = self.image_users(image.id()).first() {
            if force {
                return self.untag(&image, meant).await;
            }
            let why = format!(
                "container {} is using its referenced image {}",
                user.id.short(),
                short(image.id())
            );
            return Err(conflict(&named.reference.familiar(), "must be forced", why));
        }
        if !force && images.children().contains_key(image.id()) {
            // Others were made of it here: it stays, without a name.
            return self.untag(&image, meant).await;
        }
        self.remove_whole(&image, tags, keep_parents).await
    }

    fn check_by_id(&self, image: &Image, tags: &[Arc<NamedTag>], force: bool) -> Result<()> {
        let users = self.image_users(image.id());
        let used = |user: &Snapshot, how: &str, state: &str| {
            let why = format!(
                "image is being used by {state} container {}",
                user.id.short()
            );
            Err(conflict(short(image.id()), how, why))
        };
        if let Some(user) = users.iter().find(|s| s.state.running()) {
            return used(user, "cannot be forced", "running");
        }
        if force {
            return Ok(());
        }
        if let Some(user) = users.first() {
            return used(user, "must be forced", "stopped");
        }
        if tags.len() > 1 {
            let why = "image is referenced in multiple repositories".to_owned();
            return Err(conflict(short(image.id()), "must be forced", why));
        }
        if tags.is_empty() && self.inner.images().children().contains_key(image.id()) {
            let why = "image has dependent child images".to_owned();
            return Err(conflict(short(image.id()), "must be forced", why));
        }
        Ok(())
    }

    /// Takes names away; the image stays.
    async fn untag(&self, image: &Image, names: Vec<Arc<NamedTag>>) -> Result<Vec<ImageDeleted>> {
        let (store, id) = (self.inner.store.clone(), image.id().to_owned());
        crate::blocking(move || {
            let mut gone = Vec::new();
            for named in names {
                let name = named.reference.familiar();
                let events = vec![image_event("untag", &id, &name)];
                if store.images().untag(&named.reference, events)? {
                    gone.push(ImageDeleted::Untagged(name));
                }
            }
            Ok(gone)
        })
        .await
    }

    /// Takes all names away, then the image, unless a container is made of it; then its nameless ancestors.
    async fn remove_whole(
        &self,
        image: &Image,
        tags: Vec<Arc<NamedTag>>,
        keep_parents: bool,
    ) -> Result<Vec<ImageDeleted>> {
        let mut gone = self.untag(image, tags).await?;
        if !self.image_users(image.id()).is_empty() {
            return Ok(gone);
        }
        if !self.delete(image.id()).await? {
            // Somebody has just given it a name.
            return Ok(gone);
        }
        gone.push(ImageDeleted::Deleted(image.id().to_owned()));
        if keep_parents {
            return Ok(gone);
        }
        let mut parent = image.parent.clone();
        let mut seen = HashSet::new();
        while !parent.is_empty() && seen.insert(parent.clone()) {
            let images = self.inner.images();
            let Some(ancestor) = images.get(&parent) else {
                break;
            };
            let keeps = !images.tags_of(&parent).is_empty()
                || images.children().contains_key(&parent)
                || !self.image_users(&parent).is_empty();
            // Quietly: somebody may just have taken it.
            if keeps || !self.delete(&parent).await.unwrap_or(false) {
                break;
            }
            gone.push(ImageDeleted::Deleted(parent));
            parent = ancestor.parent.clone();
        }
        Ok(gone)
    }

    /// `false`: it has a name and stays.
    async fn delete(&self, id: &str) -> Result<bool> {
        let (store, id) = (self.inner.store.clone(), id.to_owned());
        crate::blocking(move || {
            let events = vec![image_event("delete", &id, &id)];
            store.images().remove_nameless(&id, events)
        })
        .await
    }
}
