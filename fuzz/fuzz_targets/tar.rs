//! Any bytes as a layer: read to the end, whatever they say about themselves.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_tarball::{codec::decompress, reader::TarReader};

fuzz_target!(|bytes: &[u8]| {
    let Ok((_, stream)) = decompress(bytes) else {
        return;
    };
    let mut tar = TarReader::new(stream);
    let (mut buffer, mut total) = ([0u8; 4096], 0usize);
    while let Ok(Some(_)) = tar.next_entry() {
        while let Ok(got @ 1..) = tar.read_content(&mut buffer) {
            total += got;
            // Packed zeros would only cost time.
            if total > 16 << 20 {
                return;
            }
        }
    }
});
