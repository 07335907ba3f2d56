//! The relay and a catalog with OAuth2, principals and grants: tokens, log-ins, outages, refusals. The relay is the real one and so is
//! its way over HTTP; the catalog is the stand-in for Polaris, which does what it is told to do wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use polynya::auth::credential::{BearerToken, Credential, Wallet};
use polynya::auth::realm::{RealmFault, Realms};
use polynya::error::{Explain, Kind};
use polynya::names::{CatalogName, Namespace, RealmName, RoleName, TableRef};
use polynya::relay::config::{CatalogConfig, Config, RestConfig, RoleConfig};
use polynya::relay::{CatalogError, Ceiling, Extent, Relay};
use polynya::secret::SecretString;
use serde_json::json;

use crate::callers::token_of;
use crate::harness::Gateway;
use crate::stand_in::{Fault, Grant, HOME, Operation, Privilege, Rule, Setup, StandIn, WarehouseSetup};

/// Before a cached table is asked about again, in these tests.
const STALENESS: Duration = Duration::from_millis(50);

/// A stand-in with tables `gold.t` and `silver.t` in the warehouse `lakehouse`, and a relay before it.
struct Lake {
    polaris: StandIn,
    relay: Arc<Relay>,
    wallet: Wallet,
}

fn config() -> Config {
    Config { max_staleness: STALENESS, negative_ttl: Duration::from_millis(20), ..Config::default() }
}

/// A listing of as many names as there are.
fn no_ceiling() -> Ceiling {
    Ceiling::new(usize::MAX)
}

fn catalog() -> CatalogName {
    CatalogName::from("lake")
}

fn table(schema: &str) -> TableRef {
    TableRef { catalog: catalog(), namespace: Namespace::from_schema(schema), table: "t".to_owned() }
}

async fn polaris_with_tables(setup: Setup, warehouses: &[&str]) -> StandIn {
    let polaris = StandIn::start(setup).await;
    let token = token_of(&polaris, "root").await;
    for warehouse in warehouses {
        for namespace in ["gold", "silver"] {
            let fields = json!([{ "id": 1, "name": "id", "required": false, "type": "long" }]);
            let body = json!({ "name": "t", "schema": { "type": "struct", "schema-id": 0, "fields": fields } });
            let uri = format!("{}/v1/{warehouse}/namespaces/{namespace}/tables", polaris.uri());
            let made = reqwest::Client::new().post(uri).bearer_auth(&token).json(&body).send().await.expect("an answer");
            assert_eq!(made.status(), 200);
        }
    }
    polaris.log().clear();
    polaris
}

/// The catalog's section of a gateway's config, with more lines in it.
fn section(polaris: &StandIn, warehouse: &str, more: &str) -> CatalogConfig {
    let base = polaris.realm(HOME).warehouse(warehouse).expect("a warehouse").base().to_owned();
    let text = format!("uri: {}\nwarehouse: {warehouse}\nallowed_locations: ['{base}']\n{more}", polaris.uri());
    let rest: RestConfig = serde_saphyr::from_str(&text).expect("a section");
    CatalogConfig::Rest(Box::new(rest))
}

impl Lake {
    async fn new() -> Self {
        Self::with(Setup::lakehouse(), config(), "").await
    }

    async fn with(setup: Setup, config: Config, more: &str) -> Self {
        let polaris = polaris_with_tables(setup, &["lakehouse"]).await;
        let catalogs = BTreeMap::from([(catalog(), section(&polaris, "lakehouse", more))]);
        let relay = Relay::bind(config, catalogs, BTreeMap::new()).await.expect("a relay");
        Self { polaris, relay, wallet: Wallet::default() }
    }

    fn realm(&self) -> RealmName {
        self.relay.realms().first().expect("a realm").clone()
    }

    fn login(&self, principal: &str) -> Credential {
        let (id, secret) = self.polaris.realm(HOME).credentials(principal).expect("a principal");
        self.wallet.client(&self.realm(), &id, &SecretString::from(secret), None)
    }

    fn bearer(&self, token: &str, exchange: bool, lives: Duration) -> Credential {
        let expires = Some(std::time::SystemTime::now() + lives);
        let token = BearerToken { secret: SecretString::from(token), expires, exchange };
        self.wallet.token(&self.realm(), if exchange { "foreign" } else { "own" }, "{}", token, None)
    }

