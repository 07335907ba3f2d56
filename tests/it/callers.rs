//! A gateway that knows its callers by the stand-in for Polaris, and clients of it that log in as a principal. Refuses to judge anything.

use arrow::array::RecordBatch;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::stream;
use serde_json::Value;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::harness::{Gateway, query};
use crate::stand_in::{HOME, StandIn};

pub type Client = FlightSqlServiceClient<Channel>;

/// A gateway on the warehouse `lakehouse` as catalog `rest`, with `auth.mode` of this name. It has no rights of its own there.
pub fn gateway(polaris: &StandIn, mode: &str, more: &[String]) -> Gateway {
    let mut set = polaris.settings("rest", "lakehouse", "root");
    set.retain(|pair| !pair.contains(".credentials="));
    set.extend(["catalogs.rest.credentials={type: none}".to_owned(), format!("auth.mode={mode}")]);
    set.extend_from_slice(more);
    Gateway::with(&set.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The session token that a log-in with this `authorization` gives.
pub async fn handshake(gateway: &Gateway, authorization: &str) -> Result<String, Status> {
    let mut raw = FlightServiceClient::new(gateway.channel().await);
    let mut request = Request::new(stream::empty());
    request.metadata_mut().insert("authorization", authorization.parse().expect("a header"));
    let answer = raw.handshake(request).await?;
    let header = answer.metadata().get("authorization").expect("a token").to_str().expect("text");
    Ok(header.strip_prefix("Bearer ").expect("a bearer token").to_owned())
}

/// A client on a connection of its own that sends this token with each call.
pub async fn bearer(gateway: &Gateway, token: &str) -> Client {
    let mut client = gateway.client().await;
    client.set_token(token.to_owned());
    client
}

/// A client that has logged in with the principal's client id and secret.
pub async fn try_login(gateway: &Gateway, polaris: &StandIn, principal: &str) -> Result<Client, Status> {
    let (id, secret) = polaris.realm(HOME).credentials(principal).expect("a principal");
    let token = handshake(gateway, &format!("Basic {}", BASE64_STANDARD.encode(format!("{id}:{secret}")))).await?;
    Ok(bearer(gateway, &token).await)
}

/// The same, when it must work.
pub async fn login(gateway: &Gateway, polaris: &StandIn, principal: &str) -> Client {
    let client = try_login(gateway, polaris, principal).await;
    client.unwrap_or_else(|status| panic!("{principal} is not let in: {status}\n{}", gateway.log()))
}

/// A token that the stand-in has signed itself.
pub async fn token_of(polaris: &StandIn, principal: &str) -> String {
    let (id, secret) = polaris.realm(HOME).credentials(principal).expect("a principal");
    let form =
        [("grant_type", "client_credentials"), ("client_id", &id), ("client_secret", &secret), ("scope", "PRINCIPAL_ROLE:ALL")];
    let request = reqwest::Client::new().post(format!("{}/v1/oauth/tokens", polaris.uri())).form(&form);
    let answer: Value = request.send().await.expect("an answer").json().await.expect("a token");
    answer["access_token"].as_str().expect("a token").to_owned()
}

/// A statement that must work.
pub async fn run(client: &mut Client, sql: &str) -> Vec<RecordBatch> {
    query(client, sql).await.unwrap_or_else(|status| panic!("{sql}: {status}"))
}

/// One value as text.
pub async fn value(client: &mut Client, sql: &str) -> Result<String, Status> {
    let batches = query(client, sql).await?;
    let batch = batches.iter().find(|batch| batch.num_rows() > 0).unwrap_or_else(|| panic!("{sql}: no row"));
    Ok(arrow::util::display::array_value_to_string(batch.column(0), 0).expect("a value"))
}
