//! Tar archives: reading and writing entries, compression, writing a layer's entries into a directory. Blocking code that
//! knows no engine: the store uses it for layers, the shim's file helper for what goes in and out of containers.

pub mod attributes;
pub mod codec;
pub mod layer;
pub mod reader;
pub mod sparse;
pub mod unpack;
pub mod writer;
