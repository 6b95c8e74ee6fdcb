//! Verbs that read a stream: `logs` and `events`.

use http_body_util::BodyExt;
use hyper::Method;
use serde_json::Value;

use super::{
    attached::Frames,
    failure::{Done, Failure},
    http::{Client, escape, query},
    image::Lines,
    list::filters,
    template::Template,
    text::{emit, plain},
};
use crate::{flags::Parsed, units};

/// `--since` and `--until` as the API takes them: a duration counts back from now, a date is turned into seconds, anything
/// else goes over as it is.
fn moment(text: &str, now: jiff::Timestamp) -> String {
    let stamp = |nanoseconds: i128| {
        let (seconds, rest) = (
            nanoseconds.div_euclid(1_000_000_000),
            nanoseconds.rem_euclid(1_000_000_000),
        );
        format!("{seconds}.{rest:09}")
    };
    if let Some(span) = units::duration(text) {
        return stamp(now.as_nanosecond() - i128::from(span));
    }
    let utc = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        16 => format!("{text}:00Z"),
        _ => format!("{text}Z"),
    };
    let date = text
        .parse::<jiff::Timestamp>()
        .or_else(|_| utc.parse::<jiff::Timestamp>());
    match date {
        Ok(date) => stamp(date.as_nanosecond()),
        Err(_) => text.to_owned(),
    }
}

/// `logs`
pub async fn logs(client: &Client, parsed: &Parsed) -> Done {
    let name = escape(parsed.arguments.first().map_or("", String::as_str));
    let inspect = client.get(&format!("/containers/{name}/json")).await?;
    let on = |flag: &str| if parsed.on(flag) { "1" } else { "" };
    let now = jiff::Timestamp::now();
    let time = |flag: &str| {
        parsed
            .text(flag)
            .map_or(String::new(), |text| moment(text, now))
    };
    let options = query(&[
        ("details", on("details")),
        ("follow", on("follow")),
        ("since", &time("since")),
        ("stderr", "1"),
        ("stdout", "1"),
        ("tail", parsed.text("tail").unwrap_or("all")),
        ("timestamps", on("timestamps")),
        ("until", &time("until")),
    ]);
    let response = client
        .stream(
            Method::GET,
            &format!("/containers/{name}/logs{options}"),
            None,
        )
        .await?;
    let mut frames = Frames {
        tty: inspect["Config"]["Tty"] == true,
        pending: Vec::new(),
    };
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.map_err(Failure::new)?.data_ref() {
            frames.take(data)?;
        }
    }
    Ok(())
}

/// `events`
pub async fn events(client: &Client, parsed: &Parsed) -> Done {
    let format = parsed.text_or_empty("format");
    let template = match format {
        "" | "json" | "{{json .}}" => None,
        format => Some(Template::parse(format).map_err(Failure::new)?),
    };
    let now = jiff::Timestamp::now();
    let time = |flag: &str| {
        parsed
            .text(flag)
            .map_or(String::new(), |text| moment(text, now))
    };
    let options = query(&[
        ("filters", &filters(parsed.list("filter"))?),
        ("since", &time("since")),
        ("until", &time("until")),
    ]);
    let response = client
        .stream(Method::GET, &format!("/events{options}"), None)
        .await?;
    let mut body = response.into_body();
    let mut lines = Lines::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(Failure::new)?;
        for line in lines.take(frame.data_ref().map_or(&[][..], |data| data)) {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let event: Value = serde_json::from_slice(line).map_err(Failure::new)?;
            match &template {
                Some(template) => {
                    let text = template.render(&event).map_err(Failure::new)?;
                    emit(format!("{text}\n"));
                }
                None if format.is_empty() => emit(event_line(&event)),
                None => emit([line, b"\n"].concat()),
            }
        }
    }
    Ok(())
}

/// `2026-11-23T20:41:05.123456789Z container create <id> (image=busybox, name=x)`
fn event_line(event: &Value) -> String {
    let nanoseconds = event["timeNano"].as_i64().unwrap_or(0);
    let time = jiff::Timestamp::from_nanosecond(i128::from(nanoseconds))
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let mut out = format!(
        "{time:.9} {} {} {}",
        plain(&event["Type"]),
        plain(&event["Action"]),
        plain(&event["Actor"]["ID"])
    );
    let attributes: Vec<String> = event["Actor"]["Attributes"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", plain(value)))
        .collect();
    if !attributes.is_empty() {
        out.push_str(&format!(" ({})", attributes.join(", ")));
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn moments() {
        let now = jiff::Timestamp::from_second(1000).unwrap();
        assert_eq!(moment("1m30s", now), "910.000000000");
        assert_eq!(moment("0s", now), "1000.000000000");
        assert_eq!(moment("1970-01-01T00:00:01.5Z", now), "1.500000000");
        assert_eq!(moment("1970-01-02", now), "86400.000000000");
        assert_eq!(moment("1970-01-01T00:01:00", now), "60.000000000");
        assert_eq!(moment("1136073845.5", now), "1136073845.5");
    }

    #[test]
    fn lines_of_events() {
        let event = json!({"Type": "container", "Action": "start", "timeNano": 1_500_000_000,
            "Actor": {"ID": "abc", "Attributes": {"name": "x", "image": "busybox"}}});
        assert_eq!(
            event_line(&event),
            "1970-01-01T00:00:01.500000000Z container start abc (image=busybox, name=x)\n"
        );
    }
}
