//! Commits: atomic, definite, confined.

use std::sync::atomic::Ordering;

use super::faults::{Faulty, Mishap};
use super::*;

/// A bench whose catalog has these mishaps in the commits after the table was made.
async fn with_mishaps(mishaps: &[Mishap]) -> (Bench, String, Arc<Faulty>) {
    let mut faulty = None;
    let bench = Bench::behind(config(), |inner| {
        let made = Faulty::new(inner, mishaps);
        faulty = Some(made.clone());
        made
    })
    .await;
    let (bench, location) = bench.with_table().await;
    (bench, location, faulty.unwrap())
}

#[tokio::test]
async fn of_two_racing_commits_one_gets_409() {
    let (bench, location) = Bench::new().await.with_table().await;
    let (one, two) = tokio::join!(
        bench.transact(vec![append("t", &location, None, 1, now_ms())]),
        bench.transact(vec![append("t", &location, None, 2, now_ms())]),
    );
    let mut statuses = [one.0.as_u16(), two.0.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [204, 409]);
    assert_eq!(snapshot_ids(&bench.metadata("t").await).len(), 1);
}

#[tokio::test]
async fn a_commit_of_several_tables_with_one_failing_requirement_changes_none() {
    let (bench, location) = Bench::new().await.with_table().await;
    let other = bench.create("u").await;
    let changes = vec![append("t", &location, None, 1, now_ms()), append("u", &other, Some(77), 2, now_ms())];
    let (status, answer) = bench.transact(changes).await;
    assert_eq!((status.as_u16(), &answer["error"]["type"]), (409, &json!("CommitFailedException")));
    assert_eq!(snapshot_ids(&bench.metadata("t").await), [0_i64; 0]);
    assert_eq!(snapshot_ids(&bench.metadata("u").await), [0_i64; 0]);
    let changes = vec![append("t", &location, None, 1, now_ms()), append("u", &other, None, 2, now_ms())];
    assert_eq!(bench.transact(changes).await.0, 204);
    assert_eq!(snapshot_ids(&bench.metadata("t").await), [1]);
    assert_eq!(snapshot_ids(&bench.metadata("u").await), [2]);
}

#[tokio::test]
async fn a_commit_that_was_made_and_whose_answer_was_lost_succeeds_once() {
    let (bench, location, catalog) = with_mishaps(&[Mishap::LostAfter]).await;
    assert_eq!(bench.transact(vec![append("t", &location, None, 1, now_ms())]).await.0, 204);
    assert_eq!(snapshot_ids(&bench.metadata("t").await), [1]);
    assert_eq!(catalog.commits.load(Ordering::SeqCst), 1, "it was not sent again");
}

#[tokio::test]
async fn a_commit_that_was_lost_on_its_way_is_sent_again() {
    for mishap in [Mishap::LostBefore, Mishap::TurnedAway] {
        let (bench, location, catalog) = with_mishaps(&[mishap, mishap]).await;
        assert_eq!(bench.transact(vec![append("t", &location, None, 1, now_ms())]).await.0, 204);
        assert_eq!(snapshot_ids(&bench.metadata("t").await), [1]);
        assert_eq!(catalog.commits.load(Ordering::SeqCst), 3);
    }
}

#[tokio::test]
async fn a_lost_race_against_oneself_is_a_success() {
    let (bench, location, _) = with_mishaps(&[Mishap::SentTwice]).await;
    let change = append("t", &location, None, 1, now_ms());
    assert_eq!(bench.transact(vec![change.clone()]).await.0, 204);
    // As DuckDB sends it again when the connection broke.
    assert_eq!(bench.transact(vec![change]).await.0, 204);
    assert_eq!(snapshot_ids(&bench.metadata("t").await), [1]);
}

#[tokio::test]
async fn a_commit_that_never_arrives_ends_with_502_and_is_not_retried_for_ever() {
    let (bench, location, catalog) = with_mishaps(&[Mishap::LostBefore; 50]).await;
    let (status, answer) = bench.transact(vec![append("t", &location, None, 1, now_ms())]).await;
    assert_eq!((status.as_u16(), &answer["error"]["type"]), (502, &json!("CommitStateUnknownException")));
    assert_eq!(catalog.commits.load(Ordering::SeqCst), u64::from(config().commit_attempts));
}

#[tokio::test]
async fn a_commit_that_may_still_arrive_is_never_said_not_to_be_made() {
    let attempts = u64::from(config().commit_attempts);
    let turned_away = [&[Mishap::LostBefore][..], &[Mishap::TurnedAway; 50]].concat();
    for (mishaps, sendings) in [(&turned_away[..], attempts), (&[Mishap::LostBefore, Mishap::Refused], 2)] {
        let (bench, location, catalog) = with_mishaps(mishaps).await;
        let (status, answer) = bench.transact(vec![append("t", &location, None, 1, now_ms())]).await;
        assert_eq!((status.as_u16(), &answer["error"]["type"]), (502, &json!("CommitStateUnknownException")), "{mishaps:?}");
        assert_eq!(catalog.commits.load(Ordering::SeqCst), sendings);
    }
}

#[tokio::test]
async fn a_lost_race_that_cannot_be_looked_at_is_not_called_one() {
    let (bench, location, _) = with_mishaps(&[Mishap::SentTwiceUnseen]).await;
    let (status, answer) = bench.transact(vec![append("t", &location, None, 1, now_ms())]).await;
    assert_eq!((status.as_u16(), &answer["error"]["type"]), (502, &json!("CommitStateUnknownException")));
}

