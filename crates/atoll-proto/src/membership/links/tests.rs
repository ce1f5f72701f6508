use quickcheck::{Arbitrary, Gen, quickcheck};

use super::probing::{FILLED, PROBES, WINDOW, Window};
use super::*;
use crate::io::Output;
use crate::limits::FILLER_BYTES_MAX;
use crate::planted::Planted;

const fn id(byte: u8) -> NodeId {
    NodeId([byte; 32])
}

fn ids(bytes: impl IntoIterator<Item = u8>) -> BTreeSet<NodeId> {
    bytes.into_iter().map(id).collect()
}

/// Nodes that are all members of each other, and what is on its way between them.
struct Net {
    now: Time,
    nodes: BTreeMap<NodeId, Links>,
    /// When, from whom, to whom, what.
    under_way: Vec<(Time, NodeId, NodeId, Survey)>,
    one_way_us: fn(u8, u8) -> u64,
    bytes_per_s: fn(u8, u8) -> u64,
    sent: usize,
    /// Of filler, by direction.
    filler: BTreeMap<(u8, u8), usize>,
    /// They hear nothing.
    deaf: BTreeSet<NodeId>,
}

impl Net {
    fn new(n: u8, one_way_us: fn(u8, u8) -> u64) -> Self {
        let nodes = (1..=n).map(|byte| (id(byte), Links::new(id(byte)))).collect();
        let (under_way, deaf) = (Vec::new(), BTreeSet::new());
        let (bytes_per_s, filler) = ((|_, _| u64::MAX) as fn(u8, u8) -> u64, BTreeMap::new());
        let (now, sent) = (Time(1_000), 0);
        Self { now, nodes, under_way, one_way_us, bytes_per_s, sent, filler, deaf }
    }

    fn with(&mut self, node: NodeId, act: impl FnOnce(&mut Links, &mut Effects)) {
        let fx = &mut Effects::new(self.now, Planted::default());
        act(self.nodes.get_mut(&node).expect("a node"), fx);
        for output in fx.outputs.drain(..) {
            let Output::Send { to, message: Message::Survey(survey) } = output else {
                panic!("{output:?}");
            };
            let pair = (node.0[0], to.0[0]);
            let mut us = (self.one_way_us)(pair.0, pair.1);
            if let Survey::Probe { filler, .. } = &survey {
                us += filler.len() as u64 * 1_000_000 / (self.bytes_per_s)(pair.0, pair.1);
                *self.filler.entry(pair).or_default() += filler.len();
            }
            let at = self.now.after_us(us);
            self.under_way.push((at, node, to, survey));
            self.sent += 1;
        }
    }

    fn survey(&mut self, owner: u8, nodes: &BTreeSet<NodeId>) {
        self.with(id(owner), |links, fx| links.survey(fx, nodes));
    }

    /// Lets everything arrive, and deadlines come.
    fn run(&mut self) {
        loop {
            let next = self.under_way.iter().map(|(at, ..)| *at).min();
            let due = self.nodes.values().filter_map(Links::deadline).min();
            let Some(now) = next.into_iter().chain(due).min() else { return };
            self.now = now;
            if next != Some(now) {
                for node in self.nodes.keys().copied().collect::<Vec<_>>() {
                    self.with(node, |links, fx| links.tick(fx));
                }
                continue;
            }
            let first = self.under_way.iter().position(|(at, ..)| *at == now).expect("the next");
            let (_, from, to, survey) = self.under_way.remove(first);
            if !self.deaf.contains(&to) {
                let all = self.nodes.keys().copied().collect::<BTreeSet<_>>();
                let is_member = |node: &NodeId| *node != to && all.contains(node);
                self.with(to, |links, fx| links.received(fx, is_member, from, &survey));
            }
        }
    }

    /// What the first node knows.
    fn link(&self, from: u8, to: u8) -> LinkFigures {
        let owner = &self.nodes[&id(1)];
        match (from, to) {
            (1, _) => owner.to(id(to)),
            (_, 1) => owner.from(id(from)),
            _ => owner.between(id(from), id(to)),
        }
    }

