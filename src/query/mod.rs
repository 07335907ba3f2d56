//! The life of one statement: judge → authorise → prepare its tables → run on a worker → stream → log.
//!
//! It owns the order of these steps and the one log event at their end. It refuses to know a client protocol: the edges turn their
//! calls into [`Caller`] and text, and its frames into their messages.

mod admission;
mod config;
mod describe;
mod descriptions;
mod error;
mod ingest;
pub mod listing;
mod log;
mod past;
mod prepare;
mod statement;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
pub use config::Config;
use descriptions::Descriptions;
pub use error::QueryError;
use futures::Stream;

use self::admission::Admission;
use self::log::StatementLog;
use self::statement::LAST_WORD;
use crate::as_of::AsOf;
use crate::auth::credential::Credential;
use crate::names::{CatalogName, PrincipalId, PrincipalName, SessionId, TableRef};
use crate::pool::Pool;
use crate::pool::connection::RawFrame;
use crate::relay::Relay;
use crate::wire::proto::Class;

/// On whose behalf and where a statement runs.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Which caller it is; limits go by it.
    pub id: PrincipalId,
    /// Its name, for texts and the log.
    pub principal: PrincipalName,
    /// The credential that the catalogs see.
    pub credential: Credential,
    /// The session, for the log.
    pub session: SessionId,
    /// Where names without a catalog are looked up.
    pub catalog: CatalogName,
    /// Where names without a schema are looked up.
    pub schema: String,
    /// Tables are read as they were then, and nothing is written.
    pub as_of: Option<AsOf>,
    /// When the statement began, which may be a while before the call: what was read since is new enough for it.
    pub begun: Instant,
}

/// What a statement wants to change in its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionChange {
    /// Where names are looked up.
    Names {
        /// New default catalog.
        catalog: CatalogName,
        /// New default schema.
        schema: String,
    },
    /// When tables are read; `None` is now.
    AsOf(Option<AsOf>),
}

/// A statement judged and bound, not run.
#[derive(Clone, Debug)]
pub struct Description {
    /// One nullable field a parameter, named `1`, `2`, … or as in the text.
    pub parameters: SchemaRef,
    /// The columns of its result; `None` for a statement that returns no rows (DDL, DML, USE).
    pub columns: Option<SchemaRef>,
    /// The columns hang on parameters whose type only their values settle: names and types of the result may turn out otherwise.
    pub provisional: bool,
}

/// One piece of a result: an Arrow IPC message, as `FlightData` carries it.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The flatbuffer message (`data_header`).
    pub header: Bytes,
    /// The buffers (`data_body`).
    pub body: Bytes,
    /// The frame as a whole gRPC message: 5-byte prefix and protobuf `FlightData`.
    pub message: Bytes,
}

/// The frames of a result: the schema first, then batches, none above 2 MB unless a single row is, of up to 64 MB. Dropping it cancels the
/// statement.
pub type Frames = Pin<Box<dyn Stream<Item = Result<Frame, QueryError>> + Send>>;

/// What came of a statement.
pub enum Execution {
    /// It returns rows.
    Rows(Frames),
    /// It has run.
    Done {
        /// Rows changed; `None` where the statement has no such number (DDL, USE).
        affected: Option<u64>,
        /// What the edge must change in the caller's session.
        session: Option<SessionChange>,
    },
}

/// What to do when the table of an ingest is there, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IngestMode {
    /// It must be there.
    Append,
    /// It must not be there.
    Create,
    /// Created when it is not there.
    CreateOrAppend,
}

/// A table of a listing.
#[derive(Clone, Debug)]
pub struct ListedTable {
    /// Its name.
    pub table: TableRef,
    /// Its columns with `ARROW:FLIGHT:SQL:*` metadata; `None` when they were not asked for or the table could not be loaded.
    pub columns: Option<SchemaRef>,
}

/// Which tables to list. Patterns are SQL LIKE with `%` and `_`.
#[derive(Clone, Debug, Default)]
pub struct TableFilter {
    /// Exactly this catalog.
    pub catalog: Option<CatalogName>,
    /// LIKE pattern for the schema.
    pub schema: Option<String>,
    /// LIKE pattern for the table.
    pub table: Option<String>,
    /// Load the columns too.
    pub with_columns: bool,
}

/// How long one statement may take and wait.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// The client's own deadline, if it is nearer than the configured one.
    pub deadline: Option<Duration>,
}

/// The kernel that every protocol edge calls.
#[derive(Clone)]
pub struct Engine(Arc<Parts>);

struct Parts {
    config: Config,
    admission: Arc<Admission>,
    pool: Pool,
    relay: Arc<Relay>,
    descriptions: Descriptions,
}

impl Engine {
    /// An engine over these workers and catalogs.
    #[must_use]
    pub fn new(config: Config, pool: Pool, relay: Arc<Relay>) -> Self {
        let admission = Admission::new(config.max_statements_per_principal);
        Self(Arc::new(Parts { config, admission, pool, relay, descriptions: Descriptions::new() }))
    }

    /// Whether the gateway takes new calls.
    ///
    /// # Errors
    /// When it drains.
    pub fn check_open(&self) -> Result<(), QueryError> {
        self.0.admission.check_open()
    }

    /// Lets no statement in from here on, waits for those in work, and cuts the ones that are left after `limit`; gives how many. Each
    /// has a line of its own in the log.
    pub async fn drain(&self, limit: Duration) -> usize {
        let admission = &self.0.admission;
        admission.close();
        if tokio::time::timeout(limit, admission.empty()).await.is_ok() {
            return 0;
        }
        let left = admission.in_work();
        admission.cut();
        // Writes have the last word of their workers, which are killed after the grace.
        self.pool().cancel_all();
        let last_words = self.pool().cancel_grace() + LAST_WORD;
        if tokio::time::timeout(last_words, admission.empty()).await.is_err() {
            tracing::warn!(statements = admission.in_work(), "clients do not read on: their results end with the connections");
        }
        left
    }

    /// Lets a statement in, and begins its log.
    fn begin(&self, caller: &Caller, action: &'static str, sql: &str) -> Result<StatementLog, QueryError> {
        let admitted = self.0.admission.enter(&caller.id, &caller.principal)?;
        Ok(StatementLog::begin(admitted, self.config(), caller, action, sql))
    }

    fn config(&self) -> &Config {
        &self.0.config
    }

    fn pool(&self) -> &Pool {
        &self.0.pool
    }

    fn relay(&self) -> &Arc<Relay> {
        &self.0.relay
    }

    fn descriptions(&self) -> &Descriptions {
        &self.0.descriptions
    }

    /// When a statement that starts now must have ended.
    fn deadline(&self, limits: Limits) -> tokio::time::Instant {
        let configured = self.config().statement_timeout;
        tokio::time::Instant::now() + limits.deadline.map_or(configured, |own| own.min(configured))
    }
}

impl Caller {
    /// What the catalogs see of its reads.
    fn reads(&self) -> Credential {
        self.credential.for_reads()
    }

    /// What the catalogs see of a statement of this class.
    fn credential_of(&self, class: Class) -> Credential {
        if is_write(class) { self.credential.clone() } else { self.reads() }
    }
}

/// Whether a statement of this class may change a catalog.
fn is_write(class: Class) -> bool {
    !matches!(class, Class::Read | Class::TimeTravel | Class::Session)
}

impl From<RawFrame> for Frame {
    fn from(raw: RawFrame) -> Self {
        Self { header: raw.header, body: raw.body, message: raw.message }
    }
}
