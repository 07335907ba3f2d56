//! Owns the question whether a storage location belongs to a catalog. Refuses to touch storage.

use percent_encoding::percent_decode_str;

/// What a catalog without configured locations may use: object stores, never local files.
const OBJECT_STORES: [&str; 9] = ["s3://", "s3a://", "s3n://", "gs://", "gcs://", "r2://", "abfss://", "abfs://", "azure://"];

/// How often a location may be percent-encoded over itself before it is refused.
const MAX_ENCODINGS: usize = 4;

/// The locations of one catalog.
#[derive(Clone, Debug)]
pub(super) struct Confinement {
    /// As configured.
    prefixes: Vec<String>,
    /// The same, in the one spelling that locations are compared in.
    normal: Vec<String>,
}

impl Confinement {
    /// These prefixes; each is a directory, whether it ends with a slash or not. No prefix means any object store.
    pub(super) fn new(configured: Vec<String>) -> Result<Self, String> {
        let prefixes = if configured.is_empty() { OBJECT_STORES.map(str::to_owned).to_vec() } else { configured };
        let normal = prefixes
            .iter()
            .map(|prefix| normal(prefix).ok_or_else(|| format!("\"{prefix}\" is no storage location such as s3://bucket/path/")))
            .collect::<Result<_, _>>()?;
        Ok(Self { prefixes, normal })
    }

    /// The prefixes as configured.
    pub(super) fn prefixes(&self) -> &[String] {
        &self.prefixes
    }

    /// Whether a location lies in one of the prefixes, both as it is written and with its percent signs decoded.
    pub(super) fn allows(&self, location: &str) -> bool {
        let mut spelling = location.to_owned();
        for _ in 0..MAX_ENCODINGS {
            if !self.holds(&spelling) {
                return false;
            }
            match percent_decode_str(&spelling).decode_utf8() {
                Ok(decoded) if decoded == spelling => return true,
                Ok(decoded) => spelling = decoded.into_owned(),
                Err(_) => return false,
            }
        }
        false
    }

    fn holds(&self, location: &str) -> bool {
        normal(location).is_some_and(|location| self.normal.iter().any(|prefix| is_within(&location, prefix)))
    }
}

/// Whether a location lies in a directory, or is it; both as [`normal`] gives them.
pub(super) fn is_within(location: &str, directory: &str) -> bool {
    let rest = location.strip_prefix(directory);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || directory.ends_with('/'))
}

/// `scheme://authority/path` without `.`, `..` and doubled slashes, with one spelling for schemes that mean the same. `None` for what is no
/// location, climbs above its root, or has a query: DuckDB takes an endpoint from the query of an `s3://` address.
pub(super) fn normal(location: &str) -> Option<String> {
    if location.contains(['?', '\\']) || location.chars().any(char::is_control) {
        return None;
    }
    let (scheme, rest) = if location.starts_with('/') {
        ("file".to_owned(), location)
    } else {
        let (scheme, rest) = location.split_once(':')?;
        (scheme.to_ascii_lowercase(), rest)
    };
    let mut parts: Vec<&str> = Vec::new();
    let (root, path) = if scheme == "file" {
        let path = rest.strip_prefix("//localhost").filter(|path| path.starts_with('/')).unwrap_or(rest);
        let path = path.strip_prefix("//").unwrap_or(path);
        ("file://".to_owned(), path.strip_prefix('/')?)
    } else {
        let rest = rest.strip_prefix("//")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let scheme = match scheme.as_str() {
            "s3a" | "s3n" => "s3",
            "gcs" => "gs",
            other => other,
        };
        if authority.is_empty() {
            return path.is_empty().then(|| format!("{scheme}://"));
        }
        (format!("{scheme}://{authority}"), path)
    };
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    let mut normal = root;
    for part in parts {
        normal.push('/');
        normal.push_str(part);
    }
    Some(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(prefixes: &[&str], location: &str) -> bool {
        Confinement::new(prefixes.iter().map(|prefix| (*prefix).to_owned()).collect()).unwrap().allows(location)
    }

    #[test]
    fn a_location_below_a_prefix_is_allowed() {
        assert!(within(&["s3://lake/gold/"], "s3://lake/gold/t/metadata/x.avro"));
        assert!(within(&["s3://lake/gold"], "s3://lake/gold"));
        assert!(within(&["s3://lake/gold"], "s3a://lake/gold/t"));
        assert!(within(&["s3://lake"], "s3://lake/a b/%C3%A9/t"));
        assert!(within(&["file:///w/"], "file:///w/t"));
        assert!(within(&["file:///w/"], "file:/w/t"));
        assert!(within(&["file:///w/"], "/w/t"));
    }

    #[test]
    fn a_location_beside_or_above_a_prefix_is_refused() {
        for location in [
            "s3://lake/golden/t",
            "s3://lake2/gold/t",
            "s3://lake/gold/../silver/t",
            "s3://lake/gold/%2e%2e/silver/t",
            "s3://lake/gold/%252e%252e/silver/t",
            "s3://lake/gold/..%2Fsilver/t",
            "s3://lake/gold/..\\silver",
            "s3://lake/gold/t?s3_endpoint=elsewhere.example",
            "s3://lake/gold/t%3Fs3_endpoint=elsewhere.example",
            "s3://lake/../../gold/t",
            "file:///etc/passwd",
            "/etc/passwd",
            "gold/t",
            "",
        ] {
            assert!(!within(&["s3://lake/gold/"], location), "{location}");
        }
        assert!(!within(&["file:///w/"], "file:///w/../etc/passwd"));
        assert!(!within(&["file:///w/"], "file://host/w/t"));
    }

    #[test]
    fn without_configured_prefixes_any_object_store_is_allowed_and_no_file() {
        assert!(within(&[], "s3://any/where"));
        assert!(within(&[], "abfss://c@account.dfs.core.windows.net/t"));
        assert!(!within(&[], "file:///w/t"));
        assert!(!within(&[], "/w/t"));
        assert!(!within(&[], "http://169.254.169.254/latest"));
    }
}
