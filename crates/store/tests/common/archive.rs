//! Small image archives, good and evil.

use std::io::Write;

use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// A tar archive in the making.
pub struct Tar(Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }
    /// An entry with this exact name, even one that no honest program writes.
    pub fn raw(
        mut self,
        kind: EntryType,
        name: &[u8],
        link: &[u8],
        mode: u32,
        content: &[u8],
    ) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }
    pub fn header(mut self, mut header: Header, content: &[u8]) -> Self {
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + rest.to_string().len();
            if length.to_string().len() + rest != length {
                length = rest + length.to_string().len();
            }
            body.extend(format!("{length} {key}=").bytes());
            body.extend(*value);
            body.push(b'\n');
        }
        self.raw(EntryType::XHeader, b"pax", b"", 0o644, &body)
    }
    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.raw(EntryType::Regular, name.as_bytes(), b"", 0o644, content)
    }
    pub fn dir(self, name: &str, mode: u32) -> Self {
        self.raw(EntryType::Directory, name.as_bytes(), b"", mode, b"")
    }
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(
            EntryType::Symlink,
            name.as_bytes(),
            target.as_bytes(),
            0o777,
            b"",
        )
    }
    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.raw(
            EntryType::Link,
            name.as_bytes(),
            target.as_bytes(),
            0o644,
            b"",
        )
    }
    pub fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    longshore_model::id::hex(&Sha256::digest(bytes))
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// A configuration whose layers have these diff ids.
pub fn config(layers: &[Vec<u8>], architecture: &str) -> Vec<u8> {
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|l| format!("sha256:{}", sha256(l)))
        .collect();
    serde_json::to_vec(&serde_json::json!({
        "architecture": architecture, "os": "linux", "created": "2026-01-01T00:00:00Z",
        "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": layers.iter().map(|_| serde_json::json!({"created_by": "test"})).collect::<Vec<_>>(),
    }))
    .unwrap()
}

/// What `docker save` wrote before version 25. `layers` are plain tars; `pack` is how they are stored.
pub fn saved(tags: &[&str], layers: &[Vec<u8>], pack: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let config = config(layers, "amd64");
    let config_name = format!("{}.json", sha256(&config));
    let mut tar = Tar::new();
    let mut names = Vec::new();
    for layer in layers {
        let name = format!("{}/l.tar", &sha256(layer)[..20]);
        tar = tar.file(&name, &pack(layer));
        names.push(name);
    }
    let manifest = serde_json::json!([{"Config": config_name, "RepoTags": tags, "Layers": names}]);
    tar.file(&config_name, &config)
        .file("manifest.json", manifest.to_string().as_bytes())
        .done()
}

/// An OCI layout with one image for each architecture, in one index if there are several.
pub fn layout(name: &str, images: &[(&str, Vec<Vec<u8>>)]) -> Vec<u8> {
    let mut tar = Tar::new().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    let mut manifests = Vec::new();
    let blob = |tar: Tar, bytes: &[u8]| -> (Tar, String) {
        let name = format!("blobs/sha256/{}", sha256(bytes));
        let mut header = Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o444);
        (
            tar.header(header, bytes),
            format!("sha256:{}", sha256(bytes)),
        )
    };
    let annotations = serde_json::json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "x"});
    for (architecture, layers) in images {
        let config = config(layers, architecture);
        let mut described = Vec::new();
        for layer in layers {
            let packed = gzip(layer);
            let digest;
            (tar, digest) = blob(tar, &packed);
            described.push(serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": packed.len()}));
        }
        let digest;
        (tar, digest) = blob(tar, &config);
        let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": config.len()}, "layers": described}).to_string();
        let digest;
        (tar, digest) = blob(tar, manifest.as_bytes());
        manifests.push(serde_json::json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": manifest.len(),
            "platform": {"architecture": architecture, "os": "linux"}}));
    }
    let top = if manifests.len() == 1 {
        manifests[0]["annotations"] = annotations;
        manifests
    } else {
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}).to_string();
        let digest;
        (tar, digest) = blob(tar, index.as_bytes());
        vec![
            serde_json::json!({"mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": index.len(), "annotations": annotations}),
        ]
    };
    let index = serde_json::json!({"schemaVersion": 2, "manifests": top});
    tar.file("index.json", index.to_string().as_bytes()).done()
}
