import java.io.PrintStream;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.HexFormat;
import java.util.Properties;

/**
 * Runs one statement through the stock JDBC driver and prints its rows, for comparison. Run as a single source file:
 *
 * <pre>java --add-opens=java.base/java.nio=ALL-UNNAMED -cp $POLYNYA_JDBC_JAR tests/clients/JdbcQuery.java URL SQL</pre>
 *
 * <p>User and password come from {@code POLYNYA_USER} and {@code POLYNYA_PASSWORD}, or a token from {@code
 * POLYNYA_TOKEN}. The first line has the column
 * labels, the second their JDBC types; then one line a row. Fields are separated by tabs; a backslash, tab or line end
 * inside is written as in {@code \\ \t \n \r}, NULL as {@code \N}, bytes in hexadecimal, decimals without an exponent.
 */
public final class JdbcQuery {
  public static void main(String[] args) {
    if (args.length != 2) {
      System.err.println("usage: JdbcQuery JDBC_URL SQL");
      System.exit(2);
    }
    try {
      print(args[0], args[1]);
    } catch (SQLException error) {
      System.err.println(error.getMessage());
      System.exit(1);
    }
    System.exit(0);
  }

  private static void print(String url, String sql) throws SQLException {
    Properties properties = new Properties();
    String user = System.getenv("POLYNYA_USER");
    if (user != null && !user.isEmpty()) {
      properties.setProperty("user", user);
      properties.setProperty("password", String.valueOf(System.getenv("POLYNYA_PASSWORD")));
    }
    String token = System.getenv("POLYNYA_TOKEN");
    if (token != null && !token.isEmpty()) {
      properties.setProperty("token", token);
    }
    PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
    try (Connection connection = DriverManager.getConnection(url, properties);
        Statement statement = connection.createStatement();
        ResultSet result = statement.executeQuery(sql)) {
      ResultSetMetaData metadata = result.getMetaData();
      int columns = metadata.getColumnCount();
      StringBuilder line = new StringBuilder();
      StringBuilder types = new StringBuilder();
      for (int column = 1; column <= columns; column++) {
        line.append(column > 1 ? "\t" : "").append(escape(metadata.getColumnLabel(column)));
        types.append(column > 1 ? "\t" : "").append(metadata.getColumnTypeName(column));
      }
      out.println(line);
      out.println(types);
      while (result.next()) {
        line.setLength(0);
        for (int column = 1; column <= columns; column++) {
          line.append(column > 1 ? "\t" : "").append(field(result, column, metadata.getColumnType(column)));
        }
        out.println(line);
      }
    }
    out.flush();
  }

  private static String field(ResultSet result, int column, int type) throws SQLException {
    // The driver does not implement getObject for TIMESTAMP WITH TIME ZONE; its text is what there is.
    boolean asText = type == java.sql.Types.TIMESTAMP_WITH_TIMEZONE;
    Object value = asText ? result.getString(column) : result.getObject(column);
    if (value == null || result.wasNull()) {
      return "\\N";
    } else if (value instanceof byte[] bytes) {
      return HexFormat.of().formatHex(bytes);
    } else if (value instanceof BigDecimal decimal) {
      return decimal.toPlainString();
    }
    return escape(value.toString());
  }

  private static String escape(String text) {
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r");
  }
}
