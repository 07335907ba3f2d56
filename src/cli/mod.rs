//! The command line: commands, their options, and how a process ends. Owns nothing of the gateway; it builds one only through
//! `gateway`. Refuses options that the config could not say too.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

mod check_catalog;
mod check_config;
mod check_ready;
pub mod client;
pub mod connect;
pub mod demo;
pub mod error;
pub mod load;
pub mod local;
pub mod naming;
mod password;
pub mod progress;
pub mod query;
mod serve;

use crate::config::{self, Config, ConfigError, Sources};
use error::CliError;

/// A blocked thread (a terminal that asks, a file system that hangs) must not keep a finished command.
const SHUTDOWN: Duration = Duration::from_secs(2);

// A test holds the DuckDB version against `extensions::DUCKDB_VERSION`; concat! takes literals only.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\nDuckDB 1.5.5\nlicence ", env!("CARGO_PKG_LICENSE"));

const EXAMPLES: &str = "\
Examples:
  polynya demo                               everything once, with TPC-H data, in a minute
  polynya serve --config polynya.yaml        a gateway
  polynya query 'SHOW TABLES'                ask it
  polynya load sales.parquet --table lake.bronze.sales --create-schema
  polynya check-catalog lake                 what is wrong with a catalog, step by step

`polynya COMMAND --help` has examples for each command.";

const SERVE_EXAMPLES: &str = "\
Examples:
  polynya serve
  polynya serve --config /etc/polynya.yaml
  polynya serve --config project.yaml --config platform-prod.yaml
  polynya serve --config polynya.yaml --listen 0.0.0.0:32010 --set pool.max_workers=4
  polynya serve --set flight.tls.cert_file=tls.crt --set flight.tls.key_file=tls.key

Without --config the built-in defaults hold; of several files, a later one counts over an earlier one. SIGTERM drains: running statements may end, new ones are refused.";

const CHECK_EXAMPLES: &str = "\
Examples:
  polynya check-config --config polynya.yaml
  polynya check-config --config project.yaml --config platform-prod.yaml
  polynya check-config --set flight.listen=0.0.0.0:32010

Prints the config as it would be used: defaults, environment and options are put in, catalogs are whole with what their endpoints and \
layers say, and secrets are left out. \
An unknown key is an error that names the nearest known one.";

/// An Arrow Flight SQL gateway to Iceberg lakehouses.
#[derive(Debug, Parser)]
#[command(name = "polynya", version = VERSION, after_help = EXAMPLES, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a gateway
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ConfigArgs),
    /// Run a statement on a gateway
    Query(Box<query::QueryArgs>),
    /// Bring a file into a table through a gateway
    Load(Box<load::LoadArgs>),
    /// Show everything once: a gateway, TPC-H data, gold tables, queries
    Demo(demo::DemoArgs),
    /// Check a config, and print what it comes to
    #[command(after_help = CHECK_EXAMPLES)]
    CheckConfig(ConfigArgs),
    /// Find out what is wrong with a catalog, from its address to a file of a table
    CheckCatalog(Box<check_catalog::CheckCatalogArgs>),
    /// Ask a gateway whether it can work, for probes
    CheckReady(Box<check_ready::CheckReadyArgs>),
    /// Turn a password into the form that the config holds
    HashPassword(password::HashPasswordArgs),
    /// A worker process, started by the gateway
    #[command(hide = true)]
    Worker,
}

/// Where a gateway's config comes from, for each command that builds one.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Config")]
pub struct ConfigArgs {
    /// Config file (YAML); what it does not say has its default. May be repeated: later ones count over earlier ones
    #[arg(long, value_name = "FILE")]
    pub config: Vec<PathBuf>,

    /// Set one key, by its dotted path, above the files; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_setting)]
    pub settings: Vec<Setting>,

    /// Address to listen at for Flight SQL; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
}

impl ConfigArgs {
    /// The layers over the defaults, `--listen` last.
    #[must_use]
    pub fn sources(&self) -> Sources {
        let mut set: Vec<(String, String)> = self.settings.iter().map(|s| (s.key.clone(), s.value.clone())).collect();
        set.extend(self.listen.map(|address| ("flight.listen".to_owned(), address.to_string())));
        Sources { files: self.config.clone(), set }
    }

    /// The config that they come to, as a tree and as values.
    ///
    /// # Errors
    /// When it is wrong.
    pub fn load(&self) -> Result<(serde_json::Value, Config), ConfigError> {
        let tree = config::merged(&self.sources(), std::env::vars())?;
        Ok((tree.clone(), config::load(tree)?))
    }
}

