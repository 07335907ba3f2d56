//! Client-visible state across calls: defaults and prepared statements, found by a sealed token or by the connection.
//!
//! It owns the register of sessions and its limits. It refuses to know protocols and to run statements. Locks are private to this
//! module, held for a few map operations, and never over an await.

mod account;
pub mod config;
mod prepared;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;

use crate::auth::Principal;
use crate::auth::seal::{Purpose, SealError, Sealer};
use crate::error::{Explain, Kind};
use crate::names::{CatalogName, PrincipalName, SessionId};
use account::Account;
use config::Config;
use prepared::PreparedStatements;
pub use prepared::{Binding, PreparedId, PreparedStatement};

/// How often idle sessions and unused statements are looked for, at most.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Shorter lives are not looked after more often than this.
const SWEEP_AT_LEAST: Duration = Duration::from_millis(100);
/// In a full register, sessions unused for so long give way. Some clients log in for every statement and never close a session.
const GIVES_WAY_AFTER: Duration = Duration::from_secs(60);
/// What part of a full register gives way at once, so that not every log-in has to look for the next.
const GIVING_WAY: usize = 100;

/// Where names without catalog or schema are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// The catalog.
    pub catalog: CatalogName,
    /// The schema in it.
    pub schema: String,
}

/// Why a session, or something in it, is not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The bearer token is nothing of ours.
    #[error("the bearer token is not a session token of this gateway")]
    ForeignToken,
    /// The token cannot be opened.
    #[error("the session token is not valid: {0}; log in again")]
    Token(SealError),
    /// Closed, idle for too long, or of another process.
    #[error("session has ended; log in again")]
    Ended,
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
            Self::ForeignToken | Self::Token(_) | Self::Ended => Kind::Unauthenticated,
            Self::TooMany(_) | Self::TooManyOfPrincipal { .. } => Kind::ResourceExhausted(Some(SWEEP_EVERY)),
            Self::TooManyPrepared(_)
            | Self::TooManyPreparedOfPrincipal(_)
            | Self::TooManyPreparedBytes(_)
            | Self::TooManyBoundBytes(_) => Kind::ResourceExhausted(None),
            Self::NoSuchPrepared => Kind::NotFound,
        }
    }
}

/// What a session token says, sealed.
#[derive(Clone, PartialEq, Message)]
struct TokenBody {
    #[prost(string, tag = "1")]
    session: String,
    #[prost(string, tag = "2")]
    principal: String,
}

/// One client's state.
pub struct Session {
    id: SessionId,
    principal: Principal,
    connection: Option<u64>,
    config: Arc<Config>,
    /// Guards everything that changes in this session.
    state: Mutex<State>,
}

struct State {
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

    /// Where names are looked up now.
    #[must_use]
    pub fn defaults(&self) -> Defaults {
        self.lock().defaults.clone()
    }

