//! The interface `observer`.

use super::Exported;
use super::dropsonde::plugin::types as wit;
use crate::{Event, Observer, Tick};

wit_bindgen::generate!({
    inline: "package dropsonde:sdk; world observer-part { export dropsonde:plugin/observer@0.1.0; }",
    world: "dropsonde:sdk/observer-part",
    path: "../wit",
    generate_all,
    pub_export_macro: true,
    export_macro_name: "export_observer_interface",
    default_bindings_module: "dropsonde_guest::glue::observer",
    with: { "dropsonde:plugin/types@0.1.0": crate::glue::dropsonde::plugin::types },
});

use exports::dropsonde::plugin::observer;

impl<E: Exported<Plugin: Observer>> observer::Guest for E {
    fn observe(tick: wit::Tick, events: Vec<observer::Event>) -> Result<(), wit::Failure> {
        let events: Vec<Event> = events.into_iter().map(Event::from).collect();
        Ok(E::with(|observer| observer.observe(&Tick::from(tick), &events))?)
    }
}

impl From<observer::Event> for Event {
    fn from(event: observer::Event) -> Self {
        let observer::Event { at_ms, name, subject, value, attributes } = event;
        Self { at_ms, name, subject, value, attributes }
    }
}
