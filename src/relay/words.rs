//! Owns the words of catalogs: what an answer says, and what Polaris' refusals mean to a user. Refuses to pass on what was sent in
//! secret.

use reqwest::StatusCode;
use serde_json::Value;
use url::Url;

use crate::names::{Namespace, TableRef};
use crate::secret::{ExposeSecret, SecretString};

/// How much of a catalog's message is passed on.
const MAX_MESSAGE: usize = 1000;

/// A shorter secret would blank out half of a text.
const SHORTEST_SECRET: usize = 4;

/// The message of an answer, whichever of the two usual shapes it comes in.
pub(super) fn said(status: StatusCode, body: &[u8]) -> String {
    said_without(status, body, &[])
}

/// The same without secrets. A part of one, left by the cut, would not be found any more.
pub(super) fn said_without(status: StatusCode, body: &[u8], secrets: &[&SecretString]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let iceberg = body["error"]["message"].as_str();
    let oauth = body["error_description"].as_str().or_else(|| body["error"].as_str());
    match iceberg.or(oauth).filter(|text| !text.is_empty()) {
        Some(text) => without(text, secrets).chars().take(MAX_MESSAGE).collect(),
        None => unsaid(status),
    }
}

/// A status with what was said.
pub(super) fn described(status: StatusCode, said: &str) -> String {
    let unsaid = unsaid(status);
    if said == unsaid { unsaid } else { format!("{unsaid}: {said}") }
}

fn unsaid(status: StatusCode) -> String {
    format!("status {}", status.as_u16())
}

/// A text without secrets that may have come back in it.
pub(super) fn without(text: &str, secrets: &[&SecretString]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().map(|secret| secret.expose_secret()).filter(|secret| secret.len() >= SHORTEST_SECRET) {
        let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        for form in [secret, encoded.as_str()] {
            if text.contains(form) {
                text = text.replace(form, "[hidden]");
            }
        }
    }
    text
}

/// The last cause, without the address that the outer ones repeat.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Host and port of an address.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// What was asked of a catalog, for its refusals.
#[derive(Clone, Copy)]
pub(super) enum About<'a> {
    Catalog,
    Namespace(&'a Namespace),
    Table(&'a TableRef),
}

impl About<'_> {
    /// `on table "gold.t"`.
    fn place(self) -> String {
        match self {
            Self::Catalog => String::new(),
            Self::Namespace(namespace) => format!(" on schema \"{namespace}\""),
            Self::Table(table) => format!(" on table \"{}.{}\"", table.namespace, table.table),
        }
    }
}

/// A refusal in the user's terms: who it was, what it lacks and where, and who can help. Where the catalog does not speak as Polaris
/// does, its own words with the place.
pub(super) fn denial(said: &str, about: About<'_>) -> String {
    let place = about.place();
    match Denied::read(said) {
        Some(denied) => {
            let lacks = match needed(denied.operation) {
                Some(privileges) => format!("lacks {privileges}{place}"),
                None => format!("may not do {}{place}", denied.operation),
            };
            let roles = if denied.roles.is_empty() { "none".to_owned() } else { denied.roles };
            let mut text = format!("principal \"{}\" {lacks} (principal roles: {roles}", denied.principal);
            if !denied.grants.is_empty() {
                text.push_str("; grants by way of: ");
                text.push_str(&denied.grants);
            }
            text.push_str("); an administrator of the catalog can grant it");
            text
        }
        None if place.is_empty() => format!("{said}; an administrator of the catalog can help"),
        None => format!("{said} ({}); an administrator of the catalog can help", place.trim_start()),
    }
}

/// What Polaris says when it refuses.
struct Denied<'a> {
    principal: &'a str,
    roles: String,
    grants: String,
    operation: &'a str,
}

impl<'a> Denied<'a> {
    fn read(said: &'a str) -> Option<Self> {
        let (principal, rest) = said.strip_prefix("Principal '")?.split_once("' with activated PrincipalRoles '[")?;
        let (roles, rest) = rest.split_once("]' and activated grants via '[")?;
        let (grants, operation) = rest.split_once("]' is not authorized for op ")?;
        let operation = operation.trim_end_matches('.');
        let is_name = !operation.is_empty() && operation.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        is_name.then(|| Self { principal, roles: roles.to_owned(), grants: grants.to_owned(), operation })
    }
}

