//! What the store's tests share.
#![allow(dead_code, clippy::unwrap_used)]

pub mod archive;

use std::path::{Path, PathBuf};

use longshore_store::{NewEvent, OpenReport, Store, images::LoadRequest};

/// A directory that is deleted with the value.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        let name = format!(
            "longshore-store-{}",
            &longshore_model::id::random_hex()[..16]
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

pub fn open(root: &Path) -> (Store, OpenReport) {
    Store::open(root, Box::new(|_| {})).unwrap()
}

pub fn load(store: &Store, archive: &[u8]) -> longshore_model::Result<Vec<String>> {
    let mut lines = Vec::new();
    store.images().load(
        archive,
        LoadRequest {
            platform: None,
            events: &mut |loaded| {
                vec![NewEvent {
                    kind: "image".into(),
                    action: "load".into(),
                    actor: loaded.id.clone(),
                    ..NewEvent::default()
                }]
            },
            progress: &mut |loaded| lines.push(loaded.message()),
        },
    )?;
    Ok(lines)
}

/// The folder of the only layer of the only image.
pub fn only_layer(store: &Store) -> PathBuf {
    let images = store.images().list();
    assert_eq!(images.len(), 1);
    let lower = store.images().rootfs(&images[0], None).unwrap();
    assert_eq!(lower.len(), 2);
    lower[1].clone()
}

/// Everything that is no part of a finished image is gone.
pub fn assert_tidy(store: &Store) {
    let root = store.root();
    assert_eq!(
        std::fs::read_dir(root.join("tmp")).unwrap().count(),
        0,
        "tmp"
    );
    assert_eq!(store.fsck().unwrap(), vec![]);
}
