//! `POST /networks/{name}/connect` and `disconnect`

use hyper::StatusCode;
use longshore_engine::api::EndpointSpec;
use longshore_model::{Error, Result};
use serde::Deserialize;

use crate::{
    containers::create::network::endpoint, dto::container::EndpointSettings, json,
    request::Request, response::Response,
};

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Connect {
    container: String,
    endpoint_config: Option<EndpointSettings>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Disconnect {
    container: String,
    force: bool,
}

/// `POST /networks/{name}/connect`
pub(crate) async fn connect(mut request: Request) -> Result<Response> {
    let Connect {
        container,
        endpoint_config,
    } = json::read_required(&mut request, "ConnectRequest").await?;
    let given = request.name().to_owned();
    // Which settings a network takes depends on its name, and it may have been named by its id.
    let name = match request.engine.network(&given).await {
        Ok(network) => network.name,
        Err(_) => given.clone(),
    };
    let mut settings = endpoint_config.unwrap_or_default();
    if request.version.before(48) {
        settings.gw_priority = 0;
    }
    let spec = EndpointSpec {
        echo: serde_json::to_string(&settings).map_err(|e| Error::system(e.to_string()))?,
        ..endpoint(&name, &settings)?.map_err(Error::invalid)?
    };
    request
        .engine
        .connect_network(&given, &container, spec)
        .await?;
    Ok(Response::empty(StatusCode::OK))
}

/// `POST /networks/{name}/disconnect`
pub(crate) async fn disconnect(mut request: Request) -> Result<Response> {
    let Disconnect { container, force } =
        json::read_required(&mut request, "DisconnectRequest").await?;
    let name = request.name();
    request
        .engine
        .disconnect_network(name, &container, force)
        .await?;
    Ok(Response::empty(StatusCode::OK))
}
