//! The manager: what exists, and the order in which things are made and taken away.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use longshore_model::{
    Error, Result,
    id::{random_bytes, random_hex},
};
use longshore_sys::netlink;

use crate::{
    conntrack::Janitor,
    host,
    link::Links,
    nft::{Nft, passes, rules},
    ports::{Ports, Taken, wildcard_addresses},
    relay::Relay,
    space::{AddressPool, Space},
    state::{Attached, State, elements_of, take},
    types::{Endpoint, GatewayMode, PortBinding, Protocol, PublishedPort, Stacked},
    undertaker::Undertaker,
    watch::Watcher,
};

/// How a manager is set up.
pub struct ManagerConfig {
    /// Name of the nf_tables table: `longshore`, or `longshore-<bridge>` for an engine with a bridge of its own.
    pub name: String,
    /// Switch IP forwarding on (`--ip-forward`, on by default).
    pub ip_forward: bool,
    /// Where a port without host address is published; None: on all addresses, IPv4 and IPv6.
    pub default_ip: Option<IpAddr>,
    /// Where networks without a wish get their subnets from.
    pub pools: Vec<AddressPool>,
    /// Told when rules had to be repaired, and other things the operator should know, from whatever thread. It must not call
    /// the manager.
    pub on_repair: Box<dyn Fn(&str) + Send + Sync>,
    /// Told, after `on_repair`, when our table was written anew because somebody had changed it, and why. The same holds.
    pub on_repaired: Box<dyn Fn(&str) + Send + Sync>,
}

/// What a container wants of an endpoint.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// IPv4.
    pub ip: Option<IpAddr>,
    pub ip6: Option<IpAddr>,
    pub mac: Option<[u8; 6]>,
    /// Name of the interface in the container.
    pub interface: String,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            ip: None,
            ip6: None,
            mac: None,
            interface: "eth0".to_owned(),
        }
    }
}

/// Networks of one engine. All calls block for microseconds to some milliseconds and may come from any thread.
pub struct Manager {
    pub(crate) config: ManagerConfig,
    state: Mutex<State>,
    pub(crate) relay: Relay,
    janitor: Janitor,
    pub(crate) undertaker: Undertaker,
    watcher: Mutex<Option<Watcher>>,
}

impl Manager {
    /// Opens the sockets, switches forwarding on and starts the watcher. The rules of an engine that ran before stay in
    /// force until [`Self::settle`], so that published ports work without a gap while containers are adopted.
    ///
    /// # Errors
    /// No netlink, no nf_tables, or forwarding cannot be switched on.
    pub fn open(config: ManagerConfig) -> Result<Arc<Self>> {
        let mut nft = Nft::open(&config.name).map_err(|e| Error::io("cannot use nf_tables", e))?;
        let links = Links::open().map_err(|e| Error::io("cannot use rtnetlink", e))?;
        let mut guards = rules::GUARDS.map(|chain| nft.has_chain(chain));
        if config.ip_forward {
            guards[0] |= host::forward_ipv4()?;
        }
        let own_port = nft.port();
        let table = config.name.clone();
        let manager = Arc::new(Self {
            relay: Relay::new().map_err(|e| Error::io("cannot make an epoll", e))?,
            state: Mutex::new(State {
                nft,
                links,
                networks: BTreeMap::new(),
                space: Space::default(),
                endpoints: HashMap::new(),
                ports: Ports::new(),
                wildcard: wildcard_addresses(),
                installed: false,
                guards,
                filtered: host::bridged_frames_are_filtered(),
                closed: false,
            }),
            janitor: Janitor::default(),
            undertaker: Undertaker::default(),
            watcher: Mutex::default(),
            config,
        });
        let watcher = Watcher::start(Arc::downgrade(&manager), table, own_port)?;
        *lock(&manager.watcher) = Some(watcher);
        Ok(manager)
    }

