//! Owns reads of the past: which snapshots stand for what a statement asks for, and the rows of the functions that show a table's own
//! metadata. Refuses to choose when: the statement and its session say that.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, MapBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray,
};
use arrow_ipc::writer::StreamWriter;
use bytes::Bytes;
use futures::future::try_join_all;

use super::prepare::table_ref;
use super::{Caller, Engine, QueryError};
use crate::as_of::AsOf;
use crate::auth::credential::Credential;
use crate::lake::history::{History, Snapshot, When};
use crate::lake::{Column, LiveFile};
use crate::names::TableRef;
use crate::relay::CatalogError;
use crate::wire::proto::past_read::At;
use crate::wire::proto::{Judged, Listing, PastRead, PastVersion, WantedListing};

/// What the texts of the files of one listing may take, in bytes, and what the metadata that one statement reads may: they go to its
/// worker as one message.
const MAX_TEXT_BYTES: usize = 32 << 20;
const MAX_LISTING_BYTES: usize = 48 << 20;

/// How many functions that show metadata one statement may call, and how many different reads of the past it may have.
const MAX_SHOWN: usize = 16;
const MAX_READS: usize = 64;

/// The values of a partition, each with its field's name.
type Partition = Vec<(Arc<str>, Option<String>)>;

/// Each table's past, whose it is (`true`: seen as a write sees it), as one statement has it.
type States<'a> = BTreeMap<(bool, &'a TableRef), Arc<History>>;

/// A call of a function that shows a table's own metadata.
struct Shown<'a> {
    listing: &'a str,
    table: TableRef,
    part: &'a str,
    when: When,
}

impl Engine {
    /// The listings that show tables' own metadata, and the snapshots that stand for the statement's past reads, in their order. Of a
    /// statement that is only `described` no listing has the rows for which files are read.
    pub(super) async fn past(
        &self,
        caller: &Caller,
        credential: &Credential,
        judged: &Judged,
        described: bool,
    ) -> Result<(Vec<Listing>, Vec<PastVersion>), QueryError> {
        let shown = shown(caller, &judged.listings)?;
        let (reads, places) = distinct_reads(caller, &judged.past)?;
        if shown.is_empty() && reads.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let reader = caller.reads();
        let writes = *credential != reader;
        // Each table is looked at once, so that all reads of it are answered from one state of its metadata.
        let wanted = reads.iter().map(|(table, _)| (writes, table)).chain(shown.iter().map(|shown| (false, &shown.table)));
        let wanted: BTreeSet<(bool, &TableRef)> = wanted.collect();
        let loads = wanted.into_iter().map(async |(writes, table)| {
            let credential = if writes { credential } else { &reader };
            Ok::<_, CatalogError>(((writes, table), Arc::new(self.relay().history(credential, table, caller.begun).await?)))
        });
        let states: States<'_> = try_join_all(loads).await?.into_iter().collect();
        let version = |(table, when): &(TableRef, When)| {
            let history = state(&states, writes, table)?;
            Ok(PastVersion { snapshot: at(table, history, when)?.map(|snapshot| snapshot.id) })
        };
        let versions = reads.iter().map(version).collect::<Result<Vec<_>, QueryError>>()?;
        let versions = places.into_iter().filter_map(|place| versions.get(place).copied()).collect();
        Ok((self.metadata_listings(caller, &shown, &states, described).await?, versions))
    }

    /// The columns that a table had at an instant.
    pub(super) async fn columns_then(&self, caller: &Caller, table: &TableRef, then: AsOf) -> Result<Vec<Column>, QueryError> {
        let history = self.relay().history(&caller.reads(), table, caller.begun).await?;
        let snapshot = at(table, &history, &When::Instant(then))?;
        history.columns(snapshot.as_ref()).map_err(|error| unreadable(table, &error).into())
    }

