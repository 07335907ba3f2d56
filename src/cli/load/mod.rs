//! `polynya load`: the user's own file into a table, through a running gateway. Owns the way from a local worker's frames to the
//! gateway's ingest. Refuses to hold the file: a few frames are on their way at any time, whatever its size.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{Array, RecordBatch, StringArray};
use arrow_flight::FlightData;
use futures::Stream;
use tokio::sync::mpsc;
use tonic::Code;

use super::client::{Client, ClientError, IngestMode};
use super::connect::ConnectArgs;
use super::error::CliError;
use super::local::{Door, Limits, LocalError, LocalWorker};
use super::naming::TableName;
use super::progress::{self, Progress};

pub mod source;
pub mod types;

use source::{ColumnCast, CsvArgs, FileFormat, FoundColumn, Source};

/// Reading streams; this is for the readers' buffers.
const WORKER_MEMORY: u64 = 1 << 30;

/// Frames between the local worker and the gateway; each is under 2 MB unless a single row is larger.
const FRAMES_ON_THE_WAY: usize = 8;

const REDRAW: Duration = Duration::from_millis(150);

const EXAMPLES: &str = "\
Examples:
  polynya load orders.parquet --table lake.bronze.orders --create-schema
  polynya load new-orders.csv --table bronze.orders --mode append
  polynya load export.csv --table bronze.export --delimiter ';' --column zip:VARCHAR --column 'amount:DECIMAL(12,2)'
  polynya load events.jsonl.gz --table bronze.events --mode create-append

The file is read here, by this program; the gateway gets rows, and commits them as one snapshot. \
Types that Iceberg lacks are named with the --column option that mends them, before anything is sent.";

/// Options of `polynya load`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct LoadArgs {
    /// The file: Parquet, CSV, JSON or JSON lines; .gz and .zst are read too
    pub file: PathBuf,

    /// The table: [CATALOG.]NAMESPACE.TABLE
    #[arg(short, long, value_name = "NAME")]
    pub table: TableName,

    /// What to do when the table is there, or not
    #[arg(short, long, value_enum, default_value = "create")]
    pub mode: IngestMode,

    /// The file's format, where its name does not say it
    #[arg(long, value_enum)]
    pub format: Option<FileFormat>,

    /// Give a column this type; may be repeated
    #[arg(short, long = "column", value_name = "NAME:TYPE")]
    pub columns: Vec<ColumnCast>,

    /// Create the namespace where it is missing
    #[arg(long)]
    pub create_schema: bool,

    /// How a CSV file is written
    #[command(flatten)]
    pub csv: CsvArgs,

    /// Where and as whom to connect
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// Runs the command.
///
/// # Errors
/// When the file cannot be read, a column does not fit, or the gateway refuses.
pub async fn run(args: &LoadArgs) -> Result<(), CliError> {
    let started = Instant::now();
    let source = Source::open(&args.file, args.format, args.csv.clone(), args.columns.clone())?;
    let worker = blocking(|| Ok(LocalWorker::start(&[], Limits::of_memory(WORKER_MEMORY))?)).await?;
    let door = worker.door();
    let reading = source.clone();
    let sql = blocking(move || {
        let columns = read_columns(&door.collect(&reading.describe_sql()?)?);
        reading.check(&columns)?;
        reading.select_sql(&columns)
    });
    let sql = sql.await.map_err(|error| explain(error, &source))?;
    let (target, credentials) = (args.connect.target()?, args.connect.credentials()?);
    let mut client = Client::connect(&target, &credentials).await?;
    if args.create_schema {
        client.run_update(&format!("CREATE SCHEMA IF NOT EXISTS {}", args.table.schema_sql())).await?;
    }
    let progress = Progress::start(args.table.to_string());
    let job = IngestJob { door: worker.door(), sql, table: args.table.clone(), mode: args.mode };
    let loaded = match job.run(&mut client, &progress).await {
        Ok(loaded) => loaded,
        Err(error) => return Err(explain(advise(error, args, &mut client).await, &source)),
    };
    drop(progress);
    let bytes = fs::metadata(&args.file).map_or(0, |file| file.len());
    progress::say(format!(
        "{} loaded into {} in {} ({} file)",
        progress::rows(loaded.rows),
        args.table,
        progress::time(started.elapsed()),
        progress::size(bytes)
    ))?;
    client.close().await;
    Ok(())
}

/// Blocking work on a thread of its own.
///
/// # Errors
/// Those of the work; a panic in it shows as an interruption.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, CliError> + Send + 'static) -> Result<T, CliError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(CliError::Interrupted))
}

/// The answer to DESCRIBE.
fn read_columns(batches: &[RecordBatch]) -> Vec<FoundColumn> {
    let mut columns = Vec::new();
    for batch in batches {
        let text = |name| batch.column_by_name(name).and_then(|column| column.as_any().downcast_ref::<StringArray>());
        let (Some(names), Some(types)) = (text("column_name"), text("column_type")) else { continue };
        let pairs = names.iter().flatten().zip(types.iter().flatten());
        columns.extend(pairs.map(|(name, sql_type)| FoundColumn { name: name.to_owned(), sql_type: sql_type.to_owned() }));
    }
    columns
}

/// A file that cannot be read, in terms of this command.
fn explain(error: CliError, source: &Source) -> CliError {
    match error {
        CliError::Local(LocalError::Statement(text)) => CliError::Usage(source.explain(&text)),
        error => error,
    }
}

