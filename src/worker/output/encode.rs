//! Owns the way of an Arrow batch into a frame: an IPC header, and the batch's own buffers in the order in which they go over the
//! socket, untouched. Refuses to write, and to decide how large a batch should be.
//!
//! Nested, dictionary, view and union columns take arrow-ipc's own encoder, which copies the whole body once.

use std::io::IoSlice;

use arrow::array::{Array, ArrayData};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow_ipc::writer::{CompressionContext, DictionaryTracker, IpcDataGenerator, IpcWriteOptions, write_message};
use arrow_ipc::{FieldNode, MessageBuilder, MessageHeader, MetadataVersion, RecordBatchBuilder};
use flatbuffers::FlatBufferBuilder;

use crate::wire::{FrameHeader, FrameKind, HEADER_LEN};

/// Buffers of an IPC body start at multiples of this.
const ALIGNMENT: usize = 64;
static PADDING: [u8; ALIGNMENT] = [0; ALIGNMENT];

/// Protobuf `FlightData`: field 2, `data_header`, length-delimited.
const TAG_DATA_HEADER: [u8; 1] = [0x12];
/// Protobuf `FlightData`: field 1000, `data_body`, length-delimited.
const TAG_DATA_BODY: [u8; 2] = [0xC2, 0x3E];
/// gRPC's prefix: not compressed, then the length of the message.
const GRPC_PREFIX_LEN: usize = 5;

/// A frame ready to be written.
pub struct Encoded {
    /// Frame header, gRPC prefix, protobuf tags and the IPC header.
    head: Vec<u8>,
    /// The IPC body without its padding.
    body: Vec<Buffer>,
}

impl Encoded {
    /// Bytes of the frame behind its header.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.head.len() - HEADER_LEN + self.body.iter().map(|buffer| padded(buffer.len())).sum::<usize>()
    }

    /// All bytes of the frame, in order.
    #[must_use]
    pub fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut slices = Vec::with_capacity(1 + 2 * self.body.len());
        slices.push(IoSlice::new(&self.head));
        for buffer in &self.body {
            slices.push(IoSlice::new(buffer));
            let padding = padding(buffer.len());
            if padding > 0 {
                slices.push(IoSlice::new(&PADDING[..padding]));
            }
        }
        slices
    }
}

/// A SCHEMA frame.
pub fn schema(schema: &Schema) -> Result<Encoded, ArrowError> {
    let message = schema_message(schema);
    frame(FrameKind::Schema, &message.ipc_message, Vec::new())
}

/// A schema as IPC encapsulated message: continuation marker, length, flatbuffer, padding.
pub fn encapsulated_schema(schema: &Schema) -> Result<Vec<u8>, ArrowError> {
    let mut bytes = Vec::new();
    write_message(&mut bytes, schema_message(schema), &IpcWriteOptions::default())?;
    Ok(bytes)
}

fn schema_message(schema: &Schema) -> arrow_ipc::writer::EncodedData {
    let mut tracker = DictionaryTracker::new(false);
    IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(schema, &mut tracker, &IpcWriteOptions::default())
}

/// A BATCH frame. The batch has no dictionaries.
pub fn batch(batch: &RecordBatch) -> Result<Encoded, ArrowError> {
    if batch.columns().iter().all(|column| is_flat(column.data_type())) {
        return gather(batch);
    }
    let mut tracker = DictionaryTracker::new(false);
    let options = IpcWriteOptions::default();
    let (_, data) = IpcDataGenerator::default().encode(batch, &mut tracker, &options, &mut CompressionContext::default())?;
    frame(FrameKind::Batch, &data.ipc_message, vec![Buffer::from_vec(data.arrow_data)])
}

/// Bytes of a batch's values, counting only what its rows use.
#[must_use]
pub fn batch_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or(usize::MAX / 1024)).sum()
}

fn is_flat(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Boolean | DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary)
        || matches!(data_type, DataType::FixedSizeBinary(_))
        || data_type.primitive_width().is_some()
}

#[derive(Default)]
struct Body {
    buffers: Vec<Buffer>,
    places: Vec<arrow_ipc::Buffer>,
    len: usize,
}

impl Body {
    #[expect(clippy::cast_possible_wrap, reason = "lengths of buffers in memory")]
    fn push(&mut self, buffer: Buffer) {
        self.places.push(arrow_ipc::Buffer::new(self.len as i64, buffer.len() as i64));
        self.len += padded(buffer.len());
        if !buffer.is_empty() {
            self.buffers.push(buffer);
        }
    }

