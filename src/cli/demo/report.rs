//! Owns what the demo says about what it made: tables with their rows and bytes on disk, and how to connect. Refuses to say anything
//! that was not measured in this run.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};

use super::super::error::CliError;
use super::super::progress;
use super::super::query::table::{Shown, TableWriter};

/// A table as this run left it.
#[derive(Clone, Debug)]
pub struct MadeTable {
    /// `bronze` or `gold`.
    pub layer: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Rows.
    pub rows: u64,
    /// How it came about, and how long that took.
    pub how: String,
}

/// Prints one table with a line for each table made.
///
/// # Errors
/// When nothing can be printed.
pub fn print_tables(tables: &[MadeTable], dir: &Path) -> Result<(), CliError> {
    let text =
        |of: &dyn Fn(&MadeTable) -> String| Arc::new(tables.iter().map(|t| Some(of(t))).collect::<StringArray>()) as ArrayRef;
    // Numbers are texts here for their separators; padded, they stand right all the same.
    let right = |of: &dyn Fn(&MadeTable) -> String| {
        let width = tables.iter().map(|table| of(table).len()).max().unwrap_or(0);
        text(&|table| format!("{:>width$}", of(table)))
    };
    let columns = [
        ("table", text(&|table| format!("lake.{}.{}", table.layer, table.name))),
        ("rows", right(&|table| progress::count(table.rows))),
        ("on disk", right(&|table| table_bytes(dir, table).map_or("?".into(), progress::size))),
        ("made", text(&|table| table.how.clone())),
    ];
    let batch = RecordBatch::try_from_iter(columns).map_err(CliError::format("a table"))?;
    let mut writer = TableWriter::new(io::stdout().lock(), batch.schema(), Shown { rows: None, width: None });
    writer.write(&batch).map_err(CliError::format("a table"))?;
    writer.finish().map_err(CliError::io("print the tables"))?;
    let total = progress::size(bytes_below(dir));
    progress::say(format!("{total} on disk in all, with metadata and every snapshot, in {}", dir.display()))
}

/// The bytes of a table's directory, `…/<layer>/<name>`, wherever the catalog has put it.
fn table_bytes(dir: &Path, table: &MadeTable) -> Option<u64> {
    find_dir(dir, Path::new(table.layer).join(table.name).as_path(), 4).map(|found| bytes_below(&found))
}

/// The first directory below `dir` whose path ends with `wanted`; the catalog may add a suffix to make names unique.
fn find_dir(dir: &Path, wanted: &Path, depth: usize) -> Option<std::path::PathBuf> {
    let (parent, name) = (dir.join(wanted.parent()?), wanted.file_name()?.to_string_lossy().into_owned());
    let is_it = |found: &str| found == name || found.strip_prefix(&name).is_some_and(|suffix| suffix.starts_with('-'));
    let direct = fs::read_dir(parent).into_iter().flatten().flatten().find(|entry| is_it(&entry.file_name().to_string_lossy()));
    if let Some(direct) = direct {
        return Some(direct.path());
    }
    if depth == 0 {
        return None;
    }
    let entries = fs::read_dir(dir).ok()?.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    entries.into_iter().find_map(|entry| find_dir(&entry.path(), wanted, depth - 1))
}

/// Files that come and go meanwhile count as nothing.
fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_below(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// An address that a client on this machine can connect to.
#[must_use]
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// How stock clients connect to a gateway without log-in at this address.
#[must_use]
pub fn how_to_connect(address: SocketAddr) -> String {
    format!(
        "\
Command line
  polynya query --uri grpc://{address} 'SELECT * FROM lake.gold.revenue_by_month LIMIT 5'

Python, ADBC (pip install adbc-driver-flightsql pyarrow)
  import adbc_driver_flightsql.dbapi as flight_sql
  with flight_sql.connect(\"grpc://{address}\", autocommit=True) as connection, connection.cursor() as cursor:
      cursor.execute(\"SELECT * FROM lake.gold.customer_value ORDER BY revenue DESC LIMIT 5\")
      print(cursor.fetch_arrow_table())

Notebook, polars (pip install polars adbc-driver-flightsql pyarrow)
  import polars, adbc_driver_flightsql.dbapi as flight_sql
  connection = flight_sql.connect(\"grpc://{address}\", autocommit=True)
  polars.read_database(\"SELECT * FROM lake.gold.parts_demand\", connection)

JDBC (org.apache.arrow:flight-sql-jdbc-driver; Java 16 and later with --add-opens=java.base/java.nio=ALL-UNNAMED)
  jdbc:arrow-flight-sql://{address}/?useEncryption=false
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tables_bytes_are_found_below_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("warehouse/bronze/orders/data");
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("a.parquet"), [0; 10]).unwrap();
        fs::write(dir.path().join("catalog.db"), [0; 5]).unwrap();
        let table = MadeTable { layer: "bronze", name: "orders", rows: 1, how: String::new() };
        assert_eq!(table_bytes(dir.path(), &table), Some(10));
        assert_eq!(table_bytes(dir.path(), &MadeTable { name: "other", ..table }), None);
        assert_eq!(bytes_below(dir.path()), 15);
    }

    #[test]
    fn an_address_of_all_interfaces_is_shown_as_loopback() {
        assert_eq!(reachable("0.0.0.0:7".parse().unwrap()).to_string(), "127.0.0.1:7");
        assert_eq!(reachable("[::]:7".parse().unwrap()).to_string(), "[::1]:7");
        assert_eq!(reachable("10.1.1.1:7".parse().unwrap()).to_string(), "10.1.1.1:7");
    }
}
