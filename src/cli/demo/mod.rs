//! `polynya demo`: everything once, for real: a gateway on the embedded catalog, TPC-H data as bronze tables, gold tables made by SQL,
//! questions answered over Flight. Owns the order of these steps and what is shown meanwhile. Refuses shortcuts: what the demo does, a
//! client could do.

use std::fs::{self, DirBuilder};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use arrow::array::{Array, Int64Array};
use tonic::Code;

use super::client::{Client, ClientError, Credentials, IngestMode, Outcome, Rows};
use super::connect::{GatewayUri, Target};
use super::error::CliError;
use super::load::{IngestJob, blocking};
use super::local::{Door, Limits, LocalWorker};
use super::naming::TableName;
use super::progress::{self, Progress};
use super::query::table::{Shown, TableWriter};
use super::{ConfigArgs, interrupted};

pub mod gateway;
pub mod gold;
pub mod report;

use gateway::DemoGateway;
use report::MadeTable;

/// The generator holds the tables in memory, above that in spill files.
const WORKER_MEMORY: u64 = 2 << 30;

/// TPC-H has this many suppliers at scale 1; no other table's size is as exact at every scale.
const SUPPLIERS: f64 = 10_000.0;

const EXAMPLES: &str = "\
Examples:
  polynya demo
  polynya demo --scale 1
  polynya demo --stay                     keeps serving at grpc://127.0.0.1:32010 until Ctrl-C
  polynya demo --dir ./lake --stay        keeps the data too; the next run finds it there

Without --dir everything is made in a temporary directory, and removed at the end.";

/// Options of `polynya demo`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DemoArgs {
    /// How much data: 1 is 6 million line items, about 1 GB
    #[arg(long, default_value = "0.1", value_parser = parse_scale)]
    pub scale: f64,

    /// Keep catalog and data in this directory
    #[arg(long)]
    pub dir: Option<PathBuf>,

    /// Keep serving after the last question, until Ctrl-C or SIGTERM
    #[arg(long)]
    pub stay: bool,

    /// The gateway's config, above the demo's own
    #[command(flatten)]
    pub config: ConfigArgs,
}

fn parse_scale(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(scale) if (0.001..=100.0).contains(&scale) => Ok(scale),
        _ => Err("want a number from 0.001 to 100".into()),
    }
}

impl DemoArgs {
    /// A demo that ends by itself takes any free port, to run beside whatever else there is.
    fn listen(&self) -> SocketAddr {
        let port = if self.stay { 32010 } else { 0 };
        self.config.listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, port).into())
    }
}

/// Runs the command.
///
/// # Errors
/// When any of its steps fails, or at Ctrl-C before the last one.
pub async fn run(args: &DemoArgs) -> Result<(), CliError> {
    let dir = DemoDir::open(args.dir.as_deref())?;
    let progress = Progress::start("Gateway");
    let gateway = DemoGateway::start(dir.path(), args.listen(), &args.config).await?;
    let address = report::reachable(gateway.address);
    progress.done(&format!("grpc://{address}, embedded catalog `lake` in {}", dir.path().display()));
    let played = tokio::select! {
        played = play(args, address, dir.path()) => played,
        () = interrupted() => Err(CliError::Interrupted),
    };
    let ended = match played {
        Ok(()) => say_goodbye(args, address).await,
        Err(error) => Err(error),
    };
    gateway.finish().await;
    ended
}

/// Says how to connect; with `--stay` to this gateway, which serves until it is told to stop.
async fn say_goodbye(args: &DemoArgs, address: SocketAddr) -> Result<(), CliError> {
    if args.stay {
        progress::say(format!(
            "\nServing at grpc://{address} until Ctrl-C. How to connect:\n\n{}",
            report::how_to_connect(address)
        ))?;
        interrupted().await;
        return Ok(());
    }
    let kept = SocketAddr::from((Ipv4Addr::LOCALHOST, 32010));
    let dir = args.dir.as_ref().map(|dir| format!(" --dir {}", dir.display())).unwrap_or_default();
    progress::say(format!("\nThe gateway stops now. `polynya demo --stay{dir}` keeps it serving; then connect like this:\n"))?;
    progress::say(report::how_to_connect(kept))
}