    /// One after the other against what all of them may take together; what is asked for twice is read once.
    async fn metadata_listings(
        &self,
        caller: &Caller,
        shown: &[Shown<'_>],
        states: &States<'_>,
        described: bool,
    ) -> Result<Vec<Listing>, QueryError> {
        let mut left = MAX_LISTING_BYTES;
        let mut made = BTreeMap::<(&str, &TableRef, Option<i64>), Bytes>::new();
        let mut listings = Vec::with_capacity(shown.len());
        for Shown { listing, table, part, when } in shown {
            let history = state(states, false, table)?;
            let of_snapshot = matches!(*part, "files" | "partitions");
            let snapshot = if of_snapshot { at(table, history, when)?.filter(|_| !described) } else { None };
            let key = (*part, table, snapshot.as_ref().map(|snapshot| snapshot.id));
            let rows = match made.get(&key) {
                Some(rows) => rows.clone(),
                None => self.metadata(caller, table, part, Arc::clone(history), snapshot.as_ref(), left).await?,
            };
            left = left.checked_sub(rows.len()).ok_or(QueryError::TooMuchMetadata { limit_mb: MAX_LISTING_BYTES >> 20 })?;
            made.insert(key, rows.clone());
            listings.push(Listing { name: (*listing).to_owned(), rows });
        }
        Ok(listings)
    }

    /// The rows of one function, whose texts take at most so many bytes.
    async fn metadata(
        &self,
        caller: &Caller,
        table: &TableRef,
        part: &str,
        history: Arc<History>,
        snapshot: Option<&Snapshot>,
        most: usize,
    ) -> Result<Bytes, QueryError> {
        match part {
            "snapshots" => encoded(move || snapshot_rows(&history.snapshots())).await,
            "history" => encoded(move || change_rows(&history)).await,
            "files" => {
                let files = self.folded(caller, table, snapshot, most, Vec::new(), add_files).await?;
                encoded(move || file_rows(&files)).await
            }
            "partitions" => {
                let committed = history.snapshots().iter().map(|snapshot| (snapshot.id, snapshot.committed)).collect();
                let none = Partitions { committed, found: BTreeMap::new() };
                let partitions = self.folded(caller, table, snapshot, most, none, add_partitions).await?;
                encoded(move || partition_rows(&partitions.found)).await
            }
            other => Err(defect(&format!("unknown metadata {other}"))),
        }
    }

    /// What the files of a snapshot come to.
    async fn folded<T: Send + 'static>(
        &self,
        caller: &Caller,
        table: &TableRef,
        snapshot: Option<&Snapshot>,
        most: usize,
        none: T,
        fold: fn(&mut Fold<T>, Vec<LiveFile>) -> bool,
    ) -> Result<T, QueryError> {
        let Some(snapshot) = snapshot else { return Ok(none) };
        let (max_rows, max_bytes) = (self.config().listing_files, most.min(MAX_TEXT_BYTES));
        let empty = Fold { found: none, rows: 0, bytes: 0, max_rows, max_bytes };
        let all = self.relay().live_files(&caller.reads(), table, snapshot, empty, fold).await?;
        if all.bytes > max_bytes {
            return Err(QueryError::TooMuchMetadata { limit_mb: MAX_TEXT_BYTES >> 20 });
        }
        if all.rows > max_rows { Err(QueryError::TooManyFiles { limit: max_rows }) } else { Ok(all.found) }
    }
}

/// The calls of functions that show metadata.
fn shown<'a>(caller: &Caller, wanted: &'a [WantedListing]) -> Result<Vec<Shown<'a>>, QueryError> {
    let shown = wanted.iter().filter_map(|listing| Some((listing.name.as_str(), listing.about.as_ref()?)));
    let shown = shown.map(|(listing, about)| {
        let table = about.table.as_ref().map(table_ref).ok_or_else(|| defect("metadata of no table"))?;
        let when = match (about.version.as_str(), caller.as_of) {
            ("", Some(as_of)) => When::Instant(as_of),
            ("", None) => When::Now,
            (version, _) => When::Version(version.to_owned()),
        };
        Ok(Shown { listing, table, part: &about.part, when })
    });
    let shown = shown.collect::<Result<Vec<_>, QueryError>>()?;
    if shown.len() > MAX_SHOWN {
        return Err(QueryError::TooManyOfThePast { limit: MAX_SHOWN, what: "calls of functions that show metadata" });
    }
    Ok(shown)
}

