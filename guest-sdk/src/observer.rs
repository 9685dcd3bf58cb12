use crate::{Failure, Tick};

/// Something an application did, as it told the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub at_ms: u64,
    /// `channel.opened`
    pub name: String,
    /// What it is about; may be empty.
    pub subject: String,
    pub value: f64,
    pub attributes: Vec<(String, String)>,
}

/// A plugin that is told what an application does, in the order it came, between polls.
///
/// It is a [`Source`](crate::Source) or a [`Sampler`](crate::Sampler) too:
/// [`export_plugin!`](crate::export_plugin) names its roles.
pub trait Observer: Default + 'static {
    /// All of them or, with a failure, none: the host does not hand them over again.
    fn observe(&mut self, tick: &Tick, events: &[Event]) -> Result<(), Failure>;
}

// === impl Event ===

impl Event {
    /// The first attribute of a name.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}
