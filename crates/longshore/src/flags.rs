//! Command line flags with the manners of Docker's programs (Go's pflag): `--flag=value`, `--flag value`, `-f value`,
//! `-fvalue`, `-f=value`, joined switches (`-it`), switches with a value (`--rm=false`), repeated lists, `--`, and for
//! `run` and `exec` an end of flags at the first argument. The texts of the errors are those that Docker's users know.

use std::collections::BTreeMap;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A switch: `--x`, `--x=false`.
    Switch,
    /// One value, the last one counts.
    Text,
    /// One whole number, the last one counts.
    Number,
    /// May be given many times.
    List,
}

/// One flag of a command.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub name: &'static str,
    pub short: Option<char>,
    pub kind: Kind,
    /// What the help calls the value: `string`, `list`, `bytes`; empty for switches.
    pub value: &'static str,
    /// One sentence for the help; a flag without one is accepted but not shown.
    pub help: &'static str,
}

/// A switch.
pub const fn switch(name: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        short: None,
        kind: Kind::Switch,
        value: "",
        help,
    }
}

/// A flag with one value.
pub const fn text(name: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        short: None,
        kind: Kind::Text,
        value,
        help,
    }
}

/// A flag with one whole number.
pub const fn number(name: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        short: None,
        kind: Kind::Number,
        value: "int",
        help,
    }
}

/// A flag that may be repeated.
pub const fn list(name: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        short: None,
        kind: Kind::List,
        value: "list",
        help,
    }
}

impl Flag {
    /// The same flag with a one letter name.
    pub const fn short(self, letter: char) -> Flag {
        Flag {
            short: Some(letter),
            ..self
        }
    }

    /// How errors call it: `-t, --time`.
    fn label(&self) -> String {
        match self.short {
            Some(letter) => format!("-{letter}, --{}", self.name),
            None => format!("--{}", self.name),
        }
    }

    fn check(&self, value: &str) -> Result<(), String> {
        let problem = match self.kind {
            Kind::Switch if go_bool(value).is_none() => "strconv.ParseBool",
            Kind::Number if value.parse::<i64>().is_err() => "strconv.ParseInt",
            _ => return Ok(()),
        };
        Err(format!(
            "invalid argument {value:?} for {:?} flag: {problem}: parsing {value:?}: invalid syntax",
            self.label()
        ))
    }
}

/// Go's `strconv.ParseBool`.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// What a command line said.
#[derive(Debug, Default)]
pub struct Parsed {
    given: BTreeMap<&'static str, Vec<String>>,
    /// What is not a flag, in order.
    pub arguments: Vec<String>,
}

impl Parsed {
    /// Was it on the command line at all?
    pub fn is_set(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// A switch as given, None when it was not.
    pub fn switch(&self, name: &str) -> Option<bool> {
        self.text(name).and_then(go_bool)
    }

    /// A switch that is off unless given.
    pub fn on(&self, name: &str) -> bool {
        self.switch(name).unwrap_or(false)
    }

    /// The last value given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.given
            .get(name)
            .and_then(|values| values.last())
            .map(String::as_str)
    }

    /// The last value given, or the empty string.
    pub fn text_or_empty(&self, name: &str) -> &str {
        self.text(name).unwrap_or_default()
    }

    /// The last number given.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.text(name).and_then(|value| value.parse().ok())
    }

    /// All values given, in order.
    pub fn list(&self, name: &str) -> &[String] {
        self.given.get(name).map_or(&[], Vec::as_slice)
    }
}

/// Where flags end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Flags and arguments in any order, as for most commands.
    Mixed,
    /// The first argument ends the flags, as for `run` and `exec`.
    FlagsFirst,
}

