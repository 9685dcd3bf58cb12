use super::{missing, origin};
use crate::App;
use axum::http::HeaderValue;
use axum::response::Response;
use dropsonde_engine::Engine;
use dropsonde_engine::long_history::{LongHistory, LongQuery, LongSeries};
use dropsonde_engine::series::INSTANCE;
use dropsonde_engine::series::long_fields::{FIELD, questions};
use dropsonde_store::{Align, FieldPoints, Frame, InstanceId, Points, Query, ladder};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The header that says up to which time points come from a database, and the one that says why they are missing.
const ORIGIN: &str = "dropsonde-longer-history";
const MISSING: &str = "dropsonde-warning";

/// The most instances that a database is asked for at a time.
const MOST_INSTANCES: usize = 50;

/// Points of instances from a database.
#[derive(Debug, Default)]
pub(crate) struct LongerPoints {
    /// With the time from which on points are those of this host.
    by_instance: HashMap<InstanceId, (i64, Points)>,
    remark: Option<(&'static str, String)>,
}

impl LongerPoints {
    /// Asks the database, if there is one, for the part of a window that this host does not have.
    pub(crate) async fn ask(app: &Arc<App>, ids: &[InstanceId], query: &Query, bands: bool) -> Arc<Self> {
        let Some(database) = app.engine.long_history.get() else { return Arc::default() };
        let (shared, asked, window) = (app.clone(), database.clone(), query.clone());
        let some: Vec<InstanceId> = ids.iter().take(MOST_INSTANCES).cloned().collect();
        let planned = app.query_threads.run(move || Plan::of(&shared.engine, &*asked, &some, &window, bands)).await;
        let Some(Plan { begins, until_ms, questions, start_ms, end_ms }) = planned.ok().flatten() else {
            return Arc::default();
        };
        let failed = |why: &str| {
            let remark = Some((MISSING, missing(database.name(), until_ms, why)));
            Arc::new(Self { remark, ..Self::default() })
        };
        if ids.len() > MOST_INSTANCES {
            return failed(&format!("it is asked for at most {MOST_INSTANCES} instances at a time"));
        }
        // However many questions there are, nobody waits longer than for one.
        let asked = tokio::time::timeout(database.longest(), async {
            let mut answers = Vec::new();
            for question in questions {
                let asked = LongQuery { query: question, start_ms, end_ms, step_ms: query.step_ms };
                answers.push(database.ask(asked).await?);
            }
            Ok(answers)
        });
        let answers = match asked.await.unwrap_or_else(|_| Err("it did not answer in time".to_owned())) {
            Ok(answers) => answers,
            Err(why) => return failed(&why),
        };
        let (name, step_ms, engine) = (database.name().to_owned(), query.step_ms, app.engine.clone());
        let made = move || {
            let mut by_id: HashMap<&str, Vec<&LongSeries>> = HashMap::new();
            for series in answers.iter().flat_map(|series| &**series) {
                by_id.entry(series.0.get("id").unwrap_or_default()).or_default().push(series);
            }
            let mut by_instance = HashMap::new();
            for (id, begins_ms) in begins {
                let series = by_id.get(id.as_str()).map(Vec::as_slice).unwrap_or_default();
                let hosts: BTreeSet<&str> = series.iter().filter_map(|(labels, _)| labels.get(INSTANCE)).collect();
                if hosts.len() > 1 {
                    let hosts: Vec<&str> = hosts.into_iter().take(5).collect();
                    let why = format!("several hosts have an instance {id}: {}", hosts.join(", "));
                    let remark = Some((MISSING, missing(&name, until_ms, &why)));
                    return Self { remark, ..Self::default() };
                }
                let mut points = points(series, step_ms, begins_ms);
                round(&engine.store.frames(&id), &mut points);
                by_instance.insert(id, (begins_ms, points));
            }
            Self { by_instance, remark: Some((ORIGIN, origin(&name, until_ms))) }
        };
        app.query_threads.run(made).await.map(Arc::new).unwrap_or_default()
    }

    /// Returns the points of an instance in a part of the window: those of the database before those of this host,
    /// which `own` returns.
    pub(crate) fn within(&self, id: &InstanceId, part: &Query, own: impl Fn(&Query) -> Points) -> Points {
        let Some((begins_ms, older)) = self.by_instance.get(id) else { return own(part) };
        let first_ms = bucket(part, part.since_ms);
        if first_ms >= *begins_ms {
            return own(part);
        }
        let is_within = |at_ms: &i64| (first_ms..part.until_ms).contains(at_ms);
        let mut all = cut(older, is_within);
        if part.until_ms > *begins_ms {
            let newer = own(&Query { since_ms: (*begins_ms).max(part.since_ms), ..part.clone() });
            all = appended(all, newer);
        }
        all
    }

