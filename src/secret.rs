//! Owns secrets as the config names them: in clear, by environment variable, or by file. Refuses to print them.

use std::path::PathBuf;

pub use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// A secret in the config: `"text"`, `{ env: NAME }` or `{ file: PATH }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "a text, `{ env: NAME }` or `{ file: PATH }`")]
pub enum SecretRef {
    /// The secret itself.
    Text(SecretString),
    /// The name of an environment variable that holds it.
    Env {
        /// The variable's name.
        env: String,
    },
    /// A file that holds it; white space at its end is not part of the secret.
    File {
        /// The file's path.
        file: PathBuf,
    },
}

/// Why a secret could not be had. Names the place, never the content.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable is not set or not UTF-8.
    #[error("environment variable {0} is not set")]
    Env(String),
    /// The file could not be read.
    #[error("cannot read the secret file {path}")]
    File {
        /// The file as configured.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl SecretRef {
    /// Reads the secret now.
    ///
    /// # Errors
    /// When the variable is not set or the file cannot be read.
    pub fn resolve(&self) -> Result<SecretString, SecretError> {
        match self {
            Self::Text(secret) => Ok(secret.clone()),
            Self::Env { env } => std::env::var(env).map(SecretString::from).map_err(|_| SecretError::Env(env.clone())),
            Self::File { file } => std::fs::read_to_string(file)
                .map(|text| SecretString::from(text.trim_end()))
                .map_err(|source| SecretError::File { path: file.clone(), source }),
        }
    }
}
