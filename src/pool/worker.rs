//! Owns one running worker as the gateway sees it: its idle data connections, its statements and those it was asked to give up, and the
//! task that watches the process. Refuses to count slots and to choose between workers; the roster does.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::budget::Grant;
use super::connection::{Replies, Requests};
use super::process::{Commands, Events, Fresh};
use super::roster::Member;
use super::{Inner, WorkerClass, WorkerKey};
use crate::names::WorkerToken;
use crate::wire::proto::{Cancel, control, event};

/// How often the watching task looks for overdue cancellations and idleness.
const TICK: Duration = Duration::from_millis(100);

/// A lease that is awake ends its statement in time itself, and tells its client so.
const EXPIRY_SLACK: Duration = Duration::from_millis(500);

/// Why a worker is not used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retired {
    /// Its process ended or its control socket broke.
    Died,
    /// It did not give up a cancelled statement in time.
    Stuck,
    /// DuckDB said that the instance is no longer usable.
    Fatal,
    /// Nothing ran on it for `idle_timeout`.
    Idle,
    /// Its place was needed for another key.
    Evicted,
    /// There is more memory for a worker of its class than it got.
    Regraded,
    /// Its credential is not used any more as it was.
    Revoked,
    /// The gateway drains.
    Drained,
}

/// How long a worker that ends in good order waits for a sleeping lease to read why its statement was ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A statement that a worker has been given.
#[derive(Clone, Copy, Debug)]
enum Statement {
    /// A lease waits for its end, but no longer than this.
    Held { since: Instant, expires: Instant },
    /// It has ended, and the lease does not know yet.
    Ended,
    /// Nobody waits for it; the worker is killed if it has not ended by then.
    Abandoned { kill_at: Instant },
    /// Its time is over and its lease sleeps: a client holds the stream and does not read. Cancelled, and killed as above.
    Expired { kill_at: Instant },
    /// It has ended after that, and the slot was taken from the sleeping lease.
    Released,
}

#[derive(Debug, Default)]
struct State {
    statements: HashMap<u64, Statement>,
    connections: Vec<(Requests, Replies)>,
    /// A data connection broke: the process has ended, and the control socket will say so; or else a thread of it has failed.
    doubted: bool,
    retired: Option<Retired>,
    /// It is retired, and leases still read the last words of their statements; until then at the longest.
    last_words: Option<Instant>,
}

impl State {
    /// Whether it is retired and somebody has yet to read the end of a statement.
    fn is_listened_to(&self) -> bool {
        self.last_words.is_some() && self.statements.values().any(|s| matches!(s, Statement::Released))
    }

    fn is_usable(&self) -> bool {
        self.retired.is_none() && !self.doubted
    }
}

/// What watches a worker until its end.
pub type Watch = futures::future::BoxFuture<'static, ()>;

/// A worker that takes statements.
#[derive(Debug)]
pub struct Worker {
    /// Number in the life of the gateway.
    pub id: u64,
    /// What it is for.
    pub key: WorkerKey,
    /// Its token at the relay.
    pub token: WorkerToken,
    /// What it may use.
    pub grant: Grant,
    /// Where it takes data connections.
    pub socket: PathBuf,
    commands: mpsc::UnboundedSender<control::Message>,
    gone: CancellationToken,
    /// Guards the statements and connections; held for a few instructions only.
    state: Mutex<State>,
    pool: Weak<Inner>,
}

