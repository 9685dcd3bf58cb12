use super::CheckArgs;
use crate::bundled::bundled;
use crate::cli::out::Out;
use crate::cli::{COMPILE, user_cache};
use crate::host::OWN_BINARY;
use anyhow::{Context, Result, bail};
use dropsonde_engine::plugins::{self, Component, ComponentOrigin, Fields, describe_need, grants_toml};
use dropsonde_model::text;
use dropsonde_sandbox::{CacheFolder, Introduction, Need, Plugin, Role, Sandbox, Setup, Worker, introduce};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Largest size of the user's cache of compiled plugins, in bytes.
const MOST_CACHED: u64 = 512 << 20;

/// A compiled component.
#[derive(Clone)]
pub(super) struct CompiledComponent {
    sandbox: Arc<Sandbox>,
    plugin: Plugin,
    component: Component,
    /// The SHA-256 digest, in hex.
    digest: String,
    compiled_in: Duration,
}

/// A compiled component with its description and needs.
#[derive(Clone)]
pub(super) struct CheckedComponent {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) plugin: Plugin,
    pub(super) component: Component,
    pub(super) setup: Setup,
    introduction: Introduction,
    digest: String,
    compiled_in: Duration,
}

impl CompiledComponent {
    /// Opens a component, with compiled code from the user's cache if it is there.
    pub(super) async fn cached(file: &Path) -> Result<Self> {
        let folder = user_cache().map(|cache| CacheFolder { path: cache.join("compiled"), most: MOST_CACHED });
        Self::open(file, folder).await
    }

    async fn open(file: &Path, cache: Option<CacheFolder>) -> Result<Self> {
        let component = named(file);
        let shown = file.display();
        let bytes = component.bytes().with_context(|| format!("cannot read {shown}"))?;
        // Compile in a child process: a malicious file can keep a compiler busy.
        let sandbox = Arc::new(Sandbox::new()?.with_compiler(OWN_BINARY, COMPILE, cache));
        let digest = plugins::digest(&bytes);
        let started = Instant::now();
        let loading = sandbox.clone();
        let plugin = tokio::task::spawn_blocking(move || loading.load(&bytes)).await?;
        let compiled_in = started.elapsed();
        let plugin = plugin.with_context(|| format!("{shown} is not a plugin for this host"))?;
        Ok(Self { sandbox, plugin, component, digest, compiled_in })
    }

    /// Asks the component for its description, and for its needs with a configuration (a JSON object).
    pub(super) async fn check(self, config: &str) -> Result<CheckedComponent> {
        if !serde_json::from_str::<serde_json::Value>(config).is_ok_and(|value| value.is_object()) {
            bail!("--config {config}: not a JSON object");
        }
        let Self { sandbox, plugin, component, digest, compiled_in } = self;
        let setup = Setup { config: config.to_owned(), ..Setup::named(component.name.as_str()) };
        let introduction = introduce(&sandbox, plugin.clone(), setup.clone()).await;
        let introduction = introduction.with_context(|| format!("cannot get the description of {}", component.name))?;
        Ok(CheckedComponent { sandbox, plugin, component, setup, introduction, digest, compiled_in })
    }
}

impl CheckedComponent {
    /// Compiles a component without the cache, to measure how long that takes.
    pub(super) async fn load(file: &Path, config: &str) -> Result<Self> {
        CompiledComponent::open(file, None).await?.check(config).await
    }

    /// Returns the needs of the component, or the reason why its configuration cannot work.
    pub(super) fn needs(&self) -> Result<&[Need]> {
        match &self.introduction.needs {
            Ok(needs) => Ok(needs),
            Err(why) => bail!("the plugin cannot work with this configuration: {}", plugins::plain(why)),
        }
    }

    /// Returns the fields of a sampler, none for another role. Fails if the component does not start without its
    /// grants.
    async fn fields(&self) -> Result<Option<Fields>> {
        if !self.plugin.has(Role::Sampler) {
            return Ok(None);
        }
        let worker = Worker::start(&self.sandbox, self.plugin.clone(), self.setup.clone()).await;
        let worker = worker.context("it does not start without the grants it needs")?;
        Ok(Some(Fields::check(&self.component.name, worker.fields()).context("its fields are refused")?))
    }

    /// Returns what the component says about itself, as annotations name it.
    pub(super) fn about(&self) -> [(&'static str, String); 3] {
        let about = &self.introduction.description;
        [
            ("title", self.component.name.clone()),
            ("version", plugins::plain(&about.version)),
            ("description", plugins::plain(&about.about)),
        ]
    }

    /// Returns the component's abilities, with its fields if they are known.
    fn can(&self, fields: &Result<Option<Fields>>) -> ComponentAbilities {
        let fields = fields.as_ref().ok().and_then(Option::as_ref);
        let shape = self.plugin.shape();
        let needs = self.introduction.needs.as_deref().unwrap_or_default();
        ComponentAbilities {
            roles: shape.roles.iter().map(ToString::to_string).collect(),
            fields: fields.iter().flat_map(|fields| names(fields)).map(str::to_owned).collect(),
            imports: shape.imports.iter().cloned().collect(),
            needs: needs.iter().map(describe_need).collect(),
        }
    }
}

/// Returns the component in a file, or the bundled plugin of that name if there is no such file.
fn named(file: &Path) -> Component {
    let bundled = file.to_str().filter(|_| !file.exists()).and_then(bundled).map(Component::from);
    bundled.unwrap_or_else(|| {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        Component { name: plugins::plain(&stem), origin: ComponentOrigin::File(file.to_owned()) }
    })
}

/// A component's abilities and needs.
struct ComponentAbilities {
    roles: BTreeSet<String>,
    fields: BTreeSet<String>,
    imports: BTreeSet<String>,
    needs: BTreeSet<String>,
}

impl ComponentAbilities {
    /// Returns everything that this component has and the other lacks, each with its kind.
    fn beyond<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'static str, &'a String)> {
        let roles = self.roles.difference(&other.roles).map(|role| ("role", role));
        let imports = self.imports.difference(&other.imports).map(|import| ("import", import));
        let needs = self.needs.difference(&other.needs).map(|need| ("need", need));
        let fields = self.fields.difference(&other.fields).map(|field| ("field", field));
        roles.chain(imports).chain(needs).chain(fields)
    }
}

