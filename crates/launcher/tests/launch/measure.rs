//! How long a launch takes: `cargo test --release -p longshore-launcher --test launch -- --measure`.

use std::time::{Duration, Instant};

use longshore_launcher::parent::{StdioFds, launch};

use super::sandbox::*;

const ROUNDS: usize = 200;

/// Prints minimum, median and 90th percentile of launch() and of launch to removed cgroups, in microseconds.
pub fn run() {
    for network in [true, false] {
        let (mut launches, mut cycles) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let mut sandbox = Sandbox::new().command(&["true"]);
            if !network {
                sandbox.plan.namespaces.net = longshore_launcher::plan::NamespaceMode::Host;
            }
            // The kernel's grace periods are over by then, as they are on an idle host.
            std::thread::sleep(Duration::from_millis(20));
            let start = Instant::now();
            let launched = launch(&sandbox.plan, StdioFds::default()).unwrap();
            launches.push(start.elapsed().as_micros());
            wait(&launched.process);
            launched.cgroup.remove().unwrap();
            cycles.push(start.elapsed().as_micros());
        }
        let name = if network {
            "own network namespace"
        } else {
            "host network"
        };
        println!(
            "{name}: launch {}, with exit and cgroups {}",
            summary(launches),
            summary(cycles)
        );
    }
}

fn summary(mut times: Vec<u128>) -> String {
    times.sort_unstable();
    format!(
        "min {} med {} p90 {} us",
        times[0],
        times[times.len() / 2],
        times[times.len() * 9 / 10]
    )
}
