//! `certs.d/<host>/`: `hosts.toml` as containerd has it, and Docker's `*.crt`, `*.cert`, `*.key`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::tls::Trust;

/// One place for a registry's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// `https://mirror:5000/path`; empty for the registry itself.
    pub address: String,
    pub pull: bool,
    pub resolve: bool,
    pub push: bool,
    pub trust: Trust,
    /// The address has the API's path in it already.
    pub override_path: bool,
    pub headers: Vec<(String, String)>,
}

/// What a registry's folder says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFolder {
    /// In the order in which they are tried, before the registry itself.
    pub mirrors: Vec<Host>,
    /// The registry itself.
    pub server: Host,
}

#[derive(Deserialize)]
struct File {
    server: Option<String>,
    #[serde(flatten)]
    own: Entry,
    /// In the file's order, which is the order of trying.
    #[serde(default)]
    host: toml::Table,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Clients>,
    skip_verify: Option<bool>,
    override_path: bool,
    header: BTreeMap<String, OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Clients {
    One(String),
    Many(Vec<String>),
    Pairs(Vec<Vec<String>>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// Reads the folder of a registry (`docker.io`, `host:5000`); one that is missing says nothing. Blocking.
///
/// # Errors
/// Files that cannot be understood: ignoring them could mean sending content to the wrong place.
pub fn read(certs: &Path, registry: &str) -> Result<HostFolder, String> {
    let none = registry.is_empty() || registry.contains('/') || registry.starts_with('.');
    let mut folder = certs.join(if none { "_" } else { registry });
    if !folder.is_dir() {
        folder = certs.join("_default");
    }
    let everything = Host {
        pull: true,
        resolve: true,
        push: true,
        ..Host::default()
    };
    let mut found = HostFolder {
        mirrors: Vec::new(),
        server: everything,
    };
    let text = match std::fs::read_to_string(folder.join("hosts.toml")) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            found.server.trust = certificates(&folder);
            return Ok(found);
        }
        Err(error) => return Err(format!("{}/hosts.toml: {error}", folder.display())),
    };
    parse(&text, &folder, found.server)
        .map_err(|why| format!("{}/hosts.toml: {why}", folder.display()))
}

fn parse(text: &str, folder: &Path, everything: Host) -> Result<HostFolder, String> {
    let file: File = toml::from_str(text).map_err(|e| e.message().to_owned())?;
    let mut server = entry(file.own, folder, &everything)?;
    server.address = file.server.unwrap_or_default();
    let mut mirrors = Vec::new();
    for (address, value) in file.host {
        let own: Entry = value
            .try_into()
            .map_err(|e: toml::de::Error| e.message().to_owned())?;
        let mut host = entry(own, folder, &everything)?;
        host.address = if address.contains("://") {
            address
        } else {
            format!("https://{address}")
        };
        mirrors.push(host);
    }
    Ok(HostFolder { mirrors, server })
}

fn entry(entry: Entry, folder: &Path, everything: &Host) -> Result<Host, String> {
    let path = |name: &String| folder.join(name);
    let mut host = everything.clone();
    if let Some(capabilities) = entry.capabilities {
        let has = |name: &str| capabilities.iter().any(|c| c == name);
        (host.pull, host.resolve, host.push) = (has("pull"), has("resolve"), has("push"));
        if let Some(bad) = capabilities
            .iter()
            .find(|c| !matches!(c.as_str(), "pull" | "resolve" | "push"))
        {
            return Err(format!("unknown capability {bad:?}"));
        }
    }
    let authorities = entry.ca.map(OneOrMany::into_vec).unwrap_or_default();
    let pair = |pair: &[String]| match pair {
        // One file with both.
        [both] => Ok((path(both), path(both))),
        [certificate, key] if key.is_empty() => Ok((path(certificate), path(certificate))),
        [certificate, key] => Ok((path(certificate), path(key))),
        _ => Err("client: want [certificate, key]".to_owned()),
    };
    let identities: Result<Vec<_>, String> = match entry.client {
        None => Ok(Vec::new()),
        Some(Clients::One(one)) => pair(&[one]).map(|pair| vec![pair]),
        Some(Clients::Many(many)) => many
            .iter()
            .map(|one| pair(std::slice::from_ref(one)))
            .collect(),
        Some(Clients::Pairs(pairs)) => pairs.iter().map(|one| pair(one)).collect(),
    };
    host.trust = Trust {
        skip_verify: entry.skip_verify.unwrap_or(false),
        authorities: authorities.iter().map(path).collect(),
        identities: identities?,
    };
    host.override_path = entry.override_path;
    host.headers = entry
        .header
        .into_iter()
        .flat_map(|(name, values)| {
            values
                .into_vec()
                .into_iter()
                .map(move |value| (name.clone(), value))
        })
        .collect();
    Ok(host)
}

/// Docker's older files: `*.crt` are authorities, `x.cert` with `x.key` an identity.
pub fn certificates(folder: &Path) -> Trust {
    let mut names: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    names.sort();
    let mut trust = Trust::default();
    for path in names {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => trust.authorities.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                trust.identities.push((path, key));
            }
            _ => {}
        }
    }
    trust
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<HostFolder, String> {
        let everything = Host {
            pull: true,
            resolve: true,
            push: true,
            ..Host::default()
        };
        parse(text, Path::new("/c/r"), everything)
    }

    #[test]
    fn files_of_containerd() {
        let found = read_text(
            r#"
            server = "https://registry-1.docker.io"
            ca = "docker.crt"
            [host."https://z.example:5000"]
              capabilities = ["pull"]
              ca = ["a.crt", "/abs/b.crt"]
              client = [["c.cert", "c.key"]]
              override_path = true
              [host."https://z.example:5000".header]
                x-token = ["1", "2"]
            [host."http://a.example"]
              skip_verify = true
            "#,
        )
        .unwrap();
        assert_eq!(found.server.address, "https://registry-1.docker.io");
        assert!(found.server.push);
        assert_eq!(
            found.server.trust.authorities,
            [PathBuf::from("/c/r/docker.crt")]
        );
        let first = &found.mirrors[0];
        assert_eq!(first.address, "https://z.example:5000");
        assert!(first.pull && !first.resolve && !first.push && first.override_path);
        assert_eq!(
            first.trust.authorities,
            [PathBuf::from("/c/r/a.crt"), PathBuf::from("/abs/b.crt")]
        );
        assert_eq!(first.trust.identities.len(), 1);
        assert_eq!(first.headers.len(), 2);
        assert!(found.mirrors[1].trust.skip_verify && found.mirrors[1].push);
        assert_eq!(read_text("").unwrap().mirrors, []);
    }

    #[test]
    fn bad_files_are_errors() {
        for text in [
            "server = 1",
            "x = [",
            "[host.\"a\"]\ncapabilities = [\"fly\"]",
            "[host.\"a\"]\nclient = [[\"a\",\"b\",\"c\"]]",
        ] {
            assert!(read_text(text).is_err(), "{text}");
        }
    }
}
