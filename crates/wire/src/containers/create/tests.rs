//! Real create bodies against what dockerd 29 said of the containers made from them (`tests/golden/recordings`).

use std::{collections::BTreeMap, sync::Arc};

use longshore_engine::api::{EndpointState, ImageIdentity, MountPoint, Phase, Snapshot, State};
use longshore_model::{ContainerId, Timestamp, port::PublishedPort};
use serde_json::{Value, json};

use super::{Accepted, Context, HostFacts, convert, names_config};
use crate::{
    containers::{inspect, list},
    dto::container::CreateBody,
    json as wire_json,
    version::ApiVersion,
};

pub(super) fn run(version: ApiVersion, body: &Value) -> longshore_model::Result<Accepted> {
    let body: CreateBody = wire_json::from_slice(body.to_string().as_bytes(), "")?;
    convert(
        body,
        &Context {
            version,
            facts: &HostFacts::for_tests(),
            config: &crate::tests::config(),
            platform: "",
            lookup: &|_| None,
        },
    )
}

/// One recorded exchange.
struct Exchange {
    version: ApiVersion,
    method: String,
    path: String,
    request: Value,
    status: u64,
    answer: Value,
}

fn recording(name: &str) -> Vec<Exchange> {
    let path = format!(
        "{}/../../tests/golden/recordings/{name}.jsonl",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    text.lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            let path = row["request"]["path"].as_str().unwrap().to_owned();
            let version = path
                .strip_prefix("/v")
                .and_then(|rest| ApiVersion::parse(rest.split('/').next()?))
                .unwrap_or(ApiVersion::v1(56));
            Exchange {
                version,
                method: row["request"]["method"].as_str().unwrap().to_owned(),
                path,
                request: row["request"]["body"].clone(),
                status: row["response"]["status"].as_u64().unwrap_or(0),
                answer: row["response"]["body"].clone(),
            }
        })
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number<T: TryFrom<i64>>(value: &Value) -> T {
    T::try_from(value.as_i64().unwrap_or(0)).unwrap_or_else(|_| panic!("{value}"))
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

fn endpoint(value: &Value) -> EndpointState {
    EndpointState {
        network_id: text(&value["NetworkID"]),
        endpoint_id: text(&value["EndpointID"]),
        gateway: text(&value["Gateway"]).parse().ok(),
        ip_address: text(&value["IPAddress"]).parse().ok(),
        ip_prefix: number(&value["IPPrefixLen"]),
        mac_address: text(&value["MacAddress"]),
        dns_names: strings(&value["DNSNames"]),
        ..EndpointState::default()
    }
}

fn mounts(value: &Value) -> Vec<MountPoint> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .map(|mount| MountPoint {
            kind: text(&mount["Type"]),
            name: text(&mount["Name"]),
            source: text(&mount["Source"]),
            destination: text(&mount["Destination"]),
            driver: text(&mount["Driver"]),
            mode: text(&mount["Mode"]),
            rw: mount["RW"].as_bool().unwrap(),
            propagation: text(&mount["Propagation"]),
            subpath: String::new(),
        })
        .collect()
}

fn ports(value: &Value) -> Vec<PublishedPort> {
    let mut all = Vec::new();
    for (key, bindings) in value.as_object().into_iter().flatten() {
        let (port, protocol) = key.split_once('/').unwrap();
        all.extend(
            bindings
                .as_array()
                .into_iter()
                .flatten()
                .map(|binding| PublishedPort {
                    container_port: port.parse().unwrap(),
                    protocol: protocol.to_owned(),
                    host_ip: text(&binding["HostIp"]).parse().unwrap(),
                    host_port: text(&binding["HostPort"]).parse().unwrap(),
                }),
        );
    }
    all
}

