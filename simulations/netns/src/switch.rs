//! An Ethernet switch that learns nothing: it made the hosts' addresses itself.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use anyhow::{Result, ensure};

use crate::link::{LinkChange, Wire};

/// Octets of an Ethernet header.
const HEADER: usize = 14;

/// A frame under way: when it arrives, its number, from where to where, and its bytes.
type UnderWay = Reverse<(u64, u64, usize, usize, Arc<[u8]>)>;

/// Hosts, a [`Wire`] for every ordered pair, and the frames on their way.
#[derive(Debug)]
pub struct Switch {
    /// `wires[from][to]`; the diagonal is not used.
    wires: Vec<Vec<Wire>>,
    under_way: BinaryHeap<UnderWay>,
    count: u64,
}

impl Switch {
    /// For so many hosts, all links perfect.
    #[must_use]
    pub fn new(seed: u64, hosts: usize) -> Self {
        let from = |from| (0..hosts).map(|to| Wire::new(seed, from, to)).collect();
        Self { wires: (0..hosts).map(from).collect(), under_way: BinaryHeap::new(), count: 0 }
    }

    /// The Ethernet address of a host: a local one that holds its number.
    #[must_use]
    pub fn address(host: usize) -> [u8; 6] {
        let [high, low] = u16::try_from(host).unwrap_or(u16::MAX).to_be_bytes();
        [0x02, 0xa7, 0x01, 0x1c, high, low]
    }

    /// Takes a frame from a host: to the host that it names, or to all others if it is a
    /// broadcast or a multicast. Anything else is dropped.
    pub fn take(&mut self, now_us: u64, from: usize, frame: &[u8]) {
        let Some(&destination) = frame.first_chunk::<6>() else { return };
        if frame.len() < HEADER {
            return;
        }
        let frame: Arc<[u8]> = frame.into();
        let to_all = destination[0] & 1 == 1;
        for to in 0..self.wires.len() {
            if to == from || !(to_all || destination == Self::address(to)) {
                continue;
            }
            let arrivals = self.wires[from][to].take(now_us, frame.len() as u64);
            for at in arrivals.first.into_iter().chain(arrivals.second) {
                self.count += 1;
                self.under_way.push(Reverse((at, self.count, from, to, Arc::clone(&frame))));
            }
        }
    }

    /// When the next frame arrives.
    #[must_use]
    pub fn next_us(&self) -> Option<u64> {
        self.under_way.peek().map(|Reverse((at, ..))| *at)
    }

    /// The next frame that has arrived by `now_us`, and at which host.
    pub fn arrival(&mut self, now_us: u64) -> Option<(usize, Arc<[u8]>)> {
        if self.next_us()? > now_us {
            return None;
        }
        let Reverse((_, _, from, to, frame)) = self.under_way.pop()?;
        self.wires[from][to].arrived();
        Some((to, frame))
    }

    /// Changes the links from one host (or all) to one other (or all).
    ///
    /// # Errors
    /// If a host does not exist or the link is impossible; then nothing is changed.
    pub fn change(
        &mut self,
        from: Option<usize>,
        to: Option<usize>,
        change: LinkChange,
    ) -> Result<()> {
        let hosts = self.wires.len();
        for host in [from, to].into_iter().flatten() {
            ensure!(host < hosts, "there is no host {host}; there are {hosts}, from 0");
        }
        let pairs = self
            .pairs()
            .filter(|(f, t)| from.is_none_or(|from| from == *f) && to.is_none_or(|to| to == *t));
        let changed: Result<Vec<_>> =
            pairs.map(|(f, t)| Ok((f, t, change.applied_to(self.wires[f][t].link)?))).collect();
        for (f, t, link) in changed? {
            self.wires[f][t].link = link;
        }
        Ok(())
    }

