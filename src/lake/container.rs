//! Owns how large an Avro file is once it is unpacked: some kilobytes may stand for gigabytes, and the reader of manifests unpacks them
//! whole. Refuses to read what is in it.

use std::io::{self, Read};

use flate2::read::DeflateDecoder;

const MAGIC: &[u8] = b"Obj\x01";
const SYNC_BYTES: usize = 16;

/// The bytes of all blocks when they are unpacked; `None` when they are more than `limit`, there are more than `max_records`, or the file
/// is not whole, or is packed in a way that is not known here.
#[must_use]
pub(super) fn unpacked_bytes(file: &[u8], limit: u64, max_records: u64) -> Option<u64> {
    let mut rest = file.strip_prefix(MAGIC)?;
    let codec = codec(&mut rest)?;
    rest = rest.get(SYNC_BYTES..)?;
    let (mut bytes, mut records) = (0_u64, 0_u64);
    while !rest.is_empty() {
        // Parsed, a record takes many times what it takes here.
        records = records.checked_add(u64::try_from(long(&mut rest)?).ok()?).filter(|records| *records <= max_records)?;
        let block = take(&mut rest)?;
        rest = rest.get(SYNC_BYTES..)?;
        bytes = bytes.checked_add(codec.unpacked(block, limit - bytes)?)?;
        if bytes > limit {
            return None;
        }
    }
    Some(bytes)
}

enum Codec {
    Plain,
    Deflate,
    Snappy,
    Zstandard,
}

impl Codec {
    /// The bytes of a block unpacked, or one more than `limit`.
    fn unpacked(&self, block: &[u8], limit: u64) -> Option<u64> {
        let count = |unpacking: &mut dyn Read| io::copy(&mut unpacking.take(limit + 1), &mut io::sink()).ok();
        match self {
            Self::Plain => Some(block.len() as u64),
            Self::Deflate => count(&mut DeflateDecoder::new(block)),
            // Says itself how much it is.
            Self::Snappy => unsigned(&mut &block[..]),
            Self::Zstandard => count(&mut zstd::Decoder::new(block).ok()?),
        }
    }
}

/// Reads the head, which says how blocks are packed.
fn codec(rest: &mut &[u8]) -> Option<Codec> {
    let mut codec = Codec::Plain;
    loop {
        let pairs = long(rest)?;
        if pairs == 0 {
            return Some(codec);
        }
        if pairs < 0 {
            let _bytes = long(rest)?;
        }
        for _ in 0..pairs.unsigned_abs() {
            let (name, value) = (take(rest)?, take(rest)?);
            codec = match (name, value) {
                (b"avro.codec", b"null") => Codec::Plain,
                (b"avro.codec", b"deflate") => Codec::Deflate,
                (b"avro.codec", b"snappy") => Codec::Snappy,
                (b"avro.codec", b"zstandard") => Codec::Zstandard,
                (b"avro.codec", _) => return None,
                _ => codec,
            };
        }
    }
}

/// A length and so many bytes.
fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    // Read first: what is split is what stands behind it.
    let length = usize::try_from(long(rest)?).ok()?;
    let (taken, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(taken)
}

/// A number with its sign in the lowest bit.
fn long(rest: &mut &[u8]) -> Option<i64> {
    unsigned(rest).map(|number| (number >> 1).cast_signed() ^ -(number & 1).cast_signed())
}

/// A number of variable length.
fn unsigned(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, behind) = rest.split_first()?;
        *rest = behind;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use apache_avro::{Codec, DeflateSettings, Schema, Writer, ZstandardSettings};

    use super::*;

    fn file(codec: Codec, records: usize) -> Vec<u8> {
        let schema = Schema::parse_str(r#""string""#).unwrap();
        let mut writer = Writer::with_codec(&schema, Vec::new(), codec);
        for _ in 0..records {
            writer.append("a".repeat(1000)).unwrap();
        }
        writer.into_inner().unwrap()
    }

    #[test]
    fn packed_files_are_measured_and_given_up_beyond_the_limit() {
        let codecs = [
            Codec::Null,
            Codec::Deflate(DeflateSettings::default()),
            Codec::Snappy,
            Codec::Zstandard(ZstandardSettings::default()),
        ];
        for codec in codecs {
            let file = file(codec, 1000);
            assert_eq!(unpacked_bytes(&file, 2_000_000, 1000), Some(1_002_000), "{codec:?}");
            assert_eq!(unpacked_bytes(&file, 1_002_000, 1000), Some(1_002_000), "{codec:?}");
            assert_eq!(unpacked_bytes(&file, 1_001_999, 1000), None, "{codec:?}");
            assert_eq!(unpacked_bytes(&file, 2_000_000, 999), None, "{codec:?}: too many records");
        }
    }

    #[test]
    fn what_is_no_whole_file_is_none() {
        let whole = file(Codec::Deflate(DeflateSettings::default()), 10);
        for end in 0..whole.len() {
            if unpacked_bytes(&whole[..end], u64::MAX, 10).is_some() {
                // Behind the head there is no block yet.
                assert!(end < whole.len() - SYNC_BYTES, "{end}");
            }
        }
        assert_eq!(unpacked_bytes(b"", 10, 10), None);
        assert_eq!(unpacked_bytes(&[&b"Obj\x01"[..], &[0xff; 64]].concat(), 10, 10), None);
    }
}