/// The privileges that an operation of Polaris needs, as they are granted.
fn needed(operation: &str) -> Option<String> {
    let privileges = match operation {
        "LIST_NAMESPACES" | "NAMESPACE_EXISTS" => "NAMESPACE_LIST",
        "CREATE_NAMESPACE" => "NAMESPACE_CREATE",
        "LOAD_NAMESPACE_METADATA" => "NAMESPACE_READ_PROPERTIES",
        "DROP_NAMESPACE" => "NAMESPACE_DROP",
        "UPDATE_NAMESPACE_PROPERTIES" => "NAMESPACE_WRITE_PROPERTIES",
        "LIST_TABLES" | "TABLE_EXISTS" => "TABLE_LIST",
        "CREATE_TABLE_DIRECT" | "CREATE_TABLE_STAGED" | "REGISTER_TABLE" | "UPDATE_TABLE_FOR_STAGED_CREATE" => "TABLE_CREATE",
        "CREATE_TABLE_DIRECT_WITH_WRITE_DELEGATION" | "CREATE_TABLE_STAGED_WITH_WRITE_DELEGATION" => {
            "TABLE_CREATE or TABLE_WRITE_DATA"
        }
        "LOAD_TABLE" => "TABLE_READ_PROPERTIES",
        "LOAD_TABLE_WITH_READ_DELEGATION" => "TABLE_READ_DATA",
        "LOAD_TABLE_WITH_WRITE_DELEGATION" => "TABLE_WRITE_DATA",
        "UPDATE_TABLE" => "TABLE_WRITE_PROPERTIES",
        "DROP_TABLE_WITHOUT_PURGE" => "TABLE_DROP",
        "DROP_TABLE_WITH_PURGE" => "TABLE_DROP or TABLE_WRITE_DATA",
        "RENAME_TABLE" => "TABLE_DROP here, or TABLE_LIST or TABLE_CREATE where the new name lies",
        "COMMIT_TRANSACTION" => "TABLE_WRITE_PROPERTIES or TABLE_CREATE",
        // Single changes of a table: SET_TABLE_PROPERTIES needs TABLE_SET_PROPERTIES.
        other => {
            let (verb, what) = other.split_once("_TABLE_")?;
            let single = ["ADD", "ASSIGN", "REMOVE", "SET", "UPGRADE"].contains(&verb);
            return single.then(|| format!("TABLE_{verb}_{what}"));
        }
    };
    Some(privileges.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn polaris(operation: &str) -> String {
        format!(
            "Principal 'analyst' with activated PrincipalRoles '[analysts]' and activated grants via '[analysts, gold_reader]' is not \
             authorized for op {operation}"
        )
    }

    #[test]
    fn what_polaris_refuses_says_who_lacks_what_and_who_can_help() {
        let table = TableRef { catalog: "lake".into(), namespace: Namespace::from_schema("silver"), table: "rec_s".to_owned() };
        let told = denial(&polaris("LOAD_TABLE_WITH_READ_DELEGATION"), About::Table(&table));
        assert_eq!(
            told,
            "principal \"analyst\" lacks TABLE_READ_DATA on table \"silver.rec_s\" (principal roles: analysts; grants by way of: \
             analysts, gold_reader); an administrator of the catalog can grant it"
        );
        let told = denial(&polaris("SET_TABLE_PROPERTIES"), About::Table(&table));
        assert!(told.starts_with("principal \"analyst\" lacks TABLE_SET_PROPERTIES on table"), "{told}");
        let silver = Namespace::from_schema("silver");
        let told = denial(&polaris("LIST_TABLES"), About::Namespace(&silver));
        assert!(told.starts_with("principal \"analyst\" lacks TABLE_LIST on schema \"silver\" ("), "{told}");
        let told = denial(&polaris("FLY_TO_MOON"), About::Catalog);
        assert!(told.starts_with("principal \"analyst\" may not do FLY_TO_MOON (principal roles:"), "{told}");
        let none =
            "Principal 'x' with activated PrincipalRoles '[]' and activated grants via '[]' is not authorized for op LOAD_TABLE";
        let told = denial(none, About::Catalog);
        assert!(told.contains("(principal roles: none); an administrator"), "{told}");
    }

    #[test]
    fn what_other_catalogs_refuse_keeps_their_words() {
        let gold = Namespace::from_schema("gold");
        for said in ["no", "Principal 'a' is not allowed", "Principal 'a' with activated PrincipalRoles '[x'"] {
            let told = denial(said, About::Namespace(&gold));
            assert_eq!(told, format!("{said} (on schema \"gold\"); an administrator of the catalog can help"));
        }
    }

    #[test]
    fn a_secret_that_comes_back_is_hidden_however_it_is_spelled() {
        let secret = SecretString::from("s3cret&more");
        let text = without("you sent s3cret&more, or s3cret%26more", &[&secret]);
        assert_eq!(text, "you sent [hidden], or [hidden]");
    }

    #[test]
    fn a_secret_longer_than_a_message_is_hidden_before_the_cut() {
        let secret = SecretString::from(format!("planted.{}", "x".repeat(2 * MAX_MESSAGE)).as_str());
        let body =
            serde_json::json!({ "error": "invalid_token", "error_description": format!("no good: {}", secret.expose_secret()) });
        let told = said_without(StatusCode::BAD_REQUEST, body.to_string().as_bytes(), &[&secret]);
        assert_eq!(told, "no good: [hidden]");
    }
}
