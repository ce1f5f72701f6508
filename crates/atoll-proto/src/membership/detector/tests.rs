use super::*;
use crate::io::{Event, Output};
use crate::membership::{Lost, Membership};
use crate::plan::Profile;
use crate::planted::Planted;

const ME: NodeId = NodeId([1; 32]);

/// A node and others that beat as they promise, stepped through time.
struct Trial {
    members: Membership,
    limits: Limits,
    now: Time,
    /// Who speaks, and who is heard by those whom we ask.
    speak: Vec<u8>,
    heard_by_others: Vec<u8>,
    /// When somebody was suspected and lost, µs.
    suspected: Vec<(u8, u64)>,
    lost: Vec<(u8, u64)>,
    told: Vec<u8>,
    beats: usize,
    /// Whoever is asked answers.
    answers: bool,
}

impl Trial {
    fn new(peers: &[u8]) -> Self {
        let limits = Limits::default();
        let fx = &mut Effects::new(Time(0), Planted::default());
        let mut members = Membership::new(ME, "me".into());
        for &peer in peers {
            members.hello(fx, &limits, id(peer), "peer".into(), Profile::default());
        }
        Self {
            members,
            limits,
            now: Time(0),
            speak: peers.to_vec(),
            heard_by_others: peers.to_vec(),
            suspected: Vec::new(),
            lost: Vec::new(),
            told: Vec::new(),
            beats: 0,
            answers: true,
        }
    }

    fn effects(&self) -> Effects {
        Effects::new(self.now, Planted::default())
    }

    /// Everybody who speaks beats every half second; who is asked has its answer when it should.
    fn run(&mut self, for_us: u64) {
        let until = self.now.after_us(for_us);
        let mut answers: BTreeMap<Time, Vec<(NodeId, Presence)>> = BTreeMap::new();
        let mut beat_at = self.now.after_us(1);
        loop {
            let due = self.members.deadline().into_iter().chain([beat_at]);
            let due = due.chain(answers.keys().copied()).min().expect("beats never end");
            if due > until {
                break;
            }
            self.now = due.max(self.now);
            let mut fx = self.effects();
            if beat_at <= self.now {
                beat_at = self.now.after_us(500_000);
                for peer in self.speak.clone() {
                    self.members.heard(&mut fx, &self.limits, id(peer));
                    self.members.promised(self.now, &self.limits, id(peer), 500);
                }
            }
            for (from, presence) in answers.remove(&self.now).unwrap_or_default() {
                self.members.heard(&mut fx, &self.limits, from);
                self.members.received(&mut fx, &self.limits, from, presence);
            }
            for Lost { peer, .. } in self.members.tick(&mut fx, &self.limits, BTreeSet::new) {
                self.lost.push((peer.0[0], self.now.0));
            }
            for output in fx.outputs {
                self.take(&mut answers, output);
            }
        }
        self.now = until;
    }

    fn take(&mut self, answers: &mut BTreeMap<Time, Vec<(NodeId, Presence)>>, output: Output) {
        if let Output::Emit(Event::PeerSuspected { peer }) = output {
            self.suspected.push((peer.0[0], self.now.0));
        }
        let Output::Send { to, message } = output else { return };
        if let Message::Heartbeat { .. } = message {
            self.beats += 1;
        } else if let Message::Presence(Presence::Silent(_)) = message {
            self.told.push(to.0[0]);
        } else if let Message::Presence(Presence::Ask(peer)) = message
            && self.speak.contains(&to.0[0])
            && self.answers
        {
            let heard = self.heard_by_others.contains(&peer.0[0]);
            let (after_us, answer) = if heard {
                (10_000, Presence::Heard(peer))
            } else {
                (360_000, Presence::Unheard(peer))
            };
            answers.entry(self.now.after_us(after_us)).or_default().push((to, answer));
        }
    }

    /// These fall silent, for everybody.
    fn dies(&mut self, peer: u8) {
        self.speak.retain(|other| *other != peer);
        self.heard_by_others.retain(|other| *other != peer);
    }
}

fn id(peer: u8) -> NodeId {
    NodeId([peer; 32])
}

