//! `polynya serve`: the gateway in the foreground, until it is told to stop.

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use crate::config::{self, Sources};
use crate::{gateway, shutdown, telemetry};

/// Runs the gateway until SIGTERM or SIGINT, then drains it.
///
/// # Errors
/// When the config is wrong or a part cannot start.
pub fn run(sources: &Sources) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let config = config::load(config::merged(sources, std::env::vars())?)?;
    telemetry::start(&config.telemetry)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let running = gateway::start(config, stop.clone()).await?;
        let signal = shutdown::signalled().await?;
        tracing::info!(signal, "draining: running statements may end, new ones are refused");
        stop.cancel();
        running.finish().await;
        Ok(ExitCode::SUCCESS)
    })
}
