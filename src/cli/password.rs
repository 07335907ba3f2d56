//! `polynya hash-password`: a password into the form in which the config holds it. Refuses to take one from the command line, where
//! other users of the machine could see it.

use std::io::{self, BufRead, IsTerminal};

use argon2::Argon2;
use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHasher, SaltString};
use secrecy::{ExposeSecret, SecretString};

use super::error::CliError;
use super::progress;

const EXAMPLES: &str = "\
Examples:
  polynya hash-password
  printf %s \"$SECRET\" | polynya hash-password

The password is asked for on a terminal, and else read from the first line of standard input. \
What is printed goes into the config as a user's password_hash.";

/// Options of `polynya hash-password`: none.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct HashPasswordArgs {}

/// Runs the command.
///
/// # Errors
/// When no password could be read, or two that differ.
pub fn run() -> Result<(), CliError> {
    let password = if io::stdin().is_terminal() { ask()? } else { read_line(io::stdin().lock())? };
    progress::say(hash(&password)?)
}

fn ask() -> Result<SecretString, CliError> {
    let ask = |prompt| rpassword::prompt_password(prompt).map(SecretString::from).map_err(CliError::io("ask for the password"));
    let (password, again) = (ask("Password: ")?, ask("Once more: ")?);
    if password.expose_secret() != again.expose_secret() {
        return Err(CliError::Usage("the two passwords differ".into()));
    }
    Ok(password)
}

fn read_line(mut input: impl BufRead) -> Result<SecretString, CliError> {
    let mut line = String::new();
    input.read_line(&mut line).map_err(CliError::io("read the password"))?;
    Ok(line.trim_end_matches(['\r', '\n']).into())
}

/// An argon2id PHC string with a salt of its own.
fn hash(password: &SecretString) -> Result<String, CliError> {
    if password.expose_secret().is_empty() {
        return Err(CliError::Usage("the password is empty".into()));
    }
    let salt = SaltString::generate(&mut OsRng);
    let hash = Argon2::default().hash_password(password.expose_secret().as_bytes(), &salt);
    hash.map(|hash| hash.to_string()).map_err(|error| CliError::Usage(format!("cannot hash the password: {error}")))
}

#[cfg(test)]
mod tests {
    use argon2::password_hash::{PasswordHash, PasswordVerifier};

    use super::*;

    #[test]
    fn the_hash_verifies_its_password_and_no_other() {
        let text = hash(&"näher am Eis".into()).unwrap();
        let parsed = PasswordHash::new(&text).unwrap();
        assert!(text.starts_with("$argon2id$"));
        assert!(Argon2::default().verify_password("näher am Eis".as_bytes(), &parsed).is_ok());
        assert!(Argon2::default().verify_password(b"other", &parsed).is_err());
    }

    #[test]
    fn the_line_end_is_not_part_of_the_password() {
        assert_eq!(read_line(&b"a b \r\nc"[..]).unwrap().expose_secret(), "a b ");
        assert!(hash(&read_line(&b"\n"[..]).unwrap()).is_err());
    }
}
