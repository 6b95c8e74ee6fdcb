//! nf_tables over raw netlink: rules as data, every change one transaction.

pub mod expr;
pub mod passes;
pub mod rules;

use longshore_sys::netlink::{self, Batch, Message, Protocol as Netlink, Received, Socket, flags};

use self::{
    expr::Rule,
    rules::{Element, Ruleset},
};

const NFNL_BATCH_BEGIN: u16 = 0x10;
const NFNL_BATCH_END: u16 = 0x11;
/// Subsystem number of nf_tables, in the high byte of a message's type.
const SUBSYSTEM: u16 = 10;
/// The family whose tables see IPv4 and IPv6.
const NFPROTO_INET: u8 = 1;

/// Message types (enum nf_tables_msg_types).
pub(crate) mod message {
    pub const NEW_TABLE: u16 = 0;
    pub const DEL_TABLE: u16 = 2;
    pub const NEW_CHAIN: u16 = 3;
    pub const GET_CHAIN: u16 = 4;
    pub const NEW_RULE: u16 = 6;
    pub const GET_RULE: u16 = 7;
    pub const DEL_RULE: u16 = 8;
    pub const NEW_SET: u16 = 9;
    pub const NEW_SET_ELEM: u16 = 12;
    pub const GET_SET_ELEM: u16 = 13;
    pub const DEL_SET_ELEM: u16 = 14;
    pub const NEW_GEN: u16 = 15;
}

/// In every nf_tables message attribute 1 is the table's name.
const NFTA_TABLE: u16 = 1;
/// Elements in one message: the list must stay below 64 KiB.
const ELEMENTS_A_MESSAGE: usize = 400;

/// A connection to nf_tables for one table of ours.
#[derive(Debug)]
pub struct Nft {
    socket: Socket,
    table: String,
}

impl Nft {
    /// # Errors
    /// The errno of socket or bind.
    pub fn open(table: &str) -> std::io::Result<Self> {
        Ok(Self {
            socket: Socket::open(Netlink::Netfilter)?,
            table: table.to_owned(),
        })
    }

    /// Netlink port of our changes, to tell them from those of others.
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Replaces the whole table, or makes it, in one transaction: nobody sees a half or a gap.
    ///
    /// # Errors
    /// What the kernel answered; nothing has changed then.
    pub fn replace(&mut self, ruleset: &Ruleset) -> Result<(), netlink::Error> {
        self.socket.transact(&mut replacement(&self.table, ruleset))
    }

    /// Adds and removes elements in one transaction.
    ///
    /// # Errors
    /// What the kernel answered; nothing has changed then.
    pub fn change(&mut self, remove: &[Element], add: &[Element]) -> Result<(), netlink::Error> {
        let mut batch = begin();
        put_elements(&mut batch, &self.table, message::DEL_SET_ELEM, remove);
        put_elements(&mut batch, &self.table, message::NEW_SET_ELEM, add);
        self.commit(batch)
    }

    /// Removes the table.
    ///
    /// # Errors
    /// What the kernel answered, but for a table that does not exist.
    pub fn remove(&mut self) -> Result<(), netlink::Error> {
        let mut batch = begin();
        table_message(&mut batch, &self.table, message::NEW_TABLE, flags::CREATE);
        table_message(&mut batch, &self.table, message::DEL_TABLE, 0);
        self.commit(batch)
    }

