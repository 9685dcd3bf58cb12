//! The answer of a database to `query_range`.

use crate::client::quoted;
use dropsonde_engine::long_history::LongSeries;
use dropsonde_model::Labels;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow, default)]
    error: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data: Option<Data<'a>>,
    /// Of VictoriaMetrics: whether a part of its cluster was away.
    #[serde(default, rename = "isPartial")]
    is_partial: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    #[serde(borrow)]
    result_type: Cow<'a, str>,
    #[serde(borrow, default)]
    result: Vec<Series<'a>>,
}

#[derive(Deserialize)]
struct Series<'a> {
    #[serde(borrow)]
    metric: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    #[serde(borrow, default)]
    values: Vec<(f64, Cow<'a, str>)>,
}

/// The most series, and values, of an answer.
const MOST_SERIES: usize = 20_000;
const MOST_VALUES: usize = 1 << 20;

/// Why there are no series in an answer: a sentence.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AnswerError {
    /// The query is one that the database does not answer.
    Refused(String),
    /// It does not work.
    Down(String),
}

/// Reads the series of an answer.
pub(super) fn series(body: &[u8]) -> Result<Vec<LongSeries>, AnswerError> {
    let answer: Answer<'_> = serde_json::from_slice(body).map_err(|error| {
        AnswerError::Down(format!("its answer is not that of a Prometheus: {}", quoted(&error.to_string())))
    })?;
    if answer.is_partial {
        return Err(AnswerError::Refused("a part of it is away".to_owned()));
    }
    let Some(data) = answer.data.filter(|_| answer.status == "success") else {
        let why = answer.error.unwrap_or(Cow::Borrowed("no reason"));
        return Err(AnswerError::Refused(format!("it refuses the query: {}", quoted(&why))));
    };
    if data.result_type != "matrix" {
        let why = format!("it answered with a {:?} instead of a matrix", quoted(&data.result_type));
        return Err(AnswerError::Down(why));
    }
    let values: usize = data.result.iter().map(|series| series.values.len()).sum();
    if data.result.len() > MOST_SERIES || values > MOST_VALUES {
        let why = format!("its answer has {} series with {values} values: ask for fewer", data.result.len());
        return Err(AnswerError::Refused(why));
    }
    let series = |found: Series<'_>| {
        let is_text = |text: &str| !text.contains('\0');
        let labels: Labels = found.metric.iter().filter(|(name, value)| is_text(name) && is_text(value)).collect();
        let mut points: Vec<(i64, f64)> = found
            .values
            .iter()
            .filter_map(|(seconds, value)| Some(((seconds * 1000.0).round() as i64, value.parse().ok()?)))
            .collect();
        points.sort_by_key(|(at_ms, _)| *at_ms);
        points.dedup_by_key(|(at_ms, _)| *at_ms);
        (labels, points)
    };
    Ok(data.result.into_iter().map(series).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_is_read_with_its_labels_and_all_kinds_of_numbers() {
        let body = br#"{"status":"success","isPartial":false,"data":{"resultType":"matrix","result":[
            {"metric":{"__name__":"up","a":"\"b\""},"values":[[1700000000.5,"1"],[1700000060,"NaN"],[1700000120,"+Inf"]]}
        ]},"stats":{}}"#;
        let all = series(body).unwrap();
        let [(labels, points)] = &all[..] else { panic!("{all:?}") };
        assert_eq!(*labels, Labels::from([("__name__", "up"), ("a", "\"b\"")]));
        assert_eq!(points[0], (1_700_000_000_500, 1.0));
        assert!(points[1].1.is_nan() && points[2] == (1_700_000_120_000, f64::INFINITY));
    }

    #[test]
    fn what_is_no_matrix_is_an_error_that_says_why() {
        for (body, why) in [
            (r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#, "it refuses the query: parse error"),
            (r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#, "it answered with a \"vector\""),
            ("<html>", "its answer is not that of a Prometheus"),
            ("{}", "its answer is not that of a Prometheus"),
            (
                r#"{"status":"success","isPartial":true,"data":{"resultType":"matrix","result":[]}}"#,
                "a part of it is away",
            ),
        ] {
            let (AnswerError::Refused(error) | AnswerError::Down(error)) = series(body.as_bytes()).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }
}
