//! `polynya check-config`: what the config comes to, or what is wrong with it.

use super::ConfigArgs;
use super::error::CliError;
use crate::{config, gateway};

/// Prints the effective config as YAML, secrets redacted, and warnings to standard error.
///
/// # Errors
/// When the config is wrong.
pub fn run(args: &ConfigArgs) -> Result<(), CliError> {
    let (tree, config) = args.load()?;
    for warning in gateway::check(&config)? {
        eprintln!("warning: {warning}");
    }
    print!("{}", config::redacted(&tree)?);
    Ok(())
}
