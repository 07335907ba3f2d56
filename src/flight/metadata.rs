//! Owns the catalog commands: catalogs, schemas, tables, table types, keys, type info and SQL info, with their fixed schemas. Their
//! ticket is the command itself: it carries no right, and is answered for whoever fetches it. Refuses to list anything itself; names
//! come from the query layer.

mod schema;
mod tables;

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::sql::{
    Any, Command, CommandGetCatalogs, CommandGetDbSchemas, CommandGetSqlInfo, CommandGetTables, CommandGetXdbcTypeInfo,
};
use arrow_flight::utils::batches_to_flight_data;
use arrow_flight::{FlightDescriptor, FlightInfo};
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use tonic::Status;

use super::handshake::Call;
use super::sql_info::sql_info;
use super::ticket::flight_info;
use super::transport::results::{Messages, whole_message};
use super::types::{schema_message, xdbc_types};
use super::{Edge, FlightError, unfit};
use crate::names::CatalogName;
use crate::query::TableFilter;
use crate::query::listing::{ListedSchemas, ListedTables};

/// Bytes of a name or pattern by which a listing is narrowed: each is held against every name that there is.
const MAX_FILTER_BYTES: usize = 4096;

/// Kinds of tables, or numbers of properties, that a listing is narrowed to.
const MAX_CHOICES: usize = 1000;

/// The only type that tables of a catalog have.
const TABLE: &str = "TABLE";

fn text(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8, nullable)
}

fn fixed(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}

static CATALOGS: LazyLock<SchemaRef> = LazyLock::new(|| fixed(vec![text("catalog_name", false)]));
static SCHEMAS: LazyLock<SchemaRef> = LazyLock::new(|| fixed(vec![text("catalog_name", true), text("db_schema_name", false)]));
static TABLE_TYPES: LazyLock<SchemaRef> = LazyLock::new(|| fixed(vec![text("table_type", false)]));
static TABLES: LazyLock<SchemaRef> = LazyLock::new(|| fixed(table_fields()));
static TABLES_WITH_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let mut fields = table_fields();
    fields.push(Field::new("table_schema", DataType::Binary, false));
    fixed(fields)
});
static PRIMARY_KEYS: LazyLock<SchemaRef> = LazyLock::new(|| {
    fixed(vec![
        text("catalog_name", true),
        text("db_schema_name", true),
        text("table_name", false),
        text("column_name", false),
        text("key_name", true),
        Field::new("key_sequence", DataType::Int32, false),
    ])
});
static FOREIGN_KEYS: LazyLock<SchemaRef> = LazyLock::new(|| {
    fixed(vec![
        text("pk_catalog_name", true),
        text("pk_db_schema_name", true),
        text("pk_table_name", false),
        text("pk_column_name", false),
        text("fk_catalog_name", true),
        text("fk_db_schema_name", true),
        text("fk_table_name", false),
        text("fk_column_name", false),
        Field::new("key_sequence", DataType::Int32, false),
        text("fk_key_name", true),
        text("pk_key_name", true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ])
});

fn table_fields() -> Vec<Field> {
    vec![text("catalog_name", true), text("db_schema_name", true), text("table_name", false), text("table_type", false)]
}

/// A command about catalogs, as its ticket carries it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum CatalogCommand {
    Catalogs,
    Schemas(CommandGetDbSchemas),
    Tables(CommandGetTables),
    TableTypes,
    PrimaryKeys,
    ForeignKeys,
    SqlInfo(CommandGetSqlInfo),
    XdbcTypes(CommandGetXdbcTypeInfo),
}

