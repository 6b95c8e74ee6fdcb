//! The route table: one line an endpoint. `docs/api.md` is made from it.
//!
//! Order matters where patterns overlap: the first match wins, so literal paths stand before wildcards.

use crate::{
    route::{Route, not_yet, on},
    system,
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
];

static SYSTEM: &[Route] = &[
    on!(GET "/_ping", 24, system::ping),
    on!(HEAD "/_ping", 24, system::ping),
    on!(GET "/info", 24, system::ping),
];

static CONTAINERS: &[Route] = &[
    not_yet!(GET "/containers/json", 24),
    not_yet!(POST "/containers/create", 24),
    not_yet!(POST "/containers/prune", 25),
    not_yet!(GET "/containers/{name}/json", 24),
    not_yet!(GET "/containers/{name}/top", 24),
    not_yet!(GET "/containers/{name}/logs", 24),
    not_yet!(GET "/containers/{name}/changes", 24),
    not_yet!(GET "/containers/{name}/export", 24),
    not_yet!(GET "/containers/{name}/stats", 24),
    not_yet!(GET "/containers/{name}/attach/ws", 24),
    not_yet!(HEAD "/containers/{name}/archive", 24),
    not_yet!(GET "/containers/{name}/archive", 24),
    not_yet!(PUT "/containers/{name}/archive", 24),
    not_yet!(POST "/containers/{name}/start", 24),
    not_yet!(POST "/containers/{name}/stop", 24),
    not_yet!(POST "/containers/{name}/restart", 24),
    not_yet!(POST "/containers/{name}/kill", 24),
    not_yet!(POST "/containers/{name}/pause", 24),
    not_yet!(POST "/containers/{name}/unpause", 24),
    not_yet!(POST "/containers/{name}/resize", 24),
    not_yet!(POST "/containers/{name}/attach", 24),
    not_yet!(POST "/containers/{name}/rename", 24),
    not_yet!(POST "/containers/{name}/update", 24),
    not_yet!(POST "/containers/{name}/wait", 24),
    not_yet!(DELETE "/containers/{name}", 24),
];

static EXEC: &[Route] = &[
    not_yet!(POST "/containers/{name}/exec", 24),
    not_yet!(POST "/exec/{name}/start", 24),
    not_yet!(POST "/exec/{name}/resize", 24),
    not_yet!(GET "/exec/{name}/json", 24),
];

static IMAGES: &[Route] = &[
    not_yet!(GET "/images/json", 24),
    not_yet!(GET "/images/{name:.*}/json", 24),
    not_yet!(DELETE "/images/{name:.*}", 24),
];
