//! What comes into a statement from the client: parameters, and batches to ingest. Refuses to judge and to answer.

pub mod arrow_input;
pub mod column_types;
pub mod ingest;
pub mod parameters;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Reads bytes that a client has sent by a reader of Arrow's, which panics on some lengths, offsets and types that do not fit together.
/// `None` then: the reader is gone with what it has read so far.
fn survived<T>(read: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(read)).ok()
}

/// What such bytes are, for the client.
const DO_NOT_FIT: &str = "its lengths, offsets and types do not fit together";
