//! Finds series by their labels: an inverted index from label pairs to series, and from series to the columns of frames
//! that hold their samples.

use super::matcher::{LabelMatcher, LabelValues};
use super::postings::{Postings, intersect, union};
use super::selection::{FoundSeries, ReadingScale, SeriesColumn};
use super::symbols::{Symbol, Symbols};
use crate::{Frame, InstanceId, Pool};
use dropsonde_model::{Labels, MetricType, labels};
use hashbrown::{DefaultHashBuilder, HashTable};
use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::sync::Arc;

/// All series that have samples. Series, label pairs and frames are numbered; the numbers of those that are gone are
/// used again.
#[derive(Debug, Default)]
pub(crate) struct SeriesIndex {
    symbols: Symbols,
    pairs: Vec<LabelPair>,
    pair_numbers: HashTable<u32>,
    free_pairs: Vec<u32>,
    /// The pairs of each label name, in any order.
    by_name: HashMap<Symbol, Vec<u32>>,
    series: Vec<IndexedSeries>,
    series_numbers: HashTable<u32>,
    free_series: Vec<u32>,
    /// Series that are gone but still in postings.
    gone: usize,
    /// The columns of series that have more than one.
    more: HashMap<u32, Vec<FrameColumn>>,
    frames: Vec<Option<IndexedFrame>>,
    free_frames: Vec<u32>,
    frame_numbers: HashMap<u64, u32>,
    by_instance: HashMap<InstanceId, Vec<Arc<Frame>>>,
    hasher: DefaultHashBuilder,
}

/// One label name with one value, and the series that have it.
#[derive(Debug)]
struct LabelPair {
    name: Symbol,
    value: Symbol,
    series: Postings,
}

#[derive(Debug)]
struct IndexedSeries {
    /// The numbers of its label pairs, in the order of the names. A series that is gone has none.
    pairs: Box<[u32]>,
    /// Its column, or the first of several.
    column: FrameColumn,
    metric_type: MetricType,
}

/// The labels of a column as a text, and the numbers of its label pairs.
#[derive(Default)]
struct KnownPairs {
    text: String,
    numbers: Vec<u32>,
}

/// A column of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FrameColumn {
    frame: u32,
    column: u16,
}

#[derive(Debug)]
struct IndexedFrame {
    frame: Arc<Frame>,
    /// The series of each column; [`NOT_INDEXED`] if there was no room for its labels.
    series: Box<[u32]>,
    /// Whether a group adds rows to it.
    is_used: bool,
}

/// The consequence of removing a column of a series.
enum Removed {
    /// The series is gone.
    Series,
    /// The series' first column; a column of the frame `next` takes its place.
    First {
        next: u32,
    },
    Other,
}

const NOT_INDEXED: u32 = u32::MAX;

/// Series that are gone are removed from the postings when they are more than this and a quarter of the others.
const FEW_GONE: usize = 1024;

impl SeriesIndex {
    /// Makes room for some series, so that adding them takes less time.
    pub(crate) fn reserve(&mut self, count: usize) {
        self.series.reserve(count);
        let Self { series, series_numbers, hasher, .. } = self;
        let pairs_of = |number: u32| series.get(number as usize).map(|series| &series.pairs[..]).unwrap_or_default();
        series_numbers.reserve(count, |number| hasher.hash_one(pairs_of(*number)));
    }

    /// Adds a frame of labelled series.
    pub(crate) fn add(&mut self, frame: Arc<Frame>, is_used: bool) {
        let schema = frame.schema().clone();
        let Some(packed) = schema.labels() else { return };
        self.by_instance.entry(frame.key().instance.clone()).or_default().push(frame.clone());
        let (id, indexed) = (frame.id, IndexedFrame { frame, series: Box::default(), is_used });
        let number = place(&mut self.frames, &mut self.free_frames, Some(indexed));
        self.frame_numbers.insert(id, number);
        let (mut series, mut before) = (Vec::with_capacity(packed.columns()), KnownPairs::default());
        packed.each(|text, metric_type| {
            let column = FrameColumn { frame: number, column: u16::try_from(series.len()).unwrap_or(u16::MAX) };
            let added = self.find_pairs(text, &mut before);
            let added = added.map(|()| self.add_column(&before.numbers, metric_type, column));
            series.push(added.unwrap_or(NOT_INDEXED));
        });
        if let Some(Some(indexed)) = self.frames.get_mut(number as usize) {
            indexed.series = series.into();
        }
    }

