//! The composition root: build → bind → serve → drain. The only place that knows every part, and whose task tracker every
//! long-lived task is on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::config::Mode;
use crate::auth::{self, Authenticator};
use crate::config::Config;
use crate::extensions;
use crate::flight::transport::listener::ConnectionInfo;
use crate::flight::transport::tls::{self, Certificates};
use crate::flight::{self, FlightServer};
use crate::health::{Health, Peer};
use crate::pool::{self, Environment, Pool};
use crate::query::Engine;
use crate::relay::Relay;
use crate::relay::check::ready::Logins;
use crate::relay::lease::Leases;
use crate::session::Sessions;

/// How long workers and the relay may take to end once no statement runs.
const LAST_MOMENTS: Duration = Duration::from_secs(5);

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The address cannot be used.
    #[error("cannot listen on flight.listen = {address}")]
    Listen {
        /// As configured.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The `flight` section is wrong, or a file that it names.
    #[error(transparent)]
    Flight(#[from] flight::ConfigError),
    /// The rules on who may call don't fit the address.
    #[error(transparent)]
    Auth(#[from] crate::auth::config::ConfigError),
    /// Which sessions have ended cannot be known.
    #[error(transparent)]
    Sessions(#[from] crate::session::ClosedError),
    /// A catalog or the relay cannot be opened.
    #[error(transparent)]
    Relay(#[from] crate::relay::RelayError),
    /// DuckDB's extension files were not found.
    #[error(transparent)]
    Extensions(#[from] extensions::MissingExtensions),
    /// The system refused something that every start needs.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// A gateway that serves.
pub struct Running {
    /// Where Flight SQL is served.
    pub flight_addr: SocketAddr,
    /// The same as clients write it, without or with TLS.
    pub flight_uri: String,
    drain_timeout: Duration,
    engine: Engine,
    health: Health,
    stop: CancellationToken,
    stop_workers: CancellationToken,
    stop_relay: CancellationToken,
    edges: TaskTracker,
    tasks: TaskTracker,
}

/// What is allowed but should be known, one text each.
///
/// # Errors
/// When the config contradicts itself.
pub fn check(config: &Config) -> Result<Vec<String>, GatewayError> {
    let flight = &config.flight;
    let mut warnings = flight.check()?;
    warnings.extend(config.auth.validate(flight.listen, flight.tls.is_some())?.iter().map(ToString::to_string));
    // Reads the keys, the users' hashes and the issuers' certificates, which is the rest of what can be wrong with them.
    auth::check(&config.auth)?;
    Ok(warnings)
}

/// Starts a gateway. It serves until `stop` is cancelled; [`Running::finish`] then drains it.
///
/// # Errors
/// When the config contradicts itself, or a part cannot start.
pub async fn start(config: Config, stop: CancellationToken) -> Result<Running, GatewayError> {
    let began = Instant::now();
    for warning in check(&config)? {
        tracing::warn!("{warning}");
    }
    // Workers run as the same user; they hold no credentials, and shall not read them from here either.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "the gateway's memory can be read by processes of the same user");
    }
    // Its memory has secrets, and a core file would have them too.
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(%error, "the gateway may leave a core file when it crashes");
    }
    let extension_dir = match config.pool.extension_dir.clone() {
        Some(dir) => extensions::check(dir, &pool::EXTENSIONS)?,
        None => extensions::find(&pool::EXTENSIONS)?,
    };
    let beginnings = config.beginnings();
    let address = config.flight.listen;
    let listener =
        TcpListener::bind(address).await.map_err(|source| GatewayError::Listen { address: address.to_string(), source })?;
    let flight_addr = listener.local_addr()?;

    let (edges, tasks) = (TaskTracker::new(), TaskTracker::new());
    let (stop_workers, stop_relay) = (CancellationToken::new(), CancellationToken::new());
    let stale_grace = config.relay.stale_grace;
    let relay = Relay::bind(config.relay, config.catalogs.clone(), config.roles.clone()).await?;
    tasks.spawn(Arc::clone(&relay).serve(stop_relay.clone()));
    let leases: Arc<dyn Leases> = relay.clone();
    let environment = Environment {
        worker_exe: std::env::current_exe()?,
        extension_dir,
        // Workers start in a directory of their own, so a relative one would be lost on them.
        run_root: std::path::absolute(config.pool.run_dir.clone().unwrap_or_else(std::env::temp_dir))?,
        catalogs: relay.catalogs(),
        machine_memory: machine_memory(),
        machine_cores: std::thread::available_parallelism().map_or(2, |n| u32::try_from(n.get()).unwrap_or(2)),
    };
    let pool = Pool::start(config.pool, environment, leases, tasks.clone(), stop_workers.clone())?;
    let auth = Authenticator::new(&config.auth, relay.clone())?;
    let engine = Engine::new(config.query, pool, relay.clone());
    let health = Health::new(config.health, stale_grace, peer_of, stop.clone());
    let (asked, asked_until, logins) = (health.clone(), stop.clone(), logins(config.auth.mode));
    tasks.spawn(async move { asked_until.run_until_cancelled(asked.keep_asking(&relay, logins)).await });

    let sessions = Sessions::new(config.session, auth.clone(), config.auth.session_ttl, beginnings);
    sessions.recall()?;
    let (swept, swept_until) = (sessions.clone(), stop_workers.clone());
    tasks.spawn(async move { swept_until.run_until_cancelled(swept.keep_swept()).await });
    let tls = config.flight.tls.clone().map(Certificates::open).transpose().map_err(flight::ConfigError::from)?;
    let scheme = if tls.is_some() { "grpc+tls" } else { "grpc" };
    let current = tls.map(|certificates| keep_reloaded(certificates, &tasks, stop_workers.clone()));
    let server =
        FlightServer::new(engine.clone(), auth, sessions, config.flight).serve(listener, current, health.routes(), stop.clone());
    edges.spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(error = &error as &dyn std::error::Error, "the Flight edge ended");
        }
    });
    edges.close();
    let flight_uri = format!("{scheme}://{flight_addr}");
    tracing::info!(flight_uri, start_ms = began.elapsed().as_millis(), "serving Flight SQL");
    Ok(Running {
        flight_addr,
        flight_uri,
        drain_timeout: config.drain_timeout,
        engine,
        health,
        stop,
        stop_workers,
        stop_relay,
        edges,
        tasks,
    })
}

fn peer_of(extensions: &tonic::Extensions) -> Option<Peer> {
    ConnectionInfo::peer_in(extensions).map(|(connection, address)| Peer { connection, address })
}

/// Whose log-ins the catalogs see.
fn logins(mode: Mode) -> Logins {
    match mode {
        Mode::None | Mode::Users => Logins::Catalogs,
        Mode::Polaris | Mode::Passthrough => Logins::Callers,
        Mode::Mapped => Logins::Roles,
    }
}

/// Spawns what keeps the certificate up to date; gives where it is found.
fn keep_reloaded(certificates: Certificates, tasks: &TaskTracker, until: CancellationToken) -> tls::Current {
    let current = certificates.current();
    tasks.spawn(async move { until.run_until_cancelled(certificates.keep_reloaded()).await });
    current
}

impl Running {
    /// Refuses new statements, lets running ones end within `drain_timeout`, then ends the connections and the workers.
    pub async fn finish(self) {
        let over = tokio::time::Instant::now() + self.drain_timeout;
        self.health.drain();
        // Connections stay open meanwhile, so that new calls are told why they are refused.
        let statements = self.engine.drain(self.drain_timeout).await;
        if statements > 0 {
            let drain_timeout_ms = self.drain_timeout.as_millis();
            tracing::warn!(statements, drain_timeout_ms, "drain_timeout passed: statements that still ran were cut");
        }
        self.stop.cancel();
        // The last rows may still be on their way to clients.
        let delivered = over.max(tokio::time::Instant::now() + LAST_MOMENTS);
        if tokio::time::timeout_at(delivered, self.edges.wait()).await.is_err() {
            tracing::warn!("clients did not read to the end: their connections are cut");
        }
        self.stop_workers.cancel();
        self.stop_relay.cancel();
        self.tasks.close();
        if tokio::time::timeout(LAST_MOMENTS, self.tasks.wait()).await.is_err() {
            tracing::warn!("a part did not end in time; its processes end with this one");
        }
        tracing::info!("stopped");
    }
}

/// The machine's memory in bytes, or the control group's limit where that is smaller.
fn machine_memory() -> u64 {
    let info = rustix::system::sysinfo();
    let total = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    limit.map_or(total, |limit: u64| limit.min(total))
}
