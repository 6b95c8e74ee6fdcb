//! `docker save`: an OCI layout that is a docker-archive at the same time, as dockerd with containerd's store writes it.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    sync::Arc,
};

use longshore_model::{Error, Reference, Result, error::go_errno};
use serde::Serialize;

use super::{
    gc::Held,
    manifest::{Descriptor, IMAGE_NAME, OCI_INDEX, Platform, REF_NAME},
    record::{Image, PlatformImage},
    to_json,
};
use crate::{
    store::Store,
    tarball::{
        codec::Hashing,
        reader::{Entry, Kind, Time, invalid},
        writer::TarWriter,
    },
};

const BUFFER: usize = 256 * 1024;

/// An archive that can be written: everything is resolved, and its blobs are held.
pub struct Saving {
    store: Store,
    /// Ids of the images, in the order of the request.
    pub images: Vec<String>,
    held: Vec<Held>,
    targets: Vec<Descriptor>,
    manifests: Vec<SavedManifest>,
    blobs: BTreeMap<String, u64>,
}

/// An image to save, the descriptor that goes into the index, and the name.
type Wanted = (Arc<Image>, Descriptor, Option<Reference>);

/// An entry of `manifest.json`, in the order of fields that dockerd's has.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SavedManifest {
    #[serde(skip)]
    digest: String,
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Layout<'a> {
    schema_version: u32,
    media_type: &'static str,
    manifests: &'a [Descriptor],
}

impl Saving {
    /// Finds what the names stand for. A repository without a tag stands for all of its tags; an id, or a name with a digest,
    /// for an image without a name. No platform: all that is here.
    ///
    /// # Errors
    /// `NotFound` for a name that nothing has, or a platform that an image has not.
    pub fn prepare(store: &Store, names: &[String], platforms: &[Platform]) -> Result<Self> {
        let mut saving = Self {
            store: store.clone(),
            images: Vec::new(),
            held: Vec::new(),
            targets: Vec::new(),
            manifests: Vec::new(),
            blobs: BTreeMap::new(),
        };
        for name in names {
            for (image, descriptor, reference) in saving.named(name)? {
                saving.add(&image, descriptor, reference.as_ref(), name, platforms)?;
            }
        }
        Ok(saving)
    }

    fn named(&self, text: &str) -> Result<Vec<Wanted>> {
        let images = self.store.images();
        let resolved = images.resolve(text);
        let parsed = Reference::parse(text).ok();
        let by_id = matches!(&resolved, Ok(found) if found.tag.is_none())
            || parsed.as_ref().is_some_and(|r| r.digest.is_some());
        if let Some(repository) = parsed.filter(|r| r.tag.is_none() && !by_id) {
            let all = images.tags();
            let own = all
                .iter()
                .filter(|t| t.reference.name() == repository.name())
                .filter(|t| t.reference.digest.is_none())
                .filter_map(|t| {
                    let image = images.get(&t.tag.image)?;
                    Some((image, t.tag.descriptor.clone(), Some(t.reference.clone())))
                });
            let own: Vec<_> = own.collect();
            if !own.is_empty() {
                return Ok(own);
            }
        }
        let found = resolved?;
        let image = found.image.clone();
        Ok(match found.tag {
            Some(named) if !by_id => vec![(
                image,
                named.tag.descriptor.clone(),
                Some(named.reference.clone()),
            )],
            _ => vec![(image.clone(), image.descriptor.clone(), None)],
        })
    }

    fn add(
        &mut self,
        image: &Arc<Image>,
        mut target: Descriptor,
        reference: Option<&Reference>,
        asked: &str,
        platforms: &[Platform],
    ) -> Result<()> {
        let gone = || Error::not_found(format!("No such image: {asked}"));
        self.held
            .push(Held::take(&self.store, image.id()).ok_or_else(gone)?);
        let chosen = chosen(image, asked, platforms)?;
        if let ([only], false) = (chosen.as_slice(), platforms.is_empty()) {
            target = only.descriptor.clone();
        }
        if platforms.is_empty() {
            self.blobs
                .extend(image.blobs.iter().map(|(d, s)| (d.clone(), *s)));
        } else {
            self.blobs.insert(target.digest.clone(), target.size);
            for manifest in &chosen {
                let layers = manifest.layers.iter().map(|layer| &layer.blob);
                let own = layers.chain([&manifest.descriptor, &manifest.config]);
                self.blobs.extend(own.map(|d| (d.digest.clone(), d.size)));
            }
        }
        for key in [IMAGE_NAME, REF_NAME] {
            target.annotations.remove(key);
        }
        if let Some(reference) = reference {
            let tag = reference.tag.clone().unwrap_or_default();
            target
                .annotations
                .insert(IMAGE_NAME.to_owned(), reference.canonical());
            target.annotations.insert(REF_NAME.to_owned(), tag);
        }
        // dockerd's `manifest.json` has one platform an image: this machine's rather than another.
        let host = Platform::host();
        let main = chosen
            .iter()
            .find(|m| host.runs(&m.platform))
            .or(chosen.first());
        if let Some(main) = main {
            self.describe(main, reference);
        }
        if !self.targets.contains(&target) {
            self.targets.push(target);
        }
        if !self.images.contains(&image.descriptor.digest) {
            self.images.push(image.id().to_owned());
        }
        Ok(())
    }

