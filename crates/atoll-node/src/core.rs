//! The driver: one `atoll_proto::Node` behind a lock, and whoever has an input for it.
//!
//! Every input is handled on the thread that brings it (a link's reader, the compute thread, the
//! timer), and its outputs are carried out under the same lock by pushing to queues. So a token's
//! way through a node has no hand-over but the two that it needs: reader to compute thread, and
//! compute thread to writer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use atoll_proto::plan::{Plan, PlanError, Profile};
use atoll_proto::planner::Offer;
use atoll_proto::snapshot::{LinkView, ServedModel, ServedState, Snapshot, Timing};
use atoll_proto::{Event, Input, ModelId, Node, NodeId, Output, RequestId, Time};
use tokio::sync::{Notify, broadcast, mpsc, watch};

use crate::engine::{Engine, Held, HeldBoard, Loaded};
use crate::error::NodeError;
use crate::events::{Names, NodeEvent};
use crate::identity;
use crate::net::Links;
use crate::net::swarm::{SwarmCommand, SwarmHandle};
use crate::prepare::Preparer;
use crate::rounds::{Round, Rounds};

/// Events kept for a subscriber that lags; it then misses the oldest.
const EVENTS_KEPT: usize = 1024;

/// What the parts of a node share.
pub(crate) struct Core {
    id: NodeId,
    started: Instant,
    driven: Mutex<Driven>,
    pub(crate) links: Arc<Links>,
    swarm: SwarmHandle,
    engine: Engine,
    preparer: Preparer,
    /// The deadline has moved closer.
    sooner: Notify,
    /// Where each running request's events go. Unbounded, since the core emits a bounded number:
    /// prefill chunks, `max_tokens` tokens, one end.
    requests: Mutex<BTreeMap<RequestId, mpsc::UnboundedSender<Event>>>,
    events: broadcast::Sender<NodeEvent>,
    /// Hears events from the start, for the first subscriber.
    first: Mutex<Option<broadcast::Receiver<NodeEvent>>>,
    names: Mutex<Names>,
    plan_news: broadcast::Sender<PlanNews>,
    held: HeldBoard,
    /// Of this node's own requests.
    rounds: Mutex<Rounds>,
    profile: Profile,
    fatal: watch::Sender<Option<Arc<NodeError>>>,
}

struct Driven {
    node: Node,
    /// What the timer sleeps for.
    armed: Option<Time>,
}

/// A handle to a core that is not yet there: its parts report to it, so they come first.
#[derive(Clone, Default)]
pub(crate) struct CoreSlot(Arc<OnceLock<Weak<Core>>>);

impl CoreSlot {
    /// The core, while it lives.
    pub(crate) fn core(&self) -> Option<Arc<Core>> {
        self.0.get()?.upgrade()
    }

    /// Hands an input to the core, if it lives.
    pub(crate) fn input(&self, input: Input) {
        if let Some(core) = self.core() {
            core.input(input);
        }
    }
}

/// What a core is made of.
pub(crate) struct Parts {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) node: Node,
    pub(crate) links: Arc<Links>,
    pub(crate) swarm: SwarmHandle,
    pub(crate) engine: Engine,
    pub(crate) preparer: Preparer,
    pub(crate) held: HeldBoard,
    pub(crate) profile: Profile,
}

/// A plan that was made for a model, or why there is none.
pub(crate) type PlanNews = (ModelId, Result<Plan, PlanError>);

impl Core {
    /// Puts the parts together; from then on their reports are heard.
    pub(crate) fn new(parts: Parts, slot: &CoreSlot) -> Arc<Self> {
        let mut names = Names::default();
        names.insert(parts.id, parts.name);
        let (events, first) = broadcast::channel(EVENTS_KEPT);
        let core = Arc::new(Self {
            id: parts.id,
            started: Instant::now(),
            driven: Mutex::new(Driven { node: parts.node, armed: None }),
            links: parts.links,
            swarm: parts.swarm,
            engine: parts.engine,
            preparer: parts.preparer,
            sooner: Notify::new(),
            requests: Mutex::new(BTreeMap::new()),
            events,
            first: Mutex::new(Some(first)),
            names: Mutex::new(names),
            plan_news: broadcast::channel(EVENTS_KEPT).0,
            held: parts.held,
            rounds: Mutex::default(),
            profile: parts.profile,
            fatal: watch::channel(None).0,
        });
        slot.0.set(Arc::downgrade(&core)).expect("a slot is for one core");
        core
    }

