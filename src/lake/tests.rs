//! The embedded catalog on a real directory and a real database.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use iceberg::io::LocalFsStorageFactory;
use iceberg::{Catalog as _, CatalogBuilder as _, TableIdent};
use iceberg_catalog_sql::{SqlBindStyle, SqlCatalogBuilder};
use serde_json::{Value, json};

use super::LakeError;
use super::catalog::{Catalog, Change, NewTable};
use crate::names::Namespace;

async fn catalog() -> (tempfile::TempDir, Catalog) {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(&directory.path().join("lake")).await.unwrap();
    (directory, catalog)
}

fn namespace(schema: &str) -> Namespace {
    Namespace::from_schema(schema)
}

fn new_table(name: &str) -> NewTable {
    serde_json::from_value(json!({
        "name": name,
        "schema": { "type": "struct", "schema-id": 0, "fields": [
            { "id": 1, "name": "id", "required": false, "type": "long" },
        ] },
    }))
    .unwrap()
}

async fn with_table(schema: &str, table: &str) -> (tempfile::TempDir, Catalog, Namespace) {
    let (directory, catalog) = catalog().await;
    let namespace = namespace(schema);
    catalog.create_namespace(&namespace, &BTreeMap::new()).await.unwrap();
    catalog.create_table(&namespace, new_table(table)).await.unwrap();
    (directory, catalog, namespace)
}

async fn metadata(catalog: &Catalog, namespace: &Namespace, table: &str) -> Value {
    serde_json::from_slice(&catalog.load(namespace, table).await.unwrap().metadata).unwrap()
}

fn set_property(namespace: &Namespace, table: &str, key: &str, requirements: Vec<Value>) -> Change {
    Change {
        namespace: namespace.clone(),
        table: table.to_owned(),
        requirements,
        updates: vec![json!({ "action": "set-properties", "updates": { key: "yes" } })],
    }
}

