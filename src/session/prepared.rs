//! Owns the prepared statements of one session: their number, their age, and what is bound to them. Refuses to run anything.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;

use super::account::{Account, Part};
use super::config::Config;
use super::{Defaults, SessionError};

/// The handle of a prepared statement, as the client carries it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PreparedId(String);

impl PreparedId {
    /// From the bytes that a client sent back; anything is accepted, and nothing is found by it if it is not a handle.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(String::from_utf8_lossy(bytes).into_owned())
    }

    /// The handle as bytes for the client.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self.0.as_bytes())
    }
}

impl fmt::Display for PreparedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What was prepared; never changes.
#[derive(Debug)]
pub struct PreparedStatement {
    /// The statement's text.
    pub sql: String,
    /// Where its names are looked up: the session's defaults when it was prepared.
    pub defaults: Defaults,
    /// One nullable field a parameter.
    pub parameters: SchemaRef,
    /// The columns of its result; `None` for a statement that returns no rows.
    pub columns: Option<SchemaRef>,
    /// The columns may turn out otherwise once values are bound.
    pub provisional: bool,
    /// When its description was asked for.
    pub described: Instant,
    /// It has been run: only the first run belongs to one statement with the description.
    pub has_run: AtomicBool,
}

impl PreparedStatement {
    /// About the bytes that it takes in memory. A short text may have very many columns.
    fn bytes(&self) -> usize {
        self.sql.len() + self.parameters.fields().size() + self.columns.as_ref().map_or(0, |columns| columns.fields().size())
    }
}

/// Parameters bound to a prepared statement.
#[derive(Clone, Debug, Default)]
pub struct Binding {
    /// An Arrow IPC stream; empty for none.
    pub parameters: Bytes,
    /// They have other types than the statement was described with, so that its columns may differ from the described ones too.
    pub other_types: bool,
    /// Counts the bindings of this statement, so that a ticket can tell whether it still means the same one.
    pub number: u64,
}

pub(super) struct PreparedStatements {
    entries: HashMap<PreparedId, Entry>,
    bound_bytes: usize,
    /// Of the principal whose session this is.
    account: Arc<Account>,
}

struct Entry {
    statement: Arc<PreparedStatement>,
    binding: Binding,
    used: Instant,
    part: Part,
}

impl PreparedStatements {
    pub(super) fn new(account: Arc<Account>) -> Self {
        Self { entries: HashMap::new(), bound_bytes: 0, account }
    }

    pub(super) fn add(
        &mut self,
        statement: PreparedStatement,
        config: &Config,
        now: Instant,
    ) -> Result<PreparedId, SessionError> {
        self.drop_old(config, now);
        if self.entries.len() >= config.max_prepared_per_session {
            return Err(SessionError::TooManyPrepared(config.max_prepared_per_session));
        }
        let part = self.account.take(statement.bytes())?;
        let id = PreparedId(uuid::Uuid::new_v4().simple().to_string());
        self.entries.insert(id.clone(), Entry { statement: Arc::new(statement), binding: Binding::default(), used: now, part });
        Ok(id)
    }

    pub(super) fn get(
        &mut self,
        id: &PreparedId,
        config: &Config,
        now: Instant,
    ) -> Result<(Arc<PreparedStatement>, Binding), SessionError> {
        self.drop_old(config, now);
        let entry = self.entries.get_mut(id).ok_or(SessionError::NoSuchPrepared)?;
        entry.used = now;
        Ok((Arc::clone(&entry.statement), entry.binding.clone()))
    }

    pub(super) fn bind(
        &mut self,
        id: &PreparedId,
        parameters: Bytes,
        other_types: bool,
        config: &Config,
        now: Instant,
    ) -> Result<(), SessionError> {
        self.drop_old(config, now);
        let entry = self.entries.get_mut(id).ok_or(SessionError::NoSuchPrepared)?;
        let bound_bytes = self.bound_bytes - entry.binding.parameters.len() + parameters.len();
        if bound_bytes > config.max_bound_bytes_per_session {
            return Err(SessionError::TooManyBoundBytes(config.max_bound_bytes_per_session));
        }
        entry.part.resize(entry.statement.bytes() + parameters.len())?;
        self.bound_bytes = bound_bytes;
        entry.binding = Binding { parameters, other_types, number: entry.binding.number + 1 };
        entry.used = now;
        Ok(())
    }

