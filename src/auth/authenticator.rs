//! Owns the way from what a call shows to a principal, for each mode, and the way back from a sealed session token. Refuses to know how a
//! password, a token or a guess is judged: each has its own file.
//!
//! ```text
//! mode         Basic                    Bearer                                        certificate alone
//! none         anonymous                anonymous                                     anonymous
//! users        a user of the list       -                                             -
//! polaris      a client of the realm    of an issuer, else the realm's own            -
//! passthrough  -                        of an issuer, else the realm's own            -
//! mapped       a user of the list       of an issuer                                  by its subject or names
//! ```
//! What is sent as `authorization` counts; the certificate of the connection is looked at only when nothing is sent.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;

use super::certificate::PeerCertificate;
use super::config::{Config, ConfigError, Mode};
use super::credential::{BearerToken, Credential, Wallet};
use super::error::{AuthError, TokenFault};
use super::keepsake::{self, Remains};
use super::login::basic::{MAX_PASSWORD_BYTES, Users};
use super::login::refusals::Refusals;
use super::login::{Logins, Proven, Recognised, Shown};
use super::mapping::{Facts, Mappings};
use super::oidc::{Issuers, Verified, claims};
use super::realm::{RealmFault, Realms};
use super::salt::Salt;
use super::seal::Sealer;
use super::{Credentials, Principal, Proof};
use crate::names::{RealmName, RoleName};
use crate::secret::{ExposeSecret, SecretString};

/// Who everybody is with `mode: none`.
const ANONYMOUS: &str = "anonymous";

/// How long a realm is known to look at tokens: its catalogs may be configured anew.
const DISCERNS_FOR: Duration = Duration::from_secs(3600);

const TAKES_ANY: &str = "tokens of the catalog's own are refused here: it answers `/v1/config` whatever token it is shown, a made-up \
                         one too, so that a token proves nobody; log in in another way";
/// Header and claims of a token that nobody has signed.
const UNSIGNED: (&str, &str) = ("eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9", "eyJzdWIiOiJub2JvZHkifQ");

const TOKENS_ONLY: AuthError = AuthError::OtherWay("this gateway takes bearer tokens only, as `authorization: Bearer …`");
const OTHER_REALM: AuthError = AuthError::Forgotten("its principals' realm is another one now (auth.realm)");
const NO_USER: AuthError = AuthError::Forgotten("its user is not configured any more (auth.users)");
/// Log-ins that realms are asked about at once, and how long others wait for that: a realm that hangs must not gather calls without end.
const QUESTIONS: usize = 64;
const TURN_WITHIN: Duration = Duration::from_secs(10);

/// What a call shows of who makes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller<'a> {
    /// The `authorization` header.
    pub authorization: Option<&'a str>,
    /// Where it comes from; failed log-ins are counted by it.
    pub address: Option<IpAddr>,
    /// The certificate of its connection.
    pub certificate: Option<&'a Arc<PeerCertificate>>,
    /// What its connection has logged in with.
    pub recognised: Option<&'a Recognised>,
}

/// Proves callers, and seals what they carry. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator(Arc<Inner>);

struct Inner {
    parts: Parts,
    /// Whoever calls without a log-in.
    anonymous: Principal,
    realm: Option<RealmName>,
    realms: Arc<dyn Realms>,
    wallet: Wallet,
    logins: Logins,
    refusals: Refusals,
    /// Questions to realms that may be under way.
    questions: Semaphore,
    /// Tokens that cannot be read are told apart by digests.
    salt: Salt,
    /// That the realm refuses tokens which are none; kept while it need not be asked again.
    discerns: moka::future::Cache<(), ()>,
}

/// What the config alone decides.
struct Parts {
    mode: Mode,
    remember_logins: Duration,
    sealer: Sealer,
    users: Option<Users>,
    issuers: Option<Issuers>,
    mappings: Mappings,
}

/// Reads all secrets and files that the section names; asks nobody.
///
/// # Errors
/// When one cannot be read or is not what it should be.
pub fn check(config: &Config) -> Result<(), ConfigError> {
    Parts::new(config).map(|_| ())
}

impl Parts {
    fn new(config: &Config) -> Result<Self, ConfigError> {
        let by_list = matches!(config.mode, Mode::Users | Mode::Mapped) && !config.users.is_empty();
        let issuers = (!config.issuers.is_empty()).then(|| Issuers::new(config)).transpose()?;
        Ok(Self {
            mode: config.mode,
            remember_logins: config.remember_logins,
            sealer: Sealer::from_config(config.key.as_ref(), &config.previous_keys)?,
            users: by_list.then(|| Users::new(config)).transpose()?,
            issuers,
            mappings: Mappings::new(config)?,
        })
    }
}