    /// Chooses addresses and names for a container on a network. Nothing is made in the kernel: the links are the launcher's
    /// work, or that of [`Self::plug`].
    ///
    /// # Errors
    /// dockerd's texts for an empty pool, an address outside the subnet, one that is taken.
    pub fn allocate(&self, network: &str, wanted: &Wanted, owner: &str) -> Result<Endpoint> {
        let mut state = self.lock();
        let endpoint_id = random_hex();
        // The pool knows endpoints, not owners: a container may have two of them for a moment while it restarts.
        let State {
            networks, links, ..
        } = &mut *state;
        let network = networks.get_mut(network).ok_or_else(|| unknown(network))?;
        let stacked = match &network.stacked {
            None => None,
            Some(stacked) => Some(on_parent(links, stacked)?),
        };
        let ip = match &mut network.pool {
            None => None,
            Some(pool) => Some(take(pool, wanted.ip, &endpoint_id)?),
        };
        let ip6 = match &mut network.pool6 {
            None => None,
            Some(pool) => match take(pool, wanted.ip6, &endpoint_id) {
                Ok(IpAddr::V6(ip6)) => Some(ip6),
                Ok(IpAddr::V4(_)) => None,
                Err(error) => {
                    if let (Some(pool), Some(ip)) = (&mut network.pool, ip) {
                        pool.release(ip, &endpoint_id);
                    }
                    return Err(error);
                }
            },
        };
        let (info, spec) = (&network.bridge, &network.spec);
        let layer3 = stacked.as_ref().is_some_and(Stacked::is_layer3);
        let leads_out = |mode: usize| !spec.internal && spec.modes[mode] != GatewayMode::Isolated;
        let endpoint = Endpoint {
            host_name: format!("veth{}", &random_hex()[..7]),
            bridge: info.name.clone(),
            bridge_index: info.index,
            ip,
            prefix: info.subnet.map_or(0, |s| s.prefix),
            gateway: info.gateway.filter(|_| leads_out(0)).map(|gateway| {
                if layer3 {
                    IpAddr::V4(Ipv4Addr::UNSPECIFIED)
                } else {
                    gateway
                }
            }),
            ip6,
            prefix6: info.subnet6.map_or(0, |s| s.prefix),
            gateway6: match info.gateway6 {
                Some(IpAddr::V6(_)) if leads_out(1) && layer3 => Some(Ipv6Addr::UNSPECIFIED),
                Some(IpAddr::V6(gateway)) if leads_out(1) => Some(gateway),
                _ => None,
            },
            mac: wanted.mac.unwrap_or_else(random_mac),
            mtu: info.mtu,
            isolated: !spec.icc,
            owner: owner.to_owned(),
            interface: wanted.interface.clone(),
            stacked,
            endpoint_id,
        };
        state.endpoints.insert(
            endpoint.endpoint_id.clone(),
            Attached {
                endpoint: endpoint.clone(),
                published: Vec::new(),
            },
        );
        Ok(endpoint)
    }

    /// Takes over an endpoint and its ports that were in force before the daemon restarted. A host port that another
    /// process got hold of meanwhile is reported and stays published: the rules come before the socket.
    ///
    /// # Errors
    /// Unknown bridge, or an address that another endpoint has.
    pub fn adopt(&self, endpoint: &Endpoint, published: &[PublishedPort]) -> Result<()> {
        let mut state = self.lock();
        if state.endpoints.contains_key(&endpoint.endpoint_id) {
            return Ok(());
        }
        let State {
            networks, links, ..
        } = &mut *state;
        let network = networks
            .get_mut(&endpoint.bridge)
            .ok_or_else(|| unknown(&endpoint.bridge))?;
        if let (Some(pool), Some(ip)) = (&mut network.pool, endpoint.ip) {
            pool.take_exactly(ip, &endpoint.endpoint_id)?;
        }
        if endpoint.stacked.is_none() && endpoint.bridge_index != network.bridge.index {
            // Somebody removed the bridge meanwhile, and it was made anew.
            let _ = links.set_master(&endpoint.host_name, network.bridge.index);
        }
        if let (Some(pool), Some(ip6)) = (&mut network.pool6, endpoint.ip6) {
            // The subnet may have been changed; the container keeps what it has.
            let _ = pool.take_exactly(ip6.into(), &endpoint.endpoint_id);
        }
        let mut kept = Vec::with_capacity(published.len());
        for port in published {
            match state.ports.take_back(port) {
                Ok(socket) => self.serve(
                    &mut state,
                    endpoint,
                    Taken {
                        port: port.clone(),
                        socket,
                    },
                ),
                Err(error) => (self.config.on_repair)(&error.message),
            }
            kept.push(port.clone());
        }
        state.endpoints.insert(
            endpoint.endpoint_id.clone(),
            Attached {
                endpoint: endpoint.clone(),
                published: kept,
            },
        );
        if state.installed {
            let elements = elements_of(endpoint, published);
            state.add(&elements).map_err(rules_failed)?;
        }
        Ok(())
    }

