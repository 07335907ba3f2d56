//! Owns the answer to GetSqlInfo: every property that the protocol names, each in the member of the union that drivers cast it to. A
//! property that is missing, or in another member, is an exception in the JDBC driver and garbage in the ODBC driver. Refuses to vary:
//! the answer is the same for all callers.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, MapArray, RecordBatch, StructArray, UnionArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Fields, Schema, UInt32Type, UnionFields};
use arrow::error::ArrowError;
use arrow_flight::sql::metadata::SqlInfoDataBuilder;
use arrow_flight::sql::{SqlInfo as I, SqlSupportsConvert as Convert};

use super::FlightError;

/// Words that SQL:2003 does not reserve.
const KEYWORDS: &[&str] = &[
    "ANTI",
    "ASOF",
    "DESCRIBE",
    "GLOB",
    "ILIKE",
    "LIMIT",
    "OFFSET",
    "PIVOT",
    "POSITIONAL",
    "QUALIFY",
    "SAMPLE",
    "SEMI",
    "SHOW",
    "SUMMARIZE",
    "UNPIVOT",
];
const NUMERIC_FUNCTIONS: &[&str] = &[
    "ABS", "ACOS", "ASIN", "ATAN", "ATAN2", "CBRT", "CEIL", "CEILING", "COS", "COT", "DEGREES", "EXP", "FLOOR", "LN", "LOG",
    "LOG10", "LOG2", "MOD", "PI", "POWER", "RADIANS", "ROUND", "SIGN", "SIN", "SQRT", "TAN", "TRUNC",
];
const STRING_FUNCTIONS: &[&str] = &[
    "ASCII",
    "BIT_LENGTH",
    "CHR",
    "CONCAT",
    "CONCAT_WS",
    "CONTAINS",
    "INITCAP",
    "INSTR",
    "LCASE",
    "LEFT",
    "LENGTH",
    "LOWER",
    "LPAD",
    "LTRIM",
    "OCTET_LENGTH",
    "POSITION",
    "REGEXP_MATCHES",
    "REGEXP_REPLACE",
    "REPEAT",
    "REPLACE",
    "REVERSE",
    "RIGHT",
    "RPAD",
    "RTRIM",
    "SPLIT_PART",
    "STARTS_WITH",
    "SUBSTRING",
    "TRANSLATE",
    "TRIM",
    "UCASE",
    "UPPER",
];
const SYSTEM_FUNCTIONS: &[&str] = &["COALESCE", "IFNULL", "NULLIF"];
const DATETIME_FUNCTIONS: &[&str] = &[
    "AGE",
    "CURRENT_DATE",
    "CURRENT_TIMESTAMP",
    "DATE_DIFF",
    "DATE_PART",
    "DATE_TRUNC",
    "DAY",
    "DAYNAME",
    "DAYOFMONTH",
    "DAYOFWEEK",
    "DAYOFYEAR",
    "EPOCH",
    "EXTRACT",
    "HOUR",
    "LAST_DAY",
    "MAKE_DATE",
    "MAKE_TIMESTAMP",
    "MINUTE",
    "MONTH",
    "MONTHNAME",
    "NOW",
    "QUARTER",
    "SECOND",
    "STRFTIME",
    "STRPTIME",
    "WEEK",
    "YEAR",
];

/// The properties with these ids; all when there are none.
pub(super) fn sql_info(ids: &[u32]) -> Result<RecordBatch, FlightError> {
    static ALL: OnceLock<RecordBatch> = OnceLock::new();
    let all = match ALL.get() {
        Some(all) => all,
        None => {
            let built = build()?;
            ALL.get_or_init(|| built)
        }
    };
    if ids.is_empty() {
        return Ok(all.clone());
    }
    let names = all.column(0).as_primitive::<UInt32Type>();
    let asked_for: BooleanArray = names.values().iter().map(|id| Some(ids.contains(id))).collect();
    Ok(filter_record_batch(all, &asked_for)?)
}

fn build() -> Result<RecordBatch, FlightError> {
    let mut info = SqlInfoDataBuilder::new();
    server(&mut info);
    syntax(&mut info);
    names(&mut info);
    support(&mut info);
    limits(&mut info);
    transactions_and_results(&mut info);
    Ok(with_map_names(info.build()?.record_batch([])?)?)
}

