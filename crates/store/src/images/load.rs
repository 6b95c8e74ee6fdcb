//! `docker load`: archives of `docker save` (old and new) and OCI layouts, plain or compressed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{self, Read},
};

use longshore_model::{Error, Reference, Result, error::go_errno};

use super::{
    Images,
    blobs::{read_document, receive},
    install::{Incoming, Name},
    manifest::{
        DOCKER_CONFIG, DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_MANIFEST, Descriptor, IMAGE_NAME,
        ImageConfig, Index, Manifest, Platform, REF_NAME, SavedImage,
    },
};
use crate::{
    records::NewEvent,
    tarball::{
        codec::{Compression, decompress},
        reader::{Kind, TarReader},
        unpack::{clean, split},
    },
};

/// Files in an archive at most: an image has some dozens.
const FILES_MAX: usize = 100_000;

/// What to load and what to do on the way.
pub struct LoadRequest<'a> {
    /// Only this platform of images that have several; `None`: whatever the archive has.
    pub platform: Option<Platform>,
    /// Events to keep together with each image's name.
    pub events: &'a mut dyn FnMut(&Loaded) -> Vec<NewEvent>,
    /// Called after each name is kept.
    pub progress: &'a mut dyn FnMut(&Loaded),
}

/// One name, or one image without a name, that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Id of the image.
    pub id: String,
    pub name: Option<Reference>,
}

impl Loaded {
    /// The line that `docker load` prints, without the newline.
    pub fn message(&self) -> String {
        match &self.name {
            Some(name) => format!("Loaded image: {}", name.familiar()),
            None => format!("Loaded image ID: {}", self.id),
        }
    }
}

impl Images {
    /// Loads an archive. What was loaded before an error stays; nothing half of an image does.
    ///
    /// # Errors
    /// Archives that are none, truncated, or whose content is not what they say; a full disk.
    pub fn load(&self, archive: impl Read + Send, request: LoadRequest<'_>) -> Result<Vec<Loaded>> {
        let mut incoming = Incoming::new(self)?;
        let archive = Archive::receive(archive, &mut incoming)?;
        let wanted = if archive.is_layout {
            archive.layout_images(&incoming)?
        } else {
            archive.saved_images(&mut incoming)?
        };
        let mut done = Vec::new();
        let mut by_digest: Vec<(Descriptor, Vec<Name>)> = Vec::new();
        for (descriptor, name) in wanted {
            let name = Name {
                reference: name,
                descriptor: descriptor.clone(),
            };
            match by_digest
                .iter_mut()
                .find(|(known, _)| known.digest == descriptor.digest)
            {
                Some((_, names)) => names.push(name),
                None => by_digest.push((descriptor, vec![name])),
            }
        }
        let result = by_digest.into_iter().try_for_each(|(descriptor, names)| {
            let image = incoming.assemble(&descriptor, request.platform.as_ref())?;
            incoming.keep(image, names, request.events, &mut |loaded| {
                (request.progress)(loaded);
                done.push(loaded.clone());
            })
        });
        drop(incoming);
        if result.is_err() {
            // What an unfinished image has brought in.
            self.collect_garbage()?;
        }
        result.map(|()| done)
    }
}

/// The files of an archive, by their path in it.
#[derive(Default)]
struct Archive {
    files: HashMap<Vec<u8>, Descriptor>,
    links: HashMap<Vec<u8>, Vec<u8>>,
    is_layout: bool,
    index: Option<Vec<u8>>,
    manifest: Option<Vec<u8>>,
}

impl Archive {
    fn receive(archive: impl Read + Send, incoming: &mut Incoming<'_>) -> Result<Self> {
        let mut found = Self::default();
        let read = || -> io::Result<()> {
            let (_, stream) = decompress(archive)?;
            let mut tar = TarReader::new(stream);
            while let Some(entry) = tar.next_entry()? {
                let path = clean(&entry.path)?;
                if found.files.len() + found.links.len() >= FILES_MAX {
                    return Err(io::Error::other("too many files in archive"));
                }
                if entry.kind == Kind::Symlink {
                    let folder = split(&path).map_or(&[][..], |(folder, _)| folder);
                    let target = clean(&[folder, b"/", &entry.link].concat())?;
                    found.links.insert(path, target);
                    continue;
                }
                if entry.kind != Kind::File || entry.sparse.is_some() {
                    continue;
                }
                let content = Content(&mut tar);
                match path.as_slice() {
                    b"oci-layout" => found.is_layout = true,
                    b"index.json" => found.index = Some(small(content)?),
                    b"manifest.json" => found.manifest = Some(small(content)?),
                    _ => {
                        let arrived = receive(content, &incoming.next_path())?;
                        check_blob_name(&path, &arrived.digest)?;
                        let descriptor = Descriptor {
                            digest: arrived.digest.clone(),
                            size: arrived.size,
                            ..Descriptor::default()
                        };
                        incoming.add(arrived);
                        found.files.insert(path, descriptor);
                    }
                }
            }
            tar.drain()
        };
        read().map_err(|e| match e.kind() {
            io::ErrorKind::InvalidData
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::Unsupported => Error::invalid(format!("failed to read archive: {e}")),
            _ => Error::system(format!("failed to receive archive: {}", go_errno(&e))),
        })?;
        Ok(found)
    }

