//! `polynya check-catalog`: what is wrong with a catalog, step by step. Owns which catalogs are looked at, with which config and rights.
//! Refuses to know what the steps are: the relay goes through them, and the write goes through a gateway.

mod caller;
mod report;
mod write;

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use super::error::{CliError, chain};
use super::naming::TableName;
use super::{ConfigArgs, block_on, interrupted};
use crate::auth::Credentials;
use crate::auth::config::Mode;
use crate::config::Config;
use crate::config::origins::Origins;
use crate::names::{CatalogName, Namespace, RoleName};
use crate::relay::check::{self, CallersLogin, Check, Login, Subject};
use crate::relay::config::{CatalogConfig, RoleCatalog};
use caller::CallerArgs;
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
  polynya check-catalog prod --user etl --password-file /run/secrets/etl      as this caller (auth.mode polaris)
  polynya check-catalog prod --token-env MY_TOKEN                             the same by token (passthrough, too)
  polynya check-catalog                                                       all catalogs of the config

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

Where callers log in at the catalog by themselves, pass the log-in of one: its id by --user or POLYNYA_USER and its secret in \
POLYNYA_PASSWORD, a variable or a file that you name, or asked for on a terminal; or a token in POLYNYA_TOKEN, a variable or a file. All \
steps then go with that caller's rights. Where roles open catalogs (auth.mode mapped), what each role shows the catalog is looked at, or \
that of --role; readers' credentials of a role count for themselves.

Advice names the keys of the config with the file that has them. \
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

    /// A caller's log-in.
    #[command(flatten)]
    pub caller: CallerArgs,

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
    let subjects = subjects(args, &config)?;
    let mut all_well = true;
    block_on(async {
        let mut report = Report::new(args.json);
        for subject in &subjects {
            let checks = checked(args, &config, subject, &mut report).await?;
            all_well &= report.end(subject, &checks)?;
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

/// What to look at: each catalog with each log-in that it is opened by.
fn subjects(args: &CheckCatalogArgs, config: &Config) -> Result<Vec<Subject>, CliError> {
    let names = named(args, config)?;
    let caller = if args.role.is_some() { None } else { args.caller.given(config.auth.mode)? };
    let origins = Origins::of(&args.config.sources(), std::env::vars())?;
    let mut subjects = Vec::new();
    for name in &names {
        let logins = logins(args, config, name, caller.as_ref())?;
        let writers = logins.iter().filter(|login| !matches!(login, Login::Role { reads: true, .. })).count();
        if args.write && writers > 1 {
            let reason = format!("several roles open catalog `{name}`: say by --role as which the table is to be made");
            return Err(CliError::Usage(reason));
        }
        subjects.extend(logins.into_iter().filter_map(|login| subject(args, config, &origins, name, login)));
    }
    Ok(subjects)
}

/// Whose log-ins a catalog is looked at with.
fn logins(
    args: &CheckCatalogArgs,
    config: &Config,
    name: &CatalogName,
    caller: Option<&Credentials>,
) -> Result<Vec<Login>, CliError> {
    let opened_by = |role: &RoleName| config.roles.get(role)?.catalogs.get(name).map(|catalog| of_role(role, catalog));
    if let Some(role) = args.role.as_deref().map(RoleName::from) {
        return Ok(opened_by(&role).unwrap_or_default());
    }
    let mode = config.auth.mode;
    let Some(CatalogConfig::Rest(rest)) = config.catalogs.get(name) else {
        return fits(args, mode, name, vec![Login::Catalogs]);
    };
    let is_of_callers = mode.shows_callers() && config.auth.realm.as_ref().is_none_or(|realm| *realm == rest.realm());
    if is_of_callers {
        let login = match caller {
            Some(shown) => {
                let (auth, roles) = (config.auth.clone(), config.roles.clone());
                Login::Caller(Box::new(CallersLogin { auth, roles, shown: shown.clone() }))
            }
            None => Login::NoCaller { pass: caller::how_to_pass(mode) },
        };
        return Ok(vec![login]);
    }
    if !mode.shows_callers() && mode != Mode::Mapped {
        return Ok(vec![Login::Catalogs]);
    }
    let mut logins: Vec<Login> = config.roles.keys().filter_map(opened_by).flatten().collect();
    // What several roles show in common is looked at once.
    let has_own = |login: &Login| matches!(login, Login::Role { catalog, .. } if catalog.credentials.is_some());
    let for_reads = |login: &Login| matches!(login, Login::Role { reads: true, .. });
    let all = logins.len();
    logins.retain(|login| has_own(login) || for_reads(login));
    if logins.len() < all || all == 0 {
        logins.insert(0, Login::Catalogs);
    }
    fits(args, mode, name, logins)
}

/// What a role shows, and what it shows for statements that only read.
fn of_role(role: &RoleName, catalog: &RoleCatalog) -> Vec<Login> {
    let login = |reads| Login::Role { name: role.clone(), catalog: Box::new(catalog.clone()), reads };
    let readers = catalog.reader_credentials.is_some().then(|| login(true));
    std::iter::once(login(false)).chain(readers).collect()
}

/// The log-ins of a catalog that no caller logs in at, unless one was to be tried there.
fn fits(args: &CheckCatalogArgs, mode: Mode, name: &CatalogName, logins: Vec<Login>) -> Result<Vec<Login>, CliError> {
    match args.caller.first_option().filter(|_| args.name.is_some() && mode.shows_callers()) {
        Some(option) => Err(CliError::Usage(format!(
            "callers don't log in at catalog `{name}`, which is not of their realm (auth.realm): leave {option} out"
        ))),
        None => Ok(logins),
    }
}

/// Goes through the steps of one catalog; tells each as it ends.
async fn checked(
    args: &CheckCatalogArgs,
    config: &Config,
    subject: &Subject,
    report: &mut Report,
) -> Result<Vec<Check>, CliError> {
    report.begin(subject);
    let check::Outcome { mut checks, table } = {
        let mut tell = |check: &Check| report.tell(check);
        tokio::select! {
            outcome = check::run(subject, &mut tell) => outcome,
            () = interrupted() => return Err(CliError::Interrupted),
        }
    };
    if !args.write || matches!(subject.login, Login::Role { reads: true, .. }) {
        return Ok(checks);
    }
    let beside = table.map(|table| table.namespace.to_string());
    let stop = CancellationToken::new();
    let mut write = Box::pin(write::run(config, subject, args.schema.clone().or(beside), &checks, stop.clone()));
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

fn subject(args: &CheckCatalogArgs, config: &Config, origins: &Origins, name: &CatalogName, login: Login) -> Option<Subject> {
    let catalog = config.catalogs.get(name)?.clone();
    let mut relay = config.relay.clone();
    relay.read_attempts = relay.read_attempts.min(ATTEMPTS);
    relay.storage.attempts = relay.storage.attempts.min(ATTEMPTS);
    let table = args.table.as_ref().map(|table| (Namespace::from_schema(&table.schema), table.table.clone()));
    let mut places = origins.of_catalog(name);
    if let Login::Role { name: role, catalog, reads } = &login {
        let key = match (reads, &catalog.credentials) {
            (true, _) => Some("reader_credentials"),
            (false, Some(_)) => Some("credentials"),
            (false, None) => None,
        };
        places.credentials = key.map_or(places.credentials, |key| origins.of_role(role, name, key));
    }
    Some(Subject { config: relay, name: name.clone(), catalog, places, login, table })
}
