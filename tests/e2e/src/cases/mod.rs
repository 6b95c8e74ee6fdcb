//! The cases, one file a noun.

mod attach;
mod badinput;
mod daemon;
mod events;
mod exec;
mod images;
mod inspect;
mod lifecycle;
mod list;
mod logs;
mod mounts;
mod names;
mod network;
mod resources;
mod security;
mod system;
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
        logs::list(),
        attach::list(),
        exec::list(),
        wait::list(),
        events::list(),
        names::list(),
        list::list(),
        inspect::list(),
        mounts::list(),
        images::list(),
        security::list(),
        resources::list(),
        network::list(),
        badinput::list(),
        system::list(),
        daemon::list(),
    ]
    .concat()
}