    /// Replaces the label pairs of one column by those of the next one. `text` has the labels as [`Labels::as_text`]
    /// returns them. Neighbours have most pairs in common. Returns `None` if there is no room for more labels.
    fn find_pairs(&mut self, text: &str, known: &mut KnownPairs) -> Option<()> {
        let mut numbers = Vec::with_capacity(known.numbers.len());
        let mut same = labels::pairs_of_text(&known.text).zip(&known.numbers);
        for pair in labels::pairs_of_text(text) {
            numbers.push(match same.next() {
                Some((before, number)) if before == pair => *number,
                _ => {
                    let (name, value) = (self.symbols.intern(pair.0)?, self.symbols.intern(pair.1)?);
                    self.pair(name, value)
                }
            });
        }
        drop(same);
        known.numbers = numbers;
        known.text.clear();
        known.text.push_str(text);
        Some(())
    }

    /// Adds a column to the series with some label pairs. Returns the number of the series.
    fn add_column(&mut self, pairs: &[u32], metric_type: MetricType, column: FrameColumn) -> u32 {
        let hash = self.hasher.hash_one(pairs);
        if let Some(&known) = self.series_numbers.find(hash, |number| self.pairs_of(*number) == pairs) {
            self.more.entry(known).or_default().push(column);
            if let Some(series) = self.series.get_mut(known as usize) {
                series.metric_type = metric_type;
            }
            return known;
        }
        let added = IndexedSeries { pairs: pairs.into(), column, metric_type };
        let number = place(&mut self.series, &mut self.free_series, added);
        let Self { series, series_numbers, hasher, pairs, .. } = self;
        let pairs_of = |number: u32| series.get(number as usize).map(|series| &series.pairs[..]).unwrap_or_default();
        series_numbers.insert_unique(hash, number, |number| hasher.hash_one(pairs_of(*number)));
        for pair in pairs_of(number) {
            if let Some(pair) = pairs.get_mut(*pair as usize) {
                pair.series.insert(number);
            }
        }
        number
    }

    /// Returns the number of a label pair, which it adds if it is new.
    fn pair(&mut self, name: Symbol, value: Symbol) -> u32 {
        if let Some(known) = self.known_pair(name, value) {
            return known;
        }
        let added = LabelPair { name, value, series: Postings::none() };
        let number = place(&mut self.pairs, &mut self.free_pairs, added);
        let Self { pairs, pair_numbers, hasher, .. } = self;
        pair_numbers.insert_unique(hasher.hash_one((name, value)), number, |number| {
            pairs.get(*number as usize).map_or(0, |pair| hasher.hash_one((pair.name, pair.value)))
        });
        self.by_name.entry(name).or_default().push(number);
        number
    }

    fn known_pair(&self, name: Symbol, value: Symbol) -> Option<u32> {
        let is_it = |number: &u32| {
            self.pairs.get(*number as usize).is_some_and(|pair| pair.name == name && pair.value == value)
        };
        self.pair_numbers.find(self.hasher.hash_one((name, value)), is_it).copied()
    }

    fn pairs_of(&self, series: u32) -> &[u32] {
        self.series.get(series as usize).map(|series| &series.pairs[..]).unwrap_or_default()
    }

    /// Removes a frame, and the series that have no other. Gives back the places of those in the pool.
    pub(crate) fn remove(&mut self, frame: &Frame, pool: &Pool) {
        let Some(number) = self.frame_numbers.remove(&frame.id) else { return };
        let Some(removed) = self.frames.get_mut(number as usize).and_then(Option::take) else { return };
        self.free_frames.push(number);
        if let Some(frames) = self.by_instance.get_mut(&frame.key().instance) {
            frames.retain(|other| other.id != frame.id);
            if frames.is_empty() {
                self.by_instance.remove(&frame.key().instance);
            }
        }
        // The owner of a series' first column has its place.
        let mut given_back = 0;
        for series in removed.series.into_iter().filter(|series| *series != NOT_INDEXED) {
            match self.remove_column(series, number) {
                Removed::Other => {}
                Removed::Series => given_back += 1,
                Removed::First { next } => {
                    let next = self.frames.get(next as usize).and_then(Option::as_ref);
                    if let Some(owner) = next.map(|next| next.frame.owner()).filter(|owner| *owner != frame.owner()) {
                        given_back += 1;
                        pool.take_anyway(owner, 1);
                    }
                }
            }
        }
        pool.give_back(frame.owner(), given_back);
        if self.gone > FEW_GONE && self.gone > self.len() / 4 {
            self.sweep();
        }
    }

