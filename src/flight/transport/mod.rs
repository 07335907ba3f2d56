//! What lies between HTTP/2 and the calls of the edge: accepted connections and their TLS, request bodies that are whole or an error,
//! and results that pass through as they came from a worker. Refuses to know Flight SQL.

mod expiry;
pub mod listener;
mod misdirected;
mod opening;
mod places;
mod requests;
pub(super) mod results;
pub mod tls;

pub use expiry::UnexpiredCallers;
pub use opening::Limits;
pub use requests::WholeRequests;

#[cfg(test)]
mod tests;
