//! Functions that change labels: `label_replace`, `label_join`.

use super::Context;
use super::matrix::{Grid, Matrix, with_label};
use super::plan::Node;
use crate::annotations::Annotations;
use crate::regex::{self, Allowance};
use crate::source::QueryError;
use dropsonde_model::Labels;
use dropsonde_model::labels::NAME;

/// Bytes of the longest value of a label that is made here.
const LONGEST_VALUE: usize = 64 << 10;

/// Returns the new value of a label; nothing if it stays.
type Replaced<'a> = dyn Fn(&Labels) -> Result<Option<String>, QueryError> + 'a;

impl Context<'_> {
    pub(super) fn relabel(
        &self,
        function: &str,
        arguments: &[Node],
        grid: Grid,
        annotations: &mut Annotations,
    ) -> Result<Matrix, QueryError> {
        let [vector, texts @ ..] = arguments else {
            return Err(QueryError::Execution(format!("`{function}` needs arguments")));
        };
        let invalid = |what: &str, written: String| {
            QueryError::Execution(format!("invalid {what} label name in {function}(): {written}"))
        };
        let [target, second, sources @ ..] = texts else {
            return Err(QueryError::Execution(format!("`{function}` needs labels")));
        };
        let second = second.text().unwrap_or_default();
        let replaced: Box<Replaced<'_>> = match (function, sources) {
            ("label_replace", [source, expression]) => {
                let regex = regex::compile(expression.text().unwrap_or_default(), &mut Allowance::default())
                    .map_err(QueryError::Execution)?;
                let source = source.text().unwrap_or_default();
                // Each group is a part of the value.
                let groups = second.matches('$').count();
                Box::new(move |labels| {
                    let before = labels.get(source).unwrap_or_default();
                    check_length(function, groups.saturating_mul(before.len()).saturating_add(second.len()))?;
                    Ok(regex.captures(before.as_bytes()).map(|captures| {
                        let mut value = Vec::new();
                        captures.expand(second.as_bytes(), &mut value);
                        String::from_utf8_lossy(&value).into_owned()
                    }))
                })
            }
            _ => {
                let sources = sources.iter().map(|source| source.label().map_err(|written| invalid("source", written)));
                let sources: Vec<&str> = sources.collect::<Result<_, _>>()?;
                Box::new(move |labels| {
                    let values: Vec<&str> = sources.iter().map(|name| labels.get(name).unwrap_or_default()).collect();
                    let length: usize = values.iter().map(|value| value.len() + second.len()).sum();
                    check_length(function, length)?;
                    Ok(Some(values.join(second)))
                })
            }
        };
        let target = target.label().map_err(|written| invalid("destination", written))?;
        let mut matrix = self.vector(vector, grid, annotations)?;
        matrix.lengthen(|row| {
            self.limits.check()?;
            if let Some(value) = replaced(&row.labels)? {
                row.labels = with_label(&row.labels, target, &value);
                row.drops_name &= target != NAME;
            }
            Ok(())
        })?;
        matrix.united()
    }
}

fn check_length(function: &str, length: usize) -> Result<(), QueryError> {
    if length <= LONGEST_VALUE {
        return Ok(());
    }
    Err(QueryError::Limit(format!("`{function}` would make a value of a label of more than {LONGEST_VALUE} bytes")))
}
