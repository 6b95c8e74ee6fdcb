//! `GET /containers/json`.

use longshore_engine::api::{Phase, Snapshot};
use longshore_model::{Error, Result, Timestamp};

use super::view;
use crate::{
    dto::container::{Health, HostConfigSummary, NetworkSettingsSummary, PortSummary, Summary},
    filters,
    request::Request,
    response::Response,
    version::ApiVersion,
};

const FILTERS: [&str; 15] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

/// `GET /containers/json`
pub async fn list(request: Request) -> Result<Response> {
    let mut filters = filters::read(&request, &FILTERS)?;
    // The old parameters are filters by another way.
    for name in ["before", "since"] {
        let value = request.query.get(name);
        if !value.is_empty() {
            filters
                .entry(name.to_owned())
                .or_default()
                .push(value.to_owned());
        }
    }
    let limit = match request.query.get("limit") {
        "" => 0,
        text => usize::try_from(atoi(text)?).unwrap_or(0),
    };
    let snapshots = request
        .engine
        .list_containers(request.query.bool("all"), limit, &filters)?;
    let now = Timestamp::now();
    let with_size = request.query.bool("size");
    let mut summaries = Vec::with_capacity(snapshots.len());
    for snapshot in &snapshots {
        let sizes = if with_size {
            match request.engine.container_size(snapshot.id.as_str()).await {
                Ok(sizes) => Some(sizes),
                // Removed while the list was made.
                Err(error) if error.kind == longshore_model::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
        } else {
            None
        };
        summaries.push(summary(snapshot, sizes, request.version, now));
    }
    Ok(Response::ok(&summaries))
}

/// Go's `strconv.Atoi`.
///
/// # Errors
/// 400 with Go's text.
pub fn atoi(text: &str) -> Result<i64> {
    text.parse::<i64>().map_err(|error| {
        use std::num::IntErrorKind::{NegOverflow, PosOverflow};
        let why = match error.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        Error::invalid(format!("strconv.Atoi: parsing {text:?}: {why}"))
    })
}

/// One line of the list.
pub fn summary(
    snapshot: &Snapshot,
    sizes: Option<(u64, u64)>,
    version: ApiVersion,
    now: Timestamp,
) -> Summary {
    let spec = &snapshot.spec;
    Summary {
        id: snapshot.id.to_string(),
        names: vec![format!("/{}", snapshot.name)],
        image: spec.image.clone(),
        image_id: snapshot.image.id.clone(),
        image_manifest_descriptor: version
            .since(48)
            .then(|| view::manifest(&snapshot.image))
            .flatten(),
        command: command(&snapshot.command),
        created: snapshot.created.seconds(),
        ports: ports(snapshot),
        // Go leaves a zero out.
        size_rw: sizes.map(|(rw, _)| rw).filter(|size| *size > 0),
        size_root_fs: sizes.map(|(_, root)| root).filter(|size| *size > 0),
        labels: spec.labels.clone(),
        state: snapshot.state.phase.status(),
        status: status(snapshot, now),
        host_config: HostConfigSummary {
            network_mode: view::mode_text(&spec.network.mode),
            annotations: (version.since(46) && !spec.annotations.is_empty())
                .then(|| spec.annotations.clone()),
        },
        health: version.since(52).then(|| Health {
            status: view::health_status(snapshot),
            failing_streak: snapshot
                .health
                .as_ref()
                .map_or(0, |health| i64::from(health.failing_streak)),
            log: None,
        }),
        network_settings: NetworkSettingsSummary {
            networks: view::endpoint_summaries(snapshot),
        },
        mounts: view::mounts(&snapshot.mounts),
    }
}

/// Executable and arguments in one line; an argument with a blank is put in quotes.
fn command(command: &[String]) -> String {
    let quoted = |(index, part): (usize, &String)| match index > 0 && part.contains(' ') {
        true => format!("'{part}'"),
        false => part.clone(),
    };
    command
        .iter()
        .enumerate()
        .map(quoted)
        .collect::<Vec<_>>()
        .join(" ")
}

/// In the order of the port keys as text, as dockerd lists them.
fn ports(snapshot: &Snapshot) -> Vec<PortSummary> {
    let mut ports = Vec::new();
    for (key, bindings) in view::port_map(snapshot) {
        let (number, kind) = key.split_once('/').unwrap_or((&key, "tcp"));
        let private_port = number.parse().unwrap_or(0);
        let kind = kind.to_owned();
        match bindings {
            None => ports.push(PortSummary {
                ip: String::new(),
                private_port,
                public_port: 0,
                kind,
            }),
            Some(bindings) => ports.extend(bindings.into_iter().map(|binding| PortSummary {
                ip: binding.host_ip,
                private_port,
                public_port: binding.host_port.parse().unwrap_or(0),
                kind: kind.clone(),
            })),
        }
    }
    ports
}

/// `Up 10 minutes`, `Exited (0) 3 seconds ago`, ...
pub fn status(snapshot: &Snapshot, now: Timestamp) -> String {
    let state = &snapshot.state;
    let since = |then: Timestamp| human_duration((now.0 - then.0).max(0));
    match &state.phase {
        Phase::Running { paused: true, .. } => format!("Up {} (Paused)", since(state.started_at)),
        Phase::Running { .. } => {
            let health = match view::health_status(snapshot) {
                "none" => String::new(),
                "starting" => " (health: starting)".to_owned(),
                other => format!(" ({other})"),
            };
            format!("Up {}{health}", since(state.started_at))
        }
        Phase::Restarting => format!(
            "Restarting ({}) {} ago",
            state.exit_code,
            since(state.finished_at)
        ),
        Phase::Removing => "Removal In Progress".to_owned(),
        Phase::Dead => "Dead".to_owned(),
        Phase::Created | Phase::Starting => "Created".to_owned(),
        Phase::Exited if state.started_at.is_zero() => "Created".to_owned(),
        Phase::Exited if state.finished_at.is_zero() => String::new(),
        Phase::Exited => format!(
            "Exited ({}) {} ago",
            state.exit_code,
            since(state.finished_at)
        ),
    }
}

/// A duration in words as Docker's CLI and API print it. Source: observed texts; the steps are those of go-units.
pub fn human_duration(nanos: i64) -> String {
    let seconds = nanos / 1_000_000_000;
    let minutes = seconds / 60;
    // Hours are rounded to the nearest, from here on.
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        const MINUTE: i64 = 60;
        const HOUR: i64 = 60 * MINUTE;
        const DAY: i64 = 24 * HOUR;
        for (seconds, want) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (59 * MINUTE, "59 minutes"),
            (HOUR, "About an hour"),
            (HOUR + 29 * MINUTE, "About an hour"),
            (HOUR + 30 * MINUTE, "2 hours"),
            (47 * HOUR, "47 hours"),
            (2 * DAY, "2 days"),
            (13 * DAY, "13 days"),
            (14 * DAY, "2 weeks"),
            (60 * DAY, "2 months"),
            (365 * DAY, "12 months"),
            (800 * DAY, "2 years"),
        ] {
            assert_eq!(human_duration(seconds * 1_000_000_000), want, "{seconds}");
        }
    }

    #[test]
    fn commands_are_quoted() {
        let parts = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            command(&parts(&["sh", "-c", "echo a b"])),
            "sh -c 'echo a b'"
        );
        assert_eq!(command(&parts(&["top"])), "top");
        assert_eq!(command(&[]), "");
    }

    #[test]
    fn numbers() {
        assert_eq!(atoi("-1").unwrap(), -1);
        assert_eq!(
            atoi("x").unwrap_err().message,
            "strconv.Atoi: parsing \"x\": invalid syntax"
        );
    }
}
