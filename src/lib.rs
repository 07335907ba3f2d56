//! Polynya: an Arrow Flight SQL gateway to Iceberg lakehouses.
//!
//! The data's way, from the bottom up; a module imports only from above it in this list, and `tests/layers.rs` checks that:
//!
//! - [`as_of`], [`error`], [`names`], [`secret`], [`wire`], [`extensions`], [`shutdown`], [`telemetry`]: shared words.
//! - [`auth`]: who is calling, and sealing of what clients carry for us.
//! - [`lake`]: Iceberg files and types; the only user of `iceberg`.
//! - [`relay`]: the Iceberg REST catalog that workers attach.
//! - [`worker`], [`pool`]: the other process, and the gateway's side of it.
//! - [`session`]: client-visible state across calls.
//! - [`query`]: the life of one statement.
//! - [`status`], [`flight`]: the Flight SQL edge.
//! - [`health`]: whether the gateway can work, for load balancers.
//! - [`config`], [`gateway`], [`cli`]: composition, and the command line.

pub mod as_of;
pub mod auth;
pub mod cli;
pub mod config;
pub mod counts;
pub mod error;
pub mod extensions;
pub mod flight;
pub mod gateway;
pub mod headers;
pub mod health;
pub mod lake;
pub mod names;
pub mod pool;
pub mod query;
pub mod relay;
pub mod secret;
pub mod session;
pub mod shutdown;
pub mod status;
pub mod telemetry;
pub mod wire;
pub mod worker;
