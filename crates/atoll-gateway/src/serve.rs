//! Connections: how many, and how long a client may take to say what it wants.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::routes::GatewayConfig;

/// Connections at once; more wait to be taken in. Each costs a file and a few buffers.
const CONNECTIONS_MAX: usize = 256;
/// Pause after an error of the listener, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers on `listener` until `ended` completes. A client that does not get its headers out in
/// time is hung up on, so that it holds no connection for nothing.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    config: GatewayConfig,
    ended: impl Future<Output = ()> + Send + 'static,
) {
    let mut http = Builder::new(TokioExecutor::new()).http1_only();
    http.http1().timer(TokioTimer::new()).header_read_timeout(config.request_max);
    let http = Arc::new(http);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Streams may last long: the end does not wait for them, it drops them.
    let mut connections = JoinSet::new();
    let mut ended = pin!(ended);
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((place, listener.accept().await?.0))
        };
        let (place, stream) = tokio::select! {
            next = next => match next {
                Ok(next) => next,
                Err(error) => {
                    tracing::warn!(%error, "cannot take in a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            Some(_ended) = connections.join_next() => continue,
            () = &mut ended => return,
        };
        let (http, router) = (Arc::clone(&http), router.clone());
        connections.spawn(async move {
            answer(&http, stream, router).await;
            drop(place);
        });
    }
}

async fn answer(http: &Builder<TokioExecutor>, stream: TcpStream, router: Router) {
    // Tokens are small: each is sent as it comes.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection stays as it is");
    }
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = connection.await {
        tracing::debug!(error, "a connection broke");
    }
}
