//! Owns what the log says of refused log-ins. Refuses to let strangers fill it: with lines, or with what they send as their name.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::auth::error::{AuthError, shortened};
use crate::telemetry::Allowance;

/// Refused log-ins, as far as the log takes them.
#[derive(Default)]
pub(in crate::auth) struct Refusals(Mutex<Allowance>);

impl Refusals {
    pub(in crate::auth) fn log(&self, user: Option<&str>, address: Option<IpAddr>, error: &AuthError) {
        let (user, address) = (user.map(shortened), address.map(tracing::field::display));
        // The failures that led to it have had their lines.
        if matches!(error, AuthError::Throttled(_)) {
            tracing::debug!(user, address, %error, "log-in refused");
            return;
        }
        let line = self.0.lock().unwrap_or_else(PoisonError::into_inner).line(Instant::now());
        let Some(untold) = line else { return };
        if untold > 0 {
            tracing::warn!(log_ins = untold, "more log-ins were refused, of which there is no line");
        }
        tracing::warn!(user, address, %error, "log-in refused");
    }
}
