//! Exec: further processes in a running container.

use base64::Engine as _;
use hyper::StatusCode;
use longshore_engine::{
    ExecStart,
    api::{ExecSnapshot, ExecSpec},
};
use longshore_model::{Error, Result};
use tokio::io::AsyncWriteExt;

use crate::{
    containers::{detach, lifecycle::terminal_size, pump},
    dto::exec::{ExecAnswer, ExecConfig, ExecCreated, ExecStartBody, ProcessConfig},
    json,
    request::Request,
    response::Response,
    stream::{
        hijack::{Hijack, MULTIPLEXED_STREAM, RAW_STREAM},
        multiplex::{STDOUT, frame},
    },
    version::ApiVersion,
};

/// `POST /containers/{name}/exec`
pub(crate) async fn create(mut request: Request) -> Result<Response> {
    let config: ExecConfig = json::read(&mut request, "ExecCreateRequest").await?;
    let spec = spec(config, request.version)?;
    let id = request.engine.create_exec(request.name(), spec).await?;
    Ok(Response::json(StatusCode::CREATED, &ExecCreated { id }))
}

/// Rows and columns as the kernel has them; `0, 0` is "not known".
fn size(size: Option<(u32, u32)>, version: ApiVersion, tty: bool) -> Option<(u16, u16)> {
    let side = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    size.filter(|size| tty && version.since(42) && *size != (0, 0))
        .map(|(rows, columns)| (side(rows), side(columns)))
}

fn spec(config: ExecConfig, version: ApiVersion) -> Result<ExecSpec> {
    let ExecConfig {
        user,
        privileged,
        tty,
        console_size,
        attach_stdin,
        attach_stderr,
        attach_stdout,
        detach_keys,
        env,
        working_dir,
        cmd,
    } = config;
    let cmd = cmd.unwrap_or_default();
    let env = env.unwrap_or_default();
    if cmd.is_empty() {
        return Err(Error::invalid("No exec command specified"));
    }
    if cmd
        .iter()
        .chain(&env)
        .chain([&user, &working_dir])
        .any(|text| text.contains('\0'))
    {
        return Err(Error::invalid(
            "invalid exec configuration: contains a NUL byte",
        ));
    }
    if detach::parse(&detach_keys).is_err() {
        return Err(Error::invalid(format!(
            "Invalid escape keys ({detach_keys}) provided"
        )));
    }
    Ok(ExecSpec {
        cmd,
        env,
        working_dir,
        user,
        privileged,
        tty,
        attach_stdin,
        attach_stdout,
        attach_stderr,
        detach_keys,
        console_size: size(console_size, version, tty),
    })
}

/// `POST /exec/{name}/start`
pub(crate) async fn start(mut request: Request) -> Result<Response> {
    let body: ExecStartBody = json::read(&mut request, "ExecStartRequest").await?;
    let id = request.name().to_owned();
    let snapshot = request.engine.exec(&id)?;
    let spec = &snapshot.spec;
    let console_size = size(body.console_size, request.version, body.tty);
    let keys = spec
        .attach_stdin
        .then(|| detach::parse(&spec.detach_keys).unwrap_or_default());
    match request
        .engine
        .start_exec(&id, body.detach, console_size)
        .await?
    {
        ExecStart::Failed { message, .. } if body.detach => Err(Error::invalid(message)),
        ExecStart::Detached => Ok(Response::empty(StatusCode::OK)),
        ExecStart::Attached(stream) => {
            let kind = content_type(stream.tty, request.version);
            Ok(Response::hijack(Hijack::docker(
                &request,
                kind,
                true,
                move |io| pump::raw(io, stream, keys),
            )))
        }
        // dockerd has switched protocols by then: the reason comes as output.
        ExecStart::Failed { tty, message } => {
            let kind = content_type(tty, request.version);
            let output = failure(tty, message);
            Ok(Response::hijack(Hijack::docker(
                &request,
                kind,
                true,
                move |mut io| async move {
                    // Fails only when the client has gone.
                    let _ = io.write_all(&output).await;
                },
            )))
        }
    }
}

