//! `GET /containers/{name}/top`.

use longshore_model::Result;

use crate::{dto::container::TopAnswer, request::Request, response::Response};

/// `GET /containers/{name}/top`
pub async fn top(request: Request) -> Result<Response> {
    let result = request
        .engine
        .container_top(request.name(), request.query.get("ps_args"))
        .await?;
    Ok(Response::ok(&TopAnswer {
        processes: result.processes,
        titles: result.titles,
    }))
}
