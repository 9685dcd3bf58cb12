//! The lists of series, of the names of labels, and of their values.

use super::failure::Failure;
use super::parameters::Parameters;
use super::success;
use crate::answer_memory::reserve;
use crate::blocking::query;
use crate::error::PathSegment;
use crate::peer::Peer;
use crate::{App, AppState, CallerExtension};
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use dropsonde_engine::series::{self, PromqlSource};
use dropsonde_model::Labels;
use dropsonde_promql::{Matcher, QueryError, parse_selectors};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

const MATCH: &str = "match[]";

/// Begins a name of a label that is written in letters, digits and `_` only.
const ESCAPED: &str = "U__";

/// Approximate bytes of a series while it is found and listed.
const EACH: usize = 1024;

/// The selectors, the window and the limit of a list.
struct Wanted {
    selectors: Vec<Vec<Matcher>>,
    window: Range<i64>,
    limit: Option<usize>,
}

impl Wanted {
    async fn of(app: &Arc<App>, peer: &Peer, parameters: &Parameters) -> Result<Self, Failure> {
        let texts: Vec<String> = parameters.all(MATCH).map(str::to_owned).collect();
        let selectors = query(app, peer, move || parse_selectors(texts.iter().map(String::as_str))).await?;
        let selectors = selectors.map_err(|why| Failure::invalid(MATCH, why))?;
        let since_ms = parameters.time("start")?.unwrap_or(i64::MIN);
        let until_ms = parameters.time("end")?.map_or(i64::MAX, |end_ms| end_ms.saturating_add(1));
        if until_ms <= since_ms {
            return Err(Failure::invalid("end", "end timestamp must not be before start timestamp"));
        }
        Ok(Self { selectors, window: since_ms..until_ms, limit: parameters.limit()? })
    }
}

/// Answers with a list, cut to its limit.
fn cut<T: serde::Serialize>(mut list: Vec<T>, limit: Option<usize>) -> Response {
    let is_cut = limit.is_some_and(|limit| list.len() > limit);
    list.truncate(limit.unwrap_or(usize::MAX));
    let warnings = if is_cut { vec!["results truncated due to limit".to_owned()] } else { Vec::new() };
    success(&list, &warnings)
}

/// Returns the labels of the series that some selectors select, sorted.
async fn selected(app: &Arc<App>, peer: &Peer, wanted: &Wanted) -> Result<BTreeSet<Vec<(String, String)>>, Failure> {
    let shared = app.clone();
    let (selectors, window) = (wanted.selectors.clone(), wanted.window.clone());
    let most = app.engine.options.load().query.max_series;
    let counted = {
        let (shared, selectors) = (app.clone(), selectors.clone());
        query(app, peer, move || series::count(&shared.engine, &selectors)).await?
    };
    let _memory = reserve(app, peer, counted.min(most).saturating_mul(EACH)).await?;
    let find = move || -> Result<BTreeSet<Vec<(String, String)>>, QueryError> {
        let source = PromqlSource::new(&shared.engine, most);
        let until_ms = shared.engine.reach_ms(window.end);
        let mut all = BTreeSet::new();
        for matchers in &selectors {
            let selection = source.find(matchers, &(window.start..until_ms))?;
            let pairs =
                |labels: &Labels| labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            all.extend(selection.series().iter().map(|series| pairs(&series.labels)));
        }
        Ok(all)
    };
    Ok(query(app, peer, find).await??)
}

/// Lists series by their labels.
pub(crate) async fn series(
    State(app): AppState,
    Extension(caller): CallerExtension,
    parameters: Parameters,
) -> Result<Response, Failure> {
    let wanted = Wanted::of(&app, &caller.peer, &parameters).await?;
    if wanted.selectors.is_empty() {
        return Err(Failure::bad_data("no match[] parameter provided"));
    }
    let all = selected(&app, &caller.peer, &wanted).await?;
    let labels: Vec<Labels> = all.into_iter().map(|pairs| pairs.into_iter().collect()).collect();
    Ok(cut(labels, wanted.limit))
}

/// Lists the names of labels.
pub(crate) async fn label_names(
    State(app): AppState,
    Extension(caller): CallerExtension,
    parameters: Parameters,
) -> Result<Response, Failure> {
    let wanted = Wanted::of(&app, &caller.peer, &parameters).await?;
    let names: BTreeSet<String> = if wanted.selectors.is_empty() {
        let shared = app.clone();
        let mut names = query(&app, &caller.peer, move || series::label_names(&shared.engine)).await?;
        if !names.is_empty() {
            names.extend(["instance", "job"].map(str::to_owned));
        }
        names
    } else {
        let all = selected(&app, &caller.peer, &wanted).await?;
        all.into_iter().flatten().map(|(name, _)| name).collect()
    };
    Ok(cut(names.into_iter().collect(), wanted.limit))
}

/// Lists the values of a label.
pub(crate) async fn label_values(
    State(app): AppState,
    Extension(caller): CallerExtension,
    PathSegment(name): PathSegment,
    parameters: Parameters,
) -> Result<Response, Failure> {
    let name = unescaped(&name).ok_or_else(|| Failure::bad_data(format!("invalid label name: {name:?}")))?;
    let wanted = Wanted::of(&app, &caller.peer, &parameters).await?;
    let values: BTreeSet<String> = if wanted.selectors.is_empty() {
        let shared = app.clone();
        let values = move || {
            let source = PromqlSource::new(&shared.engine, 1);
            match source.own(&name) {
                Some(own) => BTreeSet::from([own.to_owned()]),
                None => series::label_values(&shared.engine, &name),
            }
        };
        query(&app, &caller.peer, values).await?
    } else {
        let all = selected(&app, &caller.peer, &wanted).await?;
        all.into_iter().flatten().filter(|(known, _)| *known == name).map(|(_, value)| value).collect()
    };
    Ok(cut(values.into_iter().collect(), wanted.limit))
}

/// Returns the name of a label that a path names. Names with other characters than letters, digits and `_` begin with
/// `U__` there: each other character is its number in hexadecimal between underscores, and an underscore is two.
fn unescaped(name: &str) -> Option<String> {
    let Some(mut rest) = name.strip_prefix(ESCAPED) else {
        return (!name.is_empty()).then(|| name.to_owned());
    };
    let mut plain = String::new();
    while let Some(c) = rest.chars().next() {
        rest = rest.get(c.len_utf8()..)?;
        if c != '_' {
            plain.push(c);
        } else if let Some(behind) = rest.strip_prefix('_') {
            plain.push('_');
            rest = behind;
        } else {
            let (digits, behind) = rest.split_once('_')?;
            plain.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
            rest = behind;
        }
    }
    (!plain.is_empty()).then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::unescaped;

    #[test]
    fn names_of_labels_in_paths_are_unescaped() {
        for (name, expected) in [
            ("job", Some("job")),
            ("U__my_2e_label", Some("my.label")),
            ("U__a__b", Some("a_b")),
            ("U___1f600_", Some("\u{1f600}")),
            ("U__a_zz_", None),
            ("U__a_2e", None),
            ("U__", None),
            ("", None),
        ] {
            assert_eq!(unescaped(name).as_deref(), expected, "{name}");
        }
    }
}