    /// Puts our rules into force, in place of those of an engine that ran before. Called after the last `adopt`; whatever
    /// needs rules calls it by itself, and the watcher does after some seconds.
    pub fn settle(&self) {
        let outcome = self.lock().settle();
        if let Err(error) = outcome {
            (self.config.on_repair)(&rules_failed(error).message);
        }
        if passes::legacy_filter_in_use() {
            (self.config.on_repair)(
                "iptables-legacy is in use: if its FORWARD policy is DROP, let the bridges through by hand \
                 (iptables-legacy -I FORWARD -i <bridge> -j ACCEPT, the same with -o)",
            );
        }
    }

    /// Lets our bridges through where another program's firewall drops by default.
    pub fn ensure_passes(&self) {
        let outcome = {
            let mut state = self.lock();
            if !state.installed || state.closed {
                return;
            }
            state.ensure_passes()
        };
        match outcome {
            Ok(false) => {}
            Ok(true) => (self.config.on_repair)(
                "iptables' FORWARD policy is DROP: rules that let our bridges through were added",
            ),
            Err(error) => (self.config.on_repair)(&rules_failed(error).message),
        }
    }

    /// Publishes ports of an endpoint: all of them or none. The order of the answer is that of `wanted`.
    ///
    /// # Errors
    /// dockerd's texts for a port that a container or a process of the host has.
    pub fn publish(
        &self,
        endpoint: &Endpoint,
        wanted: &[PortBinding],
    ) -> Result<Vec<PublishedPort>> {
        let mut state = self.lock();
        if !state.endpoints.contains_key(&endpoint.endpoint_id) {
            return Err(Error::system(format!(
                "endpoint {} is not attached",
                endpoint.endpoint_id
            )));
        }
        state.settle().map_err(rules_failed)?;
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        // An ephemeral port must not take one that a later binding asks for by number.
        order.sort_by_key(|i| wanted[*i].host_port == 0);
        let mut done: Vec<Vec<PublishedPort>> = vec![Vec::new(); wanted.len()];
        let mut fresh = Vec::new();
        for index in order {
            let binding = &wanted[index];
            let mut addresses = self.addresses(&state, endpoint, binding);
            done[index] = direct_ports(&state, endpoint, binding, &mut addresses);
            if addresses.is_empty() {
                continue;
            }
            match state.ports.take(binding, &addresses) {
                Ok(taken) => {
                    done[index].extend(taken.iter().map(|t| t.port.clone()));
                    fresh.extend(taken);
                }
                Err(error) => {
                    for taken in &fresh {
                        state.ports.give_back(&taken.port);
                    }
                    return Err(error);
                }
            }
        }
        let ports: Vec<PublishedPort> = done.into_iter().flatten().collect();
        if let Err(error) = state.add(&elements_of(endpoint, &ports)) {
            for port in &ports {
                state.ports.give_back(port);
            }
            return Err(rules_failed(error));
        }
        for taken in fresh {
            self.serve(&mut state, endpoint, taken);
        }
        if let Some(attached) = state.endpoints.get_mut(&endpoint.endpoint_id) {
            attached.published.extend(ports.iter().cloned());
        }
        self.forget_flows(endpoint, &ports);
        Ok(ports)
    }

    /// The host addresses that a binding is for.
    fn addresses(&self, state: &State, endpoint: &Endpoint, binding: &PortBinding) -> Vec<IpAddr> {
        let spec = state.networks.get(&endpoint.bridge).map(|n| &n.spec);
        let own = spec.and_then(|s| s.host_ip).or(self.config.default_ip);
        if let Some(ip) = binding.host_ip.or(own) {
            return vec![ip];
        }
        let mut addresses = state.wildcard.clone();
        if binding.proto == Protocol::Sctp && endpoint.ip6.is_none() {
            // Nobody would answer there: the relay speaks no SCTP.
            addresses.retain(IpAddr::is_ipv4);
        }
        addresses
    }

    /// Hands a socket to the relay. A failure costs only what the rules cannot do.
    fn serve(&self, state: &mut State, endpoint: &Endpoint, taken: Taken) {
        let Some(socket) = taken.socket else { return };
        let Some(backend) = backend(endpoint, &taken.port) else {
            return;
        };
        let redirected = rules::element(endpoint, &taken.port).is_some();
        match self
            .relay
            .add(socket, taken.port.proto, backend, redirected)
        {
            Ok(token) => {
                if let Some(entry) = state.ports.entry(&taken.port) {
                    entry.relay = Some(token);
                }
            }
            Err(error) => (self.config.on_repair)(&format!(
                "cannot relay {}:{}: {error}",
                taken.port.host_ip, taken.port.host_port
            )),
        }
    }

