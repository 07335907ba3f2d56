//! The asking about log-ins: at most once for the same ones at a time, not again for a while when one was right, and ever slower for who
//! guesses.
//!
//! It owns what is remembered of log-ins, by salted digest. It refuses to know how one is proven. What is asked is asked to its end, and
//! counted, whoever goes away meanwhile: else guessing would cost nothing but broken calls.

pub(super) mod basic;
mod recognised;
pub(super) mod refusals;
mod throttle;

use std::collections::HashMap;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};

use super::Principal;
use super::config::Config;
use super::error::AuthError;
use super::salt::{Digest, Salt};
use crate::secret::{ExposeSecret, SecretString};
pub use recognised::Recognised;
use throttle::{Throttle, Verdict};

/// How many right log-ins are remembered; the least used is asked about again.
const REMEMBERED: u64 = 20_000;

/// What somebody shows in order to log in.
pub(super) struct Shown<'a> {
    /// The user name; `None` with a token, which names nobody until it is verified.
    pub(super) user: Option<&'a str>,
    /// The password or token.
    pub(super) secret: &'a SecretString,
    /// Where it comes from. `None` for what cannot be guessed and costs little to check: it waits for nobody.
    pub(super) address: Option<IpAddr>,
    /// What its connection has shown before.
    pub(super) recognised: Option<&'a Recognised>,
}

/// A log-in that was right.
#[derive(Clone)]
pub(super) struct Proven {
    pub(super) principal: Principal,
    /// How long nobody needs to be asked again.
    pub(super) good_for: Duration,
}

/// The same, and when it was.
#[derive(Clone)]
struct Known {
    proven: Proven,
    at: Instant,
}

type Answer = Result<Known, AuthError>;
type Asking = Shared<BoxFuture<'static, Answer>>;

/// Right log-ins, and failed ones.
pub(super) struct Logins {
    salt: Salt,
    throttle: Throttle,
    /// How long a connection goes on with what it has shown while nobody can be asked.
    grace: Duration,
    all: Arc<All>,
}

/// What an asking that goes on by itself needs.
struct All {
    proven: moka::sync::Cache<Digest, Known>,
    /// Guards what is being asked.
    under_way: Mutex<HashMap<Digest, Asking>>,
}

struct GoodFor;

impl moka::Expiry<Digest, Known> for GoodFor {
    fn expire_after_create(&self, _: &Digest, known: &Known, _: Instant) -> Option<Duration> {
        Some(known.proven.good_for)
    }
}

impl Logins {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            salt: Salt::random(),
            throttle: Throttle::new(config.throttle),
            grace: config.login_grace,
            all: Arc::new(All {
                proven: moka::sync::Cache::builder().max_capacity(REMEMBERED).expire_after(GoodFor).build(),
                under_way: Mutex::default(),
            }),
        }
    }

    /// Who it is, as known from before or as `ask` finds out.
    pub(super) async fn prove(
        &self,
        shown: &Shown<'_>,
        ask: impl Future<Output = Result<Proven, AuthError>> + Send + 'static,
    ) -> Result<Principal, AuthError> {
        let key = self.key(shown);
        let before = shown.recognised.and_then(|recognised| recognised.get(&key));
        // Who has shown the same here before, and was right, guesses nothing.
        let address = shown.address.filter(|_| before.is_none());
        let who: &[u8] = shown.user.map_or(&key[..], str::as_bytes);
        // Ahead of what is known: that a guess is right must not be found out at full speed.
        let verdict = self.throttle.verdict(who, address, Instant::now());
        if let Verdict::Waits(wait) = verdict {
            return Err(AuthError::Throttled(wait));
        }
        let answer = match (self.all.proven.get(&key), verdict) {
            (Some(known), _) => Ok(known),
            (None, Verdict::AddressWaits(wait)) => {
                self.throttle.refused_unasked(who, address, Instant::now());
                return Err(AuthError::Throttled(wait));
            }
            (None, _) => self.asked(key, who, address, ask)?.await,
        };
        unlapsed(self.settled(shown, key, answer, before)?.proven.principal)
    }

    /// The answer under way, or that of one more asking.
    fn asked(
        &self,
        key: Digest,
        who: &[u8],
        address: Option<IpAddr>,
        ask: impl Future<Output = Result<Proven, AuthError>> + Send + 'static,
    ) -> Result<Asking, AuthError> {
        let mut under_way = self.all.under_way();
        if let Some(asking) = under_way.get(&key) {
            return Ok(asking.clone());
        }
        let attempt = self.throttle.begin(who, address).map_err(AuthError::Throttled)?;
        let all = Arc::clone(&self.all);
        let asking = async move {
            // An asking that broke must not stay the answer to the next.
            let broke = |_| Err(AuthError::Verification("it broke".to_owned()));
            let answer = AssertUnwindSafe(ask).catch_unwind().await.unwrap_or_else(broke);
            let answer = answer.map(|proven| Known { proven, at: Instant::now() });
            match &answer {
                Ok(known) => {
                    all.proven.insert(key, known.clone());
                    attempt.succeeded();
                }
                Err(error) if error.may_be_a_guess() => attempt.failed(Instant::now()),
                Err(_) => drop(attempt),
            }
            all.under_way().remove(&key);
            answer
        };
        let asking = asking.boxed().shared();
        under_way.insert(key, asking.clone());
        // Bounded by the deadlines of what is asked.
        tokio::spawn(asking.clone());
        Ok(asking)
    }

    /// What the answer makes of the connection, and the connection of the answer.
    fn settled(&self, shown: &Shown<'_>, key: Digest, answer: Answer, before: Option<Known>) -> Answer {
        let Some(recognised) = shown.recognised else { return answer };
        match (&answer, before) {
            (Ok(known), before) if before.as_ref().is_none_or(|before| before.at != known.at) => recognised.add(key, known),
            (Err(AuthError::RealmUnavailable { .. }), Some(before)) if before.at.elapsed() < self.grace => return Ok(before),
            (Err(error), Some(_)) if error.may_be_a_guess() => recognised.remove(&key),
            _ => {}
        }
        answer
    }

    fn key(&self, shown: &Shown<'_>) -> Digest {
        let (kind, user) = shown.user.map_or((b"t", ""), |user| (b"u", user));
        self.salt.digest(&[kind, user.as_bytes(), shown.secret.expose_secret().as_bytes()])
    }
}

