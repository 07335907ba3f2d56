//! Owns how large the schema of a table may be. The library that reads it holds each field's whole path several times, so that one long
//! name over many fields takes gigabytes, and copies what lies below each level. Refuses to know what a schema means.

use serde_json::Value;

use super::LakeError;

/// How deep types may lie in each other.
pub(super) const MAX_DEPTH: usize = 64;

/// Bytes of the paths of all fields.
pub(super) const MAX_PATHS: usize = 16 << 20;

/// What there is too much of in a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Excess {
    #[error("types lie more than {MAX_DEPTH} levels deep in each other")]
    Depth,
    #[error(
        "the names of all fields, each behind those that it lies in, have more than {} MB: take shorter names",
        MAX_PATHS >> 20
    )]
    Names,
}

impl From<Excess> for LakeError {
    fn from(excess: Excess) -> Self {
        Self::Invalid(excess.to_string())
    }
}

/// # Errors
/// When types lie too deep in each other, or the names of fields take too much together.
pub(super) fn check_schema(schema: &Value) -> Result<(), Excess> {
    let mut paths = 0;
    walk(schema, 0, 0, &mut paths)
}

/// The part of a schema below a path of so many bytes.
fn walk(part: &Value, path: usize, depth: usize, paths: &mut usize) -> Result<(), Excess> {
    if depth > MAX_DEPTH {
        return Err(Excess::Depth);
    }
    let fields = part["fields"].as_array().map_or(&[][..], Vec::as_slice);
    let named = fields.iter().map(|field| (field["name"].as_str().unwrap_or_default(), &field["type"]));
    let inner = ["element", "key", "value"].map(|name| (name, &part[name]));
    for (name, below) in named.chain(inner).filter(|(_, below)| !below.is_null()) {
        let path = path + name.len() + 1;
        *paths += path;
        if *paths > MAX_PATHS {
            return Err(Excess::Names);
        }
        walk(below, path, depth + 1, paths)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn structure(fields: impl IntoIterator<Item = (String, Value)>) -> Value {
        let fields = fields.into_iter().map(|(name, of)| json!({ "id": 1, "name": name, "required": false, "type": of }));
        json!({ "type": "struct", "fields": fields.collect::<Vec<_>>() })
    }

    #[test]
    fn schemas_of_tables_pass_and_those_that_multiply_are_refused() {
        let wide = structure((0..20_000).map(|number| (format!("column_{number}"), json!("int"))));
        assert!(check_schema(&wide).is_ok());
        let fields = structure((0..100).map(|number| (format!("f{number}"), json!("int"))));
        assert!(check_schema(&structure([("s".repeat(1000), fields.clone())])).is_ok());
        let told = |schema: Value| check_schema(&schema).map_err(|error| error.to_string()).unwrap_err();
        assert!(told(structure([("s".repeat(200_000), fields)])).contains("take shorter names"));
        let list = |inner: Value| json!({ "type": "list", "element-id": 1, "element": inner, "element-required": false });
        let nested = |levels: usize| structure([("l".to_owned(), (0..levels).fold(json!("int"), |inner, _| list(inner)))]);
        assert!(check_schema(&nested(MAX_DEPTH - 1)).is_ok());
        assert!(told(nested(MAX_DEPTH)).contains("levels deep"));
    }
}
