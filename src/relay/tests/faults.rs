//! A catalog that does its work and then behaves as broken networks make it look: answers lost before or after the work was done,
//! and answers that come late.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::names::{CatalogName, Namespace, TableRef};
use crate::relay::error::CatalogError;
use crate::relay::upstream::{Answer, CommitFault, Page, PageRequest, PropertyChange, Purpose, TableChange, Upstream};

/// What happens to a commit.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mishap {
    /// It is made, and the answer is lost.
    LostAfter,
    /// It never arrives, but nobody can know.
    LostBefore,
    /// It is made twice, as a proxy does that sends again by itself.
    SentTwice,
    /// It is turned away for now.
    TurnedAway,
    /// It is refused for good: the log-in is over.
    Refused,
    /// It is made, another sending of it loses the race, and no table can be looked at any more.
    SentTwiceUnseen,
}

/// A catalog with mishaps in front of it.
pub(super) struct Faulty {
    inner: Arc<dyn Upstream>,
    mishaps: Mutex<VecDeque<Mishap>>,
    pub(super) commits: AtomicU64,
    pub(super) loads: AtomicU64,
    pub(super) lists: AtomicU64,
    pub(super) unchanged: AtomicU64,
    /// No table may be loaded.
    blind: AtomicBool,
    /// A load or a list of tables looks at the catalog at once and hands its answer on when it gets a permit from here.
    pub(super) gate: Option<Semaphore>,
}

impl Faulty {
    pub(super) fn new(inner: Arc<dyn Upstream>, mishaps: &[Mishap]) -> Arc<Self> {
        Arc::new(Self {
            inner,
            mishaps: Mutex::new(mishaps.iter().copied().collect()),
            commits: AtomicU64::new(0),
            loads: AtomicU64::new(0),
            lists: AtomicU64::new(0),
            unchanged: AtomicU64::new(0),
            blind: AtomicBool::new(false),
            gate: None,
        })
    }

    pub(super) fn gated(inner: Arc<dyn Upstream>) -> Arc<Self> {
        let open = Semaphore::new(1_000_000);
        let mut faulty = Self::new(inner, &[]);
        Arc::get_mut(&mut faulty).unwrap().gate = Some(open);
        faulty
    }

    fn lost(&self) -> CatalogError {
        CatalogError::Unreachable { catalog: self.name().clone(), host: "h".to_owned(), reason: "connection reset".to_owned() }
    }
}

#[async_trait]
impl Upstream for Faulty {
    fn name(&self) -> &CatalogName {
        self.inner.name()
    }

    async fn list_namespaces(&self, parent: Option<&Namespace>, page: &PageRequest) -> Result<Page<Namespace>, CatalogError> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        self.inner.list_namespaces(parent, page).await
    }

    async fn create_namespace(&self, namespace: &Namespace, properties: BTreeMap<String, String>) -> Result<(), CatalogError> {
        self.inner.create_namespace(namespace, properties).await
    }

    async fn load_namespace(&self, namespace: &Namespace) -> Result<BTreeMap<String, String>, CatalogError> {
        self.inner.load_namespace(namespace).await
    }

    async fn update_namespace(&self, namespace: &Namespace, change: PropertyChange) -> Result<(), CatalogError> {
        self.inner.update_namespace(namespace, change).await
    }

    async fn drop_namespace(&self, namespace: &Namespace) -> Result<(), CatalogError> {
        self.inner.drop_namespace(namespace).await
    }

    async fn list_tables(&self, namespace: &Namespace, page: &PageRequest) -> Result<Page<String>, CatalogError> {
        let answer = self.inner.list_tables(namespace, page).await;
        self.lists.fetch_add(1, Ordering::SeqCst);
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        answer
    }

    async fn load_table(&self, table: &TableRef, etag: Option<&str>, purpose: Purpose) -> Result<Answer, CatalogError> {
        if self.blind.load(Ordering::SeqCst) {
            return Err(CatalogError::Forbidden { catalog: self.name().clone(), reason: "not any more".to_owned() });
        }
        let answer = self.inner.load_table(table, etag, purpose).await;
        self.loads.fetch_add(1, Ordering::SeqCst);
        if matches!(answer, Ok(Answer::NotModified)) {
            self.unchanged.fetch_add(1, Ordering::SeqCst);
        }
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        answer
    }

    async fn create_table(&self, namespace: &Namespace, request: Value) -> Result<Bytes, CatalogError> {
        self.inner.create_table(namespace, request).await
    }

    async fn commit(&self, changes: &[TableChange]) -> Result<(), CommitFault> {
        self.commits.fetch_add(1, Ordering::SeqCst);
        let mishap = self.mishaps.lock().unwrap().pop_front();
        match mishap {
            None => self.inner.commit(changes).await,
            Some(Mishap::LostBefore) => Err(CommitFault::Unknown(self.lost())),
            Some(Mishap::TurnedAway) => Err(CommitFault::NotMade(self.lost())),
            Some(Mishap::Refused) => {
                let reason = "the token has expired".to_owned();
                Err(CommitFault::Refused(CatalogError::LoggedOut { catalog: self.name().clone(), reason }))
            }
            Some(Mishap::LostAfter) => {
                self.inner.commit(changes).await?;
                Err(CommitFault::Unknown(self.lost()))
            }
            Some(mishap @ (Mishap::SentTwice | Mishap::SentTwiceUnseen)) => {
                self.inner.commit(changes).await?;
                self.blind.store(matches!(mishap, Mishap::SentTwiceUnseen), Ordering::SeqCst);
                self.inner.commit(changes).await
            }
        }
    }

    async fn drop_table(&self, table: &TableRef, purge: bool) -> Result<(), CatalogError> {
        self.inner.drop_table(table, purge).await
    }

    async fn rename_table(&self, from: &TableRef, to: &TableRef) -> Result<(), CatalogError> {
        self.inner.rename_table(from, to).await
    }
}
