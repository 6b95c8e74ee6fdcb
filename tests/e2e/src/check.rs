//! How a case fails: a text, made from any error or by the macros here.

use std::{
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

/// Why a case failed.
#[derive(Debug)]
pub struct Fail(pub String);

/// What a case and its helpers return.
pub type Outcome<T = ()> = Result<T, Fail>;

impl<E: std::error::Error> From<E> for Fail {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Ends the function with a failure.
#[macro_export]
macro_rules! fail {
    ($($text:tt)*) => { return Err($crate::check::Fail(format!($($text)*))) };
}

/// Fails when the condition does not hold.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err($crate::check::Fail(format!($($text)*)));
        }
    };
}

/// Fails when the two values differ, showing both.
#[macro_export]
macro_rules! same {
    ($left:expr, $right:expr) => { $crate::same!($left, $right, "{}", stringify!($left)) };
    ($left:expr, $right:expr, $($text:tt)*) => {{
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    return Err($crate::check::Fail(format!(
                        "{}: got {:?}, wanted {:?}", format!($($text)*), left, right
                    )));
                }
            }
        }
    }};
}

/// Fails when a text lacks a part, showing both.
#[macro_export]
macro_rules! has {
    ($text:expr, $part:expr) => {{
        match (&$text, &$part) {
            (text, part) => {
                if !text.contains(&part[..]) {
                    return Err($crate::check::Fail(format!(
                        "{}: {:?} does not contain {:?}",
                        stringify!($text),
                        text,
                        part
                    )));
                }
            }
        }
    }};
}

/// Fails when a text has a part that it must not have.
#[macro_export]
macro_rules! lacks {
    ($text:expr, $part:expr) => {{
        match (&$text, &$part) {
            (text, part) => {
                if text.contains(&part[..]) {
                    return Err($crate::check::Fail(format!(
                        "{}: {:?} contains {:?}",
                        stringify!($text),
                        text,
                        part
                    )));
                }
            }
        }
    }};
}

/// How many times longer than usual the cases wait: a whole number in `E2E_PATIENCE`, for slow machines.
pub fn patience() -> u32 {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    *FACTOR.get_or_init(|| {
        let text = std::env::var("E2E_PATIENCE").unwrap_or_default();
        text.parse().unwrap_or(1).max(1)
    })
}

/// Asks again and again until `found` gives a value; fails after `seconds` (times [`patience`]).
pub fn until<T>(
    seconds: u64,
    what: &str,
    mut found: impl FnMut() -> Outcome<Option<T>>,
) -> Outcome<T> {
    let end = Instant::now() + Duration::from_secs(seconds) * patience();
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(value) = found()? {
            return Ok(value);
        }
        if Instant::now() > end {
            return Err(Fail(format!("not within {seconds} s: {what}")));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}
