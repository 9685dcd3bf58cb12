//! Reads series for selectors, windows and subqueries.

use super::Context;
use super::matrix::{Grid, Matrix};
use super::plan::{Moved, Node, NodeKind, Selection};
use crate::annotations::Annotations;
use crate::query::Points;
use crate::source::{QueryError, Request, STALE, Samples, Series, is_stale};
use dropsonde_model::Labels;

/// The windows of a series at all steps.
pub(super) struct Windows<'a> {
    /// Samples, none of them stale.
    pub(super) samples: Samples<'a>,
    /// All series of a selector with the same number have the same times.
    pub(super) times: Option<u64>,
    /// The indexes of the samples of each window.
    pub(super) bounds: &'a [(usize, usize)],
    pub(super) moved: Moved,
    pub(super) range_ms: i64,
    pub(super) grid: Grid,
}

/// Takes the labels of a series, whether its name is to be dropped, and its windows.
pub(super) type VisitWindows<'a> = dyn FnMut(&Labels, bool, Windows<'_>) -> Result<(), QueryError> + 'a;

impl<'a> Windows<'a> {
    /// Returns the samples of the window at a step.
    pub(super) fn at(&self, step: usize) -> Samples<'a> {
        let (from, to) = self.bounds.get(step).copied().unwrap_or_default();
        self.between(from, to)
    }

    pub(super) fn between(&self, from: usize, to: usize) -> Samples<'a> {
        Samples {
            at_ms: self.samples.at_ms.get(from..to).unwrap_or_default(),
            values: self.samples.values.get(from..to).unwrap_or_default(),
        }
    }

    /// Returns the time at which the window of a step ends.
    pub(super) fn end_ms(&self, step: usize) -> i64 {
        self.moved.time(self.grid.time(step))
    }
}

impl Moved {
    /// Returns the first and the last time that a selector looks at.
    fn span(&self, grid: Grid) -> (i64, i64) {
        (self.time(grid.start_ms), self.time(grid.last_ms()))
    }
}

impl Context<'_> {
    /// Returns the newest sample of each series at each step; its value, or its time in seconds.
    pub(super) fn newest(&self, selection: &Selection, grid: Grid, times: bool) -> Result<Matrix, QueryError> {
        let lookback_ms = self.settings.lookback_ms;
        let (first_ms, last_ms) = selection.moved.span(grid);
        let request = Request {
            matchers: &selection.matchers,
            after_ms: first_ms.saturating_sub(lookback_ms),
            until_ms: last_ms,
            newest_only: first_ms == last_ms,
            range_ms: lookback_ms,
            step_ms: grid.step_ms,
        };
        let mut matrix = Matrix::new(self, grid.steps);
        let mut row = vec![STALE; grid.steps];
        let mut places = NewestPlaces::default();
        self.source.select(&request, &mut |series| {
            let Series { labels, samples, .. } = series;
            self.limits.check()?;
            self.check_series(matrix.len() + 1)?;
            self.count_samples(samples.at_ms.len())?;
            let mut has_value = false;
            for (value, place) in row.iter_mut().zip(places.of(&series, selection.moved, lookback_ms, grid)) {
                let newest = place.and_then(|place| Some((*samples.at_ms.get(place)?, *samples.values.get(place)?)));
                let newest = newest.filter(|(_, value)| !is_stale(*value));
                has_value |= newest.is_some();
                *value =
                    newest.map_or(STALE, |(sample_ms, value)| if times { sample_ms as f64 / 1000.0 } else { value });
            }
            if has_value { matrix.push(labels.clone(), false, &row) } else { Ok(()) }
        })?;
        Ok(matrix)
    }

    /// Passes the windows of each series to `visit`.
    pub(super) fn windows(
        &self,
        node: &Node,
        grid: Grid,
        annotations: &mut Annotations,
        visit: &mut VisitWindows<'_>,
    ) -> Result<(), QueryError> {
        match &node.kind {
            NodeKind::Window { selection, range_ms } => {
                let (first_ms, last_ms) = selection.moved.span(grid);
                let request = Request {
                    matchers: &selection.matchers,
                    after_ms: first_ms.saturating_sub(*range_ms),
                    until_ms: last_ms,
                    newest_only: false,
                    range_ms: *range_ms,
                    step_ms: grid.step_ms,
                };
                let mut buffers = Buffers::default();
                let mut series = 0;
                self.source.select(&request, &mut |one| {
                    self.limits.check()?;
                    series += 1;
                    self.check_series(series)?;
                    self.count_samples(one.samples.at_ms.len())?;
                    buffers.visit(&one, false, selection.moved, *range_ms, grid, visit)
                })
            }
            NodeKind::Subquery { inner, moved, range_ms, step_ms } => {
                let inner_grid = subquery_grid(*moved, *range_ms, *step_ms, grid);
                if inner_grid.steps == 0 {
                    return Ok(());
                }
                let matrix = self.vector_of_subquery(inner, inner_grid, annotations)?;
                let times: Vec<i64> = inner_grid.times().collect();
                let mut buffers = Buffers::default();
                for (row, values) in matrix.iter() {
                    self.limits.check()?;
                    let samples = Samples { at_ms: &times, values };
                    let series = Series { labels: &row.labels, samples, times: Some(0), can_be_stale: true };
                    buffers.visit(&series, row.drops_name, *moved, *range_ms, grid, visit)?;
                }
                Ok(())
            }
            _ => Err(QueryError::Execution("a range vector is expected".to_owned())),
        }
    }

    fn vector_of_subquery(
        &self,
        inner: &Node,
        grid: Grid,
        annotations: &mut Annotations,
    ) -> Result<Matrix, QueryError> {
        // The steps of a subquery are not limited as those of a query are, but their values need memory.
        self.meter.check(grid.steps.saturating_mul(size_of::<f64>()))?;
        self.vector(inner, grid, annotations)
    }

    /// Returns the samples of the only window, for the answer to a query.
    pub(super) fn samples_of(
        &self,
        node: &Node,
        at_ms: i64,
        annotations: &mut Annotations,
    ) -> Result<Vec<Points>, QueryError> {
        let grid = Grid { start_ms: at_ms, step_ms: 1, steps: 1 };
        let mut all = Vec::new();
        self.windows(node, grid, annotations, &mut |labels, _, windows| {
            let samples = windows.at(0);
            let points: Vec<(i64, f64)> = samples.at_ms.iter().copied().zip(samples.values.iter().copied()).collect();
            if !points.is_empty() {
                self.meter.add(size_of_val(&*points))?;
                all.push((labels.clone(), points));
            }
            Ok(())
        })?;
        Ok(all)
    }
}

