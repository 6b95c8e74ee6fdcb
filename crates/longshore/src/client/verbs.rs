//! The table of verbs: name, flags, number of arguments, what it does.

use std::{future::Future, pin::Pin};

use super::{
    create_flags, failure::Done, http::Client, image, lifecycle, list as lists, run, system, watch,
};
use crate::flags::{self, Flag, Order, Parsed, list, number, switch, text};

type Act = for<'a> fn(&'a Client, &'a Parsed) -> Pin<Box<dyn Future<Output = Done> + 'a>>;

/// One verb.
pub struct Verb {
    /// `stop [OPTIONS] CONTAINER [CONTAINER...]`
    pub usage: &'static str,
    pub about: &'static str,
    pub flags: &'static [Flag],
    pub order: Order,
    /// Fewest and most arguments.
    pub arguments: (usize, usize),
    /// Other names: `container ls`, `ls` only after its group.
    aliases: &'static [(&'static str, &'static str)],
    pub act: Act,
}

impl Verb {
    pub fn name(&self) -> &'static str {
        self.usage.split(' ').next().unwrap_or_default()
    }

    /// Is it `group name` in the docker CLI?
    pub fn answers_to(&self, group: &str, name: &str) -> bool {
        self.aliases.contains(&(group, name))
            || (self.name() == name
                && match group {
                    "system" => matches!(name, "events" | "info"),
                    "image" => matches!(name, "pull" | "push" | "load" | "tag"),
                    _ => !matches!(
                        name,
                        "images"
                            | "rmi"
                            | "pull"
                            | "push"
                            | "load"
                            | "tag"
                            | "events"
                            | "info"
                            | "version"
                    ),
                })
    }

    pub fn help(&self) -> String {
        let mut out = format!("Usage:  longshore {}\n\n{}\n", self.usage, self.about);
        if self.flags.iter().any(|flag| !flag.help.is_empty()) {
            out.push('\n');
            out.push_str(&flags::options_help(self.flags));
        }
        out
    }

    /// Docker's text for too few or too many arguments.
    pub fn count_error(&self, count: usize) -> Option<String> {
        let (fewest, most) = self.arguments;
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let name = self.name();
        Some(match () {
            () if most == 0 && count > 0 => format!("'longshore {name}' accepts no arguments"),
            () if fewest == most && count != fewest => format!(
                "'longshore {name}' requires {fewest} argument{}",
                plural(fewest)
            ),
            () if count < fewest => format!(
                "'longshore {name}' requires at least {fewest} argument{}",
                plural(fewest)
            ),
            () if count > most => format!(
                "'longshore {name}' requires at most {most} argument{}",
                plural(most)
            ),
            () => return None,
        })
    }
}

const MANY: usize = usize::MAX;
const FORMAT: Flag = text(
    "format",
    "string",
    "'table', 'json', or a Go template of fields",
);
const FILTER: Flag = Flag {
    value: "filter",
    ..list("filter", "Filter output based on conditions provided")
};
const SIGNAL: Flag = text("signal", "string", "Signal to send to the container");
const DETACH_KEYS: Flag = text(
    "detach-keys",
    "string",
    "Override the key sequence for detaching a container",
);

