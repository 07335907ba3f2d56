//! A catalog that is down or hangs under a gateway with many callers: who can go on does so without waiting, who cannot is told which
//! catalog it is in time, and nobody else notices. How the relay gets along with one caller is shown in `upstreams`.
//!
//! `POLYNYA_TEST_OUTAGE_SECONDS` makes the outages longer than CI has the time for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::{Code, Status};

use crate::callers::{self, Client, login, run, try_login, value};
use crate::harness::{Gateway, runs_again};
use crate::stand_in::{Fault, HOME, Operation, PrincipalSetup, Rule, Setup, StandIn};

/// What a call to a catalog may take here.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// What a statement takes that waits for nobody, on a machine that is busy with other tests. Who waits for the catalog again and again
/// takes longer.
const AT_ONCE: Duration = Duration::from_millis(2500);

/// The slowest of many may take so long on such a machine.
const SOME_TIME: Duration = Duration::from_secs(10);

const KNOWN: &str = "SELECT sum(v)::BIGINT FROM rest.gold.t";
const UNKNOWN: &str = "SELECT * FROM rest.silver.t";
const LIST: &str = "SHOW TABLES FROM rest.gold";

fn outage() -> Duration {
    let seconds = std::env::var("POLYNYA_TEST_OUTAGE_SECONDS").map_or(10, |number| number.parse().expect("a number"));
    Duration::from_secs(seconds)
}

/// Two catalogs and a gateway on both. The callers are principals of the first one; a role opens the second one to those who have it.
struct Lakes {
    /// Catalog `rest`, which is going to be down.
    failing: StandIn,
    /// Catalog `other`.
    _other: StandIn,
    gateway: Gateway,
}

async fn filled() -> StandIn {
    let polaris = StandIn::start(Setup::lakehouse()).await;
    for name in ["loader", "guest", "late"] {
        polaris.realm(HOME).create_principal(PrincipalSetup::named(name, "engineers"));
    }
    let settings = polaris.settings("rest", "lakehouse", "engineer");
    let maker = Gateway::with(&settings.iter().map(String::as_str).collect::<Vec<_>>());
    maker.run("CREATE TABLE rest.gold.t AS SELECT range AS v FROM range(10)").await;
    maker.run("CREATE TABLE rest.silver.t AS SELECT 1 AS v").await;
    polaris
}

impl Lakes {
    async fn new() -> Self {
        let (failing, other) = tokio::join!(filled(), filled());
        let mut set: Vec<String> = other.settings("other", "lakehouse", "engineer");
        set.extend(["catalogs.rest.realm=home", "catalogs.other.realm=elsewhere", "auth.realm=home"].map(str::to_owned));
        set.push(format!("catalogs.rest.request_timeout={}s", REQUEST_TIMEOUT.as_secs()));
        set.extend(["relay.slow_after=500ms", "relay.max_staleness=200ms"].map(str::to_owned));
        set.push("roles={visitor: {catalogs: {other: {}}}}".to_owned());
        let visitor = |name: &str| format!("{{user: {name}-client-id, role: visitor}}");
        set.push(format!("auth.mappings=[{}]", ["analyst", "guest", "late"].map(visitor).join(", ")));
        let gateway = callers::gateway(&failing, "polaris", &set);
        Self { failing, _other: other, gateway }
    }

    async fn login(&self, principal: &str) -> Client {
        login(&self.gateway, &self.failing, principal).await
    }
}

/// What came of a statement that was repeated.
#[derive(Debug, Default)]
struct Seen {
    times: Vec<Duration>,
}

impl Seen {
    fn half(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        times[times.len() / 2]
    }

    fn slowest(&self) -> Duration {
        self.times.iter().copied().max().unwrap_or_default()
    }
}

/// Repeats a statement until the time is over; each answer is looked at.
async fn repeated(mut client: Client, sql: &'static str, until: Instant, look: impl Fn(Result<String, Status>)) -> Seen {
    let mut seen = Seen::default();
    while Instant::now() < until {
        let asked = Instant::now();
        let answer = value(&mut client, sql).await;
        seen.times.push(asked.elapsed());
        look(answer);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    seen
}

fn is_forty_five(answer: Result<String, Status>) {
    assert_eq!(answer.expect("a row"), "45");
}

fn names_the_catalog(answer: Result<String, Status>) {
    let status = answer.expect_err("the catalog is down");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("catalog \"rest\""), "{status}");
    assert!(!status.message().contains("secret"), "{status}");
}

