//! Published ports between the engine's words and the mechanism's.

use longshore_model::port::PublishedPort;
use longshore_network::{self as mechanism, Protocol};

use crate::api::ContainerSpec;

/// What `-p` and `-P` ask of the mechanism.
pub(crate) fn wanted_ports(spec: &ContainerSpec) -> Vec<mechanism::PortBinding> {
    let mut wanted: Vec<mechanism::PortBinding> = spec
        .network
        .port_bindings
        .iter()
        .filter_map(|binding| {
            Some(mechanism::PortBinding {
                proto: Protocol::parse(&binding.protocol)?,
                container_port: binding.container_port,
                host_ip: binding.host_ip,
                host_port: binding.host_port,
                host_port_end: binding.host_port_end,
            })
        })
        .collect();
    if spec.network.publish_all {
        for port in &spec.exposed_ports {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            let (Ok(number), Some(proto)) = (number.parse::<u16>(), Protocol::parse(protocol))
            else {
                continue;
            };
            if !wanted
                .iter()
                .any(|w| w.container_port == number && w.proto == proto)
            {
                wanted.push(mechanism::PortBinding {
                    proto,
                    container_port: number,
                    host_ip: None,
                    host_port: 0,
                    host_port_end: 0,
                });
            }
        }
    }
    wanted
}

pub(crate) fn from_mechanism(ports: Vec<mechanism::PublishedPort>) -> Vec<PublishedPort> {
    ports
        .into_iter()
        .map(|port| PublishedPort {
            container_port: port.container_port,
            protocol: port.proto.as_str().to_owned(),
            host_ip: port.host_ip,
            host_port: port.host_port,
        })
        .collect()
}

pub(crate) fn to_mechanism(ports: &[PublishedPort]) -> Vec<mechanism::PublishedPort> {
    ports
        .iter()
        .filter_map(|port| {
            Some(mechanism::PublishedPort {
                proto: Protocol::parse(&port.protocol)?,
                container_port: port.container_port,
                host_ip: port.host_ip,
                host_port: port.host_port,
            })
        })
        .collect()
}
