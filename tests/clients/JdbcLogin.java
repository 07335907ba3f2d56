import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;

/**
 * Logs in by the stock JDBC driver in each of the ways that its arguments say, and runs one statement each time. Run as a single
 * source file:
 *
 * <pre>java --add-opens=java.base/java.nio=ALL-UNNAMED -cp $POLYNYA_JDBC_JAR tests/clients/JdbcLogin.java URL WAY...</pre>
 *
 * <p>A way is lines of {@code property=value}, with the driver's own names. For each a line is printed: {@code in}, a tab and the first
 * value of the statement in {@code POLYNYA_SQL}, or {@code refused}, a tab and what the driver says.
 */
public final class JdbcLogin {
  public static void main(String[] args) {
    for (int way = 1; way < args.length; way++) {
      Properties properties = new Properties();
      for (String line : args[way].split("\n")) {
        String[] pair = line.split("=", 2);
        properties.setProperty(pair[0], pair[1]);
      }
      try (Connection connection = DriverManager.getConnection(args[0], properties);
          Statement statement = connection.createStatement();
          ResultSet result = statement.executeQuery(System.getenv("POLYNYA_SQL"))) {
        result.next();
        System.out.println("in\t" + result.getString(1));
      } catch (SQLException error) {
        System.out.println("refused\t" + described(error).replaceAll("\\s+", " "));
      }
    }
    System.exit(0);
  }

  private static String described(Throwable error) {
    StringBuilder text = new StringBuilder();
    for (Throwable cause = error; cause != null; cause = cause.getCause()) {
      text.append(cause.getMessage()).append(" ");
    }
    return text.toString();
  }
}
