//! Owns the one log event of a statement. It is written when the token is dropped, so no way out of a statement is silent; a token
//! dropped without a word means that the client went away.

use std::time::Instant;

use super::{Caller, Config, QueryError};
use crate::error::Explain;

/// Characters of a statement that the log keeps.
const SQL_CHARACTERS: usize = 2_000;

/// The action of a statement that is judged and bound, not run.
pub(super) const DESCRIBE: &str = "describe";

/// What is known of a statement so far.
pub(super) struct StatementLog {
    began: Instant,
    action: &'static str,
    principal: String,
    session: String,
    sql: Option<String>,
    worker: Option<u64>,
    class: Option<&'static str>,
    leased_ms: Option<u64>,
    first_ms: Option<u64>,
    rows: Option<i64>,
    bytes: u64,
    outcome: Outcome,
}

enum Outcome {
    Abandoned,
    Ended,
    Failed { kind: String, message: String },
}

impl StatementLog {
    /// A statement has arrived.
    pub fn begin(config: &Config, caller: &Caller, action: &'static str, sql: &str) -> Self {
        Self {
            began: Instant::now(),
            action,
            principal: caller.principal.to_string(),
            session: caller.session.to_string(),
            sql: config.log_sql.then(|| sql.chars().take(SQL_CHARACTERS).collect()),
            worker: None,
            class: None,
            leased_ms: None,
            first_ms: None,
            rows: None,
            bytes: 0,
            outcome: Outcome::Abandoned,
        }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A worker was leased.
    pub fn leased(&mut self, worker: u64) {
        self.worker = Some(worker);
        self.leased_ms = Some(self.elapsed_ms());
    }

    /// The guard has classed it.
    pub fn classed(&mut self, class: &'static str) {
        self.class = Some(class);
    }

    /// A piece of the result left.
    pub fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if self.first_ms.is_none() {
            self.first_ms = Some(self.elapsed_ms());
        }
    }

    /// It ended well; rows sent or changed, where there is such a number.
    pub fn end(mut self, rows: Option<i64>) {
        self.rows = rows;
        self.outcome = Outcome::Ended;
    }

    /// It ended with an error.
    pub fn fail(mut self, error: &QueryError) {
        self.outcome = Outcome::Failed { kind: format!("{:?}", error.kind()), message: error.client_message() };
    }
}

impl Drop for StatementLog {
    fn drop(&mut self) {
        let (outcome, kind, error) = match &self.outcome {
            Outcome::Abandoned => ("abandoned", None, None),
            Outcome::Ended => ("ok", None, None),
            Outcome::Failed { kind, message } => ("failed", Some(kind.as_str()), Some(message.as_str())),
        };
        macro_rules! tell {
            ($level:ident) => {
                tracing::$level!(
                    action = self.action,
                    principal = self.principal,
                    session = self.session,
                    sql = self.sql,
                    class = self.class,
                    worker = self.worker,
                    outcome,
                    kind,
                    error,
                    leased_ms = self.leased_ms,
                    first_ms = self.first_ms,
                    total_ms = self.elapsed_ms(),
                    rows = self.rows,
                    bytes = self.bytes,
                    "statement {outcome}",
                )
            };
        }
        // A statement that was only described runs next, and that is its event.
        if self.action == DESCRIBE && matches!(self.outcome, Outcome::Ended) {
            tell!(debug);
        } else {
            tell!(info);
        }
    }
}
