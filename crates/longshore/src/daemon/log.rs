//! The daemon's log: one line an event on stderr, in the form that dockerd's readers parse
//! (`time="..." level=info msg="..." key=value`). The level can change while the daemon runs.

use std::{fmt, io};

use tracing::{Event, Level, Subscriber, field::Field};
use tracing_subscriber::{
    Registry,
    filter::LevelFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
};

/// Changes the level of a running log.
pub struct LogLevel(reload::Handle<LevelFilter, Registry>);

impl LogLevel {
    /// Sets one of dockerd's level names.
    pub fn set(&self, level: &str) {
        // It fails only when the log is gone, which lasts as long as the process.
        let _ = self.0.reload(filter(level));
    }
}

/// dockerd's level names; `fatal` and `panic` still show errors, there is nothing above them.
fn filter(level: &str) -> LevelFilter {
    match level {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "warn" | "warning" => LevelFilter::WARN,
        "error" | "fatal" | "panic" => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    }
}

/// Starts logging to stderr.
///
/// # Errors
/// When the process logs already.
pub fn start(level: &str) -> Result<LogLevel, String> {
    let (filter, handle) = reload::Layer::new(filter(level));
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Line)
        .with_writer(io::stderr);
    tracing::subscriber::set_global_default(Registry::default().with(filter).with(lines))
        .map_err(|error| error.to_string())?;
    Ok(LogLevel(handle))
}

struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let mut fields = Fields::default();
        event.record(&mut fields);
        writeln!(
            writer,
            "time=\"{:.9}\" level={level} msg={}{}",
            jiff::Timestamp::now(),
            quoted(&fields.message, true),
            fields.rest
        )
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl tracing::field::Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.to_owned();
        } else {
            self.rest.push(' ');
            self.rest.push_str(field.name());
            self.rest.push('=');
            self.rest.push_str(&quoted(value, false));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_str(field, &value.to_string());
    }
}

/// In quotes when the text would not be one word; a line of the log stays one line whatever is in it.
fn quoted(text: &str, always: bool) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+:".contains(c);
    if !always && !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_on_their_line() {
        assert_eq!(quoted("abc-1.2", false), "abc-1.2");
        assert_eq!(quoted("a b", false), "\"a b\"");
        assert_eq!(quoted("a\nlevel=x", false), "\"a\\nlevel=x\"");
        assert_eq!(quoted("", false), "\"\"");
    }
}
