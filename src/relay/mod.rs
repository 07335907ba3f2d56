//! The relay: the Iceberg REST catalog that workers attach, and the gateway's own way to the catalogs.
//!
//! Everything hard about a shared lakehouse has its one home here: the upstream catalogs and their tokens, the table cache, what a
//! worker's lease allows it, and commits. It refuses to know SQL, sessions and clients.

pub mod lease;