    /// Returns whether the whole window is this host's.
    pub(crate) fn is_empty(&self) -> bool {
        self.remark.is_none()
    }

    /// Says in an answer where its points come from.
    pub(crate) fn mark(&self, response: &mut Response) {
        if let Some((header, text)) = &self.remark
            && let Ok(value) = HeaderValue::try_from(text)
        {
            response.headers_mut().insert(*header, value);
        }
    }
}

/// The questions to a database.
struct Plan {
    /// The time from which on the points of each instance are those of this host.
    begins: HashMap<InstanceId, i64>,
    /// The latest of them, or the end of the window.
    until_ms: i64,
    questions: Vec<String>,
    start_ms: i64,
    end_ms: i64,
}

impl Plan {
    /// Plans a window; none if this host has all of it.
    fn of(engine: &Engine, database: &dyn LongHistory, ids: &[InstanceId], query: &Query, bands: bool) -> Option<Self> {
        let begins: HashMap<InstanceId, i64> =
            ids.iter().map(|id| (id.clone(), own_from_ms(engine, id, query))).collect();
        let first_ms = bucket(query, query.since_ms);
        let until_ms = begins.values().copied().max()?.min(query.until_ms);
        if first_ms >= until_ms {
            return None;
        }
        let questions = questions(engine, database, ids, query, bands);
        // The value at the last moment of a bucket is that of the bucket.
        let steps = until_ms.saturating_sub(1).saturating_sub(first_ms) / query.step_ms;
        let start_ms = first_ms.saturating_add(query.step_ms).saturating_sub(1);
        let end_ms = start_ms.saturating_add(steps.saturating_mul(query.step_ms));
        (!questions.is_empty()).then_some(Self { begins, until_ms, questions, start_ms, end_ms })
    }
}

/// Returns the start of the first bucket that this host has readings of: what it has itself, it answers itself.
fn own_from_ms(engine: &Engine, id: &InstanceId, query: &Query) -> i64 {
    let first_ms = engine.store.frames(id).iter().filter_map(|frame| Some(frame.span_ms()?.0)).min();
    let kept_ms = engine.clock.now_ms().saturating_sub(engine.options.load().store.retention.as_ms());
    first_ms.map_or(i64::MAX, |first_ms| bucket(query, first_ms.max(kept_ms)))
}

/// Returns the start of the bucket that a time is in.
fn bucket(query: &Query, at_ms: i64) -> i64 {
    let step_ms = query.step_ms.max(1);
    match query.align {
        Align::Epoch => ladder::floor(at_ms, step_ms),
        Align::Since => {
            let into = at_ms.saturating_sub(query.since_ms);
            query.since_ms.saturating_add(into.div_euclid(step_ms).saturating_mul(step_ms))
        }
    }
}

/// The values of a field, and the low and the high ends of its band, each with its times.
type FieldSeries<'a> = [Option<&'a [(i64, f64)]>; 3];

/// Returns the points of an instance before a time, from its series.
fn points(series: &[&LongSeries], step_ms: i64, before_ms: i64) -> Points {
    let mut fields: BTreeMap<&str, FieldSeries<'_>> = BTreeMap::new();
    for (labels, points) in series {
        let name = labels.get(FIELD).unwrap_or_default();
        let (field, place) = match (name.strip_suffix("_min"), name.strip_suffix("_max")) {
            (Some(field), _) => (field, 1),
            (_, Some(field)) => (field, 2),
            _ => (name, 0),
        };
        if let Some(known) = fields.entry(field).or_default().get_mut(place) {
            *known = Some(points);
        }
    }
    let start = |at_ms: i64| at_ms.saturating_add(1).saturating_sub(step_ms);
    let times: BTreeSet<i64> = fields
        .values()
        .filter_map(|[values, ..]| *values)
        .flatten()
        .map(|(at_ms, _)| start(*at_ms))
        .filter(|at_ms| *at_ms < before_ms)
        .collect();
    let column = |points: Option<&[(i64, f64)]>| -> Vec<f64> {
        let by_time: HashMap<i64, f64> =
            points.into_iter().flatten().map(|(at_ms, value)| (start(*at_ms), *value)).collect();
        times.iter().map(|at_ms| by_time.get(at_ms).copied().unwrap_or(f64::NAN)).collect()
    };
    let columns = fields
        .into_iter()
        .map(|(name, [values, min, max])| {
            let own = column(values);
            let end = |end: Option<&[(i64, f64)]>| end.map_or_else(|| own.clone(), |end| column(Some(end)));
            FieldPoints { name: name.into(), min: end(min), max: end(max), values: own }
        })
        .collect();
    Points { at_ms: times.into_iter().collect(), columns }
}

