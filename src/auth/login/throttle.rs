//! Owns how failed log-ins are slowed down: per user and address, and per address. Refuses to lock anybody out: a user who is guessed at
//! from one address logs in from another as before, and a wait ends by itself.
//!
//! A wait is known before anybody is asked, so guessing costs neither argon2 nor a call to a catalog. What is remembered is bounded: the
//! least used is forgotten.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::auth::config::ThrottleConfig;
use crate::auth::salt::{Digest, Salt};

/// Users and addresses that are remembered at once.
const REMEMBERED: u64 = 20_000;
/// After so long without another attempt the earlier ones are forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15 * 60);
/// Guesses that are under way are told to come again when they are over.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// All failures that count.
pub(super) struct Throttle {
    config: ThrottleConfig,
    salt: Salt,
    /// Of one user from one address.
    pairs: moka::sync::Cache<Digest, Arc<Mutex<Failures>>>,
    addresses: moka::sync::Cache<IpAddr, Arc<Mutex<Failures>>>,
}

#[derive(Debug, Default)]
struct Failures {
    count: u32,
    /// Attempts whose end is not known yet; each may become a failure.
    under_way: u32,
    /// Of one user's failures, how many the count of its address holds too.
    at_address: u32,
    until: Option<Instant>,
}

/// Whether somebody may try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Yes.
    Clear,
    /// Others at this address have failed too often. Who is known already need not wait for them.
    AddressWaits(Duration),
    /// This user has failed too often from this address.
    Waits(Duration),
}

/// One attempt. Dropped without a word it counts neither way.
pub(super) struct Attempt {
    config: ThrottleConfig,
    pair: Option<Arc<Mutex<Failures>>>,
    address: Option<Arc<Mutex<Failures>>>,
}

impl Throttle {
    pub(super) fn new(config: ThrottleConfig) -> Self {
        Self {
            config,
            salt: Salt::random(),
            pairs: moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_idle(FORGOTTEN_AFTER).build(),
            addresses: moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_idle(FORGOTTEN_AFTER).build(),
        }
    }

    /// Whether this user may try from this address now.
    pub(super) fn verdict(&self, user: &[u8], address: Option<IpAddr>, now: Instant) -> Verdict {
        let Some(address) = address.map(network) else { return Verdict::Clear };
        if let Some(wait) = self.pairs.get(&self.pair(user, address)).and_then(|failures| lock(&failures).wait(now)) {
            return Verdict::Waits(wait);
        }
        let waits = self.addresses.get(&address).and_then(|failures| lock(&failures).wait(now));
        waits.map_or(Verdict::Clear, Verdict::AddressWaits)
    }

    /// Begins an attempt; `Err` when so many are under way, of this user or at this address, that their failures alone would make the
    /// next one wait.
    pub(super) fn begin(&self, user: &[u8], address: Option<IpAddr>) -> Result<Attempt, Duration> {
        let ThrottleConfig { failures, address_failures, .. } = self.config;
        let mut attempt = Attempt { config: self.config, pair: None, address: None };
        let Some(address) = address.map(network) else { return Ok(attempt) };
        if failures > 0 {
            attempt.pair = Some(begun(self.pairs.get_with(self.pair(user, address), Arc::default), failures)?);
        }
        if address_failures > 0 {
            attempt.address = Some(begun(self.addresses.get_with(address, Arc::default), address_failures)?);
        }
        Ok(attempt)
    }

    /// Counts an attempt that nobody was asked about because its address has to wait.
    pub(super) fn refused_unasked(&self, user: &[u8], address: Option<IpAddr>, now: Instant) {
        let Some(address) = address.map(network).filter(|_| self.config.failures > 0) else { return };
        let pair = self.pairs.get_with(self.pair(user, address), Arc::default);
        lock(&pair).fail(self.config.failures, &self.config, now);
    }

    fn pair(&self, user: &[u8], address: IpAddr) -> Digest {
        self.salt.digest(&[user, address.to_string().as_bytes()])
    }
}

/// Counts one more attempt under way, if its failure is still free.
fn begun(of: Arc<Mutex<Failures>>, free: u32) -> Result<Arc<Mutex<Failures>>, Duration> {
    {
        let mut failures = lock(&of);
        // Who has failed too often already gets one attempt after each wait.
        if failures.under_way >= free.saturating_sub(failures.count).max(1) {
            return Err(UNDER_WAY);
        }
        failures.under_way += 1;
    }
    Ok(of)
}

