//! The route table: one line an endpoint. `docs/api.md` is made from it.
//!
//! Order matters where patterns overlap: the first match wins, so literal paths stand before wildcards.

use crate::{
    containers, events, exec, images, networks,
    route::{Route, not_yet, on},
    swarm, system, volumes,
};

/// All routes, in the order in which they are tried.
pub(crate) fn routes() -> impl Iterator<Item = &'static Route> {
    GROUPS.iter().flat_map(|(_, routes)| routes.iter())
}

/// The table by noun, as the documentation shows it.
pub(crate) static GROUPS: &[(&str, &[Route])] = &[
    ("System", SYSTEM),
    ("Containers", CONTAINERS),
    ("Exec", EXEC),
    ("Images", IMAGES),
    ("Networks", NETWORKS),
    ("Volumes", VOLUMES),
    ("Builds", BUILDS),
    ("Swarm", SWARM),
    ("Plugins", PLUGINS),
];

static SYSTEM: &[Route] = &[
    on!(GET "/_ping", 24, system::ping),
    on!(HEAD "/_ping", 24, system::ping),
    on!(GET "/version", 24, system::version),
    on!(GET "/info", 24, system::info),
    on!(POST "/auth", 24, system::auth),
    on!(GET "/events", 24, events::events),
    on!(GET "/system/df", 25, system::disk_usage),
    not_yet!(POST "/session", 31),
    not_yet!(POST "/grpc", 39),
];

static CONTAINERS: &[Route] = &[
    on!(GET "/containers/json", 24, containers::list::list),
    on!(POST "/containers/create", 24, containers::create::create),
    on!(POST "/containers/prune", 25, containers::lifecycle::prune),
    on!(GET "/containers/{name:.*}/json", 24, containers::inspect::inspect),
    on!(GET "/containers/{name:.*}/top", 24, containers::top::top),
    on!(GET "/containers/{name:.*}/logs", 24, containers::logs::logs),
    on!(GET "/containers/{name:.*}/changes", 24, containers::archive::changes),
    on!(GET "/containers/{name:.*}/export", 24, containers::archive::export),
    on!(GET "/containers/{name:.*}/stats", 24, containers::stats::stats),
    on!(GET "/containers/{name:.*}/attach/ws", 24, containers::attach::websocket),
    on!(HEAD "/containers/{name:.*}/archive", 24, containers::archive::head),
    on!(GET "/containers/{name:.*}/archive", 24, containers::archive::get),
    on!(PUT "/containers/{name:.*}/archive", 24, containers::archive::put),
    on!(POST "/containers/{name:.*}/start", 24, containers::lifecycle::start),
    on!(POST "/containers/{name:.*}/stop", 24, containers::lifecycle::stop),
    on!(POST "/containers/{name:.*}/restart", 24, containers::lifecycle::restart),
    on!(POST "/containers/{name:.*}/kill", 24, containers::lifecycle::kill),
    on!(POST "/containers/{name:.*}/pause", 24, containers::lifecycle::pause),
    on!(POST "/containers/{name:.*}/unpause", 24, containers::lifecycle::unpause),
    on!(POST "/containers/{name:.*}/resize", 24, containers::lifecycle::resize),
    on!(POST "/containers/{name:.*}/attach", 24, containers::attach::attach),
    on!(POST "/containers/{name:.*}/rename", 24, containers::lifecycle::rename),
    on!(POST "/containers/{name:.*}/update", 24, containers::update::update),
    on!(POST "/containers/{name:.*}/wait", 24, containers::lifecycle::wait),
    on!(DELETE "/containers/{name:.*}", 24, containers::lifecycle::remove),
];

static EXEC: &[Route] = &[
    on!(POST "/containers/{name:.*}/exec", 24, exec::create),
    on!(POST "/exec/{name:.*}/start", 24, exec::start),
    on!(POST "/exec/{name:.*}/resize", 24, exec::resize),
    on!(GET "/exec/{name:.*}/json", 24, exec::inspect),
];

static IMAGES: &[Route] = &[
    on!(GET "/images/json", 24, images::list),
    on!(GET "/images/search", 24, images::search),
    on!(GET "/images/get", 24, images::save),
    on!(GET "/images/{name:.*}/get", 24, images::save_named),
    on!(GET "/images/{name:.*}/history", 24, images::history),
    on!(GET "/images/{name:.*}/attestations", 53, images::attestations),
    on!(GET "/images/{name:.*}/json", 24, images::inspect),
    on!(POST "/images/load", 24, images::load),
    on!(POST "/images/create", 24, images::create),
    on!(POST "/images/prune", 25, images::prune),
    on!(POST "/images/{name:.*}/push", 24, images::push),
    on!(POST "/images/{name:.*}/tag", 24, images::tag),
    on!(DELETE "/images/{name:.*}", 24, images::remove),
    on!(GET "/distribution/{name:.*}/json", 30, images::distribution),
    on!(POST "/commit", 24, images::commit),
];

static NETWORKS: &[Route] = &[
    on!(GET "/networks", 24, networks::list),
    on!(GET "/networks/", 24, networks::list),
    on!(GET "/networks/{name:.*}", 24, networks::inspect),
    on!(POST "/networks/create", 24, networks::create),
    on!(POST "/networks/prune", 25, networks::prune),
    on!(POST "/networks/{name:.*}/connect", 24, networks::connect),
    on!(POST "/networks/{name:.*}/disconnect", 24, networks::disconnect),
    on!(DELETE "/networks/{name:.*}", 24, networks::remove),
];

