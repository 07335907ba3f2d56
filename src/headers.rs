//! Owns reading the headers of Arrow IPC messages that others have written. Refuses to read what a header describes.

use arrow_ipc::{Message, root_as_message_with_opts};
use flatbuffers::{InvalidFlatbuffer, VerifierOptions};

/// Parts of a header, and bytes of what it says, each counted as often as it is named: a header may name a part of itself many times,
/// and what reads it makes one of each. A column has some five parts.
const MAX_PARTS: usize = 50_000;
const MAX_SAID_BYTES: usize = 8 << 20;

/// The header of a message, as Arrow's format describes it.
///
/// # Errors
/// When it is none, or stands for far more than its bytes.
pub fn read(header: &[u8]) -> Result<Message<'_>, InvalidFlatbuffer> {
    let bounds = VerifierOptions { max_tables: MAX_PARTS, max_apparent_size: MAX_SAID_BYTES, ..VerifierOptions::default() };
    root_as_message_with_opts(&bounds, header)
}
