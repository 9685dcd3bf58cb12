use super::event::EventSubject;
use dropsonde_model::Labels;
use dropsonde_model::names::is_reserved;
use dropsonde_store::InstanceId;
use std::collections::BTreeSet;

/// The label whose value names the workload of an instance.
pub(crate) const WORKLOAD: &str = "workload";

/// The samples that a reader follows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Selection {
    /// The samples of one instance. The stream ends when the instance is untracked.
    One(InstanceId),
    /// The samples of several instances, tracked or not yet.
    Several(BTreeSet<InstanceId>),
    /// The samples of all instances that have these labels at the time. Without labels, of all but the host's own.
    Labels(BTreeSet<(String, String)>),
    /// The combined samples of a workload's instances.
    Workload(String),
}

/// The form in which a reader gets samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamForm {
    /// All samples are of one instance or workload, so none names it.
    Single,
    /// Each sample names its instance.
    Multiplexed,
}

impl Selection {
    /// Returns whether the selection includes an instance with these labels.
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

    pub fn form(&self) -> StreamForm {
        match self {
            Self::One(_) | Self::Workload(_) => StreamForm::Single,
            Self::Several(_) | Self::Labels(_) => StreamForm::Multiplexed,
        }
    }

    /// Returns whether a reader of this selection is told of an event.
    pub(super) fn is_told(&self, of: &EventSubject) -> bool {
        match (self, of) {
            (Self::Workload(own), EventSubject::Workload(workload)) => own == workload,
            (Self::Workload(_), _) | (_, EventSubject::Workload(_)) => false,
            (_, EventSubject::Instance { id, labels, .. }) => self.includes(id, labels),
        }
    }
}
