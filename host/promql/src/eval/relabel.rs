//! Functions that change labels: `label_replace`, `label_join`.

use super::Context;
use super::matrix::{Grid, Matrix, with_label};
use super::plan::Node;
use crate::annotations::Annotations;
use crate::regex::{self, Allowance};
use crate::source::QueryError;
use dropsonde_model::Labels;
use dropsonde_model::labels::NAME;

/// Returns the new value of a label; nothing if it stays.
type Replaced<'a> = dyn Fn(&Labels) -> Option<String> + 'a;

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
                Box::new(move |labels| {
                    let captures = regex.captures(labels.get(source).unwrap_or_default().as_bytes())?;
                    let mut value = Vec::new();
                    captures.expand(second.as_bytes(), &mut value);
                    Some(String::from_utf8_lossy(&value).into_owned())
                })
            }
            _ => {
                let sources = sources.iter().map(|source| source.label().map_err(|written| invalid("source", written)));
                let sources: Vec<&str> = sources.collect::<Result<_, _>>()?;
                Box::new(move |labels| {
                    let values: Vec<&str> = sources.iter().map(|name| labels.get(name).unwrap_or_default()).collect();
                    Some(values.join(second))
                })
            }
        };
        let target = target.label().map_err(|written| invalid("destination", written))?;
        let mut matrix = self.vector(vector, grid, annotations)?;
        matrix.relabel(|row| {
            if let Some(value) = replaced(&row.labels) {
                row.labels = with_label(&row.labels, target, &value);
                row.drops_name &= target != NAME;
            }
        });
        matrix.united()
    }
}
