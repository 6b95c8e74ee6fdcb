//! Published ports of a container that runs: moved to another of its endpoints, or taken away.

use longshore_model::Result;

use crate::{
    Manager,
    manager::{backend, rules_failed},
    nft::rules,
    state::elements_of,
    types::{Endpoint, PublishedPort},
};

impl Manager {
    /// Takes all ports of `from` to `to`: the host ports stay held throughout, and the rules change in one transaction.
    /// Neither may be closed meanwhile. Ports that `to` cannot serve are kept all the same; nobody answers there.
    ///
    /// # Errors
    /// What the kernel answered; nothing has moved then.
    pub fn move_ports(&self, from: &Endpoint, to: &Endpoint) -> Result<()> {
        let mut state = self.lock();
        let Some(attached) = state.endpoints.get_mut(&from.endpoint_id) else {
            return Ok(());
        };
        let published = std::mem::take(&mut attached.published);
        let (gone, come) = (elements_of(from, &published), elements_of(to, &published));
        let mut outcome = Ok(());
        if state.installed && state.nft.change(&gone, &come).is_err() {
            // Somebody else changed the table: all of it anew, with the ports where they belong now.
            outcome = state.nft.change(&[], &come).or_else(|_| state.install());
        }
        let (holder, result) = match outcome {
            Ok(()) => (to, Ok(())),
            Err(error) => (from, Err(rules_failed(error))),
        };
        if result.is_ok() {
            for port in &published {
                let token = state.ports.entry(port).and_then(|held| held.relay);
                let (Some(token), Some(backend)) = (token, backend(to, port)) else {
                    continue;
                };
                let redirected = rules::element(to, port).is_some();
                match self.relay.retarget(token, backend, redirected) {
                    Ok(token) => {
                        if let Some(held) = state.ports.entry(port) {
                            held.relay = Some(token);
                        }
                    }
                    Err(error) => (self.config.on_repair)(&format!(
                        "cannot relay {}:{}: {error}",
                        port.host_ip, port.host_port
                    )),
                }
            }
        }
        if let Some(attached) = state.endpoints.get_mut(&holder.endpoint_id) {
            attached.published.extend(published.iter().cloned());
        }
        if state.installed && result.is_ok() {
            // A table that was written anew above did not know the ports' new place.
            let now = elements_of(to, &published);
            let _ = state.add(&now);
        }
        drop(state);
        self.forget_flows(from, &published);
        result
    }

    /// Takes the ports of an endpoint away; the endpoint stays. The answer says which.
    pub fn unpublish(&self, endpoint: &Endpoint) -> Vec<PublishedPort> {
        let mut state = self.lock();
        let Some(attached) = state.endpoints.get_mut(&endpoint.endpoint_id) else {
            return Vec::new();
        };
        let published = std::mem::take(&mut attached.published);
        self.withdraw(&mut state, endpoint, &published);
        published
    }
}
