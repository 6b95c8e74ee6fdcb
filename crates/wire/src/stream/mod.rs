//! Bodies and connections that are more than one JSON value.

pub mod hijack;
pub mod multiplex;
pub mod websocket;
