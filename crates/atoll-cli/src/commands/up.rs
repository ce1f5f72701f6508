//! `atoll up`: a node, until it is told to end.

use std::io::Read;

use atoll_node::NodeHandle;
use serde_json::json;

use crate::api_file::ApiFile;
use crate::args::{ApiAddress, UpArgs};
use crate::events::{self, Audience, Teller};
use crate::exit::{Exit, Failure};
use crate::interrupt::Stop;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: UpArgs, stop: &Stop) -> Result<(), Failure> {
    // The port is taken first: a node that nobody can ask would only confuse.
    let api = Api::bind(settings.api(args.api)?).await?;
    let options = settings.node(&args.node, &args.compute)?;
    let node = stop.race(async { Ok(atoll_node::start(options).await?) }).await?;
    let running = RunningNode::new(settings, node, api)?;
    let ended = tokio::select! {
        told = running.follow(settings, None) => told,
        failure = stop.asked() => Err(failure),
        () = stdin_closed(), if args.until_stdin_closes => Ok(()),
    };
    running.end().await;
    ended
}

/// A node with its HTTP interface and its events.
#[derive(Debug)]
pub(crate) struct RunningNode {
    pub(crate) node: NodeHandle,
    api: Option<(tokio::task::JoinHandle<()>, ApiFile)>,
}

/// A bound port.
#[derive(Debug)]
pub(crate) struct Api(Option<tokio::net::TcpListener>);

impl Api {
    /// Binds `address`, if it is one.
    ///
    /// # Errors
    /// A port that is in use, naming it.
    pub(crate) async fn bind(address: ApiAddress) -> Result<Self, Failure> {
        let ApiAddress::At(at) = address else { return Ok(Self(None)) };
        match tokio::net::TcpListener::bind(at).await {
            Ok(listener) => Ok(Self(Some(listener))),
            Err(error) => {
                let failure =
                    Failure::new(Exit::Failure, format!("cannot listen on {at}")).because(&error);
                Err(if error.kind() == std::io::ErrorKind::AddrInUse {
                    failure
                        .hint("atoll status shows whether a node runs; --api 0 takes any free port")
                } else {
                    failure
                })
            }
        }
    }
}

impl RunningNode {
    /// Starts the HTTP interface and tells where everything is.
    pub(crate) fn new(settings: &Settings, node: NodeHandle, api: Api) -> Result<Self, Failure> {
        let listening = json!({
            "event": "listening",
            "node": node.id(),
            "name": node.name(),
            "addresses": node.addresses(),
        });
        let text = format!("{} listens on {}", node.name(), node.addresses().join(", "));
        events::tell(settings.json, &listening, &text)?;
        let Some(listener) = api.0 else { return Ok(Self { node, api: None }) };
        let at = listener
            .local_addr()
            .map_err(|error| Failure::new(Exit::Failure, "cannot read the port").because(error))?;
        let url = format!("http://{at}");
        let file = ApiFile::write(&settings.data_dir, &url)?;
        let config = atoll_gateway::GatewayConfig::default();
        let router = atoll_gateway::router(node.clone(), config);
        let ended = std::future::pending();
        let served = tokio::spawn(atoll_gateway::serve(listener, router, config, ended));
        let text = format!("HTTP on {url} (OpenAI: {url}/v1)");
        events::tell(settings.json, &json!({ "event": "api", "url": url }), &text)?;
        Ok(Self { node, api: Some((served, file)) })
    }

    /// Tells what the node reports until it ends; `placing` is a model about to be served.
    pub(crate) async fn follow(
        &self,
        settings: &Settings,
        placing: Option<&str>,
    ) -> Result<(), Failure> {
        let audience = if settings.json { Audience::Programs } else { Audience::People };
        events::follow(Teller::new(audience, placing), &self.node).await
    }

    /// Leaves the mesh.
    pub(crate) async fn end(self) {
        if let Some((served, file)) = self.api {
            served.abort();
            file.remove();
        }
        self.node.shutdown().await;
    }
}

/// Completes when stdin ends. A thread reads it, and nothing waits for that thread.
async fn stdin_closed() {
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 256];
        while std::io::stdin().read(&mut buffer).is_ok_and(|n| n > 0) {}
        let _gone = ended.send(());
    });
    let _closed = end.await;
}