    /// An OCI layout: `index.json` names the images.
    fn layout_images(
        &self,
        incoming: &Incoming<'_>,
    ) -> Result<Vec<(Descriptor, Option<Reference>)>> {
        let index = self
            .index
            .as_ref()
            .ok_or_else(|| Error::invalid("missing index.json in OCI layout"))?;
        let index: Index = parse(index, "index.json")?;
        let mut images = Vec::new();
        for descriptor in index.manifests {
            if descriptor.is_attestation() || !incoming.has(&descriptor.digest) {
                continue;
            }
            let name = [IMAGE_NAME, REF_NAME]
                .iter()
                .find_map(|key| descriptor.annotations.get(*key))
                .and_then(|name| Reference::parse(name).ok())
                .map(Reference::or_latest);
            images.push((descriptor, name));
        }
        if images.is_empty() {
            return Err(Error::invalid("no image in archive"));
        }
        Ok(images)
    }

    /// An archive of an older `docker save`: `manifest.json` names configuration and layers of each image. A manifest is
    /// made of that as containerd makes it, so that the same archive gives the same ids everywhere.
    fn saved_images(
        &self,
        incoming: &mut Incoming<'_>,
    ) -> Result<Vec<(Descriptor, Option<Reference>)>> {
        let manifest = self
            .manifest
            .as_ref()
            .ok_or_else(|| Error::invalid("unrecognized image format"))?;
        let saved: Vec<SavedImage> = parse(manifest, "manifest.json")?;
        let mut images = Vec::new();
        for image in saved {
            let config = self.file(&image.config).ok_or_else(|| {
                Error::invalid(format!("image config {:?} not found", image.config))
            })?;
            let mut layers = Vec::new();
            for path in &image.layers {
                let layer = self
                    .file(path)
                    .ok_or_else(|| Error::invalid(format!("layer {path:?} not found")))?;
                let packed = incoming.compression(&layer.digest)? != Compression::None;
                layers.push(Descriptor {
                    media_type: if packed {
                        DOCKER_LAYER_GZIP
                    } else {
                        DOCKER_LAYER
                    }
                    .to_owned(),
                    ..layer
                });
            }
            let document = incoming.document(&config.digest)?;
            let platform = ImageConfig::parse(&document)
                .map_err(|e| Error::invalid(format!("image config {:?}: {e}", image.config)))?
                .platform;
            let manifest = Manifest {
                schema_version: 2,
                media_type: DOCKER_MANIFEST.to_owned(),
                config: Descriptor {
                    media_type: DOCKER_CONFIG.to_owned(),
                    ..config
                },
                layers,
            };
            let mut descriptor = incoming.add_document(&manifest, DOCKER_MANIFEST)?;
            descriptor.platform = (!platform.os.is_empty()).then_some(platform);
            if image.repo_tags.is_empty() {
                images.push((descriptor.clone(), None));
            }
            for name in &image.repo_tags {
                let name = Reference::parse(name)?.or_latest();
                let annotations = BTreeMap::from([
                    (IMAGE_NAME.to_owned(), name.canonical()),
                    (REF_NAME.to_owned(), name.tag.clone().unwrap_or_default()),
                ]);
                let descriptor = Descriptor {
                    annotations,
                    ..descriptor.clone()
                };
                images.push((descriptor, Some(name)));
            }
        }
        if images.is_empty() {
            return Err(Error::invalid("no image in archive"));
        }
        Ok(images)
    }

    /// A file by its path, through the links that archives use for layers that several images have.
    fn file(&self, path: &str) -> Option<Descriptor> {
        let mut path = clean(path.as_bytes()).ok()?;
        let mut seen = HashSet::new();
        loop {
            if let Some(found) = self.files.get(&path) {
                return Some(found.clone());
            }
            let target = self.links.get(&path)?.clone();
            if !seen.insert(path) {
                return None;
            }
            path = target;
        }
    }
}

/// Content of the current entry.
struct Content<'a, R>(&'a mut TarReader<R>);

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_content(buffer)
    }
}

fn small(content: impl Read) -> io::Result<Vec<u8>> {
    read_document(content, "archive")
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.message))
}

/// In a layout, a blob's name is its digest.
fn check_blob_name(path: &[u8], digest: &str) -> io::Result<()> {
    let Some(name) = path.strip_prefix(b"blobs/sha256/") else {
        return Ok(());
    };
    if name == &digest.as_bytes()["sha256:".len()..] {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "unexpected commit digest {digest}, expected sha256:{}",
            String::from_utf8_lossy(name)
        ),
    ))
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], name: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::invalid(format!("{name}: {e}")))
}
