//! Owns a stand-in for Polaris as a process, for programs in other languages: `polaris-stand-in [setup.json]`. It prints one line of
//! JSON with its addresses and credentials, and ends with its standard input. Refuses to be a catalog for anything but tests.

#![expect(clippy::expect_used, reason = "a failed step is a failed test")]

#[path = "mod.rs"]
mod stand_in;

use std::io::Read as _;
use std::sync::Arc;

use serde_json::json;
use stand_in::{Setup, StandIn, control};

#[tokio::main]
async fn main() {
    let setup = match std::env::args().nth(1) {
        Some(path) => serde_json::from_slice(&std::fs::read(path).expect("the set-up's file")).expect("a set-up, as in setup.rs"),
        None => Setup::lakehouse(),
    };
    let names: Vec<String> = setup.realms[0].warehouses.iter().map(|warehouse| warehouse.name.clone()).collect();
    let stand_in = Arc::new(StandIn::start(setup).await);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let control = format!("http://{}/control", listener.local_addr().expect("an address"));
    let first = stand_in.first_realm();
    let locations: Vec<String> = names.iter().filter_map(|name| Some(first.warehouse(name)?.base().to_owned())).collect();
    println!("{}", json!({ "uri": stand_in.uri(), "control": control, "realm": first.name, "locations": locations }));
    let routes = control::routes(Arc::clone(&stand_in));
    let served = tokio::spawn(async move { axum::serve(listener, routes).await });
    // Whoever started it holds its input open, and ends it by going away.
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let _ = ended.await;
    served.abort();
}
