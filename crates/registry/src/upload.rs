//! Blobs and manifests on their way to a registry.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    HeaderMap, Method, StatusCode, Uri,
    body::{Body, Frame, SizeHint},
    header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue},
};
use longshore_model::Error;
use tokio::sync::mpsc;

use crate::{
    endpoint::Endpoint,
    failure::Failure,
    http::{Payload, Reply},
    session::{Ask, Session},
    uri::{escape, join, with_query},
};

const PIECE: usize = 128 << 10;

/// A blob to upload.
pub struct Content {
    pub digest: String,
    pub size: u64,
    /// Opened anew for each try.
    pub open: Arc<dyn Fn() -> longshore_model::Result<File> + Send + Sync>,
    /// Bytes that have been sent, for whoever shows progress.
    pub sent: Arc<AtomicU64>,
}

/// How a blob came to be in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uploaded {
    /// It was there.
    Existed,
    /// Taken from this repository of the same registry.
    Mounted(String),
    Sent,
}

/// Where an upload goes on.
struct Place {
    uri: Uri,
}

impl Session {
    /// Brings a blob into the repository: not at all if it is there, from another repository if one of `from` has it.
    ///
    /// # Errors
    /// The registry refuses it, or the wire fails again and again.
    pub async fn upload(&self, content: &Content, from: &[String]) -> Result<Uploaded, Failure> {
        let mut attempt = 1;
        loop {
            match self.try_upload(content, from).await {
                Ok(done) => return Ok(done),
                Err(failure) => {
                    content.sent.store(0, Ordering::Relaxed);
                    self.pause(&failure, &mut attempt).await?;
                }
            }
        }
    }

    async fn try_upload(&self, content: &Content, from: &[String]) -> Result<Uploaded, Failure> {
        let rest = format!("/blobs/{}", content.digest);
        match self
            .once(|e| e.push, Method::HEAD, &rest, &HeaderMap::new())
            .await
        {
            Ok(_) => return Ok(Uploaded::Existed),
            Err(Failure::NotFound(_)) => {}
            // A token that may push but not look.
            Err(Failure::Status { status: 403, .. }) => {}
            Err(failure) => return Err(failure),
        }
        let endpoint = self.writer()?;
        let mut place = None;
        for repository in from {
            match self.mount(endpoint, content, repository).await? {
                Started::Mounted => return Ok(Uploaded::Mounted(repository.clone())),
                Started::Place(other) => place = Some(other),
                Started::Refused => {}
            }
            if place.is_some() {
                break;
            }
        }
        let place = match place {
            Some(place) => place,
            None => {
                self.start(endpoint, "/blobs/uploads/", &self.scopes)
                    .await?
            }
        };
        self.transfer(endpoint, content, place).await?;
        Ok(Uploaded::Sent)
    }

    async fn mount(
        &self,
        endpoint: &Endpoint,
        content: &Content,
        repository: &str,
    ) -> Result<Started, Failure> {
        let rest = with_query("/blobs/uploads/", "mount", &content.digest);
        let rest = with_query(&rest, "from", repository);
        let mut scopes = self.scopes.clone();
        scopes.push(format!("repository:{repository}:pull"));
        let ask = Ask {
            method: Method::POST,
            rest: &rest,
            headers: HeaderMap::new(),
            scopes: &scopes,
        };
        let reply = match self.ask(endpoint, ask).await {
            Ok(reply) => reply,
            // Not ours to read: then it is sent.
            Err(Failure::Unauthorized(_) | Failure::Status { .. }) => return Ok(Started::Refused),
            Err(failure) => return Err(failure),
        };
        match reply.status {
            StatusCode::CREATED => {
                reply.discard().await;
                Ok(Started::Mounted)
            }
            StatusCode::ACCEPTED => self.place(endpoint, reply).await.map(Started::Place),
            _ => {
                reply.discard().await;
                Ok(Started::Refused)
            }
        }
    }

    async fn start(
        &self,
        endpoint: &Endpoint,
        rest: &str,
        scopes: &[String],
    ) -> Result<Place, Failure> {
        let ask = Ask {
            method: Method::POST,
            rest,
            headers: HeaderMap::new(),
            scopes,
        };
        let reply = self.ask(endpoint, ask).await?;
        if reply.status != StatusCode::ACCEPTED {
            return Err(reply.unexpected().await);
        }
        self.place(endpoint, reply).await
    }

    async fn place(&self, endpoint: &Endpoint, reply: Reply) -> Result<Place, Failure> {
        let base = self.address(endpoint, "/blobs/uploads/")?;
        let place = join(&base, reply.header("location"));
        let url = reply.uri.to_string();
        reply.discard().await;
        place.map(|uri| Place { uri }).ok_or_else(|| {
            Failure::Content(Error::system(format!(
                "{url}: the registry gave no place to upload to"
            )))
        })
    }

