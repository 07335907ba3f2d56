//! `polynya query`: one statement to a gateway, its rows to the terminal or a file, streamed. Owns where the text comes from and where
//! the rows go. Refuses to look into the statement: whether it is one, and what it may do, the gateway decides.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::client::{Client, Outcome, Rows};
use super::connect::ConnectArgs;
use super::error::CliError;
use super::progress::{self, Progress};

pub mod formats;
pub mod table;

use formats::{Format, ResultWriter};
use table::Shown;

/// Rows that a table shows without `--all`.
const TABLE_ROWS: u64 = 1000;

const EXAMPLES: &str = "\
Examples:
  polynya query 'SELECT count(*) FROM lake.bronze.orders'
  polynya query -f report.sql --format csv > report.csv
  polynya query 'SELECT * FROM lake.gold.revenue' --output revenue.arrow
  echo 'SHOW TABLES' | polynya query -
  polynya query --uri grpc+tls://lake.example.com --user ana 'SELECT 1'
  polynya query --uri grpc+tls://lake.example.com --tls-ca ca.crt --tls-cert me.crt --tls-key me.key 'SELECT 1'

One statement a call: the gateway refuses a text with several, so that what was run is never in doubt. \
Results are streamed; only the table format holds rows, a thousand at a time.";

/// Options of `polynya query`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct QueryArgs {
    /// The statement; `-` reads it from standard input
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub sql: Option<String>,

    /// Read the statement from a file
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Form of the rows; without it the ending of --output decides, and else it is table
    #[arg(long, value_enum)]
    pub format: Option<Format>,

    /// Write the rows to this file; it appears when all are there
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Show all rows in a table, not only the first 1000
    #[arg(long)]
    pub all: bool,

    /// Cut the lines of a table at this many characters; without a number, at the width of the terminal
    #[arg(long, value_name = "CHARACTERS", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    pub limit_width: Option<usize>,

    /// Print the time to the first row and the total
    #[arg(long)]
    pub time: bool,

    /// Where and as whom to connect
    #[command(flatten)]
    pub connect: ConnectArgs,
}

impl QueryArgs {
    fn read_sql(&self) -> Result<String, CliError> {
        let sql = match (&self.file, self.sql.as_deref()) {
            (Some(path), _) => fs::read_to_string(path).map_err(CliError::io(format!("read {}", path.display())))?,
            (None, Some("-") | None) => {
                let mut sql = String::new();
                io::stdin().read_to_string(&mut sql).map_err(CliError::io("read the statement from standard input"))?;
                sql
            }
            (None, Some(sql)) => sql.to_owned(),
        };
        if sql.trim().is_empty() { Err(CliError::Usage("the statement is empty".into())) } else { Ok(sql) }
    }

    fn format(&self) -> Format {
        self.format.or_else(|| self.output.as_deref().and_then(Format::of_file)).unwrap_or(Format::Table)
    }

    fn shown(&self) -> Shown {
        let width = match self.limit_width {
            Some(0) => terminal_width(),
            width => width,
        };
        // Rows that go to a file are all wanted.
        let rows = if self.all || self.output.is_some() { None } else { Some(TABLE_ROWS) };
        Shown { rows, width }
    }
}

fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// How long a statement took, as its client saw it.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// From sending it until the first row was there (until the end, when there was none).
    pub first_row: Duration,
    /// Until its last row was there.
    pub total: Duration,
}

/// Runs the command.
///
/// # Errors
/// When the text cannot be read, the gateway refuses, or the rows cannot be written.
pub async fn run(args: &QueryArgs) -> Result<(), CliError> {
    let sql = args.read_sql()?;
    let format = args.format();
    if format == Format::Arrow && args.output.is_none() && io::stdout().is_terminal() {
        return Err(CliError::Usage("Arrow is binary: add --output FILE, or send standard output to a file or a pipe".into()));
    }
    let (target, credentials) = (args.connect.target()?, args.connect.credentials()?);
    let mut client = Client::connect(&target, &credentials).await?;
    let started = Instant::now();
    let timing = match client.run(&sql).await? {
        Outcome::Rows(rows) => write_rows(*rows, args, format, started).await?,
        Outcome::Done { affected } => {
            match affected {
                Some(number) => progress::say(format!("{} affected", progress::rows(number)))?,
                None => progress::say("done")?,
            }
            Timing { first_row: started.elapsed(), total: started.elapsed() }
        }
    };
    if args.time {
        eprintln!("first row {}, total {}", progress::time(timing.first_row), progress::time(timing.total));
    }
    client.close().await;
    Ok(())
}

async fn write_rows(rows: Rows, args: &QueryArgs, format: Format, started: Instant) -> Result<Timing, CliError> {
    let Some(path) = &args.output else {
        // A moving line between the lines of a result would spoil both.
        let progress =
            if io::stdout().is_terminal() && format != Format::Table { Progress::hidden() } else { Progress::start("") };
        return copy_rows(rows, io::stdout().lock(), format, args.shown(), &progress, started).await;
    };
    let progress = Progress::start("");
    let mut output = Output::create(path)?;
    let timing = copy_rows(rows, &mut output.file, format, args.shown(), &progress, started).await?;
    output.keep()?;
    Ok(timing)
}

/// Copies a result batch by batch; memory does not grow with it.
async fn copy_rows(
    mut rows: Rows,
    out: impl Write,
    format: Format,
    shown: Shown,
    progress: &Progress,
    started: Instant,
) -> Result<Timing, CliError> {
    let mut first = rows.next().await?;
    let first_row = started.elapsed();
    let mut writer = ResultWriter::new(format, rows.schema(), BufWriter::with_capacity(1 << 16, Quiet { out, progress }), shown)?;
    let mut seen = 0;
    while let Some(batch) = first {
        seen += batch.num_rows() as u64;
        writer.write(&batch)?;
        progress.at(seen, rows.received_bytes());
        first = rows.next().await?;
    }
    let total = started.elapsed();
    writer.finish()?;
    Ok(Timing { first_row, total })
}

/// Output that takes the moving line away while it writes.
struct Quiet<'a, W> {
    out: W,
    progress: &'a Progress,
}

impl<W: Write> Write for Quiet<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.progress.suspend(|| self.out.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A file that appears under its name only when it is whole. What is there and is no regular file (a pipe, a device) is written to
/// directly.
struct Output {
    file: File,
    path: PathBuf,
    part: Option<PathBuf>,
}

impl Output {
    fn create(path: &Path) -> Result<Self, CliError> {
        let special = fs::metadata(path).is_ok_and(|found| !found.is_file());
        let part = (!special).then(|| {
            let mut name = path.as_os_str().to_owned();
            name.push(".part");
            PathBuf::from(name)
        });
        let at = part.as_deref().unwrap_or(path);
        let file = File::create(at).map_err(CliError::io(format!("write {}", at.display())))?;
        Ok(Self { file, path: path.to_owned(), part })
    }

    fn keep(mut self) -> Result<(), CliError> {
        let Some(part) = self.part.take() else { return Ok(()) };
        fs::rename(&part, &self.path).map_err(CliError::io(format!("write {}", self.path.display())))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(part) = &self.part {
            fs::remove_file(part).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_file_does_not_appear() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        fs::write(&path, "old").unwrap();
        let mut output = Output::create(&path).unwrap();
        output.file.write_all(b"half").unwrap();
        drop(output);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_finished_file_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        let mut output = Output::create(&path).unwrap();
        output.file.write_all(b"whole").unwrap();
        output.keep().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
    }
}
