//! The endpoints, and what a lease allows.

use super::*;

#[tokio::test]
async fn a_request_without_a_known_token_gets_401() {
    let bench = Bench::new().await;
    let url = format!("{}/v1/config?warehouse=lake", bench.relay.endpoint());
    assert_eq!(bench.http.get(&url).send().await.unwrap().status(), 401);
    assert_eq!(bench.http.get(&url).bearer_auth("guess").send().await.unwrap().status(), 401);
    assert_eq!(bench.get("config?warehouse=lake").await.0, 200);
    bench.relay.expel(&bench.worker);
    assert_eq!(bench.get("config?warehouse=lake").await.0, 401);
    assert_eq!(bench.get("nowhere").await.0, 401);
}

#[tokio::test]
async fn the_prefix_is_the_catalogs_name_and_the_endpoints_are_told() {
    let bench = Bench::new().await;
    let (_, config) = bench.get("config?warehouse=lake").await;
    assert_eq!(config["overrides"]["prefix"], "lake");
    assert!(config["endpoints"].as_array().unwrap().contains(&json!("POST /v1/{prefix}/transactions/commit")));
    let (status, error) = bench.get("config?warehouse=swamp").await;
    assert_eq!(status, 404);
    assert_eq!(error["error"]["message"], "catalog \"swamp\" does not exist");
}

#[tokio::test]
async fn a_worker_reaches_only_the_catalogs_of_its_grant() {
    let bench = Bench::new().await;
    let stranger = bench.relay.admit(WorkerGrant { credential: credential(), catalogs: Vec::new() });
    assert_eq!(bench.call_as(&stranger, Method::GET, "lake/namespaces", None).await.0, 404);
    bench.relay.grant(&stranger, WRITES);
    let body = json!({ "namespace": ["gold"] });
    assert_eq!(bench.call_as(&stranger, Method::POST, "lake/namespaces", Some(body)).await.0, 404);
}

#[tokio::test]
async fn without_a_writing_lease_nothing_can_be_changed() {
    let (bench, _) = Bench::new().await.with_table().await;
    let reads_only = LeaseTerms { whole_metadata: true, ..LeaseTerms::default() };
    for terms in [None, Some(reads_only)] {
        match terms {
            None => bench.relay.clear(&bench.worker),
            Some(terms) => bench.relay.grant(&bench.worker, terms),
        }
        for (method, path, body) in [
            (Method::POST, "lake/namespaces", json!({ "namespace": ["x"] })),
            (Method::DELETE, "lake/namespaces/gold", Value::Null),
            (Method::POST, "lake/namespaces/gold/properties", json!({ "updates": { "a": "b" } })),
            (Method::POST, "lake/namespaces/gold/tables", new_table("u")),
            (Method::DELETE, "lake/namespaces/gold/tables/t", Value::Null),
            (
                Method::POST,
                "lake/tables/rename",
                json!({
                "source": { "namespace": ["gold"], "name": "t" }, "destination": { "namespace": ["gold"], "name": "u" } }),
            ),
        ] {
            let (status, answer) = bench.call(method, path, Some(body)).await;
            assert_eq!(status, 403, "{path}: {answer}");
        }
    }
    assert_eq!(
        *bench.relay.tables(&credential(), &name(), &Namespace::from_schema("gold"), &no_ceiling(), None).await.unwrap(),
        ["t"]
    );
}

#[tokio::test]
async fn a_commit_without_a_live_lease_gets_409() {
    let (bench, location) = Bench::new().await.with_table().await;
    let change = append("t", &location, None, 1, now_ms());
    bench.relay.clear(&bench.worker);
    let (status, answer) = bench.transact(vec![change.clone()]).await;
    assert_eq!(status, 409);
    assert_eq!(answer["error"]["type"], "CommitFailedException");
    assert_eq!(bench.post("lake/namespaces/gold/tables/t", change.clone()).await.0, 409);
    bench.relay.grant(&bench.worker, WRITES);
    assert_eq!(bench.transact(vec![change]).await.0, 204);
}

