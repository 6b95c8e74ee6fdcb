//! The verbs that change a container's state, and wait.

use hyper::StatusCode;
use longshore_engine::api::{RemoveRequest, WaitCondition};
use longshore_model::{Error, Result};

use super::list::atoi;
use crate::{
    dto::container::{PruneAnswer, WaitAnswer, WaitError},
    filters,
    request::Request,
    response::{JSON, Response},
};

/// `POST /containers/{name}/start`
pub async fn start(mut request: Request) -> Result<Response> {
    // A host configuration in this body was removed with API 1.24; `{}` and `null` are let pass.
    let has_body = match request.body.length() {
        Some(length) => length > 7,
        None => request.body.chunk().await?.is_some(),
    };
    if has_body {
        return Err(Error::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    if !request.query.get("checkpoint").is_empty() {
        return Err(Error::not_implemented("checkpoint is not supported"));
    }
    request.engine.start_container(request.name()).await?;
    Ok(Response::no_content())
}

/// `?signal=` (API 1.42 on) and `?t=` of stop and restart.
fn stop_options(request: &Request) -> Result<(Option<String>, Option<i64>)> {
    let signal = request.query.get("signal");
    let signal = (request.version.since(42) && !signal.is_empty()).then(|| signal.to_owned());
    let timeout = match request.query.get("t") {
        "" => None,
        text => Some(atoi(text)?),
    };
    Ok((signal, timeout))
}

/// `POST /containers/{name}/stop`
pub async fn stop(request: Request) -> Result<Response> {
    let (signal, timeout) = stop_options(&request)?;
    request
        .engine
        .stop_container(request.name(), signal, timeout)
        .await?;
    Ok(Response::no_content())
}

/// `POST /containers/{name}/restart`
pub async fn restart(request: Request) -> Result<Response> {
    let (signal, timeout) = stop_options(&request)?;
    request
        .engine
        .restart_container(request.name(), signal, timeout)
        .await?;
    Ok(Response::no_content())
}

/// `POST /containers/{name}/pause`
pub async fn pause(request: Request) -> Result<Response> {
    request.engine.pause_container(request.name()).await?;
    Ok(Response::no_content())
}

/// `POST /containers/{name}/unpause`
pub async fn unpause(request: Request) -> Result<Response> {
    request.engine.unpause_container(request.name()).await?;
    Ok(Response::no_content())
}

/// `POST /containers/{name}/kill`
pub async fn kill(request: Request) -> Result<Response> {
    let name = request.name();
    let prefix = "cannot kill container: ";
    request
        .engine
        .kill_container(name, request.query.get("signal"))
        .await
        .map_err(|error| match error.message.starts_with(prefix) {
            true => error,
            false => error.context(format!("{prefix}{name}")),
        })?;
    Ok(Response::no_content())
}

/// `POST /containers/{name}/wait`: the head is sent at once, the result when there is one.
pub async fn wait(request: Request) -> Result<Response> {
    let version = request.version;
    let condition = match request.query.get("condition") {
        _ if version.before(30) => WaitCondition::NotRunning,
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(Error::invalid(format!("invalid condition: {other:?}"))),
    };
    let result = request.engine.wait_container(request.name(), condition)?;
    let (response, body) = Response::stream(JSON);
    let mut shutdown = request.shutdown;
    tokio::spawn(async move {
        let result = tokio::select! {
            result = result => result,
            () = body.closed() => return,
            _ = shutdown.wait_for(|down| *down) => return,
        };
        // Before 1.34 there was no way to say that a removal failed but to say nothing.
        if version.before(34) && condition == WaitCondition::Removed && result.error.is_some() {
            return;
        }
        let answer = WaitAnswer {
            error: result.error.map(|message| WaitError { message }),
            status_code: result.exit_code,
        };
        // Fails only when the client has gone.
        let _ = body.json_line(&answer).await;
    });
    Ok(response)
}

/// `POST /containers/{name}/rename`
pub async fn rename(request: Request) -> Result<Response> {
    let new_name = request.query.get("name");
    if new_name.is_empty() {
        return Err(Error::invalid("Neither old nor new names may be empty"));
    }
    request
        .engine
        .rename_container(request.name(), new_name)
        .await?;
    Ok(Response::no_content())
}

/// `DELETE /containers/{name}`
pub async fn remove(request: Request) -> Result<Response> {
    let options = RemoveRequest {
        force: request.query.bool("force"),
        volumes: request.query.bool("v"),
        link: request.query.bool("link"),
    };
    request
        .engine
        .remove_container(request.name(), options)
        .await?;
    Ok(Response::no_content())
}

/// `POST /containers/prune`
pub async fn prune(request: Request) -> Result<Response> {
    let filters = filters::read(&request, &["label", "label!", "until"])?;
    let report = request.engine.prune_containers(&filters).await?;
    Ok(Response::ok(&PruneAnswer {
        containers_deleted: (!report.deleted.is_empty()).then_some(report.deleted),
        space_reclaimed: report.space_reclaimed,
    }))
}

/// `h` and `w` of a resize: (rows, columns).
///
/// # Errors
/// 400 in dockerd's words.
pub fn terminal_size(request: &Request) -> Result<(u16, u16)> {
    let side = |key: &str, what: &str| {
        let text = request.query.get(key);
        parse_side(text)
            .map_err(|why| Error::invalid(format!("invalid resize {what} {text:?}: {why}")))
    };
    Ok((side("h", "height")?, side("w", "width")?))
}

/// 32 bits on the wire, 16 in the kernel: what is larger is cut to the largest.
fn parse_side(text: &str) -> std::result::Result<u16, &'static str> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("invalid syntax");
    }
    let value: u32 = text.parse().map_err(|_| "value out of range")?;
    Ok(u16::try_from(value).unwrap_or(u16::MAX))
}

/// `POST /containers/{name}/resize`
pub async fn resize(request: Request) -> Result<Response> {
    let (rows, columns) = terminal_size(&request)?;
    request
        .engine
        .resize_container(request.name(), rows, columns)
        .await?;
    Ok(Response::empty(StatusCode::OK))
}

#[cfg(test)]
mod tests {
    use super::parse_side;

    #[test]
    fn sides() {
        assert_eq!(parse_side("24"), Ok(24));
        assert_eq!(parse_side("70000"), Ok(u16::MAX));
        assert_eq!(parse_side(""), Err("invalid syntax"));
        assert_eq!(parse_side("-1"), Err("invalid syntax"));
        assert_eq!(parse_side("5000000000"), Err("value out of range"));
    }
}
