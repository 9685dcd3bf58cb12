use crate::{Failure, Tick};

/// An event that an application sent to the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub at_ms: u64,
    /// The name, such as `channel.opened`.
    pub name: String,
    /// The thing that the event is about; may be empty.
    pub subject: String,
    pub value: f64,
    pub attributes: Vec<(String, String)>,
}

/// A plugin that receives the events of an application, in the order of their arrival, between polls.
///
/// It is also a [`Source`](crate::Source) or a [`Sampler`](crate::Sampler). [`export_plugin!`](crate::export_plugin)
/// names its roles.
pub trait Observer: Default + 'static {
    /// Receives a batch of events. The host does not send a batch again, also not after a failure.
    fn observe(&mut self, tick: &Tick, events: &[Event]) -> Result<(), Failure>;
}

// === impl Event ===

impl Event {
    /// Returns the first attribute with this name.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}
