//! The order in which containers come back with the daemon: whoever is needed comes first. Pure.

use std::collections::{BTreeSet, HashMap};

use longshore_model::ContainerId;

use super::{
    snapshot::Snapshot,
    spec::{IpcMode, Mode, NetworkMode},
};

const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";
const DEPENDS_ON: &str = "com.docker.compose.depends_on";

/// Groups of containers: those of one group may start side by side, each group after the one before it. Who needs each other
/// in a circle is started in the order of creation.
pub(super) fn waves(all: &[&Snapshot]) -> Vec<Vec<ContainerId>> {
    let mut needs: HashMap<&ContainerId, BTreeSet<&ContainerId>> =
        all.iter().map(|one| (&one.id, needed(one, all))).collect();
    let mut left: Vec<&Snapshot> = all.to_vec();
    left.sort_by_key(|one| one.created);
    let mut waves = Vec::new();
    while !left.is_empty() {
        let free = |one: &&Snapshot| needs.get(&one.id).is_none_or(BTreeSet::is_empty);
        let (mut now, mut later): (Vec<_>, Vec<_>) = left.into_iter().partition(free);
        if now.is_empty() {
            now.push(later.remove(0));
        }
        for rest in needs.values_mut() {
            rest.retain(|id| !now.iter().any(|one| one.id == **id));
        }
        waves.push(now.into_iter().map(|one| one.id.clone()).collect());
        left = later;
    }
    waves
}

/// Which of `all` this container needs: donors of namespaces, links, what Compose says its service depends on.
fn needed<'a>(one: &'a Snapshot, all: &[&'a Snapshot]) -> BTreeSet<&'a ContainerId> {
    let spec = &one.spec;
    let mut names = Vec::new();
    if let NetworkMode::Container(name) = &spec.network.mode {
        names.push(name.as_str());
    }
    if let Mode::Container(name) = &spec.pid_mode {
        names.push(name);
    }
    if let IpcMode::Container(name) = &spec.ipc_mode {
        names.push(name);
    }
    let endpoints = spec.network.endpoints.values();
    let links = endpoints.flat_map(|e| &e.links).chain(&spec.network.links);
    names.extend(links.map(|link| link.split(':').next().unwrap_or(link)));
    let mut found = BTreeSet::new();
    for name in names {
        let name = name.trim_start_matches('/');
        let is = |other: &&&Snapshot| other.name == name || other.id.as_str().starts_with(name);
        found.extend(all.iter().find(is).map(|other| &other.id));
    }
    let project = spec.labels.get(PROJECT);
    let depends_on = spec.labels.get(DEPENDS_ON);
    if let (Some(project), Some(depends_on)) = (project, depends_on) {
        // service:condition:restart, with commas between
        let services: BTreeSet<&str> = depends_on
            .split(',')
            .filter_map(|part| part.split(':').next())
            .collect();
        let serves = |other: &&&Snapshot| {
            let labels = &other.spec.labels;
            labels.get(PROJECT) == Some(project)
                && labels
                    .get(SERVICE)
                    .is_some_and(|service| services.contains(service.as_str()))
        };
        found.extend(all.iter().filter(serves).map(|other| &other.id));
    }
    found.remove(&one.id);
    found
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use longshore_model::Timestamp;

    use super::*;
    use crate::container::{
        phase::Phase,
        snapshot::{ImageIdentity, Paths, State},
        spec::ContainerSpec,
    };

    fn container(name: &str, created: i64, change: impl FnOnce(&mut ContainerSpec)) -> Snapshot {
        let mut spec = ContainerSpec::default();
        change(&mut spec);
        Snapshot {
            id: ContainerId::random(),
            name: name.to_owned(),
            created: Timestamp(created),
            spec: Arc::new(spec),
            echo: "".into(),
            image: ImageIdentity::default(),
            command: Vec::new(),
            state: State {
                phase: Phase::Exited,
                exit_code: 0,
                oom_killed: false,
                error: String::new(),
                started_at: Timestamp(0),
                finished_at: Timestamp(0),
            },
            mounts: Vec::new(),
            networks: BTreeMap::new(),
            ports: Vec::new(),
            sandbox_id: String::new(),
            sandbox_key: String::new(),
            hostname: String::new(),
            restart_count: 0,
            exec_ids: Vec::new(),
            paths: Paths::default(),
            run: 1,
            exits: 1,
            health: None,
            removed: false,
        }
    }

    fn names(all: &[&Snapshot]) -> Vec<Vec<String>> {
        let name = |id: &ContainerId| {
            let found = all.iter().find(|one| one.id == *id);
            found.map(|one| one.name.clone()).unwrap_or_default()
        };
        waves(all)
            .iter()
            .map(|wave| wave.iter().map(name).collect())
            .collect()
    }

    fn service(project: &str, name: &str, depends_on: &str) -> impl FnOnce(&mut ContainerSpec) {
        let labels = [
            (PROJECT, project),
            (SERVICE, name),
            (DEPENDS_ON, depends_on),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        move |spec| spec.labels = BTreeMap::from(labels)
    }

    #[test]
    fn who_is_needed_comes_first() {
        let net = container("net", 9, |_| {});
        let id = net.id.to_string();
        let joins = container("joins", 1, |s| s.network.mode = NetworkMode::Container(id));
        let linked = container("linked", 2, |s| {
            s.network.links = vec!["/joins:alias".to_owned()];
        });
        let alone = container("alone", 3, |_| {});
        assert_eq!(
            names(&[&joins, &linked, &alone, &net]),
            [vec!["alone", "net"], vec!["joins"], vec!["linked"]]
        );
    }

    #[test]
    fn services_of_one_project() {
        let web = container(
            "web",
            1,
            service(
                "p",
                "web",
                "db:service_healthy:false,cache:service_started:true",
            ),
        );
        let db = container("db", 2, service("p", "db", ""));
        let cache = container(
            "cache",
            3,
            service("p", "cache", "db:service_started:false"),
        );
        let other = container("other", 4, service("q", "db", "web:service_started:false"));
        assert_eq!(
            names(&[&web, &db, &cache, &other]),
            [vec!["db", "other"], vec!["cache"], vec!["web"]]
        );
    }

    #[test]
    fn a_circle_starts_with_the_oldest() {
        let a = container("a", 2, service("p", "a", "b:service_started:false"));
        let b = container("b", 1, service("p", "b", "a:service_started:false"));
        assert_eq!(names(&[&a, &b]), [vec!["b"], vec!["a"]]);
    }
}