pub(super) async fn check(args: CheckArgs, out: &mut Out) -> Result<()> {
    let checked = CheckedComponent::load(&args.file, &args.config).await?;
    let old = match &args.against {
        Some(old) => {
            let old = CheckedComponent::load(old, &args.config).await?;
            let fields = old.fields().await;
            Some((old, fields))
        }
        None => None,
    };
    let fields = checked.fields().await;
    if args.json {
        print_json(&checked, &fields, old.as_ref(), out)?;
    } else {
        print(&checked, &fields, out)?;
        if let Some(old) = &old {
            print_difference((&checked, &fields), (&old.0, &old.1), out)?;
        }
    }
    checked.needs()?;
    Ok(())
}

fn print_json(
    checked: &CheckedComponent,
    fields: &Result<Option<Fields>>,
    old: Option<&(CheckedComponent, Result<Option<Fields>>)>,
    out: &mut Out,
) -> Result<()> {
    let shape = checked.plugin.shape();
    let description = &checked.introduction.description;
    let ComponentAbilities { roles, needs, .. } = checked.can(fields);
    let names = fields.as_ref().ok().and_then(Option::as_ref).map(names);
    let mut report = json!({
        "name": checked.component.name, "about": plugins::plain(&description.about),
        "version": plugins::plain(&description.version), "sha256": checked.digest,
        "size_bytes": shape.size, "compile_seconds": checked.compiled_in.as_secs_f64(), "contract": "0.1",
        "roles": roles, "exports": shape.exports, "imports": shape.imports, "needs": needs, "fields": names,
    });
    if let (Some((old, old_fields)), Some(report)) = (old, report.as_object_mut()) {
        let (can, could) = (checked.can(fields), old.can(old_fields));
        let listed = |of: &ComponentAbilities, other: &ComponentAbilities| {
            of.beyond(other).map(|(kind, what)| format!("{kind} {what}")).collect::<Vec<_>>()
        };
        let difference = json!({ "added": listed(&can, &could), "removed": listed(&could, &can) });
        report.insert("against".to_owned(), difference);
    }
    say!(out, "{report:#}");
    Ok(())
}

fn print(checked: &CheckedComponent, fields: &Result<Option<Fields>>, out: &mut Out) -> Result<()> {
    let shape = checked.plugin.shape();
    let Introduction { description, needs } = &checked.introduction;
    let (about, version) = (plugins::plain(&description.about), plugins::plain(&description.version));
    let listed = |lines: Vec<String>| if lines.is_empty() { "nothing".to_owned() } else { lines.join("\n          ") };
    let ComponentAbilities { roles, needs: needed, .. } = checked.can(fields);
    say!(out, "{}  {version}  {about}", checked.component.name);
    say!(out, "contract  0.1, as {}", roles.into_iter().collect::<Vec<_>>().join(", "));
    say!(out, "size      {} bytes, compiled in {:.0?}", shape.size, checked.compiled_in);
    say!(out, "sha256    {}", checked.digest);
    say!(out, "exports   {}", listed(shape.exports.clone()));
    say!(out, "imports   {}", listed(shape.imports.clone()));
    match fields {
        Ok(None) => {}
        Ok(Some(fields)) => say!(out, "fields    {}", names(fields).join(", ")),
        Err(error) => say!(out, "fields    unknown: {}", text::error(&**error)),
    }
    say!(out, "needs     {}", listed(needed.iter().cloned().collect()));
    if !needed.is_empty() {
        let needs = needs.as_deref().unwrap_or_default();
        say!(out, "\nTo grant that, add to the configuration:\n\n{}", grants_toml(&checked.component.name, needs));
    }
    if checked.plugin.has(Role::Sampler) {
        let name = &checked.component.name;
        say!(
            out,
            "\nIf it discovers no instances, or another plugin owns them, name the ones to sample:\n\n\
             [[instances]]\nid = \"host\"\nsamplers = [{name:?}]"
        );
    }
    Ok(())
}

type ComponentWithFields<'a> = (&'a CheckedComponent, &'a Result<Option<Fields>>);

fn print_difference(
    (new, fields): ComponentWithFields<'_>,
    (old, old_fields): ComponentWithFields<'_>,
    out: &mut Out,
) -> Result<()> {
    let (can, could) = (new.can(fields), old.can(old_fields));
    let version = |checked: &CheckedComponent| plugins::plain(&checked.introduction.description.version);
    say!(out, "\nagainst {} {}", old.component.name, version(old));
    for (kind, what) in can.beyond(&could) {
        say!(out, "+ {kind:<8}{what}");
    }
    for (kind, what) in could.beyond(&can) {
        say!(out, "- {kind:<8}{what}");
    }
    // A new field is no new ability.
    if can.beyond(&could).all(|(kind, _)| kind == "field") {
        say!(out, "It can do nothing that the older version could not.");
    }
    Ok(())
}

fn names(fields: &Fields) -> Vec<&str> {
    fields.schema.fields().iter().map(|field| &*field.name).collect()
}
