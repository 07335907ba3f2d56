//! How the layers of the config go over one another, what is refused, and what is not shown.

use super::*;

fn with(set: &[&str]) -> Result<Config, ConfigError> {
    let pairs = set.iter().map(|pair| pair.split_once('=').expect("a pair"));
    let sources = Sources { files: Vec::new(), set: pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect() };
    load(merged(&sources, std::iter::empty())?)
}

#[test]
fn the_documented_defaults_are_a_config() {
    with(&[]).expect("defaults");
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    let error = with(&["pool.max_worker=4"]).expect_err("unknown key").to_string();
    assert!(error.contains("unknown key `max_worker`") && error.contains("`max_workers`"), "{error}");
    let error = with(&["flights.listen=x"]).expect_err("unknown section").to_string();
    assert!(error.contains("did you mean `flight`"), "{error}");
}

#[test]
fn a_wrong_type_names_the_path() {
    let error = with(&["pool.max_workers=many"]).expect_err("a text").to_string();
    assert!(error.contains("pool.max_workers"), "{error}");
}

#[test]
fn the_environment_is_over_the_file_and_a_flag_over_both() {
    let variables = [("POLYNYA__POOL__MAX_WORKERS".to_owned(), "3".to_owned())];
    let tree = merged(&Sources::default(), variables.clone().into_iter()).expect("merge");
    assert_eq!(load(tree).expect("load").pool.max_workers, 3);
    let sources = Sources { files: Vec::new(), set: vec![("pool.max_workers".to_owned(), "5".to_owned())] };
    let tree = merged(&sources, variables.into_iter()).expect("merge");
    assert_eq!(load(tree).expect("load").pool.max_workers, 5);
}

#[test]
fn check_config_shows_no_secret() {
    let sources = Sources { files: Vec::new(), set: vec![("auth.key".to_owned(), "planted-secret".to_owned())] };
    let tree = merged(&sources, std::iter::empty()).expect("merge");
    let shown = redacted(&tree).expect("yaml");
    assert!(!shown.contains("planted-secret") && shown.contains("<redacted>"), "{shown}");
}

#[test]
fn check_config_shows_no_secret_of_a_role_and_no_previous_key() {
    let credentials = "{type: oauth2, client_id: gateway, client_secret: planted-one}";
    let set = [
        ("roles.r.catalogs.prod.credentials", credentials),
        ("auth.previous_keys", "[planted-two, {env: SHOWN_NAME}]"),
        ("auth.key", "0x1234"),
    ];
    let set = set.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let tree = merged(&Sources { files: Vec::new(), set }, std::iter::empty()).expect("merge");
    let shown = redacted(&tree).expect("yaml");
    assert!(!shown.contains("planted") && !shown.contains("4660") && !shown.contains("0x1234"), "{shown}");
    assert!(shown.contains("SHOWN_NAME") && shown.contains("client_id: gateway"), "{shown}");
}

#[test]
fn roles_realms_and_mappings_name_what_is_there() {
    let prod = ["catalogs.prod.type=rest", "catalogs.prod.uri=https://a/"];
    let other = ["catalogs.other.type=rest", "catalogs.other.uri=https://b"];
    let ok = |set: &[&str]| with(&[&prod, set].concat()).map(|_| ()).map_err(|error| error.to_string());
    let error = |set: &[&str]| ok(set).expect_err("an error");
    ok(&["auth.mode=polaris"]).expect("the only realm");
    ok(&[&other[..], &["auth.mode=polaris", "auth.realm=https://b"]].concat()).expect("one of two");
    assert!(error(&[&other[..], &["auth.mode=polaris"]].concat()).contains("realms are: https://a, https://b"));
    assert!(error(&["auth.mode=polaris", "auth.realm=c"]).contains("`c` is no catalog's realm; there are: https://a"));
    assert!(with(&["auth.mode=passthrough"]).expect_err("no realm").to_string().contains("no catalog of type rest"));
    assert!(error(&["roles.r.catalogs.nope={}"]).contains("roles.r.catalogs.nope: is not one of the catalogs: lake, prod"));
    assert!(error(&["roles.r.catalogs.lake.credentials={type: none}"]).contains("asks for no credentials"));
    let mapping = "auth.mappings=[{any: true, role: q}]";
    assert!(error(&["auth.mode=mapped", "roles.r.catalogs.lake={}", mapping]).contains("role `q`, which is not in `roles`"));
    let certificate = "auth.mappings=[{certificate: CN=a, role: r}]";
    let text = error(&["auth.mode=mapped", "roles.r.catalogs.lake={}", certificate]);
    assert!(text.contains("flight.tls.client_certificates"), "{text}");
}

