//! Owns the demo's SQL: the gold tables and what they are for, and the questions that are asked at the end. Refuses to run any of it.

/// The TPC-H tables, small ones first; the last is the largest.
pub const BRONZE: [&str; 8] = ["region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem"];

/// A table made from others.
pub struct Gold {
    /// Its name in `lake.gold`.
    pub name: &'static str,
    /// Who would use it.
    pub about: &'static str,
    /// The SELECT that makes it.
    pub select: &'static str,
}

impl Gold {
    /// The statement that makes the table.
    #[must_use]
    pub fn create_sql(&self) -> String {
        format!("CREATE TABLE lake.gold.{} AS {}", self.name, self.select)
    }
}

/// The gold layer. Sums are cast back from the 38 digits that DuckDB gives them to what a dashboard wants.
pub const GOLD: [Gold; 5] = [
    Gold {
        name: "revenue_by_month",
        about: "what each region earned month by month, for the sales dashboard",
        select: "
SELECT CAST(date_trunc('month', o_orderdate) AS DATE) AS month,
       r_name AS region,
       CAST(sum(l_extendedprice * (1 - l_discount)) AS DECIMAL(18, 2)) AS revenue,
       count(DISTINCT o_orderkey) AS orders,
       CAST(sum(l_quantity) AS DECIMAL(18, 0)) AS pieces
FROM lake.bronze.lineitem
JOIN lake.bronze.orders ON o_orderkey = l_orderkey
JOIN lake.bronze.customer ON c_custkey = o_custkey
JOIN lake.bronze.nation ON n_nationkey = c_nationkey
JOIN lake.bronze.region ON r_regionkey = n_regionkey
GROUP BY ALL
ORDER BY month, region",
    },
    Gold {
        name: "customer_value",
        about: "one row a customer: orders, revenue, returns, first and last order, for account managers",
        select: "
SELECT c_custkey AS customer,
       c_name AS name,
       n_name AS nation,
       c_mktsegment AS segment,
       count(DISTINCT o_orderkey) AS orders,
       CAST(sum(l_extendedprice * (1 - l_discount)) AS DECIMAL(18, 2)) AS revenue,
       CAST(sum(CASE WHEN l_returnflag = 'R' THEN l_extendedprice * (1 - l_discount) ELSE 0 END) AS DECIMAL(18, 2)) AS returned,
       min(o_orderdate) AS first_order,
       max(o_orderdate) AS last_order
FROM lake.bronze.customer
JOIN lake.bronze.nation ON n_nationkey = c_nationkey
JOIN lake.bronze.orders ON o_custkey = c_custkey
JOIN lake.bronze.lineitem ON l_orderkey = o_orderkey
GROUP BY ALL",
    },
    Gold {
        name: "supplier_performance",
        about: "who delivers late and whose goods come back, for purchasing",
        select: "
SELECT s_suppkey AS supplier,
       s_name AS name,
       n_name AS nation,
       count(*) AS deliveries,
       sum(CASE WHEN l_receiptdate > l_commitdate THEN 1.0 ELSE 0.0 END)::DOUBLE / count(*) AS late_share,
       avg(date_diff('day', l_shipdate, l_receiptdate)) AS days_on_the_way,
       sum(CASE WHEN l_returnflag = 'R' THEN 1.0 ELSE 0.0 END)::DOUBLE / count(*) AS returned_share
FROM lake.bronze.supplier
JOIN lake.bronze.nation ON n_nationkey = s_nationkey
JOIN lake.bronze.lineitem ON l_suppkey = s_suppkey
GROUP BY ALL",
    },
    Gold {
        name: "order_priority_mix",
        about: "how urgent orders are, year by year, and how long each kind waits, for operations",
        select: "
SELECT CAST(year(o_orderdate) AS INTEGER) AS year,
       o_orderpriority AS priority,
       count(DISTINCT o_orderkey) AS orders,
       avg(date_diff('day', o_orderdate, l_shipdate)) AS days_until_shipped,
       sum(CASE WHEN l_receiptdate > l_commitdate THEN 1.0 ELSE 0.0 END)::DOUBLE / count(*) AS late_share
FROM lake.bronze.orders
JOIN lake.bronze.lineitem ON l_orderkey = o_orderkey
GROUP BY ALL
ORDER BY year, priority",
    },
    Gold {
        name: "parts_demand",
        about: "what sells by brand and kind of part, and at what margin over what its suppliers ask, for pricing",
        select: "
WITH supply AS (
    SELECT ps_partkey, avg(ps_supplycost) AS cost FROM lake.bronze.partsupp GROUP BY ps_partkey
)
SELECT p_brand AS brand,
       p_type AS kind,
       count(DISTINCT p_partkey) AS parts,
       CAST(sum(l_quantity) AS DECIMAL(18, 0)) AS pieces,
       CAST(sum(l_extendedprice * (1 - l_discount)) AS DECIMAL(18, 2)) AS revenue,
       CAST(sum(l_extendedprice * (1 - l_discount) - l_quantity * cost) AS DECIMAL(18, 2)) AS margin
FROM lake.bronze.part
JOIN supply ON ps_partkey = p_partkey
JOIN lake.bronze.lineitem ON l_partkey = p_partkey
GROUP BY ALL",
    },
];

