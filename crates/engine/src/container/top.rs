//! The processes of a container, as `ps` of the host lists them.

use std::collections::HashSet;

use longshore_model::{Error, Result};
use longshore_shim::host::Cgroup;

use super::phase::Phase;
use crate::{Engine, api::TopResult};

impl Engine {
    /// `ps_args` empty: `-ef`. Runs the host's `ps` and keeps the lines of the container's processes, as dockerd does.
    ///
    /// # Errors
    /// 404; 409 when it does not run; 400 for arguments that ps refuses or that hide the pid.
    pub async fn container_top(&self, name: &str, ps_args: &str) -> Result<TopResult> {
        let snapshot = self.container(name)?;
        match snapshot.state.phase {
            Phase::Running { .. } => {}
            _ => {
                return Err(Error::conflict(format!(
                    "container {} is not running",
                    snapshot.id
                )));
            }
        }
        let path = self.inner.cgroup_path(&snapshot);
        let args: Vec<String> = if ps_args.is_empty() {
            vec!["-ef".to_owned()]
        } else {
            ps_args.split_whitespace().map(str::to_owned).collect()
        };
        if args.iter().any(|arg| arg.contains('\0')) {
            return Err(Error::invalid("ps arguments contain a zero byte"));
        }
        crate::blocking(move || {
            let pids: HashSet<i32> = Cgroup::open(&path)
                .pids()
                .map_err(|e| Error::io("read cgroup", e))?
                .into_iter()
                .collect();
            let output = std::process::Command::new("ps")
                .args(&args)
                .output()
                .map_err(|e| Error::io("error running ps", e))?;
            if !output.status.success() {
                let text = String::from_utf8_lossy(&output.stderr);
                return Err(Error::invalid(format!(
                    "error running ps: {}: {}",
                    output.status,
                    text.trim()
                )));
            }
            parse(&String::from_utf8_lossy(&output.stdout), &pids)
        })
        .await
    }
}

/// Keeps the lines whose PID column is one of `pids`; the last column takes the rest of its line.
fn parse(output: &str, pids: &HashSet<i32>) -> Result<TopResult> {
    let mut lines = output.lines();
    let titles: Vec<String> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let column = titles.iter().position(|title| title == "PID");
    let column = column.ok_or_else(|| Error::invalid("couldn't find PID field in ps output"))?;
    let mut processes = Vec::new();
    for line in lines {
        let mut fields = Vec::new();
        let mut rest = line.trim_start();
        while fields.len() + 1 < titles.len() && !rest.is_empty() {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            fields.push(rest[..end].to_owned());
            rest = rest[end..].trim_start();
        }
        if !rest.is_empty() {
            fields.push(rest.to_owned());
        }
        if fields
            .get(column)
            .and_then(|pid| pid.parse().ok())
            .is_some_and(|pid| pids.contains(&pid))
        {
            processes.push(fields);
        }
    }
    Ok(TopResult { titles, processes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_own_lines() {
        let output = "UID   PID CMD\nroot    1 init a b\nme     42 sleep  1 2\n";
        let top = parse(output, &HashSet::from([42])).expect("parses");
        assert_eq!(top.titles, ["UID", "PID", "CMD"]);
        assert_eq!(top.processes, [["me", "42", "sleep  1 2"]]);
        assert!(parse("CMD\nx\n", &HashSet::new()).is_err());
    }
}