const START: &[Flag] = &[
    switch("attach", "Attach STDOUT/STDERR and forward signals").short('a'),
    DETACH_KEYS,
    switch("interactive", "Attach container's STDIN").short('i'),
];
const PS: &[Flag] = &[
    switch("all", "Show all containers (default shows just running)").short('a'),
    FILTER.short('f'),
    FORMAT,
    number(
        "last",
        "Show n last created containers (includes all states)",
    )
    .short('n'),
    switch(
        "latest",
        "Show the latest created container (includes all states)",
    )
    .short('l'),
    switch("no-trunc", "Don't truncate output"),
    switch("quiet", "Only display container IDs").short('q'),
    switch("size", "Display total file sizes").short('s'),
];
const LOGS: &[Flag] = &[
    switch("details", "Show extra details provided to logs"),
    switch("follow", "Follow log output").short('f'),
    text(
        "since",
        "string",
        "Show logs since timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)",
    ),
    text(
        "tail",
        "string",
        "Number of lines to show from the end of the logs (default \"all\")",
    )
    .short('n'),
    switch("timestamps", "Show timestamps").short('t'),
    text(
        "until",
        "string",
        "Show logs before a timestamp or relative",
    ),
];
const EXEC: &[Flag] = &[
    switch("detach", "Detached mode: run command in the background").short('d'),
    DETACH_KEYS,
    list("env", "Set environment variables").short('e'),
    list("env-file", "Read in a file of environment variables"),
    switch("interactive", "Keep STDIN open even if not attached").short('i'),
    switch("privileged", "Give extended privileges to the command"),
    switch("tty", "Allocate a pseudo-TTY").short('t'),
    text(
        "user",
        "string",
        "Username or UID (format: \"<name|uid>[:<group|gid>]\")",
    )
    .short('u'),
    text(
        "workdir",
        "string",
        "Working directory inside the container",
    )
    .short('w'),
];
const STOP: &[Flag] = &[
    SIGNAL.short('s'),
    number("timeout", "Seconds to wait before killing the container").short('t'),
    number("time", ""),
];
const RM: &[Flag] = &[
    switch(
        "force",
        "Force the removal of a running container (uses SIGKILL)",
    )
    .short('f'),
    switch("link", "Remove the specified link").short('l'),
    switch(
        "volumes",
        "Remove anonymous volumes associated with the container",
    )
    .short('v'),
];
const IMAGES: &[Flag] = &[
    switch("all", "Show all images (default hides intermediate images)").short('a'),
    switch("digests", "Show digests"),
    FILTER.short('f'),
    FORMAT,
    switch("no-trunc", "Don't truncate output"),
    switch("quiet", "Only show image IDs").short('q'),
];
const LOAD: &[Flag] = &[
    text(
        "input",
        "string",
        "Read from tar archive file, instead of STDIN",
    )
    .short('i'),
    text("platform", "string", "Load only the given platform variant"),
    switch("quiet", "Suppress the load output").short('q'),
];
const RMI: &[Flag] = &[
    switch("force", "Force removal of the image").short('f'),
    switch("no-prune", "Do not delete untagged parents"),
];
const EVENTS: &[Flag] = &[
    FILTER.short('f'),
    FORMAT,
    text("since", "string", "Show all events created since timestamp"),
    text("until", "string", "Stream events until this timestamp"),
];
const INSPECT: &[Flag] = &[
    FORMAT.short('f'),
    switch("size", "Display total file sizes if the type is container").short('s'),
    text("type", "string", "Only inspect objects of the given type"),
];
const PULL: &[Flag] = &[
    text(
        "platform",
        "string",
        "Set platform if server is multi-platform capable",
    ),
    switch("quiet", "Suppress verbose output").short('q'),
];

const PUSH: &[Flag] = &[
    switch("all-tags", "Push all tags of an image to the repository").short('a'),
    text(
        "platform",
        "string",
        "Push a platform-specific manifest as a single-platform image to the registry",
    ),
    switch("quiet", "Suppress verbose output").short('q'),
];

/// A verb with flags and arguments in any order.
macro_rules! verb {
    ($usage:literal, $about:literal, $flags:expr, $arguments:expr, $aliases:expr, $act:path) => {
        verb!(
            $usage,
            $about,
            $flags,
            $arguments,
            $aliases,
            $act,
            Order::Mixed
        )
    };
    ($usage:literal, $about:literal, $flags:expr, $arguments:expr, $aliases:expr, $act:path, $order:expr) => {
        Verb {
            usage: $usage,
            about: $about,
            flags: $flags,
            order: $order,
            arguments: $arguments,
            aliases: $aliases,
            act: |client, parsed| Box::pin($act(client, parsed)),
        }
    };
}

