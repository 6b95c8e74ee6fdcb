//! A container and the engine's name server: what the networks' others know it by, what it sees itself, and where it asks.
//! Only networks of users' have names; a container on the default bridge alone is not served.

use std::os::fd::{AsFd, BorrowedFd};

use longshore_model::{ContainerId, Error, Result};
use longshore_network::{
    dns::{Member, Membership, Scope, Sockets, place},
    resolv::{self, Mode},
};
use longshore_shim::protocol::ResolverPlan;

use super::{
    files,
    networking::{self, Plugged},
    record::{Definition, RunRecord},
};
use crate::{Inner, network::predefined};

/// Is there a network among these that has names?
pub(crate) fn served(plugged: &[Plugged]) -> bool {
    plugged.iter().any(|p| !predefined(&p.network))
}

/// What the launcher has to prepare in the container's namespace.
pub(crate) fn plan(id: &ContainerId, plugged: &[Plugged]) -> Option<ResolverPlan> {
    served(plugged).then(|| {
        let port = place::port_of(id.as_str());
        ResolverPlan {
            address: place::ADDRESS,
            port,
            rules: place::redirection(port),
        }
    })
}

/// Its networks know the container by these names and addresses from now on.
pub(crate) fn announce(engine: &Inner, definition: &Definition, plugged: &[Plugged]) {
    for p in plugged.iter().filter(|p| !predefined(&p.network)) {
        let Some(network) = engine.networks.named(&p.network) else {
            continue;
        };
        let wanted = definition.spec.network.endpoints.get(&p.network);
        let member = Member {
            names: networking::dns_names(definition, &wanted.cloned().unwrap_or_default()),
            addresses: p.endpoint.addresses().into_iter().map(|(a, _)| a).collect(),
        };
        let id = definition.id.as_str();
        engine
            .dns
            .set_member((&network.id, &network.name), id, member);
    }
}

/// These networks do not know it any more.
pub(crate) fn withdraw(engine: &Inner, id: &ContainerId, plugged: &[Plugged]) {
    for p in plugged.iter().filter(|p| !predefined(&p.network)) {
        // One that is gone has taken its names along.
        if let Some(network) = engine.networks.named(&p.network) {
            engine.dns.remove_member(&network.id, id.as_str());
        }
    }
}

/// The end of a run.
pub(crate) fn leave(engine: &Inner, id: &ContainerId, plugged: &[Plugged]) {
    withdraw(engine, id, plugged);
    if !plugged.is_empty() {
        engine.dns.detach(id.as_str());
    }
}

/// What a container on these networks sees. Reads the host's resolv.conf.
pub(crate) fn scope(engine: &Inner, definition: &Definition, plugged: &[Plugged]) -> Scope {
    let mut networks = Vec::new();
    let mut internal = true;
    for p in plugged {
        let Some(network) = engine.networks.named(&p.network) else {
            continue;
        };
        internal &= network.user.as_ref().is_some_and(|user| user.internal);
        if predefined(&network.name) {
            continue;
        }
        let wanted = definition.spec.network.endpoints.get(&p.network);
        let links = wanted.map(|w| w.links.as_slice()).unwrap_or_default();
        networks.push(Membership {
            network: network.id.clone(),
            links: links.iter().map(|link| link_of(engine, link)).collect(),
        });
    }
    let (path, content) = resolv::host_file(Mode::Embedded);
    let own = files::name_servers(engine, definition);
    let forwarding = resolv::forwarding((path, &content), &own.overrides());
    Scope {
        networks,
        upstreams: forwarding.upstreams,
        internal,
        ndots: forwarding.ndots,
    }
}

/// `container[:alias]` as alias and a name that the network knows the container by.
fn link_of(engine: &Inner, link: &str) -> (String, String) {
    let (target, alias) = link.split_once(':').unwrap_or((link, link));
    let target = target.trim_start_matches('/');
    let name = engine
        .containers
        .find(target)
        .map_or_else(|_| target.to_owned(), |found| found.snapshot().name.clone());
    (
        alias.trim_start_matches('/').to_ascii_lowercase(),
        name.to_ascii_lowercase(),
    )
}

/// The networks of a running container are these now; `before` it was served or not. Blocking.
///
/// # Errors
/// The container's namespace cannot be prepared.
pub(crate) fn follow(
    engine: &Inner,
    definition: &Definition,
    plugged: &[Plugged],
    before: bool,
    netns: BorrowedFd<'_>,
) -> Result<()> {
    let id = definition.id.as_str();
    let scope = || scope(engine, definition, plugged);
    if before {
        engine.dns.set_scope(id, scope());
    } else if served(plugged) {
        engine.dns.attach(id, place::open_in(netns, id)?, scope())?;
        files::use_name_server(engine, definition);
    }
    announce(engine, definition, plugged);
    Ok(())
}

/// Serves a container that was started by a daemon before this one. Blocking.
///
/// # Errors
/// As [`follow`].
pub(crate) fn take_over(engine: &Inner, definition: &Definition, run: &RunRecord) -> Result<()> {
    announce(engine, definition, &run.endpoints);
    // One that has left its last network of a user's still has us in its resolv.conf.
    let was_served = || files::names_us(definition) && !run.endpoints.is_empty();
    if !served(&run.endpoints) && !was_served() {
        return Ok(());
    }
    let netns = std::fs::File::open(format!("/proc/{}/ns/net", run.state.pid()))
        .map_err(|e| Error::io("open the container's network namespace", e))?;
    let sockets = place::open_in(netns.as_fd(), definition.id.as_str())?;
    let scope = scope(engine, definition, &run.endpoints);
    engine.dns.attach(definition.id.as_str(), sockets, scope)
}

/// Serves a container that has just been started, at the sockets that its launch has made (TCP, then UDP).
///
/// # Errors
/// There are none.
pub(crate) fn serve(
    engine: &Inner,
    id: &ContainerId,
    scope: Scope,
    mut next: impl FnMut() -> Option<std::os::fd::OwnedFd>,
) -> Result<()> {
    match (next(), next()) {
        (Some(tcp), Some(udp)) => engine.dns.attach(id.as_str(), Sockets { udp, tcp }, scope),
        _ => Err(Error::system(
            "the shim sent no sockets for the name server",
        )),
    }
}
