//! What is wrong with a catalog: steps in order, from its address to a file of a table, each with what was found and what to do about it.
//!
//! This file owns what a step is and how steps are told. It refuses to print, to change anything in a catalog, and to show a secret: what
//! is told was scrubbed where it came in.

mod caller;
mod catalog;
mod clock;
mod embedded;
mod faults;
mod files;
mod login;
mod places;
mod reach;
pub mod ready;
mod rest;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Relay;
use super::config::{CatalogConfig, Config, RoleCatalog, RoleConfig};
use super::error::RelayError;
use crate::auth::credential::{Credential, Wallet};
use crate::names::{CatalogName, Namespace, RoleName, TableRef};

pub use self::caller::CallersLogin;
pub use self::faults::Fault;
pub use self::places::{Places, StorePlace};

/// A step. Those of one catalog come in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// What the config says can be used.
    Config,
    /// The name is found, and something takes connections there; for an embedded catalog, its directory.
    Reach,
    /// The certificate is one to trust.
    Tls,
    /// The clocks agree.
    Clock,
    /// A token can be had.
    Token,
    /// Another one can be had.
    Refresh,
    /// The catalog takes the token and knows the warehouse.
    Warehouse,
    /// Namespaces and tables can be listed.
    List,
    /// A table can be loaded.
    Load,
    /// There is something to show the store.
    Credentials,
    /// A file of the table can be read.
    Read,
    /// A table can be made, filled, read and dropped.
    Write,
}

impl Step {
    /// As it is shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Reach => "reach",
            Self::Tls => "tls",
            Self::Clock => "clock",
            Self::Token => "token",
            Self::Refresh => "refresh",
            Self::Warehouse => "warehouse",
            Self::List => "list",
            Self::Load => "load",
            Self::Credentials => "credentials",
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// All is well.
    Ok,
    /// It does not work.
    Failed,
    /// It works, but should be known.
    Warning,
    /// There was nothing to try, or it could not be tried.
    Skipped,
}

/// A step that has ended.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Which step.
    pub name: Step,
    /// How it ended.
    pub status: Status,
    /// How long it took.
    pub millis: u64,
    /// What was found.
    pub detail: String,
    /// What to do.
    pub advice: Option<String>,
    /// What is at fault, for machines.
    pub fault: Option<Fault>,
}

/// What a step has found.
#[derive(Debug)]
pub struct Found {
    status: Status,
    detail: String,
    advice: Option<String>,
    fault: Option<Fault>,
}

impl Found {
    /// All is well.
    pub fn ok(detail: impl Into<String>) -> Self {
        Self { status: Status::Ok, detail: detail.into(), advice: None, fault: None }
    }

    /// It works, but something should be known.
    pub fn warning(detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { status: Status::Warning, detail: detail.into(), advice: Some(advice.into()), fault: None }
    }

    /// It does not work.
    pub fn failed(fault: Fault, advice: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { status: Status::Failed, detail: detail.into(), advice: Some(advice.into()), fault: Some(fault) }
    }

    /// There was nothing to try.
    pub fn skipped(detail: impl Into<String>) -> Self {
        Self { status: Status::Skipped, detail: detail.into(), advice: None, fault: None }
    }

    fn has_failed(&self) -> bool {
        self.status == Status::Failed
    }

    /// As a step that took so long.
    #[must_use]
    pub fn after(self, name: Step, took: Duration) -> Check {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let Self { status, detail, advice, fault } = self;
        Check { name, status, millis, detail, advice, fault }
    }
}

/// What is to be looked at.
#[derive(Clone, Debug)]
pub struct Subject {
    /// How the relay is set up.
    pub config: Config,
    /// The catalog's name.
    pub name: CatalogName,
    /// What the config says of it.
    pub catalog: CatalogConfig,
    /// Where it says so.
    pub places: Places,
    /// Whose log-in it is shown.
    pub login: Login,
    /// The table to load; any without it.
    pub table: Option<(Namespace, String)>,
}

/// Whose log-in a catalog is shown.
#[derive(Clone, Debug)]
pub enum Login {
    /// That of its own section.
    Catalogs,
    /// A role's.
    Role {
        /// Which role.
        name: RoleName,
        /// What it shows this catalog.
        catalog: Box<RoleCatalog>,
        /// As for statements that only read.
        reads: bool,
    },
    /// A caller's own.
    Caller(Box<CallersLogin>),
    /// Callers log in by themselves, and no log-in of one is at hand.
    NoCaller {
        /// How one is given.
        pass: &'static str,
    },
}

