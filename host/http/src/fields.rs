//! The check of the field names in a query.

use super::error::ApiError;
use dropsonde_model::nearest::unknown;
use dropsonde_store::{InstanceId, Store};
use std::collections::BTreeSet;

/// Refuses a field that none of the instances has ever had. `more` are names that are known beside their fields. If the
/// instances have no history, any field is accepted.
pub(super) fn check(
    store: &Store,
    ids: &[InstanceId],
    more: &[&str],
    asked: Option<&[String]>,
) -> Result<(), ApiError> {
    let mut missing: BTreeSet<&str> = asked.into_iter().flatten().map(String::as_str).collect();
    missing.retain(|field| !more.contains(field));
    let mut known = BTreeSet::new();
    for frame in ids.iter().flat_map(|id| store.frames(id)) {
        if missing.is_empty() {
            return Ok(());
        }
        for field in frame.schema().fields() {
            missing.remove(&*field.name);
            known.insert(field.name.clone());
        }
    }
    match missing.first() {
        Some(field) if !known.is_empty() => {
            let known: Vec<&str> = known.iter().map(|name| &**name).chain(more.iter().copied()).collect();
            Err(ApiError::invalid("fields", unknown("field", field, &known)))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_store::{Schema, StoredField};

    #[test]
    fn an_unknown_field_is_refused_with_a_suggestion_and_known_fields_are_accepted() {
        let store = Store::in_memory(&Default::default());
        let id = |id: &str| InstanceId::new(id).unwrap();
        for (instance, field) in [("a", "cpu_percent"), ("b", "load_1m")] {
            let schema = Schema::new("s", vec![StoredField::gauge(field)]);
            store.frame(&id(instance), &schema, 1000).push(1000, &[1.0]);
        }
        let check = |ids: &[&str], fields: &[&str]| {
            let ids: Vec<_> = ids.iter().map(|one| id(one)).collect();
            let fields: Vec<_> = fields.iter().map(|field| (*field).to_owned()).collect();
            super::check(&store, &ids, &["replica_count"], Some(&fields)).map_err(|error| error.to_string())
        };
        assert_eq!(check(&["a", "b"], &["load_1m", "cpu_percent", "replica_count"]), Ok(()));
        assert_eq!(check(&["nobody"], &["cpu"]), Ok(()), "of an instance nobody knows, nothing is known");
        let error = check(&["a"], &["cpu_percent", "cpu"]).unwrap_err();
        assert_eq!(
            error,
            "invalid fields parameter: unknown field `cpu`; did you mean `cpu_percent`? known: cpu_percent, replica_count"
        );
    }
}
