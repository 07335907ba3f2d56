//! Owns the answer to "may a client's statement call this function?", from the reviewed list in `functions.txt`. Refuses every name
//! that the list does not have.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::worker::guard::Refusal;

const LIST: &str = include_str!("functions.txt");

/// Which of DuckDB's functions of one name is meant; the same name may be several things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::worker::guard) enum Kind {
    /// Scalar functions and scalar macros.
    Scalar,
    /// Aggregates, which serve as window functions too.
    Aggregate,
    /// Functions that stand in FROM, and table macros.
    Table,
    /// Pragmas; no query can call one.
    Pragma,
    /// Names that DuckDB's parser writes for syntax.
    Syntax,
}

/// What the list says of one function: `None` is allowed, `Some` the reason why not.
type Ruling = Option<&'static str>;

/// Where a call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker::guard) enum Place {
    /// Among expressions.
    Expression,
    /// With an OVER clause.
    Window,
    /// In FROM.
    Table,
}

/// Refuses a call unless the list allows every function that DuckDB could take the name for at this place.
pub(in crate::worker::guard) fn judge(name: &str, place: Place) -> Result<(), Refusal> {
    let name = name.to_lowercase();
    let kinds: &[Kind] = match place {
        Place::Expression => &[Kind::Scalar, Kind::Aggregate, Kind::Syntax],
        Place::Window => &[Kind::Aggregate],
        Place::Table => &[Kind::Table],
    };
    let mut known = false;
    for kind in kinds {
        match list().get(&(*kind, name.as_str())) {
            Some(Some(reason)) => return Err(Refusal::Refused(format!("the function {name} is not allowed: it {reason}"))),
            Some(None) => known = true,
            None => {}
        }
    }
    if known {
        return Ok(());
    }
    // Refused under another kind: its reason says more than "unknown".
    let elsewhere = [Kind::Scalar, Kind::Table, Kind::Pragma]
        .into_iter()
        .find_map(|kind| list().get(&(kind, name.as_str())).copied().flatten());
    Err(match elsewhere {
        Some(reason) => Refusal::Refused(format!("the function {name} is not allowed: it {reason}")),
        None if name.contains('`') => Refusal::Syntax("backticks quote nothing here: names stand in double quotes".to_owned()),
        None => Refusal::Refused(format!("there is no function {name} that a statement may call here")),
    })
}

/// Every line of the list.
pub(in crate::worker::guard) fn list() -> &'static HashMap<(Kind, &'static str), Ruling> {
    static PARSED: OnceLock<HashMap<(Kind, &'static str), Ruling>> = OnceLock::new();
    PARSED.get_or_init(|| {
        let mut rulings = HashMap::new();
        let mut heading: Option<(Kind, Ruling)> = None;
        for line in LIST.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(text) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                heading = parse_heading(text);
            } else if let Some((kind, ruling)) = heading {
                // The stricter ruling stays when a name is written twice.
                let entry = rulings.entry((kind, line)).or_insert(ruling);
                *entry = entry.or(ruling);
            }
        }
        rulings
    })
}

/// A heading that cannot be read gives `None`, and everything under it stays refused.
fn parse_heading(text: &'static str) -> Option<(Kind, Ruling)> {
    let (verdict, reason) = match text.split_once(": ") {
        Some((verdict, reason)) => (verdict, Some(reason)),
        None => (text, None),
    };
    let (word, kind) = verdict.split_once('-')?;
    let kind = match kind {
        "scalar" => Kind::Scalar,
        "aggregate" => Kind::Aggregate,
        "table" => Kind::Table,
        "pragma" => Kind::Pragma,
        "syntax" => Kind::Syntax,
        _ => return None,
    };
    match (word, reason) {
        ("allowed", None) => Some((kind, None)),
        ("refused", Some(reason)) => Some((kind, Some(reason))),
        _ => None,
    }
}
