//! Owns the demo's gateway: one of the same make as `polynya serve` runs, in this process, with the embedded catalog `lake` in a
//! directory. Refuses to differ from `serve` in anything but its config.

use std::net::SocketAddr;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::super::error::CliError;
use super::super::{ConfigArgs, Setting};
use crate::gateway::{self, Running};
use crate::telemetry;

/// A running gateway.
pub struct DemoGateway {
    /// Where it listens for Flight SQL.
    pub address: SocketAddr,
    running: Running,
}

impl DemoGateway {
    /// Starts it with its files below `dir`; what the user sets goes over the demo's own settings.
    ///
    /// # Errors
    /// When the config is wrong or the gateway does not start.
    pub async fn start(dir: &Path, listen: SocketAddr, args: &ConfigArgs) -> Result<Self, CliError> {
        let setting = |key: &str, value: String| Setting { key: key.to_owned(), value };
        let mut args = ConfigArgs { listen: Some(listen), ..args.clone() };
        // The demo's own output tells what happens; a log line for each statement would bury it.
        let own = [setting("catalogs.lake.path", dir.display().to_string()), setting("telemetry.level", "warn".to_owned())];
        args.settings = own.into_iter().chain(args.settings).collect();
        let (_, config) = args.load()?;
        telemetry::start(&config.telemetry)?;
        let running = gateway::start(config, CancellationToken::new()).await?;
        Ok(Self { address: running.flight_addr, running })
    }

    /// Drains and ends it.
    pub async fn finish(self) {
        self.running.finish().await;
    }
}