/// One `--set`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Dotted path of the key.
    pub key: String,
    /// The value as YAML.
    pub value: String,
}

fn parse_setting(text: &str) -> Result<Setting, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok(Setting { key: key.trim().to_owned(), value: value.to_owned() }),
        _ => Err("want KEY=VALUE, as in pool.max_workers=4".into()),
    }
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        // A worker has no async runtime, so it must not come through `block_on`.
        Command::Worker => return crate::worker::run(),
        Command::Serve(args) => serve::run(&args),
        Command::CheckConfig(args) => check_config::run(&args),
        Command::CheckCatalog(args) => return check_catalog::run(&args),
        Command::CheckReady(args) => block_on(unless_interrupted(async move { check_ready::run(&args).await })),
        Command::HashPassword(_) => password::run(),
        Command::Query(args) => block_on(unless_interrupted(async move { query::run(&args).await })),
        Command::Load(args) => block_on(unless_interrupted(async move { load::run(&args).await })),
        Command::Demo(args) => block_on(async move { demo::run(&args).await }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

fn block_on(work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(CliError::io("start threads"))?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(SHUTDOWN);
    result
}

/// Drops the work at Ctrl-C or SIGTERM, so that its worker, files and calls end in order.
async fn unless_interrupted(work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    tokio::select! {
        result = work => result,
        () = interrupted() => Err(CliError::Interrupted),
    }
}

/// Ready at Ctrl-C or SIGTERM.
pub async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::client::IngestMode;
    use crate::cli::query::formats::Format;

    fn parse(arguments: &[&str]) -> Command {
        Cli::try_parse_from([&["polynya"], arguments].concat()).unwrap().command
    }

    fn refusal(arguments: &[&str]) -> String {
        Cli::try_parse_from([&["polynya"], arguments].concat()).unwrap_err().to_string()
    }

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_version_shows_duckdb_and_the_licence() {
        let text = Cli::command().render_version();
        assert!(text.contains(crate::extensions::DUCKDB_VERSION) && text.contains("Apache-2.0"), "{text}");
    }

    #[test]
    fn every_shown_command_has_examples() {
        let mut cli = Cli::command();
        cli.build();
        for command in cli.get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Examples:"), "{}", command.get_name());
        }
    }

    #[test]
    fn settings_are_repeated_and_keep_their_order() {
        let Command::Serve(args) = parse(&["serve", "--set", "a.b=1", "--set", "c=x=y", "--listen", "127.0.0.1:0"]) else {
            panic!()
        };
        let settings: Vec<_> = args.settings.iter().map(|s| (s.key.as_str(), s.value.as_str())).collect();
        assert_eq!(settings, [("a.b", "1"), ("c", "x=y")]);
        assert!(refusal(&["serve", "--set", "novalue"]).contains("KEY=VALUE"));
    }

    #[test]
    fn query_takes_a_text_or_a_file_and_not_both() {
        let Command::Query(args) = parse(&["query", "SELECT 1", "--format", "json", "--limit-width"]) else { panic!() };
        assert_eq!((args.sql.as_deref(), args.format, args.limit_width), (Some("SELECT 1"), Some(Format::Json), Some(0)));
        assert!(matches!(parse(&["query", "-f", "a.sql"]), Command::Query(_)));
        assert!(refusal(&["query"]).contains("required"));
        assert!(refusal(&["query", "SELECT 1", "-f", "a.sql"]).contains("cannot be used with"));
    }

    #[test]
    fn load_reads_its_table_mode_and_casts() {
        let line = ["load", "a.csv", "--table", "lake.b.t", "--mode", "create-append", "--column", "x:INT", "--column", "y:TEXT"];
        let Command::Load(args) = parse(&line) else { panic!() };
        assert_eq!((args.table.to_string().as_str(), args.mode, args.columns.len()), ("lake.b.t", IngestMode::CreateAppend, 2));
        assert!(refusal(&["load", "a.csv", "--table", "t"]).contains("NAMESPACE.TABLE"));
        assert!(refusal(&["load", "a.csv", "--table", "b.t", "--column", "x:USMALLINT"]).contains("INTEGER"));
    }

    #[test]
    fn an_address_that_is_none_is_refused_with_what_would_be_one() {
        assert!(refusal(&["query", "SELECT 1", "--uri", "localhost:32010"]).contains("grpc://HOST:PORT"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let Command::Query(args) = parse(&["query", "SELECT 1", "--token", "s3cret"]) else { panic!() };
        assert!(!format!("{args:?}").contains("s3cret"));
    }
}
