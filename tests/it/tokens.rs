//! Tokens that live for seconds, under callers who log in as themselves: nobody notices that they are renewed, and the catalog is asked
//! for as many as it must be and no more. How the relay renews one is shown in `upstreams`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{RecordBatch, record_batch};
use arrow_flight::error::FlightError;
use arrow_flight::sql::{CommandStatementIngest, TableDefinitionOptions, TableExistsOption, TableNotExistOption};
use futures::stream::{self, StreamExt, TryStreamExt};
use tonic::Code;

use crate::callers::{self, Client, bearer, handshake, login, run, token_of, value};
use crate::harness::{Gateway, begun, query, status, until};
use crate::stand_in::{Call, HOME, Operation, PrincipalSetup, Setup, StandIn};

/// How long tokens live.
const LIFE: Duration = Duration::from_secs(8);

/// A renewal comes no earlier than this after the one before: nine tenths of half a life.
const RENEWED_AFTER: Duration = Duration::from_millis(3600);

/// How long the clients go on.
const LASTS: Duration = Duration::from_secs(20);

const PRINCIPALS: [&str; 4] = ["root", "engineer", "loader", "analyst"];

const CLIENTS_OF_EACH: usize = 4;

const ROWS: i64 = 1000;

/// What should be so within a second is given so long on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A stand-in with `gold.t` of so many rows and `silver.t`, and a gateway whose tables are never older than a moment.
async fn lake(mode: &str, life: Duration) -> (StandIn, Gateway) {
    let polaris = StandIn::start(Setup::lakehouse()).await;
    let realm = polaris.realm(HOME);
    realm.create_principal(PrincipalSetup::named("loader", "engineers"));
    let settings = polaris.settings("rest", "lakehouse", "engineer");
    let maker = Gateway::with(&settings.iter().map(String::as_str).collect::<Vec<_>>());
    maker.run(&format!("CREATE TABLE rest.gold.t AS SELECT range AS v FROM range({ROWS})")).await;
    maker.run("CREATE TABLE rest.silver.t AS SELECT 1 AS v").await;
    maker.run("CREATE TABLE rest.silver.slow (v BIGINT)").await;
    drop(maker);
    realm.tokens.set_lifetime(life.as_secs());
    polaris.log().clear();
    let gateway = callers::gateway(&polaris, mode, &["relay.max_staleness=100ms".to_owned(), "pool.max_workers=8".to_owned()]);
    // It asks once, without a log-in, whether the catalog answers at all; what comes after that is on behalf of callers.
    let answered = || polaris.log().calls().iter().any(|call| call.principal.is_none() && call.status.is_some());
    tokio::task::block_in_place(|| until("the catalog is asked whether it answers", SOON, answered));
    let asked = polaris.log().counts();
    assert_eq!(asked, [((Operation::Config, None), 1)].into(), "nobody has logged in yet");
    polaris.log().clear();
    (polaris, gateway)
}

/// Statements of all sorts, in turn, until the time is over; the number of them.
async fn statements(mut client: Client, principal: &str, until: Instant) -> usize {
    let sum = (ROWS * (ROWS - 1) / 2).to_string();
    let mut prepared =
        client.prepare("SELECT count(*) FROM rest.gold.t WHERE v >= 500".to_owned(), None).await.expect("prepared");
    let mut done = 0;
    while Instant::now() < until {
        assert_eq!(value(&mut client, "SELECT sum(v)::BIGINT FROM rest.gold.t").await.expect("a sum"), sum);
        assert_eq!(value(&mut client, "SHOW TABLES FROM rest.gold").await.expect("a list"), "t");
        let info = prepared.execute().await.expect("described");
        let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
        let rows: Vec<RecordBatch> = client.do_get(ticket).await.expect("opened").try_collect().await.expect("rows");
        assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
        let silver = value(&mut client, "SELECT v FROM rest.silver.t").await;
        match (principal, silver) {
            ("analyst", Err(denied)) => assert_eq!(denied.code(), Code::PermissionDenied, "{denied}"),
            ("analyst", Ok(_)) => panic!("the analyst saw silver"),
            (_, silver) => assert_eq!(silver.expect("a row"), "1"),
        }
        done += 4;
    }
    done
}

