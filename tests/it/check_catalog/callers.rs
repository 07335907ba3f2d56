//! The same with the log-ins of callers, and with those of roles.

use serde_json::Value;

use super::{Told, check, check_with, client, filled, with};
use crate::harness::user_ada;
use crate::pki::Files;
use crate::stand_in::{HOME, PrincipalSetup, Setup, StandIn};

/// A token that the catalog has signed.
async fn token_of(polaris: &StandIn, principal: &str) -> String {
    let (id, secret) = (format!("{principal}-client-id"), format!("{principal}-secret"));
    let scope = "PRINCIPAL_ROLE:ALL";
    let form = [("grant_type", "client_credentials"), ("client_id", &id), ("client_secret", &secret), ("scope", scope)];
    let request = reqwest::Client::new().post(format!("{}/v1/oauth/tokens", polaris.uri())).form(&form);
    let answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
    answer["access_token"].as_str().expect("a token").to_owned()
}

/// Callers log in by themselves, and the config has no credentials.
async fn of_callers(mode: &str) -> (StandIn, Vec<String>) {
    let (polaris, set) = filled(Setup::lakehouse()).await;
    let mode = format!("auth.mode={mode}");
    let set = with(&set, &["catalogs.rest.credentials={type: none}", &mode]);
    (polaris, set)
}

