//! End-to-end cases for a Docker Engine API server. The client here is written apart from the engine on purpose:
//! nothing is shared with it, so that one mistake cannot be on both ends.

pub mod check;
pub mod engine;
pub mod frames;
pub mod http;
