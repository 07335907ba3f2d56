//! The pool: the gateway's side of its worker processes. It starts, leases, reaps and replaces them, and is where statements queue.
//!
//! A worker has a key (credential and class) for life. A statement goes to the least loaded worker of its key; there are at most
//! `max_workers`, so keys take turns where there are more of them, which the roster decides and this file carries out. It refuses to
//! know SQL: what a statement is allowed is decided by its caller and passed on as lease terms.

mod budget;
mod config;
pub mod connection;
mod error;
mod lease;
mod process;
mod queue;
mod roster;
mod run_dir;
mod spares;
mod worker;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use config::Config;
pub use error::PoolError;
pub use lease::Lease;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::budget::{Budget, Grant};
use self::process::Fresh;
use self::queue::Ticket;
use self::roster::{Booking, Effect, Roster, Rules};
use self::run_dir::RunRoot;
use self::spares::{Attempts, Next, Spares};
use self::worker::{Retired, Watch, Worker};
use crate::auth::credential::Credential;
use crate::names::{CatalogName, CredentialId, WorkerToken};
use crate::relay::lease::{Leases, WorkerGrant};
use crate::wire::proto::{Attach, CatalogAttachment, Init, Mode};

/// The extensions that every governed worker loads, in the order that their dependencies ask for.
pub const EXTENSIONS: [&str; 4] = ["avro", "httpfs", "iceberg", "icu"];

/// How often a worker is started anew whose process ends while it starts.
const START_ATTEMPTS: u32 = 3;

/// How often spares are looked after that have ended, or could not be started.
const SPARES_EVERY: Duration = Duration::from_secs(5);

/// What runs on a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkerClass {
    /// Many reads at once, on trimmed metadata.
    Reader,
    /// One statement at a time: writes, time travel.
    Exclusive,
}

/// What workers are kept apart by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WorkerKey {
    /// The credential that the catalogs see.
    pub credential: Credential,
    /// What runs on it.
    pub class: WorkerClass,
}

/// What the pool is given by the composition root.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The binary whose `worker` command is started.
    pub worker_exe: PathBuf,
    /// Where DuckDB's extension files lie.
    pub extension_dir: PathBuf,
    /// Where workers' directories are made.
    pub run_root: PathBuf,
    /// All catalogs; a worker attaches those of its credential.
    pub catalogs: Vec<CatalogName>,
    /// The machine's memory in bytes.
    pub machine_memory: u64,
    /// The machine's cores.
    pub machine_cores: u32,
}

/// The workers of a gateway.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

/// What becomes of the statements that run on workers which are not used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    /// They go on to their end.
    Finishes,
    /// They are cancelled, and their workers killed if they do not react.
    IsCut,
}

type Books = Roster<Arc<Worker>, oneshot::Sender<Result<Slot, PoolError>>>;

type Todo = Effect<Arc<Worker>, oneshot::Sender<Result<Slot, PoolError>>>;

struct Inner {
    config: Config,
    budget: Budget,
    environment: Environment,
    run_root: Arc<RunRoot>,
    leases: Arc<dyn Leases>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Guards which workers there are and who waits; held for a few instructions only.
    state: Mutex<State>,
    spares: Spares,
    /// Told when the roster must be looked at earlier than was arranged.
    look: Notify,
    next_number: AtomicU64,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("environment", &self.environment).finish_non_exhaustive()
    }
}

struct State {
    roster: Books,
    /// When the keeper looks at it next.
    look_at: Option<Instant>,
    /// Held by exclusive workers, those on their way included.
    second_shares: usize,
}

/// A slot that was taken for somebody; given back when dropped.
#[derive(Debug)]
struct Slot(Option<Arc<Worker>>);

impl Slot {
    /// From here on the caller gives it back.
    fn into_worker(mut self) -> Option<Arc<Worker>> {
        self.0.take()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(worker) = self.0.take() {
            worker.release();
        }
    }
}

