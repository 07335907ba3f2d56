//! Owns what a stand-in starts with: realms, warehouses, principals, roles and grants, also as JSON. Refuses to change anything later.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::generated::GeneratedSetup;
use super::identity::authorize::{Grant, Privilege};

/// The name of the realm of requests that name none.
pub const HOME: &str = "POLARIS";

/// Everything at the start.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// The first one is that of requests that name none.
    pub realms: Vec<RealmSetup>,
    /// The port to listen on; 0 chooses one.
    #[serde(default)]
    pub port: u16,
    /// Whether it speaks TLS, HTTP/2 included, with a certificate of its own: [`StandIn::certificate`](super::StandIn::certificate).
    #[serde(default)]
    pub tls: bool,
}

/// One realm: principals and warehouses that know nothing of those of others.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RealmSetup {
    pub name: String,
    #[serde(default)]
    pub warehouses: Vec<WarehouseSetup>,
    #[serde(default)]
    pub principals: Vec<PrincipalSetup>,
    /// Principal role → the catalog roles that it uses, as `warehouse.catalog_role`.
    #[serde(default)]
    pub principal_roles: BTreeMap<String, BTreeSet<String>>,
    /// How long its tokens live.
    #[serde(default = "an_hour")]
    pub token_lifetime_s: u64,
    /// Identity providers whose tokens are taken as they are, and may be exchanged.
    #[serde(default)]
    pub issuers: Vec<IssuerSetup>,
}

fn an_hour() -> u64 {
    3600
}

/// One catalog.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarehouseSetup {
    pub name: String,
    /// Where its files lie; a directory of its own, gone with the stand-in, when none is given.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// Says that it lies in S3: locations are shown as there, and credentials are vended. Metadata files stay in the directory.
    #[serde(default)]
    pub s3: Option<S3Setup>,
    /// Whether tables may be dropped with their files. A Polaris refuses that unless it is configured to.
    #[serde(default)]
    pub purge: bool,
    /// Tables that it shows without having them, in namespaces of their own.
    #[serde(default)]
    pub generated: Option<GeneratedSetup>,
    /// Namespaces that are there, levels joined by dots.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Catalog role → its grants.
    #[serde(default)]
    pub roles: BTreeMap<String, Vec<Grant>>,
}

/// A warehouse in S3.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Setup {
    /// `s3://bucket/path/`.
    pub base: String,
    pub endpoint: String,
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: String,
    /// How long vended credentials say that they live.
    #[serde(default = "a_quarter_hour")]
    pub lifetime_s: u64,
}

fn a_quarter_hour() -> u64 {
    900
}

/// One principal.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrincipalSetup {
    pub name: String,
    pub client_id: String,
    pub client_secret: String,
    /// Its principal roles.
    #[serde(default)]
    pub roles: BTreeSet<String>,
}

/// An identity provider.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerSetup {
    /// The `iss` of its tokens.
    pub issuer: String,
    /// Its keys. Without them they are read from its discovery document, and again when a token names one that is not among them.
    #[serde(default)]
    pub jwks: Option<Value>,
    /// Any of them will do; none means that the audience is not looked at.
    #[serde(default)]
    pub audience: BTreeSet<String>,
    /// The claim with the principal's name.
    #[serde(default = "sub")]
    pub name_claim: String,
    /// The claim with a list of principal roles to activate; without it all are.
    #[serde(default)]
    pub roles_claim: Option<String>,
}

fn sub() -> String {
    "sub".to_owned()
}

impl Setup {
    /// The users of the recorded Polaris on a warehouse `lakehouse` of local files, with the namespaces `bronze`, `silver` and
    /// `gold`: `analyst` may read `gold` only, `engineer` may do everything with contents, `root` too.
    pub fn lakehouse() -> Self {
        Self::of(WarehouseSetup::three_layers("lakehouse"))
    }

    /// The same with the warehouse in S3, as it was recorded; the storage itself need not be there.
    pub fn recorded() -> Self {
        let mut warehouse = WarehouseSetup::three_layers("lakehouse");
        warehouse.s3 = Some(S3Setup {
            base: "s3://lake1/lakehouse/".to_owned(),
            endpoint: "http://127.0.0.1:9002".to_owned(),
            region: "us-east-1".to_owned(),
            access_key_id: "vended-key".to_owned(),
            secret_access_key: "vended-secret".to_owned(),
            session_token: "vended-session".to_owned(),
            lifetime_s: a_quarter_hour(),
        });
        Self::of(warehouse)
    }

    fn of(warehouse: WarehouseSetup) -> Self {
        let uses = |role: &str| BTreeSet::from([format!("{}.{role}", warehouse.name)]);
        let realm = RealmSetup {
            name: HOME.to_owned(),
            principals: vec![
                PrincipalSetup::named("root", "service_admin"),
                PrincipalSetup::named("engineer", "engineers"),
                PrincipalSetup::named("analyst", "analysts"),
            ],
            principal_roles: BTreeMap::from([
                ("service_admin".to_owned(), uses("catalog_admin")),
                ("engineers".to_owned(), uses("content_writer")),
                ("analysts".to_owned(), uses("gold_reader")),
            ]),
            warehouses: vec![warehouse],
            token_lifetime_s: an_hour(),
            issuers: Vec::new(),
        };
        Self { realms: vec![realm], port: 0, tls: false }
    }

    /// The same with so many generated tables in each warehouse.
    pub fn with_generated(mut self, generated: GeneratedSetup) -> Self {
        for warehouse in self.realms.iter_mut().flat_map(|realm| &mut realm.warehouses) {
            warehouse.generated = Some(generated.clone());
        }
        self
    }

    /// The same behind TLS.
    pub fn with_tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// The same with tokens that live so long.
    pub fn with_token_lifetime(mut self, seconds: u64) -> Self {
        self.realms.iter_mut().for_each(|realm| realm.token_lifetime_s = seconds);
        self
    }
}

impl WarehouseSetup {
    /// A warehouse of local files with the namespaces and catalog roles of the recorded one.
    pub fn three_layers(name: &str) -> Self {
        let reader = [Privilege::NamespaceReadProperties, Privilege::TableList, Privilege::TableReadData, Privilege::ViewList];
        let mut reader: Vec<Grant> = reader.into_iter().map(|privilege| Grant::on_namespace(privilege, "gold")).collect();
        reader.push(Grant::everywhere(Privilege::NamespaceList));
        let all = vec![Grant::everywhere(Privilege::CatalogManageContent)];
        Self {
            name: name.to_owned(),
            directory: None,
            s3: None,
            purge: false,
            generated: None,
            namespaces: ["bronze", "silver", "gold"].map(str::to_owned).to_vec(),
            roles: BTreeMap::from([
                ("catalog_admin".to_owned(), all.clone()),
                ("content_writer".to_owned(), all),
                ("gold_reader".to_owned(), reader),
            ]),
        }
    }
}

impl PrincipalSetup {
    /// A principal with one principal role, the client id `<name>-client-id` and the secret `<name>-secret`.
    pub fn named(name: &str, role: &str) -> Self {
        Self {
            name: name.to_owned(),
            client_id: format!("{name}-client-id"),
            client_secret: format!("{name}-secret"),
            roles: BTreeSet::from([role.to_owned()]),
        }
    }
}