/// All steps on a running gateway.
async fn play(args: &DemoArgs, address: SocketAddr, dir: &Path) -> Result<(), CliError> {
    let uri: GatewayUri = format!("grpc://{address}").parse().map_err(|error| CliError::Usage(format!("{address}: {error}")))?;
    let mut client = Client::connect(&Target::at(uri), &Credentials::Anonymous).await?;
    let mut tables = match find_bronze(&mut client, args.scale).await? {
        Some(tables) => tables,
        None => make_bronze(&mut client, args.scale).await?,
    };
    tables.extend(make_gold(&mut client).await?);
    for question in &gold::QUESTIONS {
        ask(&mut client, question).await?;
    }
    progress::say("\nWhat was made\n")?;
    report::print_tables(&tables, dir)?;
    client.close().await;
    Ok(())
}

/// The bronze tables of an earlier run in the same directory. The largest is made last, so with it all are there.
async fn find_bronze(client: &mut Client, scale: f64) -> Result<Option<Vec<MadeTable>>, CliError> {
    let (last, suppliers) = ("lineitem", "supplier");
    if !client.has_schema(Some("lake"), "bronze").await? || count(client, "bronze", last).await?.is_none() {
        return Ok(None);
    }
    let found = count(client, "bronze", suppliers).await?.unwrap_or(0);
    if found != (scale * SUPPLIERS) as u64 {
        let other = found as f64 / SUPPLIERS;
        return Err(CliError::Usage(format!(
            "the directory holds TPC-H data of scale {other}: give --scale {other} or another --dir"
        )));
    }
    let mut tables = Vec::new();
    for name in gold::BRONZE {
        let rows = count(client, "bronze", name).await?.unwrap_or(0);
        tables.push(MadeTable { layer: "bronze", name, rows, how: "in an earlier run".into() });
    }
    eprintln!("Bronze  found from an earlier run");
    Ok(Some(tables))
}

/// Makes the data in a local worker, and streams each table to the gateway as `load` does with a file.
async fn make_bronze(client: &mut Client, scale: f64) -> Result<Vec<MadeTable>, CliError> {
    let progress = Progress::start("Generating TPC-H");
    let started = Instant::now();
    let worker = blocking(|| Ok(LocalWorker::start(&["tpch"], Limits::of_memory(WORKER_MEMORY))?)).await?;
    let door = worker.door();
    blocking(move || Ok(door.collect(&format!("CALL dbgen(sf = {scale})"))?)).await?;
    progress.done(&format!("scale {scale} in {}", progress::time(started.elapsed())));
    client.run_update("CREATE SCHEMA IF NOT EXISTS lake.bronze").await?;
    let mut tables = Vec::new();
    for name in gold::BRONZE {
        tables.push(ingest(client, worker.door(), name).await?);
    }
    Ok(tables)
}

async fn ingest(client: &mut Client, door: Door, name: &'static str) -> Result<MadeTable, CliError> {
    let counting = door.clone();
    let batches = blocking(move || Ok(counting.collect(&format!("SELECT count(*) AS n FROM {name}"))?)).await?;
    let total = batches.first().and_then(first_number).unwrap_or(0);
    let progress = Progress::start_of(format!("lake.bronze.{name:<9}"), total);
    let started = Instant::now();
    let table = TableName { catalog: Some("lake".into()), schema: "bronze".into(), table: name.into() };
    let job = IngestJob { door, sql: format!("SELECT * FROM {name}"), table, mode: IngestMode::Create };
    let (rows, how) = match job.run(client, &progress).await {
        Ok(loaded) => (loaded.rows, format!("loaded in {}", progress::time(started.elapsed()))),
        // A run that was broken off left some of the tables behind; each was committed whole.
        Err(error) if is_there_already(&error) => {
            (count(client, "bronze", name).await?.unwrap_or(0), "in an earlier run".to_owned())
        }
        Err(error) => return Err(error),
    };
    progress.done(&format!("{:>11}  {how}", progress::count(rows)));
    Ok(MadeTable { layer: "bronze", name, rows, how })
}

fn is_there_already(error: &CliError) -> bool {
    matches!(error, CliError::Client(refusal) if refusal.code() == Some(Code::AlreadyExists))
}

