import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Properties;
import java.util.TreeSet;

/**
 * The stock JDBC driver against a gateway: what a BI tool does. Run as a single source file:
 *
 * <pre>java --add-opens=java.base/java.nio=ALL-UNNAMED -cp $POLYNYA_JDBC_JAR tests/clients/JdbcBasic.java URL [CATALOG]</pre>
 *
 * <p>URL is {@code jdbc:arrow-flight-sql://127.0.0.1:PORT?useEncryption=false}; user and password come from
 * {@code POLYNYA_USER} and {@code POLYNYA_PASSWORD}. Works in a schema of its own, which it creates and drops again, in
 * CATALOG ({@code lake}). Prints one JSON line a case and one that sums up; exit code 1 when any case failed.
 */
public final class JdbcBasic {
  private static final List<String> COLUMNS = List.of("i", "l", "s", "d", "f", "b", "dt", "ts");
  private static final List<Integer> COLUMN_TYPES = List.of(Types.INTEGER, Types.BIGINT, Types.VARCHAR, Types.DECIMAL,
      Types.DOUBLE, Types.BOOLEAN, Types.DATE, Types.TIMESTAMP);

  private final String url;
  private final String catalog;
  private final String schema = "jdbc_" + ProcessHandle.current().pid();
  private final String table;
  private Connection connection;

  private JdbcBasic(String url, String catalog) {
    this.url = url;
    this.catalog = catalog;
    this.table = catalog + "." + schema + ".things";
  }

  interface Case {
    void run() throws Exception;
  }

  public static void main(String[] args) {
    if (args.length < 1 || args.length > 2) {
      System.err.println("usage: JdbcBasic JDBC_URL [CATALOG]");
      System.exit(2);
    }
    System.exit(new JdbcBasic(args[0], args.length > 1 ? args[1] : "lake").runAll() ? 0 : 1);
  }

  private boolean runAll() {
    Map<String, Case> cases = new LinkedHashMap<>();
    cases.put("connect", this::connect);
    cases.put("create_schema_and_table", this::createSchemaAndTable);
    cases.put("an_update_ran_once", this::anUpdateRanOnce);
    cases.put("execute_of_an_update", this::executeOfAnUpdate);
    cases.put("prepared_insert", this::preparedInsert);
    cases.put("prepared_batch", this::preparedBatch);
    cases.put("create_table_as_and_drop", this::createTableAsAndDrop);
    cases.put("catalogs", this::catalogs);
    cases.put("schemas", this::schemas);
    cases.put("table_types", this::tableTypes);
    cases.put("tables", this::tables);
    cases.put("columns", this::columns);
    cases.put("keys_are_empty", this::keysAreEmpty);
    cases.put("properties_are_answered", this::propertiesAreAnswered);
    cases.put("properties_are_right", this::propertiesAreRight);
    cases.put("query", this::query);
    cases.put("query_of_many_batches", this::queryOfManyBatches);
    cases.put("query_without_rows", this::queryWithoutRows);
    cases.put("columns_of_the_same_name", this::columnsOfTheSameName);
    cases.put("prepared_query", this::preparedQuery);
    cases.put("prepared_query_with_nulls", this::preparedQueryWithNulls);
    cases.put("times_as_parameters", this::timesAsParameters);
    cases.put("error_text", this::errorText);
    cases.put("a_wrong_password_is_refused", this::aWrongPasswordIsRefused);
    cases.put("catalog_in_the_url", this::catalogInTheUrl);
    cases.put("drop_everything", this::dropEverything);
    cases.put("close", () -> connection.close());

    List<String> failed = new ArrayList<>();
    for (Map.Entry<String, Case> entry : cases.entrySet()) {
      long started = System.nanoTime();
      String error = null;
      try {
        entry.getValue().run();
      } catch (Throwable thrown) {
        error = describe(thrown);
        failed.add(entry.getKey());
      }
      System.out.println("{\"case\": " + json(entry.getKey()) + ", \"ok\": " + (error == null)
          + (error == null ? "" : ", \"error\": " + json(error))
          + ", \"ms\": " + (System.nanoTime() - started) / 1_000_000 + "}");
      if (error != null && entry.getKey().equals("connect")) {
        break;
      }
    }
    System.out.println("{\"program\": \"JdbcBasic\", \"ok\": " + failed.isEmpty() + ", \"cases\": " + cases.size()
        + ", \"failed\": [" + String.join(", ", failed.stream().map(JdbcBasic::json).toList()) + "]}");
    return failed.isEmpty();
  }

