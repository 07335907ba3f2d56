import java.nio.file.Path;
import java.util.Map;
import org.apache.hadoop.conf.Configuration;
import org.apache.iceberg.hadoop.HadoopFileIO;
import org.apache.iceberg.inmemory.InMemoryFileIO;
import org.apache.iceberg.jdbc.JdbcCatalog;
import org.apache.iceberg.rest.RESTCatalogAdapter;
import org.apache.iceberg.rest.RESTCatalogServlet;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.eclipse.jetty.servlet.ServletContextHandler;
import org.eclipse.jetty.servlet.ServletHolder;

/**
 * Iceberg's reference REST catalog on a free port of 127.0.0.1, for tests.
 *
 * <p>Arguments: the SQLite file of the catalog, and the warehouse as a {@code file:} or {@code s3:} URI. Prints {@code
 * LISTENING <port>} and runs until its standard input is closed, so that it can't outlive the test that started it.
 *
 * <p>Of a warehouse in S3 the catalog keeps its own metadata files in memory: clients get their content by REST, and read
 * and write only manifests and data, which the catalog never looks at. So it needs no keys and no client for S3.
 *
 * <p>There is no prefix, and no rights: {@code POST /v1/oauth/tokens} accepts any client and any secret. For the grant
 * {@code client_credentials} it answers {@code access_token = "client-credentials-token:sub=<client id>"},
 * {@code token_type = "Bearer"} and <em>no</em> {@code expires_in}, so a client has to assume a lifetime. No later
 * request is checked for a token.
 */
public final class RestCatalogMain {
  public static void main(String[] args) throws Exception {
    if (args.length != 2 || !args[1].matches("(file|s3):.*")) {
      System.err.println("usage: RestCatalogMain SQLITE_FILE file:WAREHOUSE|s3:WAREHOUSE");
      System.exit(2);
    }
    JdbcCatalog catalog = new JdbcCatalog();
    catalog.setConf(new Configuration());
    // SQLite admits one writer: a pool of one connection queues requests where a larger one would fail with SQLITE_BUSY.
    catalog.initialize("reference", Map.of(
        "uri", "jdbc:sqlite:" + Path.of(args[0]).toAbsolutePath(),
        "warehouse", args[1],
        "io-impl", args[1].startsWith("s3:") ? InMemoryFileIO.class.getName() : HadoopFileIO.class.getName(),
        "clients", "1",
        "jdbc.schema-version", "V1"));

    Server server = new Server();
    ServerConnector connector = new ServerConnector(server, 1, 1);
    connector.setHost("127.0.0.1");
    connector.setPort(0);
    server.addConnector(connector);
    ServletContextHandler context = new ServletContextHandler();
    context.addServlet(new ServletHolder(new RESTCatalogServlet(new RESTCatalogAdapter(catalog))), "/*");
    server.setHandler(context);
    server.start();
    System.out.println("LISTENING " + connector.getLocalPort());
    System.out.flush();

    while (System.in.read() != -1) {
      // Whatever arrives is ignored; only the end counts.
    }
    server.stop();
    catalog.close();
    System.exit(0);
  }
}
