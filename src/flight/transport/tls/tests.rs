//! What is said of wrong files and settings, and what is served from right ones.

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::*;

struct Pair {
    cert: String,
    key: String,
}

fn pair(not_after: i32) -> Pair {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(not_after, 1, 1));
    let key = KeyPair::generate().unwrap();
    Pair { cert: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

struct Case {
    dir: TempDir,
    config: Config,
}

impl Case {
    fn new(cert: &str, key: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let [cert_file, key_file] = [("cert", cert), ("key", key)].map(|(name, text)| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        });
        let reload = Duration::from_secs(10);
        let config = Config { cert_file, key_file, client_ca_file: None, client_certificates: ClientCertificates::None, reload };
        Self { dir, config }
    }

    fn good() -> Self {
        let pair = pair(2040);
        Self::new(&pair.cert, &pair.key)
    }

    fn refused(&self) -> String {
        let error = check(&self.config).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        format!("{error}: {source}")
    }
}

#[track_caller]
fn says(text: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(text.contains(wanted), "no {wanted:?} in: {text}");
    }
}

#[test]
fn an_error_names_the_setting_the_file_and_what_is_wrong() {
    let (good, other) = (pair(2040), pair(2040));
    let cut = &good.cert[..good.cert.len() / 2];
    let with_wrong_base64 = good.cert.replacen("MII", "M!!", 1);
    for (cert, key, wanted) in [
        ("", &*good.key, &["flight.tls.cert_file: ", "/cert has no certificate in PEM form"][..]),
        (&good.key, &good.key, &["flight.tls.cert_file: ", "has no certificate"]),
        (cut, &good.key, &["flight.tls.cert_file: ", "cut short"]),
        (&with_wrong_base64, &good.key, &["flight.tls.cert_file: ", "not base64"]),
        (&good.cert, "", &["flight.tls.key_file: ", "/key has no private key without a passphrase"]),
        (&good.cert, &good.cert, &["flight.tls.key_file: ", "has no private key"]),
        (&good.cert, &other.key, &["/key (flight.tls.key_file) does not fit", "/cert (flight.tls.cert_file)"]),
    ] {
        says(&Case::new(cert, key).refused(), wanted);
    }
}

#[test]
fn a_broken_key_is_not_shown() {
    let good = pair(2040);
    let cut = &good.key[..good.key.len() / 2];
    let text = Case::new(&good.cert, cut).refused();
    says(&text, &["flight.tls.key_file", "cut short"]);
    assert!(!text.contains(good.key.lines().nth(1).unwrap()), "{text}");
}

#[test]
fn a_missing_file_is_named() {
    let mut case = Case::good();
    case.config.key_file = case.dir.path().join("nowhere");
    says(&case.refused(), &["flight.tls.key_file: cannot read", "/nowhere", "No such file"]);
}

#[test]
fn client_certificates_and_their_authorities_go_together() {
    let mut case = Case::good();
    case.config.client_certificates = ClientCertificates::Required;
    says(&case.refused(), &["client_certificates needs flight.tls.client_ca_file"]);
    case.config.client_ca_file = Some(case.config.key_file.clone());
    says(&case.refused(), &["flight.tls.client_ca_file: ", "has no certificate"]);
    case.config.client_ca_file = Some(case.config.cert_file.clone());
    assert_eq!(check(&case.config).unwrap(), Vec::<String>::new());
    case.config.client_certificates = ClientCertificates::None;
    says(&case.refused(), &["clients are not asked"]);
}

#[test]
fn an_expired_certificate_is_a_warning() {
    let old = pair(2002);
    let warnings = check(&Case::new(&old.cert, &old.key).config).unwrap();
    assert_eq!(warnings.len(), 1);
    says(&warnings[0], &["EXPIRED", "/cert", "2002-01-01T00:00:00Z"]);
}

#[test]
fn the_section_is_read_strictly() {
    let read = |text: &str| serde_json::from_str::<Config>(text);
    let config = read(r#"{"cert_file": "a", "key_file": "b", "client_certificates": "optional", "reload": "1m"}"#).unwrap();
    assert_eq!((config.client_certificates, config.reload), (ClientCertificates::Optional, Duration::from_secs(60)));
    assert_eq!(read(r#"{"cert_file": "a", "key_file": "b"}"#).unwrap().reload, Duration::from_secs(10));
    says(&read(r#"{"cert_file": "a"}"#).unwrap_err().to_string(), &["key_file"]);
    says(&read(r#"{"cert_file": "a", "key_file": "b", "ca": "c"}"#).unwrap_err().to_string(), &["unknown field `ca`"]);
    let case = Case::good();
    let config = Config { reload: Duration::ZERO, ..case.config.clone() };
    says(&check(&config).unwrap_err().to_string(), &["flight.tls.reload"]);
}

#[tokio::test]
async fn changed_files_are_taken_and_broken_ones_are_not() {
    let mut case = Case::good();
    case.config.reload = Duration::from_millis(100);
    let certificates = Certificates::open(case.config.clone()).unwrap();
    let mut current = certificates.current();
    let first = Arc::clone(&current.borrow_and_update());
    let task = tokio::spawn(certificates.keep_reloaded());
    std::fs::write(&case.config.cert_file, "broken").unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(Arc::ptr_eq(&first, &current.borrow()));
    let new = pair(2041);
    std::fs::write(&case.config.cert_file, &new.cert).unwrap();
    std::fs::write(&case.config.key_file, &new.key).unwrap();
    current.changed().await.unwrap();
    assert!(!Arc::ptr_eq(&first, &current.borrow()));
    task.abort();
}