impl Authenticator {
    /// Reads hashes, keys and certificates now; asks nobody.
    ///
    /// # Errors
    /// When a secret cannot be read or is not what it should be, or the realm is not there.
    pub fn new(config: &Config, realms: Arc<dyn Realms>) -> Result<Self, ConfigError> {
        Ok(Self(Arc::new(Inner {
            parts: Parts::new(config)?,
            anonymous: Principal::service(ANONYMOUS),
            realm: config.realm_among(&realms.realms())?,
            realms,
            wallet: Wallet::default(),
            logins: Logins::new(config),
            refusals: Refusals::default(),
            questions: Semaphore::new(QUESTIONS),
            salt: Salt::random(),
            discerns: moka::future::Cache::builder().max_capacity(1).time_to_live(DISCERNS_FOR).build(),
        })))
    }

    /// The sealer of this process.
    #[must_use]
    pub fn sealer(&self) -> &Sealer {
        &self.0.parts.sealer
    }

    /// Proves who is calling. With `mode: none` everybody is `anonymous`, whatever they send. A session token is not proven here: the
    /// session layer opens it first.
    ///
    /// # Errors
    /// When the caller is not let in.
    pub async fn login(&self, caller: Caller<'_>) -> Result<Principal, AuthError> {
        let inner = &self.0;
        if inner.parts.mode == Mode::None {
            return Ok(inner.anonymous.clone());
        }
        let credentials = caller.authorization.map(Credentials::parse).transpose()?;
        let principal = match &credentials {
            Some(Credentials::Basic { user, password }) => inner.basic(user, password, &caller).await,
            Some(Credentials::Bearer(token)) => inner.bearer(token, &caller).await,
            None => inner.certificate(caller.certificate),
        };
        principal.inspect_err(|error| {
            let user = match &credentials {
                Some(Credentials::Basic { user, .. }) => Some(user.as_str()),
                _ => None,
            };
            inner.refusals.log(user, caller.address, error);
        })
    }

    /// Whom a log-in at a realm would make the caller, for who asks the realm step by step: it was not asked yet. A token of an identity
    /// provider is verified.
    ///
    /// # Errors
    /// When the mode does not take such a log-in, or the token is refused here.
    pub async fn introduced(&self, credentials: &Credentials) -> Result<Principal, AuthError> {
        let inner = &self.0;
        let realm =
            inner.realm.as_ref().ok_or(AuthError::OtherWay("callers of this gateway don't log in at a catalog (auth.mode)"))?;
        match credentials {
            Credentials::Basic { .. } if inner.parts.mode == Mode::Passthrough => Err(TOKENS_ONLY),
            Credentials::Basic { user, password } if could_be_right(user, password) => Ok(inner.client(realm, user, password)),
            Credentials::Basic { .. } => Err(AuthError::Rejected),
            Credentials::Bearer(token) => match inner.issuers_of(token) {
                Some(issuers) => {
                    let verified = issuers.verify(token.expose_secret(), SystemTime::now()).await?;
                    let credential = inner.issued(realm, &verified, token);
                    Ok(by_issuer(verified, credential, token).principal)
                }
                None => {
                    unexpired(token)?;
                    inner.taken_by_realm(realm, token, None)
                }
            },
        }
    }

    /// The principal as bytes for a sealed session token; they may hold its secret.
    #[must_use]
    pub fn keep(&self, principal: &Principal) -> Vec<u8> {
        keepsake::write(self.0.parts.mode, principal)
    }

    /// Makes a principal again from what [`Authenticator::keep`] gave, in this process or another one. Nobody is asked: it was proven
    /// before it was sealed, and what it may see the catalog decides at use. What the config says of it is what it says now.
    ///
    /// # Errors
    /// When the config does not know it any more.
    pub fn restore(&self, kept: &[u8]) -> Result<Principal, AuthError> {
        let inner = &*self.0;
        let kept = keepsake::read(kept).ok_or(AuthError::Forgotten("it cannot be read"))?;
        if kept.mode != inner.parts.mode.as_str() {
            return Err(AuthError::Forgotten("callers log in in another way now (auth.mode)"));
        }
        let restored = match kept.shown {
            Remains::Nothing if inner.parts.mode == Mode::None => Ok(inner.anonymous.clone()),
            Remains::Nothing => Err(AuthError::Forgotten("it does not say how it was opened")),
            Remains::User { mark } => inner.user_again(&kept.name, &mark),
            Remains::Client { realm, .. } if inner.realm.as_ref() != Some(&realm) => Err(OTHER_REALM),
            Remains::Token { realm, .. } if inner.realm != realm => Err(OTHER_REALM),
            Remains::Client { realm, secret } => Ok(inner.client(&realm, &kept.name, &secret)),
            Remains::Token { issuer, token, .. } => inner.token_again(&kept.name, kept.expires, issuer, token),
            Remains::Certificate(certificate) => inner.certificate(Some(&Arc::new(certificate))),
        };
        restored.map(|principal| Principal { expires: kept.expires, ..principal })
    }
}

