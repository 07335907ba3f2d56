//! What goes out of a statement to the client: its rows in the client's types, encoded as finished messages, and written. Refuses to
//! know what was asked.

pub mod encode;
pub mod pipeline;
pub mod plan;
mod pulse;
pub mod socket;
pub mod stream;
pub mod types;
