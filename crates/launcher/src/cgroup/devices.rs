//! Device rules of cgroup2: an eBPF program that the kernel asks at every open and mknod of a device.

use std::io;

use longshore_sys::bpf::Instruction;

/// One line of a v1 `devices.allow` file, parsed.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    /// `BPF_DEVCG_DEV_BLOCK` 1, `BPF_DEVCG_DEV_CHAR` 2; None for both.
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    /// mknod 1, read 2, write 4.
    access: i32,
}

const ALL_ACCESS: i32 = 7;

// Opcodes: class | operation | source.
const LDX_W: u8 = 0x61;
const MOV32_K: u8 = 0xb4;
const MOV64_K: u8 = 0xb7;
const MOV32_X: u8 = 0xbc;
const AND32_K: u8 = 0x54;
const RSH32_K: u8 = 0x74;
const JNE_K: u8 = 0x55;
const JNE_X: u8 = 0x5d;
const EXIT: u8 = 0x95;

fn insn(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: src << 4 | dst,
        offset,
        immediate,
    }
}

/// Compiles "deny all, then allow these".
///
/// # Errors
/// `EINVAL` for a rule that devices.allow would not take.
pub fn compile(rules: &[String]) -> io::Result<Vec<Instruction>> {
    // r1 is struct bpf_cgroup_dev_ctx { access_type = access << 16 | kind, major, minor }.
    let mut program = vec![
        insn(LDX_W, 2, 1, 0, 0),
        insn(MOV32_X, 3, 2, 0, 0),
        insn(AND32_K, 2, 0, 0, 0xffff),
        insn(RSH32_K, 3, 0, 0, 16),
        insn(LDX_W, 4, 1, 4, 0),
        insn(LDX_W, 5, 1, 8, 0),
    ];
    for rule in rules {
        let rule = parse(rule).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("invalid device rule {rule:?}"),
            )
        })?;
        emit(&rule, &mut program);
    }
    program.push(insn(MOV64_K, 0, 0, 0, 0));
    program.push(insn(EXIT, 0, 0, 0, 0));
    Ok(program)
}

/// Tests that jump over the block's end when they fail, then `return 1`.
fn emit(rule: &Rule, program: &mut Vec<Instruction>) {
    let mut block = Vec::new();
    if let Some(kind) = rule.kind {
        block.push(insn(JNE_K, 2, 0, 0, kind));
    }
    if rule.access != ALL_ACCESS {
        // Every bit that is asked for must be in the rule: (asked & rule) == asked.
        block.push(insn(MOV32_X, 1, 3, 0, 0));
        block.push(insn(AND32_K, 1, 0, 0, rule.access));
        block.push(insn(JNE_X, 1, 3, 0, 0));
    }
    if let Some(major) = rule.major {
        block.push(insn(JNE_K, 4, 0, 0, major));
    }
    if let Some(minor) = rule.minor {
        block.push(insn(JNE_K, 5, 0, 0, minor));
    }
    block.push(insn(MOV32_K, 0, 0, 0, 1));
    block.push(insn(EXIT, 0, 0, 0, 0));
    let end = block.len();
    for (at, instruction) in block.iter_mut().enumerate() {
        if matches!(instruction.code, JNE_K | JNE_X) {
            instruction.offset = (end - at - 1) as i16;
        }
    }
    program.append(&mut block);
}

fn parse(rule: &str) -> Option<Rule> {
    if rule == "a" {
        return Some(Rule {
            kind: None,
            major: None,
            minor: None,
            access: ALL_ACCESS,
        });
    }
    let mut words = rule.split_whitespace();
    let kind = match words.next()? {
        "a" => None,
        "b" => Some(1),
        "c" => Some(2),
        _ => return None,
    };
    let (major, minor) = words.next()?.split_once(':')?;
    let number = |text: &str| match text {
        "*" => Some(None),
        _ => text.parse().ok().map(Some),
    };
    let access = words.next()?.chars().try_fold(0, |bits, letter| {
        Some(match letter {
            'm' => bits | 1,
            'r' => bits | 2,
            'w' => bits | 4,
            _ => return None,
        })
    })?;
    Some(Rule {
        kind,
        major: number(major)?,
        minor: number(minor)?,
        access,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets the handful of opcodes that `compile` uses.
    fn allows(program: &[Instruction], kind: i64, access: i64, major: i64, minor: i64) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut r = [0i64; 11];
        let mut at = 0;
        loop {
            let i = program[at];
            let (dst, src) = ((i.registers & 15) as usize, (i.registers >> 4) as usize);
            at += 1;
            let mut jump = |taken: bool| {
                if taken {
                    at = (at as i64 + i64::from(i.offset)) as usize;
                }
            };
            match i.code {
                LDX_W => r[dst] = context[i.offset as usize / 4],
                MOV32_K | MOV64_K => r[dst] = i64::from(i.immediate),
                MOV32_X => r[dst] = r[src],
                AND32_K => r[dst] &= i64::from(i.immediate),
                RSH32_K => r[dst] >>= i.immediate,
                JNE_K => jump(r[dst] != i64::from(i.immediate)),
                JNE_X => jump(r[dst] != r[src]),
                EXIT => return r[0] == 1,
                other => panic!("opcode {other:#x}"),
            }
        }
    }

    #[test]
    fn rules_allow_what_they_say() {
        let rules = ["c 1:3 rwm", "c *:* m", "b *:* m", "c 136:* rw", "c 5:2 r"];
        let program = compile(&rules.map(str::to_owned)).unwrap();
        let (block, char) = (1, 2);
        assert!(allows(&program, char, 6, 1, 3));
        assert!(allows(&program, char, 1, 99, 9));
        assert!(allows(&program, block, 1, 8, 0));
        assert!(!allows(&program, block, 2, 8, 0));
        assert!(allows(&program, char, 6, 136, 42));
        assert!(!allows(&program, char, 7, 136, 42));
        assert!(allows(&program, char, 2, 5, 2));
        assert!(!allows(&program, char, 4, 5, 2));
        assert!(!allows(&program, char, 2, 1, 11));
    }

    #[test]
    fn everything() {
        let program = compile(&["a".to_owned()]).unwrap();
        assert!(allows(&program, 1, 7, 8, 0));
    }

    #[test]
    fn nonsense_is_refused() {
        for rule in ["", "x 1:3 r", "c 1 r", "c 1:x r", "c 1:1 q", "c 1:1"] {
            assert!(compile(&[rule.to_owned()]).is_err(), "{rule}");
        }
    }
}