    fn remove_column(&mut self, number: u32, frame: u32) -> Removed {
        let Some(series) = self.series.get_mut(number as usize) else { return Removed::Other };
        let more = self.more.get_mut(&number);
        let removed = if series.column.frame != frame {
            more.into_iter().for_each(|more| more.retain(|column| column.frame != frame));
            Removed::Other
        } else if let Some(next) = more.and_then(Vec::pop) {
            series.column = next;
            Removed::First { next: next.frame }
        } else {
            let pairs = std::mem::take(&mut series.pairs);
            let hash = self.hasher.hash_one(&pairs[..]);
            if let Ok(entry) = self.series_numbers.find_entry(hash, |known| *known == number) {
                entry.remove();
            }
            self.gone += 1;
            Removed::Series
        };
        if self.more.get(&number).is_some_and(Vec::is_empty) {
            self.more.remove(&number);
        }
        removed
    }

    /// Removes series that are gone from the postings, then pairs and texts that no series has.
    fn sweep(&mut self) {
        let Self { series, pairs, .. } = self;
        let is_live = |number: u32| series.get(number as usize).is_some_and(|series| !series.pairs.is_empty());
        pairs.iter_mut().for_each(|pair| pair.series.retain(is_live));
        self.free_series = (0..series.len() as u32).filter(|number| !is_live(*number)).collect();
        let pairs = &self.pairs;
        let is_used = |number: u32| pairs.get(number as usize).is_some_and(|pair| !pair.series.as_slice().is_empty());
        self.by_name.retain(|_, pairs| {
            pairs.retain(|number| is_used(*number));
            !pairs.is_empty()
        });
        self.pair_numbers.retain(|number| is_used(*number));
        self.free_pairs = (0..pairs.len() as u32).filter(|number| !is_used(*number)).collect();
        let used = pairs.iter().filter(|pair| !pair.series.as_slice().is_empty());
        self.symbols.keep_only(used.flat_map(|pair| [pair.name, pair.value]));
        self.gone = 0;
    }

    /// Returns the number of series.
    pub(crate) fn len(&self) -> usize {
        self.series_numbers.len()
    }

    /// Returns whether there is a series with these labels.
    pub(crate) fn has(&self, labels: &Labels) -> bool {
        let pair = |(name, value)| self.known_pair(self.symbols.get(name)?, self.symbols.get(value)?);
        let Some(pairs) = labels.iter().map(pair).collect::<Option<Vec<u32>>>() else { return false };
        let is_it = |number: &u32| self.pairs_of(*number) == pairs;
        self.series_numbers.find(self.hasher.hash_one(&pairs[..]), is_it).is_some()
    }

    /// Returns the frames for which `is_wanted` returns true, given the frame and whether a group uses it.
    pub(crate) fn frames(&self, mut is_wanted: impl FnMut(&Arc<Frame>, bool) -> bool) -> Vec<Arc<Frame>> {
        let frames = self.frames.iter().flatten();
        frames
            .filter(|indexed| is_wanted(&indexed.frame, indexed.is_used))
            .map(|indexed| indexed.frame.clone())
            .collect()
    }

    /// Notes whether a group adds rows to a frame.
    pub(crate) fn set_used(&mut self, frame: &Frame, is_used: bool) {
        let number = self.frame_numbers.get(&frame.id).copied();
        let indexed = number.and_then(|number| self.frames.get_mut(number as usize)?.as_mut());
        indexed.into_iter().for_each(|indexed| indexed.is_used = is_used);
    }

