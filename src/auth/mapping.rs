//! Owns which role a caller is given: the lines of `auth.mappings`, of which the first that fits counts. Refuses to prove anybody, and to
//! know what a role opens.
//!
//! A user name, a claim and a certificate are never taken for one another: `user` looks at log-ins by password only, so that nobody
//! becomes the user `ada` by a token whose subject is `ada`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::certificate::PeerCertificate;
use super::config::{Config, MappingConfig, Mode};
use crate::names::RoleName;

/// What stands for the realm's own tokens in place of an issuer; no issuer can be named so, as each is a URL.
const REALM: &str = "realm";

/// What is known of a caller once it is proven.
#[derive(Clone, Copy, Debug)]
pub(super) enum Facts<'a> {
    /// It logged in by user name, or client id, and password.
    User(&'a str),
    /// It has shown a token.
    Token {
        /// Whose it is; `None` for one of the realm's own.
        issuer: Option<&'a str>,
        /// What it says; nothing for one that cannot be read.
        claims: &'a Map<String, Value>,
    },
    /// It has shown nothing but the certificate of its connection.
    Certificate(&'a PeerCertificate),
}

/// Why the mappings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// Not exactly one condition.
    #[error("number {0} must have exactly one of user, claim (with value), certificate and any: true")]
    Condition(usize),
    /// A claim of one issuer would be taken for that of another.
    #[error(
        "number {number} (role `{role}`) must say with `issuer` whose tokens it means, as tokens of more than one kind are taken: {kinds}"
    )]
    WhichIssuer {
        /// Counted from 1.
        number: usize,
        /// What it would give.
        role: RoleName,
        /// What could be meant.
        kinds: String,
    },
    /// An earlier one takes everybody whom it would fit.
    #[error("number {later} (role `{role}`) is never reached: number {earlier} fits everybody whom it fits")]
    Covered {
        /// Counted from 1.
        earlier: usize,
        /// Counted from 1.
        later: usize,
        /// What it would give.
        role: RoleName,
    },
    /// Nobody can come this way.
    #[error("number {number} (role `{role}`) is never reached: {reason}")]
    Unreachable {
        /// Counted from 1.
        number: usize,
        /// What it would give.
        role: RoleName,
        /// Why not.
        reason: String,
    },
    /// The role is not there.
    #[error("number {number} gives role `{role}`, which is not in `roles`; there are: {known}")]
    NoSuchRole {
        /// Counted from 1.
        number: usize,
        /// As configured.
        role: RoleName,
        /// Those that there are.
        known: String,
    },
}

/// All mappings, in order.
#[derive(Debug)]
pub(super) struct Mappings(Vec<Mapping>);

#[derive(Debug)]
struct Mapping {
    condition: Condition,
    role: RoleName,
}

#[derive(Debug)]
enum Condition {
    User(String),
    Claim { issuer: Whose, path: String, value: Pattern },
    Certificate(String),
    Any,
}

/// Whose tokens a claim is looked up in. What one issuer calls a group, anybody may be able to call himself at another.
#[derive(Debug, PartialEq, Eq)]
enum Whose {
    /// Only one kind of token is taken.
    Anyones,
    Realms,
    Issuers(String),
}

/// A text, or all texts with a beginning.
#[derive(Debug)]
enum Pattern {
    Is(String),
    BeginsWith(String),
}

impl Mappings {
    /// Fails when one has no clear condition or can never fit.
    pub(super) fn new(config: &Config) -> Result<Self, MappingError> {
        let mut mappings: Vec<Mapping> = Vec::new();
        for (number, line) in (1..).zip(&config.mappings) {
            let mapping = Mapping { condition: condition(number, line)?, role: line.role.clone() };
            if let Some(kinds) = mapping.condition.is_unclear(config) {
                return Err(MappingError::WhichIssuer { number, role: mapping.role, kinds });
            }
            if let Some(reason) = mapping.condition.never_met(config) {
                return Err(MappingError::Unreachable { number, role: mapping.role, reason });
            }
            if let Some(at) = mappings.iter().position(|earlier| earlier.condition.covers(&mapping.condition)) {
                return Err(MappingError::Covered { earlier: at + 1, later: number, role: mapping.role });
            }
            mappings.push(mapping);
        }
        Ok(Self(mappings))
    }

    /// Names the first role that is not among `roles`.
    pub(super) fn check_roles(&self, roles: &BTreeSet<RoleName>) -> Result<(), MappingError> {
        let Some(at) = self.0.iter().position(|mapping| !roles.contains(&mapping.role)) else { return Ok(()) };
        let known = roles.iter().map(RoleName::as_str).collect::<Vec<_>>().join(", ");
        Err(MappingError::NoSuchRole { number: at + 1, role: self.0[at].role.clone(), known })
    }

