//! Names for containers that were given none: `adjective_surname`, as users of Docker expect; the lists are our own.

use longshore_model::id::random_bytes;

const ADJECTIVES: &[&str] = &[
    "able", "airy", "amber", "ample", "ardent", "avid", "azure", "balmy", "bold", "brave",
    "breezy", "bright", "brisk", "calm", "candid", "chipper", "civil", "clear", "clever",
    "coastal", "cosy", "crisp", "deft", "eager", "early", "earnest", "easy", "fair", "fleet",
    "fluent", "fond", "frank", "free", "fresh", "gallant", "gentle", "glad", "golden", "grand",
    "hale", "handy", "hardy", "hearty", "honest", "humble", "ideal", "jolly", "keen", "kind",
    "lively", "loyal", "lucid", "lucky", "mellow", "merry", "mighty", "modest", "neat", "nimble",
    "noble", "patient", "placid", "plucky", "polite", "proud", "prudent", "quick", "quiet",
    "rapid", "ready", "robust", "salty", "serene", "sharp", "silent", "sincere", "smart", "smooth",
    "snug", "solid", "sound", "spry", "steady", "stout", "sunny", "swift", "tidal", "tidy", "trim",
    "trusty", "upbeat", "valiant", "vivid", "warm", "wise", "witty", "worthy", "young", "zesty",
];

const SURNAMES: &[&str] = &[
    "abel",
    "amundsen",
    "anning",
    "babbage",
    "bering",
    "bernoulli",
    "blackwell",
    "bohr",
    "boole",
    "bose",
    "cabot",
    "cartier",
    "cayley",
    "cook",
    "curie",
    "darwin",
    "davy",
    "descartes",
    "dirac",
    "drake",
    "earhart",
    "edison",
    "einstein",
    "euclid",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "feynman",
    "franklin",
    "galileo",
    "galois",
    "gauss",
    "germain",
    "goodall",
    "hamilton",
    "herschel",
    "hertz",
    "hilbert",
    "hopper",
    "hubble",
    "hudson",
    "huygens",
    "hypatia",
    "johnson",
    "joule",
    "kepler",
    "khayyam",
    "kovalevskaya",
    "lagrange",
    "laplace",
    "leibniz",
    "linnaeus",
    "lovelace",
    "magellan",
    "marconi",
    "maxwell",
    "meitner",
    "mendel",
    "mercator",
    "morse",
    "nansen",
    "napier",
    "newton",
    "nightingale",
    "noether",
    "ohm",
    "pascal",
    "pasteur",
    "payne",
    "planck",
    "poincare",
    "ptolemy",
    "raman",
    "ramanujan",
    "riemann",
    "ritchie",
    "rubin",
    "rutherford",
    "sagan",
    "shackleton",
    "shannon",
    "stokes",
    "tasman",
    "tesla",
    "thales",
    "torvalds",
    "turing",
    "vespucci",
    "volta",
    "wallace",
    "watt",
    "wilson",
    "wright",
    "zheng",
];

/// A name for which `taken` is false. After some tries a digit is added, so that it ends.
pub(crate) fn generate(taken: impl Fn(&str) -> bool) -> String {
    let mut attempt = 0u32;
    loop {
        let [a, b, c, d] = random_bytes::<4>();
        let adjective = ADJECTIVES[usize::from(u16::from_le_bytes([a, b])) % ADJECTIVES.len()];
        let surname = SURNAMES[usize::from(u16::from_le_bytes([c, d])) % SURNAMES.len()];
        let mut name = format!("{adjective}_{surname}");
        if attempt > 5 {
            name.push_str(&(u32::from(a) + attempt).to_string());
        }
        if !taken(&name) {
            return name;
        }
        attempt += 1;
    }
}

/// Docker's rule for container and volume names: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub(crate) fn valid(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.len() > 1
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, want) in [
            ("a", false),
            ("ab", true),
            ("bad/name", false),
            ("_a", false),
            ("a.b-c_1", true),
            ("", false),
        ] {
            assert_eq!(valid(name), want, "{name}");
        }
        let name = generate(|_| false);
        assert!(valid(&name) && name.contains('_'));
    }
}
