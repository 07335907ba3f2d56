//! Owns the decoding of a client's Arrow data out of frames. What a client sends is not trusted: everything is validated. Refuses to
//! know what becomes of the rows.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use arrow_ipc::reader::{read_dictionary, read_record_batch};
use arrow_ipc::{Message, MessageHeader, convert::fb_to_schema};

use super::{DO_NOT_FIT, survived};
use crate::headers;
use crate::wire::proto::failure::Kind;
use crate::wire::{FrameHeader, FrameKind};
use crate::worker::failure::StatementError;

/// A stream of a client's batches.
pub struct ArrowInput {
    schema: SchemaRef,
    dictionaries: HashMap<i64, ArrayRef>,
}

/// What a frame brought.
pub enum Input {
    /// Rows.
    Rows(RecordBatch),
    /// A dictionary, or a message without rows.
    Nothing,
    /// The end of the stream.
    End,
}

impl ArrowInput {
    /// Begins with the schema's frame.
    pub fn begin(header: FrameHeader, payload: &[u8]) -> Result<Self, StatementError> {
        if header.kind != FrameKind::Schema {
            return Err(unreadable(format!("{:?} frame instead of a schema", header.kind)));
        }
        let message = message(header, payload)?;
        let schema = message.header_as_schema().ok_or_else(|| unreadable("the first message is no schema"))?;
        let schema = survived(|| fb_to_schema(schema)).ok_or_else(|| unreadable(DO_NOT_FIT))?;
        Ok(Self { schema: Arc::new(schema), dictionaries: HashMap::new() })
    }

    /// The schema, in the client's own types.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Decodes the next frame.
    pub fn next(&mut self, header: FrameHeader, payload: &[u8]) -> Result<Input, StatementError> {
        match header.kind {
            FrameKind::EndOfInput => return Ok(Input::End),
            FrameKind::Batch => {}
            other => return Err(unreadable(format!("{other:?} frame among the rows"))),
        }
        if header.header_len == 0 {
            return Ok(Input::Nothing);
        }
        let message = message(header, payload)?;
        // One copy, which puts the buffers where Arrow wants them: an offset in a frame is not aligned.
        let body = Buffer::from(&payload[header.body_at as usize..]);
        match message.header_type() {
            MessageHeader::RecordBatch => {
                let batch = message.header_as_record_batch().ok_or_else(|| unreadable("an empty record batch"))?;
                let schema = Arc::clone(&self.schema);
                let read = || read_record_batch(&body, batch, schema, &self.dictionaries, None, &message.version());
                survived(read).ok_or_else(|| unreadable(DO_NOT_FIT))?.map(Input::Rows).map_err(unreadable)
            }
            MessageHeader::DictionaryBatch => {
                let batch = message.header_as_dictionary_batch().ok_or_else(|| unreadable("an empty dictionary"))?;
                let read = || read_dictionary(&body, batch, &self.schema, &mut self.dictionaries, &message.version());
                survived(read).ok_or_else(|| unreadable(DO_NOT_FIT))?.map_err(unreadable)?;
                Ok(Input::Nothing)
            }
            _ => Ok(Input::Nothing),
        }
    }
}

fn message(header: FrameHeader, payload: &[u8]) -> Result<Message<'_>, StatementError> {
    let at = header.header_at as usize;
    headers::read(&payload[at..at + header.header_len as usize]).map_err(unreadable)
}

fn unreadable(reason: impl std::fmt::Display) -> StatementError {
    StatementError::new(Kind::Invalid, format!("the Arrow data cannot be read: {reason}"))
}
