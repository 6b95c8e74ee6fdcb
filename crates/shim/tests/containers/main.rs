//! Real shims with real containers, driven as the daemon drives them. Needs root; fails without. Nothing is left behind, which is checked.
//! `cargo test -p longshore-shim --test containers -- NAME` runs the cases whose name contains NAME.
//!
//! The program is its own zygote: called with the zygote's argument it becomes one, as the engine's binary does.

#![allow(clippy::unwrap_used)]

mod ends;
mod execs;
mod output;
mod sandbox;
mod survival;

use std::panic::{AssertUnwindSafe, catch_unwind};

use longshore_shim::zygote::{ROLE, Zygote, spawn_zygote, zygote_main};

type Case = (&'static str, fn(&Zygote));

fn main() {
    if std::env::args().nth(1).as_deref() == Some(ROLE) {
        zygote_main();
    }
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests launch containers: run them as root"
    );
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let cases = [output::CASES, execs::CASES, ends::CASES, survival::CASES].concat();
    let zygote = spawn_zygote().unwrap();
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, case) in cases {
        if !wanted.is_empty() && !wanted.iter().any(|w| name.contains(w.as_str())) {
            continue;
        }
        let before = sandbox::host_state();
        let result =
            catch_unwind(AssertUnwindSafe(|| case(&zygote))).is_ok() && sandbox::unchanged(&before);
        println!("test {name} ... {}", if result { "ok" } else { "FAILED" });
        if result {
            passed += 1;
        } else {
            failed.push(name);
        }
    }
    drop(zygote);
    sandbox::remove_parent_cgroups();
    println!("{passed} passed, {} failed {failed:?}", failed.len());
    std::process::exit(i32::from(!failed.is_empty()));
}
