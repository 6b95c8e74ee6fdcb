//! Profiles in JSON: Docker's format (with `archMap`, `includes`, `excludes`) and the OCI runtime specification's, which is a part of it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    ALLOW, Action, Arch, ArchPolicy, Condition, ENOSYS, ERRNO, KILL_PROCESS, KILL_THREAD, LOG,
    Operator, Policy, TRACE, TRAP, Verdict, number,
    policy::{X32_FIRST, X32_ONLY},
};
use crate::caps;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null_is_empty")]
    architectures: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    arch_map: Vec<ArchMap>,
    #[serde(default, deserialize_with = "null_is_empty")]
    syscalls: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    sub_architectures: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null_is_empty")]
    args: Vec<Argument>,
    #[serde(default, deserialize_with = "null_is_empty")]
    includes: Filter,
    #[serde(default, deserialize_with = "null_is_empty")]
    excludes: Filter,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    #[serde(default, deserialize_with = "null_is_empty")]
    caps: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

/// Go writes null for an empty list.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a profile for a process with these capabilities.
pub(super) fn read(json: &str, capabilities: u64) -> Result<Policy, String> {
    let profile: Profile = serde_json::from_str(json).map_err(|error| error.to_string())?;
    if !profile.architectures.is_empty() && !profile.arch_map.is_empty() {
        return Err("both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'".to_owned());
    }
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let kernel = running_kernel();
    let rules: Vec<&Rule> = profile
        .syscalls
        .iter()
        .filter(|rule| applies(rule, capabilities, kernel))
        .collect();
    let architectures = architectures(&profile);
    let mut trees = Vec::new();
    for arch in [Arch::X86_64, Arch::I386] {
        let name = if arch == Arch::X86_64 {
            "SCMP_ARCH_X86_64"
        } else {
            "SCMP_ARCH_X86"
        };
        if !architectures.iter().any(|a| a == name) {
            continue;
        }
        let calls = calls(&rules, arch, default)?;
        let newest = rules
            .iter()
            .flat_map(|rule| rule.names.iter().chain([&rule.name]))
            .filter_map(|name| number(name, arch))
            .max();
        // A profile that lets unknown calls pass lets newer ones pass as well.
        let refuses = default != ALLOW && default != LOG && default != ENOSYS;
        trees.push(ArchPolicy {
            arch,
            fold_x32: architectures.iter().any(|a| a == "SCMP_ARCH_X32"),
            default,
            newer: newest.filter(|_| refuses).map(|newest| (newest, ENOSYS)),
            calls,
        });
    }
    Ok(Policy { trees })
}

fn architectures(profile: &Profile) -> Vec<String> {
    const NATIVE: &str = "SCMP_ARCH_X86_64";
    if !profile.architectures.is_empty() {
        return profile.architectures.clone();
    }
    let mut found = vec![NATIVE.to_owned()];
    for map in profile
        .arch_map
        .iter()
        .filter(|map| map.architecture == NATIVE)
    {
        found.extend(map.sub_architectures.iter().cloned());
    }
    found
}

fn applies(rule: &Rule, capabilities: u64, kernel: (u32, u32)) -> bool {
    let has =
        |name: &String| caps::number(name).is_some_and(|number| capabilities & 1 << number != 0);
    let native = |arch: &String| arch == "amd64";
    let new_enough =
        |version: &String| parse_version(version).is_some_and(|wanted| kernel >= wanted);
    let Filter {
        caps,
        arches,
        min_kernel,
    } = &rule.excludes;
    if arches.iter().any(native)
        || caps.iter().any(has)
        || min_kernel.as_ref().is_some_and(new_enough)
    {
        return false;
    }
    let Filter {
        caps,
        arches,
        min_kernel,
    } = &rule.includes;
    (arches.is_empty() || arches.iter().any(native))
        && caps.iter().all(has)
        && min_kernel.as_ref().is_none_or(new_enough)
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, rest) = text.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn running_kernel() -> (u32, u32) {
    let uname = rustix::system::uname();
    parse_version(&uname.release().to_string_lossy()).unwrap_or((0, 0))
}

fn calls(rules: &[&Rule], arch: Arch, default: Action) -> Result<BTreeMap<u32, Verdict>, String> {
    let mut calls: BTreeMap<u32, Verdict> = BTreeMap::new();
    for rule in rules {
        let action = action(&rule.action, rule.errno_ret)?;
        let conditions = conditions(&rule.args)?;
        for name in rule
            .names
            .iter()
            .chain([&rule.name])
            .filter(|name| !name.is_empty())
        {
            // Names of other architectures, or newer than our table: the default (or ENOSYS) covers them.
            for number in numbers(name, arch) {
                add(&mut calls, number, &conditions, action, default);
            }
        }
    }
    Ok(calls)
}

fn numbers(name: &str, arch: Arch) -> impl Iterator<Item = u32> {
    let x32 = X32_ONLY
        .iter()
        .position(|known| *known == name && arch == Arch::X86_64)
        .map(|at| X32_FIRST + at as u32);
    number(name, arch).into_iter().chain(x32)
}

/// A rule without conditions decides for good; others are tried in order.
fn add(
    calls: &mut BTreeMap<u32, Verdict>,
    number: u32,
    conditions: &[Condition],
    action: Action,
    default: Action,
) {
    if conditions.is_empty() {
        calls.insert(number, Verdict::Plain(action));
        return;
    }
    match calls
        .entry(number)
        .or_insert_with(|| Verdict::Rules(Vec::new(), default))
    {
        Verdict::Rules(rules, _) => rules.push((conditions.to_vec(), action)),
        Verdict::Plain(_) => {}
    }
}

fn conditions(args: &[Argument]) -> Result<Vec<Condition>, String> {
    args.iter()
        .map(|arg| {
            if arg.index > 5 {
                return Err(format!("invalid argument index {}", arg.index));
            }
            let (operator, value) = match arg.op.as_str() {
                "SCMP_CMP_EQ" => (Operator::Equal, arg.value),
                "SCMP_CMP_NE" => (Operator::NotEqual, arg.value),
                "SCMP_CMP_LT" => (Operator::Less, arg.value),
                "SCMP_CMP_LE" => (Operator::LessOrEqual, arg.value),
                "SCMP_CMP_GT" => (Operator::Greater, arg.value),
                "SCMP_CMP_GE" => (Operator::GreaterOrEqual, arg.value),
                "SCMP_CMP_MASKED_EQ" => (Operator::Masked(arg.value), arg.value_two),
                other => return Err(format!("invalid operator {other:?}")),
            };
            Ok(Condition {
                argument: arg.index,
                operator,
                value,
            })
        })
        .collect()
}

fn action(name: &str, errno: Option<u32>) -> Result<Action, String> {
    let errno = errno.unwrap_or(libc::EPERM as u32) & 0xffff;
    Ok(match name {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => ERRNO | errno,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_TRAP" => TRAP,
        "SCMP_ACT_TRACE" => TRACE | errno,
        "SCMP_ACT_LOG" => LOG,
        other => return Err(format!("invalid or unsupported action {other:?}")),
    })
}
