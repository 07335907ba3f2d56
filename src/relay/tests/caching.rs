//! The table cache in front of a catalog.

use std::sync::atomic::Ordering;

use super::faults::Faulty;
use super::*;
use crate::names::CredentialId;
use crate::relay::cache::{Step, Wanted};
use crate::relay::upstream::Purpose;

pub(super) async fn counted(config: Config) -> (Bench, String, Arc<Faulty>) {
    let mut faulty = None;
    let bench = Bench::behind(config, |inner| {
        let made = Faulty::gated(inner);
        faulty = Some(made.clone());
        made
    })
    .await;
    let (bench, location) = bench.with_table().await;
    (bench, location, faulty.unwrap())
}

impl Faulty {
    /// Holds back all answers to loads until permits are added.
    pub(super) fn close(&self) {
        let gate = self.gate.as_ref().unwrap();
        gate.forget_permits(gate.available_permits());
    }

    pub(super) fn open(&self) {
        self.gate.as_ref().unwrap().add_permits(1_000_000);
    }

    pub(super) fn loads(&self) -> u64 {
        self.loads.load(Ordering::SeqCst)
    }

    async fn until_loads(&self, count: u64) {
        while self.loads() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn many_who_ask_at_once_make_one_call() {
    let (bench, _, catalog) = counted(config()).await;
    catalog.close();
    let (credential, table) = (credential(), table("t"));
    let asked = futures::future::join_all((0..20).map(|_| bench.relay.load(&credential, &table)));
    let opened = async {
        catalog.until_loads(1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        catalog.open();
    };
    let (answers, ()) = tokio::join!(asked, opened);
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(catalog.loads(), 1);
    bench.metadata("t").await;
    assert_eq!(catalog.loads(), 1, "what was loaded ahead is there for the worker");
}

#[tokio::test]
async fn an_old_entry_is_asked_about_by_its_mark() {
    let (bench, _, catalog) = counted(Config { max_staleness: Duration::from_millis(50), ..config() }).await;
    bench.metadata("t").await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    bench.metadata("t").await;
    assert_eq!(catalog.loads(), 1, "to one statement that writes, a table is as it was when it began");
    bench.begins_another_statement();
    let seen = bench.metadata("t").await;
    assert_eq!((catalog.loads(), catalog.unchanged.load(Ordering::SeqCst)), (2, 1));
    assert_eq!(seen["location"].as_str().unwrap().split('/').next_back().unwrap().split('-').next(), Some("t"));
}

#[tokio::test]
async fn a_commit_made_elsewhere_is_seen_within_the_staleness_bound() {
    let (bench, _) =
        Bench::at(Arc::new(tempfile::tempdir().unwrap()), Config { max_staleness: Duration::from_millis(50), ..config() })
            .await
            .with_table()
            .await;
    let (other, _) = (Bench::at(bench.directory.clone(), config()).await, ());
    other.relay.grant(&other.worker, WRITES);
    bench.metadata("t").await;
    assert_eq!(other.transact(vec![set_property("t", "a", "b")]).await.0, 204);
    tokio::time::sleep(Duration::from_millis(60)).await;
    bench.begins_another_statement();
    assert_eq!(bench.metadata("t").await["properties"]["a"], "b");
}

#[tokio::test]
async fn own_commits_are_seen_at_once() {
    let (bench, location) =
        Bench::at(Arc::new(tempfile::tempdir().unwrap()), Config { max_staleness: Duration::from_secs(3600), ..config() })
            .await
            .with_table()
            .await;
    for id in 1..5 {
        bench.metadata("t").await;
        let parent = (id > 1).then_some(id - 1);
        assert_eq!(bench.transact(vec![append("t", &location, parent, id, now_ms() + id)]).await.0, 204);
        assert_eq!(bench.metadata("t").await["current-snapshot-id"], id);
    }
    // A refused commit says that the head has moved, so what is known of it is forgotten too.
    assert_eq!(bench.transact(vec![append("t", &location, Some(1), 9, now_ms())]).await.0, 409);
    assert!(bench.relay.cache.peek(credential().id(), &table("t")).is_none());
    let rename = json!({
        "source": { "namespace": ["gold"], "name": "t" },
        "destination": { "namespace": ["gold"], "name": "u" },
    });
    bench.metadata("t").await;
    assert_eq!(bench.get("lake/namespaces/gold/tables/u").await.0, 404);
    assert_eq!(bench.post("lake/tables/rename", rename).await.0, 204);
    assert_eq!(bench.get("lake/namespaces/gold/tables/t").await.0, 404);
    bench.metadata("u").await;
    assert_eq!(bench.call(Method::DELETE, "lake/namespaces/gold/tables/u", None).await.0, 204);
    assert_eq!(bench.get("lake/namespaces/gold/tables/u").await.0, 404);
}

#[tokio::test]
async fn a_load_begun_before_a_commit_is_never_stored() {
    let (bench, location, catalog) = counted(Config { max_staleness: Duration::from_secs(3600), ..config() }).await;
    catalog.close();
    let (credential, table) = (credential(), table("t"));
    let early = bench.relay.loaded_columns(&credential, &table);
    let commit = async {
        // The early load has its answer from before the commit, and is held back with it.
        catalog.until_loads(1).await;
        assert_eq!(bench.transact(vec![append("t", &location, None, 1, now_ms())]).await.0, 204);
        let late = bench.relay.load(&credential, &table);
        let opened = async {
            catalog.until_loads(2).await;
            catalog.open();
        };
        tokio::join!(late, opened).0.unwrap();
    };
    let (early, ()) = tokio::join!(early, commit);
    early.unwrap();
    assert_eq!(bench.metadata("t").await["current-snapshot-id"], 1);
    assert_eq!(catalog.loads(), 2, "who asked after the commit did not join the early load, and its result stayed");
}

#[tokio::test]
async fn a_load_that_nobody_waits_for_any_more_holds_nobody_up() {
    let (bench, _, catalog) = counted(Config { max_staleness: Duration::from_secs(3600), ..config() }).await;
    catalog.close();
    let (credential, table) = (credential(), table("t"));
    let given_up = tokio::time::timeout(Duration::from_millis(30), bench.relay.load(&credential, &table)).await;
    assert!(given_up.is_err());
    catalog.open();
    tokio::time::timeout(Duration::from_secs(5), bench.relay.load(&credential, &table)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_load_that_takes_longer_than_the_staleness_bound_is_remembered_until_a_commit() {
    let (bench, _, catalog) = counted(Config { max_staleness: Duration::from_millis(50), ..config() }).await;
    catalog.close();
    let ask = || {
        let relay = bench.relay.clone();
        tokio::spawn(async move { relay.load(&credential(), &table("t")).await })
    };
    let known = || bench.relay.cache.peek(credential().id(), &table("t")).is_some();
    let first = ask();
    catalog.until_loads(1).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    let second = ask();
    catalog.until_loads(2).await;
    catalog.gate.as_ref().unwrap().add_permits(1);
    first.await.unwrap().unwrap();
    assert!(known(), "the second has taken its place, and has not ended either");
    bench.relay.cache.forget(&table("t"));
    catalog.open();
    second.await.unwrap().unwrap();
    assert!(!known(), "it began before the table was forgotten");
}

#[tokio::test]
async fn the_first_who_asked_may_go_away_without_harm_to_the_others() {
    let (bench, _, catalog) = counted(config()).await;
    catalog.close();
    let ask = || {
        let relay = bench.relay.clone();
        tokio::spawn(async move { relay.load(&credential(), &table("t")).await })
    };
    let first = ask();
    catalog.until_loads(1).await;
    let others = [ask(), ask()];
    tokio::time::sleep(Duration::from_millis(20)).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    catalog.open();
    for other in others {
        other.await.unwrap().unwrap();
    }
    assert_eq!(catalog.loads(), 1);
}

#[tokio::test]
async fn a_missing_table_is_asked_for_once_in_a_while() {
    let (bench, _, catalog) = counted(Config { negative_ttl: Duration::from_millis(1500), ..config() }).await;
    for _ in 0..6 {
        assert_eq!(bench.get("lake/namespaces/gold/tables/no").await.0, 404);
    }
    assert_eq!(catalog.loads(), 1);
    tokio::time::sleep(Duration::from_millis(1550)).await;
    bench.begins_another_statement();
    assert_eq!(bench.get("lake/namespaces/gold/tables/no").await.0, 404);
    assert_eq!(catalog.loads(), 2);
    bench.create("no").await;
    bench.metadata("no").await;
}

#[tokio::test]
async fn what_one_credential_may_see_is_not_shown_to_another() {
    let (bench, _, catalog) = counted(config()).await;
    let (one, two) = (CredentialId::from("one"), CredentialId::from("two"));
    let view = bench.relay.view(&credential(), &name()).unwrap();
    for viewer in [&one, &two, &one] {
        let wanted = Wanted { viewer, table: &table("t"), purpose: Purpose::Data, step: Step::begins(), strict: false };
        bench.relay.cache.get(wanted, &view.upstream, &view.confinement).await.unwrap();
    }
    assert_eq!(catalog.loads(), 2);
    bench.relay.cache.forget(&table("t"));
    assert!(bench.relay.cache.peek(&one, &table("t")).is_none());
    assert!(bench.relay.cache.peek(&two, &table("t")).is_none());
}

#[tokio::test]
async fn the_cache_keeps_to_its_bytes() {
    let (bench, _) =
        Bench::at(Arc::new(tempfile::tempdir().unwrap()), Config { cache_bytes: 20_000, ..config() }).await.with_table().await;
    for number in 0..40 {
        let name = format!("t{number}");
        bench.create(&name).await;
        bench.metadata(&name).await;
    }
    assert!(bench.relay.cache.bytes() <= 20_000, "{}", bench.relay.cache.bytes());
}

#[tokio::test]
async fn metadata_that_points_elsewhere_is_not_handed_out() {
    let (bench, location) = Bench::new().await.with_table().await;
    let metadata = bench.metadata("t").await;
    let (_, loaded) = bench.get("lake/namespaces/gold/tables/t").await;
    let file = path_of(loaded["metadata-location"].as_str().unwrap()).to_owned();
    let mut moved = metadata.clone();
    moved["location"] = json!("file:///etc");
    let mut listed = metadata.clone();
    listed["snapshots"] = json!([{ "snapshot-id": 1, "timestamp-ms": 1, "manifest-list": format!("{location}/../../../x") }]);
    let mut placed = metadata.clone();
    placed["properties"] = json!({ "write.data.path": "s3://elsewhere/x" });
    for (bad, what) in [(moved, "the table"), (listed, "a manifest list"), (placed, "property write.data.path")] {
        std::fs::write(&file, bad.to_string()).unwrap();
        bench.relay.cache.forget(&table("t"));
        let (status, answer) = bench.get("lake/namespaces/gold/tables/t").await;
        assert_eq!(status, 403);
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.starts_with(what), "{message}");
    }
}

#[tokio::test]
async fn a_commit_is_answered_although_its_table_cannot_be_read_again() {
    let (bench, location, catalog) = counted(config()).await;
    catalog.close();
    let change = append("t", &location, None, 1, now_ms());
    let answered = tokio::time::timeout(Duration::from_secs(10), bench.post("lake/namespaces/gold/tables/t", change)).await;
    assert_eq!(answered.unwrap(), (StatusCode::OK, json!({})));
    catalog.open();
    assert_eq!(snapshot_ids(&bench.metadata("t").await), [1]);
}
