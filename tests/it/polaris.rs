//! The stand-in for Polaris is held against what a real one answered (`tests/data/polaris`), and shown to do what other tests ask of
//! it: grants, tokens, faults, its log. Refuses to test the gateway, but for one way through it.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Gateway, root};
use crate::stand_in::{Fault, Grant, HOME, Operation, Privilege, Rule, Setup, StandIn};

const ALL_ROLES: &str = "PRINCIPAL_ROLE:ALL";

/// An answer of the stand-in.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }
}

/// A plain HTTP client of the stand-in.
struct Client {
    http: reqwest::Client,
    base: String,
}

impl Client {
    fn of(stand_in: &StandIn) -> Self {
        Self { http: reqwest::Client::new(), base: format!("{}/v1", stand_in.uri()) }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        Ok(Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) })
    }

    async fn call(&self, token: &str, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, reqwest::Error> {
        let mut request = self.http.request(method, format!("{}/{path}", self.base)).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.send(request).await
    }

    async fn get(&self, token: &str, path: &str) -> Answer {
        self.call(token, Method::GET, path, None).await.expect("an answer")
    }

    async fn post(&self, token: &str, path: &str, body: &Value) -> Answer {
        self.call(token, Method::POST, path, Some(body)).await.expect("an answer")
    }

    async fn token_by(&self, form: &[(&str, &str)]) -> Answer {
        self.send(self.http.post(format!("{}/oauth/tokens", self.base)).form(form)).await.expect("an answer")
    }

    /// A token of a principal with the usual credentials.
    async fn token(&self, principal: &str) -> String {
        let (id, secret) = (format!("{principal}-client-id"), format!("{principal}-secret"));
        let form =
            [("grant_type", "client_credentials"), ("client_id", &id), ("client_secret", &secret), ("scope", ALL_ROLES)];
        let answer = self.token_by(&form).await;
        answer.body["access_token"].as_str().unwrap_or_else(|| panic!("a token for {principal}: {answer:?}")).to_owned()
    }

    async fn create(&self, token: &str, namespace: &str, table: &str) -> Answer {
        self.post(token, &format!("lakehouse/namespaces/{namespace}/tables"), &new_table(table)).await
    }
}

fn new_table(name: &str) -> Value {
    let fields = json!([{ "id": 1, "name": "id", "required": false, "type": "long" }]);
    json!({ "name": name, "schema": { "type": "struct", "schema-id": 0, "fields": fields } })
}

fn set_property(key: &str, value: &str) -> Value {
    json!({ "requirements": [], "updates": [{ "action": "set-properties", "updates": { key: value } }] })
}

const GOLD: &str = "lakehouse/namespaces/gold/tables";
const SILVER: &str = "lakehouse/namespaces/silver/tables";

// ---- what was recorded ----

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

    /// What differs from the recordings, each after it was passed through `change`.
    async fn problems(&mut self, change: impl Fn(&mut Value)) -> Vec<String> {
        let mut problems = Vec::new();
        for recording in recordings() {
            let answer = self.answer(&recording).await;
            let mut expected = recording["response"].clone();
            change(&mut expected);
            let found = self.compare(&expected, &answer);
            problems.extend(found.into_iter().map(|problem| format!("{}: {problem}", text(&recording["case"]))));
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
            // The version is another one when it is not of the recorded table.
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

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
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
    assert_eq!(recordings().len(), 45);
    let problems = Replay::start().await.problems(|_| {}).await;
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_recording_is_noticed() {
    let noticed = async |what: &str, least: usize, change: fn(&mut Value)| {
        let problems = Replay::start().await.problems(change).await;
        assert!(problems.len() >= least, "{what}: {} of {least} noticed:\n{}", problems.len(), problems.join("\n"));
    };
    noticed("a status", 45, |response| response["status"] = json!(response["status"].as_u64().map(|status| status + 1))).await;
    noticed("a name of an error", 15, |response| {
        if response["body"]["error"]["type"].is_string() {
            response["body"]["error"]["type"] = json!("OtherException");
        }
    })
    .await;
    noticed("a field more", 30, |response| {
        if let Some(body) = response["body"].as_object_mut() {
            body.insert("more".to_owned(), Value::Null);
        }
    })
    .await;
    noticed("another type of a value", 30, |response| {
        if let Some(value) = response["body"].as_object_mut().and_then(|body| body.values_mut().next()) {
            *value = json!(7.5);
        }
    })
    .await;
    noticed("a header less", 30, |response| response["headers"] = json!({})).await;
}