/// The container as our engine would hold it: the converted request, with what only an engine can know (ids, addresses,
/// values of the image) taken from the recorded inspect.
fn snapshot(accepted: &Accepted, seen: &Value) -> Snapshot {
    let mut spec = accepted.spec.clone();
    spec.process.env = strings(&seen["Config"]["Env"]);
    let mut command = vec![text(&seen["Path"])];
    command.extend(strings(&seen["Args"]));
    let state = &seen["State"];
    let manifest = &seen["ImageManifestDescriptor"];
    Snapshot {
        id: ContainerId::parse(&text(&seen["Id"])).unwrap(),
        name: text(&seen["Name"]).trim_start_matches('/').to_owned(),
        created: Timestamp::parse_rfc3339(&text(&seen["Created"])).unwrap(),
        echo: String::from_utf8(wire_json::to_vec(&accepted.echo))
            .unwrap()
            .into(),
        image: ImageIdentity {
            id: text(&seen["Image"]),
            manifest_media_type: text(&manifest["mediaType"]),
            manifest_digest: text(&manifest["digest"]),
            manifest_size: number::<i64>(&manifest["size"]).unsigned_abs(),
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            variant: String::new(),
        },
        command,
        state: State {
            phase: match text(&state["Status"]).as_str() {
                status @ ("running" | "paused") => Phase::Running {
                    pid: number(&state["Pid"]),
                    start_time: 1,
                    paused: status == "paused",
                },
                "exited" => Phase::Exited,
                "created" => Phase::Created,
                other => panic!("{other}"),
            },
            exit_code: number(&state["ExitCode"]),
            oom_killed: false,
            error: String::new(),
            started_at: Timestamp::parse_rfc3339(&text(&state["StartedAt"])).unwrap(),
            finished_at: Timestamp::parse_rfc3339(&text(&state["FinishedAt"])).unwrap(),
        },
        mounts: mounts(&seen["Mounts"]),
        networks: seen["NetworkSettings"]["Networks"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.clone(), endpoint(value)))
            .collect(),
        ports: ports(&seen["NetworkSettings"]["Ports"]),
        sandbox_id: text(&seen["NetworkSettings"]["SandboxID"]),
        sandbox_key: text(&seen["NetworkSettings"]["SandboxKey"]),
        hostname: text(&seen["Config"]["Hostname"]),
        restart_count: 0,
        exec_ids: Vec::new(),
        paths: longshore_engine::container::snapshot::Paths {
            log: text(&seen["LogPath"]),
            kept: String::new(),
            hosts: text(&seen["HostsPath"]),
            hostname: text(&seen["HostnamePath"]),
            resolv_conf: text(&seen["ResolvConfPath"]),
        },
        run: 1,
        exits: 0,
        health: None,
        removed: false,
        spec: Arc::new(spec),
    }
}

/// Every place where two values differ.
fn differences(path: &str, want: &Value, got: &Value, out: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let path = format!("{path}.{key}");
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => differences(&path, a, b, out),
                    (a, b) => out.push(format!("{path}: want {a:?}, got {b:?}")),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{index}]"), a, b, out);
            }
        }
        (a, b) if a == b => {}
        (a, b) => out.push(format!("{path}: want {a}, got {b}")),
    }
}

/// What is not ours to print yet, or is another issue's.
fn expected(difference: &str) -> bool {
    // Health checks are not run yet; networks joined after create and the annotations of manifests are later work.
    [".State.Health", "annotations"]
        .iter()
        .any(|part| difference.contains(part))
}

const RECORDINGS: [&str; 9] = [
    "01-seed-curl",
    "02-cli-run",
    "03-cli-lifecycle",
    "04-cli-exec",
    "05-cli-images",
    "06-cli-networks",
    "07-cli-volumes",
    "10-compose",
    "11-docker-py",
];