    fn rtt_us(&self, a: u8, b: u8) -> Option<u32> {
        self.link(a, b).rtt_us
    }
}

/// Nodes 1, 2 and 3 in one room, 4 and 5 in another.
fn two_rooms(a: u8, b: u8) -> u64 {
    if (a > 3) == (b > 3) { 100 } else { 20_000 }
}

#[test]
fn an_owner_learns_the_links_among_others() {
    let mut net = Net::new(5, two_rooms);
    let nodes = ids(2..=5);
    net.survey(1, &nodes);
    assert!(!net.nodes[&id(1)].is_surveyed(net.now, &nodes));
    net.run();
    let owner = net.nodes.get_mut(&id(1)).expect("a node");
    assert!(owner.is_surveyed(net.now, &nodes) && owner.take_news() && !owner.take_news());
    assert_eq!(net.rtt_us(1, 2), Some(200));
    assert_eq!(net.rtt_us(1, 4), Some(40_000));
    assert_eq!(net.rtt_us(4, 5), Some(200), "though both are far from the owner");
    assert_eq!(net.rtt_us(2, 5), Some(40_000));
    assert!(net.now < Time(1_000).after_us(SURVEY_US), "{:?}", net.now);
}

#[test]
fn what_is_known_is_not_measured_again() {
    let mut net = Net::new(4, |_, _| 100);
    let nodes = ids(2..=4);
    net.survey(1, &nodes);
    net.run();
    // Six pairs from both ends, each way three filled probes; a question and an answer for each.
    let round = 2 * usize::from(PROBES + FILLED);
    assert_eq!(net.sent, 6 * 2 * round + 3 * 2);
    assert!(net.filler.values().all(|bytes| *bytes == usize::from(FILLED) * FILLER_BYTES_MAX));
    let before = net.sent;
    net.survey(1, &nodes);
    net.survey(1, &ids(2..=3));
    assert_eq!(net.sent, before);
    // Another owner is told at once.
    net.survey(2, &ids([1, 3, 4]));
    net.run();
    assert_eq!(net.sent, before + 3 * 2);
    net.now = net.now.after_us(FRESH_US);
    net.survey(1, &nodes);
    net.run();
    assert_eq!(net.sent, before + 6 * 2 + 6 * 2 * 2 * usize::from(PROBES), "but not filled again");
}

#[test]
fn a_survey_of_many_members_is_no_larger() {
    let mut net = Net::new(100, |_, _| 100);
    net.survey(1, &ids(2..=100));
    net.run();
    let pairs = 2 * SURVEYED_MAX + SURVEYED_MAX * (SURVEYED_MAX - 1);
    assert_eq!(net.sent, pairs * 2 * usize::from(PROBES + FILLED) + 2 * SURVEYED_MAX);
}

#[test]
fn who_does_not_answer_is_not_waited_for() {
    let mut net = Net::new(4, |_, _| 100);
    net.deaf = ids([3]);
    let nodes = ids(2..=4);
    net.survey(1, &nodes);
    net.run();
    assert!(net.nodes[&id(1)].is_surveyed(net.now, &nodes));
    assert_eq!(net.now, Time(1_000).after_us(SURVEY_US));
    let far = Some(700_000);
    assert_eq!((net.rtt_us(1, 3), net.rtt_us(2, 3)), (far, far), "so long at least");
    assert_eq!((net.rtt_us(1, 2), net.rtt_us(2, 4)), (Some(200), Some(200)), "the others did");
}

/// To 3 as to all, but slowly; what 4 sends goes slowly to all.
fn thin(from: u8, to: u8) -> u64 {
    if from == 4 || to == 3 { 1_000_000 } else { 100_000_000 }
}

