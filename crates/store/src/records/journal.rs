//! The event journal: appended by the writer, read in ranges, kept within bounds.

use longshore_model::Event;
use rusqlite::{Connection, OptionalExtension, params};

use super::NewEvent;

/// The newest events that are kept.
const KEEP_EVENTS: u64 = 100_000;
/// How long events are kept, in nanoseconds (seven days).
const KEEP_NANOS: i64 = 7 * 24 * 3600 * 1_000_000_000;
/// Trimmed after so many new events, so that one trim is small.
pub const TRIM_EVERY: u64 = 1024;

/// Which events to read; the oldest come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventRange {
    /// Not before this time (inclusive).
    pub since_nano: Option<i64>,
    /// Not after this time (inclusive).
    pub until_nano: Option<i64>,
    /// Only events behind this position.
    pub after_seq: Option<u64>,
    /// At most so many.
    pub limit: Option<usize>,
}

/// End of the journal: what the next event continues.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tail {
    pub seq: u64,
    pub time_nano: i64,
}

impl Tail {
    /// Reads the end of the journal. Times in the future (the clock was wrong once) are brought back to `now`:
    /// otherwise every later event would have to carry a time in the future as well.
    pub fn read(connection: &Connection, now: i64) -> rusqlite::Result<Self> {
        let last: Option<(i64, i64)> = connection
            .query_row(
                "SELECT seq, time_nano FROM event ORDER BY seq DESC LIMIT 1",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        let Some((seq, mut time_nano)) = last else {
            return Ok(Self::default());
        };
        if time_nano > now {
            connection.execute(
                "UPDATE event SET time_nano=?1 WHERE time_nano>?1",
                params![now],
            )?;
            time_nano = now;
        }
        Ok(Self {
            seq: seq.unsigned_abs(),
            time_nano,
        })
    }

    /// The event at the next place.
    pub fn append(&mut self, new: NewEvent, now: i64) -> Event {
        let wanted = if new.time_nano == 0 {
            now
        } else {
            new.time_nano
        };
        self.seq += 1;
        // Strictly growing: a client that goes on `since` the last time it saw misses and repeats nothing.
        self.time_nano = wanted.max(self.time_nano + 1);
        Event {
            seq: self.seq,
            kind: new.kind,
            action: new.action,
            actor: new.actor,
            attributes: new.attributes,
            time_nano: self.time_nano,
        }
    }
}

pub fn insert(connection: &Connection, event: &Event) -> rusqlite::Result<()> {
    let attributes = serde_json::to_string(&event.attributes)
        .map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
    connection
        .prepare_cached("INSERT INTO event(seq, time_nano, kind, action, actor, attributes) VALUES(?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![
            event.seq.cast_signed(),
            event.time_nano,
            event.kind,
            event.action,
            event.actor,
            attributes
        ])?;
    Ok(())
}

/// Takes away what is beyond the bounds. The last event always stays: it holds the journal's position.
pub fn trim(connection: &Connection, tail: Tail, now: i64) -> rusqlite::Result<()> {
    let by_count = tail.seq.saturating_sub(KEEP_EVENTS);
    let by_age = first_at_or_after(connection, now - KEEP_NANOS)?.map_or(tail.seq, |seq| seq) - 1;
    let bound = by_count.max(by_age).min(tail.seq.saturating_sub(1));
    connection
        .prepare_cached("DELETE FROM event WHERE seq<=?1")?
        .execute(params![bound.cast_signed()])?;
    Ok(())
}

/// Events of a range, oldest first.
pub fn read(connection: &Connection, range: EventRange) -> rusqlite::Result<Vec<Event>> {
    let mut from = range.after_seq.map_or(1, |seq| seq.saturating_add(1));
    if let Some(since) = range.since_nano {
        match first_at_or_after(connection, since)? {
            Some(seq) => from = from.max(seq),
            None => return Ok(Vec::new()),
        }
    }
    let until = range.until_nano.unwrap_or(i64::MAX);
    let limit = range
        .limit
        .map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
    let mut statement = connection.prepare_cached(
        "SELECT seq, time_nano, kind, action, actor, attributes FROM event WHERE seq>=?1 ORDER BY seq LIMIT ?2",
    )?;
    let mut rows = statement.query(params![i64::try_from(from).unwrap_or(i64::MAX), limit])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let time_nano: i64 = row.get(1)?;
        if time_nano > until {
            break;
        }
        let attributes: String = row.get(5)?;
        events.push(Event {
            seq: row.get::<_, i64>(0)?.unsigned_abs(),
            time_nano,
            kind: row.get(2)?,
            action: row.get(3)?,
            actor: row.get(4)?,
            attributes: serde_json::from_str(&attributes).unwrap_or_default(),
        });
    }
    Ok(events)
}

/// The first position whose time is at least `time`. Times grow with positions, so halving finds it: no index to keep.
fn first_at_or_after(connection: &Connection, time: i64) -> rusqlite::Result<Option<u64>> {
    let (Some(mut low), Some(mut high)): (Option<i64>, Option<i64>) = connection
        .prepare_cached("SELECT (SELECT min(seq) FROM event), (SELECT max(seq) FROM event)")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?
    else {
        return Ok(None);
    };
    let mut at = connection
        .prepare_cached("SELECT seq, time_nano FROM event WHERE seq>=?1 ORDER BY seq LIMIT 1")?;
    let mut found = None;
    while low <= high {
        let middle = low + (high - low) / 2;
        let (seq, stamp): (i64, i64) =
            at.query_row(params![middle], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if stamp >= time {
            found = Some(seq.unsigned_abs());
            high = middle - 1;
        } else {
            low = seq + 1;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(count: i64, first_time: i64, step: i64) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(&format!(
                "CREATE TABLE event(seq INTEGER PRIMARY KEY, time_nano INTEGER, kind TEXT, action TEXT, actor TEXT, attributes TEXT);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{count})
                 INSERT INTO event SELECT i, {first_time}+i*{step}, '', '', '', '{{}}' FROM n;"
            ))
            .unwrap();
        connection
    }

    fn kept(connection: &Connection) -> (i64, i64) {
        connection
            .query_row("SELECT min(seq), count(*) FROM event", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap()
    }

    #[test]
    fn bounded_in_number_and_age() {
        let now = 1_800_000_000_000_000_000;
        let connection = journal(102_000, now - 200_000, 1);
        let tail = Tail::read(&connection, now).unwrap();
        trim(&connection, tail, now).unwrap();
        assert_eq!(kept(&connection), (2001, 100_000));
        // One a day, the last of them now.
        let day = KEEP_NANOS / 7;
        let connection = journal(30, now - 30 * day, day);
        let tail = Tail::read(&connection, now).unwrap();
        trim(&connection, tail, now).unwrap();
        assert_eq!(kept(&connection), (23, 8));
        // All too old: the last one stays and holds the position.
        trim(&connection, tail, now + 100 * day).unwrap();
        assert_eq!(kept(&connection), (30, 1));
    }

    #[test]
    fn times_in_the_future_come_back() {
        let connection = journal(10, 1000, 10);
        let tail = Tail::read(&connection, 1055).unwrap();
        assert_eq!((tail.seq, tail.time_nano), (10, 1055));
        let events = read(&connection, EventRange::default()).unwrap();
        assert_eq!(events[4].time_nano, 1050);
        assert!(events[5..].iter().all(|event| event.time_nano == 1055));
        let mut tail = tail;
        let event = tail.append(NewEvent::default(), 1050);
        assert_eq!((event.seq, event.time_nano), (11, 1056));
    }
}
