//! Health: when a container is probed, and what the results make of it. Pure, so that the rules read as a table. The source of
//! the rules is dockerd's behaviour.

use std::time::Duration;

use longshore_model::Timestamp;
use serde::{Deserialize, Serialize};

use super::spec::Healthcheck;

/// Results that are kept.
const KEPT: usize = 5;
/// Bytes of a probe's output that are kept.
pub(super) const OUTPUT_LIMIT: usize = 4096;

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthStatus {
    Starting,
    Healthy,
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// How a container has been doing. It has one from its first start on, if it has a health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last results, oldest first.
    pub log: Vec<HealthResult>,
    /// The probe that runs.
    #[serde(default)]
    pub(crate) probe: Option<String>,
}

/// The end of one probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthResult {
    pub start: Timestamp,
    pub end: Timestamp,
    /// 0: well. -1: it could not run or took too long.
    pub exit_code: i32,
    pub output: String,
}

impl Health {
    /// At a start. The results of earlier runs stay.
    pub(crate) fn starting(before: Option<Self>) -> Self {
        Self {
            status: HealthStatus::Starting,
            failing_streak: 0,
            log: before.map(|health| health.log).unwrap_or_default(),
            probe: None,
        }
    }

    /// It is not probed any more, for it has ended or is paused; dockerd calls that unhealthy.
    pub(crate) fn stopped(&mut self) {
        self.status = HealthStatus::Unhealthy;
        self.probe = None;
    }

    /// Takes a result in; true when the status has changed. `started` is the container's start.
    pub(crate) fn judge(
        &mut self,
        check: &Healthcheck,
        result: HealthResult,
        started: Timestamp,
    ) -> bool {
        let before = self.status;
        let age = since(started, result.start);
        if result.exit_code == 0 {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
        } else if self.status != HealthStatus::Starting || age >= nanos(check.start_period) {
            self.failing_streak += 1;
            if self.failing_streak >= retries(check) {
                self.status = HealthStatus::Unhealthy;
            }
        }
        self.log.push(result);
        let surplus = self.log.len().saturating_sub(KEPT);
        self.log.drain(..surplus);
        self.status != before
    }

    /// The pause before the next probe.
    pub(crate) fn pause(
        &self,
        check: &Healthcheck,
        started: Timestamp,
        now: Timestamp,
    ) -> Duration {
        let early = since(started, now) < nanos(check.start_period);
        if early && self.status == HealthStatus::Starting {
            or(check.start_interval, START_INTERVAL)
        } else {
            or(check.interval, INTERVAL)
        }
    }
}

/// How long a probe may run.
pub(super) fn timeout(check: &Healthcheck) -> Duration {
    or(check.timeout, TIMEOUT)
}

fn retries(check: &Healthcheck) -> u32 {
    u32::try_from(check.retries)
        .ok()
        .filter(|retries| *retries > 0)
        .unwrap_or(RETRIES)
}

fn nanos(value: i64) -> Duration {
    Duration::from_nanos(u64::try_from(value).unwrap_or(0))
}

fn or(value: i64, default: Duration) -> Duration {
    if value == 0 { default } else { nanos(value) }
}

fn since(then: Timestamp, now: Timestamp) -> Duration {
    nanos(now.0.saturating_sub(then.0))
}

/// What a check runs; None for no check.
pub(super) fn command(check: &Healthcheck, shell: &[String]) -> Option<Vec<String>> {
    let (kind, rest) = check.test.split_first()?;
    match kind.as_str() {
        "CMD" if !rest.is_empty() => Some(rest.to_vec()),
        "CMD-SHELL" if shell.is_empty() => {
            let words = ["/bin/sh".to_owned(), "-c".to_owned()];
            Some(words.iter().chain(rest).cloned().collect())
        }
        "CMD-SHELL" => Some(shell.iter().chain(rest).cloned().collect()),
        _ => None,
    }
}