impl Login {
    /// As a report names it; `None` for that of the catalog's own section.
    #[must_use]
    pub fn who(&self) -> Option<String> {
        match self {
            Self::Catalogs | Self::NoCaller { .. } => None,
            Self::Role { name, reads: false, .. } => Some(format!("role {name}")),
            Self::Role { name, reads: true, .. } => Some(format!("role {name}, to read only")),
            Self::Caller(login) => Some(login.who()),
        }
    }
}

impl Subject {
    /// A relay of this catalog alone: what is wrong with others is theirs.
    async fn relay(&self) -> Result<std::sync::Arc<Relay>, RelayError> {
        let catalogs = BTreeMap::from([(self.name.clone(), self.catalog.clone())]);
        Relay::bind(self.config.clone(), catalogs, self.roles()).await
    }

    /// The roles that there are for this catalog, and nothing else that they open.
    #[must_use]
    pub fn roles(&self) -> BTreeMap<RoleName, RoleConfig> {
        let alone = |catalog: &RoleCatalog| RoleConfig {
            catalogs: BTreeMap::from([(self.name.clone(), catalog.clone())]),
            ..RoleConfig::default()
        };
        match &self.login {
            Login::Catalogs | Login::NoCaller { .. } => BTreeMap::new(),
            Login::Role { name, catalog, .. } => BTreeMap::from([(name.clone(), alone(catalog))]),
            Login::Caller(login) => {
                let opened = login.roles.iter().filter_map(|(name, role)| Some((name, role.catalogs.get(&self.name)?)));
                opened.map(|(name, catalog)| (name.clone(), alone(catalog))).collect()
            }
        }
    }

    /// What the catalog is shown by the config.
    fn credential(&self) -> Credential {
        match &self.login {
            Login::Role { name, reads: false, .. } => Wallet::default().role(name),
            Login::Role { name, reads: true, .. } => Wallet::default().role(name).for_reads(),
            Login::Catalogs | Login::NoCaller { .. } | Login::Caller(_) => Credential::service(),
        }
    }

    /// It does not work, with what to do about it here.
    #[must_use]
    pub fn failed(&self, fault: Fault, detail: impl Into<String>) -> Found {
        self.failed_at(fault, None, detail)
    }

    /// The same with a file, or a table's files, of this location.
    fn failed_at(&self, fault: Fault, location: Option<&str>, detail: impl Into<String>) -> Found {
        Found::failed(fault, fault.advice(self, location), detail)
    }
}

/// What all steps came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The steps, in order.
    pub checks: Vec<Check>,
    /// The table that was loaded.
    pub table: Option<TableRef>,
}

/// Goes through the steps; tells each as it ends.
pub async fn run(subject: &Subject, tell: &mut (dyn FnMut(&Check) + Send)) -> Outcome {
    let mut record = Record { tell, checks: Vec::new(), table: None };
    match &subject.catalog {
        CatalogConfig::Embedded { path } => embedded::run(subject, path, &mut record).await,
        CatalogConfig::Rest(rest) => rest::run(subject, rest, &mut record).await,
    }
    Outcome { checks: record.checks, table: record.table }
}

/// Takes down the steps as they end.
struct Record<'a> {
    tell: &'a mut (dyn FnMut(&Check) + Send),
    checks: Vec<Check>,
    table: Option<TableRef>,
}

impl Record<'_> {
    /// Whether what follows can be tried.
    fn note(&mut self, step: Step, began: Instant, found: Found) -> bool {
        let goes_on = !found.has_failed();
        let check = found.after(step, began.elapsed());
        (self.tell)(&check);
        self.checks.push(check);
        goes_on
    }

    /// Says of these steps why they were not tried.
    fn not_tried(&mut self, steps: &[Step]) {
        let failed = self.checks.iter().rfind(|check| check.status == Status::Failed);
        let why = failed.map_or_else(String::new, |failed| format!(": {} failed", failed.name.as_str()));
        for step in steps {
            self.note(*step, Instant::now(), Found::skipped(format!("not tried{why}")));
        }
    }
}
