//! Interprets compiled filters and compares them with the policy that they were made from.

use super::{
    compile::{
        AND, AUDIT_ARCH_I386, AUDIT_ARCH_X86_64, IF_EQUAL, IF_GREATER, IF_GREATER_OR_EQUAL,
        Instruction, JUMP, LOAD, RETURN, X32_BIT, program,
    },
    policy::{X32_FIRST, X32_ONLY, default_policy, verdict},
    tables::SYSCALLS,
    *,
};
use crate::caps;

/// Runs a filter as the kernel would.
fn run(program: &[Instruction], arch: u32, number: u32, args: [u64; 6]) -> Action {
    let mut data = [0u32; 16];
    data[0] = number;
    data[1] = arch;
    for (at, arg) in args.iter().enumerate() {
        data[4 + at * 2] = *arg as u32;
        data[5 + at * 2] = (arg >> 32) as u32;
    }
    let (mut a, mut at) = (0u32, 0usize);
    loop {
        let Instruction { code, yes, no, k } = program[at];
        at += 1;
        let mut branch = |taken: bool| at += usize::from(if taken { yes } else { no });
        match code {
            LOAD => a = data[k as usize / 4],
            AND => a &= k,
            JUMP => at += k as usize,
            IF_EQUAL => branch(a == k),
            IF_GREATER => branch(a > k),
            IF_GREATER_OR_EQUAL => branch(a >= k),
            RETURN => return k,
            other => panic!("opcode {other:#x}"),
        }
    }
}

fn expected(verdict: &Verdict, args: [u64; 6]) -> Action {
    match verdict {
        Verdict::Plain(action) => *action,
        Verdict::Rules(rules, otherwise) => rules
            .iter()
            .find(|(conditions, _)| conditions.iter().all(|c| holds(c, args)))
            .map_or(*otherwise, |(_, action)| *action),
    }
}

fn holds(condition: &Condition, args: [u64; 6]) -> bool {
    let value = args[condition.argument as usize];
    match condition.operator {
        Operator::Equal => value == condition.value,
        Operator::NotEqual => value != condition.value,
        Operator::Less => value < condition.value,
        Operator::LessOrEqual => value <= condition.value,
        Operator::Greater => value > condition.value,
        Operator::GreaterOrEqual => value >= condition.value,
        Operator::Masked(mask) => value & mask == condition.value,
    }
}

const ARGUMENTS: [u64; 21] = [
    0,
    1,
    2,
    7,
    8,
    11,
    12,
    13,
    16,
    19,
    38,
    40,
    45,
    46,
    0x2_0000,
    0x2_0008,
    0xffff_ffff,
    0x1000_0000,
    0x1200_0011,
    0x1_0000_0001,
    u64::MAX,
];

#[test]
fn the_default_filter_is_the_policy() {
    for capabilities in [caps::DEFAULT, 0, 1 << 21, u64::MAX] {
        let program = program(&default_policy(capabilities));
        println!("{} instructions", program.len());
        assert!(program.len() <= 600, "{} instructions", program.len());
        for (name, x86_64, i386) in SYSCALLS {
            for (arch, number, bit) in [
                (AUDIT_ARCH_X86_64, *x86_64, 0),
                (AUDIT_ARCH_X86_64, *x86_64, X32_BIT),
                (AUDIT_ARCH_I386, *i386, 0),
            ] {
                let Ok(number) = u32::try_from(number) else {
                    continue;
                };
                for argument in ARGUMENTS {
                    let args = [argument, 0, 0, 0, 0, 0];
                    let wanted = if number > 466 {
                        ENOSYS
                    } else {
                        expected(&verdict(name, capabilities), args)
                    };
                    assert_eq!(
                        run(&program, arch, number | bit, args),
                        wanted,
                        "{name} {number} of {arch:#x} with {argument:#x}"
                    );
                }
            }
        }
        for (number, name) in (X32_FIRST..).zip(X32_ONLY) {
            let wanted = expected(&verdict(name, capabilities), [0; 6]);
            assert_eq!(
                run(&program, AUDIT_ARCH_X86_64, number | X32_BIT, [0; 6]),
                wanted,
                "{name}"
            );
        }
    }
}