/// A duration as Go prints it: `1m30s`, `1.5s`, `200ms`.
pub(super) fn go_duration(value: Duration) -> String {
    let nanos = value.as_nanos();
    let decimal = |whole: u128, part: u128, width: usize| {
        let digits = format!("{part:0width$}");
        let digits = digits.trim_end_matches('0');
        if digits.is_empty() {
            whole.to_string()
        } else {
            format!("{whole}.{digits}")
        }
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(nanos / 1_000, nanos % 1_000, 3)),
        1_000_000..1_000_000_000 => {
            format!("{}ms", decimal(nanos / 1_000_000, nanos % 1_000_000, 6))
        }
        _ => {
            let seconds = nanos / 1_000_000_000;
            let last = decimal(seconds % 60, nanos % 1_000_000_000, 9);
            match (seconds / 3600, seconds / 60 % 60) {
                (0, 0) => format!("{last}s"),
                (0, minutes) => format!("{minutes}m{last}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{last}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn check(start_period: i64, retries: i64) -> Healthcheck {
        Healthcheck {
            test: vec!["CMD".to_owned(), "true".to_owned()],
            start_period,
            retries,
            ..Healthcheck::default()
        }
    }

    fn result(at: i64, exit_code: i32) -> HealthResult {
        HealthResult {
            start: Timestamp(at * SECOND),
            end: Timestamp(at * SECOND + 1),
            exit_code,
            output: String::new(),
        }
    }

    #[test]
    fn results_change_the_status() {
        use HealthStatus::{Healthy, Starting, Unhealthy};
        let check = check(10 * SECOND, 2);
        let mut health = Health::starting(None);
        for (at, code, status, streak, changed) in [
            (1, 1, Starting, 0, false),
            (9, 1, Starting, 0, false),
            (10, 1, Starting, 1, false),
            (11, 0, Healthy, 0, true),
            (12, 1, Healthy, 1, false),
            (13, 1, Unhealthy, 2, true),
            (14, -1, Unhealthy, 3, false),
            (15, 0, Healthy, 0, true),
        ] {
            let told = health.judge(&check, result(at, code), Timestamp(0));
            assert_eq!(
                (health.status, health.failing_streak, told),
                (status, streak, changed),
                "at {at}"
            );
        }
        assert_eq!(health.log.len(), KEPT);
        assert_eq!(health.log[0], result(11, 0));
        let again = Health::starting(Some(health));
        assert_eq!((again.status, again.log.len()), (Starting, KEPT));
    }

    /// Once healthy, a failure counts although the start period has not passed.
    #[test]
    fn healthy_early() {
        let check = check(100 * SECOND, 1);
        let mut health = Health::starting(None);
        assert!(health.judge(&check, result(1, 0), Timestamp(0)));
        assert!(health.judge(&check, result(2, 1), Timestamp(0)));
        assert_eq!(health.status, HealthStatus::Unhealthy);
    }

    #[test]
    fn pauses() {
        let mut check = check(10 * SECOND, 0);
        let mut health = Health::starting(None);
        let at = |health: &Health, check: &Healthcheck, seconds: i64| {
            health.pause(check, Timestamp(0), Timestamp(seconds * SECOND))
        };
        assert_eq!(at(&health, &check, 1), START_INTERVAL);
        assert_eq!(at(&health, &check, 10), INTERVAL);
        check.start_interval = SECOND;
        check.interval = 2 * SECOND;
        assert_eq!(at(&health, &check, 1), Duration::from_secs(1));
        health.status = HealthStatus::Healthy;
        assert_eq!(at(&health, &check, 1), Duration::from_secs(2));
    }

    #[test]
    fn commands() {
        let run = |test: &[&str], shell: &[&str]| {
            let own = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
            let check = Healthcheck {
                test: own(test),
                ..Healthcheck::default()
            };
            command(&check, &own(shell)).map(|words| words.join(" "))
        };
        assert_eq!(run(&["CMD", "a", "b"], &[]).as_deref(), Some("a b"));
        assert_eq!(
            run(&["CMD-SHELL", "a b"], &[]).as_deref(),
            Some("/bin/sh -c a b")
        );
        assert_eq!(
            run(&["CMD-SHELL", "a"], &["bash", "-c"]).as_deref(),
            Some("bash -c a")
        );
        for none in [&[][..], &["NONE"], &["CMD"], &["EXEC", "a"]] {
            assert_eq!(run(none, &[]), None, "{none:?}");
        }
    }

    #[test]
    fn durations_as_go_prints_them() {
        for (millis, text) in [
            (0, "0s"),
            (200, "200ms"),
            (1500, "1.5s"),
            (30_000, "30s"),
            (90_000, "1m30s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(go_duration(Duration::from_nanos(1500)), "1.5µs");
    }
}