fn content_type(tty: bool, version: ApiVersion) -> &'static str {
    if !tty && version.since(42) {
        MULTIPLEXED_STREAM
    } else {
        RAW_STREAM
    }
}

/// Why an exec could not be run, as the client's terminal shows it.
fn failure(tty: bool, mut message: String) -> Vec<u8> {
    if !message.ends_with("\r\n") {
        message.push_str("\r\n");
    }
    if tty {
        message.into_bytes()
    } else {
        frame(STDOUT, message.as_bytes())
    }
}

/// `POST /exec/{name}/resize`
pub(crate) async fn resize(request: Request) -> Result<Response> {
    let (rows, columns) = terminal_size(&request)?;
    request
        .engine
        .resize_exec(request.name(), rows, columns)
        .await?;
    Ok(Response::empty(StatusCode::OK))
}

/// `GET /exec/{name}/json`
pub(crate) async fn inspect(request: Request) -> Result<Response> {
    Ok(Response::ok(&answer(&request.engine.exec(request.name())?)))
}

fn answer(exec: &ExecSnapshot) -> ExecAnswer {
    let spec = &exec.spec;
    let keys = if spec.detach_keys.is_empty() {
        None
    } else {
        detach::parse(&spec.detach_keys).ok()
    };
    ExecAnswer {
        id: exec.id.clone(),
        running: exec.running,
        exit_code: exec.exit_code,
        process_config: ProcessConfig {
            tty: spec.tty,
            entrypoint: spec.cmd.first().cloned().unwrap_or_default(),
            arguments: spec.cmd.iter().skip(1).cloned().collect(),
            privileged: spec.privileged,
            user: spec.user.clone(),
        },
        open_stdin: spec.attach_stdin,
        open_stderr: spec.attach_stderr,
        open_stdout: spec.attach_stdout,
        can_remove: false,
        container_id: exec.container_id.clone(),
        detach_keys: base64::engine::general_purpose::STANDARD.encode(keys.unwrap_or_default()),
        pid: exec.pid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inspect_is_as_recorded() {
        let exec = ExecSnapshot {
            id: "ab3a".into(),
            container_id: "0943".into(),
            spec: ExecSpec {
                cmd: vec!["echo".into(), "hi".into()],
                attach_stdout: true,
                attach_stderr: true,
                ..ExecSpec::default()
            },
            running: false,
            exit_code: Some(0),
            pid: 26516,
        };
        assert_eq!(
            String::from_utf8(json::to_vec(&answer(&exec))).unwrap(),
            r#"{"ID":"ab3a","Running":false,"ExitCode":0,"ProcessConfig":{"tty":false,"entrypoint":"echo","arguments":["hi"],"privileged":false},"OpenStdin":false,"OpenStderr":true,"OpenStdout":true,"CanRemove":false,"ContainerID":"0943","DetachKeys":"","Pid":26516}"#
        );
    }

    #[test]
    fn checks() {
        let read = |text: &str| json::from_slice::<ExecConfig>(text.as_bytes(), "").unwrap();
        let message = |text: &str| spec(read(text), ApiVersion::MAX).unwrap_err().message;
        assert_eq!(message("{}"), "No exec command specified");
        assert_eq!(
            message(r#"{"Cmd":["x"],"DetachKeys":"ab"}"#),
            "Invalid escape keys (ab) provided"
        );
        let tty = read(r#"{"cmd":["x"],"Tty":true,"ConsoleSize":[10,20]}"#);
        assert_eq!(
            spec(tty.clone(), ApiVersion::v1(42)).unwrap().console_size,
            Some((10, 20))
        );
        assert_eq!(spec(tty, ApiVersion::v1(41)).unwrap().console_size, None);
    }

    #[test]
    fn failures_are_output() {
        assert_eq!(failure(true, "x".into()), b"x\r\n");
        assert_eq!(
            failure(false, "x\r\n".into()),
            [1, 0, 0, 0, 0, 0, 0, 3, b'x', b'\r', b'\n']
        );
    }
}
