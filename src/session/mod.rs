//! Client-visible state across calls: defaults and prepared statements, found by a sealed token or by the connection.
//!
//! It owns the register of sessions and its limits. It refuses to know protocols and to run statements. Locks are private to this
//! module, held for a few map operations, and never over an await.

mod account;
mod beginnings;
mod closed;
pub mod config;
mod ended;
mod prepared;
#[cfg(test)]
mod tests;
mod token;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::auth::credential::Credential;
use crate::auth::seal::SealError;
use crate::auth::{AuthError, Authenticator, Principal};
use crate::error::{Explain, Kind};
use crate::names::{CatalogName, PrincipalId, PrincipalName, SessionId};
use account::Account;
pub use beginnings::{Beginnings, Defaults};
pub use closed::ClosedError;
use config::Config;
use ended::{Ended, OpenedMs};
use prepared::PreparedStatements;
pub use prepared::{Binding, PreparedId, PreparedStatement};
use token::Token;

/// How often idle sessions and unused statements are looked for, at most.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Shorter lives are not looked after more often than this.
const SWEEP_AT_LEAST: Duration = Duration::from_millis(100);
/// In a full register, sessions unused for so long give way. Some clients log in for every statement and never close a session.
const GIVES_WAY_AFTER: Duration = Duration::from_secs(60);
/// What part of a full register gives way at once, so that not every log-in has to look for the next.
const GIVING_WAY: usize = 100;

/// Tokens are sealed a moment after their sessions were opened, and expire at a full second.
const SEALED_WITHIN: Duration = Duration::from_secs(2);

/// Why a session, or something in it, is not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The bearer token is nothing of ours.
    #[error("the bearer token is not a session token of this gateway")]
    ForeignToken,
    /// The token cannot be opened.
    #[error("the session token is not valid: {0}; log in again")]
    Token(SealError),
    /// Closed, or idle for too long.
    #[error("session has ended; log in again")]
    Ended,
    /// Not known here, and its token does not say enough to make it again.
    #[error(
        "session has ended: the gateway was restarted or has made room, and what you logged in with is too long to be kept in a session token; log in again"
    )]
    NotKept,
    /// What it was opened with is not taken any more.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// No place for another session.
    #[error("the gateway holds {0} sessions, which is its limit (session.max_sessions); close some, or try again later")]
    TooMany(usize),
    /// The principal has taken its share.
    #[error(
        "{principal} holds {limit} sessions, which is the limit of one principal (session.max_sessions_per_principal); close some, or try again later"
    )]
    TooManyOfPrincipal {
        /// Whose they are.
        principal: PrincipalName,
        /// The configured ceiling.
        limit: usize,
    },
    /// No place for another prepared statement.
    #[error("this session holds {0} prepared statements, which is its limit (session.max_prepared_per_session); close some")]
    TooManyPrepared(usize),
    /// No place for another prepared statement of this principal.
    #[error(
        "your sessions hold {0} prepared statements, which is the limit of one principal (session.max_prepared_per_principal); close some"
    )]
    TooManyPreparedOfPrincipal(usize),
    /// The principal's prepared statements take too much.
    #[error(
        "the prepared statements of your sessions would exceed {0} bytes with what is bound to them (session.max_prepared_bytes_per_principal); close some"
    )]
    TooManyPreparedBytes(usize),
    /// Bound parameters take too much.
    #[error("the bound parameters of this session would exceed {0} bytes (session.max_bound_bytes_per_session)")]
    TooManyBoundBytes(usize),
    /// The handle means nothing here.
    #[error(
        "there is no prepared statement with this handle in this session: it was closed, or not used for longer than session.prepared_ttl; prepare it again"
    )]
    NoSuchPrepared,
}

impl Explain for SessionError {
    fn kind(&self) -> Kind {
        match self {
            Self::ForeignToken | Self::Token(_) | Self::Ended | Self::NotKept => Kind::Unauthenticated,
            Self::Auth(error) => error.kind(),
            Self::TooMany(_) | Self::TooManyOfPrincipal { .. } => Kind::ResourceExhausted(Some(SWEEP_EVERY)),
            Self::TooManyPrepared(_)
            | Self::TooManyPreparedOfPrincipal(_)
            | Self::TooManyPreparedBytes(_)
            | Self::TooManyBoundBytes(_) => Kind::ResourceExhausted(None),
            Self::NoSuchPrepared => Kind::NotFound,
        }
    }
}