  // -- connecting

  private void connect() throws SQLException {
    connection = open(url, System.getenv("POLYNYA_PASSWORD"));
    equal(number("SELECT 1"), 1L, "SELECT 1");
  }

  private static Connection open(String url, String password) throws SQLException {
    Properties properties = new Properties();
    String user = System.getenv("POLYNYA_USER");
    if (user != null && !user.isEmpty()) {
      properties.setProperty("user", user);
      properties.setProperty("password", Objects.requireNonNullElse(password, ""));
    }
    return DriverManager.getConnection(url, properties);
  }

  private void aWrongPasswordIsRefused() throws SQLException {
    String user = System.getenv("POLYNYA_USER");
    if (user != null && !user.isEmpty()) {
      fails(() -> open(url, "certainly wrong").close(), "a wrong password");
    }
  }

  /** The driver's close() raises "Channel shutdown invoked" after CloseSession, whatever the server answers. */
  private void catalogInTheUrl() throws SQLException {
    String separator = url.contains("?") ? "&" : "?";
    Connection other = open(url + separator + "catalog=" + catalog, System.getenv("POLYNYA_PASSWORD"));
    try (Statement statement = other.createStatement()) {
      ResultSet result = statement.executeQuery("SELECT count(*) FROM " + schema + ".things");
      result.next();
      equal(result.getLong(1), rowsOf(table), "rows of a table that is named without its catalog");
    }
    try {
      other.close();
    } catch (SQLException expected) {
      holds(describe(expected).contains("Channel shutdown invoked"), "close: " + describe(expected));
    }
    fails(() -> open(url + separator + "catalog=no_such_catalog", System.getenv("POLYNYA_PASSWORD")).close(),
        "an unknown catalog");
  }

  // -- updates

  private void createSchemaAndTable() throws SQLException {
    update("CREATE SCHEMA " + catalog + "." + schema);
    update("CREATE TABLE " + table + " (i INTEGER, l BIGINT, s VARCHAR, d DECIMAL(18,2), f DOUBLE, b BOOLEAN, dt DATE,"
        + " ts TIMESTAMP)");
    equal(rowsOf(table), 0L, "rows of a new table");
  }

  private void anUpdateRanOnce() throws SQLException {
    String target = newTable("updates", "(a BIGINT)");
    equal(update("INSERT INTO " + target + " VALUES (1), (2)"), 2, "count of the first INSERT");
    equal(update("INSERT INTO " + target + " VALUES (3)"), 1, "count of the second INSERT");
    equal(update("INSERT INTO " + target + " SELECT a FROM " + target), 3, "count of INSERT … SELECT");
    equal(rowsOf(target), 6L, "rows");
  }

  private void executeOfAnUpdate() throws SQLException {
    String target = newTable("executes", "(a BIGINT)");
    try (Statement statement = connection.createStatement()) {
      equal(statement.execute("INSERT INTO " + target + " VALUES (1), (2), (3)"), false, "execute of an INSERT");
      equal(statement.getUpdateCount(), 3, "getUpdateCount");
      equal(statement.executeLargeUpdate("INSERT INTO " + target + " VALUES (4)"), 1L, "executeLargeUpdate");
      equal(statement.execute("SELECT a FROM " + target), true, "execute of a SELECT");
    }
    equal(rowsOf(target), 4L, "rows");
  }

