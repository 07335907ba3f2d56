//! The pool: the gateway's side of its worker processes. It starts, leases, reaps and replaces them, and is where statements queue.
//!
//! A worker has a key (credential and class) for life. A statement goes to the least loaded worker of its key; there are at most
//! `max_workers` processes, so a key without one may take the place of an idle worker of another key. It refuses to know SQL: what
//! a statement is allowed is decided by its caller and passed on as lease terms.

mod budget;
mod config;
pub mod connection;
mod error;
mod lease;
mod process;
mod run_dir;
mod worker;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use config::Config;
pub use error::PoolError;
pub use lease::Lease;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::budget::{Budget, Grant};
use self::process::Fresh;
use self::run_dir::RunRoot;
use self::worker::{Retired, Worker};
use crate::auth::credential::Credential;
use crate::names::{CatalogName, WorkerToken};
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

struct Inner {
    config: Config,
    budget: Budget,
    environment: Environment,
    run_root: Arc<RunRoot>,
    leases: Arc<dyn Leases>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Guards which workers there are; held for a few instructions only.
    state: Mutex<State>,
    /// Told whenever a slot or a place may have become free.
    changed: Notify,
    next_number: AtomicU64,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("environment", &self.environment).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    workers: Vec<Arc<Worker>>,
    spares: Vec<Fresh>,
    /// Workers on their way, by key.
    starting: HashMap<WorkerKey, usize>,
    spares_starting: usize,
    /// Held by exclusive workers, those on their way included.
    second_shares: usize,
    waiting: usize,
    /// Places for reads that must not be among others, by key.
    lone_reads: HashMap<WorkerKey, Arc<Semaphore>>,
}

impl State {
    fn processes(&self) -> usize {
        self.workers.len() + self.spares.len() + self.spares_starting + self.starting.values().sum::<usize>()
    }

    /// Workers that take statements of this key, or soon will.
    fn of_key(&self, key: &WorkerKey) -> usize {
        self.workers.iter().filter(|w| w.key == *key && w.load().is_some()).count() + self.starting.get(key).copied().unwrap_or(0)
    }
}

/// What came of looking for a slot.
enum Found {
    /// A slot was taken; `grow` asks for one more worker of the key, in the background.
    Slot { worker: Arc<Worker>, grow: bool },
    /// A place for a new worker was taken.
    Place,
    /// Nothing is free.
    Nothing,
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
        let inner = Arc::new(Inner {
            budget: Budget::new(&config, environment.machine_memory, environment.machine_cores),
            config,
            environment,
            run_root,
            leases,
            tasks,
            stop,
            state: Mutex::default(),
            changed: Notify::new(),
            next_number: AtomicU64::new(1),
        });
        let kept = Arc::clone(&inner);
        inner.tasks.spawn(async move {
            let mut tick = tokio::time::interval(SPARES_EVERY);
            loop {
                tokio::select! {
                    _ = tick.tick() => kept.replenish(),
                    () = kept.stop.cancelled() => return kept.drain().await,
                }
            }
        });
        Ok(Self(inner))
    }

    /// A slot on a worker of this key: at once, after waiting in the queue, or on a worker started for it.
    ///
    /// # Errors
    /// When the queue is full, nothing becomes free in time, or a worker does not start.
    pub async fn lease(&self, key: &WorkerKey) -> Result<Lease, PoolError> {
        let _place = QueuePlace::take(&self.0)?;
        let began = Instant::now();
        let limit = self.0.config.queue_timeout;
        let lease = async {
            loop {
                let worker = self.0.wait_for_slot(key).await?;
                // One that takes no connection is not found again: the statement has reached nobody, and goes to the next.
                if let Some(lease) = Lease::open(Arc::clone(&self.0), worker).await {
                    return Ok(lease);
                }
            }
        };
        tokio::time::timeout(limit, lease).await.unwrap_or_else(|_| Err(PoolError::QueueTimeout { waited: began.elapsed() }))
    }

    /// A slot on an exclusive worker for a read that must not be among others. It may wait for others of its kind: while a key may have
    /// more exclusive workers than one, they leave one to writes.
    ///
    /// # Errors
    /// As [`Self::lease`].
    pub async fn lease_alone(&self, key: &WorkerKey) -> Result<Lease, PoolError> {
        let place = QueuePlace::take(&self.0)?;
        let began = Instant::now();
        let semaphore = self.0.lone_reads(key);
        let permit = tokio::select! {
            permit = tokio::time::timeout(self.0.config.queue_timeout, semaphore.acquire_owned()) => permit,
            () = self.0.stop.cancelled() => return Err(PoolError::Draining),
        };
        let Ok(Ok(permit)) = permit else { return Err(PoolError::QueueTimeout { waited: began.elapsed() }) };
        drop(place);
        let mut lease = self.lease(key).await?;
        lease.hold(permit);
        Ok(lease)
    }

    /// How long a cancelled statement may go on before its worker is killed.
    #[must_use]
    pub fn cancel_grace(&self) -> Duration {
        self.0.config.cancel_grace
    }

    /// Cancels every statement as if its time were over; workers that do not give theirs up are killed after the grace.
    pub fn cancel_all(&self) {
        let workers = self.0.state().workers.clone();
        for worker in workers {
            worker.expire_all(self.0.config.cancel_grace);
        }
    }

    /// Workers that are attached and in use, for tests and for the log.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.0.state().workers.len()
    }
}

