//! Owns the question that only a catalog can answer: whether it lets somebody in. Refuses to ask it; the relay does.

use async_trait::async_trait;

use super::credential::Credential;
use crate::names::RealmName;

/// Why a realm did not prove a caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RealmFault {
    /// It refused what the caller has shown.
    #[error("{0}")]
    Refused(String),
    /// It did not answer, or not sensibly: nothing is said of the caller.
    #[error("{0}")]
    Unavailable(String),
}

/// The catalogs as those who know principals. Implemented by the relay.
#[async_trait]
pub trait Realms: Send + Sync + 'static {
    /// The realms that there are, in order.
    fn realms(&self) -> Vec<RealmName>;

    /// Whether the credential's realm lets it in, asked of the realm itself. What is had on the way, a token above all, serves the
    /// statements that follow.
    ///
    /// # Errors
    /// When it is refused, or cannot be asked.
    async fn prove(&self, credential: &Credential) -> Result<(), RealmFault>;
}