/// One client's state.
pub struct Session {
    id: SessionId,
    principal: Principal,
    opened: OpenedMs,
    initial: Defaults,
    connection: Option<u64>,
    config: Arc<Config>,
    /// Guards everything that changes in this session.
    state: Mutex<State>,
}

struct State {
    /// When what the principal has shown lapses; a newer token on the same connection moves it.
    expires: Option<SystemTime>,
    defaults: Defaults,
    prepared: PreparedStatements,
    used: Instant,
}

impl Session {
    /// Its id, for the log.
    #[must_use]
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    /// Whose it is.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Where names were looked up at its beginning.
    #[must_use]
    pub fn initial(&self) -> &Defaults {
        &self.initial
    }

    /// Where names are looked up now.
    #[must_use]
    pub fn defaults(&self) -> Defaults {
        self.lock().defaults.clone()
    }

    /// Keeps a described statement.
    ///
    /// # Errors
    /// When the session holds too many.
    pub fn prepare(&self, statement: PreparedStatement) -> Result<PreparedId, SessionError> {
        self.lock().prepared.add(statement, &self.config, Instant::now())
    }

    /// Finds a prepared statement and what is bound to it.
    ///
    /// # Errors
    /// When the handle is unknown, closed or too old.
    pub fn prepared(&self, id: &PreparedId) -> Result<(Arc<PreparedStatement>, Binding), SessionError> {
        self.lock().prepared.get(id, &self.config, Instant::now())
    }

    /// Binds parameters (an Arrow IPC stream; empty for none) in place of those bound before. `other_types`: than described.
    ///
    /// # Errors
    /// When the handle is unknown or the parameters take too much.
    pub fn bind(&self, id: &PreparedId, parameters: Bytes, other_types: bool) -> Result<(), SessionError> {
        self.lock().prepared.bind(id, parameters, other_types, &self.config, Instant::now())
    }

    /// Drops a prepared statement; `false` when it was not there.
    pub fn close_prepared(&self, id: &PreparedId) -> bool {
        self.lock().prepared.remove(id)
    }

    /// Its tables are read as they were, which its token does not say.
    fn reads_the_past(&self) -> bool {
        self.lock().defaults.as_of.is_some()
    }

    /// By what it is found on its connection.
    fn key(&self) -> (PrincipalId, Credential) {
        key(&self.principal)
    }

    fn check_unlapsed(&self) -> Result<(), SessionError> {
        let expires = self.lock().expires;
        self.principal.lapsed_with(expires, SystemTime::now()).map_or(Ok(()), |error| Err(error.into()))
    }

