//! One client connection: HTTP/1.1 by hyper, hijacking, detection of dead clients, a gentle close.

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    io,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::RecvFlags,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
    sync::{mpsc, watch},
    time::{Instant, Sleep, sleep, timeout},
};

use crate::{
    dispatch::{Answer, dispatch},
    stream::hijack::{Hijack, HijackedIo},
};

/// How often a busy connection is looked at: is its client still there, does its request make progress.
const TICK: Duration = Duration::from_secs(1);
/// How long a request's head may take from its first byte to its last.
const HEAD_TICKS: usize = if cfg!(test) { 2 } else { 60 };
/// How long a closed connection waits for the client to take what was sent and close too.
const LINGER: Duration = Duration::from_secs(2);

/// The socket of a client.
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// Waits for the first byte, or the end. tokio takes a new socket for readable until a read says otherwise, so this
    /// really looks.
    async fn until_readable(&self) {
        let peek = || {
            let mut byte = [0u8; 1];
            let peeked = rustix::net::recv(self, &mut byte, RecvFlags::PEEK);
            peeked.map(|_| ()).map_err(io::Error::from)
        };
        loop {
            if poll_fn(|cx| self.poll_read_ready(cx)).await.is_err() {
                return;
            }
            let peeked = match self {
                Self::Unix(stream) => stream.try_io(Interest::READABLE, peek),
                Self::Tcp(stream) => stream.try_io(Interest::READABLE, peek),
            };
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return,
            }
        }
    }
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Unix(stream) => stream.poll_read_ready(cx),
            Self::Tcp(stream) => stream.poll_read_ready(cx),
        }
    }
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Unix(stream) => stream.poll_write_ready(cx),
            Self::Tcp(stream) => stream.poll_write_ready(cx),
        }
    }
    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.try_read(buf),
            Self::Tcp(stream) => stream.try_read(buf),
        }
    }
    fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.try_write(buf),
            Self::Tcp(stream) => stream.try_write(buf),
        }
    }
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            match self.try_read(buf.initialize_unfilled()) {
                Ok(n) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_write_ready(cx))?;
            match self.try_write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
    /// Tells the client that no more will come.
    pub(crate) fn shutdown_write(&self) {
        // Fails only when the client has gone already.
        let _ = rustix::net::shutdown(self, rustix::net::Shutdown::Write);
    }
    /// Waits, half a second at most, until the client has read what was sent. Clients on buffered readers (Python's
    /// http.client under docker-py) lose output that comes in one read with the head of a switched protocol. One that reads
    /// nothing only delays itself.
    pub(crate) async fn until_read(&self) {
        /// Quick ones first: a client that is awake reads at once.
        const STEPS: [(usize, Duration); 2] = [
            (20, Duration::from_millis(1)),
            (48, Duration::from_millis(10)),
        ];
        let Self::Unix(stream) = self else { return };
        for (times, pause) in STEPS {
            for _ in 0..times {
                if longshore_engine::stdio::all_read(stream.as_fd()) {
                    return;
                }
                sleep(pause).await;
            }
        }
    }
    /// True when both directions are dead: the client has closed the socket, not only its sending side.
    fn hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
            && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }
    /// Waits for [`Self::hung_up`]. A socket whose client only stopped sending looks the same to epoll, so this asks once a second.
    async fn until_hung_up(&self) {
        loop {
            sleep(TICK).await;
            if self.hung_up() {
                return;
            }
        }
    }
    /// Closes without losing what was sent: bytes that nobody read would make the kernel reset the connection, and the
    /// client could miss the end of its answer. So: end of our side, then take what comes until the client closes.
    async fn linger(&self) {
        self.shutdown_write();
        let drain = async {
            let mut sink = [0u8; 4096];
            loop {
                let read = poll_fn(|cx| {
                    let mut buf = ReadBuf::new(&mut sink);
                    self.poll_read(cx, &mut buf).map_ok(|()| buf.filled().len())
                });
                match read.await {
                    Ok(n) if n > 0 => {}
                    _ => return,
                }
            }
        };
        let _ = timeout(LINGER, drain).await;
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

/// What the loop, hyper's io and the service know together of one connection.
#[derive(Default)]
struct Shared {
    /// Requests whose answer is not written completely.
    in_flight: AtomicUsize,
    /// Bytes came in while no request was in flight: a head has begun.
    head_begun: AtomicBool,
    /// Something is written that hyper has not flushed to the end.
    dirty: AtomicBool,
    hijack: Mutex<Option<Hijack>>,
}

impl Shared {
    fn take_hijack(&self) -> Option<Hijack> {
        // Answers to earlier, pipelined requests must have left first.
        if self.dirty.load(Ordering::Relaxed) {
            return None;
        }
        self.hijack
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// Counts a request as in flight until its response's body is gone.
pub(crate) struct InFlight(Arc<Shared>);

impl InFlight {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.in_flight.fetch_add(1, Ordering::Relaxed);
        shared.head_begun.store(false, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The socket as hyper sees it, with the notes that [`Shared`] keeps.
struct Io {
    stream: Arc<Stream>,
    shared: Arc<Shared>,
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let done = self.stream.poll_read(cx, buf);
        if buf.filled().len() > before && self.shared.in_flight.load(Ordering::Relaxed) == 0 {
            self.shared.head_begun.store(true, Ordering::Relaxed);
        }
        done
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.shared.dirty.store(true, Ordering::Relaxed);
        self.stream.poll_write(cx, buf)
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes its io only after its own buffer is empty.
        self.shared.dirty.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.shutdown_write();
        Poll::Ready(Ok(()))
    }
}

enum Next {
    Done(hyper::Result<()>),
    Hijack(Hijack),
    Tick,
    Shutdown,
}

/// What every connection has from its server.
pub(crate) struct Server<A> {
    pub(crate) answer: Arc<A>,
    pub(crate) shutdown: watch::Receiver<bool>,
    /// Nothing is ever sent: the drain waits until the last holder has dropped this.
    pub(crate) alive: mpsc::Sender<()>,
}

// Not derived: that would ask for `A: Clone`.
impl<A> Clone for Server<A> {
    fn clone(&self) -> Self {
        Self {
            answer: Arc::clone(&self.answer),
            shutdown: self.shutdown.clone(),
            alive: self.alive.clone(),
        }
    }
}

/// Serves one connection to its end. While a client is silent its connection is a task and no buffers: a thousand idle
/// ones cost little.
pub(crate) async fn serve<A: Answer>(stream: Stream, server: Server<A>) {
    let stream = Arc::new(stream);
    let mut shutdown = server.shutdown.clone();
    loop {
        tokio::select! {
            () = stream.until_readable() => {}
            () = shut_down(&mut shutdown) => return,
        }
        match Box::pin(http(Arc::clone(&stream), server.clone())).await {
            Ended::Idle => {}
            Ended::Lost => return,
            Ended::Done => return stream.linger().await,
        }
    }
}

/// How HTTP on a connection came to an end.
enum Ended {
    /// Nothing is under way; the client may send another request.
    Idle,
    /// The client is not there any more.
    Lost,
    /// It is over, and the client may still have to read.
    Done,
}

/// Requests and answers, until none came for a tick.
async fn http<A: Answer>(stream: Arc<Stream>, server: Server<A>) -> Ended {
    let mut shutdown = server.shutdown.clone();
    let shared = Arc::new(Shared::default());
    let service = {
        let shared = Arc::clone(&shared);
        service_fn(move |request| Box::pin(call(request, Arc::clone(&shared), server.clone())))
    };
    let io = Io {
        stream: Arc::clone(&stream),
        shared: Arc::clone(&shared),
    };
    let mut conn = http1::Builder::new()
        .half_close(true)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(io), service);
    let mut tick: Pin<Box<Sleep>> = Box::pin(sleep(TICK));
    let mut draining = false;
    let (mut head_ticks, mut idle_ticks) = (0, 0);
    loop {
        let next = {
            let shutting = shut_down(&mut shutdown);
            tokio::pin!(shutting);
            poll_fn(|cx| {
                if let Poll::Ready(done) = conn.poll_without_shutdown(cx) {
                    return Poll::Ready(Next::Done(done));
                }
                if let Some(hijack) = shared.take_hijack() {
                    return Poll::Ready(Next::Hijack(hijack));
                }
                if !draining && shutting.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Next::Shutdown);
                }
                tick.as_mut().poll(cx).map(|()| Next::Tick)
            })
            .await
        };
        match next {
            Next::Done(done) => {
                if let Err(error) = done {
                    tracing::debug!(%error, "connection ended");
                }
                return Ended::Done;
            }
            Next::Hijack(hijack) => {
                let prefix = conn.into_parts().read_buf;
                return run_hijacked(stream, prefix, hijack, shutdown.clone()).await;
            }
            Next::Shutdown => {
                draining = true;
                Pin::new(&mut conn).graceful_shutdown();
            }
            Next::Tick => {
                tick.as_mut().reset(Instant::now() + TICK);
                let busy = shared.in_flight.load(Ordering::Relaxed) > 0;
                let head = shared.head_begun.load(Ordering::Relaxed);
                let dirty = shared.dirty.load(Ordering::Relaxed);
                if stream.hung_up() {
                    return Ended::Lost;
                }
                head_ticks = if head { head_ticks + 1 } else { 0 };
                if head_ticks >= HEAD_TICKS {
                    return Ended::Lost;
                }
                idle_ticks = if busy || head || dirty || draining {
                    0
                } else {
                    idle_ticks + 1
                };
                // The second look is for a request that went between two ticks.
                if idle_ticks >= 2 {
                    return match conn.into_parts().read_buf.is_empty() {
                        true => Ended::Idle,
                        // Cannot be: bytes make a head begin.
                        false => Ended::Lost,
                    };
                }
            }
        }
    }
}

/// Resolves when the daemon shuts down (or is gone).
pub(crate) async fn shut_down(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|down| *down).await;
}

/// One request.
async fn call<A: Answer>(
    request: hyper::Request<Incoming>,
    shared: Arc<Shared>,
    server: Server<A>,
) -> Result<hyper::Response<crate::response::Body>, Infallible> {
    let in_flight = InFlight::new(&shared);
    let mut response = dispatch(request, server.answer, server.alive).await;
    if let Some(hijack) = response.hijack.take() {
        *shared.hijack.lock().unwrap_or_else(PoisonError::into_inner) = Some(hijack);
        // The loop takes the connection away; this answer is never written by hyper.
        return pending().await;
    }
    Ok(response.into_hyper(in_flight))
}

/// Gives the socket to the handler, and takes it back when the client has died meanwhile.
async fn run_hijacked(
    stream: Arc<Stream>,
    prefix: Bytes,
    hijack: Hijack,
    mut shutdown: watch::Receiver<bool>,
) -> Ended {
    let io = HijackedIo::new(Arc::clone(&stream), prefix);
    tokio::select! {
        () = hijack.run(io) => Ended::Done,
        () = stream.until_hung_up() => Ended::Lost,
        // The container goes on; its client sees the end of the stream.
        () = shut_down(&mut shutdown) => Ended::Done,
    }
}

#[cfg(test)]
mod tests;
