//! The health service of a gateway: whether it can work, told to everybody and while it changes.

use std::time::Duration;

use tonic::Request;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus::{self, NotServing, Serving};
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Gateway, begun, polynya, user_ada};
use crate::stand_in::{Fault, HOME, Operation, Rule, Setup, StandIn};

const READINESS: &str = "readiness";

/// How long a change may take to be seen on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(30);

/// What must work is the stand-in alone, and what is asked of it is asked often.
const OFTEN: [&str; 3] = ["health.catalogs=[rest]", "health.interval=100ms", "relay.stale_grace=0s"];

fn gateway(polaris: &StandIn, more: &[&str]) -> Gateway {
    let set = polaris.settings("rest", "lakehouse", "engineer");
    let set: Vec<&str> = set.iter().map(String::as_str).chain(OFTEN).chain(more.iter().copied()).collect();
    Gateway::with(&set)
}

fn asking(service: &str) -> Request<HealthCheckRequest> {
    Request::new(HealthCheckRequest { service: service.to_owned() })
}

async fn client(gateway: &Gateway) -> HealthClient<Channel> {
    HealthClient::new(gateway.channel().await)
}

async fn status(gateway: &Gateway, service: &str) -> ServingStatus {
    client(gateway).await.check(asking(service)).await.expect("an answer").into_inner().status()
}

async fn becomes(gateway: &Gateway, wanted: ServingStatus) {
    let reached = async {
        while status(gateway, READINESS).await != wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, reached).await.unwrap_or_else(|_| panic!("not {wanted:?} in time:\n{}", gateway.log()));
}

