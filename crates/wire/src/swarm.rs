//! What a node outside a swarm answers.

use longshore_model::{Error, Result};

use crate::{request::Request, response::Response};

/// Everything that only a manager can do (503).
pub(crate) async fn not_a_manager(_: Request) -> Result<Response> {
    Err(Error::unavailable(
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
    ))
}

/// `POST /swarm/leave` (503)
pub(crate) async fn not_a_member(_: Request) -> Result<Response> {
    Err(Error::unavailable("This node is not part of a swarm"))
}

/// `PUT /volumes/{name}`: only volumes of a cluster can be changed (503).
pub(crate) async fn no_cluster_volumes(_: Request) -> Result<Response> {
    Err(Error::unavailable(
        "volume update only valid for cluster volumes, but swarm is unavailable",
    ))
}
