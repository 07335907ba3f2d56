//! Two principals at once, with the same statements and grants that change hands all the time: each answer must be explained by what its
//! asker was granted within the staleness bound before it. What one has is never shown to the other by a cache.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow_flight::sql::client::PreparedStatement;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{Client, House, STALENESS, fetched, shown, tables};
use crate::harness::{query, status};
use crate::stand_in::{Grant, HOME, PrincipalSetup, Privilege, Setup};

/// How long grants stay as they are at the least.
const PHASE: Duration = Duration::from_millis(1300);

/// And how often everybody asks for everything until they change: often enough for answers that only these grants explain, however slow
/// the machine is.
const ROUNDS: usize = 2;

const PEOPLE: [&str; 2] = ["ana", "ben"];
const SCHEMAS: [&str; 2] = ["gold", "silver"];

/// Who holds what: by person, by schema.
type Held = [[bool; 2]; 2];

const PHASES: [Held; 5] = [
    [[true, true], [true, true]],
    [[true, false], [false, true]],
    [[false, true], [true, false]],
    [[true, true], [false, false]],
    [[false, false], [true, true]],
];

/// All changes so far: from when on it may hold, and from when on it holds for sure.
struct History(Mutex<Vec<(Instant, Instant, Held)>>);

impl History {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, Instant, Held)>> {
        self.0.lock().expect("no panic")
    }

    /// Whether this person may have held that, or not, at some time between these two.
    fn explains(&self, seen: &Seen, saw: bool) -> bool {
        let changes = self.lock();
        let from = seen.asked - STALENESS;
        let until = |at: usize| changes.get(at + 1).map(|(_, sure, _)| *sure);
        (0..changes.len()).any(|at| {
            let (begins, _, held) = changes[at];
            held[seen.person][seen.schema] == saw && begins <= seen.answered && until(at).is_none_or(|until| until >= from)
        })
    }
}

/// What an answer says of one table.
struct Seen {
    person: usize,
    schema: usize,
    saw: bool,
    what: &'static str,
    asked: Instant,
    answered: Instant,
}

/// One client of one person.
struct Asker {
    person: usize,
    client: Client,
    /// Where bare names are looked up.
    schema: usize,
    /// From the time when both had everything, one for each schema.
    prepared: Vec<PreparedStatement<Channel>>,
    seen: Vec<Seen>,
    /// How often it has asked for everything.
    rounds: Arc<AtomicUsize>,
}

/// The one row of each table, and the one column's name.
fn word(schema: usize) -> String {
    format!("only in {}", SCHEMAS[schema])
}

fn column(schema: usize) -> String {
    format!("column_of_{}", SCHEMAS[schema])
}

impl Asker {
    fn note(&mut self, what: &'static str, asked: Instant, schema: usize, saw: bool) {
        self.seen.push(Seen { person: self.person, schema, saw, what, asked, answered: Instant::now() });
    }

    /// An answer about one table: its row or a refusal in one's own name, and nothing else.
    fn judge(&mut self, what: &'static str, asked: Instant, schema: usize, outcome: Result<String, Status>, expected: &str) {
        let other = SCHEMAS[1 - schema];
        let saw = match outcome {
            Ok(told) => {
                assert!(told.contains(expected) && !told.contains(other), "{what} of {schema} gave\n{told}");
                true
            }
            Err(status) => {
                let me = format!("principal \"{}\"", PEOPLE[self.person]);
                assert_eq!(status.code(), Code::PermissionDenied, "{what} of {schema}: {status}");
                assert!(
                    status.message().contains(&me) && !status.message().contains(&format!("{other}.t")),
                    "{what} of {schema}: {status}"
                );
                false
            }
        };
        self.note(what, asked, schema, saw);
    }

    async fn described(&mut self, sql: &str) -> Result<String, Status> {
        let info = self.client.execute(sql.to_owned(), None).await.map_err(status)?;
        Ok(format!("{:?}", info.try_decode_schema().expect("a schema")))
    }

    /// Everything once.
    async fn round(&mut self) {
        for schema in [0, 1] {
            let sql = format!("SELECT * FROM rest.{}.t", SCHEMAS[schema]);
            let asked = Instant::now();
            let outcome = self.described(&sql).await;
            self.judge("a description", asked, schema, outcome, &column(schema));
            let asked = Instant::now();
            let outcome = query(&mut self.client, &sql).await.map(|rows| shown(&rows));
            self.judge("a statement", asked, schema, outcome, &word(schema));
            let asked = Instant::now();
            let info = self.prepared[schema].execute().await;
            let outcome = fetched(&mut self.client, info).await;
            self.judge("a prepared statement", asked, schema, outcome, &word(schema));
        }
        let (asked, own) = (Instant::now(), self.schema);
        let outcome = query(&mut self.client, "SELECT * FROM t").await.map(|rows| shown(&rows));
        self.judge("a bare name", asked, own, outcome, &word(own));
        self.listings().await;
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }

