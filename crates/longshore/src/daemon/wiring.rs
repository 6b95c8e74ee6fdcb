//! Where the crates are put together: engine below, wire above.

use longshore_engine::Engine;
use longshore_model::config::DaemonConfig;
use tokio::sync::watch;

use super::listen::Bound;

/// Opens the engine: locks the data root, adopts what still runs, undoes what was half made.
///
/// # Errors
/// In words for the operator.
pub async fn open_engine(config: DaemonConfig) -> Result<Engine, String> {
    Err(format!(
        "this build has no engine yet for {}",
        config.data_root.display()
    ))
}

/// Serves the API until `down` turns true and everything has drained.
///
/// # Errors
/// A socket that the runtime cannot take over.
pub fn serve(
    bound: Vec<Bound>,
    engine: Engine,
    mut down: watch::Receiver<bool>,
) -> Result<impl Future<Output = ()>, String> {
    for socket in &bound {
        match socket {
            Bound::Unix(socket) => socket.set_nonblocking(true),
            Bound::Tcp(socket) => socket.set_nonblocking(true),
        }
        .map_err(|error| error.to_string())?;
    }
    Ok(async move {
        let _ = down.wait_for(|down| *down).await;
        engine.shutdown().await;
        drop(bound);
    })
}