    /// Returns the frames of an instance.
    pub(crate) fn frames_of(&self, instance: &InstanceId) -> &[Arc<Frame>] {
        self.by_instance.get(instance).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns whether a group adds rows to a frame.
    pub(crate) fn is_used(&self, frame: &Frame) -> bool {
        let number = self.frame_numbers.get(&frame.id).copied();
        number.and_then(|number| self.frames.get(number as usize)?.as_ref()).is_some_and(|indexed| indexed.is_used)
    }

    /// Returns the bytes of the labels' texts, and those of the rest of the index.
    pub(crate) fn memory(&self) -> (usize, usize) {
        let pairs: usize = self.pairs.iter().map(|pair| pair.series.heap_bytes()).sum();
        let series: usize = self.series.iter().map(|series| size_of_val(&series.pairs[..])).sum();
        let frames: usize = self.frames.iter().flatten().map(|frame| size_of_val(&frame.series[..])).sum();
        let names: usize = self.by_name.values().map(|pairs| pairs.capacity() * size_of::<u32>()).sum();
        let lists = self.pairs.capacity() * size_of::<LabelPair>()
            + self.series.capacity() * size_of::<IndexedSeries>()
            + self.frames.capacity() * size_of::<Option<IndexedFrame>>()
            + self.pair_numbers.allocation_size()
            + self.series_numbers.allocation_size();
        let more: usize =
            self.more.values().map(|more| size_of::<(u32, Vec<FrameColumn>)>() + more.capacity() * 8).sum();
        (self.symbols.text_bytes(), self.symbols.overhead() + pairs + series + frames + names + lists + more)
    }
}

// === searches ===

impl SeriesIndex {
    /// Finds the series that all matchers select.
    pub(crate) fn find(&self, matchers: &[LabelMatcher]) -> Vec<u32> {
        // A matcher that does not select series without the label narrows the search to the postings of some pairs.
        let (narrowing, others): (Vec<_>, Vec<_>) = matchers.iter().partition(|matcher| !matcher.matches(""));
        let (named, tested): (Vec<_>, Vec<_>) =
            narrowing.into_iter().partition(|matcher| !matcher.is_negated && !matcher.values.is_open());
        let (mut found, checked) = match self.named(&named) {
            Some(found) => (found, [tested, others].concat()),
            // Test all values of the labels: the matcher with the fewest series comes first.
            None => {
                let mut sets: Vec<_> = tested.iter().map(|matcher| (self.accepted(matcher), *matcher)).collect();
                let count = |pairs: &[u32]| pairs.iter().map(|pair| self.postings(*pair).len()).sum::<usize>();
                sets.sort_by_cached_key(|(pairs, _)| count(pairs));
                match sets.first() {
                    Some((pairs, _)) => {
                        let found = union(pairs.iter().map(|pair| self.postings(*pair)));
                        let rest = sets.iter().skip(1).map(|(_, matcher)| *matcher).chain(others).collect();
                        (found, rest)
                    }
                    None => ((0..self.series.len() as u32).collect(), others),
                }
            }
        };
        let mut checks: Vec<_> = checked.into_iter().map(|matcher| Check::of(self, matcher)).collect();
        found.retain(|number| {
            let pairs = self.pairs_of(*number);
            !pairs.is_empty() && checks.iter_mut().all(|check| check.selects(self, pairs))
        });
        found
    }

    /// Returns the series that have one of the named values of each matcher; `None` without matchers.
    fn named(&self, matchers: &[&LabelMatcher]) -> Option<Vec<u32>> {
        let postings = |matcher: &&LabelMatcher, value: &str| {
            let pair = self.known_pair(self.symbols.get(&matcher.name)?, self.symbols.get(value)?)?;
            Some(self.postings(pair))
        };
        let mut lists: Vec<Vec<&[u32]>> = Vec::new();
        for matcher in matchers {
            lists.push(match &matcher.values {
                LabelValues::Is(value) => postings(matcher, value).into_iter().collect(),
                LabelValues::AnyOf(values) => values.iter().filter_map(|value| postings(matcher, value)).collect(),
                LabelValues::BeginsWith(_) | LabelValues::Test(_) => continue,
            });
        }
        lists.sort_by_key(|lists| lists.iter().map(|list| list.len()).sum::<usize>());
        let mut lists = lists.into_iter();
        let mut found = union(lists.next()?.into_iter());
        for other in lists {
            match other[..] {
                [one] => intersect(&mut found, one),
                _ => intersect(&mut found, &union(other.into_iter())),
            }
        }
        Some(found)
    }

