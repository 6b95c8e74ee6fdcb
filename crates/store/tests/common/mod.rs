//! What the store's tests share.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use longshore_store::{OpenReport, Store};

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
