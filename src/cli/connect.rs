//! Owns the address of a gateway and the way there: URIs, options and environment variables, TLS, the channel, passwords from the
//! terminal. Refuses to know Flight SQL.

mod tls;

use std::env;
use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use url::{Host, Url};

use super::client::Credentials;
use super::error::{CliError, chain};
pub use tls::Trust;

/// The port of a gateway that was not told another.
const DEFAULT_PORT: u16 = 32010;

/// Where a gateway listens unless it was told otherwise.
pub const DEFAULT_URI: &str = "grpc://127.0.0.1:32010";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Variables that log-ins come from.
pub const USER_VARIABLE: &str = "POLYNYA_USER";
/// The password's, unless another is named.
pub const PASSWORD_VARIABLE: &str = "POLYNYA_PASSWORD";
/// A bearer token's.
pub const TOKEN_VARIABLE: &str = "POLYNYA_TOKEN";

/// Load balancers cut connections that are idle for 240 s or more, and a statement may be silent for longer.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// What may be on its way unread, per stream and per connection. gRPC's own 64 KB would throttle a result stream.
const WINDOW_BYTES: u32 = 8 << 20;

/// Options of each command that talks to a gateway.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct ConnectArgs {
    /// The gateway: grpc://HOST[:PORT], or grpc+tls://HOST[:PORT] for TLS
    #[arg(long, env = "POLYNYA_URI", default_value = DEFAULT_URI, value_name = "URI")]
    pub uri: GatewayUri,

    /// User name; the password comes from --password-env, POLYNYA_PASSWORD, or is asked for
    #[arg(long, env = USER_VARIABLE, value_name = "NAME")]
    pub user: Option<String>,

    /// Environment variable that holds the password
    #[arg(long, value_name = "VARIABLE", default_value = PASSWORD_VARIABLE, hide_default_value = true)]
    pub password_env: String,

    /// Bearer token, in place of user and password; other users of the machine can see it here, in POLYNYA_TOKEN they cannot
    #[arg(long, env = TOKEN_VARIABLE, hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<SecretText>,

    /// PEM file with the certificate authorities to trust, in place of the system's (SSL_CERT_FILE, or the usual places)
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,

    /// PEM file with a client certificate to show, for gateways that ask for one
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the key of --tls-cert, without a passphrase
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

/// A secret from the command line; `Debug` does not show it.
#[derive(Clone, Debug)]
pub struct SecretText(SecretString);

impl From<&str> for SecretText {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl ConnectArgs {
    /// Where to connect, with the certificates read.
    ///
    /// # Errors
    /// When a file cannot be read or makes no sense.
    pub fn target(&self) -> Result<Target, CliError> {
        let given = [("--tls-ca", &self.tls_ca), ("--tls-cert", &self.tls_cert)].into_iter().find(|(_, file)| file.is_some());
        if let Some((option, _)) = given.filter(|_| !self.uri.tls) {
            let with_tls = self.uri.with_tls(true);
            return Err(CliError::Usage(format!("{option} needs an address with TLS: {with_tls}, not {}", self.uri)));
        }
        let trust = Trust::from_files(self.tls_ca.as_deref(), self.tls_cert.as_deref().zip(self.tls_key.as_deref()))?;
        Ok(Target { uri: self.uri.clone(), trust })
    }

    /// Who to log in as; asks for a missing password on a terminal.
    ///
    /// # Errors
    /// When a user is named, no variable holds the password, and there is no terminal to ask at.
    pub fn credentials(&self) -> Result<Credentials, CliError> {
        if let Some(SecretText(token)) = &self.token {
            return Ok(Credentials::Token(token.clone()));
        }
        let Some(user) = self.user.clone() else { return Ok(Credentials::Anonymous) };
        let password = match env::var(&self.password_env) {
            Ok(password) => password.into(),
            Err(_) => ask_password(&user, &format!("Password for {user} at {}: ", self.uri), &self.password_env)?,
        };
        if !self.uri.tls && !self.uri.is_loopback() {
            eprintln!("warning: the password goes to {} without encryption; use grpc+tls:// where the gateway has it", self.uri);
        }
        Ok(Credentials::Password { user, password })
    }
}

/// Asks for a password on a terminal, without showing it.
///
/// # Errors
/// When there is no terminal: names the variable that it may be in.
pub fn ask_password(user: &str, prompt: &str, variable: &str) -> Result<SecretString, CliError> {
    if !io::stderr().is_terminal() {
        return Err(CliError::Usage(format!("no password for user {user}: set the environment variable {variable}")));
    }
    rpassword::prompt_password(prompt).map(SecretString::from).map_err(CliError::io("ask for the password"))
}

/// The address of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayUri {
    /// Encrypted.
    pub tls: bool,
    /// Name or address.
    pub host: Host,
    /// TCP port.
    pub port: u16,
}

impl GatewayUri {
    /// The address stays on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Domain(name) => name == "localhost",
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        }
    }

    /// The same place, with or without TLS.
    #[must_use]
    pub fn with_tls(&self, tls: bool) -> Self {
        Self { tls, ..self.clone() }
    }

    /// Host and port, as errors name them.
    fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Display for GatewayUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "grpc+tls" } else { "grpc" }, self.authority())
    }
}

/// Why a text is not the address of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUri {
    /// Not a URI, or without a host.
    #[error("want grpc://HOST:PORT or grpc+tls://HOST:PORT")]
    Form,
    /// Another scheme.
    #[error("the scheme is grpc:// or grpc+tls://, not {0}://")]
    Scheme(String),
    /// A user, a path or a query.
    #[error("only host and port belong in the address; users go in --user, tokens in POLYNYA_TOKEN")]
    Extra,
}

