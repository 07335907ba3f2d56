//! Owns one source of tokens: the token that is shown now, and when another one is asked for. Refuses to show a token to anybody but
//! the request that carries it.
//!
//! One request at a time is under way for a source, however many ask. It runs by itself: an asker that goes away takes nobody's token
//! along. Who asks while the token before is good never waits. Times are of the monotonic clock, so a clock that is set has no part in it.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use reqwest::Client;

use super::request::{self, Audience, ClientIs, Endpoint, Had};
use crate::auth::credential::{Credential, Own, WeakCredential};
use crate::secret::{ExposeSecret, SecretRef, SecretString};

/// A token is renewed so long before its expiry, or at half its life if that is later.
const AHEAD: Duration = Duration::from_secs(60);

/// When a token without a stated life is renewed. A refusal renews it earlier.
const UNSTATED_LIFE: Duration = Duration::from_secs(3600);

/// What an expiry at once or in the past is taken for: enough for the calls of a moment.
const NO_LIFE: Duration = Duration::from_secs(1);

/// What a life of centuries is taken for.
const LONGEST_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// How often a file is looked at.
const FILE_LIFE: Duration = Duration::from_secs(1);

/// A token that was refused although it was had so short a time ago, and never taken before: another one would be refused as well.
const BARELY_HAD: Duration = Duration::from_secs(1);

/// The pause after a failed request; doubled each time and shortened at random.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause while the token before is good.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The longest pause while there is none: meanwhile whoever asks gets the failure.
const LONGEST_PAUSE_WITHOUT: Duration = Duration::from_secs(2);

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::relay) enum TokenFault {
    /// The endpoint refused what it was shown; in its own words.
    Refused(String),
    /// The caller's own token has expired.
    Lapsed,
    /// The endpoint cannot be reached.
    Unreachable { host: String, reason: String },
    /// The endpoint did not answer in time.
    Timeout { host: String, after: Duration },
    /// The endpoint is out of order for now.
    Failing(String),
    /// The endpoint answered what makes no sense.
    Wrong(String),
    /// A secret of the config cannot be read.
    NoSecret(String),
}

/// A token that was had. Cheap to clone.
#[derive(Clone)]
pub(in crate::relay) struct Token(Arc<Inner>);

struct Inner {
    secret: SecretString,
    had: Instant,
    /// When another one is asked for.
    renew_at: Option<Instant>,
    /// When it is not shown any more.
    good_until: Option<Instant>,
    /// Some catalog has let it in.
    taken: AtomicBool,
}

impl Token {
    /// One that never changes.
    pub(super) fn fixed(secret: SecretString) -> Self {
        Self::new(secret, None, None)
    }

    fn new(secret: SecretString, renew_at: Option<Instant>, good_until: Option<Instant>) -> Self {
        Self(Arc::new(Inner { secret, had: Instant::now(), renew_at, good_until, taken: AtomicBool::new(false) }))
    }

    fn of_answer(had: Had, asked: Instant) -> Self {
        let stated = had.expires_in.filter(|seconds| !seconds.is_nan());
        let Some(seconds) = stated else {
            return Self::new(had.secret, asked.checked_add(shortened(UNSTATED_LIFE)), None);
        };
        let life = if seconds > 0.0 { seconds.min(LONGEST_LIFE.as_secs_f64()) } else { NO_LIFE.as_secs_f64() };
        let life = Duration::from_secs_f64(life);
        let renew_after = shortened(life.saturating_sub(AHEAD).max(life / 2));
        // A request takes its time too.
        let good_for = life - (life / 10).min(Duration::from_secs(2));
        Self::new(had.secret, asked.checked_add(renew_after), asked.checked_add(good_for))
    }

    pub(in crate::relay) fn expose(&self) -> &str {
        self.0.secret.expose_secret()
    }

    /// The secret itself, to be kept out of texts.
    pub(in crate::relay) fn secret(&self) -> &SecretString {
        &self.0.secret
    }

    /// A catalog has let it in.
    pub(in crate::relay) fn was_taken(&self) {
        self.0.taken.store(true, Ordering::Relaxed);
    }

    fn is_good(&self, now: Instant) -> bool {
        self.0.good_until.is_none_or(|until| now < until)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.0.renew_at.is_some_and(|at| now >= at)
    }
}

/// How long a token is shown.
#[derive(Clone, Copy, Debug)]
pub(in crate::relay) struct Life {
    /// As its endpoint has said.
    pub(in crate::relay) good_for: Option<Duration>,
    /// When another one is asked for.
    pub(in crate::relay) renewed_in: Option<Duration>,
}

/// How tokens are asked for.
#[derive(Clone)]
pub(in crate::relay) struct Means {
    /// The connections.
    pub(in crate::relay) client: Client,
    /// How long one request may take.
    pub(in crate::relay) timeout: Duration,
}

