//! Owns reading the headers of Arrow IPC messages that others have written. Refuses to read what a header describes.

use arrow_ipc::{Message, root_as_message_with_opts};
use flatbuffers::{InvalidFlatbuffer, VerifierOptions};

/// Parts of a header, and bytes of what it says, each counted as often as it is named: a header may name a part of itself many times,
/// and what reads it makes one of each. A column with the metadata of Flight SQL has up to 13.
const MAX_PARTS: usize = 250_000;
const MAX_SAID_BYTES: usize = 32 << 20;

/// Why a header is not read.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// It is none.
    #[error("{0}")]
    Broken(InvalidFlatbuffer),
    /// It stands for far more than its bytes.
    #[error("it describes more than {} parts or {} MB of names and metadata; send fewer columns, or less with them", MAX_PARTS, MAX_SAID_BYTES >> 20)]
    TooMuch,
}

/// The header of a message, as Arrow's format describes it.
///
/// # Errors
/// When it is none, or stands for far more than its bytes.
pub fn read(header: &[u8]) -> Result<Message<'_>, Unread> {
    let bounds = VerifierOptions { max_tables: MAX_PARTS, max_apparent_size: MAX_SAID_BYTES, ..VerifierOptions::default() };
    root_as_message_with_opts(&bounds, header).map_err(|error| match error {
        InvalidFlatbuffer::TooManyTables | InvalidFlatbuffer::ApparentSizeTooLarge => Unread::TooMuch,
        error => Unread::Broken(error),
    })
}
