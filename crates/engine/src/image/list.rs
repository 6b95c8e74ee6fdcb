//! Lists of images, and their filters.

use std::{collections::HashMap, sync::Arc};

use longshore_model::{Result, Timestamp};
use longshore_store::images::{
    Image, NamedTag, PlatformImage,
    manifest::{Descriptor, Platform},
};

use crate::{
    Engine, Inner,
    api::{
        Filters, ImagePlatform, ImageQuery, ImageSummary, ImageTarget, ManifestKind,
        ManifestSummary,
    },
    filter,
};

/// Whom a manifest annotation of an attestation speaks about.
const ABOUT: &str = "vnd.docker.reference.digest";

impl Engine {
    /// Images, the newest first. Reads no blobs, unless manifests are asked for.
    ///
    /// # Errors
    /// Filter values that are not valid; a configuration that cannot be read.
    pub async fn list_images(&self, query: ImageQuery) -> Result<Vec<ImageSummary>> {
        let engine = self.clone();
        // Records of older versions, and indexes, are read from the disk.
        crate::blocking(move || engine.list_images_now(&query)).await
    }

    fn list_images_now(&self, query: &ImageQuery) -> Result<Vec<ImageSummary>> {
        let images = self.inner.images();
        let wanted = Query::new(self, &query.filters)?;
        let children = images.children();
        let shared = query.shared_size.then(|| images.shared_sizes());
        let users = query.manifests.then(|| self.users_of_manifests());
        let mut found = Vec::new();
        for (image, tags) in images.list_named() {
            if !query.all && tags.is_empty() && children.contains_key(image.id()) {
                continue;
            }
            let mut summary = self.inner.summary(&image, &tags)?;
            if !wanted.wants(&mut summary) {
                continue;
            }
            // dockerd's list has one entry for all names, made from the last of them.
            if let Some(last) = tags.last() {
                summary.target = target(&last.tag.descriptor);
                let start = format!("{}@", last.reference.familiar_name());
                summary.repo_digests.retain(|d| d.starts_with(&start));
            }
            if let Some(shared) = &shared {
                let size = shared.get(image.id()).copied().unwrap_or_default();
                summary.shared_size = i64::try_from(size).unwrap_or(i64::MAX);
            }
            if let Some(users) = &users {
                summary.manifests = self.inner.manifests(&image, &summary.target, users)?;
            }
            found.push(summary);
        }
        found.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        Ok(found)
    }

    /// Containers' ids, by the digest of the manifest that they were made from.
    pub(super) fn users_of_manifests(&self) -> HashMap<String, Vec<String>> {
        let mut users: HashMap<String, Vec<String>> = HashMap::new();
        for snapshot in self.containers() {
            let own = users
                .entry(snapshot.image.manifest_digest.clone())
                .or_default();
            own.push(snapshot.id.to_string());
        }
        users
    }
}

impl Inner {
    /// An image with its names; `target` is that of the first.
    pub(super) fn summary(&self, image: &Image, tags: &[Arc<NamedTag>]) -> Result<ImageSummary> {
        let mut repo_digests: Vec<String> = Vec::new();
        for named in tags {
            let digest = format!("{}@{}", named.reference.familiar_name(), image.id());
            if !repo_digests.contains(&digest) {
                repo_digests.push(digest);
            }
        }
        let mut summary = ImageSummary {
            id: image.id().to_owned(),
            parent: image.parent.clone(),
            // A name that was pulled by its digest is no tag.
            repo_tags: tags
                .iter()
                .filter(|t| t.reference.digest.is_none())
                .map(|t| t.reference.familiar())
                .collect(),
            nameless: tags.is_empty(),
            repo_digests,
            size: image.size(),
            shared_size: -1,
            target: target(
                tags.first()
                    .map_or(&image.descriptor, |named| &named.tag.descriptor),
            ),
            ..ImageSummary::default()
        };
        if let Some(manifest) = image.main() {
            let brief = self.images().brief(manifest)?;
            summary.created = Timestamp::parse_rfc3339(&brief.created).unwrap_or_default();
            summary.labels = brief.labels;
        }
        Ok(summary)
    }

    /// Every manifest of an image, those of its index that are not here included.
    pub(super) fn manifests(
        &self,
        image: &Image,
        top: &ImageTarget,
        users: &HashMap<String, Vec<String>>,
    ) -> Result<Vec<ManifestSummary>> {
        let known = |digest: &str| {
            image
                .manifests
                .iter()
                .find(|m| m.descriptor.digest == digest)
        };
        let index = self.images().index_of(image)?;
        if index.is_empty() {
            let own = image.manifests.iter().map(|manifest| ManifestSummary {
                target: top.clone(),
                ..manifest_summary(&manifest.descriptor, Some(manifest), users)
            });
            return Ok(own.collect());
        }
        let all = index
            .iter()
            .map(|d| manifest_summary(d, known(&d.digest), users));
        Ok(all.collect())
    }
}

