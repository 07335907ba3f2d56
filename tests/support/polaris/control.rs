//! Owns the control of a stand-in that runs as a process: each command is `POST /control/<command>` with a JSON object, on a port of
//! its own that stays when the catalog's goes. Refuses to do what the handle cannot do.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Grant, HOME, IssuerSetup, Operation, PrincipalSetup, Realm, Rule, StandIn, WarehouseSetup};

type Answer = Result<Value, String>;

/// Which realm a command is about, and what in it. Commands use those that they need.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    #[serde(default = "home")]
    realm: String,
    #[serde(default)]
    principal: String,
    #[serde(default)]
    secret: String,
    /// A principal role.
    #[serde(default)]
    role: String,
    #[serde(default)]
    warehouse: String,
    #[serde(default)]
    catalog_role: String,
    #[serde(default)]
    grant: Option<Grant>,
    #[serde(default)]
    seconds: u64,
    #[serde(default)]
    create_principal: Option<PrincipalSetup>,
    #[serde(default)]
    create_warehouse: Option<WarehouseSetup>,
    #[serde(default)]
    issuer: Option<IssuerSetup>,
}

fn home() -> String {
    HOME.to_owned()
}

/// Routes of the control port.
pub fn routes(stand_in: Arc<StandIn>) -> Router {
    Router::new().route("/control/{command}", post(control)).with_state(stand_in)
}

async fn control(
    State(stand_in): State<Arc<StandIn>>,
    Path(command): Path<String>,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    match obey(&stand_in, &command, body).await {
        Ok(answer) => (StatusCode::OK, Json(answer)),
        Err(reason) => (StatusCode::BAD_REQUEST, Json(json!({ "error": reason }))),
    }
}

async fn obey(stand_in: &StandIn, command: &str, body: Value) -> Answer {
    match command {
        // {"fault": {"status": 502}, "moment": "after", "operations": ["commit-table"], "principal": "analyst", "times": 3}
        "fail" => stand_in.faults().add(parse::<Rule>(body)?),
        "clear-faults" => stand_in.faults().clear(),
        "faults-left" => return Ok(json!(stand_in.faults().left())),
        "log" => return Ok(json!(stand_in.log().calls())),
        "counts" => {
            let counts = stand_in.log().counts().into_iter();
            let count = |((operation, principal), count): ((Operation, Option<String>), usize)| json!({ "operation": operation, "principal": principal, "count": count });
            return Ok(counts.map(count).collect());
        }
        "clear-log" => stand_in.log().clear(),
        "down" => stand_in.down().await,
        "up" => stand_in.up().await,
        // {"seconds": 30}: comes back by itself, and answers when it has.
        "down-for" => {
            stand_in.down().await;
            tokio::time::sleep(Duration::from_secs(parse::<Target>(body)?.seconds)).await;
            stand_in.up().await;
        }
        _ => return obey_in_realm(stand_in, command, parse(body)?).await,
    }
    Ok(json!({}))
}

async fn obey_in_realm(stand_in: &StandIn, command: &str, target: Target) -> Answer {
    let realm: Arc<Realm> = stand_in.core.realm(&target.realm).ok_or_else(|| format!("there is no realm {}", target.realm))?;
    let Target { principal, secret, role, warehouse, catalog_role, seconds, .. } = &target;
    let grant = || target.grant.clone().ok_or("a grant is missing");
    match command {
        "create-principal" => realm.create_principal(target.create_principal.ok_or("create_principal is missing")?),
        "drop-principal" => realm.drop_principal(principal),
        "activate" => realm.set_active(principal, true),
        "deactivate" => realm.set_active(principal, false),
        "rotate-secret" => realm.rotate_secret(principal, secret),
        "give-role" => realm.set_role(principal, role, true),
        "take-role" => realm.set_role(principal, role, false),
        "use-catalog-role" => realm.set_use(role, warehouse, catalog_role, true),
        "leave-catalog-role" => realm.set_use(role, warehouse, catalog_role, false),
        "grant" => realm.grant(warehouse, catalog_role, grant()?),
        "revoke" => return Ok(json!({ "revoked": realm.revoke(warehouse, catalog_role, &grant()?) })),
        "token-lifetime" => realm.tokens.set_lifetime(*seconds),
        "expire-tokens" => realm.tokens.expire_all(),
        "create-warehouse" => {
            let setup = target.create_warehouse.ok_or("create_warehouse is missing")?;
            realm.add_warehouse(setup, stand_in.scratch()).await?;
        }
        "believe-issuer" => realm.tokens.issuers.add(target.issuer.ok_or("issuer is missing")?),
        other => return Err(format!("there is no command {other}")),
    }
    Ok(json!({}))
}

fn parse<T: DeserializeOwned>(body: Value) -> Result<T, String> {
    serde_json::from_value(body).map_err(|error| error.to_string())
}
