//! `-v`, `--mount`, `--tmpfs` and `--volumes-from`: texts and objects to one shape. Whether a source exists is the
//! engine's to see.

use std::collections::{BTreeMap, BTreeSet};

use longshore_model::{
    Error, Result,
    mount::{MountSource, MountSpec, ReadOnlyRecursive},
};

use super::text::{clean_path, is_local_path, no_nul};
use crate::{
    dto::hostconfig::{HostConfig, Mount, TmpfsOptions},
    version::ApiVersion,
};

/// The mounts of a request.
pub struct Mounts {
    pub mounts: Vec<MountSpec>,
    pub volumes_from: Vec<(String, String)>,
    pub warnings: Vec<String>,
}

/// All mounts of a `HostConfig`. Before API 1.44 read-only binds were not recursive.
///
/// # Errors
/// 400 in dockerd's words; 501 for cluster mounts.
pub fn convert(host: &HostConfig, version: ApiVersion) -> Result<Mounts> {
    let mut warnings = Vec::new();
    let mut mounts = Vec::new();
    let mut targets = BTreeSet::new();
    let tmpfs: BTreeSet<String> = host
        .tmpfs
        .iter()
        .flatten()
        .map(|(target, _)| clean_path(target))
        .collect();
    let ro_default = if version.before(44) {
        ReadOnlyRecursive::No
    } else {
        ReadOnlyRecursive::IfPossible
    };

    let volumes_from = host
        .volumes_from
        .iter()
        .flatten()
        .map(|text| parse_volumes_from(text))
        .collect::<Result<Vec<_>>>()?;
    for text in host.binds.iter().flatten() {
        let mut mount = parse_bind(text, &host.volume_driver)?;
        mount.read_only_recursive = ro_default;
        if tmpfs.contains(&mount.target) || !targets.insert(mount.target.clone()) {
            return Err(duplicate(&mount.target));
        }
        mounts.push(mount);
    }
    for mount in host.mounts.iter().flatten() {
        if mount.r#type == "image" {
            warnings.push("Image mount is an experimental feature".to_owned());
        }
        let converted = convert_mount(mount, ro_default)?;
        if !targets.insert(converted.target.clone()) {
            return Err(duplicate(&mount.target));
        }
        mounts.push(converted);
    }
    for (target, options) in host.tmpfs.iter().flatten() {
        validate_target(target)?;
        no_nul("tmpfs options", options)?;
        mounts.push(MountSpec {
            source: MountSource::Tmpfs {
                size: 0,
                mode: None,
                options: options.clone(),
            },
            target: clean_path(target),
            read_only: options.split(',').any(|o| o == "ro"),
            propagation: String::new(),
            mode: String::new(),
            recursive: true,
            read_only_recursive: ReadOnlyRecursive::IfPossible,
            from_mounts: false,
        });
    }
    Ok(Mounts {
        mounts,
        volumes_from,
        warnings,
    })
}

fn duplicate(target: &str) -> Error {
    Error::invalid(format!("Duplicate mount point: {target}"))
}

const PROPAGATION: [&str; 6] = [
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
];

/// What the comma list after the second colon of `-v` says; at most one of each kind.
struct Mode<'a> {
    read_only: bool,
    propagation: Option<&'a str>,
    no_copy: Option<bool>,
}

fn parse_mode(mode: &str) -> Option<Mode<'_>> {
    let mut parsed = Mode {
        read_only: false,
        propagation: None,
        no_copy: None,
    };
    if mode.is_empty() {
        return Some(parsed);
    }
    let mut seen = [false; 5];
    for option in mode.split(',') {
        let kind = match option {
            "rw" | "ro" => {
                parsed.read_only = option == "ro";
                0
            }
            // SELinux relabelling; nothing to do where SELinux is off.
            "z" | "Z" => 1,
            _ if PROPAGATION.contains(&option) => {
                parsed.propagation = Some(option);
                2
            }
            "nocopy" => {
                parsed.no_copy = Some(true);
                3
            }
            "consistent" | "cached" | "delegated" => 4,
            _ => return None,
        };
        if std::mem::replace(&mut seen[kind], true) {
            return None;
        }
    }
    Some(parsed)
}