#[test]
fn each_direction_is_measured_by_what_it_carries() {
    let mut net = Net::new(4, |_, _| 5_000);
    net.bytes_per_s = thin;
    net.survey(1, &ids(2..=4));
    net.run();
    for (from, to) in [(1, 2), (1, 3), (2, 1), (4, 1), (2, 3), (3, 2), (4, 2), (2, 4)] {
        let found = net.link(from, to).bytes_per_s.expect("it was measured");
        let is = thin(from, to);
        assert!(found.abs_diff(is) < is / 50, "{from} to {to}: {found}");
    }
    // Slower than a round is long: known to be no faster.
    let mut net = Net::new(2, |_, _| 200);
    net.bytes_per_s = |_, _| 1_000;
    net.survey(1, &ids([2]));
    net.run();
    assert!(net.link(1, 2).bytes_per_s.is_some_and(|bytes_per_s| bytes_per_s < 20_000));
}

#[test]
fn what_far_nodes_carry_is_measured_in_time_too() {
    // A round has time for six probes, one after the other.
    let mut net = Net::new(4, |_, _| 50_000);
    net.bytes_per_s = |_, _| 2_500_000;
    net.survey(1, &ids(2..=4));
    net.run();
    for (from, to) in [(1, 2), (1, 3), (1, 4), (2, 3), (3, 4), (4, 2)] {
        let found = net.link(from, to).bytes_per_s;
        let found = found.unwrap_or_else(|| panic!("{from} to {to} was not measured"));
        assert!(found.abs_diff(2_500_000) < 50_000, "{from} to {to}: {found}");
    }
}

#[test]
fn an_hour_of_surveys_costs_no_pair_a_mebibyte() {
    let mut net = Net::new(3, |_, _| 300);
    for _ in 0..120 {
        net.survey(1, &ids(2..=3));
        net.survey(3, &ids(1..=2));
        net.run();
        net.now = net.now.after_us(30_000_000);
    }
    assert!(net.now > Time(3_600_000_000));
    assert!(net.filler.values().all(|bytes| *bytes <= 256 << 10), "{:?}", net.filler);
}

#[test]
fn who_leaves_is_not_waited_for() {
    let mut net = Net::new(3, |_, _| 100);
    net.deaf = ids([2, 3]);
    net.survey(1, &ids(2..=3));
    net.with(id(1), |links, fx| {
        links.left(fx, id(2));
        assert!(!links.take_news());
        links.left(fx, id(3));
        assert!(links.take_news());
        assert_eq!(links.deadline(), None);
    });
}

#[test]
fn one_late_answer_changes_nothing() {
    let mut window = Window::default();
    [300, 900_000, 310, 290, 305].into_iter().for_each(|us| window.add(us));
    assert_eq!(window.median(), Some(305));
    // What was true long ago is forgotten.
    (0..WINDOW).for_each(|_| window.add(7_000));
    assert_eq!((window.median(), window.0.len()), (Some(7_000), WINDOW));
    window.add(u64::MAX);
    assert_eq!(window.0.back(), Some(&RTT_US_MAX));
}

#[test]
fn nobody_is_believed_more_than_asked_for() {
    let reach = |byte, rtt_us| Reach { node: id(byte), rtt_us, bytes_per_s: u64::MAX };
    let mut net = Net::new(4, |_, _| 100);
    let nodes = ids(2..=3);
    net.survey(1, &nodes);
    let told = |ask, reaches: Vec<Reach>| Survey::Told { ask, reaches };
    let ask = net.nodes[&id(1)].asked[&id(2)].ask;
    net.with(id(1), |links, fx| {
        let anybody = |_: &NodeId| true;
        links.received(fx, anybody, id(4), &told(ask, vec![reach(2, 1)]));
        links.received(fx, anybody, id(2), &told(ask.wrapping_sub(1), vec![reach(3, 1)]));
        assert_eq!(links.between(id(2), id(3)).rtt_us, None, "not asked, or not this");
        links.received(fx, anybody, id(2), &told(ask, vec![reach(3, 1), reach(4, 1)]));
        assert_eq!(links.between(id(2), id(4)).rtt_us, None, "not asked about");
        links.received(fx, anybody, id(2), &told(ask, vec![reach(3, 9)]));
        assert_eq!(links.between(id(2), id(3)).rtt_us, Some(1), "it has said so");
        let other = links.asked[&id(3)].ask;
        links.received(fx, anybody, id(3), &told(other, vec![reach(2, u32::MAX)]));
        let link = links.between(id(2), id(3));
        assert_eq!(link.rtt_us, Some(RTT_US_MAX), "the longer way counts");
        assert_eq!(link.bytes_per_s, Some(BYTES_PER_S_MAX));
    });
}

