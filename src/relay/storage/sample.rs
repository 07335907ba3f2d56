//! Owns reading a small part of a file, or a short file whole, with the way that workers' files come. Refuses to say what a refusal
//! means; it keeps the store's own words apart for who does.

use std::sync::Arc;

use bytes::Bytes;

use super::Storage;
use super::store::{Asked, Outcome, StoreFault};
use crate::relay::Relay;
use crate::relay::error::CatalogError;

/// Why nothing was read.
#[derive(Debug)]
pub(in crate::relay) enum Trouble {
    /// There are no keys for the file.
    NoAccess(CatalogError),
    /// No connection, or no answer in time.
    Unreachable(String),
    /// The store answered something else than what it was asked for.
    Failing(String),
    /// The store will not.
    Refused { status: u16, code: String, message: String },
    /// It is no place in a store, or longer than it may be.
    Unfit(String),
}

/// Reads a file, or the bytes of it from the first number to the second; not more than `limit`.
pub(in crate::relay) async fn sample(
    relay: &Relay,
    storage: &Arc<Storage>,
    location: &str,
    part: Option<(u64, u64)>,
    limit: usize,
) -> Result<Bytes, Trouble> {
    let asked = Asked::file(location).ok_or_else(|| Trouble::Unfit(format!("{location} is no file of a store")))?;
    let asked = Asked { range: part.map(|(first, last)| (first, Some(last))), ..asked };
    let served = match relay.store.ask(storage, asked).await? {
        Outcome::Served(served) => *served,
        Outcome::Refused(refused) => {
            return Err(Trouble::Refused { status: refused.status.as_u16(), code: refused.code, message: refused.message });
        }
    };
    let whole = relay.store.whole(storage, served, limit as u64).await?;
    whole.ok_or_else(|| Trouble::Unfit(format!("{location} has more than {limit} bytes")))
}

impl From<StoreFault> for Trouble {
    fn from(fault: StoreFault) -> Self {
        match fault {
            StoreFault::Access(error) => Self::NoAccess(error),
            StoreFault::Unreachable { .. } | StoreFault::Timeout { .. } => Self::Unreachable(fault.to_string()),
            StoreFault::Wrong { .. } => Self::Failing(fault.to_string()),
        }
    }
}
