//! Looks at everything in the store and says what is wrong. Changes nothing.

use std::{collections::HashSet, fs::File, io};

use longshore_model::{Error, Result};

use crate::{
    images::{Image, Images},
    records::{Table, sql_error},
    store::Store,
    tarball::codec::Hashing,
    usage,
};

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The record or file.
    pub what: String,
    pub problem: String,
}

impl Store {
    /// Checks the database, every blob's digest, every layer's folder, and that records and files belong together.
    /// Reads all blobs: takes as long as the disk does. Work under way meanwhile may show as findings.
    ///
    /// # Errors
    /// When the check itself cannot be done.
    pub fn fsck(&self) -> Result<Vec<Finding>> {
        let mut findings = self.check_database()?;
        findings.extend(self.images().check()?);
        let known: HashSet<String> = self
            .records(Table::Container)?
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        let on_disk = self.containers().known_on_disk()?;
        for id in &on_disk {
            if !known.contains(id.as_str()) {
                findings.push(finding(format!("containers/{id}"), "no record of it"));
            }
        }
        for id in known {
            if !on_disk.iter().any(|found| found.as_str() == id) {
                findings.push(finding(format!("container {id}"), "its folder is missing"));
            }
        }
        Ok(findings)
    }

    fn check_database(&self) -> Result<Vec<Finding>> {
        let reader = self.reader();
        let check = || -> rusqlite::Result<Vec<String>> {
            reader
                .prepare("PRAGMA integrity_check(100)")?
                .query_map([], |row| row.get(0))?
                .collect()
        };
        let lines = check().map_err(|e| sql_error("check the database", &e))?;
        let bad = lines.into_iter().filter(|line| line != "ok");
        Ok(bad
            .map(|line| finding("db.sqlite".to_owned(), line))
            .collect())
    }
}

impl Images {
    fn check(&self) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        let (mut blobs, mut layers) = (HashSet::new(), HashSet::new());
        for image in self.list() {
            for digest in image.blobs.keys() {
                if blobs.insert(digest.trim_start_matches("sha256:").to_owned()) {
                    self.check_blob(&image, digest, &mut findings);
                }
            }
            let all = image.manifests.iter().flat_map(|m| &m.layers);
            layers.extend(all.filter_map(|layer| layer.folder.clone()));
        }
        for named in self.tags() {
            if self.get(&named.tag.image).is_none() {
                let what = format!("tag {}", named.reference.familiar());
                findings.push(finding(what, "its image is missing"));
            }
        }
        for name in &layers {
            self.check_layer(name, &mut findings);
        }
        for (folder, known) in [("blobs/sha256", &blobs), ("layers", &layers)] {
            let path = self.root().join(folder);
            let entries = std::fs::read_dir(&path)
                .map_err(|e| Error::io(format_args!("open {}", path.display()), e))?;
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if !known.contains(&name) {
                    findings.push(finding(format!("{folder}/{name}"), "nothing uses it"));
                }
            }
        }
        Ok(findings)
    }

    fn check_blob(&self, image: &Image, digest: &str, findings: &mut Vec<Finding>) {
        let what = || format!("blob {digest} of image {}", image.id());
        match self.blob(digest).map(digest_of) {
            Ok(Ok((found, _))) if found == digest => {}
            Ok(Ok((found, size))) => {
                let problem = format!("content is {found}, {size} bytes");
                findings.push(finding(what(), problem));
            }
            Ok(Err(error)) => findings.push(finding(what(), error.to_string())),
            Err(error) => findings.push(finding(what(), error.message)),
        }
    }

    fn check_layer(&self, name: &str, findings: &mut Vec<Finding>) {
        let what = format!("layers/{name}");
        let Some(record) = self.layer_record(name) else {
            findings.push(finding(what, "no record of it"));
            return;
        };
        match usage::measure(&self.root().join("layers").join(name)) {
            Ok(usage) if (usage.inodes, usage.apparent) == (record.inodes, record.apparent) => {}
            Ok(usage) => {
                let problem = format!(
                    "has {} inodes and {} bytes, not {} and {}",
                    usage.inodes, usage.apparent, record.inodes, record.apparent
                );
                findings.push(finding(what, problem));
            }
            Err(error) => findings.push(finding(what, error.message)),
        }
    }
}

fn digest_of(file: File) -> io::Result<(String, u64)> {
    let mut hashing = Hashing::new(file);
    io::copy(&mut hashing, &mut io::sink())?;
    Ok(hashing.finish())
}

fn finding(what: String, problem: impl Into<String>) -> Finding {
    Finding {
        what,
        problem: problem.into(),
    }
}