/// Reads `arguments` (without the program's name). `--help` and `-h` where no flag has taken that letter come back as the
/// switch `help`.
///
/// # Errors
/// pflag's texts: `unknown flag: --x`, `unknown shorthand flag: 'x' in -x`, `flag needs an argument: --x`.
pub fn parse<S: AsRef<str>>(
    flags: &[Flag],
    arguments: &[S],
    order: Order,
) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    let mut rest = arguments.iter().map(AsRef::as_ref);
    while let Some(argument) = rest.next() {
        if argument == "--" {
            parsed.arguments.extend(rest.by_ref().map(str::to_owned));
        } else if let Some(long) = argument.strip_prefix("--") {
            read_long(flags, long, &mut rest, &mut parsed)?;
        } else if argument.len() > 1 && argument.starts_with('-') {
            read_short(flags, argument, &mut rest, &mut parsed)?;
        } else {
            parsed.arguments.push(argument.to_owned());
            if order == Order::FlagsFirst {
                parsed.arguments.extend(rest.by_ref().map(str::to_owned));
            }
        }
    }
    Ok(parsed)
}

fn put(parsed: &mut Parsed, flag: &Flag, value: &str) -> Result<(), String> {
    flag.check(value)?;
    parsed
        .given
        .entry(flag.name)
        .or_default()
        .push(value.to_owned());
    Ok(())
}

fn read_long<'a>(
    flags: &[Flag],
    long: &str,
    rest: &mut impl Iterator<Item = &'a str>,
    parsed: &mut Parsed,
) -> Result<(), String> {
    let (name, value) = match long.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (long, None),
    };
    if name.is_empty() || name.starts_with('-') {
        return Err(format!("bad flag syntax: --{long}"));
    }
    let Some(flag) = flags.iter().find(|flag| flag.name == name) else {
        if name == "help" {
            parsed.given.insert("help", vec!["true".into()]);
            return Ok(());
        }
        return Err(format!("unknown flag: --{name}"));
    };
    match value {
        Some(value) => put(parsed, flag, value),
        None if flag.kind == Kind::Switch => put(parsed, flag, "true"),
        None => match rest.next() {
            Some(value) => put(parsed, flag, value),
            None => Err(format!("flag needs an argument: --{name}")),
        },
    }
}

fn read_short<'a>(
    flags: &[Flag],
    argument: &str,
    rest: &mut impl Iterator<Item = &'a str>,
    parsed: &mut Parsed,
) -> Result<(), String> {
    let mut letters = argument[1..].chars();
    while let Some(letter) = letters.next() {
        let Some(flag) = flags.iter().find(|flag| flag.short == Some(letter)) else {
            if letter == 'h' {
                parsed.given.insert("help", vec!["true".into()]);
                return Ok(());
            }
            return Err(format!("unknown shorthand flag: '{letter}' in {argument}"));
        };
        let tail = letters.as_str();
        if let Some(value) = tail.strip_prefix('=') {
            return put(parsed, flag, value);
        }
        if flag.kind == Kind::Switch {
            put(parsed, flag, "true")?;
            continue;
        }
        if !tail.is_empty() {
            return put(parsed, flag, tail);
        }
        return match rest.next() {
            Some(value) => put(parsed, flag, value),
            None => Err(format!("flag needs an argument: '{letter}' in {argument}")),
        };
    }
    Ok(())
}

/// Columns that help is wrapped to.
const WIDTH: usize = 80;