  private void preparedInsert() throws SQLException {
    try (PreparedStatement insert =
        connection.prepareStatement("INSERT INTO " + table + " VALUES (?, ?, ?, ?, ?, ?, ?, ?)")) {
      equal(insert.getParameterMetaData().getParameterCount(), 8, "parameters of the INSERT");
      insert.setInt(1, 1);
      insert.setLong(2, 10_000_000_000L);
      insert.setString(3, "eins");
      insert.setBigDecimal(4, new BigDecimal("1.10"));
      insert.setDouble(5, 1.5);
      insert.setBoolean(6, true);
      insert.setDate(7, Date.valueOf("2024-02-29"));
      insert.setTimestamp(8, Timestamp.valueOf("2024-02-29 12:30:15.123456"));
      equal(insert.executeUpdate(), 1, "count of the prepared INSERT");
      insert.setInt(1, 2);
      for (int parameter = 2; parameter <= 8; parameter++) {
        insert.setNull(parameter, Types.NULL);
      }
      equal(insert.executeUpdate(), 1, "count of the prepared INSERT of nulls");
    }
    equal(rowsOf(table), 2L, "rows");
  }

  /** The driver answers a batch with one count for all its rows. */
  private void preparedBatch() throws SQLException {
    String target = newTable("batches", "(a BIGINT, b VARCHAR)");
    try (PreparedStatement insert = connection.prepareStatement("INSERT INTO " + target + " VALUES (?, ?)")) {
      for (int row = 0; row < 100; row++) {
        insert.setLong(1, row);
        insert.setString(2, "row " + row);
        insert.addBatch();
      }
      equal(Arrays.stream(insert.executeBatch()).sum(), 100, "sum of the counts of executeBatch");
    }
    equal(rowsOf(target), 100L, "rows");
    equal(number("SELECT count(*) FROM " + target + " WHERE b = 'row ' || a"), 100L, "rows with the right values");
  }

  private void createTableAsAndDrop() throws SQLException {
    String target = catalog + "." + schema + ".copied";
    update("CREATE TABLE " + target + " AS SELECT * FROM " + table);
    equal(rowsOf(target), rowsOf(table), "rows of the copy");
    update("DROP TABLE " + target);
    fails(() -> rowsOf(target), "a query of a dropped table", "copied");
  }

  private void dropEverything() throws SQLException {
    for (String name : listed(connection.getMetaData().getTables(catalog, schema, "%", null), "TABLE_NAME")) {
      update("DROP TABLE " + catalog + "." + schema + "." + name);
    }
    update("DROP SCHEMA " + catalog + "." + schema);
    holds(!listed(connection.getMetaData().getSchemas(catalog, "%"), "TABLE_SCHEM").contains(schema),
        "the schema is still listed");
  }

  // -- metadata

  private void catalogs() throws SQLException {
    List<String> names = listed(connection.getMetaData().getCatalogs(), "TABLE_CAT");
    holds(names.contains(catalog), "catalogs: " + names);
  }

  private void schemas() throws SQLException {
    DatabaseMetaData metadata = connection.getMetaData();
    holds(listed(metadata.getSchemas(), "TABLE_SCHEM").contains(schema), "getSchemas() lacks " + schema);
    equal(listed(metadata.getSchemas(catalog, schema), "TABLE_SCHEM"), List.of(schema), "schemas of that name");
    equal(listed(metadata.getSchemas(catalog, "nothing like it"), "TABLE_SCHEM"), List.of(), "schemas that match none");
  }

  private void tableTypes() throws SQLException {
    List<String> types = listed(connection.getMetaData().getTableTypes(), "TABLE_TYPE");
    holds(types.contains("TABLE") || types.contains("BASE TABLE"), "table types: " + types);
  }

