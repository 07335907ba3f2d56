//! `polynya check-ready`: whether a gateway can work, by its health service. Refuses to log in, which that service does not ask for.

use std::time::Duration;

use tonic::Request;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::client::ClientError;
use super::connect::{self, ConnectArgs};
use super::error::CliError;
use super::progress;
use crate::health::READINESS;

const EXAMPLES: &str = "\
Examples:
  polynya check-ready
  polynya check-ready --uri grpc+tls://lake.example.com:32010 --tls-ca ca.crt
  polynya check-ready --live                     only whether it takes calls

The exit status is 0 when the gateway is ready, and 1 when it is not or cannot be asked, as probes of containers want it. \
Ready is a gateway whose catalogs can be worked with (`health` in the config); why one is not stands in its log, and \
`polynya check-catalog` finds it out step by step.";

/// How long the gateway may take: it answers from what it knows.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Options of `polynya check-ready`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckReadyArgs {
    /// Whether it takes calls, whatever its catalogs do
    #[arg(long)]
    pub live: bool,

    /// Where the gateway is.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// Runs the command.
///
/// # Errors
/// When the gateway is not ready, or cannot be asked.
pub async fn run(args: &CheckReadyArgs) -> Result<(), CliError> {
    let target = args.connect.target()?;
    let uri = &target.uri;
    let asked = async {
        let channel = connect::open(&target).await.map_err(ClientError::from)?;
        let service = if args.live { String::new() } else { READINESS.to_owned() };
        let answer = HealthClient::new(channel).check(Request::new(HealthCheckRequest { service })).await;
        Ok::<_, ClientError>(answer?.into_inner().status())
    };
    let status = tokio::time::timeout(TIMEOUT, asked).await;
    let status = status.map_err(|_| CliError::NotReady(format!("{uri} did not answer within {} s", TIMEOUT.as_secs())))??;
    let what = if args.live { "live" } else { "ready" };
    match status {
        ServingStatus::Serving => progress::say(format!("{what}: {uri}")),
        _ => Err(CliError::NotReady(format!("{uri} is not {what}; its log says why"))),
    }
}
