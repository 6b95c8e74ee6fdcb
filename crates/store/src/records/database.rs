//! The database file: schema, opening, what to do when it is broken.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use longshore_model::{Error, Result, Timestamp};
use rusqlite::{Connection, ErrorCode, OpenFlags, params};

use super::Table;

/// Raised with each change of the schema; `migrate` brings older files up.
const SCHEMA_VERSION: i64 = 1;

/// A record that could not be used and was put out of the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    pub table: String,
    pub key: String,
    pub reason: String,
}

/// The two connections, and what opening had to do.
pub struct Opened {
    pub writer: Connection,
    pub reader: Connection,
    /// Where a broken database went, with the number of records that were saved from it.
    pub moved_aside: Option<(PathBuf, usize)>,
    pub quarantined: Vec<Quarantined>,
}

/// The file's path and how it is opened.
pub struct Database {
    path: PathBuf,
}

impl Database {
    pub fn new(data_root: &Path) -> Self {
        Self {
            path: data_root.join("db.sqlite"),
        }
    }

    /// Opens the database; one that is broken is moved aside, and what can still be read of it is carried over.
    ///
    /// # Errors
    /// A database of a newer version, no space, no permission: nothing is changed then.
    pub fn open(&self) -> Result<Opened> {
        let mut moved_aside = None;
        let writer = match self.open_checked() {
            Ok(connection) => connection,
            Err(error) if is_corrupt(&error) => {
                let aside = self.move_aside()?;
                let fresh = self
                    .open_checked()
                    .map_err(|e| sql_error("open a new database", &e))?;
                let saved = salvage(&aside, &fresh);
                moved_aside = Some((aside, saved));
                fresh
            }
            Err(error) => {
                return Err(sql_error(
                    &format!("open database {}", self.path.display()),
                    &error,
                ));
            }
        };
        let version = schema_version(&writer).map_err(|e| sql_error("read schema version", &e))?;
        if version > SCHEMA_VERSION {
            return Err(Error::system(format!(
                "database {} was written by a newer longshore (schema {version}, this one knows {SCHEMA_VERSION}): start that version, or another data root",
                self.path.display()
            )));
        }
        let quarantined =
            list_quarantined(&writer).map_err(|e| sql_error("read quarantine", &e))?;
        let reader = self
            .connect(256)
            .map_err(|e| sql_error("open database for reading", &e))?;
        Ok(Opened {
            writer,
            reader,
            moved_aside,
            quarantined,
        })
    }

    /// Writes the log back into the file. On a connection of its own, so that neither writer nor readers wait.
    pub fn checkpoint(&self) -> Result<()> {
        let run = || -> rusqlite::Result<()> {
            let connection = self.connect(64)?;
            connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
        };
        run().map_err(|e| sql_error("checkpoint", &e))
    }

    fn connect(&self, cache_kib: u32) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.set_prepared_statement_cache_capacity(32);
        // The log is written back by the housekeeper, not inside somebody's commit.
        connection.execute_batch(&format!(
            "PRAGMA cache_size=-{cache_kib}; PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0;
             PRAGMA journal_size_limit=1048576; PRAGMA temp_store=MEMORY; PRAGMA mmap_size=0;"
        ))?;
        Ok(connection)
    }

    fn open_checked(&self) -> rusqlite::Result<Connection> {
        let connection = self.connect(512)?;
        connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
        if schema_version(&connection)? > SCHEMA_VERSION {
            return Ok(connection);
        }
        migrate(&connection)?;
        for table in Table::ALL {
            // The journal is not read through: it may be large, and nothing but history hangs on it.
            let verdict: String = connection.query_row(
                &format!("PRAGMA quick_check('{}')", table.name()),
                [],
                |row| row.get(0),
            )?;
            if verdict != "ok" {
                return Err(rusqlite::Error::SqliteFailure(
                    rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
                    Some(verdict),
                ));
            }
        }
        Ok(connection)
    }

    fn move_aside(&self) -> Result<PathBuf> {
        let aside = PathBuf::from(format!(
            "{}.corrupt-{}",
            self.path.display(),
            Timestamp::now().0
        ));
        for suffix in ["", "-wal", "-shm"] {
            let from = PathBuf::from(format!("{}{suffix}", self.path.display()));
            let to = PathBuf::from(format!("{}{suffix}", aside.display()));
            match std::fs::rename(&from, &to) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io(format_args!("rename {}", from.display()), e)),
            }
        }
        Ok(aside)
    }
}

fn migrate(connection: &Connection) -> rusqlite::Result<()> {
    if schema_version(connection)? == SCHEMA_VERSION {
        return Ok(());
    }
    let mut schema = String::from("BEGIN IMMEDIATE;");
    for table in Table::ALL {
        schema.push_str(&format!(
            "CREATE TABLE IF NOT EXISTS {}(key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL);",
            table.name()
        ));
    }
    schema.push_str(&format!(
        "CREATE TABLE IF NOT EXISTS event(seq INTEGER PRIMARY KEY, time_nano INTEGER NOT NULL, kind TEXT NOT NULL,
            action TEXT NOT NULL, actor TEXT NOT NULL, attributes TEXT NOT NULL);
         CREATE TABLE IF NOT EXISTS quarantine(table_name TEXT NOT NULL, key TEXT NOT NULL, value BLOB, reason TEXT NOT NULL,
            time_nano INTEGER NOT NULL, PRIMARY KEY(table_name, key, time_nano));
         PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
    ));
    connection.execute_batch(&schema)
}

fn schema_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn list_quarantined(connection: &Connection) -> rusqlite::Result<Vec<Quarantined>> {
    connection
        .prepare("SELECT table_name, key, reason FROM quarantine ORDER BY time_nano LIMIT 1000")?
        .query_map([], |row| {
            Ok(Quarantined {
                table: row.get(0)?,
                key: row.get(1)?,
                reason: row.get(2)?,
            })
        })?
        .collect()
}

/// Copies every record that can still be read out of a broken database; returns how many. The journal is given up.
fn salvage(broken: &Path, fresh: &Connection) -> usize {
    let Ok(source) = Connection::open_with_flags(
        broken,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    ) else {
        return 0;
    };
    let mut saved = 0;
    for table in Table::ALL {
        // Forward, then backward: a broken page in the middle hides neither end.
        for order in ["ASC", "DESC"] {
            let _ = salvage_table(&source, fresh, table, order, &mut saved);
        }
    }
    saved
}

fn salvage_table(
    source: &Connection,
    fresh: &Connection,
    table: Table,
    order: &str,
    saved: &mut usize,
) -> rusqlite::Result<()> {
    let mut statement = source.prepare(&format!(
        "SELECT key, value FROM {} ORDER BY rowid {order}",
        table.name()
    ))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (Ok(key), Ok(value)) = (row.get::<_, String>(0), row.get::<_, Vec<u8>>(1)) else {
            continue;
        };
        *saved += fresh.execute(
            &format!(
                "INSERT OR IGNORE INTO {}(key, value) VALUES(?1, ?2)",
                table.name()
            ),
            params![key, value],
        )?;
    }
    Ok(())
}

fn is_corrupt(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// An SQLite failure as our error, with what was tried.
pub fn sql_error(what: &str, error: &rusqlite::Error) -> Error {
    Error::system(format!("{what}: {error}"))
}