impl Inner {
    async fn basic(self: &Arc<Self>, user: &str, password: &SecretString, caller: &Caller<'_>) -> Result<Principal, AuthError> {
        if self.parts.mode == Mode::Passthrough {
            return Err(TOKENS_ONLY);
        }
        if !could_be_right(user, password) {
            return Err(AuthError::Rejected);
        }
        let (inner, name, secret) = (Arc::clone(self), user.to_owned(), password.clone());
        let ask = async move {
            let principal = match &inner.realm {
                Some(realm) => {
                    let principal = inner.client(realm, &name, &secret);
                    inner.proven(realm, &principal.credential).await?;
                    principal
                }
                None => {
                    let no_users =
                        AuthError::OtherWay("this gateway knows no users by password; send a bearer token or a certificate");
                    inner.parts.users.as_ref().ok_or(no_users)?.verify(&name, &secret).await?;
                    inner.user(&name)?
                }
            };
            Ok(Proven { principal, good_for: inner.parts.remember_logins })
        };
        let (address, recognised) = (caller.address, caller.recognised);
        self.logins.prove(&Shown { user: Some(user), secret: password, address, recognised }, ask).await
    }

    /// A user of the list, whose password is known to be right.
    fn user(&self, name: &str) -> Result<Principal, AuthError> {
        let mark = self.parts.users.as_ref().and_then(|users| users.mark(name)).ok_or(NO_USER)?;
        let credential = match self.parts.mode {
            Mode::Users => Credential::service(),
            _ => self.role_of(&Facts::User(name), || format!("user \"{name}\""))?,
        };
        Ok(Principal::new(name.into(), credential, None, Proof::User(mark)))
    }

    /// A user whose password was right once.
    fn user_again(&self, name: &str, mark: &[u8]) -> Result<Principal, AuthError> {
        let user = self.user(name)?;
        match &user.proof {
            Proof::User(now) if now[..] == *mark => Ok(user),
            _ => Err(AuthError::Forgotten("its user has another password now (auth.users)")),
        }
    }

    /// A principal of the realm, as it says.
    fn client(&self, realm: &RealmName, id: &str, secret: &SecretString) -> Principal {
        let role = self.parts.mappings.role(&Facts::User(id));
        let credential = self.wallet.client(realm, id, secret, role);
        Principal::new(id.into(), credential, None, Proof::Client)
    }

    async fn bearer(self: &Arc<Self>, token: &SecretString, caller: &Caller<'_>) -> Result<Principal, AuthError> {
        let by_issuer = self.issuers_of(token).is_some();
        let (inner, secret) = (Arc::clone(self), token.clone());
        let ask = async move {
            match (inner.parts.issuers.as_ref().filter(|_| by_issuer), &inner.realm) {
                (Some(issuers), _) => inner.of_issuer(issuers, &secret).await,
                (None, Some(realm)) => inner.of_realm(realm, &secret).await,
                (None, None) => Err(AuthError::ForeignToken),
            }
        };
        // A signature is checked here, and nobody guesses one: such a token need not wait for others at its address who guess.
        let address = caller.address.filter(|_| !by_issuer);
        self.logins.prove(&Shown { user: None, secret: token, address, recognised: caller.recognised }, ask).await
    }

    /// Who verifies a token, if anybody but the realm does.
    fn issuers_of(&self, token: &SecretString) -> Option<&Issuers> {
        let claimed = |issuers: &&Issuers| self.realm.is_none() || issuers.claim_to_have_made(token.expose_secret());
        self.parts.issuers.as_ref().filter(claimed)
    }

    /// The credential of a token that was verified, at the realm that is to take it.
    fn issued(&self, realm: &RealmName, verified: &Verified, token: &SecretString) -> Credential {
        let bearer = BearerToken { secret: token.clone(), expires: Some(verified.expires), exchange: verified.exchange };
        let role = self.parts.mappings.role(&facts_of(verified));
        self.wallet.token(realm, &verified.name, &claims::rights(&verified.claims), bearer, role)
    }

