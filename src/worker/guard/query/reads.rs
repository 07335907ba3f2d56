//! Owns what a query reads, as it is gathered while its tree is walked, and added up over the parts of a statement. Refuses to judge any of
//! it.

use crate::wire::proto;
use crate::worker::guard::SystemObject;
use crate::worker::guard::past::{PastAt, PastRead};

/// A listing of which a statement reads more parts is made whole.
const MAX_PARTS: usize = 16;

/// What a query reads, gathered while its tree is walked.
#[derive(Debug, Default)]
pub(in crate::worker::guard) struct Reads {
    pub tables: Vec<proto::TableName>,
    pub listings: Vec<proto::WantedListing>,
    pub system: Vec<SystemObject>,
    /// Tables that are read as they were.
    pub past: Vec<PastRead>,
    /// Tables that are read as they are, each once.
    pub present: Vec<proto::TableName>,
    /// Parameters that stand directly in a CAST, with that CAST of NULL as text.
    pub casts: Vec<(String, String)>,
    /// Of a whole query: it looks at a few rows of its table only, or counts them.
    pub glance: bool,
    /// Of a whole query: it is nothing but constants.
    pub constant: bool,
    /// Of a whole query: it has no parameters.
    pub embeds: bool,
    /// Of a whole query: the columns of its table that are those of its result.
    pub columns: Option<proto::TableColumns>,
}

impl Reads {
    pub fn add_table(&mut self, table: proto::TableName) {
        if !self.tables.contains(&table) {
            self.tables.push(table);
        }
    }

    /// Adds what another part of the same statement reads.
    pub fn add(&mut self, other: Self) {
        other.tables.into_iter().for_each(|table| self.add_table(table));
        other.listings.into_iter().for_each(|listing| self.add_listing(listing));
        other.system.into_iter().for_each(|object| self.add_system(object));
        other.past.into_iter().for_each(|read| self.add_past(read));
        other.present.into_iter().for_each(|table| self.add_present(table));
        self.casts.extend(other.casts);
    }

    pub(super) fn add_past(&mut self, read: PastRead) {
        if !self.past.contains(&read) {
            self.past.push(read);
        }
    }

    pub(super) fn add_present(&mut self, table: proto::TableName) {
        if !self.present.contains(&table) {
            self.present.push(table);
        }
    }

    /// Beside tables that are read as they were, the others are held to one snapshot too: with the whole metadata that such a statement
    /// gets, DuckDB would choose theirs by its own clock.
    pub fn pin_the_present(&mut self) {
        if !self.past.is_empty() {
            for table in std::mem::take(&mut self.present) {
                self.add_past(PastRead { table, at: PastAt::Now });
            }
        }
    }

    /// Whether it reads a table of the lakehouse as it is, and nothing else.
    pub(super) fn is_of_one_table(&self) -> bool {
        self.tables.len() == 1 && self.listings.is_empty() && self.system.is_empty() && self.past.is_empty()
    }

    /// A listing of which different parts are read is sent once, with all of them.
    pub fn add_listing(&mut self, wanted: proto::WantedListing) {
        match self.listings.iter_mut().find(|listing| listing.name == wanted.name) {
            None => self.listings.push(wanted),
            Some(there) if there.any_of.is_empty() || wanted.any_of.is_empty() || there.any_of.len() >= MAX_PARTS => {
                there.any_of.clear();
            }
            Some(there) => there.any_of.extend(wanted.any_of),
        }
    }

    pub(super) fn add_system(&mut self, object: SystemObject) {
        if !self.system.iter().any(|there| there.name == object.name) {
            self.system.push(object);
        }
    }
}
