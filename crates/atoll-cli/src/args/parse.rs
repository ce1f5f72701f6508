//! Turning single words of the command line into values.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use atoll_model::KvType;

/// Longest node name, in bytes: it travels in every hello.
const NAME_BYTES_MAX: usize = 64;
/// Longest stop text, in bytes: every token is compared with it.
const STOP_BYTES_MAX: usize = 256;

/// Where the HTTP interface listens, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApiAddress {
    /// Not at all.
    None,
    /// Here; loopback only.
    At(SocketAddr),
}

/// A share of a layer's neurons.
pub(super) fn width(text: &str) -> Result<f32, String> {
    let share: f32 = text.parse().map_err(|_| "not a number".to_owned())?;
    if share > 0.0 && share <= 1.0 { Ok(share) } else { Err("above 0 and at most 1".to_owned()) }
}

/// A divergence.
pub(super) fn nats(text: &str) -> Result<f64, String> {
    let nats: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if nats.is_finite() && nats >= 0.0 { Ok(nats) } else { Err("0 or more".to_owned()) }
}

impl ApiAddress {
    /// Port used when none is named.
    pub(crate) const PORT: u16 = 7411;
}

impl FromStr for ApiAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        let at = if let Ok(port) = text.parse::<u16>() {
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
        } else if let Ok(ip) = text.parse::<IpAddr>() {
            SocketAddr::new(ip, Self::PORT)
        } else {
            let text = text.replace("localhost:", "127.0.0.1:");
            text.parse().map_err(|_| "expected IP:PORT, such as 127.0.0.1:7411, or none")?
        };
        if !at.ip().is_loopback() {
            return Err(format!(
                "{} is not a loopback address; other machines would reach it without a key, \
                 so only 127.0.0.1 and ::1 are accepted for now",
                at.ip()
            ));
        }
        Ok(Self::At(at))
    }
}

/// `f16`, `int8`: how caches store keys and values.
pub(crate) fn kv_type(text: &str) -> Result<KvType, String> {
    match text {
        "f16" => Ok(KvType::F16),
        "int8" => Ok(KvType::Int8),
        _ => Err("expected f16 or int8".to_owned()),
    }
}

/// The only program that Atoll is timed beside.
pub(crate) fn peer(text: &str) -> Result<String, String> {
    match text {
        "llama.cpp" => Ok(text.to_owned()),
        _ => Err("expected llama.cpp".to_owned()),
    }
}

/// `2GiB`, `500MB`, `1.5G`, `1048576`: bytes.
pub(crate) fn byte_size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1_048_576.0,
        "gib" => 1_073_741_824.0,
        "tib" => 1_099_511_627_776.0,
        _ => return Err(format!("unknown unit {unit:?}; use kB, MB, GB, KiB, MiB or GiB")),
    };
    let number: f64 = number.parse().map_err(|_| "expected a size such as 2GiB".to_owned())?;
    let bytes = number * factor;
    if !(1.0..=1e15).contains(&bytes) {
        return Err("expected a size between 1 B and 1000 TB".to_owned());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    Ok(bytes as u64)
}

/// A number from `LOW` to `HIGH`.
pub(crate) fn within<const LOW: i32, const HIGH: i32>(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| "expected a number".to_owned())?;
    #[expect(clippy::cast_precision_loss, reason = "small bounds")]
    let (low, high) = (LOW as f32, HIGH as f32);
    if (low..=high).contains(&value) {
        Ok(value)
    } else {
        Err(format!("expected a number from {LOW} to {HIGH}"))
    }
}

/// A repetition penalty: above 0, at most 10.
pub(crate) fn repetition(text: &str) -> Result<f32, String> {
    let value = within::<0, 10>(text)?;
    if value > 0.0 { Ok(value) } else { Err("expected a number above 0".to_owned()) }
}

/// A share of probability: above 0, at most 1.
pub(crate) fn top_p(text: &str) -> Result<f32, String> {
    let value = within::<0, 1>(text)?;
    if value > 0.0 { Ok(value) } else { Err("expected a number above 0".to_owned()) }
}

/// A node's name: printable, short, no spaces.
pub(crate) fn node_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.chars().all(plain) {
        return Err(format!(
            "expected 1 to {NAME_BYTES_MAX} bytes of letters, digits, '-', '_' and '.'"
        ));
    }
    Ok(text.to_owned())
}

/// A stop text: neither empty nor long.
pub(crate) fn stop_text(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > STOP_BYTES_MAX {
        return Err(format!("expected 1 to {STOP_BYTES_MAX} bytes"));
    }
    Ok(text.to_owned())
}

/// A SHA-256 as 64 hexadecimal digits, in lower case.
pub(crate) fn sha256(text: &str) -> Result<String, String> {
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("expected 64 hexadecimal digits".to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn sizes() {
        let check = |text, expected| assert_eq!(byte_size(text).ok(), expected, "{text}");
        check("1048576", Some(1_048_576));
        check("2GiB", Some(2_147_483_648));
        check("1.5 GB", Some(1_500_000_000));
        check("500m", Some(500_000_000));
        check("0", None);
        check("-1", None);
        check("1e9", None);
        check("GB", None);
        check("9999999TB", None);
        check("1.2.3", None);
    }

    #[test]
    fn api_addresses_stay_on_loopback() {
        let check = |text: &str, expected: Option<&str>| {
            let at = match ApiAddress::from_str(text) {
                Ok(ApiAddress::At(at)) => Some(at.to_string()),
                Ok(ApiAddress::None) => Some("none".to_owned()),
                Err(_) => None,
            };
            assert_eq!(at.as_deref(), expected, "{text}");
        };
        check("none", Some("none"));
        check("0", Some("127.0.0.1:0"));
        check("8080", Some("127.0.0.1:8080"));
        check("localhost:8080", Some("127.0.0.1:8080"));
        check("127.0.0.1", Some("127.0.0.1:7411"));
        check("[::1]:90", Some("[::1]:90"));
        check("0.0.0.0:80", None);
        check("192.168.1.2:80", None);
        check("example.org:80", None);
    }

    #[test]
    fn numbers_names_and_hashes() {
        assert!(within::<0, 1>("0.5").is_ok());
        assert!(within::<0, 1>("1.5").is_err());
        assert!(within::<0, 1>("NaN").is_err());
        assert!(repetition("0").is_err());
        assert!(node_name("küche-1").is_ok());
        assert!(node_name("a b").is_err());
        assert!(stop_text("").is_err());
        assert_eq!(sha256(&"AB".repeat(32)).unwrap(), "ab".repeat(32));
        assert!(sha256("ab").is_err());
    }
}
