//! Owns the reading of certificates: whose they are, in which names, and until when. Refuses to verify them.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use x509_parser::asn1_rs::Any;
use x509_parser::prelude::{AttributeTypeAndValue, FromDer, GeneralName, X509Certificate, X509Name};

use crate::auth::certificate::PeerCertificate;

/// Short names of attribute types: those of RFC 4514, and the two that `openssl x509 -nameopt RFC2253` adds.
const ATTRIBUTES: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// A certificate and from when it is valid.
pub struct Read {
    /// What it says.
    pub certificate: PeerCertificate,
    /// When it begins.
    pub not_before: SystemTime,
}

/// Reads a certificate in DER.
///
/// # Errors
/// When it is not one; the text says what is wrong.
pub fn read(der: &[u8]) -> Result<Read, String> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    let names = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
    let names = names.iter().flat_map(|names| &names.value.general_names).filter_map(alternative_name).collect();
    let validity = parsed.validity();
    let certificate = PeerCertificate {
        subject: distinguished_name(parsed.subject()),
        names,
        fingerprint: hex(&Sha256::digest(der)),
        not_after: time(validity.not_after.timestamp()),
    };
    Ok(Read { certificate, not_before: time(validity.not_before.timestamp()) })
}

fn time(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 { UNIX_EPOCH.checked_sub(since) } else { UNIX_EPOCH.checked_add(since) };
    time.unwrap_or(UNIX_EPOCH)
}

fn alternative_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(format!("DNS:{name}")),
        GeneralName::URI(uri) => Some(format!("URI:{uri}")),
        GeneralName::RFC822Name(address) => Some(format!("email:{address}")),
        _ => None,
    }
}

/// A name as RFC 4514 writes it.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let parts = name.iter_rdn().map(|rdn| rdn.iter().map(attribute).collect::<Vec<_>>().join("+"));
    let mut parts: Vec<String> = parts.collect();
    // The certificate has the most general part first.
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let short = ATTRIBUTES.iter().find(|(id, _)| *id == oid).map(|(_, short)| *short);
    match (short, attribute.as_str()) {
        (Some(short), Ok(text)) => format!("{short}={}", escaped(text)),
        // Types without a short name, and texts in outdated encodings, are written as their bytes.
        (short, _) => format!("{}=#{}", short.unwrap_or(&oid), hex(&encoded(attribute.attr_value()))),
    }
}

/// A value with what has a meaning in a name escaped, and control characters, which would have one in a log.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (at, c) in text.chars().enumerate() {
        let at_an_end = (at == 0 && matches!(c, ' ' | '#')) || (at == last && c == ' ');
        if c.is_control() {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\{byte:02X}");
            }
            continue;
        }
        if at_an_end || matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// The value with its tag and length, as it stood in the certificate.
fn encoded(value: &Any<'_>) -> Vec<u8> {
    let len = value.data.len();
    // String types have numbers below 31, so one byte has the tag.
    let mut bytes = vec![u8::try_from(value.tag().0).unwrap_or_default()];
    match u8::try_from(len) {
        Ok(len) if len < 0x80 => bytes.push(len),
        _ => {
            let digits: Vec<u8> = len.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
            bytes.push(0x80 | u8::try_from(digits.len()).unwrap_or_default());
            bytes.extend(digits);
        }
    }
    bytes.extend_from_slice(value.data);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use rcgen::string::{BmpString, Ia5String};
    use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, KeyPair, SanType, date_time_ymd};

    use super::*;

    fn der(params: CertificateParams) -> Vec<u8> {
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn subject(attributes: Vec<(DnType, DnValue)>) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in attributes {
            params.distinguished_name.push(kind, value);
        }
        read(&der(params)).unwrap().certificate.subject
    }

    fn text(value: &str) -> DnValue {
        DnValue::Utf8String(value.to_owned())
    }

    #[test]
    fn a_subject_is_written_most_specific_part_first() {
        let mail = DnType::from_oid(&[1, 2, 840, 113549, 1, 9, 1]);
        let mail_text = DnValue::Ia5String(Ia5String::try_from("ada@example.com").unwrap());
        let all = vec![
            (DnType::CountryName, DnValue::PrintableString("DE".try_into().unwrap())),
            (DnType::OrganizationName, text("Example, Inc.")),
            (DnType::CommonName, text("Ada Müller")),
            (mail, mail_text),
        ];
        assert_eq!(subject(all), r"emailAddress=ada@example.com,CN=Ada Müller,O=Example\, Inc.,C=DE");
        assert_eq!(subject(Vec::new()), "");
    }

    #[test]
    fn nothing_in_a_value_can_pass_for_another_part() {
        for (value, expected) in [
            ("a,CN=root", r"CN=a\,CN=root".to_owned()),
            ("a+b\"c;d<e>f\\g", r#"CN=a\+b\"c\;d\<e\>f\\g"#.to_owned()),
            (" a ", r"CN=\ a\ ".to_owned()),
            ("#a#", r"CN=\#a#".to_owned()),
            (" ", r"CN=\ ".to_owned()),
            ("a\0b\n", r"CN=a\00b\0A".to_owned()),
        ] {
            assert_eq!(subject(vec![(DnType::CommonName, text(value))]), expected, "{value:?}");
        }
    }

    #[test]
    fn what_has_no_short_name_or_text_is_written_as_bytes() {
        assert_eq!(subject(vec![(DnType::from_oid(&[1, 2, 3, 4]), text("xy"))]), "1.2.3.4=#0c027879");
        let wide = DnValue::BmpString(BmpString::try_from("ab").unwrap());
        assert_eq!(subject(vec![(DnType::CommonName, wide)]), "CN=#1e0400610062");
        let long = subject(vec![(DnType::from_oid(&[1, 2, 3, 4]), text(&"x".repeat(300)))]);
        assert!(long.starts_with("1.2.3.4=#0c82012c7878"), "{long}");
    }

    #[test]
    fn names_have_their_kind_and_times_and_fingerprint_are_right() {
        let mut params = CertificateParams::new(vec!["etl.example.com".to_owned()]).unwrap();
        params.subject_alt_names.extend([
            SanType::URI("spiffe://example.com/etl".try_into().unwrap()),
            SanType::Rfc822Name("ada@example.com".try_into().unwrap()),
            SanType::IpAddress("127.0.0.1".parse().unwrap()),
        ]);
        (params.not_before, params.not_after) = (date_time_ymd(2001, 2, 3), date_time_ymd(2040, 1, 1));
        let der = der(params);
        let read = read(&der).unwrap();
        let names = ["DNS:etl.example.com", "URI:spiffe://example.com/etl", "email:ada@example.com"];
        assert_eq!(read.certificate.names, names);
        assert_eq!(read.not_before, UNIX_EPOCH + Duration::from_secs(981_158_400));
        assert_eq!(read.certificate.not_after, UNIX_EPOCH + Duration::from_secs(2_208_988_800));
        assert_eq!(read.certificate.fingerprint, sha256sum(&der));
    }

    /// The digest by another implementation than the one under test.
    fn sha256sum(bytes: &[u8]) -> String {
        let mut child = std::process::Command::new("sha256sum")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
    }

    #[test]
    fn what_is_no_certificate_is_an_error() {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        let broken = CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 0x03]);
        assert!(read(b"nonsense").is_err());
        params.subject_alt_names.clear();
        params.custom_extensions = vec![broken.clone(), broken];
        assert!(read(&der(params)).is_err(), "two lists of names");
    }
}