#[test]
fn the_edges() {
    let program = program(&default_policy(caps::DEFAULT));
    let x86_64 = |number| run(&program, AUDIT_ARCH_X86_64, number, [0; 6]);
    assert_eq!(x86_64(467), ENOSYS);
    assert_eq!(x86_64(511), ENOSYS);
    assert_eq!(x86_64(548), ENOSYS);
    assert_eq!(x86_64(u32::MAX), ENOSYS);
    // A hole in the numbers is no call: refused.
    assert_eq!(x86_64(400), EPERM);
    assert_eq!(run(&program, AUDIT_ARCH_I386, u32::MAX, [0; 6]), ENOSYS);
    assert_eq!(run(&program, 0xc000_00b7, 0, [0; 6]), KILL_PROCESS);
}

#[test]
fn operators_compare_64_bits() {
    let values = [
        0,
        1,
        5,
        6,
        7,
        0xffff_ffff,
        0x1_0000_0000,
        0x1_0000_0006,
        0x5_0000_0007,
        u64::MAX,
    ];
    for operator in [
        Operator::Equal,
        Operator::NotEqual,
        Operator::Less,
        Operator::LessOrEqual,
        Operator::Greater,
        Operator::GreaterOrEqual,
        Operator::Masked(0xf_0000_000f),
        Operator::Masked(0xff),
    ] {
        for value in values {
            let condition = Condition {
                argument: 2,
                operator,
                value,
            };
            let verdict = Verdict::Rules(vec![(vec![condition], ALLOW)], EPERM);
            let policy = Policy {
                trees: vec![ArchPolicy {
                    arch: Arch::X86_64,
                    fold_x32: false,
                    default: EPERM,
                    newer: None,
                    calls: [(7, verdict.clone())].into(),
                }],
            };
            let program = program(&policy);
            for argument in values {
                let args = [9, 9, argument, 9, 9, 9];
                assert_eq!(
                    run(&program, AUDIT_ARCH_X86_64, 7, args),
                    expected(&verdict, args)
                );
                assert_eq!(run(&program, AUDIT_ARCH_X86_64, 8, args), EPERM);
            }
        }
    }
}

fn from_json(json: &str, capabilities: u64) -> Vec<Instruction> {
    program(&profile::read(json, capabilities).unwrap())
}

#[test]
fn profiles_of_the_user() {
    let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":13,
        "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"]}],
        "syscalls":[
          {"names":["read","write","openat2"],"action":"SCMP_ACT_ALLOW","args":null},
          {"name":"kill","action":"SCMP_ACT_KILL_PROCESS"},
          {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]},
          {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":10,"op":"SCMP_CMP_EQ"},{"index":1,"value":1,"op":"SCMP_CMP_EQ"}]},
          {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
          {"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"99.0"}},
          {"names":["clone3"],"action":"SCMP_ACT_ERRNO","errnoRet":38,"excludes":{"caps":["CAP_SYS_ADMIN"]}}]}"#;
    let filter = from_json(json, 0);
    let call = |name: &str, args| {
        run(
            &filter,
            AUDIT_ARCH_X86_64,
            number(name, Arch::X86_64).unwrap(),
            args,
        )
    };
    let none = [0; 6];
    assert_eq!(call("read", none), ALLOW);
    assert_eq!(run(&filter, AUDIT_ARCH_I386, 3, none), ALLOW);
    assert_eq!(call("kill", none), KILL_PROCESS);
    assert_eq!(call("socket", [2, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(call("socket", [10, 1, 0, 0, 0, 0]), ALLOW);
    assert_eq!(call("socket", [10, 2, 0, 0, 0, 0]), ERRNO | 13);
    assert_eq!(call("mount", none), ERRNO | 13);
    assert_eq!(call("ptrace", none), ERRNO | 13);
    assert_eq!(call("clone3", none), ENOSYS);
    // Newer than the newest call in the profile (openat2).
    assert_eq!(call("pidfd_getfd", none), ENOSYS);
    let admin = from_json(json, 1 << 21);
    assert_eq!(run(&admin, AUDIT_ARCH_X86_64, 165, none), ALLOW);
}

#[test]
fn permissive_profiles_and_single_architectures() {
    let filter = from_json(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}"#,
        0,
    );
    assert_eq!(run(&filter, AUDIT_ARCH_X86_64, 83, [0; 6]), EPERM);
    assert_eq!(run(&filter, AUDIT_ARCH_X86_64, 9999, [0; 6]), ALLOW);
    assert_eq!(run(&filter, AUDIT_ARCH_I386, 1, [0; 6]), KILL_PROCESS);
}

#[test]
fn bad_profiles_are_refused() {
    for json in [
        "",
        "{}",
        r#"{"defaultAction":"SCMP_ACT_WHAT"}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86"}]}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":9,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#,
    ] {
        assert!(from_oci_profile(json, 0).is_err(), "{json}");
    }
}
