//! `docker import`: a root file system's archive as an image of one layer.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use longshore_model::{Error, Reference, Result, Timestamp, error::go_errno};
use serde_json::json;

use super::{
    Images, Loaded,
    blobs::{Arrived, receive},
    changes,
    install::{Incoming, Name},
    manifest::{
        Descriptor, Manifest, OCI_CONFIG, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST, Platform,
    },
};
use crate::{
    records::NewEvent,
    tarball::codec::{Compression, Hashing, decompress},
};

/// What to make of the archive.
#[derive(Default)]
pub struct ImportRequest {
    pub reference: Option<Reference>,
    /// Comment of the only step in the image's history.
    pub message: String,
    /// Dockerfile instructions (`ENV a=b`, `CMD [...]`) that make up the configuration.
    pub changes: Vec<String>,
    pub platform: Option<Platform>,
}

impl Images {
    /// Imports an archive and returns the image's id. `events` gives the events to keep with it.
    ///
    /// # Errors
    /// Instructions that cannot be followed; an archive that is none; a full disk.
    pub fn import(
        &self,
        archive: impl Read + Send,
        request: ImportRequest,
        events: &mut dyn FnMut(&Loaded) -> Vec<NewEvent>,
    ) -> Result<String> {
        let config = changes::apply(serde_json::Map::new(), &request.changes)?;
        let mut incoming = Incoming::new(self)?;
        let result = (|| {
            let (layer, diff_id) = receive_layer(archive, &mut incoming)?;
            let platform = request.platform.unwrap_or_else(Platform::host);
            let created = Timestamp::now().rfc3339();
            let mut document = json!({
                "created": created,
                "architecture": platform.architecture,
                "os": platform.os,
                "rootfs": {"type": "layers", "diff_ids": [diff_id]},
                "history": [{"created": created, "comment": request.message}],
                "config": config,
            });
            if !platform.variant.is_empty() {
                document["variant"] = platform.variant.into();
            }
            let config = incoming.add_document(&document, OCI_CONFIG)?;
            let manifest = Manifest {
                schema_version: 2,
                media_type: OCI_MANIFEST.to_owned(),
                config,
                layers: vec![layer],
            };
            let descriptor = incoming.add_document(&manifest, OCI_MANIFEST)?;
            let image = incoming.assemble(&descriptor, None)?;
            let id = image.id().to_owned();
            let name = Name {
                reference: request.reference.map(Reference::or_latest),
                descriptor,
            };
            incoming.keep(image, vec![name], events, &mut |_| {})?;
            Ok(id)
        })();
        drop(incoming);
        if result.is_err() {
            self.collect_garbage()?;
        }
        result
    }
}

/// Stores the archive as a layer: compressed ones as they are, others with gzip. Returns the layer and its diff id.
fn receive_layer(
    archive: impl Read + Send,
    incoming: &mut Incoming<'_>,
) -> Result<(Descriptor, String)> {
    let fail = |e: io::Error| match e.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::Unsupported => {
            Error::invalid(format!("failed to read archive: {e}"))
        }
        _ => Error::system(format!("failed to receive archive: {}", go_errno(&e))),
    };
    let raw = receive(archive, &incoming.next_path()).map_err(fail)?;
    let file = File::open(&raw.path).map_err(fail)?;
    let (compression, plain) = decompress(file).map_err(fail)?;
    let mut plain = Hashing::new(plain);
    let (arrived, media_type) = match compression {
        Compression::None => {
            let path = incoming.next_path();
            let packed = compress(&mut plain, &path).map_err(fail)?;
            // Only the packed one is needed; gone now rather than when all is done.
            let _ = std::fs::remove_file(&raw.path);
            (packed, OCI_LAYER_GZIP)
        }
        packed => {
            io::copy(&mut plain, &mut io::sink()).map_err(fail)?;
            let media_type = if packed == Compression::Zstd {
                OCI_LAYER_ZSTD
            } else {
                OCI_LAYER_GZIP
            };
            (raw, media_type)
        }
    };
    let layer = Descriptor {
        media_type: media_type.to_owned(),
        digest: arrived.digest.clone(),
        size: arrived.size,
        ..Descriptor::default()
    };
    incoming.add(arrived);
    Ok((layer, plain.finish().0))
}

fn compress(plain: &mut impl Read, path: &Path) -> io::Result<Arrived> {
    let file = File::create_new(path)?;
    let out = Hashing::new(&file);
    let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::fast());
    io::copy(plain, &mut encoder)?;
    let mut out = encoder.finish()?;
    out.flush()?;
    let (digest, size) = out.finish();
    Ok(Arrived {
        path: path.to_owned(),
        digest,
        size,
    })
}