    fn push_column(&mut self, data: &ArrayData) {
        match data.nulls() {
            Some(nulls) if nulls.null_count() > 0 => self.push(nulls.inner().sliced()),
            // An absent bitmap is an empty buffer.
            _ => self.push(Buffer::default()),
        }
        let (offset, len) = (data.offset(), data.len());
        match data.data_type() {
            DataType::Boolean => self.push(data.buffers()[0].bit_slice(offset, len)),
            DataType::Utf8 | DataType::Binary => self.push_bytes::<i32>(data),
            DataType::LargeUtf8 | DataType::LargeBinary => self.push_bytes::<i64>(data),
            DataType::FixedSizeBinary(width) => {
                let width = usize::try_from(*width).unwrap_or(0);
                self.push(data.buffers()[0].slice_with_length(offset * width, len * width));
            }
            other => {
                let width = other.primitive_width().unwrap_or(0);
                self.push(data.buffers()[0].slice_with_length(offset * width, len * width));
            }
        }
    }

    /// Offsets and bytes. Offsets of a slice that does not begin with the array's first byte must be moved, so these alone are copied.
    fn push_bytes<O>(&mut self, data: &ArrayData)
    where
        O: arrow::array::OffsetSizeTrait + std::ops::Sub<Output = O>,
    {
        let (offset, len) = (data.offset(), data.len());
        if len == 0 {
            self.push(Buffer::from_slice_ref([O::default()]));
            self.push(Buffer::default());
            return;
        }
        let offsets = &data.buffers()[0].typed_data::<O>()[offset..=offset + len];
        let (first, last) = (offsets[0], offsets[len]);
        if first == O::default() {
            let width = size_of::<O>();
            self.push(data.buffers()[0].slice_with_length(offset * width, (len + 1) * width));
        } else {
            self.push(offsets.iter().map(|at| *at - first).collect::<Vec<O>>().into());
        }
        self.push(data.buffers()[1].slice_with_length(first.as_usize(), (last - first).as_usize()));
    }
}

#[expect(clippy::cast_possible_wrap, reason = "lengths of arrays in memory")]
fn gather(batch: &RecordBatch) -> Result<Encoded, ArrowError> {
    let mut body = Body::default();
    let mut nodes = Vec::with_capacity(batch.num_columns());
    for column in batch.columns() {
        nodes.push(FieldNode::new(column.len() as i64, column.null_count() as i64));
        body.push_column(&column.to_data());
    }
    let mut builder = FlatBufferBuilder::new();
    let places = builder.create_vector(&body.places);
    let nodes = builder.create_vector(&nodes);
    let record_batch = {
        let mut record_batch = RecordBatchBuilder::new(&mut builder);
        record_batch.add_length(batch.num_rows() as i64);
        record_batch.add_nodes(nodes);
        record_batch.add_buffers(places);
        record_batch.finish().as_union_value()
    };
    let mut message = MessageBuilder::new(&mut builder);
    message.add_version(MetadataVersion::V5);
    message.add_header_type(MessageHeader::RecordBatch);
    message.add_bodyLength(body.len as i64);
    message.add_header(record_batch);
    let message = message.finish();
    builder.finish(message, None);
    frame(FrameKind::Batch, builder.finished_data(), body.buffers)
}

/// Puts the frame header, gRPC prefix and protobuf tags before an IPC message.
fn frame(kind: FrameKind, ipc_header: &[u8], body: Vec<Buffer>) -> Result<Encoded, ArrowError> {
    let too_large = |_| ArrowError::IpcError("a frame above 4 GB".to_owned());
    let body_len: usize = body.iter().map(|buffer| padded(buffer.len())).sum();
    let mut head = vec![0; HEADER_LEN + GRPC_PREFIX_LEN];
    head.extend_from_slice(&TAG_DATA_HEADER);
    push_varint(&mut head, ipc_header.len());
    let header_at = head.len() - HEADER_LEN;
    head.extend_from_slice(ipc_header);
    if body_len > 0 {
        head.extend_from_slice(&TAG_DATA_BODY);
        push_varint(&mut head, body_len);
    }
    let body_at = head.len() - HEADER_LEN;
    let len = u32::try_from(body_at + body_len).map_err(too_large)?;
    let header = FrameHeader {
        len,
        kind,
        header_at: u16::try_from(header_at).map_err(too_large)?,
        header_len: u32::try_from(ipc_header.len()).map_err(too_large)?,
        body_at: u32::try_from(body_at).map_err(too_large)?,
    };
    head[..HEADER_LEN].copy_from_slice(&header.to_bytes());
    #[expect(clippy::cast_possible_truncation, reason = "a constant of 5")]
    let message_len = len - GRPC_PREFIX_LEN as u32;
    head[HEADER_LEN + 1..HEADER_LEN + GRPC_PREFIX_LEN].copy_from_slice(&message_len.to_be_bytes());
    Ok(Encoded { head, body })
}

#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
fn push_varint(bytes: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn padding(len: usize) -> usize {
    len.next_multiple_of(ALIGNMENT) - len
}

fn padded(len: usize) -> usize {
    len.next_multiple_of(ALIGNMENT)
}
