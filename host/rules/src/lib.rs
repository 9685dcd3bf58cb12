//! Rules over series, as Prometheus has them.
//!
//! * [`RuleFile`]: reads rule files. [`Template`]: the texts of labels and annotations, with their actions in braces.
//! * [`RunningGroup`]: evaluates the rules of a group, each by an `evaluation`. [`Storage`]: where their series come from
//!   and go to. [`Alert`]: an alert, from pending to resolved. `stages`: divides rules by what they read of one another.
//! * [`TestFile`]: unit tests of rules, in the format of `promtool test rules`.

mod alert;
mod evaluation;
mod file;
mod group;
mod stages;
mod template;
mod unit_test;

pub use alert::{ALERTS, ALERTS_FOR_STATE, Alert, AlertState};
pub use evaluation::{RuleSettings, Storage};
pub use file::{AlertingRule, Rule, RuleFile, RuleFileError, RuleGroup, RuleKind};
pub use group::{RuleEvaluation, RuleFailure, RuleState, RunningGroup};
pub use template::{Sample, Surroundings, Template, TemplateError, Variables};
pub use unit_test::TestFile;
