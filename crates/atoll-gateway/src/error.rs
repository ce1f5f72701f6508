//! Errors as HTTP clients of the OpenAI interface expect them.

use atoll_node::{NodeError, RequestError};
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// An error on its way to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) body: ErrorBody,
}

/// What stands under `error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ErrorBody {
    pub(crate) message: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) param: Option<&'static str>,
    pub(crate) code: Option<&'static str>,
}

impl ApiError {
    /// 400: the request is wrong, at `param`.
    pub(crate) fn invalid(param: Option<&'static str>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", None, message).at(param)
    }

    /// Any status.
    pub(crate) fn new(
        status: StatusCode,
        kind: &'static str,
        code: Option<&'static str>,
        message: impl Into<String>,
    ) -> Self {
        Self { status, body: ErrorBody { message: message.into(), kind, param: None, code } }
    }

    /// 404 for a model that is not here.
    pub(crate) fn no_model(model: &str) -> Self {
        let message =
            format!("the model {model:?} is not served here; GET /v1/models lists those that are");
        let code = Some("model_not_found");
        Self::new(StatusCode::NOT_FOUND, "not_found_error", code, message).at(Some("model"))
    }

    /// Names the parameter that is at fault.
    #[must_use]
    pub(crate) fn at(mut self, param: Option<&'static str>) -> Self {
        self.body.param = param;
        self
    }

    /// `{"error":{…}}`
    pub(crate) fn to_json(&self) -> String {
        serde_json::json!({ "error": self.body }).to_string()
    }
}

/// How a node's error reads over HTTP.
#[expect(clippy::wildcard_enum_match_arm, reason = "all else is the node's own trouble")]
pub(crate) fn refused(error: &NodeError, model: &str) -> ApiError {
    let message = error.to_string();
    let later = StatusCode::SERVICE_UNAVAILABLE;
    match error {
        NodeError::UnknownModel(_) | NodeError::Request(RequestError::UnknownModel(_)) => {
            ApiError::no_model(model)
        }
        NodeError::Request(RequestError::EmptyPrompt) => {
            ApiError::invalid(Some("messages"), message)
        }
        NodeError::Request(RequestError::PromptTooLong { .. }) => {
            let status = StatusCode::BAD_REQUEST;
            let code = Some("context_length_exceeded");
            ApiError::new(status, "invalid_request_error", code, message).at(Some("messages"))
        }
        NodeError::Request(RequestError::TooMany(_)) => {
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", None, message)
        }
        NodeError::Request(RequestError::DeadlineExceeded { .. }) => {
            ApiError::new(StatusCode::GATEWAY_TIMEOUT, "api_error", Some("timeout"), message)
        }
        NodeError::Plan(_)
        | NodeError::Stopped
        | NodeError::Request(
            RequestError::NoPlan(_)
            | RequestError::NodeLost { .. }
            | RequestError::Cancelled
            | RequestError::Duplicate,
        ) => ApiError::new(later, "unavailable_error", None, message),
        _ => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "api_error", None, message),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(serde_json::json!({ "error": self.body }));
        let mut response = (self.status, body).into_response();
        // Clients try again on their own after 503; not after what would only fail once more.
        let (again, after) = match self.status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => ("true", Some("1")),
            _ => ("false", None),
        };
        let headers = response.headers_mut();
        headers.insert("x-should-retry", HeaderValue::from_static(again));
        if let Some(after) = after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(after));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_has_all_four_keys() {
        let error = ApiError::invalid(Some("n"), "only one");
        assert_eq!(
            error.to_json(),
            r#"{"error":{"code":null,"message":"only one","param":"n","type":"invalid_request_error"}}"#
        );
        let response = error.into_response();
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()["x-should-retry"], "false");
    }

    #[test]
    fn clients_come_back_when_that_helps() {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let response = ApiError::new(status, "unavailable_error", None, "soon").into_response();
        assert_eq!(response.headers()["x-should-retry"], "true");
        assert_eq!(response.headers()["retry-after"], "1");
    }
}