    fn tokens(&self, principal: &str) -> usize {
        self.polaris.log().count(Operation::Token, principal)
    }

    async fn until_stale(&self) {
        tokio::time::sleep(STALENESS + Duration::from_millis(10)).await;
    }
}

// ---- tokens ----

#[tokio::test(flavor = "multi_thread")]
async fn one_token_serves_all_catalogs_of_a_realm_and_all_who_wait() {
    let polaris = StandIn::start(Setup::lakehouse()).await;
    let realm = polaris.realm(HOME);
    realm.add_warehouse(WarehouseSetup::three_layers("second"), polaris.scratch()).await.expect("a warehouse");
    realm.set_use("analysts", "second", "gold_reader", true);
    let catalogs = BTreeMap::from([
        (catalog(), section(&polaris, "lakehouse", "realm: home")),
        (CatalogName::from("second"), section(&polaris, "second", "realm: home")),
    ]);
    let relay = Relay::bind(config(), catalogs, BTreeMap::new()).await.expect("a relay");
    let (id, secret) = realm.credentials("analyst").expect("a principal");
    let wallet = Wallet::default();
    let analyst = wallet.client(&RealmName::from("home"), &id, &SecretString::from(secret), None);
    polaris.faults().add(Rule::new(Fault::DelayMs(100)).on([Operation::Token]));
    let gold = Namespace::from_schema("gold");
    let (names, none) = ([catalog(), CatalogName::from("second")], no_ceiling());
    let asked = (0..60).map(|n| relay.tables(&analyst, &names[n % 2], &gold, &none, None));
    for answer in futures::future::join_all(asked).await {
        answer.expect("a list");
    }
    assert_eq!(polaris.log().count(Operation::Token, "analyst"), 1);
    assert_eq!(polaris.log().count(Operation::Config, "analyst"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_short_life_are_renewed_behind_the_scenes() {
    let lake = Arc::new(Lake::with(Setup::lakehouse().with_token_lifetime(10), config(), "").await);
    let analyst = lake.login("analyst");
    lake.relay.load(&analyst, &table("gold")).await.expect("a table");
    // Whoever had to wait for a token from here on would be seen to.
    lake.polaris.faults().add(Rule::new(Fault::DelayMs(2000)).on([Operation::Token]));
    let began = Instant::now();
    let until = began + Duration::from_secs(16);
    let clients = (0..8).map(|_| {
        let (lake, analyst) = (Arc::clone(&lake), analyst.clone());
        tokio::spawn(async move {
            let mut calls = 0;
            while Instant::now() < until {
                let listed = lake.relay.tables(&analyst, &catalog(), &Namespace::from_schema("gold"), &no_ceiling(), None).await;
                assert_eq!(*listed.expect("a list"), ["t"]);
                calls += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            calls
        })
    });
    let mut calls = 0;
    for client in futures::future::join_all(clients).await {
        calls += client.expect("a client");
    }
    // While a token is on its way the others go on by the one before.
    let log = lake.polaris.log().calls();
    let (renewals, others): (Vec<_>, Vec<_>) = log.iter().partition(|call| call.operation == Operation::Token);
    for renewal in &renewals[1..] {
        let Some(took) = renewal.took_ms else { continue };
        let meanwhile = renewal.at_ms + 100..renewal.at_ms + took;
        let beside = others.iter().filter(|call| meanwhile.contains(&call.at_ms)).count();
        assert!(beside > 0, "nobody was served while a token was asked for: {renewal:?}");
    }
    let tokens = lake.tokens("analyst");
    assert!(calls > 100, "{calls} calls");
    // Asked for each 4.5 to 5 s, and had 2 s later; one more came before, and one may be on its way.
    let most = 2 + usize::try_from(began.elapsed().as_millis() / 4500).expect("few");
    assert!((3..=most).contains(&tokens), "{tokens} tokens for {calls} calls, expected 3 to {most}");
    let refused = lake.polaris.log().calls().into_iter().filter(|call| call.status == Some(401)).count();
    assert_eq!(refused, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_refused_are_renewed_once_for_all() {
    let lake = Lake::new().await;
    let engineer = lake.login("engineer");
    let gold = Namespace::from_schema("gold");
    lake.relay.namespace_exists(&engineer, &catalog(), &gold).await.expect("an answer");
    lake.polaris.realm(HOME).tokens.expire_all();
    let name = catalog();
    let asked = (0..30).map(|_| lake.relay.namespace_exists(&engineer, &name, &gold));
    for answer in futures::future::join_all(asked).await {
        answer.expect("an answer");
    }
    assert_eq!(lake.tokens("engineer"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_cannot_be_renewed_is_shown_as_long_as_it_lives() {
    // It is shown for 9 s, and asked for again from the fifth on.
    let lake = Lake::with(Setup::lakehouse().with_token_lifetime(10), config(), "").await;
    let analyst = lake.login("analyst");
    let gold = Namespace::from_schema("gold");
    lake.relay.namespace_exists(&analyst, &catalog(), &gold).await.expect("an answer");
    let had = Instant::now();
    lake.polaris.faults().add(Rule::new(Fault::Status(503)).on([Operation::Token]));
    while had.elapsed() < Duration::from_secs(7) {
        lake.relay.namespace_exists(&analyst, &catalog(), &gold).await.expect("an answer by the token before");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let tries = lake.tokens("analyst");
    assert!((2..=6).contains(&tries), "it backs off: {tries} requests");
    tokio::time::sleep(Duration::from_millis(9500).saturating_sub(had.elapsed())).await;
    let error = lake.relay.namespace_exists(&analyst, &catalog(), &gold).await.expect_err("no token");
    assert!(matches!(error, CatalogError::Failing { .. }), "{error}");
    lake.polaris.faults().clear();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    lake.relay.namespace_exists(&analyst, &catalog(), &gold).await.expect("it comes back by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_in_files_are_read_again_when_they_change() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("secret");
    std::fs::write(&file, "analyst-secret\n").expect("a file");
    let credentials = format!(
        "credentials: {{ type: oauth2, client_id: analyst-client-id, client_auth: basic, client_secret: {{ file: {} }} }}",
        file.display()
    );
    let lake = Lake::with(Setup::lakehouse(), config(), &credentials).await;
    let service = Credential::service();
    lake.relay.load(&service, &table("gold")).await.expect("a table");
    let realm = lake.polaris.realm(HOME);
    realm.rotate_secret("analyst", "another-secret");
    std::fs::write(&file, "another-secret\n").expect("a file");
    realm.tokens.expire_all();
    lake.until_stale().await;
    lake.relay.load(&service, &table("gold")).await.expect("a table with the new secret");

    let token_file = directory.path().join("token");
    std::fs::write(&token_file, token_of(&lake.polaris, "engineer").await).expect("a file");
    let credentials = format!("credentials: {{ type: bearer, token: {{ file: {} }} }}", token_file.display());
    let catalogs = BTreeMap::from([(catalog(), section(&lake.polaris, "lakehouse", &credentials))]);
    let relay = Relay::bind(config(), catalogs, BTreeMap::new()).await.expect("a relay");
    relay.load(&service, &table("silver")).await.expect("a table");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    realm.tokens.expire_all();
    std::fs::write(&token_file, token_of(&lake.polaris, "engineer").await).expect("a file");
    relay.load(&service, &table("silver")).await.expect("a table with the new token");
}

// ---- log-ins ----

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_is_proven_by_the_realm_itself() {
    let lake = Lake::new().await;
    let right = lake.login("analyst");
    lake.relay.prove(&right).await.expect("a principal");
    assert_eq!(lake.tokens("analyst"), 1);
    lake.relay.load(&right, &table("gold")).await.expect("a table");
    assert_eq!(lake.tokens("analyst"), 1, "the token had at log-in serves the statements");

    let wrong = lake.wallet.client(&lake.realm(), "analyst-client-id", &SecretString::from("guess"), None);
    let refused = RealmFault::Refused("The client is not authorized".to_owned());
    assert_eq!(lake.relay.prove(&wrong).await, Err(refused.clone()));
    lake.relay.load(&wrong, &table("gold")).await.expect_err("nothing of the right one's is shown");
    // Asked anew, whatever was right before.
    lake.polaris.realm(HOME).rotate_secret("analyst", "other");
    assert_eq!(lake.relay.prove(&right).await, Err(refused));

    let token = token_of(&lake.polaris, "engineer").await;
    let signed = lake.bearer(&token, false, Duration::from_secs(600));
    lake.relay.prove(&signed).await.expect("a token of the realm");
    lake.relay.load(&signed, &table("silver")).await.expect("a table");
    let made_up = lake.wallet.token(
        &lake.realm(),
        "else",
        "{}",
        BearerToken { secret: SecretString::from("made up"), expires: None, exchange: false },
        None,
    );
    assert!(matches!(lake.relay.prove(&made_up).await, Err(RealmFault::Refused(_))));

    lake.polaris.down().await;
    let Err(RealmFault::Unavailable(text)) = lake.relay.prove(&lake.login("engineer")).await else {
        panic!("a realm that is down proves nothing")
    };
    assert!(text.contains("catalog \"lake\" at 127.0.0.1:"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_lapsed_is_not_shown_any_more() {
    let lake = Lake::new().await;
    let token = token_of(&lake.polaris, "engineer").await;
    for exchange in [false, true] {
        let caller = lake.bearer(&token, exchange, Duration::from_secs(3));
        lake.relay.load(&caller, &table("silver")).await.expect("a table");
        tokio::time::sleep(Duration::from_millis(3050)).await;
        lake.polaris.log().clear();
        let error = lake.relay.load(&caller, &table("silver")).await.expect_err("it has lapsed");
        assert_eq!(error.kind(), Kind::Unauthenticated);
        assert_eq!(
            error.to_string(),
            "catalog \"lake\" does not accept your login any more (the token has expired); log in again"
        );
        assert!(lake.polaris.log().calls().is_empty());
        // A newer one renews it for all who hold it.
        let again = lake.bearer(&token, exchange, Duration::from_secs(60));
        assert!(again == caller);
        lake.relay.load(&caller, &table("silver")).await.expect("a table");
        drop((again, caller));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchanged_token_is_asked_for_once() {
    let lake = Lake::new().await;
    let caller = lake.bearer(&token_of(&lake.polaris, "engineer").await, true, Duration::from_secs(600));
    lake.polaris.log().clear();
    for schema in ["gold", "silver", "gold"] {
        lake.relay.load(&caller, &table(schema)).await.expect("a table");
        lake.until_stale().await;
    }
    let exchanged: Vec<_> = lake.polaris.log().calls().into_iter().filter(|call| call.operation == Operation::Token).collect();
    assert_eq!(exchanged.len(), 1);
    assert_eq!(exchanged[0].target.as_deref(), Some("token-exchange"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_away_is_gone_within_the_staleness_bound() {
    let lake = Lake::new().await;
    let realm = lake.polaris.realm(HOME);
    let (analyst, engineer) = (lake.login("analyst"), lake.login("engineer"));
    for credential in [&analyst, &engineer] {
        lake.relay.load(credential, &table("gold")).await.expect("a table");
    }
    assert!(realm.revoke("lakehouse", "gold_reader", &Grant::on_namespace(Privilege::TableReadData, "gold")));
    lake.until_stale().await;
    let error = lake.relay.load(&analyst, &table("gold")).await.expect_err("the grant is gone");
    assert_eq!(error.kind(), Kind::PermissionDenied);
    lake.relay.load(&engineer, &table("gold")).await.expect("another's grant");

    realm.set_active("engineer", false);
    lake.until_stale().await;
    let error = lake.relay.load(&engineer, &table("gold")).await.expect_err("the principal is out");
    assert_eq!(error.kind(), Kind::Unauthenticated, "{error}");
    let tokens = lake.tokens("engineer");
    for _ in 0..20 {
        lake.relay.load(&engineer, &table("gold")).await.expect_err("still");
    }
    assert!(lake.tokens("engineer") - tokens <= 1, "a refusal is not asked for again and again");
}

// ---- rights ----

#[tokio::test(flavor = "multi_thread")]
async fn who_may_see_a_table_but_not_read_it_sees_its_columns_only() {
    let lake = Lake::new().await;
    let realm = lake.polaris.realm(HOME);
    realm.grant("lakehouse", "gold_reader", Grant::on_namespace(Privilege::TableReadProperties, "silver"));
    let analyst = lake.login("analyst");
    for _ in 0..3 {
        assert_eq!(lake.relay.listed_columns(&analyst, &table("silver"), Extent::Few).await.expect("columns").len(), 1);
        let error = lake.relay.load(&analyst, &table("silver")).await.expect_err("no right to the data");
        assert_eq!(error.kind(), Kind::PermissionDenied);
        assert_eq!(
            error.to_string(),
            "catalog \"lake\" does not allow it: principal \"analyst\" lacks TABLE_READ_DATA on table \"silver.t\" (principal roles: \
             analysts; grants by way of: analysts, gold_reader); an administrator of the catalog can grant it"
        );
        let error = lake.relay.loaded_columns(&analyst, &table("silver")).await.expect_err("these are for who reads");
        assert_eq!(error.kind(), Kind::PermissionDenied);
    }
    // The right to read is enough to see, and needs no other call.
    lake.relay.load(&analyst, &table("gold")).await.expect("a table");
    lake.polaris.log().clear();
    lake.relay.listed_columns(&analyst, &table("gold"), Extent::Few).await.expect("columns");
    assert!(lake.polaris.log().calls().len() <= 1);

    let plain = section(&lake.polaris, "lakehouse", "access_delegation: none");
    let relay = Relay::bind(config(), BTreeMap::from([(catalog(), plain)]), BTreeMap::new()).await.expect("a relay");
    relay.load(&analyst, &table("silver")).await.expect("as the administrator has it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_has_credentials_of_its_own_for_reads() {
    let polaris = polaris_with_tables(Setup::lakehouse(), &["lakehouse"]).await;
    let of = |principal: &str| format!("{{ type: oauth2, client_id: {principal}-client-id, client_secret: {principal}-secret }}");
    let role = format!("catalogs: {{ lake: {{ credentials: {}, reader_credentials: {} }} }}", of("engineer"), of("analyst"));
    let role: RoleConfig = serde_saphyr::from_str(&role).expect("a role");
    let roles = BTreeMap::from([(RoleName::from("loader"), role)]);
    let catalogs = || BTreeMap::from([(catalog(), section(&polaris, "lakehouse", ""))]);
    let relay = Relay::bind(config(), catalogs(), roles).await.expect("a relay");
    let loader = Wallet::default().role(&RoleName::from("loader"));
    relay.load(&loader, &table("silver")).await.expect("a table to write to");
    let error = relay.load(&loader.for_reads(), &table("silver")).await.expect_err("the reader may not");
    assert!(error.to_string().contains("principal \"analyst\" lacks TABLE_READ_DATA"), "{error}");
    relay.load(&loader.for_reads(), &table("gold")).await.expect("a table");
    assert_eq!(polaris.log().count(Operation::Token, "engineer"), 1);
    assert_eq!(polaris.log().count(Operation::Token, "analyst"), 1);

    let unknown: RoleConfig = serde_saphyr::from_str("catalogs: { swamp: {} }").expect("a role");
    let bound = Relay::bind(config(), catalogs(), BTreeMap::from([(RoleName::from("x"), unknown)])).await;
    let Err(error) = bound else { panic!("a role with an unknown catalog") };
    assert_eq!(error.to_string(), "catalog \"swamp\": role \"x\" names it, but it is not configured");
}

// ---- outages ----

fn steadfast() -> Config {
    Config { stale_grace: Duration::from_secs(8), slow_after: Duration::from_millis(400), ..config() }
}

#[tokio::test(flavor = "multi_thread")]
async fn known_tables_are_read_while_their_catalog_is_down_and_others_are_not_affected() {
    let lake = Lake::with(Setup::lakehouse(), steadfast(), "").await;
    let healthy = Lake::with(Setup::lakehouse(), steadfast(), "").await;
    let (engineer, other) = (lake.login("engineer"), healthy.login("engineer"));
    let silver = Namespace::from_schema("silver");
    lake.relay.load(&engineer, &table("gold")).await.expect("a table");
    lake.relay.tables(&engineer, &catalog(), &silver, &no_ceiling(), None).await.expect("a list");
    lake.relay.listed_columns(&engineer, &table("silver"), Extent::Many).await.expect("columns");
    lake.polaris.down().await;
    lake.until_stale().await;
    let began = Instant::now();
    let mut took = Vec::new();
    while began.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        lake.relay.load(&engineer, &table("gold")).await.expect("as it was");
        assert_eq!(*lake.relay.tables(&engineer, &catalog(), &silver, &no_ceiling(), None).await.expect("as it was"), ["t"]);
        lake.relay.listed_columns(&engineer, &table("silver"), Extent::Few).await.expect("as they were");
        took.push(asked.elapsed());
        healthy
            .relay
            .tables(&other, &catalog(), &Namespace::from_schema("gold"), &no_ceiling(), None)
            .await
            .expect("another catalog");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    took.sort_unstable();
    assert!(took[took.len() / 2] < Duration::from_secs(1), "{took:?}");
    for error in [
        lake.relay.load(&engineer, &table("silver")).await.map(drop).expect_err("not known"),
        lake.relay
            .tables(&engineer, &catalog(), &Namespace::from_schema("gold"), &no_ceiling(), None)
            .await
            .map(drop)
            .expect_err("a list"),
        lake.relay.namespaces(&engineer, &catalog(), &no_ceiling(), None).await.map(drop).expect_err("a list"),
    ] {
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.to_string().starts_with("catalog \"lake\" at 127.0.0.1:"), "{error}");
    }
    lake.polaris.up().await;
    lake.relay.load(&engineer, &table("silver")).await.expect("it is back");
    lake.until_stale().await;
    lake.polaris.log().clear();
    lake.relay.load(&engineer, &table("gold")).await.expect("a table");
    assert_eq!(lake.polaris.log().count(Operation::LoadTable, "engineer"), 1, "it is asked again");

    // A grace has its end.
    lake.polaris.down().await;
    tokio::time::sleep(Duration::from_millis(8100)).await;
    let error = lake.relay.load(&engineer, &table("gold")).await.expect_err("older than the grace");
    assert_eq!(error.kind(), Kind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_hangs_is_waited_for_once() {
    const SLOW_AFTER: Duration = Duration::from_millis(1500);
    const REQUEST_TIMEOUT: Duration = Duration::from_secs(6);
    let config = Config { stale_grace: Duration::from_secs(120), slow_after: SLOW_AFTER, ..config() };
    let lake = Lake::with(Setup::lakehouse(), config, &format!("request_timeout: {}s", REQUEST_TIMEOUT.as_secs())).await;
    let (engineer, analyst) = (lake.login("engineer"), lake.login("analyst"));
    for (credential, schema) in [(&engineer, "gold"), (&engineer, "silver"), (&analyst, "gold")] {
        lake.relay.load(credential, &table(schema)).await.expect("a table");
    }
    lake.until_stale().await;
    lake.polaris.faults().add(Rule::new(Fault::Hang));
    lake.polaris.log().clear();
    let asked = Instant::now();
    lake.relay.load(&engineer, &table("gold")).await.expect("as it was");
    let took = asked.elapsed();
    assert!((SLOW_AFTER..REQUEST_TIMEOUT - Duration::from_millis(100)).contains(&took), "{took:?}");
    let mut waited = 0;
    for (credential, schema) in [(&engineer, "gold"), (&engineer, "silver"), (&analyst, "gold")].repeat(20) {
        let asked = Instant::now();
        lake.relay.load(credential, &table(schema)).await.expect("as it was");
        waited += usize::from(asked.elapsed() >= SLOW_AFTER);
    }
    assert_eq!(waited, 0, "it was waited for before");
    assert!(lake.polaris.log().calls().len() <= 2, "one call at a time finds out: {:?}", lake.polaris.log().counts());
    let asked = Instant::now();
    let error = lake
        .relay
        .tables(&engineer, &catalog(), &Namespace::from_schema("gold"), &no_ceiling(), None)
        .await
        .expect_err("no answer");
    assert!(matches!(error, CatalogError::Timeout { .. }), "{error}");
    assert!(asked.elapsed() < REQUEST_TIMEOUT + Duration::from_secs(20));
    lake.polaris.faults().clear();
    // Whoever reads finds out in the background that it is back.
    let began = Instant::now();
    loop {
        lake.polaris.log().clear();
        lake.relay.load(&engineer, &table("gold")).await.expect("a table");
        lake.until_stale().await;
        let answered = lake.polaris.log().calls().into_iter().any(|call| call.status.is_some());
        if answered {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "it is not asked any more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_count_at_once_whatever_the_grace() {
    let lake = Lake::with(Setup::lakehouse(), steadfast(), "").await;
    let engineer = lake.login("engineer");
    // This 404 is not one that says what is not there.
    for (status, kind) in [(403, Kind::PermissionDenied), (404, Kind::InvalidArgument), (401, Kind::Unauthenticated)] {
        lake.relay.load(&engineer, &table("gold")).await.expect("a table");
        lake.until_stale().await;
        lake.polaris.faults().add(Rule::new(Fault::Status(status)).on([Operation::LoadTable]));
        let error = lake.relay.load(&engineer, &table("gold")).await.expect_err("refused");
        assert_eq!(error.kind(), kind, "{status}: {error}");
        lake.polaris.faults().clear();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    for status in [500, 503] {
        lake.relay.load(&engineer, &table("gold")).await.expect("a table");
        lake.until_stale().await;
        lake.polaris.faults().add(Rule::new(Fault::Status(status)).on([Operation::LoadTable]));
        lake.relay.load(&engineer, &table("gold")).await.expect("as it was");
        lake.polaris.faults().clear();
    }
    let never = Config { stale_grace: Duration::ZERO, ..steadfast() };
    let relay = Relay::bind(never, BTreeMap::from([(catalog(), section(&lake.polaris, "lakehouse", ""))]), BTreeMap::new());
    let relay = relay.await.expect("a relay");
    relay.load(&engineer, &table("gold")).await.expect("a table");
    lake.until_stale().await;
    lake.polaris.down().await;
    assert_eq!(relay.load(&engineer, &table("gold")).await.expect_err("never old").kind(), Kind::Unavailable);
}

// ---- through the gateway ----

async fn gateway(polaris: &StandIn, principal: &str, more: &[&str]) -> Gateway {
    let settings = polaris.settings("rest", "lakehouse", principal);
    let all: Vec<&str> = settings.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Gateway::with(&all)
}

#[tokio::test(flavor = "multi_thread")]
async fn denials_reach_the_client_in_words_also_from_a_worker() {
    let polaris = polaris_with_tables(Setup::lakehouse(), &["lakehouse"]).await;
    let gateway = gateway(&polaris, "analyst", &[]).await;
    assert_eq!(gateway.value("SELECT count(*) FROM rest.gold.t").await, "0");
    for (sql, lacks) in [
        ("SELECT * FROM rest.silver.t", "lacks TABLE_READ_DATA on table \"silver.t\""),
        ("INSERT INTO rest.gold.t VALUES (1)", "lacks TABLE_"),
        ("UPDATE rest.gold.t SET id = 2", ""),
        ("CREATE TABLE rest.gold.u (i INTEGER)", "lacks TABLE_CREATE or TABLE_WRITE_DATA on table \"gold.u\""),
        ("CREATE TABLE rest.gold.v AS SELECT 1 AS i", "lacks TABLE_CREATE or TABLE_WRITE_DATA on table \"gold.v\""),
        ("DROP TABLE rest.gold.t", "lacks TABLE_DROP on table \"gold.t\""),
        ("CREATE SCHEMA rest.mine", "lacks NAMESPACE_CREATE"),
        ("DROP SCHEMA rest.gold", "lacks NAMESPACE_DROP on schema \"gold\""),
        ("ALTER TABLE rest.gold.t ADD COLUMN more INTEGER", "lacks TABLE_"),
    ] {
        let status = match gateway.query(sql).await {
            // Nothing in it to update.
            Ok(_) if lacks.is_empty() => continue,
            Ok(_) => panic!("{sql} was allowed"),
            Err(status) => status,
        };
        assert_eq!(status.code(), tonic::Code::PermissionDenied, "{sql}: {status}");
        for words in [lacks, "catalog \"rest\" does not allow it: principal \"analyst\"", "an administrator of the catalog"] {
            assert!(status.message().contains(words), "{sql}: `{words}` is not in: {}", status.message());
        }
        assert!(!status.message().contains("127.0.0.1") && !status.message().contains("secret"), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_show_what_the_grants_do() {
    let polaris = polaris_with_tables(Setup::lakehouse(), &["lakehouse"]).await;
    polaris.realm(HOME).grant("lakehouse", "gold_reader", Grant::on_namespace(Privilege::TableList, "bronze"));
    let gateway = gateway(&polaris, "analyst", &["relay.negative_ttl=0s"]).await;
    let listed = "SELECT coalesce(string_agg(table_schema || '.' || table_name, ' '), '') FROM information_schema.tables";
    assert_eq!(gateway.value(&format!("{listed} WHERE table_catalog = 'rest'")).await, "gold.t");
    let columns = "SELECT count(*) FROM information_schema.columns WHERE table_catalog = 'rest'";
    assert_eq!(gateway.value(columns).await, "1");
    polaris.realm(HOME).grant("lakehouse", "gold_reader", Grant::on_namespace(Privilege::TableReadProperties, "silver"));
    assert_eq!(gateway.value(columns).await, "2");
    let status = gateway.query("SELECT * FROM rest.silver.t").await.expect_err("columns are not rows");
    assert!(status.message().contains("lacks TABLE_READ_DATA on table \"silver.t\""), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_says_in_time_which_catalog_it_waited_for_in_vain() {
    let polaris = polaris_with_tables(Setup::lakehouse(), &["lakehouse"]).await;
    // One call to the catalog would take far longer than the statement may.
    let limits = ["query.statement_timeout=8s", "catalogs.rest.request_timeout=2m"];
    let gateway = gateway(&polaris, "engineer", &limits).await;
    // The workers are there before the time begins to run.
    gateway.runs_again("there is a reader", "SELECT 1").await;
    gateway.runs_again("there is a writer", "CREATE SCHEMA IF NOT EXISTS lake.early").await;
    polaris.faults().add(Rule::new(Fault::Hang));
    let asked = Instant::now();
    let status = gateway.query("SELECT * FROM rest.gold.t").await.expect_err("no answer");
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    assert!(status.message().contains("catalog \"rest\""), "{status}");
    assert!(asked.elapsed() < Duration::from_secs(25), "{:?}", asked.elapsed());
    assert_eq!(gateway.value("SELECT 1").await, "1");
    gateway.run("CREATE SCHEMA lake.other").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_go_on_from_memory_while_the_catalog_is_down() {
    let polaris = polaris_with_tables(Setup::lakehouse(), &["lakehouse"]).await;
    let gateway = gateway(&polaris, "engineer", &["relay.slow_after=300ms"]).await;
    gateway.run("INSERT INTO rest.gold.t SELECT * FROM range(10)").await;
    assert_eq!(gateway.value("SELECT count(*) FROM rest.gold.t").await, "10");
    gateway.run("SHOW TABLES FROM rest.gold").await;
    polaris.down().await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for _ in 0..5 {
        assert_eq!(gateway.value("SELECT sum(id) FROM rest.gold.t").await, "45");
        assert_eq!(gateway.value("SHOW TABLES FROM rest.gold").await, "t");
    }
    let status = gateway.query("SELECT * FROM rest.silver.t").await.expect_err("not known");
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    assert!(status.message().contains("catalog \"rest\" at 127.0.0.1:"), "{status}");
    let columns = "SELECT * FROM information_schema.columns WHERE table_schema = 'silver'";
    for sql in ["INSERT INTO rest.gold.t VALUES (1)", "CREATE TABLE rest.gold.u (i INTEGER)", columns] {
        let status = gateway.query(sql).await.expect_err("writes ask, and so do listings that are not known");
        assert_eq!(status.code(), tonic::Code::Unavailable, "{sql}: {status}");
        assert!(status.message().contains("catalog \"rest\""), "{sql}: {status}");
    }
    polaris.up().await;
    gateway.run("INSERT INTO rest.gold.t VALUES (10)").await;
    assert_eq!(gateway.value("SELECT sum(id) FROM rest.gold.t").await, "55");
    let log = gateway.log();
    assert!(log.contains("is out of reach") && log.contains("answers again"), "{log}");
    assert!(!log.contains("engineer-secret"), "{log}");
}