/// Where a source's tokens come from.
pub(super) enum Grant {
    Nothing,
    Fixed(Token),
    File(PathBuf),
    Client { endpoint: Endpoint, client_id: String, secret: SecretRef },
    CallersClient { endpoint: Endpoint },
    Callers,
    Exchange { endpoint: Endpoint, audience: Audience },
}

/// One source of tokens.
pub(in crate::relay) struct Source {
    grant: Grant,
    means: Means,
    /// Whose token it is, for a caller's.
    holder: Mutex<Option<WeakCredential>>,
    /// Never held over a request.
    state: Mutex<State>,
}

type Outcome = Result<Token, TokenFault>;
type Fetch = Shared<BoxFuture<'static, Outcome>>;

#[derive(Default)]
struct State {
    current: Option<Token>,
    under_way: Option<Fetch>,
    failed: Option<Failed>,
}

struct Failed {
    fault: TokenFault,
    times: u32,
    at: Instant,
    pause: Duration,
}

impl Failed {
    /// Whether it is too early to ask again.
    fn holds(&self, now: Instant, has_token: bool) -> bool {
        let pause = if has_token { self.pause } else { self.pause.min(LONGEST_PAUSE_WITHOUT) };
        now.duration_since(self.at) < pause
    }
}

impl Source {
    pub(super) fn new(grant: Grant, means: Means, holder: Option<WeakCredential>) -> Self {
        Self { grant, means, holder: Mutex::new(holder), state: Mutex::default() }
    }

    /// The token to show now, if any is to be shown.
    ///
    /// # Errors
    /// When there is none, and the endpoint does not give one.
    pub(in crate::relay) async fn token(self: &Arc<Self>) -> Result<Option<Token>, TokenFault> {
        match &self.grant {
            Grant::Nothing => return Ok(None),
            Grant::Fixed(token) => return Ok(Some(token.clone())),
            Grant::Callers => return self.callers_token().map(|secret| Some(Token::fixed(secret))),
            // What was had for it ends with it.
            Grant::Exchange { .. } => drop(self.callers_token()?),
            Grant::File(_) | Grant::Client { .. } | Grant::CallersClient { .. } => {}
        }
        let fetch = {
            let mut state = self.state();
            let now = Instant::now();
            let good = state.current.clone().filter(|token| token.is_good(now));
            let too_early = state.failed.as_ref().filter(|failed| failed.holds(now, good.is_some()));
            match (good, &state.under_way, too_early) {
                (Some(token), None, None) if token.is_due(now) => {
                    drop(self.launch(&mut state));
                    return Ok(Some(token));
                }
                (Some(token), ..) => return Ok(Some(token)),
                (None, Some(fetch), _) => fetch.clone(),
                (None, None, Some(failed)) => return Err(failed.fault.clone()),
                (None, None, None) => self.launch(&mut state),
            }
        };
        fetch.await.map(Some)
    }

    /// A catalog did not let the token in. Whether it is worth asking for another one.
    pub(in crate::relay) fn refused(&self, token: &Token) -> bool {
        match &self.grant {
            Grant::Nothing | Grant::Fixed(_) => false,
            // The caller may have logged in anew meanwhile.
            Grant::Callers => self.callers_token().is_ok_and(|now| now.expose_secret() != token.expose()),
            Grant::File(_) | Grant::Client { .. } | Grant::CallersClient { .. } | Grant::Exchange { .. } => {
                let mut state = self.state();
                if state.current.as_ref().is_some_and(|current| Arc::ptr_eq(&current.0, &token.0)) {
                    if !token.0.taken.load(Ordering::Relaxed) && token.0.had.elapsed() < BARELY_HAD {
                        return false;
                    }
                    state.current = None;
                }
                true
            }
        }
    }

    /// Asks for a token anew, whatever is there, or waits for the request under way.
    ///
    /// # Errors
    /// When the endpoint does not give one, or the caller's own has expired.
    pub(in crate::relay) async fn renew(self: &Arc<Self>) -> Result<(), TokenFault> {
        match &self.grant {
            Grant::Nothing | Grant::Fixed(_) => return Ok(()),
            Grant::Callers => return self.callers_token().map(drop),
            Grant::Exchange { .. } => drop(self.callers_token()?),
            Grant::File(_) | Grant::Client { .. } | Grant::CallersClient { .. } => {}
        }
        let fetch = {
            let mut state = self.state();
            match &state.under_way {
                Some(fetch) => fetch.clone(),
                None => self.launch(&mut state),
            }
        };
        fetch.await.map(drop)
    }

