//! What is remembered of lists in front of a catalog.

use std::sync::atomic::Ordering;

use super::caching::counted;
use super::faults::Faulty;
use super::*;
use crate::relay::Extent;
use crate::relay::error::CatalogError;

const LONG: Duration = Duration::from_secs(3600);

fn steady() -> Config {
    Config { max_staleness: LONG, listing_staleness: LONG, negative_ttl: LONG, ..config() }
}

fn gold() -> Namespace {
    Namespace::from_schema("gold")
}

impl Faulty {
    fn lists(&self) -> u64 {
        self.lists.load(Ordering::SeqCst)
    }
}

impl Bench {
    async fn listed(&self, namespace: &str) -> Vec<String> {
        self.relay.tables(&credential(), &name(), &Namespace::from_schema(namespace), &no_ceiling(), None).await.unwrap().to_vec()
    }

    async fn namespaces(&self) -> Vec<String> {
        self.relay
            .namespaces(&credential(), &name(), &no_ceiling(), None)
            .await
            .unwrap()
            .iter()
            .map(Namespace::to_string)
            .collect()
    }

    async fn width(&self, table: &TableRef, extent: Extent) -> usize {
        self.relay.listed_columns(&credential(), table, extent).await.unwrap().len()
    }
}

fn add_column(table: &str) -> Value {
    let mut fields = new_table(table)["schema"]["fields"].clone();
    fields.as_array_mut().unwrap().push(json!({ "id": 3, "name": "more", "required": false, "type": "string" }));
    json!({
        "identifier": { "namespace": ["gold"], "name": table },
        "requirements": [],
        "updates": [
            { "action": "add-schema", "schema": { "type": "struct", "schema-id": 1, "fields": fields }, "last-column-id": 3 },
            { "action": "set-current-schema", "schema-id": -1 },
        ],
    })
}

#[tokio::test]
async fn lists_are_asked_for_once_however_many_want_them() {
    let (bench, _, catalog) = counted(steady()).await;
    let (credential, name, gold, ceiling, before) = (credential(), name(), gold(), &no_ceiling(), catalog.lists());
    let asked = (0..20).map(|_| bench.relay.tables(&credential, &name, &gold, ceiling, None));
    assert!(futures::future::join_all(asked).await.into_iter().all(|listed| *listed.unwrap() == ["t"]));
    assert_eq!(catalog.lists() - before, 1);
    let asked = (0..20).map(|_| bench.relay.namespaces(&credential, &name, ceiling, None));
    assert!(
        futures::future::join_all(asked).await.into_iter().all(|listed| *listed.unwrap() == [Namespace::from_schema("gold")])
    );
    assert_eq!(catalog.lists() - before, 3, "the outermost ones, and what is in the one");
    let table = table("t");
    let asked = (0..20).map(|_| bench.relay.listed_columns(&credential, &table, Extent::Many));
    assert!(futures::future::join_all(asked).await.into_iter().all(|columns| columns.unwrap().len() == 2));
    assert_eq!(catalog.loads(), 1);
}

#[tokio::test]
async fn without_staleness_every_listing_asks() {
    let (bench, _, catalog) = counted(Config { max_staleness: Duration::ZERO, listing_staleness: LONG, ..config() }).await;
    let before = catalog.lists();
    for _ in 0..3 {
        bench.listed("gold").await;
        bench.width(&table("t"), Extent::Few).await;
    }
    assert_eq!((catalog.lists() - before, catalog.loads(), catalog.unchanged.load(Ordering::SeqCst)), (3, 3, 2));
    bench.width(&table("t"), Extent::Many).await;
    assert_eq!(catalog.loads(), 3, "a listing of many has a bound of its own");
}

#[tokio::test]
async fn own_changes_are_in_listings_at_once() {
    let (bench, _) = Bench::at(Arc::new(tempfile::tempdir().unwrap()), steady()).await.with_table().await;
    assert_eq!((bench.namespaces().await, bench.listed("gold").await), (vec!["gold".to_owned()], vec!["t".to_owned()]));
    let missing =
        bench.relay.tables(&credential(), &name(), &Namespace::from_schema("gold.eu"), &no_ceiling(), None).await.unwrap_err();
    assert!(matches!(missing, CatalogError::NoSuchNamespace { .. }), "{missing}");

    assert_eq!(bench.post("lake/namespaces", json!({ "namespace": ["gold", "eu"] })).await.0, 200);
    assert_eq!(bench.namespaces().await, ["gold", "gold.eu"]);
    assert!(bench.listed("gold.eu").await.is_empty());

    bench.create("u").await;
    assert_eq!(bench.listed("gold").await, ["t", "u"]);
    assert_eq!(bench.width(&table("u"), Extent::Many).await, 2);
    assert_eq!(bench.transact(vec![add_column("u")]).await.0, 204);
    assert_eq!(bench.width(&table("u"), Extent::Many).await, 3);

    let rename = json!({
        "source": { "namespace": ["gold"], "name": "u" },
        "destination": { "namespace": ["gold", "eu"], "name": "v" },
    });
    assert_eq!(bench.post("lake/tables/rename", rename).await.0, 204);
    assert_eq!((bench.listed("gold").await, bench.listed("gold.eu").await), (vec!["t".to_owned()], vec!["v".to_owned()]));
    let gone = bench.relay.listed_columns(&credential(), &table("u"), Extent::Many).await.unwrap_err();
    assert_eq!(gone, CatalogError::NoSuchTable(table("u")));

    assert_eq!(bench.call(Method::DELETE, "lake/namespaces/gold%1Feu/tables/v", None).await.0, 204);
    assert!(bench.listed("gold.eu").await.is_empty());
    assert_eq!(bench.call(Method::DELETE, "lake/namespaces/gold%1Feu", None).await.0, 204);
    assert_eq!(bench.namespaces().await, ["gold"]);
}

