//! The flags that `run` and `create` share.

use crate::flags::{Flag, Kind, list, number, switch, text};

/// Text flags whose value is a size.
const fn size(name: &'static str, help: &'static str) -> Flag {
    text(name, "bytes", help)
}

/// Flags of `create`.
pub const CREATE: &[Flag] = &[
    list("add-host", "Add a custom host-to-IP mapping (host:ip)"),
    list("annotation", "Add an annotation to the container"),
    list("attach", "Attach to STDIN, STDOUT or STDERR").short('a'),
    number(
        "blkio-weight",
        "Block IO (relative weight), between 10 and 1000, or 0 to disable",
    ),
    list("cap-add", "Add Linux capabilities"),
    list("cap-drop", "Drop Linux capabilities"),
    text(
        "cgroup-parent",
        "string",
        "Optional parent cgroup for the container",
    ),
    text(
        "cgroupns",
        "string",
        "Cgroup namespace to use (host|private)",
    ),
    text("cidfile", "string", "Write the container ID to the file"),
    number(
        "cpu-period",
        "Limit CPU CFS (Completely Fair Scheduler) period",
    ),
    number(
        "cpu-quota",
        "Limit CPU CFS (Completely Fair Scheduler) quota",
    ),
    number("cpu-shares", "CPU shares (relative weight)").short('c'),
    text("cpus", "decimal", "Number of CPUs"),
    text(
        "cpuset-cpus",
        "string",
        "CPUs in which to allow execution (0-3, 0,1)",
    ),
    text(
        "cpuset-mems",
        "string",
        "MEMs in which to allow execution (0-3, 0,1)",
    ),
    list("device", "Add a host device to the container"),
    list(
        "device-cgroup-rule",
        "Add a rule to the cgroup allowed devices list",
    ),
    list("dns", "Set custom DNS servers"),
    list("dns-option", "Set DNS options"),
    list("dns-search", "Set custom DNS search domains"),
    text("domainname", "string", "Container NIS domain name"),
    text(
        "entrypoint",
        "string",
        "Overwrite the default ENTRYPOINT of the image",
    ),
    list("env", "Set environment variables").short('e'),
    list("env-file", "Read in a file of environment variables"),
    list("expose", "Expose a port or a range of ports"),
    list("group-add", "Add additional groups to join"),
    text("health-cmd", "string", "Command to run to check health"),
    text(
        "health-interval",
        "duration",
        "Time between running the check (ms|s|m|h)",
    ),
    number(
        "health-retries",
        "Consecutive failures needed to report unhealthy",
    ),
    text(
        "health-start-interval",
        "duration",
        "Time between running the check during the start period",
    ),
    text(
        "health-start-period",
        "duration",
        "Start period before counting retries towards unstable (ms|s|m|h)",
    ),
    text(
        "health-timeout",
        "duration",
        "Maximum time to allow one check to run (ms|s|m|h)",
    ),
    text("hostname", "string", "Container host name").short('h'),
    switch(
        "init",
        "Run an init inside the container that forwards signals and reaps processes",
    ),
    switch("interactive", "Keep STDIN open even if not attached").short('i'),
    text("ip", "string", "IPv4 address (e.g., 172.30.100.104)"),
    text("ip6", "string", "IPv6 address (e.g., 2001:db8::33)"),
    text("ipc", "string", "IPC mode to use"),
    list("label", "Set meta data on a container").short('l'),
    list("label-file", "Read in a line delimited file of labels"),
    list("link", "Add link to another container"),
    text("log-driver", "string", "Logging driver for the container"),
    list("log-opt", "Log driver options"),
    text(
        "mac-address",
        "string",
        "Container MAC address (e.g., 92:d0:c6:0a:29:33)",
    ),
    size("memory", "Memory limit").short('m'),
    size("memory-reservation", "Memory soft limit"),
    size(
        "memory-swap",
        "Swap limit equal to memory plus swap: '-1' to enable unlimited swap",
    ),
    number(
        "memory-swappiness",
        "Tune container memory swappiness (0 to 100)",
    ),
    Flag {
        value: "mount",
        ..list("mount", "Attach a filesystem mount to the container")
    },
    text("name", "string", "Assign a name to the container"),
    Flag {
        value: "network",
        ..list("network", "Connect a container to a network")
    },
    Flag {
        help: "",
        ..list("net", "")
    },
    list(
        "network-alias",
        "Add network-scoped alias for the container",
    ),
    switch(
        "no-healthcheck",
        "Disable any container-specified HEALTHCHECK",
    ),
    switch("oom-kill-disable", "Disable OOM Killer"),
    number(
        "oom-score-adj",
        "Tune host's OOM preferences (-1000 to 1000)",
    ),
    text("pid", "string", "PID namespace to use"),
    number(
        "pids-limit",
        "Tune container pids limit (set -1 for unlimited)",
    ),
    text(
        "platform",
        "string",
        "Set platform if server is multi-platform capable",
    ),
    switch("privileged", "Give extended privileges to this container"),
    list("publish", "Publish a container's port(s) to the host").short('p'),
    switch("publish-all", "Publish all exposed ports to random ports").short('P'),
    text(
        "pull",
        "string",
        "Pull image before running (\"always\", \"missing\", \"never\")",
    ),
    switch("quiet", "Suppress the pull output").short('q'),
    switch(
        "read-only",
        "Mount the container's root filesystem as read only",
    ),
    text(
        "restart",
        "string",
        "Restart policy to apply when a container exits (default \"no\")",
    ),
    switch(
        "rm",
        "Automatically remove the container and its associated anonymous volumes when it exits",
    ),
    text("runtime", "string", "Runtime to use for this container"),
    list("security-opt", "Security Options"),
    size("shm-size", "Size of /dev/shm"),
    text("stop-signal", "string", "Signal to stop the container"),
    number("stop-timeout", "Timeout (in seconds) to stop a container"),
    list("storage-opt", "Storage driver options for the container"),
    list("sysctl", "Sysctl options"),
    list("tmpfs", "Mount a tmpfs directory"),
    switch("tty", "Allocate a pseudo-TTY").short('t'),
    list("ulimit", "Ulimit options"),
    text(
        "user",
        "string",
        "Username or UID (format: <name|uid>[:<group|gid>])",
    )
    .short('u'),
    text("userns", "string", "User namespace to use"),
    text("uts", "string", "UTS namespace to use"),
    list("volume", "Bind mount a volume").short('v'),
    text(
        "volume-driver",
        "string",
        "Optional volume driver for the container",
    ),
    list(
        "volumes-from",
        "Mount volumes from the specified container(s)",
    ),
    text(
        "workdir",
        "string",
        "Working directory inside the container",
    )
    .short('w'),
];

const RUN_ONLY: [Flag; 3] = [
    switch(
        "detach",
        "Run container in background and print container ID",
    )
    .short('d'),
    text(
        "detach-keys",
        "string",
        "Override the key sequence for detaching a container",
    ),
    Flag {
        name: "sig-proxy",
        short: None,
        kind: Kind::Switch,
        value: "",
        help: "Proxy received signals to the process (default true)",
    },
];

/// Flags of `run`: those of `create` and three more.
pub const RUN: &[Flag] = &{
    let mut flags = [RUN_ONLY[0]; CREATE.len() + RUN_ONLY.len()];
    let mut index = 0;
    while index < CREATE.len() {
        flags[index] = CREATE[index];
        index += 1;
    }
    let mut index = 0;
    while index < RUN_ONLY.len() {
        flags[CREATE.len() + index] = RUN_ONLY[index];
        index += 1;
    }
    flags
};
