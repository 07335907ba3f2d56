//! Owns the temporary tables that stand for catalog listings while one statement runs. Refuses to make their rows: the relay does.

use std::io::Cursor;

use arrow_ipc::reader::StreamReader;

use super::binding::{Connection, EngineError, ErrorKind, Instance, feed};
use super::database::identifier;
use super::failure::StatementError;
use super::guard::SystemObject;
use crate::wire::proto::Listing;
use crate::wire::proto::failure::Kind;

/// What the guard puts before a listing's name.
const PREFIX: &str = "listed_";

/// The listings that exist on a connection. They must be dropped before the connection serves another statement.
#[derive(Default)]
pub struct Listings {
    /// What drops each.
    drops: Vec<String>,
}

impl Listings {
    /// Makes the tables of these listings, and what the guard wants made of them.
    pub fn create(
        &mut self,
        instance: &Instance,
        connection: &Connection,
        listings: &[Listing],
        system: &[SystemObject],
    ) -> Result<(), StatementError> {
        for listing in listings {
            let table = format!("temp.main.{}", identifier(&format!("{PREFIX}{}", listing.name)));
            self.drops.push(format!("DROP TABLE IF EXISTS {table}"));
            fill(instance, connection, &table, &listing.rows)?;
        }
        for SystemObject { kind, name, definition } in system {
            let name = format!("temp.main.{}", identifier(name));
            self.drops.push(format!("DROP {kind} IF EXISTS {name}"));
            connection.run(&format!("CREATE OR REPLACE TEMP {kind} {name}{definition}"))?;
        }
        Ok(())
    }

    /// Drops them, what is made of others first.
    pub fn drop_from(self, connection: &Connection) -> Result<(), StatementError> {
        for drop in self.drops.iter().rev() {
            connection.run(drop)?;
        }
        Ok(())
    }
}

fn fill(instance: &Instance, connection: &Connection, table: &str, rows: &[u8]) -> Result<(), StatementError> {
    let unreadable = |e| StatementError::new(Kind::Internal, format!("a listing is no Arrow stream: {e}"));
    let reader = StreamReader::try_new(Cursor::new(rows), None).map_err(unreadable)?;
    let (feed, feeder) = feed::open(instance.connect()?, reader.schema())?;
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    let create = format!("CREATE OR REPLACE TEMP TABLE {table} AS SELECT * FROM {}", feed.sql());
    std::thread::scope(|scope| {
        let pushing = scope.spawn(move || -> Result<(), EngineError> {
            for batch in &batches {
                if feeder.push(batch)?.is_err() {
                    return Ok(());
                }
            }
            feeder.finish();
            Ok(())
        });
        let created = connection.run(&create);
        drop(feed);
        let pushed = pushing.join().unwrap_or_else(|_| Err(EngineError::new(ErrorKind::Other, "a panic in a feeder".to_owned())));
        created.and(pushed).map_err(StatementError::from)
    })
}
