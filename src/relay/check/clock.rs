//! Owns how far a server's clock is from ours, by the `Date` of its answers. Refuses to set any.

use std::time::{Duration, SystemTime};

use super::faults::BY_NTP;
use super::{Fault, Found};

/// A `Date` counts whole seconds, and its answer was under way for some time.
const SURE: Duration = Duration::from_secs(30);

/// From here on tokens and keys are taken for expired, or not yet valid.
const TOO_MUCH: Duration = Duration::from_secs(300);

/// By how much a server is ahead of us (`true`) or behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Skew {
    pub(super) by: Duration,
    pub(super) ahead: bool,
}

impl Skew {
    /// By the `Date` of an answer that was asked for and came at these times.
    pub(super) fn of(date: &str, asked: SystemTime, came: SystemTime) -> Option<Self> {
        let theirs = httpdate::parse_http_date(date.trim()).ok()?;
        Some(match (theirs.duration_since(came), asked.duration_since(theirs)) {
            (Ok(by), _) => Self { by, ahead: true },
            (_, Ok(by)) => Self { by, ahead: false },
            // It lies between question and answer.
            _ => Self { by: Duration::ZERO, ahead: false },
        })
    }
}

/// What the clocks of these hosts come to.
pub(super) fn found(skews: &[(String, Skew)]) -> Found {
    let Some((host, skew)) = skews.iter().max_by_key(|(_, skew)| skew.by) else {
        return Found::skipped("no answer had a date");
    };
    let direction = if skew.ahead { "behind" } else { "ahead of" };
    let detail = format!("this machine's clock is {} s {direction} that of {host}", skew.by.as_secs());
    if skew.by >= TOO_MUCH {
        Found::failed(Fault::ClockOff, BY_NTP, detail)
    } else if skew.by >= SURE {
        Found::warning(detail, BY_NTP)
    } else {
        Found::ok(format!("agrees with that of {host} within {} s", skew.by.as_secs().max(1)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::relay::check::Status;

    #[test]
    fn a_clock_is_told_from_one_that_is_off() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let date = "Thu, 01 Jan 1970 01:00:00 GMT";
        let skew = |asked, came| Skew::of(date, at(asked), at(came)).unwrap();
        assert_eq!(skew(3599, 3601), Skew { by: Duration::ZERO, ahead: false });
        assert_eq!(skew(2398, 2400), Skew { by: Duration::from_secs(1200), ahead: true });
        assert_eq!(skew(4800, 4802), Skew { by: Duration::from_secs(1200), ahead: false });
        assert!(Skew::of("yesterday", at(0), at(0)).is_none());
        for (asked, status, word) in [
            (3599, Status::Ok, "agrees"),
            (3660, Status::Warning, "60 s ahead of that of h"),
            (2398, Status::Failed, "1200 s behind that of h"),
        ] {
            let found = found(&[("h".to_owned(), skew(asked, asked + 2))]);
            assert_eq!(found.status, status, "{}", found.detail);
            assert!(found.detail.contains(word), "{}", found.detail);
        }
    }
}
