//! `GET /version`

use std::collections::BTreeMap;

use longshore_model::Result;
use serde::Serialize;

use super::info::arch;
use crate::{request::Request, response::Response, version::ApiVersion};

/// The engine's version; it has the form that clients parse.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    platform: Platform,
    version: &'static str,
    api_version: String,
    #[serde(rename = "MinAPIVersion")]
    min_api_version: String,
    os: &'static str,
    arch: &'static str,
    components: Vec<Component>,
    git_commit: &'static str,
    /// No Go here; clients want to show something.
    go_version: &'static str,
    kernel_version: String,
    build_time: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Platform {
    name: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Component {
    name: &'static str,
    version: &'static str,
    details: BTreeMap<&'static str, String>,
}

const COMMIT: &str = match option_env!("LONGSHORE_COMMIT") {
    Some(commit) => commit,
    None => VERSION,
};
const RUST: &str = concat!("rust", env!("CARGO_PKG_RUST_VERSION"));

/// Go's name of this architecture.
const ARCH: &str = arch(std::env::consts::ARCH.as_bytes());

fn view(kernel: String) -> Version {
    let max = ApiVersion::MAX.to_string();
    let min = ApiVersion::MIN.to_string();
    let details = BTreeMap::from([
        ("ApiVersion", max.clone()),
        ("Arch", ARCH.to_owned()),
        ("BuildTime", VERSION.to_owned()),
        ("Experimental", "false".to_owned()),
        ("GitCommit", COMMIT.to_owned()),
        ("GoVersion", RUST.to_owned()),
        ("KernelVersion", kernel.clone()),
        ("MinAPIVersion", min.clone()),
        ("Os", "linux".to_owned()),
    ]);
    Version {
        platform: Platform { name: "Longshore" },
        version: VERSION,
        api_version: max,
        min_api_version: min,
        os: "linux",
        arch: ARCH,
        components: vec![Component {
            name: "Engine",
            version: VERSION,
            details,
        }],
        git_commit: COMMIT,
        go_version: RUST,
        kernel_version: kernel,
        build_time: VERSION,
    }
}

/// `GET /version`
pub(crate) async fn version(_: Request) -> Result<Response> {
    let kernel = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    Ok(Response::ok(&view(kernel)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_read() {
        let shape: serde_json::Value =
            serde_json::from_slice(&crate::json::to_vec(&view("6.1".to_owned()))).unwrap();
        assert_eq!(shape["ApiVersion"], "1.55");
        assert_eq!(shape["MinAPIVersion"], "1.24");
        assert_eq!(shape["Os"], "linux");
        assert!(shape["Version"].as_str().unwrap().split('.').count() == 3);
        assert_eq!(shape["Components"][0]["Name"], "Engine");
    }
}
