//! `polynya check-config`: what the config comes to, or what is wrong with it.

use std::process::ExitCode;

use crate::config::{self, Sources};
use crate::gateway;

/// Prints the effective config as YAML, secrets redacted, and warnings to standard error.
///
/// # Errors
/// When the config is wrong.
pub fn run(sources: &Sources) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let tree = config::merged(sources, std::env::vars())?;
    let config = config::load(tree.clone())?;
    for warning in gateway::check(&config)? {
        eprintln!("warning: {warning}");
    }
    print!("{}", config::redacted(&tree)?);
    Ok(ExitCode::SUCCESS)
}
