//! Owns reads of the past: which snapshots stand for what a statement asks for, and the rows of the functions that show a table's own
//! metadata. Refuses to choose when: the statement and its session say that.

use std::collections::{BTreeMap, HashMap};
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
use crate::wire::proto::{Listing, PastRead, PastVersion, TableMetadata, WantedListing};

/// What the texts of the files of one listing may take, in bytes, and what the metadata that one statement reads may: they go to its
/// worker as one message.
const MAX_TEXT_BYTES: usize = 32 << 20;
const MAX_LISTING_BYTES: usize = 48 << 20;

/// The values of a partition, each with its field's name.
type Partition = Vec<(String, Option<String>)>;

impl Engine {
    /// The snapshots that stand for these reads, in their order.
    pub(super) async fn versions(
        &self,
        caller: &Caller,
        credential: &Credential,
        reads: &[PastRead],
    ) -> Result<Vec<PastVersion>, QueryError> {
        let read = |read: &PastRead| -> Result<(TableRef, When), QueryError> {
            let table = read.table.as_ref().map(table_ref).ok_or_else(|| defect("a past read without a table"))?;
            let when = match read.at.as_ref().ok_or_else(|| defect("a past read without a time"))? {
                At::Session(_) => When::Instant(caller.as_of.ok_or_else(|| defect("a session without an instant"))?),
                At::Now(_) => When::Now,
                At::Version(version) => When::Version(version.clone()),
                At::TimestampMs(ms) => When::Instant(AsOf::from_ms(*ms)),
            };
            Ok((table, when))
        };
        let reads = reads.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        // Each table is looked at once, so that all reads of it are answered from one state of its metadata.
        let mut tables: Vec<&TableRef> = reads.iter().map(|(table, _)| table).collect();
        tables.sort();
        tables.dedup();
        let loads =
            tables.into_iter().map(async |table| Ok::<_, CatalogError>((table, self.relay().history(credential, table).await?)));
        let histories: BTreeMap<&TableRef, History> = try_join_all(loads).await?.into_iter().collect();
        let version = |(table, when): &(TableRef, When)| {
            let history = histories.get(table).ok_or_else(|| defect("a table without metadata"))?;
            Ok(PastVersion { snapshot: at(table, history, when)?.map(|snapshot| snapshot.id) })
        };
        reads.iter().map(version).collect()
    }

    /// The columns that a table had at an instant.
    pub(super) async fn columns_then(&self, caller: &Caller, table: &TableRef, then: AsOf) -> Result<Vec<Column>, QueryError> {
        let history = self.relay().history(&caller.reads(), table).await?;
        let snapshot = at(table, &history, &When::Instant(then))?;
        history.columns(snapshot.as_ref()).map_err(|error| unreadable(table, &error).into())
    }

    /// The listings that show tables' own metadata. Of a statement that is only `described` none has the rows for which files are read.
    pub(super) async fn metadata_listings(
        &self,
        caller: &Caller,
        wanted: &[WantedListing],
        described: bool,
    ) -> Result<Vec<Listing>, QueryError> {
        let of = wanted.iter().filter_map(|listing| Some((&listing.name, listing.about.as_ref()?)));
        let made = of.map(async |(name, about)| {
            let rows = self.metadata(caller, about, described).await?;
            Ok::<_, QueryError>(Listing { name: name.clone(), rows: ipc_stream(&rows)? })
        });
        let listings = try_join_all(made).await?;
        if listings.iter().map(|listing| listing.rows.len()).sum::<usize>() > MAX_LISTING_BYTES {
            return Err(QueryError::TooMuchMetadata { limit_mb: MAX_LISTING_BYTES >> 20 });
        }
        Ok(listings)
    }

    async fn metadata(&self, caller: &Caller, about: &TableMetadata, described: bool) -> Result<RecordBatch, QueryError> {
        let table = about.table.as_ref().map(table_ref).ok_or_else(|| defect("metadata of no table"))?;
        let history = self.relay().history(&caller.reads(), &table).await?;
        let when = match (about.version.as_str(), caller.as_of) {
            ("", Some(as_of)) => When::Instant(as_of),
            ("", None) => When::Now,
            (version, _) => When::Version(version.to_owned()),
        };
        match about.part.as_str() {
            "snapshots" => snapshot_rows(&history.snapshots()),
            "history" => change_rows(&history),
            "files" => {
                let snapshot = at(&table, &history, &when)?.filter(|_| !described);
                file_rows(&self.files(caller, &table, snapshot.as_ref()).await?)
            }
            "partitions" => {
                let snapshot = at(&table, &history, &when)?.filter(|_| !described);
                partition_rows(&history, &self.partitions(caller, &table, snapshot.as_ref()).await?)
            }
            other => Err(defect(&format!("unknown metadata {other}"))),
        }
    }