    /// The caller has just been proven again.
    fn proven_again(&self, expires: Option<SystemTime>) {
        let mut state = self.lock();
        state.used = Instant::now();
        if expires.is_none() || state.expires.is_some_and(|old| Some(old) < expires) {
            state.expires = expires;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a new session begins with.
struct New<'a> {
    id: SessionId,
    opened: OpenedMs,
    principal: &'a Principal,
    initial: Defaults,
    connection: Option<u64>,
}

fn key(principal: &Principal) -> (PrincipalId, Credential) {
    (principal.id.clone(), principal.credential.clone())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The register of all sessions. Cheap to clone.
#[derive(Clone)]
pub struct Sessions(Arc<Inner>);

struct Inner {
    config: Arc<Config>,
    auth: Authenticator,
    /// How long a token is good for.
    token_ttl: Duration,
    beginnings: Beginnings,
    /// Guards which sessions there are.
    register: Mutex<Register>,
}

struct Register {
    sessions: HashMap<SessionId, Arc<Session>>,
    /// One principal may come with different rights, as by two tokens.
    by_connection: HashMap<u64, HashMap<(PrincipalId, Credential), SessionId>>,
    /// Of principals that have sessions.
    accounts: HashMap<PrincipalId, Weak<Account>>,
    ended: Ended,
    swept: Option<Instant>,
}

impl Register {
    fn new(config: &Config) -> Self {
        Self {
            sessions: HashMap::new(),
            by_connection: HashMap::new(),
            accounts: HashMap::new(),
            ended: Ended::new(config.max_ended, config.idle_ttl),
            swept: None,
        }
    }

    /// Ends a session for good: its token is worth nothing from here on.
    fn end(&mut self, id: &SessionId) {
        let Some(session) = self.remove(id) else { return };
        if session.connection.is_none() {
            self.ended.add(session.opened, id.clone());
        }
    }

    /// Forgets a session; its token may bring it back.
    fn remove(&mut self, id: &SessionId) -> Option<Arc<Session>> {
        let session = self.sessions.remove(id)?;
        if let Some(of_connection) = session.connection.and_then(|connection| self.by_connection.get_mut(&connection)) {
            of_connection.remove(&session.key());
        }
        if let Some(connection) = session.connection.filter(|id| self.by_connection.get(id).is_some_and(HashMap::is_empty)) {
            self.by_connection.remove(&connection);
        }
        Some(session)
    }

    /// A session in use (a call or a result stream holds it) is never idle.
    fn sweep(&mut self, idle_ttl: Duration, now: Instant) {
        self.swept = Some(now);
        for (_, id) in self.idle_for(idle_ttl, now, None) {
            self.end(&id);
        }
        self.accounts.retain(|_, account| account.strong_count() > 0);
    }

    fn account(&mut self, principal: &PrincipalId, config: &Config) -> Arc<Account> {
        if let Some(account) = self.accounts.get(principal).and_then(Weak::upgrade) {
            return account;
        }
        let account = Account::new(config);
        self.accounts.insert(principal.clone(), Arc::downgrade(&account));
        account
    }

    /// Removes the sessions that were unused for longest, of one principal or of all.
    fn make_room(&mut self, gives_way_after: Duration, now: Instant, of: Option<&PrincipalId>) {
        let mut idle = self.idle_for(gives_way_after, now, of);
        idle.sort_by_key(|(used, _)| *used);
        for (used, id) in idle.into_iter().take(1 + self.count(of) / GIVING_WAY) {
            let Some(session) = self.remove(&id).filter(|session| session.connection.is_none()) else { continue };
            if session.reads_the_past() {
                self.ended.add(session.opened, id);
            } else {
                self.ended.give_way(session.opened, id, used);
            }
        }
    }

    fn of<'a>(&'a self, principal: Option<&'a PrincipalId>) -> impl Iterator<Item = &'a Arc<Session>> {
        self.sessions.values().filter(move |session| principal.is_none_or(|id| session.principal.id == *id))
    }

    fn count(&self, principal: Option<&PrincipalId>) -> usize {
        self.of(principal).count()
    }

    fn idle_for(&self, time: Duration, now: Instant, of: Option<&PrincipalId>) -> Vec<(Instant, SessionId)> {
        let unused = self.of(of).filter(|session| Arc::strong_count(session) == 1);
        let with_time = unused.map(|session| (session.lock().used, session.id.clone()));
        with_time.filter(|(used, _)| now.saturating_duration_since(*used) >= time).collect()
    }
}

impl Sessions {
    /// An empty register. Tokens are sealed for `token_ttl`; `beginnings` are the configured ones.
    #[must_use]
    pub fn new(config: Config, auth: Authenticator, token_ttl: Duration, beginnings: impl Into<Beginnings>) -> Self {
        let register = Mutex::new(Register::new(&config));
        Self(Arc::new(Inner { config: Arc::new(config), auth, token_ttl, beginnings: beginnings.into(), register }))
    }

    /// Reads which sessions had ended before the gateway was started, and keeps that file up to date, when one is configured.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn recall(&self) -> Result<(), ClosedError> {
        let Some(path) = &self.0.config.closed_file else { return Ok(()) };
        self.lock().ended.recall(path, self.expired_before())
    }

    /// Opens a session after a log-in, and seals the token by which [`Sessions::resume`] finds it.
    ///
    /// # Errors
    /// When there are too many sessions.
    pub fn open(&self, principal: &Principal, defaults: Defaults) -> Result<(Arc<Session>, String), SessionError> {
        let id = SessionId::from(uuid::Uuid::new_v4().simple().to_string());
        let opened = now_ms();
        let new = New { id: id.clone(), opened, principal, initial: defaults.clone(), connection: None };
        let session = self.insert(&mut self.lock(), new)?;
        let kept = Some(self.0.auth.keep(principal));
        let token = Token { session: id, principal: principal.id.clone(), opened, initial: defaults, kept };
        Ok((session, token.seal(self.0.auth.sealer(), self.0.token_ttl)))
    }

    /// Finds the session of a bearer token. One that is not known here, because the gateway was restarted or has made room, is made
    /// again from what the token says, with nothing prepared and the defaults that it began with.
    ///
    /// # Errors
    /// When the token is not ours, not valid any more, its session has ended, or what it was opened with is not taken any more.
    pub fn resume(&self, token: &str) -> Result<Arc<Session>, SessionError> {
        let token = Token::open(self.0.auth.sealer(), token)?;
        let known = self.known(&token)?;
        let session = known.map_or_else(|| self.made_again(token), Ok)?;
        session.check_unlapsed()?;
        Ok(session)
    }

    fn known(&self, token: &Token) -> Result<Option<Arc<Session>>, SessionError> {
        let now = Instant::now();
        let mut register = self.lock();
        let Some(session) = register.sessions.get(&token.session).cloned() else {
            let ended = register.ended.contains(token.opened, &token.session, now);
            return if ended { Err(SessionError::Ended) } else { Ok(None) };
        };
        if session.principal.id != token.principal {
            return Err(SessionError::Ended);
        }
        // The register's own and this one.
        let in_use = Arc::strong_count(&session) > 2;
        let mut state = session.lock();
        if !in_use && now.saturating_duration_since(state.used) >= self.0.config.idle_ttl {
            drop(state);
            register.end(&token.session);
            return Err(SessionError::Ended);
        }
        state.used = now;
        drop(state);
        Ok(Some(session))
    }

    fn made_again(&self, token: Token) -> Result<Arc<Session>, SessionError> {
        let principal = self.0.auth.restore(token.kept.as_deref().ok_or(SessionError::NotKept)?)?;
        if principal.id != token.principal {
            return Err(SessionError::Ended);
        }
        if let Some(lapsed) = principal.lapsed(SystemTime::now()) {
            return Err(lapsed.into());
        }
        let mut register = self.lock();
        // Somebody may have been faster, or may have closed it.
        if let Some(session) = register.sessions.get(&token.session) {
            return Ok(Arc::clone(session));
        }
        if register.ended.contains(token.opened, &token.session, Instant::now()) {
            return Err(SessionError::Ended);
        }
        let (id, opened) = (token.session, token.opened);
        let session =
            self.insert(&mut register, New { id, opened, principal: &principal, initial: token.initial, connection: None })?;
        register.ended.come_back(opened, &session.id);
        drop(register);
        tracing::info!(principal = %principal.name, session = %session.id, "session made again from its token");
        Ok(session)
    }

    /// The session of a principal on one connection, opened with these defaults when there is none: for clients that carry no token. The
    /// principal has just been proven.
    ///
    /// # Errors
    /// When there are too many sessions.
    pub fn of_connection(
        &self,
        connection: u64,
        principal: &Principal,
        defaults: Defaults,
    ) -> Result<Arc<Session>, SessionError> {
        let mut register = self.lock();
        let known = register.by_connection.get(&connection).and_then(|of| of.get(&key(principal)));
        if let Some(session) = known.and_then(|id| register.sessions.get(id)).cloned() {
            session.proven_again(principal.expires);
            return Ok(session);
        }
        let id = SessionId::from(uuid::Uuid::new_v4().simple().to_string());
        let new = New { id, opened: now_ms(), principal, initial: defaults, connection: Some(connection) };
        self.insert(&mut register, new)
    }

    /// Changes where names are looked up, and when tables are read. The token of a session that reads the past does not say so: it is
    /// not made again from that, or it would read the present without a word, and write.
    pub fn set_defaults(&self, session: &Session, defaults: Defaults) {
        let mut register = self.lock();
        let reads_the_past = defaults.as_of.is_some();
        session.lock().defaults = defaults;
        if session.connection.is_none() && register.sessions.contains_key(&session.id) {
            register.ended.hold(session.opened, &session.id, reads_the_past);
        }
    }

    /// Ends a session; its token is worth nothing from here on.
    pub fn close(&self, session: &Session) {
        self.lock().end(&session.id);
    }

    /// The connection is gone: so are its sessions.
    pub fn end_connection(&self, connection: u64) {
        let mut register = self.lock();
        for id in register.by_connection.remove(&connection).unwrap_or_default().into_values() {
            register.sessions.remove(&id);
        }
    }

    /// Ends idle sessions and drops unused prepared statements, again and again; for one task of the gateway.
    pub async fn keep_swept(self) {
        let config = &self.0.config;
        let every = config.idle_ttl.min(config.prepared_ttl).clamp(SWEEP_AT_LEAST, SWEEP_EVERY);
        let mut tick = tokio::time::interval(every);
        loop {
            tick.tick().await;
            self.sweep(Instant::now());
        }
    }

    /// Tokens of sessions that were opened before this have expired.
    fn expired_before(&self) -> OpenedMs {
        let kept = self.0.token_ttl.saturating_add(SEALED_WITHIN);
        now_ms().saturating_sub(u64::try_from(kept.as_millis()).unwrap_or(u64::MAX))
    }

    fn sweep(&self, now: Instant) {
        let config = &self.0.config;
        let mut register = self.lock();
        let before = register.sessions.len();
        register.sweep(config.idle_ttl, now);
        register.ended.sweep(now);
        register.ended.forget_before(self.expired_before());
        let ended = before - register.sessions.len();
        let left: Vec<Arc<Session>> = register.sessions.values().cloned().collect();
        drop(register);
        let dropped: usize = left.iter().map(|session| session.lock().prepared.drop_old(config, now)).sum();
        if ended + dropped > 0 {
            tracing::debug!(sessions = ended, statements = dropped, "ended what was not used any more");
        }
    }

    /// How many sessions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().sessions.len()
    }

    /// Whether there is no session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where sessions of this principal begin, of the catalogs that it may see; `None` if these are none.
    #[must_use]
    pub fn beginning(&self, principal: &Principal, visible: &[CatalogName]) -> Option<Defaults> {
        self.0.beginnings.of(principal.credential.role(), visible)
    }

    fn insert(&self, register: &mut Register, new: New<'_>) -> Result<Arc<Session>, SessionError> {
        let New { id, opened, principal, initial, connection } = new;
        let (config, now) = (&self.0.config, Instant::now());
        let due = register.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_EVERY);
        if due || register.sessions.len() >= config.max_sessions {
            register.sweep(config.idle_ttl, now);
        }
        let limits = [(config.max_sessions, None), (config.max_sessions_per_principal, Some(&principal.id))];
        for (limit, of) in limits {
            if register.count(of) >= limit {
                register.make_room(GIVES_WAY_AFTER, now, of);
            }
            if register.count(of) >= limit {
                return Err(of.map_or(SessionError::TooMany(limit), |_| SessionError::TooManyOfPrincipal {
                    principal: principal.name.clone(),
                    limit,
                }));
            }
        }
        let prepared = PreparedStatements::new(register.account(&principal.id, config));
        let state = State { expires: principal.expires, defaults: initial.clone(), prepared, used: now };
        let session = Arc::new(Session {
            id: id.clone(),
            principal: principal.clone(),
            opened,
            initial,
            connection,
            config: Arc::clone(config),
            state: Mutex::new(state),
        });
        if let Some(connection) = connection {
            register.by_connection.entry(connection).or_default().insert(session.key(), id.clone());
        }
        register.sessions.insert(id, Arc::clone(&session));
        Ok(session)
    }

    fn lock(&self) -> MutexGuard<'_, Register> {
        self.0.register.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