  private void tables() throws SQLException {
    DatabaseMetaData metadata = connection.getMetaData();
    holds(listed(metadata.getTables(null, null, "%", null), "TABLE_NAME").contains("things"), "all tables lack ours");
    equal(listed(metadata.getTables(catalog, schema, "th%", null), "TABLE_NAME"), List.of("things"), "tables by pattern");
    try (ResultSet found = metadata.getTables(catalog, schema, "things", null)) {
      holds(found.next(), "no table");
      equal(found.getString("TABLE_CAT"), catalog, "TABLE_CAT");
      equal(found.getString("TABLE_SCHEM"), schema, "TABLE_SCHEM");
      String type = found.getString("TABLE_TYPE");
      equal(listed(metadata.getTables(catalog, schema, "things", new String[] {type}), "TABLE_NAME"), List.of("things"),
          "tables of the type " + type);
    }
    equal(listed(metadata.getTables(catalog, schema, "%", new String[] {"NO SUCH TYPE"}), "TABLE_NAME"), List.of(),
        "tables of an unknown type");
  }

  private void columns() throws SQLException {
    DatabaseMetaData metadata = connection.getMetaData();
    List<String> names = new ArrayList<>();
    List<Integer> types = new ArrayList<>();
    try (ResultSet found = metadata.getColumns(catalog, schema, "things", "%")) {
      while (found.next()) {
        names.add(found.getString("COLUMN_NAME"));
        types.add(found.getInt("DATA_TYPE"));
        equal(found.getInt("ORDINAL_POSITION"), names.size(), "ORDINAL_POSITION of " + names.get(names.size() - 1));
        if (found.getString("COLUMN_NAME").equals("d")) {
          equal(found.getInt("COLUMN_SIZE"), 18, "COLUMN_SIZE of the decimal");
          equal(found.getInt("DECIMAL_DIGITS"), 2, "DECIMAL_DIGITS of the decimal");
        }
      }
    }
    equal(names, COLUMNS, "column names");
    equal(types, COLUMN_TYPES, "column types");
    equal(new TreeSet<>(listed(metadata.getColumns(catalog, schema, "things", "d%"), "COLUMN_NAME")),
        new TreeSet<>(List.of("d", "dt")), "columns by pattern");
  }

  private void keysAreEmpty() throws SQLException {
    DatabaseMetaData metadata = connection.getMetaData();
    equal(listed(metadata.getPrimaryKeys(catalog, schema, "things"), "COLUMN_NAME"), List.of(), "primary keys");
    equal(listed(metadata.getImportedKeys(catalog, schema, "things"), "FKCOLUMN_NAME"), List.of(), "imported keys");
    equal(listed(metadata.getExportedKeys(catalog, schema, "things"), "FKCOLUMN_NAME"), List.of(), "exported keys");
  }

  /** Each of these raises NullPointerException or ClassCastException when the server's answer lacks it or is mistyped. */
  private void propertiesAreAnswered() throws Exception {
    DatabaseMetaData metadata = connection.getMetaData();
    List<String> failures = new ArrayList<>();
    for (var method : DatabaseMetaData.class.getMethods()) {
      Class<?> type = method.getReturnType();
      boolean isProperty = type == boolean.class || type == int.class || type == long.class || type == String.class;
      if (method.getParameterCount() != 0 || !isProperty) {
        continue;
      }
      try {
        method.invoke(metadata);
      } catch (java.lang.reflect.InvocationTargetException thrown) {
        // What the driver itself does not implement is not the server's fault.
        if (thrown.getCause() instanceof SQLException && describe(thrown.getCause()).contains("upport")) {
          continue;
        }
        failures.add(method.getName() + ": " + describe(thrown.getCause()));
      }
    }
    java.util.Collections.sort(failures);
    equal(failures, List.of(), "properties that raise an exception");
  }

