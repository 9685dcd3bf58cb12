/// How readings of a longer time become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregation {
    Mean,
    Min,
    Max,
    Last,
    Sum,
}