/// All that goes on while the first catalog is down in whichever way.
async fn go_on(lakes: &Arc<Lakes>, clients: Clients, until: Instant) {
    let Clients { engineer, root, analyst, guest } = clients;
    let known = tokio::spawn(repeated(engineer.clone(), KNOWN, until, is_forty_five));
    let unknown = tokio::spawn(repeated(engineer, UNKNOWN, until, names_the_catalog));
    let lists = tokio::spawn(repeated(root, LIST, until, |answer| assert_eq!(answer.expect("a list as it was"), "t")));
    let other = tokio::spawn(repeated(analyst, "SELECT sum(v)::BIGINT FROM other.gold.t", until, is_forty_five));
    let starts = {
        let lakes = Arc::clone(lakes);
        tokio::spawn(async move { first_statements(&lakes, guest).await })
    };
    let [known, unknown, lists, other] =
        [known, unknown, lists, other].map(|task| async { task.await.unwrap_or_else(|failed| panic!("{failed}")) });
    let (known, unknown, lists, other) = tokio::join!(known, unknown, lists, other);
    let starts = starts.await.unwrap_or_else(|failed| panic!("{failed}"));
    let told = |what: &str, seen: &Seen| {
        eprintln!("{what}: {}, half within {:?}, slowest {:?}", seen.times.len(), seen.half(), seen.slowest());
    };
    told("known table", &known);
    told("unknown table", &unknown);
    told("listing", &lists);
    told("other catalog", &other);
    eprintln!("first statement of a new worker: {starts:?}");
    // What the catalog that is up takes shows how busy the machine is.
    let at_once = AT_ONCE + other.half() * 2;
    for seen in [&known, &lists] {
        assert!(seen.half() < at_once, "{seen:?}");
    }
    for seen in [&known, &other] {
        assert!(seen.slowest() < SOME_TIME, "{seen:?}");
    }
    for seen in [&unknown, &lists] {
        assert!(seen.slowest() < REQUEST_TIMEOUT + SOME_TIME, "{seen:?}");
    }
}

/// A caller that was let in before, and whose worker has to be started and attached while one of its two catalogs is down; callers who
/// log in now.
async fn first_statements(lakes: &Lakes, mut guest: Client) -> Duration {
    let began = Instant::now();
    is_forty_five(value(&mut guest, "SELECT sum(v)::BIGINT FROM other.gold.t").await);
    let took = began.elapsed();
    assert!(took < REQUEST_TIMEOUT + Duration::from_secs(12), "{took:?}");
    // The log-in of before is remembered for a while.
    try_login(&lakes.gateway, &lakes.failing, "engineer").await.expect("known from before");
    let asked = Instant::now();
    let refused = try_login(&lakes.gateway, &lakes.failing, "late").await.map(drop).expect_err("nobody can tell who it is");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("the log-in cannot be checked now: catalog \"rest\" at 127.0.0.1:"), "{refused}");
    assert!(asked.elapsed() < REQUEST_TIMEOUT + SOME_TIME, "{:?}", asked.elapsed());
    took
}

struct Clients {
    engineer: Client,
    root: Client,
    analyst: Client,
    guest: Client,
}

/// Logged in, and with workers where they have them before.
async fn clients(lakes: &Lakes) -> Clients {
    let (engineer, root) = (lakes.login("engineer").await, lakes.login("root").await);
    let (analyst, guest) = (lakes.login("analyst").await, lakes.login("guest").await);
    is_forty_five(value(&mut engineer.clone(), KNOWN).await);
    assert_eq!(value(&mut root.clone(), LIST).await.expect("a list"), "t");
    is_forty_five(value(&mut analyst.clone(), "SELECT sum(v)::BIGINT FROM other.gold.t").await);
    Clients { engineer, root, analyst, guest }
}

