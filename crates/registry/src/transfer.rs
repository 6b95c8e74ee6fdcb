//! A blob on its way here.

use bytes::Bytes;

use crate::{failure::Failure, http::Reply};

/// Bytes of a blob from an offset on.
pub struct BlobStream {
    reply: Reply,
    /// Bytes to throw away: the server has begun at the beginning all the same.
    skip: u64,
}

impl BlobStream {
    pub(crate) fn new(reply: Reply, offset: u64) -> Result<Self, Failure> {
        if !reply.is_partial() {
            return Ok(Self {
                reply,
                skip: offset,
            });
        }
        let start = reply
            .header("content-range")
            .strip_prefix("bytes ")
            .and_then(|text| text.split('-').next()?.trim().parse::<u64>().ok());
        match start {
            Some(start) if start <= offset => Ok(Self {
                skip: offset - start,
                reply,
            }),
            _ => Err(Failure::Content(longshore_model::Error::system(format!(
                "unexpected content range {:?}, wanted bytes from {offset}",
                reply.header("content-range")
            )))),
        }
    }

    /// The next bytes; `None` when the server has no more, which may be too early.
    ///
    /// # Errors
    /// The connection broke, or stalled for longer than the limit.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(mut chunk) = self.reply.chunk().await? {
            let length = chunk.len() as u64;
            if self.skip >= length {
                self.skip -= length;
                continue;
            }
            if self.skip > 0 {
                let from = usize::try_from(self.skip).unwrap_or(usize::MAX);
                chunk = chunk.slice(from.min(chunk.len())..);
                self.skip = 0;
            }
            return Ok(Some(chunk));
        }
        Ok(None)
    }
}
