//! Passes through other programs' firewalls.
//!
//! In nf_tables a packet must be accepted by every table; where another one drops what is forwarded by default (dockerd
//! and ufw set iptables' FORWARD policy to DROP), our own table cannot help it. So for each of our bridges two rules are
//! put at the head of that chain, as an administrator would: `-i <bridge> -j ACCEPT` and `-o <bridge> -j ACCEPT`. Our own
//! table still decides what may go into the bridge. This reaches iptables-nft; the tables of iptables-legacy cannot be
//! changed this way, and the operator is told.

use longshore_sys::netlink::{self, Batch, flags};

use super::{
    NFTA_TABLE, Nft, SUBSYSTEM, begin,
    expr::{Expr, Meta, Rule, Verdict},
    header, message,
};

/// iptables' table of packet filters, and its chain for what passes through.
pub const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";
/// The families of iptables and ip6tables.
pub const IPV4: u8 = 2;
pub const IPV6: u8 = 10;

const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;

type Result<T> = std::result::Result<T, netlink::Error>;

/// A rule of ours in the other's chain.
struct Found {
    handle: Vec<u8>,
    bridge: String,
}

impl Nft {
    /// Sees to it that the bridges have passes where they need them, and no other bridge of ours has one. True: something
    /// had to be changed.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn ensure_passes(&mut self, family: u8, bridges: &[&str]) -> Result<bool> {
        let found = self.passes(family);
        let wanted: &[&str] = if self.drops_by_default(family) {
            bridges
        } else {
            &[]
        };
        let complete = |bridge: &str| found.iter().filter(|f| f.bridge == bridge).count() == 2;
        let mut batch = begin();
        for stale in &found {
            let bridge = stale.bridge.as_str();
            // Passes that are not needed any more hurt nobody: they go with the bridge.
            if !bridges.contains(&bridge) || wanted.contains(&bridge) && !complete(bridge) {
                batch
                    .message(SUBSYSTEM << 8 | message::DEL_RULE, 0, &header(family, 0))
                    .string(NFTA_TABLE, TABLE)
                    .string(NFTA_RULE_CHAIN, CHAIN)
                    .put(NFTA_RULE_HANDLE, &stale.handle);
            }
        }
        for bridge in wanted.iter().filter(|b| !complete(b)) {
            for which in [Meta::IifName, Meta::OifName] {
                self.pass(&mut batch, family, which, bridge);
            }
        }
        if batch.len() == 1 {
            return Ok(false);
        }
        self.commit(batch)?;
        Ok(true)
    }

    fn drops_by_default(&mut self, family: u8) -> bool {
        const NFTA_CHAIN_NAME: u16 = 3;
        const NFTA_CHAIN_POLICY: u16 = 5;
        const NF_DROP: [u8; 4] = [0; 4];
        let mut batch = Batch::new();
        batch
            .message(SUBSYSTEM << 8 | message::GET_CHAIN, 0, &header(family, 0))
            .string(NFTA_TABLE, TABLE)
            .string(NFTA_CHAIN_NAME, CHAIN);
        let mut drops = false;
        let answer = self.socket.query(&mut batch, |m| {
            drops = m.attributes(4).find(NFTA_CHAIN_POLICY) == Some(&NF_DROP[..]);
        });
        answer.is_ok() && drops
    }

    fn passes(&mut self, family: u8) -> Vec<Found> {
        let mut batch = Batch::new();
        batch
            .message(
                SUBSYSTEM << 8 | message::GET_RULE,
                flags::DUMP,
                &header(family, 0),
            )
            .string(NFTA_TABLE, TABLE)
            .string(NFTA_RULE_CHAIN, CHAIN);
        let prefix = self.comment("");
        let mut found = Vec::new();
        // Without such a table there are none.
        let _ = self.socket.dump(&mut batch, |m| {
            let of = |number| m.attributes(4).find(number);
            let comment = of(NFTA_RULE_USERDATA).and_then(comment_of);
            let in_place = of(NFTA_TABLE).map(netlink::text) == Some(TABLE)
                && of(NFTA_RULE_CHAIN).map(netlink::text) == Some(CHAIN);
            if let (true, Some(comment), Some(handle)) = (in_place, comment, of(NFTA_RULE_HANDLE))
                && let Some(bridge) = comment.strip_prefix(&prefix)
            {
                found.push(Found {
                    handle: handle.to_vec(),
                    bridge: bridge.to_owned(),
                });
            }
        });
        found
    }

    fn pass(&self, batch: &mut Batch, family: u8, which: Meta, bridge: &str) {
        const NFTA_LIST_ELEM: u16 = 1;
        // In the form that iptables itself writes, so that `iptables -S` shows it.
        let mut name = bridge.as_bytes().to_vec();
        name.push(0);
        let rule = Rule::new(CHAIN)
            .also(Expr::Meta(which, 1))
            .also(Expr::Cmp {
                not: false,
                from: 1,
                data: name,
            })
            .also(Expr::Counter)
            .verdict(Verdict::Accept);
        let comment = self.comment(bridge);
        let length = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
        let mut userdata = vec![0, length];
        userdata.extend_from_slice(comment.as_bytes());
        userdata.push(0);
        batch
            .message(
                SUBSYSTEM << 8 | message::NEW_RULE,
                flags::CREATE,
                &header(family, 0),
            )
            .string(NFTA_TABLE, TABLE)
            .string(NFTA_RULE_CHAIN, CHAIN)
            .nest(NFTA_RULE_EXPRESSIONS, |list| {
                for expression in &rule.expressions {
                    list.nest(NFTA_LIST_ELEM, |m| expression.write(m));
                }
            })
            .put(NFTA_RULE_USERDATA, &userdata);
    }

    fn comment(&self, bridge: &str) -> String {
        format!("{}: {bridge}", self.table)
    }
}

/// The comment among a rule's user data: (type, length, value) entries, type 0.
fn comment_of(mut userdata: &[u8]) -> Option<&str> {
    loop {
        let (&[kind, length], rest) = userdata.split_first_chunk::<2>()?;
        let value = rest.get(..usize::from(length))?;
        if kind == 0 {
            return Some(netlink::text(value));
        }
        userdata = &rest[usize::from(length)..];
    }
}

/// Whether iptables-legacy filters in this namespace; its tables are out of our reach.
pub fn legacy_filter_in_use() -> bool {
    std::fs::read_to_string("/proc/thread-self/net/ip_tables_names")
        .is_ok_and(|names| names.lines().any(|n| n == TABLE))
}