  private void propertiesAreRight() throws SQLException {
    DatabaseMetaData metadata = connection.getMetaData();
    holds(metadata.getDatabaseProductName().toLowerCase().contains("polynya"),
        "getDatabaseProductName is " + metadata.getDatabaseProductName());
    holds(!metadata.getDatabaseProductVersion().isEmpty(), "getDatabaseProductVersion is empty");
    equal(metadata.getIdentifierQuoteString(), "\"", "getIdentifierQuoteString");
    equal(metadata.isReadOnly(), false, "isReadOnly");
    equal(metadata.supportsTransactions(), false, "supportsTransactions");
    equal(metadata.getDefaultTransactionIsolation(), Connection.TRANSACTION_NONE, "getDefaultTransactionIsolation");
    equal(metadata.supportsSchemasInTableDefinitions(), true, "supportsSchemasInTableDefinitions");
    equal(metadata.supportsCatalogsInTableDefinitions(), true, "supportsCatalogsInTableDefinitions");
    holds(metadata.getMaxColumnNameLength() >= 0, "getMaxColumnNameLength is " + metadata.getMaxColumnNameLength());
    holds(!metadata.getSQLKeywords().isEmpty(), "getSQLKeywords is empty");
  }

  // -- queries

  private void query() throws SQLException {
    try (Statement statement = connection.createStatement();
        ResultSet result = statement.executeQuery("SELECT * FROM " + table + " ORDER BY i")) {
      ResultSetMetaData metadata = result.getMetaData();
      equal(metadata.getColumnCount(), COLUMNS.size(), "columns");
      for (int column = 1; column <= COLUMNS.size(); column++) {
        equal(metadata.getColumnLabel(column), COLUMNS.get(column - 1), "label of column " + column);
        equal(metadata.getColumnType(column), COLUMN_TYPES.get(column - 1), "type of column " + column);
      }
      holds(result.next(), "no first row");
      equal(result.getInt(1), 1, "INTEGER");
      equal(result.getLong(2), 10_000_000_000L, "BIGINT");
      equal(result.getString(3), "eins", "VARCHAR");
      equal(result.getBigDecimal(4), new BigDecimal("1.10"), "DECIMAL");
      equal(result.getDouble(5), 1.5, "DOUBLE");
      equal(result.getBoolean(6), true, "BOOLEAN");
      equal(result.getString(7), "2024-02-29", "DATE");
      // Milliseconds are what the driver's accessor keeps.
      holds(result.getTimestamp(8).toString().startsWith("2024-02-29 12:30:15.123"),
          "TIMESTAMP is " + result.getTimestamp(8));
      holds(result.next(), "no second row");
      equal(result.getInt(1), 2, "INTEGER of the second row");
      for (int column = 2; column <= COLUMNS.size(); column++) {
        equal(result.getObject(column), null, "column " + column + " of the second row");
        equal(result.wasNull(), true, "wasNull of column " + column);
      }
      holds(!result.next(), "a third row");
    }
  }

  private void queryOfManyBatches() throws SQLException {
    try (Statement statement = connection.createStatement();
        ResultSet result = statement.executeQuery("SELECT i, 'row ' || i FROM range(200000) t(i)")) {
      long count = 0;
      long sum = 0;
      while (result.next()) {
        count++;
        sum += result.getLong(1);
      }
      equal(count, 200_000L, "rows");
      equal(sum, 199_999L * 100_000L, "sum");
    }
  }

  private void queryWithoutRows() throws SQLException {
    String sql = "SELECT i, s FROM " + table + " WHERE i < 0";
    try (PreparedStatement statement = connection.prepareStatement(sql); ResultSet result = statement.executeQuery()) {
      equal(labels(result), List.of("i", "s"), "columns of a prepared statement");
      holds(!result.next(), "a row");
    }
    // The driver adds the columns to a plain statement's a second time when it executes it, and takes them from the stream only
    // once there is a row. No answer of a server helps.
    try (Statement statement = connection.createStatement(); ResultSet result = statement.executeQuery(sql)) {
      equal(labels(result).subList(0, 2), List.of("i", "s"), "columns of a statement");
      holds(!result.next(), "a row");
    }
  }

