//! Owns what stands between a verdict and the snapshots of its past reads: the values of its AT clauses, and what the gateway made of
//! them. Refuses to know which snapshots there are.

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;

use super::binding::{Connection, Outcome};
use super::failure::StatementError;
use super::guard::{PastAt, PastRead};
use crate::wire::proto;
use crate::wire::proto::failure::Kind;
use crate::wire::proto::past_read::At;

/// No name of a branch is longer.
const MAX_VERSION_BYTES: usize = 1 << 10;

/// The past reads of a verdict with the values of their expressions, which have no columns and no parameters.
pub fn evaluated(connection: &Connection, reads: &[PastRead]) -> Result<Vec<proto::PastRead>, StatementError> {
    let evaluated = |PastRead { table, at }: &PastRead| {
        let at = match at {
            PastAt::Session => At::Session(true),
            PastAt::Now => At::Now(true),
            PastAt::Version(expression) => At::Version(short(value(connection, &format!("CAST(({expression}) AS VARCHAR)"))?)?),
            PastAt::Timestamp(expression) => {
                let ms = value(connection, &format!("epoch_ms(CAST(({expression}) AS TIMESTAMPTZ))"))?;
                At::TimestampMs(ms.parse().map_err(|_| no_value())?)
            }
        };
        Ok(proto::PastRead { table: Some(table.clone()), at: Some(at) })
    };
    reads.iter().map(evaluated).collect()
}

/// The reads with the snapshots that the gateway gives for them, in the same order.
pub fn settled(reads: &[PastRead], versions: &[proto::PastVersion]) -> Result<Vec<(PastRead, Option<i64>)>, StatementError> {
    if reads.len() != versions.len() {
        let message = format!("{} snapshots for {} reads", versions.len(), reads.len());
        return Err(StatementError::new(Kind::Internal, message));
    }
    Ok(reads.iter().cloned().zip(versions.iter().map(|version| version.snapshot)).collect())
}

/// A version that may be one.
fn short(version: String) -> Result<String, StatementError> {
    if version.len() <= MAX_VERSION_BYTES {
        return Ok(version);
    }
    let message = format!("a version of {} bytes: it is the id of a snapshot or the name of a branch or a tag", version.len());
    Err(StatementError::new(Kind::Invalid, message))
}

fn value(connection: &Connection, expression: &str) -> Result<String, StatementError> {
    let mut statement = connection.prepare(&format!("SELECT {expression}"))?;
    let Outcome::Rows(mut rows) = statement.complete()? else { return Err(no_value()) };
    let batch = rows.next_batch()?.filter(|batch| batch.num_rows() == 1).ok_or_else(no_value)?;
    let text = cast(batch.column(0), &DataType::Utf8)?;
    let text = text.as_string_opt::<i32>().filter(|text| text.is_valid(0)).ok_or_else(no_value)?;
    Ok(text.value(0).to_owned())
}

fn no_value() -> StatementError {
    let message = "AT takes the id of a snapshot, the name of a branch or a tag, or an instant, and not NULL";
    StatementError::new(Kind::Invalid, message)
}
