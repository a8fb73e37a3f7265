//! Ranges of keys, and who is interested in them: a key finds those around it in O(log n + hits).
//!
//! A treap: ordered by start and end, a heap by a number that the tree draws, and each node knows the furthest end below
//! it. Who could guess the numbers could choose ranges that make it as deep as there are ranges.

use std::{cmp::Ordering, collections::BTreeSet};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::watcher::Number;

/// Where a range ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// Before a key.
    Before(Box<[u8]>),
    /// Not at all.
    Never,
}

impl End {
    /// Whether a key is before it.
    pub(super) fn is_after(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < end.as_ref(),
            Self::Never => true,
        }
    }
}

/// Ranges and their watchers.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    free: Vec<u32>,
    root: u32,
    /// Draws the nodes' weights.
    weights: StdRng,
}

#[derive(Debug)]
struct Node {
    start: Box<[u8]>,
    end: End,
    watchers: BTreeSet<Number>,
    /// Heavier than those below it.
    weight: u32,
    left: u32,
    right: u32,
    /// The node below it, or itself, that ends last.
    furthest: u32,
}

const NONE: u32 = u32::MAX;

impl Default for Tree {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Tree {
    /// An empty tree, whose shape follows from the seed and from what comes.
    pub(super) fn new(seed: u64) -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), root: NONE, weights: StdRng::seed_from_u64(seed) }
    }

    /// Who of all is interested in a key.
    pub(super) fn find(&self, key: &[u8], found: &mut Vec<Number>) {
        self.find_below(self.root, key, found);
    }

    fn find_below(&self, at: u32, key: &[u8], found: &mut Vec<Number>) {
        if at == NONE || !self.node(self.node(at).furthest).end.is_after(key) {
            return;
        }
        let node = self.node(at);
        self.find_below(node.left, key, found);
        if node.start.as_ref() <= key {
            if node.end.is_after(key) {
                found.extend(&node.watchers);
            }
            self.find_below(node.right, key, found);
        }
    }

    /// A watcher is interested in a range.
    pub(super) fn insert(&mut self, start: &[u8], end: &End, watcher: Number) {
        match self.search(start, end) {
            Some(at) => _ = self.node_mut(at).watchers.insert(watcher),
            None => {
                let new = self.make(start, end, watcher);
                self.root = self.insert_below(self.root, new);
            }
        }
    }

    /// It is not any more.
    pub(super) fn remove(&mut self, start: &[u8], end: &End, watcher: Number) {
        let Some(at) = self.search(start, end) else { return };
        self.node_mut(at).watchers.remove(&watcher);
        if self.node(at).watchers.is_empty() {
            self.root = self.remove_below(self.root, at);
            *self.node_mut(at) = Node::empty();
            self.free.push(at);
        }
    }

    fn search(&self, start: &[u8], end: &End) -> Option<u32> {
        let mut at = self.root;
        while at != NONE {
            let node = self.node(at);
            at = match (start, end).cmp(&(&node.start, &node.end)) {
                Ordering::Equal => return Some(at),
                Ordering::Less => node.left,
                Ordering::Greater => node.right,
            };
        }
        None
    }

    fn make(&mut self, start: &[u8], end: &End, watcher: Number) -> u32 {
        let at = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::empty());
            self.nodes.len() as u32 - 1
        });
        let watchers = BTreeSet::from([watcher]);
        let (start, end, weight) = (start.into(), end.clone(), self.weights.random());
        *self.node_mut(at) = Node { start, end, watchers, weight, left: NONE, right: NONE, furthest: at };
        at
    }

    fn insert_below(&mut self, at: u32, new: u32) -> u32 {
        if at == NONE || self.node(new).weight > self.node(at).weight {
            let (left, right) = self.split(at, new);
            return self.join(new, left, right);
        }
        let Node { left, right, .. } = *self.node(at);
        if self.is_before(new, at) {
            let left = self.insert_below(left, new);
            self.join(at, left, right)
        } else {
            let right = self.insert_below(right, new);
            self.join(at, left, right)
        }
    }

    fn remove_below(&mut self, at: u32, gone: u32) -> u32 {
        let Node { left, right, .. } = *self.node(at);
        if at == gone {
            self.merge(left, right)
        } else if self.is_before(gone, at) {
            let left = self.remove_below(left, gone);
            self.join(at, left, right)
        } else {
            let right = self.remove_below(right, gone);
            self.join(at, left, right)
        }
    }

    /// What is below a node, as what is before another and what is after it.
    fn split(&mut self, at: u32, by: u32) -> (u32, u32) {
        if at == NONE {
            return (NONE, NONE);
        }
        let Node { left, right, .. } = *self.node(at);
        if self.is_before(at, by) {
            let (before, after) = self.split(right, by);
            (self.join(at, left, before), after)
        } else {
            let (before, after) = self.split(left, by);
            (before, self.join(at, after, right))
        }
    }

    /// One tree of two, of which the first is before the second.
    fn merge(&mut self, first: u32, second: u32) -> u32 {
        if first == NONE || second == NONE {
            return first.min(second);
        }
        if self.node(first).weight > self.node(second).weight {
            let Node { left, right, .. } = *self.node(first);
            let right = self.merge(right, second);
            self.join(first, left, right)
        } else {
            let Node { left, right, .. } = *self.node(second);
            let left = self.merge(first, left);
            self.join(second, left, right)
        }
    }

    /// Puts two trees below a node, which is returned.
    fn join(&mut self, at: u32, left: u32, right: u32) -> u32 {
        let below = [left, right].into_iter().filter(|below| *below != NONE).map(|below| self.node(below).furthest);
        let furthest = below.chain([at]).max_by(|a, b| self.node(*a).end.cmp(&self.node(*b).end));
        let node = self.node_mut(at);
        (node.left, node.right, node.furthest) = (left, right, furthest.unwrap_or(at));
        at
    }

    fn is_before(&self, a: u32, b: u32) -> bool {
        let (a, b) = (self.node(a), self.node(b));
        (&a.start, &a.end) < (&b.start, &b.end)
    }

    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }
}