    /// The role of the first one that fits.
    pub(super) fn role(&self, facts: &Facts<'_>) -> Option<&RoleName> {
        self.0.iter().find(|mapping| mapping.condition.fits(facts)).map(|mapping| &mapping.role)
    }
}

fn condition(number: usize, line: &MappingConfig) -> Result<Condition, MappingError> {
    let MappingConfig { user, claim, value, issuer, certificate, any, role: _ } = line;
    let of_claims_only = value.is_some() || issuer.is_some();
    match (user, claim, certificate, any) {
        (Some(user), None, None, false) if !of_claims_only => Ok(Condition::User(user.clone())),
        (None, Some(path), None, false) => {
            let value = Pattern::new(value.as_ref().ok_or(MappingError::Condition(number))?);
            let issuer = match issuer.as_deref() {
                None => Whose::Anyones,
                Some(REALM) => Whose::Realms,
                Some(issuer) => Whose::Issuers(issuer.to_owned()),
            };
            Ok(Condition::Claim { issuer, path: path.clone(), value })
        }
        (None, None, Some(name), false) if !of_claims_only => Ok(Condition::Certificate(without_spaces(name))),
        (None, None, None, true) if !of_claims_only => Ok(Condition::Any),
        _ => Err(MappingError::Condition(number)),
    }
}

impl Condition {
    fn fits(&self, facts: &Facts<'_>) -> bool {
        match (self, facts) {
            (Self::Any, _) => true,
            (Self::User(name), Facts::User(user)) => name == user,
            (Self::Claim { issuer, path, value }, Facts::Token { issuer: of, claims }) => {
                issuer.is(*of) && claim(claims, path).is_some_and(|v| value.fits(v))
            }
            (Self::Certificate(name), Facts::Certificate(certificate)) => {
                *name == certificate.subject || certificate.names.contains(name)
            }
            (Self::User(_) | Self::Claim { .. } | Self::Certificate(_), _) => false,
        }
    }

    /// Whether it fits everybody whom `later` fits.
    fn covers(&self, later: &Self) -> bool {
        match (self, later) {
            (Self::Any, _) => true,
            (Self::User(a), Self::User(b)) | (Self::Certificate(a), Self::Certificate(b)) => a == b,
            (Self::Claim { issuer: i, path: p, value: v }, Self::Claim { issuer, path, value }) => {
                (*i == Whose::Anyones || i == issuer) && p == path && v.covers(value)
            }
            _ => false,
        }
    }

    /// Whose tokens it could mean, when it does not say.
    fn is_unclear(&self, config: &Config) -> Option<String> {
        let kinds = config.issuers.iter().map(|known| known.issuer.as_str());
        let kinds: Vec<_> = kinds.chain(config.mode.shows_callers().then_some(REALM)).collect();
        let unclear = matches!(self, Self::Claim { issuer: Whose::Anyones, .. }) && kinds.len() > 1;
        unclear.then(|| kinds.join(", "))
    }

    /// Why nobody can come this way with this config.
    fn never_met(&self, config: &Config) -> Option<String> {
        let mode = config.mode;
        match self {
            Self::User(name) => match mode {
                Mode::Passthrough => Some("auth.mode: passthrough takes tokens only; map a claim, such as sub".to_owned()),
                Mode::Mapped if !config.users.iter().any(|user| user.name == *name) => {
                    Some(format!("`{name}` is not in auth.users; to map the subject of a token, map the claim sub"))
                }
                _ => None,
            },
            Self::Claim { .. } if mode == Mode::Mapped && config.issuers.is_empty() => {
                Some("auth.issuers is empty, so no token is taken".to_owned())
            }
            Self::Claim { issuer: Whose::Issuers(issuer), .. } if !config.issuers.iter().any(|known| known.issuer == *issuer) => {
                Some(format!("`{issuer}` is not in auth.issuers"))
            }
            Self::Claim { issuer: Whose::Realms, .. } if !mode.shows_callers() => {
                Some(format!("auth.mode: {} takes no tokens of a realm", mode.as_str()))
            }
            Self::Certificate(_) if mode != Mode::Mapped => {
                Some(format!("auth.mode: {} asks for more than a certificate; only mapped takes one alone", mode.as_str()))
            }
            Self::Claim { .. } | Self::Certificate(_) | Self::Any => None,
        }
    }
}

impl Whose {
    fn is(&self, issuer: Option<&str>) -> bool {
        match self {
            Self::Anyones => true,
            Self::Realms => issuer.is_none(),
            Self::Issuers(own) => issuer == Some(own),
        }
    }
}

