//! Owns manifest lists and manifests that are read ahead of workers, and kept for those that come later: these files never change.
//! DuckDB's Iceberg extension ends its process when it cannot read a manifest, and all statements in it; a manifest list that it cannot
//! read fails the one statement. So a list is given out only when its manifests are here. Refuses to read ahead more than a few: a
//! statement may need some of many.
//!
//! Reading begins when a table is loaded, for all tables of a statement at once, while the worker still binds; DuckDB would read one
//! after the other. A file is read once, however many wait for it. Then the ends of the data files follow, where they are few.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use tokio::sync::Semaphore;

use super::ends::{Ends, MAX_FILES};
use super::store::{Asked, Outcome, Store, StoreFault};
use super::turns::in_turn;
use crate::lake;
use crate::relay::confine::normal;
use crate::relay::views::View;

/// Manifests that are read ahead for one list, their bytes, and how many at once.
const MAX_MANIFESTS: usize = 32;
const MAX_BYTES: u64 = 8 << 20;
const PARALLEL: usize = 8;

/// Lists that are begun before a worker asks, at once: what is on its way is in memory. Of more, workers ask themselves.
const MAX_BEGUN: usize = 16;

/// A list above this is passed through as it comes.
const MAX_LIST: u64 = 4 << 20;

/// A manifest above this names many files, of whose ends none are read ahead.
const MAX_PARSED: usize = 64 << 10;

/// Nothing is looked for in a list or manifest that is longer unpacked: 32 manifests take a tenth of it. What is parsed takes up to a
/// hundred times as much while it is, and some kilobytes may unpack to gigabytes.
const MAX_UNPACKED: u64 = 1 << 20;

/// So many are parsed at once, whoever asked.
static PARSING: Semaphore = Semaphore::const_new(2);

/// Bytes of lists and manifests that are on their way at once, in units of 64 KB; more wait.
const UNIT: u64 = 64 << 10;
const MAX_UNITS: usize = 1024;

/// What is kept of all workers' lists and manifests, and how long. A worker keeps what it has read itself; this is for the others.
const KEPT_BYTES: u64 = 64 << 20;
const KEPT: Duration = Duration::from_secs(600);

/// A file that was read whole.
#[derive(Clone)]
pub(super) struct Whole {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// What a list names: locations, and their lengths.
    names: Arc<[(String, u64)]>,
}

impl Whole {
    /// A part of a file, which is all of it that was asked for.
    pub(super) fn part(headers: HeaderMap, body: Bytes) -> Self {
        Self { status: StatusCode::PARTIAL_CONTENT, headers, body, names: Arc::default() }
    }

    /// About how many bytes it takes.
    fn weight(&self) -> usize {
        let names: usize = self.names.iter().map(|(name, _)| name.len() + 64).sum();
        self.body.len() + names + 1024
    }
}

/// Who may see a file, and where it lies.
pub(super) type At = (String, String);

/// Lists and manifests that are here, or on their way.
pub(in crate::relay) struct Ahead {
    store: Arc<Store>,
    files: moka::future::Cache<At, Whole>,
    ends: Ends,
    begun: Arc<Semaphore>,
    coming: Semaphore,
}

/// Why a file is not here.
enum Missed {
    /// The store refused it, or it is too long: whoever wants it is to ask for it again.
    NotKept,
    Fault(StoreFault),
}

impl Ahead {
    pub(in crate::relay) fn new(store: Arc<Store>) -> Arc<Self> {
        let weight = |_: &At, whole: &Whole| u32::try_from(whole.weight()).unwrap_or(u32::MAX);
        let files = moka::future::Cache::builder().max_capacity(KEPT_BYTES).weigher(weight).time_to_live(KEPT).build();
        let ends = Ends::new(Arc::clone(&store));
        Arc::new(Self { store, files, ends, begun: Arc::new(Semaphore::new(MAX_BEGUN)), coming: Semaphore::new(MAX_UNITS) })
    }

    /// Begins to read a list that a worker will ask for soon, and what it names. What cannot be had is the worker's to learn.
    pub(in crate::relay) fn begin(self: &Arc<Self>, view: &Arc<View>, list: &str) {
        let is_in_store = normal(list).is_some_and(|list| list.starts_with("s3://") || list.starts_with("gs://"));
        let Some(asked) = Asked::file(list).filter(|asked| is_in_store && is_list(asked)) else { return };
        if !view.confinement.allows(list) || self.files.contains_key(&at(view, list)) {
            return;
        }
        let Ok(place) = Arc::clone(&self.begun).try_acquire_owned() else { return };
        let (ahead, view) = (Arc::clone(self), Arc::clone(view));
        tokio::spawn(async move {
            let _place = place;
            match ahead.list(&view, &asked).await {
                Ok(list) => ahead.begin_ends(&view, list.iter().flat_map(|list| list.names.iter())).await,
                Err(fault) => tracing::debug!(location = asked.location, %fault, "a manifest list cannot be read ahead"),
            }
        });
    }