    /// Makes the table and chain that users may fill, beside ours and never written by us otherwise: what is dropped there is
    /// dropped before our rules are asked.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn ensure_hook(&mut self) -> Result<(), netlink::Error> {
        let table = self.hook_table();
        let mut batch = begin();
        start(&mut batch, message::NEW_TABLE, flags::CREATE).string(NFTA_TABLE, &table);
        rules::hook().write(start(&mut batch, message::NEW_CHAIN, flags::CREATE), &table);
        end(&mut batch);
        self.socket.transact(&mut batch)
    }

    /// Removes the users' table, unless somebody has put something into it.
    pub fn remove_hook(&mut self) {
        let table = self.hook_table();
        let mut rules = 0;
        let mut batch = Batch::new();
        start(&mut batch, message::GET_RULE, flags::DUMP).string(NFTA_TABLE, &table);
        let listed = self
            .socket
            .dump(&mut batch, |m| rules += usize::from(table_of(m) == table));
        if listed.is_ok() && rules == 0 {
            let mut batch = begin();
            start(&mut batch, message::DEL_TABLE, 0).string(NFTA_TABLE, &table);
            // It may hold sets of the user's, or be gone already.
            end(&mut batch);
            let _ = self.socket.transact(&mut batch);
        }
    }

    fn hook_table(&self) -> String {
        format!("{}-user", self.table)
    }

    /// Whether our table has this chain.
    pub fn has_chain(&mut self, chain: &str) -> bool {
        let mut batch = Batch::new();
        start(&mut batch, message::GET_CHAIN, 0)
            .string(NFTA_TABLE, &self.table)
            .string(3, chain);
        self.socket.query(&mut batch, |_| {}).is_ok()
    }

    /// Whether the kernel has what `ruleset` says: compares the number of rules and of each set's elements.
    pub fn matches(&mut self, ruleset: &Ruleset) -> bool {
        let mut rules = 0;
        let mut batch = Batch::new();
        start(&mut batch, message::GET_RULE, flags::DUMP).string(NFTA_TABLE, &self.table);
        let listed = self.socket.dump(&mut batch, |m| {
            // Kernels may list other tables as well.
            rules += usize::from(table_of(m) == self.table);
        });
        if listed.is_err() || rules != ruleset.rules.len() {
            return false;
        }
        ruleset.sets.iter().all(|set| {
            let wanted = ruleset
                .elements
                .iter()
                .filter(|e| e.set == set.name)
                .count();
            self.count_elements(set.name) == Some(wanted)
        })
    }

    fn count_elements(&mut self, set: &str) -> Option<usize> {
        const NFTA_SET_ELEM_LIST_SET: u16 = 2;
        const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
        let mut batch = Batch::new();
        start(&mut batch, message::GET_SET_ELEM, flags::DUMP)
            .string(NFTA_TABLE, &self.table)
            .string(NFTA_SET_ELEM_LIST_SET, set);
        let mut count = 0;
        self.socket
            .dump(&mut batch, |m| {
                if let Some(list) = m.attributes(4).find(NFTA_SET_ELEM_LIST_ELEMENTS) {
                    count += netlink::Attributes::nested(list).count();
                }
            })
            .ok()
            .map(|()| count)
    }

    fn commit(&mut self, mut batch: Batch) -> Result<(), netlink::Error> {
        end(&mut batch);
        self.socket.transact(&mut batch)
    }
}

/// Carries out a transaction in the calling thread's network namespace.
///
/// # Errors
/// What the kernel answered; nothing has changed then.
pub fn install(mut transaction: Batch) -> std::io::Result<()> {
    let mut socket = Socket::open(Netlink::Netfilter)?;
    Ok(socket.transact(&mut transaction)?)
}

/// The transaction that replaces a whole table, or makes it.
pub fn replacement(table: &str, ruleset: &Ruleset) -> Batch {
    let mut batch = begin();
    // Deleting what is not there would fail, hence the first line.
    table_message(&mut batch, table, message::NEW_TABLE, flags::CREATE);
    table_message(&mut batch, table, message::DEL_TABLE, 0);
    fill(batch, table, ruleset)
}

/// The transaction that makes a table where there is none. Unlike [`replacement`] it leaves nothing for the kernel to destroy,
/// for which the closing of a netfilter socket would wait: a grace period of RCU, ten milliseconds.
pub fn creation(table: &str, ruleset: &Ruleset) -> Batch {
    fill(begin(), table, ruleset)
}

/// The bytes of all rules of a table in the calling thread's network namespace; empty without the table.
///
/// # Errors
/// No netfilter socket.
pub fn rules_of(table: &str) -> std::io::Result<Vec<Vec<u8>>> {
    let mut rules = Vec::new();
    let mut batch = Batch::new();
    start(&mut batch, message::GET_RULE, flags::DUMP).string(NFTA_TABLE, table);
    let listed = Socket::open(Netlink::Netfilter)?.dump(&mut batch, |m| {
        if table_of(m) == table {
            rules.push(m.payload.to_vec());
        }
    });
    Ok(listed.map(|()| rules).unwrap_or_default())
}