impl Node {
    fn empty() -> Self {
        let (start, watchers) = (Box::default(), BTreeSet::new());
        Self { start, end: End::Never, watchers, weight: 0, left: NONE, right: NONE, furthest: NONE }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Tree {
        fn depth(&self, at: u32) -> usize {
            if at == NONE {
                return 0;
            }
            1 + self.depth(self.node(at).left).max(self.depth(self.node(at).right))
        }
    }

    fn end(byte: u8) -> End {
        if byte == 9 { End::Never } else { End::Before([byte].into()) }
    }

    proptest! {
        #[test]
        fn it_finds_what_a_list_finds(changes in prop::collection::vec((any::<bool>(), 0..9_u8, 1..10_u8, 0..4_u32), 0..80)) {
            let (mut tree, mut list) = (Tree::default(), BTreeSet::new());
            for (is_insert, from, to, watcher) in changes {
                if is_insert {
                    tree.insert(&[from], &end(to), watcher);
                    list.insert((from, to, watcher));
                } else {
                    tree.remove(&[from], &end(to), watcher);
                    list.remove(&(from, to, watcher));
                }
                for key in 0..12 {
                    let mut found = Vec::new();
                    tree.find(&[key], &mut found);
                    let hits = list.iter().filter(|(from, to, _)| *from <= key && (*to == 9 || key < *to));
                    prop_assert_eq!(found, hits.map(|(_, _, watcher)| *watcher).collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn ranges_chosen_for_one_seed_make_no_deep_tree_of_another() {
        let key = |number: u32| number.to_be_bytes();
        let mut guessed = Tree::new(1);
        let mut by_weight: Vec<_> = (0..4000_u32).map(|n| guessed.make(&key(n), &End::Never, n)).collect();
        by_weight.sort_by_key(|at| guessed.node(*at).weight);
        // The n-th range is given the place in the order that its weight has: the tree of this seed is a list.
        let mut starts = vec![0; by_weight.len()];
        by_weight.iter().zip(0..).for_each(|(at, place)| starts[*at as usize] = place);
        let depth = |seed| {
            let mut tree = Tree::new(seed);
            starts.iter().for_each(|start| tree.insert(&key(*start), &End::Never, *start));
            tree.depth(tree.root)
        };
        assert_eq!(depth(1), 4000);
        assert!(depth(2) < 60, "{}", depth(2));
    }

    #[test]
    fn ranges_in_order_make_no_deep_tree() {
        let mut tree = Tree::default();
        let key = |number: u32| number.to_be_bytes();
        (0..20_000_u32).for_each(|n| tree.insert(&key(n), &End::Before(key(n + 2).into()), n));
        assert!(tree.depth(tree.root) < 60, "{}", tree.depth(tree.root));
        let mut found = Vec::new();
        tree.find(&key(7_000), &mut found);
        assert_eq!(found, [6_999, 7_000]);
        (0..20_000_u32).for_each(|n| tree.remove(&key(n), &End::Before(key(n + 2).into()), n));
        assert_eq!((tree.root, tree.free.len()), (NONE, tree.nodes.len()));
    }
}
