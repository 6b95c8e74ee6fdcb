//! What this program does inside a container.

use std::{io::Write, path::Path};

use e2e::{check::Outcome, http::Connection};

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
