//! What the processes of an engine hold in memory: proportional set size, so that shared pages count once.

use std::{fs, path::PathBuf};

use e2e::check::Outcome;

use crate::Side;

/// Kilobytes that one engine's processes hold.
#[derive(Clone, Default, Debug)]
pub struct Weight {
    pub total: u64,
    /// Each process: its name and its share.
    pub processes: Vec<(String, u64)>,
}

/// Processes that live in the engine's network namespace: daemon, helpers and shims, but none of the containers, which
/// have namespaces of their own.
fn weigh(daemon: u32) -> Weight {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let home: Option<PathBuf> = namespace(&daemon.to_string());
    let mut weight = Weight::default();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|b| b.is_ascii_digit()) || home.is_none() || namespace(&pid) != home {
            continue;
        }
        let rollup = fs::read_to_string(entry.path().join("smaps_rollup")).unwrap_or_default();
        let pss = rollup
            .lines()
            .find_map(|l| {
                l.strip_prefix("Pss:")?
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .unwrap_or(0);
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        weight.total += pss;
        weight.processes.push((name.trim().to_owned(), pss));
    }
    weight
}

/// Both engines; nothing for a peer that was not started here.
pub fn both(sides: &[Side; 2]) -> Outcome<[Weight; 2]> {
    let one = |side: &Side| {
        side.engine
            .as_ref()
            .map_or_else(Weight::default, |e| weigh(e.pid()))
    };
    Ok([one(&sides[0]), one(&sides[1])])
}
