//! Owns the step that writes: a scratch table through a gateway of the same make as `polynya serve` runs, in this process and for this
//! catalog alone, so that it goes all the way of a user's statement. Refuses to leave the table behind, and to let anybody else in who has not a
//! log-in of the catalog's own.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use argon2::Argon2;
use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHasher, SaltString};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::super::client::{Client, ClientError, Credentials, Outcome};
use super::super::connect::{GatewayUri, Target};
use super::super::error::chain;
use super::super::naming::quote_name;
use crate::auth;
use crate::auth::config::{MappingConfig, Mode, User};
use crate::config::Config;
use crate::gateway::{self, Running};
use crate::relay::check::{Check, Fault, Found, Login, Status, Step, Subject};
use crate::relay::config::CatalogConfig;
use crate::secret::SecretRef;

/// Who is let in, by a password that nobody else knows.
const USER: &str = "check-catalog";

/// Steps without which nothing can be written either.
const NEEDED: [Step; 5] = [Step::Config, Step::Reach, Step::Tls, Step::Token, Step::Warehouse];

/// Writes; what came before says whether it is worth trying.
pub(super) async fn run(
    config: &Config,
    subject: &Subject,
    schema: Option<String>,
    before: &[Check],
    stop: CancellationToken,
) -> Check {
    let began = Instant::now();
    let failed = before.iter().find(|check| check.status == Status::Failed && NEEDED.contains(&check.name));
    let is_there = match &subject.catalog {
        CatalogConfig::Embedded { path } => path.exists(),
        CatalogConfig::Rest(_) => true,
    };
    let found = match (failed, &subject.login) {
        (Some(failed), _) => Found::skipped(format!("not tried: {} failed", failed.name.as_str())),
        (None, Login::NoCaller { pass }) => Found::skipped(format!("not tried: it takes a caller's log-in: {pass}")),
        (None, _) if !is_there => Found::skipped("not tried: there is nothing in it yet"),
        (None, _) => written(config, subject, schema, &stop).await,
    };
    found.after(Step::Write, began.elapsed())
}

async fn written(config: &Config, subject: &Subject, schema: Option<String>, stop: &CancellationToken) -> Found {
    let broken = |what: &str| subject.failed(Fault::Gateway, format!("no gateway to write with: {what}"));
    let password = uuid::Uuid::new_v4().to_string();
    let config = match private(config, subject, &password) {
        Ok(config) => config,
        Err(reason) => return broken(&reason),
    };
    let running = match gateway::start(config, CancellationToken::new()).await {
        Ok(running) => running,
        Err(error) => return broken(&chain(&error)),
    };
    let found = match client(&running, shown(subject, password)).await {
        Ok(client) => Scratch { client, subject }.live(schema, stop).await,
        Err(error) => broken(&chain(&error)),
    };
    running.finish().await;
    found
}

/// The config with this catalog alone, on a port of this machine that only we can log in at, or who could log in at the catalog itself.
fn private(config: &Config, subject: &Subject, password: &str) -> Result<Config, String> {
    let salt = SaltString::generate(&mut OsRng);
    let hash = Argon2::default().hash_password(password.as_bytes(), &salt).map_err(|error| error.to_string())?;
    let mut config = config.clone();
    config.flight.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.flight.tls = None;
    config.session.closed_file = None;
    config.pool.spares = 0;
    config.catalogs.retain(|name, _| *name == subject.name);
    config.default_catalog = subject.name.clone();
    config.roles = subject.roles();
    if let Login::Caller(_) = subject.login {
        return Ok(config);
    }
    config.auth = auth::config::Config {
        mode: Mode::Users,
        users: vec![User { name: USER.to_owned(), password_hash: SecretRef::Text(hash.to_string().into()) }],
        ..Default::default()
    };
    if let Login::Role { name, .. } = &subject.login {
        let anybody = MappingConfig {
            user: None,
            claim: None,
            value: None,
            issuer: None,
            certificate: None,
            any: true,
            role: name.clone(),
        };
        config.auth.mode = Mode::Mapped;
        config.auth.mappings = vec![anybody];
    }
    Ok(config)
}

/// What the gateway is shown: a caller's own log-in, or the password.
fn shown(subject: &Subject, password: String) -> Credentials {
    let Login::Caller(login) = &subject.login else {
        return Credentials::Password { user: USER.to_owned(), password: password.into() };
    };
    match login.shown.clone() {
        auth::Credentials::Basic { user, password } => Credentials::Password { user, password },
        auth::Credentials::Bearer(token) => Credentials::Token(token),
    }
}

async fn client(running: &Running, shown: Credentials) -> Result<Client, ClientError> {
    let uri = GatewayUri { tls: false, host: url::Host::Ipv4(Ipv4Addr::LOCALHOST), port: running.flight_addr.port() };
    Client::connect(&Target::at(uri), &shown).await
}