    pub(super) fn remove(&mut self, id: &PreparedId) -> bool {
        let entry = self.entries.remove(id);
        self.bound_bytes -= entry.as_ref().map_or(0, |entry| entry.binding.parameters.len());
        entry.is_some()
    }

    /// Drops what was not used for too long; gives how many.
    pub(super) fn drop_old(&mut self, config: &Config, now: Instant) -> usize {
        let before = self.entries.len();
        let bound_bytes = &mut self.bound_bytes;
        self.entries.retain(|_, entry| {
            let keep = now.saturating_duration_since(entry.used) < config.prepared_ttl;
            if !keep {
                *bound_bytes -= entry.binding.parameters.len();
            }
            keep
        });
        before - self.entries.len()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn statement(sql: &str) -> PreparedStatement {
        let defaults = Defaults { catalog: "lake".into(), schema: "gold".to_owned(), as_of: None };
        PreparedStatement {
            sql: sql.to_owned(),
            defaults,
            parameters: Arc::new(Schema::empty()),
            columns: None,
            provisional: false,
            described: Instant::now(),
            has_run: AtomicBool::new(false),
        }
    }

    #[test]
    fn an_unused_prepared_statement_is_dropped_and_a_used_one_kept() {
        let config = Config { prepared_ttl: Duration::from_secs(10), ..Config::default() };
        let (mut all, start) = (PreparedStatements::new(Account::new(&config)), Instant::now());
        let used = all.add(statement("used"), &config, start).unwrap();
        let unused = all.add(statement("unused"), &config, start).unwrap();
        all.bind(&unused, Bytes::from_static(b"abc"), false, &config, start).unwrap();
        assert!(all.get(&used, &config, start + Duration::from_secs(8)).is_ok());
        let later = start + Duration::from_secs(12);
        assert!(all.get(&used, &config, later).is_ok());
        assert!(matches!(all.get(&unused, &config, later), Err(SessionError::NoSuchPrepared)));
        assert_eq!(all.bound_bytes, 0);
    }

    #[test]
    fn columns_count_beside_a_short_text() {
        let config = Config { max_prepared_bytes_per_principal: 100_000, ..Config::default() };
        let (mut all, now) = (PreparedStatements::new(Account::new(&config)), Instant::now());
        let columns: Vec<Field> = (0..500).map(|n| Field::new(format!("c{n}"), DataType::Int32, true)).collect();
        let columns = Arc::new(Schema::new(columns));
        let wide = || PreparedStatement { columns: Some(Arc::clone(&columns)), ..statement("FROM t") };
        let id = all.add(wide(), &config, now).unwrap();
        let told = || PreparedStatement { parameters: Arc::clone(&columns), ..statement("FROM t") };
        assert!(matches!(all.add(told(), &config, now), Err(SessionError::TooManyPreparedBytes(100_000))));
        assert!(all.bind(&id, Bytes::from(vec![0; 50_000]), false, &config, now).is_err());
        assert!(all.remove(&id));
        all.add(told(), &config, now).unwrap();
    }

    #[test]
    fn numbers_and_bytes_are_bounded() {
        let config = Config { max_prepared_per_session: 1, max_bound_bytes_per_session: 4, ..Config::default() };
        let (mut all, now) = (PreparedStatements::new(Account::new(&config)), Instant::now());
        let id = all.add(statement("one"), &config, now).unwrap();
        assert!(matches!(all.add(statement("two"), &config, now), Err(SessionError::TooManyPrepared(1))));
        all.bind(&id, Bytes::from_static(b"1234"), false, &config, now).unwrap();
        all.bind(&id, Bytes::from_static(b"abcd"), false, &config, now).unwrap();
        assert!(matches!(
            all.bind(&id, Bytes::from_static(b"12345"), false, &config, now),
            Err(SessionError::TooManyBoundBytes(4))
        ));
        let (_, binding) = all.get(&id, &config, now).unwrap();
        assert_eq!((&binding.parameters[..], binding.number), (&b"abcd"[..], 2));
        assert!(all.remove(&id) && !all.remove(&id));
        assert_eq!(all.bound_bytes, 0);
    }
}
