//! Owns the worker's one DuckDB instance: its settings, its extensions, what is attached, and the lock-down after that. Refuses to
//! run anything for a client.

use std::path::{Path, PathBuf};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use tracing::debug;

use super::binding::{Connection, EngineError, EngineResult, ErrorKind, Instance, Outcome, feed};
use crate::wire::proto::{Attach, Attached, CatalogAttachment, Init, Mode};

/// Relative directory that DuckDB's Iceberg extension names while it plans a CREATE TABLE AS, before it knows the table's location.
const CTAS_PLACEHOLDER: &str = "data";

/// Opens the instance and loads its extensions.
pub fn open(init: &Init) -> EngineResult<Instance> {
    let spill = Path::new(&init.run_dir).join("spill");
    let spill = spill.to_string_lossy();
    let threads = init.threads.max(1).to_string();
    let memory = format!("{}B", init.memory_limit_bytes);
    let spill_limit = format!("{}B", init.spill_limit_bytes);
    let mut settings = vec![
        ("threads", threads.as_str()),
        ("temp_directory", &spill),
        ("autoinstall_known_extensions", "false"),
        ("autoload_known_extensions", "false"),
        ("allow_community_extensions", "false"),
        // The set-up has checked the files against pinned sums; DuckDB's own check would hash them again for 300 ms.
        ("allow_unsigned_extensions", "true"),
        ("allow_persistent_secrets", "false"),
    ];
    if init.memory_limit_bytes > 0 {
        settings.push(("memory_limit", &memory));
    }
    let instance = Instance::open(&settings)?;
    let connection = instance.connect()?;
    // Given at open it is taken and then not kept to.
    connection.run(&format!("SET GLOBAL max_temp_directory_size = {}", literal(&spill_limit)))?;
    for name in &init.extensions {
        let file = PathBuf::from(&init.extension_dir).join(format!("{name}.duckdb_extension"));
        connection.run(&format!("LOAD {}", literal(&file.to_string_lossy())))?;
        match name.as_str() {
            "icu" => connection.run("SET GLOBAL TimeZone = 'UTC'")?,
            // Without it each scan and each commit opens a new TCP connection.
            "httpfs" => {
                connection.run("SET GLOBAL httpfs_connection_caching = true")?;
                // Else the server, and how to speak to it, can be chosen by what stands behind a question mark in a file's name.
                connection.run("SET GLOBAL s3_url_compatibility_mode = true")?;
            }
            _ => {}
        }
    }
    feed::register(&connection)?;
    debug!(mode = ?Mode::try_from(init.mode).unwrap_or_default(), extensions = ?init.extensions, "instance open");
    Ok(instance)
}

/// Attaches the catalogs and locks the instance down; gives the limits that it keeps to. The order matters: after the last step
/// nothing of it could be changed.
pub fn attach(instance: &Instance, attach: &Attach) -> EngineResult<Attached> {
    let connection = instance.connect()?;
    if attach.memory_limit_bytes > 0 {
        connection.run(&format!("SET GLOBAL memory_limit = {}", literal(&format!("{}B", attach.memory_limit_bytes))))?;
    }
    if attach.threads > 0 {
        connection.run(&format!("SET GLOBAL threads = {}", attach.threads))?;
    }
    for catalog in &attach.catalogs {
        attach_one(&connection, catalog)?;
    }
    if !attach.storage_endpoint.is_empty() {
        open_door(&connection, attach)?;
    }
    let directories: Vec<String> = attach.allowed_locations.iter().flat_map(|location| allowed_forms(location)).collect();
    connection.run(&format!("SET GLOBAL allowed_directories = [{}]", list(&directories)))?;
    connection.run(&format!("SET GLOBAL allowed_paths = [{}]", literal(CTAS_PLACEHOLDER)))?;
    connection.run("SET GLOBAL enable_external_access = false")?;
    connection.run("SET GLOBAL lock_configuration = true")?;
    limits(&connection)
}

/// Sends everything for object stores to the gateway's door. These are the only secrets that the instance ever has; what they show is
/// the worker's own token, and the names of the keys tell the door which kind of location is meant.
fn open_door(connection: &Connection, attach: &Attach) -> EngineResult<()> {
    for (kind, name) in [("s3", "s3"), ("gcs", "gs")] {
        connection.run(&format!(
            "CREATE SECRET {} (TYPE {kind}, KEY_ID '{name}', SECRET 'none', SESSION_TOKEN {}, ENDPOINT {}, URL_STYLE 'path', \
             USE_SSL false, REGION 'us-east-1')",
            identifier(&format!("door_{name}")),
            literal(&attach.storage_token),
            literal(&attach.storage_endpoint),
        ))?;
    }
    // The door holds a part in memory while it sends it.
    connection.run("SET GLOBAL s3_uploader_max_filesize = '100GB'")?;
    // The door has limits of its own, and tries again within them.
    connection.run("SET GLOBAL http_timeout = 300")?;
    connection.run("SET GLOBAL http_retries = 1")
}