impl Worker {
    /// Takes over an attached process, and gives the future that watches it until its end.
    pub(super) fn adopt(
        id: u64,
        key: WorkerKey,
        token: WorkerToken,
        grant: Grant,
        fresh: Fresh,
        pool: &Arc<Inner>,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static + use<>) {
        let (commands, queue) = mpsc::unbounded_channel();
        let worker = Arc::new(Self {
            id,
            key,
            token,
            grant,
            socket: fresh.run_dir.socket(),
            commands,
            gone: CancellationToken::new(),
            state: Mutex::new(State::default()),
            pool: Arc::downgrade(pool),
        });
        (Arc::clone(&worker), watch(worker, fresh, queue))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle data connection, if there is one.
    pub fn take_connection(&self) -> Option<(Requests, Replies)> {
        self.state().connections.pop()
    }

    /// Notes that a statement was sent, and when it must have ended.
    pub fn began(&self, statement: u64, expires: Instant) {
        self.state().statements.insert(statement, Statement::Held { since: Instant::now(), expires });
    }

    /// The statement's last frame was read. `false` when its slot was taken from the lease already.
    pub fn forget_statement(&self, statement: u64) -> bool {
        let forgotten = self.state().statements.remove(&statement);
        let was_released = matches!(forgotten, Some(Statement::Released));
        if was_released {
            self.last_words_heard();
        }
        !was_released
    }

    /// Ends the process for which only this was waited.
    fn last_words_heard(&self) {
        let is_over = {
            let state = self.state();
            state.last_words.is_some() && !state.is_listened_to()
        };
        if is_over {
            self.gone.cancel();
        }
    }

    /// A data connection broke: no new statement comes here, and the process ends with the last one at the latest.
    pub fn doubt(&self) {
        {
            let mut state = self.state();
            state.doubted = true;
            state.connections.clear();
        }
        if let Some(pool) = self.pool.upgrade() {
            pool.with_roster(|roster, now| roster.close(self.id, Retired::Died, now));
        }
    }

    /// The lease is over: its slot and its connection are free.
    pub fn give_back(&self, connection: Option<(Requests, Replies)>) {
        {
            let mut state = self.state();
            if state.is_usable() {
                state.connections.extend(connection);
            }
        }
        self.release();
    }

    /// Nobody reads the statement any more: cancels it, and gives the slot back when the worker says that it has ended.
    pub fn abandon(&self, statement: u64, grace: Duration) {
        let kill_at = Instant::now() + grace;
        let mut state = self.state();
        let cancelled_anew = match state.statements.remove(&statement) {
            Some(Statement::Held { .. } | Statement::Abandoned { .. }) => {
                state.statements.insert(statement, Statement::Abandoned { kill_at });
                true
            }
            Some(Statement::Expired { kill_at }) => {
                state.statements.insert(statement, Statement::Abandoned { kill_at });
                return;
            }
            Some(Statement::Released) => {
                drop(state);
                return self.last_words_heard();
            }
            Some(Statement::Ended) | None => false,
        };
        drop(state);
        if cancelled_anew { self.cancel(statement) } else { self.release() }
    }

    fn cancel(&self, statement: u64) {
        // A closed channel means that the worker is gone, and the statement with it.
        let _ = self.commands.send(control::Message::Cancel(Cancel { statement_id: statement }));
    }

    /// Cancels all statements, and says so to nobody but the worker.
    pub fn expire_all(&self, grace: Duration) {
        self.expire(Instant::now(), grace, |_| true);
    }

    /// Cancels statements whose time is over although their leases have not said so.
    fn expire(&self, now: Instant, grace: Duration, is_over: impl Fn(Instant) -> bool) {
        let mut state = self.state();
        let mut overdue = Vec::new();
        for (id, statement) in &mut state.statements {
            if matches!(statement, Statement::Held { expires, .. } if is_over(*expires)) {
                *statement = Statement::Expired { kill_at: now + grace };
                overdue.push(*id);
            }
        }
        drop(state);
        overdue.into_iter().for_each(|id| self.cancel(id));
    }

    /// Takes the worker out of use and ends its process.
    pub fn retire(&self, why: Retired) {
        let waits = {
            let mut state = self.state();
            if state.retired.is_some() {
                return;
            }
            state.retired = Some(why);
            state.connections.clear();
            // Nothing runs any more, but a worker says that a statement has ended before it says how.
            state.last_words = matches!(why, Retired::Revoked | Retired::Evicted).then(|| Instant::now() + LAST_WORDS);
            state.is_listened_to()
        };
        if let Some(pool) = self.pool.upgrade() {
            pool.with_roster(|roster, now| roster.leaving(self.id, now));
        }
        if !waits {
            self.gone.cancel();
        }
    }

    /// Gives one slot back to whom it falls to.
    pub fn release(&self) {
        let Some(pool) = self.pool.upgrade() else { return };
        // Before the slot is free: the next statement's terms must not be cleared.
        if self.key.class == WorkerClass::Exclusive {
            pool.leases.clear(&self.token);
        }
        pool.with_roster(|roster, now| roster.release(self.id, now));
    }

    /// The worker says that a statement has ended.
    fn ended(&self, statement: u64) {
        let frees_slot = {
            let mut state = self.state();
            match state.statements.remove(&statement) {
                Some(Statement::Held { .. } | Statement::Ended) => {
                    state.statements.insert(statement, Statement::Ended);
                    false
                }
                Some(Statement::Expired { .. }) => {
                    state.statements.insert(statement, Statement::Released);
                    true
                }
                Some(Statement::Abandoned { .. }) => true,
                Some(Statement::Released) => {
                    state.statements.insert(statement, Statement::Released);
                    false
                }
                None => false,
            }
        };
        if frees_slot {
            self.release();
        }
    }

    /// Whether a cancelled statement goes on beyond its grace.
    fn is_stuck(&self, now: Instant) -> bool {
        let overdue = |s: &Statement| match s {
            Statement::Abandoned { kill_at } | Statement::Expired { kill_at } => *kill_at <= now,
            _ => false,
        };
        self.state().statements.values().any(overdue)
    }
}

impl Member for Arc<Worker> {
    fn is_cancelling(&self) -> bool {
        self.state().statements.values().any(|s| matches!(s, Statement::Abandoned { .. } | Statement::Expired { .. }))
    }

