//! A container's place on its networks: endpoints for a start, connect and disconnect while it runs, and what is given back
//! at the end of a run.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use longshore_model::{Error, ErrorKind, Result, port::PublishedPort};
use longshore_network::{Endpoint, Wanted};
use longshore_store::{Batch, Durability, NewEvent, Table};
use serde::{Deserialize, Serialize};

use super::{
    actor::Actor,
    dns,
    phase::Phase,
    record::{Definition, RUN_SUFFIX, RunRecord},
    snapshot::EndpointState,
    spec::{EndpointSpec, NetworkMode, NetworkSpec},
};
use crate::{
    Inner,
    network::{Attachment, NetworkRecord, from_mechanism, predefined, wanted_ports},
};

/// Names the interface in the container.
const IFNAME: &str = "com.docker.network.endpoint.ifname";

/// A network that a running container is on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plugged {
    /// The network's name.
    pub network: String,
    pub endpoint: Endpoint,
}

/// The endpoint that has the default route of a family: the highest priority, then the network's name, decides.
pub(crate) fn gateway<'a>(
    spec: &NetworkSpec,
    plugged: &'a [Plugged],
    ipv6: bool,
) -> Option<&'a Plugged> {
    let priority = |p: &Plugged| spec.endpoints.get(&p.network).map_or(0, |e| e.gw_priority);
    plugged
        .iter()
        .filter(|p| {
            if ipv6 {
                p.endpoint.gateway6.is_some()
            } else {
                p.endpoint.gateway.is_some()
            }
        })
        .min_by(|a, b| {
            priority(b)
                .cmp(&priority(a))
                .then_with(|| a.network.cmp(&b.network))
        })
}

/// The endpoint that ports are published on.
pub(crate) fn front<'a>(spec: &NetworkSpec, plugged: &'a [Plugged]) -> Option<&'a Endpoint> {
    let found = gateway(spec, plugged, false).or_else(|| gateway(spec, plugged, true))?;
    found.endpoint.stacked.is_none().then_some(&found.endpoint)
}

/// (interface, gateway), at most one a family.
pub(crate) fn default_routes(
    spec: &NetworkSpec,
    plugged: &[Plugged],
) -> Vec<(String, std::net::IpAddr)> {
    let four = gateway(spec, plugged, false)
        .and_then(|p| Some((p.endpoint.interface.clone(), p.endpoint.gateway?)));
    let six = gateway(spec, plugged, true)
        .and_then(|p| Some((p.endpoint.interface.clone(), p.endpoint.gateway6?.into())));
    four.into_iter().chain(six).collect()
}

/// The lowest `ethN` that is free.
fn free_interface(plugged: &[Plugged]) -> String {
    (0..)
        .map(|number| format!("eth{number}"))
        .find(|name| plugged.iter().all(|p| p.endpoint.interface != *name))
        .unwrap_or_default()
}