    /// Lets the core handle something, and carries out what it wants.
    pub(crate) fn input(&self, input: Input) {
        let mut driven = lock(&self.driven);
        let now = self.now();
        for output in driven.node.handle(now, input) {
            self.carry_out(output);
        }
        let deadline = driven.node.deadline();
        let closer = match (deadline, driven.armed) {
            (Some(deadline), Some(armed)) => deadline < armed,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if closer {
            driven.armed = deadline;
            self.sooner.notify_one();
        }
    }

    /// Who could hold a model now; `None` if it is not to be served.
    pub(crate) fn offer(&self, model: ModelId) -> Option<Offer> {
        lock(&self.driven).node.offer(self.now(), model)
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Ticks the core whenever its deadline comes, for as long as it lives.
    pub(crate) async fn keep_time(core: Weak<Self>) {
        loop {
            let Some(this) = core.upgrade() else { return };
            let deadline = {
                let mut driven = lock(&this.driven);
                driven.armed = driven.node.deadline();
                driven.armed
            };
            let due = deadline.is_some_and(|deadline| deadline <= this.now());
            if due {
                this.input(Input::Tick);
                continue;
            }
            // Without a deadline the core still lets go of itself now and then.
            let pause = deadline.map_or(Duration::from_secs(1), |deadline| {
                Duration::from_micros(deadline.since_us(this.now())).min(Duration::from_secs(1))
            });
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = this.sooner.notified() => {}
            }
        }
    }

    /// Hands a loaded part to the compute thread, which then reports `then`.
    pub(crate) fn install(&self, model: ModelId, loaded: Loaded, is_beside: bool, then: Input) {
        self.engine.install(model, loaded, is_beside, then);
    }

    /// Nothing in here waits or comes back with an input: the core's lock is held.
    fn carry_out(&self, output: Output) {
        match output {
            Output::Send { to, message } => self.links.send(&to, &message),
            Output::Dial { peer } => {
                if let Some(peer) = identity::peer_id(&peer) {
                    self.swarm.send(SwarmCommand::Dial(peer));
                }
            }
            Output::Disconnect { peer, cause } => {
                if let Some(peer) = identity::peer_id(&peer) {
                    self.links.disconnect(peer, cause);
                }
            }
            Output::Prepare { model, plan_epoch, part, holders, is_beside } => {
                let holders = holders.iter().filter(|holder| **holder != self.id);
                let holders = holders.filter_map(identity::peer_id).collect();
                self.preparer.prepare((model, plan_epoch), part, holders, is_beside);
            }
            Output::Keep { model, layers } => {
                self.preparer.cancel(model);
                self.engine.keep(model, layers);
            }
            Output::Unload { model } => {
                self.preparer.cancel(model);
                self.engine.unload(model);
            }
            Output::Compute(job) => self.engine.compute(job),
            Output::Release { session } => self.engine.release(session),
            Output::Emit(event) => self.emit(event),
        }
    }

    fn emit(&self, event: Event) {
        let request = match &event {
            Event::Prefilled { request, .. }
            | Event::Token { request, .. }
            | Event::Parked { request }
            | Event::Finished { request, .. }
            | Event::Failed { request, .. } => *request,
            Event::PeerJoined { .. }
            | Event::PeerSuspected { .. }
            | Event::PeerLeft { .. }
            | Event::PlanProgress { .. }
            | Event::PlanReady { .. }
            | Event::PlanFailed { .. } => return self.publish(event),
        };
        let mut requests = lock(&self.requests);
        let last = matches!(event, Event::Finished { .. } | Event::Failed { .. });
        if let Some(sender) = requests.get(&request) {
            // A receiver that is gone has sent, or is about to send, its cancellation.
            let _ = sender.send(event);
        }
        if last {
            requests.remove(&request);
        }
    }

    fn publish(&self, event: Event) {
        if let Event::PeerJoined { peer, name } = &event {
            lock(&self.names).insert(*peer, name.clone());
        }
        if let Some(event) = NodeEvent::of(&event, &lock(&self.names)) {
            self.tell(event);
        }
        let news = match event {
            Event::PlanReady { plan } => (plan.model, Ok(plan)),
            Event::PlanFailed { model, error } => (model, Err(error)),
            Event::PeerLeft { .. }
            | Event::PeerJoined { .. }
            | Event::PeerSuspected { .. }
            | Event::PlanProgress { .. }
            | Event::Prefilled { .. }
            | Event::Token { .. }
            | Event::Parked { .. }
            | Event::Finished { .. }
            | Event::Failed { .. } => return,
        };
        // Only who waits for a plan listens.
        let _ = self.plan_news.send(news);
    }

    /// Tells whoever listens.
    pub(crate) fn tell(&self, event: NodeEvent) {
        // Nobody need listen.
        let _ = self.events.send(event);
    }

    /// All events: for the first caller from the start, for others from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<NodeEvent> {
        lock(&self.first).take().unwrap_or_else(|| self.events.subscribe())
    }

