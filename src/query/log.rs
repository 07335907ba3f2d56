//! Owns the one log event of a statement. It is written when the token is dropped, so no way out of a statement is silent; a token
//! dropped without a word means that the client went away. As long as it lives, the statement counts as in work.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::admission::Admitted;
use super::{Caller, Config, QueryError};
use crate::error::Explain;

/// Characters of a statement that the log keeps.
const SQL_CHARACTERS: usize = 2_000;

/// What the names of secrets have in them, in the options of DuckDB and of Iceberg catalogs.
const SECRET_WORDS: [&str; 5] = ["SECRET", "TOKEN", "PASSWORD", "KEY_ID", "_KEY"];

/// In the place of a text.
const WITHHELD: &str = "[withheld: it was refused, and may hold a secret]";

/// The action of a statement that is judged and bound, not run.
pub(super) const DESCRIBE: &str = "describe";

/// What is known of a statement so far.
pub(super) struct StatementLog {
    began: Instant,
    admitted: Admitted,
    action: &'static str,
    principal: String,
    session: String,
    sql: Option<String>,
    worker: Option<u64>,
    class: Option<&'static str>,
    leased_ms: Option<u64>,
    first_ms: Option<u64>,
    data_bytes: Option<u64>,
    rows: Option<i64>,
    sent_rows: i64,
    bytes: u64,
    outcome: Outcome,
}

enum Outcome {
    Abandoned,
    Cut,
    Ended,
    Failed { kind: String, message: String },
}

impl StatementLog {
    /// A statement has arrived and was let in.
    pub fn begin(admitted: Admitted, config: &Config, caller: &Caller, action: &'static str, sql: &str) -> Self {
        Self {
            began: Instant::now(),
            admitted,
            action,
            principal: caller.principal.to_string(),
            session: caller.session.to_string(),
            sql: config.log_sql.then(|| sql.chars().take(SQL_CHARACTERS).collect()),
            worker: None,
            class: None,
            leased_ms: None,
            first_ms: None,
            data_bytes: None,
            rows: None,
            sent_rows: 0,
            bytes: 0,
            outcome: Outcome::Abandoned,
        }
    }

    /// How long it has been in work.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Cancelled when the statement must end at once.
    pub fn cut(&self) -> CancellationToken {
        self.admitted.cut.clone()
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

    /// So much is in the data files of the tables that it reads, about.
    pub fn reads(&mut self, data_bytes: u64) {
        self.data_bytes = Some(data_bytes);
    }

    /// A batch of the result leaves.
    pub fn sent_batch(&mut self, header: &[u8], bytes: usize) {
        let message = arrow_ipc::root_as_message(header).ok();
        self.sent_rows += message.and_then(|message| message.header_as_record_batch()).map_or(0, |batch| batch.length());
        self.sent(bytes);
    }

    /// Bytes of rows went by.
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
        if matches!(error, QueryError::Cut(_)) {
            self.outcome = Outcome::Cut;
            return;
        }
        self.outcome = Outcome::Failed { kind: format!("{:?}", error.kind()), message: error.client_message() };
    }
}

/// Whether a text may carry a secret. Statements that take secrets are all refused, so it is asked of what the guard has not let pass.
fn may_hold_secrets(sql: &str) -> bool {
    let upper = sql.to_ascii_uppercase();
    SECRET_WORDS.iter().any(|word| upper.contains(word))
}

impl Drop for StatementLog {
    fn drop(&mut self) {
        let rows = self.rows.or((self.sent_rows > 0).then_some(self.sent_rows));
        let (outcome, kind, error) = match &self.outcome {
            Outcome::Cut => ("cut", None, None),
            // The client did not read on, so it could not be told.
            Outcome::Abandoned if self.admitted.cut.is_cancelled() => ("cut", None, None),
            Outcome::Abandoned => ("abandoned", None, None),
            Outcome::Ended => ("ok", None, None),
            Outcome::Failed { kind, message } => ("failed", Some(kind.as_str()), Some(message.as_str())),
        };
        let was_let_pass = self.class.is_some() || matches!(self.outcome, Outcome::Ended);
        if !was_let_pass && self.sql.as_deref().is_some_and(may_hold_secrets) {
            self.sql = Some(WITHHELD.to_owned());
        }
        macro_rules! tell {
            ($level:ident) => {
                tracing::$level!(
                    statement = self.admitted.id,
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
                    rows,
                    data_bytes = self.data_bytes,
                    bytes = self.bytes,
                    "statement {outcome}",
                )
            };
        }
        // A statement that was only described runs next, and that is its event.
        if self.action == DESCRIBE && matches!(self.outcome, Outcome::Ended) {
            tell!(debug);
        } else if outcome == "cut" {
            tell!(warn);
        } else {
            tell!(info);
        }
    }
}
