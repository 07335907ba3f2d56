//! Replays what stock clients were recorded to send (`tests/data/client-recordings`), call by call, as raw messages over real gRPC, to
//! real gateways. Our own handles, tickets and tokens go in where the recorded ones stood, as the client would have done; statements
//! are the recorded ones but for [`REWRITES`].
//!
//! Compared with the recording: whether a call works, schemas, rows, counts, and what the drivers need of the rest. The recorded
//! server's own values are no reference: names of catalogs, tickets and texts of errors are not compared.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Float64Type, Int32Type, Int64Type, Schema, TimeUnit, UInt32Type};
use arrow::ipc::convert::try_schema_from_ipc_buffer;
use arrow::util::display::array_value_to_string;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any, Command,
    DoPutPreparedStatementResult, DoPutUpdateResult, ProstMessageExt,
};
use arrow_flight::utils::flight_data_to_batches;
use arrow_flight::{Action, FlightData, FlightDescriptor, FlightInfo, PutResult, Ticket};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use serde_json::Value;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{AsciiMetadataKey, BinaryMetadataKey, BinaryMetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::harness::{Gateway, query, root, user_ada};

/// A call for which this gateway answers otherwise than the recorded server.
struct Differs {
    /// Its number in the recording.
    call: u64,
    ours: Ours,
    why: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Ours {
    /// It failed there and works here.
    Works,
    /// It works, with another answer, which is not compared.
    Another,
    /// It gives these rows, as JSON.
    Rows(&'static str),
    /// It changes so many rows.
    Changed(i64),
}

/// Every recording, with the accepted differences. A recording that is not here, or is here and not there, fails the test.
#[rustfmt::skip]
const CASES: &[(&str, &[Differs])] = &[
    ("adbc-go/connect-anonymous", &[]),
    ("adbc-go/connect-user-password", &[]),
    ("adbc-go/metadata", &[]),
    ("adbc-go/prepared", &[]),
    ("adbc-go/query", &[
        Differs { call: 7, ours: Ours::Changed(2), why: "the recorded server did not count the rows of an INSERT" },
    ]),
    ("adbc-python/close-unimplemented", &[Differs { call: 3, ours: Ours::Works, why: "the recorder played a server without sessions" }]),
    ("adbc-python/connect-autocommit-on", &[]),
    ("adbc-python/connect-headers-and-cookies", &[]),
    ("adbc-python/connect-token", &[]),
    ("adbc-python/connect-user-password-rejected", &[]),
    ("adbc-python/connect-user-password", &[]),
    ("adbc-python/ddl-dml", &[
        Differs { call: 4, ours: Ours::Changed(1), why: "the recorded server did not count the rows of an INSERT" },
        Differs { call: 14, ours: Ours::Rows(r#"[{"count_star()": 4}]"#), why: "the recorded server lost the INSERT whose DoGet was never sent" },
    ]),
    ("adbc-python/get-info-full", &[]),
    ("adbc-python/get-info", &[]),
    ("adbc-python/get-objects", &[
        Differs { call: 24, ours: Ours::Rows(r#"[{"table_name": "nation"}]"#), why: "BASE TABLE is a type of table here, as information_schema has it" },
    ]),
    ("adbc-python/get-table-schema", &[]),
    ("adbc-python/parameters-bind-new-handle", &[
        Differs { call: 6, ours: Ours::Rows(r#"[{"n_name": "CANADA"}]"#), why: "the recorder answered with NULLs" },
        Differs { call: 11, ours: Ours::Rows(r#"[{"v": "x", "d": "12.34", "t": "2024-02-29 12:34:56.123456", "dt": "2024-02-29", "n": null}]"#), why: "the recorder answered with NULLs" },
        Differs { call: 16, ours: Ours::Rows(r#"[{"n_name": "EGYPT"}]"#), why: "the recorder answered with NULLs" },
        Differs { call: 19, ours: Ours::Rows(r#"[{"n_name": "ETHIOPIA"}]"#), why: "the recorder answered with NULLs" },
        Differs { call: 31, ours: Ours::Rows(r#"[{"a": 1, "b": "x"}, {"a": 2, "b": "a"}, {"a": 3, "b": "b"}, {"a": 4, "b": "c"}]"#), why: "the recorded server lost the INSERT whose DoGet was never sent" },
    ]),
    ("adbc-python/parameters", &[
        Differs { call: 9, ours: Ours::Works, why: "decimals can be bound here" },
        Differs { call: 29, ours: Ours::Rows(r#"[{"a": 1, "b": "x"}, {"a": 2, "b": "a"}, {"a": 3, "b": "b"}, {"a": 4, "b": "c"}]"#), why: "the recorded server lost the INSERT whose DoGet was never sent" },
    ]),
    ("adbc-python/query-error", &[]),
    ("adbc-python/query", &[]),
    ("adbc-python/session-options", &[]),
    ("jdbc/connect-anonymous", &[]),
    ("jdbc/connect-catalog-close-no-result", &[Differs { call: 6, ours: Ours::Another, why: "the recorder played a server that answers CloseSession with nothing" }]),
    ("jdbc/connect-catalog-close-unimplemented", &[Differs { call: 6, ours: Ours::Works, why: "the recorder played a server without sessions" }]),
    ("jdbc/connect-catalog-error-value", &[Differs { call: 1, ours: Ours::Another, why: "the recorder played a server without this catalog" }]),
    ("jdbc/connect-catalog-option", &[]),
    ("jdbc/connect-catalog-unimplemented", &[Differs { call: 1, ours: Ours::Works, why: "the recorder played a server without sessions" }]),
    ("jdbc/connect-catalog-user-password", &[]),
    ("jdbc/connect-extra-properties", &[]),
    ("jdbc/connect-token", &[]),
    ("jdbc/connect-user-password-rejected", &[]),
    ("jdbc/connect-user-password", &[]),
    ("jdbc/is-valid", &[]),
    ("jdbc/metadata-info-full", &[]),
    ("jdbc/metadata-info", &[]),
    ("jdbc/metadata-keys", &[]),
    ("jdbc/metadata-objects", &[]),
    ("jdbc/metadata-type-info", &[]),
    ("jdbc/prepared-batch", &[]),
    ("jdbc/prepared-no-params", &[]),
    ("jdbc/prepared-query", &[]),
    ("jdbc/prepared-typed-no-param-schema", &[]),
    ("jdbc/prepared-typed-null-params", &[]),
    ("jdbc/prepared-typed-string-params", &[]),
    ("jdbc/prepared-typed", &[
        Differs { call: 4, ours: Ours::Rows(r#"[{"i": 7, "v": "text", "d": "12.34", "ts": "1970-01-20 18:46:50.096123", "dt": "2024-02-29", "f": 2.5, "b": true}]"#), why: "the recorder answered with NULLs" },
    ]),
    ("jdbc/prepared-update", &[]),
    ("jdbc/statement-batch", &[]),
    ("jdbc/statement-close-early", &[]),
    ("jdbc/statement-error", &[]),
    ("jdbc/statement-query", &[]),
    ("jdbc/statement-update", &[]),
    ("node-firetiger/connect-anonymous", &[]),
    ("node-firetiger/connect-token", &[]),
    ("node-firetiger/connect-user-password", &[]),
    ("node-firetiger/metadata", &[
        Differs { call: 5, ours: Ours::Rows(r#"[{"table_name": "nation"}]"#), why: "BASE TABLE is a type of table here, as information_schema has it" },
    ]),
    ("node-firetiger/prepared", &[]),
    ("node-firetiger/query", &[]),
    ("node-gizmosql/connect-anonymous", &[]),
    ("node-gizmosql/connect-token", &[]),
    ("node-gizmosql/connect-user-password", &[]),
    ("node-gizmosql/metadata", &[
        Differs { call: 7, ours: Ours::Rows(r#"[{"table_name": "nation"}]"#), why: "BASE TABLE is a type of table here, as information_schema has it" },
    ]),
    ("node-gizmosql/prepared", &[]),
    ("node-gizmosql/query", &[]),
    ("odbc/autocommit-on", &[]),
    ("odbc/columns-field-metadata", &[]),
    ("odbc/columns", &[]),
    ("odbc/connect-anonymous", &[]),
    ("odbc/connect-token", &[]),
    ("odbc/connect-user-password-rejected", &[]),
    ("odbc/connect-user-password", &[]),
    ("odbc/exec-direct-empty-dataset-schema", &[]),
    ("odbc/exec-direct", &[]),
    ("odbc/get-info-full", &[]),
    ("odbc/get-info", &[]),
    ("odbc/prepare-execute-parameters", &[]),
    ("odbc/prepare-execute", &[]),
    ("odbc/tables", &[]),
    ("odbc/type-info", &[]),
];

/// What is said otherwise here: there is no OR REPLACE.
const REWRITES: &[(&str, &str)] = &[("create or replace table ", "create table ")];

/// Name and region, in the order of their keys.
#[rustfmt::skip]
const NATIONS: &[(&str, i32)] = &[
    ("ALGERIA", 0), ("ARGENTINA", 1), ("BRAZIL", 1), ("CANADA", 1), ("EGYPT", 4), ("ETHIOPIA", 0), ("FRANCE", 3), ("GERMANY", 3),
    ("INDIA", 2), ("INDONESIA", 2), ("IRAN", 4), ("IRAQ", 4), ("JAPAN", 2), ("JORDAN", 4), ("KENYA", 0), ("MOROCCO", 0),
    ("MOZAMBIQUE", 0), ("PERU", 1), ("CHINA", 2), ("ROMANIA", 3), ("SAUDI ARABIA", 4), ("VIETNAM", 2), ("RUSSIA", 3),
    ("UNITED KINGDOM", 3), ("UNITED STATES", 1),
];

/// Columns whose values hang on data that only the recorded server had.
const OTHER_DATA: &[&str] = &["n_comment", "c"];

const USER: &str = "ada";
const PASSWORD: &str = "correct horse";

#[tokio::test(flavor = "multi_thread")]
async fn recorded_clients_get_the_answers_that_they_need() {
    let listed: BTreeSet<String> = CASES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(listed, recorded(), "cases of the table, and recordings");
    let mut open = Target::start(&[]).await;
    let mut closed = Target::start(&user_ada()).await;
    let mut problems = Vec::new();
    for (name, differs) in CASES {
        let calls = calls(name);
        let logs_in = calls.iter().any(|call| headers(call).any(|(name, _)| name == "authorization"));
        let target = if logs_in { &mut closed } else { &mut open };
        problems.extend(target.replay(&calls, differs).await.into_iter().map(|problem| format!("{name}, {problem}")));
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

fn folder() -> PathBuf {
    root().join("tests/data/client-recordings")
}

/// `client/case` of each file.
fn recorded() -> BTreeSet<String> {
    let entries = |folder: PathBuf| std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let name = |part: Option<&std::ffi::OsStr>| part.expect("a name").to_string_lossy().into_owned();
    let clients = entries(folder()).filter(|path| path.is_dir());
    let files = clients.flat_map(|client| entries(client.clone()).map(move |file| (client.clone(), file)));
    files.map(|(client, file)| format!("{}/{}", name(client.file_name()), name(file.file_stem()))).collect()
}

fn calls(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder().join(format!("{name}.jsonl"))).expect("a recording");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter(|line| line.get("call").is_some()).collect()
}

fn headers(call: &Value) -> impl Iterator<Item = (&str, &str)> {
    list(&call["metadata"]).iter().filter_map(|line| line.as_str()?.split_once(": ").or(Some((line.as_str()?, ""))))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Whether the client ended the call itself: how far the server was by then differs from run to run.
fn broken_off(call: &Value) -> bool {
    call["client_cancelled_or_deadline_passed"] == Value::Bool(true)
}

/// A gateway with the catalogs and tables that the recorded statements name.
struct Target {
    gateway: Gateway,
    admin: FlightSqlServiceClient<Channel>,
    users: bool,
}

impl Target {
    async fn start(users: &[String]) -> Self {
        let dir = Arc::new(tempfile::TempDir::new().expect("a directory"));
        let tpch = format!("catalogs.tpch.path={}", dir.path().join("tpch").display());
        let mut set = vec!["catalogs.tpch.type=embedded", &tpch];
        set.extend(users.iter().map(String::as_str));
        let gateway = Gateway::in_dir(Arc::clone(&dir), &set);
        let mut admin = gateway.client().await;
        if !users.is_empty() {
            admin.handshake(USER, PASSWORD).await.expect("a login");
        }
        let nations = NATIONS.iter().enumerate().map(|(key, (name, region))| format!("({key}, '{name}', {region}, 'x')"));
        let nations: Vec<String> = nations.collect();
        for sql in [
            "CREATE SCHEMA lake.memory",
            "CREATE SCHEMA tpch.main",
            "CREATE TABLE tpch.main.nation (n_nationkey INTEGER, n_name VARCHAR, n_regionkey INTEGER, n_comment VARCHAR)",
            &format!("INSERT INTO tpch.main.nation VALUES {}", nations.join(", ")),
            "CREATE TABLE tpch.main.lineitem (l_orderkey BIGINT, l_shipmode VARCHAR, l_extendedprice DECIMAL(15,2), l_shipdate DATE)",
        ] {
            query(&mut admin, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}\n{}", gateway.log()));
        }
        Self { gateway, admin, users: !users.is_empty() }
    }

    async fn replay(&mut self, calls: &[Value], differs: &[Differs]) -> Vec<String> {
        let mut client = Client::connect(self).await;
        for call in calls {
            let number = call["call"].as_u64().expect("a number");
            client.at = format!("call {number} ({})", text(&call["method"]));
            let differs = differs.iter().find(|differs| differs.call == number);
            let Some(messages) = client.messages(call) else { continue };
            let answer = client.send(call, messages).await;
            client.compare(call, answer, differs);
        }
        for table in &client.created {
            query(&mut self.admin, &format!("DROP TABLE IF EXISTS {table}")).await.expect("dropped");
        }
        client.problems
    }
}

/// One run of a recorded client.
struct Client {
    grpc: tonic::client::Grpc<Channel>,
    token: String,
    /// Recorded handle → ours; `None` when this gateway has refused to give one, as the table says.
    handles: HashMap<String, Option<Bytes>>,
    /// Recorded content of a ticket → our ticket.
    tickets: HashMap<String, Bytes>,
    /// The handle of the last PutResult.
    adopted: Bytes,
    /// Our handles with bound parameters.
    bound: HashSet<Bytes>,
    created: Vec<String>,
    at: String,
    problems: Vec<String>,
}

impl Client {
    async fn connect(target: &Target) -> Self {
        let mut token = String::new();
        // For clients that were given a token beforehand.
        if target.users {
            let mut login = target.gateway.client().await;
            login.handshake(USER, PASSWORD).await.expect("a login");
            token.clone_from(login.token().expect("a token"));
        }
        let grpc = tonic::client::Grpc::new(target.gateway.channel().await).max_decoding_message_size(64 << 20);
        Self {
            grpc,
            token,
            handles: HashMap::new(),
            tickets: HashMap::new(),
            adopted: Bytes::new(),
            bound: HashSet::new(),
            created: Vec::new(),
            at: String::new(),
            problems: Vec::new(),
        }
    }

    fn problem(&mut self, text: impl std::fmt::Display) {
        self.problems.push(format!("{}: {text}", self.at));
    }

    fn expect(&mut self, holds: bool, text: impl std::fmt::Display) {
        if !holds {
            self.problem(text);
        }
    }

    /// The recorded messages with what is ours in them; `None` when they need what an earlier call should have given.
    fn messages(&mut self, call: &Value) -> Option<Vec<Bytes>> {
        let recorded = list(&call["requests"]);
        if call["method"] == "Handshake" {
            return Some(recorded.iter().map(|_| Bytes::new()).collect());
        }
        let raw = list(&call["raw_requests_base64"]).iter();
        let mut messages: Vec<Bytes> = raw.map(|raw| BASE64_STANDARD.decode(text(raw)).expect("base64").into()).collect();
        assert_eq!(messages.len(), recorded.len(), "{}: not all messages are recorded", self.at);
        if let (Some(first), Some(described)) = (messages.first_mut(), recorded.first()) {
            *first = match text(&call["method"]) {
                "DoGet" => {
                    let Some(ticket) = self.tickets.get(&described["ticket"]["content"].to_string()).cloned() else {
                        let refused = self.handles.values().any(Option::is_none);
                        self.expect(refused, "no ticket from an earlier call");
                        return None;
                    };
                    Ticket { ticket }.encode_to_vec().into()
                }
                "DoAction" => {
                    let mut action = Action::decode(first.clone()).expect("an action");
                    action.body = self.substituted(&action.body, &described["body"])?;
                    action.encode_to_vec().into()
                }
                "DoPut" => {
                    let mut data = FlightData::decode(first.clone()).expect("data");
                    let descriptor = data.flight_descriptor.as_mut().expect("a descriptor");
                    descriptor.cmd = self.substituted(&descriptor.cmd, &described["flight_descriptor"]["cmd"])?;
                    data.encode_to_vec().into()
                }
                _ => {
                    let mut descriptor = FlightDescriptor::decode(first.clone()).expect("a descriptor");
                    descriptor.cmd = self.substituted(&descriptor.cmd, &described["cmd"])?;
                    descriptor.encode_to_vec().into()
                }
            };
        }
        Some(messages)
    }

    /// A packed message with our handle, and with the statement as it is said here.
    fn substituted(&mut self, packed: &Bytes, described: &Value) -> Option<Bytes> {
        let recorded = described["prepared_statement_handle"].as_str();
        if let Some(recorded) = recorded
            && self.handle(described).is_none()
        {
            self.expect(self.handles.contains_key(recorded), format!("no handle from an earlier call for {recorded}"));
            return None;
        }
        let handle = self.handle(described).unwrap_or_default();
        let Ok(any) = Any::decode(packed.clone()) else { return Some(packed.clone()) };
        if let Ok(Some(mut request)) = any.unpack::<ActionCreatePreparedStatementRequest>() {
            request.query = self.said_here(&request.query);
            return Some(request.as_any().encode_to_vec().into());
        }
        if let Ok(Some(mut request)) = any.unpack::<ActionClosePreparedStatementRequest>() {
            request.prepared_statement_handle = handle;
            return Some(request.as_any().encode_to_vec().into());
        }
        let command = match Command::try_from(any) {
            Ok(Command::CommandStatementQuery(mut command)) => {
                command.query = self.said_here(&command.query);
                command.as_any()
            }
            Ok(Command::CommandStatementUpdate(mut command)) => {
                command.query = self.said_here(&command.query);
                command.as_any()
            }
            Ok(Command::CommandPreparedStatementQuery(mut command)) => {
                command.prepared_statement_handle = handle;
                command.as_any()
            }
            Ok(Command::CommandPreparedStatementUpdate(mut command)) => {
                command.prepared_statement_handle = handle;
                command.as_any()
            }
            _ => return Some(packed.clone()),
        };
        Some(command.encode_to_vec().into())
    }

    fn said_here(&mut self, sql: &str) -> String {
        let sql = REWRITES.iter().fold(sql.to_owned(), |sql, (from, to)| sql.replace(from, to));
        if let Some(rest) = sql.strip_prefix("create table ") {
            self.created.extend(rest.split('(').next().map(|name| name.trim().to_owned()));
        }
        sql
    }

    async fn send(&mut self, call: &Value, messages: Vec<Bytes>) -> Result<Vec<Bytes>, Status> {
        let mut request = Request::new(futures::stream::iter(messages));
        for (name, value) in headers(call).filter(|(name, _)| !matches!(*name, "user-agent" | "accept-encoding")) {
            if name.ends_with("-bin") {
                let name = BinaryMetadataKey::from_bytes(name.as_bytes()).expect("a name");
                request.metadata_mut().insert_bin(name, BinaryMetadataValue::from_bytes(b""));
            } else {
                let value = if name == "authorization" { self.authorization(call, value) } else { value.to_owned() };
                let name = AsciiMetadataKey::from_bytes(name.as_bytes()).expect("a name");
                request.metadata_mut().insert(name, value.parse().expect("a value"));
            }
        }
        let path = format!("/arrow.flight.protocol.FlightService/{}", text(&call["method"]));
        self.grpc.ready().await.expect("a connection");
        let response = self.grpc.streaming(request, path.parse().expect("a path"), Raw).await?;
        if let Some(token) =
            response.metadata().get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        {
            token.clone_into(&mut self.token);
        }
        let (mut stream, mut received) = (response.into_inner(), Vec::new());
        while let Some(message) = stream.message().await? {
            received.push(message);
            if broken_off(call) {
                break;
            }
        }
        Ok(received)
    }

    /// The recorded form of the header with our credentials; wrong ones where the recorded login was refused.
    fn authorization(&self, call: &Value, recorded: &str) -> String {
        if recorded.starts_with("Bearer ") {
            return format!("Bearer {}", self.token);
        }
        let refused = call["method"] == "Handshake" && call["status"]["code"] != "OK";
        let password = if refused { "wrong" } else { PASSWORD };
        let unpadded = recorded.contains("padding");
        let engine = if unpadded { &BASE64_STANDARD_NO_PAD } else { &BASE64_STANDARD };
        format!("Basic {}", engine.encode(format!("{USER}:{password}")))
    }

    fn compare(&mut self, call: &Value, answer: Result<Vec<Bytes>, Status>, differs: Option<&Differs>) {
        let worked = call["status"]["code"] == "OK" || broken_off(call);
        match (answer, differs.map(|differs| differs.ours)) {
            (Ok(messages), None) if worked => self.compare_answer(call, &messages),
            (Err(_), None) if !worked => {}
            (Ok(_), Some(Ours::Works)) if !worked => {}
            (Ok(_), Some(Ours::Another)) if worked => {}
            (Ok(messages), Some(Ours::Rows(rows))) if worked => {
                let rows: Vec<Value> = serde_json::from_str(rows).expect("JSON");
                let mut call = call.clone();
                call["responses"][0]["rows"] = rows.len().into();
                call["responses"][0]["first_rows"] = rows.into();
                self.compare_answer(&call, &messages);
            }
            (Ok(messages), Some(Ours::Changed(count))) if worked => {
                let mut call = call.clone();
                call["responses"][0]["DoPutUpdateResult"]["record_count"] = count.into();
                self.compare_answer(&call, &messages);
            }
            (answer, _) => {
                let ours = answer.map_or_else(|status| format!("{:?}: {}", status.code(), status.message()), |_| "OK".to_owned());
                self.refused(call);
                self.problem(format!("{ours}; recorded {}, listed {:?}", call["status"], differs.map(|d| (d.ours, d.why))));
            }
        }
    }

    fn refused(&mut self, call: &Value) {
        let handles =
            list(&call["responses"]).iter().filter_map(|response| response["body"]["prepared_statement_handle"].as_str());
        self.handles.extend(handles.map(|handle| (handle.to_owned(), None)));
    }

    fn compare_answer(&mut self, call: &Value, messages: &[Bytes]) {
        match text(&call["method"]) {
            "Handshake" => self.expect(!self.token.is_empty(), "no token"),
            "GetFlightInfo" => self.compare_info(call, messages),
            "DoGet" => self.compare_rows(call, messages),
            "DoPut" => self.compare_put(call, messages),
            "DoAction" => self.compare_action(call, messages),
            method => self.problem(format!("{method} is not compared")),
        }
    }

    fn compare_info(&mut self, call: &Value, messages: &[Bytes]) {
        let (recorded, command) = (&call["responses"][0], &call["requests"][0]["cmd"]);
        let info = FlightInfo::decode(messages[0].clone()).expect("a FlightInfo");
        // What values may change is not promised.
        let bound = self.handle(command).is_some_and(|handle| self.bound.contains(&handle));
        if !(bound && info.schema.is_empty()) {
            self.expect(!info.schema.is_empty(), "no schema");
            self.compare_schema(&recorded["schema"], &ipc_schema(&info.schema));
        }
        let tickets: Vec<Bytes> = info.endpoint.into_iter().filter_map(|endpoint| Some(endpoint.ticket?.ticket)).collect();
        let contents = list(&recorded["tickets"]);
        self.expect(tickets.len() == contents.len(), format!("{} tickets, recorded {}", tickets.len(), contents.len()));
        self.tickets.extend(contents.iter().map(|ticket| ticket["content"].to_string()).zip(tickets));
    }

    /// Our handle for the one that a recorded command names.
    fn handle(&self, command: &Value) -> Option<Bytes> {
        match command["prepared_statement_handle"].as_str() {
            Some(recorded) => self.handles.get(recorded)?.clone(),
            // The JDBC driver takes it from the PutResult, where the recorded server gave none.
            None if text(&command["@type"]).ends_with(".CommandPreparedStatementQuery") => Some(self.adopted.clone()),
            None => None,
        }
    }

    /// Names, types and nullability; inside a union servers write nullability in both ways, and every client took both.
    fn compare_schema(&mut self, recorded: &Value, ours: &Schema) {
        let wanted: Vec<String> = list(recorded).iter().map(|field| plain_union(text(field))).collect();
        let got: Vec<String> = ours.fields().iter().map(|field| plain_union(&field_text(field))).collect();
        self.expect(wanted == got, format!("schema {got:?}, recorded {wanted:?}"));
    }

    fn compare_rows(&mut self, call: &Value, messages: &[Bytes]) {
        let (recorded, command) = (&call["responses"][0], &call["requests"][0]["ticket"]["content"]);
        let data: Vec<FlightData> = messages.iter().map(|message| FlightData::decode(message.clone()).expect("data")).collect();
        let Some(first) = data.first() else { return self.problem("no schema") };
        let schema = Schema::try_from(first).expect("a schema");
        self.compare_schema(&recorded["schema"], &schema);
        if broken_off(call) {
            return;
        }
        let batches = flight_data_to_batches(&data).expect("batches");
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let wanted = usize::try_from(recorded["rows"].as_u64().expect("a number")).expect("a number");
        let first_rows = list(&recorded["first_rows"]);
        match text(&command["@type"]).rsplit('.').next().expect("a type") {
            "TicketStatementQuery" => {
                self.expect(rows == wanted, format!("{rows} rows, recorded {wanted}"));
                batches.first().inspect(|batch| self.compare_values(first_rows, batch));
            }
            "CommandGetSqlInfo" => self.compare_sql_info(list(&command["info"]), first_rows, &batches),
            "CommandGetXdbcTypeInfo" => self.expect(schema.fields().len() == 19, "GetXdbcTypeInfo without its 19 columns"),
            // There are no keys here.
            name if name.ends_with("Keys") || name == "CommandGetCrossReference" => self.expect(rows == 0, "keys"),
            _ => {
                self.expect((rows > 0) == (wanted > 0), format!("{rows} rows, recorded {wanted}"));
                batches.iter().for_each(|batch| self.check_table_schemas(batch));
            }
        }
    }

    fn compare_values(&mut self, recorded: &[Value], batch: &RecordBatch) {
        for (row, wanted) in recorded.iter().enumerate().take(batch.num_rows()) {
            for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
                let (got, wanted) = (value(column, row), &wanted[field.name()]);
                if !OTHER_DATA.contains(&field.name().as_str()) && got.as_ref().is_some_and(|got| got != wanted) {
                    self.problem(format!("row {row}, {}: {got:?}, recorded {wanted}", field.name()));
                }
            }
        }
    }

    /// The infos that were asked for, each in the member of the union in which drivers look for it.
    fn compare_sql_info(&mut self, asked: &[Value], recorded: &[Value], batches: &[RecordBatch]) {
        let mut ours = HashMap::new();
        for batch in batches {
            let names = batch.column(0).as_primitive::<UInt32Type>().values();
            let members = batch.column(1).as_union().type_ids();
            ours.extend(names.iter().map(|name| u64::from(*name)).zip(members.iter().copied()));
        }
        for name in asked.iter().filter_map(Value::as_u64) {
            self.expect(ours.contains_key(&name), format!("info {name} is missing"));
        }
        self.expect(asked.is_empty() || ours.len() <= asked.len(), "infos that nobody asked for");
        for row in recorded {
            let name = row["info_name"].as_u64().expect("a number");
            let fits = match (&row["value"], ours.get(&name)) {
                (Value::String(_), Some(member)) => *member == 0,
                (Value::Bool(_), Some(member)) => *member == 1,
                (Value::Number(_), Some(member)) => matches!(member, 2 | 3),
                _ => false,
            };
            self.expect(fits, format!("info {name} is in member {:?}, recorded {}", ours.get(&name), row["value"]));
        }
        if asked.is_empty() {
            self.expect(ours.get(&562) == Some(&2), "info 562 is not a bigint: a ClassCastException in the JDBC driver");
        }
    }

    fn check_table_schemas(&mut self, batch: &RecordBatch) {
        let Some(schemas) = batch.column_by_name("table_schema") else { return };
        for schema in schemas.as_binary::<i32>().iter() {
            let schema = ipc_schema(schema.expect("a schema"));
            let described = schema.fields().iter().all(|field| field.metadata().contains_key("ARROW:FLIGHT:SQL:TYPE_NAME"));
            self.expect(!schema.fields().is_empty() && described, "a field without metadata, on which the ODBC driver crashes");
        }
    }

    fn compare_put(&mut self, call: &Value, messages: &[Bytes]) {
        let command = &call["requests"][0]["flight_descriptor"]["cmd"];
        let [message] = messages else { return self.problem(format!("{} results", messages.len())) };
        let result = PutResult::decode(message.clone()).expect("a PutResult").app_metadata;
        if !text(&command["@type"]).ends_with(".CommandPreparedStatementQuery") {
            let count = DoPutUpdateResult::decode(result).expect("a DoPutUpdateResult").record_count;
            let wanted = call["responses"][0]["DoPutUpdateResult"]["record_count"].as_i64();
            return self.expect(Some(count) == wanted, format!("{count} rows changed, recorded {wanted:?}"));
        }
        let result = DoPutPreparedStatementResult::decode(result).expect("a DoPutPreparedStatementResult");
        let ours = result.prepared_statement_handle.filter(|handle| !handle.is_empty());
        // With none the JDBC driver goes on without any; with another it closes the old one, and ADBC the new one.
        self.expect(ours.is_some() && ours == self.handle(command), "another handle than before, or none");
        let adopted = call["responses"][0]["DoPutPreparedStatementResult"]["prepared_statement_handle"].as_str();
        self.handles.extend(adopted.map(|recorded| (recorded.to_owned(), ours.clone())));
        self.adopted = ours.clone().unwrap_or_default();
        self.bound.extend(ours);
    }

    fn compare_action(&mut self, call: &Value, messages: &[Bytes]) {
        let bodies = messages.iter().map(|message| arrow_flight::Result::decode(message.clone()).expect("a Result").body);
        let recorded = list(&call["responses"]);
        self.expect(messages.len() == recorded.len(), format!("{} results, recorded {}", messages.len(), recorded.len()));
        for (body, recorded) in bodies.zip(recorded) {
            match text(&recorded["message"]) {
                // Field 1, status: CLOSED.
                "CloseSessionResult" => self.expect(body[..] == [8, 1], "not CLOSED"),
                "SetSessionOptionsResult" => self.expect(body.is_empty(), "errors"),
                "GetSessionOptionsResult" => {
                    let options = String::from_utf8_lossy(&body);
                    self.expect(options.contains("catalog") && options.contains("tpch"), "not the options that were set");
                }
                _ => self.compare_prepared(&call["requests"][0]["body"], &recorded["body"], &body),
            }
        }
    }

    fn compare_prepared(&mut self, request: &Value, recorded: &Value, body: &Bytes) {
        let any = Any::decode(body.clone()).expect("an Any");
        let result: ActionCreatePreparedStatementResult = any.unpack().expect("decoded").expect("a prepared statement");
        self.handles.insert(text(&recorded["prepared_statement_handle"]).to_owned(), Some(result.prepared_statement_handle));
        self.expect(!result.dataset_schema.is_empty(), "no dataset_schema, on which the ODBC driver crashes");
        // Absent in the recording for what returns no rows; here it has no fields then.
        self.compare_schema(&recorded["dataset_schema"], &ipc_schema(&result.dataset_schema));
        let parameters = ipc_schema(&result.parameter_schema);
        let usable = parameters.fields().iter().all(|field| field.is_nullable() && *field.data_type() != DataType::Null);
        let marks = text(&request["query"]).matches('?').count();
        self.expect(parameters.fields().len() == marks && usable, format!("parameters {parameters:?}"));
    }
}

fn ipc_schema(bytes: &[u8]) -> Schema {
    if bytes.is_empty() { Schema::empty() } else { try_schema_from_ipc_buffer(bytes).expect("a schema") }
}

/// A value as the recordings show it; `None` for bytes.
fn value(column: &ArrayRef, row: usize) -> Option<Value> {
    if column.is_null(row) {
        return Some(Value::Null);
    }
    Some(match column.data_type() {
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row).into(),
        DataType::Boolean => column.as_boolean().value(row).into(),
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::Binary => return None,
        _ => array_value_to_string(column, row).expect("a text").replace('T', " ").into(),
    })
}

fn plain_union(field: &str) -> String {
    match field.split_once("dense_union<").and_then(|(name, rest)| Some((name, rest.rsplit_once('>')?))) {
        Some((name, (members, null))) => format!("{name}dense_union<{}>{null}", members.replace(" not null", "")),
        None => field.to_owned(),
    }
}

/// A field as the recordings write it.
fn field_text(field: &Field) -> String {
    let null = if field.is_nullable() { "" } else { " not null" };
    format!("{}: {}{null}", field.name(), type_text(field.data_type()))
}

fn type_text(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 => "string".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Date32 => "date32[day]".to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, None) => "timestamp[us]".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal128({precision}, {scale})"),
        DataType::List(item) => format!("list<{}>", field_text(item)),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) => format!("map<{}, {}>", type_text(pair[0].data_type()), type_text(pair[1].data_type())),
            _ => "map".to_owned(),
        },
        DataType::Union(members, _) => {
            let members: Vec<String> = members.iter().map(|(id, field)| format!("{}={id}", field_text(field))).collect();
            format!("dense_union<{}>", members.join(", "))
        }
        other => format!("{other:?}").to_lowercase(),
    }
}

/// Messages as bytes.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
