//! Owns the signature of a request to an S3 store (AWS Signature Version 4). Refuses to send anything.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};

use crate::secret::{ExposeSecret, SecretString};

/// What a signed path or query keeps as it is.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Bytes of a block of SHA-256.
const BLOCK: usize = 64;

/// Keys of an S3 store.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The access key's id, which is no secret.
    pub id: String,
    /// The secret access key.
    pub secret: SecretString,
    /// What comes with temporary keys.
    pub session_token: Option<SecretString>,
}

/// A request as it is signed.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// Such as `GET`.
    pub method: &'a str,
    /// As in the header `Host`.
    pub host: &'a str,
    /// As sent: made by [`encoded_path`].
    pub path: &'a str,
    /// As sent: made by [`encoded_query`].
    pub query: &'a str,
    /// SHA-256 of the body in hex, or `UNSIGNED-PAYLOAD`.
    pub payload: &'a str,
    /// `s3` or `sts`.
    pub service: &'a str,
    /// Of the store.
    pub region: &'a str,
}

impl Keys {
    /// The headers that carry the signature, to be sent with the request.
    #[must_use]
    pub fn sign(&self, request: &Signed<'_>, now: SystemTime) -> Vec<(&'static str, String)> {
        let stamp = stamp(now);
        let day = &stamp[..8];
        let mut headers = vec![
            ("host", request.host.to_owned()),
            ("x-amz-content-sha256", request.payload.to_owned()),
            ("x-amz-date", stamp.clone()),
        ];
        headers.extend(self.session_token.as_ref().map(|token| ("x-amz-security-token", token.expose_secret().to_owned())));
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let Signed { method, path, query, payload, service, region, .. } = request;
        let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{payload}");
        let scope = format!("{day}/{region}/{service}/aws4_request");
        let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let mut key = hmac(format!("AWS4{}", self.secret.expose_secret()).as_bytes(), day);
        for part in [region, service, "aws4_request"] {
            key = hmac(&key, part);
        }
        let signature = hex(&hmac(&key, &text));
        // The client sends `Host` by itself.
        headers.remove(0);
        headers.push((
            "authorization",
            format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}", self.id),
        ));
        headers
    }
}

/// SHA-256 in hex.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A path of these segments, as it is sent and signed.
#[must_use]
pub fn encoded_path<'a>(segments: impl Iterator<Item = &'a str>) -> String {
    segments.fold(String::new(), |path, segment| path + "/" + &encoded(segment))
}

/// A query of these pairs, as it is sent and signed.
#[must_use]
pub fn encoded_query(pairs: &[(String, String)]) -> String {
    let mut pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{}={}", encoded(key), encoded(value))).collect();
    pairs.sort_unstable();
    pairs.join("&")
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

fn hmac(key: &[u8], text: &str) -> [u8; 32] {
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `20260131T235959Z`.
fn stamp(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// The date of a day after 1970-01-01. Years are counted from March, so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds| stamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "19700101T000000Z");
        assert_eq!(at(951_868_799), "20000229T235959Z");
        assert_eq!(at(1_709_251_200), "20240301T000000Z");
        assert_eq!(at(1_369_353_600), "20130524T000000Z");
    }

    #[test]
    fn a_keyed_hash_is_that_of_rfc_4231() {
        assert_eq!(
            hex(&hmac(b"Jefe", "what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let long = hmac(&[0xaa; 131], "Test Using Larger Than Block-Size Key - Hash Key First");
        assert_eq!(hex(&long), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    }

    #[test]
    fn a_path_keeps_what_need_not_be_encoded() {
        assert_eq!(encoded_path(["lake", "a b", "p=é", "x_-.~"].into_iter()), "/lake/a%20b/p%3D%C3%A9/x_-.~");
        let pairs = [("uploadId".to_owned(), "a/b".to_owned()), ("partNumber".to_owned(), "7".to_owned())];
        assert_eq!(encoded_query(&pairs), "partNumber=7&uploadId=a%2Fb");
    }
}
