//! `--network` and the flags of a container's first endpoint.

use serde_json::{Map, Value, json};

use super::failure::{Done, Failure};
use crate::flags::Parsed;

/// `--network NAME` or `--network name=NAME,alias=A,ip=...`, with the old flags for the first one.
pub fn put(
    config: &mut Map<String, Value>,
    host: &mut Map<String, Value>,
    parsed: &Parsed,
) -> Done {
    let mut networks: Vec<(String, Map<String, Value>)> = Vec::new();
    for text in parsed.list("network").iter().chain(parsed.list("net")) {
        networks.push(network(text)?);
    }
    let mut first = Map::new();
    if parsed.is_set("network-alias") {
        first.insert("Aliases".into(), parsed.list("network-alias").into());
    }
    let mut ipam = Map::new();
    for (flag, key) in [("ip", "IPv4Address"), ("ip6", "IPv6Address")] {
        if let Some(ip) = parsed.text(flag) {
            ipam.insert(key.into(), ip.into());
        }
    }
    if !ipam.is_empty() {
        first.insert("IPAMConfig".into(), Value::Object(ipam));
    }
    if let Some(mac) = parsed.text("mac-address") {
        first.insert("MacAddress".into(), mac.into());
    }
    if networks.is_empty() && !first.is_empty() {
        networks.push(("default".into(), Map::new()));
    }
    if let Some((name, settings)) = networks.first_mut() {
        host.insert("NetworkMode".into(), name.as_str().into());
        settings.append(&mut first);
    }
    let plain = networks.len() < 2 && networks.iter().all(|(_, settings)| settings.is_empty());
    if !plain {
        let endpoints: Map<String, Value> = networks
            .into_iter()
            .map(|(name, settings)| (name, Value::Object(settings)))
            .collect();
        config.insert(
            "NetworkingConfig".into(),
            json!({"EndpointsConfig": endpoints}),
        );
    }
    Ok(())
}

fn network(text: &str) -> Done<(String, Map<String, Value>)> {
    if !text.contains('=') {
        return Ok((text.to_owned(), Map::new()));
    }
    let bad = |field: &str| Failure::usage(format_args!("invalid field {field} in --network"));
    let (mut name, mut settings) = (String::new(), Map::new());
    let mut aliases: Vec<Value> = Vec::new();
    let (mut ipam, mut options) = (Map::new(), Map::new());
    let set = |map: &mut Map<String, Value>, key: &str, value: Value| {
        map.insert(key.to_owned(), value);
    };
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| bad(field))?;
        match key {
            "name" => name = value.to_owned(),
            "alias" => aliases.push(value.into()),
            "ip" => set(&mut ipam, "IPv4Address", value.into()),
            "ip6" => set(&mut ipam, "IPv6Address", value.into()),
            "mac-address" => set(&mut settings, "MacAddress", value.into()),
            "gw-priority" => {
                let priority: i64 = value.parse().map_err(|_| bad(field))?;
                set(&mut settings, "GwPriority", priority.into());
            }
            "driver-opt" => {
                let (key, value) = value.split_once('=').ok_or_else(|| bad(field))?;
                options.insert(key.into(), value.into());
            }
            _ => return Err(bad(field)),
        }
    }
    if !aliases.is_empty() {
        settings.insert("Aliases".into(), aliases.into());
    }
    if !ipam.is_empty() {
        settings.insert("IPAMConfig".into(), Value::Object(ipam));
    }
    if !options.is_empty() {
        settings.insert("DriverOpts".into(), Value::Object(options));
    }
    Ok((name, settings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::{create, create_flags},
        flags,
    };

    fn create(arguments: &[&str]) -> Done<Value> {
        let parsed = flags::parse(create_flags::RUN, arguments, flags::Order::FlagsFirst).unwrap();
        create::body(&parsed, true)
    }

    #[test]
    fn networks() {
        let body = create(&["--network", "host", "x"]).unwrap();
        assert_eq!(body["HostConfig"]["NetworkMode"], "host");
        assert!(body["NetworkingConfig"].is_null());
        let body = create(&["--network", "name=n,alias=a,alias=b,ip=10.0.0.9", "x"]).unwrap();
        assert_eq!(
            body["NetworkingConfig"]["EndpointsConfig"]["n"],
            json!({"Aliases": ["a", "b"], "IPAMConfig": {"IPv4Address": "10.0.0.9"}})
        );
        let body = create(&["--net", "n", "--network-alias", "a", "x"]).unwrap();
        assert_eq!(
            body["NetworkingConfig"]["EndpointsConfig"]["n"]["Aliases"],
            json!(["a"])
        );
    }
}