/// The `Options:` part of a help text, wrapped and sorted as given.
pub fn options_help(flags: &[Flag]) -> String {
    let shown: Vec<(String, &str)> = flags
        .iter()
        .filter(|flag| !flag.help.is_empty())
        .map(|flag| {
            let mut left = match flag.short {
                Some(letter) => format!("  -{letter}, --{}", flag.name),
                None => format!("      --{}", flag.name),
            };
            if !flag.value.is_empty() {
                left.push(' ');
                left.push_str(flag.value);
            }
            (left, flag.help)
        })
        .collect();
    let column = shown.iter().map(|(left, _)| left.len()).max().unwrap_or(0) + 3;
    let mut out = String::from("Options:\n");
    for (left, help) in shown {
        let mut line = format!("{left:column$}");
        let mut fresh = true;
        for word in help.split(' ') {
            if !fresh && line.len() + 1 + word.len() > WIDTH {
                out.push_str(&line);
                out.push('\n');
                line = " ".repeat(column);
                fresh = true;
            }
            if !fresh {
                line.push(' ');
            }
            line.push_str(word);
            fresh = false;
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &[Flag] = &[
        switch("interactive", "keep stdin open").short('i'),
        switch("tty", "a terminal").short('t'),
        switch("rm", "remove"),
        list("env", "variables").short('e'),
        text("hostname", "string", "name").short('h'),
        number("stop-timeout", "seconds"),
    ];

    fn run(arguments: &[&str]) -> Result<Parsed, String> {
        parse(RUN, arguments, Order::FlagsFirst)
    }

    #[test]
    fn switches_join_and_take_values() {
        let parsed = run(&["-it", "--rm=false", "image", "-x", "--rm"]).unwrap();
        assert!(parsed.on("interactive") && parsed.on("tty"));
        assert_eq!(parsed.switch("rm"), Some(false));
        assert_eq!(parsed.arguments, ["image", "-x", "--rm"]);
    }

    #[test]
    fn values_in_every_spelling() {
        let parsed = run(&["-eA=1", "-e", "B=2", "--env=C=3", "--env", "D", "-ite=E"]).unwrap();
        assert_eq!(parsed.list("env"), ["A=1", "B=2", "C=3", "D", "E"]);
        assert!(parsed.on("tty"));
        assert_eq!(run(&["-h", "name"]).unwrap().text("hostname"), Some("name"));
    }

    #[test]
    fn double_dash_ends_flags() {
        let parsed = parse(RUN, &["a", "--", "-i", "--"], Order::Mixed).unwrap();
        assert_eq!(parsed.arguments, ["a", "-i", "--"]);
        assert!(!parsed.on("interactive"));
    }

    #[test]
    fn mixed_order_goes_on_after_an_argument() {
        let parsed = parse(RUN, &["a", "-i", "b", "-"], Order::Mixed).unwrap();
        assert_eq!(parsed.arguments, ["a", "b", "-"]);
        assert!(parsed.on("interactive"));
    }

    #[test]
    fn errors_read_as_pflag_says_them() {
        let error = |arguments: &[&str]| run(arguments).unwrap_err();
        assert_eq!(error(&["--nope"]), "unknown flag: --nope");
        assert_eq!(error(&["-ix"]), "unknown shorthand flag: 'x' in -ix");
        assert_eq!(error(&["--env"]), "flag needs an argument: --env");
        assert_eq!(error(&["-e"]), "flag needs an argument: 'e' in -e");
        assert_eq!(error(&["--=x"]), "bad flag syntax: --=x");
        assert_eq!(
            error(&["--rm=maybe"]),
            "invalid argument \"maybe\" for \"--rm\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax"
        );
        assert_eq!(
            error(&["--stop-timeout", "x"]),
            "invalid argument \"x\" for \"--stop-timeout\" flag: strconv.ParseInt: parsing \"x\": invalid syntax"
        );
    }

    #[test]
    fn help_is_a_switch_where_the_letter_is_free() {
        assert!(parse(&RUN[..4], &["-h"], Order::Mixed).unwrap().on("help"));
        assert!(run(&["--help"]).unwrap().on("help"));
    }

    #[test]
    fn help_wraps_under_its_column() {
        let flags = [switch(
            "x",
            "one two three four five six seven eight nine ten eleven twelve thirteen fourteen",
        )];
        let help = options_help(&flags);
        let lines: Vec<&str> = help.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].len() <= WIDTH);
        assert_eq!(lines[2].find(|c| c != ' '), Some(12));
    }
}