#[test]
fn inspect_gives_back_what_dockerd_gave_back() {
    let mut compared = 0;
    for name in RECORDINGS {
        let mut made: BTreeMap<String, Accepted> = BTreeMap::new();
        for exchange in recording(name) {
            if exchange.path.contains("/containers/create") && exchange.status == 201 {
                let accepted = run(exchange.version, &exchange.request)
                    .unwrap_or_else(|e| panic!("{name}: {} refused: {e}", exchange.request));
                made.insert(text(&exchange.answer["Id"]), accepted);
            }
            // Only what nobody has changed meanwhile: the first inspect of each container.
            let inspected = exchange.method == "GET" && exchange.answer["HostConfig"].is_object();
            let Some(accepted) = made
                .get(&text(&exchange.answer["Id"]))
                .filter(|_| inspected)
            else {
                continue;
            };
            let seen = &exchange.answer;
            let snapshot = snapshot(accepted, seen);
            let sizes = seen["SizeRootFs"]
                .is_u64()
                .then(|| (number::<i64>(&seen["SizeRw"]).unsigned_abs(), 2_072_576));
            let ours = inspect::answer(&snapshot, sizes, exchange.version, &|_| None);
            let ours: Value = serde_json::from_slice(&wire_json::to_vec(&ours)).unwrap();
            let mut found = Vec::new();
            differences("", seen, &ours, &mut found);
            found.retain(|difference| !expected(difference));
            // Connected to another network while it ran.
            if name == "06-cli-networks" {
                found.retain(|difference| !difference.contains(".Networks.n1."));
            }
            assert_eq!(found, Vec::<String>::new(), "{name} {}", exchange.path);
            made.remove(&text(&exchange.answer["Id"]));
            compared += 1;
        }
    }
    assert!(compared >= 10, "only {compared} comparisons");
}

#[test]
fn lists_are_as_recorded() {
    let mut compared = 0;
    for name in RECORDINGS {
        let mut made: BTreeMap<String, Accepted> = BTreeMap::new();
        for exchange in recording(name) {
            if exchange.path.contains("/containers/create") && exchange.status == 201 {
                let id = text(&exchange.answer["Id"]);
                made.insert(id, run(exchange.version, &exchange.request).unwrap());
            }
            if exchange.method != "GET" || !exchange.path.contains("/containers/json") {
                continue;
            }
            for seen in exchange.answer.as_array().into_iter().flatten() {
                let Some(accepted) = made.get(&text(&seen["Id"])) else {
                    continue;
                };
                let ours = summary_like(accepted, seen, exchange.version);
                let mut found = Vec::new();
                differences("", seen, &ours, &mut found);
                // Seconds that passed, and health, which is not watched yet.
                found.retain(|d| {
                    !d.starts_with(".Status: ") && !d.starts_with(".Health.") && !expected(d)
                });
                if name == "06-cli-networks" {
                    found.retain(|difference| !difference.contains(".Networks."));
                }
                assert_eq!(found, Vec::<String>::new(), "{name} {}", exchange.path);
                compared += 1;
            }
        }
    }
    assert!(compared >= 20, "only {compared} comparisons");
}

/// A list entry made from a snapshot that says what `seen` says.
fn summary_like(accepted: &Accepted, seen: &Value, version: ApiVersion) -> Value {
    let mut published: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for port in seen["Ports"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| p["PublicPort"].is_u64())
    {
        let key = format!("{}/{}", port["PrivatePort"], text(&port["Type"]));
        let binding = json!({"HostIp": port["IP"], "HostPort": port["PublicPort"].to_string()});
        published.entry(key).or_default().push(binding);
    }
    let command = text(&seen["Command"]);
    let running = seen["State"] == "running";
    let created = text(&seen["State"]) == "created";
    let zero = "0001-01-01T00:00:00Z";
    let start = if created {
        zero
    } else {
        "2026-11-23T20:41:10Z"
    };
    let inspected = json!({
        "Id": seen["Id"], "Name": seen["Names"][0], "Created": "2026-11-23T20:41:10Z", "Path": command, "Args": [],
        "State": {"Status": seen["State"], "Pid": u8::from(running), "ExitCode": 0, "StartedAt": start, "FinishedAt": start},
        "Image": seen["ImageID"], "ImageManifestDescriptor": seen["ImageManifestDescriptor"], "Mounts": seen["Mounts"],
        "Config": {"Env": [], "Hostname": ""},
        "NetworkSettings": {"Networks": seen["NetworkSettings"]["Networks"], "Ports": published},
    });
    let mut snapshot = snapshot(accepted, &inspected);
    snapshot.created = Timestamp(seen["Created"].as_i64().unwrap() * 1_000_000_000);
    let sizes = seen["SizeRootFs"].is_u64().then(|| {
        (
            number::<i64>(&seen["SizeRw"]).unsigned_abs(),
            number::<i64>(&seen["SizeRootFs"]).unsigned_abs(),
        )
    });
    let ours = list::summary(&snapshot, sizes, version, Timestamp::now());
    serde_json::from_slice(&wire_json::to_vec(&ours)).unwrap()
}