    /// How long the token that is there will be shown; `None` without one.
    pub(in crate::relay) fn life(&self) -> Option<Life> {
        let current = self.state().current.clone()?;
        let left = |until: Option<Instant>| until.map(|until| until.saturating_duration_since(Instant::now()));
        Some(Life { good_for: left(current.0.good_until), renewed_in: left(current.0.renew_at) })
    }

    /// Whether a token is asked for at an endpoint with the caller's own client id and secret.
    pub(in crate::relay) fn proves_by_itself(&self) -> bool {
        matches!(self.grant, Grant::CallersClient { .. })
    }

    /// Whether somebody still holds the credential that its tokens are had with.
    pub(in crate::relay) fn is_held(&self) -> bool {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_none_or(|holder| !holder.is_gone())
    }

    /// From here on its tokens are had with this credential, which is the same in another life.
    pub(in crate::relay) fn hold(&self, credential: &Credential) {
        let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        if holder.as_ref().is_some_and(WeakCredential::is_gone) {
            *holder = Some(credential.downgrade());
        }
    }

    /// To be called with the state locked, and nothing under way.
    fn launch(self: &Arc<Self>, state: &mut State) -> Fetch {
        let source = Arc::clone(self);
        let fetch = async move {
            // One that breaks must not stay under way.
            let outcome = AssertUnwindSafe(source.fetch()).catch_unwind().await;
            source.settle(outcome.unwrap_or_else(|_| Err(TokenFault::Wrong("reading its answer broke".to_owned()))))
        };
        let fetch = fetch.boxed().shared();
        state.under_way = Some(fetch.clone());
        // Bounded by its own deadline. It ends even if nobody waits for it.
        tokio::spawn(fetch.clone());
        fetch
    }

    fn settle(&self, outcome: Outcome) -> Outcome {
        let mut state = self.state();
        state.under_way = None;
        match outcome {
            Ok(token) => {
                state.failed = None;
                state.current = Some(token.clone());
                Ok(token)
            }
            Err(fault) => {
                let times = state.failed.as_ref().map_or(0, |failed| failed.times).saturating_add(1);
                let pause = FIRST_PAUSE.saturating_mul(1 << (times - 1).min(16)).min(LONGEST_PAUSE);
                let at = Instant::now();
                state.failed =
                    Some(Failed { fault: fault.clone(), times, at, pause: pause.mul_f64(rand::random_range(0.5..1.0)) });
                if times == 1 && state.current.as_ref().is_some_and(|token| token.is_good(at)) {
                    tracing::warn!(reason = ?fault, "a token cannot be renewed; the one before it is shown as long as it lives");
                }
                Err(fault)
            }
        }
    }

    async fn fetch(&self) -> Outcome {
        let asked = Instant::now();
        let Means { client: http, timeout } = &self.means;
        let had = match &self.grant {
            Grant::Client { endpoint, client_id, secret } => {
                // Read anew each time: it may have been changed in its file.
                let secret = request::secret_of(secret).await?;
                let client = ClientIs { id: client_id, secret: &secret, auth: endpoint.auth };
                request::by_client(http, *timeout, endpoint, client).await?
            }
            Grant::CallersClient { endpoint } => {
                let holder = self.holder().ok_or(TokenFault::Lapsed)?;
                let Own::Client { client_id, client_secret, .. } = holder.own() else { return Err(TokenFault::Lapsed) };
                let client = ClientIs { id: client_id, secret: client_secret, auth: endpoint.auth };
                request::by_client(http, *timeout, endpoint, client).await?
            }
            Grant::Exchange { endpoint, audience } => {
                request::by_exchange(http, *timeout, endpoint, audience, &self.callers_token()?).await?
            }
            Grant::File(file) => {
                let secret = request::secret_of(&SecretRef::File { file: file.clone() }).await?;
                return Ok(Token::new(secret, asked.checked_add(FILE_LIFE), None));
            }
            Grant::Fixed(token) => return Ok(token.clone()),
            Grant::Nothing | Grant::Callers => return Err(TokenFault::Lapsed),
        };
        Ok(Token::of_answer(had, asked))
    }

    fn holder(&self) -> Option<Credential> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(WeakCredential::upgrade)
    }

    /// The caller's own token, unless it has expired.
    fn callers_token(&self) -> Result<SecretString, TokenFault> {
        let holder = self.holder().ok_or(TokenFault::Lapsed)?;
        let Own::Token { current, .. } = holder.own() else { return Err(TokenFault::Lapsed) };
        let token = current.get();
        // Its expiry is a time of day, as whoever signed it has written.
        if token.expires.is_some_and(|expires| SystemTime::now() >= expires) {
            return Err(TokenFault::Lapsed);
        }
        Ok(token.secret)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// So that the tokens of many principals that came at once are not renewed at once.
fn shortened(time: Duration) -> Duration {
    time.mul_f64(rand::random_range(0.9..1.0))
}
