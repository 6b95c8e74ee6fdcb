//! A client for OCI and Docker v2 registries: names to endpoints, TLS, proxies, authorization, manifests, blobs, uploads.
//!
//! [`Registry`] is the daemon's one; it builds nothing until somebody pulls. A [`Session`] is one pull or push: its
//! repository, credentials and tokens. Error texts are those of Go's net/http and containerd's resolver, because Docker
//! shows them as they are and users search for them.

mod auth;
mod challenge;
mod connect;
mod dns;
mod endpoint;
mod failure;
mod hosts;
mod http;
mod proxy;
mod search;
mod session;
mod settings;
mod tls;
mod transfer;
mod upload;
mod uri;

pub use auth::{Credentials, Login};
pub use dns::lookup;
pub use failure::Failure;
pub use proxy::Proxies;
pub use search::Found;
pub use session::{Actions, Manifest, Registry, Session, Target};
pub use settings::{Limits, Settings};
pub use transfer::BlobStream;
pub use upload::{Content, Uploaded};

/// Media types that a manifest request accepts, the newest first.
pub const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";
