//! The stock ADBC and JDBC drivers, unchanged, as programs of their own: let in without and with a password.

use crate::harness::{Gateway, Program, user_ada};

/// A gateway that lets in only `ada`.
fn closed_gateway() -> Gateway {
    Gateway::with(&user_ada().each_ref().map(String::as_str))
}

fn as_ada(program: Program) -> Program {
    program.env("POLYNYA_USER", "ada").env("POLYNYA_PASSWORD", "correct horse")
}

#[test]
fn the_stock_adbc_driver_does_all_that_its_users_do() {
    Program::python("adbc_basic.py", &Gateway::start()).succeed();
}

#[test]
fn the_stock_jdbc_driver_does_all_that_its_users_do() {
    Program::java("JdbcBasic.java", &Gateway::start(), "").succeed();
}

#[test]
fn the_stock_adbc_driver_logs_in_with_user_and_password() {
    as_ada(Program::python("adbc_basic.py", &closed_gateway())).succeed();
}

#[test]
fn the_stock_jdbc_driver_logs_in_with_user_and_password() {
    as_ada(Program::java("JdbcBasic.java", &closed_gateway(), "")).succeed();
}