#[test]
fn an_unreadable_text_is_not_shown() {
    let variables = [("POLYNYA__AUTH__KEY".to_owned(), "'planted-secret: x".to_owned())];
    let error = merged(&Sources::default(), variables.into_iter()).expect_err("not YAML").to_string();
    assert!(error.contains("POLYNYA__AUTH__KEY") && !error.contains("planted"), "{error}");
}

#[test]
fn limits_that_would_stop_everything_are_refused() {
    for key in ["pool.max_workers", "pool.max_statements", "session.max_sessions", "query.listing_loads", "pool.threads"] {
        let error = with(&[&format!("{key}=0")]).expect_err("a zero").to_string();
        assert!(error.contains(key) && error.contains("at least 1"), "{error}");
    }
}

#[test]
fn every_worker_needs_a_thread_of_the_budget() {
    let error = with(&["pool.thread_budget=5", "pool.max_workers=6"]).expect_err("too few").to_string();
    assert!(error.contains("pool.thread_budget") && error.contains("at least pool.max_workers, 6"), "{error}");
    with(&["pool.thread_budget=6", "pool.max_workers=6"]).expect("enough");
}

#[test]
fn a_default_catalog_must_be_there() {
    let error = with(&["default_catalog=nowhere"]).expect_err("missing catalog").to_string();
    assert!(error.contains("nowhere") && error.contains("lake"), "{error}");
}

/// What comes of these files, each with its name, and `--set` pairs.
fn of_files(files: &[(&str, &str)], set: &[&str]) -> Result<Value, ConfigError> {
    let (dir, sources) = written(files, set);
    let mut tree = merged(&sources, std::iter::empty())?;
    // So that tests can write it down.
    let text = tree.to_string().replace(&dir.path().display().to_string(), "/dir");
    tree = serde_json::from_str(&text).expect("a tree");
    load(tree.clone()).map(|_| tree)
}

const PROJECT: (&str, &str) = (
    "project.yaml",
    "catalogs:
  sales: { endpoint: polaris, warehouse: sales_gold, layers: [gold, silver/sales], request_timeout: 3s }
  crm: { endpoint: polaris, layers: [gold/crm] }
default_catalog: sales
",
);

