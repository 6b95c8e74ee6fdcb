//! The cases, one file a noun.

mod attach;
mod exec;
mod lifecycle;
mod logs;
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
    ]
    .concat()
}
