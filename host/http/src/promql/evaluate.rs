//! `query` and `query_range`.

use super::failure::Failure;
use super::parameters::Parameters;
use super::value_json;
use crate::answer_memory::{reserve, resize_within_share};
use crate::chunked::{LARGEST, ORDINARY, make};
use crate::longer::LongerQuery;
use crate::peer::Peer;
use crate::{App, AppState, CallerExtension};
use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use dropsonde_engine::quota::{ClientShare, QuotaPermit};
use dropsonde_engine::series::PromqlSource;
use dropsonde_promql::{
    AnnotationKind, Answer, Limits, ParseOptions, Query, QueryError, Settings, Times, Usage, Value, parse,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The most steps of a range query.
const MOST_STEPS: i64 = 11_000;

/// The most warnings, and the most infos, of an answer.
const MOST_REMARKS: usize = 10;

/// The step of subqueries that give none, in milliseconds.
const SUBQUERY_STEP_MS: i64 = 60_000;

/// An answer with the memory that it holds.
struct Evaluated {
    answer: Answer,
    memory: Arc<Mutex<QuotaPermit>>,
    took: Duration,
}

/// Ends a query when its client has gone.
struct EndWithClient(Arc<AtomicBool>);

impl Drop for EndWithClient {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(crate) async fn instant(
    State(app): AppState,
    Extension(caller): CallerExtension,
    parameters: Parameters,
) -> Result<Response, Failure> {
    let peer = caller.peer;
    let at_ms = parameters.time("time")?.unwrap_or_else(|| app.engine.clock.now_ms());
    answer(&app, &peer, &parameters, Times::At(at_ms)).await
}

pub(crate) async fn range(
    State(app): AppState,
    Extension(caller): CallerExtension,
    parameters: Parameters,
) -> Result<Response, Failure> {
    let peer = caller.peer;
    let times = range_times(&parameters)?;
    answer(&app, &peer, &parameters, times).await
}

fn range_times(parameters: &Parameters) -> Result<Times, Failure> {
    let required = |name| parameters.time(name)?.ok_or_else(|| Failure::invalid(name, "it is missing"));
    let (start_ms, end_ms): (i64, i64) = (required("start")?, required("end")?);
    if end_ms < start_ms {
        return Err(Failure::invalid("end", "end timestamp must not be before start time"));
    }
    let step_ms = parameters.duration("step")?.ok_or_else(|| Failure::invalid("step", "it is missing"))?;
    if step_ms <= 0 {
        let why = "zero or negative query resolution step widths are not accepted. Try a positive integer";
        return Err(Failure::invalid("step", why));
    }
    if end_ms.saturating_sub(start_ms) / step_ms > MOST_STEPS {
        let why = "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution \
                   (?step=XX)";
        return Err(Failure::bad_data(why));
    }
    Ok(Times::Range { start_ms, end_ms, step_ms })
}

async fn answer(app: &Arc<App>, peer: &Peer, parameters: &Parameters, times: Times) -> Result<Response, Failure> {
    let query = parameters.required("query")?;
    let limit = parameters.limit()?;
    let lookback_ms = parameters.duration("lookback_delta")?;
    let timeout = parameters.timeout(app.engine.options.load().query.timeout.get())?;
    let has_stats = parameters.one("stats").is_some();
    let usual_ms = app.engine.options.load().query.lookback.as_ms();
    let settings = Settings {
        lookback_ms: lookback_ms.filter(|lookback_ms| *lookback_ms > 0).unwrap_or(usual_ms),
        subquery_step_ms: SUBQUERY_STEP_MS,
        delayed_name_removal: false,
    };
    let longer = longer(app, query, times, settings).await;
    let ask_longer = async {
        Ok(match longer {
            Some(longer) => Some(longer.ask(timeout).await),
            None => None,
        })
    };
    let (evaluated, longer) =
        tokio::try_join!(evaluate(app, peer, query.to_owned(), times, settings, timeout), ask_longer)?;
    let Evaluated { answer: Answer { mut value, annotations, usage }, memory, took } = evaluated;
    let remarks = |kind: AnnotationKind, what: &str| {
        let found = annotations.iter().filter(|remark| remark.kind == kind);
        let mut all: Vec<String> = found.clone().take(MOST_REMARKS).map(|remark| remark.text(query)).collect();
        let omitted = found.count() - all.len();
        if omitted > 0 {
            all.push(format!("{omitted} more {what} annotations omitted"));
        }
        all
    };
    let (mut warnings, mut infos) =
        (remarks(AnnotationKind::Warning, "warning"), remarks(AnnotationKind::Info, "info"));
    if let Some(longer) = longer {
        let joined = app.query_threads.run(move || longer.join(value)).await?;
        value = joined.value;
        warnings.extend(joined.warning);
        infos.extend(joined.info);
    }
    if limit.is_some_and(|limit| cut(&mut value, limit)) {
        warnings.push("results truncated due to limit".to_owned());
    }
    let stats = has_stats.then(|| stats(took, usage));
    let mut writer = value_json::Writer::new(value, stats, warnings, infos);
    let more = Box::new(move |json: &mut Vec<u8>| {
        let _held = &memory;
        writer.write(json)
    });
    Ok(make(app.clone(), peer, LARGEST, ORDINARY, more).await?.into_response())
}

/// Returns the part of a query that another database has to answer.
async fn longer(app: &Arc<App>, query: &str, times: Times, settings: Settings) -> Option<LongerQuery> {
    app.engine.long_history.get()?;
    let (shared, query) = (app.clone(), query.to_owned());
    app.query_threads.run(move || LongerQuery::of(&shared, &query, times, settings)).await.ok()?
}

/// Computes a query off the server's threads, when it is its turn. It ends when its client goes.
async fn evaluate(
    app: &Arc<App>,
    peer: &Peer,
    text: String,
    times: Times,
    settings: Settings,
    timeout: Duration,
) -> Result<Evaluated, Failure> {
    let options = app.engine.options.load().query.clone();
    let began = Instant::now();
    let until = began + timeout;
    let share = ClientShare { peer: peer.id(), most: options.concurrency.div_ceil(2) };
    let turn = app.evaluations.wait(1, options.concurrency, Some(share), timeout).await;
    let turn =
        turn.map_err(|_| Failure::timeout("the query waited too long for its turn; other queries are running"))?;
    let memory = Arc::new(Mutex::new(reserve(app, peer, 0).await?));
    let end = EndWithClient(Arc::default());
    let cancelled = end.0.clone();
    let shared = app.clone();
    let held = memory.clone();
    let work = move || {
        let _turn = turn;
        let expr = parse(&text, ParseOptions { experimental: options.experimental }).map_err(QueryError::Parse)?;
        let (engine, granting) = (&shared.engine, shared.clone());
        let grant = move |bytes: usize| {
            let mut memory = held.lock().unwrap_or_else(PoisonError::into_inner);
            resize_within_share(&granting, &mut memory, bytes)
        };
        let limits = Limits {
            samples: Some(options.max_samples),
            memory: Some(Arc::new(grant)),
            series: Some(options.max_series),
            until: Some(until),
            cancelled: Some(&cancelled),
        };
        let source = PromqlSource::new(engine, options.max_series);
        Query { expr: &expr, times, settings }.run(&source, &limits)
    };
    let answer = app.query_threads.run(work).await??;
    Ok(Evaluated { answer, memory, took: began.elapsed() })
}

/// Cuts an answer to some series. Returns whether there were more.
fn cut(value: &mut Value, limit: usize) -> bool {
    let count = match value {
        Value::Vector(_, series) => {
            let count = series.len();
            series.truncate(limit);
            count
        }
        Value::Matrix(series) => {
            let count = series.len();
            series.truncate(limit);
            count
        }
        Value::Scalar(..) | Value::String(..) => 0,
    };
    count > limit
}

fn stats(took: Duration, usage: Usage) -> serde_json::Value {
    let seconds = took.as_secs_f64();
    serde_json::json!({
        "timings": {
            "evalTotalTime": seconds,
            "resultSortTime": 0.0,
            "queryPreparationTime": 0.0,
            "innerEvalTime": seconds,
            "execQueueTime": 0.0,
            "execTotalTime": seconds,
        },
        "samples": {
            "totalQueryableSamples": usage.samples,
            "peakSamples": usage.peak_memory / size_of::<f64>(),
        },
    })
}
