//! From the content of a pull to an image.

use std::sync::{Arc, Mutex, PoisonError};

use longshore_model::{Reference, Result};

use super::{
    Images, Loaded,
    ingest::PreparedLayer,
    install::{Incoming, Name},
    manifest::{Descriptor, Platform},
};
use crate::records::NewEvent;

/// A layer that several pulls may wait for; the first one to install takes it.
pub type Shared = Arc<Mutex<Option<PreparedLayer>>>;

/// What a pull has brought into the ingest folder.
pub struct Pulled {
    /// The manifest, or the index.
    pub target: Descriptor,
    /// What was asked for; `None`: this machine's.
    pub platform: Option<Platform>,
    /// Every blob that the image consists of here, whether it came now or was there.
    pub blobs: Vec<String>,
    /// Layers that were unpacked while they came, by their blob's digest.
    pub layers: Vec<(String, Shared)>,
    pub name: Reference,
}

impl Images {
    /// Makes an image of what has come, and gives it its name.
    ///
    /// # Errors
    /// Content that does not fit together; the disk; the database.
    pub fn install_pulled(
        &self,
        pulled: Pulled,
        events: &mut dyn FnMut(&Loaded) -> Vec<NewEvent>,
    ) -> Result<String> {
        let mut incoming = Incoming::new(self)?;
        for digest in &pulled.blobs {
            if !self.has_blob(digest)
                && let Some(arrived) = self.arrived(digest)
            {
                incoming.add(arrived);
            }
        }
        for (digest, layer) in pulled.layers {
            incoming.prepare(digest, layer);
        }
        let result = incoming
            .assemble(&pulled.target, pulled.platform.as_ref())
            .and_then(|image| {
                let id = image.id().to_owned();
                let name = Name {
                    reference: Some(pulled.name),
                    descriptor: pulled.target,
                };
                incoming
                    .keep(image, vec![name], events, &mut |_| {})
                    .map(|()| id)
            });
        drop(incoming);
        if result.is_err() {
            self.collect_garbage()?;
        }
        result
    }
}

/// Takes the unpacked layer, if nobody has.
pub(super) fn take(shared: &Shared) -> Option<PreparedLayer> {
    shared.lock().unwrap_or_else(PoisonError::into_inner).take()
}
