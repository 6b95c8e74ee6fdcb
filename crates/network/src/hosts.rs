//! `/etc/hosts` and `/etc/hostname` of a container. Pure functions; the texts are those of dockerd.

use std::{fmt::Write, net::IpAddr};

/// What stands in a container's `/etc/hosts` besides the standard lines.
#[derive(Clone, Debug, Default)]
pub struct Hosts<'a> {
    pub hostname: &'a str,
    pub domainname: &'a str,
    /// The container's own addresses; none on networks without.
    pub addresses: &'a [IpAddr],
    /// (name, address) of `--add-host`, in the order given.
    pub extra: &'a [(String, IpAddr)],
    /// (names, address) of `--link`; see [`link_names`].
    pub links: &'a [(String, IpAddr)],
    /// False: the container has no IPv6 at all, not even `::1`.
    pub ipv6: bool,
}

const IPV4_LINES: &str = "127.0.0.1\tlocalhost\n";
const IPV6_LINES: &str = "::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::\tip6-localnet\n\
    ff00::\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// The file of a container with a network namespace of its own.
pub fn hosts(of: &Hosts<'_>) -> String {
    let mut text = IPV4_LINES.to_owned();
    if of.ipv6 {
        text.push_str(IPV6_LINES);
    }
    for (names, address) in of.extra.iter().chain(of.links) {
        line(&mut text, *address, names);
    }
    let names = own_names(of.hostname, of.domainname);
    if !names.is_empty() {
        for address in of.addresses {
            line(&mut text, *address, &names);
        }
    }
    text
}

/// The names of a container's own addresses: its full name, and the part before the first dot.
pub fn own_names(hostname: &str, domainname: &str) -> String {
    let full = full_name(hostname, domainname);
    match full.split_once('.') {
        Some((short, _)) => format!("{full} {short}"),
        None => full,
    }
}

/// Adds a line to a file.
pub fn add(text: &mut String, address: IpAddr, names: &str) {
    if !names.is_empty() {
        line(text, address, names);
    }
}

/// The file without the lines of an address.
pub fn remove(text: &str, address: IpAddr) -> String {
    let start = format!("{address}\t");
    text.split_inclusive('\n')
        .filter(|line| !line.starts_with(&start))
        .collect()
}

/// The file of a container on the host's network: the host's own, unless hosts are added.
pub fn hosts_of_host_network(host_file: &str, extra: &[(String, IpAddr)], ipv6: bool) -> String {
    if extra.is_empty() {
        return host_file.to_owned();
    }
    hosts(&Hosts {
        extra,
        ipv6,
        ..Hosts::default()
    })
}

/// Names of a linked container: the alias, its host name and, where it differs from the alias, its name.
pub fn link_names(alias: &str, hostname: &str, name: &str) -> String {
    if alias == name {
        format!("{alias} {hostname}")
    } else {
        format!("{alias} {hostname} {name}")
    }
}

/// `/etc/hostname`
pub fn hostname(hostname: &str, domainname: &str) -> String {
    full_name(hostname, domainname) + "\n"
}

fn full_name(hostname: &str, domainname: &str) -> String {
    if domainname.is_empty() {
        hostname.to_owned()
    } else {
        format!("{hostname}.{domainname}")
    }
}

fn line(text: &mut String, address: IpAddr, names: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{address}\t{names}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANDARD: &str = "127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\n\
        fe00::\tip6-localnet\n\
        ff00::\tip6-mcastprefix\n\
        ff02::1\tip6-allnodes\n\
        ff02::2\tip6-allrouters\n";

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn as_recorded() {
        let own = [ip("172.17.0.4")];
        let plain = Hosts {
            hostname: "h1",
            addresses: &own,
            ipv6: true,
            ..Hosts::default()
        };
        assert_eq!(hosts(&plain), format!("{STANDARD}172.17.0.4\th1\n"));

        let links = [(link_names("alias", "84f74c0ef74e", "d1"), ip("172.17.0.3"))];
        let linked = Hosts {
            hostname: "f4a3a1db1860",
            links: &links,
            ..plain.clone()
        };
        assert_eq!(
            hosts(&linked),
            format!("{STANDARD}172.17.0.3\talias 84f74c0ef74e d1\n172.17.0.4\tf4a3a1db1860\n")
        );

        let extra = [("foo".to_owned(), ip("1.2.3.4"))];
        let added = Hosts {
            hostname: "7bdf5b282c08",
            extra: &extra,
            ..plain
        };
        assert_eq!(
            hosts(&added),
            format!("{STANDARD}1.2.3.4\tfoo\n172.17.0.4\t7bdf5b282c08\n")
        );
    }

    #[test]
    fn names() {
        assert_eq!(hostname("h1", ""), "h1\n");
        assert_eq!(hostname("h1", "example.org"), "h1.example.org\n");
        assert_eq!(link_names("db", "abc", "db"), "db abc");
        let own = [ip("10.0.0.2")];
        let full = Hosts {
            hostname: "web",
            domainname: "example.org",
            addresses: &own,
            ..Hosts::default()
        };
        assert_eq!(
            hosts(&full),
            "127.0.0.1\tlocalhost\n10.0.0.2\tweb.example.org web\n"
        );
    }

    #[test]
    fn host_network() {
        let host = "127.0.0.1 localhost\n127.0.1.1 vm\n";
        assert_eq!(hosts_of_host_network(host, &[], true), host);
        let extra = [("foo".to_owned(), ip("1.2.3.4"))];
        assert_eq!(
            hosts_of_host_network(host, &extra, true),
            format!("{STANDARD}1.2.3.4\tfoo\n")
        );
    }
}
