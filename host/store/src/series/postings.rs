//! Sorted lists of series numbers, and what they have in common.

/// The series that have one label pair, ascending. Most pairs of a label such as an instance's name belong to few
/// series, hence the form for one.
#[derive(Debug, Clone)]
pub(super) enum Postings {
    One(u32),
    Many(Vec<u32>),
}

impl Postings {
    pub(super) fn none() -> Self {
        Self::Many(Vec::new())
    }

    pub(super) fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    pub(super) fn insert(&mut self, series: u32) {
        match self {
            Self::Many(many) if many.is_empty() => *self = Self::One(series),
            Self::Many(many) => match many.last() {
                Some(last) if *last < series => many.push(series),
                _ => {
                    if let Err(at) = many.binary_search(&series) {
                        many.insert(at, series);
                    }
                }
            },
            Self::One(one) if *one == series => {}
            Self::One(one) => *self = Self::Many(vec![series.min(*one), series.max(*one)]),
        }
    }

    pub(super) fn retain(&mut self, mut is_kept: impl FnMut(u32) -> bool) {
        match self {
            Self::One(one) if is_kept(*one) => {}
            Self::One(_) => *self = Self::none(),
            Self::Many(many) => {
                many.retain(|series| is_kept(*series));
                match many[..] {
                    [one] => *self = Self::One(one),
                    _ if many.len() < many.capacity() / 2 => many.shrink_to_fit(),
                    _ => {}
                }
            }
        }
    }

    /// Returns the bytes of memory that the list takes beside itself.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Many(many) => many.capacity() * size_of::<u32>(),
        }
    }
}

/// Keeps the numbers that are in another sorted list too.
pub(super) fn intersect(kept: &mut Vec<u32>, mut other: &[u32]) {
    kept.retain(|series| {
        // Most often the lists have very different lengths: double the step until it goes too far.
        let mut step = 1;
        while other.get(step).is_some_and(|at| at < series) {
            step *= 2;
        }
        let within = other.get(..other.len().min(step + 1)).unwrap_or_default();
        other = other.get(within.partition_point(|at| at < series)..).unwrap_or_default();
        other.first() == Some(series)
    });
}

/// Returns the numbers that are in at least one of some sorted lists.
pub(super) fn union<'a>(lists: impl Iterator<Item = &'a [u32]>) -> Vec<u32> {
    let lists: Vec<&[u32]> = lists.collect();
    let mut all = lists.concat();
    if lists.len() > 1 {
        all.sort_unstable();
        all.dedup();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn lists_behave_like_sorted_sets(
            inserted in vec(0..40_u32, 0..30),
            removed in btree_set(0..40_u32, 0..30),
            other in btree_set(0..200_u32, 0..150),
        ) {
            let (mut postings, mut expected) = (Postings::none(), BTreeSet::new());
            for series in inserted {
                postings.insert(series);
                expected.insert(series);
            }
            prop_assert!(postings.as_slice().iter().eq(&expected));
            postings.retain(|series| !removed.contains(&series));
            expected.retain(|series| !removed.contains(series));
            prop_assert!(postings.as_slice().iter().eq(&expected));

            let (mut common, other): (_, Vec<u32>) = (postings.as_slice().to_vec(), other.into_iter().collect());
            intersect(&mut common, &other);
            prop_assert!(common.iter().eq(expected.iter().filter(|series| other.contains(series))));
            let all = union([postings.as_slice(), &other].into_iter());
            prop_assert!(all.iter().eq(&expected.iter().chain(&other).copied().collect::<BTreeSet<u32>>()));
        }
    }
}
