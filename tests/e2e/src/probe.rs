//! What this program does inside a container.

use std::{io::Write, path::Path};

use e2e::{check::Outcome, http::Connection};

/// Prints the line of /proc/self/status with real, effective, saved and file system user id.
pub fn ids() -> Outcome<bool> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    println!(
        "{}",
        status
            .lines()
            .find(|l| l.starts_with("Uid:"))
            .unwrap_or_default()
    );
    Ok(true)
}

/// GET over a unix socket, printed line by line.
pub fn get(socket: &Path, path: &str) -> Outcome<bool> {
    let mut connection = Connection::open(socket)?;
    connection.request("GET", path, &[], None)?;
    let (status, _) = connection.head("GET")?;
    while let Some(line) = connection.body_line()? {
        println!("{line}");
        std::io::stdout().flush()?;
    }
    Ok(status == 200)
}
