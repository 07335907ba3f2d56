//! What goes out of a statement to the client: batches encoded as finished messages, and written. Refuses to know what was asked.

pub mod encode;
pub mod plan;
pub mod stream;
