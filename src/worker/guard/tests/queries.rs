//! Rebuilt queries give the rows of the client's own.

use duckdb::Connection;

use super::super::{Scope, judge};
use super::{DuckParser, with_extensions};

/// Every row as one text.
fn rows(connection: &Connection, sql: &str) -> Vec<String> {
    let mut statement = connection
        .prepare(&format!("SELECT to_json(the_row)::VARCHAR FROM ({sql}) AS the_row"))
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows.map(|row| row.unwrap()).collect()
}

fn same_rows(connection: &Connection, parser: &mut DuckParser, catalog: &str, sql: &str) {
    let catalogs = [catalog.to_owned()];
    let scope = Scope::new(&catalogs, catalog, "main");
    let verdict = judge(parser, &scope, sql).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"));
    assert_eq!(
        rows(connection, sql.trim().trim_end_matches(';')),
        rows(connection, &verdict.sql),
        "{sql}\nwas rebuilt as\n{}",
        verdict.sql
    );
    let again = judge(parser, &scope, &verdict.sql).unwrap_or_else(|refusal| panic!("{}: {refusal}", verdict.sql));
    assert_eq!((again.class, &again.tables), (verdict.class, &verdict.tables), "{sql}");
    assert_eq!(again.sql, verdict.sql, "the rebuilt text is judged as itself");
}

#[test]
fn the_tpch_queries_give_the_same_rows_rebuilt() {
    let connection = with_extensions();
    connection.execute_batch("CALL dbgen(sf = 0.01)").unwrap();
    let mut statement = connection.prepare("SELECT query FROM tpch_queries() ORDER BY query_nr").unwrap();
    let queries: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(|row| row.unwrap()).collect();
    assert_eq!(queries.len(), 22);
    let mut parser = DuckParser::new();
    for query in queries {
        same_rows(&connection, &mut parser, "memory", &query);
    }
}

const FIXTURE: &str = "
    CREATE TABLE a (x INTEGER, y VARCHAR, l INTEGER[], s STRUCT(f INTEGER, g VARCHAR), t TIMESTAMP, d DOUBLE);
    INSERT INTO a VALUES (1, 'one', [1, 2], {'f': 1, 'g': 'p'}, '2020-01-01 00:00:00', 1.5),
        (2, 'two', [3], {'f': 2, 'g': 'q'}, '2020-06-01 12:00:00', 2.5), (3, 'three', [], NULL, '2021-01-01 00:00:00', NULL);
    CREATE TABLE b (x INTEGER, z VARCHAR, t TIMESTAMP);
    INSERT INTO b VALUES (1, 'uno', '2019-12-31 00:00:00'), (2, 'dos', '2020-05-01 00:00:00'), (4, 'cuatro', '2020-12-31 00:00:00');
    CREATE TABLE c (x INTEGER, w INTEGER);
    INSERT INTO c VALUES (1, 10), (2, 20), (5, 50);";

