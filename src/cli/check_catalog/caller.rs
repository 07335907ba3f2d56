//! Owns a caller's log-in as the command is given one: names of variables and files, never a secret among the options. Refuses to judge
//! it, which the gateway's own rules do.

use std::env;
use std::path::PathBuf;

use crate::auth::Credentials;
use crate::auth::config::Mode;
use crate::cli::connect::{PASSWORD_VARIABLE, TOKEN_VARIABLE, USER_VARIABLE, ask_password};
use crate::cli::error::{CliError, chain};
use crate::secret::{SecretRef, SecretString};

/// How a log-in is given, where the mode takes client ids and tokens.
const PASS_EITHER: &str = "pass --user CLIENT_ID, with its secret in POLYNYA_PASSWORD (or --password-env, --password-file), or a token in \
                           POLYNYA_TOKEN (or --token-env, --token-file)";

/// The same where it takes tokens only.
const PASS_TOKEN: &str = "pass a token in POLYNYA_TOKEN (or --token-env, --token-file)";

/// Options that name a caller's log-in.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "A caller's log-in (auth.mode polaris, passthrough)")]
pub struct CallerArgs {
    /// Client id of a principal of the catalog, or POLYNYA_USER; its secret comes from --password-env or --password-file,
    /// POLYNYA_PASSWORD, or is asked for
    #[arg(long, value_name = "CLIENT_ID", conflicts_with = "role")]
    pub user: Option<String>,

    /// Environment variable that holds the client's secret
    #[arg(long, value_name = "VARIABLE")]
    pub password_env: Option<String>,

    /// File that holds the client's secret
    #[arg(long, value_name = "FILE", conflicts_with = "password_env")]
    pub password_file: Option<PathBuf>,

    /// Environment variable that holds a bearer token, in place of user and password
    #[arg(long, value_name = "VARIABLE", conflicts_with_all = ["user", "password_env", "password_file", "role"])]
    pub token_env: Option<String>,

    /// File that holds a bearer token
    #[arg(long, value_name = "FILE", conflicts_with_all = ["user", "password_env", "password_file", "role", "token_env"])]
    pub token_file: Option<PathBuf>,
}

/// How a caller's log-in is given in this mode.
pub(super) fn how_to_pass(mode: Mode) -> &'static str {
    if mode == Mode::Passthrough { PASS_TOKEN } else { PASS_EITHER }
}

impl CallerArgs {
    /// The log-in, if one was given that the mode takes; asks for a missing secret on a terminal.
    ///
    /// # Errors
    /// When an option does not fit the mode, or a secret cannot be had.
    pub(super) fn given(&self, mode: Mode) -> Result<Option<Credentials>, CliError> {
        if !mode.shows_callers() {
            return match self.first_option() {
                Some(option) => Err(CliError::Usage(format!(
                    "{option} is for catalogs at which callers log in by themselves, and auth.mode is {}: leave it out",
                    mode.as_str()
                ))),
                None => Ok(None),
            };
        }
        let (user, password) = (&self.user, self.password_env.is_some() || self.password_file.is_some());
        if mode == Mode::Passthrough && (user.is_some() || password) {
            let reason = format!("auth.mode is passthrough, where callers come by token only: {PASS_TOKEN}");
            return Err(CliError::Usage(reason));
        }
        let user = user.clone().or_else(|| env::var(USER_VARIABLE).ok().filter(|_| mode == Mode::Polaris));
        if let Some(token) = self.token(self.user.is_some() || password)? {
            return Ok(Some(Credentials::Bearer(token)));
        }
        match user {
            Some(user) => {
                let password = self.password(&user)?;
                Ok(Some(Credentials::Basic { user, password }))
            }
            None if password => Err(CliError::Usage("--password-env and --password-file go with --user CLIENT_ID".to_owned())),
            None => Ok(None),
        }
    }

    /// The first option that was given.
    pub(super) fn first_option(&self) -> Option<&'static str> {
        let options = [
            ("--user", self.user.is_some()),
            ("--password-env", self.password_env.is_some()),
            ("--password-file", self.password_file.is_some()),
            ("--token-env", self.token_env.is_some()),
            ("--token-file", self.token_file.is_some()),
        ];
        options.into_iter().find(|(_, given)| *given).map(|(option, _)| option)
    }

    /// As with `polynya query`, a token counts before user and password; options count before the usual variables.
    fn token(&self, has_user: bool) -> Result<Option<SecretString>, CliError> {
        match (&self.token_env, &self.token_file) {
            (Some(variable), _) => read(SecretRef::Env { env: variable.clone() }).map(Some),
            (None, Some(file)) => read(SecretRef::File { file: file.clone() }).map(Some),
            (None, None) if has_user => Ok(None),
            (None, None) => Ok(env::var(TOKEN_VARIABLE).ok().map(SecretString::from)),
        }
    }

    fn password(&self, user: &str) -> Result<SecretString, CliError> {
        match (&self.password_env, &self.password_file) {
            (Some(variable), _) => read(SecretRef::Env { env: variable.clone() }),
            (None, Some(file)) => read(SecretRef::File { file: file.clone() }),
            (None, None) => match env::var(PASSWORD_VARIABLE) {
                Ok(password) => Ok(password.into()),
                Err(_) => ask_password(user, &format!("Secret of client {user}: "), PASSWORD_VARIABLE),
            },
        }
    }
}

fn read(secret: SecretRef) -> Result<SecretString, CliError> {
    secret.resolve().map_err(|error| CliError::Usage(chain(&error)))
}