#[test]
fn a_dead_member_is_suspected_within_two_seconds_and_then_lost_and_nobody_else() {
    let mut trial = Trial::new(&[2, 3, 4, 5]);
    trial.run(10_000_000);
    assert_eq!((&trial.suspected[..], &trial.lost[..]), (&[][..], &[][..]));
    trial.dies(4);
    trial.run(25_000_000);
    let [(4, suspected)] = trial.suspected[..] else { panic!("{:?}", trial.suspected) };
    assert!((10_900_000..=11_600_000).contains(&suspected), "{suspected}");
    assert_eq!(trial.told, [2, 3, 5], "all others are told once");
    let [(4, lost)] = trial.lost[..] else { panic!("{:?}", trial.lost) };
    assert!((30_000_000..=33_000_000).contains(&lost), "{lost}");
}

#[test]
fn who_is_heard_by_others_is_neither_suspected_nor_lost() {
    let mut trial = Trial::new(&[2, 3, 4, 5]);
    trial.run(10_000_000);
    trial.speak = vec![2, 3, 5];
    trial.run(100_000_000);
    assert_eq!(
        (&trial.suspected[..], &trial.lost[..], &trial.told[..]),
        (&[][..], &[][..], &[][..])
    );
}

#[test]
fn who_was_heard_by_others_lately_is_not_lost_yet() {
    let mut trial = Trial::new(&[2, 3, 4, 5]);
    trial.run(10_000_000);
    trial.speak = vec![2, 3, 5];
    trial.run(20_000_000);
    trial.heard_by_others = vec![2, 3, 5];
    trial.run(18_000_000);
    assert!(matches!(trial.suspected[..], [(4, 30_000_000..=33_000_000)]), "{:?}", trial.suspected);
    assert_eq!(trial.lost, []);
    trial.run(6_000_000);
    assert!(matches!(trial.lost[..], [(4, _)]), "{:?}", trial.lost);
}

#[test]
fn who_hears_nobody_suspects_nobody() {
    let mut trial = Trial::new(&[2, 3, 4, 5]);
    trial.run(10_000_000);
    trial.speak.clear();
    trial.run(20_000_000);
    assert_eq!((&trial.suspected[..], &trial.lost[..]), (&[][..], &[][..]));
    trial.speak = vec![2, 3, 4, 5];
    trial.run(10_000_000);
    assert_eq!(
        (&trial.suspected[..], &trial.lost[..]),
        (&[][..], &[][..]),
        "its own radio was off"
    );
}

#[test]
fn who_was_held_up_itself_waits_anew() {
    let mut trial = Trial::new(&[2, 3, 4]);
    trial.run(1_000_000);
    // A process that stood still for twenty seconds; what was sent meanwhile comes after the tick.
    trial.now = trial.now.after_us(20_000_000);
    let mut fx = trial.effects();
    let lost = trial.members.tick(&mut fx, &trial.limits, BTreeSet::new);
    assert!(lost.is_empty());
    trial.run(30_000_000);
    assert_eq!((&trial.suspected[..], &trial.lost[..]), (&[][..], &[][..]));
}

#[test]
fn one_word_ends_all_suspicion() {
    let mut trial = Trial::new(&[2, 3, 4]);
    trial.run(1_000_000);
    trial.dies(4);
    trial.run(3_000_000);
    assert!(matches!(trial.suspected[..], [(4, _)]), "{:?}", trial.suspected);
    assert!(trial.members.suspects(id(4)));
    trial.members.heard(&mut trial.effects(), &trial.limits, id(4));
    assert!(!trial.members.suspects(id(4)));
    trial.speak.push(4);
    trial.run(30_000_000);
    assert_eq!((trial.suspected.len(), trial.lost.len()), (1, 0));
}

#[test]
fn a_lone_member_that_is_silent_is_suspected_and_kept_for_long() {
    let mut trial = Trial::new(&[2]);
    trial.run(1_000_000);
    trial.dies(2);
    // A connection between two that live can be stuck for more than two minutes.
    trial.run(178_000_000);
    assert!(matches!(trial.suspected[..], [(2, ..3_000_000)]), "{:?}", trial.suspected);
    assert_eq!(trial.lost, []);
    trial.run(5_000_000);
    assert_eq!(trial.lost.len(), 1);
}

