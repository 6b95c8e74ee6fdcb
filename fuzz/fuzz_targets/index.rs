//! Any bytes as an index of manifests, or the `manifest.json` of an archive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_store::images::manifest::{Index, SavedImage};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(index) = serde_json::from_slice::<Index>(bytes) {
        for descriptor in &index.manifests {
            let _ = (descriptor.is_index(), descriptor.is_attestation());
        }
    }
    let _ = serde_json::from_slice::<Vec<SavedImage>>(bytes);
});
