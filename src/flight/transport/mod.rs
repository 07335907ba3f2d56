//! What lies between HTTP/2 and the calls of the edge: accepted connections, request bodies that are whole or an error, and results that
//! pass through as they came from a worker. Refuses to know Flight SQL.

pub mod listener;
mod requests;
pub(super) mod results;

pub use requests::WholeRequests;