fn fill(mut batch: Batch, table: &str, ruleset: &Ruleset) -> Batch {
    table_message(&mut batch, table, message::NEW_TABLE, flags::CREATE);
    for set in &ruleset.sets {
        set.write(start(&mut batch, message::NEW_SET, flags::CREATE), table);
    }
    for chain in &ruleset.chains {
        chain.write(start(&mut batch, message::NEW_CHAIN, flags::CREATE), table);
    }
    for rule in &ruleset.rules {
        append_rule(&mut batch, table, rule);
    }
    put_elements(&mut batch, table, message::NEW_SET_ELEM, &ruleset.elements);
    end(&mut batch);
    batch
}

fn start(batch: &mut Batch, kind: u16, flags: u16) -> Message<'_> {
    batch.message(SUBSYSTEM << 8 | kind, flags, &header(NFPROTO_INET, 0))
}

fn table_message(batch: &mut Batch, table: &str, kind: u16, flags: u16) {
    start(batch, kind, flags).string(NFTA_TABLE, table);
}

fn append_rule(batch: &mut Batch, table: &str, rule: &Rule) {
    const NFTA_RULE_CHAIN: u16 = 2;
    const NFTA_RULE_EXPRESSIONS: u16 = 4;
    const NFTA_LIST_ELEM: u16 = 1;
    start(batch, message::NEW_RULE, flags::CREATE | flags::APPEND)
        .string(NFTA_TABLE, table)
        .string(NFTA_RULE_CHAIN, rule.chain)
        .nest(NFTA_RULE_EXPRESSIONS, |list| {
            for expression in &rule.expressions {
                list.nest(NFTA_LIST_ELEM, |m| expression.write(m));
            }
        });
}

fn put_elements(batch: &mut Batch, table: &str, kind: u16, elements: &[Element]) {
    const NFTA_SET_ELEM_LIST_SET: u16 = 2;
    const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
    const NFTA_LIST_ELEM: u16 = 1;
    let flags = if kind == message::NEW_SET_ELEM {
        flags::CREATE
    } else {
        0
    };
    for group in elements.chunk_by(|a, b| a.set == b.set) {
        for chunk in group.chunks(ELEMENTS_A_MESSAGE) {
            start(batch, kind, flags)
                .string(NFTA_TABLE, table)
                .string(NFTA_SET_ELEM_LIST_SET, chunk[0].set)
                .nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                    for element in chunk {
                        list.nest(NFTA_LIST_ELEM, |m| element.write(m));
                    }
                });
        }
    }
}

fn end(batch: &mut Batch) {
    batch.message(NFNL_BATCH_END, 0, &header(0, SUBSYSTEM));
}

fn begin() -> Batch {
    let mut batch = Batch::new();
    batch.message(NFNL_BATCH_BEGIN, 0, &header(0, SUBSYSTEM));
    batch
}

/// `struct nfgenmsg`
fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// What a notification of the nf_tables group is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Our table was touched, by the socket with this port.
    Ours(u32),
    /// iptables' filter table was touched: see [`passes`].
    Filter(u32),
    /// Something that is of no interest.
    Other,
}

/// Reads a notification with our `table` in mind.
pub fn notice(received: &Received<'_>, table: &str) -> Notice {
    let (subsystem, kind) = (received.kind >> 8, received.kind & 0xff);
    if subsystem != SUBSYSTEM || kind == message::NEW_GEN {
        return Notice::Other;
    }
    match received.payload.first() {
        Some(&NFPROTO_INET) if table_of(received) == table => Notice::Ours(received.port),
        Some(&(passes::IPV4 | passes::IPV6)) if table_of(received) == passes::TABLE => {
            Notice::Filter(received.port)
        }
        _ => Notice::Other,
    }
}

fn table_of<'a>(received: &Received<'a>) -> &'a str {
    received
        .attributes(4)
        .find(NFTA_TABLE)
        .map_or("", netlink::text)
}
