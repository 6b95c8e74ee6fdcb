//! `longshore fsck DATA_ROOT`: is everything in the store what its name and its record say?

use std::{path::Path, process::ExitCode};

use longshore_store::Store;

/// Prints what is wrong; 1 when there is anything, 125 when it could not be looked at.
pub fn main(arguments: &[String]) -> ExitCode {
    let [root] = arguments else {
        eprintln!("Usage:  longshore fsck DATA_ROOT");
        return ExitCode::from(125);
    };
    let looked = Store::open(Path::new(root), Box::new(|_| {})).and_then(|(store, report)| {
        for row in &report.quarantined {
            println!("{} {}: {}", row.table, row.key, row.reason);
        }
        Ok((store.fsck()?, report.quarantined.len()))
    });
    match looked {
        Ok((findings, quarantined)) => {
            for finding in &findings {
                println!("{}: {}", finding.what, finding.problem);
            }
            ExitCode::from(u8::from(!findings.is_empty() || quarantined > 0))
        }
        Err(error) => {
            eprintln!("longshore: {}", error.message);
            ExitCode::from(125)
        }
    }
}
