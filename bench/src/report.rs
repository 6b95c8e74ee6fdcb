//! The figures as a table for the README, and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::{
    images::Spent,
    memory::Weight,
    stats::{Samples, middle},
};

/// All rows so far.
pub struct Report {
    peer: String,
    ours: String,
    rows: Vec<Row>,
}

struct Row {
    what: String,
    peer: String,
    ours: String,
    ratio: f64,
    raw: Value,
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

impl Report {
    pub fn new(peer: &str, ours: &str) -> Self {
        Self {
            peer: peer.to_owned(),
            ours: ours.to_owned(),
            rows: Vec::new(),
        }
    }

    fn add(&mut self, what: &str, shown: [String; 2], ratio: f64, raw: Value) {
        eprintln!("  {what}: {} | {} | {ratio:.1}x", shown[0], shown[1]);
        let [peer, ours] = shown;
        self.rows.push(Row {
            what: what.to_owned(),
            peer,
            ours,
            ratio,
            raw,
        });
    }

    /// Times: the ratio says how many times faster ours is.
    pub fn times(&mut self, what: &str, samples: [Samples; 2]) {
        let show = |s: &Samples| {
            format!(
                "{:.2} ms (min {:.2}, p99 {:.2})",
                s.median(),
                s.quantile(0.0),
                s.quantile(0.99)
            )
        };
        let ratio = share(samples[0].median(), samples[1].median());
        let raw =
            json!({"peer_ms": samples[0].milliseconds(), "ours_ms": samples[1].milliseconds()});
        self.add(what, [show(&samples[0]), show(&samples[1])], ratio, raw);
    }

    /// What something cost: the highest peak of resident memory, and the middle of the processors' seconds.
    pub fn spent(&mut self, what: &str, spent: &[Vec<Spent>; 2]) {
        let peak = |i: usize| spent[i].iter().map(|s| s.peak).fold(0.0, f64::max);
        let cpu = |i: usize| middle(&spent[i].iter().map(|s| s.cpu).collect::<Vec<_>>());
        let raw = json!({"peer": [peak(0), cpu(0)], "ours": [peak(1), cpu(1)]});
        self.add(
            &format!("peak memory (RSS) of a {what}"),
            [0, 1].map(|i| format!("{:.1} MB", peak(i))),
            share(peak(0), peak(1)),
            raw.clone(),
        );
        self.add(
            &format!("processor seconds of a {what}"),
            [0, 1].map(|i| format!("{:.2} s", cpu(i))),
            share(cpu(0), cpu(1)),
            raw,
        );
    }

    /// Rates: the ratio says how many times more ours does.
    pub fn rates(&mut self, what: &str, rates: [Vec<f64>; 2]) {
        let best = |r: &[f64]| r.iter().copied().fold(0.0, f64::max);
        let show = |r: &[f64]| format!("{:.1} /s (best {:.1})", middle(r), best(r));
        let ratio = share(middle(&rates[1]), middle(&rates[0]));
        let shown = [show(&rates[0]), show(&rates[1])];
        let [peer, ours] = rates;
        self.add(
            what,
            shown,
            ratio,
            json!({"peer_per_second": peer, "ours_per_second": ours}),
        );
    }

    /// How much of the rate at little load is left at much load, each engine by itself.
    pub fn held(&mut self, what: &str, little: &[f64; 2], much: &[f64; 2]) {
        let part = |i: usize| share(much[i], little[i]);
        let shown = [0, 1].map(|i| format!("{:.0} %", part(i) * 100.0));
        self.add(
            what,
            shown,
            share(part(1), part(0)),
            json!({"little": little, "much": much}),
        );
    }

    /// Memory of the engines without containers: the ratio says how many times smaller ours is.
    pub fn idle(&mut self, what: &str, weights: &[Weight; 2]) {
        let show = |w: &Weight| {
            format!(
                "{:.1} MB ({} processes)",
                w.total as f64 / 1024.0,
                w.processes.len()
            )
        };
        let ratio = share(weights[0].total as f64, weights[1].total as f64);
        let raw = json!({"peer_kb": weights[0].processes, "ours_kb": weights[1].processes});
        self.add(what, [show(&weights[0]), show(&weights[1])], ratio, raw);
    }

    /// What a running container adds to the engine's own processes.
    pub fn per_container(&mut self, count: usize, before: &[Weight; 2], after: &[Weight; 2]) {
        let each = |i: usize| after[i].total.saturating_sub(before[i].total) as f64 / count as f64;
        let show = |kb: f64| format!("{kb:.0} kB");
        let raw =
            json!({"peer_kb": each(0), "ours_kb": each(1), "ours_processes": after[1].processes});
        let what = format!("engine memory a running container, PSS, {count} alive");
        self.add(
            &what,
            [show(each(0)), show(each(1))],
            share(each(0), each(1)),
            raw,
        );
    }

    pub fn markdown(&self) -> String {
        let mut text = format!(
            "| measure | {} | {} | ratio |\n|---|---|---|---|\n",
            self.peer, self.ours
        );
        for row in &self.rows {
            let _ = writeln!(
                text,
                "| {} | {} | {} | **{:.1}x** |",
                row.what, row.peer, row.ours, row.ratio
            );
        }
        text
    }

    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|r| json!({"what": r.what, "peer": r.peer, "ours": r.ours, "ratio": r.ratio, "raw": r.raw}))
            .collect();
        json!({"peer": self.peer, "ours": self.ours, "rows": rows})
    }
}