    /// Cuts every link between hosts of different groups and mends those within a group.
    ///
    /// # Errors
    /// If a host is in no group or in two.
    pub fn part(&mut self, groups: &[Vec<usize>]) -> Result<()> {
        let mut group = vec![None; self.wires.len()];
        for (index, host) in
            groups.iter().enumerate().flat_map(|(i, g)| g.iter().map(move |h| (i, *h)))
        {
            ensure!(host < group.len(), "there is no host {host}; there are {}", group.len());
            ensure!(group[host].replace(index).is_none(), "host {host} is in two groups");
        }
        let lone = group.iter().position(Option::is_none);
        ensure!(lone.is_none(), "host {} is in no group", lone.unwrap_or_default());
        for (from, to) in self.pairs().collect::<Vec<_>>() {
            self.wires[from][to].link.up = group[from] == group[to];
        }
        Ok(())
    }

    /// The wire from one host to another.
    #[must_use]
    pub fn wire(&self, from: usize, to: usize) -> &Wire {
        &self.wires[from][to]
    }

    /// Every ordered pair of different hosts.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let hosts = self.wires.len();
        (0..hosts).flat_map(move |f| (0..hosts).map(move |t| (f, t))).filter(|(f, t)| f != t)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(to: [u8; 6]) -> Vec<u8> {
        [&to[..], &[0; 54]].concat()
    }

    fn heard(switch: &mut Switch) -> Vec<usize> {
        std::iter::from_fn(|| switch.arrival(u64::MAX)).map(|(host, _)| host).collect()
    }

    #[test]
    fn frames_go_where_they_are_sent() {
        let mut switch = Switch::new(1, 3);
        switch.take(0, 0, &frame(Switch::address(2)));
        assert_eq!(heard(&mut switch), [2]);
        for all in [[0xff; 6], [0x01, 0, 0x5e, 0, 0, 0xfb]] {
            switch.take(0, 1, &frame(all));
            assert_eq!(heard(&mut switch), [0, 2], "broadcast and multicast reach all others");
        }
        for nobody in [Switch::address(7), Switch::address(0), [2; 6]] {
            switch.take(0, 0, &frame(nobody));
        }
        switch.take(0, 0, &[0xff; 13]);
        assert_eq!(heard(&mut switch), [] as [usize; 0]);
    }

    #[test]
    fn frames_arrive_in_time_and_not_before() -> Result<()> {
        let mut switch = Switch::new(1, 3);
        let delay = |us| LinkChange { delay_us: Some(us), ..LinkChange::default() };
        switch.change(Some(0), Some(1), delay(9_000))?;
        switch.change(Some(0), Some(2), delay(4_000))?;
        switch.take(1_000, 0, &frame([0xff; 6]));
        assert_eq!(switch.next_us(), Some(5_000));
        assert!(switch.arrival(4_999).is_none());
        assert_eq!(switch.arrival(5_000).map(|(host, _)| host), Some(2));
        assert!(switch.arrival(9_999).is_none());
        assert_eq!(switch.arrival(10_000).map(|(host, _)| host), Some(1));
        Ok(())
    }

    #[test]
    fn parts_do_not_hear_each_other() -> Result<()> {
        let mut switch = Switch::new(1, 4);
        switch.part(&[vec![0, 3], vec![1, 2]])?;
        switch.take(0, 0, &frame([0xff; 6]));
        assert_eq!(heard(&mut switch), [3]);
        switch.part(&[(0..4).collect()])?;
        switch.take(0, 0, &frame([0xff; 6]));
        assert_eq!(heard(&mut switch), [1, 2, 3]);
        for bad in [&[vec![0, 1]][..], &[vec![0, 1, 2, 3], vec![0]], &[vec![4]]] {
            assert!(switch.part(bad).is_err(), "{bad:?}");
        }
        Ok(())
    }

    #[test]
    fn a_change_that_is_refused_changes_nothing() {
        let mut switch = Switch::new(1, 3);
        let bad = LinkChange { delay_us: Some(5), loss_ppm: Some(u64::MAX), ..Default::default() };
        assert!(switch.change(None, None, bad).is_err());
        assert!(switch.change(Some(3), None, LinkChange::default()).is_err());
        assert_eq!(switch.wire(0, 1).link, crate::Link::default());
    }
}
