//! Owns the calls by which a catalog is listed: pages one after the other, namespaces side by side, each call in its turn. Each name is
//! handed on as it comes, to who may end the walk by it. Refuses to remember anything.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::Semaphore;

use super::ceiling::Coming;
use crate::names::{CatalogName, Namespace};
use crate::relay::error::CatalogError;
use crate::relay::upstream::{Page, PageRequest, Upstream};

/// How many levels of namespaces are looked through.
const MAX_NAMESPACE_DEPTH: usize = 16;

/// How many namespaces of a catalog are asked for their children at once.
const PARALLEL_LISTS: usize = 32;

/// How many pages of one list are read before the catalog is taken to be going round in circles.
const MAX_PAGES: usize = 10_000;

type Answer<T> = Result<Page<T>, CatalogError>;

/// A way through a catalog.
pub(super) struct Walk {
    upstream: Arc<dyn Upstream>,
    turns: Arc<Semaphore>,
    page_size: usize,
}

/// A page of a list that is to be asked for.
struct Place {
    request: PageRequest,
    /// Which one it is, from one.
    number: usize,
}

impl Place {
    /// The page behind this one; `None` at the end.
    fn next<T>(self, page: &Page<T>, catalog: &CatalogName) -> Result<Option<Self>, CatalogError> {
        let Some(token) = page.next.clone() else { return Ok(None) };
        if self.number >= MAX_PAGES || self.request.token.as_ref() == Some(&token) {
            return Err(CatalogError::BadAnswer { catalog: catalog.clone(), reason: "a list of it has no end".to_owned() });
        }
        let request = PageRequest { token: Some(token), size: self.request.size };
        Ok(Some(Self { request, number: self.number + 1 }))
    }
}

impl Walk {
    pub(super) fn new(upstream: Arc<dyn Upstream>, turns: Arc<Semaphore>, page_size: usize) -> Self {
        Self { upstream, turns, page_size }
    }

    pub(super) fn catalog(&self) -> &CatalogName {
        self.upstream.name()
    }

    /// Shows all namespaces of every level to `see`, which says whether one is to be looked into.
    pub(super) async fn namespaces(
        &self,
        mut see: impl FnMut(&Namespace) -> Result<bool, CatalogError>,
    ) -> Result<(), CatalogError> {
        // What was found last is looked into first: so there is never more to be looked into than a few pages of each level.
        let mut waiting = vec![(None, self.first_page())];
        let mut asked = FuturesUnordered::new();
        loop {
            let free = PARALLEL_LISTS - asked.len();
            let next = waiting.drain(waiting.len().saturating_sub(free)..).rev();
            asked.extend(next.map(|(parent, place)| self.children(parent, place)));
            let Some((parent, place, answer)) = asked.next().await else { return Ok(()) };
            let page = match answer {
                // Seen in the list of its parent, but not to be looked into; or dropped meanwhile.
                Err(CatalogError::Forbidden { .. } | CatalogError::NoSuchNamespace { .. }) if parent.is_some() => continue,
                answer => answer?,
            };
            let behind = place.next(&page, self.catalog())?;
            waiting.extend(behind.map(|place| (parent.clone(), place)));
            for child in page.items.into_iter().filter(|child| is_inside(child, parent.as_ref())) {
                if see(&child)? && child.levels().len() <= MAX_NAMESPACE_DEPTH {
                    waiting.push((Some(child), self.first_page()));
                }
            }
        }
    }

    /// Shows the names of a namespace's tables to `see`.
    pub(super) async fn tables(
        &self,
        namespace: &Namespace,
        mut see: impl FnMut(String) -> Result<(), CatalogError>,
    ) -> Result<(), CatalogError> {
        let mut next = Some(self.first_page());
        while let Some(place) = next {
            let page = self.in_turn(self.upstream.list_tables(namespace, &place.request)).await?;
            next = place.next(&page, self.catalog())?;
            page.items.into_iter().try_for_each(&mut see)?;
        }
        Ok(())
    }

    async fn children(&self, parent: Option<Namespace>, place: Place) -> (Option<Namespace>, Place, Answer<Namespace>) {
        let answer = self.in_turn(self.upstream.list_namespaces(parent.as_ref(), &place.request)).await;
        (parent, place, answer)
    }

    async fn in_turn<T>(&self, call: impl Future<Output = Answer<T>>) -> Answer<T> {
        // Nobody closes them.
        let _turn = self.turns.acquire().await.ok();
        call.await
    }

    /// An empty token asks for pages; without it a catalog sends everything at once.
    fn first_page(&self) -> Place {
        let request = match self.page_size {
            0 => PageRequest::default(),
            size => PageRequest { token: Some(String::new()), size: Some(size.to_string()) },
        };
        Place { request, number: 1 }
    }
}

/// All namespaces, unless they are too many.
pub(super) async fn all_namespaces(walk: &Walk, mut coming: Coming) -> Result<BTreeSet<Namespace>, CatalogError> {
    let mut found = BTreeSet::new();
    let see = |namespace: &Namespace| {
        let is_new = found.insert(namespace.clone());
        if is_new { coming.add(walk.catalog()).map(|()| true) } else { Ok(false) }
    };
    walk.namespaces(see).await?;
    Ok(found)
}

/// All names of tables, unless they are too many.
pub(super) async fn all_tables(walk: &Walk, namespace: &Namespace, mut coming: Coming) -> Result<BTreeSet<String>, CatalogError> {
    let mut found = BTreeSet::new();
    let see = |name: String| if found.insert(name) { coming.add(walk.catalog()) } else { Ok(()) };
    walk.tables(namespace, see).await?;
    Ok(found)
}

/// A catalog that does not know the parameter `parent` answers with the outermost ones again.
fn is_inside(child: &Namespace, parent: Option<&Namespace>) -> bool {
    parent.is_none_or(|parent| child.levels().len() > parent.levels().len() && child.levels().starts_with(parent.levels()))
}
