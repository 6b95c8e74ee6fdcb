//! Runs cases, several at once where they allow it, and counts.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use e2e::check::{Fail, Outcome};

use crate::context::{Ctx, World};

/// How a case gets along with others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Company {
    /// Others may run meanwhile.
    Any,
    /// It looks at things that others change.
    Alone,
    /// It starts daemons of its own; needs the longshore binary. Runs alone, at the end.
    Daemon,
}

/// One case.
#[derive(Clone, Copy)]
pub struct Case {
    pub group: &'static str,
    pub name: &'static str,
    pub run: fn(&Ctx) -> Outcome,
    pub company: Company,
}

impl Case {
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.group, self.name)
    }
}

fn one(case: &Case, world: &World) -> bool {
    let context = Ctx {
        world: world.clone(),
        prefix: format!("e2e-{}-{}", case.group, case.name).replace('_', "-"),
        unnamed: Mutex::default(),
    };
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (case.run)(&context)))
        .unwrap_or_else(|_| Err(Fail("panic".into())));
    let took = start.elapsed().as_millis();
    let cleaned = if case.company == Company::Daemon {
        Ok(())
    } else {
        context.clean()
    };
    match result.and(cleaned.map_err(|e| Fail(format!("cleaning up: {}", e.0)))) {
        Ok(()) => {
            println!("ok   {} ({took} ms)", case.full_name());
            true
        }
        Err(Fail(text)) => {
            let text: String = text.chars().take(2000).collect();
            println!(
                "FAIL {} ({took} ms)\n     {}",
                case.full_name(),
                text.replace('\n', "\n     ")
            );
            false
        }
    }
}

/// Runs all; gives whether all passed.
pub fn run(cases: &[Case], world: &World, jobs: usize) -> bool {
    let failed: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let passed = AtomicUsize::new(0);
    let count = |case: &Case| {
        if one(case, world) {
            passed.fetch_add(1, Ordering::Relaxed);
        } else if let Ok(mut failed) = failed.lock() {
            failed.push(case.full_name());
        }
    };
    let queue: Mutex<VecDeque<&Case>> =
        Mutex::new(cases.iter().filter(|c| c.company == Company::Any).collect());
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().ok().and_then(|mut q| q.pop_front());
                    let Some(case) = next else { break };
                    count(case);
                }
            });
        }
    });
    for company in [Company::Alone, Company::Daemon] {
        cases
            .iter()
            .filter(|c| c.company == company)
            .for_each(count);
    }
    let failed = failed.into_inner().unwrap_or_default();
    println!(
        "{} passed, {} failed",
        passed.load(Ordering::Relaxed),
        failed.len()
    );
    for name in &failed {
        println!("  failed: {name}");
    }
    failed.is_empty()
}
