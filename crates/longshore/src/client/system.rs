//! `version`, `info`, `inspect`.

use serde_json::{Value, json};

use super::{
    failure::{Done, Failure},
    http::{Client, escape},
    image,
    template::Template,
    text::{emit, emit_error, indent_json, plain},
};
use crate::{flags::Parsed, units};

/// Prints `value` by a `--format`.
fn by_format(value: &Value, format: &str) -> Done {
    let text = match format {
        "json" => value.to_string(),
        format => Template::parse(format)
            .and_then(|template| template.render(value))
            .map_err(Failure::new)?,
    };
    emit(format!("{text}\n"));
    Ok(())
}

/// `version`
pub async fn version(client: &Client, parsed: &Parsed) -> Done {
    let own = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "Os": std::env::consts::OS,
        "Arch": architecture(),
    });
    let server = client.get("/version").await;
    if let Some(format) = parsed.text("format") {
        let value = json!({"Client": own, "Server": server.as_ref().ok()});
        by_format(&value, format)?;
        return server.map(drop);
    }
    let mut out = format!(
        "Client: longshore\n{}{}",
        field("Version", &own["Version"]),
        field(
            "OS/Arch",
            &format!("{}/{}", plain(&own["Os"]), plain(&own["Arch"])).into()
        ),
    );
    let server = match server {
        Ok(server) => server,
        Err(failure) => {
            emit(out);
            return Err(failure);
        }
    };
    let platform = plain(&server["Platform"]["Name"]);
    out.push_str(format!("\nServer: {platform}").trim_end());
    out.push('\n');
    for component in server["Components"].as_array().into_iter().flatten() {
        out.push_str(&format!(" {}:\n", plain(&component["Name"])));
        out.push_str(&field(" Version", &component["Version"]));
        let details = &component["Details"];
        if component["Name"] == "Engine" {
            let version = format!(
                "{} (minimum version {})",
                plain(&details["ApiVersion"]),
                plain(&details["MinAPIVersion"])
            );
            let system = format!("{}/{}", plain(&details["Os"]), plain(&details["Arch"]));
            for (name, value) in [
                (" API version", &version.into()),
                (" Go version", &details["GoVersion"]),
                (" Git commit", &details["GitCommit"]),
                (" Built", &details["BuildTime"]),
                (" OS/Arch", &system.into()),
                (" Experimental", &details["Experimental"]),
            ] {
                if !value.is_null() {
                    out.push_str(&field(name, value));
                }
            }
        } else {
            out.push_str(&field(" GitCommit", &details["GitCommit"]));
        }
    }
    emit(out);
    Ok(())
}

fn field(name: &str, value: &Value) -> String {
    format!(" {:18} {}\n", format!("{name}:"), plain(value))
}