impl Failures {
    fn wait(&self, now: Instant) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(now)).filter(|wait| !wait.is_zero())
    }

    /// From the `free`-th failure on, each makes the next one wait, twice as long as the one before.
    fn fail(&mut self, free: u32, config: &ThrottleConfig, now: Instant) {
        self.count = self.count.saturating_add(1);
        if let Some(doubled) = self.count.checked_sub(free) {
            let delay = config.first_delay.saturating_mul(1_u32.checked_shl(doubled).unwrap_or(u32::MAX));
            self.until = Some(now + delay.min(config.max_delay));
        }
    }
}

impl Attempt {
    /// It was wrong.
    pub(super) fn failed(self, now: Instant) {
        if let Some(pair) = &self.pair {
            let mut failures = lock(pair);
            failures.fail(self.config.failures, &self.config, now);
            failures.at_address = failures.at_address.saturating_add(u32::from(self.address.is_some()));
        }
        if let Some(address) = &self.address {
            lock(address).fail(self.config.address_failures, &self.config, now);
        }
    }

    /// It was right: what this user has failed before is forgotten, here and in the count of the address, where the failures of others
    /// stay.
    pub(super) fn succeeded(self) {
        let Some(pair) = &self.pair else { return };
        let mut failures = lock(pair);
        failures.count = 0;
        let forgiven = std::mem::take(&mut failures.at_address);
        failures.until = None;
        drop(failures);
        if let Some(address) = self.address.as_ref().filter(|_| forgiven > 0) {
            let mut failures = lock(address);
            failures.count = failures.count.saturating_sub(forgiven);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        for of in [&self.pair, &self.address].into_iter().flatten() {
            let mut failures = lock(of);
            failures.under_way = failures.under_way.saturating_sub(1);
        }
    }
}

fn lock(failures: &Mutex<Failures>) -> MutexGuard<'_, Failures> {
    failures.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who has one address of IPv6 usually has its whole network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn throttle(failures: u32, address_failures: u32) -> Throttle {
        Throttle::new(ThrottleConfig { failures, address_failures, ..ThrottleConfig::default() })
    }