    fn describe(&mut self, manifest: &PlatformImage, reference: Option<&Reference>) {
        let digest = &manifest.descriptor.digest;
        let at = self.manifests.iter().position(|m| m.digest == *digest);
        let at = at.unwrap_or_else(|| {
            let layers: Vec<String> = manifest
                .layers
                .iter()
                .map(|layer| blob_path(&layer.blob.digest))
                .collect();
            self.manifests.push(SavedManifest {
                digest: digest.clone(),
                config: blob_path(&manifest.config.digest),
                repo_tags: None,
                layers: (!layers.is_empty()).then_some(layers),
            });
            self.manifests.len() - 1
        });
        if let (Some(entry), Some(reference)) = (self.manifests.get_mut(at), reference) {
            let tags = entry.repo_tags.get_or_insert_default();
            let name = reference.familiar();
            if !tags.contains(&name) {
                tags.push(name);
            }
        }
    }

    /// Writes the archive. Each blob is digested on its way: a damaged one ends the archive with an error.
    ///
    /// # Errors
    /// The receiver's; a blob that cannot be read or is not what its name says.
    pub fn write(self, out: impl Write) -> Result<()> {
        let done = self.write_archive(out);
        done.map_err(|e| Error::system(format!("failed to write archive: {}", go_errno(&e))))
    }

    fn write_archive(&self, out: impl Write) -> io::Result<()> {
        let json = |e: Error| io::Error::other(e.message);
        let index = to_json(&Layout {
            schema_version: 2,
            media_type: OCI_INDEX,
            manifests: &self.targets,
        })
        .map_err(json)?;
        let manifests = to_json(&self.manifests).map_err(json)?;
        let mut tar = TarWriter::new(out);
        // The order of dockerd's archives: by name.
        for folder in ["blobs/", "blobs/sha256/"] {
            tar.begin(&entry(folder, Kind::Directory, 0o755, 0))?;
        }
        let mut buffer = vec![0u8; BUFFER];
        for (digest, size) in &self.blobs {
            tar.begin(&entry(&blob_path(digest), Kind::File, 0o444, *size))?;
            self.copy(digest, &mut tar, &mut buffer)?;
        }
        for (name, mode, content) in [
            ("index.json", 0o644, index.as_slice()),
            ("manifest.json", 0o644, &manifests),
            ("oci-layout", 0o444, br#"{"imageLayoutVersion":"1.0.0"}"#),
        ] {
            tar.begin(&entry(name, Kind::File, mode, content.len() as u64))?;
            tar.write(content)?;
        }
        tar.finish().map(drop)
    }

    fn copy<W: Write>(
        &self,
        digest: &str,
        tar: &mut TarWriter<W>,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        let blob = self.store.images().blob(digest);
        let mut blob = Hashing::new(blob.map_err(|e| io::Error::other(e.message))?);
        loop {
            match blob.read(buffer)? {
                0 => break,
                n => tar.write(&buffer[..n])?,
            }
        }
        if blob.finish().0 != digest {
            return Err(invalid("a blob is damaged"));
        }
        Ok(())
    }
}

/// The manifests that are asked for.
fn chosen<'a>(
    image: &'a Image,
    asked: &str,
    platforms: &[Platform],
) -> Result<Vec<&'a PlatformImage>> {
    let runnable = || image.manifests.iter().filter(|m| !m.attestation);
    if platforms.is_empty() {
        return Ok(runnable().collect());
    }
    let mut chosen: Vec<&PlatformImage> = Vec::new();
    for platform in platforms {
        let found = runnable().find(|m| platform.runs(&m.platform)).ok_or_else(|| {
            Error::not_found(format!(
                "no suitable export target found: image with reference {asked} was found but does not provide the specified platform ({})",
                platform.text()
            ))
        })?;
        if !chosen
            .iter()
            .any(|m| m.descriptor.digest == found.descriptor.digest)
        {
            chosen.push(found);
        }
    }
    Ok(chosen)
}

fn blob_path(digest: &str) -> String {
    format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"))
}

fn entry(path: &str, kind: Kind, mode: u32, size: u64) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        link: Vec::new(),
        kind,
        size,
        sparse: None,
        mode,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        xattrs: Vec::new(),
    }
}