/// Go's name of the architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `info`
pub async fn info(client: &Client, parsed: &Parsed) -> Done {
    let info = client.get("/info").await?;
    if let Some(format) = parsed.text("format") {
        return by_format(&info, format);
    }
    let mut out = format!(
        "Client: longshore\n Version:    {}\n\nServer:\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut line = |name: &str, key: &str| {
        out.push_str(&format!(" {name}: {}\n", plain(&info[key])));
    };
    line("Containers", "Containers");
    line(" Running", "ContainersRunning");
    line(" Paused", "ContainersPaused");
    line(" Stopped", "ContainersStopped");
    line("Images", "Images");
    line("Server Version", "ServerVersion");
    line("Storage Driver", "Driver");
    for pair in info["DriverStatus"].as_array().into_iter().flatten() {
        out.push_str(&format!("  {}: {}\n", plain(&pair[0]), plain(&pair[1])));
    }
    let mut line = |name: &str, key: &str| {
        out.push_str(&format!(" {name}: {}\n", plain(&info[key])));
    };
    line("Logging Driver", "LoggingDriver");
    line("Cgroup Driver", "CgroupDriver");
    line("Cgroup Version", "CgroupVersion");
    out.push_str(" Plugins:\n");
    for kind in ["Volume", "Network", "Log"] {
        let names = info["Plugins"][kind].as_array().into_iter().flatten();
        let names: Vec<String> = names.map(plain).collect();
        out.push_str(&format!("  {kind}: {}\n", names.join(" ")));
    }
    out.push_str(&format!(
        " Swarm: {}\n",
        plain(&info["Swarm"]["LocalNodeState"])
    ));
    let runtimes = info["Runtimes"].as_object().into_iter().flatten();
    let runtimes: Vec<&str> = runtimes.map(|(name, _)| name.as_str()).collect();
    out.push_str(&format!(" Runtimes: {}\n", runtimes.join(" ")));
    let mut line = |name: &str, key: &str| {
        out.push_str(&format!(" {name}: {}\n", plain(&info[key])));
    };
    line("Default Runtime", "DefaultRuntime");
    line("Init Binary", "InitBinary");
    out.push_str(" Security Options:\n");
    for option in info["SecurityOptions"].as_array().into_iter().flatten() {
        for (index, pair) in plain(option).split(',').enumerate() {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            out.push_str(&match index {
                0 => format!("  {value}\n"),
                _ => format!("   {}: {value}\n", capitalised(key)),
            });
        }
    }
    let mut line = |name: &str, key: &str| {
        out.push_str(&format!(" {name}: {}\n", plain(&info[key])));
    };
    line("Kernel Version", "KernelVersion");
    line("Operating System", "OperatingSystem");
    line("OSType", "OSType");
    line("Architecture", "Architecture");
    line("CPUs", "NCPU");
    out.push_str(&format!(
        " Total Memory: {}\n",
        units::binary_size(info["MemTotal"].as_i64().unwrap_or(0))
    ));
    let mut line = |name: &str, key: &str| {
        out.push_str(&format!(" {name}: {}\n", plain(&info[key])));
    };
    line("Name", "Name");
    line("ID", "ID");
    line("Docker Root Dir", "DockerRootDir");
    line("Debug Mode", "Debug");
    line("Experimental", "ExperimentalBuild");
    line("Live Restore Enabled", "LiveRestoreEnabled");
    emit(out);
    for warning in info["Warnings"].as_array().into_iter().flatten() {
        emit_error(format!("{}\n", plain(warning)));
    }
    Ok(())
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

/// `inspect`: the daemon's JSON as it is, indented.
pub async fn inspect(client: &Client, parsed: &Parsed) -> Done {
    let format = parsed.text("format");
    let kind = parsed.text_or_empty("type");
    if !["", "container", "image", "network", "volume"].contains(&kind) {
        return Err(Failure::usage(format_args!(
            "unknown type: \"{kind}\": must be one of \"container\", \"image\", \"network\", \"volume\""
        )));
    }
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for name in &parsed.arguments {
        match find(client, name, kind, parsed.on("size")).await {
            Ok(text) => found.push(text),
            Err(failure) => errors.push(failure.message),
        }
    }
    match format {
        None => {
            let objects: Vec<String> = found
                .iter()
                .map(|text| format!("    {}", indent_json(text, "    ", "    ")))
                .collect();
            emit(match objects.is_empty() {
                true => "[]\n".to_owned(),
                false => format!("[\n{}\n]\n", objects.join(",\n")),
            });
        }
        Some("json") => {
            for text in &found {
                emit(format!("{}\n", text.trim()));
            }
        }
        Some(format) => {
            for text in &found {
                let value: Value = serde_json::from_str(text).map_err(Failure::new)?;
                by_format(&value, format)?;
            }
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Failure::new(errors.join("\n")))
}

/// Looks for an object of any kind, in Docker's order.
async fn find(client: &Client, name: &str, kind: &str, size: bool) -> Done<String> {
    let size = if size { "?size=1" } else { "" };
    let id = escape(name);
    let places = [
        ("container", format!("/containers/{id}/json{size}")),
        ("image", format!("/images/{}/json", image::path(name))),
        ("network", format!("/networks/{id}")),
        ("volume", format!("/volumes/{id}")),
    ];
    for (its, path) in &places {
        if !kind.is_empty() && kind != *its {
            continue;
        }
        match client.get_bytes(path).await {
            Ok(bytes) => return String::from_utf8(bytes).map_err(Failure::new),
            // 400: the name cannot be one of this kind.
            Err(failure) if kind.is_empty() && matches!(failure.http, 400 | 404 | 501) => {}
            Err(failure) => return Err(failure),
        }
    }
    Err(Failure::new(format_args!("Error: No such object: {name}")))
}