/// What to try after a refusal that has an option for it; other errors stay as they are.
async fn advise(error: CliError, args: &LoadArgs, client: &mut Client) -> CliError {
    let CliError::Client(refusal) = &error else { return error };
    let advice = match refusal.code() {
        Some(Code::AlreadyExists) if args.mode == IngestMode::Create => "--mode append adds to it".to_owned(),
        Some(Code::NotFound) => match client.has_schema(args.table.catalog.as_deref(), &args.table.schema).await {
            Ok(false) => format!("there is no namespace {}: --create-schema creates it", args.table.schema),
            Ok(true) if args.mode == IngestMode::Append => "--mode create creates the table".to_owned(),
            _ => return error,
        },
        _ => return error,
    };
    CliError::Usage(format!("{refusal}. {advice}"))
}

/// The rows of a local statement on their way into a table.
pub struct IngestJob {
    /// Runs the statement.
    pub door: Door,
    /// What gives the rows.
    pub sql: String,
    /// Where they go.
    pub table: TableName,
    /// Whether the table may or must be there.
    pub mode: IngestMode,
}

/// What an ingest did.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// Rows, as the gateway counted them.
    pub rows: u64,
    /// Bytes sent, as Arrow.
    pub bytes: u64,
}

/// How much was read so far.
#[derive(Default)]
struct Read {
    rows: AtomicU64,
    bytes: AtomicU64,
}

/// What comes from the reading thread. Its plain end without `End` means that the thread broke off.
enum Piece {
    Frame(FlightData),
    End,
}

impl IngestJob {
    /// Runs the statement and sends its rows, while `progress` moves.
    ///
    /// # Errors
    /// Of the local statement or of the gateway; then nothing is committed. Also when the gateway says that it took another number
    /// of rows than were sent.
    pub async fn run(self, client: &mut Client, progress: &Progress) -> Result<Loaded, CliError> {
        let read = Arc::new(Read::default());
        let (sender, receiver) = mpsc::channel(FRAMES_ON_THE_WAY);
        let (door, sql, counts) = (self.door, self.sql, Arc::clone(&read));
        let reading = blocking(move || Ok(read_frames(&door, &sql, &sender, &counts)?));
        let counted = || (read.rows.load(Ordering::Relaxed), read.bytes.load(Ordering::Relaxed));
        let sending = client.ingest(&self.table, self.mode, frames(receiver));
        let accepted = watch(reading, sending, || {
            let (rows, bytes) = counted();
            progress.at(rows, bytes);
        })
        .await?;
        let (rows, bytes) = counted();
        match accepted {
            Some(accepted) if accepted != rows => {
                let text = format!("{} sent, {} accepted", progress::rows(rows), progress::count(accepted));
                Err(ClientError::Protocol(text).into())
            }
            _ => Ok(Loaded { rows, bytes }),
        }
    }
}

/// Waits for the gateway's answer, or for the local failure that makes it pointless: leaving here drops the call, and that cancels it.
async fn watch(
    reading: impl Future<Output = Result<(), CliError>>,
    sending: impl Future<Output = Result<Option<u64>, ClientError>>,
    mut redraw: impl FnMut(),
) -> Result<Option<u64>, CliError> {
    let mut reading = std::pin::pin!(reading);
    let mut sending = std::pin::pin!(sending);
    let mut tick = tokio::time::interval(REDRAW);
    let mut all_read = false;
    loop {
        tokio::select! {
            biased;
            read = &mut reading, if !all_read => { read?; all_read = true; }
            accepted = &mut sending => return Ok(accepted?),
            _ = tick.tick() => redraw(),
        }
    }
}

/// The frames for the gateway. It takes their end for the whole of them, so after a failure they have none: they just stop coming.
fn frames(receiver: mpsc::Receiver<Piece>) -> impl Stream<Item = FlightData> + Send + 'static {
    futures::stream::unfold(receiver, |mut receiver| async {
        match receiver.recv().await {
            Some(Piece::Frame(frame)) => Some((frame, receiver)),
            Some(Piece::End) => None,
            None => std::future::pending().await,
        }
    })
}

/// Reads until the end, or until nobody wants more frames because the gateway has refused.
fn read_frames(door: &Door, sql: &str, sender: &mpsc::Sender<Piece>, read: &Read) -> Result<(), LocalError> {
    let mut rows = door.query(sql)?;
    while let Some(frame) = rows.next()? {
        read.rows.fetch_add(frame.rows(), Ordering::Relaxed);
        read.bytes.fetch_add((frame.header.len() + frame.body.len()) as u64, Ordering::Relaxed);
        if sender.blocking_send(Piece::Frame(frame.into_flight_data())).is_err() {
            return Ok(());
        }
    }
    sender.blocking_send(Piece::End).ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;

    #[tokio::test]
    async fn a_reader_that_breaks_off_never_ends_the_frames() {
        let (sender, receiver) = mpsc::channel(2);
        sender.send(Piece::Frame(FlightData::default())).await.ok();
        drop(sender);
        let mut frames = Box::pin(frames(receiver));
        assert!(frames.next().await.is_some());
        assert!(frames.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_whole_read_ends_the_frames() {
        let (sender, receiver) = mpsc::channel(2);
        sender.send(Piece::End).await.ok();
        assert!(Box::pin(frames(receiver)).next().await.is_none());
    }

    #[tokio::test]
    async fn a_local_failure_ends_the_wait_for_the_gateway() {
        let reading = async { Err(CliError::Usage("broken file".into())) };
        let result = watch(reading, std::future::pending(), || {}).await;
        assert!(matches!(result, Err(CliError::Usage(_))));
    }
}