const PROD: (&str, &str) = (
    "platform-prod.yaml",
    "platform:
  endpoints:
    polaris:
      type: rest
      uri: https://polaris.example.com/api/catalog
      credentials: { type: oauth2, client_id: gateway, client_secret: { env: POLARIS_SECRET } }
      warehouse: everything
      request_timeout: 10s
  layers:
    gold: { location: s3://prod/gold/ }
    silver:
      { location: 's3://prod/silver', region: eu-central-1, access_key_id: polynya, secret_access_key: { file: /run/secrets/silver } }
",
);

#[test]
fn a_catalog_is_made_whole_of_its_endpoint_and_its_layers() {
    let tree = of_files(&[PROJECT, PROD], &[]).expect("a config");
    assert_eq!(tree, of_files(&[PROD, PROJECT], &[]).expect("a config"), "the order of files that say different things");
    let endpoint = &tree["platform"]["endpoints"]["polaris"];
    let sales = &tree["catalogs"]["sales"];
    for key in ["type", "uri", "credentials"] {
        assert_eq!(sales[key], endpoint[key], "{key}");
    }
    assert_eq!((&sales["warehouse"], &sales["request_timeout"]), (&"sales_gold".into(), &"3s".into()), "its own");
    assert_eq!(sales["allowed_locations"], serde_json::json!(["s3://prod/gold/", "s3://prod/silver/sales/"]));
    let stores = serde_json::json!([{
        "location": "s3://prod/silver/sales/", "region": "eu-central-1",
        "access_key_id": "polynya", "secret_access_key": { "file": "/run/secrets/silver" }
    }]);
    assert_eq!(sales["storage"], stores, "keys are for the folder that the catalog names, and a place alone is no store");
    let crm = &tree["catalogs"]["crm"];
    assert_eq!((&crm["warehouse"], &crm["request_timeout"]), (&"everything".into(), &"10s".into()), "the endpoint's");
    assert_eq!(
        (&crm["allowed_locations"], &crm["storage"]),
        (&serde_json::json!(["s3://prod/gold/crm/"]), &serde_json::json!([]))
    );
    assert!(tree["catalogs"].get("lake").is_none(), "the built-in catalog is gone");
    // What is printed is a config again, of the same meaning.
    let printed = redacted(&tree).expect("yaml");
    let again = of_files(&[("again.yaml", &printed)], &[]).expect("a config");
    assert_eq!(again, tree);
}

#[test]
fn the_same_project_has_other_places_in_another_environment() {
    let dev = (
        "there/platform-dev.yaml",
        "platform: { endpoints: { polaris: { type: embedded, path: ./lakes } }, layers: { gold: {}, silver: {} } }",
    );
    let tree = of_files(&[PROJECT, dev], &[]).expect("a config");
    let embedded = |folder: &str| serde_json::json!({ "type": "embedded", "path": format!("/dir/there/lakes/{folder}") });
    assert_eq!(tree["catalogs"]["sales"], embedded("sales_gold"));
    assert_eq!(tree["catalogs"]["crm"], embedded("crm"));
    // A platform may also put a catalog elsewhere as a whole, or name its warehouse.
    let other = ("other.yaml", "catalogs: { sales: { type: embedded, path: mine }, crm: { warehouse: crm_dev } }");
    let tree = of_files(&[PROJECT, dev, other], &[]).expect("a config");
    assert_eq!(tree["catalogs"]["sales"], serde_json::json!({ "type": "embedded", "path": "/dir/mine" }));
    assert_eq!(tree["catalogs"]["crm"], embedded("crm_dev"));
    let lake = ("lake.yaml", "catalogs: { lake: { endpoint: polaris } }");
    let tree = of_files(&[dev, lake], &[]).expect("a catalog with the name of the built-in one");
    assert_eq!(tree["catalogs"], serde_json::json!({ "lake": embedded("lake") }));
}

#[test]
fn the_example_files_go_together() {
    let file = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    let with = |platform: &str| {
        let files = vec![file("example-project.yaml"), file(platform)];
        let tree = merged(&Sources { files, set: Vec::new() }, std::iter::empty()).expect(platform);
        load(tree).expect(platform)
    };
    let (dev, prod) = (with("example-platform-dev.yaml"), with("example-platform-prod.yaml"));
    let names = |config: &Config| config.catalogs.keys().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!((names(&dev), names(&dev)), (vec!["crm".to_owned(), "sales".to_owned()], names(&prod)));
    let CatalogConfig::Embedded { path } = &dev.catalogs[&"sales".into()] else { panic!() };
    assert!(path.ends_with("config/lakes/sales"), "{}", path.display());
    let CatalogConfig::Rest(sales) = &prod.catalogs[&"sales".into()] else { panic!() };
    assert_eq!(sales.allowed_locations, ["s3://silver/sales/", "s3://lake-prod/gold/"]);
    let defaults = |catalog: &str, schema: &str| Some(Defaults::now(catalog.into(), schema.to_owned()));
    for config in [dev, prod] {
        assert_eq!(config.beginnings().role(&"support".into()).cloned(), defaults("crm", "tickets"));
        assert_eq!(config.beginnings().role(&"analyst".into()).cloned(), defaults("sales", "gold"));
    }
}

#[test]
fn what_is_the_platforms_is_not_said_by_a_catalog() {
    let refused = |set: &[&str]| of_files(&[PROJECT, PROD], set).expect_err("a refusal").to_string();
    for (key, value) in [
        ("uri", "https://elsewhere.example.com"),
        ("credentials", "{type: none}"),
        ("callers", "{token_uri: 'https://elsewhere.example.com'}"),
        ("realm", "other"),
        ("ca_file", "/tmp/own.pem"),
        ("access_delegation", "none"),
        ("allowed_endpoints", "[]"),
        ("type", "embedded"),
    ] {
        let error = refused(&[&format!("catalogs.sales.{key}={value}")]);
        let expected = format!("config: catalogs.sales.{key}: belongs to the platform, as platform.endpoints.polaris.{key};");
        assert!(error.starts_with(&expected), "{error}");
    }
    for key in ["allowed_locations", "storage"] {
        let error = refused(&[&format!("catalogs.sales.{key}=[]")]);
        assert!(error.contains(&format!("catalogs.sales.{key}: comes from the platform's layers")), "{error}");
        let error = refused(&[&format!("platform.endpoints.polaris.{key}=[]")]);
        assert!(error.contains(&format!("platform.endpoints.polaris.{key}: is a layer's")), "{error}");
    }
    let error = refused(&["catalogs.sales.warehous=x"]);
    assert!(error.contains("unknown key `warehous`; did you mean `warehouse`?"), "{error}");
}

#[test]
fn names_of_the_platform_that_are_not_there_are_refused_with_those_that_are() {
    let refused = |set: &[&str]| of_files(&[PROJECT, PROD], set).expect_err("a refusal").to_string();
    for (set, expected) in [
        (
            "catalogs.sales.endpoint=polarix",
            "catalogs.sales.endpoint: `polarix` is not one of platform.endpoints; there are: polaris",
        ),
        ("catalogs.sales.endpoint=[]", "catalogs.sales.endpoint: must be the name"),
        (
            "catalogs.sales.layers=[bronze]",
            "catalogs.sales.layers: `bronze` is not one of platform.layers; there are: gold, silver",
        ),
        ("catalogs.sales.layers=gold", "catalogs.sales.layers: must be a list"),
        ("catalogs.sales.layers=[]", "name some of platform.layers; there are: gold, silver"),
        ("catalogs.more.endpoint=polaris", "catalogs.more.layers: is missing or empty"),
        ("catalogs.sales.layers=['gold/../silver']", "a layer's name may be followed by folders in it only"),
        ("catalogs.sales.layers=['gold/%2e%2e']", "folders in it only"),
        (
            "catalogs.new={}",
            "catalogs.new: must name an `endpoint` of platform.endpoints or have a `type`, embedded or rest; of endpoints there are: polaris",
        ),
        ("catalogs.own={type: embedded, path: x, layers: [gold]}", "catalogs.own.layers: go with an `endpoint`"),
        ("platform.endpoints.polaris.urii=x", "platform.endpoints.polaris: unknown key `urii`; did you mean `uri`?"),
        ("platform.layer.gold={}", "platform.layer: unknown key `layer`; did you mean `layers`?"),
        ("platform.layers.gold={location: ~, region: x}", "platform.layers.gold.location: is missing"),
        ("platform.layers.gold.location=lake/gold", "platform.layers.gold.location: \"lake/gold\" is no storage location"),
        ("platform.layers.gold.location='s3:///gold'", "is no storage location such as s3://lake/gold/"),
        ("platform.layers.gold={location: 'file:///w/', region: x}", "nothing besides its location"),
    ] {
        let error = refused(&[set]);
        assert!(error.contains(expected), "{set}: {error}");
    }
}

#[test]
fn a_directory_for_an_embedded_catalog_is_one_of_the_endpoints_own() {
    let dev = ("dev.yaml", "platform: { endpoints: { local: { type: embedded, path: lakes } } }");
    for wrong in ["../x", "/etc", "..", "a/b", ""] {
        let error = of_files(&[dev], &["catalogs.own.endpoint=local", &format!("catalogs.own.warehouse='{wrong}'")]);
        let error = error.expect_err("a refusal").to_string();
        assert!(error.contains("catalogs.own.warehouse") && error.contains("must be the name of one"), "{error}");
    }
}

#[test]
fn the_platform_says_where_its_secrets_are_and_holds_none() {
    for key in [
        "platform.endpoints.polaris.credentials.client_secret",
        "platform.endpoints.polaris.callers.exchange.client.client_secret",
        "platform.layers.silver.secret_access_key",
        "platform.layers.silver.session_token",
    ] {
        let set = format!("{key}=planted-secret");
        let error = of_files(&[PROJECT, PROD], &[&set]).expect_err("a secret").to_string();
        assert!(error.contains(&format!("{key}: must be {{ env: NAME }} or {{ file: PATH }}")), "{error}");
        assert!(!error.contains("planted"), "{error}");
    }
}

#[test]
fn later_files_count_over_earlier_ones() {
    let first =
        ("first.yaml", "catalogs: { a: { type: embedded, path: x } }\npool: { max_workers: 3, queue: 7 }\ndefault_catalog: a");
    let second = ("second.yaml", "catalogs: { b: { type: embedded, path: z } }\npool: { max_workers: 4 }");
    let tree = of_files(&[first, second], &[]).expect("a config");
    assert_eq!((&tree["pool"]["max_workers"], &tree["pool"]["queue"]), (&4.into(), &7.into()));
    let names: Vec<&String> = tree["catalogs"].as_object().expect("a map").keys().collect();
    assert_eq!(names, ["a", "b"], "the built-in catalog makes way, those of files don't");
    let turned = of_files(&[second, first], &[]).expect("a config");
    assert_eq!(turned["pool"]["max_workers"], 3);
}

#[test]
fn a_file_that_has_no_sections_is_named() {
    for text in ["- a", "catalogs", "7"] {
        let error = of_files(&[("odd.yaml", text)], &[]).expect_err("no sections").to_string();
        assert!(error.contains("odd.yaml: a config file has sections"), "{error}");
    }
    of_files(&[("empty.yaml", "# nothing")], &[]).expect("the defaults");
    // Lists where maps belong are told, too.
    for set in
        ["platform=[]", "platform.endpoints.a=[rest]", "platform.layers.gold=[s3]", "catalogs.sales=[x]", "platform.endpoints=[]"]
    {
        let error = of_files(&[PROJECT, PROD], &[set]).expect_err(set).to_string();
        assert!(error.starts_with("config: platform") || error.starts_with("config: catalogs"), "{set}: {error}");
    }
}

#[test]
fn a_role_begins_in_a_catalog_that_it_opens() {
    let prod = ["catalogs.prod.type=rest", "catalogs.prod.uri=https://a/"];
    let role = "roles.r.catalogs.lake={}";
    let ok = |set: &[&str]| with(&[&prod, set].concat()).map(|config| config.beginnings()).map_err(|error| error.to_string());
    let beginnings = ok(&[role, "roles.r.default_catalog=lake", "roles.r.default_schema=gold"]).expect("a role");
    assert_eq!(beginnings.role(&"r".into()).map(|d| (d.catalog.as_str(), d.schema.as_str())), Some(("lake", "gold")));
    let error = |set: &[&str]| ok(set).expect_err("an error");
    let text = error(&[role, "roles.r.default_catalog=prod"]);
    assert!(text.contains("roles.r.default_catalog: the role does not open `prod`; its catalogs are: lake"), "{text}");
    let text = error(&[role, "roles.r.default_catalog=nowhere"]);
    assert!(text.contains("roles.r.default_catalog: `nowhere` is not one of the catalogs: lake, prod"), "{text}");
    let text = error(&[role, "roles.r.default_schema=''"]);
    assert!(text.contains("roles.r.default_schema: is empty"), "{text}");
    // Callers who log in to the catalog's realm open it without their role.
    ok(&[role, "roles.r.default_catalog=prod", "auth.mode=polaris"]).expect("the realm of the callers");
}

#[test]
fn what_a_catalog_says_is_of_its_type_at_endpoints_of_either_kind() {
    let dev =
        ("dev.yaml", "platform: { endpoints: { polaris: { type: embedded, path: lakes } }, layers: { gold: {}, silver: {} } }");
    for platform in [dev, PROD] {
        for (key, value) in [("request_timeout", "bogus"), ("connect_timeout", "7"), ("warehouse", "2024"), ("prefix", "[a]")] {
            let error = of_files(&[PROJECT, platform], &[&format!("catalogs.sales.{key}={value}")]).expect_err(key).to_string();
            assert!(error.starts_with(&format!("config: catalogs.sales.{key}: invalid")), "{error}");
        }
    }
}

#[test]
fn embedded_catalogs_have_directories_of_their_own() {
    let dev =
        ("dev.yaml", "platform: { endpoints: { polaris: { type: embedded, path: lakes } }, layers: { gold: {}, silver: {} } }");
    let same = of_files(&[PROJECT, dev], &["catalogs.crm.warehouse=sales_gold"]).expect_err("one directory").to_string();
    assert!(same.contains("catalogs.sales: its directory") && same.contains("is that of catalog `crm` too"), "{same}");
    let error = with(&["catalogs.a={type: embedded, path: x/./y/}", "catalogs.b={type: embedded, path: x//y}"]);
    assert!(error.expect_err("one directory").to_string().contains("catalogs.b: "));
}

#[test]
fn a_section_without_anything_in_it_counts_as_left_out() {
    let text = "roles:\n  # analyst: {}\nplatform:\n  endpoints:\n  layers:\npool:\ncatalogs:\n";
    let tree = of_files(&[("comments.yaml", text)], &[]).expect("the defaults");
    assert_eq!(tree, of_files(&[], &[]).expect("the defaults"));
    let error = of_files(&[("catalog.yaml", "catalogs: { mine: ~ }")], &[]).expect_err("a catalog without anything").to_string();
    assert!(error.contains("mine"), "{error}");
}

#[test]
fn credentials_of_another_type_take_the_whole_place_of_those_before() {
    let bearer = "{ type: bearer, token: { env: TOKEN } }";
    let of_role = |shown: &str| format!("roles: {{ r: {{ catalogs: {{ sales: {{ reader_credentials: {shown} }} }} }} }}");
    let first = of_role("{ type: oauth2, client_id: a, client_secret: { env: A } }");
    let then = format!("{}\nplatform: {{ endpoints: {{ polaris: {{ credentials: {bearer} }} }} }}", of_role(bearer));
    let tree = of_files(&[PROJECT, PROD, ("first.yaml", &first), ("then.yaml", &then)], &[]).expect("a config");
    let expected = serde_json::json!({ "type": "bearer", "token": { "env": "TOKEN" } });
    assert_eq!(tree["catalogs"]["sales"]["credentials"], expected);
    assert_eq!(tree["roles"]["r"]["catalogs"]["sales"]["reader_credentials"], expected);
    // Without a type, or with the same, they are added to.
    let more = ("more.yaml", "platform: { endpoints: { polaris: { credentials: { scope: all } } } }");
    let tree = of_files(&[PROJECT, PROD, more], &[]).expect("a config");
    assert_eq!(tree["catalogs"]["sales"]["credentials"]["client_id"], "gateway");
}

#[test]
fn secrets_in_addresses_and_in_wrong_places_are_not_shown() {
    let set = [
        ("catalogs.prod", "{type: rest, uri: 'https://user:planted@a.example.com/api?key=planted', warehouse: w@x}"),
        ("catalogs.prod.allowed_locations", "['s3://lake/a@b/']"),
        ("catalogs.prod.allowed_endpoints", "['https://planted@store.example.com?planted']"),
    ];
    let set = set.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let tree = merged(&Sources { files: Vec::new(), set }, std::iter::empty()).expect("merge");
    let shown = redacted(&tree).expect("yaml");
    assert!(!shown.contains("planted"), "{shown}");
    for kept in
        ["https://<redacted>@a.example.com/api?<redacted>", "https://<redacted>@store.example.com?<redacted>", "s3://lake/a@b/"]
    {
        assert!(shown.contains(kept), "{kept}: {shown}");
    }
    let prod = ["catalogs.prod={type: rest, uri: 'https://a/'}"];
    for place in
        ["catalogs.prod.credentials", "catalogs.prod.callers", "roles.r.catalogs.prod.credentials", "auth.mappings", "auth"]
    {
        let wrong = format!("{place}='planted, expected \"x'");
        let error = with(&[&prod[..], &[&wrong]].concat()).expect_err(place).to_string();
        assert!(!error.contains("planted") && error.contains("expected"), "{error}");
    }
}

#[test]
fn relative_paths_in_a_file_are_meant_from_where_it_lies() {
    let project = "flight: { tls: { cert_file: tls.crt, key_file: /etc/tls.key } }
auth: { key: { file: ./key }, previous_keys: [{ file: old }, text], users: [{ name: a, password_hash: { file: hashes/a } }] }
session: { closed_file: closed }
pool: { run_dir: run }
catalogs:
  key: { type: rest, uri: 'https://a', ca_file: ca.pem, credentials: { type: bearer, token: { file: token } } }
default_catalog: key
roles: { r: { catalogs: { key: { credentials: { type: oauth2, client_id: a, client_secret: { file: r } } } } } }
";
    let platform = "platform:
  layers: { gold: { location: 's3://b', access_key_id: a, secret_access_key: { file: store }, ca_file: ../ca.pem } }
";
    // Both are YAML; the option is of the working directory.
    let tree = merged_of(&[("a/project.yaml", project), ("b/platform.yaml", platform)], &["auth.issuers=[{ca_file: here.pem}]"]);
    for (pointer, path) in [
        ("/flight/tls/cert_file", "/dir/a/tls.crt"),
        ("/flight/tls/key_file", "/etc/tls.key"),
        ("/auth/key/file", "/dir/a/key"),
        ("/auth/previous_keys/0/file", "/dir/a/old"),
        ("/auth/previous_keys/1", "text"),
        ("/auth/users/0/password_hash/file", "/dir/a/hashes/a"),
        ("/session/closed_file", "/dir/a/closed"),
        ("/pool/run_dir", "/dir/a/run"),
        ("/catalogs/key/ca_file", "/dir/a/ca.pem"),
        ("/catalogs/key/credentials/token/file", "/dir/a/token"),
        ("/roles/r/catalogs/key/credentials/client_secret/file", "/dir/a/r"),
        ("/platform/layers/gold/secret_access_key/file", "/dir/b/store"),
        ("/platform/layers/gold/ca_file", "/dir/b/../ca.pem"),
        ("/auth/issuers/0/ca_file", "here.pem"),
    ] {
        assert_eq!(tree.pointer(pointer), Some(&Value::from(path)), "{pointer}");
    }
}

/// What these come to, whatever it means.
fn merged_of(files: &[(&str, &str)], set: &[&str]) -> Value {
    let (dir, sources) = written(files, set);
    let tree = merged(&sources, std::iter::empty()).expect("a tree");
    serde_json::from_str(&tree.to_string().replace(&dir.path().display().to_string(), "/dir")).expect("a tree")
}

/// Files in a directory, and `--set` pairs.
fn written(files: &[(&str, &str)], set: &[&str]) -> (tempfile::TempDir, Sources) {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |(name, text): &(&str, &str)| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, text).expect("a file");
        path
    };
    let files = files.iter().map(write).collect();
    let pairs = set.iter().map(|pair| pair.split_once('=').expect("a pair"));
    let set = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    (dir, Sources { files, set })
}

