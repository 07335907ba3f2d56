//! Owns whether catalogs can be worked with, by the cheapest calls there are: a token when one is due, and what a catalog says of
//! itself. Refuses to decide what that means for the gateway.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use url::Url;

use super::reach::{Sight, look};
use crate::auth::credential::{Credential, Wallet};
use crate::names::CatalogName;
use crate::relay::Relay;
use crate::relay::error::CatalogError;
use crate::relay::views::Way;

/// Catalogs that are asked at once.
const PARALLEL: usize = 8;

/// Whose log-ins the catalogs see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logins {
    /// Those of the catalogs' own sections.
    Catalogs,
    /// Those of roles.
    Roles,
    /// Those of callers: none is at hand, so an answer is all that can be asked for.
    Callers,
}

/// Why a catalog cannot be worked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReady {
    /// In words, without a secret.
    pub reason: String,
    /// It cannot be asked now; what is known of it may be used for a while.
    pub outage: bool,
}

impl Relay {
    /// Whether some credential of each catalog works; nobody waits for longer than `timeout`.
    pub async fn readiness(&self, logins: Logins, timeout: Duration) -> BTreeMap<CatalogName, Result<(), NotReady>> {
        let asked = self.catalogs().into_iter().map(|catalog| async move {
            let outcome = match tokio::time::timeout(timeout, self.catalog_readiness(&catalog, logins, timeout)).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    let reason = format!("catalog \"{catalog}\" did not answer within {} s", timeout.as_secs_f32());
                    Err(NotReady { reason, outage: true })
                }
            };
            (catalog, outcome)
        });
        stream::iter(asked).buffer_unordered(PARALLEL).collect().await
    }

    async fn catalog_readiness(&self, catalog: &CatalogName, logins: Logins, timeout: Duration) -> Result<(), NotReady> {
        let service = Credential::service();
        if logins == Logins::Callers {
            // An embedded catalog has no way over the network, and is open.
            return match self.views.way(&service, catalog) {
                Some(way) => answers(&way, catalog, timeout).await,
                None => Ok(()),
            };
        }
        let wallet = Wallet::default();
        let credentials = match logins {
            Logins::Roles => {
                let roles = self.views.roles_of(catalog);
                roles.iter().map(|role| wallet.role(role)).flat_map(|role| [role.for_reads(), role]).collect()
            }
            Logins::Catalogs | Logins::Callers => vec![service],
        };
        let mut worst = None;
        for credential in &credentials {
            let view = self.view(credential, catalog);
            let knocked = match view {
                Ok(view) => view.upstream.knock().await,
                Err(error) => Err(error),
            };
            match knocked {
                Ok(()) => return Ok(()),
                Err(error) => worst = worst.or(Some(NotReady::from(error))),
            }
        }
        // No role opens it, so nobody needs it.
        worst.map_or(Ok(()), Err)
    }
}

/// Whether it answers at all, whatever it says to who shows nothing.
async fn answers(way: &Way<'_>, catalog: &CatalogName, timeout: Duration) -> Result<(), NotReady> {
    let out = |reason: String| NotReady { reason: format!("catalog \"{catalog}\": {reason}"), outage: true };
    let url = Url::parse(&way.reach.config_uri()).map_err(|error| out(error.to_string()))?;
    match look(&way.reach.means().client, &url, timeout).await {
        Sight::Answers { from, status: status @ 502..=504, .. } => Err(out(format!("{from} answers {status}"))),
        Sight::Answers { .. } => Ok(()),
        Sight::Unreached(_, reason) | Sight::Mute(reason) | Sight::Untrusted(reason) => Err(out(reason)),
    }
}

impl From<CatalogError> for NotReady {
    fn from(error: CatalogError) -> Self {
        Self { outage: error.is_outage(), reason: error.to_string() }
    }
}
