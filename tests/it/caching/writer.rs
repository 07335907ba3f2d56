//! A foreign writer: a process with PyIceberg that commits to a stand-in for Polaris, and knows nothing of the gateway.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{part, root};
use crate::stand_in::{HOME, StandIn};

/// It ends with its value.
pub struct Writer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Which commit of a [`Writer::commit_for`] was acknowledged, and when.
#[derive(Clone, Default)]
pub struct Commits(Arc<Mutex<Vec<(i64, Instant)>>>);

impl Commits {
    /// The last commit that was acknowledged by then; 0 for none.
    pub fn at(&self, then: Instant) -> i64 {
        let commits = self.0.lock().expect("the list");
        commits.iter().rev().find(|(_, at)| *at <= then).map_or(0, |(number, _)| *number)
    }

    fn push(&self, number: i64) {
        self.0.lock().expect("the list").push((number, Instant::now()));
    }
}

impl Writer {
    /// One that writes as the engineer.
    pub fn start(polaris: &StandIn) -> Self {
        let (id, secret) = polaris.realm(HOME).credentials("engineer").expect("a principal");
        Self::with(&json!({
            "uri": polaris.uri(),
            "warehouse": "lakehouse",
            "credential": format!("{id}:{secret}"),
            "scope": "PRINCIPAL_ROLE:ALL",
        }))
    }

    /// One with these properties of its catalog.
    pub fn with(catalog: &Value) -> Self {
        let mut child = Command::new(part("POLYNYA_CLIENTS_PYTHON"))
            .arg(root().join("tests/clients/foreign.py"))
            .env("FOREIGN_CATALOG", catalog.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python, from the set-up");
        let input = child.stdin.take().expect("a piped input");
        let output = BufReader::new(child.stdout.take().expect("a piped output"));
        let mut writer = Self { child, input, output };
        tokio::task::block_in_place(|| assert_eq!(writer.answer(), json!({ "ok": "ready" })));
        writer
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("the foreign writer said {line:?}: {error}"))
    }

    fn send(&mut self, command: &Value) {
        writeln!(self.input, "{command}").expect("a writer that listens");
    }

    /// Has it do something that must work; gives its answer.
    #[track_caller]
    pub fn does(&mut self, command: &Value) -> Value {
        let answer = tokio::task::block_in_place(|| {
            self.send(command);
            self.answer()
        });
        assert!(answer.get("ok").is_some(), "{command}: {answer}");
        answer["ok"].clone()
    }

    #[track_caller]
    pub fn creates(&mut self, table: &str, columns: Value) -> String {
        let uuid = self.does(&json!({ "do": "create", "table": table, "columns": columns }));
        uuid.as_str().expect("a UUID").to_owned()
    }

    #[track_caller]
    pub fn appends(&mut self, table: &str, rows: Value) -> i64 {
        self.does(&json!({ "do": "append", "table": table, "rows": rows })).as_i64().expect("a snapshot")
    }

    #[track_caller]
    pub fn drops(&mut self, table: &str) {
        self.does(&json!({ "do": "drop", "table": table }));
    }

    /// Its clock is off by so many seconds from here on.
    #[track_caller]
    pub fn sets_clock_off(&mut self, seconds: i64) {
        self.does(&json!({ "do": "clock", "seconds": seconds }));
    }

    /// Appends one commit after the other, of which number `k` has `k` rows of the number `k`, and `least` at least; gives their
    /// number.
    pub fn commit_for(&mut self, table: &str, seconds: f64, least: usize, commits: &Commits) -> i64 {
        self.send(&json!({ "do": "loop", "table": table, "seconds": seconds, "commits": least }));
        loop {
            let answer = self.answer();
            match answer["committed"].as_i64() {
                Some(number) => commits.push(number),
                None => return answer["ok"].as_i64().unwrap_or_else(|| panic!("the foreign writer: {answer}")),
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
