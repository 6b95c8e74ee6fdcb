//! What the names of a network mean, and which of them a container sees. Pure; the rules are dockerd's.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

/// A container on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Every one leads to its addresses; the first is what these lead back to.
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

/// The names of one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The network's own name: `web.NETWORK` is `web` on this one.
    network: String,
    /// By container.
    members: HashMap<String, Member>,
    /// By name in lower case: container and address.
    names: HashMap<String, Vec<(String, IpAddr)>>,
    addresses: HashMap<IpAddr, String>,
}

impl Table {
    pub fn new(network: &str) -> Self {
        Self {
            network: network.to_owned(),
            ..Self::default()
        }
    }

    /// A container is on the network, or has other names or addresses now.
    pub fn put(&mut self, container: &str, member: Member) {
        self.remove(container);
        for name in &member.names {
            let known = self.names.entry(name.to_ascii_lowercase()).or_default();
            for address in &member.addresses {
                let entry = (container.to_owned(), *address);
                if !known.contains(&entry) {
                    known.push(entry);
                }
            }
        }
        for (address, name) in member
            .addresses
            .iter()
            .zip(member.names.first().into_iter().cycle())
        {
            self.addresses.insert(*address, name.clone());
        }
        self.members.insert(container.to_owned(), member);
    }

    /// The container is not on the network any more.
    pub fn remove(&mut self, container: &str) {
        let Some(member) = self.members.remove(container) else {
            return;
        };
        for name in member.names {
            let name = name.to_ascii_lowercase();
            if let Some(known) = self.names.get_mut(&name) {
                known.retain(|(owner, _)| owner != container);
                if known.is_empty() {
                    self.names.remove(&name);
                }
            }
        }
        for address in member.addresses {
            self.addresses.remove(&address);
        }
    }
}

/// A server that is asked what no table knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub address: SocketAddr,
    /// Asked from the host's network (it comes from the host's settings), not from the container's.
    pub from_host: bool,
}

/// What one container sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Ids of its networks, in the order in which they are asked.
    pub networks: Vec<Membership>,
    /// At most three are asked, as in dockerd.
    pub upstreams: Vec<Upstream>,
    /// All its networks are internal: servers of the host are not asked.
    pub internal: bool,
    /// The user set `ndots`: a name without a dot is for the search list, not for upstream.
    pub ndots: bool,
}

/// A network of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    pub network: String,
    /// `--link target:alias` on this network: alias (lower case) to target.
    pub links: BTreeMap<String, String>,
}

pub(super) type Tables = HashMap<String, Table>;

/// The addresses of a name (lower case, without last dot) that are `wanted`. None: no network of the container knows the name;
/// empty: it is known but has no such address.
pub(super) fn resolve(
    scope: &Scope,
    tables: &Tables,
    name: &str,
    wanted: impl Fn(&IpAddr) -> bool,
) -> Option<Vec<IpAddr>> {
    // Both `name` and `name.network`, and both may have dots in them.
    let splits = name
        .match_indices('.')
        .map(|(at, _)| (&name[..at], Some(&name[at + 1..])));
    let whole = std::iter::once((name, None));
    for (host, network) in whole.chain(splits.collect::<Vec<_>>().into_iter().rev()) {
        let mut known = false;
        // Links come before names.
        for by_link in [true, false] {
            for member in &scope.networks {
                let Some(table) = tables.get(&member.network) else {
                    continue;
                };
                if network.is_some_and(|network| !table.network.eq_ignore_ascii_case(network)) {
                    continue;
                }
                let host = match (by_link, member.links.get(host)) {
                    (true, Some(target)) => target.as_str(),
                    (false, None) => host,
                    _ => continue,
                };
                let Some(addresses) = table.names.get(host) else {
                    continue;
                };
                known = true;
                let addresses = addresses.iter().map(|(_, address)| *address);
                let found: Vec<IpAddr> = addresses.filter(&wanted).collect();
                if !found.is_empty() {
                    return Some(found);
                }
            }
        }
        if known {
            return Some(Vec::new());
        }
    }
    None
}

