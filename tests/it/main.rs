//! The integration tests: real gateways, real workers, real catalogs, stock clients.

#![expect(clippy::expect_used, reason = "a failed step is a failed test")]

mod errors;
mod fire;
mod hardening;
mod flight;
mod harness;
mod lifecycle;
mod load;
mod memory;
mod sql;
mod stock_clients;
mod tpch;
mod writes;
