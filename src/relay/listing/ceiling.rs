//! Owns how many names one listing may have, of all its lists together, while they come. Refuses to ask for lists.
//!
//! A list is remembered whole or not at all. What a listing keeps of it counts for good; what comes for a whole list counts as long as it
//! comes, whether it is wanted or not. So a listing holds no more than its ceiling, and a page for each call under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::names::CatalogName;
use crate::relay::error::CatalogError;

/// The ceiling of one listing. Its clones are of the same listing.
#[derive(Clone, Debug)]
pub struct Ceiling(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    limit: usize,
    /// Names that are in the listing.
    kept: AtomicUsize,
    /// Names of whole lists that are on their way.
    coming: AtomicUsize,
    /// Once both together were above the limit.
    was_passed: AtomicBool,
}

impl Ceiling {
    /// So many names.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let (kept, coming) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self(Arc::new(Counts { limit, kept, coming, was_passed: AtomicBool::new(false) }))
    }

    /// Counts names that are in the listing.
    pub(super) fn keep(&self, catalog: &CatalogName, names: usize) -> Result<(), CatalogError> {
        let kept = self.0.kept.fetch_add(names, Ordering::Relaxed) + names;
        if kept > self.0.limit { Err(self.too_many(catalog)) } else { Ok(()) }
    }

    /// Whether a listing that leaves nothing out has more names than it may.
    pub(super) fn was_passed(&self) -> bool {
        self.0.was_passed.load(Ordering::Relaxed)
    }

    pub(super) fn too_many(&self, catalog: &CatalogName) -> CatalogError {
        CatalogError::TooManyNames { catalog: catalog.clone(), limit: self.0.limit }
    }

    /// Nothing of a whole list has come yet.
    pub(super) fn coming(&self) -> Coming {
        Coming { ceiling: self.clone(), names: 0 }
    }
}

/// What has come of a whole list.
pub(super) struct Coming {
    ceiling: Ceiling,
    names: usize,
}

impl Coming {
    /// One more name.
    pub(super) fn add(&mut self, catalog: &CatalogName) -> Result<(), CatalogError> {
        let counts = &self.ceiling.0;
        self.names += 1;
        let coming = counts.coming.fetch_add(1, Ordering::Relaxed) + 1;
        if coming + counts.kept.load(Ordering::Relaxed) > counts.limit {
            counts.was_passed.store(true, Ordering::Relaxed);
            return Err(self.ceiling.too_many(catalog));
        }
        Ok(())
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.ceiling.0.coming.fetch_sub(self.names, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_stays_and_what_comes_goes_again() {
        let (ceiling, lake) = (Ceiling::new(10), CatalogName::from("lake"));
        let (mut one, mut other) = (ceiling.coming(), ceiling.clone().coming());
        for _ in 0..5 {
            assert_eq!((one.add(&lake), other.add(&lake)), (Ok(()), Ok(())));
        }
        assert!(!ceiling.was_passed());
        assert_eq!(one.add(&lake), Err(CatalogError::TooManyNames { catalog: lake.clone(), limit: 10 }));
        assert!(ceiling.was_passed());
        drop((one, other));
        let mut again = ceiling.coming();
        assert_eq!((ceiling.keep(&lake, 9), again.add(&lake)), (Ok(()), Ok(())));
        assert!(again.add(&lake).is_err());
        drop(again);
        assert_eq!(ceiling.keep(&lake, 1), Ok(()));
        assert!(ceiling.keep(&lake, 1).is_err());
    }
}