/// Rounds the values of an instance as its samplers declare.
fn round(frames: &[Arc<Frame>], points: &mut Points) {
    for column in &mut points.columns {
        let place = |frame: &&Arc<Frame>| frame.schema().fields().iter().position(|field| field.name == column.name);
        let Some((frame, field)) = frames.iter().find_map(|frame| Some((frame, place(&frame)?))) else { continue };
        for values in [&mut column.values, &mut column.min, &mut column.max] {
            frame.schema().round(field, frame.interval_ms(), values);
        }
    }
}

fn cut(points: &Points, is_within: impl Fn(&i64) -> bool) -> Points {
    let first = points.at_ms.iter().position(&is_within).unwrap_or(points.at_ms.len());
    let count = points.at_ms.iter().skip(first).take_while(|at_ms| is_within(at_ms)).count();
    let of = |values: &[f64]| values.iter().skip(first).take(count).copied().collect();
    let column = |column: &FieldPoints| FieldPoints {
        name: column.name.clone(),
        values: of(&column.values),
        min: of(&column.min),
        max: of(&column.max),
    };
    Points {
        at_ms: points.at_ms.iter().skip(first).take(count).copied().collect(),
        columns: points.columns.iter().map(column).collect(),
    }
}

/// Appends later points. A column that one side lacks has no values there.
fn appended(first: Points, then: Points) -> Points {
    let names: Vec<Arc<str>> = then.columns.iter().chain(&first.columns).map(|column| column.name.clone()).collect();
    let mut seen = BTreeSet::new();
    let names = names.into_iter().filter(|name| seen.insert(name.clone()));
    let columns = names.map(|name| {
        let mut joined = FieldPoints { name: name.clone(), values: Vec::new(), min: Vec::new(), max: Vec::new() };
        for part in [&first, &then] {
            let count = part.at_ms.len();
            let known = part.column(&name);
            let of = |values: Option<&Vec<f64>>| match values {
                Some(values) if values.len() == count => values.clone(),
                _ => vec![f64::NAN; count],
            };
            joined.values.extend(of(known.map(|column| &column.values)));
            joined.min.extend(of(known.map(|column| &column.min)));
            joined.max.extend(of(known.map(|column| &column.max)));
        }
        joined
    });
    let columns = columns.collect();
    Points { at_ms: [&*first.at_ms, &*then.at_ms].concat(), columns }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_model::Labels;

    #[test]
    fn points_of_the_database_come_before_those_of_this_host() {
        let id = InstanceId::new("web-1").unwrap();
        let series =
            |field: &str, points: &[(i64, f64)]| (Labels::from([(FIELD, field), ("id", "web-1")]), points.to_vec());
        let answer = [
            series("used", &[(999, 1.0), (1999, 2.0), (2999, 9.0)]),
            series("used_min", &[(999, 0.5), (1999, 1.5)]),
            series("gone", &[(1999, 7.0)]),
        ];
        let older = points(&answer.iter().collect::<Vec<_>>(), 1000, 2000);
        let longer = LongerPoints { by_instance: HashMap::from([(id.clone(), (2000, older))]), remark: None };
        let own = |query: &Query| {
            assert!(query.since_ms >= 2000);
            let values = vec![3.0; ((query.until_ms - query.since_ms) / 1000) as usize];
            let at_ms = (query.since_ms..query.until_ms).step_by(1000).collect();
            let column = FieldPoints { name: "used".into(), min: values.clone(), max: values.clone(), values };
            Points { at_ms, columns: vec![column] }
        };
        let query = |since_ms, until_ms| Query { since_ms, until_ms, step_ms: 1000, ..Query::default() };
        let whole = longer.within(&id, &query(0, 4000), own);
        assert_eq!(whole.at_ms, [0, 1000, 2000, 3000]);
        let used = whole.column("used").unwrap();
        assert_eq!(used.values, [1.0, 2.0, 3.0, 3.0]);
        assert_eq!((used.min[0], used.min[1], used.max[1]), (0.5, 1.5, 2.0));
        let gone = &whole.column("gone").unwrap().values;
        assert!(gone[0].is_nan() && gone[1] == 7.0 && gone[3].is_nan());
        assert_eq!(longer.within(&id, &query(1000, 2000), own).at_ms, [1000]);
        assert_eq!(longer.within(&id, &query(2000, 3000), own).at_ms, [2000]);
    }
}
