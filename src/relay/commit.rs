//! Owns the way of a commit: whether the worker may make it, whether it stays within the catalog's storage, and a definite answer
//! whatever the catalog did. Refuses to change what is committed, but for timestamps that would stand before the head's.
//!
//! A commit whose answer was lost may have been made. It is decided by looking: a snapshot's id is drawn at random by whoever writes
//! it, so the table holds this commit's ids exactly if this commit was made. All there: it was. None there: the same body is sent
//! again, which can do no harm, for at most one of the two can meet the head that both assert. A lost race is looked at in the same
//! way, because the winner may have been this very commit, sent once before.
//!
//! A sending whose answer was lost may also arrive after the look. From then on nothing but a success or a lost race that was looked
//! at is definite, whatever is answered to later sendings.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Value, json};

use super::Relay;
use super::error::CatalogError;
use super::table::{check_snapshot, outside};
use super::upstream::{Answer, CommitFault, Purpose, TableChange};
use super::views::View;
use super::workers::Visitor;
use crate::names::{CatalogName, CredentialId, TableRef};

/// How long to wait before a commit, or the look at what became of it, is tried again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// How often the catalog is asked what became of a commit.
const LOOKS: u32 = 4;

/// The part of a table that tells what became of a commit.
#[derive(Deserialize)]
struct Head {
    metadata: HeadMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct HeadMetadata {
    table_uuid: String,
    #[serde(default)]
    snapshots: Vec<HeadSnapshot>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct HeadSnapshot {
    snapshot_id: i64,
}

/// What a look at the tables said of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Made,
    NotMade,
    /// Nothing in it can be recognised, or its tables disagree.
    Undecidable,
}

/// Commits all changes or none.
///
/// # Errors
/// Definite, all of them: nothing was changed, or `OutcomeUnknown`.
pub(super) async fn commit(
    relay: &Relay,
    catalog: &CatalogName,
    served: &View,
    visitor: &Visitor,
    mut changes: Vec<TableChange>,
) -> Result<(), CatalogError> {
    for change in &changes {
        check_places(change, served)?;
    }
    for change in &mut changes {
        stamp(change, relay, &served.viewer);
    }
    let mut voids = relay.changing(changes.iter().map(|change| change.table.clone()));
    changes.iter().filter(|change| creates(change)).for_each(|change| voids.creating(&change.table));
    let limit = relay.config.commit_timeout;
    let outcome = tokio::time::timeout(limit, send(relay, catalog, served, visitor, &changes)).await;
    drop(voids);
    outcome.unwrap_or_else(|_| Err(unsettled(catalog, format!("it was not settled within {} s", limit.as_secs_f32()))))
}

async fn send(
    relay: &Relay,
    catalog: &CatalogName,
    served: &View,
    visitor: &Visitor,
    changes: &[TableChange],
) -> Result<(), CatalogError> {
    let mut pause = FIRST_PAUSE;
    // The first sending whose answer was lost.
    let mut unknown = None;
    let mut last = None;
    for attempt in 0..relay.config.commit_attempts.max(1) {
        if attempt > 0 {
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause *= 2;
        }
        if !relay.workers.may_write(visitor) {
            break;
        }
        match served.upstream.commit(changes).await {
            Ok(()) => return Ok(()),
            Err(CommitFault::Refused(error @ CatalogError::Conflict { .. })) => {
                return match look(served, changes).await {
                    Ok(Found::Made) => Ok(()),
                    Ok(Found::NotMade) => Err(error),
                    Ok(Found::Undecidable) => Err(unknown.unwrap_or(error)),
                    Err(unseen) => Err(unknown.unwrap_or_else(|| {
                        unsettled(catalog, format!("{error}; what became of it could not be looked up: {unseen}"))
                    })),
                };
            }
            Err(CommitFault::Refused(error)) => return Err(unknown.unwrap_or(error)),
            Err(CommitFault::NotMade(error)) => last = Some(error),
            Err(CommitFault::Unknown(error)) => {
                tracing::warn!(%catalog, %error, "a commit's answer was lost; looking for its snapshots");
                unknown.get_or_insert_with(|| unsettled(catalog, error.to_string()));
                match look(served, changes).await {
                    Ok(Found::Made) => return Ok(()),
                    Ok(Found::NotMade) => {}
                    Ok(Found::Undecidable) | Err(_) => break,
                }
            }
        }
    }
    Err(unknown.or(last).unwrap_or_else(|| no_lease(catalog)))
}

/// Looks at the catalog's own state of the tables, past every cache.
async fn look(served: &View, changes: &[TableChange]) -> Result<Found, CatalogError> {
    let mut found = None;
    for change in changes {
        let Some(made) = look_at(served, change).await? else { continue };
        match found {
            None => found = Some(made),
            Some(before) if before != made => return Ok(Found::Undecidable),
            Some(_) => {}
        }
    }
    Ok(match found {
        Some(true) => Found::Made,
        Some(false) => Found::NotMade,
        None => Found::Undecidable,
    })
}

/// Whether one table shows the commit; `None` when its change leaves no mark.
async fn look_at(served: &View, change: &TableChange) -> Result<Option<bool>, CatalogError> {
    let own = own_snapshots(&change.updates);
    let uuid = creates(change).then(|| assigned_uuid(&change.updates)).flatten();
    if own.is_empty() && uuid.is_none() {
        return Ok(None);
    }
    let head = match load_head(served, &change.table).await {
        Ok(head) => head.metadata,
        Err(CatalogError::NoSuchTable(_)) => return Ok(Some(false)),
        Err(error) => return Err(error),
    };
    if let Some(uuid) = uuid {
        return Ok(Some(head.table_uuid.eq_ignore_ascii_case(&uuid)));
    }
    let there = own.iter().filter(|id| head.snapshots.iter().any(|snapshot| snapshot.snapshot_id == **id)).count();
    Ok(match there {
        0 => Some(false),
        all if all == own.len() => Some(true),
        _ => None,
    })
}

async fn load_head(served: &View, table: &TableRef) -> Result<Head, CatalogError> {
    let mut pause = FIRST_PAUSE;
    let mut looks = 0;
    loop {
        looks += 1;
        match served.upstream.load_table(table, None, Purpose::Columns).await {
            Ok(Answer::Fresh { body, .. }) => {
                return serde_json::from_slice(&body)
                    .map_err(|error| CatalogError::BadAnswer { catalog: table.catalog.clone(), reason: error.to_string() });
            }
            Ok(Answer::NotModified) => {
                let reason = "it says that nothing has changed without having been asked".to_owned();
                return Err(CatalogError::BadAnswer { catalog: table.catalog.clone(), reason });
            }
            Err(error) if looks < LOOKS && (error.is_outage() || matches!(error, CatalogError::BadAnswer { .. })) => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Refuses a change by which files outside the catalog's storage would become part of a table.
fn check_places(change: &TableChange, served: &View) -> Result<(), CatalogError> {
    let within = |what: &str, location: &str| outside(&change.table, what, location, &served.confinement);
    for update in &change.updates {
        match update["action"].as_str().unwrap_or_default() {
            "add-snapshot" => check_snapshot(&change.table, &update["snapshot"], &served.confinement)?,
            "set-location" => within("the new location", update["location"].as_str().unwrap_or_default())?,
            "set-properties" => {
                for name in super::table::PLACE_PROPERTIES {
                    if let Some(place) = update["updates"][name].as_str() {
                        within(&format!("property {name}"), place)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Moves new snapshots behind the head in time when clocks apart have put them before it, where readers by time would miss them.
fn stamp(change: &mut TableChange, relay: &Relay, viewer: &CredentialId) {
    if creates(change) {
        return;
    }
    let Some(head) = relay.cache.peek(viewer, &change.table) else { return };
    let mut newest_ms = head.last_updated_ms;
    for update in change.updates.iter_mut().filter(|update| update["action"] == "add-snapshot") {
        let Some(stated_ms) = update["snapshot"]["timestamp-ms"].as_i64() else { continue };
        if stated_ms <= newest_ms {
            newest_ms = now_ms().max(newest_ms + 1);
            update["snapshot"]["timestamp-ms"] = json!(newest_ms);
        } else {
            newest_ms = stated_ms;
        }
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

fn own_snapshots(updates: &[Value]) -> Vec<i64> {
    updates
        .iter()
        .filter(|update| update["action"] == "add-snapshot")
        .filter_map(|update| update["snapshot"]["snapshot-id"].as_i64())
        .collect()
}

fn assigned_uuid(updates: &[Value]) -> Option<String> {
    updates.iter().find(|update| update["action"] == "assign-uuid").and_then(|update| update["uuid"].as_str().map(str::to_owned))
}

fn creates(change: &TableChange) -> bool {
    change.requirements.iter().any(|requirement| requirement["type"] == "assert-create")
}

fn unsettled(catalog: &CatalogName, reason: String) -> CatalogError {
    CatalogError::OutcomeUnknown { catalog: catalog.clone(), reason }
}

fn no_lease(catalog: &CatalogName) -> CatalogError {
    CatalogError::Conflict {
        catalog: catalog.clone(),
        reason: "the statement that it belongs to has ended or may not write".to_owned(),
    }
}
