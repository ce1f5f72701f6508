//! Downloads over HTTP, resumed where they broke off.

use std::time::Duration;

use ureq::Agent;
use ureq::http::{Response, StatusCode, header};

use super::download::{self, Done, Target, Writer};
use crate::exit::{Exit, Failure};
use crate::output;
use crate::progress::{Task, Unit};

/// A server that says nothing for so long is given up on.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Attempts in a row that bring no byte.
const BARREN_ATTEMPTS_MAX: u32 = 3;

/// Downloads `url` without credentials.
pub(crate) fn fetch(url: &str, target: &Target, sha256: Option<&str>) -> Result<Done, Failure> {
    fetch_as(url, None, target, sha256)
}

/// Downloads `url`, with `token` for the first host only (never for one it redirects to).
pub(crate) fn fetch_as(
    url: &str,
    token: Option<&str>,
    target: &Target,
    sha256: Option<&str>,
) -> Result<Done, Failure> {
    let agent = agent();
    let mut task = Task::new(format!("fetching {url}"), Unit::Bytes, None);
    let mut barren = 0;
    loop {
        let before = target.partial_bytes();
        match attempt(&agent, url, token, target, &mut task) {
            Ok((bytes, writer)) => {
                task.finish();
                return writer.finish(bytes, sha256);
            }
            Err(Broken::ForGood(failure)) => return Err(failure),
            Err(Broken::ForNow(failure)) => {
                barren = if target.partial_bytes() > before { 0 } else { barren + 1 };
                if barren == BARREN_ATTEMPTS_MAX {
                    return Err(failure);
                }
                let cause = failure.cause.unwrap_or_default();
                output::note(&format!("{} ({cause}); going on", failure.what));
                std::thread::sleep(Duration::from_millis(500));
            }
        }
    }
}

enum Broken {
    ForNow(Failure),
    ForGood(Failure),
}

/// One request; on success the size that the server promised, and the writer with all bytes.
fn attempt<'a>(
    agent: &Agent,
    url: &str,
    token: Option<&str>,
    target: &'a Target,
    task: &mut Task,
) -> Result<(Option<u64>, Writer<'a>), Broken> {
    let have = target.partial_bytes();
    let mut request = agent.get(url).header(header::ACCEPT_ENCODING, "identity");
    if have > 0 {
        request = request.header(header::RANGE, format!("bytes={have}-"));
    }
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let response = request.call().map_err(|error| unreachable(url, &error))?;
    let keep = match response.status() {
        StatusCode::OK => 0,
        StatusCode::PARTIAL_CONTENT if starts_at(&response, have) => have,
        // The partial file is as long as the whole, or longer: hash it, or begin again.
        StatusCode::RANGE_NOT_SATISFIABLE if total(&response) == Some(have) => {
            let writer = target.writer(have).map_err(Broken::ForGood)?;
            return Ok((Some(have), writer));
        }
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            target.writer(0).map_err(Broken::ForGood)?;
            return Err(Broken::ForNow(
                Failure::new(Exit::Failure, format!("cannot continue {url}"))
                    .because("the server does not have the range asked for"),
            ));
        }
        status => return Err(refused(url, status)),
    };
    let length: Option<u64> = number(&response, header::CONTENT_LENGTH);
    let bytes = length.map(|length| keep + length);
    task.set_total(bytes);
    let mut writer = target.writer(keep).map_err(Broken::ForGood)?;
    let mut body = response.into_body().into_reader();
    let broke_off = |bytes: u64, cause: String| {
        Broken::ForNow(
            Failure::new(Exit::Failure, format!("the download of {url} broke off"))
                .because(cause)
                .hint(format!("the same command again; it goes on after {bytes} bytes")),
        )
    };
    match writer.append(&mut body, task) {
        Ok(()) if bytes.is_none_or(|bytes| bytes == writer.bytes()) => Ok((bytes, writer)),
        Ok(()) => Err(broke_off(writer.bytes(), format!("only {} bytes came", writer.bytes()))),
        Err(download::Broken::Source(error)) => Err(broke_off(writer.bytes(), error.to_string())),
        Err(download::Broken::Disk(failure)) => Err(Broken::ForGood(failure)),
    }
}

fn agent() -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(concat!("atoll/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(SILENCE_MAX))
        .timeout_connect(Some(SILENCE_MAX))
        .timeout_recv_response(Some(SILENCE_MAX))
        .timeout_per_read(Some(SILENCE_MAX))
        .build()
        .into()
}

fn number<B>(response: &Response<B>, name: header::HeaderName) -> Option<u64> {
    response.headers().get(name)?.to_str().ok()?.trim().parse().ok()
}

/// Whether `Content-Range: bytes START-…` begins at `have`.
fn starts_at<B>(response: &Response<B>, have: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let start = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next());
    start.and_then(|start| start.parse().ok()) == Some(have)
}

/// The size after the slash of `Content-Range: bytes */SIZE`.
fn total<B>(response: &Response<B>) -> Option<u64> {
    let range = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.rsplit_once('/')?.1.parse().ok()
}

fn unreachable(url: &str, error: &ureq::Error) -> Broken {
    Broken::ForNow(
        Failure::new(Exit::Failure, format!("cannot fetch {url}"))
            .because(error)
            .hint("check the address and the network, or copy the file here and name its path"),
    )
}

fn refused(url: &str, status: StatusCode) -> Broken {
    let exit = match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => Exit::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::TrustRefused,
        _ => Exit::Failure,
    };
    let failure = Failure::new(exit, format!("cannot fetch {url}"))
        .because(format!("the server answers {status}"));
    if status.is_server_error() { Broken::ForNow(failure) } else { Broken::ForGood(failure) }
}

#[cfg(test)]
mod tests;
