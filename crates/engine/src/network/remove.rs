//! Taking networks away.

use std::sync::Arc;

use longshore_model::{Error, ErrorKind, Result};
use longshore_store::{Batch, Durability, Table};

use super::{NetworkRecord, predefined};
use crate::{Engine, Inner, api::Filters};

impl Engine {
    /// # Errors
    /// 404; 403 for the predefined ones and for those with running containers.
    pub async fn remove_network(&self, name: &str) -> Result<()> {
        let network = self.inner.networks.find(name)?;
        if predefined(&network.name) {
            return Err(Error::new(
                ErrorKind::Forbidden,
                format!(
                    "{} is a pre-defined network and cannot be removed",
                    network.name
                ),
            ));
        }
        self.inner.remove_network(&network).await
    }

    /// Removes the users' networks that no running container uses and that match; the names of those that went.
    ///
    /// # Errors
    /// Filter values that are not valid.
    pub async fn prune_networks(&self, filters: &Filters) -> Result<Vec<String>> {
        let until = crate::filter::until(filters)?;
        let mut deleted = Vec::new();
        for network in self.inner.networks.all() {
            let Some(user) = &network.user else { continue };
            let old_enough = until.is_none_or(|until| network.created.0 <= until);
            if !old_enough
                || !self.inner.active_endpoints(&network.name).is_empty()
                || !crate::filter::labels(&user.labels, filters)
            {
                continue;
            }
            // One that was taken into use meanwhile stays.
            match self.inner.remove_network(&network).await {
                Ok(()) => deleted.push(network.name.clone()),
                Err(error) => tracing::warn!(network = %network.name, "not pruned: {error}"),
            }
        }
        let mut batch = Batch::new();
        let none = std::collections::BTreeMap::from([("reclaimed".to_owned(), "0".to_owned())]);
        batch.event(crate::events::event("network", "prune", "", none));
        self.inner
            .commit(batch, Durability::Survives, || {})
            .await?;
        Ok(deleted)
    }
}

impl Inner {
    async fn remove_network(self: &Arc<Self>, network: &Arc<NetworkRecord>) -> Result<()> {
        let Some(user) = &network.user else {
            return Ok(());
        };
        let busy = |engine: &Self| {
            let endpoints = engine.active_endpoints(&network.name);
            Error::new(
                ErrorKind::Forbidden,
                format!(
                    "error while removing network: network {} has active endpoints ({})",
                    network.name,
                    endpoints.join(", ")
                ),
            )
        };
        if !self.active_endpoints(&network.name).is_empty() {
            return Err(busy(self));
        }
        // From here on no container can get onto it; one that has just done so is seen here at the latest.
        let retired = self.network.retire(&user.link).map_err(|_| busy(self))?;
        let mut batch = Batch::new();
        batch.delete(Table::Network, network.id.clone());
        batch.event(network.event("destroy"));
        let (engine, id) = (self.clone(), network.id.clone());
        let committed = self
            .commit(batch, Durability::Survives, move || {
                engine.networks.remove(&id);
                engine.dns.forget(&id);
            })
            .await;
        if let Err(error) = committed {
            self.network.revive(retired);
            return Err(error);
        }
        let (engine, name) = (self.clone(), network.name.clone());
        let buried = crate::blocking(move || engine.network.bury(retired)).await;
        if let Err(error) = buried {
            // The network is gone for everybody; what is left of its link is removed at the next start.
            tracing::error!(network = %name, "its link is not removed: {error}");
        }
        Ok(())
    }

    /// `name:"web" id:"0123456789ab"` of each running container on the network.
    fn active_endpoints(&self, network: &str) -> Vec<String> {
        self.containers
            .snapshots()
            .iter()
            .filter_map(|snapshot| {
                let state = snapshot.networks.get(network)?;
                let id = state.endpoint_id.get(..12)?;
                Some(format!("name:{:?} id:{id:?}", snapshot.name))
            })
            .collect()
    }
}
