//! Connect and disconnect, while the container runs or not.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use longshore_model::{Error, ErrorKind, Result, port::PublishedPort};
use longshore_network::Endpoint;
use longshore_store::{Batch, Durability, NewEvent, Table};

use super::{
    actor::Actor,
    dns,
    networking::{Plugged, default_routes, front, interface_settings, publish},
    phase::Phase,
    record::{Definition, RUN_SUFFIX},
    spec::{EndpointSpec, NetworkMode},
};
use crate::{
    Inner,
    network::{Attachment, NetworkRecord},
};

impl Actor {
    /// Is the container in a state, and of a kind, that can change networks?
    fn may_change_networks(&self) -> Result<()> {
        if matches!(self.run.state.phase, Phase::Removing | Phase::Dead) {
            return Err(Error::conflict(format!(
                "container {} is marked for removal and cannot be connected or disconnected to the network",
                self.definition.id
            )));
        }
        Ok(())
    }

    fn may_connect(&self, network: &NetworkRecord) -> Result<()> {
        self.may_change_networks()?;
        let spec = &self.definition.spec.network;
        if matches!(spec.mode, NetworkMode::Container(_)) || spec.mode == NetworkMode::Host {
            return Err(Error::invalid(
                "container sharing network namespace with another container or host cannot be connected to any other \
                 network",
            ));
        }
        if network.driver == "host" {
            return Err(Error::invalid(
                "cannot connect container to host network - container must be created in host network mode",
            ));
        }
        let on_none = spec.endpoints.contains_key("none");
        if on_none || network.driver == "null" && !spec.endpoints.is_empty() {
            return Err(Error::invalid(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode",
            ));
        }
        Ok(())
    }

    /// `network connect`. Of a running container: address, record of the intent, link, routes, ports, record.
    pub(super) async fn connect(&mut self, attachment: Attachment) -> Result<()> {
        let Attachment { network, spec } = attachment;
        self.may_connect(&network)?;
        let name = network.name.clone();
        let before = self.definition.spec.network.endpoints.get(&name).cloned();
        if !self.run.state.phase.is_running() {
            self.definition
                .spec
                .network
                .endpoints
                .insert(name.clone(), spec);
            let committed = self.commit_networks(Vec::new()).await;
            if committed.is_err() {
                self.put_back(&name, before);
            }
            return committed;
        }
        if self.run.endpoints.iter().any(|p| p.network == name) {
            return Err(Error::new(
                ErrorKind::Forbidden,
                format!(
                    "endpoint with name {} already exists in network {name}",
                    self.definition.name
                ),
            ));
        }
        let endpoint = self.endpoint(&name, &spec, &self.run.endpoints)?;
        self.definition
            .spec
            .network
            .endpoints
            .insert(name.clone(), spec);
        let Some(endpoint) = endpoint else {
            return self.commit_networks(Vec::new()).await;
        };
        let old_front = front(&self.definition.spec.network, &self.run.endpoints).cloned();
        self.run.endpoints.push(Plugged {
            network: name.clone(),
            endpoint: endpoint.clone(),
        });
        let done = match self.commit_networks(Vec::new()).await {
            Ok(()) => self.plug(&endpoint, old_front).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => {
                let event = self.network_event(&network, "connect");
                self.commit_networks(vec![event]).await
            }
            Err(error) => {
                self.engine.network.release(&endpoint, &[]);
                self.run.endpoints.retain(|p| p.network != name);
                self.put_back(&name, before);
                if let Err(error) = self.commit_networks(Vec::new()).await {
                    tracing::error!(container = %self.definition.id, "failed connect not recorded: {error}");
                }
                Err(error)
            }
        }
    }

    fn put_back(&mut self, name: &str, before: Option<EndpointSpec>) {
        let endpoints = &mut self.definition.spec.network.endpoints;
        match before {
            Some(before) => endpoints.insert(name.to_owned(), before),
            None => endpoints.remove(name),
        };
        self.publish();
    }

    /// Makes the link of a new endpoint and lets routes and ports follow.
    async fn plug(&mut self, endpoint: &Endpoint, old_front: Option<Endpoint>) -> Result<()> {
        let netns = self.netns()?;
        let spec = &self.definition.spec.network;
        let routes = default_routes(spec, &self.run.endpoints);
        // What the container's own programs may have done to its routes stays, unless the gateway is another one now.
        let others: Vec<Plugged> = self
            .run
            .endpoints
            .iter()
            .filter(|p| p.endpoint != *endpoint)
            .cloned()
            .collect();
        let reroute = routes != default_routes(spec, &others);
        let new_front = front(spec, &self.run.endpoints).cloned();
        let settings = interface_settings(spec, &self.run.endpoints, endpoint)?;
        let definition = self.definition.clone();
        let (engine, endpoint) = (self.engine.clone(), endpoint.clone());
        let has_ports = !self.run.ports.is_empty();
        let (plugged, was_served) = (self.run.endpoints.clone(), dns::served(&others));
        let published = crate::blocking(move || {
            engine.network.plug(netns.as_fd(), &endpoint)?;
            let follow = || -> Result<Option<Vec<PublishedPort>>> {
                engine.network.set_sysctls(netns.as_fd(), &settings)?;
                if reroute {
                    engine.network.set_gateways(netns.as_fd(), &routes)?;
                }
                dns::follow(&engine, &definition, &plugged, was_served, netns.as_fd())?;
                move_front(
                    &engine,
                    &definition,
                    old_front.as_ref(),
                    new_front.as_ref(),
                    has_ports,
                )
            };
            let followed = follow();
            if followed.is_err() {
                let gone = plugged.iter().filter(|p| p.endpoint == endpoint);
                dns::withdraw(&engine, &definition.id, &gone.cloned().collect::<Vec<_>>());
                let _ = engine.network.unplug(netns.as_fd(), &endpoint);
            } else {
                super::files::add_host_lines(&definition, &endpoint);
            }
            followed
        })
        .await?;
        if let Some(ports) = published {
            self.run.ports = ports;
        }
        Ok(())
    }