    fn postings(&self, pair: u32) -> &[u32] {
        self.pairs.get(pair as usize).map(|pair| pair.series.as_slice()).unwrap_or_default()
    }

    fn value_of(&self, pair: u32) -> &str {
        self.pairs.get(pair as usize).map(|pair| self.symbols.text(pair.value)).unwrap_or_default()
    }

    pub(crate) fn label_names(&self) -> Vec<String> {
        let is_used = |(_, pairs): &(&Symbol, &Vec<u32>)| pairs.iter().any(|pair| !self.postings(*pair).is_empty());
        self.by_name.iter().filter(is_used).map(|(name, _)| self.symbols.text(*name).to_owned()).collect()
    }

    pub(crate) fn label_values(&self, name: &str) -> Vec<String> {
        let pairs = self.symbols.get(name).and_then(|name| self.by_name.get(&name));
        let used = pairs.into_iter().flatten().filter(|pair| !self.postings(**pair).is_empty());
        used.map(|pair| self.value_of(*pair).to_owned()).collect()
    }

    /// Returns the pairs whose value a matcher selects.
    fn accepted(&self, matcher: &LabelMatcher) -> Vec<u32> {
        let pairs = self.symbols.get(&matcher.name).and_then(|name| self.by_name.get(&name));
        let pairs = pairs.into_iter().flatten().copied();
        pairs.filter(|pair| matcher.matches(self.value_of(*pair))).collect()
    }

    /// Returns a series with its frames.
    pub(crate) fn series(&self, number: u32) -> Option<FoundSeries> {
        let IndexedSeries { column, metric_type, .. } = self.series.get(number as usize)?;
        let columns = std::iter::once(column).chain(self.more.get(&number).into_iter().flatten());
        let frame = |at: &FrameColumn| {
            let frame = self.frames.get(at.frame as usize)?.as_ref()?.frame.clone();
            Some(SeriesColumn { frame, column: usize::from(at.column), scale: ReadingScale::Same })
        };
        Some(FoundSeries {
            labels: self.labels(number),
            metric_type: *metric_type,
            columns: columns.filter_map(frame).collect(),
        })
    }

    fn labels(&self, number: u32) -> Labels {
        let pairs = self.pairs_of(number).iter().filter_map(|pair| self.pairs.get(*pair as usize));
        Labels::from_sorted(pairs.map(|pair| (self.symbols.text(pair.name), self.symbols.text(pair.value))))
    }
}

/// A matcher that is applied to one series after another. It tests each value once.
struct Check<'a> {
    matcher: &'a LabelMatcher,
    name: Option<Symbol>,
    selects_missing: bool,
    known: HashMap<u32, bool>,
}

impl<'a> Check<'a> {
    fn of(index: &SeriesIndex, matcher: &'a LabelMatcher) -> Self {
        let (name, selects_missing) = (index.symbols.get(&matcher.name), matcher.matches(""));
        Self { matcher, name, selects_missing, known: HashMap::new() }
    }

    fn selects(&mut self, index: &SeriesIndex, pairs: &[u32]) -> bool {
        let has_name = |pair: &&u32| index.pairs.get(**pair as usize).map(|pair| pair.name) == self.name;
        let Some(pair) = self.name.and_then(|_| pairs.iter().find(has_name)) else { return self.selects_missing };
        let matcher = self.matcher;
        *self.known.entry(*pair).or_insert_with(|| matcher.matches(index.value_of(*pair)))
    }
}

/// Puts a value at a free place of a list, or at its end. Returns its number.
fn place<T>(list: &mut Vec<T>, free: &mut Vec<u32>, value: T) -> u32 {
    if let Some(number) = free.pop()
        && let Some(place) = list.get_mut(number as usize)
    {
        *place = value;
        return number;
    }
    list.push(value);
    (list.len() - 1) as u32
}