/// A table's short life.
struct Scratch<'a> {
    client: Client,
    subject: &'a Subject,
}

impl Scratch<'_> {
    async fn live(mut self, schema: Option<String>, stop: &CancellationToken) -> Found {
        let schema = match schema {
            Some(schema) => schema,
            None => match self.first_schema().await {
                Ok(Some(schema)) => schema,
                Ok(None) => return Found::skipped("there is no schema to make a table in; name one with --schema"),
                Err(error) => return self.failed("a schema cannot be looked for", &error),
            },
        };
        let name = format!("polynya_check_{}", uuid::Uuid::new_v4().simple());
        let table = [self.subject.name.as_str(), &schema, &name].map(quote_name).join(".");
        let shown = format!("{}.{schema}.{name}", self.subject.name);
        let outcome = tokio::select! {
            outcome = self.fill(&table) => outcome,
            () = stop.cancelled() => Err(("interrupted at", None)),
        };
        // Also after a step that failed: what its outcome was may be unknown.
        let dropped = self.client.run(&format!("DROP TABLE IF EXISTS {table}")).await;
        match (outcome, dropped) {
            (Ok(()), Ok(_)) => Found::ok(format!("{shown} was made, filled with a row, read and dropped")),
            (Ok(()), Err(error)) => self.failed(&format!("{shown} is left over, as it cannot be dropped"), &error),
            (Err((what, error)), dropped) => {
                let left = match dropped {
                    Ok(_) => "nothing is left of it".to_owned(),
                    Err(error) => format!("it may be left over, as it cannot be dropped: {}", chain(&error)),
                };
                match error {
                    Some(error) => self.failed(&format!("{what} {shown} failed ({left})"), &error),
                    None => Found::skipped(format!("{what} {shown} ({left})")),
                }
            }
        }
    }

    async fn fill(&mut self, table: &str) -> Result<(), (&'static str, Option<ClientError>)> {
        let at = |what| move |error| (what, Some(error));
        self.client.run(&format!("CREATE TABLE {table} (id BIGINT, note VARCHAR)")).await.map_err(at("making"))?;
        let insert = format!("INSERT INTO {table} VALUES (1, 'polynya check-catalog')");
        self.client.run(&insert).await.map_err(at("appending a row to"))?;
        let rows = self.one(&format!("SELECT note FROM {table} WHERE id = 1")).await.map_err(at("reading back"))?;
        match rows.as_deref() {
            Some("polynya check-catalog") => Ok(()),
            other => {
                let reason = format!("the row that was appended is not there; found: {}", other.unwrap_or("nothing"));
                Err(("reading back", Some(ClientError::Protocol(reason))))
            }
        }
    }

    async fn first_schema(&mut self) -> Result<Option<String>, ClientError> {
        let catalog = self.subject.name.as_str().replace('\'', "''");
        let sql =
            format!("SELECT schema_name FROM information_schema.schemata WHERE catalog_name = '{catalog}' ORDER BY 1 LIMIT 1");
        self.one(&sql).await
    }

    /// The first value of a query, as text.
    async fn one(&mut self, sql: &str) -> Result<Option<String>, ClientError> {
        let Outcome::Rows(mut rows) = self.client.run(sql).await? else { return Ok(None) };
        let mut first = None;
        while let Some(batch) = rows.next().await? {
            if first.is_none() && batch.num_rows() > 0 {
                let value = arrow::util::display::array_value_to_string(batch.column(0), 0);
                first = Some(value.map_err(|error| ClientError::Protocol(error.to_string()))?);
            }
        }
        Ok(first)
    }

    fn failed(&self, what: &str, error: &ClientError) -> Found {
        let text = error.to_string();
        let fault = if is_refusal(error.code(), &text) { Fault::ReadOnly } else { Fault::Failing };
        self.subject.failed(fault, format!("{what}: {text}"))
    }
}

/// A store's own word for it comes through where the gateway does not know an error for a refusal. Numbers do not tell: locations are full
/// of random ones.
fn is_refusal(code: Option<Code>, text: &str) -> bool {
    code == Some(Code::PermissionDenied) || text.contains("AccessDenied")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_in_a_location_is_no_refusal() {
        let at = "s3://lake/polynya_check_0b4033f1/data/00403.parquet";
        assert!(!is_refusal(Some(Code::Unavailable), &format!("the store of {at} answers 503")));
        assert!(!is_refusal(None, at));
        assert!(is_refusal(Some(Code::PermissionDenied), "no"));
        assert!(is_refusal(Some(Code::Internal), &format!("{at}: AccessDenied")));
    }
}
