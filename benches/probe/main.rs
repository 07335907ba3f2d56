//! The measuring half of `make bench`, driven by `benches/run.py` over standard input and output: a client that drains streams and
//! times small statements, and the three things that the gateway is held against. Owns no verdict on what it measures, and no
//! statistics: each order on standard input is answered by one line of JSON.
//!
//! - `read`: drains results over Flight, rows and bytes counted from the messages' own headers, values left alone.
//! - `latency`: GetFlightInfo and DoGet of one statement by many clients, each on its own connection.
//! - `scan`: the same statement by DuckDB in this process, up to Arrow batches that are dropped.
//! - `single`: DuckDB and a plain Flight server in one process.
//! - `prebuilt`: a plain Flight server that gives messages from memory.

#![expect(clippy::expect_used, clippy::unwrap_used, missing_docs, reason = "a failed step is a failed run")]

mod client;
mod engine;
mod server;

use std::io::BufRead;

use clap::{Parser, Subcommand};
use serde::Serialize;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Given by `cargo bench`.
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Each line of standard input: a JSON list of statements, run at once, each on its own connection.
    Read {
        #[arg(long)]
        uri: String,
        /// The server takes the statement itself as a ticket.
        #[arg(long)]
        direct: bool,
    },
    /// Each line of standard input: a statement.
    Latency {
        #[arg(long)]
        uri: String,
        /// The server takes the statement itself as a ticket: no GetFlightInfo.
        #[arg(long)]
        direct: bool,
        #[arg(long)]
        clients: usize,
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
    /// Each line of standard input: a JSON list of statements, run at once, each on its own connection to one instance.
    Scan {
        /// Statements that prepare the instance, separated by semicolons.
        #[arg(long)]
        setup: String,
    },
    /// Serves until standard input ends.
    Single {
        #[arg(long)]
        setup: String,
    },
    /// Fetches a statement's messages from a gateway, then serves them for every ticket until standard input ends.
    Prebuilt {
        #[arg(long)]
        from: String,
        #[arg(long)]
        sql: String,
    },
}

/// What one order came to.
#[derive(Serialize)]
pub struct Stream {
    /// Seconds until the first batch of the first stream that had one.
    pub first: f64,
    /// Seconds until the last stream's end.
    pub total: f64,
    pub rows: u64,
    /// Bytes of Arrow buffers.
    pub bytes: u64,
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    match Arguments::parse().command {
        Command::Read { uri, direct } => {
            for order in orders() {
                answer(&client::read(&uri, direct, &statements(&order)).await);
            }
        }
        Command::Latency { uri, direct, clients, seconds } => {
            for sql in orders() {
                answer(&client::latency(&uri, direct, &sql, clients, seconds).await);
            }
        }
        Command::Scan { setup } => {
            let instance = engine::open(&setup);
            for order in orders() {
                answer(&engine::scan(&instance, statements(&order)));
            }
        }
        Command::Single { setup } => server::serve(server::Source::Engine(engine::open(&setup).into())).await,
        Command::Prebuilt { from, sql } => {
            let messages = client::messages(&from, &sql).await;
            server::serve(server::Source::Memory(messages.into())).await;
        }
    }
}

fn orders() -> impl Iterator<Item = String> {
    std::io::stdin().lock().lines().map(|line| line.expect("a line")).filter(|line| !line.is_empty())
}

fn statements(order: &str) -> Vec<String> {
    serde_json::from_str(order).expect("a JSON list of statements")
}

fn answer(value: &impl Serialize) {
    println!("{}", serde_json::to_string(value).expect("JSON"));
}
