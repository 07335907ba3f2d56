//! Owns how steps are shown: a line for each as it ends, or one JSON object at the end. Refuses to know what was found.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::super::error::CliError;
use crate::names::CatalogName;
use crate::relay::check::{Check, Status, Subject};

/// Before what to do, below the line that it is about.
const ADVICE: &str = "                            -> ";

/// What is shown on standard output.
pub(super) struct Report {
    json: bool,
    /// Of catalogs that were looked at.
    ended: Vec<Value>,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self { json, ended: Vec::new() }
    }

    pub(super) fn begin(&self, subject: &Subject) {
        if !self.json {
            say(&title(&subject.name, subject.login.who().as_deref()));
        }
    }

    /// A step that has ended.
    pub(super) fn tell(&self, check: &Check) {
        if !self.json {
            say(&line(check));
        }
    }

    /// All steps of a catalog have ended, with one log-in; whether none has failed.
    ///
    /// # Errors
    /// When a check is no JSON, which it always is.
    pub(super) fn end(&mut self, subject: &Subject, checks: &[Check]) -> Result<bool, CliError> {
        let (catalog, login) = (&subject.name, subject.login.who());
        let of = |status| {
            let names = checks.iter().filter(|check| check.status == status).map(|check| check.name.as_str());
            names.collect::<Vec<_>>().join(", ")
        };
        let (failed, warned) = (of(Status::Failed), of(Status::Warning));
        let ok = failed.is_empty();
        if !self.json {
            let verdict = match (ok, warned.is_empty()) {
                (true, true) => "all is well".to_owned(),
                (true, false) => format!("nothing failed; to be looked at: {warned}"),
                (false, _) => format!("failed: {failed}"),
            };
            say(&format!("{}: {verdict}", title(catalog, login.as_deref())));
        }
        let checks = serde_json::to_value(checks).map_err(io::Error::other).map_err(CliError::io("write the result"))?;
        self.ended.push(json!({ "catalog": catalog.as_str(), "login": login, "ok": ok, "checks": checks }));
        Ok(ok)
    }

    /// Prints what is printed at the end: the one catalog that was named, if it was looked at with one log-in, or all that there is.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(super) fn finish(self, one: bool) -> Result<(), CliError> {
        if !self.json {
            return Ok(());
        }
        let ok = self.ended.iter().all(|catalog| catalog["ok"] == true);
        let all = || json!({ "ok": ok, "catalogs": self.ended });
        let object = self.ended.first().filter(|_| one && self.ended.len() == 1).cloned().unwrap_or_else(all);
        let mut out = io::stdout();
        writeln!(out, "{object}").and_then(|()| out.flush()).map_err(CliError::io("write the result"))
    }
}

fn title(catalog: &CatalogName, login: Option<&str>) -> String {
    login.map_or_else(|| format!("catalog {catalog}"), |login| format!("catalog {catalog}, {login}"))
}

/// Whoever reads it may have gone; the exit status still says how it ended.
fn say(text: &str) {
    let mut out = io::stdout();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn line(check: &Check) -> String {
    let status = match check.status {
        Status::Ok => "ok",
        Status::Failed => "FAILED",
        Status::Warning => "warning",
        Status::Skipped => "-",
    };
    let took = if check.status == Status::Skipped { String::new() } else { format!("{} ms", check.millis) };
    let mut line = format!("  {status:<7}  {:<11} {took:>8}  {}", check.name.as_str(), check.detail);
    if let Some(advice) = &check.advice {
        line.push('\n');
        line.push_str(ADVICE);
        line.push_str(advice);
    }
    line
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::relay::check::{Fault, Found, Login, Places, Step};
    use crate::relay::config::{CatalogConfig, Config};

    fn subject(name: &str, login: Login) -> Subject {
        let catalog = CatalogConfig::Embedded { path: "/".into() };
        let places = Places::of_one_piece(&name.into());
        Subject { config: Config::default(), name: name.into(), catalog, places, login, table: None }
    }

    fn failed() -> Check {
        subject("prod", Login::Catalogs)
            .failed(Fault::WrongPort, "nothing listens at a:1")
            .after(Step::Reach, Duration::from_millis(12))
    }

    #[test]
    fn a_failed_step_is_followed_by_what_to_do() {
        let text = line(&failed());
        assert!(text.starts_with("  FAILED   reach          12 ms  nothing listens at a:1\n"), "{text}");
        assert!(text.contains("-> look at the port in catalogs.prod.uri"), "{text}");
        let skipped = line(&Found::skipped("not tried: reach failed").after(Step::Tls, Duration::ZERO));
        assert_eq!(skipped, "  -        tls                   not tried: reach failed");
    }

    #[test]
    fn machines_read_stable_keys() {
        let mut report = Report::new(true);
        let role = Login::Role { name: "analyst".into(), catalog: Box::default(), reads: true };
        assert!(!report.end(&subject("prod", role), &[failed()]).unwrap());
        let fine = Found::ok("fine").after(Step::Reach, Duration::ZERO);
        assert!(report.end(&subject("dev", Login::Catalogs), &[fine]).unwrap());
        let check = &report.ended[0]["checks"][0];
        let keys: Vec<&str> = check.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["advice", "detail", "fault", "millis", "name", "status"]);
        assert_eq!(
            (&check["name"], &check["status"], &check["fault"]),
            (&json!("reach"), &json!("failed"), &json!("wrong_port"))
        );
        assert_eq!(
            report.ended.iter().map(|ended| &ended["login"]).collect::<Vec<_>>(),
            [&json!("role analyst, to read only"), &Value::Null]
        );
        assert_eq!((&report.ended[0]["catalog"], &report.ended[0]["ok"]), (&json!("prod"), &json!(false)));
    }
}