#[tokio::test]
async fn a_change_that_leaves_no_mark_and_whose_answer_was_lost_is_called_unknown() {
    for mishap in [Mishap::LostAfter, Mishap::LostBefore] {
        let (bench, _, catalog) = with_mishaps(&[mishap]).await;
        let (status, answer) = bench.transact(vec![set_property("t", "a", "b")]).await;
        assert_eq!((status.as_u16(), &answer["error"]["type"]), (502, &json!("CommitStateUnknownException")));
        assert_eq!(catalog.commits.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn a_first_commit_is_recognised_by_the_tables_uuid() {
    let (bench, location, catalog) = with_mishaps(&[Mishap::LostAfter]).await;
    let location = location.replace("/t-", "/u-");
    let first = json!({
        "requirements": [{ "type": "assert-create" }],
        "updates": [
            { "action": "assign-uuid", "uuid": "01a1fc21-7473-77a8-a202-e8686808e7fc" },
            { "action": "add-schema", "schema": new_table("u")["schema"] },
            { "action": "set-location", "location": location },
        ],
    });
    assert_eq!(bench.post("lake/namespaces/gold/tables/u", first.clone()).await.0, 200);
    assert_eq!(catalog.commits.load(Ordering::SeqCst), 1);
    let mut other = first;
    other["updates"][0]["uuid"] = json!("01a1fc21-7473-77a8-a202-000000000000");
    assert_eq!(bench.post("lake/namespaces/gold/tables/u", other).await.0, 409);
}

#[tokio::test]
async fn a_commit_whose_statement_has_ended_is_not_sent_again() {
    let (bench, location, catalog) = with_mishaps(&[Mishap::LostBefore; 50]).await;
    let ended = async {
        while catalog.commits.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        bench.relay.clear(&bench.worker);
        // The next statement's lease is not this commit's.
        bench.relay.grant(&bench.worker, WRITES);
    };
    let (answer, ()) = tokio::join!(bench.transact(vec![append("t", &location, None, 1, now_ms())]), ended);
    assert_eq!(answer.0, 502);
    assert_eq!(catalog.commits.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_snapshot_that_would_stand_before_its_head_in_time_is_moved_behind_it() {
    let (bench, location) = Bench::new().await.with_table().await;
    let ahead_ms = now_ms() + 40_000;
    assert_eq!(bench.transact(vec![append("t", &location, None, 1, ahead_ms)]).await.0, 204);
    bench.metadata("t").await;
    assert_eq!(bench.transact(vec![append("t", &location, Some(1), 2, now_ms())]).await.0, 204);
    let seen = bench.metadata("t").await;
    let loaded = bench.relay.cache.peek(credential().id(), &table("t")).unwrap();
    let loaded: Value = serde_json::from_slice(&loaded.whole).unwrap();
    let second = |metadata: &Value| {
        let snapshots = metadata["snapshots"].as_array().unwrap();
        snapshots.iter().find(|one| one["snapshot-id"] == 2).unwrap()["timestamp-ms"].as_i64().unwrap()
    };
    assert_eq!(second(&loaded["metadata"]), ahead_ms + 1);
    assert!(second(&seen) <= now_ms(), "a worker sees it although its own clock is behind");
}

#[tokio::test]
async fn a_commit_that_points_elsewhere_is_refused() {
    let (bench, location) = Bench::new().await.with_table().await;
    for elsewhere in
        ["file:///etc", "s3://other/x", &format!("{location}/../../../../etc"), &format!("{location}/%2e%2e/%2e%2e/%2e%2e")]
    {
        let mut place = set_property("t", "write.data.path", elsewhere);
        for change in [append("t", elsewhere, None, 1, now_ms()), place.clone()] {
            let (status, answer) = bench.transact(vec![change]).await;
            assert_eq!(status, 403, "{elsewhere}: {answer}");
        }
        place["updates"] = json!([{ "action": "set-location", "location": elsewhere }]);
        assert_eq!(bench.transact(vec![place]).await.0, 403, "{elsewhere}");
        let mut table = new_table("x");
        table["location"] = json!(elsewhere);
        assert_eq!(bench.post("lake/namespaces/gold/tables", table).await.0, 403, "{elsewhere}");
    }
    assert_eq!(snapshot_ids(&bench.metadata("t").await), [0_i64; 0]);
}

#[tokio::test]
async fn a_commit_that_cannot_be_read_gets_400() {
    let (bench, _) = Bench::new().await.with_table().await;
    assert_eq!(bench.post("lake/transactions/commit", json!({ "table-changes": 5 })).await.0, 400);
    assert_eq!(bench.post("lake/transactions/commit", json!({ "table-changes": [{ "updates": [] }] })).await.0, 400);
    let (status, answer) = bench
        .transact(vec![json!({
        "identifier": { "namespace": ["gold"], "name": "t" }, "updates": [{ "action": "levitate" }] })])
        .await;
    assert_eq!((status.as_u16(), &answer["error"]["type"]), (400, &json!("BadRequestException")));
    let (status, _) = bench.transact(vec![set_property("no", "a", "b")]).await;
    assert_eq!(status, 404);
}