    /// A token that is verified by its issuer's keys.
    async fn of_issuer(&self, issuers: &Issuers, token: &SecretString) -> Result<Proven, AuthError> {
        let verified = issuers.verify(token.expose_secret(), SystemTime::now()).await?;
        let credential = match &self.realm {
            None => self.role_of(&facts_of(&verified), || format!("the token of \"{}\"", verified.name))?,
            Some(realm) => {
                let role = self.parts.mappings.role(&facts_of(&verified));
                if self.wallet.holds_token(realm, &verified.name, &claims::rights(&verified.claims), role) {
                    self.proven(realm, &self.throw_away(realm, token, verified.exchange)).await?;
                    self.issued(realm, &verified, token)
                } else {
                    // Nobody is harmed if it fails, and what is had on the way serves the statements.
                    let credential = self.issued(realm, &verified, token);
                    self.proven(realm, &credential).await?;
                    credential
                }
            }
        };
        Ok(by_issuer(verified, credential, token))
    }

    /// A token that the realm has signed itself, or says that it knows. What is in it is believed once the realm has taken it, and no
    /// sooner.
    async fn of_realm(&self, realm: &RealmName, token: &SecretString) -> Result<Proven, AuthError> {
        unexpired(token)?;
        let asked = self.discerns.try_get_with((), self.check_discerns(realm)).await;
        asked.map_err(|error: Arc<AuthError>| (*error).clone())?;
        self.proven(realm, &self.throw_away(realm, token, false)).await?;
        let principal = self.taken_by_realm(realm, token, None)?;
        let now = SystemTime::now();
        let lasts = principal.expires.map(|at| at.duration_since(now).unwrap_or_default());
        Ok(Proven { principal, good_for: lasts.unwrap_or(self.parts.remember_logins) })
    }

