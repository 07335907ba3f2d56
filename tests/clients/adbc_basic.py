"""The stock ADBC driver against a gateway: what a notebook does, from connecting to pandas and polars.

Works in a namespace of its own, which it creates and drops again, in a catalog that it may write to.
"""
import argparse
import datetime
import decimal
import os

import adbc_driver_manager
import pandas
import polars
import pyarrow
import pyarrow.compute

from harness import connect, equal, fails, holds, rows, run, same_rows

UTC = datetime.timezone.utc
COLUMNS = ["i", "l", "s", "d", "f", "b", "dt", "ts"]
CREATE = "(i INTEGER, l BIGINT, s VARCHAR, d DECIMAL(18,2), f DOUBLE, b BOOLEAN, dt DATE, ts TIMESTAMP)"
ROWS = [
    (1, 10_000_000_000, "eins", decimal.Decimal("1.10"), 1.5, True, datetime.date(2024, 2, 29),
     datetime.datetime(2024, 2, 29, 12, 30, 15, 123456)),
    (2, -1, "zwei, mit ‘Umlaut’ ü", decimal.Decimal("-9999999999999999.99"), -0.25, False,
     datetime.date(1970, 1, 1), datetime.datetime(1969, 12, 31, 23, 59, 59, 999999)),
    (3, None, None, None, None, None, None, None),
]