static VOLUMES: &[Route] = &[
    on!(GET "/volumes", 24, volumes::list),
    on!(GET "/volumes/{name:.*}", 24, volumes::inspect),
    on!(POST "/volumes/create", 24, volumes::create),
    on!(POST "/volumes/prune", 25, volumes::prune),
    on!(PUT "/volumes/{name:.*}", 42, swarm::no_cluster_volumes),
    on!(DELETE "/volumes/{name:.*}", 24, volumes::remove),
];

static BUILDS: &[Route] = &[
    not_yet!(POST "/build", 24),
    on!(POST "/build/prune", 31, system::prune_builds),
    not_yet!(POST "/build/cancel", 39),
];

static SWARM: &[Route] = &[
    not_yet!(POST "/swarm/init", 24),
    not_yet!(POST "/swarm/join", 24),
    on!(POST "/swarm/leave", 24, swarm::not_a_member),
    on!(GET "/swarm", 24, swarm::not_a_manager),
    on!(POST "/swarm/update", 24, swarm::not_a_manager),
    on!(GET "/swarm/unlockkey", 24, swarm::not_a_manager),
    on!(POST "/swarm/unlock", 24, swarm::not_a_manager),
    on!(GET "/services", 24, swarm::not_a_manager),
    on!(GET "/services/{name}", 24, swarm::not_a_manager),
    on!(POST "/services/create", 24, swarm::not_a_manager),
    on!(POST "/services/{name}/update", 24, swarm::not_a_manager),
    on!(DELETE "/services/{name}", 24, swarm::not_a_manager),
    on!(GET "/services/{name}/logs", 25, swarm::not_a_manager),
    on!(GET "/nodes", 24, swarm::not_a_manager),
    on!(GET "/nodes/{name}", 24, swarm::not_a_manager),
    on!(DELETE "/nodes/{name}", 24, swarm::not_a_manager),
    on!(POST "/nodes/{name}/update", 24, swarm::not_a_manager),
    on!(GET "/tasks", 24, swarm::not_a_manager),
    on!(GET "/tasks/{name}", 24, swarm::not_a_manager),
    on!(GET "/tasks/{name}/logs", 25, swarm::not_a_manager),
    on!(GET "/secrets", 25, swarm::not_a_manager),
    on!(POST "/secrets/create", 25, swarm::not_a_manager),
    on!(GET "/secrets/{name}", 25, swarm::not_a_manager),
    on!(DELETE "/secrets/{name}", 25, swarm::not_a_manager),
    on!(POST "/secrets/{name}/update", 25, swarm::not_a_manager),
    on!(GET "/configs", 30, swarm::not_a_manager),
    on!(POST "/configs/create", 30, swarm::not_a_manager),
    on!(GET "/configs/{name}", 30, swarm::not_a_manager),
    on!(DELETE "/configs/{name}", 30, swarm::not_a_manager),
    on!(POST "/configs/{name}/update", 30, swarm::not_a_manager),
];

static PLUGINS: &[Route] = &[
    on!(GET "/plugins", 25, system::plugins),
    not_yet!(GET "/plugins/privileges", 25),
    not_yet!(POST "/plugins/pull", 25),
    not_yet!(POST "/plugins/create", 25),
    on!(GET "/plugins/{name:.*}/json", 25, system::plugin),
    not_yet!(POST "/plugins/{name:.*}/enable", 25),
    not_yet!(POST "/plugins/{name:.*}/disable", 25),
    not_yet!(POST "/plugins/{name:.*}/push", 25),
    not_yet!(POST "/plugins/{name:.*}/upgrade", 26),
    not_yet!(POST "/plugins/{name:.*}/set", 25),
    not_yet!(DELETE "/plugins/{name:.*}", 25),
];

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

    use super::*;

    /// `docs/api.md`
    fn document() -> String {
        let mut text = String::from(
            "# The API\n\nMade from the route table in `crates/wire/src/table.rs`; do not edit it by hand. To make it anew:\n\
             `UPDATE=1 cargo test -p longshore-wire api_document`.\n\n\
             Paths are those of Docker's Engine API, with or without a version in front (`/v1.41/...`). \"Since\" is the API\n\
             version that brought the endpoint. What is not built yet answers 501 and says so.\n",
        );
        for (noun, routes) in GROUPS {
            let _ = write!(
                text,
                "\n## {noun}\n\n| Method | Path | Since | |\n|---|---|---|---|\n"
            );
            for route in *routes {
                let path = route.pattern.replace("{name:.*}", "{name}");
                let state = if route.built { "" } else { "not yet (501)" };
                let _ = writeln!(
                    text,
                    "| {} | `{path}` | 1.{} | {state} |",
                    route.method, route.since
                );
            }
        }
        text
    }

    #[test]
    fn api_document() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api.md");
        let want = document();
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &want).unwrap();
        }
        let have = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            have == want,
            "docs/api.md is out of date: UPDATE=1 cargo test -p longshore-wire api_document"
        );
    }

    #[test]
    fn every_route_can_be_reached() {
        let mut seen = BTreeSet::new();
        for route in routes() {
            assert!(
                seen.insert((route.method, route.pattern)),
                "{} is there twice",
                route.pattern
            );
            let path = route
                .pattern
                .replace("{name:.*}", "a/b")
                .replace("{name}", "a");
            match crate::route::find(route.method, &path) {
                crate::route::Found::Route { route: found, .. } => {
                    assert_eq!(found.pattern, route.pattern, "{} {path}", route.method);
                }
                _ => panic!("{} {path} leads nowhere", route.method),
            }
        }
    }
}