/// What DuckDB says of its own limits.
fn limits(connection: &Connection) -> EngineResult<Attached> {
    let unread = || EngineError::new(ErrorKind::Other, "DuckDB does not tell its limits".to_owned());
    let sql = "SELECT current_setting('memory_limit')::VARCHAR, current_setting('threads')::BIGINT";
    let mut statement = connection.prepare(sql)?;
    let Outcome::Rows(mut rows) = statement.complete()? else { return Err(unread()) };
    let batch = rows.next_batch()?.ok_or_else(unread)?;
    let memory_limit = batch.column(0).as_string_opt::<i32>().ok_or_else(unread)?.value(0).to_owned();
    let threads = batch.column(1).as_primitive_opt::<Int64Type>().ok_or_else(unread)?.value(0);
    Ok(Attached { memory_limit, threads: u32::try_from(threads).unwrap_or_default() })
}

fn attach_one(connection: &Connection, catalog: &CatalogAttachment) -> EngineResult<()> {
    // ACCESS_DELEGATION_MODE: credentials handed out with tables would leak into the instance. REMOVE_FILES_ON_DELETE: the extension
    // removes the files of a commit that it takes for failed, although the catalog may have applied it. DEFAULT_SCHEMA: DuckDB takes
    // the name `main` for "the default schema", which is none without this; a namespace of that name could not be written to.
    connection.run(&format!(
        "ATTACH {} AS {} (TYPE iceberg, ENDPOINT {}, TOKEN {}, ACCESS_DELEGATION_MODE 'none', REMOVE_FILES_ON_DELETE false, \
         DEFAULT_SCHEMA 'main')",
        literal(&catalog.name),
        identifier(&catalog.name),
        literal(&catalog.endpoint),
        literal(&catalog.token),
    ))
}

/// Spellings of a scheme that mean the same store: DuckDB reads all of them, with the secrets of the first.
const SPELLINGS: [&[&str]; 2] = [&["s3", "s3a", "s3n"], &["gs", "gcs"]];

/// The forms in which DuckDB may name files below a location, each ending with a slash so that `…/lake` does not allow `…/lake2`.
/// A scheme without a path stays as it is: `s3:/` would be a directory of this machine.
fn allowed_forms(location: &str) -> Vec<String> {
    if let Some(path) = location.strip_prefix("file:") {
        let path = format!("/{}", path.trim_matches('/'));
        let path = format!("{}/", path.trim_end_matches('/'));
        return vec![format!("file://{path}"), path];
    }
    let Some((scheme, rest)) = location.split_once("://") else {
        return vec![format!("{}/", location.trim_end_matches('/'))];
    };
    let rest = rest.trim_end_matches('/');
    let below = if rest.is_empty() { String::new() } else { format!("{rest}/") };
    let scheme = scheme.to_ascii_lowercase();
    let same = SPELLINGS.into_iter().find(|spellings| spellings.contains(&scheme.as_str()));
    same.unwrap_or(&[scheme.as_str()]).iter().map(|scheme| format!("{scheme}://{below}")).collect()
}

fn list(texts: &[String]) -> String {
    texts.iter().map(|text| literal(text)).collect::<Vec<_>>().join(", ")
}

/// A text as SQL literal.
#[must_use]
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name as quoted SQL identifier.
#[must_use]
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::allowed_forms;

    #[test]
    fn a_location_is_allowed_in_all_spellings_that_mean_it() {
        assert_eq!(allowed_forms("s3://"), ["s3://", "s3a://", "s3n://"]);
        assert_eq!(allowed_forms("S3A://lake/gold"), ["s3://lake/gold/", "s3a://lake/gold/", "s3n://lake/gold/"]);
        assert_eq!(allowed_forms("gcs://lake//"), ["gs://lake/", "gcs://lake/"]);
        assert_eq!(allowed_forms("abfss://"), ["abfss://"]);
        assert_eq!(allowed_forms("file:/w/lake/"), ["file:///w/lake/", "/w/lake/"]);
        assert_eq!(allowed_forms("file:///w"), ["file:///w/", "/w/"]);
        assert_eq!(allowed_forms("/w/lake"), ["/w/lake/"]);
    }
}