#[track_caller]
fn is_refused(told: &Told, reason: &str) {
    assert_eq!(told.code, 2, "{}", told.text);
    assert!(told.text.contains(reason), "{}", told.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_steps_go_with_the_rights_of_the_caller_whose_log_in_is_passed() {
    let (polaris, set) = of_callers("polaris").await;
    let files = Files::new();
    let as_client = |name: &str, secret: &str, more: &[&str]| {
        let id = format!("{name}-client-id");
        check_with("rest", &set, &[&["--user", &id][..], more].concat(), &[("POLYNYA_PASSWORD", secret)])
    };
    let told = as_client("engineer", "engineer-secret", &["--write"]);
    told.is_well();
    assert_eq!(told.steps(), [&super::STEPS[..], &["write"]].concat(), "each step once");
    assert!(told.json["checks"].as_array().expect("checks").iter().all(|check| check["status"] != "failed"), "{}", told.text);
    assert_eq!(told.json["login"], "caller engineer-client-id");
    for step in ["token", "refresh", "warehouse", "list", "load", "read", "write"] {
        assert_eq!(told.check(step)["status"], "ok", "{step}: {}", told.text);
    }
    let told = as_client("analyst", "analyst-secret", &["--table", "silver.t"]);
    told.names("load", "no_grants", "grant this caller what it lacks");
    as_client("analyst", "analyst-secret", &[]).is_well();
    as_client("analyst", "analyst-secret", &["--write"]).names("write", "read_only", "grant it TABLE_CREATE");
    as_client("engineer", "not-a-secret", &[]).names("token", "bad_secret", "--password-env");
    as_client("nobody", "not-a-secret", &[]).names("token", "bad_secret", "--user");
    polaris.realm(HOME).create_principal(PrincipalSetup { roles: Default::default(), ..PrincipalSetup::named("idle", "") });
    as_client("idle", "idle-secret", &[]).names("list", "no_grants", "an administrator of the catalog");

    let scoped = with(&set, &["catalogs.rest.callers.scope=all-of-it"]);
    let (by_file, named) = (files.write("secret", "engineer-secret\n"), [("MY_OWN", "engineer-secret")]);
    let engineer = ["--user", "engineer-client-id"];
    let from_file = ["--password-file", &by_file];
    check("rest", &scoped, &[engineer, from_file].concat()).names("token", "bad_scope", "catalogs.rest.callers [--set]");
    check("rest", &set, &[engineer, from_file].concat()).is_well();
    check_with("rest", &set, &[engineer, ["--password-env", "MY_OWN"]].concat(), &named).is_well();
    check_with("rest", &set, &[], &[("POLYNYA_USER", "engineer-client-id"), ("POLYNYA_PASSWORD", "engineer-secret")]).is_well();

    is_refused(&check("rest", &set, &engineer), "POLYNYA_PASSWORD");
    is_refused(&check("rest", &set, &[engineer, ["--password-env", "NOT_SET_ANYWHERE"]].concat()), "NOT_SET_ANYWHERE");
    is_refused(&check("rest", &with(&set, &["auth.mode=users"]), &engineer), "auth.mode is users");
    let lake = format!("catalogs.lake.path={}", files.path("lake").display());
    is_refused(&check("lake", &with(&set, &[&lake]), &[engineer, from_file].concat()), "don't log in at catalog `lake`");
    // Whose rights the gateway's own credentials have is not what callers may do.
    let own = with(&set, &[&client("engineer-client-id", "engineer-secret")]);
    let told = check("rest", &own, &[]);
    told.is_well();
    assert_eq!(told.check("config")["status"], "warning", "{}", told.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_may_come_by_token() {
    let (polaris, set) = of_callers("passthrough").await;
    let files = Files::new();
    let token = token_of(&polaris, "engineer").await;
    let by_file = files.write("token", &format!("{token}\n"));
    for told in [
        check("rest", &set, &["--token-file", &by_file, "--write"]),
        check_with("rest", &set, &["--token-env", "MINE"], &[("MINE", &token)]),
        check_with("rest", &set, &[], &[("POLYNYA_TOKEN", &token)]),
        check_with("rest", &with(&set, &["auth.mode=polaris"]), &[], &[("POLYNYA_TOKEN", &token)]),
    ] {
        told.is_well();
        assert_eq!(told.json["login"], "caller by token");
        let shown = told.check("token")["detail"].as_str().expect("a detail");
        assert!(shown.contains("the caller's own is shown, good for"), "{shown}");
        assert_eq!(
            (&told.check("refresh")["status"], &told.check("read")["status"]),
            (&Value::from("skipped"), &Value::from("ok"))
        );
    }
    let analyst = token_of(&polaris, "analyst").await;
    let told = check_with("rest", &set, &["--table", "silver.t"], &[("POLYNYA_TOKEN", &analyst)]);
    told.names("load", "no_grants", "grant this caller");
    let unknown = check_with("rest", &set, &[], &[("POLYNYA_TOKEN", "not-a-secret")]);
    unknown.names("warehouse", "bad_login", "this caller's token");
    // One that says itself that it has expired: {"alg":"none"} and {"exp":1}.
    let lapsed = check_with("rest", &set, &[], &[("POLYNYA_TOKEN", "eyJhbGciOiJub25lIn0.eyJleHAiOjF9.x")]);
    lapsed.names("token", "bad_secret", "--token-env");
    assert!(lapsed.check("token")["detail"].as_str().is_some_and(|detail| detail.contains("1970")), "{}", lapsed.text);
    is_refused(&check("rest", &set, &["--user", "engineer-client-id"]), "by token only");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_each_role_shows_is_looked_at_where_roles_open_catalogs() {
    let (_polaris, set) = filled(Setup::lakehouse()).await;
    let [_, users] = user_ada();
    let shows = |id: &str, secret: &str| format!("{{type: oauth2, client_id: {id}-client-id, client_secret: {secret}}}");
    let roles = format!(
        "roles={{reader: {{catalogs: {{rest: {{credentials: {}, reader_credentials: {}}}}}}}, writer: {{catalogs: {{rest: \
         {{credentials: {}}}}}}}}}",
        shows("engineer", "engineer-secret"),
        shows("analyst", "not-a-secret"),
        shows("engineer", "engineer-secret")
    );
    let mapping = "auth.mappings=[{user: ada, role: writer}]";
    let none = "catalogs.rest.credentials={type: none}";
    let set = with(&set, &["auth.mode=mapped", &users, &roles, mapping, none]);
    let told = check("rest", &set, &[]);
    assert_eq!((told.code, &told.json["ok"]), (1, &Value::Bool(false)), "{}", told.text);
    let ended = told.json["catalogs"].as_array().expect("one for each log-in");
    let ended: Vec<_> = ended.iter().map(|one| (one["login"].as_str().expect("a role"), one["ok"] == true)).collect();
    assert_eq!(ended, [("role reader", true), ("role reader, to read only", false), ("role writer", true)], "{}", told.text);
    assert!(told.text.contains("roles.reader.catalogs.rest.reader_credentials [--set]"), "{}", told.text);
    check("rest", &set, &["--role", "writer", "--write"]).is_well();
    is_refused(&check("rest", &set, &["--write"]), "--role");
}