/// A question and its SQL.
pub struct Question {
    /// In words.
    pub title: &'static str,
    /// In SQL; a dozen rows at most.
    pub sql: &'static str,
}

/// What is asked at the end, of both layers.
pub const QUESTIONS: [Question; 6] = [
    Question {
        title: "Which regions earned most in the last full year? (gold)",
        sql: "
SELECT region, sum(revenue) AS revenue, sum(orders) AS orders, max(revenue) AS best_month
FROM lake.gold.revenue_by_month
WHERE year(month) = 1997
GROUP BY region
ORDER BY revenue DESC",
    },
    Question {
        title: "Who are the ten most valuable customers, and how much do they send back? (gold)",
        sql: "
SELECT name, nation, segment, orders, revenue, round(returned / revenue * 100, 1) AS returned_percent, last_order
FROM lake.gold.customer_value
ORDER BY revenue DESC
LIMIT 10",
    },
    Question {
        title: "Which nations' suppliers are late most often? (gold)",
        sql: "
SELECT nation, count(*) AS suppliers, sum(deliveries) AS deliveries,
       round(sum(late_share * deliveries) / sum(deliveries) * 100, 2) AS late_percent,
       round(avg(days_on_the_way), 1) AS days_on_the_way
FROM lake.gold.supplier_performance
GROUP BY nation
ORDER BY late_percent DESC
LIMIT 8",
    },
    Question {
        title: "Which parts have the best margin? (gold)",
        sql: "
SELECT brand, kind, pieces, revenue, round(margin / revenue * 100, 1) AS margin_percent
FROM lake.gold.parts_demand
ORDER BY margin_percent DESC, revenue DESC
LIMIT 8",
    },
    Question {
        title: "TPC-H query 1: pricing summary of all line items (bronze)",
        sql: "
SELECT l_returnflag, l_linestatus, sum(l_quantity) AS sum_qty, sum(l_extendedprice) AS sum_base_price,
       sum(l_extendedprice * (1 - l_discount)) AS sum_disc_price,
       sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)) AS sum_charge,
       avg(l_quantity) AS avg_qty, avg(l_extendedprice) AS avg_price, avg(l_discount) AS avg_disc, count(*) AS count_order
FROM lake.bronze.lineitem
WHERE l_shipdate <= DATE '1998-09-02'
GROUP BY l_returnflag, l_linestatus
ORDER BY l_returnflag, l_linestatus",
    },
    Question {
        title: "TPC-H query 6: what would small discounts on small orders have brought? (bronze)",
        sql: "
SELECT sum(l_extendedprice * l_discount) AS revenue
FROM lake.bronze.lineitem
WHERE l_shipdate >= DATE '1994-01-01' AND l_shipdate < DATE '1995-01-01'
  AND l_discount BETWEEN 0.05 AND 0.07 AND l_quantity < 24",
    },
];
