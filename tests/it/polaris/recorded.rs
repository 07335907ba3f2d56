//! Sends the requests that were recorded with a real Polaris to the stand-in, and holds its answers against the recorded ones.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::{Answer, Client, text};
use crate::harness::root;
use crate::stand_in::{Fault, Operation, Rule, Setup, StandIn};

/// What hangs on time, ids, secrets or addresses: only its kind is compared.
const VOLATILE: [&str; 9] = [
    "access_token",
    "table-uuid",
    "last-updated-ms",
    "timestamp-ms",
    "created-at",
    "expiration-time",
    "s3.session-token-expires-at-ms",
    "s3.access-key-id",
    "s3.secret-access-key",
];

/// Headers that clients act upon.
const HEADERS: [&str; 3] = ["Content-Type", "ETag", "www-authenticate"];

/// Recordings that the analyst made; the others are the engineer's.
const AS_ANALYST: [&str; 7] = [
    "namespaces-as-analyst",
    "tables-forbidden",
    "table-load-forbidden-without-delegation",
    "table-load-vended-read",
    "table-load-vended-forbidden",
    "commit-forbidden",
    "drop-forbidden",
];

/// In the order in which they were made: later ones build on earlier ones.
fn recordings() -> Vec<Value> {
    let folder = std::fs::read_dir(root().join("tests/data/polaris")).expect("the recordings");
    let paths = folder.map(|entry| entry.expect("an entry").path());
    let files: BTreeSet<_> = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect();
    files.iter().map(|path| serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")).collect()
}

/// One run of all recordings.
struct Replay {
    client: Client,
    stand_in: StandIn,
    /// What stood in the recording → what stands there now.
    ours: Vec<(String, String)>,
    engineer: String,
    analyst: String,
}

impl Replay {
    async fn start() -> Self {
        let stand_in = StandIn::start(Setup::recorded()).await;
        let client = Client::of(&stand_in);
        let (engineer, analyst) = (client.token("engineer").await, client.token("analyst").await);
        assert_eq!(client.create(&engineer, "silver", "rec_s").await.status, 200);
        let ours = vec![
            ("<analyst-client-id>".to_owned(), "analyst-client-id".to_owned()),
            ("<analyst-secret>".to_owned(), "analyst-secret".to_owned()),
            ("<jwt>".to_owned(), analyst.clone()),
        ];
        Self { client, stand_in, ours, engineer, analyst }
    }

    fn translated(&self, text: &str) -> String {
        self.ours.iter().fold(text.to_owned(), |text, (recorded, ours)| text.replace(recorded, ours))
    }

    async fn answer(&mut self, recording: &Value) -> Answer {
        let (case, request) = (text(&recording["case"]), &recording["request"]);
        let method = Method::from_bytes(text(&request["method"]).as_bytes()).expect("a method");
        let path = text(&request["path"]).strip_prefix("api/catalog/v1/").expect("the usual base");
        let mut sent = self.client.http.request(method, format!("{}/{path}", self.client.base));
        for (name, value) in request["headers"].as_object().expect("headers") {
            sent = match (name.as_str(), text(value)) {
                ("Content-Length" | "Accept", _) => sent,
                ("Authorization", basic) if basic.starts_with("Basic ") => {
                    sent.basic_auth("analyst-client-id", Some("analyst-secret"))
                }
                ("Authorization", "Bearer <token>") => sent.bearer_auth(self.token_for(case).await),
                (_, value) => sent.header(name, self.translated(value)),
            };
        }
        match &request["body"] {
            Value::Null => {}
            Value::String(form) => sent = sent.body(self.translated(form)),
            body => sent = sent.body(self.translated(&body.to_string())),
        }
        let answer = self.client.send(sent).await.expect("an answer");
        if case == "table-create" {
            let recorded = &recording["response"];
            let pairs = [
                (text(&recorded["body"]["metadata"]["table-uuid"]), text(&answer.body["metadata"]["table-uuid"])),
                (text(&recorded["headers"]["ETag"]), answer.header("etag").unwrap_or_default()),
            ];
            self.ours.extend(pairs.map(|(recorded, ours)| (recorded.to_owned(), ours.to_owned())));
        }
        answer
    }

    async fn token_for(&self, case: &str) -> String {
        match case {
            "config-expired-token" => {
                self.stand_in.faults().add(Rule::new(Fault::ExpiredToken).on([Operation::Token]).times(1));
                self.client.token("engineer").await
            }
            _ if AS_ANALYST.contains(&case) => self.analyst.clone(),
            _ => self.engineer.clone(),
        }
    }

    /// By recording, whether `change` changed it, and what differs from it then.
    async fn problems(&mut self, change: impl Fn(&mut Value)) -> Vec<(String, bool, Vec<String>)> {
        let mut problems = Vec::new();
        for recording in recordings() {
            let answer = self.answer(&recording).await;
            let mut expected = recording["response"].clone();
            change(&mut expected);
            let changed = expected != recording["response"];
            problems.push((text(&recording["case"]).to_owned(), changed, self.compare(&expected, &answer)));
        }
        problems
    }

    fn compare(&self, expected: &Value, answer: &Answer) -> Vec<String> {
        let mut problems = Vec::new();
        if expected["status"] != answer.status {
            problems.push(format!("status {} instead of {}", answer.status, expected["status"]));
        }
        for name in HEADERS {
            let wanted = expected["headers"][name].as_str().map(|value| self.translated(value));
            let given = answer.header(name).map(str::to_owned);
            if wanted != given {
                problems.push(format!("{name} {given:?} instead of {wanted:?}"));
            }
        }
        self.compare_values("body", &expected["body"], &answer.body, &mut problems);
        problems
    }

    fn compare_values(&self, at: &str, expected: &Value, given: &Value, problems: &mut Vec<String>) {
        let name = at.rsplit('/').next().unwrap_or_default();
        match (expected, given) {
            (Value::Object(expected), Value::Object(given)) => {
                let keys = |of: &serde_json::Map<String, Value>| of.keys().cloned().collect::<BTreeSet<String>>();
                if keys(expected) != keys(given) {
                    problems.push(format!("{at} has {:?} instead of {:?}", keys(given), keys(expected)));
                }
                for (key, expected) in expected {
                    if let Some(given) = given.get(key) {
                        self.compare_values(&format!("{at}/{key}"), expected, given, problems);
                    }
                }
            }
            (Value::Array(expected), Value::Array(given)) if expected.len() == given.len() => {
                // Namespaces come in no order.
                let ordered = |list: &[Value]| {
                    let mut list = list.to_vec();
                    if name == "namespaces" {
                        list.sort_by_key(ToString::to_string);
                    }
                    list
                };
                for (place, (expected, given)) in ordered(expected).iter().zip(&ordered(given)).enumerate() {
                    self.compare_values(&format!("{at}/{place}"), expected, given, problems);
                }
            }
            (Value::String(_), Value::String(_)) | (Value::Number(_), Value::Number(_)) if VOLATILE.contains(&name) => {}
            (Value::String(expected), Value::String(given)) => {
                let expected = without_ids(&self.translated(expected));
                let secret = expected == "<temporary>" && !given.is_empty();
                if !secret && expected != without_ids(given) {
                    problems.push(format!("{at} is {given:?} instead of {expected:?}"));
                }
            }
            (expected, given) if expected == given => {}
            _ => problems.push(format!("{at} is {given} instead of {expected}")),
        }
    }
}

/// A location of a metadata file, without the id in it.
fn without_ids(text: &str) -> String {
    match text.strip_suffix(".metadata.json").and_then(|rest| rest.rsplit_once("/metadata/")) {
        Some((table, file)) => format!("{table}/metadata/{}", file.split('-').next().unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_request_is_answered_as_polaris_did() {
    let outcome = Replay::start().await.problems(|_| {}).await;
    assert_eq!(outcome.len(), 45);
    let wrong: Vec<_> = outcome.iter().filter(|(_, _, problems)| !problems.is_empty()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What is changed, in how many recordings at least, and how.
type AnswerChange = (&'static str, usize, fn(&mut Value));

/// Ways in which an answer may be another one; each leaves an answer alone that has no such part.
const CHANGES: [AnswerChange; 6] = [
    ("another status", 45, |response| response["status"] = json!(response["status"].as_u64().map(|status| status + 1))),
    ("another name of an error", 14, |response| {
        if response["body"]["error"]["type"].is_string() {
            response["body"]["error"]["type"] = json!("OtherException");
        }
    }),
    ("a field more", 35, |response| {
        if let Some(body) = response["body"].as_object_mut() {
            body.insert("more".to_owned(), Value::Null);
        }
    }),
    ("a field less", 35, |response| {
        if let Some(body) = response["body"].as_object_mut() {
            let last = body.keys().next_back().cloned();
            last.and_then(|last| body.remove(&last));
        }
    }),
    ("another type of a value", 35, |response| {
        if let Some(value) = response["body"].as_object_mut().and_then(|body| body.values_mut().next_back()) {
            *value = json!(7.5);
        }
    }),
    ("a header less", 38, |response| {
        if let Some(headers) = response["headers"].as_object_mut() {
            headers.retain(|name, _| !HEADERS.contains(&name.as_str()));
        }
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_recording_is_noticed() {
    for (what, least, change) in CHANGES {
        let outcome = Replay::start().await.problems(change).await;
        let changed = outcome.iter().filter(|(_, changed, _)| *changed).count();
        assert!(changed >= least, "{what}: only {changed} recordings have such a part");
        let wrong: Vec<_> = outcome.iter().filter(|(_, changed, problems)| *changed == problems.is_empty()).collect();
        assert!(wrong.is_empty(), "{what}: {wrong:#?}");
    }
}