impl Pattern {
    fn new(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(beginning) => Self::BeginsWith(beginning.to_owned()),
            None => Self::Is(text.to_owned()),
        }
    }

    /// A list fits when one of its items does.
    fn fits(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.fits_text(text),
            Value::Array(items) => items.iter().any(|item| !item.is_array() && self.fits(item)),
            Value::Bool(_) | Value::Number(_) => self.fits_text(&value.to_string()),
            Value::Null | Value::Object(_) => false,
        }
    }

    fn fits_text(&self, text: &str) -> bool {
        match self {
            Self::Is(expected) => text == expected,
            Self::BeginsWith(beginning) => text.starts_with(beginning),
        }
    }

    fn covers(&self, later: &Self) -> bool {
        match (self, later) {
            (Self::BeginsWith(a), Self::Is(b) | Self::BeginsWith(b)) => b.starts_with(a),
            (Self::Is(a), Self::Is(b)) => a == b,
            (Self::Is(_), Self::BeginsWith(_)) => false,
        }
    }
}

/// A claim by its name, or by a path through nested ones. A name may hold dots itself, as addresses do, so the longest name counts first.
fn claim<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    path.rmatch_indices('.').find_map(|(at, _)| claim(claims.get(&path[..at])?.as_object()?, &path[at + 1..]))
}