/// A result that is read for longer than a token lives.
async fn slow_reader(mut client: Client) -> usize {
    let began = Instant::now();
    let mut stream = begun(&mut client, "SELECT t.v, r.range FROM rest.gold.t, range(2500) r").await.expect("begun");
    // What follows is made when the token of the beginning is long gone.
    tokio::time::sleep(LIFE + Duration::from_secs(1)).await;
    let mut rest = 0;
    while let Some(batch) = stream.next().await {
        rest += batch.expect("a batch").num_rows();
    }
    assert!(began.elapsed() > LIFE && (1_500_000..2_500_000).contains(&rest), "{rest} rows after the first batch");
    1
}

/// An upload that takes longer than a token lives, and commits at its end.
async fn slow_writer(mut client: Client) -> usize {
    const BATCHES: i64 = 11;
    let batches = stream::iter(0..BATCHES).then(|n| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok::<_, FlightError>(record_batch!(("v", Int64, [n])).expect("a batch"))
    });
    let command = CommandStatementIngest {
        table: "slow".to_owned(),
        schema: Some("silver".to_owned()),
        catalog: Some("rest".to_owned()),
        table_definition_options: Some(TableDefinitionOptions {
            if_not_exist: TableNotExistOption::Fail as i32,
            if_exists: TableExistsOption::Append as i32,
        }),
        ..CommandStatementIngest::default()
    };
    let began = Instant::now();
    assert_eq!(client.execute_ingest(command, batches).await.expect("one commit"), BATCHES);
    assert!(began.elapsed() > LIFE);
    assert_eq!(value(&mut client, "SELECT count(*) FROM rest.silver.slow").await.expect("a count"), BATCHES.to_string());
    2
}

/// How long the slowest read took at the gateway, by its own log.
fn slowest_statement(gateway: &Gateway) -> Duration {
    let log = gateway.log();
    let reads = log.lines().filter(|line| line.contains("statement ok") && line.contains("class=\"READ\""));
    let times = reads.filter_map(|line| line.split("total_ms=").nth(1)?.split_whitespace().next()?.parse().ok());
    Duration::from_millis(times.max().unwrap_or_default())
}