impl Pool {
    /// A pool; its spares start in the background on `tasks`, and everything ends when `stop` is cancelled.
    ///
    /// # Errors
    /// When workers can have no directory in `run_root`.
    pub fn start(
        config: Config,
        environment: Environment,
        leases: Arc<dyn Leases>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> std::io::Result<Self> {
        let run_root = RunRoot::create(&environment.run_root).map_err(|error| {
            let reason = format!("no directory can be made in {} (pool.run_dir): {error}", environment.run_root.display());
            std::io::Error::new(error.kind(), reason)
        })?;
        let roster = Roster::new(Rules::from(&config));
        let inner = Arc::new(Inner {
            budget: Budget::new(&config, environment.machine_memory, environment.machine_cores),
            spares: Spares::new(config.spares),
            config,
            environment,
            run_root,
            leases,
            tasks,
            stop,
            state: Mutex::new(State { roster, look_at: None, second_shares: 0 }),
            look: Notify::new(),
            next_number: AtomicU64::new(1),
        });
        inner.tasks.spawn(Arc::clone(&inner).keep());
        Ok(Self(inner))
    }

    /// A slot on a worker of this key: at once, after waiting in the queue, or on a worker started for it.
    ///
    /// # Errors
    /// When the queue is full, nothing becomes free in time, or a worker does not start.
    pub async fn lease(&self, key: &WorkerKey) -> Result<Lease, PoolError> {
        self.0.lease(key, false).await
    }

    /// A slot on an exclusive worker for a read that must not be among others. It may wait for others of its kind: while a key may have
    /// more exclusive workers than one, they leave one to writes.
    ///
    /// # Errors
    /// As [`Self::lease`].
    pub async fn lease_alone(&self, key: &WorkerKey) -> Result<Lease, PoolError> {
        self.0.lease(key, true).await
    }

    /// Uses no worker of this credential any more, because it or what it allows has changed, or the catalog refuses it. Statements that
    /// wait, and those that come later, get new workers.
    pub fn retire_credential(&self, credential: &CredentialId, running: Running) {
        let busy = self.0.with_roster(|roster, now| roster.revoke(credential, now));
        if running == Running::IsCut {
            busy.iter().for_each(|worker| worker.expire_all(self.0.config.cancel_grace));
        }
    }

    /// How long a cancelled statement may go on before its worker is killed.
    #[must_use]
    pub fn cancel_grace(&self) -> Duration {
        self.0.config.cancel_grace
    }

    /// Cancels every statement as if its time were over; workers that do not give theirs up are killed after the grace.
    pub fn cancel_all(&self) {
        let workers = self.0.state().roster.members();
        for worker in workers {
            worker.expire_all(self.0.config.cancel_grace);
        }
    }

    /// What the pool holds just now.
    #[must_use]
    pub fn census(&self) -> Census {
        let roster = &self.0.state().roster;
        Census { workers: roster.members().len(), keys: roster.keys(), waiting: roster.waiting() }
    }
}

/// What a pool holds, for tests and for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// Workers that are attached, those included that end.
    pub workers: usize,
    /// Keys that have a worker, or one on its way.
    pub keys: usize,
    /// Statements that wait.
    pub waiting: usize,
}

/// What came of asking for a slot.
enum Found {
    Slot(Slot),
    Line(Ticket, oneshot::Receiver<Result<Slot, PoolError>>),
}

