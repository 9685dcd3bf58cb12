//! The functions of the language: their names, and the types of their arguments.

use crate::ast::ValueType::{self, Matrix, Scalar, String, Vector};

/// A function as the parser knows it.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: &'static str,
    pub arguments: &'static [ValueType],
    pub more: MoreArguments,
    pub returns: ValueType,
    /// Prometheus has it behind a flag.
    pub is_experimental: bool,
}

/// How many arguments a function takes beside the usual number. They have the type of the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoreArguments {
    None,
    /// The last argument can be left out.
    Optional,
    UpTo(usize),
    Any,
}

/// All functions, sorted by name.
pub static FUNCTIONS: &[Function] = &[
    of("abs", &[Vector]),
    of("absent", &[Vector]),
    of("absent_over_time", &[Matrix]),
    of("acos", &[Vector]),
    of("acosh", &[Vector]),
    of("asin", &[Vector]),
    of("asinh", &[Vector]),
    of("atan", &[Vector]),
    of("atanh", &[Vector]),
    of("avg_over_time", &[Matrix]),
    of("ceil", &[Vector]),
    of("changes", &[Matrix]),
    of("clamp", &[Vector, Scalar, Scalar]),
    of("clamp_max", &[Vector, Scalar]),
    of("clamp_min", &[Vector, Scalar]),
    of("cos", &[Vector]),
    of("cosh", &[Vector]),
    of("count_over_time", &[Matrix]),
    of("day_of_month", &[Vector]).and(MoreArguments::Optional),
    of("day_of_week", &[Vector]).and(MoreArguments::Optional),
    of("day_of_year", &[Vector]).and(MoreArguments::Optional),
    of("days_in_month", &[Vector]).and(MoreArguments::Optional),
    of("deg", &[Vector]),
    of("delta", &[Matrix]),
    of("deriv", &[Matrix]),
    of("double_exponential_smoothing", &[Matrix, Scalar, Scalar]).experimental(),
    of("end", &[]).scalar().experimental(),
    of("exp", &[Vector]),
    of("first_over_time", &[Matrix]),
    of("floor", &[Vector]),
    of("histogram_avg", &[Vector]),
    of("histogram_count", &[Vector]),
    of("histogram_fraction", &[Scalar, Scalar, Vector]),
    of("histogram_quantile", &[Scalar, Vector]),
    of("histogram_quantiles", &[Vector, String, Scalar, Scalar]).and(MoreArguments::UpTo(8)).experimental(),
    of("histogram_stddev", &[Vector]),
    of("histogram_stdvar", &[Vector]),
    of("histogram_sum", &[Vector]),
    of("hour", &[Vector]).and(MoreArguments::Optional),
    of("idelta", &[Matrix]),
    of("increase", &[Matrix]),
    of("irate", &[Matrix]),
    of("label_join", &[Vector, String, String, String]).and(MoreArguments::Any),
    of("label_replace", &[Vector, String, String, String, String]),
    of("last_over_time", &[Matrix]),
    of("ln", &[Vector]),
    of("log10", &[Vector]),
    of("log2", &[Vector]),
    of("mad_over_time", &[Matrix]).experimental(),
    of("max_of", &[Scalar, Scalar]).scalar().experimental(),
    of("max_over_time", &[Matrix]),
    of("min_of", &[Scalar, Scalar]).scalar().experimental(),
    of("min_over_time", &[Matrix]),
    of("minute", &[Vector]).and(MoreArguments::Optional),
    of("month", &[Vector]).and(MoreArguments::Optional),
    of("pi", &[]).scalar(),
    of("predict_linear", &[Matrix, Scalar]),
    of("present_over_time", &[Matrix]),
    of("quantile_over_time", &[Scalar, Matrix]),
    of("rad", &[Vector]),
    of("range", &[]).scalar().experimental(),
    of("rate", &[Matrix]),
    of("resets", &[Matrix]),
    of("round", &[Vector, Scalar]).and(MoreArguments::Optional),
    of("scalar", &[Vector]).scalar(),
    of("sgn", &[Vector]),
    of("sin", &[Vector]),
    of("sinh", &[Vector]),
    of("sort", &[Vector]),
    of("sort_by_label", &[Vector, String]).and(MoreArguments::Any).experimental(),
    of("sort_by_label_desc", &[Vector, String]).and(MoreArguments::Any).experimental(),
    of("sort_desc", &[Vector]),
    of("sqrt", &[Vector]),
    of("start", &[]).scalar().experimental(),
    of("stddev_over_time", &[Matrix]),
    of("stdvar_over_time", &[Matrix]),
    of("step", &[]).scalar().experimental(),
    of("sum_over_time", &[Matrix]),
    of("tan", &[Vector]),
    of("tanh", &[Vector]),
    of("time", &[]).scalar(),
    of("timestamp", &[Vector]),
    of("ts_of_first_over_time", &[Matrix]).experimental(),
    of("ts_of_last_over_time", &[Matrix]).experimental(),
    of("ts_of_max_over_time", &[Matrix]).experimental(),
    of("ts_of_min_over_time", &[Matrix]).experimental(),
    of("vector", &[Scalar]),
    of("year", &[Vector]).and(MoreArguments::Optional),
];

/// Functions that need what this engine does not have.
pub(crate) const UNSUPPORTED: [(&str, &str); 2] =
    [("info", "joining with info metrics"), ("start_timestamp", "start timestamps")];

/// Finds a function by its name.
pub fn function(name: &str) -> Option<&'static Function> {
    let nth = FUNCTIONS.binary_search_by(|function| function.name.cmp(name)).ok()?;
    FUNCTIONS.get(nth)
}

const fn of(name: &'static str, arguments: &'static [ValueType]) -> Function {
    Function { name, arguments, more: MoreArguments::None, returns: Vector, is_experimental: false }
}

impl Function {
    const fn and(mut self, more: MoreArguments) -> Self {
        self.more = more;
        self
    }

    const fn scalar(mut self) -> Self {
        self.returns = Scalar;
        self
    }

    const fn experimental(mut self) -> Self {
        self.is_experimental = true;
        self
    }

    /// Returns the smallest and the largest number of arguments.
    pub(crate) fn argument_counts(&self) -> (usize, usize) {
        let usual = self.arguments.len();
        match self.more {
            MoreArguments::None => (usual, usual),
            MoreArguments::Optional => (usual - 1, usual),
            MoreArguments::UpTo(more) => (usual - 1, usual + more),
            MoreArguments::Any => (usual - 1, usize::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FUNCTIONS, function};

    #[test]
    fn every_function_is_found_by_its_name() {
        assert!(FUNCTIONS.is_sorted_by(|a, b| a.name < b.name));
        assert!(FUNCTIONS.iter().all(|known| function(known.name) == Some(known)));
        assert_eq!(function("no_such"), None);
    }
}