/// Names the parts of the map `key` and `value`, by which the JDBC driver looks for them; the builder names them otherwise.
fn with_map_names(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    let union = batch.column(1).as_any().downcast_ref::<UnionArray>().ok_or_else(|| not_as_built("no union"))?;
    let (fields, type_ids, offsets, mut children) = union.clone().into_parts();
    let map = children.pop().ok_or_else(|| not_as_built("no members"))?;
    let map = map_with_names(map.as_map_opt().ok_or_else(|| not_as_built("no map"))?)?;
    let renamed = fields.iter().map(|(id, field)| match field.data_type() {
        DataType::Map(..) => (id, Arc::new(Field::new(field.name(), map.data_type().clone(), field.is_nullable()))),
        _ => (id, Arc::clone(field)),
    });
    let renamed: UnionFields = renamed.collect();
    children.push(map);
    let union = UnionArray::try_new(renamed, type_ids, offsets, children)?;
    let value = Field::new("value", union.data_type().clone(), false);
    let schema = Schema::new(vec![batch.schema().field(0).clone(), value]);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::clone(batch.column(0)), Arc::new(union)])
}

fn map_with_names(map: &MapArray) -> Result<ArrayRef, ArrowError> {
    let (_, offsets, entries, nulls, ordered) = map.clone().into_parts();
    let (fields, columns, _) = entries.into_parts();
    let named = fields.iter().zip(["key", "value"]).map(|(field, name)| field.as_ref().clone().with_name(name));
    let entries = StructArray::try_new(named.collect::<Fields>(), columns, None)?;
    let entry = Field::new("entries", entries.data_type().clone(), false);
    Ok(Arc::new(MapArray::try_new(Arc::new(entry), offsets, entries, nulls, ordered)?))
}

fn not_as_built(what: &str) -> ArrowError {
    ArrowError::SchemaError(format!("SQL info has {what} where one was built"))
}

