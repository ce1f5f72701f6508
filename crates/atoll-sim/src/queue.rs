//! What is still to happen, in order of time, and of two at one time the one that was put in first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Items are large and stay where they are: the heap moves their times and places only.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    due: BinaryHeap<Reverse<(u64, u64, usize)>>,
    sequence: u64,
    items: Vec<Option<T>>,
    /// Places in `items` that are free.
    free: Vec<usize>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { due: BinaryHeap::new(), sequence: 0, items: Vec::new(), free: Vec::new() }
    }
}

impl<T> Queue<T> {
    /// Puts an item in, to come out at `at`.
    pub(crate) fn push(&mut self, at: u64, item: T) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.items.push(None);
            self.items.len() - 1
        });
        self.items[place] = Some(item);
        self.sequence += 1;
        self.due.push(Reverse((at, self.sequence, place)));
    }

    /// Takes the first item out, with its time.
    pub(crate) fn pop(&mut self) -> Option<(u64, T)> {
        let Reverse((at, _, place)) = self.due.pop()?;
        self.free.push(place);
        self.items[place].take().map(|item| (at, item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_of_two_the_one_put_in_first() {
        let mut queue = Queue::default();
        for (at, item) in [(5, 'c'), (3, 'a'), (5, 'd'), (3, 'b')] {
            queue.push(at, item);
        }
        assert_eq!((queue.pop(), queue.pop()), (Some((3, 'a')), Some((3, 'b'))));
        queue.push(5, 'e');
        queue.push(4, 'x');
        let rest: String = std::iter::from_fn(|| queue.pop()).map(|(_, item)| item).collect();
        assert_eq!(rest, "xcde");
        assert_eq!(queue.items.len(), 4, "a place is used again");
    }
}
