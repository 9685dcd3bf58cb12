use super::event::Of;
use dropsonde_model::Labels;
use dropsonde_model::names::is_reserved;
use dropsonde_store::InstanceId;
use std::collections::BTreeSet;

/// The label by which instances belong together.
pub(crate) const WORKLOAD: &str = "workload";

/// Which samples someone follows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Selection {
    /// One instance's. It ends when the instance is untracked.
    One(InstanceId),
    /// Those of several, tracked or not yet.
    Several(BTreeSet<InstanceId>),
    /// Those of all instances that have these labels at the time; without any, all.
    Labels(BTreeSet<(String, String)>),
    /// Those of a workload's instances, together.
    Workload(String),
}

/// How samples are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// They are all of one thing.
    Single,
    /// Each says of which instance it is.
    Multiplexed,
}

impl Selection {
    pub fn includes(&self, id: &InstanceId, labels: &Labels) -> bool {
        match self {
            Self::One(one) => one == id,
            Self::Several(several) => several.contains(id),
            Self::Labels(wanted) => {
                let is_own = is_reserved(id.as_str());
                !is_own && wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
            }
            Self::Workload(workload) => labels.get(WORKLOAD) == Some(workload),
        }
    }

    pub fn form(&self) -> Form {
        match self {
            Self::One(_) | Self::Workload(_) => Form::Single,
            Self::Several(_) | Self::Labels(_) => Form::Multiplexed,
        }
    }

    /// Whether who follows this is told of an event.
    pub(super) fn is_told(&self, of: &Of) -> bool {
        match (self, of) {
            (Self::Workload(own), Of::Workload(workload)) => own == workload,
            (Self::Workload(_), _) | (_, Of::Workload(_)) => false,
            (_, Of::Instance { id, labels, .. }) => self.includes(id, labels),
        }
    }
}