    /// Changes where names are looked up.
    pub fn set_defaults(&self, defaults: Defaults) {
        self.lock().defaults = defaults;
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The register of all sessions. Cheap to clone.
#[derive(Clone)]
pub struct Sessions(Arc<Inner>);

struct Inner {
    config: Arc<Config>,
    sealer: Sealer,
    /// How long a token is good for.
    token_ttl: Duration,
    defaults: Defaults,
    /// Guards which sessions there are.
    register: Mutex<Register>,
}

#[derive(Default)]
struct Register {
    sessions: HashMap<SessionId, Arc<Session>>,
    by_connection: HashMap<u64, HashMap<PrincipalName, SessionId>>,
    /// Of principals that have sessions.
    accounts: HashMap<PrincipalName, Weak<Account>>,
    swept: Option<Instant>,
}

impl Register {
    fn remove(&mut self, id: &SessionId) {
        let Some(session) = self.sessions.remove(id) else { return };
        let Some(connection) = session.connection else { return };
        if let Some(of_connection) = self.by_connection.get_mut(&connection) {
            of_connection.remove(&session.principal.name);
            if of_connection.is_empty() {
                self.by_connection.remove(&connection);
            }
        }
    }

    /// A session in use (a call or a result stream holds it) is never idle.
    fn sweep(&mut self, idle_ttl: Duration, now: Instant) {
        self.swept = Some(now);
        for (_, id) in self.idle_for(idle_ttl, now, None) {
            self.remove(&id);
        }
        self.accounts.retain(|_, account| account.strong_count() > 0);
    }

    fn account(&mut self, principal: &PrincipalName, config: &Config) -> Arc<Account> {
        if let Some(account) = self.accounts.get(principal).and_then(Weak::upgrade) {
            return account;
        }
        let account = Account::new(config);
        self.accounts.insert(principal.clone(), Arc::downgrade(&account));
        account
    }

    /// Removes the sessions that were unused for longest, of one principal or of all.
    fn make_room(&mut self, gives_way_after: Duration, now: Instant, of: Option<&PrincipalName>) {
        let mut idle = self.idle_for(gives_way_after, now, of);
        idle.sort_by_key(|(used, _)| *used);
        for (_, id) in idle.into_iter().take(1 + self.count(of) / GIVING_WAY) {
            self.remove(&id);
        }
    }

    fn of<'a>(&'a self, principal: Option<&'a PrincipalName>) -> impl Iterator<Item = &'a Arc<Session>> {
        self.sessions.values().filter(move |session| principal.is_none_or(|name| session.principal.name == *name))
    }

    fn count(&self, principal: Option<&PrincipalName>) -> usize {
        self.of(principal).count()
    }

    fn idle_for(&self, time: Duration, now: Instant, of: Option<&PrincipalName>) -> Vec<(Instant, SessionId)> {
        let unused = self.of(of).filter(|session| Arc::strong_count(session) == 1);
        let with_time = unused.map(|session| (session.lock().used, session.id.clone()));
        with_time.filter(|(used, _)| now.saturating_duration_since(*used) >= time).collect()
    }
}

impl Sessions {
    /// An empty register. Tokens are sealed for `token_ttl`; new sessions begin with `defaults`.
    #[must_use]
    pub fn new(config: Config, sealer: Sealer, token_ttl: Duration, defaults: Defaults) -> Self {
        let register = Mutex::new(Register::default());
        Self(Arc::new(Inner { config: Arc::new(config), sealer, token_ttl, defaults, register }))
    }

    /// Opens a session after a log-in, and seals the token by which [`Sessions::resume`] finds it.
    ///
    /// # Errors
    /// When there are too many sessions.
    pub fn open(&self, principal: &Principal) -> Result<(Arc<Session>, String), SessionError> {
        let session = self.insert(&mut self.lock(), principal, None)?;
        let body = TokenBody { session: session.id.to_string(), principal: principal.name.to_string() };
        let token = self.0.sealer.seal_text(Purpose::Session, &body.encode_to_vec(), self.0.token_ttl);
        Ok((session, token))
    }

    /// Finds the session of a bearer token.
    ///
    /// # Errors
    /// When the token is not ours, not valid any more, or its session has ended.
    pub fn resume(&self, token: &str) -> Result<Arc<Session>, SessionError> {
        let plain = self.0.sealer.open_text(Purpose::Session, token).map_err(|error| match error {
            SealError::Foreign => SessionError::ForeignToken,
            other => SessionError::Token(other),
        })?;
        let body = TokenBody::decode(plain.as_slice()).map_err(|_| SessionError::Token(SealError::Altered))?;
        let id = SessionId::from(body.session);
        let now = Instant::now();
        let mut register = self.lock();
        let session = register.sessions.get(&id).cloned().ok_or(SessionError::Ended)?;
        if session.principal.name.as_str() != body.principal {
            return Err(SessionError::Ended);
        }
        // The register's own and this one.
        let in_use = Arc::strong_count(&session) > 2;
        let mut state = session.lock();
        if !in_use && now.saturating_duration_since(state.used) >= self.0.config.idle_ttl {
            drop(state);
            register.remove(&id);
            return Err(SessionError::Ended);
        }
        state.used = now;
        drop(state);
        Ok(session)
    }

    /// The session of a principal on one connection, opened when there is none: for clients that carry no token.
    ///
    /// # Errors
    /// When there are too many sessions.
    pub fn of_connection(&self, connection: u64, principal: &Principal) -> Result<Arc<Session>, SessionError> {
        let mut register = self.lock();
        let known = register.by_connection.get(&connection).and_then(|of| of.get(&principal.name));
        if let Some(session) = known.and_then(|id| register.sessions.get(id)).cloned() {
            session.lock().used = Instant::now();
            return Ok(session);
        }
        self.insert(&mut register, principal, Some(connection))
    }

    /// Ends a session; its token is worth nothing from here on.
    pub fn close(&self, session: &Session) {
        self.lock().remove(&session.id);
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

    fn sweep(&self, now: Instant) {
        let config = &self.0.config;
        let mut register = self.lock();
        let before = register.sessions.len();
        register.sweep(config.idle_ttl, now);
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

    /// What new sessions begin with.
    #[must_use]
    pub fn defaults(&self) -> &Defaults {
        &self.0.defaults
    }

    fn insert(
        &self,
        register: &mut Register,
        principal: &Principal,
        connection: Option<u64>,
    ) -> Result<Arc<Session>, SessionError> {
        let (config, now) = (&self.0.config, Instant::now());
        let due = register.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_EVERY);
        if due || register.sessions.len() >= config.max_sessions {
            register.sweep(config.idle_ttl, now);
        }
        let limits = [(config.max_sessions, None), (config.max_sessions_per_principal, Some(&principal.name))];
        for (limit, of) in limits {
            if register.count(of) >= limit {
                register.make_room(GIVES_WAY_AFTER, now, of);
            }
            if register.count(of) >= limit {
                return Err(of.map_or(SessionError::TooMany(limit), |name| SessionError::TooManyOfPrincipal {
                    principal: name.clone(),
                    limit,
                }));
            }
        }
        let id = SessionId::from(uuid::Uuid::new_v4().simple().to_string());
        let prepared = PreparedStatements::new(register.account(&principal.name, config));
        let state = State { defaults: self.0.defaults.clone(), prepared, used: now };
        let session = Arc::new(Session {
            id: id.clone(),
            principal: principal.clone(),
            connection,
            config: Arc::clone(config),
            state: Mutex::new(state),
        });
        if let Some(connection) = connection {
            register.by_connection.entry(connection).or_default().insert(principal.name.clone(), id.clone());
        }
        register.sessions.insert(id, Arc::clone(&session));
        Ok(session)
    }

    fn lock(&self) -> MutexGuard<'_, Register> {
        self.0.register.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::credential::Credential;

    fn sessions(config: Config) -> Sessions {
        let defaults = Defaults { catalog: "lake".into(), schema: "gold".to_owned() };
        Sessions::new(config, Sealer::random(), Duration::from_secs(60), defaults)
    }

    fn prepared(sql: &str) -> PreparedStatement {
        let defaults = Defaults { catalog: "lake".into(), schema: "gold".to_owned() };
        let parameters = Arc::new(arrow::datatypes::Schema::empty());
        PreparedStatement { sql: sql.to_owned(), defaults, parameters, columns: None, provisional: false }
    }

    fn principal(name: &str) -> Principal {
        Principal { name: name.into(), credential: Credential::service(), expires: None }
    }

    #[test]
    fn a_token_leads_to_its_session_until_that_is_closed() {
        let all = sessions(Config::default());
        let (session, token) = all.open(&principal("ana")).unwrap();
        session.set_defaults(Defaults { catalog: "other".into(), schema: "s".to_owned() });
        let found = all.resume(&token).unwrap();
        assert_eq!((found.principal(), found.defaults().schema), (&principal("ana"), "s".to_owned()));
        all.close(&found);
        assert_eq!(all.resume(&token).err(), Some(SessionError::Ended));
        assert_eq!(all.resume("abc").err(), Some(SessionError::ForeignToken));
        let other = sessions(Config::default()).open(&principal("ana")).unwrap().1;
        assert_eq!(all.resume(&other).err(), Some(SessionError::Token(SealError::OtherKey)));
    }

    #[test]
    fn connections_and_principals_are_kept_apart_and_end_with_the_connection() {
        let all = sessions(Config::default());
        let first = all.of_connection(1, &principal("ana")).unwrap();
        assert_eq!(all.of_connection(1, &principal("ana")).unwrap().id(), first.id());
        assert_ne!(all.of_connection(1, &principal("bob")).unwrap().id(), first.id());
        assert_ne!(all.of_connection(2, &principal("ana")).unwrap().id(), first.id());
        all.end_connection(1);
        assert_eq!(all.len(), 1);
        assert_ne!(all.of_connection(1, &principal("ana")).unwrap().id(), first.id());
    }

    #[test]
    fn an_idle_session_ends_and_one_in_use_does_not() {
        let all = sessions(Config { idle_ttl: Duration::ZERO, max_sessions: 2, ..Config::default() });
        let (streaming, token) = all.open(&principal("ana")).unwrap();
        let (idle, idle_token) = all.open(&principal("ana")).unwrap();
        drop(idle);
        assert_eq!(all.resume(&idle_token).err(), Some(SessionError::Ended));
        assert!(all.resume(&token).is_ok());
        drop(streaming);
        assert!(all.resume(&token).is_err());
    }

    #[test]
    fn what_nobody_comes_back_for_is_swept() {
        let config = Config { idle_ttl: Duration::from_secs(60), prepared_ttl: Duration::from_secs(20), ..Config::default() };
        let all = sessions(config);
        let (session, _) = all.open(&principal("ana")).unwrap();
        session.prepare(prepared("SELECT 1")).unwrap();
        let start = Instant::now();
        all.sweep(start + Duration::from_secs(10));
        assert_eq!((all.len(), session.lock().prepared.len()), (1, 1));
        all.sweep(start + Duration::from_secs(30));
        assert_eq!((all.len(), session.lock().prepared.len()), (1, 0));
        drop(session);
        all.sweep(start + Duration::from_secs(90));
        assert!(all.is_empty() && all.lock().accounts.is_empty());
    }

    #[test]
    fn a_principal_s_sessions_share_the_room_for_prepared_statements() {
        let all = sessions(Config { max_prepared_per_principal: 2, ..Config::default() });
        let (one, _) = all.open(&principal("ana")).unwrap();
        let other = all.of_connection(7, &principal("ana")).unwrap();
        one.prepare(prepared("SELECT 1")).unwrap();
        let id = other.prepare(prepared("SELECT 2")).unwrap();
        assert_eq!(one.prepare(prepared("SELECT 3")).err(), Some(SessionError::TooManyPreparedOfPrincipal(2)));
        all.open(&principal("bob")).unwrap().0.prepare(prepared("SELECT 4")).unwrap();
        assert!(other.close_prepared(&id));
        one.prepare(prepared("SELECT 5")).unwrap();
        all.end_connection(7);
        all.close(&one);
        drop((one, other));
        assert!(all.open(&principal("ana")).unwrap().0.prepare(prepared("SELECT 6")).is_ok());
    }

    #[test]
    fn in_a_full_register_the_longest_unused_give_way() {
        let all = sessions(Config { max_sessions: 200, ..Config::default() });
        let tokens: Vec<String> = (0..200).map(|_| all.open(&principal("ana")).unwrap().1).collect();
        let in_use = all.resume(&tokens[1]).unwrap();
        all.lock().make_room(Duration::from_secs(60), Instant::now(), None);
        assert_eq!(all.len(), 200, "none was unused for long enough");
        all.lock().make_room(Duration::from_secs(60), Instant::now() + Duration::from_secs(61), None);
        assert_eq!(all.len(), 197);
        let gone: Vec<usize> = (0..200).filter(|n| all.resume(&tokens[*n]).is_err()).collect();
        assert_eq!(gone, [0, 2, 3]);
        drop(in_use);
    }

    #[test]
    fn a_full_register_makes_room_only_of_idle_sessions() {
        let all = sessions(Config { max_sessions: 1, ..Config::default() });
        let _held = all.open(&principal("ana")).unwrap();
        assert_eq!(all.open(&principal("bob")).err(), Some(SessionError::TooMany(1)));
        assert_eq!(all.of_connection(7, &principal("bob")).err(), Some(SessionError::TooMany(1)));
        let short = sessions(Config { max_sessions: 1, idle_ttl: Duration::ZERO, ..Config::default() });
        drop(short.of_connection(1, &principal("ana")).unwrap());
        assert!(short.open(&principal("bob")).is_ok());
        assert_eq!(short.len(), 1);
    }

    #[test]
    fn one_principal_does_not_take_the_places_of_others() {
        let all = sessions(Config { max_sessions: 10, max_sessions_per_principal: 2, ..Config::default() });
        let held: Vec<_> = (0..2).map(|_| all.open(&principal("ana")).unwrap()).collect();
        let limit = SessionError::TooManyOfPrincipal { principal: "ana".into(), limit: 2 };
        assert_eq!(all.open(&principal("ana")).err(), Some(limit.clone()));
        assert_eq!(all.of_connection(3, &principal("ana")).err(), Some(limit));
        let bob = all.open(&principal("bob")).unwrap().1;
        drop(held);
        all.lock().make_room(Duration::ZERO, Instant::now(), Some(&"ana".into()));
        assert!(all.open(&principal("ana")).is_ok());
        assert!(all.resume(&bob).is_ok(), "ana's room was made of bob's");
    }
}