    fn at(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn fail(throttle: &Throttle, user: &str, address: Option<IpAddr>, now: Instant) {
        throttle.begin(user.as_bytes(), address).ok().unwrap().failed(now);
    }

    #[test]
    fn waits_begin_after_the_free_failures_and_double_up_to_the_longest() {
        let (throttle, start, here) = (throttle(3, 0), Instant::now(), at("10.0.0.1"));
        for _ in 0..2 {
            fail(&throttle, "ada", here, start);
            assert_eq!(throttle.verdict(b"ada", here, start), Verdict::Clear);
        }
        let mut waits = Vec::new();
        for _ in 0..9 {
            fail(&throttle, "ada", here, start);
            let Verdict::Waits(wait) = throttle.verdict(b"ada", here, start) else { panic!("no wait") };
            waits.push(wait.as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(throttle.verdict(b"ada", here, start + 60 * SECOND), Verdict::Clear);
    }

    #[test]
    fn nobody_is_locked_out_from_another_address_nor_another_user_from_the_same() {
        let (throttle, now) = (throttle(1, 0), Instant::now());
        fail(&throttle, "ada", at("10.0.0.1"), now);
        assert_eq!(throttle.verdict(b"ada", at("10.0.0.1"), now), Verdict::Waits(SECOND));
        assert_eq!(throttle.verdict(b"ada", at("10.0.0.2"), now), Verdict::Clear);
        assert_eq!(throttle.verdict(b"bob", at("10.0.0.1"), now), Verdict::Clear);
        fail(&throttle, "ada", at("fd00::1"), now);
        assert_eq!(throttle.verdict(b"ada", at("fd00::ffff"), now), Verdict::Waits(SECOND), "the same network");
        assert_eq!(throttle.verdict(b"ada", at("fd00:0:0:1::1"), now), Verdict::Clear);
        assert_eq!(throttle.verdict(b"ada", at("::ffff:10.0.0.1"), now), Verdict::Waits(SECOND), "the same address");
    }

    #[test]
    fn an_address_that_tries_many_users_waits() {
        let (throttle, now, here) = (throttle(5, 10), Instant::now(), at("10.0.0.1"));
        for n in 0..10 {
            assert_eq!(throttle.verdict(b"eve", here, now), Verdict::Clear, "{n}");
            fail(&throttle, &n.to_string(), here, now);
        }
        assert_eq!(throttle.verdict(b"eve", here, now), Verdict::AddressWaits(SECOND));
        assert_eq!(throttle.verdict(b"eve", at("10.0.0.2"), now), Verdict::Clear);
        for _ in 0..5 {
            throttle.refused_unasked(b"eve", here, now);
        }
        assert_eq!(throttle.verdict(b"eve", here, now), Verdict::Waits(SECOND), "guesses at who is known count");
    }

    #[test]
    fn a_success_forgives_the_user_s_own_failures_only() {
        let (throttle, now, here) = (throttle(3, 4), Instant::now(), at("10.0.0.1"));
        fail(&throttle, "ada", here, now);
        fail(&throttle, "ada", here, now);
        fail(&throttle, "bob", here, now);
        throttle.begin(b"ada", here).ok().unwrap().succeeded();
        fail(&throttle, "ada", here, now);
        fail(&throttle, "ada", here, now);
        assert_eq!(throttle.verdict(b"ada", here, now), Verdict::Clear);
        fail(&throttle, "bob", here, now);
        assert!(matches!(throttle.verdict(b"ada", here, now), Verdict::AddressWaits(_)), "bob's stay");
    }

    #[test]
    fn failures_that_the_address_has_not_counted_are_not_forgiven_there() {
        let (throttle, now, here) = (throttle(5, 4), Instant::now(), at("10.0.0.1"));
        (0..4).for_each(|n| fail(&throttle, &n.to_string(), here, now));
        (0..4).for_each(|_| throttle.refused_unasked(b"ada", here, now));
        throttle.begin(b"ada", here).ok().unwrap().succeeded();
        fail(&throttle, "eve", here, now);
        assert_eq!(throttle.verdict(b"bob", here, now), Verdict::AddressWaits(2 * SECOND), "the four of others stay");
    }

    #[test]
    fn guesses_at_many_users_at_once_are_no_way_round_the_limit_of_the_address() {
        let (throttle, here, now) = (throttle(5, 4), at("10.0.0.1"), Instant::now());
        fail(&throttle, "ada", here, now);
        let attempts: Vec<_> = (0..3).map(|n: u8| throttle.begin(&[n], here).ok().unwrap()).collect();
        assert!(throttle.begin(b"bob", here).is_err());
        assert!(throttle.begin(b"bob", at("10.0.0.2")).is_ok());
        drop(attempts);
        let one = throttle.begin(b"bob", here).ok().unwrap();
        one.failed(now);
        (0..2).for_each(|_| fail(&throttle, "eve", here, now));
        let one = throttle.begin(b"bob", here).ok().unwrap();
        assert!(throttle.begin(b"eve", here).is_err(), "one at a time from here on");
        drop(one);
    }

    #[test]
    fn guesses_at_once_are_no_way_round() {
        let (throttle, here, now) = (throttle(3, 0), at("10.0.0.1"), Instant::now());
        let attempts: Vec<_> = (0..3).map(|_| throttle.begin(b"ada", here).ok().unwrap()).collect();
        assert!(throttle.begin(b"ada", here).is_err());
        assert!(throttle.begin(b"bob", here).is_ok());
        attempts.into_iter().for_each(|attempt| attempt.failed(now));
        let next = throttle.begin(b"ada", here).ok().unwrap();
        assert!(throttle.begin(b"ada", here).is_err(), "one at a time from here on");
        drop(next);
        assert!(throttle.begin(b"ada", here).is_ok());
    }

    #[test]
    fn without_limits_nobody_waits_and_memory_is_bounded() {
        let (off, now, here) = (throttle(0, 0), Instant::now(), at("10.0.0.1"));
        (0..100).for_each(|_| fail(&off, "ada", here, now));
        assert_eq!(off.verdict(b"ada", here, now), Verdict::Clear);
        let on = throttle(5, 5);
        (0..3 * REMEMBERED).for_each(|n| fail(&on, &n.to_string(), here, now));
        on.pairs.run_pending_tasks();
        assert!(on.pairs.entry_count() <= REMEMBERED);
    }
}
