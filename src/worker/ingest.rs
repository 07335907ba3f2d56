//! Owns an ingest: batches that a client sends become rows of a table.

use super::binding::Connection;
use super::connection::{Shared, Trouble};
use super::failure::StatementError;
use super::statements::Running;
use super::stream::DataSocket;
use crate::wire::proto::failure::Kind;
use crate::wire::proto::{Done, Ingest, Request};

/// Serves one ingest.
pub fn serve(
    _shared: &Shared,
    _engine: &Connection,
    _socket: &DataSocket,
    _request: &Request,
    _order: &Ingest,
    _running: &mut Running,
) -> Result<Option<Done>, Trouble> {
    Err(StatementError::new(Kind::Unsupported, "ingest is not built yet").into())
}