fn refused(calls: &[Call]) -> Vec<&Call> {
    calls.iter().filter(|call| call.status == Some(401)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_clients_of_four_principals_outlive_their_tokens_and_ask_for_none_per_query() {
    let (polaris, gateway) = lake("polaris", LIFE).await;
    let (polaris, gateway) = (Arc::new(polaris), Arc::new(gateway));
    let began = Instant::now();
    let until = began + LASTS;
    let mut clients = tokio::task::JoinSet::new();
    for principal in PRINCIPALS {
        for n in 0..CLIENTS_OF_EACH {
            let (polaris, gateway) = (Arc::clone(&polaris), Arc::clone(&gateway));
            clients.spawn(async move {
                let client = login(&gateway, &polaris, principal).await;
                match (principal, n) {
                    ("engineer", 0) => slow_reader(client).await,
                    ("loader", 0) => slow_writer(client).await,
                    _ => statements(client, principal, until).await,
                }
            });
        }
    }
    let mut done = 0;
    while let Some(client) = clients.join_next().await {
        done += client.unwrap_or_else(|failed| panic!("{failed}\n{}", gateway.log()));
    }
    let lasted = began.elapsed();
    let calls = polaris.log().calls();
    assert_eq!(refused(&calls).len(), 0, "{:?}", refused(&calls));
    let least = usize::try_from(LASTS.as_secs().div_ceil(LIFE.as_secs())).expect("few");
    let most = 1 + usize::try_from(lasted.as_millis() / RENEWED_AFTER.as_millis()).expect("few");
    let tokens = PRINCIPALS.map(|principal| polaris.log().count(Operation::Token, principal));
    eprintln!(
        "{done} statements in {lasted:?}; tokens by principal: {tokens:?}, of {least} to {most}; {} other calls",
        calls.len()
    );
    for (principal, tokens) in PRINCIPALS.into_iter().zip(tokens) {
        assert!((least..=most).contains(&tokens), "{principal}: {tokens} tokens, expected {least} to {most}");
    }
    // On a machine that is busy with nothing else there are a hundred times as many.
    assert!(done > tokens.iter().sum::<usize>(), "{done} statements, {tokens:?} tokens");
    assert!(slowest_statement(&gateway) > LIFE, "no statement outlived a token");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_later_than_a_token_lives_gets_another_one_in_time() {
    let (polaris, gateway) = lake("polaris", Duration::from_secs(4)).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(login(&gateway, &polaris, "engineer").await);
    }
    for round in 1..=3 {
        let asked = clients.iter_mut().map(|client| value(client, "SELECT v FROM rest.silver.t"));
        for answer in futures::future::join_all(asked).await {
            assert_eq!(answer.expect("a row"), "1");
        }
        let tokens = polaris.log().count(Operation::Token, "engineer");
        assert!(tokens >= round, "{tokens} tokens in round {round}");
        // Nothing is renewed for those who do nothing.
        let before = Instant::now();
        tokio::time::sleep(Duration::from_secs(8)).await;
        let idle = polaris.log().count(Operation::Token, "engineer") - tokens;
        assert!(idle <= 2, "{idle} tokens for nobody in {:?}", before.elapsed());
    }
    assert_eq!(refused(&polaris.log().calls()).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_lapses_lets_its_statement_end_and_no_other_begin() {
    let (polaris, gateway) = lake("passthrough", Duration::from_secs(300)).await;
    let first = bearer(&gateway, &token_of(&polaris, "engineer").await).await;
    // The workers are up before the time begins to run.
    value(&mut first.clone(), "SELECT v FROM rest.silver.t").await.expect("a row");
    polaris.realm(HOME).tokens.set_lifetime(20);
    let (token, had) = (token_of(&polaris, "engineer").await, Instant::now());
    let session = handshake(&gateway, &format!("Bearer {token}")).await.expect("a log-in");
    // As drivers do that send the token with each call, and as those that take the session's.
    for shown in [&token, &session] {
        let mut client = bearer(&gateway, shown).await;
        value(&mut client, "SELECT v FROM rest.silver.t").await.expect("a row");
    }
    let mut client = bearer(&gateway, &session).await;
    let unread = client.execute("SELECT v FROM rest.silver.t".to_owned(), None).await.expect("a ticket");
    let unread = unread.endpoint[0].ticket.clone().expect("a ticket");
    let mut stream = begun(&mut client, "SELECT t.v, r.range FROM rest.gold.t, range(2500) r").await.expect("begun");
    assert!(had.elapsed() < Duration::from_secs(20), "the machine was too slow to begin: {:?}", had.elapsed());
    tokio::time::sleep(Duration::from_millis(21_200).saturating_sub(had.elapsed())).await;
    let mut rest = 0;
    while let Some(batch) = stream.next().await {
        rest += batch.expect("it goes on to its end").num_rows();
    }
    assert!((1_500_000..2_500_000).contains(&rest), "{rest} rows after the first batch");

    let late = client.do_get(unread).await.map(drop).map_err(status).expect_err("a ticket that came too late");
    let next = query(&mut client, "SELECT v FROM rest.silver.t").await.expect_err("the session's token has lapsed");
    let mut plain = bearer(&gateway, &token).await;
    let again = query(&mut plain, "SELECT v FROM rest.silver.t").await.expect_err("the token has lapsed");
    for refusal in [&late, &next, &again] {
        assert_eq!(refusal.code(), Code::Unauthenticated, "{refusal}");
        let says = ["lapsed", "expired"].iter().any(|word| refusal.message().contains(word));
        assert!(says && refusal.message().contains("connect again with a new one"), "{refusal}");
        assert!(!refusal.message().contains(&token), "{refusal}");
    }
    polaris.realm(HOME).tokens.set_lifetime(300);
    let mut renewed = bearer(&gateway, &token_of(&polaris, "engineer").await).await;
    run(&mut renewed, "SELECT v FROM rest.silver.t").await;
}
