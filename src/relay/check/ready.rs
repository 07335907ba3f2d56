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
    /// Whether some credential of each catalog works that somebody can come to; nobody waits for longer than `timeout`.
    pub async fn readiness(&self, logins: Logins, timeout: Duration) -> BTreeMap<CatalogName, Result<(), NotReady>> {
        let asked = self.catalogs().into_iter().map(|catalog| async move {
            let asked = tokio::time::timeout(timeout, self.catalog_readiness(&catalog, logins, timeout)).await;
            let outcome = asked.unwrap_or_else(|_| {
                let reason = format!("catalog \"{catalog}\" did not answer within {} s", timeout.as_secs_f32());
                Some(Err(NotReady { reason, outage: true }))
            });
            Some((catalog, outcome?))
        });
        let answers: Vec<Option<_>> = stream::iter(asked).buffer_unordered(PARALLEL).collect().await;
        answers.into_iter().flatten().collect()
    }

    /// `None` when nobody can come to it.
    async fn catalog_readiness(&self, catalog: &CatalogName, logins: Logins, timeout: Duration) -> Option<Result<(), NotReady>> {
        let (service, wallet) = (Credential::service(), Wallet::default());
        let credentials: Vec<Credential> = match logins {
            Logins::Catalogs => vec![service.clone()],
            Logins::Roles | Logins::Callers => {
                let roles = self.views.roles_of(catalog);
                roles.iter().map(|role| wallet.role(role)).flat_map(|role| [role.for_reads(), role]).collect()
            }
        };
        let mut first = None;
        for credential in &credentials {
            let knocked = match self.view(credential, catalog) {
                Ok(view) => view.upstream.knock().await,
                Err(error) => Err(error),
            };
            match knocked {
                Ok(()) => return Some(Ok(())),
                Err(error) => first = first.or(Some(Err(NotReady::from(error)))),
            }
        }
        // Callers have no way but their own to a catalog over the network, and none to an embedded one.
        match self.views.way(&service, catalog).filter(|_| logins == Logins::Callers) {
            Some(way) => Some(answers(&way, catalog, timeout).await),
            None => first,
        }
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
