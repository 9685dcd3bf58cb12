//! Which instances a request is about: `instance=a` (repeatable), or those that have all of `label=k=v` (repeatable).

use super::error::ApiError;
use super::instances::named;
use super::window::Parameters;
use dropsonde_engine::hub::Selection;
use std::collections::BTreeSet;

/// Instances of one request that are named each.
const MOST_NAMED: usize = 1000;

/// In bytes, as long as a label's value may be.
const LONGEST_WORKLOAD: usize = 256;

/// The instances of a workload.
pub(crate) fn workload(name: String) -> Result<Selection, ApiError> {
    if name.is_empty() || name.len() > LONGEST_WORKLOAD {
        return Err(ApiError::invalid("workload", format_args!("a name has 1 to {LONGEST_WORKLOAD} bytes")));
    }
    Ok(Selection::Workload(name))
}

/// The instances that are named, or the labels they are to have; all instances when nothing is said.
pub(crate) fn select(parameters: &Parameters<'_>) -> Result<Selection, ApiError> {
    let named: BTreeSet<_> = parameters.all("instance").map(named).collect::<Result<_, _>>()?;
    if named.len() > MOST_NAMED {
        let why = format!("{} are named; at most {MOST_NAMED} are, a label names more", named.len());
        return Err(ApiError::invalid("instance", why));
    }
    let labels = labels(parameters)?;
    match (named.is_empty(), labels.is_empty()) {
        (false, false) => Err(ApiError::invalid("label", "give either instances or labels")),
        (false, true) => Ok(Selection::Several(named)),
        (true, _) => Ok(Selection::Labels(labels)),
    }
}

/// `label=k=v`, repeatable.
pub(crate) fn labels(parameters: &Parameters<'_>) -> Result<BTreeSet<(String, String)>, ApiError> {
    let pair = |label: &str| {
        let pair = label.split_once('=');
        let (key, value) =
            pair.ok_or_else(|| ApiError::invalid("label", format_args!("{label:?} is not key=value")))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    parameters.all("label").map(pair).collect()
}
