//! Tar archives: reading entries from a stream, compression, writing entries into a directory.

mod attributes;
pub mod codec;
pub mod reader;
pub mod sparse;
pub mod unpack;
