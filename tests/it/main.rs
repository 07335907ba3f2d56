//! The integration tests: real gateways, real workers, real catalogs, stock clients.

#![expect(clippy::expect_used, reason = "a failed step is a failed test")]

mod caching;
mod callers;
mod catalogs;
mod check_catalog;
mod errors;
mod escapes;
mod fire;
mod flight;
mod forge;
mod hardening;
mod harness;
mod hostile;
mod identity;
mod ingest;
mod large;
mod lifecycle;
mod limits;
mod listings;
mod load;
mod logins;
mod malformed;
mod memory;
mod outage;
mod past;
mod pki;
mod planted;
mod polaris;
mod principals;
mod readiness;
mod replay;
#[path = "../support/s3_front/mod.rs"]
mod s3_front;
mod sessions;
mod sql;
#[path = "../support/polaris/mod.rs"]
mod stand_in;
mod stock_clients;
mod stock_logins;
mod storage;
mod tls;
mod tokens;
mod tpch;
mod upstreams;
mod writes;