#[test]
fn warnings_and_refusals_are_as_recorded() {
    for name in RECORDINGS {
        for exchange in recording(name) {
            if !exchange.path.contains("/containers/create") {
                continue;
            }
            match exchange.status {
                201 => {
                    let accepted = run(exchange.version, &exchange.request).unwrap();
                    assert_eq!(
                        json!(accepted.warnings),
                        exchange.answer["Warnings"],
                        "{}",
                        exchange.request
                    );
                }
                // Names, images and sources are the engine's to refuse.
                404 | 409 => {
                    run(exchange.version, &exchange.request).unwrap();
                }
                _ => {}
            }
        }
    }
}

#[test]
fn inspect_fed_back_to_create_makes_the_same() {
    for name in RECORDINGS {
        for exchange in recording(name) {
            let seen = &exchange.answer;
            if exchange.method != "GET"
                || !seen["HostConfig"].is_object()
                || !seen["Config"].is_object()
            {
                continue;
            }
            let mut body = seen["Config"].clone();
            body["HostConfig"] = seen["HostConfig"].clone();
            body["NetworkingConfig"] =
                json!({"EndpointsConfig": seen["NetworkSettings"]["Networks"]});
            let accepted = run(exchange.version, &body).unwrap_or_else(|e| panic!("{name}: {e}"));
            let echo = serde_json::to_value(&accepted.echo.host_config).unwrap();
            let mut found = Vec::new();
            differences("HostConfig", &seen["HostConfig"], &echo, &mut found);
            assert_eq!(found, Vec::<String>::new(), "{name}");
        }
    }
}

