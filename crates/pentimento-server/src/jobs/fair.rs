//! A queue that is fair between callers: each one's jobs wait in their order, and the callers take turns.

use super::Job;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

#[derive(Default)]
pub(super) struct FairQueue {
    waiting: HashMap<Option<String>, VecDeque<Arc<Job>>>,
    /// Everybody in `waiting` once; the first one is next.
    turns: VecDeque<Option<String>>,
    length: usize,
}

impl FairQueue {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Jobs of one caller that wait.
    pub(super) fn of(&self, caller: Option<&str>) -> usize {
        self.waiting.get(&caller.map(str::to_owned)).map_or(0, VecDeque::len)
    }

    pub(super) fn push(&mut self, job: Arc<Job>) {
        let caller = job.caller.clone();
        let line = self.waiting.entry(caller.clone()).or_insert_with(|| {
            self.turns.push_back(caller);
            VecDeque::new()
        });
        line.push_back(job);
        self.length += 1;
    }

    /// The first job of whose turn it is.
    pub(super) fn pop(&mut self) -> Option<Arc<Job>> {
        let caller = self.turns.pop_front()?;
        let line = self.waiting.get_mut(&caller)?;
        let job = line.pop_front()?;
        self.length -= 1;
        if line.is_empty() {
            self.waiting.remove(&caller);
        } else {
            self.turns.push_back(caller);
        }
        Some(job)
    }

    /// Takes a job out, wherever it waits; says whether it was there.
    pub(super) fn remove(&mut self, job: &Job) -> bool {
        let Some(line) = self.waiting.get_mut(&job.caller) else { return false };
        let Some(index) = line.iter().position(|queued| queued.number == job.number) else { return false };
        line.remove(index);
        self.length -= 1;
        if line.is_empty() {
            self.waiting.remove(&job.caller);
            self.turns.retain(|caller| *caller != job.caller);
        }
        true
    }

    /// Every job, in no order.
    pub(super) fn all(&self) -> Vec<Arc<Job>> {
        self.waiting.values().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::tests::job;

    #[test]
    fn callers_take_turns_and_each_ones_jobs_keep_their_order() {
        let mut queue = FairQueue::default();
        for (number, caller) in [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "c"), (6, "b")] {
            queue.push(job(number, Some(caller)));
        }
        queue.push(job(7, None));
        assert_eq!((queue.len(), queue.of(Some("a")), queue.of(Some("d"))), (7, 3, 0));
        let order: Vec<u64> = std::iter::from_fn(|| queue.pop()).map(|job| job.number).collect();
        assert_eq!(order, [1, 4, 5, 7, 2, 6, 3]);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn who_leaves_gives_the_turn_to_the_next() {
        let mut queue = FairQueue::default();
        let first = job(1, Some("a"));
        queue.push(Arc::clone(&first));
        queue.push(job(2, Some("b")));
        assert!(queue.remove(&first) && !queue.remove(&first));
        assert_eq!((queue.all().len(), queue.pop().map(|job| job.number)), (1, Some(2)));
        queue.push(job(3, Some("a")));
        assert_eq!(queue.pop().map(|job| job.number), Some(3));
        assert!(queue.pop().is_none());
    }
}
