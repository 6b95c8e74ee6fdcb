//! Docker's shapes: one file a noun, fields as they are on the wire.

pub mod container;
pub mod exec;
pub mod hostconfig;
pub mod stats;
