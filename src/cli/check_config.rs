//! `polynya check-config`: what the config comes to, or what is wrong with it.

use super::ConfigArgs;
use super::error::CliError;
use crate::gateway::GatewayError;
use crate::relay::Relay;
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
    for missing in Relay::check(&config.relay, &config.catalogs).map_err(GatewayError::from)? {
        eprintln!("warning: {missing}");
    }
    print!("{}", config::redacted(&tree)?);
    Ok(())
}
