//! The asking about log-ins: at most once for the same ones at a time, not again for a while when one was right, and ever slower for who
//! guesses.
//!
//! It owns what is remembered of log-ins, by salted digest. It refuses to know how one is proven.

pub(super) mod basic;
mod throttle;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Principal;
use super::config::Config;
use super::error::AuthError;
use super::salt::{Digest, Salt};
use crate::secret::{ExposeSecret, SecretString};
use throttle::{Throttle, Verdict};

/// How many right log-ins are remembered; the least used is asked about again.
const REMEMBERED: u64 = 20_000;

/// What somebody shows in order to log in.
pub(super) struct Shown<'a> {
    /// The user name; `None` with a token, which names nobody until it is verified.
    pub(super) user: Option<&'a str>,
    /// The password or token.
    pub(super) secret: &'a SecretString,
    pub(super) address: Option<IpAddr>,
}

/// A log-in that was right.
#[derive(Clone)]
pub(super) struct Proven {
    pub(super) principal: Principal,
    /// How long nobody needs to be asked again.
    pub(super) good_for: Duration,
}

/// Right log-ins, and failed ones.
pub(super) struct Logins {
    salt: Salt,
    throttle: Throttle,
    proven: moka::future::Cache<Digest, Proven>,
}

struct GoodFor;

impl moka::Expiry<Digest, Proven> for GoodFor {
    fn expire_after_create(&self, _: &Digest, proven: &Proven, _: Instant) -> Option<Duration> {
        Some(proven.good_for)
    }
}

impl Logins {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            salt: Salt::random(),
            throttle: Throttle::new(config.throttle),
            proven: moka::future::Cache::builder().max_capacity(REMEMBERED).expire_after(GoodFor).build(),
        }
    }

    /// Who it is, as known from before or as `ask` finds out.
    pub(super) async fn prove(
        &self,
        shown: &Shown<'_>,
        ask: impl Future<Output = Result<Proven, AuthError>>,
    ) -> Result<Principal, AuthError> {
        let key = self.key(shown);
        let who: &[u8] = shown.user.map_or(&key[..], str::as_bytes);
        // Ahead of what is known: that a guess is right must not be found out at full speed.
        let verdict = self.throttle.verdict(who, shown.address, Instant::now());
        if let Verdict::Waits(wait) = verdict {
            return Err(AuthError::Throttled(wait));
        }
        if let Some(proven) = self.proven.get(&key).await {
            return unlapsed(proven.principal);
        }
        if let Verdict::AddressWaits(wait) = verdict {
            self.throttle.refused_unasked(who, shown.address, Instant::now());
            return Err(AuthError::Throttled(wait));
        }
        let counted = async {
            let attempt = self.throttle.begin(who, shown.address).map_err(AuthError::Throttled)?;
            let answer = ask.await;
            match &answer {
                Ok(_) => attempt.succeeded(),
                Err(error) if error.may_be_a_guess() => attempt.failed(Instant::now()),
                Err(_) => drop(attempt),
            }
            answer
        };
        let proven = self.proven.try_get_with(key, counted).await.map_err(|error: Arc<AuthError>| (*error).clone())?;
        unlapsed(proven.principal)
    }

    fn key(&self, shown: &Shown<'_>) -> Digest {
        let (kind, user) = shown.user.map_or((b"t", ""), |user| (b"u", user));
        self.salt.digest(&[kind, user.as_bytes(), shown.secret.expose_secret().as_bytes()])
    }
}

