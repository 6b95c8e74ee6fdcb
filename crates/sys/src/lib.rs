//! System calls that rustix lacks, and netlink. The only crate with `unsafe`; descriptors go in and out as owned or borrowed types.

pub mod netlink;