    /// Takes everything of an endpoint away: rules, ports, address. The address rests for a moment before it is given to
    /// another. The veth pair is left to the kernel, which removes it with the container's network namespace. Releasing what
    /// is not known (twice, or never adopted) does nothing: its ports may be another's by now. What counts are the manager's
    /// own books of what was published.
    pub fn release(&self, endpoint: &Endpoint, _published: &[PublishedPort]) {
        let mut state = self.lock();
        let Some(known) = state.endpoints.remove(&endpoint.endpoint_id) else {
            return;
        };
        let published = known.published;
        self.withdraw(&mut state, endpoint, &published);
        if let Some(network) = state.networks.get_mut(&endpoint.bridge) {
            if let (Some(pool), Some(ip)) = (&mut network.pool, endpoint.ip) {
                pool.release(ip, &endpoint.endpoint_id);
            }
            if let (Some(pool), Some(ip6)) = (&mut network.pool6, endpoint.ip6) {
                pool.release(ip6.into(), &endpoint.endpoint_id);
            }
        }
    }

    /// Rules and sockets of ports that the books do not know any more.
    pub(crate) fn withdraw(
        &self,
        state: &mut State,
        endpoint: &Endpoint,
        published: &[PublishedPort],
    ) {
        if state.installed {
            let elements = elements_of(endpoint, published);
            if !elements.is_empty() && state.nft.change(&elements, &[]).is_err() {
                // Somebody else removed some of them: put everything as it should be.
                let _ = state.install();
            }
        }
        for port in published {
            if let Some(token) = state.ports.give_back(port) {
                self.relay.remove(token);
            }
        }
        self.forget_flows(endpoint, published);
    }

    /// Ends UDP flows that went elsewhere while a port was not published, or to a container that is gone.
    pub(crate) fn forget_flows(&self, endpoint: &Endpoint, ports: &[PublishedPort]) {
        let mut udp = ports
            .iter()
            .filter(|p| p.proto == Protocol::Udp)
            .map(|p| p.host_port)
            .peekable();
        if udp.peek().is_some() {
            let addresses = endpoint.addresses().into_iter().map(|(ip, _)| ip);
            self.janitor.order(udp, addresses);
        }
    }

    /// Removes a host end whose container never came to life. Slow (20 ms): not for the normal end of a container.
    ///
    /// # Errors
    /// What the kernel answered; a link that is gone already is no error.
    pub fn remove_link(&self, host_name: &str) -> Result<()> {
        // A connection of its own: nobody else waits.
        let mut links = Links::open().map_err(|e| Error::io("cannot use rtnetlink", e))?;
        links
            .remove(host_name)
            .map_err(|e| link_failed("remove", host_name, &e))
    }

    /// Whether the host has a link of this name.
    pub fn has_link(&self, name: &str) -> bool {
        // When the kernel does not say, nothing is to be done about it.
        self.lock()
            .links
            .find(name)
            .map_or(true, |link| link.is_some())
    }

    /// Host ends on our bridges that are not in `known`: left over from containers that were half made.
    pub fn stray_links(&self, known: &HashSet<String>) -> Vec<String> {
        let mut state = self.lock();
        let bridges: HashSet<u32> = state.networks.values().map(|n| n.bridge.index).collect();
        state
            .links
            .list()
            .unwrap_or_default()
            .into_iter()
            .filter(|l| {
                l.kind == "veth"
                    && l.master != 0
                    && bridges.contains(&l.master)
                    && !known.contains(&l.name)
            })
            .map(|l| l.name)
            .collect()
    }

    /// The address of the bridge's pool in use, the gateway included: what `docker network inspect` counts.
    pub fn addresses_in_use(&self, bridge: &str) -> usize {
        let state = self.lock();
        let pool = state.networks.get(bridge).and_then(|n| n.pool.as_ref());
        pool.map_or(0, crate::ipam::Pool::in_use)
    }

    /// Compares the kernel's table, and what it was made for, with what should be, and repairs it when it differs.
    pub fn check(&self) {
        let mut state = self.lock();
        if !state.installed || state.closed {
            return;
        }
        let filtered = host::bridged_frames_are_filtered();
        let why = if filtered != state.filtered {
            state.filtered = filtered;
            "br_netfilter was switched on or off"
        } else {
            let ruleset = state.ruleset();
            if state.nft.matches(&ruleset) {
                return;
            }
            "its rules were incomplete"
        };
        drop(state);
        self.repair(why);
    }