    /// One chunk with all that is left; after a break the registry says how much of it came.
    async fn transfer(
        &self,
        endpoint: &Endpoint,
        content: &Content,
        mut place: Place,
    ) -> Result<(), Failure> {
        let mut offset = 0;
        let mut attempt = 1;
        while offset < content.size {
            let mut headers = HeaderMap::new();
            let kind = HeaderValue::from_static("application/octet-stream");
            headers.insert(CONTENT_TYPE, kind);
            let range = format!("{offset}-{}", content.size - 1);
            if let Ok(range) = HeaderValue::from_str(&range) {
                headers.insert(CONTENT_RANGE, range);
            }
            let payload = payload(content, offset)?;
            let sent = self
                .send(endpoint, Method::PATCH, &place.uri, headers, payload)
                .await;
            match sent {
                Ok(reply) if reply.status == StatusCode::ACCEPTED => {
                    offset = match received(&reply) {
                        Some(there) if there > offset => there.min(content.size),
                        // It has taken the chunk, and does not say how far that goes.
                        _ => content.size,
                    };
                    place = self.place(endpoint, reply).await?;
                }
                Ok(reply) => return Err(reply.unexpected().await),
                Err(failure) => {
                    self.pause(&failure, &mut attempt).await?;
                    let ask = self
                        .send(
                            endpoint,
                            Method::GET,
                            &place.uri,
                            HeaderMap::new(),
                            Payload::bytes(""),
                        )
                        .await?;
                    if ask.status != StatusCode::NO_CONTENT {
                        return Err(failure);
                    }
                    offset = received(&ask).unwrap_or(0).min(content.size);
                    place = self.place(endpoint, ask).await?;
                }
            }
            content.sent.store(offset, Ordering::Relaxed);
        }
        let url = with_query(&place.uri.to_string(), "digest", &content.digest);
        let uri: Uri = url
            .parse()
            .map_err(|_| Failure::Content(Error::system(format!("invalid address {url:?}"))))?;
        let reply = self
            .send(
                endpoint,
                Method::PUT,
                &uri,
                HeaderMap::new(),
                Payload::bytes(""),
            )
            .await?;
        if reply.status != StatusCode::CREATED && reply.status != StatusCode::NO_CONTENT {
            return Err(reply.unexpected().await);
        }
        reply.discard().await;
        Ok(())
    }

    /// Puts a manifest or index under a tag or its digest.
    ///
    /// # Errors
    /// The registry refuses it, or the wire fails again and again.
    pub async fn put_manifest(
        &self,
        object: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<(), Failure> {
        let mut attempt = 1;
        loop {
            let failure = match self.try_put(object, media_type, bytes.clone()).await {
                Ok(reply) if reply.status.is_success() => {
                    reply.discard().await;
                    return Ok(());
                }
                Ok(reply) => reply.unexpected().await,
                Err(failure) => failure,
            };
            self.pause(&failure, &mut attempt).await?;
        }
    }

    async fn try_put(
        &self,
        object: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Reply, Failure> {
        let endpoint = self.writer()?;
        let uri = self.address(endpoint, &format!("/manifests/{}", escape_object(object)))?;
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(media_type) {
            headers.insert(CONTENT_TYPE, value);
        }
        let payload = Payload::bytes(bytes);
        self.send(endpoint, Method::PUT, &uri, headers, payload)
            .await
    }
}

enum Started {
    Mounted,
    Place(Place),
    Refused,
}

fn escape_object(object: &str) -> String {
    escape(object).replace("%3A", ":")
}

/// `Range: 0-99`: so many bytes are there.
fn received(reply: &Reply) -> Option<u64> {
    let range = reply.header("range");
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let end: u64 = range.split_once('-')?.1.parse().ok()?;
    // Nothing at all is written the same way as one byte.
    Some(if end == 0 { 0 } else { end + 1 })
}

fn payload(content: &Content, offset: u64) -> Result<Payload, Failure> {
    let (sender, receiver) = mpsc::channel(4);
    let open = content.open.clone();
    let left = content.size - offset;
    tokio::task::spawn_blocking(move || feed(&*open, offset, left, &sender));
    let sent = content.sent.clone();
    let body = FileBody {
        receiver,
        sent: sent.clone(),
        left,
    };
    Ok(Payload {
        body: body.boxed(),
        length: left,
        sent,
    })
}

fn feed(
    open: &(dyn Fn() -> longshore_model::Result<File> + Send + Sync),
    offset: u64,
    left: u64,
    to: &mpsc::Sender<io::Result<Bytes>>,
) {
    let read = || -> io::Result<()> {
        let mut file = open().map_err(|e| io::Error::other(e.message))?;
        file.seek(SeekFrom::Start(offset))?;
        let mut file = file.take(left);
        loop {
            let mut piece = vec![0u8; PIECE];
            let length = file.read(&mut piece)?;
            piece.truncate(length);
            // Nobody listens any more when the request has failed.
            if length == 0 || to.blocking_send(Ok(piece.into())).is_err() {
                return Ok(());
            }
        }
    };
    if let Err(error) = read() {
        let _ = to.blocking_send(Err(error));
    }
}

struct FileBody {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    sent: Arc<AtomicU64>,
    left: u64,
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = match self.receiver.poll_recv(cx) {
            Poll::Ready(piece) => piece,
            Poll::Pending => return Poll::Pending,
        };
        Poll::Ready(piece.map(|piece| {
            let piece = piece?;
            self.left = self.left.saturating_sub(piece.len() as u64);
            self.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            Ok(Frame::data(piece))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
