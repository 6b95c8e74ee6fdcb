//! Any bytes as a manifest and as an image's configuration.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_store::images::manifest::{ImageConfig, Manifest, Platform};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) {
        let again = serde_json::to_vec(&manifest).expect("what was read can be written");
        let again: Manifest = serde_json::from_slice(&again).expect("what was written can be read");
        assert_eq!(again.layers, manifest.layers);
    }
    if let Ok(config) = ImageConfig::parse(bytes) {
        let _ = Platform::host().runs(&config.platform);
        let _ = config.platform.text();
    }
    if let Some(platform) = std::str::from_utf8(bytes).ok().and_then(Platform::parse) {
        assert_eq!(Platform::parse(&platform.text()), Some(platform));
    }
});
