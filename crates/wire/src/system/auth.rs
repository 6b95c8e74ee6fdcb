//! `POST /auth`: asks a registry whether credentials are good.

use longshore_engine::Credentials;
use longshore_model::Result;
use serde::Serialize;

use crate::{images::auth::AuthConfig, json, request::Request, response::Response};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    identity_token: String,
}

/// `POST /auth`
pub(crate) async fn auth(mut request: Request) -> Result<Response> {
    let config: AuthConfig = json::read(&mut request, "AuthConfig").await?;
    let credentials: Credentials = config.into();
    let login = request.engine.login(&credentials).await?;
    Ok(Response::ok(&Answer {
        status: "Login Succeeded",
        identity_token: login.identity_token,
    }))
}
