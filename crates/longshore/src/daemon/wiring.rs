//! Where the crates are put together: engine below, wire above.

use std::io;

use longshore_engine::Engine;
use longshore_model::config::DaemonConfig;
use longshore_wire::Listener;
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

/// Serves the API until `down` turns true and everything has drained, bounded by the shutdown timeout. To be called in
/// the runtime.
///
/// # Errors
/// A socket that the runtime cannot take over.
pub fn serve(
    bound: Vec<Bound>,
    engine: Engine,
    down: watch::Receiver<bool>,
) -> Result<impl Future<Output = ()>, String> {
    let listeners: io::Result<Vec<Listener>> = bound.into_iter().map(take_over).collect();
    let listeners = listeners.map_err(|error| format!("listening socket: {error}"))?;
    Ok(longshore_wire::serve(listeners, engine, down))
}

fn take_over(bound: Bound) -> io::Result<Listener> {
    Ok(match bound {
        Bound::Unix(socket) => {
            socket.set_nonblocking(true)?;
            Listener::Unix(tokio::net::UnixListener::from_std(socket)?)
        }
        Bound::Tcp(socket) => {
            socket.set_nonblocking(true)?;
            Listener::Tcp(tokio::net::TcpListener::from_std(socket)?)
        }
    })
}
