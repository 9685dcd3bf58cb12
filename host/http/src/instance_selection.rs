//! The instances that a request selects: `instance=a` (repeatable), or those that have every `label=k=v` (repeatable).

use super::error::ApiError;
use super::instances::named;
use super::range_query::QueryParameters;
use dropsonde_engine::hub::Selection;
use std::collections::BTreeSet;

/// The largest number of labels in a selection: an instance has no more.
const MOST_LABELS: usize = 32;

/// The largest number of instances that one request can name.
const MOST_NAMED: usize = 1000;

/// Bytes of the longest name of a workload: as many as a label's value may have.
const LONGEST_WORKLOAD: usize = 256;

/// Selects the instances of a workload.
pub(crate) fn workload(name: String) -> Result<Selection, ApiError> {
    if name.is_empty() || name.len() > LONGEST_WORKLOAD {
        return Err(ApiError::invalid(
            "workload",
            format_args!("the name of a workload has 1 to {LONGEST_WORKLOAD} bytes"),
        ));
    }
    Ok(Selection::Workload(name))
}

/// Selects the instances that are named, or those that have the labels; all instances if there is neither.
pub(crate) fn select(parameters: &QueryParameters<'_>) -> Result<Selection, ApiError> {
    let named: BTreeSet<_> = parameters.all("instance").map(named).collect::<Result<_, _>>()?;
    if named.len() > MOST_NAMED {
        let why = format!("{} instances are named; name at most {MOST_NAMED}, or select them by label", named.len());
        return Err(ApiError::invalid("instance", why));
    }
    let labels = labels(parameters)?;
    match (named.is_empty(), labels.is_empty()) {
        (false, false) => Err(ApiError::invalid("label", "give either instance or label, not both")),
        (false, true) => Ok(Selection::Several(named)),
        (true, _) => Ok(Selection::Labels(labels)),
    }
}

/// Returns the labels of `label=k=v`, which is repeatable.
pub(crate) fn labels(parameters: &QueryParameters<'_>) -> Result<BTreeSet<(String, String)>, ApiError> {
    let pair = |label: &str| {
        let pair = label.split_once('=');
        let (key, value) =
            pair.ok_or_else(|| ApiError::invalid("label", format_args!("{label:?} is not key=value")))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    let labels = parameters.all("label").take(MOST_LABELS + 1).map(pair);
    let labels = labels.collect::<Result<BTreeSet<_>, ApiError>>()?;
    if labels.len() > MOST_LABELS {
        return Err(ApiError::invalid("label", format_args!("select by at most {MOST_LABELS} labels")));
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_has_no_more_labels_than_an_instance_can_have() {
        let query = |count: usize| (0..count).map(|nth| format!("label=k{nth}=v")).collect::<Vec<_>>().join("&");
        let select = |count| labels(&QueryParameters::parse(Some(&query(count)))).map(|labels| labels.len());
        assert_eq!(select(MOST_LABELS).unwrap(), MOST_LABELS);
        assert!(select(MOST_LABELS + 1).is_err());
    }
}