impl CatalogCommand {
    /// Takes the catalog commands out of all commands.
    pub(super) fn from_command(command: Command, rpc: &str) -> Result<Self, FlightError> {
        let command = match command {
            Command::CommandGetCatalogs(CommandGetCatalogs {}) => Self::Catalogs,
            Command::CommandGetDbSchemas(command) => Self::Schemas(command),
            Command::CommandGetTables(command) => Self::Tables(command),
            Command::CommandGetTableTypes(_) => Self::TableTypes,
            Command::CommandGetPrimaryKeys(_) => Self::PrimaryKeys,
            Command::CommandGetExportedKeys(_) | Command::CommandGetImportedKeys(_) | Command::CommandGetCrossReference(_) => {
                Self::ForeignKeys
            }
            Command::CommandGetSqlInfo(command) => Self::SqlInfo(command),
            Command::CommandGetXdbcTypeInfo(command) => Self::XdbcTypes(command),
            other => return Err(unfit(rpc, &other)),
        };
        command.check()?;
        Ok(command)
    }

    /// Refuses filters that no name can fit, and that cost much to find that out.
    fn check(&self) -> Result<(), FlightError> {
        let (filters, choices) = match self {
            Self::Schemas(command) => ([&command.catalog, &command.db_schema_filter_pattern, &None], 0),
            Self::Tables(command) => (
                [&command.catalog, &command.db_schema_filter_pattern, &command.table_name_filter_pattern],
                command.table_types.len(),
            ),
            Self::SqlInfo(command) => ([&None; 3], command.info.len()),
            _ => return Ok(()),
        };
        if let Some(long) = filters.into_iter().flatten().find(|filter| filter.len() > MAX_FILTER_BYTES) {
            let bytes = long.len();
            return Err(FlightError::Invalid(format!(
                "a filter of {bytes} bytes; names and patterns have up to {MAX_FILTER_BYTES}"
            )));
        }
        if choices > MAX_CHOICES {
            return Err(FlightError::Invalid(format!(
                "{choices} choices at once; ask for up to {MAX_CHOICES}, or for all by none"
            )));
        }
        Ok(())
    }

    /// The schema of its answer.
    pub(super) fn schema(&self) -> Result<SchemaRef, FlightError> {
        Ok(match self {
            Self::Catalogs => Arc::clone(&CATALOGS),
            Self::Schemas(_) => Arc::clone(&SCHEMAS),
            Self::Tables(command) if command.include_schema => Arc::clone(&TABLES_WITH_SCHEMA),
            Self::Tables(_) => Arc::clone(&TABLES),
            Self::TableTypes => Arc::clone(&TABLE_TYPES),
            Self::PrimaryKeys => Arc::clone(&PRIMARY_KEYS),
            Self::ForeignKeys => Arc::clone(&FOREIGN_KEYS),
            Self::SqlInfo(_) => sql_info(&[])?.schema(),
            Self::XdbcTypes(_) => xdbc_types()?.schema(),
        })
    }

    /// GetFlightInfo: nothing is looked up yet.
    pub(super) fn info(&self, descriptor: FlightDescriptor, any: &Any) -> Result<FlightInfo, FlightError> {
        flight_info(descriptor, Some(self.schema()?.as_ref()), -1, any.encode_to_vec().into())
    }
}

impl Edge {
    /// DoGet of a catalog command.
    pub(super) async fn catalog_rows(&self, call: &Call, command: CatalogCommand) -> Result<Messages, FlightError> {
        let schema = command.schema()?;
        let batches = match command {
            CatalogCommand::Catalogs => vec![self.catalogs(call)?],
            CatalogCommand::Schemas(command) => return self.schemas(call, &command).await,
            CatalogCommand::Tables(command) => {
                return Ok(tables::messages(self.tables(call, &command).await?, command.include_schema));
            }
            CatalogCommand::TableTypes => vec![text_columns(&TABLE_TYPES, [[TABLE]])?],
            CatalogCommand::PrimaryKeys => vec![RecordBatch::new_empty(Arc::clone(&PRIMARY_KEYS))],
            CatalogCommand::ForeignKeys => vec![RecordBatch::new_empty(Arc::clone(&FOREIGN_KEYS))],
            CatalogCommand::SqlInfo(command) => vec![sql_info(&command.info)?],
            CatalogCommand::XdbcTypes(command) => vec![xdbc_types()?.record_batch(command.data_type)?],
        };
        let messages = batches_to_flight_data(&schema, batches)?;
        Ok(stream::iter(messages.into_iter().map(|message| whole_message(&message))).boxed())
    }

