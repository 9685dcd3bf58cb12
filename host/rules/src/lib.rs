//! Rules over series, as Prometheus has them.
//!
//! * [`RuleFile`]: reads rule files. [`Template`]: the texts of labels and annotations, with their actions in braces.
//! * [`RunningGroup`]: evaluates the rules of a group. [`Storage`]: where their series come from and go to. [`Alert`]: an
//!   alert, from pending to resolved. `stages`: which rules read what others make.
//! * [`TestFile`]: unit tests of rules, in the format of `promtool test rules`.

mod file;
mod group;
mod stages;
mod template;
mod unit_test;

pub use file::{AlertingRule, Rule, RuleFile, RuleFileError, RuleGroup, RuleKind};
pub use group::{
    ALERTS, ALERTS_FOR_STATE, Alert, AlertState, RESOLVED_KEPT_MS, RuleEvaluation, RuleFailure, RuleSettings,
    RuleState, RunningGroup, Storage,
};
pub use template::{Sample, Surroundings, Template, TemplateError, Variables};
pub use unit_test::TestFile;
