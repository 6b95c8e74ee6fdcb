//! Real containers, launched by a process with one thread as the shim is. Needs root; fails without. Every case leaves nothing behind, which
//! is checked. `cargo test -p longshore-launcher --test launch -- NAME` runs the cases whose name contains NAME.

#![allow(clippy::unwrap_used)]

mod basics;
mod cgroups;
mod measure;
mod mounts;
mod sandbox;
mod security;

use std::panic::{AssertUnwindSafe, catch_unwind};

type Case = (&'static str, fn());

fn main() {
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests launch containers: run them as root"
    );
    if std::env::args().any(|arg| arg == "--measure") {
        measure::run();
        return sandbox::remove_parent_cgroups();
    }
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let cases = [
        basics::CASES,
        mounts::CASES,
        cgroups::CASES,
        security::CASES,
    ]
    .into_iter()
    .flatten();
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, case) in cases {
        if !wanted.is_empty() && !wanted.iter().any(|w| name.contains(w.as_str())) {
            continue;
        }
        let mounts = sandbox::host_state();
        let result = catch_unwind(AssertUnwindSafe(*case)).is_ok() && sandbox::unchanged(&mounts);
        println!("test {name} ... {}", if result { "ok" } else { "FAILED" });
        if result {
            passed += 1;
        } else {
            failed.push(*name);
        }
    }
    sandbox::remove_parent_cgroups();
    println!("{passed} passed, {} failed {failed:?}", failed.len());
    std::process::exit(i32::from(!failed.is_empty()));
}
