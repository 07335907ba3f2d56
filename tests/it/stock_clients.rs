//! The stock ADBC and JDBC drivers, unchanged, as programs of their own.

use crate::harness::{Gateway, Program};

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_adbc_driver_does_all_that_its_users_do() {
    let gateway = Gateway::start();
    gateway.run("CREATE SCHEMA lake.main").await;
    tokio::task::block_in_place(|| Program::python("adbc_basic.py", &gateway).succeed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_jdbc_driver_does_all_that_its_users_do() {
    let gateway = Gateway::start();
    gateway.run("CREATE SCHEMA lake.main").await;
    tokio::task::block_in_place(|| Program::java("JdbcBasic.java", &gateway, "").succeed());
}
