//! `GET /events`: the journal as a stream.

use std::{collections::BTreeMap, time::Duration};

use longshore_engine::api::{EventStream, EventsRequest};
use longshore_model::{Error, Event, Result, Timestamp};
use serde::Serialize;
use tokio::{sync::watch, time::sleep};

use crate::{
    connection::shut_down,
    filters, json,
    request::Request,
    response::{BodySender, Gone, JSON, Response},
    time,
    version::ApiVersion,
};

const JSON_LINES: &str = "application/jsonl";
const NDJSON: &str = "application/x-ndjson";
const JSON_SEQUENCE: &str = "application/json-seq";

/// An event on the wire. The first three are for clients before 1.52, which crash without them.
#[derive(Debug, Serialize)]
struct Message<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(rename = "Type")]
    kind: &'a str,
    #[serde(rename = "Action")]
    action: &'a str,
    #[serde(rename = "Actor")]
    actor: Actor<'a>,
    scope: &'static str,
    time: i64,
    #[serde(rename = "timeNano")]
    time_nano: i64,
}

#[derive(Debug, Serialize)]
struct Actor<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(rename = "Attributes")]
    attributes: &'a BTreeMap<String, String>,
}

/// The message of an event, None when this version does not know the event.
fn message(event: &Event, version: ApiVersion) -> Option<Message<'_>> {
    let container = event.kind == "container";
    let image = event.kind == "image";
    if image && event.action == "create" && version.before(46) {
        return None;
    }
    let legacy = version.before(52) && (container || image);
    Some(Message {
        status: legacy.then_some(&event.action),
        id: legacy.then_some(&event.actor),
        from: (legacy && container)
            .then(|| event.attributes.get("image").map_or("", String::as_str)),
        kind: &event.kind,
        action: &event.action,
        actor: Actor {
            id: &event.actor,
            attributes: &event.attributes,
        },
        scope: "local",
        time: event.time_nano.div_euclid(1_000_000_000),
        time_nano: event.time_nano,
    })
}

/// Which of the stream types the client likes best. Before 1.52 there is one, wrongly named.
fn content_type(accept: &str, version: ApiVersion) -> &'static str {
    if version.before(52) {
        return JSON;
    }
    let mut best = (0.0f32, JSON_LINES);
    for item in accept.split(',') {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let quality = parts
            .find_map(|p| p.strip_prefix("q=")?.parse().ok())
            .unwrap_or(1.0);
        let offer = [JSON_LINES, NDJSON, JSON_SEQUENCE]
            .into_iter()
            .find(|offer| name.eq_ignore_ascii_case(offer));
        match offer {
            Some(offer) if quality > best.0 => best = (quality, offer),
            _ => {}
        }
    }
    best.1
}

/// `GET /events`
pub(crate) async fn events(request: Request) -> Result<Response> {
    let since = time::parse(request.query.get("since"))?;
    let until = time::parse(request.query.get("until"))?;
    if let (Some(since), Some(until)) = (since, until)
        && until < since
    {
        return Err(Error::invalid(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            Timestamp(since).rfc3339(),
            Timestamp(until).rfc3339()
        )));
    }
    let filters = filters::parse(request.query.get("filters"))?;
    let wanted = EventsRequest {
        since,
        until,
        filters,
    };
    let stream = request.engine.events(wanted).await?;
    let kind = content_type(request.header("accept"), request.version);
    let (response, sender) = Response::stream(kind);
    let version = request.version;
    let shutdown = request.shutdown;
    tokio::spawn(async move {
        let writer = Writer {
            sender,
            version,
            sequence: kind == JSON_SEQUENCE,
        };
        // Gone is the normal end of a stream that has no `until`.
        let _ = writer.pump(stream, shutdown).await;
    });
    Ok(response)
}

struct Writer {
    sender: BodySender,
    version: ApiVersion,
    /// RFC 7464: a record separator in front of each message.
    sequence: bool,
}

impl Writer {
    async fn send(&self, event: &Event) -> std::result::Result<(), Gone> {
        let Some(message) = message(event, self.version) else {
            return Ok(());
        };
        if !self.sequence {
            return self.sender.json_line(&message).await;
        }
        let mut text = vec![0x1e];
        text.extend_from_slice(&json::to_line(&message));
        self.sender.send(text).await
    }
    /// Backlog, then live events until `until`, shutdown, or the client's end.
    async fn pump(
        self,
        stream: EventStream,
        mut shutdown: watch::Receiver<bool>,
    ) -> std::result::Result<(), Gone> {
        for event in stream.backlog {
            self.send(&event).await?;
        }
        let Some(mut live) = stream.live else {
            return Ok(());
        };
        let end = sleep_until(stream.until);
        tokio::pin!(end);
        loop {
            tokio::select! {
                event = live.recv() => match event {
                    Some(event) => self.send(&event).await?,
                    None => return Ok(()),
                },
                () = &mut end => return Ok(()),
                () = self.sender.closed() => return Err(Gone),
                () = shut_down(&mut shutdown) => return Ok(()),
            }
        }
    }
}

/// Sleeps until a moment of the wall clock; for ever without one.
async fn sleep_until(until: Option<i64>) {
    let Some(until) = until else {
        return std::future::pending().await;
    };
    let left = u64::try_from(until.saturating_sub(Timestamp::now().0)).unwrap_or(0);
    sleep(Duration::from_nanos(left)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, action: &str) -> Event {
        Event {
            seq: 1,
            kind: kind.to_owned(),
            action: action.to_owned(),
            actor: "abc".to_owned(),
            attributes: BTreeMap::from([("image".to_owned(), "busybox".to_owned())]),
            time_nano: 1_795_466_465_006_579_402,
        }
    }

    fn text(event: &Event, minor: u32) -> Option<String> {
        let message = message(event, ApiVersion::v1(minor))?;
        String::from_utf8(json::to_vec(&message)).ok()
    }

    #[test]
    fn as_recorded() {
        assert_eq!(
            text(&event("container", "start"), 55).unwrap(),
            r#"{"Type":"container","Action":"start","Actor":{"ID":"abc","Attributes":{"image":"busybox"}},"scope":"local","time":1795466465,"timeNano":1795466465006579402}"#
        );
    }

    #[test]
    fn legacy_fields() {
        let old = text(&event("container", "start"), 51).unwrap();
        assert!(old.starts_with(r#"{"status":"start","id":"abc","from":"busybox","Type""#));
        let image = text(&event("image", "tag"), 51).unwrap();
        assert!(image.starts_with(r#"{"status":"tag","id":"abc","Type""#));
        assert!(
            text(&event("network", "connect"), 51)
                .unwrap()
                .starts_with(r#"{"Type""#)
        );
        assert!(text(&event("image", "create"), 45).is_none());
        assert!(text(&event("image", "create"), 46).is_some());
    }

    #[test]
    fn content_types() {
        for (accept, minor, want) in [
            ("*/*", 55, JSON_LINES),
            ("", 55, JSON_LINES),
            ("application/json", 55, JSON_LINES),
            ("application/x-ndjson", 55, NDJSON),
            ("application/json-seq", 52, JSON_SEQUENCE),
            (
                "application/x-ndjson;q=0.5, application/jsonl",
                52,
                JSON_LINES,
            ),
            ("application/x-ndjson", 51, JSON),
        ] {
            assert_eq!(
                content_type(accept, ApiVersion::v1(minor)),
                want,
                "{accept}"
            );
        }
    }
}
