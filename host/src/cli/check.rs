use super::COMPILE;
use super::CheckArgs;
use crate::host::OWN_BINARY;
use crate::plugins::{self, BUNDLED, Component, Fields, Origin, grants_toml};
use anyhow::{Context, Result, bail};
use dropsonde_sandbox::{Introduction, Plugin, Sandbox, Setup, introduce};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A component looked into, before it runs.
pub(super) struct Checked {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) plugin: Plugin,
    pub(super) component: Component,
    pub(super) setup: Setup,
    pub(super) introduction: Introduction,
    /// sha256, in hex.
    digest: String,
    pub(super) compiled_in: Duration,
}

impl Checked {
    pub(super) async fn load(file: &Path, config: &str) -> Result<Self> {
        if !serde_json::from_str::<serde_json::Value>(config).is_ok_and(|value| value.is_object()) {
            bail!("--config {config}: it is no JSON object");
        }
        let component = named(file);
        let shown = file.display();
        let bytes = component.bytes().with_context(|| format!("cannot read {shown}"))?;
        // A stranger's file may be made to keep a compiler busy.
        let sandbox = Arc::new(Sandbox::new()?.with_compiler(OWN_BINARY, COMPILE, None)?);
        let digest = plugins::digest(&bytes);
        let started = Instant::now();
        let loading = sandbox.clone();
        let plugin = tokio::task::spawn_blocking(move || loading.load(&bytes)).await?;
        let compiled_in = started.elapsed();
        let plugin = plugin.with_context(|| format!("{shown} is no plugin for this host"))?;
        let setup = Setup { config: config.to_owned(), ..Setup::named(component.name.as_str()) };
        let introduction = introduce(&sandbox, plugin.clone(), setup.clone()).await;
        let introduction = introduction.with_context(|| format!("{shown} does not introduce itself"))?;
        Ok(Self { sandbox, plugin, component, setup, introduction, digest, compiled_in })
    }
}

/// A file, or a bundled plugin when there is no such file.
fn named(file: &Path) -> Component {
    let bundled = BUNDLED.iter().find(|bundled| !file.exists() && file.as_os_str() == bundled.name);
    match bundled {
        Some(bundled) => Component { name: bundled.name.to_owned(), origin: Origin::Bundled },
        None => {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy();
            Component { name: plugins::plain(&stem), origin: Origin::File(file.to_owned()) }
        }
    }
}

pub(super) async fn check(args: CheckArgs) -> Result<()> {
    let checked = Checked::load(&args.file, &args.config).await?;
    let shape = checked.plugin.shape();
    let Introduction { description, needs } = &checked.introduction;
    let (about, version) = (plugins::plain(&description.about), plugins::plain(&description.version));
    let roles: Vec<_> = shape.roles.iter().map(|role| role.as_str()).collect();
    let needed = needs.as_ref().map(Vec::as_slice).unwrap_or_default();
    let shown: Vec<_> = needed.iter().map(plugins::describe_need).collect();
    if args.json {
        let report = json!({
            "name": checked.component.name, "about": about, "version": version, "sha256": checked.digest,
            "size_bytes": shape.size, "compile_seconds": checked.compiled_in.as_secs_f64(), "contract": "0.1",
            "roles": roles, "exports": shape.exports, "imports": shape.imports, "needs": shown,
        });
        println!("{report:#}");
    } else {
        println!("{}  {version}  {about}", checked.component.name);
        println!("contract  0.1, as {}", roles.join(", "));
        println!("size      {} bytes, compiled in {:.0?}", shape.size, checked.compiled_in);
        println!("sha256    {}", checked.digest);
        println!("exports   {}", shape.exports.join("\n          "));
        println!(
            "imports   {}",
            if shape.imports.is_empty() { "nothing".to_owned() } else { shape.imports.join("\n          ") }
        );
        if shown.is_empty() {
            println!("needs     nothing");
        } else {
            println!("needs     {}", shown.join("\n          "));
            println!("\nTo grant that, add to the configuration:\n\n{}", grants_toml(&checked.component.name, needed));
        }
    }
    match needs {
        Ok(_) => Ok(()),
        Err(why) => bail!("with this configuration it cannot work: {}", plugins::plain(why)),
    }
}

/// The fields of a started sampler, or why they are not taken.
pub(super) fn fields(name: &str, worker: &dropsonde_sandbox::Worker) -> Result<Fields> {
    Fields::check(name, worker.fields()).context("its fields are not taken")
}
