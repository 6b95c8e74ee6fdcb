//! What a container sees and how it ends.

use super::{Case, sandbox::*};

pub const CASES: &[Case] = &[("exit_code_and_output", exit_code_and_output)];

fn exit_code_and_output() {
    let sandbox = Sandbox::new().script("echo out; echo err >&2; exit 7");
    let outcome = sandbox.run();
    assert_eq!(
        (outcome.out.as_str(), outcome.err.as_str(), outcome.code),
        ("out\n", "err\n", 7)
    );
}