async fn make_gold(client: &mut Client) -> Result<Vec<MadeTable>, CliError> {
    client.run_update("CREATE SCHEMA IF NOT EXISTS lake.gold").await?;
    let mut tables = Vec::new();
    for gold in &gold::GOLD {
        let progress = Progress::start(format!("lake.gold.{:<20}", gold.name));
        let started = Instant::now();
        let how = match client.run_update(&gold.create_sql()).await.map_err(CliError::from) {
            Ok(_) => format!("by SQL in {}", progress::time(started.elapsed())),
            Err(error) if is_there_already(&error) => "in an earlier run".to_owned(),
            Err(error) => return Err(error),
        };
        let rows = count(client, "gold", gold.name).await?.unwrap_or(0);
        progress.done(&format!("{:>8}  {how}: {}", progress::count(rows), gold.about));
        tables.push(MadeTable { layer: "gold", name: gold.name, rows, how });
    }
    Ok(tables)
}

/// Rows of a table in `lake`; `None` when it is not there.
async fn count(client: &mut Client, layer: &str, table: &str) -> Result<Option<u64>, CliError> {
    match client.run(&format!("SELECT count(*) AS n FROM lake.{layer}.{table}")).await {
        Ok(Outcome::Rows(mut rows)) => {
            let mut number = None;
            while let Some(batch) = rows.next().await? {
                number = number.or_else(|| first_number(&batch));
            }
            Ok(number)
        }
        Ok(Outcome::Done { .. }) => Ok(None),
        Err(error) if error.code() == Some(Code::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn first_number(batch: &arrow::array::RecordBatch) -> Option<u64> {
    let numbers = batch.columns().first()?.as_any().downcast_ref::<Int64Array>()?;
    (!numbers.is_empty()).then(|| u64::try_from(numbers.value(0)).ok()).flatten()
}

async fn ask(client: &mut Client, question: &gold::Question) -> Result<(), CliError> {
    progress::say(format!("\n{}\n{}\n", question.title, question.sql.replace('\n', "\n    ")))?;
    let progress = Progress::start("");
    let started = Instant::now();
    let Outcome::Rows(rows) = client.run(question.sql).await? else {
        return Err(ClientError::Protocol("a question without rows".into()).into());
    };
    print_rows(*rows, started, progress).await
}

async fn print_rows(mut rows: Rows, started: Instant, progress: Progress) -> Result<(), CliError> {
    let mut next = rows.next().await?;
    let first_row = started.elapsed();
    let mut batches = Vec::new();
    while let Some(batch) = next {
        batches.push(batch);
        next = rows.next().await?;
    }
    let total = started.elapsed();
    drop(progress);
    let mut writer = TableWriter::new(std::io::stdout().lock(), rows.schema(), Shown { rows: None, width: None });
    for batch in &batches {
        writer.write(batch).map_err(CliError::format("a table"))?;
    }
    writer.finish().map_err(CliError::io("print the rows"))?;
    progress::say(format!("first row {}, total {}", progress::time(first_row), progress::time(total)))?;
    Ok(())
}

/// Where catalog and data are; a temporary one goes at the end.
struct DemoDir {
    path: PathBuf,
    temporary: bool,
}

impl DemoDir {
    fn open(given: Option<&Path>) -> Result<Self, CliError> {
        if let Some(dir) = given {
            fs::create_dir_all(dir).map_err(CliError::io(format!("create {}", dir.display())))?;
            let path = dir.canonicalize().map_err(CliError::io(format!("read {}", dir.display())))?;
            return Ok(Self { path, temporary: false });
        }
        let path = std::env::temp_dir().join(format!("polynya-demo-{}", uuid::Uuid::new_v4().simple()));
        DirBuilder::new().mode(0o700).create(&path).map_err(CliError::io(format!("create {}", path.display())))?;
        Ok(Self { path, temporary: true })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DemoDir {
    fn drop(&mut self) {
        if self.temporary {
            fs::remove_dir_all(&self.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_directory_goes_and_a_given_one_stays() {
        let outer = tempfile::tempdir().unwrap();
        let given = DemoDir::open(Some(&outer.path().join("lake"))).unwrap();
        let made = DemoDir::open(None).unwrap();
        let (given_path, made_path) = (given.path.clone(), made.path.clone());
        drop((given, made));
        assert!(given_path.is_dir() && !made_path.exists());
    }

    #[test]
    fn scales_that_make_no_sense_are_refused() {
        assert_eq!(parse_scale("0.1"), Ok(0.1));
        assert!(["0", "-1", "nan", "1000", "x"].iter().all(|text| parse_scale(text).is_err()));
    }

    #[test]
    fn every_gold_table_reads_only_bronze() {
        for gold in &gold::GOLD {
            let reads = gold.select.matches("lake.").count();
            assert!(reads > 0 && reads == gold.select.matches("lake.bronze.").count(), "{}", gold.name);
        }
    }
}