/// Each with a fixed order of rows.
const QUERIES: &[&str] = &[
    "SELECT a.x, memory.main.a.y, main.a.d FROM a WHERE main.a.x > 1 ORDER BY 1",
    "SELECT a.x FROM main.a ORDER BY 1",
    "SELECT q.m FROM memory.main.a AS q(m, n) ORDER BY m DESC",
    "FROM a ORDER BY x",
    "FROM a SELECT x + 1 AS z WHERE y LIKE '%o%' ORDER BY z",
    "TABLE a ORDER BY x",
    "VALUES (1, 'a'), (2, 'b')",
    "VALUES (1), (2) ORDER BY 1 DESC LIMIT 1",
    "SELECT * FROM (VALUES (1, 2), (3, 4)) AS v(p, q) ORDER BY p",
    "WITH w AS (SELECT * FROM a) SELECT * FROM w ORDER BY x",
    "WITH w(k) AS MATERIALIZED (SELECT x FROM a), v AS NOT MATERIALIZED (SELECT k + 1 AS k FROM w) SELECT * FROM v ORDER BY k",
    "WITH RECURSIVE w(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM w WHERE n < 5) SELECT * FROM w ORDER BY n",
    "WITH RECURSIVE w(n) AS (SELECT x FROM a UNION SELECT w.n + b.x FROM w JOIN b ON w.n = b.x WHERE n < 5) SELECT * FROM w ORDER BY n",
    "WITH RECURSIVE w(k, n) USING KEY (k) AS (SELECT 1, 0 UNION SELECT k, n + 1 FROM w WHERE n < 3) SELECT * FROM w",
    "WITH a AS (SELECT 9 AS x) SELECT (SELECT max(x) FROM a) AS m, (SELECT max(x) FROM main.a) AS n",
    "WITH w AS (SELECT 1 AS x) SELECT * FROM (WITH w AS (SELECT x + 1 AS x FROM w) SELECT * FROM w)",
    "SELECT * FROM a WHERE x IN (SELECT x FROM b) ORDER BY x",
    "SELECT * FROM a WHERE EXISTS (SELECT * FROM b WHERE b.x = a.x) AND x NOT IN (7, 8) ORDER BY x",
    "SELECT x, (SELECT max(z) FROM b WHERE b.x <= a.x) AS m FROM a ORDER BY x",
    "SELECT x FROM a WHERE x > ALL (SELECT 1) AND x = ANY (SELECT x FROM b) ORDER BY x",
    "SELECT ARRAY(SELECT x FROM a ORDER BY x) AS l",
    "SELECT x FROM a UNION ALL SELECT x FROM b UNION SELECT 99 ORDER BY 1",
    "SELECT x FROM a EXCEPT (SELECT x FROM b EXCEPT SELECT 2) ORDER BY x",
    "SELECT x FROM a INTERSECT SELECT x FROM b ORDER BY x",
    "SELECT x, 1 AS p FROM a UNION ALL BY NAME SELECT 2 AS p, x FROM b ORDER BY ALL",
    "(SELECT x FROM a ORDER BY x LIMIT 1) UNION ALL (SELECT x FROM b ORDER BY x DESC LIMIT 1) ORDER BY x",
    "SELECT x, row_number() OVER (PARTITION BY y ORDER BY x) AS r, sum(x) OVER (ORDER BY x ROWS BETWEEN 1 PRECEDING AND CURRENT ROW EXCLUDE TIES) AS s FROM a ORDER BY x",
    "SELECT x, sum(x) OVER w AS s, lag(x, 1, 0) OVER w AS l, first_value(y IGNORE NULLS) OVER w AS f FROM a WINDOW w AS (ORDER BY x DESC) ORDER BY x",
    "SELECT x, sum(x) OVER (ORDER BY t RANGE BETWEEN INTERVAL 200 DAY PRECEDING AND CURRENT ROW) AS s FROM a ORDER BY x",
    "SELECT x FROM a QUALIFY row_number() OVER (ORDER BY x DESC) = 1",
    "SELECT DISTINCT ON (x % 2) x FROM a ORDER BY x % 2, x DESC",
    "SELECT x % 2 AS p, count(*), count(DISTINCT y), sum(x) FILTER (WHERE x > 1), string_agg(y, '-' ORDER BY y) FROM a GROUP BY p ORDER BY p",
    "SELECT x % 2 AS p, y, count(*) FROM a GROUP BY ALL ORDER BY ALL",
    "SELECT x, y, count(*) FROM a GROUP BY GROUPING SETS ((x), (y), ()) ORDER BY ALL",
    "SELECT x % 2 AS p, y, x, grouping(y) AS g, count(*) FROM a GROUP BY CUBE (x % 2, y), x HAVING count(*) > 0 ORDER BY ALL",
    "SELECT x % 2 AS p, y, count(*) FROM a GROUP BY ROLLUP (p, y) ORDER BY ALL",
    "SELECT list_transform(l, e -> e + x) AS l1, list_filter(l, lambda e, i: e > i) AS l2, list_reduce([1, 2, 3], (p, q) -> p + q) AS r FROM a ORDER BY x",
    "SELECT list_transform([[1], [2, 3]], o -> list_transform(o, i -> i + len(o))) AS n",
    "SELECT [e * 2 FOR e IN l IF e > 1] AS l FROM a ORDER BY x",
    "SELECT * EXCLUDE (l, s) REPLACE (x + 1 AS x) RENAME (y AS yy) FROM a ORDER BY x",
    "SELECT COLUMNS(c -> c LIKE 'x%'), COLUMNS('y') FROM a ORDER BY ALL",
    "SELECT min(COLUMNS(* EXCLUDE (l, s))) FROM a",
    "SELECT a.*, b.* EXCLUDE (x) FROM a JOIN b USING (x) ORDER BY a.x",
    "SELECT {'p': 1, 'q r': [1, 2]} AS s, map {'k': x} AS m, row(1, 2) AS r, [1, 2][1] AS e, s.f, (s).g, l[1:1] AS sl, y[1:2] AS sy FROM a ORDER BY x",
    "SELECT x::DECIMAL(5, 2) AS p, TRY_CAST(y AS INTEGER) AS q, CAST(t AS DATE) AS r, '2020-01-01'::TIMESTAMPTZ AS u, x::VARCHAR || '!' AS v FROM a ORDER BY x",
    "SELECT y FROM a ORDER BY y COLLATE NOCASE DESC NULLS LAST",
    "SELECT 1e0 AS p, 1e10 AS q, 1.5e-3 AS r, typeof(1e0) AS u, typeof(1.0), typeof(12345678901234567890), -1, - 1, 1_000, 0.1, .5",
    "SELECT typeof(1e0 + 1) AS u, typeof(123456789012345678901234567890123456789012345) AS v",
    "SELECT 'a''b' AS p, e'\\n\\x41' AS q, $$d'$$ AS r, '\\xAA'::BLOB AS s, true, false, NULL",
    "SELECT DATE '2020-01-01' + INTERVAL 1 MONTH AS p, INTERVAL '1 day 2 hours' AS q, INTERVAL (x) DAY AS r, extract(year FROM t) AS u FROM a ORDER BY x",
    "SELECT CASE WHEN x = 1 THEN 'p' WHEN x = 2 THEN 'q' ELSE 'r' END AS k, CASE x WHEN 1 THEN 2 END AS m, coalesce(d, 0) AS n FROM a ORDER BY x",
    "SELECT x BETWEEN 1 AND 2, y LIKE 'o%', y NOT ILIKE 'O%', y SIMILAR TO 't.*', y IS NULL, d IS DISTINCT FROM 1.5, NOT x = 1, x IN (1, 2) FROM a ORDER BY x",
    "SELECT position('n' IN y), substring(y FROM 1 FOR 2), trim(BOTH 'o' FROM y), upper(y), y.upper(), a.y.lower() FROM a ORDER BY x",
    "SELECT a - (b - c) AS p, a - b - c AS q, a / b / c AS r, -(-a) AS s, NOT NOT true AS u, 2 ** 3 ** 2 AS v FROM (VALUES (7, 3, 2)) AS v(a, b, c)",
    "SELECT * FROM a, b WHERE a.x = b.x ORDER BY a.x",
    "SELECT * FROM a CROSS JOIN b JOIN c ON a.x = c.x ORDER BY ALL",
    "SELECT a.x, b.x, c.x FROM a LEFT JOIN (b CROSS JOIN c) ON a.x = b.x ORDER BY ALL",
    "SELECT a.x, b.x, c.x FROM a, (b LEFT JOIN c ON b.x = c.x) ORDER BY ALL",
    "SELECT * FROM a CROSS JOIN (b CROSS JOIN c) ORDER BY ALL",
    "SELECT a.x, b.x, c.x FROM a FULL JOIN b ON a.x = b.x RIGHT JOIN c ON c.x = a.x ORDER BY ALL",
    "SELECT a.x, b.x, c.x FROM a LEFT JOIN (b JOIN c ON b.x = c.x) ON a.x = b.x ORDER BY ALL",
    "SELECT a.x, c.w FROM a NATURAL JOIN c ORDER BY ALL",
    "SELECT a.x, c.w, b.k FROM a CROSS JOIN (SELECT x AS k FROM b) AS b NATURAL JOIN c ORDER BY ALL",
    "SELECT a.x, b.z FROM a ASOF JOIN b ON a.t >= b.t ORDER BY a.x",
    "SELECT a.x, b.z FROM a ASOF LEFT JOIN b ON a.x = b.x AND a.t >= b.t ORDER BY a.x",
    "SELECT a.x, b.x FROM a POSITIONAL JOIN b ORDER BY ALL",
    "SELECT a.x FROM a SEMI JOIN b USING (x) ORDER BY x",
    "SELECT a.x FROM a ANTI JOIN b ON a.x = b.x ORDER BY x",
    "SELECT a.x, m.z FROM a, LATERAL (SELECT max(z) AS z FROM b WHERE b.x <= a.x) AS m ORDER BY a.x",
    "SELECT a.x, m.z FROM a LEFT JOIN LATERAL (SELECT z FROM b WHERE b.x = a.x) AS m ON true ORDER BY a.x",
    "SELECT a.x, u.e FROM a, unnest(a.l) AS u(e) ORDER BY ALL",
    "SELECT * FROM range(3) AS r(i), generate_series(1, 2) AS g(j) ORDER BY ALL",
    "SELECT * FROM unnest([10, 20]) WITH ORDINALITY AS u(v, o) ORDER BY o",
    "SELECT unnest(l) AS e, unnest(s) FROM a ORDER BY ALL",
    "SELECT * FROM (SELECT x, y FROM a) AS u UNPIVOT (v FOR n IN (y)) ORDER BY x",
    "SELECT * FROM (SELECT x % 2 AS p, x FROM a) AS u PIVOT (sum(x) FOR p IN (0, 1)) ORDER BY ALL",
    "SELECT * FROM (SELECT x, y FROM a) AS u PIVOT (count(*) AS n FOR y IN ('one' AS p, 'two') GROUP BY x) ORDER BY x",
    "SELECT count(*) FROM a TABLESAMPLE RESERVOIR (2) REPEATABLE (1)",
    "SELECT count(*) FROM a USING SAMPLE 2 ROWS",
    "SELECT x FROM a ORDER BY x LIMIT 1 OFFSET 1",
    "SELECT x FROM a ORDER BY x LIMIT (SELECT 2)",
    "SELECT x FROM a ORDER BY x LIMIT 50 PERCENT",
    "SELECT #1, x AS k FROM a ORDER BY #2 DESC",
    "SELECT json_extract('{\"k\": [1, 2]}', '$.k[1]') AS j, '{\"k\": 1}'::JSON ->> 'k' AS k, j2.value FROM json_each('[5]') AS j2",
    "SELECT \"x\" AS \"a b\", y AS \"select\" FROM a ORDER BY 1",
    "SELECT p: x, q: y FROM a ORDER BY p",
    "SELECT strftime(t, '%Y'), date_trunc('month', t), t AT TIME ZONE 'UTC', epoch(t) FROM a ORDER BY x",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY x), mode() WITHIN GROUP (ORDER BY y), quantile_cont(x, [0.25, 0.75]) FROM a",
    "SELECT ((x)), (x, y) = (1, 'one'), if(x > 1, 'p', 'q'), nullif(x, 1), greatest(x, 2) FROM a ORDER BY x",
];

#[test]
fn queries_of_all_kinds_give_the_same_rows_rebuilt() {
    let connection = with_extensions();
    connection.execute_batch(FIXTURE).unwrap();
    let mut parser = DuckParser::new();
    for query in QUERIES {
        same_rows(&connection, &mut parser, "memory", query);
    }
}

#[test]
fn column_names_stay() {
    let connection = with_extensions();
    connection.execute_batch(FIXTURE).unwrap();
    let mut parser = DuckParser::new();
    let names = |sql: &str| {
        let mut statement = connection.prepare(sql).unwrap();
        drop(statement.query([]).unwrap());
        statement.column_names()
    };
    let catalogs = ["memory".to_owned()];
    let scope = Scope::new(&catalogs, "memory", "main");
    for query in [
        "SELECT x, x + 1, upper(y), count(*) OVER (), 1e10, current_schema, current_database(), y[1], s.f, y.upper(), a.y.lower() FROM a",
        "SELECT sum(x), a.y FROM a GROUP BY a.y",
    ] {
        let verdict = judge(&mut parser, &scope, query).unwrap();
        assert_eq!(names(query), names(&verdict.sql), "{}", verdict.sql);
    }
}