/// The reads, each once, and which of them each place has.
type Distinct = (Vec<(TableRef, When)>, Vec<usize>);

fn distinct_reads(caller: &Caller, reads: &[PastRead]) -> Result<Distinct, QueryError> {
    let (mut distinct, mut places) = (Vec::new(), Vec::with_capacity(reads.len()));
    for read in reads {
        let table = read.table.as_ref().map(table_ref).ok_or_else(|| defect("a past read without a table"))?;
        let when = match read.at.as_ref().ok_or_else(|| defect("a past read without a time"))? {
            At::Session(_) => When::Instant(caller.as_of.ok_or_else(|| defect("a session without an instant"))?),
            At::Now(_) => When::Now,
            At::Version(version) => When::Version(version.clone()),
            At::TimestampMs(ms) => When::Instant(AsOf::from_ms(*ms)),
        };
        let read = (table, when);
        let place = distinct.iter().position(|known| *known == read).unwrap_or_else(|| {
            distinct.push(read);
            distinct.len() - 1
        });
        if place >= MAX_READS {
            return Err(QueryError::TooManyOfThePast { limit: MAX_READS, what: "reads of the past" });
        }
        places.push(place);
    }
    Ok((distinct, places))
}

fn state<'a>(states: &'a States<'a>, writes: bool, table: &'a TableRef) -> Result<&'a Arc<History>, QueryError> {
    states.get(&(writes, table)).ok_or_else(|| defect("a table without metadata"))
}

/// Makes rows on a thread that may block.
async fn encoded(rows: impl FnOnce() -> Result<RecordBatch, QueryError> + Send + 'static) -> Result<Bytes, QueryError> {
    let made = tokio::task::spawn_blocking(move || ipc_stream(&rows()?)).await;
    made.map_err(|panic| defect(&panic.to_string()))?
}

/// What the files that were read so far come to, and how much of it there may be.
struct Fold<T> {
    found: T,
    rows: usize,
    bytes: usize,
    max_rows: usize,
    max_bytes: usize,
}

impl<T> Fold<T> {
    fn count(&mut self, bytes: usize) {
        self.rows += 1;
        self.bytes += bytes;
    }

    fn goes_on(&self) -> bool {
        self.rows <= self.max_rows && self.bytes <= self.max_bytes
    }
}

fn add_files(fold: &mut Fold<Vec<LiveFile>>, files: Vec<LiveFile>) -> bool {
    for file in files {
        fold.count(text_bytes(&file));
        fold.found.push(file);
        if !fold.goes_on() {
            return false;
        }
    }
    true
}

struct Partitions {
    /// When each snapshot was.
    committed: HashMap<i64, AsOf>,
    found: BTreeMap<(i32, Partition), Totals>,
}

fn add_partitions(fold: &mut Fold<Partitions>, files: Vec<LiveFile>) -> bool {
    for file in files {
        let bytes = text_bytes(&file);
        let added = fold.found.committed.get(&file.added_by).map(|committed| (*committed, file.added_by));
        let totals = match fold.found.found.entry((file.spec, file.partition)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                fold.rows += 1;
                fold.bytes += bytes;
                new.insert(Totals::default())
            }
        };
        totals.add(file.content, file.records, file.bytes, added);
        if !fold.goes_on() {
            return false;
        }
    }
    true
}

/// What the files of a partition add up to.
#[derive(Default)]
struct Totals {
    data: Sum,
    /// By positions.
    positions: Sum,
    /// By values.
    values: Sum,
    /// The youngest that added one of its files: when it was, and its id.
    last: Option<(AsOf, i64)>,
}

#[derive(Default)]
struct Sum {
    files: i64,
    records: u64,
    bytes: u64,
}

