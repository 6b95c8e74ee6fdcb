//! `docker commit`: a container's changes as an image.

use std::{collections::BTreeMap, path::PathBuf};

use longshore_model::{Error, Reference, Result};
use longshore_store::{
    Batch, Durability,
    images::{CommitRequest, Loaded},
};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::image_event;
use crate::{
    Engine, Inner,
    api::{ContainerSpec, Phase, Snapshot},
};

/// In the run directory of a container that was paused only to be committed: a daemon that finds it at its start thaws the
/// container.
const PAUSED: &str = "paused-for-commit";

/// `POST /commit`
#[derive(Clone, Debug, Default)]
pub struct Commit {
    pub container: String,
    /// Empty: no name.
    pub repository: String,
    pub tag: String,
    pub author: String,
    pub comment: String,
    /// Freeze the container while its files are read.
    pub pause: bool,
    /// Dockerfile lines.
    pub changes: Vec<String>,
    /// The run configuration instead of the container's own, in the words of an image's configuration. What it leaves open
    /// is the container's.
    pub config: Option<Map<String, Value>>,
}

impl Engine {
    /// Makes an image of a container's changes; the new image's id.
    ///
    /// # Errors
    /// 404; 400 for bad changes or a bad name; 409 for a container that is being removed.
    pub async fn commit_container(&self, commit: Commit) -> Result<String> {
        let snapshot = self.container(&commit.container)?;
        let refuse = |why: &str| {
            let id = &snapshot.id;
            Err(Error::conflict(format!(
                "You cannot commit container {id} which is {why}"
            )))
        };
        match snapshot.state.phase {
            Phase::Dead => return refuse("Dead"),
            Phase::Removing => return refuse("being removed"),
            _ => {}
        }
        let reference = match (commit.repository.as_str(), commit.tag.as_str()) {
            ("", _) => None,
            (repository, "") => Some(Reference::parse(repository)?),
            (repository, tag) => Some(Reference::parse(repository)?.with_tag(tag)?),
        };
        if reference.as_ref().is_some_and(|r| r.digest.is_some()) {
            return Err(Error::invalid("cannot commit to digest reference"));
        }
        let engine = self.clone();
        // The container is thawed even when the client goes away.
        let work =
            tokio::spawn(async move { engine.commit_now(&snapshot, commit, reference).await });
        work.await
            .unwrap_or_else(|e| Err(Error::system(format!("internal error: {e}"))))
    }

    async fn commit_now(
        &self,
        snapshot: &Snapshot,
        commit: Commit,
        reference: Option<Reference>,
    ) -> Result<String> {
        let running = matches!(snapshot.state.phase, Phase::Running { paused: false, .. });
        let paused = commit.pause && running && self.pause_to_commit(snapshot).await?;
        let (read, wait) = oneshot::channel();
        let comment = commit.comment.clone();
        let name = reference
            .clone()
            .map(|r| r.or_latest().familiar())
            .unwrap_or_default();
        let made = {
            let (inner, snapshot) = (self.inner.clone(), snapshot.clone());
            tokio::task::spawn_blocking(move || make(&inner, &snapshot, commit, reference, read))
        };
        // An error drops the sender: thawed then, too.
        let _ = wait.await;
        if paused {
            self.thaw_after_commit(snapshot).await;
        }
        let made = made
            .await
            .unwrap_or_else(|e| Err(Error::system(format!("internal error: {e}"))));
        let id = made?;
        let mut attributes = snapshot.spec.labels.clone();
        attributes.extend([
            ("image".to_owned(), snapshot.spec.image.clone()),
            ("name".to_owned(), snapshot.name.clone()),
            ("comment".to_owned(), comment),
            ("imageID".to_owned(), id.clone()),
            ("imageRef".to_owned(), name),
        ]);
        let mut batch = Batch::new();
        let container = snapshot.id.as_str();
        batch.event(crate::events::event(
            "container",
            "commit",
            container,
            attributes,
        ));
        self.inner
            .commit(batch, Durability::Survives, || {})
            .await?;
        Ok(id)
    }

