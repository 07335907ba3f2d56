//! The integration tests: real gateways, real workers, real catalogs, stock clients.

mod errors;
mod flight;
mod harness;
mod lifecycle;
mod load;
mod replay;
mod sql;
mod stock_clients;
mod tpch;