/// Somebody in the queue, who leaves it when this is dropped.
struct InLine<'a> {
    pool: &'a Arc<Inner>,
    ticket: Ticket,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.pool.with_roster(|roster, now| roster.leave(&self.ticket, now));
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the roster what has happened, and does what comes of it.
    fn with_roster<T>(self: &Arc<Self>, tell: impl FnOnce(&mut Books, Instant) -> T) -> T {
        let mut state = self.state();
        let told = tell(&mut state.roster, Instant::now());
        let effects = state.roster.effects();
        let look_at = state.roster.look_at();
        let is_earlier = look_at.is_some_and(|at| state.look_at.is_none_or(|arranged| at < arranged));
        if is_earlier {
            state.look_at = look_at;
        }
        drop(state);
        if is_earlier {
            self.look.notify_one();
        }
        effects.into_iter().for_each(|effect| self.perform(effect));
        told
    }

    fn perform(self: &Arc<Self>, effect: Todo) {
        match effect {
            // Who has left meanwhile gives the slot back by not taking it.
            Effect::Give(waiter, worker) => drop(waiter.send(Ok(Slot(Some(worker))))),
            // The start goes on if who waits for it leaves; its worker then serves the next one.
            Effect::Start(booking) => drop(self.tasks.spawn(Arc::clone(self).start_worker(booking))),
            Effect::End(worker, why) => worker.retire(why),
        }
    }

    /// Looks after what time alone brings about, until the gateway drains.
    async fn keep(self: Arc<Self>) {
        let mut spares = tokio::time::interval(SPARES_EVERY);
        loop {
            self.with_roster(|roster, now| roster.look(now));
            let look_at = self.arrange_look();
            let due = async {
                match look_at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.look.notified() => {}
                _ = spares.tick() => self.replenish(),
                () = self.stop.cancelled() => return self.drain().await,
            }
        }
    }

    fn arrange_look(&self) -> Option<Instant> {
        let mut state = self.state();
        state.look_at = state.roster.look_at();
        state.look_at
    }

    async fn lease(self: &Arc<Self>, key: &WorkerKey, alone: bool) -> Result<Lease, PoolError> {
        let began = Instant::now();
        let lease = async {
            loop {
                let slot = self.slot(key, alone).await?;
                // One that takes no connection is not found again: the statement has reached nobody, and goes to the next.
                if let Some(lease) = Lease::open(Arc::clone(self), slot).await {
                    return Ok(lease);
                }
            }
        };
        let lease = tokio::time::timeout(self.config.queue_timeout, lease).await;
        lease.unwrap_or_else(|_| Err(PoolError::QueueTimeout { waited: began.elapsed(), waiting: self.state().roster.waiting() }))
    }

    async fn slot(self: &Arc<Self>, key: &WorkerKey, alone: bool) -> Result<Slot, PoolError> {
        let found = self.with_roster(|roster, now| {
            if roster.is_shut() {
                return Err(PoolError::Draining);
            }
            if let Some(worker) = roster.take(key, alone, now) {
                return Ok(Found::Slot(Slot(Some(worker))));
            }
            if let Some((waiting, longest)) = roster.full(now) {
                // A queue of this length is worked off at the pace of its statements, which nobody knows: a second is a start.
                return Err(PoolError::QueueFull { waiting, longest, retry_after: Duration::from_secs(1) });
            }
            let (sender, receiver) = oneshot::channel();
            Ok(Found::Line(roster.wait(key, alone, sender, now), receiver))
        })?;
        match found {
            Found::Slot(slot) => Ok(slot),
            Found::Line(ticket, answer) => {
                let _in_line = InLine { pool: self, ticket };
                answer.await.unwrap_or(Err(PoolError::Draining))
            }
        }
    }

    /// Takes what a worker of this class may use.
    fn take_grant(&self, class: WorkerClass) -> Grant {
        let mut state = self.state();
        let grant = self.budget.of(class, state.second_shares);
        state.second_shares += usize::from(grant.second_share);
        grant
    }

    fn give_back_grant(&self, grant: Grant) {
        self.state().second_shares -= usize::from(grant.second_share);
    }

    /// Whether a new worker of this class would get more than this one has.
    fn has_more_for(&self, class: WorkerClass, grant: Grant) -> bool {
        class == WorkerClass::Exclusive && !grant.second_share && self.budget.has_second_share(self.state().second_shares)
    }

    /// A number that no other statement or worker of this gateway has.
    fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// Starts and attaches the worker whose place was booked.
    async fn start_worker(self: Arc<Self>, booking: Booking) {
        match self.attached(&booking.key).await {
            Ok((worker, watch)) => {
                let id = worker.id;
                self.with_roster(|roster, now| roster.joined(&booking, id, worker, now));
                // Not before, so that it cannot be gone before it has come.
                self.tasks.spawn(watch);
            }
            Err(error) => match self.with_roster(|roster, now| roster.failed(&booking, now)) {
                Some(waiter) => drop(waiter.send(Err(error))),
                None => tracing::warn!(%error, "a further worker did not start"),
            },
        }
    }

    async fn attached(self: &Arc<Self>, key: &WorkerKey) -> Result<(Arc<Worker>, Watch), PoolError> {
        let mut attempts = Attempts::new(START_ATTEMPTS, self.config.spares);
        loop {
            let outcome = match self.process().await {
                Ok((fresh, was_ready)) => {
                    attempts.count(was_ready);
                    self.attach_one(key, fresh).await
                }
                Err(error) => {
                    attempts.count(false);
                    Err(error)
                }
            };
            match outcome {
                Err(PoolError::Start { reason, ended: true }) if attempts.are_left() => {
                    tracing::warn!(reason, "a worker is started again");
                }
                outcome => return outcome,
            }
        }
    }

    /// A spare, and whether it stood ready; another one is begun for it at once.
    async fn process(self: &Arc<Self>) -> Result<(Fresh, bool), PoolError> {
        let Next { comes, was_ready } = self.spares.take();
        self.replenish();
        let fresh = comes.await.unwrap_or(Err(PoolError::Draining))?;
        Ok((fresh, was_ready))
    }

    async fn attach_one(self: &Arc<Self>, key: &WorkerKey, mut fresh: Fresh) -> Result<(Arc<Worker>, Watch), PoolError> {
        let began = Instant::now();
        let grant = self.take_grant(key.class);
        let catalogs = self.leases.catalogs_of(&key.credential);
        let token = self.leases.admit(WorkerGrant { credential: key.credential.clone(), catalogs: catalogs.clone() });
        let attach = self.attachment(&catalogs, &token, grant);
        let attached = process::attach(&mut fresh, attach, self.config.start_timeout).await;
        let attached = match attached {
            Ok(attached) => attached,
            Err(error) => {
                self.leases.expel(&token);
                fresh.end().await;
                self.give_back_grant(grant);
                return Err(error);
            }
        };
        let pid = fresh.child.id();
        let (worker, watch) = Worker::adopt(self.next_number(), key.clone(), token, grant, fresh, self);
        tracing::debug!(
            worker = worker.id,
            pid,
            class = ?key.class,
            memory_bytes = grant.memory_bytes,
            threads = attached.threads,
            attach_ms = began.elapsed().as_millis(),
            "worker attached, DuckDB keeps to {}",
            attached.memory_limit
        );
        Ok((worker, Box::pin(watch)))
    }

    fn attachment(&self, catalogs: &[CatalogName], token: &WorkerToken, grant: Grant) -> Attach {
        let one = |name: &CatalogName| CatalogAttachment {
            name: name.to_string(),
            endpoint: self.leases.endpoint(),
            token: token.as_str().to_owned(),
        };
        Attach {
            catalogs: catalogs.iter().map(one).collect(),
            allowed_locations: self.leases.allowed_locations(catalogs),
            memory_limit_bytes: grant.memory_bytes,
            threads: grant.threads,
            storage_endpoint: self.leases.storage_endpoint(),
            storage_token: token.as_str().to_owned(),
        }
    }

    async fn fresh(&self) -> Result<Fresh, PoolError> {
        let environment = &self.environment;
        let grant = self.budget.of_spare();
        let locations = self.leases.allowed_locations(&environment.catalogs);
        let init = Init {
            extension_dir: environment.extension_dir.to_string_lossy().into_owned(),
            run_dir: String::new(),
            memory_limit_bytes: grant.memory_bytes,
            threads: grant.threads,
            spill_limit_bytes: self.config.spill_limit.as_u64(),
            mode: Mode::Governed.into(),
            extensions: EXTENSIONS.map(str::to_owned).to_vec(),
            local_directories: local_directories(&locations),
            connect_ports: connect_ports([self.leases.endpoint(), self.leases.storage_endpoint()]),
        };
        process::start(&environment.worker_exe, &self.run_root, self.next_number(), init, self.config.start_timeout).await
    }

    /// Starts the processes that are missing, in the background.
    fn replenish(self: &Arc<Self>) {
        for _ in 0..self.spares.missing() {
            let pool = Arc::clone(self);
            self.tasks.spawn(async move {
                let fresh = pool.fresh().await;
                if let Some(needless) = pool.spares.deliver(fresh) {
                    needless.end().await;
                }
            });
        }
    }

    /// Takes a worker whose process has ended off the list.
    fn forget(self: &Arc<Self>, worker: &Worker) {
        self.give_back_grant(worker.grant);
        self.with_roster(|roster, now| roster.gone(worker.id, now));
    }

    async fn drain(self: &Arc<Self>) {
        let (waiters, workers) = self.with_roster(|roster, _| (roster.shut(), roster.members()));
        for waiter in waiters {
            let _ = waiter.send(Err(PoolError::Draining));
        }
        for worker in workers {
            worker.retire(Retired::Drained);
        }
        futures::future::join_all(self.spares.close().into_iter().map(Fresh::end)).await;
    }
}

/// The paths of `file:` locations.
fn local_directories(locations: &[String]) -> Vec<String> {
    let paths = locations.iter().filter_map(|location| location.strip_prefix("file:"));
    paths.map(|path| format!("/{}", path.trim_start_matches('/'))).collect()
}

/// A worker has nothing to reach but the relay and its door to object stores.
fn connect_ports(endpoints: [String; 2]) -> Vec<u32> {
    endpoints.iter().filter_map(|endpoint| endpoint.rsplit(':').next()?.parse().ok()).collect()
}