fn unlapsed(principal: Principal) -> Result<Principal, AuthError> {
    match principal.lapsed(SystemTime::now()) {
        Some(error) => Err(error),
        None => Ok(principal),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::auth::config::ThrottleConfig;

    const FREE: u32 = 3;

    struct Counted {
        logins: Logins,
        asked: AtomicUsize,
        good_for: Duration,
    }

    impl Counted {
        fn new(good_for: Duration) -> Self {
            let throttle = ThrottleConfig { failures: FREE, ..ThrottleConfig::default() };
            let logins = Logins::new(&Config { throttle, ..Config::default() });
            Self { logins, asked: AtomicUsize::new(0), good_for }
        }

        async fn from(&self, address: &str, user: &str, secret: &str) -> Result<Principal, AuthError> {
            let secret = SecretString::from(secret);
            let shown = Shown { user: Some(user), secret: &secret, address: Some(address.parse().unwrap()) };
            let ask = async {
                self.asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
                match secret.expose_secret() {
                    "right" => Ok(Proven { principal: Principal::service(user), good_for: self.good_for }),
                    "down" => Err(AuthError::Busy),
                    _ => Err(AuthError::Rejected),
                }
            };
            self.logins.prove(&shown, ask).await
        }

        async fn login(&self, user: &str, secret: &str) -> Result<Principal, AuthError> {
            self.from("10.0.0.1", user, secret).await
        }

        fn asked(&self) -> usize {
            self.asked.swap(0, Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn a_right_log_in_is_remembered_and_asked_about_once_by_many() {
        let all = Counted::new(Duration::from_secs(60));
        let many = futures::future::join_all((0..50).map(|_| all.login("ada", "right"))).await;
        assert!(many.iter().all(Result::is_ok));
        all.login("ada", "right").await.unwrap();
        assert_eq!(all.asked(), 1);
        all.login("bob", "right").await.unwrap();
        assert_eq!(all.asked(), 1, "another user of the same password is not known");
        assert_eq!(all.login("ada", "wrong").await, Err(AuthError::Rejected));
    }

    #[tokio::test]
    async fn with_nothing_remembered_each_is_asked_about_but_those_at_once_share() {
        let all = Counted::new(Duration::ZERO);
        let many = futures::future::join_all((0..50).map(|_| all.login("ada", "right"))).await;
        assert!(many.iter().all(Result::is_ok));
        assert_eq!(all.asked(), 1);
        all.login("ada", "right").await.unwrap();
        assert_eq!(all.asked(), 1);
    }

    #[tokio::test]
    async fn what_is_remembered_lasts_no_longer_than_it_is_good_for() {
        let all = Counted::new(Duration::from_millis(100));
        all.login("ada", "right").await.unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
        all.login("ada", "right").await.unwrap();
        assert_eq!(all.asked(), 2);
    }

    #[tokio::test]
    async fn who_guesses_waits_without_anybody_being_asked_and_others_do_not_wait() {
        let all = Counted::new(Duration::from_secs(60));
        all.login("ada", "right").await.unwrap();
        for n in 0..FREE {
            assert_eq!(all.login("ada", &n.to_string()).await, Err(AuthError::Rejected));
        }
        all.asked();
        for secret in ["right", "wrong"] {
            let refused = all.login("ada", secret).await;
            assert!(matches!(refused, Err(AuthError::Throttled(_))), "{refused:?}: a right guess must not be told");
        }
        assert_eq!(all.asked(), 0);
        all.from("10.0.0.2", "ada", "right").await.unwrap();
        all.login("bob", "right").await.unwrap();
    }

    #[tokio::test]
    async fn guesses_at_once_are_not_all_asked_about() {
        let all = Counted::new(Duration::from_secs(60));
        let guesses = (0..50).map(|n| n.to_string()).collect::<Vec<_>>();
        futures::future::join_all(guesses.iter().map(|guess| all.login("ada", guess))).await;
        assert_eq!(all.asked(), FREE as usize);
    }

    #[tokio::test]
    async fn a_catalog_that_is_down_makes_nobody_wait() {
        let all = Counted::new(Duration::from_secs(60));
        for _ in 0..10 {
            assert_eq!(all.login("ada", "down").await, Err(AuthError::Busy));
        }
        all.login("ada", "right").await.unwrap();
    }
}
