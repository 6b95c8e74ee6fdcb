//! Pulls from a registry that misbehaves.

use std::time::{Duration, Instant};

use e2e::{check::Outcome, ensure, has, same};

use super::pull::{content, pull, pulled};
use crate::{cases::cases, context::Ctx, registry::Registry, runner::Case};

pub fn list() -> Vec<Case> {
    let any = cases!("pullfaults", Any; cut_connections, no_ranges, busy_and_broken, slow_drip, redirect_without_credentials, token_ends, wrong_digest, too_short);
    any.to_vec()
}

fn image(ctx: &Ctx, registry: &Registry, size: usize) -> Outcome<(String, String)> {
    let (_, layers) = registry.add_image("v1", &[content(ctx, "a", size)?]);
    Ok((registry.name("x", "v1"), layers[0].clone()))
}

/// Cut after any number of bytes: what has come is not asked for again.
fn cut_connections(ctx: &Ctx) -> Outcome {
    let registry = Registry::start()?;
    let (name, layer) = image(ctx, &registry, 300_000)?;
    registry.set(|f| f.cuts = [1, 70_000, 0, 12_345, 4096].into());
    pulled(ctx, &name)?;
    let fetches = registry.fetches(&layer);
    same!(fetches.len(), 6);
    let starts: Vec<usize> = fetches.iter().map(|f| f.range.unwrap_or(0)).collect();
    if ctx.api(49) {
        same!(starts, [0, 1, 70_001, 70_001, 82_346, 86_442]);
    }
    ctx.delete(&format!("/images/{name}"))?.expect(200)?;
    Ok(())
}

fn no_ranges(ctx: &Ctx) -> Outcome {
    let registry = Registry::start()?;
    let (name, layer) = image(ctx, &registry, 300_000)?;
    registry.set(|f| {
        f.no_ranges = true;
        f.cuts = [100_000, 200_000].into();
    });
    pulled(ctx, &name)?;
    same!(registry.fetches(&layer).len(), 3);
    ctx.delete(&format!("/images/{name}"))?.expect(200)?;
    Ok(())
}

fn busy_and_broken(ctx: &Ctx) -> Outcome {
    let registry = Registry::start()?;
    let (name, layer) = image(ctx, &registry, 3000)?;
    registry.set(|f| f.statuses = [500, 429, 503].into());
    let start = Instant::now();
    pulled(ctx, &name)?;
    // `Retry-After: 1` is kept.
    ensure!(
        start.elapsed() > Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    same!(registry.fetches(&layer).len(), 4);
    ctx.delete(&format!("/images/{name}"))?.expect(200)?;
    Ok(())
}

fn slow_drip(ctx: &Ctx) -> Outcome {
    let registry = Registry::start()?;
    let (name, layer) = image(ctx, &registry, 3000)?;
    registry.set(|f| f.drip = Some((100, Duration::from_millis(50))));
    pulled(ctx, &name)?;
    same!(registry.fetches(&layer).len(), 1);
    ctx.delete(&format!("/images/{name}"))?.expect(200)?;
    Ok(())
}

/// Content may be elsewhere; credentials stay.
fn redirect_without_credentials(ctx: &Ctx) -> Outcome {
    let registry = Registry::start()?;
    let (name, layer) = image(ctx, &registry, 30_000)?;
    let store = registry.twin()?;
    registry.set(|f| {
        f.token_uses = Some(1000);
        f.redirect = Some(store.port);
    });
    pulled(ctx, &name)?;
    let asked = registry.fetches(&layer);
    has!(asked[0].authorization, "Bearer t");
    let given = store.fetches(&layer);
    same!(given.len(), 1);
    same!(given[0].authorization, "");
    ctx.delete(&format!("/images/{name}"))?.expect(200)?;
    Ok(())
}

/// Tokens that end in mid-pull are replaced.
fn token_ends(ctx: &Ctx) -> Outcome {
    let registry = Registry::start()?;
    let mut layers = Vec::new();
    for n in 0..5 {
        layers.push(content(ctx, &format!("f{n}"), 2000)?);
    }
    registry.add_image("v1", &layers);
    let name = registry.name("x", "v1");
    // dockerd before 29 takes a token's own word for how long it is good.
    let uses = if ctx.api(49) { 2 } else { 1000 };
    registry.set(|f| f.token_uses = Some(uses));
    pulled(ctx, &name)?;
    let tokens = registry
        .seen()
        .iter()
        .filter(|s| s.path.starts_with("/token"))
        .count();
    ensure!(tokens >= if ctx.api(49) { 3 } else { 1 }, "{tokens} tokens");
    has!(
        registry
            .seen()
            .iter()
            .find(|s| s.path.starts_with("/token"))
            .map(|s| s.path.clone())
            .unwrap_or_default(),
        "scope=repository%3Ax%3Apull"
    );
    ctx.delete(&format!("/images/{name}"))?.expect(200)?;
    Ok(())
}

fn wrong_digest(ctx: &Ctx) -> Outcome {
    let registry = Registry::start()?;
    let (name, layer) = image(ctx, &registry, 30_000)?;
    registry.set(|f| f.corrupt = true);
    let (status, lines) = pull(ctx, &name, "")?;
    same!(status, 200);
    let error = lines
        .last()
        .map(|l| l["errorDetail"]["message"].to_string())
        .unwrap_or_default();
    if ctx.api(49) {
        has!(error, "unexpected commit digest sha256:");
        has!(error, format!("expected {layer}: failed precondition"));
    }
    ensure!(error.len() > 4, "{lines:?}");
    same!(ctx.get(&format!("/images/{name}/json"))?.status, 404);
    // Nothing of it is taken for good.
    registry.set(|f| f.corrupt = false);
    pulled(ctx, &name)?;
    ctx.delete(&format!("/images/{name}"))?.expect(200)?;
    Ok(())
}

/// A registry that has less than the manifest says: an end, and an error.
fn too_short(ctx: &Ctx) -> Outcome {
    let registry = Registry::start()?;
    let (name, _) = image(ctx, &registry, 30_000)?;
    registry.set(|f| f.short = 500);
    let (status, lines) = pull(ctx, &name, "")?;
    same!(status, 200);
    has!(format!("{:?}", lines.last()), "errorDetail");
    registry.set(|f| f.short = 0);
    pulled(ctx, &name)?;
    ctx.delete(&format!("/images/{name}"))?.expect(200)?;
    Ok(())
}
