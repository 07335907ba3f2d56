//! `polynya serve`: the gateway in the foreground, until it is told to stop.

use std::io::Write;

use tokio_util::sync::CancellationToken;

use super::error::CliError;
use super::{ConfigArgs, block_on};
use crate::{gateway, shutdown, telemetry};

/// Runs the gateway until SIGTERM or SIGINT, then drains it. The address goes to standard output, the log to standard error.
///
/// # Errors
/// When the config is wrong or a part cannot start.
pub fn run(args: &ConfigArgs) -> Result<(), CliError> {
    let (_, config) = args.load()?;
    telemetry::start(&config.telemetry)?;
    block_on(async {
        let stop = CancellationToken::new();
        let running = gateway::start(config, stop.clone()).await?;
        let mut out = std::io::stdout();
        // Whoever started this and closed its output does not want to know the address.
        let _ = writeln!(out, "serving Flight SQL at {}", running.flight_uri).and_then(|()| out.flush());
        let signal = shutdown::signalled().await.map_err(CliError::io("wait for signals"))?;
        tracing::info!(signal, "draining: running statements may end, new ones are refused");
        running.finish().await;
        Ok(())
    })
}
