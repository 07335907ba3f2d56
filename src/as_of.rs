//! Owns the instant that tables are read at when a session looks into the past: how it is written and shown, and which are refused.
//! Refuses to know what a table was at that time.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use arrow::temporal_conversions::timestamp_ms_to_datetime;

/// How far in the future an instant may lie: clocks are not all the same. What is further off would not stay what it is.
const AHEAD_MS: i64 = 60_000;

/// What stands for "no instant" besides nothing.
const NONE: &str = "~";

/// An instant in milliseconds since 1970, which is what Iceberg's snapshots are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AsOf(i64);

/// Why a text is no such instant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AsOfError {
    /// It cannot be read.
    #[error(
        "as_of takes an instant such as 2026-03-01T12:00:00Z (RFC 3339; without a zone it is UTC), or nothing or ~ to end it, not \"{0}\""
    )]
    Malformed(String),
    /// It is still to come.
    #[error("as_of is in the future: {0}; it takes an instant that has passed")]
    Future(AsOf),
}

impl AsOf {
    /// Reads an instant; `None` for an empty text and `~`, which end it.
    ///
    /// # Errors
    /// When it is malformed, or in the future.
    pub fn parse(text: &str) -> Result<Option<Self>, AsOfError> {
        let text = text.trim();
        if text.is_empty() || text == NONE {
            return Ok(None);
        }
        let nanos = string_to_timestamp_nanos(text).map_err(|_| AsOfError::Malformed(text.chars().take(64).collect()))?;
        let instant = Self(nanos.div_euclid(1_000_000));
        if instant.0 > now_ms().saturating_add(AHEAD_MS) {
            return Err(AsOfError::Future(instant));
        }
        Ok(Some(instant))
    }

    /// By the clock of this machine.
    #[must_use]
    pub fn now() -> Self {
        Self(now_ms())
    }

    /// Of milliseconds since 1970.
    #[must_use]
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn ms(self) -> i64 {
        self.0
    }
}

/// As RFC 3339 in UTC.
impl fmt::Display for AsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match timestamp_ms_to_datetime(self.0) {
            Some(time) => write!(f, "{}Z", time.format("%Y-%m-%dT%H:%M:%S%.3f")),
            None => write!(f, "{} ms", self.0),
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read_with_and_without_a_zone() {
        for (text, shown) in [
            ("2026-03-01T12:00:00Z", "2026-03-01T12:00:00.000Z"),
            ("2026-03-01 12:00:00.123456+02:00", "2026-03-01T10:00:00.123Z"),
            (" 2026-03-01T12:00:00 ", "2026-03-01T12:00:00.000Z"),
            ("2026-03-01", "2026-03-01T00:00:00.000Z"),
            ("1969-12-31T23:59:59.9999Z", "1969-12-31T23:59:59.999Z"),
        ] {
            let instant = AsOf::parse(text).unwrap().unwrap();
            assert_eq!(instant.to_string(), shown, "{text}");
            assert_eq!(AsOf::parse(shown).unwrap(), Some(instant));
        }
        for none in ["", " ", "~"] {
            assert_eq!(AsOf::parse(none), Ok(None));
        }
    }

    #[test]
    fn what_is_no_instant_or_still_to_come_is_refused() {
        for wrong in ["yesterday", "12:00", "2026-13-01T00:00:00Z", "2026-03-01T12:00:00 Mars/North", "1772366400000", "1e9"] {
            assert!(matches!(AsOf::parse(wrong), Err(AsOfError::Malformed(_))), "{wrong}");
        }
        assert!(matches!(AsOf::parse("2261-01-01"), Err(AsOfError::Future(_))));
        let soon = AsOf::from_ms(now_ms() + AHEAD_MS / 2);
        assert_eq!(AsOf::parse(&soon.to_string()), Ok(Some(soon)));
    }
}
