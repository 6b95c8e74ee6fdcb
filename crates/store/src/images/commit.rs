//! `docker commit`: a container's writable directory as a layer on top of its image.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use longshore_model::{Error, Reference, Result, Timestamp, error::go_errno};
use rustix::fs::{Mode, OFlags};
use serde_json::{Map, Value, json};

use super::{
    Images, Loaded,
    blobs::Arrived,
    changes,
    install::{Incoming, Name},
    manifest::{
        DOCKER_LAYER, DOCKER_LAYER_GZIP, Descriptor, Manifest, OCI_CONFIG, OCI_LAYER,
        OCI_LAYER_GZIP, OCI_MANIFEST,
    },
    record::{Image, PlatformImage},
};
use crate::{
    records::NewEvent,
    tarball::{codec::Hashing, layer, writer::TarWriter},
};

/// What becomes an image.
pub struct CommitRequest<'a> {
    /// The container's image, leased meanwhile, and the digest of the manifest that it runs.
    pub base: &'a Image,
    pub manifest: &'a str,
    /// The container's writable directory.
    pub upper: PathBuf,
    pub author: String,
    pub comment: String,
    /// What the container ran, for the history.
    pub created_by: String,
    /// The run configuration (`Cmd`, `Env`, ...), before the changes.
    pub config: Map<String, Value>,
    /// Dockerfile instructions that change the configuration.
    pub changes: Vec<String>,
    pub reference: Option<Reference>,
}

impl Images {
    /// Makes the image and returns its id. `read` is called when the container's files have been read. `events` gives the
    /// events to keep with the image's name.
    ///
    /// # Errors
    /// Instructions that cannot be followed; files that cannot be read; a full disk.
    pub fn commit(
        &self,
        request: CommitRequest<'_>,
        read: &mut dyn FnMut(),
        events: &mut dyn FnMut(&Loaded) -> Vec<NewEvent>,
    ) -> Result<String> {
        let config = changes::apply(request.config.clone(), &request.changes)?;
        let base = request
            .base
            .manifests
            .iter()
            .find(|m| m.descriptor.digest == request.manifest)
            .ok_or_else(|| Error::not_found(format!("No such image: {}", request.base.id())))?;
        let mut incoming = Incoming::new(self)?;
        let result = (|| {
            let layer = pack(&request.upper, &incoming.next_path())
                .map_err(|e| Error::system(format!("failed to export layer: {}", go_errno(&e))))?;
            read();
            let config = self.configuration(&request, base, layer.as_ref(), config)?;
            let config = incoming.add_document(&config, OCI_CONFIG)?;
            let mut layers: Vec<Descriptor> = base.layers.iter().map(|l| oci(&l.blob)).collect();
            if let Some((arrived, _)) = layer {
                layers.push(Descriptor {
                    media_type: OCI_LAYER_GZIP.to_owned(),
                    digest: arrived.digest.clone(),
                    size: arrived.size,
                    ..Descriptor::default()
                });
                incoming.add(arrived);
            }
            let manifest = Manifest {
                schema_version: 2,
                media_type: OCI_MANIFEST.to_owned(),
                config,
                layers,
            };
            let descriptor = incoming.add_document(&manifest, OCI_MANIFEST)?;
            let mut image = incoming.assemble(&descriptor, Some(&base.platform))?;
            let id = image.id().to_owned();
            if request.base.id() != id {
                request.base.id().clone_into(&mut image.parent);
            }
            let name = Name {
                reference: request.reference.clone().map(Reference::or_latest),
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

    /// The new image's configuration: the base's with another run configuration, layer and step.
    fn configuration(
        &self,
        request: &CommitRequest<'_>,
        base: &PlatformImage,
        layer: Option<&(Arrived, String)>,
        config: Map<String, Value>,
    ) -> Result<Value> {
        let old = self.config(base)?;
        let author = match request.author.as_str() {
            "" => &old.author,
            author => author,
        };
        let created = Timestamp::now().rfc3339();
        let mut diff_ids = old.rootfs.diff_ids.clone();
        diff_ids.extend(layer.map(|(_, diff_id)| diff_id.clone()));
        let mut step = json!({"created": created});
        for (key, value) in [
            ("created_by", &request.created_by),
            ("author", &author.to_owned()),
            ("comment", &request.comment),
        ] {
            if !value.is_empty() {
                step[key] = json!(value);
            }
        }
        if layer.is_none() {
            step["empty_layer"] = json!(true);
        }
        let mut history = old.raw["history"].as_array().cloned().unwrap_or_default();
        history.push(step);
        let mut document = json!({
            "created": created,
            "architecture": base.platform.architecture,
            "os": base.platform.os,
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        for (key, value) in [
            ("author", author),
            ("variant", &base.platform.variant),
            ("os.version", &base.platform.os_version),
        ] {
            if !value.is_empty() {
                document[key] = json!(value);
            }
        }
        Ok(document)
    }
}

/// Packs the directory; the blob and its diff id. `None`: there is nothing in it.
fn pack(upper: &Path, to: &Path) -> io::Result<Option<(Arrived, String)>> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let upper = rustix::fs::open(upper, flags, Mode::empty())?;
    let file = File::create_new(to)?;
    let packed = Hashing::new(BufWriter::with_capacity(256 * 1024, &file));
    let encoder = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
    let plain = Hashing::new(encoder);
    let mut tar = TarWriter::new(BufWriter::with_capacity(256 * 1024, plain));
    let entries = layer::pack(&upper, &mut tar)?;
    let plain = tar.finish()?.into_inner().map_err(|e| e.into_error())?;
    let (encoder, diff_id, _) = plain.into_parts();
    let mut packed = encoder.finish()?;
    packed.flush()?;
    let (digest, size) = packed.finish();
    if entries == 0 {
        std::fs::remove_file(to)?;
        return Ok(None);
    }
    let arrived = Arrived {
        path: to.to_owned(),
        digest,
        size,
    };
    Ok(Some((arrived, diff_id)))
}

/// The layer's descriptor in an OCI manifest. The content of Docker's media types is the same.
fn oci(blob: &Descriptor) -> Descriptor {
    let media_type = match blob.media_type.as_str() {
        DOCKER_LAYER => OCI_LAYER,
        DOCKER_LAYER_GZIP => OCI_LAYER_GZIP,
        other => other,
    };
    Descriptor {
        media_type: media_type.to_owned(),
        ..blob.clone()
    }
}
