//! `--volume`, `--mount` and `--tmpfs`.

use serde_json::{Map, Value, json};

use super::failure::{Done, Failure};
use crate::{flags::Parsed, units};

/// Puts Volumes, Binds, Mounts and Tmpfs.
///
/// # Errors
/// A mount that cannot be read.
pub fn put(
    config: &mut Map<String, Value>,
    host: &mut Map<String, Value>,
    parsed: &Parsed,
) -> Done {
    let (mut volumes, mut binds) = (Map::new(), Vec::new());
    for text in parsed.list("volume") {
        if !text.contains(':') {
            volumes.insert(text.clone(), json!({}));
        } else if text.starts_with('.') {
            let path = std::path::absolute(text.split(':').next().unwrap_or_default())?;
            let rest = text.split_once(':').map_or("", |(_, rest)| rest);
            binds.push(format!("{}:{rest}", normal(&path)));
        } else {
            binds.push(text.clone());
        }
    }
    if !volumes.is_empty() {
        config.insert("Volumes".into(), Value::Object(volumes));
    }
    if !binds.is_empty() {
        host.insert("Binds".into(), binds.into());
    }
    let mounts: Done<Vec<Value>> = parsed
        .list("mount")
        .iter()
        .map(|text| mount(text))
        .collect();
    let mounts = mounts?;
    if !mounts.is_empty() {
        host.insert("Mounts".into(), mounts.into());
    }
    let tmpfs: Map<String, Value> = parsed
        .list("tmpfs")
        .iter()
        .map(|text| text.split_once(':').unwrap_or((text, "")))
        .map(|(path, options)| (path.to_owned(), options.into()))
        .collect();
    if !tmpfs.is_empty() {
        host.insert("Tmpfs".into(), Value::Object(tmpfs));
    }
    Ok(())
}

/// An absolute path without `.` and `..`.
fn normal(path: &std::path::Path) -> String {
    use std::path::{Component, PathBuf};
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out.to_string_lossy().into_owned()
}

/// `type=bind,src=/a,dst=/b,readonly`
fn mount(text: &str) -> Done<Value> {
    let bad = |why: &str| {
        Failure::usage(format_args!(
            "invalid argument \"{text}\" for \"--mount\" flag: {why}"
        ))
    };
    let mut mount = json!({"Type": "volume"});
    for field in fields(text) {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        let wrong = || {
            bad(&format!(
                "invalid value for {key}: {}",
                value.unwrap_or_default()
            ))
        };
        let switch = || match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(_) => Err(wrong()),
        };
        if matches!(key.as_str(), "readonly" | "ro") {
            mount["ReadOnly"] = switch()?.into();
            continue;
        }
        if matches!(key.as_str(), "volume-nocopy" | "bind-nonrecursive") {
            let (group, name) = if key.starts_with('v') {
                ("VolumeOptions", "NoCopy")
            } else {
                ("BindOptions", "NonRecursive")
            };
            mount[group][name] = switch()?.into();
            continue;
        }
        let value = value
            .ok_or_else(|| bad(&format!("invalid field '{field}' must be a key=value pair")))?;
        let pair = || {
            let (name, value) = value.split_once('=').unwrap_or((value, ""));
            (name.to_owned(), value.to_owned())
        };
        match key.as_str() {
            "type" => mount["Type"] = value.to_lowercase().into(),
            "source" | "src" => {
                mount["Source"] = if value.starts_with('.') {
                    normal(&std::path::absolute(value)?).into()
                } else {
                    value.into()
                };
            }
            "target" | "dst" | "destination" => mount["Target"] = value.into(),
            "consistency" => mount["Consistency"] = value.to_lowercase().into(),
            "bind-propagation" => mount["BindOptions"]["Propagation"] = value.to_lowercase().into(),
            "bind-recursive" => match value {
                "enabled" => {}
                "disabled" => mount["BindOptions"]["NonRecursive"] = true.into(),
                "writable" => mount["BindOptions"]["ReadOnlyNonRecursive"] = true.into(),
                "readonly" => mount["BindOptions"]["ReadOnlyForceRecursive"] = true.into(),
                _ => return Err(wrong()),
            },
            "volume-subpath" => mount["VolumeOptions"]["Subpath"] = value.into(),
            "volume-driver" => mount["VolumeOptions"]["DriverConfig"]["Name"] = value.into(),
            "volume-label" => {
                let (name, value) = pair();
                mount["VolumeOptions"]["Labels"][name] = value.into();
            }
            "volume-opt" => {
                let (name, value) = pair();
                mount["VolumeOptions"]["DriverConfig"]["Options"][name] = value.into();
            }
            "image-subpath" => mount["ImageOptions"]["Subpath"] = value.into(),
            "tmpfs-size" => {
                mount["TmpfsOptions"]["SizeBytes"] = units::bytes(value).ok_or_else(wrong)?.into();
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8).map_err(|_| wrong())?;
                mount["TmpfsOptions"]["Mode"] = mode.into();
            }
            _ => return Err(bad(&format!("unknown option '{key}' in '{field}'"))),
        }
    }
    if mount["Target"].is_null() {
        return Err(bad("target is required"));
    }
    Ok(mount)
}

/// Fields parted by commas, those in double quotes whole (as in CSV).
fn fields(text: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_by_fields() {
        assert_eq!(
            mount("type=bind,src=/a,dst=/b,readonly,bind-propagation=rslave").unwrap(),
            json!({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true,
                "BindOptions": {"Propagation": "rslave"}})
        );
        assert_eq!(
            mount("dst=/t,type=tmpfs,tmpfs-size=1m,tmpfs-mode=1770").unwrap(),
            json!({"Type": "tmpfs", "Target": "/t",
                "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1770}})
        );
        assert_eq!(
            mount("src=v,dst=/d,\"volume-opt=o=a,b\",volume-nocopy").unwrap(),
            json!({"Type": "volume", "Source": "v", "Target": "/d",
                "VolumeOptions": {"NoCopy": true, "DriverConfig": {"Options": {"o": "a,b"}}}})
        );
        for bad in [
            "",
            "src=a",
            "dst=/x,bogus=1",
            "dst",
            "dst=/x,ro=maybe",
            "dst=/x,tmpfs-size=q",
        ] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn relative_paths_become_absolute() {
        assert_eq!(normal(std::path::Path::new("/a/./b/../c")), "/a/c");
    }
}