/// One of the queue's places, given back however the wait ends.
struct QueuePlace<'a>(&'a Inner);

impl<'a> QueuePlace<'a> {
    fn take(pool: &'a Inner) -> Result<Self, PoolError> {
        if pool.stop.is_cancelled() {
            return Err(PoolError::Draining);
        }
        let mut state = pool.state();
        if state.waiting >= pool.config.queue {
            // A queue of this length is worked off at the pace of its statements, which nobody knows: a second is a start.
            return Err(PoolError::QueueFull { waiting: state.waiting, retry_after: Duration::from_secs(1) });
        }
        state.waiting += 1;
        drop(state);
        Ok(Self(pool))
    }
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lone_reads(&self, key: &WorkerKey) -> Arc<Semaphore> {
        let places = self.config.exclusive_per_key.saturating_sub(1).max(1);
        let mut state = self.state();
        Arc::clone(state.lone_reads.entry(key.clone()).or_insert_with(|| Arc::new(Semaphore::new(places))))
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

    fn slots(&self, class: WorkerClass) -> usize {
        match class {
            WorkerClass::Reader => self.config.max_statements,
            WorkerClass::Exclusive => 1,
        }
    }

    fn workers_per_key(&self, class: WorkerClass) -> usize {
        match class {
            WorkerClass::Reader => self.config.readers_per_key,
            WorkerClass::Exclusive => self.config.exclusive_per_key,
        }
    }

    async fn wait_for_slot(self: &Arc<Self>, key: &WorkerKey) -> Result<Arc<Worker>, PoolError> {
        loop {
            if self.stop.is_cancelled() {
                return Err(PoolError::Draining);
            }
            // Registered before looking, so that a slot freed in between is not missed.
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.find(key) {
                Found::Slot { worker, grow } => {
                    if grow {
                        self.start_in_background(key);
                    }
                    return Ok(worker);
                }
                Found::Place => {
                    let start = self.tasks.spawn(Arc::clone(self).start_worker(key.clone()));
                    // The start goes on if this caller leaves; its worker then serves the next one.
                    start.await.map_err(|e| PoolError::Start { reason: e.to_string(), ended: false })??;
                }
                Found::Nothing => tokio::select! {
                    () = changed => {}
                    () = self.stop.cancelled() => return Err(PoolError::Draining),
                },
            }
        }
    }

    fn find(&self, key: &WorkerKey) -> Found {
        let mut state = self.state();
        let of_key = state.workers.iter().filter(|w| w.key == *key);
        let least_loaded = of_key.filter_map(|w| Some((w.load()?, w))).min_by_key(|(load, _)| *load);
        if let Some(worker) = least_loaded.map(|(_, worker)| Arc::clone(worker))
            && worker.take_slot(self.slots(key.class))
        {
            // A worker more is worth a place that is free, not one that a worker of another key has.
            let grow = worker.running() > 1 && self.has_place(&state, key) && self.take_place(&mut state, key);
            return Found::Slot { worker, grow };
        }
        if self.take_place(&mut state, key) { Found::Place } else { Found::Nothing }
    }

    /// Whether there is a place for one more worker of the key. A spare becomes the new worker, so it is a place of its own.
    fn has_place(&self, state: &State, key: &WorkerKey) -> bool {
        let free = state.processes() < self.config.max_workers || !state.spares.is_empty();
        free && state.of_key(key) < self.workers_per_key(key.class)
    }

    /// Books a place for one more worker of the key, if there is one or an idle worker of another key can make room.
    fn take_place(&self, state: &mut State, key: &WorkerKey) -> bool {
        if state.of_key(key) >= self.workers_per_key(key.class) {
            return false;
        }
        if !self.has_place(state, key) {
            let idle = state.workers.iter().filter(|w| w.key != *key && w.running() == 0).min_by_key(|w| w.last_used()).cloned();
            if let Some(worker) = idle {
                // Its place is free when its process has ended; `forget` wakes the waiters then.
                worker.retire_unused(Retired::Evicted);
            }
            return false;
        }
        *state.starting.entry(key.clone()).or_default() += 1;
        true
    }

    fn start_in_background(self: &Arc<Self>, key: &WorkerKey) {
        let start = Arc::clone(self).start_worker(key.clone());
        self.tasks.spawn(async move {
            if let Err(error) = start.await {
                tracing::warn!(%error, "a further worker did not start");
            }
        });
    }

    /// Starts and attaches the worker whose place was booked.
    async fn start_worker(self: Arc<Self>, key: WorkerKey) -> Result<(), PoolError> {
        let started = self.attached(&key).await;
        let mut state = self.state();
        if let Some(count) = state.starting.get_mut(&key) {
            *count -= 1;
        }
        let result = started.map(|worker| {
            if self.stop.is_cancelled() {
                worker.retire(Retired::Drained);
            }
            state.workers.push(worker);
        });
        drop(state);
        self.changed.notify_waiters();
        self.replenish();
        result
    }

    async fn attached(self: &Arc<Self>, key: &WorkerKey) -> Result<Arc<Worker>, PoolError> {
        let mut attempts = START_ATTEMPTS;
        loop {
            let spare = self.state().spares.pop();
            // A spare may have ended long ago, which says nothing of a new one.
            attempts -= u32::from(spare.is_none());
            match self.attach_one(key, spare).await {
                Err(PoolError::Start { reason, ended: true }) if attempts > 0 => {
                    tracing::warn!(reason, "a worker is started again");
                }
                outcome => return outcome,
            }
        }
    }

    async fn attach_one(self: &Arc<Self>, key: &WorkerKey, spare: Option<Fresh>) -> Result<Arc<Worker>, PoolError> {
        let began = Instant::now();
        let mut fresh = match spare {
            Some(fresh) => fresh,
            None => self.fresh().await?,
        };
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
        self.tasks.spawn(watch);
        tracing::debug!(
            worker = worker.id,
            pid,
            class = ?key.class,
            memory_bytes = grant.memory_bytes,
            threads = attached.threads,
            start_ms = began.elapsed().as_millis(),
            "worker attached, DuckDB keeps to {}",
            attached.memory_limit
        );
        Ok(worker)
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

    /// Starts spares in the background until there are as many as configured.
    fn replenish(self: &Arc<Self>) {
        let mut state = self.state();
        // Dropped below, when the lock is free again: their directories go with them.
        let _ended: Vec<Fresh> = state.spares.extract_if(.., |spare| !spare.is_alive()).collect();
        while !self.stop.is_cancelled()
            && state.spares.len() + state.spares_starting < self.config.spares
            && state.processes() < self.config.max_workers
        {
            state.spares_starting += 1;
            let pool = Arc::clone(self);
            self.tasks.spawn(async move {
                let fresh = pool.fresh().await;
                let late = pool.spare_started(fresh);
                pool.changed.notify_waiters();
                if let Some(late) = late {
                    late.end().await;
                }
            });
        }
    }

    /// Keeps a spare; gives it back when it comes too late.
    fn spare_started(&self, started: Result<Fresh, PoolError>) -> Option<Fresh> {
        let mut state = self.state();
        state.spares_starting -= 1;
        match started {
            Ok(fresh) if self.stop.is_cancelled() => return Some(fresh),
            Ok(fresh) => state.spares.push(fresh),
            Err(error) => tracing::error!(%error, "a spare worker did not start"),
        }
        None
    }

    /// Takes a worker whose process has ended off the list.
    fn forget(self: &Arc<Self>, worker: &Worker) {
        self.state().workers.retain(|w| w.id != worker.id);
        self.give_back_grant(worker.grant);
        self.changed.notify_waiters();
        self.replenish();
    }

    async fn drain(&self) {
        let (workers, spares) = {
            let mut state = self.state();
            (state.workers.clone(), std::mem::take(&mut state.spares))
        };
        for worker in workers {
            worker.retire(Retired::Drained);
        }
        self.changed.notify_waiters();
        futures::future::join_all(spares.into_iter().map(Fresh::end)).await;
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
