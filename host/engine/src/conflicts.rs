//! What a plugin says that is another's to say: of instances, and of their fields.

use crate::Engine;
use crate::plugins::{Fields, Status};
use crate::tracked::PluginName;
use dropsonde_store::InstanceId;
use serde::Serialize;
use std::collections::BTreeMap;

/// Conflicts of each kind on a plugin's page; metrics count all.
const SHOWN: usize = 20;

/// Of one plugin, with others.
#[derive(Debug, Clone, Default)]
pub struct Conflicts {
    /// Instances it lists that are another's, and whose: of its last discovery, the first of them.
    instances: Vec<(InstanceId, PluginName)>,
    /// How many there are.
    count: usize,
    /// Fields it has that the owner of an instance has too: of its last call.
    fields: Vec<(InstanceId, PluginName, String)>,
}

/// As pages show it.
#[derive(Debug, Serialize)]
pub(crate) struct Conflict {
    instance: String,
    with: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    what: &'static str,
}

/// Which columns of a sampler's rows are not taken, of instances of others.
#[derive(Debug, Default)]
pub(crate) struct Masks(BTreeMap<PluginName, Vec<usize>>);

impl Conflicts {
    /// Returns whether they are others than before.
    pub(crate) fn set_instances(&mut self, of_others: &[(InstanceId, PluginName)]) -> bool {
        let shown = of_others.get(..SHOWN).unwrap_or(of_others);
        let is_other = self.instances != shown;
        (self.instances, self.count) = (shown.to_vec(), of_others.len());
        is_other
    }

    /// Adds an instance of its that became another's: until its next discovery, which may find out more.
    pub(crate) fn lose(&mut self, instance: InstanceId, owner: PluginName) {
        self.count += 1;
        if self.instances.len() < SHOWN {
            self.instances.push((instance, owner));
        }
    }

    /// Says of which instances it is not heard, and how an operator lets it be.
    pub(crate) fn of_others(&self, plugin: &str) -> Option<String> {
        let (id, owner) = self.instances.first()?;
        let count = self.count;
        Some(format!(
            "plugin {plugin} lists {count} instances that belong to others, as {id} to {owner}: what it says of them is not \
             taken; to hand one over, DELETE it and PUT it with {plugin} among its samplers; to have {plugin} add to them, \
             name it in `samplers` of [[instances]], or set `plugins.{plugin}.share_instances = true`"
        ))
    }

    /// Returns whether they are others than before.
    pub(crate) fn set_fields(&mut self, fields: Vec<(InstanceId, PluginName, String)>) -> bool {
        let names = |fields: &[(InstanceId, PluginName, String)]| -> Vec<(PluginName, String)> {
            fields.iter().map(|(_, owner, field)| (owner.clone(), field.clone())).collect()
        };
        let is_other = names(&self.fields) != names(&fields);
        self.fields = fields;
        is_other
    }

    fn own(&self) -> impl Iterator<Item = Conflict> {
        let instances = self.instances.iter().map(|(instance, owner)| Conflict {
            instance: instance.to_string(),
            with: owner.to_string(),
            field: None,
            what: "it belongs to the other, also when it has ended: what this plugin says of it is not taken; to hand it over, \
                   DELETE it and PUT it with this plugin among its samplers, name this plugin in `samplers` of [[instances]], \
                   or let it share instances (share_instances)",
        });
        let fields = self.fields.iter().map(|(instance, owner, field)| Conflict {
            instance: instance.to_string(),
            with: owner.to_string(),
            field: Some(field.clone()),
            what: "the other has this field: what this plugin reads for it is not taken",
        });
        instances.chain(fields)
    }

    /// Those with one owner, as that one's page shows them.
    fn with(&self, owner: &str, plugin: &str) -> impl Iterator<Item = Conflict> {
        let instances = self.instances.iter().filter(move |(_, other)| &**other == owner);
        let instances = instances.map(|(instance, _)| Conflict {
            instance: instance.to_string(),
            with: plugin.to_owned(),
            field: None,
            what: "the other lists it too: what that says of it is not taken",
        });
        let fields = self.fields.iter().filter(move |(_, other, _)| &**other == owner);
        let fields = fields.map(|(instance, _, field)| Conflict {
            instance: instance.to_string(),
            with: plugin.to_owned(),
            field: Some(field.clone()),
            what: "the other has this field too: what that reads for it is not taken",
        });
        instances.chain(fields)
    }
}

/// What a plugin's page shows: what it says that is another's, and what others say that is its own.
pub(crate) fn of_plugin(engine: &Engine, status: &Status) -> Vec<Conflict> {
    let mut all: Vec<Conflict> = status.conflicts(|own| own.own().collect());
    for other in engine.plugins.list().iter().filter(|other| other.name != status.name) {
        let left = SHOWN.saturating_sub(all.len());
        all.extend(
            other.conflicts(|conflicts| conflicts.with(&status.name, &other.name).take(left).collect::<Vec<_>>()),
        );
    }
    all
}

impl Masks {
    /// The columns of these fields that an instance's owner has, too.
    pub(crate) fn of(&mut self, engine: &Engine, owner: &PluginName, fields: &Fields) -> &[usize] {
        self.0.entry(owner.clone()).or_insert_with(|| {
            let Some(owned) = engine.plugins.get(owner).and_then(|status| status.fields()) else { return Vec::new() };
            let is_owned = |name: &str| owned.schema.fields().iter().any(|field| &*field.name == name);
            let columns = fields.schema.fields().iter().enumerate();
            columns.filter(|(_, field)| is_owned(&field.name)).map(|(column, _)| column).collect()
        })
    }
}