impl All {
    fn under_way(&self) -> MutexGuard<'_, HashMap<Digest, Asking>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
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
        asked: Arc<AtomicUsize>,
        good_for: Duration,
    }

    impl Counted {
        fn new(good_for: Duration) -> Self {
            let throttle = ThrottleConfig { failures: FREE, ..ThrottleConfig::default() };
            let logins = Logins::new(&Config { throttle, ..Config::default() });
            Self { logins, asked: Arc::default(), good_for }
        }

        async fn from(&self, address: &str, user: &str, secret: &str) -> Result<Principal, AuthError> {
            self.on(None, address, user, secret).await
        }

        async fn on(
            &self,
            recognised: Option<&Recognised>,
            address: &str,
            user: &str,
            secret: &str,
        ) -> Result<Principal, AuthError> {
            let secret = SecretString::from(secret);
            let shown = Shown { user: Some(user), secret: &secret, address: Some(address.parse().unwrap()), recognised };
            let (asked, secret, user, good_for) = (Arc::clone(&self.asked), secret.clone(), user.to_owned(), self.good_for);
            let ask = async move {
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
                match secret.expose_secret() {
                    "right" => Ok(Proven { principal: Principal::service(&user), good_for }),
                    "down" => Err(AuthError::Busy),
                    "broken" => panic!("as planned"),
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
    async fn guesses_count_although_the_guesser_goes_away_at_once() {
        let all = Counted::new(Duration::from_secs(60));
        for n in 0..20 {
            assert!(all.login("ada", &n.to_string()).now_or_never().is_none_or(|refused| refused.is_err()));
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(all.asked(), FREE as usize);
        assert!(matches!(all.login("ada", "right").await, Err(AuthError::Throttled(_))));
    }

    #[tokio::test]
    async fn an_asking_that_broke_is_not_the_answer_to_the_next() {
        let all = Counted::new(Duration::from_secs(60));
        for _ in 0..2 {
            assert!(matches!(all.login("ada", "broken").await, Err(AuthError::Verification(_))));
        }
        assert_eq!((all.asked(), all.logins.all.under_way().len()), (2, 0));
    }

    #[tokio::test]
    async fn a_connection_that_has_shown_it_before_waits_for_no_guesser() {
        let (all, here) = (Counted::new(Duration::ZERO), Recognised::default());
        let (on_it, address) = (Some(&here), "10.0.0.1");
        all.on(on_it, address, "ada", "right").await.unwrap();
        for n in 0..FREE {
            all.login("ada", &n.to_string()).await.unwrap_err();
        }
        assert!(matches!(all.login("ada", "right").await, Err(AuthError::Throttled(_))), "another connection waits");
        all.on(on_it, address, "ada", "right").await.unwrap();
        assert!(matches!(all.on(on_it, address, "ada", "other").await, Err(AuthError::Throttled(_))), "another secret waits");
        assert!(matches!(all.on(on_it, address, "eve", "right").await, Ok(eve) if eve.name.as_str() == "eve"));
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
