//! Owns what goes wrong on purpose: which requests, how often, before or after they were carried out, and in which way. Refuses to
//! know what the requests do.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// What a request is, for faults and for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    Token,
    Config,
    ListNamespaces,
    CreateNamespace,
    LoadNamespace,
    NamespaceExists,
    UpdateNamespace,
    DropNamespace,
    ListTables,
    CreateTable,
    RegisterTable,
    LoadTable,
    TableExists,
    LoadCredentials,
    CommitTable,
    CommitTransaction,
    RenameTable,
    DropTable,
    ListViews,
    ReportMetrics,
    /// No endpoint of a Polaris.
    Unknown,
}

impl Operation {
    /// What commits.
    pub const COMMITS: [Self; 2] = [Self::CommitTable, Self::CommitTransaction];
}

/// In which way a request goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The answer comes so many milliseconds late.
    DelayMs(u64),
    /// No answer comes before the faults are cleared.
    Hang,
    /// This status instead of the answer, with the body that a Polaris or a proxy before it gives.
    Status(u16),
    /// The connection is closed without an answer.
    Close,
    /// The answer ends in the middle of its body, and the connection with it.
    Cut,
    /// A token is refused as one that has expired; at the token endpoint, the token that is given has expired already.
    ExpiredToken,
    /// The answer's date is so many seconds off, as of a machine whose clock is.
    ClockOffS(i64),
}

/// When a request goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// Nothing is carried out.
    #[default]
    Before,
    /// It is carried out, and then not answered as it should be.
    After,
}

/// Which requests go wrong, and how. What is left out fits every request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub fault: Fault,
    #[serde(default)]
    pub moment: Moment,
    #[serde(default)]
    pub operations: BTreeSet<Operation>,
    #[serde(default)]
    pub realm: Option<String>,
    #[serde(default)]
    pub principal: Option<String>,
    #[serde(default)]
    pub warehouse: Option<String>,
    /// A namespace, or `namespace.table`, as in [`Call::target`](super::log::Call::target).
    #[serde(default)]
    pub target: Option<String>,
    /// So many requests that fit are spared first.
    #[serde(default)]
    pub skip: u32,
    /// How many requests it strikes; until it is cleared when it is left out.
    #[serde(default)]
    pub times: Option<u32>,
}

impl Rule {
    /// This fault for every request, before it is carried out, until it is cleared.
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            moment: Moment::Before,
            operations: BTreeSet::new(),
            realm: None,
            principal: None,
            warehouse: None,
            target: None,
            skip: 0,
            times: None,
        }
    }

    /// Only at these operations.
    pub fn on(mut self, operations: impl IntoIterator<Item = Operation>) -> Self {
        self.operations.extend(operations);
        self
    }

    /// Only for this principal.
    pub fn by(mut self, principal: &str) -> Self {
        self.principal = Some(principal.to_owned());
        self
    }

    /// Only in this warehouse.
    pub fn within(mut self, warehouse: &str) -> Self {
        self.warehouse = Some(warehouse.to_owned());
        self
    }

    /// Only at this namespace or table.
    pub fn at(mut self, target: &str) -> Self {
        self.target = Some(target.to_owned());
        self
    }

    /// Once the request has been carried out.
    pub fn after(mut self) -> Self {
        self.moment = Moment::After;
        self
    }

    /// Only the next so many that fit.
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Not the next so many that fit.
    pub fn skip(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }
}

/// What rules look at.
pub struct Subject<'a> {
    pub operation: Operation,
    pub realm: &'a str,
    pub principal: Option<&'a str>,
    pub warehouse: Option<&'a str>,
    pub target: Option<&'a str>,
}

impl Rule {
    fn fits(&self, subject: &Subject<'_>) -> bool {
        let same = |wanted: &Option<String>, given: Option<&str>| wanted.is_none() || wanted.as_deref() == given;
        (self.operations.is_empty() || self.operations.contains(&subject.operation))
            && same(&self.realm, Some(subject.realm))
            && same(&self.principal, subject.principal)
            && same(&self.warehouse, subject.warehouse)
            && same(&self.target, subject.target)
    }
}

/// The rules in force.
pub struct Faults {
    rules: Mutex<Vec<Rule>>,
    /// Counts how often all were cleared.
    cleared: watch::Sender<u64>,
}

impl Faults {
    pub fn new() -> Self {
        Self { rules: Mutex::default(), cleared: watch::Sender::new(0) }
    }

    /// Adds a rule. Of those that fit a request, the oldest strikes, but delays add up and go before anything else.
    pub fn add(&self, rule: Rule) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).push(rule);
    }

    /// Ends all rules, and lets go of what hangs.
    pub fn clear(&self) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.cleared.send_modify(|times| *times += 1);
    }

    /// Rules that still strike.
    pub fn left(&self) -> Vec<Rule> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What strikes this request: at most one fault that is more than a delay. Counts it.
    pub fn strike(&self, subject: &Subject<'_>) -> Vec<(Moment, Fault)> {
        let mut struck: Vec<(Moment, Fault)> = Vec::new();
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        for rule in rules.iter_mut().filter(|rule| rule.fits(subject)) {
            let delays = matches!(rule.fault, Fault::DelayMs(_));
            if !delays && struck.iter().any(|(_, fault)| !matches!(fault, Fault::DelayMs(_))) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            if let Some(times) = &mut rule.times {
                *times = times.saturating_sub(1);
            }
            let place = if delays { 0 } else { struck.len() };
            struck.insert(place, (rule.moment, rule.fault.clone()));
        }
        rules.retain(|rule| rule.times != Some(0));
        struck
    }

    /// Waits as a fault says that makes one wait.
    pub async fn wait(&self, fault: &Fault) {
        match fault {
            Fault::DelayMs(ms) => tokio::time::sleep(Duration::from_millis(*ms)).await,
            Fault::Hang => {
                // The sender lives as long as `self`, so it ends by a clearing only.
                let _ = self.cleared.subscribe().changed().await;
            }
            Fault::Status(_) | Fault::Close | Fault::Cut | Fault::ExpiredToken | Fault::ClockOffS(_) => {}
        }
    }
}
