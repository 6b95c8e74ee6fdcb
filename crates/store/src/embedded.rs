//! The image that comes with the engine: `longshore/hello:latest`, one static program, so that a machine without a
//! registry can run a first container.

use std::{
    fs::File,
    io::{Read, Write},
    path::Path,
    time::UNIX_EPOCH,
};

use longshore_model::{Error, Reference, Result, Timestamp};
use serde_json::json;

use crate::{
    images::{
        Images, Loaded,
        blobs::Arrived,
        install::{Incoming, Name},
        manifest::{Descriptor, Manifest, OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Platform},
    },
    records::NewEvent,
    tarball::codec::Hashing,
};

/// Its name.
pub const HELLO: &str = "longshore/hello:latest";
/// Label that tells which program an existing image was made of.
const PAYLOAD: &str = "longshore.payload";

impl Images {
    /// Makes sure that `longshore/hello:latest` is there and made of this program: `/hello`, entrypoint `["/hello"]`,
    /// command `["greet"]`, port 80/tcp. The same program gives the same image. Returns its id.
    ///
    /// # Errors
    /// A program that cannot be read; a full disk.
    pub fn ensure_hello_image(
        &self,
        payload: &Path,
        events: &mut dyn FnMut(&Loaded) -> Vec<NewEvent>,
    ) -> Result<String> {
        let fail = |e: std::io::Error| Error::io(format_args!("read {}", payload.display()), e);
        let reference = Reference::parse(HELLO)?;
        let digest = payload_digest(payload).map_err(fail)?;
        let old = self
            .tag_named(&reference)
            .map(|named| named.tag.image.clone());
        if let Some(id) = &old
            && self.payload_of(id).as_deref() == Some(&digest)
        {
            return Ok(id.clone());
        }
        let mut incoming = Incoming::new(self)?;
        let modified = std::fs::metadata(payload)
            .and_then(|meta| meta.modified())
            .map_err(fail)?
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let created = Timestamp(i64::try_from(modified.as_nanos()).unwrap_or(1)).rfc3339();
        let path = incoming.next_path();
        let (layer, diff_id) = pack(payload, &path).map_err(fail)?;
        let platform = Platform::host();
        let config = json!({
            "created": created,
            "architecture": platform.architecture,
            "os": platform.os,
            "config": {
                "Entrypoint": ["/hello"],
                "Cmd": ["greet"],
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "ExposedPorts": {"80/tcp": {}},
                "Labels": {PAYLOAD: digest},
            },
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": created, "created_by": "longshore"}],
        });
        let config = incoming.add_document(&config, OCI_CONFIG)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: OCI_MANIFEST.to_owned(),
            config,
            layers: vec![Descriptor {
                media_type: OCI_LAYER_GZIP.to_owned(),
                digest: layer.digest.clone(),
                size: layer.size,
                ..Descriptor::default()
            }],
        };
        incoming.add(layer);
        let descriptor = incoming.add_document(&manifest, OCI_MANIFEST)?;
        let image = incoming.assemble(&descriptor, None)?;
        let id = image.id().to_owned();
        let name = Name {
            reference: Some(reference),
            descriptor,
        };
        incoming.keep(image, vec![name], events, &mut |_| {})?;
        drop(incoming);
        if let Some(old) = old.filter(|old| *old != id && self.tags_of(old).is_empty()) {
            // Containers that still use the old one keep it.
            let _ = self.remove(&old, Vec::new());
        }
        Ok(id)
    }

    fn payload_of(&self, id: &str) -> Option<String> {
        let image = self.get(id)?;
        let manifest = image.for_platform(None)?;
        if !manifest.is_unpacked() {
            return None;
        }
        let config = self.config(manifest).ok()?;
        config.config.labels.as_ref()?.get(PAYLOAD).cloned()
    }
}

fn payload_digest(payload: &Path) -> std::io::Result<String> {
    let mut hashing = Hashing::new(File::open(payload)?);
    std::io::copy(&mut hashing, &mut std::io::sink())?;
    Ok(hashing.finish().0)
}

/// The layer: one file in a tar in a gzip, with nothing of this machine in it. Returns it and its diff id.
fn pack(payload: &Path, path: &Path) -> std::io::Result<(Arrived, String)> {
    let program = File::open(payload)?;
    let size = program.metadata()?.len();
    let out = Hashing::new(File::create_new(path)?);
    let gzip = flate2::write::GzEncoder::new(out, flate2::Compression::fast());
    let mut plain = Hashing::new(gzip);
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_path("hello")?;
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    plain.write_all(header.as_bytes())?;
    let copied = std::io::copy(&mut program.take(size), &mut plain)?;
    if copied != size {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let padding = usize::try_from((512 - size % 512) % 512).unwrap_or(0);
    plain.write_all(&vec![0u8; padding + 1024])?;
    let (gzip, diff_id, _) = plain.into_parts();
    let mut out = gzip.finish()?;
    out.flush()?;
    let (digest, size) = out.finish();
    let arrived = Arrived {
        path: path.to_owned(),
        digest,
        size,
    };
    Ok((arrived, diff_id))
}