/// A commit of one snapshot on a head, as DuckDB sends it.
fn append(namespace: &Namespace, table: &str, location: &str, parent: Option<i64>, id: i64) -> Change {
    let mut snapshot = json!({
        "snapshot-id": id,
        "sequence-number": parent.map_or(1, |_| 2),
        "timestamp-ms": 1_800_000_000_000_i64 + id,
        "manifest-list": format!("{location}/metadata/snap-{id}.avro"),
        "summary": { "operation": "append" },
        "schema-id": 0,
    });
    if let Some(parent) = parent {
        snapshot["parent-snapshot-id"] = json!(parent);
    }
    Change {
        namespace: namespace.clone(),
        table: table.to_owned(),
        requirements: vec![json!({ "type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": parent })],
        updates: vec![
            json!({ "action": "add-snapshot", "snapshot": snapshot }),
            json!({ "action": "set-snapshot-ref", "ref-name": "main", "type": "branch", "snapshot-id": id }),
        ],
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn namespaces_nest_and_a_list_holds_only_the_next_level() {
    let (_directory, catalog) = catalog().await;
    for name in ["a", "a.b", "a.b.c", "ab"] {
        catalog.create_namespace(&namespace(name), &BTreeMap::new()).await.unwrap();
    }
    assert_eq!(catalog.list_namespaces(None).await.unwrap(), [namespace("a"), namespace("ab")]);
    assert_eq!(catalog.list_namespaces(Some(&namespace("a"))).await.unwrap(), [namespace("a.b")]);
    assert!(matches!(catalog.list_namespaces(Some(&namespace("x"))).await, Err(LakeError::NoSuchNamespace(_))));
    let orphan = catalog.create_namespace(&namespace("x.y"), &BTreeMap::new()).await;
    assert!(matches!(orphan, Err(LakeError::NoSuchNamespace(_))));
    let twice = catalog.create_namespace(&namespace("a"), &BTreeMap::new()).await;
    assert!(matches!(twice, Err(LakeError::NamespaceExists(_))));
    let empty = catalog.create_namespace(&Namespace::new(vec![String::new()]), &BTreeMap::new()).await;
    assert!(matches!(empty, Err(LakeError::Invalid(_))));
    let dotted = catalog.create_namespace(&Namespace::new(vec!["a.b".to_owned()]), &BTreeMap::new()).await;
    assert!(matches!(dotted, Err(LakeError::Invalid(_))));
}

#[tokio::test]
async fn properties_of_a_namespace_are_set_and_removed() {
    let (_directory, catalog) = catalog().await;
    let gold = namespace("gold");
    let first = BTreeMap::from([("owner".to_owned(), "me".to_owned()), ("x".to_owned(), "1".to_owned())]);
    catalog.create_namespace(&gold, &first).await.unwrap();
    assert_eq!(catalog.namespace_properties(&gold).await.unwrap(), first);
    let updates = BTreeMap::from([("owner".to_owned(), "you".to_owned())]);
    catalog.update_namespace(&gold, &["x".to_owned(), "exists".to_owned()], &updates).await.unwrap();
    assert_eq!(catalog.namespace_properties(&gold).await.unwrap(), updates);
    assert!(matches!(catalog.namespace_properties(&namespace("no")).await, Err(LakeError::NoSuchNamespace(_))));
}

#[tokio::test]
async fn a_namespace_that_holds_something_is_not_dropped() {
    let (_directory, catalog, gold) = with_table("gold", "t").await;
    assert!(matches!(catalog.drop_namespace(&gold).await, Err(LakeError::NamespaceNotEmpty(_))));
    catalog.drop_table(&gold, "t", false).await.unwrap();
    catalog.create_namespace(&namespace("gold.sub"), &BTreeMap::new()).await.unwrap();
    assert!(matches!(catalog.drop_namespace(&gold).await, Err(LakeError::NamespaceNotEmpty(_))));
    catalog.drop_namespace(&namespace("gold.sub")).await.unwrap();
    catalog.drop_namespace(&gold).await.unwrap();
    assert!(matches!(catalog.drop_namespace(&gold).await, Err(LakeError::NoSuchNamespace(_))));
}

#[tokio::test]
async fn a_created_table_has_its_directories_and_can_be_renamed_and_dropped() {
    let (_directory, catalog, gold) = with_table("gold", "t").await;
    let location = metadata(&catalog, &gold, "t").await["location"].as_str().unwrap().to_owned();
    let path = PathBuf::from(location.strip_prefix("file://").unwrap());
    assert!(path.join("metadata").is_dir() && path.join("data").is_dir());
    let again = catalog.create_table(&gold, new_table("t")).await;
    assert!(matches!(again, Err(LakeError::TableExists(..))));

    catalog.create_table(&gold, new_table("u")).await.unwrap();
    let taken = catalog.rename_table((&gold, "t"), (&gold, "u")).await;
    assert!(matches!(taken, Err(LakeError::TableExists(..))));
    let nowhere = catalog.rename_table((&gold, "t"), (&namespace("no"), "t")).await;
    assert!(matches!(nowhere, Err(LakeError::NoSuchNamespace(_))));
    let missing = catalog.rename_table((&gold, "no"), (&gold, "v")).await;
    assert!(matches!(missing, Err(LakeError::NoSuchTable(..))));
    catalog.rename_table((&gold, "t"), (&gold, "v")).await.unwrap();
    assert_eq!(catalog.list_tables(&gold).await.unwrap(), ["u", "v"]);
    assert_eq!(metadata(&catalog, &gold, "v").await["location"], location);

    catalog.drop_table(&gold, "u", false).await.unwrap();
    catalog.drop_table(&gold, "v", true).await.unwrap();
    assert!(!path.exists(), "a purged table leaves nothing");
    assert!(matches!(catalog.load(&gold, "v").await, Err(LakeError::NoSuchTable(..))));
    assert!(matches!(catalog.drop_table(&gold, "v", true).await, Err(LakeError::NoSuchTable(..))));
}

#[tokio::test]
async fn of_two_commits_on_one_head_one_is_refused() {
    let (_directory, catalog, gold) = with_table("gold", "t").await;
    let location = metadata(&catalog, &gold, "t").await["location"].as_str().unwrap().to_owned();
    let (one, two) = (append(&gold, "t", &location, None, 11), append(&gold, "t", &location, None, 12));
    let (one, two) = tokio::join!(catalog.commit(std::slice::from_ref(&one)), catalog.commit(std::slice::from_ref(&two)));
    assert_eq!([one.is_ok(), two.is_ok()].iter().filter(|made| **made).count(), 1);
    assert!(matches!(one.and(two), Err(LakeError::Conflict(_))));
    assert_eq!(metadata(&catalog, &gold, "t").await["snapshots"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn commits_through_two_openings_of_one_directory_lose_nothing() {
    let (directory, catalog, gold) = with_table("gold", "t").await;
    let other = Catalog::open(&directory.path().join("lake")).await.unwrap();
    let (catalog, other) = (Arc::new(catalog), Arc::new(other));
    let mut commits = Vec::new();
    for number in 0..20 {
        let (catalog, gold) = (if number % 2 == 0 { &catalog } else { &other }.clone(), gold.clone());
        commits.push(tokio::spawn(async move {
            // They require nothing of the head, so each must get through although the head moves all the time.
            let change = set_property(&gold, "t", &format!("k{number}"), Vec::new());
            loop {
                match catalog.commit(std::slice::from_ref(&change)).await {
                    Ok(_) => return,
                    Err(LakeError::Conflict(_)) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        }));
    }
    for commit in commits {
        commit.await.unwrap();
    }
    assert_eq!(metadata(&catalog, &gold, "t").await["properties"].as_object().unwrap().len(), 20);
}

#[tokio::test]
async fn a_commit_of_several_tables_is_made_whole_or_not_at_all() {
    let (directory, catalog, gold) = with_table("gold", "t").await;
    catalog.create_table(&gold, new_table("u")).await.unwrap();
    let files_before = files_below(directory.path()).len();
    let wrong = json!({ "type": "assert-table-uuid", "uuid": "00000000-0000-0000-0000-000000000000" });
    let changes = [set_property(&gold, "t", "a", Vec::new()), set_property(&gold, "u", "a", vec![wrong])];
    assert!(matches!(catalog.commit(&changes).await, Err(LakeError::Conflict(_))));
    for table in ["t", "u"] {
        assert!(metadata(&catalog, &gold, table).await["properties"].get("a").is_none());
    }
    assert_eq!(files_below(directory.path()).len(), files_before, "a refused commit leaves no metadata file");

    let changes = [set_property(&gold, "t", "a", Vec::new()), set_property(&gold, "u", "a", Vec::new())];
    catalog.commit(&changes).await.unwrap();
    for table in ["t", "u"] {
        assert_eq!(metadata(&catalog, &gold, table).await["properties"]["a"], "yes");
    }
}

#[tokio::test]
async fn everything_committed_is_there_after_a_restart_and_stray_files_do_no_harm() {
    let (directory, catalog, gold) = with_table("gold", "t").await;
    catalog.commit(&[set_property(&gold, "t", "a", Vec::new())]).await.unwrap();
    let location = metadata(&catalog, &gold, "t").await["location"].as_str().unwrap().to_owned();
    drop(catalog);
    // As a crash between the metadata file and the database leaves them.
    let stray = PathBuf::from(location.strip_prefix("file://").unwrap()).join("metadata");
    std::fs::write(stray.join("00002-11111111-1111-1111-1111-111111111111.metadata.json"), "{}").unwrap();
    std::fs::write(stray.join(".half.part"), "{").unwrap();

    let catalog = Catalog::open(&directory.path().join("lake")).await.unwrap();
    assert_eq!(metadata(&catalog, &gold, "t").await["properties"]["a"], "yes");
    catalog.commit(&[set_property(&gold, "t", "b", Vec::new())]).await.unwrap();
    let now = metadata(&catalog, &gold, "t").await;
    assert_eq!((&now["properties"]["a"], &now["properties"]["b"]), (&json!("yes"), &json!("yes")));
    assert_eq!(now["metadata-log"].as_array().unwrap().len(), 2, "older metadata files stay on record");
}

#[tokio::test]
async fn a_staged_table_comes_into_being_with_its_first_commit_and_keeps_its_field_ids() {
    let (_directory, catalog) = catalog().await;
    let gold = namespace("gold");
    catalog.create_namespace(&gold, &BTreeMap::new()).await.unwrap();
    let mut request = new_table("t");
    request.stage_create = true;
    let staged = catalog.create_table(&gold, request).await.unwrap();
    assert!(staged.location.is_none());
    assert!(matches!(catalog.load(&gold, "t").await, Err(LakeError::NoSuchTable(..))));

    let staged: Value = serde_json::from_slice(&staged.metadata).unwrap();
    let location = staged["location"].as_str().unwrap();
    let fields = json!([
        { "id": 7, "name": "d", "required": false, "type": "date" },
        { "id": 9, "name": "s", "required": false, "type": { "type": "struct", "fields": [
            { "id": 12, "name": "x", "required": false, "type": { "type": "list", "element-id": 14, "element": "int", "element-required": false } },
        ] } },
    ]);
    let spec = json!({ "spec-id": 0, "fields": [{ "name": "day", "transform": "day", "source-id": 7, "field-id": 1000 }] });
    let mut first = append(&gold, "t", location, None, 5);
    first.requirements = vec![json!({ "type": "assert-create" })];
    let mut updates = vec![
        json!({ "action": "assign-uuid", "uuid": "01a1fc21-7473-77a8-a202-e8686808e7fc" }),
        json!({ "action": "upgrade-format-version", "format-version": 2 }),
        json!({ "action": "add-schema", "last-column-id": 14, "schema": { "type": "struct", "schema-id": 0, "fields": fields } }),
        json!({ "action": "add-spec", "spec": spec }),
        json!({ "action": "set-default-spec", "spec-id": 0 }),
        json!({ "action": "add-sort-order", "sort-order": { "order-id": 0, "fields": [] } }),
        json!({ "action": "set-default-sort-order", "sort-order-id": 0 }),
        json!({ "action": "set-location", "location": location }),
        json!({ "action": "set-properties", "updates": { "k": "v" } }),
    ];
    updates.append(&mut first.updates);
    updates.push(json!({ "action": "set-current-schema", "schema-id": 0 }));
    first.updates = updates;
    catalog.commit(std::slice::from_ref(&first)).await.unwrap();

    let made = metadata(&catalog, &gold, "t").await;
    assert_eq!(made["table-uuid"], "01a1fc21-7473-77a8-a202-e8686808e7fc");
    assert_eq!(made["schemas"][0]["fields"], fields);
    assert_eq!(made["partition-specs"].as_array().unwrap().len(), 1);
    assert_eq!(made["last-column-id"], 14);
    assert_eq!(made["last-partition-id"], 1000);
    assert_eq!(made["current-snapshot-id"], 5);
    assert_eq!(made["properties"]["k"], "v");
    assert!(matches!(catalog.commit(&[first]).await, Err(LakeError::Conflict(_))), "it is created once");
}

#[tokio::test]
async fn no_name_and_no_location_leads_out_of_the_directory() {
    let (directory, catalog) = catalog().await;
    let up = Namespace::new(vec!["/".to_owned()]);
    catalog.create_namespace(&up, &BTreeMap::new()).await.unwrap();
    catalog.create_table(&up, new_table("../../../x y")).await.unwrap();
    let uri = catalog.uri().to_owned();
    assert!(metadata(&catalog, &up, "../../../x y").await["location"].as_str().unwrap().starts_with(&uri));
    for location in ["file:///tmp/elsewhere", "s3://bucket/x", &format!("{uri}a/../../b"), &uri] {
        let mut table = new_table("t");
        table.location = Some(location.to_owned());
        assert!(matches!(catalog.create_table(&up, table).await, Err(LakeError::Outside(_))), "{location}");
        let mut change = set_property(&up, "../../../x y", "a", Vec::new());
        change.updates = vec![json!({ "action": "set-location", "location": location })];
        assert!(matches!(catalog.commit(&[change]).await, Err(LakeError::Outside(_))), "{location}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_and_changes_nothing() {
    let (_directory, catalog, gold) = with_table("gold", "t").await;
    let before = catalog.metadata_location(&gold, "t").await.unwrap();
    for update in [json!({ "action": "levitate" }), json!({}), json!({ "action": "set-current-schema", "schema-id": 99 })] {
        let mut change = set_property(&gold, "t", "a", Vec::new());
        change.updates.push(update);
        assert!(matches!(catalog.commit(&[change]).await, Err(LakeError::Invalid(_))));
    }
    let missing = catalog.commit(&[set_property(&gold, "no", "a", Vec::new())]).await;
    assert!(matches!(missing, Err(LakeError::NoSuchTable(..))));
    assert_eq!(catalog.metadata_location(&gold, "t").await.unwrap(), before);
}

#[tokio::test]
async fn other_tools_for_sql_catalogs_can_read_it() {
    let (directory, catalog, gold) = with_table("gold", "t").await;
    catalog.commit(&[set_property(&gold, "t", "a", Vec::new())]).await.unwrap();
    let address = format!("sqlite://{}", directory.path().join("lake/catalog.db").display());
    let other = SqlCatalogBuilder::default()
        .uri(address)
        .sql_bind_style(SqlBindStyle::QMark)
        .with_storage_factory(Arc::new(LocalFsStorageFactory))
        .load("polynya", HashMap::new())
        .await
        .unwrap();
    let table = other.load_table(&TableIdent::from_strs(["gold", "t"]).unwrap()).await.unwrap();
    assert_eq!(table.metadata().properties().get("a").map(String::as_str), Some("yes"));
}