  private void columnsOfTheSameName() throws SQLException {
    try (PreparedStatement statement = connection.prepareStatement("SELECT 1 AS a, CAST(? AS INTEGER) AS a, ? AS a")) {
      statement.setInt(1, 3);
      statement.setString(2, "x");
      try (ResultSet result = statement.executeQuery()) {
        equal(labels(result), List.of("a", "a", "a"), "columns");
        holds(result.next(), "no row");
        equal(result.getInt(1), 1, "first column");
        equal(result.getInt(2), 3, "second column");
        equal(result.getString(3), "x", "third column");
      }
    }
  }

  private void preparedQuery() throws SQLException {
    Map<String, Object> values = new LinkedHashMap<>();
    values.put("i", 1);
    values.put("l", 10_000_000_000L);
    values.put("s", "eins");
    values.put("d", new BigDecimal("1.10"));
    values.put("ts", Timestamp.valueOf("2024-02-29 12:30:15.123456"));
    values.put("dt", Date.valueOf("2024-02-29"));
    values.put("f", 1.5);
    values.put("b", true);
    for (Map.Entry<String, Object> entry : values.entrySet()) {
      String sql = "SELECT i FROM " + table + " WHERE " + entry.getKey() + " = ?";
      try (PreparedStatement statement = connection.prepareStatement(sql)) {
        equal(statement.getParameterMetaData().getParameterCount(), 1, "parameters of " + sql);
        for (int run = 0; run < 2; run++) {
          set(statement, entry.getValue());
          try (ResultSet result = statement.executeQuery()) {
            holds(result.next(), "no row for " + entry);
            equal(result.getInt(1), 1, "row for " + entry);
            holds(!result.next(), "more than one row for " + entry);
          }
        }
      }
    }
  }

  private static void set(PreparedStatement statement, Object value) throws SQLException {
    if (value instanceof Integer number) {
      statement.setInt(1, number);
    } else if (value instanceof Long number) {
      statement.setLong(1, number);
    } else if (value instanceof Double number) {
      statement.setDouble(1, number);
    } else if (value instanceof Boolean truth) {
      statement.setBoolean(1, truth);
    } else if (value instanceof BigDecimal decimal) {
      statement.setBigDecimal(1, decimal);
    } else if (value instanceof Timestamp timestamp) {
      statement.setTimestamp(1, timestamp);
    } else if (value instanceof Date date) {
      statement.setDate(1, date);
    } else {
      statement.setString(1, (String) value);
    }
  }

  private void preparedQueryWithNulls() throws SQLException {
    String sql = "SELECT CAST(? AS INTEGER), CAST(? AS VARCHAR), CAST(? AS DECIMAL(18,2)), CAST(? AS TIMESTAMP)";
    try (PreparedStatement statement = connection.prepareStatement(sql)) {
      for (int parameter = 1; parameter <= 4; parameter++) {
        statement.setNull(parameter, Types.NULL);
      }
      try (ResultSet result = statement.executeQuery()) {
        holds(result.next(), "no row");
        for (int column = 1; column <= 4; column++) {
          equal(result.getObject(column), null, "column " + column);
        }
      }
    }
  }

  /** What the server understood, as text, so that a mistake on the way there is not undone on the way back. */
  private void timesAsParameters() throws SQLException {
    equal(number("SELECT count(*) FROM " + table + " WHERE ts = TIMESTAMP '2024-02-29 12:30:15.123'"), 1L,
        "rows with the timestamp that was inserted, to the millisecond");
    String sql = "SELECT strftime(a, '%Y-%m-%d %H:%M:%S.%g'), CAST(b AS VARCHAR), CAST(c AS VARCHAR)"
        + " FROM (SELECT CAST(? AS TIMESTAMP), CAST(? AS TIME), CAST(? AS DATE)) t(a, b, c)";
    try (PreparedStatement statement = connection.prepareStatement(sql)) {
      statement.setTimestamp(1, Timestamp.valueOf("2024-02-29 12:30:15.123"));
      statement.setTime(2, java.sql.Time.valueOf("23:59:58"));
      statement.setDate(3, Date.valueOf("2024-02-29"));
      try (ResultSet result = statement.executeQuery()) {
        holds(result.next(), "no row");
        equal(result.getString(1), "2024-02-29 12:30:15.123", "TIMESTAMP");
        equal(result.getString(2), "23:59:58", "TIME");
        equal(result.getString(3), "2024-02-29", "DATE");
      }
    }
  }

