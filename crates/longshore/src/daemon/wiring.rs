//! Where the crates are put together: engine below, wire above.

use longshore_engine::Engine;
use longshore_model::config::DaemonConfig;
use longshore_wire::server::Listener;
use tokio::sync::watch;

use super::listen::Bound;

/// Opens the engine: locks the data root, adopts what still runs, undoes what was half made.
///
/// # Errors
/// In words for the operator.
pub async fn open_engine(config: DaemonConfig) -> Result<Engine, String> {
    Engine::open(config).await.map_err(|error| error.message)
}

/// Serves the API until `down` turns true and everything has drained.
///
/// # Errors
/// A socket that the runtime cannot take over.
pub fn serve(
    bound: Vec<Bound>,
    engine: Engine,
    down: watch::Receiver<bool>,
) -> Result<impl Future<Output = ()>, String> {
    let mut listeners = Vec::new();
    for socket in bound {
        let taken = match socket {
            Bound::Unix(socket) => socket
                .set_nonblocking(true)
                .and_then(|()| tokio::net::UnixListener::from_std(socket))
                .map(Listener::Unix),
            Bound::Tcp(socket) => socket
                .set_nonblocking(true)
                .and_then(|()| tokio::net::TcpListener::from_std(socket))
                .map(Listener::Tcp),
        };
        listeners.push(taken.map_err(|error| error.to_string())?);
    }
    Ok(longshore_wire::server::serve(listeners, engine, down))
}
