//! The gateway's own writes, seen at once by all principals that may see them, however long tables may be remembered.

use std::sync::Arc;

use tonic::Code;

use super::{Client, number, row};
use crate::harness::{query, user_ada};
use crate::identity::House;
use crate::stand_in::Setup;

const REMEMBERED: [&str; 2] = ["relay.max_staleness=1h", "relay.negative_ttl=1h"];

async fn runs(client: &mut Client, sql: &str) {
    query(client, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn own_writes_are_seen_at_once_by_all_principals_that_may_see_them() {
    let house = House::open(Setup::lakehouse(), &REMEMBERED).await;
    let mut engineer = house.log_in("engineer").await;
    let mut readers = Vec::new();
    for principal in ["analyst", "analyst", "root", "engineer"] {
        readers.push((principal, house.log_in(principal).await));
    }
    let sum = "SELECT sum(amount)::BIGINT FROM rest.gold.sales";
    let late = "SELECT count(*) FROM rest.gold.late";
    for (_, reader) in &mut readers {
        assert_eq!(number(reader, sum).await, 33);
        assert_eq!(query(reader, late).await.expect_err("no table yet").code(), Code::NotFound);
    }
    for (own, total) in [
        ("INSERT INTO rest.gold.sales VALUES ('west', 100)", 133),
        ("UPDATE rest.gold.sales SET amount = amount + 1 WHERE region = 'west'", 134),
        ("DELETE FROM rest.gold.sales WHERE region = 'north'", 123),
    ] {
        runs(&mut engineer, own).await;
        for (principal, reader) in &mut readers {
            assert_eq!(number(reader, sum).await, total, "{principal} after {own}");
        }
    }
    runs(&mut engineer, "CREATE TABLE rest.gold.late AS SELECT 1 AS n").await;
    runs(&mut engineer, "ALTER TABLE rest.gold.sales ADD COLUMN note VARCHAR").await;
    runs(&mut engineer, "INSERT INTO rest.gold.sales VALUES ('east', 7, 'new')").await;
    for (principal, reader) in &mut readers {
        assert_eq!(number(reader, late).await, 1, "{principal}");
        let all = "SELECT sum(amount)::BIGINT, max(note) FROM rest.gold.sales";
        assert_eq!(row(reader, all).await, ["130", "new"], "{principal}");
        let info = reader.execute("SELECT * FROM rest.gold.sales".to_owned(), None).await.expect("a ticket");
        assert_eq!(info.try_decode_schema().expect("a schema").fields().len(), 3, "{principal}");
    }
    runs(&mut engineer, "DROP TABLE rest.gold.late").await;
    for (principal, reader) in &mut readers {
        let error = query(reader, late).await.expect_err("no table any more");
        assert_eq!(error.code(), Code::NotFound, "{principal}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn own_writes_are_seen_at_once_while_everybody_reads() {
    const ROUNDS: i64 = 12;
    let house = House::open(Setup::lakehouse(), &REMEMBERED).await;
    let written = Arc::new(std::sync::atomic::AtomicI64::new(0));
    let mut readers = Vec::new();
    for principal in ["analyst", "engineer", "root"] {
        let written = Arc::clone(&written);
        let mut client = house.log_in(principal).await;
        // Its worker is there before the first write.
        assert_eq!(number(&mut client, "SELECT count(*) - 2 FROM rest.gold.sales").await, 0);
        readers.push(tokio::spawn(async move {
            let mut reads = 0;
            loop {
                let before = written.load(std::sync::atomic::Ordering::Acquire);
                let seen = number(&mut client, "SELECT count(*) - 2 FROM rest.gold.sales").await;
                assert!(seen >= before, "{principal} sees {seen} of {before} rows that were acknowledged");
                reads += 1;
                if before == ROUNDS {
                    return reads;
                }
            }
        }));
    }
    let mut engineer = house.log_in("engineer").await;
    for round in 1..=ROUNDS {
        runs(&mut engineer, &format!("INSERT INTO rest.gold.sales VALUES ('round', {round})")).await;
        written.store(round, std::sync::atomic::Ordering::Release);
    }
    for reader in readers {
        assert!(reader.await.expect("a reader") > 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_role_writes_is_seen_at_once_by_what_it_reads_with() {
    let of = |who: &str| format!("{{ type: oauth2, client_id: {who}-client-id, client_secret: {who}-secret }}");
    let role = format!("roles.loader.catalogs.rest={{credentials: {}, reader_credentials: {}}}", of("engineer"), of("analyst"));
    let mapped = ["auth.mode=mapped", "auth.mappings=[{user: ada, role: loader}]", &user_ada()[1], &role];
    let house = House::empty(Setup::lakehouse(), &[mapped.as_slice(), &REMEMBERED].concat()).await;
    let mut client = house.try_log_in("ada", "correct horse").await.expect("a session");
    runs(&mut client, "CREATE TABLE rest.gold.t (n BIGINT)").await;
    for round in 1..=4 {
        runs(&mut client, &format!("INSERT INTO rest.gold.t VALUES ({round})")).await;
        assert_eq!(number(&mut client, "SELECT count(*) FROM rest.gold.t").await, round);
    }
    let by = |who| house.polaris.log().count(crate::stand_in::Operation::LoadTable, who);
    assert!(by("analyst") > 0 && by("engineer") > 0, "two credentials");
}
