//! The cases, one file a noun.

mod attach;
mod badhttp;
mod badinput;
mod cgroups;
mod chaos;
mod commit;
mod copy;
mod daemon;
mod dns;
mod drivers;
mod events;
mod exec;
mod firewall;
mod hangs;
mod health;
mod images;
mod images_gc;
mod images_rules;
mod images_save;
mod images_unpack;
mod inspect;
mod lifecycle;
mod list;
mod logs;
mod mounts;
mod names;
mod namespaces;
mod network;
mod networks;
mod own;
mod pause;
mod ports;
mod pull;
mod pull_faults;
mod push;
mod resources;
mod restart;
mod restore;
mod security;
mod stats;
mod system;
mod terraform;
mod testcontainers;
mod update;
mod verbs;
mod volume_driver;
mod volumes;
mod wait;
mod walkthrough;

use crate::runner::Case;

/// Lists cases: `cases!("group", Any; first, second)`.
macro_rules! cases {
    ($group:literal, $company:ident; $($name:ident),* $(,)?) => {
        [$($crate::runner::Case {
            group: $group,
            name: stringify!($name),
            run: $name,
            company: $crate::runner::Company::$company,
        }),*]
    };
}
pub(crate) use cases;

/// All of them.
pub fn all() -> Vec<Case> {
    [
        walkthrough::list(),
        lifecycle::list(),
        restart::list(),
        logs::list(),
        copy::list(),
        drivers::list(),
        attach::list(),
        exec::list(),
        wait::list(),
        events::list(),
        names::list(),
        list::list(),
        inspect::list(),
        mounts::list(),
        volumes::list(),
        volume_driver::list(),
        images::list(),
        pull::list(),
        pull_faults::list(),
        push::list(),
        commit::list(),
        images_rules::list(),
        images_gc::list(),
        images_save::list(),
        images_unpack::list(),
        security::list(),
        resources::list(),
        cgroups::list(),
        namespaces::list(),
        network::list(),
        networks::list(),
        firewall::list(),
        dns::list(),
        pause::list(),
        ports::list(),
        badinput::list(),
        badhttp::list(),
        system::list(),
        daemon::list(),
        restore::list(),
        hangs::list(),
        health::list(),
        stats::list(),
        terraform::list(),
        testcontainers::list(),
        update::list(),
        verbs::list(),
        chaos::list(),
    ]
    .concat()
}