    async fn files(&self, caller: &Caller, table: &TableRef, snapshot: Option<&Snapshot>) -> Result<Vec<LiveFile>, QueryError> {
        let Some(snapshot) = snapshot else { return Ok(Vec::new()) };
        let limit = self.config().listing_files;
        let (mut found, mut bytes) = (Vec::new(), 0_usize);
        let take = |files: Vec<LiveFile>| {
            bytes += files.iter().map(text_bytes).sum::<usize>();
            found.extend(files);
            found.len() <= limit && bytes <= MAX_TEXT_BYTES
        };
        self.relay().live_files(&caller.reads(), table, snapshot, take).await?;
        if bytes > MAX_TEXT_BYTES {
            return Err(QueryError::TooMuchMetadata { limit_mb: MAX_TEXT_BYTES >> 20 });
        }
        if found.len() > limit { Err(QueryError::TooManyFiles { limit }) } else { Ok(found) }
    }

    async fn partitions(
        &self,
        caller: &Caller,
        table: &TableRef,
        snapshot: Option<&Snapshot>,
    ) -> Result<BTreeMap<(i32, Partition), Totals>, QueryError> {
        let Some(snapshot) = snapshot else { return Ok(BTreeMap::new()) };
        let limit = self.config().listing_files;
        let (mut found, mut bytes) = (BTreeMap::<(i32, Partition), Totals>::new(), 0_usize);
        let take = |files: Vec<LiveFile>| {
            for file in files {
                let size = text_bytes(&file);
                let totals = found.entry((file.spec, file.partition)).or_default();
                bytes += if totals.snapshots.is_empty() { size } else { 0 };
                totals.add(file.content, file.records, file.bytes, file.added_by);
            }
            found.len() <= limit && bytes <= MAX_TEXT_BYTES
        };
        self.relay().live_files(&caller.reads(), table, snapshot, take).await?;
        if bytes > MAX_TEXT_BYTES {
            return Err(QueryError::TooMuchMetadata { limit_mb: MAX_TEXT_BYTES >> 20 });
        }
        if found.len() > limit { Err(QueryError::TooManyFiles { limit }) } else { Ok(found) }
    }
}

/// What the files of a partition add up to.
#[derive(Default)]
struct Totals {
    data: Sum,
    /// By positions.
    positions: Sum,
    /// By values.
    values: Sum,
    /// Those that added its files.
    snapshots: Vec<i64>,
}

#[derive(Default)]
struct Sum {
    files: i64,
    records: u64,
    bytes: u64,
}

impl Totals {
    fn add(&mut self, content: i32, records: u64, bytes: u64, added_by: i64) {
        let sum = match content {
            0 => &mut self.data,
            1 => &mut self.positions,
            _ => &mut self.values,
        };
        sum.files += 1;
        sum.records = sum.records.saturating_add(records);
        sum.bytes = sum.bytes.saturating_add(bytes);
        if !self.snapshots.contains(&added_by) {
            self.snapshots.push(added_by);
        }
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
    let partitions = files.iter().map(|file| file.partition.iter().map(|(name, value)| (name.as_str(), value.as_deref())));
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

fn partition_rows(history: &History, partitions: &BTreeMap<(i32, Partition), Totals>) -> Result<RecordBatch, QueryError> {
    let committed: HashMap<i64, AsOf> = history.snapshots().iter().map(|snapshot| (snapshot.id, snapshot.committed)).collect();
    let last: Vec<Option<(AsOf, i64)>> = partitions
        .values()
        .map(|totals| totals.snapshots.iter().filter_map(|id| Some((*committed.get(id)?, *id))).max())
        .collect();
    let named = partitions.keys().map(|(_, partition)| partition.iter().map(|(name, value)| (name.as_str(), value.as_deref())));
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
        ("last_updated_at", times(last.iter().map(|last| last.map(|(at, _)| at)))),
        ("last_updated_snapshot_id", longs(last.iter().map(|last| last.map(|(_, id)| id)))),
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