    /// A file that is here, or a list once its manifests are; `None` when it is to be asked for. Only for who has access to it that a
    /// store would take: what is here is not seen for longer than what is there.
    ///
    /// # Errors
    /// When there is no access to it, or the list or a manifest cannot be had.
    pub(super) async fn get(&self, view: &Arc<View>, asked: &Asked) -> Result<Option<Whole>, StoreFault> {
        if !matches!(asked.method, Method::GET | Method::HEAD) {
            return Ok(None);
        }
        if asked.range.is_some() {
            return self.ends.get(view, asked).await;
        }
        if is_list(asked) {
            view.storage.access(&asked.location, None).await?;
            return self.list(view, asked).await;
        }
        let Some(whole) = self.files.get(&at(view, &asked.location)).await else { return Ok(None) };
        view.storage.access(&asked.location, None).await?;
        Ok(Some(whole))
    }

    /// Begins to read the ends of what these manifests name, if they are here and name a few files. They are looked into when they have
    /// been given out: a worker that waits for its list does not wait for this.
    async fn begin_ends(&self, view: &Arc<View>, manifests: impl Iterator<Item = &(String, u64)>) {
        let mut files = Vec::new();
        for (location, _) in manifests {
            let Some(manifest) = self.files.get(&at(view, location)).await else { return };
            files.extend_from_slice(&named(false, &manifest.body).await);
            if files.len() > MAX_FILES {
                return;
            }
        }
        self.ends.begin(view, &files);
    }

    async fn list(&self, view: &Arc<View>, asked: &Asked) -> Result<Option<Whole>, StoreFault> {
        let Some(list) = self.whole(view, asked.clone(), MAX_LIST).await? else { return Ok(None) };
        let bytes = list.names.iter().fold(0_u64, |sum, (_, length)| sum.saturating_add(*length));
        if bytes > MAX_BYTES {
            return Ok(Some(list));
        }
        let allowed = list.names.iter().filter(|(location, _)| view.confinement.allows(location));
        // A list may say less than is there, by so much that all of them are not too many.
        let limit = |length: u64| length.max(MAX_BYTES / MAX_MANIFESTS as u64);
        let asked: Vec<(Asked, u64)> =
            allowed.filter_map(|(location, length)| Some((Asked::file(location)?, limit(*length)))).collect();
        let read = |(manifest, limit)| async move { self.whole(view, manifest, limit).await.map(drop) };
        futures::stream::iter(asked).map(read).buffer_unordered(PARALLEL).try_collect::<()>().await?;
        Ok(Some(list))
    }

    /// A file, from here or from its store; `None` when it cannot be kept.
    async fn whole(&self, view: &Arc<View>, asked: Asked, limit: u64) -> Result<Option<Whole>, StoreFault> {
        match self.files.try_get_with(at(view, &asked.location), self.fetch(view, asked, limit)).await {
            Ok(whole) => Ok(Some(whole)),
            Err(missed) => match &*missed {
                Missed::NotKept => Ok(None),
                Missed::Fault(fault) => Err(fault.clone()),
            },
        }
    }

