//! Owns how the parts of a JSON Web Token are read and what of them decides about rights. Refuses to believe them: whoever calls knows
//! whether they are verified.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::auth::error::TokenFault;

/// Claims that only say when and in which log-in a token was made, so that they differ between two tokens of the same rights.
const OF_ONE_TOKEN: [&str; 14] =
    ["iat", "exp", "nbf", "jti", "auth_time", "nonce", "at_hash", "c_hash", "s_hash", "sid", "session_state", "aio", "uti", "rh"];

/// The end of the year 9999: some issuers write "never" as a number that no clock can hold.
const NEVER: u64 = 253_402_300_799;

/// What a token says that nobody has verified.
pub(in crate::auth) fn unverified(token: &str) -> Option<Map<String, Value>> {
    part(token, 1)
}

/// A token's header.
pub(super) fn header(token: &str) -> Option<Map<String, Value>> {
    part(token, 0)
}

fn part(token: &str, number: usize) -> Option<Map<String, Value>> {
    let parts: Vec<&str> = token.splitn(4, '.').collect();
    let [_, _, _] = parts[..] else { return None };
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(parts[number]).ok()?).ok()
}

/// A time in seconds since 1970; `None` when the claim is not there.
pub(in crate::auth) fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<SystemTime>, TokenFault> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| seconds.is_finite()).ok_or_else(|| TokenFault::Claim(name.to_owned()))?;
    let since = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX).min(Duration::from_secs(NEVER));
    Ok(Some(SystemTime::UNIX_EPOCH + since))
}

/// A text, or a list of texts.
pub(super) fn texts(value: Option<&Value>) -> Vec<&str> {
    match value {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// Whether a text can name a principal: it stands in the log and in texts.
pub(in crate::auth) fn can_be_a_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 512 && !name.contains(char::is_control)
}

/// Everything in a token that may decide what it opens, in one way of writing.
pub(in crate::auth) fn rights(claims: &Map<String, Value>) -> String {
    let lasting = claims.iter().filter(|(name, _)| !OF_ONE_TOKEN.contains(&name.as_str()));
    let mut text = String::new();
    write_object(&mut text, lasting.map(|(name, value)| (name.as_str(), value)).collect());
    text
}

/// Names in order, whatever order the map keeps.
fn write(text: &mut String, value: &Value) {
    match value {
        Value::Object(map) => write_object(text, map.iter().map(|(name, value)| (name.as_str(), value)).collect()),
        Value::Array(items) => {
            text.push('[');
            for item in items {
                write(text, item);
                text.push(',');
            }
            text.push(']');
        }
        plain => text.push_str(&plain.to_string()),
    }
}

fn write_object(text: &mut String, map: BTreeMap<&str, &Value>) {
    text.push('{');
    for (name, value) in map {
        text.push_str(&Value::from(name).to_string());
        text.push(':');
        write(text, value);
        text.push(',');
    }
    text.push('}');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn rights_are_all_that_a_new_token_of_the_same_log_in_has_too() {
        let first =
            rights(&map(json!({ "sub": "ada", "groups": ["a", "b"], "exp": 1, "iat": 1, "jti": "x", "o": { "b": 1, "a": 2 } })));
        let renewed = rights(&map(json!({ "o": { "a": 2, "b": 1 }, "groups": ["a", "b"], "sub": "ada", "exp": 9, "jti": "y" })));
        assert_eq!(first, renewed);
        for other in [
            json!({ "sub": "ada", "groups": ["a"], "o": { "b": 1, "a": 2 } }),
            json!({ "sub": "ada", "groups": ["a", "b"], "o": { "b": 1, "a": 2, "exp": 1 } }),
            json!({ "sub": "bob", "groups": ["a", "b"], "o": { "b": 1, "a": 2 } }),
        ] {
            assert_ne!(first, rights(&map(other)));
        }
        assert_ne!(rights(&map(json!({ "a": "\",\"b\":\"" }))), rights(&map(json!({ "a": "", "b": "" }))));
    }

    #[test]
    fn times_of_any_size_are_read() {
        let read = |value: Value| time(&map(json!({ "exp": value })), "exp");
        let seconds = |n: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(n);
        assert_eq!(read(json!(10)).unwrap(), Some(seconds(10)));
        assert_eq!(read(json!(10.5)).unwrap(), Some(seconds(10) + Duration::from_millis(500)));
        assert_eq!(read(json!(-5)).unwrap(), Some(seconds(0)));
        assert_eq!(read(json!(1e300)).unwrap(), Some(seconds(NEVER)));
        assert!(read(json!("10")).is_err() && read(json!(null)).is_err());
        assert_eq!(time(&map(json!({})), "exp").unwrap(), None);
    }

    #[test]
    fn only_three_parts_are_a_token() {
        let encoded = BASE64_URL_SAFE_NO_PAD.encode(r#"{"sub":"ada"}"#);
        assert_eq!(unverified(&format!("x.{encoded}.y")).unwrap()["sub"], "ada");
        for wrong in ["", "a.b", &format!("x.{encoded}"), &format!("x.{encoded}.y.z"), "x.%%.y", "x.W10.y"] {
            assert!(unverified(wrong).is_none(), "{wrong}");
        }
    }
}
