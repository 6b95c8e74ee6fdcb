//! Samples, and the wait for a quiet machine before each.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

/// Times of one measure of one engine.
#[derive(Default, Clone)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// The value that a share of the samples does not exceed, in milliseconds.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.milliseconds();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted
            .get(((last as f64) * share).round() as usize)
            .copied()
            .unwrap_or(0.0)
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn milliseconds(&self) -> Vec<f64> {
        self.0.iter().map(|d| d.as_secs_f64() * 1000.0).collect()
    }
}

/// The middle one of a few values.
pub fn middle(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// Waits until nothing but us wants a processor, a few looks in a row; gives up after some seconds.
pub fn quiet() {
    let end = Instant::now() + Duration::from_secs(5);
    let mut calm = 0;
    while calm < 3 && Instant::now() < end {
        let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let running: u32 = text
            .split(' ')
            .nth(3)
            .and_then(|f| f.split('/').next()?.parse().ok())
            .unwrap_or(1);
        calm = if running <= 1 { calm + 1 } else { 0 };
        thread::sleep(Duration::from_millis(5));
    }
}