fn manifest_summary(
    descriptor: &Descriptor,
    here: Option<&PlatformImage>,
    users: &HashMap<String, Vec<String>>,
) -> ManifestSummary {
    let unknown = |p: &Platform| p.os == "unknown";
    let platform = descriptor.platform.as_ref();
    let kind = match here {
        _ if descriptor.is_attestation() => ManifestKind::Attestation {
            about: descriptor
                .annotations
                .get(ABOUT)
                .cloned()
                .unwrap_or_default(),
        },
        Some(manifest) if manifest.attestation => ManifestKind::Unknown,
        None if platform.is_none_or(unknown) => ManifestKind::Unknown,
        _ => ManifestKind::Image {
            platform: here
                .map(|m| &m.platform)
                .or(platform)
                .map(platform_of)
                .unwrap_or_default(),
            unpacked_size: here.map_or(0, PlatformImage::unpacked_size),
            containers: users.get(&descriptor.digest).cloned().unwrap_or_default(),
        },
    };
    ManifestSummary {
        target: target(descriptor),
        available: here.is_some(),
        content_size: here.map_or(0, PlatformImage::content_size),
        kind,
    }
}

pub(super) fn target(descriptor: &Descriptor) -> ImageTarget {
    ImageTarget {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.clone(),
        size: descriptor.size,
        annotations: descriptor.annotations.clone(),
        platform: descriptor.platform.as_ref().map(platform_of),
    }
}

fn platform_of(platform: &Platform) -> ImagePlatform {
    ImagePlatform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        os_version: platform.os_version.clone(),
        variant: platform.variant.clone(),
    }
}

/// The filters of an image list.
pub(super) struct Query<'a> {
    filters: &'a Filters,
    dangling: Option<bool>,
    until: Option<i64>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
}

impl<'a> Query<'a> {
    pub(super) fn new(engine: &Engine, filters: &'a Filters) -> Result<Self> {
        let moment = |name: &str| -> Result<Option<Timestamp>> {
            let Some(value) = filters.get(name).and_then(|v| v.last()) else {
                return Ok(None);
            };
            let image = engine.inner.images().resolve(value)?.image;
            engine
                .inner
                .summary(&image, &[])
                .map(|summary| Some(summary.created))
        };
        Ok(Self {
            filters,
            dangling: filter::boolean(filters, "dangling")?,
            until: filter::until(filters)?,
            before: moment("before")?,
            since: moment("since")?,
        })
    }

    /// Also narrows the names to those that a `reference` filter matches.
    fn wants(&self, image: &mut ImageSummary) -> bool {
        if let Some(patterns) = self.filters.get("reference").filter(|p| !p.is_empty()) {
            let fits = |name: &str| patterns.iter().any(|p| reference_matches(p, name));
            image.repo_tags.retain(|tag| fits(tag));
            image.repo_digests.retain(|digest| fits(digest));
            if image.repo_tags.is_empty() && image.repo_digests.is_empty() {
                return false;
            }
        }
        self.dangling.is_none_or(|want| want == image.nameless)
            && self.until.is_none_or(|until| image.created.0 <= until)
            && self.before.is_none_or(|before| image.created < before)
            && self.since.is_none_or(|since| image.created > since)
            && filter::labels(&image.labels, self.filters)
    }
}

/// Shell patterns against a familiar name, with or without its tag (Go's path.Match: `*` stops at a slash).
fn reference_matches(pattern: &str, name: &str) -> bool {
    let bare = name.split('@').next().unwrap_or(name);
    let bare = bare
        .rsplit_once(':')
        .filter(|(_, tag)| !tag.contains('/'))
        .map_or(bare, |(bare, _)| bare);
    glob(pattern.as_bytes(), name.as_bytes()) || glob(pattern.as_bytes(), bare.as_bytes())
}

/// Goes back to the last star only: its time does not grow with the number of stars.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let fits = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(b'?') => (text[t] != b'/').then_some(1),
            Some(b'[') => class(&pattern[p..], text[t]),
            Some(b'\\') => (pattern.get(p + 1) == Some(&text[t])).then_some(2),
            Some(c) => (*c == text[t]).then_some(1),
            None => None,
        };
        match (fits, star) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            // The star takes one more; a slash stops it.
            (None, Some((at, from))) if text[from] != b'/' => {
                star = Some((at, from + 1));
                (p, t) = (at + 1, from + 1);
            }
            _ => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// Length of the class `[a-z]` or `[^a-z]` that the pattern begins with, if the character is in it.
fn class(pattern: &[u8], c: u8) -> Option<usize> {
    let negated = pattern.get(1) == Some(&b'^');
    let from = if negated { 2 } else { 1 };
    let length = pattern[from..].iter().position(|b| *b == b']')?;
    let inside = &pattern[from..from + length];
    let mut found = false;
    let mut at = 0;
    while at < inside.len() {
        if inside.get(at + 1) == Some(&b'-') && at + 2 < inside.len() {
            found |= (inside[at]..=inside[at + 2]).contains(&c);
            at += 3;
        } else {
            found |= inside[at] == c;
            at += 1;
        }
    }
    (found != negated).then_some(from + length + 1)
}

#[cfg(test)]
mod tests {
    use super::reference_matches;

    #[test]
    fn reference_patterns() {
        for (pattern, name, want) in [
            ("busybox", "busybox:latest", true),
            ("busybox:*", "busybox:latest", true),
            ("*/busybox", "busybox:latest", false),
            ("bus*", "busybox:glibc", true),
            ("localhost:5000/*", "localhost:5000/x:1", true),
            ("*", "a/b:1", false),
            ("*/*", "a/b:1", true),
            ("b[a-u]sy?ox", "busybox:1", true),
            ("b[^u]sybox", "busybox:1", false),
            ("[", "[", false),
            ("\\b", "b", true),
            ("**b**x*", "busybox", true),
            ("*b", "a/b", false),
        ] {
            assert_eq!(reference_matches(pattern, name), want, "{pattern} {name}");
        }
    }
}
