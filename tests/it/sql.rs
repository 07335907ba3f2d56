//! The sqllogictest files under `tests/slt/`, each over Flight on a gateway of its own.

use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_flight::sql::client::FlightSqlServiceClient;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType};
use tonic::transport::Channel;

use crate::harness::{Gateway, query, root};

struct OverFlight(FlightSqlServiceClient<Channel>);

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);

#[async_trait::async_trait]
impl AsyncDB for OverFlight {
    type Error = Failed;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failed> {
        let batches = query(&mut self.0, sql).await.map_err(|s| Failed(format!("{:?}: {}", s.code(), s.message())))?;
        let columns = batches.first().map_or(0, |b| b.num_columns());
        if columns == 0 {
            return Ok(DBOutput::StatementComplete(0));
        }
        let failed = |e: arrow::error::ArrowError| Failed(e.to_string());
        let options = FormatOptions::default().with_null("NULL");
        let mut rows = Vec::new();
        for batch in &batches {
            let formatters: Result<Vec<_>, _> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options)).collect();
            let formatters = formatters.map_err(failed)?;
            for row in 0..batch.num_rows() {
                let text = |f: &ArrayFormatter<'_>| {
                    let text = f.value(row).to_string();
                    if text.is_empty() { "(empty)".to_owned() } else { text }
                };
                rows.push(formatters.iter().map(text).collect());
            }
        }
        Ok(DBOutput::Rows { types: vec![DefaultColumnType::Any; columns], rows })
    }

    async fn shutdown(&mut self) {}
}

#[tokio::test]
async fn sqllogictest_files() {
    let mut files: Vec<_> = std::fs::read_dir(root().join("tests/slt")).expect("tests/slt").flatten().map(|e| e.path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let gateway = Gateway::start();
        let mut runner = sqllogictest::Runner::new(async || Ok(OverFlight(gateway.client().await)));
        if let Err(error) = runner.run_file_async(&file).await {
            panic!("{}", error.display(false));
        }
    }
}
