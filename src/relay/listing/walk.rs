//! Owns the calls by which a catalog is listed: pages one after the other, namespaces side by side, each call in its turn. Refuses to
//! remember anything.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt as _;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::names::{CatalogName, Namespace};
use crate::relay::error::CatalogError;
use crate::relay::upstream::{Page, PageRequest, Upstream};

/// How many levels of namespaces are looked through.
const MAX_NAMESPACE_DEPTH: usize = 16;

/// How many namespaces of a catalog are asked for their children at once.
const PARALLEL_LISTS: usize = 32;

/// How many pages of one list are read before the catalog is taken to be going round in circles.
const MAX_PAGES: usize = 10_000;

/// A way through a catalog.
pub(super) struct Walk {
    upstream: Arc<dyn Upstream>,
    turns: Arc<Semaphore>,
    page_size: usize,
}

impl Walk {
    pub(super) fn new(upstream: Arc<dyn Upstream>, turns: Arc<Semaphore>, page_size: usize) -> Self {
        Self { upstream, turns, page_size }
    }

    /// The turn of one call; nobody closes them.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }

    /// All namespaces of every level, parents before their children.
    pub(super) async fn namespaces(&self) -> Result<Vec<Namespace>, CatalogError> {
        let mut found: BTreeSet<Namespace> = self.children(None).await?.into_iter().collect();
        let mut level: Vec<Namespace> = found.iter().cloned().collect();
        for _ in 0..MAX_NAMESPACE_DEPTH {
            let asked = level.into_iter().map(|parent| self.children_of(parent));
            let answers: Vec<_> = futures::stream::iter(asked).buffer_unordered(PARALLEL_LISTS).collect().await;
            let mut below = Vec::new();
            for (parent, children) in answers {
                let children = match children {
                    Ok(children) => children,
                    // Seen in the list of its parent, but not to be looked into; or dropped meanwhile.
                    Err(CatalogError::Forbidden { .. } | CatalogError::NoSuchNamespace { .. }) => continue,
                    Err(error) => return Err(error),
                };
                let inside = |child: &Namespace| {
                    child.levels().len() > parent.levels().len() && child.levels().starts_with(parent.levels())
                };
                // A catalog that does not know the parameter `parent` answers with the outermost ones again.
                below.extend(children.into_iter().filter(inside).filter(|child| found.insert(child.clone())));
            }
            if below.is_empty() {
                break;
            }
            level = below;
        }
        Ok(found.into_iter().collect())
    }

    /// The names of a namespace's tables, in order.
    pub(super) async fn tables(&self, namespace: &Namespace) -> Result<Vec<String>, CatalogError> {
        let mut names = Vec::new();
        let mut page = self.first_page();
        for _ in 0..MAX_PAGES {
            let turn = self.turn().await;
            let answer = self.upstream.list_tables(namespace, &page).await?;
            drop(turn);
            if !add(&mut names, answer, &mut page) {
                names.sort_unstable();
                names.dedup();
                return Ok(names);
            }
        }
        Err(endless(self.upstream.name()))
    }

    async fn children_of(&self, parent: Namespace) -> (Namespace, Result<Vec<Namespace>, CatalogError>) {
        let children = self.children(Some(&parent)).await;
        (parent, children)
    }

    async fn children(&self, parent: Option<&Namespace>) -> Result<Vec<Namespace>, CatalogError> {
        let mut found = Vec::new();
        let mut page = self.first_page();
        for _ in 0..MAX_PAGES {
            let turn = self.turn().await;
            let answer = self.upstream.list_namespaces(parent, &page).await?;
            drop(turn);
            if !add(&mut found, answer, &mut page) {
                return Ok(found);
            }
        }
        Err(endless(self.upstream.name()))
    }

    /// An empty token asks for pages; without it a catalog sends everything at once.
    fn first_page(&self) -> PageRequest {
        if self.page_size == 0 {
            return PageRequest::default();
        }
        PageRequest { token: Some(String::new()), size: Some(self.page_size.to_string()) }
    }
}

/// Adds a page, and says whether there is another one.
fn add<T>(found: &mut Vec<T>, page: Page<T>, request: &mut PageRequest) -> bool {
    found.extend(page.items);
    request.token = page.next;
    request.token.is_some()
}

fn endless(catalog: &CatalogName) -> CatalogError {
    CatalogError::BadAnswer { catalog: catalog.clone(), reason: "a list of it has no end".to_owned() }
}
