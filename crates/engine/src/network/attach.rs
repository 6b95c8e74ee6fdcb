//! Putting containers onto networks and taking them off, while they run or not.

use std::{net::IpAddr, sync::Arc};

use longshore_model::{Error, Result};

use super::NetworkRecord;
use crate::{
    Engine, Inner,
    api::{EndpointSpec, NetworkMode, NetworkSpec},
    container::actor::Command,
};

/// What an actor needs to know to join a network.
pub(crate) struct Attachment {
    pub network: Arc<NetworkRecord>,
    pub spec: EndpointSpec,
}

impl Engine {
    /// Connects a container; one that does not run gets its address at its start.
    ///
    /// # Errors
    /// 404; 400 for addresses that the network cannot give, 403 for one that is taken or a container that is on it already.
    pub async fn connect_network(
        &self,
        network: &str,
        container: &str,
        mut spec: EndpointSpec,
    ) -> Result<()> {
        let handle = self.inner.containers.find(container)?;
        let network = self.inner.networks.find(network)?;
        check_addresses(&network, &spec)
            .map_err(|fault| Error::invalid(format!("invalid endpoint settings:\n{fault}")))?;
        spec.network_id.clone_from(&network.id);
        spec.connected = true;
        let attachment = Box::new(Attachment { network, spec });
        self.inner
            .ask(&handle, |reply| Command::Connect { attachment, reply })
            .await
    }

    /// Disconnects a container. With `force` the network need not exist any more.
    ///
    /// # Errors
    /// 404; 500 in dockerd's words for a container that is not on it.
    pub async fn disconnect_network(
        &self,
        network: &str,
        container: &str,
        force: bool,
    ) -> Result<()> {
        let found = self.inner.networks.find(network);
        let handle = self.inner.containers.find(container)?;
        let (name, record) = match found {
            Ok(record) => (record.name.clone(), Some(record)),
            Err(_) if force => (network.to_owned(), None),
            // Of a container that does not run a network can be taken that is gone.
            Err(_) if !handle.snapshot().state.running() => (network.to_owned(), None),
            Err(error) => return Err(error),
        };
        self.inner
            .ask(&handle, |reply| Command::Disconnect {
                name,
                network: record,
                reply,
            })
            .await
    }
}

impl Inner {
    /// Resolves the networks that a container is to be created on: each must exist, and is known by its name from here on.
    ///
    /// # Errors
    /// 404; 400 for addresses that a network cannot give.
    pub(crate) fn resolve_networks(&self, spec: &mut NetworkSpec) -> Result<()> {
        if let NetworkMode::Named(name) = &spec.mode {
            self.networks.find(name)?;
        }
        let given = std::mem::take(&mut spec.endpoints);
        let mut faults = Vec::new();
        for (name, mut endpoint) in given {
            let network = self.networks.find(&name)?;
            if let Err(fault) = check_addresses(&network, &endpoint) {
                faults.push(format!(
                    "invalid config for network {name}: invalid endpoint settings:\n{fault}"
                ));
            }
            endpoint.network_id.clone_from(&network.id);
            spec.endpoints.insert(network.name.clone(), endpoint);
        }
        match faults.as_slice() {
            [] => Ok(()),
            [one] => Err(Error::invalid(one.clone())),
            several => Err(Error::invalid(
                several
                    .iter()
                    .map(|fault| format!("* {fault}"))
                    .collect::<Vec<_>>()
                    .join("\n"),
            )),
        }
    }
}

/// Addresses can be asked for only where the user has chosen the subnet.
fn check_addresses(
    network: &NetworkRecord,
    endpoint: &EndpointSpec,
) -> std::result::Result<(), String> {
    let Some(user) = &network.user else {
        return Ok(());
    };
    let check = |address: Option<IpAddr>| -> std::result::Result<(), String> {
        let Some(address) = address else {
            return Ok(());
        };
        let mut family = user
            .configured
            .iter()
            .filter(|subnet| subnet.address.is_ipv6() == address.is_ipv6())
            .peekable();
        if family.peek().is_none() {
            return Err(
                "user specified IP address is supported only when connecting to networks with user configured subnets"
                    .to_owned(),
            );
        }
        if family.any(|subnet| subnet.contains(address)) {
            Ok(())
        } else {
            Err(format!(
                "no configured subnet or ip-range contain the IP address {address}"
            ))
        }
    };
    let faults: Vec<String> = [endpoint.ipv4_address, endpoint.ipv6_address]
        .into_iter()
        .filter_map(|address| check(address).err())
        .collect();
    match faults.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        several => Err(several
            .iter()
            .map(|fault| format!("* {fault}"))
            .collect::<Vec<_>>()
            .join("\n")),
    }
}
