//! Owns Avro files as containers: what their head says, their blocks unpacked, and containers made anew. Some kilobytes may stand for
//! gigabytes, and nothing is unpacked beyond what its caller allows. Refuses to read what is in a record.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::DeflateDecoder;

use super::Unreadable;

const MAGIC: &[u8] = b"Obj\x01";
const SYNC_BYTES: usize = 16;
const CODEC: &[u8] = b"avro.codec";
const SCHEMA: &[u8] = b"avro.schema";

/// Of what a head says; writers say some ten things.
const MAX_PAIRS: usize = 1000;

/// An Avro file.
pub(super) struct Container<'a> {
    /// What the head says, name and value, without how blocks are packed.
    pairs: Vec<(&'a [u8], &'a [u8])>,
    codec: Codec,
    sync: &'a [u8],
    rest: &'a [u8],
}

/// Some records of a file.
pub(super) struct Block<'a> {
    pub(super) records: u64,
    /// They, unpacked.
    pub(super) bytes: Cow<'a, [u8]>,
}

impl<'a> Container<'a> {
    /// Reads the head, of so many bytes at the most.
    pub(super) fn open(file: &'a [u8], max_head: usize) -> Result<Self, Unreadable> {
        let mut rest = file.strip_prefix(MAGIC).ok_or(Unreadable::Broken)?;
        let whole = rest.len();
        let mut opened = Self { pairs: Vec::new(), codec: Codec::Plain, sync: &[], rest: &[] };
        opened.head(&mut rest).ok_or(Unreadable::Broken)?;
        if whole - rest.len() > max_head {
            return Err(Unreadable::Head(max_head as u64));
        }
        (opened.sync, opened.rest) = rest.split_at_checked(SYNC_BYTES).ok_or(Unreadable::Broken)?;
        Ok(opened)
    }

    /// What its records look like, in JSON.
    pub(super) fn schema(&self) -> Option<&'a str> {
        self.said(SCHEMA).last().and_then(|schema| std::str::from_utf8(schema).ok())
    }

    /// What the head says by this name, in order; a reader may take any of it.
    pub(super) fn said(&self, name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
        self.pairs.iter().filter(move |(said, _)| *said == name).map(|(_, value)| *value)
    }

    /// The next block, of at most so many bytes unpacked; `None` behind the last one.
    pub(super) fn next(&mut self, limit: u64) -> Result<Option<Block<'a>>, Unreadable> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (records, packed) = self.packed().ok_or(Unreadable::Broken)?;
        let bytes = self.codec.unpacked(packed, limit)?;
        if bytes.len() as u64 > limit {
            return Err(Unreadable::Bytes(limit));
        }
        Ok(Some(Block { records, bytes }))
    }

    /// The beginning of a file that is like this one and not packed.
    pub(super) fn anew(&self) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        put_long(&mut file, self.pairs.len() + 1);
        for (name, value) in self.pairs.iter().chain(&[(CODEC, &b"null"[..])]) {
            put_bytes(&mut file, name);
            put_bytes(&mut file, value);
        }
        put_long(&mut file, 0);
        file.extend_from_slice(self.sync);
        file
    }

    /// Adds these records to a file that was begun so.
    pub(super) fn put(&self, file: &mut Vec<u8>, records: usize, bytes: &[u8]) {
        put_long(file, records);
        put_bytes(file, bytes);
        file.extend_from_slice(self.sync);
    }

    fn packed(&mut self) -> Option<(u64, &'a [u8])> {
        let records = u64::try_from(long(&mut self.rest)?).ok()?;
        let packed = take(&mut self.rest)?;
        self.rest = self.rest.strip_prefix(self.sync)?;
        Some((records, packed))
    }

    fn head(&mut self, rest: &mut &'a [u8]) -> Option<()> {
        loop {
            let pairs = long(rest)?;
            if pairs == 0 {
                return Some(());
            }
            if pairs < 0 {
                let _bytes = long(rest)?;
            }
            for _ in 0..pairs.unsigned_abs() {
                let (name, value) = (take(rest)?, take(rest)?);
                if name == CODEC {
                    self.codec = Codec::of(value)?;
                } else {
                    self.pairs.push((name, value));
                }
                if self.pairs.len() > MAX_PAIRS {
                    return None;
                }
            }
        }
    }
}

enum Codec {
    Plain,
    Deflate,
    Snappy,
    Zstandard,
}

impl Codec {
    fn of(name: &[u8]) -> Option<Self> {
        match name {
            b"null" => Some(Self::Plain),
            b"deflate" => Some(Self::Deflate),
            b"snappy" => Some(Self::Snappy),
            b"zstandard" => Some(Self::Zstandard),
            _ => None,
        }
    }

