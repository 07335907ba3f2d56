//! `polynya check-catalog`: what is wrong with a catalog, step by step. Owns which catalogs are looked at, with which config and rights.
//! Refuses to know what the steps are: the relay goes through them, and the write goes through a gateway.

mod report;
mod write;

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use super::error::{CliError, chain};
use super::naming::TableName;
use super::{ConfigArgs, block_on, interrupted};
use crate::config::Config;
use crate::names::{CatalogName, Namespace, RoleName};
use crate::relay::check::{self, Check, Subject};
use crate::relay::config::RoleCatalog;
use report::Report;

/// How often what may pass is tried: a check is to say what is, and soon.
const ATTEMPTS: u32 = 2;

/// All was well.
const WELL: u8 = 0;
/// Something failed.
const FAILED: u8 = 1;
/// It could not be looked at, because of how it was asked.
const USAGE: u8 = 2;
/// Ctrl-C or SIGTERM.
const INTERRUPTED: u8 = 130;

const EXAMPLES: &str = "\
Examples:
  polynya check-catalog prod --config polynya.yaml
  polynya check-catalog prod --table gold.orders --write
  polynya check-catalog prod --role analyst --json
  polynya check-catalog                                  all catalogs of the config

Goes from the address to a file of a table, and tells each step as it ends, with what to do when it fails:
  config       what the config says can be used
  reach        the host is found, and something takes connections at the port
  tls          its certificate is one to trust
  clock        this machine's clock agrees with the catalog's
  token        the token endpoint gives a token (OAuth2)
  refresh      and another one
  warehouse    the catalog takes the token and knows the warehouse
  list         schemas and tables can be listed
  load         a table can be loaded, with the right to its data
  credentials  the catalog vends keys for the table's files, or the config has some; until when, for which store
  read         a file of the table is read, the way workers read
  write        with --write: a scratch table is made, filled with one row, read and dropped

The exit status is 0 when nothing failed, 1 when something did, 2 when the command or the config is wrong. \
No secret is ever shown.";

/// Options of `polynya check-catalog`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckCatalogArgs {
    /// The catalog, by its name in the config; all of them without it
    #[arg(value_name = "NAME")]
    pub name: Option<String>,

    /// The table to load and read; without it, any that can be loaded
    #[arg(long, value_name = "NAMESPACE.TABLE", requires = "name")]
    pub table: Option<TableName>,

    /// Make a scratch table too, and drop it again
    #[arg(long)]
    pub write: bool,

    /// Where the scratch table is made; without it, beside the table that was loaded, or in the first schema
    #[arg(long, value_name = "NAMESPACE", requires = "write")]
    pub schema: Option<String>,

    /// With the credentials of this role, in place of the catalog's own
    #[arg(long, value_name = "NAME")]
    pub role: Option<String>,

    /// One JSON object, for machines
    #[arg(long)]
    pub json: bool,

    /// Where the config comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Runs the command; says how the process ends.
#[must_use]
pub fn run(args: &CheckCatalogArgs) -> ExitCode {
    match look(args) {
        Ok(code) => ExitCode::from(code),
        Err(CliError::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::from(USAGE)
        }
    }
}

fn look(args: &CheckCatalogArgs) -> Result<u8, CliError> {
    let (_, config) = args.config.load()?;
    let names = named(args, &config)?;
    let mut all_well = true;
    block_on(async {
        let mut report = Report::new(args.json);
        for name in names {
            let checks = checked(args, &config, &name, &mut report).await?;
            all_well &= report.end(&name, checks)?;
        }
        report.finish(args.name.is_some())
    })?;
    Ok(if all_well { WELL } else { FAILED })
}

/// The catalogs to look at.
fn named(args: &CheckCatalogArgs, config: &Config) -> Result<Vec<CatalogName>, CliError> {
    let role = args.role.as_deref().map(RoleName::from);
    let of_role = match &role {
        None => None,
        Some(role) => Some(config.roles.get(role).ok_or_else(|| {
            let known: Vec<&str> = config.roles.keys().map(RoleName::as_str).collect();
            let known =
                if known.is_empty() { "the config has none".to_owned() } else { format!("there are: {}", known.join(", ")) };
            CliError::Usage(format!("there is no role `{role}`; {known}"))
        })?),
    };
    let opens = |name: &CatalogName| of_role.is_none_or(|role| role.catalogs.contains_key(name));
    let Some(name) = args.name.as_deref().map(CatalogName::from) else {
        return Ok(config.catalogs.keys().filter(|name| opens(name)).cloned().collect());
    };
    if !config.catalogs.contains_key(&name) {
        let known: Vec<&str> = config.catalogs.keys().map(CatalogName::as_str).collect();
        return Err(CliError::Usage(format!("there is no catalog `{name}`; there are: {}", known.join(", "))));
    }
    if !opens(&name) {
        return Err(CliError::Usage(format!(
            "role `{}` does not open catalog `{name}`",
            args.role.as_deref().unwrap_or_default()
        )));
    }
    if let Some(other) =
        args.table.as_ref().and_then(|table| table.catalog.as_deref()).filter(|catalog| *catalog != name.as_str())
    {
        return Err(CliError::Usage(format!(
            "--table names catalog `{other}`, and `{name}` is looked at; leave the catalog out"
        )));
    }
    Ok(vec![name])
}

/// Goes through the steps of one catalog; tells each as it ends.
async fn checked(
    args: &CheckCatalogArgs,
    config: &Config,
    name: &CatalogName,
    report: &mut Report,
) -> Result<Vec<Check>, CliError> {
    let Some(subject) = subject(args, config, name) else { return Ok(Vec::new()) };
    report.begin(name);
    let check::Outcome { mut checks, table } = {
        let mut tell = |check: &Check| report.tell(check);
        tokio::select! {
            outcome = check::run(&subject, &mut tell) => outcome,
            () = interrupted() => return Err(CliError::Interrupted),
        }
    };
    if !args.write {
        return Ok(checks);
    }
    let beside = table.map(|table| table.namespace.to_string());
    let stop = CancellationToken::new();
    let mut write = Box::pin(write::run(config, &subject, args.schema.clone().or(beside), &checks, stop.clone()));
    let check = tokio::select! {
        check = &mut write => check,
        // What was made is dropped first.
        () = interrupted() => {
            stop.cancel();
            (&mut write).await
        }
    };
    drop(write);
    report.tell(&check);
    checks.push(check);
    if stop.is_cancelled() { Err(CliError::Interrupted) } else { Ok(checks) }
}

fn subject(args: &CheckCatalogArgs, config: &Config, name: &CatalogName) -> Option<Subject> {
    let catalog = config.catalogs.get(name)?.clone();
    let mut relay = config.relay.clone();
    relay.read_attempts = relay.read_attempts.min(ATTEMPTS);
    relay.storage.attempts = relay.storage.attempts.min(ATTEMPTS);
    let role = args.role.as_deref().map(RoleName::from);
    let of_role = |role: &RoleName| -> Option<RoleCatalog> { config.roles.get(role)?.catalogs.get(name).cloned() };
    let role = role.and_then(|role| of_role(&role).map(|catalog| (role, catalog)));
    let table = args.table.as_ref().map(|table| (Namespace::from_schema(&table.schema), table.table.clone()));
    let callers_log_in = config.auth.mode.shows_callers() && role.is_none();
    Some(Subject { config: relay, name: name.clone(), catalog, role, callers_log_in, table })
}
