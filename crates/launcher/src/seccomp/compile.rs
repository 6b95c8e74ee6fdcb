//! From a policy to a classic BPF program: a balanced tree over ranges of numbers for each architecture.
//!
//! At install the kernel runs the program once for every system call number, so depth counts: a tree takes a sixth of a list's time.
//! The program is put together from its end backwards, because jumps only lead forwards: what is jumped to has its place already.

use std::{collections::HashMap, rc::Rc};

use super::{Action, Arch, ArchPolicy, Condition, KILL_PROCESS, Operator, Policy, Verdict};

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub code: u16,
    pub yes: u8,
    pub no: u8,
    pub k: u32,
}

pub(super) const LOAD: u16 = 0x20;
pub(super) const AND: u16 = 0x54;
pub(super) const JUMP: u16 = 0x05;
pub(super) const IF_EQUAL: u16 = 0x15;
pub(super) const IF_GREATER: u16 = 0x25;
pub(super) const IF_GREATER_OR_EQUAL: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;

// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

pub(super) const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
pub(super) const AUDIT_ARCH_I386: u32 = 0x4000_0003;
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// A decision. Shared parts are shared in the program as long as they are within a jump's reach.
enum Node {
    Return(Action),
    Test {
        /// Offset to load first; `None`: what was loaded before.
        load: Option<u32>,
        mask: Option<u32>,
        code: u16,
        k: u32,
        yes: Rc<Node>,
        no: Rc<Node>,
    },
}

/// Compiles a policy.
pub(super) fn program(policy: &Policy) -> Vec<Instruction> {
    let mut next = Rc::new(Node::Return(KILL_PROCESS));
    for (index, tree) in policy.trees.iter().enumerate().rev() {
        next = Rc::new(Node::Test {
            load: (index == 0).then_some(ARCHITECTURE),
            mask: None,
            code: IF_EQUAL,
            k: match tree.arch {
                Arch::X86_64 => AUDIT_ARCH_X86_64,
                Arch::I386 => AUDIT_ARCH_I386,
            },
            yes: numbers(tree),
            no: next,
        });
    }
    let mut assembler = Assembler::default();
    assembler.place(&next);
    assembler.reversed.reverse();
    assembler.reversed
}

/// The instructions as the kernel takes them.
pub(super) fn assemble(program: &[Instruction]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for instruction in program {
        bytes.extend(instruction.code.to_ne_bytes());
        bytes.extend([instruction.yes, instruction.no]);
        bytes.extend(instruction.k.to_ne_bytes());
    }
    bytes
}

/// Loads the number and decides by it.
fn numbers(policy: &ArchPolicy) -> Rc<Node> {
    let ranges = ranges(policy);
    let tree = split(&ranges);
    let fold = policy.arch == Arch::X86_64 && policy.fold_x32;
    // A test that always goes one way only loads; its first half does the work of folding.
    Rc::new(Node::Test {
        load: Some(NUMBER),
        mask: fold.then_some(!X32_BIT),
        code: IF_GREATER_OR_EQUAL,
        k: 0,
        yes: Rc::clone(&tree),
        no: tree,
    })
}

/// (first number, decision), neighbours with the same decision joined.
fn ranges(policy: &ArchPolicy) -> Vec<(u32, Rc<Node>)> {
    let mut leaves: HashMap<Action, Rc<Node>> = HashMap::new();
    let mut ranges: Vec<(u32, Option<Action>, Rc<Node>)> = Vec::new();
    let mut add = |start: u32, verdict: &Verdict| match verdict {
        Verdict::Plain(action) => {
            if ranges.last().is_none_or(|last| last.1 != Some(*action)) {
                let leaf = leaves
                    .entry(*action)
                    .or_insert_with(|| Rc::new(Node::Return(*action)));
                ranges.push((start, Some(*action), Rc::clone(leaf)));
            }
        }
        Verdict::Rules(rules, otherwise) => ranges.push((start, None, chain(rules, *otherwise))),
    };
    let (newest, newer) = policy.newer.unwrap_or((u32::MAX, policy.default));
    let unlisted = |number: u32| {
        Verdict::Plain(if number > newest {
            newer
        } else {
            policy.default
        })
    };
    let mut next = 0;
    let fill = |from: u32, to: Option<u32>, add: &mut dyn FnMut(u32, &Verdict)| {
        if to.is_some_and(|to| from >= to) {
            return;
        }
        add(from, &unlisted(from));
        if from <= newest && newest != u32::MAX && to.is_none_or(|to| newest + 1 < to) {
            add(newest + 1, &unlisted(newest + 1));
        }
    };
    for (number, verdict) in &policy.calls {
        fill(next, Some(*number), &mut add);
        add(*number, verdict);
        next = number + 1;
    }
    fill(next, None, &mut add);
    ranges
        .into_iter()
        .map(|(start, _, node)| (start, node))
        .collect()
}

fn split(ranges: &[(u32, Rc<Node>)]) -> Rc<Node> {
    if let [(_, only)] = ranges {
        return Rc::clone(only);
    }
    let middle = ranges.len() / 2;
    Rc::new(Node::Test {
        load: None,
        mask: None,
        code: IF_GREATER_OR_EQUAL,
        k: ranges[middle].0,
        yes: split(&ranges[middle..]),
        no: split(&ranges[..middle]),
    })
}