/// All is as before, for the same sessions and without a restart.
async fn comes_back(lakes: &Lakes, engineer: &mut Client) {
    let began = Instant::now();
    while let Err(status) = value(engineer, UNKNOWN).await {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(began.elapsed() < REQUEST_TIMEOUT + SOME_TIME, "it is not asked any more: {status}");
    }
    eprintln!("back after {:?}", began.elapsed());
    run(engineer, "INSERT INTO rest.gold.t VALUES (10)").await;
    assert_eq!(value(engineer, KNOWN).await.expect("a sum"), "55");
    assert_eq!(value(engineer, LIST).await.expect("a list"), "t");
    lakes.failing.log().clear();
    let mut late = lakes.login("late").await;
    assert_eq!(value(&mut late, KNOWN).await.expect("a sum"), "55");
    assert_eq!(lakes.failing.log().count(Operation::Token, "late"), 1);
    let log = lakes.gateway.log();
    assert!(log.contains("is out of reach") && log.contains("answers again"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_refuses_connections_stops_only_those_who_need_to_ask_it() {
    let lakes = Arc::new(Lakes::new().await);
    let clients = clients(&lakes).await;
    let mut engineer = clients.engineer.clone();
    lakes.failing.down().await;
    go_on(&lakes, clients, Instant::now() + outage()).await;
    lakes.failing.up().await;
    comes_back(&lakes, &mut engineer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_hangs_stops_only_those_who_need_to_ask_it() {
    let lakes = Arc::new(Lakes::new().await);
    let clients = clients(&lakes).await;
    let mut engineer = clients.engineer.clone();
    lakes.failing.faults().add(Rule::new(Fault::Hang));
    go_on(&lakes, clients, Instant::now() + outage()).await;
    lakes.failing.faults().clear();
    comes_back(&lakes, &mut engineer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_hangs_for_one_principal_serves_the_others() {
    let lakes = Lakes::new().await;
    let (engineer, analyst) = (lakes.login("engineer").await, lakes.login("analyst").await);
    let loader = lakes.login("loader").await;
    for client in [&engineer, &analyst, &loader] {
        is_forty_five(value(&mut client.clone(), KNOWN).await);
    }
    lakes.failing.faults().add(Rule::new(Fault::Hang).by("engineer"));
    let until = Instant::now() + REQUEST_TIMEOUT;
    let hung = tokio::spawn(repeated(engineer, UNKNOWN, until, names_the_catalog));
    let reads = tokio::spawn(repeated(analyst, KNOWN, until, is_forty_five));
    let writes = tokio::spawn(async move {
        let mut loader = loader;
        for _ in 0..3 {
            run(&mut loader, "INSERT INTO rest.silver.t VALUES (2)").await;
        }
        value(&mut loader, "SELECT count(*) FROM rest.silver.t").await.expect("a count")
    });
    let reads = reads.await.unwrap_or_else(|failed| panic!("{failed}"));
    assert!(reads.half() < AT_ONCE && reads.slowest() < SOME_TIME, "{reads:?}");
    assert_eq!(writes.await.unwrap_or_else(|failed| panic!("{failed}")), "4");
    let hung = hung.await.unwrap_or_else(|failed| panic!("{failed}"));
    assert!(hung.slowest() < REQUEST_TIMEOUT + SOME_TIME, "{hung:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_ends_before_the_catalog_s_own_limit_says_what_it_waited_for() {
    let polaris = filled().await;
    // The catalog's own limit is 20 s.
    const TIMEOUT: Duration = Duration::from_secs(8);
    let set = format!("query.statement_timeout={}s", TIMEOUT.as_secs());
    let gateway = callers::gateway(&polaris, "polaris", &[set]);
    let mut engineer = login(&gateway, &polaris, "engineer").await;
    // Its worker is there before the time begins to run.
    runs_again(&mut engineer, "there is a worker", KNOWN).await;
    is_forty_five(value(&mut engineer, KNOWN).await);
    polaris.faults().add(Rule::new(Fault::Hang).on([Operation::LoadTable, Operation::ListTables]));
    for sql in [UNKNOWN, LIST] {
        let asked = Instant::now();
        names_the_catalog(value(&mut engineer, sql).await);
        let took = asked.elapsed();
        assert!((TIMEOUT / 2..TIMEOUT + SOME_TIME).contains(&took), "{sql}: {took:?}");
    }
    polaris.faults().clear();
    assert_eq!(value(&mut engineer, UNKNOWN).await.expect("a row"), "1");
}
