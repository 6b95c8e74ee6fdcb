//! Any text as a reference: what is taken has one canonical form, which means the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_model::Reference;

fuzz_target!(|text: &str| {
    let Ok(reference) = Reference::parse(text) else {
        return;
    };
    let canonical = reference.canonical();
    let again = Reference::parse(&canonical).expect("a canonical name is a name");
    assert_eq!(again, reference);
    assert_eq!(again.canonical(), canonical);
    let familiar = Reference::parse(&reference.familiar()).expect("a familiar name is a name");
    assert_eq!(familiar, reference);
});