/// Exit status and output of the command for probes.
fn check_ready(gateway: &Gateway, arguments: &[&str]) -> (Option<i32>, String) {
    let output = polynya().args(["check-ready", "--uri", &gateway.uri()]).args(arguments).output().expect("the polynya binary");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.code(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_ready_when_its_credential_works_and_serves_what_it_can_before() {
    let polaris = StandIn::start(Setup::lakehouse()).await;
    let later = "catalogs.rest.credentials={type: oauth2, client_id: engineer-client-id, client_secret: planted-later}";
    let [mode, users] = user_ada();
    let gateway = gateway(&polaris, &[later, &mode, &users]);
    becomes(&gateway, NotServing).await;
    assert_eq!(status(&gateway, "").await, Serving, "it lives");
    assert_eq!(status(&gateway, "arrow.flight.protocol.FlightService").await, NotServing);
    let (code, text) = check_ready(&gateway, &[]);
    assert!(code == Some(1) && text.contains("is not ready"), "{code:?} {text}");
    assert_eq!(check_ready(&gateway, &["--live"]).0, Some(0));
    // Others are let in as before, and nobody by the health service.
    let refused = gateway.query("SELECT 1").await.expect_err("a log-in");
    assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{refused}");
    let mut ada = gateway.client().await;
    ada.handshake("ada", "correct horse").await.expect("a log-in");
    assert_eq!(crate::harness::query(&mut ada, "SELECT 1").await.expect("a row").len(), 1);

    polaris.realm(HOME).rotate_secret("engineer", "planted-later");
    becomes(&gateway, Serving).await;
    assert_eq!(check_ready(&gateway, &[]).0, Some(0));
    let log = gateway.log();
    assert!(log.contains("not ready: ") && log.contains("ready: catalogs can be worked with"), "{log}");
    assert!(!log.contains("planted"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_is_told_of_an_outage_and_of_its_end() {
    let polaris = StandIn::start(Setup::lakehouse()).await;
    let gateway = gateway(&polaris, &["health.max_watches=1"]);
    becomes(&gateway, Serving).await;
    let mut client = client(&gateway).await;
    let mut watch = client.watch(asking(READINESS)).await.expect("a stream").into_inner();
    let mut next = async || {
        let message = tokio::time::timeout(SOON, watch.message()).await.expect("a message in time");
        message.expect("no error").expect("no end").status()
    };
    assert_eq!(next().await, Serving);
    polaris.down().await;
    assert_eq!(next().await, NotServing);
    assert_eq!(gateway.value("SELECT 1").await, "1", "it still does what needs no catalog");
    polaris.up().await;
    assert_eq!(next().await, Serving);
    // One that refuses, and one that hangs.
    polaris.faults().add(Rule::new(Fault::Status(403)).on([Operation::Config]));
    assert_eq!(next().await, NotServing);
    polaris.faults().clear();
    assert_eq!(next().await, Serving);
    let error = client.watch(asking(READINESS)).await.expect_err("one too many");
    assert_eq!(error.code(), tonic::Code::ResourceExhausted, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_drains_is_not_ready_while_statements_end() {
    let gateway = Gateway::with(&["drain_timeout=5s", "health.interval=100ms"]);
    becomes(&gateway, Serving).await;
    let mut client = client(&gateway).await;
    let mut ready = client.watch(asking(READINESS)).await.expect("a stream").into_inner();
    let mut live = client.watch(asking("")).await.expect("a stream").into_inner();
    for watch in [&mut ready, &mut live] {
        assert_eq!(watch.message().await.expect("no error").expect("a message").status(), Serving);
    }
    let mut reader = gateway.client().await;
    let rows = begun(&mut reader, "SELECT * FROM range(100000000000)").await.expect("rows");
    gateway.tell_to_end();
    for watch in [&mut ready, &mut live] {
        let message = tokio::time::timeout(SOON, watch.message()).await.expect("in time");
        assert_eq!(message.expect("no error").expect("a message").status(), NotServing);
    }
    drop(rows);
    // What is watched keeps nobody from ending.
    let (status, log) = tokio::task::block_in_place(|| gateway.ended(SOON));
    assert!(status.success(), "{log}");
    assert!(!log.contains("their connections are cut"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_callers_log_in_by_themselves_an_answer_of_the_catalog_will_do() {
    let polaris = StandIn::start(Setup::lakehouse()).await;
    let none = "catalogs.rest.credentials={type: none}";
    let gateway = gateway(&polaris, &[none, "auth.mode=polaris"]);
    becomes(&gateway, Serving).await;
    assert_eq!(polaris.log().count(Operation::Token, "engineer"), 0, "nobody's log-in is used");
    polaris.down().await;
    becomes(&gateway, NotServing).await;
    polaris.up().await;
    becomes(&gateway, Serving).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn known_tables_are_reason_enough_for_as_long_as_they_are_read_on() {
    let polaris = StandIn::start(Setup::lakehouse()).await;
    let gateway = gateway(&polaris, &["relay.stale_grace=10s"]);
    becomes(&gateway, Serving).await;
    polaris.down().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(status(&gateway, READINESS).await, Serving);
    becomes(&gateway, NotServing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_of_roles_is_ready_when_the_credential_of_one_works() {
    let polaris = StandIn::start(Setup::lakehouse()).await;
    let [_, users] = user_ada();
    let credentials = |secret: &str| format!("{{type: oauth2, client_id: analyst-client-id, client_secret: {secret}}}");
    let roles = format!("roles={{r: {{catalogs: {{rest: {{credentials: {}}}}}}}}}", credentials("planted-later"));
    let none = "catalogs.rest.credentials={type: none}";
    let mapping = "auth.mappings=[{any: true, role: r}]";
    // The embedded catalog, which no role opens, is no reason to be ready.
    let gateway = gateway(&polaris, &["health.catalogs=any", none, "auth.mode=mapped", &users, mapping, &roles]);
    becomes(&gateway, NotServing).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(status(&gateway, READINESS).await, NotServing);
    polaris.realm(HOME).rotate_secret("analyst", "planted-later");
    becomes(&gateway, Serving).await;
    assert!(!gateway.log().contains("planted"), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_does_not_take_all_watches() {
    let gateway = Gateway::start();
    let mut greedy = client(&gateway).await;
    let mut held = Vec::new();
    for service in ["", READINESS, "nope", "nope"] {
        held.push(greedy.watch(asking(service)).await.expect("a stream"));
    }
    let error = greedy.watch(asking("")).await.expect_err("a fifth");
    assert_eq!(error.code(), tonic::Code::ResourceExhausted, "{error}");
    assert!(error.message().contains("on this connection"), "{error}");
    client(&gateway).await.watch(asking("")).await.expect("a stream of another connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_does_not_take_all_watches() {
    let gateway = Gateway::with(&["health.max_watches=8"]);
    let from = async |address: [u8; 4]| {
        let endpoint = Endpoint::from_shared(format!("http://{}", gateway.addr)).expect("an address");
        HealthClient::new(endpoint.local_address(Some(address.into())).connect().await.expect("a connection"))
    };
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..4 {
        let mut greedy = from([127, 0, 0, 2]).await;
        for _ in 0..2 {
            match greedy.watch(asking(READINESS)).await {
                Ok(watch) => held.push((watch, greedy.clone())),
                Err(error) => {
                    assert_eq!(error.code(), tonic::Code::ResourceExhausted, "{error}");
                    assert!(error.message().contains("health.max_watches_per_address"), "{error}");
                    refused += 1;
                }
            }
        }
        greedy.check(asking("")).await.expect("a Check is always answered");
    }
    assert_eq!((held.len(), refused), (4, 4), "half of the places are one address's");
    let mut kubelet = from([127, 0, 0, 1]).await;
    kubelet.watch(asking(READINESS)).await.expect("a stream of another address");
}
