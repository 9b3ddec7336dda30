//! A sorted set: members with scores, found by member, by score and by rank.

use std::cmp::Ordering;
use std::sync::Arc;

use indexmap::IndexMap;

/// What a member costs beside its bytes: two places and a shared allocation.
const MEMBER_BYTES: usize = 104;
/// A block that grows beyond is cut in two.
const BLOCK_MAX: usize = 256;

pub(crate) type Scored = (f64, Arc<[u8]>);

/// Blocks in order, each a sorted run: finding is two binary searches, a rank is a sum of lengths.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sorted {
    scores: IndexMap<Arc<[u8]>, f64>,
    blocks: Vec<Vec<Scored>>,
    content_bytes: usize,
    longest: usize,
    is_wide: bool,
}

const PACKED_MAX: usize = 128;

impl Sorted {
    pub(crate) fn len(&self) -> usize {
        self.scores.len()
    }

    pub(crate) fn score(&self, member: &[u8]) -> Option<f64> {
        self.scores.get(member).copied()
    }

    /// The score that the member had before.
    pub(crate) fn set(&mut self, member: &[u8], score: f64) -> Option<f64> {
        let Some((index, shared, &old)) = self.scores.get_full(member) else {
            let shared: Arc<[u8]> = member.into();
            self.content_bytes += member.len();
            self.longest = self.longest.max(member.len());
            self.scores.insert(shared.clone(), score);
            self.is_wide |= self.scores.len() > PACKED_MAX;
            self.insert_ordered(score, shared);
            return None;
        };
        let shared = shared.clone();
        // Equal scores in another form (0 and -0) keep their place but not their value.
        if old.to_bits() != score.to_bits() {
            self.remove_ordered(old, &shared);
            self.scores[index] = score;
            self.insert_ordered(score, shared);
        }
        Some(old)
    }

    /// Lets no stored score be a negative zero, as Redis's packed form does.
    pub(crate) fn settle_zeros(&mut self) {
        let least = self.count_while(|score, _| score < 0.0);
        let most = self.count_while(|score, _| score <= 0.0);
        let zeros: Vec<Vec<u8>> =
            self.range(least, most).map(|(member, _)| member.to_vec()).collect();
        for member in zeros {
            self.set(&member, 0.0);
        }
    }

