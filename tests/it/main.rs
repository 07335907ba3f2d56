//! The integration tests: real gateways, real workers, real catalogs, stock clients.

#![expect(clippy::expect_used, reason = "a failed step is a failed test")]

mod errors;
mod escapes;
mod fire;
mod flight;
mod forge;
mod hardening;
mod harness;
mod hostile;
mod ingest;
mod large;
mod lifecycle;
mod limits;
mod load;
mod malformed;
mod memory;
mod polaris;
mod replay;
#[path = "../support/s3_front/mod.rs"]
mod s3_front;
mod sql;
#[path = "../support/polaris/mod.rs"]
mod stand_in;
mod stock_clients;
mod storage;
mod tpch;
mod upstreams;
mod writes;
