//! Restart policies: whether a container that ended comes back, and when. Pure, so that the rules read as a table.

use std::time::Duration;

use super::spec::RestartPolicy;

/// First pause before a restart; it doubles each time (dockerd's figures).
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A run of this length counts as good: pauses begin anew.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// What is known of the run that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub exit_code: i32,
    /// The user asked for the end.
    pub stopped: bool,
    /// Restarts so far.
    pub restarts: u32,
}

/// Does the policy bring it back now?
pub(crate) fn restarts(policy: &RestartPolicy, ended: Ended) -> bool {
    let tries_left =
        policy.maximum_retry_count <= 0 || i64::from(ended.restarts) < policy.maximum_retry_count;
    !ended.stopped
        && match policy.name.as_str() {
            "always" | "unless-stopped" => true,
            "on-failure" => ended.exit_code != 0 && tries_left,
            _ => false,
        }
}

/// Does it come up with the daemon? As dockerd: `always` even after a stop by hand.
pub(crate) fn starts_with_daemon(policy: &RestartPolicy, ended: Ended) -> bool {
    restarts(policy, ended) || policy.name == "always"
}

/// The pause before the next restart, after the one before it and a run of this length.
pub(crate) fn pause(last: Option<Duration>, run: Duration) -> Duration {
    match last {
        Some(last) if run < GOOD_RUN => (last * 2).min(LONGEST_PAUSE),
        _ => FIRST_PAUSE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        for (name, max, exit_code, stopped, restarts_so_far, now, with_daemon) in [
            ("", 0, 1, false, 0, false, false),
            ("no", 0, 1, false, 0, false, false),
            ("always", 0, 0, false, 9, true, true),
            ("always", 0, 0, true, 0, false, true),
            ("unless-stopped", 0, 1, false, 0, true, true),
            ("unless-stopped", 0, 1, true, 0, false, false),
            ("on-failure", 0, 1, false, 99, true, true),
            ("on-failure", 0, 0, false, 0, false, false),
            ("on-failure", 3, 1, false, 2, true, true),
            ("on-failure", 3, 1, false, 3, false, false),
            ("on-failure", 3, 1, true, 0, false, false),
        ] {
            let policy = RestartPolicy {
                name: name.to_owned(),
                maximum_retry_count: max,
            };
            let ended = Ended {
                exit_code,
                stopped,
                restarts: restarts_so_far,
            };
            assert_eq!(restarts(&policy, ended), now, "{name} {ended:?}");
            assert_eq!(
                starts_with_daemon(&policy, ended),
                with_daemon,
                "{name} {ended:?}"
            );
        }
    }

    #[test]
    fn pauses_double_and_begin_anew() {
        let short = Duration::from_millis(5);
        let first = pause(None, short);
        assert_eq!(first, FIRST_PAUSE);
        assert_eq!(pause(Some(first), short), first * 2);
        assert_eq!(pause(Some(LONGEST_PAUSE), short), LONGEST_PAUSE);
        assert_eq!(pause(Some(LONGEST_PAUSE), GOOD_RUN), FIRST_PAUSE);
    }
}