    /// Whether the realm looks at tokens at all: where a catalog answers anybody, whatever a token says would be believed.
    async fn check_discerns(&self, realm: &RealmName) -> Result<(), AuthError> {
        let bogus = SecretString::from(format!("{}.{}.{}", UNSIGNED.0, UNSIGNED.1, uuid::Uuid::new_v4().simple()));
        match self.proven(realm, &self.throw_away(realm, &bogus, false)).await {
            Err(AuthError::Refused { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(AuthError::OtherWay(TAKES_ANY)),
        }
    }

    /// A credential of this token and nothing else, which nobody shares: until the token is proven it must not become the newest one of
    /// whomever it names.
    fn throw_away(&self, realm: &RealmName, token: &SecretString, exchange: bool) -> Credential {
        let digest = self.salt.text(&[token.expose_secret().as_bytes()]);
        let bearer = BearerToken { secret: token.clone(), expires: None, exchange };
        self.wallet.token(realm, "unknown", &digest, bearer, None)
    }

    /// `known_as`: the name that it had in another process, of which one that cannot be read has one of its own.
    fn taken_by_realm(&self, realm: &RealmName, token: &SecretString, known_as: Option<&str>) -> Result<Principal, AuthError> {
        let claims = claims::unverified(token.expose_secret());
        let expires = claims.as_ref().map(|claims| claims::time(claims, "exp")).transpose().map_err(AuthError::Token)?.flatten();
        let digest = self.salt.text(&[token.expose_secret().as_bytes()]);
        let rights = claims.as_ref().map_or_else(|| digest.clone(), claims::rights);
        let claims = claims.unwrap_or_default();
        let subject = claims.get("sub").and_then(serde_json::Value::as_str).filter(|name| claims::can_be_a_name(name));
        let unnamed = || format!("token {}", digest.get(..8).unwrap_or_default());
        let name = known_as.or(subject).map_or_else(unnamed, str::to_owned);
        let role = self.parts.mappings.role(&Facts::Token { issuer: None, claims: &claims });
        let bearer = BearerToken { secret: token.clone(), expires, exchange: false };
        let credential = self.wallet.token(realm, &name, &rights, bearer, role);
        let proof = Proof::Token { issuer: None, token: token.clone() };
        Ok(Principal::new(name.into(), credential, expires, proof))
    }

    /// A token that was verified before it was sealed.
    fn token_again(
        &self,
        name: &str,
        expires: Option<SystemTime>,
        issuer: Option<String>,
        token: SecretString,
    ) -> Result<Principal, AuthError> {
        let Some(issuer) = issuer else {
            let realm = self.realm.as_ref().ok_or(AuthError::Forgotten("no realm takes its token any more"))?;
            return self.taken_by_realm(realm, &token, Some(name));
        };
        let exchange = self.parts.issuers.as_ref().and_then(|issuers| issuers.exchanges(&issuer));
        let exchange = exchange.ok_or(AuthError::Forgotten("its token's issuer is not configured any more (auth.issuers)"))?;
        let claims = claims::unverified(token.expose_secret()).ok_or(AuthError::Forgotten("its token cannot be read"))?;
        let facts = Facts::Token { issuer: Some(&issuer), claims: &claims };
        let credential = match &self.realm {
            None => self.role_of(&facts, || format!("the token of \"{name}\""))?,
            Some(realm) => {
                let expires = claims::time(&claims, "exp").map_err(AuthError::Token)?;
                let bearer = BearerToken { secret: token.clone(), expires, exchange };
                self.wallet.token(realm, name, &claims::rights(&claims), bearer, self.parts.mappings.role(&facts))
            }
        };
        Ok(Principal::new(name.into(), credential, expires, Proof::Token { issuer: Some(issuer), token }))
    }

    /// Who shows nothing but the certificate of its connection.
    fn certificate(&self, certificate: Option<&Arc<PeerCertificate>>) -> Result<Principal, AuthError> {
        let Some(certificate) = certificate.filter(|_| self.parts.mode == Mode::Mapped) else {
            return Err(AuthError::Missing(self.asked_for()));
        };
        let names = certificate.names.first();
        let name = if certificate.subject.is_empty() { names.map_or("", String::as_str) } else { &certificate.subject };
        let credential = self.role_of(&Facts::Certificate(certificate), || format!("the certificate of \"{name}\""))?;
        let (name, proof) = (name.into(), Proof::Certificate(Arc::clone(certificate)));
        Ok(Principal::new(name, credential, Some(certificate.not_after), proof))
    }

    fn asked_for(&self) -> &'static str {
        match self.parts.mode {
            Mode::Passthrough => "log in with a bearer token, as `authorization: Bearer …`",
            Mode::Polaris => {
                "log in with client id and secret as user name and password, or send a token as `authorization: Bearer …`"
            }
            Mode::None | Mode::Users | Mode::Mapped => {
                "log in with user name and password, or send the token of an earlier log-in as `authorization: Bearer …`"
            }
        }
    }

    /// The credential of who is let in by a mapping only.
    fn role_of(&self, facts: &Facts<'_>, who: impl Fn() -> String) -> Result<Credential, AuthError> {
        let role: Option<&RoleName> = self.parts.mappings.role(facts);
        role.map(|role| self.wallet.role(role)).ok_or_else(|| AuthError::NoMapping(who()))
    }

    async fn proven(&self, realm: &RealmName, credential: &Credential) -> Result<(), AuthError> {
        let realm = realm.clone();
        let Ok(Ok(_turn)) = tokio::time::timeout(TURN_WITHIN, self.questions.acquire()).await else {
            return Err(AuthError::RealmUnavailable { realm, reason: "too many log-ins are being asked about".to_owned() });
        };
        self.realms.prove(credential).await.map_err(|fault| match fault {
            RealmFault::Refused(reason) => AuthError::Refused { realm, reason },
            RealmFault::Unavailable(reason) => AuthError::RealmUnavailable { realm, reason },
        })
    }
}

/// Whether it is worth asking about.
fn could_be_right(user: &str, password: &SecretString) -> bool {
    password.expose_secret().len() <= MAX_PASSWORD_BYTES && claims::can_be_a_name(user)
}

/// Refuses a token that says itself that it has expired. That is believed against the caller only: the realm's own refusal would not
/// say why.
fn unexpired(token: &SecretString) -> Result<(), AuthError> {
    let claims = claims::unverified(token.expose_secret());
    let expires = claims.as_ref().and_then(|claims| claims::time(claims, "exp").ok().flatten());
    match expires.filter(|at| *at <= SystemTime::now()) {
        Some(expired) => Err(AuthError::Token(TokenFault::Expired(expired))),
        None => Ok(()),
    }
}

fn facts_of(verified: &Verified) -> Facts<'_> {
    Facts::Token { issuer: Some(&verified.issuer), claims: &verified.claims }
}

/// The principal of a token that was verified.
fn by_issuer(verified: Verified, credential: Credential, token: &SecretString) -> Proven {
    let proof = Proof::Token { issuer: Some(verified.issuer), token: token.clone() };
    let (name, expires) = (verified.name.into(), Some(verified.taken_until));
    Proven { principal: Principal::new(name, credential, expires, proof), good_for: verified.good_for }
}