    fn catalogs(&self, call: &Call) -> Result<RecordBatch, FlightError> {
        let mut names: Vec<CatalogName> = self.kernel.catalogs(&call.caller());
        names.sort();
        text_columns(&CATALOGS, names.iter().map(|name| [name.as_str()]))
    }

    async fn schemas(&self, call: &Call, command: &CommandGetDbSchemas) -> Result<Messages, FlightError> {
        let pattern = command.db_schema_filter_pattern.as_deref();
        let mut found: ListedSchemas = match Within::catalog(command.catalog.as_deref()) {
            Within::Nothing => stream::empty().boxed(),
            Within::Any => self.kernel.schemas(&call.caller(), None, pattern).await?,
            Within::One(catalog) => self.kernel.schemas(&call.caller(), Some(&catalog), pattern).await?,
        };
        // No schemas still have a batch.
        let first = found.try_next().await?.unwrap_or_default();
        let message = |schemas: Vec<(CatalogName, String)>| {
            let rows = schemas.iter().map(|(catalog, schema)| [catalog.as_str(), schema.as_str()]);
            text_columns(&SCHEMAS, rows).and_then(tables::message).map_err(Status::from)
        };
        let rest = found.map(move |schemas| message(schemas.map_err(FlightError::from)?));
        Ok(stream::iter([whole_message(&schema_message(&SCHEMAS)), message(first)]).chain(rest).boxed())
    }

    async fn tables(&self, call: &Call, command: &CommandGetTables) -> Result<ListedTables, FlightError> {
        let catalog = match Within::catalog(command.catalog.as_deref()) {
            _ if !wants_tables(&command.table_types) => return Ok(stream::empty().boxed()),
            Within::Nothing => return Ok(stream::empty().boxed()),
            Within::Any => None,
            Within::One(catalog) => Some(catalog),
        };
        let filter = TableFilter {
            catalog,
            schema: command.db_schema_filter_pattern.clone(),
            table: command.table_name_filter_pattern.clone(),
            with_columns: command.include_schema,
        };
        Ok(self.kernel.tables(&call.caller(), &filter).await?)
    }
}

/// Which catalogs a filter means. An empty name means objects without a catalog, of which there are none.
enum Within {
    Any,
    One(CatalogName),
    Nothing,
}

impl Within {
    fn catalog(filter: Option<&str>) -> Self {
        match filter {
            None => Self::Any,
            Some("") => Self::Nothing,
            Some(name) => Self::One(name.into()),
        }
    }
}

/// `BASE TABLE` is what information_schema calls them, and some clients ask so.
fn wants_tables(types: &[String]) -> bool {
    types.is_empty() || types.iter().any(|name| name.eq_ignore_ascii_case(TABLE) || name.eq_ignore_ascii_case("BASE TABLE"))
}

/// Rows of texts as a batch of `N` columns.
fn text_columns<'a, const N: usize>(
    schema: &SchemaRef,
    rows: impl IntoIterator<Item = [&'a str; N]>,
) -> Result<RecordBatch, FlightError> {
    let mut columns: [StringBuilder; N] = std::array::from_fn(|_| StringBuilder::new());
    for row in rows {
        for (column, value) in columns.iter_mut().zip(row) {
            column.append_value(value);
        }
    }
    let columns = columns.into_iter().map(|mut column| Arc::new(column.finish()) as ArrayRef).collect();
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

#[cfg(test)]
mod tests {
    use super::wants_tables;

    #[test]
    fn base_tables_are_tables() {
        let wants = |types: &[&str]| wants_tables(&types.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert!(wants(&[]) && wants(&["VIEW", "TABLE"]) && wants(&["base table"]));
        assert!(!wants(&["VIEW"]));
    }
}