    pub(crate) fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let (member, score) = self.scores.swap_remove_entry(member)?;
        self.content_bytes -= member.len();
        self.remove_ordered(score, &member);
        Some(score)
    }

    /// How many members stand before this one.
    pub(crate) fn rank(&self, member: &[u8]) -> Option<usize> {
        let score = self.score(member)?;
        Some(self.count_while(|other, name| order(other, name, score, member) == Ordering::Less))
    }

    /// How many members, from the first on, the condition holds for; it must never hold again after it failed.
    pub(crate) fn count_while(&self, holds: impl Fn(f64, &[u8]) -> bool) -> usize {
        let block = self.blocks.partition_point(|block| {
            block.last().is_some_and(|(score, member)| holds(*score, member))
        });
        let before: usize = self.blocks[..block].iter().map(Vec::len).sum();
        let inside = self
            .blocks
            .get(block)
            .map_or(0, |block| block.partition_point(|(score, member)| holds(*score, member)));
        before + inside
    }

    /// Members by rank, in order.
    pub(crate) fn range(&self, from: usize, to: usize) -> impl Iterator<Item = (&[u8], f64)> {
        let (block, skip) = self.locate(from);
        let rest = self.blocks[block..].iter().flatten().skip(skip);
        rest.take(to.saturating_sub(from)).map(|(score, member)| (&**member, *score))
    }

    /// Members by rank counted from the last, in falling order.
    pub(crate) fn range_falling(
        &self,
        from: usize,
        to: usize,
    ) -> impl Iterator<Item = (&[u8], f64)> {
        // Skipping from the end by whole blocks first.
        let mut skip = from;
        let mut end = self.blocks.len();
        while end > 0 && skip >= self.blocks[end - 1].len() {
            end -= 1;
            skip -= self.blocks[end].len();
        }
        let rest = self.blocks[..end].iter().rev().flat_map(|block| block.iter().rev()).skip(skip);
        rest.take(to.saturating_sub(from)).map(|(score, member)| (&**member, *score))
    }

    /// Members in no promised order, by a number below [`Sorted::len`].
    pub(crate) fn at(&self, index: usize) -> Option<(&[u8], f64)> {
        self.scores.get_index(index).map(|(member, score)| (&**member, *score))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], f64)> {
        self.range(0, self.len())
    }

    /// Whether Redis would hold it in a list pack.
    pub(crate) fn is_packed(&self, (entries, bytes): (usize, usize)) -> bool {
        !self.is_wide && self.len() <= entries && self.longest <= bytes
    }

    pub(crate) fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.content_bytes + self.scores.capacity() * MEMBER_BYTES
    }

    fn locate(&self, rank: usize) -> (usize, usize) {
        let mut rest = rank;
        for (at, block) in self.blocks.iter().enumerate() {
            if rest < block.len() {
                return (at, rest);
            }
            rest -= block.len();
        }
        (self.blocks.len(), 0)
    }

    fn insert_ordered(&mut self, score: f64, member: Arc<[u8]>) {
        let is_before =
            |(other, name): &Scored| order(*other, name, score, &member) == Ordering::Less;
        let at = self.blocks.partition_point(|block| block.last().is_some_and(is_before));
        let at = at.min(self.blocks.len().saturating_sub(1));
        if self.blocks.is_empty() {
            self.blocks.push(Vec::new());
        }
        let block = &mut self.blocks[at];
        let place = block.partition_point(is_before);
        block.insert(place, (score, member));
        if block.len() > BLOCK_MAX {
            // What only grows at its end leaves full blocks behind.
            let half = if place + 1 == block.len() { BLOCK_MAX - 16 } else { BLOCK_MAX / 2 };
            let upper = block.split_off(half);
            self.blocks.insert(at + 1, upper);
        }
    }

    fn remove_ordered(&mut self, score: f64, member: &[u8]) {
        let is_before =
            |(other, name): &Scored| order(*other, name, score, member) == Ordering::Less;
        let at = self.blocks.partition_point(|block| block.last().is_some_and(is_before));
        let Some(block) = self.blocks.get_mut(at) else { return };
        let place = block.partition_point(is_before);
        if place < block.len() {
            debug_assert!(*block[place].1 == *member, "scores and order hold the same members");
            block.remove(place);
        }
        if block.is_empty() {
            self.blocks.remove(at);
        }
    }
}

fn order(a: f64, a_member: &[u8], b: f64, b_member: &[u8]) -> Ordering {
    a.partial_cmp(&b).unwrap_or(Ordering::Equal).then_with(|| a_member.cmp(b_member))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_and_ranges_agree_with_a_sorted_list() {
        let mut sorted = Sorted::default();
        let mut model: Vec<(i64, String)> = Vec::new();
        let mut random = 11u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let member = format!("m{}", (random >> 40) % 1_500);
            let score = (random >> 20) as i64 % 100;
            model.retain(|(_, other)| *other != member);
            if random >> 62 == 0 {
                sorted.remove(member.as_bytes());
            } else {
                sorted.set(member.as_bytes(), score as f64);
                model.push((score, member));
            }
        }
        model.sort();
        let found: Vec<_> = sorted
            .iter()
            .map(|(m, s)| (s as i64, String::from_utf8_lossy(m).into_owned()))
            .collect();
        assert_eq!(found, model);
        for (rank, (score, member)) in model.iter().enumerate() {
            assert_eq!(sorted.rank(member.as_bytes()), Some(rank));
            assert_eq!(sorted.score(member.as_bytes()), Some(*score as f64));
            let (member_at, _) = sorted.range(rank, rank + 1).next().unwrap();
            assert_eq!(member_at, member.as_bytes());
            let (falling, _) =
                sorted.range_falling(model.len() - 1 - rank, model.len()).next().unwrap();
            assert_eq!(falling, member.as_bytes());
        }
        assert_eq!(sorted.range(model.len(), model.len() + 5).count(), 0);
        assert!(sorted.blocks.iter().all(|block| !block.is_empty() && block.len() <= BLOCK_MAX));
    }
}