/// Subjects are written with and without spaces behind their commas. A space that belongs to a value stands behind a backslash.
fn without_spaces(subject: &str) -> String {
    let mut text = String::with_capacity(subject.len());
    let (mut escaped, mut behind_comma) = (false, false);
    for c in subject.trim().chars() {
        if c == ' ' && behind_comma {
            continue;
        }
        text.push(c);
        behind_comma = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::json;

    use super::*;
    use crate::auth::config::{IssuerConfig, User};
    use crate::secret::SecretRef;

    fn config(mode: Mode, lines: Value) -> Config {
        let user = User { name: "ada".to_owned(), password_hash: SecretRef::Text("x".into()) };
        let issuer = IssuerConfig { issuer: "https://a".to_owned(), ..IssuerConfig::default() };
        let mappings = serde_json::from_value(lines).unwrap();
        Config { mode, users: vec![user], issuers: vec![issuer], mappings, ..Config::default() }
    }

    fn mapped(lines: Value) -> Result<Mappings, MappingError> {
        Mappings::new(&config(Mode::Mapped, lines))
    }

    fn role<'a>(mappings: &'a Mappings, facts: &Facts<'_>) -> Option<&'a str> {
        mappings.role(facts).map(RoleName::as_str)
    }

    #[test]
    fn the_first_mapping_that_fits_gives_the_role() {
        let mappings = mapped(json!([
            { "user": "ada", "role": "one" },
            { "claim": "groups", "value": "data-*", "role": "two" },
            { "claim": "realm_access.roles", "value": "boss", "role": "three" },
            { "claim": "https://example.com/team", "value": "red", "issuer": "https://a", "role": "four" },
            { "certificate": "CN=etl, O=Example", "role": "five" },
            { "certificate": "DNS:etl.example.com", "role": "six" },
        ]))
        .unwrap();
        let token = |claims: Value| {
            let claims = claims.as_object().unwrap().clone();
            role(&mappings, &Facts::Token { issuer: Some("https://a"), claims: &claims }).map(str::to_owned)
        };
        assert_eq!(role(&mappings, &Facts::User("ada")), Some("one"));
        assert_eq!(role(&mappings, &Facts::User("adam")), None);
        assert_eq!(token(json!({ "sub": "ada", "user": "ada" })), None, "a token is no user");
        assert_eq!(token(json!({ "groups": ["x", "data-engineers"] })).as_deref(), Some("two"));
        assert_eq!(token(json!({ "groups": "data-" })).as_deref(), Some("two"));
        assert_eq!(token(json!({ "groups": ["dat"], "realm_access": { "roles": ["boss"] } })).as_deref(), Some("three"));
        assert_eq!(token(json!({ "https://example.com/team": "red" })).as_deref(), Some("four"));
        for none in
            [json!({}), json!({ "groups": { "data-x": 1 } }), json!({ "groups": [["data-x"]] }), json!({ "roles": "boss" })]
        {
            assert_eq!(token(none.clone()), None, "{none}");
        }
        let elsewhere = json!({ "https://example.com/team": "red" });
        let facts = Facts::Token { issuer: Some("https://b"), claims: elsewhere.as_object().unwrap() };
        assert_eq!(role(&mappings, &facts), None, "another issuer's claim of the same name");
    }

    #[test]
    fn a_certificate_fits_by_subject_or_by_a_name_with_its_kind() {
        let mappings = mapped(json!([
            { "certificate": "CN=etl, O=Example\\, Inc", "role": "five" },
            { "certificate": "DNS:etl.example.com", "role": "six" },
        ]))
        .unwrap();
        let with = |subject: &str, names: &[&str]| {
            let certificate = PeerCertificate {
                subject: subject.to_owned(),
                names: names.iter().map(|name| (*name).to_owned()).collect(),
                fingerprint: String::new(),
                not_after: SystemTime::UNIX_EPOCH,
            };
            role(&mappings, &Facts::Certificate(&certificate)).map(str::to_owned)
        };
        assert_eq!(with("CN=etl,O=Example\\, Inc", &[]).as_deref(), Some("five"));
        assert_eq!(with("", &["DNS:etl.example.com"]).as_deref(), Some("six"));
        assert_eq!(with("CN=etl", &["email:etl.example.com"]), None);
    }

    #[test]
    fn what_can_never_fit_is_an_error_that_says_why() {
        let error = |lines: Value| mapped(lines).unwrap_err().to_string();
        let any = json!({ "any": true, "role": "r" });
        assert!(error(json!([any, { "user": "ada", "role": "q" }])).contains("number 2 (role `q`) is never reached: number 1"));
        let broad = json!({ "claim": "groups", "value": "a*", "role": "r" });
        assert!(error(json!([broad, { "claim": "groups", "value": "ab*", "role": "q" }])).contains("number 1 fits everybody"));
        assert!(mapped(json!([{ "claim": "groups", "value": "ab", "role": "q" }, broad])).is_ok());
        assert!(error(json!([{ "user": "bob", "role": "r" }])).contains("`bob` is not in auth.users"));
        assert!(
            error(json!([{ "claim": "g", "value": "x", "issuer": "https://b", "role": "r" }])).contains("not in auth.issuers")
        );
        for unclear in [
            json!({ "role": "r" }),
            json!({ "user": "ada", "any": true, "role": "r" }),
            json!({ "claim": "groups", "role": "r" }),
            json!({ "user": "ada", "value": "x", "role": "r" }),
        ] {
            assert_eq!(mapped(json!([unclear])).unwrap_err(), MappingError::Condition(1));
        }
        let passthrough = Mappings::new(&config(Mode::Passthrough, json!([{ "user": "ada", "role": "r" }])));
        assert!(passthrough.unwrap_err().to_string().contains("tokens only"));
        let polaris = Mappings::new(&config(Mode::Polaris, json!([{ "certificate": "CN=x", "role": "r" }])));
        assert!(polaris.unwrap_err().to_string().contains("only mapped takes one alone"));
    }

    #[test]
    fn a_claim_counts_for_the_issuer_that_it_is_meant_of() {
        let line = |issuer: Option<&str>| json!([{ "claim": "groups", "value": "x", "issuer": issuer, "role": "r" }]);
        let of = |issuer: &str| IssuerConfig { issuer: issuer.to_owned(), ..IssuerConfig::default() };
        let two = Config { issuers: vec![of("https://a"), of("https://b")], ..config(Mode::Mapped, line(None)) };
        let error = Mappings::new(&two).unwrap_err().to_string();
        assert!(
            error.contains("number 1 (role `r`) must say with `issuer`") && error.ends_with("https://a, https://b"),
            "{error}"
        );
        for mode in [Mode::Polaris, Mode::Passthrough] {
            let error = Mappings::new(&config(mode, line(None))).unwrap_err().to_string();
            assert!(error.ends_with("https://a, realm"), "{error}");
            assert!(Mappings::new(&Config { issuers: Vec::new(), ..config(mode, line(None)) }).is_ok());
            let claims = json!({ "groups": "x" });
            let token = |issuer| Facts::Token { issuer, claims: claims.as_object().unwrap() };
            for (line, expected) in [(line(Some("realm")), [Some("r"), None]), (line(Some("https://a")), [None, Some("r")])] {
                let mappings = Mappings::new(&config(mode, line)).unwrap();
                assert_eq!([role(&mappings, &token(None)), role(&mappings, &token(Some("https://a")))], expected);
            }
        }
        assert!(mapped(line(Some("realm"))).unwrap_err().to_string().contains("mapped takes no tokens of a realm"));
    }

    #[test]
    fn a_role_that_is_not_there_is_named() {
        let mappings = mapped(json!([{ "user": "ada", "role": "analist" }])).unwrap();
        let error = mappings.check_roles(&BTreeSet::from(["analyst".into()])).unwrap_err().to_string();
        assert_eq!(error, "number 1 gives role `analist`, which is not in `roles`; there are: analyst");
        mappings.check_roles(&BTreeSet::from(["analist".into()])).unwrap();
    }
}
