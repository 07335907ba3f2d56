//! What comes into a statement from the client: parameters, and batches to ingest. Refuses to judge and to answer.

pub mod arrow_input;
pub mod column_types;
pub mod ingest;
pub mod parameters;
