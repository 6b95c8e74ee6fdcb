//! `--publish` and `--expose`, and the ports column of `ps`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::failure::{Done, Failure};
use crate::flags::Parsed;

/// Puts ExposedPorts and PortBindings.
///
/// # Errors
/// A specification that cannot be read.
pub fn put(
    config: &mut Map<String, Value>,
    host: &mut Map<String, Value>,
    parsed: &Parsed,
) -> Done {
    let mut exposed = Map::new();
    let mut bindings: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for text in parsed.list("expose") {
        let (range, protocol) = protocol(text)?;
        for port in read_range(range).ok_or_else(|| {
            Failure::usage(format_args!("invalid range format for --expose: {text}"))
        })? {
            exposed.insert(format!("{port}/{protocol}"), json!({}));
        }
    }
    for text in parsed.list("publish") {
        for (key, ip, port) in publish(text)? {
            exposed.insert(key.clone(), json!({}));
            bindings
                .entry(key)
                .or_default()
                .push(json!({"HostIp": ip, "HostPort": port}));
        }
    }
    if !exposed.is_empty() {
        config.insert("ExposedPorts".into(), Value::Object(exposed));
    }
    if !bindings.is_empty() {
        host.insert("PortBindings".into(), json!(bindings));
    }
    Ok(())
}

fn protocol(text: &str) -> Done<(&str, String)> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(Failure::usage(format_args!("invalid proto: {protocol}")));
    }
    Ok((ports, protocol))
}

fn read_range(text: &str) -> Option<std::ops::RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(first..=last)
}

/// `[[ip:]host:]container[/protocol]`, ports alone or ranges: (port key, host ip, host port).
fn publish(text: &str) -> Done<Vec<(String, String, String)>> {
    let (addresses, protocol) = protocol(text)?;
    let bad = |what: &str| Failure::usage(format_args!("invalid {what}: {text}"));
    let (rest, container) = match addresses.rsplit_once(':') {
        Some((rest, container)) => (Some(rest), container),
        None => (None, addresses),
    };
    let (ip, host) = match rest.map(|rest| rest.rsplit_once(':')) {
        None => ("", ""),
        Some(None) => ("", rest.unwrap_or_default()),
        Some(Some((ip, host))) => (ip.trim_start_matches('[').trim_end_matches(']'), host),
    };
    if !ip.is_empty() && ip.parse::<std::net::IpAddr>().is_err() {
        return Err(bad("IP address"));
    }
    if container.is_empty() {
        return Err(Failure::usage(format_args!(
            "no port specified: {text}<empty>"
        )));
    }
    let ports = read_range(container).ok_or_else(|| bad("containerPort"))?;
    let count = ports.len();
    let hosts = match host {
        "" => None,
        host => Some(read_range(host).ok_or_else(|| bad("hostPort"))?),
    };
    // One container port and a range of the host's: the daemon picks one that is free.
    if let Some(range) = hosts.as_ref().filter(|range| range.len() != count) {
        if count != 1 {
            return Err(bad("ranges specified for container and host ports"));
        }
        let range = format!("{}-{}", range.start(), range.end());
        return Ok(vec![(format!("{container}/{protocol}"), ip.into(), range)]);
    }
    let mut hosts = hosts.into_iter().flatten();
    Ok(ports
        .map(|port| {
            let host = hosts.next().map_or(String::new(), |host| host.to_string());
            (format!("{port}/{protocol}"), ip.to_owned(), host)
        })
        .collect())
}

/// The ports column: `0.0.0.0:8091->80/tcp, [::]:8091->80/tcp`, runs of neighbours joined (`8000-8002/tcp`).
pub fn column(ports: &Value) -> String {
    struct Run {
        ip: String,
        kind: String,
        first: u64,
        last: u64,
    }
    let text = |port: &Value, key: &str| port[key].as_str().unwrap_or_default().to_owned();
    let number = |port: &Value, key: &str| port[key].as_u64().unwrap_or_default();
    let mut ports: Vec<&Value> = ports.as_array().into_iter().flatten().collect();
    ports.sort_by_key(|port| {
        (
            number(port, "PrivatePort"),
            text(port, "IP"),
            number(port, "PublicPort"),
            text(port, "Type"),
        )
    });
    // Where the last run of an address and protocol is; earlier ones are closed.
    let mut open: Vec<Run> = Vec::new();
    let (mut closed, mut mapped) = (Vec::new(), Vec::new());
    let show = |run: &Run| {
        let range = if run.first == run.last {
            run.first.to_string()
        } else {
            format!("{}-{}", run.first, run.last)
        };
        if run.ip.is_empty() {
            format!("{range}/{}", run.kind)
        } else {
            format!("{}->{range}/{}", joined(&run.ip, &range), run.kind)
        }
    };
    for port in ports {
        let (private, public) = (number(port, "PrivatePort"), number(port, "PublicPort"));
        let (ip, kind) = (text(port, "IP"), text(port, "Type"));
        if !ip.is_empty() && public != private {
            mapped.push(format!(
                "{}->{private}/{kind}",
                joined(&ip, &public.to_string())
            ));
            continue;
        }
        match open.iter_mut().find(|run| run.ip == ip && run.kind == kind) {
            Some(run) if run.last + 1 == private => run.last = private,
            Some(run) => {
                closed.push(show(run));
                (run.first, run.last) = (private, private);
            }
            None => open.push(Run {
                ip,
                kind,
                first: private,
                last: private,
            }),
        }
    }
    closed.extend(open.iter().map(show));
    closed.extend(mapped);
    closed.join(", ")
}

/// Host and port, an IPv6 address in brackets.
fn joined(ip: &str, port: &str) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Vec<(String, String, String)> {
        publish(text).unwrap()
    }

    #[test]
    fn specifications() {
        let is = |key: &str, ip: &str, port: &str| (key.to_owned(), ip.to_owned(), port.to_owned());
        assert_eq!(one("80"), [is("80/tcp", "", "")]);
        assert_eq!(one("8080:80/udp"), [is("80/udp", "", "8080")]);
        assert_eq!(one("127.0.0.1::80"), [is("80/tcp", "127.0.0.1", "")]);
        assert_eq!(one("[::1]:8080:80"), [is("80/tcp", "::1", "8080")]);
        assert_eq!(
            one("8000-8001:80-81"),
            [is("80/tcp", "", "8000"), is("81/tcp", "", "8001")]
        );
        assert_eq!(one("8000-8009:80"), [is("80/tcp", "", "8000-8009")]);
        for bad in [
            "",
            "x",
            "1:2:3:4",
            "80/x",
            "8000-8001:80-82",
            "99999:80",
            "a.b:1:2",
        ] {
            assert!(publish(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_column_joins_neighbours() {
        let ports = json!([
            {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8091, "Type": "tcp"},
            {"IP": "::", "PrivatePort": 80, "PublicPort": 8091, "Type": "tcp"},
            {"PrivatePort": 9001, "Type": "tcp"},
            {"PrivatePort": 9000, "Type": "tcp"},
            {"IP": "0.0.0.0", "PrivatePort": 5000, "PublicPort": 5000, "Type": "udp"},
        ]);
        assert_eq!(
            column(&ports),
            "0.0.0.0:5000->5000/udp, 9000-9001/tcp, 0.0.0.0:8091->80/tcp, [::]:8091->80/tcp"
        );
        assert_eq!(column(&json!([])), "");
    }
}