#[test]
fn a_setting_is_named_with_who_says_it() {
    let project = "catalogs:
  sales: { endpoint: p, layers: [gold/sales, silver] }
  own: { type: rest, uri: 'https://a' }
default_catalog: sales
";
    let platform = "platform:
  endpoints: { p: { type: rest, uri: 'https://p', warehouse: all } }
  layers: { gold: { location: 's3://gold/' }, silver: { location: 's3://silver' } }
";
    let (dir, sources) = written(&[("project.yaml", project), ("platform.yaml", platform)], &["catalogs.own.uri=https://b"]);
    let variables = [("POLYNYA__PLATFORM__LAYERS__SILVER__REGION".to_owned(), "x".to_owned())];
    let origins = origins::Origins::of(&sources, variables.into_iter()).expect("origins");
    let shown = |text: String| text.replace(&dir.path().display().to_string(), "");
    let sales = origins.of_catalog(&"sales".into());
    assert_eq!(shown(sales.uri), "platform.endpoints.p.uri [/platform.yaml]");
    assert_eq!(shown(sales.ca_file), "platform.endpoints.p.ca_file [/platform.yaml]", "where it would be set");
    assert_eq!(shown(sales.warehouse), "platform.endpoints.p.warehouse [/platform.yaml]", "as the catalog says none");
    assert_eq!(sales.layers.map(shown).as_deref(), Some("catalogs.sales.layers [/project.yaml]"));
    let stores: Vec<(String, String)> = sales.stores.into_iter().map(|store| (store.location, shown(store.key))).collect();
    // Each says a part of it.
    let silver = "platform.layers.silver [/platform.yaml, POLYNYA__PLATFORM__LAYERS__SILVER__REGION]";
    assert_eq!(stores[0], ("s3://gold/sales".to_owned(), "platform.layers.gold [/platform.yaml]".to_owned()));
    assert_eq!(stores[1], ("s3://silver/".to_owned(), silver.to_owned()));
    let own = origins.of_catalog(&"own".into());
    assert_eq!(
        (own.uri.as_str(), shown(own.ca_file).as_str()),
        ("catalogs.own.uri [--set]", "catalogs.own.ca_file [/project.yaml]")
    );
    assert_eq!(origins.of_catalog(&"lake".into()).path, "catalogs.lake.path");
}