#[test]
fn a_word_that_was_taken_back_is_no_second_observer() {
    for (taken_back, lost) in [(false, 1), (true, 0)] {
        let mut trial = Trial::new(&[2, 3, 4]);
        trial.answers = false;
        trial.run(1_000_000);
        trial.dies(4);
        trial.run(2_000_000);
        let mut fx = trial.effects();
        let unheard = Presence::Unheard(id(4));
        trial.members.received(&mut fx, &trial.limits, id(2), unheard);
        trial.run(500_000);
        if taken_back {
            let heard = Presence::Heard(id(4));
            trial.members.received(&mut fx, &trial.limits, id(2), heard);
        }
        trial.run(40_000_000);
        assert_eq!(trial.lost.len(), lost, "{:?}", trial.lost);
    }
}

#[test]
fn hearsay_makes_a_node_look_and_evicts_nobody() {
    let mut trial = Trial::new(&[2, 3, 4]);
    for _ in 0..300 {
        let mut fx = trial.effects();
        for peer in [4, 9] {
            let silent = Presence::Silent(id(peer));
            trial.members.received(&mut fx, &trial.limits, id(2), silent);
        }
        // Whoever is pinged answers.
        trial.members.heard(&mut fx, &trial.limits, id(4));
        trial.run(100_000);
    }
    assert_eq!((&trial.suspected[..], &trial.lost[..]), (&[][..], &[][..]));
}

#[test]
fn who_is_told_looks_and_then_suspects_without_asking_longer() {
    let mut trial = Trial::new(&[2, 3, 4]);
    trial.run(1_000_000);
    trial.dies(4);
    let mut fx = trial.effects();
    trial.members.received(&mut fx, &trial.limits, id(2), Presence::Silent(id(4)));
    trial.run(300_000);
    assert!(matches!(trial.suspected[..], [(4, ..=1_300_000)]), "{:?}", trial.suspected);
    assert_eq!(trial.told, [], "it is known");
}

#[test]
fn who_asks_for_another_hears_whether_it_was_heard() {
    let mut trial = Trial::new(&[2, 3]);
    let sent = |fx: Effects| -> Vec<_> {
        let sent = fx.outputs.into_iter().filter_map(|output| {
            let Output::Send { to, message } = output else { return None };
            Some((to.0[0], message.kind()))
        });
        sent.collect()
    };
    let (members, limits) = (&mut trial.members, &trial.limits);
    let mut fx = Effects::new(Time(0), Planted::default());
    members.received(&mut fx, limits, id(2), Presence::Ask(id(3)));
    members.heard(&mut fx, limits, id(3));
    members.heard(&mut fx, limits, id(3));
    assert_eq!(sent(fx), [(2, "heartbeat"), (3, "ping"), (2, "heard")]);
    let mut fx = Effects::new(Time(1_000), Planted::default());
    members.received(&mut fx, limits, id(2), Presence::Ask(id(3)));
    members.received(&mut fx, limits, id(2), Presence::Ask(id(8)));
    assert_eq!(sent(fx), [(2, "heartbeat"), (3, "ping"), (2, "heartbeat")]);
    let mut fx = Effects::new(Time(351_000), Planted::default());
    members.tick(&mut fx, limits, BTreeSet::new);
    assert!(sent(fx).contains(&(2, "unheard")));
    // When that is no longer true, it is taken back.
    let mut fx = Effects::new(Time(900_000), Planted::default());
    members.heard(&mut fx, limits, id(3));
    assert_eq!(sent(fx), [(2, "heard")]);
}

#[test]
fn who_told_of_a_silence_tells_of_its_end() {
    let mut trial = Trial::new(&[2, 3, 4]);
    trial.run(1_000_000);
    trial.dies(4);
    trial.run(3_000_000);
    assert_eq!(trial.told, [2, 3]);
    let mut fx = trial.effects();
    trial.members.heard(&mut fx, &trial.limits, id(4));
    let told = fx.outputs.into_iter().filter_map(|output| {
        let Output::Send { to, message } = output else { return None };
        Some((to.0[0], message.kind()))
    });
    assert_eq!(told.collect::<Vec<_>>(), [(2, "heard"), (3, "heard")]);
}

#[test]
fn beats_cost_the_same_however_many_members_there_are() {
    let beats = |n: u8| {
        let mut trial = Trial::new(&(2..2 + n).collect::<Vec<_>>());
        trial.run(64_000_000);
        trial.beats = 0;
        trial.run(64_000_000);
        trial.beats
    };
    let (few, many) = (beats(16), beats(120));
    // Two watchers twice a second, and two to four others.
    assert!((5 * 64..=8 * 64).contains(&few), "{few}");
    assert!((5 * 64..=8 * 64).contains(&many), "{many}");
}