#[test]
fn a_minimal_body() {
    let accepted = run(ApiVersion::MAX, &json!({"Image": "busybox"})).unwrap();
    assert_eq!(accepted.spec.image, "busybox");
    assert_eq!(accepted.spec.process.entrypoint, None);
    assert_eq!(accepted.spec.process.cmd, None);
    assert_eq!(accepted.spec.cgroupns_private, Some(false));
    assert!(accepted.warnings.is_empty());
    let open = json!({"Image": "x", "HostConfig": {"SecurityOpt": ["systempaths=unconfined"]}});
    let accepted = run(ApiVersion::MAX, &open).unwrap();
    assert_eq!(accepted.spec.security.masked_paths, Some(Vec::new()));
    assert_eq!(accepted.echo.host_config.masked_paths, Some(Vec::new()));
    for (body, want) in [
        (r#"{}"#, false),
        (r#"{"HostConfig":{}}"#, false),
        ("null", false),
        (r#"{"image":""}"#, true),
        (r#"{"TTY":true}"#, true),
    ] {
        assert_eq!(
            names_config(&wire_json::parse_body(body.as_bytes()).unwrap()),
            want,
            "{body}"
        );
    }
}

#[test]
fn refusals() {
    for (body, want) in [
        (
            json!({"Image": "x", "WorkingDir": "a"}),
            "the working directory 'a' is invalid, it needs to be an absolute path",
        ),
        (
            json!({"Image": "x", "StopSignal": "BOGUS"}),
            "invalid signal: BOGUS",
        ),
        (
            json!({"Image": "x", "Env": ["=a"]}),
            "invalid environment variable: =a",
        ),
        (
            json!({"Image": "x", "Healthcheck": {"Interval": 5}}),
            "Interval in Healthcheck cannot be less than 1ms",
        ),
        (
            json!({"Image": "x", "HostConfig": {"RestartPolicy": {"Name": "bogus"}}}),
            "invalid restart policy: unknown policy 'bogus'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
        ),
        (
            json!({"Image": "x", "HostConfig": {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 1}}}),
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ),
        (
            json!({"Image": "x", "HostConfig": {"AutoRemove": true, "RestartPolicy": {"Name": "always"}}}),
            "can't create 'AutoRemove' container with restart policy",
        ),
        (
            json!({"Image": "x", "HostConfig": {"IpcMode": "x"}}),
            "invalid IPC mode: x",
        ),
        (
            json!({"Image": "x", "HostConfig": {"PidMode": "x"}}),
            "invalid PID mode: x",
        ),
        (
            json!({"Image": "x", "HostConfig": {"UTSMode": "x"}}),
            "invalid UTS mode: x",
        ),
        (
            json!({"Image": "x", "HostConfig": {"Runtime": "x"}}),
            "unknown or invalid runtime name: x",
        ),
        (
            json!({"Image": "x", "HostConfig": {"LogConfig": {"Type": "x"}}}),
            "logger: no log driver named 'x' is registered",
        ),
        (
            json!({"Image": "x", "HostConfig": {"LogConfig": {"Config": {"a": "b"}}}}),
            "unknown log opt 'a' for json-file log driver",
        ),
        (
            json!({"Image": "x", "Hostname": "h", "HostConfig": {"NetworkMode": "container:y"}}),
            "conflicting options: hostname and the network mode",
        ),
        (
            json!({"Image": "x", "HostConfig": {"NetworkMode": "container:"}}),
            "invalid network mode: invalid container format container:<name|id>",
        ),
        (
            json!({"Image": "x", "Hostname": "h", "HostConfig": {"UTSMode": "host"}}),
            "conflicting options: hostname and the UTS mode",
        ),
        (
            json!({"Image": "x", "Cmd": ["a\u{0}b"]}),
            "invalid command: contains a NUL byte",
        ),
        (
            json!({"Image": "x", "HostConfig": {"CgroupParent": "/a/../.."}}),
            "invalid cgroup parent: \"/a/../..\"",
        ),
        (
            json!({"Image": "x", "Volumes": {"/": {}}}),
            "invalid volume specification: '/': invalid specification: destination can't be '/'",
        ),
    ] {
        let error = run(ApiVersion::MAX, &body)
            .err()
            .unwrap_or_else(|| panic!("{body} is accepted"));
        assert_eq!(error.message, want, "{body}");
    }
}

proptest::proptest! {
    /// Any value in any field gives an answer, never a panic.
    #[test]
    fn odd_values_never_panic(key in 0usize..40, value in 0usize..8, minor in 24u32..56) {
        const FIELDS: [&str; 40] = [
            "Binds", "LogConfig", "NetworkMode", "PortBindings", "RestartPolicy", "VolumeDriver", "VolumesFrom",
            "ConsoleSize", "Annotations", "CapAdd", "CgroupnsMode", "Dns", "ExtraHosts", "IpcMode", "Links",
            "OomScoreAdj", "PidMode", "SecurityOpt", "Tmpfs", "UTSMode", "ShmSize", "Sysctls", "CpuShares", "Memory",
            "NanoCpus", "CgroupParent", "BlkioWeight", "BlkioWeightDevice", "CpuPeriod", "CpuQuota", "CpusetCpus",
            "Devices", "DeviceCgroupRules", "DeviceRequests", "MemorySwap", "MemorySwappiness", "PidsLimit", "Ulimits",
            "Mounts", "MaskedPaths",
        ];
        let values = [
            json!(null), json!("é:/:"), json!([""]), json!({"": null}), json!(i64::MAX), json!(i64::MIN), json!([{}]),
            json!({"80": [{"HostPort": "é"}]}),
        ];
        let body = json!({"Image": "x", "HostConfig": {FIELDS[key]: values[value]}});
        let _ = run(ApiVersion::v1(minor), &body);
    }
}
