//! Reports conflicts between plugins: a plugin reports instances, or fields of instances, that belong to another owner.
//! `tracked/discovery.rs` decides to whom an instance belongs.

use crate::Engine;
use crate::plugins::{Fields, PluginStatus};
use crate::tracked::PluginName;
use dropsonde_store::InstanceId;
use serde::Serialize;
use std::collections::BTreeMap;

/// The most conflicts of each kind on a plugin's page; metrics count all.
const SHOWN: usize = 20;

/// The conflicts of one plugin with other owners.
#[derive(Debug, Clone, Default)]
pub struct Conflicts {
    /// Instances that the plugin listed in its last discovery and other owners have, with their owners; [`SHOWN`] at
    /// most.
    instances: Vec<(InstanceId, PluginName)>,
    /// The number of such instances in all.
    count: usize,
    /// Fields of the plugin's last call that the owner of the instance reads: the instance, its owner and the field.
    fields: Vec<(InstanceId, PluginName, String)>,
}

/// A conflict as plugin pages show it.
#[derive(Debug, Serialize)]
pub(crate) struct ConflictPage {
    instance: String,
    with: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    what: &'static str,
}

/// The columns of a sampler's rows that the host ignores for instances of other owners, by owner.
#[derive(Debug, Default)]
pub(crate) struct ColumnMasks(BTreeMap<PluginName, Vec<usize>>);

impl Conflicts {
    /// Replaces the conflicting instances. Returns whether they changed.
    pub(crate) fn set_instances(&mut self, of_others: &[(InstanceId, PluginName)]) -> bool {
        let shown = of_others.get(..SHOWN).unwrap_or(of_others);
        let is_other = self.instances != shown;
        (self.instances, self.count) = (shown.to_vec(), of_others.len());
        is_other
    }

    /// Adds an instance that another owner took from this plugin. The plugin's next discovery replaces the list.
    pub(crate) fn lose(&mut self, instance: InstanceId, owner: PluginName) {
        self.count += 1;
        if self.instances.len() < SHOWN {
            self.instances.push((instance, owner));
        }
    }

    /// Returns a message that names the conflicting instances and says what an operator can do; `None` without any.
    pub(crate) fn of_others(&self, plugin: &str) -> Option<String> {
        let (id, owner) = self.instances.first()?;
        let count = self.count;
        Some(format!(
            "plugin {plugin} lists {count} instances that belong to others, for example {id} (owner: {owner}): the \
             host ignores what {plugin} reports about them; to hand an instance over, DELETE it and PUT it with \
             {plugin} among its samplers; to let {plugin} add to an instance, name the plugin in `samplers` of \
             [[instances]], or set `plugins.{plugin}.share_instances = true`"
        ))
    }

    /// Replaces the conflicting fields. Returns whether the fields or their owners changed.
    pub(crate) fn set_fields(&mut self, fields: Vec<(InstanceId, PluginName, String)>) -> bool {
        let names = |fields: &[(InstanceId, PluginName, String)]| -> Vec<(PluginName, String)> {
            fields.iter().map(|(_, owner, field)| (owner.clone(), field.clone())).collect()
        };
        let is_other = names(&self.fields) != names(&fields);
        self.fields = fields;
        is_other
    }

    fn own(&self) -> impl Iterator<Item = ConflictPage> {
        let instances = self.instances.iter().map(|(instance, owner)| ConflictPage {
            instance: instance.to_string(),
            with: owner.to_string(),
            field: None,
            what: "the instance belongs to the other owner, also after it has ended: the host ignores what this plugin \
                   reports about it; to hand the instance over, DELETE it and PUT it with this plugin among its \
                   samplers; to let this plugin add to it, name the plugin in `samplers` of [[instances]], or set \
                   share_instances",
        });
        let fields = self.fields.iter().map(|(instance, owner, field)| ConflictPage {
            instance: instance.to_string(),
            with: owner.to_string(),
            field: Some(field.clone()),
            what: "the owner of the instance reads this field too: the host ignores this plugin's values",
        });
        instances.chain(fields)
    }

    /// Returns this plugin's conflicts with `owner`, as the owner's page shows them. `plugin` is this plugin's name.
    fn with(&self, owner: &str, plugin: &str) -> impl Iterator<Item = ConflictPage> {
        let instances = self.instances.iter().filter(move |(_, other)| &**other == owner);
        let instances = instances.map(|(instance, _)| ConflictPage {
            instance: instance.to_string(),
            with: plugin.to_owned(),
            field: None,
            what: "the other plugin lists this instance too: the host ignores what it reports about the instance",
        });
        let fields = self.fields.iter().filter(move |(_, other, _)| &**other == owner);
        let fields = fields.map(|(instance, _, field)| ConflictPage {
            instance: instance.to_string(),
            with: plugin.to_owned(),
            field: Some(field.clone()),
            what: "the other plugin reads this field too: the host ignores its values",
        });
        instances.chain(fields)
    }
}

/// Returns the conflicts for a plugin's page: those it has with owners, and those that other plugins have with it as
/// owner.
pub(crate) fn of_plugin(engine: &Engine, status: &PluginStatus) -> Vec<ConflictPage> {
    let mut all: Vec<ConflictPage> = status.conflicts(|own| own.own().collect());
    for other in engine.plugins.list().iter().filter(|other| other.name != status.name) {
        let left = SHOWN.saturating_sub(all.len());
        all.extend(
            other.conflicts(|conflicts| conflicts.with(&status.name, &other.name).take(left).collect::<Vec<_>>()),
        );
    }
    all
}

impl ColumnMasks {
    /// Returns the columns of `fields` that `owner` reads too.
    pub(crate) fn of(&mut self, engine: &Engine, owner: &PluginName, fields: &Fields) -> &[usize] {
        self.0.entry(owner.clone()).or_insert_with(|| {
            let Some(owned) = engine.plugins.get(owner).and_then(|status| status.fields()) else { return Vec::new() };
            let is_owned = |name: &str| owned.schema.fields().iter().any(|field| &*field.name == name);
            let columns = fields.schema.fields().iter().enumerate();
            columns.filter(|(_, field)| is_owned(&field.name)).map(|(column, _)| column).collect()
        })
    }
}