#[tokio::test]
async fn a_table_that_comes_by_a_commit_is_listed_at_once() {
    let (bench, _) = Bench::at(Arc::new(tempfile::tempdir().unwrap()), steady()).await.with_table().await;
    let mut request = new_table("u");
    request["stage-create"] = json!(true);
    let (_, staged) = bench.post("lake/namespaces/gold/tables", request).await;
    assert_eq!(bench.listed("gold").await, ["t"]);
    let location = staged["metadata"]["location"].as_str().unwrap();
    let updates = json!([
        { "action": "set-location", "location": location },
        { "action": "add-schema", "schema": staged["metadata"]["schemas"][0] },
        { "action": "set-current-schema", "schema-id": -1 },
    ]);
    let first = json!({ "requirements": [{ "type": "assert-create" }], "updates": updates });
    let (status, answer) = bench.post("lake/namespaces/gold/tables/u", first).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(bench.listed("gold").await, ["t", "u"]);
}

#[tokio::test]
async fn a_list_begun_before_a_change_is_never_stored() {
    let (bench, _, catalog) = counted(steady()).await;
    let before = catalog.lists();
    catalog.close();
    let until_lists = async |count: u64| {
        while catalog.lists() - before < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let change = async {
        // The early list has its answer from before the change, and is held back with it.
        until_lists(1).await;
        bench.create("u").await;
        let opened = async {
            until_lists(2).await;
            catalog.open();
        };
        assert_eq!(tokio::join!(bench.listed("gold"), opened).0, ["t", "u"]);
    };
    let (early, ()) = tokio::join!(bench.listed("gold"), change);
    assert_eq!(early, ["t"]);
    assert_eq!(bench.listed("gold").await, ["t", "u"]);
    assert_eq!(catalog.lists() - before, 2, "who asked after the change did not join the early list, and its answer stayed");
}

#[tokio::test]
async fn changes_made_elsewhere_are_listed_within_their_bounds() {
    let soon = Duration::from_millis(50);
    let config = Config { max_staleness: soon, listing_staleness: LONG, negative_ttl: soon, ..config() };
    let (bench, _) = Bench::at(Arc::new(tempfile::tempdir().unwrap()), config).await.with_table().await;
    let other = Bench::at(bench.directory.clone(), self::config()).await;
    other.relay.grant(&other.worker, WRITES);
    assert_eq!((bench.listed("gold").await, bench.width(&table("t"), Extent::Many).await), (vec!["t".to_owned()], 2));
    other.create("u").await;
    assert_eq!(other.transact(vec![add_column("t")]).await.0, 204);
    tokio::time::sleep(soon + Duration::from_millis(10)).await;
    assert_eq!(bench.listed("gold").await, ["t", "u"]);
    assert_eq!(bench.width(&table("t"), Extent::Many).await, 2, "it is not asked about for so long");
    bench.relay.load(&credential(), &table("t")).await.unwrap();
    assert_eq!(bench.width(&table("t"), Extent::Many).await, 3, "what a read has heard since then counts");
}

#[tokio::test]
async fn listed_columns_keep_to_their_bytes_and_out_of_the_table_cache() {
    let config = Config { listing_cache_bytes: 16_000, ..steady() };
    let (bench, _) = Bench::at(Arc::new(tempfile::tempdir().unwrap()), config).await.with_table().await;
    for number in 0..30 {
        bench.create(&format!("t{number}")).await;
    }
    let tables = bench.relay.cache.bytes();
    for number in 0..30 {
        assert_eq!(bench.width(&table(&format!("t{number}")), Extent::Many).await, 2);
    }
    assert!(bench.relay.listed_bytes() <= 16_000, "{}", bench.relay.listed_bytes());
    assert_eq!(bench.relay.cache.bytes(), tables);
}
