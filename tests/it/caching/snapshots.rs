//! A table with a long history costs its readers what one without costs.

use std::collections::BTreeMap;

use polynya::auth::credential::Credential;
use polynya::names::{CatalogName, Namespace, TableRef};
use polynya::relay::Relay;
use polynya::relay::config::{CatalogConfig, Config, RestConfig};
use polynya::relay::lease::{LeaseTerms, Leases as _, WorkerGrant};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Lake, number};
use crate::stand_in::{HOME, StandIn};

const SNAPSHOTS: i64 = 2000;

async fn token_of(polaris: &StandIn) -> String {
    let (id, secret) = polaris.realm(HOME).credentials("engineer").expect("a principal");
    let form =
        [("grant_type", "client_credentials"), ("client_id", &id), ("client_secret", &secret), ("scope", "PRINCIPAL_ROLE:ALL")];
    let request = reqwest::Client::new().post(format!("{}/v1/oauth/tokens", polaris.uri())).form(&form);
    let answer: Value = request.send().await.expect("an answer").json().await.expect("a token");
    answer["access_token"].as_str().expect("a token").to_owned()
}

/// Gives a table with one snapshot so many more that are like it; the last one is current.
async fn lengthen(polaris: &StandIn, table: &str) {
    let (token, client) = (token_of(polaris).await, reqwest::Client::new());
    let uri = format!("{}/v1/lakehouse/namespaces/gold/tables/{table}", polaris.uri());
    let loaded: Value = client.get(&uri).bearer_auth(&token).send().await.expect("an answer").json().await.expect("a table");
    let first = loaded["metadata"]["snapshots"][0].clone();
    let at_ms = first["timestamp-ms"].as_i64().expect("a time");
    let mut updates: Vec<Value> = Vec::new();
    for number in 1..SNAPSHOTS {
        let mut snapshot = first.clone();
        snapshot["snapshot-id"] = json!(number);
        snapshot["sequence-number"] = json!(number + 1);
        snapshot["timestamp-ms"] = json!(at_ms + number);
        snapshot["parent-snapshot-id"] = if number == 1 { first["snapshot-id"].clone() } else { json!(number - 1) };
        updates.push(json!({ "action": "add-snapshot", "snapshot": snapshot }));
    }
    updates.push(json!({ "action": "set-snapshot-ref", "ref-name": "main", "type": "branch", "snapshot-id": SNAPSHOTS - 1 }));
    let change = json!({ "requirements": [], "updates": updates });
    let answer = client.post(&uri).bearer_auth(&token).json(&change).send().await.expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap_or_default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_two_thousand_snapshots_is_handed_to_readers_as_one_of_one() {
    let lake = Lake::start("0s").await;
    lake.make_tables("short", 1).await;
    lake.make_tables("long", 1).await;
    lengthen(&lake.polaris, "long0").await;

    let base = lake.polaris.realm(HOME).warehouse("lakehouse").expect("a warehouse").base().to_owned();
    let section = format!(
        "uri: {}\nwarehouse: lakehouse\nallowed_locations: ['{base}']\ncredentials: {{ type: oauth2, client_id: engineer-client-id, \
         client_secret: engineer-secret }}",
        lake.polaris.uri()
    );
    let section: RestConfig = serde_saphyr::from_str(&section).expect("a section");
    let catalog = CatalogName::from("rest");
    let catalogs = BTreeMap::from([(catalog.clone(), CatalogConfig::Rest(Box::new(section)))]);
    let config = Config { max_staleness: std::time::Duration::ZERO, ..Config::default() };
    let relay = Relay::bind(config, catalogs, BTreeMap::new()).await.expect("a relay");
    let stop = CancellationToken::new();
    let _ended = stop.clone().drop_guard();
    tokio::spawn(std::sync::Arc::clone(&relay).serve(stop));
    let worker = relay.admit(WorkerGrant { credential: Credential::service(), catalogs: vec![catalog.clone()] });
    let client = reqwest::Client::new();
    let handed = async |table: &str| {
        let uri = format!("{}/v1/rest/namespaces/gold/tables/{table}", relay.endpoint());
        let answer = client.get(uri).bearer_auth(worker.as_str()).send().await.expect("an answer");
        answer.bytes().await.expect("a table").len()
    };
    lake.polaris.log().clear();
    let loaded = async |table: &str| {
        let table = TableRef { catalog: catalog.clone(), namespace: Namespace::from_schema("gold"), table: table.to_owned() };
        for _ in 0..3 {
            relay.load(&Credential::service(), &table).await.expect("a table");
        }
    };
    // What was loaded is handed on for a moment only.
    loaded("short0").await;
    let short = handed("short0").await;
    loaded("long0").await;
    let long = handed("long0").await;
    assert!(long < short + short / 10, "{long} bytes of the long table, {short} of the short one");
    relay.grant(&worker, LeaseTerms { whole_metadata: true, ..LeaseTerms::default() });
    let whole = handed("long0").await;
    assert!(whole > 100 * long, "{whole} bytes with its history: it is there for who asks for it");
    let loads = lake.loads();
    let read: Vec<_> = loads.iter().filter(|load| load.status == Some(200)).collect();
    assert_eq!((loads.len(), read.len()), (6, 2), "each is read once, and then known by its mark: {loads:?}");

    let mut reader = lake.gateway.client().await;
    assert_eq!(number(&mut reader, "SELECT count(*) FROM rest.gold.long0").await, 100);
    let past = format!("SELECT count(*) FROM rest.gold.long0 AT (VERSION => {})", SNAPSHOTS / 2);
    assert_eq!(number(&mut reader, &past).await, 100);
}
