//! Every option of dockerd, as flag and as key of daemon.json, and what longshore does with it.

use crate::flags::{Flag, Kind, list, number, switch, text};

/// The JSON that an option's key takes in daemon.json.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Switch,
    Text,
    Number,
    /// Text or number: `"64M"`, `67108864`.
    Bytes,
    List,
    /// Name to text.
    Map,
    /// Passed over without a look inside.
    Any,
}

/// What setting the option does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Full,
    /// Accepted; needs nothing done.
    Nothing,
    /// Not there yet: a warning says so and the daemon goes on.
    Missing,
    /// Not there yet, and to go on without it would leave a hole: the daemon refuses to start.
    Refused,
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// None for a key that only daemon.json has.
    pub flag: Option<Flag>,
    /// Key in daemon.json; empty for a flag that only the command line has.
    pub key: &'static str,
    pub shape: Shape,
    pub support: Support,
}

/// An option that works, its key named like the flag.
const fn works(flag: Flag) -> Opt {
    Opt {
        key: flag.name,
        shape: match flag.kind {
            Kind::Switch => Shape::Switch,
            Kind::Text => Shape::Text,
            Kind::Number => Shape::Number,
            Kind::List => Shape::List,
        },
        flag: Some(flag),
        support: Support::Full,
    }
}

/// A key that only daemon.json has and that is not there yet.
const fn file_only(key: &'static str) -> Opt {
    Opt {
        flag: None,
        key,
        shape: Shape::Any,
        support: Support::Missing,
    }
}

impl Opt {
    const fn key(self, key: &'static str) -> Opt {
        Opt { key, ..self }
    }
    const fn shape(self, shape: Shape) -> Opt {
        Opt { shape, ..self }
    }
    const fn flag_only(self) -> Opt {
        Opt { key: "", ..self }
    }
    const fn support(self, support: Support) -> Opt {
        Opt { support, ..self }
    }
    const fn missing(self) -> Opt {
        self.support(Support::Missing)
    }
    const fn refused(self) -> Opt {
        self.support(Support::Refused)
    }
    const fn nothing(self) -> Opt {
        self.support(Support::Nothing)
    }
    /// Name in messages: the key, or the flag where there is no key.
    pub fn name(&self) -> &'static str {
        match self.flag {
            Some(flag) if self.key.is_empty() => flag.name,
            _ => self.key,
        }
    }
}

/// Flags whose help is empty are accepted but not shown.
const HIDDEN: &str = "";