    /// `false`: it ended just now, nothing needs a pause.
    async fn pause_to_commit(&self, snapshot: &Snapshot) -> Result<bool> {
        let id = snapshot.id.as_str();
        // Known on the disk before it is done.
        let mark = mark(&self.inner, snapshot);
        crate::blocking(move || {
            std::fs::write(mark, "").map_err(|e| Error::io("note the pause of a commit", e))
        })
        .await?;
        let paused = self.pause_container(id).await;
        if paused.is_err() {
            self.unmark(snapshot).await;
        }
        match paused {
            Ok(()) => Ok(true),
            Err(_) if !self.container(id)?.state.running() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn thaw_after_commit(&self, snapshot: &Snapshot) {
        let id = snapshot.id.as_str();
        if let Err(error) = self.unpause_container(id).await {
            // Somebody has thawed or killed it meanwhile, or it is thawed at the next start of the daemon.
            tracing::debug!(container = %id, "not thawed after its commit: {error}");
            let frozen =
                |s: &Snapshot| matches!(s.state.phase, Phase::Running { paused: true, .. });
            if self.container(id).is_ok_and(|s| frozen(&s)) {
                tracing::error!(container = %id, "still paused after its commit: {error}");
                return;
            }
        }
        self.unmark(snapshot).await;
    }

    async fn unmark(&self, snapshot: &Snapshot) {
        let mark = mark(&self.inner, snapshot);
        let removed = crate::blocking(move || {
            std::fs::remove_file(mark).map_err(|e| Error::io("forget the pause of a commit", e))
        });
        // Gone already with the end of the container's run.
        let _ = removed.await;
    }

    /// Thaws what a commit had frozen when the daemon was killed.
    pub(crate) async fn undo_commit_pauses(&self) {
        for snapshot in self.containers() {
            if mark(&self.inner, &snapshot).exists() {
                self.thaw_after_commit(&snapshot).await;
            }
        }
    }
}

fn mark(engine: &Inner, snapshot: &Snapshot) -> PathBuf {
    engine.run_dir(&snapshot.id).join(PAUSED)
}

fn make(
    engine: &Inner,
    snapshot: &Snapshot,
    commit: Commit,
    reference: Option<Reference>,
    read: oneshot::Sender<()>,
) -> Result<String> {
    let images = engine.images();
    let missing = || Error::not_found(format!("No such image: {}", snapshot.image.id));
    let base = images.get(&snapshot.image.id).ok_or_else(missing)?;
    let own = run_config(&snapshot.spec);
    let config = match commit.config {
        Some(config) => merged(config, own),
        None => own,
    };
    let request = CommitRequest {
        base: &base,
        manifest: &snapshot.image.manifest_digest,
        upper: engine.store.containers().dirs(&snapshot.id).upper,
        author: commit.author,
        comment: commit.comment,
        created_by: snapshot
            .spec
            .process
            .cmd
            .clone()
            .unwrap_or_default()
            .join(" "),
        config,
        changes: commit.changes,
        reference,
    };
    let mut read = Some(read);
    images.commit(
        request,
        &mut || {
            if let Some(read) = read.take() {
                // Nobody waits when the container was not paused.
                let _ = read.send(());
            }
        },
        &mut |loaded: &Loaded| match &loaded.name {
            Some(name) => vec![image_event("tag", &loaded.id, &name.familiar())],
            None => Vec::new(),
        },
    )
}

/// A container's configuration as that of an image.
fn run_config(spec: &ContainerSpec) -> Map<String, Value> {
    let process = &spec.process;
    let set = |keys: &std::collections::BTreeSet<String>| -> Map<String, Value> {
        keys.iter().map(|key| (key.clone(), json!({}))).collect()
    };
    let mut config = Map::new();
    let mut put = |key: &str, value: Value| {
        let empty = match &value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        };
        if !empty {
            config.insert(key.to_owned(), value);
        }
    };
    put("User", json!(process.user));
    put("ExposedPorts", Value::Object(set(&spec.exposed_ports)));
    put("Env", json!(process.env));
    put("Entrypoint", json!(process.entrypoint));
    put("Cmd", json!(process.cmd));
    put("Volumes", Value::Object(set(&spec.anonymous_volumes)));
    put("WorkingDir", json!(process.working_dir));
    put("Labels", json!(spec.labels));
    put("StopSignal", json!(spec.stop_signal));
    if let Some(check) = &spec.healthcheck {
        let mut health = Map::new();
        if !check.test.is_empty() {
            health.insert("Test".to_owned(), json!(check.test));
        }
        for (key, value) in [
            ("Interval", check.interval),
            ("Timeout", check.timeout),
            ("StartPeriod", check.start_period),
            ("StartInterval", check.start_interval),
            ("Retries", check.retries),
        ] {
            if value != 0 {
                health.insert(key.to_owned(), json!(value));
            }
        }
        put("Healthcheck", Value::Object(health));
    }
    config
}

/// dockerd's rules for what a configuration leaves open: sets and variables add up, a command of its own keeps the
/// container's entry point, an entry point of its own takes the container's command away.
fn merged(mut config: Map<String, Value>, own: Map<String, Value>) -> Map<String, Value> {
    let has = |config: &Map<String, Value>, key: &str| {
        config
            .get(key)
            .and_then(Value::as_array)
            .is_some_and(|list| !list.is_empty())
    };
    let (entrypoint, cmd) = (has(&config, "Entrypoint"), has(&config, "Cmd"));
    for (key, value) in own {
        match (key.as_str(), config.get_mut(&key), value) {
            ("Cmd", _, value) if !entrypoint && !cmd => drop(config.insert(key, value)),
            ("Entrypoint", None, value) => drop(config.insert(key, value)),
            ("Cmd" | "Entrypoint", ..) => {}
            ("Env", Some(Value::Array(list)), Value::Array(more)) => {
                let name = |entry: &Value| {
                    let text = entry.as_str().unwrap_or_default();
                    text.split('=').next().unwrap_or_default().to_owned()
                };
                let known: BTreeMap<String, ()> = list.iter().map(|e| (name(e), ())).collect();
                list.extend(more.into_iter().filter(|e| !known.contains_key(&name(e))));
            }
            (_, Some(Value::Object(map)), Value::Object(more)) if key != "Healthcheck" => {
                for (key, value) in more {
                    map.entry(key).or_insert(value);
                }
            }
            (_, None, value) => drop(config.insert(key, value)),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn what_is_left_open_is_the_containers() {
        let own = map(json!({
            "Cmd": ["sh"], "Entrypoint": ["/e"], "Env": ["A=1", "B=2"], "Labels": {"a": "1", "b": "2"}, "User": "me",
            "ExposedPorts": {"80/tcp": {}}
        }));
        assert_eq!(merged(Map::new(), own.clone()), own);
        let config = map(
            json!({"Entrypoint": ["/x"], "Env": ["B=3"], "Labels": {"b": "3"}, "ExposedPorts": {"1/tcp": {}}}),
        );
        assert_eq!(
            Value::Object(merged(config, own.clone())),
            json!({
                "Entrypoint": ["/x"], "Env": ["B=3", "A=1"], "Labels": {"a": "1", "b": "3"}, "User": "me",
                "ExposedPorts": {"80/tcp": {}, "1/tcp": {}}
            })
        );
        let config = map(json!({"Cmd": ["ls"]}));
        let found = merged(config, own);
        assert_eq!(
            (&found["Cmd"], &found["Entrypoint"]),
            (&json!(["ls"]), &json!(["/e"]))
        );
    }
}
