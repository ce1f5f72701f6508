//! Which address does what.

mod chat;
mod completions;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_node::NodeHandle;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;
use crate::openai::models::{Model, ModelList};
use crate::{guard, metrics};

/// How the gateway behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    /// Answers under way at once; more are told to come back. Default: 64.
    pub answers_max: usize,
    /// How long a client may take to say what it wants, headers and body each. Default: 10 s.
    pub request_max: Duration,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self { answers_max: 64, request_max: Duration::from_secs(10) }
    }
}

/// What every route knows.
#[derive(Clone, Debug)]
struct App {
    node: NodeHandle,
    answers: Arc<Semaphore>,
    /// When the gateway began, seconds since 1970.
    began_unix_s: u64,
}

/// All routes, for a node that runs in this process.
pub fn router(node: NodeHandle, config: GatewayConfig) -> Router {
    let answers = Arc::new(Semaphore::new(config.answers_max));
    let app = App { node, answers, began_unix_s: unix_s() };
    Router::new()
        .route("/healthz", get(async || Json(serde_json::json!({ "status": "ok" }))))
        .route("/api/v1/state", get(state))
        .route("/metrics", get(scraped))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/v1/chat/completions", post(chat::answer))
        .route("/v1/completions", post(completions::answer))
        .fallback(async |method: Method, uri: Uri| {
            let message = format!("there is no {method} {}", uri.path());
            ApiError::new(StatusCode::NOT_FOUND, "not_found_error", None, message)
        })
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            let message = format!("{} does not take {method}", uri.path());
            let status = StatusCode::METHOD_NOT_ALLOWED;
            ApiError::new(status, "invalid_request_error", None, message)
        })
        // The guard reads bodies, under its own limit.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(config.request_max, guard::guard))
        .with_state(app)
}

async fn state(State(app): State<App>) -> impl IntoResponse {
    Json(app.node.status())
}

async fn scraped(State(app): State<App>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::text(&app.node.status()))
}

async fn models(State(app): State<App>) -> Json<ModelList> {
    let served = app.node.status().models;
    let data = served.into_iter().map(|model| Model::new(model.name, app.began_unix_s)).collect();
    Json(ModelList { object: "list", data })
}

async fn model(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Model>, ApiError> {
    let served = app.node.status().models;
    match served.into_iter().find(|model| model.name == id) {
        Some(model) => Ok(Json(Model::new(model.name, app.began_unix_s))),
        None => Err(ApiError::no_model(&id)),
    }
}

impl App {
    /// Room for one more answer, or a 429.
    fn admit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.answers).try_acquire_owned().map_err(|_full| {
            let message = "as many answers are under way as this node takes at once";
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", None, message)
        })
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
