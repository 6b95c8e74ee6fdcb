//! Tag, remove, prune.

use hyper::StatusCode;
use longshore_engine::api::ImageDeleted;
use longshore_model::{Error, Result};
use serde::Serialize;

use crate::{filters, request::Request, response::Response};

/// One step of a removal.
#[derive(Debug, Serialize)]
enum Deleted {
    Untagged(String),
    Deleted(String),
}

impl From<ImageDeleted> for Deleted {
    fn from(step: ImageDeleted) -> Self {
        match step {
            ImageDeleted::Untagged(name) => Self::Untagged(name),
            ImageDeleted::Deleted(id) => Self::Deleted(id),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Pruned {
    /// null when there was nothing to do.
    images_deleted: Option<Vec<Deleted>>,
    space_reclaimed: u64,
}

fn steps(deleted: Vec<ImageDeleted>) -> Vec<Deleted> {
    deleted.into_iter().map(Deleted::from).collect()
}

/// `POST /images/{name}/tag`
pub(crate) async fn tag(request: Request) -> Result<Response> {
    let query = &request.query;
    let (repository, tag) = (query.get("repo"), query.get("tag"));
    request
        .engine
        .tag_image(request.name(), repository, tag)
        .await?;
    Ok(Response::empty(StatusCode::CREATED))
}

/// `DELETE /images/{name}`
pub(crate) async fn remove(request: Request) -> Result<Response> {
    if request.name().trim().is_empty() {
        return Err(Error::invalid("image name cannot be blank"));
    }
    let force = request.query.bool("force");
    let no_prune = request.query.bool("noprune");
    let deleted = request
        .engine
        .remove_image(request.name(), force, no_prune)
        .await?;
    Ok(Response::ok(&steps(deleted)))
}

/// `POST /images/prune`
pub(crate) async fn prune(request: Request) -> Result<Response> {
    let filters = filters::read(&request, &["dangling", "label", "label!", "until"])?;
    filters::boolean(&filters, "dangling")?;
    let (deleted, space_reclaimed) = request.engine.prune_images(&filters).await?;
    Ok(Response::ok(&Pruned {
        images_deleted: (!deleted.is_empty()).then(|| steps(deleted)),
        space_reclaimed,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_recorded() {
        let deleted = vec![
            ImageDeleted::Untagged("pyb:latest".to_owned()),
            ImageDeleted::Deleted("sha256:92".to_owned()),
        ];
        assert_eq!(
            crate::json::to_vec(&steps(deleted)),
            br#"[{"Untagged":"pyb:latest"},{"Deleted":"sha256:92"}]"#
        );
        let nothing = Pruned {
            images_deleted: None,
            space_reclaimed: 0,
        };
        assert_eq!(
            crate::json::to_vec(&nothing),
            br#"{"ImagesDeleted":null,"SpaceReclaimed":0}"#
        );
    }
}
