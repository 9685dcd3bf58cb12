/// How several readings are combined into one point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregation {
    Mean,
    Min,
    Max,
    Last,
    Sum,
}