fn chain(rules: &[(Vec<Condition>, Action)], otherwise: Action) -> Rc<Node> {
    let mut next = Rc::new(Node::Return(otherwise));
    for (conditions, action) in rules.iter().rev() {
        let mut node = Rc::new(Node::Return(*action));
        for condition in conditions.iter().rev() {
            node = compare(condition, &node, &next);
        }
        next = node;
    }
    next
}

/// Arguments have 64 bits, the machine 32: the high half first.
fn compare(condition: &Condition, yes: &Rc<Node>, no: &Rc<Node>) -> Rc<Node> {
    let low = ARGUMENTS + 8 * condition.argument;
    let high = low + 4;
    let (value_low, value_high) = (condition.value as u32, (condition.value >> 32) as u32);
    let test = |load, mask, code, k, yes: &Rc<Node>, no: &Rc<Node>| {
        Rc::new(Node::Test {
            load,
            mask,
            code,
            k,
            yes: Rc::clone(yes),
            no: Rc::clone(no),
        })
    };
    let ordered = |code, yes: &Rc<Node>, no: &Rc<Node>| {
        let low_half = test(Some(low), None, code, value_low, yes, no);
        let same = test(None, None, IF_EQUAL, value_high, &low_half, no);
        test(Some(high), None, IF_GREATER, value_high, yes, &same)
    };
    match condition.operator {
        Operator::Equal => {
            let low_half = test(Some(low), None, IF_EQUAL, value_low, yes, no);
            test(Some(high), None, IF_EQUAL, value_high, &low_half, no)
        }
        Operator::NotEqual => {
            let low_half = test(Some(low), None, IF_EQUAL, value_low, no, yes);
            test(Some(high), None, IF_EQUAL, value_high, &low_half, yes)
        }
        Operator::Masked(mask) => {
            let low_half = test(Some(low), Some(mask as u32), IF_EQUAL, value_low, yes, no);
            let mask_high = (mask >> 32) as u32;
            if mask_high == 0 && value_high == 0 {
                return low_half;
            }
            test(
                Some(high),
                Some(mask_high),
                IF_EQUAL,
                value_high,
                &low_half,
                no,
            )
        }
        Operator::Greater => ordered(IF_GREATER, yes, no),
        Operator::GreaterOrEqual => ordered(IF_GREATER_OR_EQUAL, yes, no),
        Operator::Less => ordered(IF_GREATER_OR_EQUAL, no, yes),
        Operator::LessOrEqual => ordered(IF_GREATER, no, yes),
    }
}

/// Builds the program from its end: positions count from there.
#[derive(Default)]
struct Assembler {
    reversed: Vec<Instruction>,
    returns: HashMap<Action, usize>,
    tests: HashMap<*const Node, usize>,
}

impl Assembler {
    /// Makes sure that the node's code is somewhere and returns where it begins.
    fn place(&mut self, node: &Rc<Node>) -> usize {
        match &**node {
            Node::Return(action) => self.place_return(*action),
            Node::Test { .. } => self.place_test(node),
        }
    }

    fn push(&mut self, code: u16, yes: u8, no: u8, k: u32) -> usize {
        self.reversed.push(Instruction { code, yes, no, k });
        self.reversed.len()
    }

    fn place_return(&mut self, action: Action) -> usize {
        match self.returns.get(&action) {
            Some(place) if self.reversed.len() - place < 200 => *place,
            _ => {
                let place = self.push(RETURN, 0, 0, action);
                self.returns.insert(action, place);
                place
            }
        }
    }

    fn place_test(&mut self, node: &Rc<Node>) -> usize {
        if let Some(place) = self.tests.get(&Rc::as_ptr(node)) {
            return *place;
        }
        let Node::Test {
            load,
            mask,
            code,
            k,
            yes,
            no,
        } = &**node
        else {
            return self.place(node);
        };
        let yes = self.place(yes);
        let no = self.place(no);
        // Two jumps at most come between here and the test.
        let no = self.within_reach(no);
        let yes = self.within_reach(yes);
        let here = self.reversed.len();
        let place = if (*code, *k) == (IF_GREATER_OR_EQUAL, 0) && yes == no {
            // Always true: fall through, or jump there.
            if yes == here {
                here
            } else {
                self.push(JUMP, 0, 0, (here - yes) as u32)
            }
        } else {
            self.push(*code, (here - yes) as u8, (here - no) as u8, *k)
        };
        let mut place = place;
        if let Some(mask) = mask {
            place = self.push(AND, 0, 0, *mask);
        }
        if let Some(load) = load {
            place = self.push(LOAD, 0, 0, *load);
        }
        self.tests.insert(Rc::as_ptr(node), place);
        place
    }

    /// A conditional jump reaches 255 instructions; what is farther gets an unconditional one in between.
    fn within_reach(&mut self, place: usize) -> usize {
        let distance = self.reversed.len() - place;
        if distance < 250 {
            place
        } else {
            self.push(JUMP, 0, 0, distance as u32)
        }
    }
}