  private void errorText() throws SQLException {
    fails(() -> number("SELECT * FROM " + catalog + "." + schema + ".no_such_table"), "a missing table", "no_such_table");
    fails(() -> number("SELEKT 1"), "a text that is no SQL", "selekt");
    fails(() -> number("SELECT nope FROM " + table), "a missing column", "nope");
    fails(() -> update("INSERT INTO " + table + " VALUES (1)"), "an INSERT with too few values", "8");
    equal(number("SELECT 1"), 1L, "the next statement");
  }

  // -- short forms

  private int update(String sql) throws SQLException {
    try (Statement statement = connection.createStatement()) {
      return statement.executeUpdate(sql);
    }
  }

  private long number(String sql) throws SQLException {
    try (Statement statement = connection.createStatement(); ResultSet result = statement.executeQuery(sql)) {
      holds(result.next(), "no row from " + sql);
      return result.getLong(1);
    }
  }

  private long rowsOf(String name) throws SQLException {
    return number("SELECT count(*) FROM " + name);
  }

  private String newTable(String name, String columns) throws SQLException {
    String full = catalog + "." + schema + "." + name;
    equal(update("CREATE TABLE " + full + " " + columns), 0, "count of CREATE TABLE");
    return full;
  }

  private static List<String> labels(ResultSet result) throws SQLException {
    List<String> labels = new ArrayList<>();
    for (int column = 1; column <= result.getMetaData().getColumnCount(); column++) {
      labels.add(result.getMetaData().getColumnLabel(column));
    }
    return labels;
  }

  private static List<String> listed(ResultSet result, String column) throws SQLException {
    List<String> values = new ArrayList<>();
    try (result) {
      while (result.next()) {
        values.add(result.getString(column));
      }
    }
    return values;
  }

  private static void equal(Object got, Object expected, String what) {
    holds(Objects.equals(got, expected), what + ": expected " + expected + ", got " + got);
  }

  private static void holds(boolean condition, String what) {
    if (!condition) {
      throw new AssertionError(what);
    }
  }

  private static void fails(Case call, String what, String... fragments) {
    try {
      call.run();
    } catch (AssertionError error) {
      throw error;
    } catch (Exception error) {
      holds(error instanceof SQLException, what + ": not an SQLException: " + describe(error));
      for (String fragment : fragments) {
        // The driver's message repeats the statement, so only what follows it counts.
        String text = describe(error.getCause() == null ? error : error.getCause()).toLowerCase();
        holds(text.contains(fragment.toLowerCase()), what + ": the error does not say \"" + fragment + "\": " + text);
      }
      return;
    }
    throw new AssertionError(what + ": expected an error, there was none");
  }

  private static String describe(Throwable thrown) {
    StringBuilder text = new StringBuilder(thrown.getClass().getSimpleName() + ": " + thrown.getMessage());
    for (Throwable cause = thrown.getCause(); cause != null; cause = cause.getCause()) {
      text.append(" <- ").append(cause.getClass().getSimpleName()).append(": ").append(cause.getMessage());
    }
    if (thrown instanceof RuntimeException && thrown.getStackTrace().length > 0) {
      text.append(" at ").append(thrown.getStackTrace()[0]);
    }
    return text.toString();
  }

  private static String json(String text) {
    StringBuilder quoted = new StringBuilder("\"");
    for (char c : text.toCharArray()) {
      switch (c) {
        case '"' -> quoted.append("\\\"");
        case '\\' -> quoted.append("\\\\");
        case '\n' -> quoted.append("\\n");
        default -> quoted.append(c < 0x20 || c > 0x7e ? String.format("\\u%04x", (int) c) : String.valueOf(c));
      }
    }
    return quoted.append('"').toString();
  }
}