/// All verbs, in the order of the help.
pub const VERBS: &[Verb] = &[
    verb!(
        "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
        "Create and run a new container from an image",
        create_flags::RUN,
        (1, MANY),
        &[],
        run::run,
        Order::FlagsFirst
    ),
    verb!(
        "create [OPTIONS] IMAGE [COMMAND] [ARG...]",
        "Create a new container",
        create_flags::CREATE,
        (1, MANY),
        &[],
        run::create_only,
        Order::FlagsFirst
    ),
    verb!(
        "start [OPTIONS] CONTAINER [CONTAINER...]",
        "Start one or more stopped containers",
        START,
        (1, MANY),
        &[],
        run::start
    ),
    verb!(
        "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
        "Execute a command in a running container",
        EXEC,
        (2, MANY),
        &[],
        run::exec,
        Order::FlagsFirst
    ),
    verb!(
        "ps [OPTIONS]",
        "List containers",
        PS,
        (0, 0),
        &[("container", "ls"), ("container", "list")],
        lists::ps
    ),
    verb!(
        "logs [OPTIONS] CONTAINER",
        "Fetch the logs of a container",
        LOGS,
        (1, 1),
        &[],
        watch::logs
    ),
    verb!(
        "stop [OPTIONS] CONTAINER [CONTAINER...]",
        "Stop one or more running containers",
        STOP,
        (1, MANY),
        &[],
        lifecycle::stop
    ),
    verb!(
        "restart [OPTIONS] CONTAINER [CONTAINER...]",
        "Restart one or more containers",
        STOP,
        (1, MANY),
        &[],
        lifecycle::restart
    ),
    verb!(
        "kill [OPTIONS] CONTAINER [CONTAINER...]",
        "Kill one or more running containers",
        &[SIGNAL.short('s')],
        (1, MANY),
        &[],
        lifecycle::kill
    ),
    verb!(
        "pause CONTAINER [CONTAINER...]",
        "Pause all processes within one or more containers",
        &[],
        (1, MANY),
        &[],
        lifecycle::pause
    ),
    verb!(
        "unpause CONTAINER [CONTAINER...]",
        "Unpause all processes within one or more containers",
        &[],
        (1, MANY),
        &[],
        lifecycle::unpause
    ),
    verb!(
        "wait CONTAINER [CONTAINER...]",
        "Block until one or more containers stop, then print their exit codes",
        &[],
        (1, MANY),
        &[],
        lifecycle::wait
    ),
    verb!(
        "rename CONTAINER NEW_NAME",
        "Rename a container",
        &[],
        (2, 2),
        &[],
        lifecycle::rename
    ),
    verb!(
        "rm [OPTIONS] CONTAINER [CONTAINER...]",
        "Remove one or more containers",
        RM,
        (1, MANY),
        &[("container", "remove")],
        lifecycle::rm
    ),
    verb!(
        "inspect [OPTIONS] NAME|ID [NAME|ID...]",
        "Return low-level information on Docker objects",
        INSPECT,
        (1, MANY),
        &[],
        system::inspect
    ),
    verb!(
        "images [OPTIONS] [REPOSITORY[:TAG]]",
        "List images",
        IMAGES,
        (0, 1),
        &[("image", "ls"), ("image", "list")],
        image::images
    ),
    verb!(
        "pull [OPTIONS] NAME[:TAG|@DIGEST]",
        "Download an image from a registry",
        PULL,
        (1, 1),
        &[],
        image::pull
    ),
    verb!(
        "push [OPTIONS] NAME[:TAG]",
        "Upload an image to a registry",
        PUSH,
        (1, 1),
        &[],
        image::push
    ),
    verb!(
        "load [OPTIONS]",
        "Load an image from a tar archive or STDIN",
        LOAD,
        (0, 0),
        &[],
        image::load
    ),
    verb!(
        "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
        "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
        &[],
        (2, 2),
        &[],
        lifecycle::tag
    ),
    verb!(
        "rmi [OPTIONS] IMAGE [IMAGE...]",
        "Remove one or more images",
        RMI,
        (1, MANY),
        &[("image", "rm"), ("image", "remove")],
        lifecycle::rmi
    ),
    verb!(
        "events [OPTIONS]",
        "Get real time events from the server",
        EVENTS,
        (0, 0),
        &[],
        watch::events
    ),
    verb!(
        "info [OPTIONS]",
        "Display system-wide information",
        &[FORMAT.short('f')],
        (0, 0),
        &[],
        system::info
    ),
    verb!(
        "version [OPTIONS]",
        "Show the version information of client and server",
        &[FORMAT.short('f')],
        (0, 0),
        &[],
        system::version
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_flags_are_unique() {
        let mut names = BTreeSet::new();
        for verb in VERBS {
            assert!(names.insert(verb.name()));
            let (mut long, mut short) = (BTreeSet::new(), BTreeSet::new());
            for flag in verb.flags {
                assert!(long.insert(flag.name), "{} {}", verb.name(), flag.name);
                assert!(flag.short.is_none_or(|letter| short.insert(letter)));
            }
        }
    }

    #[test]
    fn counts_of_arguments() {
        let verb = |name: &str| VERBS.iter().find(|verb| verb.name() == name).unwrap();
        assert_eq!(
            verb("rm").count_error(0).unwrap(),
            "'longshore rm' requires at least 1 argument"
        );
        assert_eq!(
            verb("ps").count_error(1).unwrap(),
            "'longshore ps' accepts no arguments"
        );
        assert_eq!(
            verb("rename").count_error(1).unwrap(),
            "'longshore rename' requires 2 arguments"
        );
        assert_eq!(verb("run").count_error(5), None);
    }

    #[test]
    fn groups_of_the_docker_cli() {
        let called = |group, name| {
            let verb = VERBS.iter().find(|verb| verb.answers_to(group, name));
            verb.map(Verb::name)
        };
        assert_eq!(called("container", "ls"), Some("ps"));
        assert_eq!(called("image", "ls"), Some("images"));
        assert_eq!(called("image", "rm"), Some("rmi"));
        assert_eq!(called("container", "rm"), Some("rm"));
        assert_eq!(called("system", "events"), Some("events"));
        assert_eq!(called("image", "run"), None);
    }
}