/// Returns the times at which a subquery is computed: multiples of its step that its windows hold.
fn subquery_grid(moved: Moved, range_ms: i64, step_ms: i64, grid: Grid) -> Grid {
    let (first_ms, last_ms) = moved.span(grid);
    let after_ms = first_ms.saturating_sub(range_ms);
    let start_ms = after_ms.div_euclid(step_ms).saturating_add(1).saturating_mul(step_ms);
    let steps = if last_ms < start_ms { 0 } else { ((last_ms - start_ms) / step_ms) as usize + 1 };
    Grid { start_ms, step_ms, steps }
}

/// Returns the first index, from one on, whose time is later than `at_ms`. It takes the fewer steps the nearer it is.
fn first_after(times: &[i64], from: usize, at_ms: i64) -> usize {
    let rest = times.get(from..).unwrap_or_default();
    let mut bound = 1;
    while rest.get(bound).is_some_and(|time| *time <= at_ms) {
        bound *= 2;
    }
    let below = bound / 2;
    let near = rest.get(below..bound.saturating_add(1).min(rest.len())).unwrap_or_default();
    from + below + near.partition_point(|time| *time <= at_ms)
}

/// The place of the newest sample at each step, if it is fresh. Series with the same times share them.
#[derive(Default)]
struct NewestPlaces {
    /// The number of the times that the places belong to.
    times: Option<u64>,
    places: Vec<Option<usize>>,
}

impl NewestPlaces {
    fn of(
        &mut self,
        series: &Series<'_>,
        moved: Moved,
        lookback_ms: i64,
        grid: Grid,
    ) -> impl Iterator<Item = Option<usize>> {
        if self.times.is_none() || self.times != series.times {
            let at_ms = series.samples.at_ms;
            let mut next = 0;
            self.places.clear();
            self.places.extend(grid.times().map(|step_ms| {
                let time_ms = moved.time(step_ms);
                next = first_after(at_ms, next, time_ms);
                let newest = next.checked_sub(1)?;
                at_ms.get(newest).filter(|at_ms| **at_ms > time_ms.saturating_sub(lookback_ms)).map(|_| newest)
            }));
            self.times = series.times;
        }
        self.places.iter().copied()
    }
}

/// Memory that is used again for each series.
#[derive(Default)]
struct Buffers {
    /// Samples of a series without those that are stale.
    at_ms: Vec<i64>,
    values: Vec<f64>,
    bounds: Vec<(usize, usize)>,
    /// The number of the times that the bounds belong to: series with the same times share them.
    times: Option<u64>,
}

impl Buffers {
    fn visit(
        &mut self,
        series: &Series<'_>,
        drops_name: bool,
        moved: Moved,
        range_ms: i64,
        grid: Grid,
        visit: &mut VisitWindows<'_>,
    ) -> Result<(), QueryError> {
        let Series { labels, samples, mut times, can_be_stale } = *series;
        let samples = if can_be_stale && samples.values.iter().any(|value| is_stale(*value)) {
            times = None;
            self.at_ms.clear();
            self.values.clear();
            for (at_ms, value) in samples.at_ms.iter().zip(samples.values) {
                if !is_stale(*value) {
                    self.at_ms.push(*at_ms);
                    self.values.push(*value);
                }
            }
            Samples { at_ms: &self.at_ms, values: &self.values }
        } else {
            samples
        };
        if times.is_none() || times != self.times {
            self.bounds.clear();
            let (mut from, mut to) = (0, 0);
            for at_ms in grid.times() {
                let end_ms = moved.time(at_ms);
                let after_ms = end_ms.saturating_sub(range_ms);
                to = first_after(samples.at_ms, to, end_ms);
                from = first_after(samples.at_ms, from, after_ms);
                self.bounds.push((from, to));
            }
            self.times = times;
        }
        visit(labels, drops_name, Windows { samples, times, bounds: &self.bounds, moved, range_ms, grid })
    }
}