impl FromStr for GatewayUri {
    type Err = BadUri;

    fn from_str(text: &str) -> Result<Self, BadUri> {
        let url = Url::parse(text).map_err(|_| BadUri::Form)?;
        let tls = match url.scheme() {
            "grpc" | "grpc+tcp" => false,
            "grpc+tls" => true,
            // "localhost:32010" parses as the scheme "localhost".
            _ if !text.contains("://") => return Err(BadUri::Form),
            other => return Err(BadUri::Scheme(other.to_owned())),
        };
        let has_extra =
            !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some();
        if has_extra || !matches!(url.path(), "" | "/") {
            return Err(BadUri::Extra);
        }
        let host = url.host().filter(|host| !host.to_string().is_empty()).ok_or(BadUri::Form)?.to_owned();
        // url leaves hosts of other schemes than the web's unparsed, so an IPv4 address is a domain to it.
        let host = match host {
            Host::Domain(name) => name.parse().map_or(Host::Domain(name), Host::Ipv4),
            host => host,
        };
        Ok(Self { tls, host, port: url.port().unwrap_or(DEFAULT_PORT) })
    }
}

/// A gateway's address, whom to trust there, and what to show.
#[derive(Clone, Debug)]
pub struct Target {
    /// The address.
    pub uri: GatewayUri,
    /// With TLS: its authorities, and our certificate.
    pub trust: Trust,
}

impl Target {
    /// A gateway that nothing special is known of.
    #[must_use]
    pub fn at(uri: GatewayUri) -> Self {
        Self { uri, trust: Trust::default() }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing listens there.
    #[error(
        "nothing listens at {0} (connection refused). Start a gateway there with `polynya serve`, or name another address with --uri \
         or POLYNYA_URI"
    )]
    NobodyThere(GatewayUri),
    /// Anything else: name resolution, routes, TLS.
    #[error("cannot connect to {uri}: {reason}")]
    Failed {
        /// Where to.
        uri: GatewayUri,
        /// What the layers below said.
        reason: String,
    },
    /// The token has line breaks or other bytes that no header can carry.
    #[error("the token or password holds characters that cannot be sent")]
    BadToken,
}

/// Connects a channel, within 10 s.
///
/// # Errors
/// When nobody listens, the name is unknown, or TLS fails.
pub async fn open(target: &Target) -> Result<Channel, ConnectError> {
    let uri = &target.uri;
    let failed = |error: tonic::transport::Error| connect_error(uri, &error);
    let scheme = if uri.tls { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", uri.authority()))
        .map_err(failed)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .user_agent(concat!("polynya/", env!("CARGO_PKG_VERSION")))
        .map_err(failed)?;
    if uri.tls {
        endpoint = endpoint.tls_config(target.trust.config()).map_err(failed)?;
    }
    endpoint.connect().await.map_err(failed)
}

fn connect_error(uri: &GatewayUri, error: &tonic::transport::Error) -> ConnectError {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(cause) = cause.downcast_ref::<io::Error>()
            && cause.kind() == io::ErrorKind::ConnectionRefused
        {
            return ConnectError::NobodyThere(uri.clone());
        }
        source = cause.source();
    }
    let reason = tls::explain(uri, error);
    let reason = reason.unwrap_or_else(|| error.source().map_or_else(|| error.to_string(), chain));
    ConnectError::Failed { uri: uri.clone(), reason }
}

/// What a call failed of before the server could answer, when that is TLS or the lack of it.
pub async fn call_error(target: &Target, status: &Status) -> Option<ConnectError> {
    // What the server itself has said has no source.
    status.source()?;
    let reason = match tls::explain(&target.uri, status) {
        Some(reason) => reason,
        None => tls::diagnose(&target.uri, &target.trust).await?,
    };
    Some(ConnectError::Failed { uri: target.uri.clone(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> GatewayUri {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_read_with_and_without_port() {
        assert_eq!(uri("grpc://lake.example:9").to_string(), "grpc://lake.example:9");
        assert_eq!(uri("grpc+tls://lake.example").to_string(), "grpc+tls://lake.example:32010");
        assert_eq!(uri("grpc+tcp://[::1]:7/").to_string(), "grpc://[::1]:7");
        assert_eq!(uri(DEFAULT_URI).port, DEFAULT_PORT);
    }

    #[test]
    fn loopback_is_recognised_in_each_form() {
        for (text, loopback) in [
            ("grpc://127.0.0.1", true),
            ("grpc://localhost:1", true),
            ("grpc://[::1]", true),
            ("grpc://10.0.0.1", false),
            ("grpc://example.com", false),
        ] {
            assert_eq!(uri(text).is_loopback(), loopback, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_reason() {
        for (text, expected) in [
            ("localhost:32010", BadUri::Form),
            ("grpc://", BadUri::Form),
            ("http://a:1", BadUri::Scheme("http".into())),
            ("grpc://user:pw@a", BadUri::Extra),
            ("grpc://a/path", BadUri::Extra),
            ("grpc://a?x=1", BadUri::Extra),
        ] {
            assert_eq!(text.parse::<GatewayUri>(), Err(expected), "{text}");
        }
    }

    #[tokio::test]
    async fn a_refused_connection_names_the_address_and_the_remedy() {
        // Bound and not listened at: connections are refused, and nobody else takes the port.
        let refuses = tokio::net::TcpSocket::new_v4().unwrap();
        refuses.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = refuses.local_addr().unwrap().port();
        let target = Target::at(uri(&format!("grpc://127.0.0.1:{port}")));
        let text = open(&target).await.unwrap_err().to_string();
        assert!(text.contains(&format!("grpc://127.0.0.1:{port}")) && text.contains("polynya serve"), "{text}");
    }
}