    /// The events of a request that is about to be made.
    pub(crate) fn listen_to(&self, request: RequestId) -> mpsc::UnboundedReceiver<Event> {
        let (sender, receiver) = mpsc::unbounded_channel();
        lock(&self.requests).insert(request, sender);
        receiver
    }

    /// Nobody waits for a request's events any more.
    pub(crate) fn stop_listening_to(&self, request: RequestId) {
        lock(&self.requests).remove(&request);
    }

    /// Requests whose events somebody waits for.
    pub(crate) fn n_requests(&self) -> u32 {
        u32::try_from(lock(&self.requests).len()).unwrap_or(u32::MAX)
    }

    /// Plans made from now on.
    pub(crate) fn listen_to_plans(&self) -> broadcast::Receiver<PlanNews> {
        self.plan_news.subscribe()
    }

    /// What the core knows and does now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        lock(&self.driven).node.snapshot()
    }

    /// The plans in force of models that this node owns.
    pub(crate) fn plans(&self) -> BTreeMap<ModelId, Plan> {
        let in_force = |served: ServedModel| match served.state {
            ServedState::Ready(plan) => Some((served.model, plan)),
            ServedState::Waiting | ServedState::Preparing(..) | ServedState::Failed(_) => None,
        };
        self.snapshot().served.into_iter().filter_map(in_force).collect()
    }

    /// What tokens of a model that this node owns should take, and took.
    pub(crate) fn timing(&self, model: ModelId) -> Option<Timing> {
        lock(&self.driven).node.timing(model)
    }

    /// What is known of links.
    pub(crate) fn known_links(&self) -> Vec<LinkView> {
        lock(&self.driven).node.links()
    }

    /// What the compute thread holds.
    pub(crate) fn held(&self) -> BTreeMap<ModelId, Held> {
        self.held.read()
    }

    /// A token of a request of this node has come around.
    pub(crate) fn note_round(&self, round: Round) {
        lock(&self.rounds).push(round);
    }

    /// The latest rounds of this node's own requests.
    pub(crate) fn rounds(&self) -> MutexGuard<'_, Rounds> {
        lock(&self.rounds)
    }

    /// This node.
    pub(crate) const fn id(&self) -> NodeId {
        self.id
    }

    /// What this node can carry.
    pub(crate) const fn profile(&self) -> &Profile {
        &self.profile
    }

    /// What nodes call themselves.
    pub(crate) fn names(&self) -> MutexGuard<'_, Names> {
        lock(&self.names)
    }

    /// Ends the node with an error.
    pub(crate) fn fail(&self, error: NodeError) {
        tracing::error!(%error, "the node cannot go on");
        let error = Arc::new(error);
        self.tell(NodeEvent::Fatal { error: error.to_string() });
        // The first error stays: what follows is its consequence.
        self.fatal.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(error);
            first
        });
    }

    /// Why the node cannot go on, if so.
    pub(crate) fn fatal(&self) -> watch::Receiver<Option<Arc<NodeError>>> {
        self.fatal.subscribe()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding it is a bug of the core; what it left is still the best there is.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