#[tokio::test]
async fn readers_get_trimmed_metadata_and_leases_with_whole_metadata_all_of_it() {
    let (bench, location) = Bench::new().await.with_table().await;
    for (parent, id) in [(None, 1), (Some(1), 2), (Some(2), 3)] {
        assert_eq!(bench.transact(vec![append("t", &location, parent, id, now_ms() + id)]).await.0, 204);
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    bench.relay.grant(&bench.worker, WRITES);
    let whole = bench.metadata("t").await;
    assert_eq!(snapshot_ids(&whole), [1, 2, 3]);
    bench.relay.clear(&bench.worker);
    let trimmed = bench.metadata("t").await;
    assert_eq!(snapshot_ids(&trimmed), [3]);
    assert_eq!(trimmed["snapshots"][0]["timestamp-ms"], 1);
    assert_eq!(trimmed["snapshot-log"], json!([{ "snapshot-id": 3, "timestamp-ms": 1 }]));
    assert_eq!((&trimmed["metadata-log"], &trimmed["last-updated-ms"]), (&json!([]), &json!(1)));
    for kept in ["schemas", "refs", "last-sequence-number", "table-uuid", "location", "partition-specs", "properties"] {
        assert_eq!(trimmed[kept], whole[kept], "{kept}");
    }
    bench.relay.grant(&bench.worker, LeaseTerms { whole_metadata: true, ..LeaseTerms::default() });
    assert_eq!(bench.metadata("t").await, whole);
}

#[tokio::test]
async fn namespaces_and_tables_are_made_listed_renamed_and_dropped() {
    let (bench, _) = Bench::new().await.with_table().await;
    assert_eq!(bench.post("lake/namespaces", json!({ "namespace": ["gold", "eu"], "properties": { "a": "b" } })).await.0, 200);
    assert_eq!(bench.get("lake/namespaces").await.1["namespaces"], json!([["gold"]]));
    assert_eq!(bench.get("lake/namespaces?parent=gold").await.1["namespaces"], json!([["gold", "eu"]]));
    let (_, eu) = bench.get("lake/namespaces/gold%1Feu").await;
    assert_eq!(eu, json!({ "namespace": ["gold", "eu"], "properties": { "a": "b" } }));
    let changed = bench.post("lake/namespaces/gold%1Feu/properties", json!({ "removals": ["a"], "updates": { "c": "d" } })).await;
    assert_eq!(changed.0, 200);
    assert_eq!(bench.get("lake/namespaces/gold%1Feu").await.1["properties"], json!({ "c": "d" }));
    assert_eq!(bench.call(Method::HEAD, "lake/namespaces/gold%1Feu", None).await.0, 200);
    assert_eq!(bench.call(Method::HEAD, "lake/namespaces/no", None).await.0, 404);
    let twice = bench.post("lake/namespaces", json!({ "namespace": ["gold"] })).await;
    assert_eq!((twice.0.as_u16(), &twice.1["error"]["type"]), (409, &json!("AlreadyExistsException")));

    let all = bench.relay.namespaces(&credential(), &name(), &no_ceiling(), None).await.unwrap();
    assert_eq!(*all, [Namespace::from_schema("gold"), Namespace::from_schema("gold.eu")]);
    assert!(bench.relay.namespace_exists(&credential(), &name(), &all[1]).await.unwrap());
    assert!(!bench.relay.namespace_exists(&credential(), &name(), &Namespace::from_schema("no")).await.unwrap());

    let rename = json!({
        "source": { "namespace": ["gold"], "name": "t" },
        "destination": { "namespace": ["gold", "eu"], "name": "u v" },
    });
    assert_eq!(bench.post("lake/tables/rename", rename).await.0, 204);
    assert_eq!(bench.get("lake/namespaces/gold/tables").await.1["identifiers"], json!([]));
    let listed = bench.get("lake/namespaces/gold%1Feu/tables").await.1;
    assert_eq!(listed["identifiers"], json!([{ "namespace": ["gold", "eu"], "name": "u v" }]));
    assert_eq!(bench.get("lake/namespaces/gold%1Feu/tables/u%20v").await.0, 200);
    assert_eq!(bench.call(Method::DELETE, "lake/namespaces/gold", None).await.0, 409);
    assert_eq!(bench.call(Method::DELETE, "lake/namespaces/gold%1Feu/tables/u%20v?purgeRequested=true", None).await.0, 204);
    let (status, error) = bench.get("lake/namespaces/gold%1Feu/tables/u%20v").await;
    assert_eq!((status.as_u16(), &error["error"]["type"]), (404, &json!("NoSuchTableException")));
    assert_eq!(bench.call(Method::DELETE, "lake/namespaces/gold%1Feu", None).await.0, 204);
}

#[tokio::test]
async fn the_columns_of_a_table_are_told_in_sql_and_arrow() {
    let (bench, _) = Bench::new().await.with_table().await;
    let columns = bench.relay.loaded_columns(&credential(), &table("t")).await.unwrap();
    let seen: Vec<(&str, &str, bool)> =
        columns.iter().map(|column| (column.name.as_str(), column.sql_type.as_str(), column.nullable)).collect();
    assert_eq!(seen, [("id", "BIGINT", false), ("amount", "DECIMAL(12,2)", true)]);
    assert_eq!(columns[0].comment.as_deref(), Some("the key"));
    let missing = bench.relay.loaded_columns(&credential(), &table("no")).await.unwrap_err();
    assert_eq!(missing.to_string(), "table \"gold.no\" does not exist in catalog \"lake\"");
}

#[tokio::test]
async fn the_gateways_own_calls_can_be_spawned() {
    let (bench, _) = Bench::new().await.with_table().await;
    let relay = bench.relay.clone();
    let spawned = tokio::spawn(async move {
        let gold = Namespace::from_schema("gold");
        relay.load(&credential(), &table("t")).await?;
        relay.loaded_columns(&credential(), &table("t")).await?;
        relay.namespace_exists(&credential(), &name(), &gold).await?;
        relay.namespaces(&credential(), &name(), &no_ceiling(), None).await?;
        relay.tables(&credential(), &name(), &gold, &no_ceiling(), None).await
    });
    assert_eq!(*spawned.await.unwrap().unwrap(), ["t"]);
    let _ = tokio::spawn(Relay::bind(config(), BTreeMap::new(), BTreeMap::new())).await.unwrap().unwrap();
}

#[tokio::test]
async fn staged_tables_are_not_there_before_their_commit() {
    let (bench, _) = Bench::new().await.with_table().await;
    let mut request = new_table("u");
    request["stage-create"] = json!(true);
    let (status, staged) = bench.post("lake/namespaces/gold/tables", request).await;
    assert_eq!(status, 200);
    assert!(staged.get("metadata-location").is_none());
    let location = staged["metadata"]["location"].as_str().unwrap().to_owned();
    assert!(path_of(&location).join("metadata").is_dir());
    assert_eq!(bench.get("lake/namespaces/gold/tables/u").await.0, 404);
    let mut first = append("u", &location, None, 1, now_ms());
    first["requirements"] = json!([{ "type": "assert-create" }]);
    let updates = first["updates"].as_array_mut().unwrap();
    updates.insert(0, json!({ "action": "set-location", "location": location }));
    updates.insert(0, json!({ "action": "add-schema", "schema": staged["metadata"]["schemas"][0] }));
    assert_eq!(bench.post("lake/namespaces/gold/tables/u", first).await.0, 200);
    // The 404 from before is not remembered.
    assert_eq!(snapshot_ids(&bench.metadata("u").await), [1]);
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_restart() {
    let (bench, location) = Bench::new().await.with_table().await;
    assert_eq!(bench.transact(vec![append("t", &location, None, 1, now_ms())]).await.0, 204);
    let directory = bench.directory.clone();
    drop(bench);
    let bench = Bench::at(directory, config()).await;
    assert_eq!(snapshot_ids(&bench.metadata("t").await), [1]);
}

#[tokio::test]
async fn a_relay_whose_stop_is_called_stops() {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let lake = CatalogConfig::Embedded { path: directory.path().join("lake") };
    let relay = Relay::bind(config(), BTreeMap::from([(name(), lake)]), BTreeMap::new()).await.unwrap();
    let stop = CancellationToken::new();
    let served = tokio::spawn(relay.clone().serve(stop.clone()));
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), served).await.unwrap().unwrap().unwrap();
    assert!(relay.serve(stop).await.is_err(), "it is served once");
}
