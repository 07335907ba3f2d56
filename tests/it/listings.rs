//! Listings of a catalog with thousands of tables: how often it is asked, how many calls at once, when rows come, what is refused, and who
//! sees what when. The catalog is the stand-in for Polaris, which makes the tables up. Times at the full size are the bench's business.

use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow_flight::sql::{CommandGetDbSchemas, CommandGetTables};
use futures::{Stream, StreamExt, TryStreamExt};
use tonic::{Code, Status};

use crate::callers::{Client, gateway, login, run, value};
use crate::harness::{Gateway, query, status};
use crate::stand_in::{Call, Fault, GeneratedSetup, Grant, HOME, Operation, Privilege, Rule, Setup, StandIn};

const NAMESPACES: usize = 20;
const TABLES: usize = 100;
const COLUMNS: usize = 10;
const ALL: usize = NAMESPACES * TABLES;

/// What a gateway loads at once for a listing.
const AT_ONCE: usize = 32;

/// Nothing grows too old while a test runs.
const STEADY: [&str; 2] = ["relay.max_staleness=10m", "relay.listing_staleness=10m"];

/// What should be so within a second is given so long on a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn many(namespaces: usize, tables: usize) -> Setup {
    Setup::lakehouse().with_generated(GeneratedSetup { namespaces, tables, columns: COLUMNS })
}

/// A gateway that is open to all and has the engineer's rights.
fn open_to_all(polaris: &StandIn, set: &[&str]) -> Gateway {
    let settings = polaris.settings("rest", "lakehouse", "engineer");
    let all: Vec<&str> = settings.iter().map(String::as_str).chain(set.iter().copied()).collect();
    Gateway::with(&all)
}

fn of_schema(schema: Option<&str>, with_columns: bool) -> CommandGetTables {
    CommandGetTables {
        catalog: Some("rest".to_owned()),
        db_schema_filter_pattern: schema.map(str::to_owned),
        table_name_filter_pattern: None,
        table_types: Vec::new(),
        include_schema: with_columns,
    }
}

async fn begin(
    client: &mut Client,
    command: CommandGetTables,
) -> Result<impl Stream<Item = Result<RecordBatch, Status>> + Unpin + use<>, Status> {
    let info = client.get_tables(command).await.map_err(status)?;
    let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
    Ok(Box::pin(client.do_get(ticket).await.map_err(status)?.map_err(status)))
}

/// `schema.table` of each row.
async fn tables(client: &mut Client, command: CommandGetTables) -> Result<Vec<String>, Status> {
    let batches: Vec<RecordBatch> = begin(client, command).await?.try_collect().await?;
    let names = |batch: &RecordBatch| {
        let (schemas, tables) = (batch.column(1).as_string::<i32>(), batch.column(2).as_string::<i32>());
        schemas.iter().zip(tables).map(|(s, t)| format!("{}.{}", s.expect("a name"), t.expect("a name"))).collect::<Vec<_>>()
    };
    Ok(batches.iter().flat_map(names).collect())
}

fn loads(polaris: &StandIn) -> Vec<Call> {
    polaris.log().calls().into_iter().filter(|call| call.operation == Operation::LoadTable).collect()
}