    /// Writes all rules anew and tells the operator why.
    pub fn repair(&self, why: &str) {
        let outcome = {
            let mut state = self.lock();
            if !state.installed || state.closed {
                return;
            }
            state.install()
        };
        let name = &self.config.name;
        match outcome {
            Ok(()) => {
                (self.config.on_repair)(&format!("nftables table {name} repaired: {why}"));
                (self.config.on_repaired)(why);
            }
            Err(error) => (self.config.on_repair)(&format!(
                "nftables table {name} cannot be repaired: {error}"
            )),
        }
    }

    /// Ends the threads. With `remove_all` the table and the bridges that we made go too; without it everything stays as it
    /// is for the containers that live on.
    pub fn shutdown(&self, remove_all: bool) {
        {
            let mut state = self.lock();
            state.closed = true;
            if remove_all {
                state.installed = false;
                state.nft.remove_hook();
                if let Err(error) = state.nft.remove() {
                    (self.config.on_repair)(&rules_failed(error).message);
                }
                let networks = std::mem::take(&mut state.networks);
                let _ = state.ensure_passes();
                for (name, network) in networks {
                    if network.bridge.made
                        && let Err(error) = state.links.remove(&name)
                    {
                        let error = link_failed("remove bridge", &name, &error);
                        (self.config.on_repair)(&error.message);
                    }
                }
            }
        }
        self.undertaker.finish();
        let watcher = lock(&self.watcher).take();
        drop(watcher);
        self.relay.stop();
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// A random address with the locally-administered bit, as dockerd chooses since 28.
pub(crate) fn random_mac() -> [u8; 6] {
    let mut mac = random_bytes::<6>();
    mac[0] = mac[0] & 0xfc | 0x02;
    mac
}

pub(crate) fn unknown(bridge: &str) -> Error {
    Error::not_found(format!("bridge {bridge} not found"))
}

pub(crate) fn rules_failed(error: netlink::Error) -> Error {
    Error::system(format!("cannot set nftables rules: {error}"))
}

pub(crate) fn link_failed(what: &str, name: &str, error: &netlink::Error) -> Error {
    Error::system(format!("failed to {what} {name}: {error}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The link that a network's containers are stacked on, as it is now.
fn on_parent(links: &mut Links, stacked: &Stacked) -> Result<Stacked> {
    let found = links
        .find(&stacked.on)
        .map_err(|e| link_failed("look up", &stacked.on, &e))?;
    let parent = found.ok_or_else(|| {
        Error::system(format!(
            "the parent interface {} was not found on the host",
            stacked.on
        ))
    })?;
    Ok(Stacked {
        parent: parent.index,
        ..stacked.clone()
    })
}

/// Where the relay takes a port's traffic.
pub(crate) fn backend(endpoint: &Endpoint, port: &PublishedPort) -> Option<SocketAddr> {
    let target = match (port.host_ip, endpoint.ip6) {
        (IpAddr::V6(_), Some(ip6)) => Some(IpAddr::V6(ip6)),
        (IpAddr::V4(_), Some(ip6)) if endpoint.ip.is_none() => Some(IpAddr::V6(ip6)),
        _ => endpoint.ip,
    };
    target.map(|target| SocketAddr::new(target, port.container_port))
}

/// Splits off the families in which the network does not translate: there the port is open at the container's own address.
fn direct_ports(
    state: &State,
    endpoint: &Endpoint,
    binding: &PortBinding,
    addresses: &mut Vec<IpAddr>,
) -> Vec<PublishedPort> {
    let modes = state
        .networks
        .get(&endpoint.bridge)
        .map_or([GatewayMode::Nat; 2], |n| n.spec.modes);
    let mut direct = Vec::new();
    addresses.retain(|address| {
        let mode = modes[usize::from(address.is_ipv6())];
        let has = if address.is_ipv6() {
            endpoint.ip6.is_some()
        } else {
            endpoint.ip.is_some()
        };
        if mode == GatewayMode::Routed && has {
            direct.push(PublishedPort {
                proto: binding.proto,
                container_port: binding.container_port,
                host_ip: *address,
                host_port: 0,
            });
        }
        mode.translates()
    });
    direct
}