/// The name of an address, with its network: `web.net1`.
pub(super) fn name_of(scope: &Scope, tables: &Tables, address: IpAddr) -> Option<String> {
    let tables = scope.networks.iter().filter_map(|m| tables.get(&m.network));
    tables
        .filter_map(|table| {
            Some(format!(
                "{}.{}",
                table.addresses.get(&address)?,
                table.network
            ))
        })
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn member(names: &[&str], addresses: &[&str]) -> Member {
        Member {
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            addresses: addresses.iter().map(|a| ip(a)).collect(),
        }
    }

    fn world() -> Tables {
        let mut one = Table::new("Net1");
        one.put("a", member(&["web1", "Web", "c1"], &["10.0.1.2"]));
        one.put("b", member(&["web2", "web"], &["10.0.1.3", "fd00::3"]));
        let mut two = Table::new("net.two");
        two.put("c", member(&["db"], &["10.0.2.2"]));
        two.put("d", member(&["only6", "web1"], &["fd02::2"]));
        let mut other = Table::new("other");
        other.put("e", member(&["secret"], &["10.0.3.2"]));
        [("1", one), ("2", two), ("3", other)]
            .into_iter()
            .map(|(id, table)| (id.to_owned(), table))
            .collect()
    }

    #[test]
    fn members_come_and_go() {
        let mut table = world().remove("1").unwrap();
        let before = table.clone();
        table.put("b", member(&["renamed", "web", "WEB"], &["10.0.1.4"]));
        assert_eq!(
            table.names["web"],
            [("a".into(), ip("10.0.1.2")), ("b".into(), ip("10.0.1.4"))]
        );
        assert!(
            !table.names.contains_key("web2") && !table.addresses.contains_key(&ip("10.0.1.3"))
        );
        table.put("b", member(&["web2", "web"], &["10.0.1.3", "fd00::3"]));
        assert_eq!(table, before);
        table.remove("a");
        table.remove("b");
        table.remove("b");
        assert_eq!(table, Table::new("Net1"));
    }

    fn scope() -> Scope {
        let member = |id: &str, links: &[(&str, &str)]| Membership {
            network: id.to_owned(),
            links: links
                .iter()
                .map(|(a, t)| ((*a).into(), (*t).into()))
                .collect(),
        };
        Scope {
            networks: vec![
                member("1", &[("cache", "web2"), ("db", "web1")]),
                member("2", &[]),
            ],
            ..Scope::default()
        }
    }

    fn four(name: &str) -> Option<Vec<IpAddr>> {
        resolve(&scope(), &world(), name, IpAddr::is_ipv4)
    }

    #[test]
    fn names_aliases_and_networks() {
        assert_eq!(four("web"), Some(vec![ip("10.0.1.2"), ip("10.0.1.3")]));
        assert_eq!(four("c1"), Some(vec![ip("10.0.1.2")]));
        assert_eq!(four("web1.net1"), Some(vec![ip("10.0.1.2")]));
        assert_eq!(four("db.net.two"), Some(vec![ip("10.0.2.2")]));
        assert_eq!(four("web.net.two"), None);
        assert_eq!(four("secret"), None);
        assert_eq!(four("secret.other"), None);
        assert_eq!(four("nosuch"), None);
    }

    #[test]
    fn links_come_first_and_hide() {
        assert_eq!(four("cache"), Some(vec![ip("10.0.1.3")]));
        assert_eq!(four("db"), Some(vec![ip("10.0.1.2")]));
        assert_eq!(four("cache.net1"), Some(vec![ip("10.0.1.3")]));
    }

    #[test]
    fn the_other_family_is_no_miss() {
        assert_eq!(four("only6"), Some(Vec::new()));
        let six = resolve(&scope(), &world(), "web1", IpAddr::is_ipv6);
        assert_eq!(six, Some(vec![ip("fd02::2")]));
    }

    #[test]
    fn back_to_names() {
        let name = |address| name_of(&scope(), &world(), ip(address));
        assert_eq!(name("10.0.1.3").as_deref(), Some("web2.Net1"));
        assert_eq!(name("fd02::2").as_deref(), Some("only6.net.two"));
        assert_eq!(name("10.0.3.2"), None);
    }
}