    /// `network disconnect`. `network` is None when it is gone.
    pub(super) async fn disconnect(
        &mut self,
        name: &str,
        network: Option<&NetworkRecord>,
    ) -> Result<()> {
        self.may_change_networks()?;
        let running = self.run.state.phase.is_running();
        let spec = &mut self.definition.spec.network;
        let is_host = network.is_some_and(|n| n.driver == "host");
        if running && spec.mode == NetworkMode::Host && is_host {
            return Err(Error::invalid(
                "cannot disconnect container from host network - container was created in host network mode",
            ));
        }
        let Some(before) = spec.endpoints.get(name).cloned() else {
            let the = if running && network.is_some() {
                ""
            } else {
                "the "
            };
            return Err(Error::system(format!(
                "container {} is not connected to {the}network {name}",
                self.definition.id
            )));
        };
        let at = self.run.endpoints.iter().position(|p| p.network == name);
        if let Some(at) = at.filter(|_| running) {
            self.unplug(at).await?;
        }
        self.definition.spec.network.endpoints.remove(name);
        let event = network.map(|n| self.network_event(n, "disconnect"));
        let committed = self.commit_networks(event.into_iter().collect()).await;
        if committed.is_err() {
            self.put_back(name, Some(before));
        }
        committed
    }

    /// Takes a link of the running container away, lets routes and ports follow.
    async fn unplug(&mut self, at: usize) -> Result<()> {
        let netns = self.netns()?;
        let spec = &self.definition.spec.network;
        let mut rest = self.run.endpoints.clone();
        let gone = rest.remove(at);
        let left = rest.clone();
        let routes = default_routes(spec, &rest);
        let reroute = routes != default_routes(spec, &self.run.endpoints);
        let old_front = front(spec, &self.run.endpoints).cloned();
        let new_front = front(spec, &rest).cloned();
        let has_ports = !self.run.ports.is_empty();
        let definition = self.definition.clone();
        let engine = self.engine.clone();
        let published = crate::blocking(move || {
            let ports = move_front(
                &engine,
                &definition,
                old_front.as_ref(),
                new_front.as_ref(),
                has_ports,
            )?;
            engine.network.unplug(netns.as_fd(), &gone.endpoint)?;
            if reroute {
                engine.network.set_gateways(netns.as_fd(), &routes)?;
            }
            engine.network.release(&gone.endpoint, &[]);
            super::files::remove_host_lines(&definition, &gone.endpoint);
            dns::withdraw(&engine, &definition.id, std::slice::from_ref(&gone));
            dns::follow(&engine, &definition, &left, true, netns.as_fd())?;
            Ok(ports)
        })
        .await?;
        if let Some(ports) = published {
            self.run.ports = ports;
        }
        self.run.endpoints = rest;
        Ok(())
    }

    /// The running container's network namespace.
    fn netns(&self) -> Result<OwnedFd> {
        let pid = self.run.state.pid();
        let opened = std::fs::File::open(format!("/proc/{pid}/ns/net"));
        let alive = self
            .pidfd
            .as_ref()
            .is_some_and(|pidfd| !super::kill::is_over(pidfd, Duration::ZERO));
        // Looked at after the opening: the number still meant the container then.
        match opened {
            Ok(file) if alive => Ok(file.into()),
            _ => Err(self.not_running()),
        }
    }

    /// Stores definition and run: the networks are part of both.
    async fn commit_networks(&mut self, events: Vec<NewEvent>) -> Result<()> {
        let encode =
            |value: serde_json::Result<Vec<u8>>| value.map_err(|e| Error::system(e.to_string()));
        let id = self.definition.id.to_string();
        let mut batch = Batch::new();
        batch.put(
            Table::Container,
            id.clone(),
            encode(serde_json::to_vec(&self.definition))?,
        );
        batch.put(
            Table::Container,
            format!("{id}{RUN_SUFFIX}"),
            encode(serde_json::to_vec(&self.run))?,
        );
        for event in events {
            batch.event(event);
        }
        self.commit_batch(batch, Durability::Survives).await
    }
}

/// Ports follow the endpoint with the default route. None: they are as before.
fn move_front(
    engine: &Inner,
    definition: &Definition,
    old: Option<&Endpoint>,
    new: Option<&Endpoint>,
    has_ports: bool,
) -> Result<Option<Vec<PublishedPort>>> {
    match (old, new) {
        (Some(old), Some(new)) if old.endpoint_id == new.endpoint_id => Ok(None),
        (Some(old), Some(new)) if has_ports => engine.network.move_ports(old, new).map(|()| None),
        (Some(old), None) => {
            engine.network.unpublish(old);
            Ok(Some(Vec::new()))
        }
        (_, Some(new)) => publish(engine, definition, new).map(Some),
        (None, None) => Ok(None),
    }
}
