//! Listing containers. Reads snapshots only, so it never waits for a container.

use std::{collections::BTreeSet, sync::Arc};

use longshore_model::{Error, Result};

use super::snapshot::Snapshot;
use crate::{Engine, api::Filters, filter};

impl Engine {
    /// By full id, name (with or without `/`) or unambiguous id prefix.
    ///
    /// # Errors
    /// `No such container: X` (404); an ambiguous prefix (400).
    pub fn container(&self, name_or_id: &str) -> Result<Arc<Snapshot>> {
        self.inner
            .containers
            .find(name_or_id)
            .map(|handle| handle.snapshot())
    }

    /// All containers, newest first.
    pub fn containers(&self) -> Vec<Arc<Snapshot>> {
        self.inner.containers.snapshots()
    }

    /// Containers that match `filters`, newest first. `all` false and no status filter: running ones only. `limit` > 0:
    /// that many, of any state.
    ///
    /// # Errors
    /// Filter values that are not valid.
    pub fn list_containers(
        &self,
        all: bool,
        limit: usize,
        filters: &Filters,
    ) -> Result<Vec<Arc<Snapshot>>> {
        let query = Query::new(self, filters)?;
        let any_state =
            all || limit > 0 || filters.contains_key("status") || filters.contains_key("exited");
        let mut found = Vec::new();
        let mut before_reached = query.before.is_none();
        for snapshot in self.containers() {
            if query
                .since
                .as_ref()
                .is_some_and(|since| *since == snapshot.id.as_str())
            {
                break;
            }
            if !before_reached {
                before_reached = query
                    .before
                    .as_ref()
                    .is_some_and(|before| *before == snapshot.id.as_str());
                continue;
            }
            if (any_state || snapshot.state.phase.is_up()) && query.wants(self, &snapshot) {
                found.push(snapshot);
                if limit > 0 && found.len() == limit {
                    break;
                }
            }
        }
        Ok(found)
    }
}

/// The filters, checked and prepared.
struct Query<'a> {
    filters: &'a Filters,
    exited: Vec<i32>,
    before: Option<String>,
    since: Option<String>,
    volumes: BTreeSet<&'a str>,
}

impl<'a> Query<'a> {
    fn new(engine: &Engine, filters: &'a Filters) -> Result<Self> {
        let values = |name: &str| filters.get(name).map(Vec::as_slice).unwrap_or_default();
        let exited = values("exited").iter().map(|text| {
            text.parse::<i32>()
                .map_err(|_| Error::invalid(format!("invalid filter 'exited={text}'")))
        });
        const STATES: &[&str] = &[
            "created",
            "restarting",
            "running",
            "removing",
            "paused",
            "exited",
            "dead",
        ];
        for status in values("status") {
            if !STATES.contains(&status.as_str()) {
                return Err(Error::invalid(format!("invalid filter 'status={status}'")));
            }
        }
        for health in values("health") {
            if !["none", "starting", "healthy", "unhealthy"].contains(&health.as_str()) {
                return Err(Error::invalid(format!("invalid filter 'health={health}'")));
            }
        }
        filter::boolean(filters, "is-task")?;
        let anchor = |name: &str| -> Result<Option<String>> {
            values(name)
                .last()
                .map(|text| engine.container(text).map(|s| s.id.to_string()))
                .transpose()
        };
        Ok(Self {
            filters,
            exited: exited.collect::<Result<_>>()?,
            before: anchor("before")?,
            since: anchor("since")?,
            volumes: values("volume").iter().map(String::as_str).collect(),
        })
    }

    fn wants(&self, engine: &Engine, snapshot: &Snapshot) -> bool {
        let state = &snapshot.state;
        let any = |name: &str, test: &dyn Fn(&str) -> bool| {
            self.filters
                .get(name)
                .is_none_or(|values| values.is_empty() || values.iter().any(|v| test(v)))
        };
        let health = snapshot.health.as_ref().map_or("none", |h| h.status.word());
        any("status", &|v| v == state.phase.status())
            && (self.exited.is_empty()
                || (state.phase.status() == "exited" && self.exited.contains(&state.exit_code)))
            && any("id", &|v| {
                filter::pattern(v, snapshot.id.as_str()) || snapshot.id.as_str().starts_with(v)
            })
            && any("name", &|v| {
                filter::pattern(v, &snapshot.name)
                    || filter::pattern(v, &format!("/{}", snapshot.name))
            })
            && any("health", &|v| v == health)
            && any("ancestor", &|v| {
                engine
                    .inner
                    .is_ancestor(v, &snapshot.image.id, &snapshot.spec.image)
            })
            && any("network", &|v| {
                snapshot.networks.iter().any(|(name, state)| {
                    name == v
                        || (!state.network_id.is_empty() && state.network_id.starts_with(v))
                        || engine.inner.network_id(name).is_some_and(|id| id == v)
                })
            })
            && any("publish", &|v| {
                snapshot
                    .ports
                    .iter()
                    .any(|p| filter::port(v, p.host_port, &p.protocol))
                    || (snapshot.ports.is_empty()
                        && snapshot
                            .spec
                            .network
                            .port_bindings
                            .iter()
                            .any(|p| filter::port(v, p.host_port, &p.protocol)))
            })
            && any("expose", &|v| {
                snapshot.spec.exposed_ports.iter().any(|port| {
                    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
                    number
                        .parse()
                        .is_ok_and(|number| filter::port(v, number, protocol))
                })
            })
            && any("isolation", &|v| v == "default")
            && any("is-task", &|v| !filter::truth(v).unwrap_or(true))
            && filter::labels(
                &snapshot.spec.labels,
                &Filters::from_iter(
                    self.filters
                        .get("label")
                        .map(|v| ("label".to_owned(), v.clone())),
                ),
            )
            && (self.volumes.is_empty()
                || snapshot.mounts.iter().any(|m| {
                    self.volumes.contains(m.name.as_str()) && !m.name.is_empty()
                        || self.volumes.contains(m.destination.as_str())
                        || self.volumes.contains(m.source.as_str())
                }))
    }
}