/// One entry of `HostConfig.Binds`: `[source:]target[:mode]`, where a source that is no absolute path is a volume's name.
///
/// # Errors
/// 400
pub fn parse_bind(text: &str, volume_driver: &str) -> Result<MountSpec> {
    let bad = || Error::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.splitn(4, ':').collect();
    if parts[0].is_empty() {
        return Err(bad());
    }
    no_nul("volume specification", text)?;
    let (source, target, mode) = match parts[..] {
        [target] => ("", target, ""),
        // `/data:ro` names a volume's target and a mode, which needs a source.
        [_, second] if parse_mode(second).is_some() => return Err(bad()),
        [source, target] => (source, target, ""),
        [source, target, mode] => (source, target, mode),
        _ => return Err(bad()),
    };
    let parsed = parse_mode(mode).ok_or_else(|| Error::invalid(format!("invalid mode: {mode}")))?;
    let bind = source.starts_with('/');
    let config_error = |reason: &str| {
        let kind = if bind { "bind" } else { "volume" };
        bad_with(
            text,
            &format!("invalid mount config for type \"{kind}\": {reason}"),
        )
    };
    if target.is_empty() {
        return Err(config_error("field Target must not be empty"));
    }
    target_fault(target).map_or(Ok(()), |fault| Err(config_error(&fault)))?;
    if bind && parsed.no_copy.is_some() {
        return Err(config_error("field VolumeOptions must not be specified"));
    }
    if !bind && parsed.propagation.is_some() {
        return Err(config_error("field BindOptions must not be specified"));
    }
    let source = if bind {
        MountSource::Bind {
            path: clean_path(source),
            create: true,
        }
    } else {
        MountSource::Volume {
            name: source.to_owned(),
            driver: volume_driver.to_owned(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            no_copy: parsed.no_copy.unwrap_or(false),
            subpath: String::new(),
        }
    };
    Ok(MountSpec {
        source,
        target: clean_path(target),
        read_only: parsed.read_only,
        propagation: parsed.propagation.unwrap_or_default().to_owned(),
        mode: mode.to_owned(),
        recursive: true,
        read_only_recursive: ReadOnlyRecursive::IfPossible,
        from_mounts: false,
    })
}

fn bad_with(text: &str, reason: &str) -> Error {
    Error::invalid(format!("invalid volume specification: '{text}': {reason}"))
}

fn target_fault(target: &str) -> Option<String> {
    if clean_path(&target.replace('\\', "/")) == "/" {
        return Some("invalid specification: destination can't be '/'".to_owned());
    }
    (!target.starts_with('/'))
        .then(|| format!("invalid mount path: '{target}' mount path must be absolute"))
}

fn validate_target(target: &str) -> Result<()> {
    no_nul("mount path", target)?;
    target_fault(target).map_or(Ok(()), |fault| Err(Error::invalid(fault)))
}

fn convert_mount(mount: &Mount, ro_default: ReadOnlyRecursive) -> Result<MountSpec> {
    let kind = mount.r#type.as_str();
    let fault = |reason: String| {
        Error::invalid(format!("invalid mount config for type {kind:?}: {reason}"))
    };
    if mount.target.is_empty() {
        return Err(fault("field Target must not be empty".to_owned()));
    }
    if let Some(reason) = target_fault(&mount.target) {
        return Err(fault(reason));
    }
    no_nul("mount path", &mount.target)?;
    no_nul("mount path", &mount.source)?;
    let mut spec = MountSpec {
        source: MountSource::Bind {
            path: String::new(),
            create: false,
        },
        target: clean_path(&mount.target),
        read_only: mount.read_only,
        propagation: String::new(),
        mode: String::new(),
        recursive: true,
        read_only_recursive: ro_default,
        from_mounts: true,
    };
    match kind {
        "bind" => bind_mount(mount, &mut spec).map_err(fault)?,
        "volume" => spec.source = volume_mount(mount).map_err(fault)?,
        "tmpfs" => {
            only(mount, "TmpfsOptions").map_err(fault)?;
            if !mount.source.is_empty() {
                return Err(fault("field Source must not be specified".to_owned()));
            }
            spec.source = tmpfs(mount.tmpfs_options.clone().unwrap_or_default()).map_err(fault)?;
        }
        "image" => {
            only(mount, "ImageOptions").map_err(fault)?;
            if mount.source.is_empty() {
                return Err(fault("field Source must not be empty".to_owned()));
            }
            let subpath = mount.image_options.clone().unwrap_or_default().subpath;
            if !subpath.is_empty() && !is_local_path(&subpath) {
                return Err(fault(
                    "subpath must be a relative path within the volume".to_owned(),
                ));
            }
            spec.source = MountSource::Image {
                reference: mount.source.clone(),
                subpath,
            };
            spec.read_only = true;
        }
        "cluster" | "npipe" => {
            return Err(Error::not_implemented(format!(
                "mount type {kind:?} is not implemented yet"
            )));
        }
        _ => return Err(fault("mount type unknown".to_owned())),
    }
    Ok(spec)
}

type Reason<T> = std::result::Result<T, String>;

/// Options of other mount types are refused.
fn only(mount: &Mount, options: &str) -> Reason<()> {
    [
        ("BindOptions", mount.bind_options.is_some()),
        ("VolumeOptions", mount.volume_options.is_some()),
        ("ImageOptions", mount.image_options.is_some()),
        ("TmpfsOptions", mount.tmpfs_options.is_some()),
    ]
    .iter()
    .find(|(name, given)| *given && *name != options)
    .map_or(Ok(()), |(name, _)| {
        Err(format!("field {name} must not be specified"))
    })
}

fn bind_mount(mount: &Mount, spec: &mut MountSpec) -> Reason<()> {
    if mount.source.is_empty() {
        return Err("field Source must not be empty".to_owned());
    }
    let options = mount.bind_options.clone().unwrap_or_default();
    if !options.propagation.is_empty() && !PROPAGATION.contains(&options.propagation.as_str()) {
        return Err(format!("invalid propagation mode: {}", options.propagation));
    }
    only(mount, "BindOptions")?;
    if !mount.source.starts_with('/') {
        return Err(format!(
            "invalid mount path: '{}' mount path must be absolute",
            mount.source
        ));
    }
    if options.read_only_non_recursive && options.read_only_force_recursive {
        return Err(
            "mount options conflict: ReadOnlyNonRecursive && ReadOnlyForceRecursive".to_owned(),
        );
    }
    spec.source = MountSource::Bind {
        path: clean_path(&mount.source),
        create: options.create_mountpoint,
    };
    spec.propagation = options.propagation;
    spec.recursive = !options.non_recursive;
    if options.read_only_force_recursive {
        spec.read_only_recursive = ReadOnlyRecursive::Force;
    } else if options.read_only_non_recursive {
        spec.read_only_recursive = ReadOnlyRecursive::No;
    }
    Ok(())
}

fn volume_mount(mount: &Mount) -> Reason<MountSource> {
    only(mount, "VolumeOptions")?;
    let options = mount.volume_options.clone().unwrap_or_default();
    if !options.subpath.is_empty() {
        if mount.source.is_empty() {
            return Err("must not set Subpath when using anonymous volumes".to_owned());
        }
        if !is_local_path(&options.subpath) {
            return Err("subpath must be a relative path within the volume".to_owned());
        }
    }
    let driver = options.driver_config.unwrap_or_default();
    Ok(MountSource::Volume {
        name: mount.source.clone(),
        driver: driver.name,
        options: driver.options.unwrap_or_default(),
        labels: options.labels.unwrap_or_default(),
        no_copy: options.no_copy,
        subpath: options.subpath,
    })
}

fn tmpfs(options: TmpfsOptions) -> Reason<MountSource> {
    let TmpfsOptions {
        size_bytes,
        mode,
        options,
    } = options;
    let size =
        u64::try_from(size_bytes).map_err(|_| format!("invalid tmpfs size: {size_bytes}"))?;
    let mut texts = Vec::new();
    for option in options.unwrap_or_default() {
        if option.is_empty() || option.len() > 2 {
            return Err("invalid option array length".to_owned());
        }
        if option[0] != "exec" && option[0] != "noexec" {
            return Err(format!("invalid option: {}", option[0]));
        }
        texts.push(option.join("="));
    }
    Ok(MountSource::Tmpfs {
        size,
        mode: (mode != 0).then_some(mode),
        options: texts.join(","),
    })
}

/// `container[:mode]`; the mode is `rw` when there is none.
fn parse_volumes_from(text: &str) -> Result<(String, String)> {
    if text.is_empty() {
        return Err(Error::invalid(
            "volumes-from specification cannot be an empty string",
        ));
    }
    let (container, mode) = text.split_once(':').unwrap_or((text, ""));
    if mode.is_empty() {
        return Ok((container.to_owned(), "rw".to_owned()));
    }
    let fits = parse_mode(mode).is_some_and(|m| m.propagation.is_none() && m.no_copy.is_none());
    if !fits {
        return Err(Error::invalid(format!("invalid mode: {mode}")));
    }
    Ok((container.to_owned(), mode.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bind(text: &str) -> Result<MountSpec> {
        parse_bind(text, "")
    }

    #[test]
    fn binds() {
        let mount = bind("/tmp/../etc:/host/:ro,rslave,Z").unwrap();
        assert_eq!(
            mount.source,
            MountSource::Bind {
                path: "/etc".into(),
                create: true
            }
        );
        assert_eq!((mount.target.as_str(), mount.read_only), ("/host", true));
        assert_eq!(
            (mount.propagation.as_str(), mount.mode.as_str()),
            ("rslave", "ro,rslave,Z")
        );
        let volume = bind("v1:/d:nocopy").unwrap();
        assert!(
            matches!(volume.source, MountSource::Volume { name, no_copy: true, .. } if name == "v1")
        );
        let anonymous = bind("/anon").unwrap();
        assert!(matches!(anonymous.source, MountSource::Volume { name, .. } if name.is_empty()));
        for (text, want) in [
            ("", "invalid volume specification: ''"),
            (":/x", "invalid volume specification: ':/x'"),
            ("/a:ro", "invalid volume specification: '/a:ro'"),
            ("/a:/b:ro:x", "invalid volume specification: '/a:/b:ro:x'"),
            ("/a:/b:bogus", "invalid mode: bogus"),
            ("/a:/b:ro,rw", "invalid mode: ro,rw"),
            (
                "/a:/",
                "invalid volume specification: '/a:/': invalid mount config for type \"bind\": invalid specification: \
                 destination can't be '/'",
            ),
            (
                "v:b",
                "invalid volume specification: 'v:b': invalid mount config for type \"volume\": invalid mount path: 'b' \
                 mount path must be absolute",
            ),
            (
                "/a:/b:nocopy",
                "invalid volume specification: '/a:/b:nocopy': invalid mount config for type \"bind\": field \
                 VolumeOptions must not be specified",
            ),
        ] {
            assert_eq!(bind(text).unwrap_err().message, want, "{text}");
        }
    }

    fn host(json: &str) -> HostConfig {
        serde_json::from_str(json).expect("host config")
    }

    #[test]
    fn mounts_and_duplicates() {
        let both = host(r#"{"Binds":["/a:/x"],"Mounts":[{"Type":"volume","Target":"/x/"}]}"#);
        assert_eq!(
            convert(&both, ApiVersion::v1(50)).err().unwrap().message,
            "Duplicate mount point: /x/"
        );
        let tmpfs = host(r#"{"Binds":["/a:/run"],"Tmpfs":{"/run":"size=1m"}}"#);
        assert_eq!(
            convert(&tmpfs, ApiVersion::v1(50)).err().unwrap().message,
            "Duplicate mount point: /run"
        );
        for (mount, want) in [
            (
                r#"{"Type":"bind","Target":"/x"}"#,
                "\"bind\": field Source must not be empty",
            ),
            (
                r#"{"Type":"bind","Source":"/a"}"#,
                "\"bind\": field Target must not be empty",
            ),
            (
                r#"{"Type":"tmpfs","Source":"/a","Target":"/x"}"#,
                "\"tmpfs\": field Source must not be specified",
            ),
            (
                r#"{"Type":"bogus","Target":"/x"}"#,
                "\"bogus\": mount type unknown",
            ),
            (
                r#"{"Type":"bind","Source":"a","Target":"/x"}"#,
                "\"bind\": invalid mount path: 'a' mount path must be absolute",
            ),
            (
                r#"{"Type":"volume","Source":"v","Target":"/x","VolumeOptions":{"Subpath":"../x"}}"#,
                "\"volume\": subpath must be a relative path within the volume",
            ),
        ] {
            let error = convert(
                &host(&format!(r#"{{"Mounts":[{mount}]}}"#)),
                ApiVersion::v1(50),
            )
            .err()
            .unwrap();
            assert_eq!(
                error.message,
                format!("invalid mount config for type {want}")
            );
        }
    }

    #[test]
    fn read_only_reaches_down_from_144_on() {
        let given = host(r#"{"Binds":["/a:/x:ro"]}"#);
        assert_eq!(
            convert(&given, ApiVersion::v1(43)).unwrap().mounts[0].read_only_recursive,
            ReadOnlyRecursive::No
        );
        assert_eq!(
            convert(&given, ApiVersion::v1(44)).unwrap().mounts[0].read_only_recursive,
            ReadOnlyRecursive::IfPossible
        );
    }

    #[test]
    fn volumes_from() {
        assert_eq!(parse_volumes_from("c").unwrap(), ("c".into(), "rw".into()));
        assert_eq!(
            parse_volumes_from("c:ro").unwrap(),
            ("c".into(), "ro".into())
        );
        assert_eq!(
            parse_volumes_from("c:rslave").unwrap_err().message,
            "invalid mode: rslave"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_absolute(text in "[a-z/.:,]{0,24}") {
            if let Ok(mount) = bind(&text) {
                prop_assert!(mount.target.starts_with('/') && mount.target != "/");
                prop_assert!(!mount.target.contains("/../"));
                if let MountSource::Bind { path, .. } = mount.source {
                    prop_assert!(path.starts_with('/'));
                }
            }
        }
    }
}