    fn longest(&self, now: Instant) -> Duration {
        let running = |statement: &Statement| match statement {
            Statement::Held { since, .. } => Some(now.saturating_duration_since(*since)),
            _ => None,
        };
        self.state().statements.values().filter_map(running).max().unwrap_or_default()
    }
}

/// Watches one worker until it ends or is retired, then takes every trace of it away.
async fn watch(worker: Arc<Worker>, fresh: Fresh, mut queue: mpsc::UnboundedReceiver<control::Message>) {
    let Fresh { mut child, control, run_dir } = fresh;
    let (mut events, mut commands) = control.split();
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Ok(event::Message::Ended(ended)) => worker.ended(ended.statement_id),
                Ok(_) => {}
                Err(_) => {
                    worker.retire(Retired::Died);
                    break;
                }
            },
            Some(message) = queue.recv() => {
                if commands.send(message).await.is_err() {
                    worker.retire(Retired::Died);
                    break;
                }
            }
            _ = tick.tick() => look_after(&worker),
            () = worker.gone.cancelled() => break,
        }
    }
    let why = worker.state().retired;
    finish(&worker, why, &mut child, events, commands).await;
    // Gigabytes may lie in it, and their removal is no work for a thread that serves others. An error means a panic in there.
    let _ = tokio::task::spawn_blocking(move || drop(run_dir)).await;
}

fn look_after(worker: &Worker) {
    let Some(pool) = worker.pool.upgrade() else { return worker.retire(Retired::Drained) };
    let now = Instant::now();
    if worker.state().last_words.is_some_and(|until| until <= now) {
        return worker.gone.cancel();
    }
    worker.expire(now, pool.config.cancel_grace, |expires| expires + EXPIRY_SLACK <= now);
    if worker.is_stuck(now) {
        return worker.retire(Retired::Stuck);
    }
    let has_more = pool.has_more_for(worker.key.class, worker.grant);
    pool.with_roster(|roster, now| {
        if has_more {
            roster.end_idle(worker.id, Retired::Regraded, Duration::ZERO, now);
        }
        roster.end_idle(worker.id, Retired::Idle, pool.config.idle_timeout, now);
    });
}

async fn finish(worker: &Worker, why: Option<Retired>, child: &mut tokio::process::Child, events: Events, commands: Commands) {
    // Before the control socket is closed, which ends it too, but in its own time.
    let _ = child.start_kill();
    drop((events, commands));
    let status = child.wait().await;
    let exit = status.map_or_else(|e| e.to_string(), |s| s.to_string());
    match why {
        Some(Retired::Idle | Retired::Evicted | Retired::Regraded | Retired::Revoked | Retired::Drained) => {
            tracing::debug!(worker = worker.id, ?why, "worker ended")
        }
        _ => tracing::warn!(worker = worker.id, ?why, exit, "worker lost"),
    }
    if let Some(pool) = worker.pool.upgrade() {
        pool.leases.expel(&worker.token);
        pool.forget(worker);
    }
}