    async fn fetch(&self, view: &Arc<View>, asked: Asked, limit: u64) -> Result<Whole, Missed> {
        let is_list = is_list(&asked);
        let Outcome::Served(served) = self.store.ask(&view.storage, asked).await? else { return Err(Missed::NotKept) };
        let length = served.response.content_length().filter(|length| *length <= limit);
        let (StatusCode::OK, Some(length)) = (served.response.status(), length) else { return Err(Missed::NotKept) };
        let units = u32::try_from(length.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let _place = self.coming.acquire_many(units).await.ok();
        let headers = served.passed_back();
        let Some(body) = self.store.whole(&view.storage, *served, length).await? else { return Err(Missed::NotKept) };
        let names = if is_list { named(true, &body).await } else { Arc::default() };
        Ok(Whole { status: StatusCode::OK, headers, body, names })
    }
}

/// What a list of a few manifests, or a manifest, names, as far as it is of use. What cannot be read here is DuckDB's to complain of.
async fn named(is_list: bool, body: &Bytes) -> Arc<[(String, u64)]> {
    if !is_list && body.len() > MAX_PARSED {
        return Arc::default();
    }
    let read = if is_list { lake::manifests } else { lake::files };
    let bytes = body.clone();
    let named = in_turn(&PARSING, move || {
        let mut named = read(&bytes, MAX_UNPACKED)?;
        if is_list && named.len() > MAX_MANIFESTS {
            return None;
        }
        named.truncate(MAX_MANIFESTS);
        Some(named)
    });
    named.await.ok().flatten().unwrap_or_default().into()
}

impl From<StoreFault> for Missed {
    fn from(fault: StoreFault) -> Self {
        Self::Fault(fault)
    }
}

/// Whether a file is a manifest list, by the name that every writer gives one.
fn is_list(asked: &Asked) -> bool {
    let name = asked.key.rsplit('/').next().unwrap_or_default();
    asked.method == Method::GET && asked.range.is_none() && name.starts_with("snap-") && name.ends_with(".avro")
}

pub(super) fn at(view: &View, location: &str) -> At {
    (format!("{} {}", view.upstream.name(), view.viewer.as_str()), normal(location).unwrap_or_default())
}

#[cfg(test)]
pub(super) mod tests {
    use apache_avro::types::Value;
    use apache_avro::{Codec, DeflateSettings, Schema, Writer};

    use super::*;

    /// A manifest list as far as it is read here, of these locations and lengths.
    pub(in crate::relay) fn manifest_list(manifests: &[(&str, i64)]) -> Bytes {
        let field = |name: &str, id: u32, of: &str| format!(r#"{{"name":"{name}","type":"{of}","field-id":{id}}}"#);
        let int = ["added_files_count", "existing_files_count", "deleted_files_count"];
        let long = ["added_rows_count", "existing_rows_count", "deleted_rows_count"];
        let mut fields = vec![
            field("manifest_path", 500, "string"),
            field("manifest_length", 501, "long"),
            field("partition_spec_id", 502, "int"),
            field("content", 517, "int"),
            field("sequence_number", 515, "long"),
            field("min_sequence_number", 516, "long"),
            field("added_snapshot_id", 503, "long"),
        ];
        fields.extend(int.iter().zip(504..).map(|(name, id)| field(name, id, "int")));
        fields.extend(long.iter().zip(512..).map(|(name, id)| field(name, id, "long")));
        let schema = format!(r#"{{"type":"record","name":"manifest_file","fields":[{}]}}"#, fields.join(","));
        let schema = Schema::parse_str(&schema).unwrap();
        let mut writer = Writer::with_codec(&schema, Vec::new(), Codec::Deflate(DeflateSettings::default()));
        for (name, length) in manifests {
            let mut record = vec![
                ("manifest_path".to_owned(), Value::String((*name).to_owned())),
                ("manifest_length".to_owned(), Value::Long(*length)),
                ("partition_spec_id".to_owned(), Value::Int(0)),
                ("content".to_owned(), Value::Int(0)),
                ("sequence_number".to_owned(), Value::Long(1)),
                ("min_sequence_number".to_owned(), Value::Long(1)),
                ("added_snapshot_id".to_owned(), Value::Long(1)),
            ];
            record.extend(int.iter().map(|name| ((*name).to_owned(), Value::Int(0))));
            record.extend(long.iter().map(|name| ((*name).to_owned(), Value::Long(0))));
            writer.append(Value::Record(record)).unwrap();
        }
        writer.into_inner().unwrap().into()
    }

    #[tokio::test]
    async fn of_lists_that_are_long_when_they_are_unpacked_nothing_is_kept() {
        let named = async |manifests: usize, name: &str| {
            let body = manifest_list(&vec![(name, 7); manifests]);
            (body.len(), super::named(true, &body).await.len())
        };
        assert_eq!(named(MAX_MANIFESTS, "s3://lake/t/m.avro").await.1, MAX_MANIFESTS);
        assert_eq!(named(MAX_MANIFESTS + 1, "s3://lake/t/m.avro").await.1, 0);
        let long = format!("s3://lake/{}", "a".repeat(1 << 20));
        let (packed, names) = named(1, &long).await;
        assert!(packed < 10_000 && names == 0, "{packed} bytes name {names}");
    }

    #[test]
    fn names_count_as_what_is_kept() {
        let names: Arc<[(String, u64)]> = vec![("a".repeat(500_000), 1)].into();
        let whole = Whole { names, ..Whole::part(HeaderMap::new(), Bytes::new()) };
        assert!(whole.weight() > 500_000);
    }
}