    async fn listings(&mut self) {
        for (what, sql) in [
            ("information_schema", "SELECT table_schema || '.' || table_name FROM information_schema.tables"),
            ("the columns", "SELECT table_schema || '.' || table_name, column_name FROM information_schema.columns"),
        ] {
            let asked = Instant::now();
            let listed = query(&mut self.client, sql).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            let listed = shown(&listed);
            for (schema, name) in SCHEMAS.into_iter().enumerate() {
                self.note(what, asked, schema, listed.contains(&format!("{name}.t")));
            }
        }
        let asked = Instant::now();
        let listed = tables(&mut self.client, None, false).await.expect("tables");
        for (schema, name) in SCHEMAS.into_iter().enumerate() {
            self.note("GetTables", asked, schema, listed.contains(name));
        }
    }
}

fn setup() -> Setup {
    let mut setup = Setup::lakehouse();
    let realm = &mut setup.realms[0];
    let on = |privilege| SCHEMAS.map(|schema| Grant::on_namespace(privilege, schema));
    let mut roles = BTreeMap::from([(
        "everybody".to_owned(),
        [on(Privilege::NamespaceReadProperties).to_vec(), vec![Grant::everywhere(Privilege::NamespaceList)]].concat(),
    )]);
    for schema in SCHEMAS {
        let reads = [Privilege::TableList, Privilege::TableReadData].map(|privilege| Grant::on_namespace(privilege, schema));
        roles.insert(format!("{schema}_tables"), reads.to_vec());
    }
    realm.warehouses[0].roles.extend(roles);
    for person in PEOPLE {
        realm.principals.push(PrincipalSetup::named(person, &format!("{person}s_role")));
        let uses = ["everybody", "gold_tables", "silver_tables"].map(|role| format!("lakehouse.{role}"));
        realm.principal_roles.insert(format!("{person}s_role"), BTreeSet::from(uses));
    }
    setup
}

async fn house() -> House {
    let house = House::empty(setup(), &[]).await;
    let mut engineer = house.log_in("engineer").await;
    for schema in [0, 1] {
        let sql = format!("CREATE TABLE rest.{}.t AS SELECT '{}' AS {}", SCHEMAS[schema], word(schema), column(schema));
        query(&mut engineer, &sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    house
}

async fn asker(house: &House, person: usize, schema: usize) -> Asker {
    let mut client = house.log_in(PEOPLE[person]).await;
    query(&mut client, &format!("USE rest.{}", SCHEMAS[schema])).await.expect("a schema that everybody sees");
    let mut prepared = Vec::new();
    for name in SCHEMAS {
        prepared.push(client.prepare(format!("SELECT * FROM rest.{name}.t"), None).await.expect("prepared"));
    }
    Asker { person, client, schema, prepared, seen: Vec::new(), rounds: Arc::default() }
}

/// A phase: everybody has begun and ended so many rounds in it.
async fn phase(rounds: &[Arc<AtomicUsize>]) {
    tokio::time::sleep(PHASE).await;
    let read = || rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed)).collect::<Vec<_>>();
    let before = read();
    // The round that goes on now began before.
    while read().iter().zip(&before).any(|(now, before)| *now < before + 1 + ROUNDS) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Each phase, and the first one again.
async fn change_hands(house: &House, history: &History, rounds: &[Arc<AtomicUsize>]) {
    let realm = house.polaris.realm(HOME);
    for held in PHASES.iter().cycle().skip(1).take(PHASES.len()) {
        phase(rounds).await;
        let begun = Instant::now();
        for (person, by_schema) in held.iter().enumerate() {
            for (schema, &used) in by_schema.iter().enumerate() {
                realm.set_use(&format!("{}s_role", PEOPLE[person]), "lakehouse", &format!("{}_tables", SCHEMAS[schema]), used);
            }
        }
        history.lock().push((begun, Instant::now(), *held));
    }
    phase(rounds).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_principals_at_once_never_see_each_others_tables() {
    let house = house().await;
    let history = History(Mutex::new(vec![(Instant::now(), Instant::now(), PHASES[0])]));
    let mut askers = Vec::new();
    for (person, schema) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        askers.push(asker(&house, person, schema).await);
    }
    let rounds: Vec<_> = askers.iter().map(|asker| Arc::clone(&asker.rounds)).collect();
    let over = AtomicBool::new(false);
    let asking = askers.into_iter().map(async |mut asker| {
        while !over.load(Ordering::Relaxed) {
            asker.round().await;
        }
        asker
    });
    let changing = async {
        change_hands(&house, &history, &rounds).await;
        over.store(true, Ordering::Relaxed);
    };
    let (askers, ()) = tokio::join!(futures::future::join_all(asking), changing);
    let mut decisive: BTreeMap<(&str, bool), usize> = BTreeMap::new();
    for seen in askers.iter().flat_map(|asker| &asker.seen) {
        assert!(
            history.explains(seen, seen.saw),
            "{} and {}.t: {} is explained by no grant of the last {STALENESS:?}",
            PEOPLE[seen.person],
            SCHEMAS[seen.schema],
            if seen.saw { format!("an answer by {}", seen.what) } else { format!("a refusal by {}", seen.what) },
        );
        *decisive.entry((seen.what, seen.saw)).or_default() += usize::from(!history.explains(seen, !seen.saw));
    }
    eprintln!("answers that only one state of the grants explains: {decisive:?}");
    assert_eq!(decisive.len(), 14, "{decisive:?}");
    assert!(decisive.values().all(|&number| number > 0), "the grants explain everything: {decisive:?}");
}