    /// A block unpacked, or one byte of it more than `limit`.
    fn unpacked<'a>(&self, block: &'a [u8], limit: u64) -> Result<Cow<'a, [u8]>, Unreadable> {
        let broken = |_| Unreadable::Broken;
        let read = |unpacking: &mut dyn Read| {
            let mut bytes = Vec::new();
            unpacking.take(limit + 1).read_to_end(&mut bytes).map_err(broken)?;
            Ok(Cow::Owned(bytes))
        };
        match self {
            Self::Plain => Ok(Cow::Borrowed(block)),
            Self::Deflate => read(&mut DeflateDecoder::new(block)),
            Self::Snappy => {
                // Says itself how much it is, and takes no more than it says.
                // Behind it stand four bytes by which it is checked.
                let packed = block.len().checked_sub(4).and_then(|length| block.get(..length));
                let length = packed.and_then(|mut packed| unsigned(&mut packed)).ok_or(Unreadable::Broken)?;
                if length > limit {
                    return Err(Unreadable::Bytes(limit));
                }
                let mut bytes = block.to_vec();
                apache_avro::Codec::Snappy.decompress(&mut bytes).map_err(|_| Unreadable::Broken)?;
                Ok(Cow::Owned(bytes))
            }
            Self::Zstandard => read(&mut zstd::Decoder::new(block).map_err(broken)?),
        }
    }
}

/// A length and so many bytes.
pub(super) fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    // Read first: what is split is what stands behind it.
    let length = usize::try_from(long(rest)?).ok()?;
    skip(rest, length)
}

/// So many bytes.
pub(super) fn skip<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(taken)
}

/// A number with its sign in the lowest bit.
pub(super) fn long(rest: &mut &[u8]) -> Option<i64> {
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

/// Writes a number that is not negative.
pub(super) fn put_long(to: &mut Vec<u8>, number: usize) {
    let mut left = (number as u64) << 1;
    while left > 0x7f {
        to.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    to.push(left as u8);
}

/// Writes a length and so many bytes.
pub(super) fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    put_long(to, bytes.len());
    to.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use apache_avro::{Codec, DeflateSettings, Reader, Schema, Writer, ZstandardSettings};

    use super::*;

    const MAX_HEAD: usize = 1 << 20;

    fn codecs() -> [Codec; 4] {
        let zstandard = Codec::Zstandard(ZstandardSettings::default());
        [Codec::Null, Codec::Deflate(DeflateSettings::default()), Codec::Snappy, zstandard]
    }

    fn file(codec: Codec, records: usize) -> Vec<u8> {
        let schema = Schema::parse_str(r#""string""#).unwrap();
        let mut writer = Writer::with_codec(&schema, Vec::new(), codec);
        for _ in 0..records {
            writer.append("a".repeat(1000)).unwrap();
        }
        writer.into_inner().unwrap()
    }

    /// How many records and bytes are in it, if no block has more than `limit`.
    fn measured(file: &[u8], limit: u64) -> Result<(u64, u64), Unreadable> {
        let mut opened = Container::open(file, MAX_HEAD)?;
        let (mut records, mut bytes) = (0, 0);
        while let Some(block) = opened.next(limit)? {
            (records, bytes) = (records + block.records, bytes + block.bytes.len() as u64);
        }
        Ok((records, bytes))
    }

    #[test]
    fn packed_blocks_are_unpacked_and_given_up_beyond_the_limit() {
        for codec in codecs() {
            let file = file(codec, 10);
            assert_eq!(measured(&file, 20_000), Ok((10, 10_020)), "{codec:?}");
            assert_eq!(measured(&file, 10_020), Ok((10, 10_020)), "{codec:?}");
            assert_eq!(measured(&file, 10_019), Err(Unreadable::Bytes(10_019)), "{codec:?}");
        }
    }

    #[test]
    fn a_file_made_anew_has_the_same_records() {
        for codec in codecs() {
            let file = file(codec, 40);
            let mut opened = Container::open(&file, MAX_HEAD).unwrap();
            assert_eq!(opened.schema(), Some(r#""string""#));
            let mut anew = opened.anew();
            while let Some(block) = opened.next(u64::MAX >> 1).unwrap() {
                opened.put(&mut anew, block.records as usize, &block.bytes);
            }
            let records = |file: &[u8]| Reader::new(file).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
            assert_eq!(records(&anew), records(&file), "{codec:?}");
            assert_eq!(Reader::new(&anew[..]).unwrap().user_metadata(), Reader::new(&file[..]).unwrap().user_metadata());
        }
    }

    #[test]
    fn what_is_no_whole_file_is_refused() {
        let whole = file(Codec::Deflate(DeflateSettings::default()), 10);
        for end in 0..whole.len() {
            if measured(&whole[..end], u64::MAX >> 1).is_ok() {
                // Behind the head there is no block yet.
                assert!(end < whole.len() - SYNC_BYTES, "{end}");
            }
        }
        assert_eq!(measured(b"", 10), Err(Unreadable::Broken));
        assert_eq!(measured(&[&b"Obj\x01"[..], &[0xff; 64]].concat(), 10), Err(Unreadable::Broken));
        let mut long = b"Obj\x01".to_vec();
        put_long(&mut long, 1);
        put_bytes(&mut long, b"x");
        put_bytes(&mut long, &vec![b'x'; MAX_HEAD]);
        put_long(&mut long, 0);
        assert_eq!(measured(&long, 10), Err(Unreadable::Head(MAX_HEAD as u64)));
    }
}
