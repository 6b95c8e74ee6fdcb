//! Listeners, and the end: drain, then return.

use std::{sync::Arc, time::Duration};

use longshore_engine::Engine;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    connection::{self, Server, Stream, shut_down},
    dispatch::{Answer, Daemon},
};

/// A socket that the daemon listens at; bound by the binary, which also owns the socket file.
pub enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    async fn accept(&self) -> std::io::Result<Stream> {
        match self {
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                tune(&stream);
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

/// Small answers go out at once, and a client whose machine has vanished is noticed within minutes.
fn tune(stream: &tokio::net::TcpStream) {
    use rustix::net::sockopt;
    // All of these are wishes: a connection works without them.
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, Duration::from_secs(30));
    let _ = sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15));
}

/// Serves the API at all `listeners` until `shutdown` turns true (or its sender is dropped). Then: no new connections, the
/// engine ends its streams (clients see EOF), requests in flight finish, bounded by the configured shutdown timeout.
pub async fn serve(listeners: Vec<Listener>, engine: Engine, shutdown: watch::Receiver<bool>) {
    let patience = Duration::from_secs(engine.config().shutdown_timeout);
    let daemon = Daemon {
        engine: engine.clone(),
        shutdown: shutdown.clone(),
    };
    let end_streams = async move { engine.shutdown().await };
    run(listeners, daemon, shutdown, patience, end_streams).await;
}

/// [`serve`] with anything that answers.
pub(crate) async fn run<A: Answer>(
    listeners: Vec<Listener>,
    answer: A,
    mut shutdown: watch::Receiver<bool>,
    patience: Duration,
    end_streams: impl Future<Output = ()>,
) {
    let (alive, mut last) = mpsc::channel(1);
    let server = Server {
        answer: Arc::new(answer),
        shutdown: shutdown.clone(),
        alive,
    };
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, server.clone()));
    }
    drop(server);
    shut_down(&mut shutdown).await;
    let drain = async {
        end_streams.await;
        let mut connections = JoinSet::new();
        while let Some(accepted) = accepting.join_next().await {
            if let Ok(mut theirs) = accepted {
                connections.spawn(async move { while theirs.join_next().await.is_some() {} });
            }
        }
        while connections.join_next().await.is_some() {}
        // Handlers whose client has gone hold the last senders.
        let _ = last.recv().await;
    };
    if timeout(patience, drain).await.is_err() {
        tracing::warn!("some requests did not end in time; closing their connections");
    }
}

/// Accepts until shutdown; the connections are handed back then.
async fn accept<A: Answer>(listener: Listener, server: Server<A>) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    let mut shutdown = server.shutdown.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = shut_down(&mut shutdown) => return connections,
        };
        match accepted {
            Ok(stream) => {
                connections.spawn(connection::serve(stream, server.clone()));
            }
            Err(error) => {
                // Out of descriptors, mostly: those that are open end sooner or later.
                tracing::warn!(%error, "accept");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
