//! The same with a config in two tiers: advice names the key, and the file, in which an operator changes it.

use super::{Told, check, filled};
use crate::harness::Nobody;
use crate::pki::{Authority, Files};
use crate::s3_front::minio::KEY;
use crate::stand_in::Setup;

const PROJECT: &str = "catalogs:
  sales: { endpoint: polaris, warehouse: lakehouse, layers: [gold] }
default_catalog: sales
";

/// A catalog of a project file on a platform file, side by side, with paths that are meant from there.
struct Tiers {
    files: Files,
}

impl Tiers {
    fn new() -> Self {
        let files = Files::new();
        files.write("project.yaml", PROJECT);
        Self { files }
    }

    fn platform(&self, endpoint: &str, layer: &str) -> &Self {
        let text = format!("platform:\n  endpoints:\n    polaris: {endpoint}\n  layers:\n    gold: {layer}\n");
        self.files.write("platform.yaml", &text);
        self
    }

    fn check(&self, more: &[&str]) -> Told {
        let [project, platform] = ["project.yaml", "platform.yaml"].map(|name| self.files.path(name).display().to_string());
        check("sales", &[], &[&["--config", &project, "--config", &platform][..], more].concat())
    }

    /// A key as advice names it.
    fn key(&self, key: &str, file: &str) -> String {
        format!("{key} [{}]", self.files.path(file).display())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn advice_names_the_platform_s_keys_and_their_file() {
    let (polaris, set) = filled(Setup::lakehouse().with_tls()).await;
    let base = set.iter().find_map(|pair| pair.strip_prefix("catalogs.rest.allowed_locations=['")).expect("locations");
    let layer = format!("{{ location: '{}' }}", base.trim_end_matches("']"));
    let tiers = Tiers::new();
    tiers.files.write("secret", "engineer-secret\n");
    tiers.files.write("wrong", "not-a-secret");
    tiers.files.write("ca.pem", polaris.certificate().expect("TLS"));
    tiers.files.write("other.pem", &Authority::new("another").pem);
    let endpoint = |uri: &str, secret: &str, more: &str, ca: &str| {
        let credentials = format!("{{ type: oauth2, client_id: engineer-client-id, client_secret: {{ file: {secret} }}{more} }}");
        format!("{{ type: rest, uri: '{uri}', ca_file: {ca}, credentials: {credentials} }}")
    };
    let own = polaris.uri();
    let of_platform = |key: &str| tiers.key(&format!("platform.endpoints.polaris.{key}"), "platform.yaml");
    tiers.platform(&endpoint(&own, "./secret", "", "ca.pem"), &layer).check(&[]).is_well();

    let at = |uri: &str, secret: &str, more: &str, ca: &str| tiers.platform(&endpoint(uri, secret, more, ca), &layer).check(&[]);
    let nowhere = "https://catalog.invalid/api/catalog";
    at(nowhere, "secret", "", "ca.pem").names("reach", "wrong_host", &of_platform("uri"));
    let nobody = Nobody::new();
    at(&format!("https://{}/api/catalog", nobody.addr()), "secret", "", "ca.pem").names(
        "reach",
        "wrong_port",
        &of_platform("uri"),
    );
    at(&own, "secret", "", "other.pem").names("tls", "bad_ca", &of_platform("ca_file"));
    at(&own, "wrong", "", "ca.pem").names("token", "bad_secret", &of_platform("credentials"));
    at(&own, "secret", ", scope: all-of-it", "ca.pem").names("token", "bad_scope", &of_platform("credentials"));
    let elsewhere = format!(", token_uri: '{own}/nowhere'");
    at(&own, "secret", &elsewhere, "ca.pem").names("token", "wrong_token_uri", &of_platform("credentials"));

    let outside = "{ location: 's3://lake/gold/' }";
    let told = tiers.platform(&endpoint(&own, "secret", "", "ca.pem"), outside).check(&[]);
    told.names("load", "outside_locations", &tiers.key("platform.layers.gold", "platform.yaml"));
    told.names("load", "outside_locations", &tiers.key("catalogs.sales.layers", "project.yaml"));
    tiers.platform(&endpoint(&own, "secret", "", "ca.pem"), &layer);
    tiers.files.write("project.yaml", &PROJECT.replace("warehouse: lakehouse", "warehouse: elsewhere"));
    tiers.check(&[]).names("warehouse", "no_warehouse", &tiers.key("catalogs.sales.warehouse", "project.yaml"));
    // An option is over both files.
    let told = tiers.check(&["--set", "catalogs.sales.warehouse=nowhere"]);
    told.names("warehouse", "no_warehouse", "catalogs.sales.warehouse [--set]");

    tiers.files.write("project.yaml", "catalogs: { sales: { endpoint: polaris } }\ndefault_catalog: sales\n");
    tiers.platform("{ type: embedded, path: ca.pem }", &layer).check(&[]).names("reach", "directory", &of_platform("path"));
}

/// With a store of its own, for the test that has one.
pub(super) fn a_layer_is_named_where_its_region_is_wrong(uri: &str, store: &str) {
    let tiers = Tiers::new();
    tiers.files.write("project.yaml", &PROJECT.replace("warehouse: lakehouse, ", ""));
    let layer = format!(
        "{{ location: 's3://lake/warehouse', endpoint: '{store}', region: eu-north-1, path_style: true, access_key_id: {KEY}, \
         secret_access_key: {{ env: STORE_SECRET }} }}"
    );
    let told = tiers.platform(&format!("{{ type: rest, uri: '{uri}' }}"), &layer).check(&[]);
    told.names("read", "wrong_region", &format!("region in {}", tiers.key("platform.layers.gold", "platform.yaml")));
}