fn server(info: &mut SqlInfoDataBuilder) {
    info.append(I::FlightSqlServerName, "Polynya");
    info.append(I::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(I::FlightSqlServerArrowVersion, arrow::ARROW_VERSION);
    info.append(I::FlightSqlServerReadOnly, false);
    info.append(I::FlightSqlServerSql, true);
    info.append(I::FlightSqlServerSubstrait, false);
    info.append(I::FlightSqlServerSubstraitMinVersion, "");
    info.append(I::FlightSqlServerSubstraitMaxVersion, "");
    // 0: no transactions by API. ADBC with autocommit asks for just this.
    info.append(I::FlightSqlServerTransaction, 0_i32);
    info.append(I::FlightSqlServerCancel, false);
    info.append(I::FlightSqlServerBulkIngestion, true);
    info.append(I::FlightSqlServerIngestTransactionsSupported, false);
    // In milliseconds; 0 is none that a client could rely on.
    info.append(I::FlightSqlServerStatementTimeout, 0_i32);
    info.append(I::FlightSqlServerTransactionTimeout, 0_i32);
}

fn syntax(info: &mut SqlInfoDataBuilder) {
    info.append(I::SqlDdlCatalog, false);
    info.append(I::SqlDdlSchema, true);
    info.append(I::SqlDdlTable, true);
    // Ordinals travel as bigint, bitmasks as int32: so drivers read them. 1: names keep their case and match in any.
    info.append(I::SqlIdentifierCase, 1_i64);
    info.append(I::SqlIdentifierQuoteChar, "\"");
    info.append(I::SqlQuotedIdentifierCase, 1_i64);
    info.append(I::SqlAllTablesAreSelectable, true);
    // 3: nulls come last in both directions.
    info.append(I::SqlNullOrdering, 3_i64);
    info.append(I::SqlKeywords, KEYWORDS);
    info.append(I::SqlNumericFunctions, NUMERIC_FUNCTIONS);
    info.append(I::SqlStringFunctions, STRING_FUNCTIONS);
    info.append(I::SqlSystemFunctions, SYSTEM_FUNCTIONS);
    info.append(I::SqlDatetimeFunctions, DATETIME_FUNCTIONS);
    info.append(I::SqlSearchStringEscape, "\\");
    info.append(I::SqlExtraNameCharacters, "");
}

fn names(info: &mut SqlInfoDataBuilder) {
    info.append(I::SqlSchemaTerm, "schema");
    info.append(I::SqlProcedureTerm, "procedure");
    info.append(I::SqlCatalogTerm, "catalog");
    info.append(I::SqlCatalogAtStart, true);
    // No procedures, indexes or privileges in which they could stand.
    info.append(I::SqlSchemasSupportedActions, 0_i32);
    info.append(I::SqlCatalogsSupportedActions, 0_i32);
}

fn support(info: &mut SqlInfoDataBuilder) {
    info.append(I::SqlSupportsColumnAliasing, true);
    info.append(I::SqlNullPlusNullIsNull, true);
    info.append(I::SqlSupportsConvert, conversions());
    info.append(I::SqlSupportsTableCorrelationNames, true);
    info.append(I::SqlSupportsDifferentTableCorrelationNames, false);
    info.append(I::SqlSupportsExpressionsInOrderBy, true);
    info.append(I::SqlSupportsOrderByUnrelated, true);
    // Unrelated, beyond select.
    info.append(I::SqlSupportedGroupBy, 0b11_i32);
    info.append(I::SqlSupportsLikeEscapeClause, true);
    info.append(I::SqlSupportsNonNullableColumns, true);
    // Minimum, core.
    info.append(I::SqlSupportedGrammar, 0b11_i32);
    // Entry.
    info.append(I::SqlAnsi92SupportedLevel, 0b1_i32);
    info.append(I::SqlSupportsIntegrityEnhancementFacility, false);
    // Limited, full.
    info.append(I::SqlOuterJoinsSupportLevel, 0b110_i32);
    info.append(I::SqlSupportedPositionedCommands, 0_i32);
    info.append(I::SqlSelectForUpdateSupported, false);
    info.append(I::SqlStoredProceduresSupported, false);
    // Comparisons, exists, in, quantified.
    info.append(I::SqlSupportedSubqueries, 0b1111_i32);
    info.append(I::SqlCorrelatedSubqueriesSupported, true);
    // Union, union all.
    info.append(I::SqlSupportedUnions, 0b11_i32);
}

/// 0 means no limit, or none that is known.
fn limits(info: &mut SqlInfoDataBuilder) {
    for limit in [
        I::SqlMaxBinaryLiteralLength,
        I::SqlMaxCharLiteralLength,
        I::SqlMaxColumnNameLength,
        I::SqlMaxColumnsInGroupBy,
        I::SqlMaxColumnsInIndex,
        I::SqlMaxColumnsInOrderBy,
        I::SqlMaxColumnsInSelect,
        I::SqlMaxColumnsInTable,
        I::SqlMaxConnections,
        I::SqlMaxCursorNameLength,
        I::SqlMaxIndexLength,
        I::SqlDbSchemaNameLength,
        I::SqlMaxProcedureNameLength,
        I::SqlMaxCatalogNameLength,
        I::SqlMaxRowSize,
        I::SqlMaxStatementLength,
        I::SqlMaxStatements,
        I::SqlMaxTableNameLength,
        I::SqlMaxTablesInSelect,
        I::SqlMaxUsernameLength,
    ] {
        info.append(limit, 0_i64);
    }
    info.append(I::SqlMaxRowSizeIncludesBlobs, true);
}

fn transactions_and_results(info: &mut SqlInfoDataBuilder) {
    info.append(I::SqlDefaultTransactionIsolation, 0_i64);
    info.append(I::SqlTransactionsSupported, false);
    // None.
    info.append(I::SqlSupportedTransactionsIsolationLevels, 0b1_i32);
    info.append(I::SqlDataDefinitionCausesTransactionCommit, false);
    info.append(I::SqlDataDefinitionsInTransactionsIgnored, false);
    // Forward only, and read only in it.
    info.append(I::SqlSupportedResultSetTypes, 0b10_i32);
    info.append(I::SqlSupportedConcurrenciesForResultSetUnspecified, 0_i32);
    info.append(I::SqlSupportedConcurrenciesForResultSetForwardOnly, 0b10_i32);
    info.append(I::SqlSupportedConcurrenciesForResultSetScrollSensitive, 0_i32);
    info.append(I::SqlSupportedConcurrenciesForResultSetScrollInsensitive, 0_i32);
    info.append(I::SqlBatchUpdatesSupported, true);
    info.append(I::SqlSavepointsSupported, false);
    info.append(I::SqlNamedParametersSupported, false);
    info.append(I::SqlLocatorsUpdateCopy, false);
    info.append(I::SqlStoredFunctionsUsingCallSyntaxSupported, false);
}

/// What CAST can do between the types that drivers know by number.
fn conversions() -> HashMap<i32, Vec<i32>> {
    let numbers = [
        Convert::SqlConvertBit,
        Convert::SqlConvertTinyint,
        Convert::SqlConvertSmallint,
        Convert::SqlConvertInteger,
        Convert::SqlConvertBigint,
        Convert::SqlConvertDecimal,
        Convert::SqlConvertNumeric,
        Convert::SqlConvertReal,
        Convert::SqlConvertFloat,
    ];
    let texts = [Convert::SqlConvertChar, Convert::SqlConvertVarchar, Convert::SqlConvertLongvarchar];
    let bytes = [Convert::SqlConvertBinary, Convert::SqlConvertVarbinary, Convert::SqlConvertLongvarbinary];
    let times = [Convert::SqlConvertDate, Convert::SqlConvertTimestamp];
    let time = [Convert::SqlConvertTime];
    let ids = |groups: &[&[Convert]]| -> Vec<i32> { groups.iter().flat_map(|group| group.iter()).map(|&to| to as i32).collect() };
    let mut map = HashMap::new();
    let mut add = |from: &[Convert], to: Vec<i32>| map.extend(from.iter().map(|&from| (from as i32, to.clone())));
    add(&numbers, ids(&[&numbers, &texts]));
    add(&texts, ids(&[&numbers, &texts, &bytes, &times, &time]));
    add(&bytes, ids(&[&bytes, &texts]));
    add(&times, ids(&[&times, &texts]));
    add(&[Convert::SqlConvertTimestamp], ids(&[&times, &time, &texts]));
    add(&time, ids(&[&time, &texts]));
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRING: i8 = 0;
    const BOOL: i8 = 1;
    const BIGINT: i8 = 2;
    const BITMASK: i8 = 3;
    const LIST: i8 = 4;
    const MAP: i8 = 5;

    fn expected(id: u32) -> i8 {
        match id {
            0..=2 | 6..=7 | 504 | 513 | 514 | 529..=531 => STRING,
            3..=5 | 9..=11 | 500..=502 | 506 | 515 | 516 | 518..=521 | 523 | 524 | 527 | 532 | 536 | 537 | 539 => BOOL,
            556 | 563 | 565 | 566 | 572..=576 => BOOL,
            503 | 505 | 507 | 541..=555 | 557..=562 => BIGINT,
            8 | 100 | 101 | 522 | 525 | 526 | 528 | 533..=535 | 538 | 540 | 564 | 567..=571 => BITMASK,
            508..=512 => LIST,
            517 => MAP,
            other => panic!("no property {other}"),
        }
    }

    #[test]
    fn every_property_is_there_in_the_member_that_drivers_cast_it_to() {
        let batch = sql_info(&[]).unwrap();
        let ids: Vec<u32> = batch.column(0).as_primitive::<UInt32Type>().values().to_vec();
        let all: Vec<u32> = (0..=11).chain(100..=101).chain(500..=576).collect();
        assert_eq!(ids, all);
        let values = batch.column(1).as_any().downcast_ref::<UnionArray>().unwrap();
        for (row, id) in ids.into_iter().enumerate() {
            assert_eq!(values.type_id(row), expected(id), "property {id}");
        }
    }

    #[test]
    fn the_map_of_conversions_has_the_names_that_jdbc_looks_for() {
        let batch = sql_info(&[517]).unwrap();
        let values = batch.column(1).as_any().downcast_ref::<UnionArray>().unwrap();
        let map = values.value(0);
        let map = map.as_map();
        assert_eq!(map.entries().column_names(), ["key", "value"]);
        assert_eq!(map.value(0).len(), 18);
    }

    #[test]
    fn only_what_was_asked_for_is_answered() {
        let batch = sql_info(&[8, 562, 9999]).unwrap();
        assert_eq!(batch.column(0).as_primitive::<UInt32Type>().values(), &[8, 562]);
    }
}