/// The names that others on a user's network know a container by.
pub(crate) fn dns_names(definition: &Definition, endpoint: &EndpointSpec) -> Vec<String> {
    let mut names = vec![definition.name.clone()];
    let more = endpoint.aliases.iter().map(String::as_str);
    let own = [definition.id.short(), definition.hostname.as_str()];
    for name in more.chain(own) {
        if !name.is_empty() && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// The networks as inspect shows them: wanted ones before the first run, live values while running.
pub(super) fn networks_of(
    engine: &Inner,
    definition: &Definition,
    run: &RunRecord,
) -> BTreeMap<String, EndpointState> {
    let spec = &definition.spec.network;
    let mut networks = BTreeMap::new();
    for (name, wanted) in &spec.endpoints {
        let mut state = EndpointState {
            aliases: wanted.aliases.clone(),
            links: wanted.links.clone(),
            driver_opts: wanted.driver_opts.clone(),
            gw_priority: wanted.gw_priority,
            echo: wanted.echo.clone(),
            ..EndpointState::default()
        };
        let known = run.networked || wanted.connected;
        if known {
            state.network_id = if wanted.network_id.is_empty() {
                engine.network_id(name).unwrap_or_default()
            } else {
                wanted.network_id.clone()
            };
        }
        if predefined(name) {
            if run.renamed {
                state.dns_names = vec![definition.name.clone(), definition.id.short().to_owned()];
            }
        } else if known {
            state.dns_names = dns_names(definition, wanted);
        }
        if let Some(plugged) = run.endpoints.iter().find(|p| p.network == *name) {
            let endpoint = &plugged.endpoint;
            state.endpoint_id.clone_from(&endpoint.endpoint_id);
            // A route without a gateway shows none.
            state.gateway = endpoint.gateway.filter(|gateway| !gateway.is_unspecified());
            state.ip_address = endpoint.ip;
            state.ip_prefix = if endpoint.ip.is_some() {
                endpoint.prefix
            } else {
                0
            };
            state.ipv6_gateway = endpoint
                .gateway6
                .filter(|gateway| !gateway.is_unspecified())
                .map(Into::into);
            state.ipv6_address = endpoint.ip6.map(Into::into);
            state.ipv6_prefix = endpoint.prefix6;
            // An ipvlan link has its parent's.
            let own = endpoint.stacked.as_ref().is_none_or(|s| s.kind != "ipvlan");
            state.mac_address = if own {
                endpoint.mac_text()
            } else {
                String::new()
            };
        }
        networks.insert(name.clone(), state);
    }
    networks
}

impl Actor {
    /// Endpoints on all networks that the container is to be on: the mode's own first, then by priority and name.
    pub(super) fn allocate(&self) -> Result<Vec<Plugged>> {
        let spec = &self.definition.spec.network;
        let mut plugged = Vec::new();
        if spec.disabled || matches!(spec.mode, NetworkMode::Container(_)) {
            return Ok(plugged);
        }
        let main = match &spec.mode {
            NetworkMode::Named(name) => self.engine.networks.find(name).ok(),
            _ => self.engine.networks.named("bridge"),
        };
        let mut order: Vec<(&String, &EndpointSpec)> = spec.endpoints.iter().collect();
        order.sort_by(|(a, left), (b, right)| {
            let is_main = |name: &str| main.as_ref().is_some_and(|n| n.name == name);
            is_main(b)
                .cmp(&is_main(a))
                .then_with(|| right.gw_priority.cmp(&left.gw_priority))
                .then_with(|| a.cmp(b))
        });
        for (name, wanted) in order {
            match self.endpoint(name, wanted, &plugged) {
                Ok(Some(endpoint)) => plugged.push(Plugged {
                    network: name.clone(),
                    endpoint,
                }),
                Ok(None) => {}
                Err(error) => {
                    for done in &plugged {
                        self.engine.network.release(&done.endpoint, &[]);
                    }
                    return Err(error.context("failed to set up container networking"));
                }
            }
        }
        Ok(plugged)
    }

    fn endpoint(
        &self,
        name: &str,
        wanted: &EndpointSpec,
        others: &[Plugged],
    ) -> Result<Option<Endpoint>> {
        let found = self.engine.networks.named(name);
        // One that was made anew under the same name is another network.
        let same = found.filter(|n| wanted.network_id.is_empty() || n.id == wanted.network_id);
        let network = same.ok_or_else(|| {
            let given = if wanted.network_id.is_empty() {
                name
            } else {
                &wanted.network_id
            };
            Error::not_found(format!("network {given} not found"))
        })?;
        let Some(link) = self.engine.network_link(&network)? else {
            return Ok(None);
        };
        let interface = wanted
            .driver_opts
            .get(IFNAME)
            .filter(|name| !name.is_empty())
            .cloned()
            .unwrap_or_else(|| free_interface(others));
        let wanted = Wanted {
            ip: wanted.ipv4_address,
            ip6: wanted.ipv6_address,
            mac: wanted.mac_address,
            interface,
        };
        self.engine
            .network
            .allocate(&link, &wanted, self.definition.id.as_str())
            .map(Some)
    }

    /// `connect` or `disconnect` of everything that the run is on.
    pub(super) fn network_events(&self, plugged: &[Plugged], action: &str) -> Vec<NewEvent> {
        if plugged.is_empty() {
            return self
                .engine
                .special_network(&self.definition.spec.network.mode)
                .map(|network| self.network_event(&network, action))
                .into_iter()
                .collect();
        }
        plugged
            .iter()
            .filter_map(|p| self.engine.networks.named(&p.network))
            .map(|network| self.network_event(&network, action))
            .collect()
    }

    fn network_event(&self, network: &NetworkRecord, action: &str) -> NewEvent {
        crate::events::event(
            "network",
            action,
            &network.id,
            BTreeMap::from([
                ("container".to_owned(), self.definition.id.to_string()),
                ("name".to_owned(), network.name.clone()),
                ("type".to_owned(), network.driver.clone()),
            ]),
        )
    }

    /// Addresses and ports go back; the disconnect events.
    pub(super) async fn release_network(&mut self) -> Vec<NewEvent> {
        let plugged = std::mem::take(&mut self.run.endpoints);
        let ports = std::mem::take(&mut self.run.ports);
        let events = self.network_events(&plugged, "disconnect");
        if plugged.is_empty() {
            return events;
        }
        dns::leave(&self.engine, &self.definition.id, &plugged);
        let donor = self.is_donor();
        if donor || !ports.is_empty() {
            let engine = self.engine.clone();
            let unplugged = crate::blocking(move || {
                let mut outcome = Ok(());
                for p in &plugged {
                    // The namespace lives on in those who joined it: the address must not, as the next container gets it.
                    if donor {
                        outcome = outcome.and(engine.network.remove_link(&p.endpoint.host_name));
                    }
                    engine.network.release(&p.endpoint, &[]);
                }
                outcome
            })
            .await;
            if let Err(error) = unplugged {
                tracing::error!(container = %self.definition.id, "link not removed: {error}");
            }
        } else {
            for p in &plugged {
                self.engine.network.release(&p.endpoint, &[]);
            }
        }
        events
    }

    /// Does a running container share this one's network namespace?
    fn is_donor(&self) -> bool {
        let containers = &self.engine.containers;
        containers.snapshots().iter().any(|other| {
            let NetworkMode::Container(donor) = &other.spec.network.mode else {
                return false;
            };
            let me = &self.definition.id;
            other.state.phase.pid() != 0 && containers.find(donor).is_ok_and(|d| d.id == *me)
        })
    }

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
        let definition = self.definition.clone();
        let (engine, endpoint) = (self.engine.clone(), endpoint.clone());
        let has_ports = !self.run.ports.is_empty();
        let (plugged, was_served) = (self.run.endpoints.clone(), dns::served(&others));
        let published = crate::blocking(move || {
            engine.network.plug(netns.as_fd(), &endpoint)?;
            let follow = || -> Result<Option<Vec<PublishedPort>>> {
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

/// Publishes the container's ports on one of its endpoints.
pub(super) fn publish(
    engine: &Inner,
    definition: &Definition,
    endpoint: &Endpoint,
) -> Result<Vec<PublishedPort>> {
    let wanted = wanted_ports(&definition.spec);
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let published = engine.network.publish(endpoint, &wanted).map_err(|error| {
        let id = &endpoint.endpoint_id;
        error
            .context(format!(
                "driver failed programming external connectivity on endpoint {} ({id})",
                definition.name
            ))
            .context("failed to set up container networking")
    })?;
    Ok(from_mechanism(published))
}

/// Completes what the daemon's death left half done: links that the record knows and the container does not have.
pub(super) fn complete(engine: &Inner, definition: &Definition, run: &RunRecord) -> Result<()> {
    let missing: Vec<_> = run
        .endpoints
        .iter()
        .filter(|p| p.endpoint.stacked.is_none() && !engine.network.has_link(&p.endpoint.host_name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let netns = std::fs::File::open(format!("/proc/{}/ns/net", run.state.pid()))
        .map_err(|e| Error::io("open the container's network namespace", e))?;
    for p in missing {
        engine.network.plug(netns.as_fd(), &p.endpoint)?;
        super::files::add_host_lines(definition, &p.endpoint);
    }
    let routes = default_routes(&definition.spec.network, &run.endpoints);
    engine.network.set_gateways(netns.as_fd(), &routes)
}