/// How many of these calls were under way at once, at the most.
fn at_once(calls: &[Call]) -> usize {
    let mut moments: Vec<(u64, i32)> = Vec::new();
    for call in calls {
        // A call ends before another one begins in the same millisecond.
        moments.extend([(call.at_ms, 1), (call.at_ms + call.took_ms.unwrap_or_default(), -1)]);
    }
    moments.sort_unstable();
    let mut now = 0;
    let counts = moments.into_iter().map(|(_, change)| {
        now += change;
        now
    });
    usize::try_from(counts.max().unwrap_or_default()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_tables_are_asked_for_once_and_stream() {
    let polaris = StandIn::start(many(NAMESPACES, TABLES)).await;
    // What all loads wait for is longer than a busy machine is late with the first row.
    polaris.faults().add(Rule::new(Fault::DelayMs(25)));
    let gateway = open_to_all(&polaris, &STEADY);
    let mut client = gateway.client().await;
    let began = Instant::now();
    let names = tables(&mut client, of_schema(None, false)).await.expect("names");
    eprintln!("names: {:?}", began.elapsed());
    assert_eq!(names.len(), ALL);
    assert!(names.is_sorted() && names[0] == "many_000.t_0000", "{:?}", names.first());
    let lists = |operation| polaris.log().count(operation, "engineer");
    // One for the outermost ones, and each of them is asked for its own.
    assert_eq!((lists(Operation::ListNamespaces), lists(Operation::ListTables)), (NAMESPACES + 4, NAMESPACES + 3));
    assert!(loads(&polaris).is_empty());

    polaris.log().clear();
    let began = Instant::now();
    let mut stream = begin(&mut client, of_schema(None, true)).await.expect("tables");
    let first = stream.next().await.expect("a batch").expect("rows").num_rows();
    let (first_in, by_then) = (began.elapsed(), loads(&polaris).len());
    assert!(first > 0 && by_then < ALL / 2, "the first {first} tables came after {by_then} loads");
    let rest: Vec<RecordBatch> = stream.try_collect().await.expect("rows");
    let cold = began.elapsed();
    assert_eq!(first + rest.iter().map(RecordBatch::num_rows).sum::<usize>(), ALL);
    assert!(
        rest.iter().all(|batch| batch.column(4).as_binary::<i32>().iter().all(|schema| schema.expect("a schema").len() > 500))
    );
    let calls = loads(&polaris);
    assert_eq!((calls.len(), polaris.log().calls().len()), (ALL, ALL), "each table once, and nothing else");
    assert!((AT_ONCE / 4..=AT_ONCE).contains(&at_once(&calls)), "{} at once", at_once(&calls));
    assert!(calls.iter().all(|call| !call.delegation), "nobody asks for access to the data");

    polaris.log().clear();
    let began = Instant::now();
    assert_eq!(tables(&mut client, of_schema(None, true)).await.expect("tables").len(), ALL);
    eprintln!("with schemas: first {first_in:?}, all {cold:?}, again {:?}", began.elapsed());
    let began = Instant::now();
    let columns = "SELECT count(*) || ' ' || count(DISTINCT table_schema || table_name) FROM information_schema.columns";
    assert_eq!(gateway.value(&format!("{columns} WHERE table_catalog = 'rest'")).await, format!("{} {ALL}", ALL * COLUMNS));
    let shown = run(&mut client, "SHOW ALL TABLES").await;
    assert_eq!(shown.iter().map(RecordBatch::num_rows).sum::<usize>(), ALL);
    eprintln!("information_schema.columns and SHOW ALL TABLES: {:?}", began.elapsed());
    assert!(polaris.log().calls().is_empty(), "all of it was known: {:?}", polaris.log().counts());
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_read_page_by_page() {
    let polaris = StandIn::start(many(3, 95)).await;
    let gateway = open_to_all(&polaris, &["relay.list_page_size=10"]);
    let names = tables(&mut gateway.client().await, of_schema(None, false)).await.expect("names");
    assert_eq!(names.len(), 3 * 95);
    // Ten pages of each generated namespace, and one of each of the others.
    assert_eq!(polaris.log().count(Operation::ListTables, "engineer"), 3 * 10 + 3);
    let of_one = polaris.log().calls().into_iter().filter(|call| call.target.as_deref() == Some("many_000"));
    let pages: Vec<Call> = of_one.filter(|call| call.operation == Operation::ListTables).collect();
    assert_eq!(at_once(&pages), 1, "one after the other");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_are_too_old_are_asked_about_and_not_sent_again() {
    let polaris = StandIn::start(many(2, 50)).await;
    let gateway = open_to_all(&polaris, &["relay.max_staleness=100ms", "relay.listing_staleness=1s"]);
    let mut client = gateway.client().await;
    for conditional in [false, true] {
        polaris.log().clear();
        assert_eq!(tables(&mut client, of_schema(None, true)).await.expect("tables").len(), 100);
        let calls = loads(&polaris);
        assert_eq!(calls.len(), 100);
        let expected = if conditional { 304 } else { 200 };
        assert!(calls.iter().all(|call| call.conditional == conditional && call.status == Some(expected)), "{:?}", calls[0]);
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    // A few are as current as reads are.
    let command = |with| CommandGetTables { table_name_filter_pattern: Some("t_0007".to_owned()), ..of_schema(None, with) };
    assert_eq!(tables(&mut client, command(true)).await.expect("tables").len(), 2);
    tokio::time::sleep(Duration::from_millis(150)).await;
    polaris.log().clear();
    assert_eq!(tables(&mut client, command(true)).await.expect("tables").len(), 2);
    assert_eq!(loads(&polaris).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn own_changes_are_in_the_listings_of_others_at_once() {
    let polaris = StandIn::start(many(1, 50)).await;
    let realm = polaris.realm(HOME);
    realm.grant("lakehouse", "gold_reader", Grant::on_namespace(Privilege::TableReadProperties, "many_000"));
    let gateway = gateway(&polaris, "polaris", &STEADY.map(str::to_owned));
    let (mut engineer, mut analyst) = tokio::join!(login(&gateway, &polaris, "engineer"), login(&gateway, &polaris, "analyst"));
    run(&mut engineer, "CREATE TABLE rest.gold.a (i INTEGER)").await;
    let columns = "SELECT string_agg(column_name, ' ' ORDER BY ordinal_position) FROM information_schema.columns \
                   WHERE table_schema IN ('gold', 'many_000') AND table_name NOT LIKE 't\\_%' ESCAPE '\\'";
    let schemas = "SELECT count(*)::VARCHAR FROM information_schema.schemata WHERE schema_name = 'extra'";
    for (change, names, shown, extra) in [
        ("SELECT 1", "a", "i", "0"),
        ("CREATE TABLE rest.gold.b AS SELECT 1 AS j", "a b", "i j", "0"),
        ("ALTER TABLE rest.gold.b ADD COLUMN k VARCHAR", "a b", "i j k", "0"),
        ("ALTER TABLE rest.gold.b RENAME TO c", "a c", "i j k", "0"),
        ("DROP TABLE rest.gold.a", "c", "j k", "0"),
        ("CREATE SCHEMA rest.extra", "c", "j k", "1"),
        ("DROP SCHEMA rest.extra", "c", "j k", "0"),
    ] {
        run(&mut engineer, change).await;
        for client in [&mut engineer, &mut analyst] {
            let listed = tables(client, of_schema(Some("gold"), false)).await.expect("tables").join(" ");
            assert_eq!(listed.replace("gold.", ""), names, "{change}");
            assert_eq!(value(client, columns).await.expect("columns"), shown, "{change}");
            assert_eq!(value(client, schemas).await.expect("schemas"), extra, "{change}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_others_are_listed_within_the_bound() {
    let polaris = StandIn::start(many(1, 50)).await;
    let gateway = open_to_all(&polaris, &["relay.max_staleness=500ms", "relay.listing_staleness=1s"]);
    let foreign = open_to_all(&polaris, &[]);
    let mut client = gateway.client().await;
    let columns = "SELECT count(*)::VARCHAR FROM information_schema.columns WHERE table_catalog = 'rest'";
    assert_eq!(value(&mut client, columns).await.expect("columns"), (50 * COLUMNS).to_string());
    foreign.run("CREATE TABLE rest.many_000.mine (i INTEGER)").await;
    foreign.run("DROP TABLE rest.many_000.t_0007").await;
    let mut soon = async |expected: usize| {
        let began = Instant::now();
        while value(&mut client, columns).await.expect("columns") != expected.to_string() {
            assert!(began.elapsed() < SOON, "never {expected}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon(49 * COLUMNS + 1).await;
    foreign.run("ALTER TABLE rest.many_000.mine ADD COLUMN j INTEGER").await;
    soon(49 * COLUMNS + 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_principal_has_listed_is_not_shown_to_another() {
    let polaris = StandIn::start(many(2, 60)).await;
    let gateway = gateway(&polaris, "polaris", &STEADY.map(str::to_owned));
    let (mut engineer, mut analyst) = tokio::join!(login(&gateway, &polaris, "engineer"), login(&gateway, &polaris, "analyst"));
    run(&mut engineer, "CREATE TABLE rest.silver.hidden (i INTEGER)").await;
    run(&mut engineer, "CREATE TABLE rest.gold.shown (i INTEGER)").await;
    for _ in 0..2 {
        let (all, own) = tokio::join!(tables(&mut engineer, of_schema(None, true)), tables(&mut analyst, of_schema(None, true)));
        assert_eq!((all.expect("tables").len(), own.expect("tables")), (122, vec!["gold.shown".to_owned()]));
        let count = "SELECT count(*)::VARCHAR FROM information_schema.columns WHERE table_catalog = 'rest'";
        assert_eq!(value(&mut engineer, count).await.expect("columns"), (120 * COLUMNS + 2).to_string());
        assert_eq!(value(&mut analyst, count).await.expect("columns"), "1");
    }
    // Who may list tables and not look at them has their names.
    polaris.realm(HOME).grant("lakehouse", "gold_reader", Grant::on_namespace(Privilege::TableList, "many_001"));
    let began = Instant::now();
    loop {
        let listed = tables(&mut analyst, of_schema(None, false)).await.expect("tables");
        if listed.len() == 61 {
            break;
        }
        assert!(listed.len() == 1 && began.elapsed() < SOON, "{}", listed.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let batches: Vec<RecordBatch> =
        begin(&mut analyst, of_schema(Some("many_001"), true)).await.expect("a listing").try_collect().await.expect("tables");
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_above_the_ceiling_is_refused_with_a_way_out() {
    let polaris = StandIn::start(many(3, 60)).await;
    let gateway = open_to_all(&polaris, &["query.listing_tables=100", "query.listing_bytes=32KiB"]);
    let mut client = gateway.client().await;
    let refused = |status: Status, limit: &str| {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        let way_out = "ask for one schema, or for a narrower name pattern";
        assert!(status.message().contains(limit) && status.message().contains(way_out), "{status}");
    };
    for with_columns in [false, true] {
        let too_many = tables(&mut client, of_schema(None, with_columns)).await.expect_err("180 tables");
        refused(too_many, "more than 100 tables (query.listing_tables)");
        assert_eq!(tables(&mut client, of_schema(Some("many_001"), with_columns)).await.expect("one schema").len(), 60);
        let named = CommandGetTables { table_name_filter_pattern: Some("t_001%".to_owned()), ..of_schema(None, with_columns) };
        assert_eq!(tables(&mut client, named).await.expect("a pattern").len(), 30);
    }
    for sql in ["SHOW ALL TABLES", "SELECT * FROM information_schema.tables"] {
        refused(query(&mut client, sql).await.expect_err("180 tables"), "more than 100 tables (query.listing_tables)");
    }
    let of_one = "SELECT count(*)::VARCHAR FROM information_schema.tables WHERE table_schema = 'many_002'";
    assert_eq!(value(&mut client, of_one).await.expect("one schema"), "60");
    let columns = "SELECT count(*)::VARCHAR FROM information_schema.columns WHERE table_schema = 'many_002'";
    refused(query(&mut client, columns).await.expect_err("600 rows"), "more than 32768 bytes of rows (query.listing_bytes)");
    let fewer = format!("{columns} AND table_name = 't_0003'");
    assert_eq!(value(&mut client, &fewer).await.expect("one table"), COLUMNS.to_string());
}

/// Calls that ask for a list of this namespace, or of all.
fn lists(polaris: &StandIn, operation: Operation, target: Option<&str>) -> usize {
    let of_it = |call: &Call| call.operation == operation && target.is_none_or(|target| call.target.as_deref() == Some(target));
    polaris.log().calls().iter().filter(|call| of_it(call)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_above_the_ceiling_is_not_read_to_its_end() {
    let polaris = StandIn::start(many(1, 1000)).await;
    let settings = ["relay.list_page_size=10", "query.listing_tables=50", STEADY[0], STEADY[1]];
    let gateway = open_to_all(&polaris, &settings);
    let mut client = gateway.client().await;
    let pages = || lists(&polaris, Operation::ListTables, Some("many_000"));
    let of_pattern =
        |pattern: &str| CommandGetTables { table_name_filter_pattern: Some(pattern.to_owned()), ..of_schema(None, false) };
    for asked in [None, Some("many_000")] {
        polaris.log().clear();
        let too_many = tables(&mut client, of_schema(asked, false)).await.expect_err("1000 tables");
        assert!(too_many.message().contains("more than 50 tables (query.listing_tables)"), "{too_many}");
        assert_eq!(pages(), 6, "the page with the 51st name is the last one");
    }
    polaris.log().clear();
    let sql = query(&mut client, "SELECT * FROM information_schema.tables").await.expect_err("1000 tables");
    assert!(sql.message().contains("more than 50 tables"), "{sql}");
    assert_eq!(pages(), 6);
    // What is left out does not count; and nothing of a list that was not read to its end is taken for all of it.
    for _ in 0..2 {
        let last = tables(&mut client, of_pattern("t_099%")).await.expect("ten tables");
        assert_eq!((last.len(), last[9].as_str()), (10, "many_000.t_0999"));
        let one = "SELECT count(*)::VARCHAR FROM information_schema.tables WHERE table_name = 't_0777'";
        assert_eq!(value(&mut client, one).await.expect("one table"), "1");
    }
    polaris.log().clear();
    let too_many = tables(&mut client, of_pattern("t_00%")).await.expect_err("100 tables");
    assert!(too_many.message().contains("more than 50 tables"), "{too_many}");
    assert!(pages() <= 12, "{} pages", pages());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_lists_side_by_side_end_at_one_ceiling() {
    const PAGES: usize = 20;
    let polaris = StandIn::start(many(60, 10 * PAGES)).await;
    let gateway = open_to_all(&polaris, &["relay.list_page_size=10", "query.listing_tables=400", STEADY[0], STEADY[1]]);
    let mut client = gateway.client().await;
    let too_many = tables(&mut client, of_schema(None, false)).await.expect_err("12,000 tables");
    assert!(too_many.message().contains("more than 400 tables (query.listing_tables)"), "{too_many}");
    let calls = lists(&polaris, Operation::ListTables, None);
    // 41 pages, one that was under way for each of the others, and the namespaces that have no tables.
    assert!((41..=41 + AT_ONCE + 3).contains(&calls), "{calls} calls, of {}", 60 * PAGES);
    // A pattern that fits few of each finds all of them, whatever the lists come to.
    let few = CommandGetTables { table_name_filter_pattern: Some("t_0003".to_owned()), ..of_schema(None, false) };
    assert_eq!(tables(&mut client, few).await.expect("60 tables").len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_have_the_same_ceiling() {
    let polaris = StandIn::start(many(500, 1)).await;
    let gateway = open_to_all(&polaris, &["relay.list_page_size=10", "query.listing_tables=50", STEADY[0], STEADY[1]]);
    let mut client = gateway.client().await;
    let schemas = async |client: &mut Client, pattern: Option<&str>| {
        let pattern = pattern.map(str::to_owned);
        let command = CommandGetDbSchemas { catalog: Some("rest".to_owned()), db_schema_filter_pattern: pattern };
        let info = client.get_db_schemas(command).await.map_err(status)?;
        let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
        let batches: Vec<RecordBatch> = client.do_get(ticket).await.map_err(status)?.map_err(status).try_collect().await?;
        Ok::<_, Status>(batches.iter().map(RecordBatch::num_rows).sum::<usize>())
    };
    let too_many = schemas(&mut client, None).await.expect_err("500 schemas");
    assert!(too_many.message().contains("more than 50 schemas (query.listing_tables): ask for one schema"), "{too_many}");
    // Six pages of the outermost ones, what each of the 51 holds, and calls that were under way.
    let calls = lists(&polaris, Operation::ListNamespaces, None);
    assert!(calls <= 6 + 51 + AT_ONCE, "{calls} calls");
    for _ in 0..2 {
        assert_eq!(schemas(&mut client, Some("many_04%")).await.expect("ten schemas"), 10);
        assert_eq!(tables(&mut client, of_schema(Some("many_499"), false)).await.expect("one table"), ["many_499.t_0000"]);
    }
    let too_many = tables(&mut client, of_schema(None, false)).await.expect_err("500 schemas");
    assert!(too_many.message().contains("more than 50 schemas"), "{too_many}");
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_that_nobody_reads_on_hold_nobody_up() {
    const ASLEEP: usize = 4;
    const WIDE: usize = 4 * TABLES;
    // Far more than connections hold by themselves.
    let wide = GeneratedSetup { namespaces: 4, tables: TABLES, columns: 150 };
    let polaris = StandIn::start(Setup::lakehouse().with_generated(wide)).await;
    polaris.faults().add(Rule::new(Fault::DelayMs(2)));
    let gateway =
        open_to_all(&polaris, &["relay.max_reads_per_catalog=8", "relay.max_staleness=0s", "relay.listing_staleness=0s"]);
    // Each has begun, and its client reads no more.
    let mut asleep = Vec::new();
    for _ in 0..ASLEEP {
        let mut stream = begin(&mut gateway.client().await, of_schema(None, true)).await.expect("tables");
        stream.next().await.expect("a batch").expect("rows");
        asleep.push(stream);
    }
    let settled = async {
        let mut before = usize::MAX;
        while before != loads(&polaris).len() {
            before = loads(&polaris).len();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        before
    };
    let loaded = settled.await;
    assert!(loaded < ASLEEP * WIDE * 3 / 4, "{loaded} loads for listings of which a batch was read");
    let reads = async {
        let mut client = gateway.client().await;
        for number in 0..5 {
            let sql = format!("SELECT count(*)::VARCHAR FROM rest.many_000.t_000{number}");
            assert_eq!(value(&mut client, &sql).await.expect("a count"), "0");
        }
    };
    let listing = async {
        let listed = tables(&mut gateway.client().await, of_schema(Some("many_003"), true)).await;
        assert_eq!(listed.expect("tables").len(), TABLES);
    };
    tokio::time::timeout(SOON, async { tokio::join!(reads, listing) }).await.expect("nobody waits for those that sleep");
    let woken = asleep.pop().expect("a stream").map_ok(|batch| batch.num_rows());
    let rest = woken.try_fold(0, async |sum, rows| Ok(sum + rows)).await.expect("rows");
    assert!(rest > WIDE / 2, "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_and_reads_get_along_at_a_catalog_with_few_places() {
    let polaris = StandIn::start(many(2, 30)).await;
    polaris.faults().add(Rule::new(Fault::DelayMs(5)));
    let gateway =
        open_to_all(&polaris, &["relay.max_reads_per_catalog=4", "relay.max_staleness=0s", "relay.listing_staleness=0s"]);
    let listers = (0..4).map(async |_| {
        let mut client = gateway.client().await;
        for _ in 0..2 {
            assert_eq!(tables(&mut client, of_schema(None, true)).await.expect("tables").len(), 60);
        }
    });
    let readers = (0..6).map(async |number| {
        let mut client = gateway.client().await;
        for _ in 0..5 {
            let sql = format!("SELECT count(*)::VARCHAR FROM rest.many_000.t_000{number}, rest.many_001.t_0000");
            assert_eq!(value(&mut client, &sql).await.expect("a count"), "0");
        }
    });
    let both = async { tokio::join!(futures::future::join_all(listers), futures::future::join_all(readers)) };
    tokio::time::timeout(Duration::from_secs(120), both).await.expect("nobody waits for ever");
    assert!(at_once(&loads(&polaris)) <= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_have_places_among_the_statements_of_their_principal() {
    // More names than a connection takes on before they are read.
    let polaris = StandIn::start(many(100, 1000)).await;
    let gateway = open_to_all(&polaris, &["query.max_statements_per_principal=2", "query.listing_tables=100000"]);
    let schemas = async |client: &mut Client| {
        let info = client.get_db_schemas(CommandGetDbSchemas::default()).await.map_err(status)?;
        let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
        let batches: Vec<RecordBatch> = client.do_get(ticket).await.map_err(status)?.map_err(status).try_collect().await?;
        Ok::<usize, Status>(batches.iter().map(RecordBatch::num_rows).sum())
    };
    let mut asleep = Vec::new();
    for _ in 0..2 {
        let mut stream = begin(&mut gateway.client().await, of_schema(None, false)).await.expect("tables");
        stream.next().await.expect("a batch").expect("rows");
        asleep.push(stream);
    }
    let mut client = gateway.client().await;
    let too_many = |status: Status| {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains("query.max_statements_per_principal"), "{status}");
    };
    too_many(tables(&mut client, of_schema(Some("many_001"), false)).await.expect_err("two listings are in work"));
    too_many(tables(&mut client, of_schema(Some("many_001"), true)).await.expect_err("two listings are in work"));
    too_many(schemas(&mut client).await.expect_err("two listings are in work"));
    too_many(query(&mut client, "SELECT 1").await.expect_err("two listings are in work"));
    drop(asleep.pop());
    let began = Instant::now();
    let found = loop {
        match schemas(&mut client).await {
            Ok(found) => break found,
            Err(status) => too_many(status),
        }
        assert!(began.elapsed() < SOON, "its place is never free");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(found > 100, "{found}");
    let rest: usize =
        asleep.remove(0).map_ok(|batch| batch.num_rows()).try_fold(0, async |sum, rows| Ok(sum + rows)).await.expect("rows");
    assert!(rest > 50_000, "{rest}");
    let log = gateway.log();
    for event in ["GetTables catalog=\\\"rest\\\"", "statement abandoned", "GetDbSchemas"] {
        assert!(log.contains(event), "{event}: {log}");
    }
}