/// The options, in the order of the help.
pub const OPTIONS: &[Opt] = &[
    works(text("bip", "string", "Address and prefix of the default bridge, such as 172.17.0.1/16")),
    works(text("bridge", "string", "Link of the default bridge network, made when it is not there (default \"docker0\"; \"none\" for no bridge)").short('b')),
    works(text("cgroup-parent", "string", "Parent cgroup of all containers")),
    works(text("config-file", "string", "Configuration file (default \"/etc/docker/daemon.json\")")).flag_only(),
    works(text("data-root", "string", "Folder of what lasts (default \"/var/lib/longshore\")")),
    works(switch("debug", "Log at level debug").short('D')),
    works(text("default-cgroupns-mode", "string", "Cgroup namespace of containers that ask for none (\"host\" | \"private\")")),
    works(text("default-shm-size", "bytes", "Size of /dev/shm of containers that ask for none (default 64MiB)")).shape(Shape::Bytes),
    works(list("default-ulimit", "Limits of containers that ask for none, such as nofile=1024:4096")).key("default-ulimits").shape(Shape::Any),
    works(list("dns", "DNS server of containers that ask for none")),
    works(list("dns-opt", "DNS options")).key("dns-opts"),
    works(list("dns-search", "DNS search domains")),
    works(text("exec-root", "string", "Folder of what ends with a reboot (default \"/run/longshore\")")),
    works(text("group", "string", "Group that may use the unix socket (default \"docker\")").short('G')),
    works(list("host", "Where to listen: unix://PATH, tcp://ADDRESS:PORT, fd:// (default unix:///var/run/docker.sock)").short('H')).key("hosts"),
    works(switch("icc", "Containers on the default bridge may talk to each other (default true)")),
    works(switch("init", "Run an init in containers that do not say")),
    works(list("insecure-registry", "Registry to reach without verified TLS")).key("insecure-registries"),
    works(text("ip", "ip", "Address that published ports bind to (default 0.0.0.0)")),
    works(switch("ip-forward", "Switch IP forwarding on (default true)")),
    works(switch("ip-masq", "Masquerade what containers send out (default true)")),
    works(list("label", "Label of the daemon, key=value")).key("labels"),
    works(text("log-driver", "string", "Log driver of containers that ask for none (default \"json-file\")")),
    works(text("log-level", "string", "debug, info, warn, error or fatal (default \"info\")").short('l')),
    works(list("log-opt", "Log options of containers that ask for none, such as max-size=10m")).key("log-opts").shape(Shape::Map),
    works(number("mtu", "MTU of the default bridge network (default 1500)")),
    works(switch("no-new-privileges", "Set no-new-privileges for all new containers")),
    works(text("pidfile", "string", "File with the daemon's process id (default \"<exec-root>/longshore.pid\")").short('p')),
    works(list("registry-mirror", "Preferred registry mirror")).key("registry-mirrors"),
    works(number("shutdown-timeout", "Seconds that open streams get at shutdown (default 15)")),
    works(text("storage-driver", "string", "overlay2, the only one").short('s')),
    works(switch("validate", "Check the configuration and end")).flag_only(),
    works(switch("version", "Print the version and end").short('v')).flag_only(),
    // Always so, or nothing to do.
    works(switch("live-restore", HIDDEN)).nothing(),
    works(switch("userland-proxy", HIDDEN)).nothing(),
    works(text("userland-proxy-path", "string", HIDDEN)).nothing(),
    works(text("init-path", "string", HIDDEN)).nothing(),
    works(text("containerd", "string", HIDDEN)).nothing(),
    works(text("containerd-namespace", "string", HIDDEN)).nothing(),
    works(text("containerd-plugins-namespace", "string", HIDDEN)).nothing(),
    works(switch("raw-logs", HIDDEN)).nothing(),
    works(switch("cri-containerd", HIDDEN)).nothing(),
    works(list("allow-nondistributable-artifacts", HIDDEN)).nothing(),
    works(switch("ip6tables", HIDDEN)).nothing(),
    // Who relies on these would be less safe than they think.
    works(list("authorization-plugin", HIDDEN)).key("authorization-plugins").refused(),
    works(switch("rootless", HIDDEN)).flag_only().refused(),
    works(text("seccomp-profile", "string", HIDDEN)).refused(),
    works(switch("selinux-enabled", HIDDEN)).refused(),
    works(switch("tls", HIDDEN)).refused(),
    works(switch("tlsverify", HIDDEN)).refused(),
    works(text("userns-remap", "string", HIDDEN)).refused(),
    // Not there yet.
    works(list("add-runtime", HIDDEN)).key("runtimes").shape(Shape::Any).missing(),
    works(text("api-cors-header", "string", HIDDEN)).missing(),
    works(text("bridge-accept-fwmark", "string", HIDDEN)).missing(),
    works(text("bip6", "string", HIDDEN)).missing(),
    works(list("cdi-spec-dir", HIDDEN)).key("cdi-spec-dirs").missing(),
    works(number("cpu-rt-period", HIDDEN)).missing(),
    works(number("cpu-rt-runtime", HIDDEN)).missing(),
    works(list("default-address-pool", "Addresses for networks, such as base=10.0.0.0/8,size=24")).key("default-address-pools").shape(Shape::Any),
    works(text("default-gateway", "ip", HIDDEN)).missing(),
    works(text("default-gateway-v6", "ip", HIDDEN)).missing(),
    works(text("default-ipc-mode", "string", HIDDEN)).missing(),
    works(list("default-network-opt", HIDDEN)).key("default-network-opts").shape(Shape::Any).missing(),
    works(text("default-runtime", "string", HIDDEN)).missing(),
    works(list("exec-opt", HIDDEN)).key("exec-opts").missing(),
    works(switch("experimental", HIDDEN)).missing(),
    works(list("feature", HIDDEN)).key("features").shape(Shape::Any).missing(),
    works(text("firewall-backend", "string", HIDDEN)).missing(),
    works(text("fixed-cidr", "string", HIDDEN)).missing(),
    works(text("fixed-cidr-v6", "string", HIDDEN)).missing(),
    works(list("host-gateway-ip", HIDDEN)).key("host-gateway-ips").missing(),
    works(text("http-proxy", "string", HIDDEN)).key("proxies").shape(Shape::Any),
    works(text("https-proxy", "string", HIDDEN)).flag_only(),
    works(text("no-proxy", "string", HIDDEN)).flag_only(),
    works(switch("ip-forward-no-drop", HIDDEN)).missing(),
    works(switch("iptables", HIDDEN)).missing(),
    works(switch("ipv6", HIDDEN)).missing(),
    works(text("log-format", "string", HIDDEN)).missing(),
    works(number("max-concurrent-downloads", HIDDEN)),
    works(number("max-concurrent-uploads", HIDDEN)),
    works(number("max-download-attempts", HIDDEN)),
    works(text("metrics-addr", "string", HIDDEN)).missing(),
    works(number("network-control-plane-mtu", HIDDEN)).missing(),
    works(list("node-generic-resource", HIDDEN)).key("node-generic-resources").missing(),
    works(number("oom-score-adjust", HIDDEN)).missing(),
    works(list("storage-opt", HIDDEN)).key("storage-opts").missing(),
    works(text("swarm-default-advertise-addr", "string", HIDDEN)).missing(),
    works(text("tlscacert", "string", HIDDEN)).missing(),
    works(text("tlscert", "string", HIDDEN)).missing(),
    works(text("tlskey", "string", HIDDEN)).missing(),
    works(switch("allow-direct-routing", HIDDEN)).missing(),
    file_only("builder"),
    file_only("debug-addr"),
    file_only("min-api-version"),
    file_only("image-gc").support(Support::Full),
];

/// The flags of `longshore daemon`.
pub fn flags() -> Vec<Flag> {
    OPTIONS.iter().filter_map(|option| option.flag).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_letters_and_keys_are_unique() {
        let (mut names, mut letters, mut keys) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for option in OPTIONS {
            if let Some(flag) = option.flag {
                assert!(names.insert(flag.name), "{} twice", flag.name);
                assert!(flag.short.is_none_or(|letter| letters.insert(letter)));
            }
            assert!(option.key.is_empty() || keys.insert(option.key));
        }
    }
}
