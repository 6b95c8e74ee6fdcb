//! Test images: made by `tests/tools/make-images.sh`, and small ones made here.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use e2e::{
    check::{Fail, Outcome},
    fail,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The archive given, or the one under `target/`, made when missing.
pub fn archive(given: Option<&Path>) -> Outcome<PathBuf> {
    if let Some(path) = given {
        return Ok(path.canonicalize()?);
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()?;
    let path = workspace.join("target/test-images-small.tar");
    if path.exists() {
        return Ok(path);
    }
    std::fs::create_dir_all(workspace.join("target"))?;
    let fresh = path.with_extension("new");
    let made = Command::new("bash")
        .arg(workspace.join("tests/tools/make-images.sh"))
        .arg(&fresh)
        .env("SMALL", "1")
        .status()?;
    if !made.success() {
        fail!("make-images.sh ended with {made}");
    }
    std::fs::rename(&fresh, &path)?;
    Ok(path)
}

/// A file, folder or link of a layer.
pub enum Entry<'a> {
    File(&'a str, &'a [u8], u32),
    Folder(&'a str, u32),
    Link(&'a str, &'a str),
}

/// A layer's tar.
pub fn layer(entries: &[Entry]) -> Outcome<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_700_000_000);
        match entry {
            Entry::File(path, data, mode) => {
                header.set_mode(*mode);
                header.set_size(data.len() as u64);
                tar.append_data(&mut header, path, *data)?;
            }
            Entry::Folder(path, mode) => {
                header.set_mode(*mode);
                header.set_size(0);
                header.set_entry_type(tar::EntryType::Directory);
                tar.append_data(&mut header, path, std::io::empty())?;
            }
            Entry::Link(path, target) => {
                header.set_size(0);
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, path, target)?;
            }
        }
    }
    Ok(tar.into_inner()?)
}

/// Hex digits of the digest.
pub fn sha256(data: &[u8]) -> String {
    Sha256::digest(data)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// A `docker load` archive of one image.
pub fn image(tag: &str, config: &Value, layers: &[Vec<u8>]) -> Outcome<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, data: &[u8]| -> Outcome {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        Ok(tar.append_data(&mut header, path, data)?)
    };
    let mut files = Vec::new();
    for layer in layers {
        let file = format!("{}/layer.tar", sha256(layer));
        add(&file, layer)?;
        files.push(file);
    }
    let ids: Vec<String> = layers
        .iter()
        .map(|l| format!("sha256:{}", sha256(l)))
        .collect();
    let history: Vec<Value> = (0..layers.len())
        .map(|n| json!({"created": "2026-01-01T00:00:00Z", "created_by": format!("layer {n}")}))
        .collect();
    let body = json!({
        "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z", "config": config,
        "rootfs": {"type": "layers", "diff_ids": ids}, "history": history,
    })
    .to_string();
    let name = format!("{}.json", sha256(body.as_bytes()));
    add(&name, body.as_bytes())?;
    let manifest = json!([{"Config": name, "RepoTags": [tag], "Layers": files}]).to_string();
    add("manifest.json", manifest.as_bytes())?;
    let mut bytes = tar.into_inner()?;
    bytes.flush().map_err(|e| Fail(e.to_string()))?;
    Ok(bytes)
}