impl Totals {
    fn add(&mut self, content: i32, records: u64, bytes: u64, added: Option<(AsOf, i64)>) {
        let sum = match content {
            0 => &mut self.data,
            1 => &mut self.positions,
            _ => &mut self.values,
        };
        sum.files += 1;
        sum.records = sum.records.saturating_add(records);
        sum.bytes = sum.bytes.saturating_add(bytes);
        self.last = self.last.max(added);
    }
}

fn text_bytes(file: &LiveFile) -> usize {
    let partition = file.partition.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, String::len));
    file.path.len() + partition.sum::<usize>()
}

fn at(table: &TableRef, history: &History, when: &When) -> Result<Option<Snapshot>, CatalogError> {
    history.at(when).map_err(|reason| CatalogError::NoSuchSnapshot { table: table.clone(), reason })
}

fn unreadable(table: &TableRef, error: &dyn std::error::Error) -> CatalogError {
    CatalogError::BadAnswer { catalog: table.catalog.clone(), reason: format!("table \"{table}\": {error}") }
}

fn defect(what: &str) -> QueryError {
    QueryError::Defect(what.to_owned())
}

fn snapshot_rows(snapshots: &[Snapshot]) -> Result<RecordBatch, QueryError> {
    batch(vec![
        ("committed_at", times(snapshots.iter().map(|snapshot| Some(snapshot.committed)))),
        ("snapshot_id", longs(snapshots.iter().map(|snapshot| Some(snapshot.id)))),
        ("parent_id", longs(snapshots.iter().map(|snapshot| snapshot.parent))),
        ("operation", texts(snapshots.iter().map(|snapshot| snapshot.operation.as_deref()))),
        ("manifest_list", texts(snapshots.iter().map(|snapshot| snapshot.manifest_list.as_deref()))),
        ("summary", maps(snapshots.iter().map(|s| s.summary.iter().map(|(name, value)| (name.as_str(), Some(value.as_str())))))?),
    ])
}

fn change_rows(history: &History) -> Result<RecordBatch, QueryError> {
    let changes = history.changes();
    batch(vec![
        ("made_current_at", times(changes.iter().map(|change| Some(change.made_current)))),
        ("snapshot_id", longs(changes.iter().map(|change| Some(change.snapshot)))),
        ("parent_id", longs(changes.iter().map(|change| change.parent))),
        ("is_current_ancestor", Arc::new(changes.iter().map(|change| Some(change.is_ancestor)).collect::<BooleanArray>())),
    ])
}

fn file_rows(files: &[LiveFile]) -> Result<RecordBatch, QueryError> {
    let partitions = files.iter().map(|file| file.partition.iter().map(|(name, value)| (&**name, value.as_deref())));
    batch(vec![
        ("content", ints(files.iter().map(|file| Some(file.content)))),
        ("file_path", texts(files.iter().map(|file| Some(file.path.as_str())))),
        ("file_format", texts(files.iter().map(|file| Some(file.format.as_str())))),
        ("spec_id", ints(files.iter().map(|file| Some(file.spec)))),
        ("partition", maps(partitions)?),
        ("record_count", longs(files.iter().map(|file| Some(long(file.records))))),
        ("file_size_in_bytes", longs(files.iter().map(|file| Some(long(file.bytes))))),
        ("sort_order_id", ints(files.iter().map(|file| file.sort_order))),
        ("added_snapshot_id", longs(files.iter().map(|file| Some(file.added_by)))),
    ])
}