class Basic:
    """The cases; methods run in the order in which they stand."""

    def __init__(self, catalog: str, namespace: str):
        self.catalog, self.namespace = catalog, namespace
        self.table = f"{catalog}.{namespace}.things"
        self.connection = connect()

    def one(self, sql: str, parameters=None):
        return rows(self.connection, sql, parameters)[0][0]

    def count(self, table: str) -> int:
        return self.one(f"SELECT count(*) FROM {table}")

    def script(self, sql: str) -> None:
        with self.connection.cursor() as cursor:
            cursor.executescript(sql)

    # -- set-up, by which CREATE SCHEMA, CREATE TABLE and INSERT are tested as well

    def create_schema_and_table(self):
        self.script(f"CREATE SCHEMA {self.catalog}.{self.namespace}")
        self.script(f"CREATE TABLE {self.table} {CREATE}")
        equal(self.count(self.table), 0, "rows of a new table")

    def executemany_inserts_every_row(self):
        with self.connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO {self.table} VALUES (?, ?, ?, ?, ?, ?, ?, ?)", ROWS)
            equal(cursor.rowcount, len(ROWS), "rowcount of executemany")
        same_rows(rows(self.connection, f"SELECT * FROM {self.table} ORDER BY i"), ROWS)

    # -- what the server says of itself

    def get_info(self):
        info = self.connection.adbc_get_info()
        equal(info.get("driver_name"), "ADBC Flight SQL Driver - Go", "driver_name")
        holds("polynya" in str(info.get("vendor_name")).lower(), f"vendor_name is {info.get('vendor_name')!r}")
        for name in ("vendor_version", "vendor_arrow_version"):
            holds(info.get(name), f"{name} is {info.get(name)!r}")

    def table_types(self):
        types = self.connection.adbc_get_table_types()
        holds("TABLE" in types or "BASE TABLE" in types, f"no type for tables in {types}")

    def get_objects_by_depth(self):
        for depth in ("catalogs", "db_schemas", "tables", "all"):
            objects = self.objects(depth)
            holds(self.catalog in objects, f"depth {depth}: no catalog {self.catalog} in {list(objects)}")
            if depth == "catalogs":
                continue
            schemas = objects[self.catalog]
            holds(self.namespace in schemas, f"depth {depth}: no schema {self.namespace} in {list(schemas)}")
            if depth == "db_schemas":
                continue
            tables = schemas[self.namespace]
            holds("things" in tables, f"depth {depth}: no table in {list(tables)}")
            if depth == "all":
                equal(tables["things"], COLUMNS, "columns of the table")

    def get_objects_with_filters(self):
        objects = self.objects("tables", catalog_filter=self.catalog, db_schema_filter=self.namespace,
                               table_name_filter="th%")
        equal(list(objects), [self.catalog], "catalogs that pass the filter")
        equal({name: list(tables) for name, tables in objects[self.catalog].items()}, {self.namespace: ["things"]},
              "schemas and tables that pass the filter")
        objects = self.objects("tables", db_schema_filter=self.namespace, table_name_filter="nothing like it")
        equal(objects.get(self.catalog, {}).get(self.namespace, {}), {}, "tables that pass a filter for none")
        objects = self.objects("all", table_name_filter="things", column_name_filter="d%")
        equal(objects[self.catalog][self.namespace]["things"], ["d", "dt"], "columns that pass the filter")

    def objects(self, depth: str, **filters) -> dict:
        """catalog → schema → table → column names, down to `depth`."""
        catalogs = self.connection.adbc_get_objects(depth=depth, **filters).read_all().to_pylist()
        return {catalog["catalog_name"]: {
            schema["db_schema_name"]: {
                table["table_name"]: [column["column_name"] for column in table["table_columns"] or []]
                for table in schema["db_schema_tables"] or []}
            for schema in catalog["catalog_db_schemas"] or []} for catalog in catalogs}

    def get_table_schema(self):
        schema = self.connection.adbc_get_table_schema("things", catalog_filter=self.catalog,
                                                       db_schema_filter=self.namespace)
        equal([field.name for field in schema], COLUMNS, "column names")
        expected = [pyarrow.int32(), pyarrow.int64(), pyarrow.string(), pyarrow.decimal128(18, 2), pyarrow.float64(),
                    pyarrow.bool_(), pyarrow.date32(), pyarrow.timestamp("us")]
        equal([field.type for field in schema], expected, "column types")
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {self.table}")
            equal(cursor.fetch_arrow_table().schema.types, expected, "column types of a query")

    def get_table_schema_of_a_missing_table(self):
        fails(lambda: self.connection.adbc_get_table_schema("no_such_table", catalog_filter=self.catalog,
                                                            db_schema_filter=self.namespace),
              what="the schema of a missing table")

    # -- queries

    def query_many_types(self):
        with self.connection.cursor() as cursor:
            cursor.execute("""SELECT 1::TINYINT, 2::SMALLINT, 3::INTEGER, 4::BIGINT, 5::UTINYINT, 6::UBIGINT,
                              1.5::FLOAT, 2.5::DOUBLE, 12.34::DECIMAL(9,2), true, 'text', '\\xAB\\x00'::BLOB,
                              DATE '2024-01-31', TIME '12:34:56.789', TIMESTAMP '2024-01-31 12:34:56.789012',
                              TIMESTAMPTZ '2024-01-31 12:34:56+00', [1, 2, NULL], {'a': 1, 'b': 'x'},
                              MAP {'k': 7}, CAST(NULL AS VARCHAR)""")
            got = cursor.fetchone()
        expected = (1, 2, 3, 4, 5, 6, 1.5, 2.5, decimal.Decimal("12.34"), True, "text", b"\xab\x00",
                    datetime.date(2024, 1, 31), datetime.time(12, 34, 56, 789000),
                    datetime.datetime(2024, 1, 31, 12, 34, 56, 789012),
                    datetime.datetime(2024, 1, 31, 12, 34, 56, tzinfo=UTC), [1, 2, None], {"a": 1, "b": "x"},
                    [("k", 7)], None)
        same_rows([got], [expected])

    def query_of_many_batches(self):
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT i, i * 2 AS j FROM range(200000) t(i)")
            total = twice = 0
            for batch in cursor.fetch_record_batch():
                total += batch.num_rows
                twice += pyarrow.compute.sum(batch.column(1)).as_py()
        equal((total, twice), (200_000, 200_000 * 199_999), "rows and sum")

    def query_without_rows_has_its_columns(self):
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT i, s FROM {self.table} WHERE i < 0")
            equal([entry[0] for entry in cursor.description], ["i", "s"], "description")
            equal(cursor.fetchall(), [], "rows")

    def two_results_at_once(self):
        with self.connection.cursor() as one, self.connection.cursor() as two:
            one.execute("SELECT * FROM range(50000) t(i) ORDER BY i")
            two.execute("SELECT 'other'")
            first = one.fetchone()
            equal(two.fetchall(), [("other",)], "the second result")
            equal((first, len(one.fetchall())), ((0,), 49_999), "the first result")

    # -- parameters

    def parameters_of_all_types(self):
        same_rows(rows(self.connection, """SELECT CAST(? AS BIGINT), CAST(? AS VARCHAR), CAST(? AS DOUBLE),
                       CAST(? AS DECIMAL(18,2)), CAST(? AS TIMESTAMP), CAST(? AS DATE), CAST(? AS BLOB),
                       CAST(? AS INTEGER), CAST(? AS BOOLEAN)""", PARAMETERS), [PARAMETERS])

    def parameters_without_casts(self):
        same_rows(rows(self.connection, "SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?", PARAMETERS), [PARAMETERS])

    def parameters_whose_types_only_the_values_settle(self):
        equal(rows(self.connection, "SELECT ? + ?", (1, 2)), [(3,)], "a sum")
        equal(rows(self.connection, "SELECT ?", (None,)), [(None,)], "a NULL")
        equal(rows(self.connection, "SELECT coalesce(?, ?)", (None, "x")), [("x",)], "a NULL beside a text")
        # A BIGINT where the statement alone would say INTEGER.
        equal(rows(self.connection, "SELECT 1 + ?", (5_000_000_000,)), [(5_000_000_001,)], "a wider number")

    def columns_of_the_same_name(self):
        for sql, parameters in (("SELECT 1 AS a, 2 AS a", None), ("SELECT ? AS a, ? AS a", (1, 2))):
            with self.connection.cursor() as cursor:
                cursor.execute(sql, parameters)
                equal([entry[0] for entry in cursor.description], ["a", "a"], f"columns of {sql}")
                equal(cursor.fetchall(), [(1, 2)], f"rows of {sql}")

    def parameters_in_a_filter(self):
        for column, row in zip(COLUMNS, zip(*ROWS)):
            equal(rows(self.connection, f"SELECT i FROM {self.table} WHERE {column} = ?", (row[0],)), [(1,)],
                  f"rows with {column} = {row[0]!r}")

    def parameters_by_number(self):
        equal(rows(self.connection, "SELECT $2, $1, $2", ("a", 7)), [(7, "a", 7)], "numbered parameters")

    def a_prepared_statement_runs_again(self):
        with self.connection.cursor() as cursor:
            sql = f"SELECT s FROM {self.table} WHERE i = ?"
            cursor.adbc_prepare(sql)
            for number, text in ((1, ROWS[0][2]), (2, ROWS[1][2]), (1, ROWS[0][2])):
                cursor.execute(sql, (number,))
                equal(cursor.fetchall(), [(text,)], f"result for {number}")

    def a_wrong_number_of_parameters_is_refused(self):
        fails(lambda: rows(self.connection, "SELECT ? + ?", (1,)), "parameter", what="one of two parameters")
        equal(rows(self.connection, "SELECT 1"), [(1,)], "the next statement")

    # -- statements that change something run exactly once

    def an_insert_without_a_fetch_ran_once(self):
        table = self.new_table("unfetched", "(a BIGINT)")
        for number in range(5):
            with self.connection.cursor() as cursor:
                cursor.execute(f"INSERT INTO {table} VALUES ({number})")
            equal(self.count(table), number + 1, "rows after an INSERT whose cursor was closed without a fetch")
        equal(rows(self.connection, f"SELECT a FROM {table} ORDER BY a"), [(n,) for n in range(5)], "rows")

    def an_insert_with_a_fetch_ran_once(self):
        table = self.new_table("fetched", "(a BIGINT)")
        with self.connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {table} VALUES (1), (2)")
            # A server may give the count as rowcount, as one row, or not at all, but never another one.
            holds(cursor.rowcount in (-1, 2), f"rowcount of INSERT is {cursor.rowcount}")
            result = cursor.fetchall()
            holds(result in ([], [(2,)]), f"the result of INSERT is {result}")
        equal(self.count(table), 2, "rows")

    def an_insert_with_parameters_ran_once(self):
        table = self.new_table("bound", "(a BIGINT, b VARCHAR)")
        for number in range(3):
            with self.connection.cursor() as cursor:
                cursor.execute(f"INSERT INTO {table} VALUES (?, ?)", (number, f"row {number}"))
        equal(rows(self.connection, f"SELECT * FROM {table} ORDER BY a"),
              [(n, f"row {n}") for n in range(3)], "rows")

    def an_update_through_the_low_level_interface(self):
        table = self.new_table("low_level", "(a BIGINT)")
        with adbc_driver_manager.AdbcStatement(self.connection.adbc_connection) as statement:
            statement.set_sql_query(f"INSERT INTO {table} SELECT i FROM range(7) t(i)")
            equal(statement.execute_update(), 7, "count of execute_update")
        equal(self.count(table), 7, "rows")

    def create_table_as_and_drop_without_a_fetch(self):
        table = f"{self.catalog}.{self.namespace}.copied"
        for sql in (f"CREATE TABLE {table} AS SELECT * FROM {self.table}",):
            with self.connection.cursor() as cursor:
                cursor.execute(sql)
        same_rows(rows(self.connection, f"SELECT * FROM {table} ORDER BY i"), ROWS)
        with self.connection.cursor() as cursor:
            cursor.execute(f"DROP TABLE {table}")
        fails(lambda: self.count(table), "copied", what="a query of a dropped table")
        holds("copied" not in self.objects("tables")[self.catalog][self.namespace], "the table is still listed")

    def new_table(self, name: str, columns: str) -> str:
        table = f"{self.catalog}.{self.namespace}.{name}"
        with self.connection.cursor() as cursor:
            cursor.execute(f"CREATE TABLE {table} {columns}")
        equal(self.count(table), 0, f"rows of the new table {table}")
        return table

    # -- errors

    def a_missing_table_is_named(self):
        fails(lambda: rows(self.connection, f"SELECT * FROM {self.catalog}.{self.namespace}.no_such_table"),
              "no_such_table", what="a query of a missing table")

    def bad_sql_is_explained(self):
        fails(lambda: rows(self.connection, "SELEKT 1"), "selekt", what="a text that is no SQL")
        fails(lambda: rows(self.connection, f"SELECT nope FROM {self.table}"), "nope", what="a missing column")
        fails(lambda: rows(self.connection, "SELECT 1; SELECT 2"), "one", what="two statements")

    def an_error_in_mid_stream_arrives(self):
        sql = "SELECT CASE WHEN i = 1500000 THEN CAST('no number' AS INTEGER) ELSE i END FROM range(2000000) t(i)"
        fails(lambda: rows(self.connection, sql), "no number", what="a cast that fails after 1.5 million rows")
        equal(rows(self.connection, "SELECT 1"), [(1,)], "the next statement")

    def a_wrong_password_is_refused(self):
        if os.environ.get("POLYNYA_USER"):
            fails(lambda: connect(password="certainly wrong"), "unauthenticated", what="a wrong password")

    # -- session options

    def current_catalog_and_schema(self):
        with connect() as connection:
            connection.adbc_current_catalog = self.catalog
            equal(connection.adbc_current_catalog, self.catalog, "current catalog")
            connection.adbc_current_db_schema = self.namespace
            equal(connection.adbc_current_db_schema, self.namespace, "current schema")
            equal(rows(connection, "SELECT count(*) FROM things"), [(len(ROWS),)], "a table without its schema")
        fails(lambda: rows(self.connection, "SELECT count(*) FROM things"), "things", what="another session")

    def a_catalog_that_does_not_exist_is_refused(self):
        with connect() as connection:
            fails(lambda: setattr(connection, "adbc_current_catalog", "no_such_catalog"), what="an unknown catalog")

    # -- data frames

    def polars_reads_a_query(self):
        frame = polars.read_database(f"SELECT * FROM {self.table} ORDER BY i", connection=self.connection)
        equal(frame.columns, COLUMNS, "columns")
        same_rows(frame.rows(), ROWS)
        equal(frame.schema["d"], polars.Decimal(18, 2), "type of the decimal")

    def pandas_reads_a_query(self):
        sql = f"SELECT i, s FROM {self.table} ORDER BY i"
        expected = [(row[0], row[2]) for row in ROWS]
        frame = pandas.read_sql(sql, self.connection)
        same_rows([(int(i), None if pandas.isna(s) else s) for i, s in frame.itertuples(index=False)], expected)
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            frame = cursor.fetch_df()
        same_rows([(int(i), None if pandas.isna(s) else s) for i, s in frame.itertuples(index=False)], expected)

    # -- the end

    def drop_everything(self):
        for table in self.objects("tables")[self.catalog][self.namespace]:
            self.script(f"DROP TABLE {self.catalog}.{self.namespace}.{table}")
        self.script(f"DROP SCHEMA {self.catalog}.{self.namespace}")
        holds(self.namespace not in self.objects("db_schemas")[self.catalog], "the schema is still listed")

    def close(self):
        self.connection.close()


PARAMETERS = (42, "text ‘ü’", 1.25, decimal.Decimal("12.34"), datetime.datetime(2024, 1, 2, 3, 4, 5, 678901),
              datetime.date(2024, 1, 2), b"\x00\xff", None, True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--catalog", default="lake", help="a catalog that may be written to (default: lake)")
    parser.add_argument("--namespace", default=f"adbc_{os.getpid()}", help="is created and dropped again")
    parser.add_argument("cases", nargs="*", help="run only these")
    arguments = parser.parse_args()
    basic = Basic(arguments.catalog, arguments.namespace)
    needed_by_all = {"create_schema_and_table", "executemany_inserts_every_row", "drop_everything", "close"}
    helpers = {"one", "count", "script", "objects", "new_table"}
    cases = {name: getattr(basic, name) for name in vars(Basic)
             if not name.startswith("_") and name not in helpers}
    run(cases, sorted(needed_by_all | set(arguments.cases)) if arguments.cases else None)


if __name__ == "__main__":
    main()
