//! Owns the plans that a connection keeps for the next time: of queries of constants, by which pools of connections see whether theirs
//! works. Parsing and planning is most of what these cost. Refuses the plan of any other statement, which would hang on tables,
//! listings, parameters or the clock, and might hold the memory of its last run.

use super::binding::{Connection, EngineResult, Prepared};

/// Plans of one connection. The least lately used gives way.
const KEPT: usize = 8;

/// Longer texts are planned each time.
const TEXT_BYTES: usize = 1 << 10;

/// The plans of one connection, the least lately used first.
#[derive(Default)]
pub struct Plans(Vec<(String, Prepared)>);

impl Plans {
    /// A statement to run once: the plan that was kept, or a new one. It is not kept any longer unless [`Self::keep`] gets it back, so
    /// one that failed is planned anew.
    pub fn take(&mut self, connection: &Connection, sql: &str) -> EngineResult<Prepared> {
        match self.0.iter().position(|(kept, _)| kept == sql) {
            Some(at) => Ok(self.0.remove(at).1),
            None => connection.prepare(sql),
        }
    }

    /// Keeps the plan of a query of constants that has run to its end.
    pub fn keep(&mut self, sql: &str, plan: Prepared) {
        if sql.len() > TEXT_BYTES {
            return;
        }
        if self.0.len() == KEPT {
            self.0.remove(0);
        }
        self.0.push((sql.to_owned(), plan));
    }
}