#[test]
fn an_echo_counts_once_and_only_of_the_latest_probe() {
    let mut net = Net::new(2, |_, _| 100);
    net.survey(1, &ids([2]));
    let probe = net.nodes[&id(1)].rounds[&id(2)].probe;
    net.now = net.now.after_us(500);
    net.with(id(1), |links, fx| {
        for wrong in [probe.wrapping_sub(1), probe + 9] {
            links.received(fx, |_| true, id(2), &Survey::Echo(wrong));
        }
        assert!(links.to(id(2)).rtt_us.is_none());
        (0..3).for_each(|_| links.received(fx, |_| true, id(2), &Survey::Echo(probe)));
        assert_eq!((links.to(id(2)).rtt_us, links.own[&id(2)].small.0.len()), (Some(500), 1));
        assert_eq!(links.rounds[&id(2)].small_left, PROBES - 1);
    });
}

/// What a stranger could say.
#[derive(Clone, Debug)]
struct Any(u8, Survey);

impl Arbitrary for Any {
    fn arbitrary(g: &mut Gen) -> Self {
        let nodes = || ids(0..40).into_iter();
        let number = u32::arbitrary(g) % 200;
        let survey = match u8::arbitrary(g) % 4 {
            0 => Survey::Probe { probe: number, filler: vec![1; 9] },
            1 => Survey::Echo(number),
            2 => Survey::Ask { ask: number, nodes: nodes().collect(), is_again: false },
            _ => {
                let (rtt_us, bytes_per_s) = (u32::arbitrary(g), u64::arbitrary(g));
                let reach = |node| Reach { node, rtt_us, bytes_per_s };
                let reaches = nodes().map(reach).collect();
                Survey::Told { ask: number, reaches }
            }
        };
        Self(u8::arbitrary(g) % 20, survey)
    }
}

quickcheck! {
    fn what_strangers_say_is_bounded(said: Vec<(u16, Any)>) -> bool {
        let links = &mut Links::new(id(0));
        let fx = &mut Effects::new(Time(0), Planted::default());
        links.survey(fx, &ids(1..=16));
        said.iter().all(|(after_us, Any(from, survey))| {
            fx.now = fx.now.after_us(u64::from(*after_us) * 10);
            let before = fx.outputs.len();
            links.received(fx, |node| node.0[0] < 20, id(*from), survey);
            let answers = fx.outputs.len() - before;
            if links.deadline().is_some_and(|at| at <= fx.now) {
                links.tick(fx);
            }
            let sizes = [links.own.len(), links.rounds.len(), links.askers.len(), links.said.len()];
            answers <= 2 * SURVEYED_MAX && sizes.iter().all(|size| *size <= 20)
                && links.own.values().all(|own| own.small.0.len().max(own.filled.0.len()) <= WINDOW)
                && links.said.values().all(|said| said.links.len() <= SURVEYED_MAX)
        })
    }
}

#[test]
fn the_quickest_round_counts_and_doubt_forgets_it_so_often_at_most() {
    let mut own = Own::default();
    // A disturbed round, a good one, and one that has only begun.
    [90_000; 5].into_iter().chain([700, 710, 720, 730, 740]).for_each(|us| own.small.add(us));
    assert_eq!(own.figures().rtt_us, Some(720));
    own.small.add(100);
    assert_eq!(own.figures().rtt_us, Some(720), "five of its six latest");
    for doubt in 0..4 {
        own.small.add(800);
        assert!(own.doubt(Time(doubt)) && own.figures().rtt_us.is_none(), "doubt {doubt}");
    }
    own.small.add(800);
    assert!(!own.doubt(Time(5)) && own.figures().rtt_us == Some(800), "four are enough");
    assert!(own.doubt(Time(700_000_000)));
}
