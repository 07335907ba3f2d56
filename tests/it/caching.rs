//! The table cache is never wrong, and makes a catalog that is far away fast: how often a catalog is asked, what a foreign writer's
//! commits come to, and who sees the gateway's own. The cache by itself is tested beside it, and the rights in `upstreams`.

mod counts;
mod foreign;
mod own;
mod snapshots;
mod writer;

use std::time::Duration;

use arrow::util::display::array_value_to_string;
use arrow_flight::sql::client::FlightSqlServiceClient;
use tonic::transport::Channel;

use crate::harness::{Gateway, query};
use crate::stand_in::{Call, Operation, Setup, StandIn};

type Client = FlightSqlServiceClient<Channel>;

/// A stand-in for Polaris, and a gateway on it as catalog `rest`.
struct Lake {
    polaris: StandIn,
    gateway: Gateway,
}

impl Lake {
    /// With a bound on how old tables may be.
    async fn start(max_staleness: &str) -> Self {
        let polaris = StandIn::start(Setup::lakehouse()).await;
        let gateway = gateway(&polaris, max_staleness, &[]);
        Self { polaris, gateway }
    }

    /// Loads of tables since the log was cleared.
    fn loads(&self) -> Vec<Call> {
        let calls = self.polaris.log().calls();
        calls.into_iter().filter(|call| call.operation == Operation::LoadTable).collect()
    }

    /// Tables `gold.<prefix>0` and so on, of two columns.
    async fn make_tables(&self, prefix: &str, count: usize) {
        for number in 0..count {
            let sql = format!("CREATE TABLE rest.gold.{prefix}{number} AS SELECT i, i * {number} AS v FROM range(100) r(i)");
            self.gateway.run(&sql).await;
        }
    }
}

fn gateway(polaris: &StandIn, max_staleness: &str, more: &[&str]) -> Gateway {
    let mut settings = polaris.settings("rest", "lakehouse", "engineer");
    settings.push(format!("relay.max_staleness={max_staleness}"));
    // No old table in the place of an answer that a busy machine is late with.
    settings.push("relay.stale_grace=0s".to_owned());
    let set: Vec<&str> = settings.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Gateway::with(&set)
}

/// The first row of a query, as texts.
async fn row(client: &mut Client, sql: &str) -> Vec<String> {
    let batches = query(client, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let batch = batches.iter().find(|batch| batch.num_rows() > 0).unwrap_or_else(|| panic!("{sql}: no row"));
    batch.columns().iter().map(|column| array_value_to_string(column, 0).expect("a value")).collect()
}

/// The first value of a query, as a number.
async fn number(client: &mut Client, sql: &str) -> i64 {
    row(client, sql).await[0].parse().expect("a number")
}

async fn wait_ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
