//! `GET /images/get` and `GET /images/{name}/get`: an archive as the response's body.

use longshore_model::{Error, Result};

use super::platform;
use crate::{request::Request, response::Response};

/// `GET /images/get?names=`
pub(crate) async fn save(request: Request) -> Result<Response> {
    let names: Vec<String> = request.query.all("names").map(str::to_owned).collect();
    archive(request, names).await
}

/// `GET /images/{name}/get`
pub(crate) async fn save_named(request: Request) -> Result<Response> {
    let names = vec![request.name().to_owned()];
    archive(request, names).await
}

async fn archive(request: Request, names: Vec<String>) -> Result<Response> {
    let platforms = platform::all(&request, 48)?;
    if platforms.len() > 1 && request.version.before(52) {
        return Err(Error::invalid(
            "multiple platform parameters are not supported",
        ));
    }
    let archive = request.engine.save_images(names, &platforms).await?;
    let (response, sender) = Response::stream("application/x-tar");
    tokio::spawn(async move {
        let out = sender.clone().into_writer();
        if let Err(error) = archive.write(out).await {
            sender.abort(&error.message).await;
        }
    });
    Ok(response)
}