fn partition_rows(partitions: &BTreeMap<(i32, Partition), Totals>) -> Result<RecordBatch, QueryError> {
    let named = partitions.keys().map(|(_, partition)| partition.iter().map(|(name, value)| (&**name, value.as_deref())));
    let of = |number: fn(&Totals) -> i64| longs(partitions.values().map(|totals| Some(number(totals))));
    batch(vec![
        ("partition", maps(named)?),
        ("spec_id", ints(partitions.keys().map(|(spec, _)| Some(*spec)))),
        ("record_count", of(|totals| long(totals.data.records))),
        ("file_count", of(|totals| totals.data.files)),
        ("total_data_file_size_in_bytes", of(|totals| long(totals.data.bytes))),
        ("position_delete_record_count", of(|totals| long(totals.positions.records))),
        ("position_delete_file_count", of(|totals| totals.positions.files)),
        ("equality_delete_record_count", of(|totals| long(totals.values.records))),
        ("equality_delete_file_count", of(|totals| totals.values.files)),
        ("last_updated_at", times(partitions.values().map(|totals| totals.last.map(|(at, _)| at)))),
        ("last_updated_snapshot_id", longs(partitions.values().map(|totals| totals.last.map(|(_, id)| id)))),
    ])
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch, QueryError> {
    let columns = columns.into_iter().map(|(name, values)| (name, values, true));
    RecordBatch::try_from_iter_with_nullable(columns).map_err(|error| QueryError::Defect(error.to_string()))
}

fn ipc_stream(batch: &RecordBatch) -> Result<Bytes, QueryError> {
    let write = || {
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
        writer.write(batch)?;
        writer.into_inner()
    };
    write().map(Bytes::from).map_err(|error: arrow::error::ArrowError| QueryError::Defect(error.to_string()))
}

fn texts<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn long(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn longs(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<Int64Array>())
}

fn ints(values: impl Iterator<Item = Option<i32>>) -> ArrayRef {
    Arc::new(values.collect::<Int32Array>())
}

fn times(values: impl Iterator<Item = Option<AsOf>>) -> ArrayRef {
    let us = values.map(|time| time.map(|time| time.ms().saturating_mul(1000)));
    Arc::new(us.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn maps<'a>(rows: impl Iterator<Item = impl Iterator<Item = (&'a str, Option<&'a str>)>>) -> Result<ArrayRef, QueryError> {
    let mut maps = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for row in rows {
        for (name, value) in row {
            maps.keys().append_value(name);
            maps.values().append_option(value);
        }
        maps.append(true).map_err(|error| QueryError::Defect(error.to_string()))?;
    }
    Ok(Arc::new(maps.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(partition: usize, added_by: i64) -> LiveFile {
        let (path, format) = ("s3://w/t/f".to_owned(), "PARQUET".to_owned());
        let partition = vec![(Arc::from("p"), Some(partition.to_string()))];
        LiveFile { content: 0, path, format, spec: 0, partition, records: 2, bytes: 3, sort_order: None, added_by }
    }

    fn empty<T>(found: T) -> Fold<T> {
        Fold { found, rows: 0, bytes: 0, max_rows: 10, max_bytes: 1000 }
    }

    #[test]
    fn a_partition_of_very_many_snapshots_is_added_up_in_one_pass() {
        let snapshots = 200_000;
        let committed = (0..snapshots).map(|id| (id, AsOf::from_ms(snapshots - id))).collect();
        let mut fold = empty(Partitions { committed, found: BTreeMap::new() });
        assert!(add_partitions(&mut fold, (0..snapshots).map(|id| file(1, id)).collect()));
        let totals = &fold.found.found[&(0, vec![(Arc::from("p"), Some("1".to_owned()))])];
        assert_eq!(
            (totals.data.files, totals.data.records, totals.last),
            (snapshots, 400_000, Some((AsOf::from_ms(snapshots), 0)))
        );
        assert_eq!(fold.rows, 1);
        // What has expired says nothing of when.
        assert!(add_partitions(&mut fold, vec![file(2, snapshots + 1)]));
        assert_eq!(fold.found.found[&(0, vec![(Arc::from("p"), Some("2".to_owned()))])].last, None);
    }

    #[test]
    fn what_is_too_much_is_not_taken_to_its_end() {
        let mut fold = empty(Vec::new());
        assert!(!add_files(&mut fold, (0..1000).map(|id| file(1, id)).collect()));
        assert_eq!(fold.found.len(), 11);
        let mut fold = empty(Partitions { committed: HashMap::new(), found: BTreeMap::new() });
        assert!(!add_partitions(&mut fold, (0..1000).map(|at| file(at, 1)).collect()));
        assert_eq!(fold.found.found.len(), 11);
    }
}
