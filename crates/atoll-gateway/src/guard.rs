//! What every request passes through: who may ask, how much, and an id to speak of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use tokio::time::timeout;

use crate::error::ApiError;

/// Largest request body.
pub(crate) const BODY_BYTES_MAX: usize = 4 << 20;

/// Of a larger body so much is taken in and dropped: a client that is hung up on while it still
/// writes never reads why.
const DROPPED_BYTES_MAX: usize = 64 << 20;

/// The id of a request: in `x-request-id`, and behind `chatcmpl-` in the answer.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

/// Lets requests through that are meant for this machine, and marks the answers.
pub(crate) async fn guard(
    State(body_max): State<Duration>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = RequestId(new_id());
    let allowed = check_host(request.headers())
        .and_then(|()| check_origin(request.headers()))
        .and_then(|()| check_content(request.method(), request.headers()));
    let mut response = match allowed {
        Ok(()) => {
            request.extensions_mut().insert(id.clone());
            tracing::debug!(id = id.0, method = %request.method(), path = request.uri().path());
            match timeout(body_max, take_in(request)).await {
                Ok(Ok(request)) => next.run(request).await,
                Ok(Err(error)) => error.into_response(),
                Err(_elapsed) => too_slow(body_max).into_response(),
            }
        }
        Err(error) => error.into_response(),
    };
    let value = HeaderValue::from_str(&id.0).expect("ids are hexadecimal digits");
    response.headers_mut().insert("x-request-id", value);
    response
}

/// Reads the body, so that nothing behind waits for a client.
async fn take_in(request: Request) -> Result<Request, ApiError> {
    let kind = "invalid_request_error";
    let (parts, body) = request.into_parts();
    let mut chunks = body.into_data_stream();
    let (mut bytes, mut n_bytes) = (Vec::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| {
            let message = format!("the request broke off: {error}");
            ApiError::new(StatusCode::BAD_REQUEST, kind, None, message)
        })?;
        n_bytes += chunk.len();
        if n_bytes <= BODY_BYTES_MAX {
            bytes.extend_from_slice(&chunk);
        } else if n_bytes <= DROPPED_BYTES_MAX {
            bytes = Vec::new();
        } else {
            break;
        }
    }
    if n_bytes > BODY_BYTES_MAX {
        let message = format!("the request has more than {BODY_BYTES_MAX} bytes");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, kind, None, message));
    }
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

fn too_slow(body_max: Duration) -> ApiError {
    let message = format!("the request did not come within {} s", body_max.as_secs_f32());
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", None, message)
}

/// Refuses names that are not this machine's: a web page could have pointed its own name here.
fn check_host(headers: &HeaderMap) -> Result<(), ApiError> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if is_loopback(host) {
        return Ok(());
    }
    let message = format!("the host {host:?} is not this machine's; use 127.0.0.1 or localhost");
    Err(ApiError::new(StatusCode::FORBIDDEN, "invalid_request_error", Some("host"), message))
}

/// Refuses pages of other origins.
fn check_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    if host.is_some_and(is_loopback) {
        return Ok(());
    }
    let message = format!("pages of {origin:?} may not use this interface");
    Err(ApiError::new(StatusCode::FORBIDDEN, "invalid_request_error", Some("origin"), message))
}

/// Refuses bodies that are not JSON: a form on any web page can send those.
fn check_content(method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
    if *method != Method::POST {
        return Ok(());
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    let message = format!("the content type is {kind:?}; it must be application/json");
    Err(ApiError::new(status, "invalid_request_error", None, message))
}

/// Whether `host`, perhaps with a port, names this machine.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name.eq_ignore_ascii_case("localhost")
        || name == "[::1]"
        || name.parse().is_ok_and(|ip: std::net::Ipv4Addr| ip.is_loopback())
}

/// 24 hexadecimal digits that no other request of this process has.
fn new_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{:016x}{:08x}", since & u128::from(u64::MAX), n & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_loopback_names_pass() {
        let check = |host: &str, expected| assert_eq!(is_loopback(host), expected, "{host}");
        check("127.0.0.1", true);
        check("127.0.0.1:7411", true);
        check("localhost:1", true);
        check("LOCALHOST", true);
        check("[::1]:80", true);
        check("", false);
        check("evil.example", false);
        check("127.0.0.1.evil.example:80", false);
        check("localhost.evil.example", false);
        check("0.0.0.0:7411", false);
        check("192.168.0.1", false);
    }

    #[test]
    fn bodies_must_be_json() {
        let check = |kind: &str, expected| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            assert_eq!(check_content(&Method::POST, &headers).is_ok(), expected, "{kind}");
        };
        check("application/json", true);
        check("Application/JSON; charset=utf-8", true);
        check("text/plain", false);
        check("application/x-www-form-urlencoded", false);
        assert!(check_content(&Method::POST, &HeaderMap::new()).is_err());
        assert!(check_content(&Method::GET, &HeaderMap::new()).is_ok());
    }

    #[test]
    fn pages_of_others_are_refused() {
        let check = |origin: &str, expected| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            assert_eq!(check_origin(&headers).is_ok(), expected, "{origin}");
        };
        check("http://localhost:3000", true);
        check("http://127.0.0.1", true);
        check("https://evil.example", false);
        check("null", false);
        assert!(check_origin(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn ids_differ() {
        assert_ne!(new_id(), new_id());
        assert_eq!(new_id().len(), 24);
    }
}
