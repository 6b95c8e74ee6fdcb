//! A new name: record and event first, the old name is given back when both are on disk.

use std::collections::BTreeMap;

use longshore_model::{Error, Result};
use longshore_store::{Batch, Durability, Table};

use super::{
    actor::{Actor, Command},
    record::RUN_SUFFIX,
};
use crate::{Engine, names};

impl Engine {
    /// # Errors
    /// 404; 400 for a bad name; 409 for a name in use.
    pub async fn rename_container(&self, name: &str, new_name: &str) -> Result<()> {
        let handle = self.inner.containers.find(name)?;
        let new_name = new_name.strip_prefix('/').unwrap_or(new_name).to_owned();
        self.inner
            .ask(&handle, |reply| Command::Rename {
                name: new_name,
                reply,
            })
            .await
    }
}

impl Actor {
    pub(super) async fn rename(&mut self, name: String) -> Result<()> {
        if name.is_empty() {
            return Err(Error::invalid("Neither old nor new names may be empty"));
        }
        if !names::valid(&name) {
            return Err(Error::invalid(format!(
                "Error when allocating new name: Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are \
                 allowed"
            )));
        }
        if name == self.definition.name {
            return Err(Error::invalid(
                "Renaming a container with the same name as its current name",
            ));
        }
        let id = self.definition.id.clone();
        self.engine
            .containers
            .reserve_name(&name, &id)
            .map_err(|e| e.context("Error when allocating new name"))?;
        let old = std::mem::replace(&mut self.definition.name, name.clone());
        let mut batch = Batch::new();
        let encode =
            |value: serde_json::Result<Vec<u8>>| value.map_err(|e| Error::system(e.to_string()));
        self.run.renamed |= self.run.networked;
        batch.put(
            Table::Container,
            id.to_string(),
            encode(serde_json::to_vec(&self.definition))?,
        );
        batch.put(
            Table::Container,
            format!("{id}{RUN_SUFFIX}"),
            encode(serde_json::to_vec(&self.run))?,
        );
        batch.event(self.event(
            "rename",
            BTreeMap::from([("oldName".to_owned(), format!("/{old}"))]),
        ));
        let committed = self.commit_batch(batch, Durability::Survives).await;
        if committed.is_ok() {
            self.engine.containers.release_name(&old, &id);
            super::dns::announce(&self.engine, &self.definition, &self.run.endpoints);
        } else {
            self.engine.containers.release_name(&name, &id);
            self.definition.name = old;
        }
        committed
    }
}
