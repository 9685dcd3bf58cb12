use crate::alertmanager::Alertmanager;
use crate::options::DeliveryOptions;
use crate::targets::{ListedTargets, Target, targets};
use crate::webhook::Webhook;
use dropsonde_engine::Engine;
use dropsonde_model::text;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::{AbortHandle, JoinSet};

/// The time between two looks at the files that list Alertmanagers.
const LOOK: Duration = Duration::from_secs(5);

/// Sends alerts until it is dropped.
#[derive(Debug)]
pub struct Deliveries {
    engine: Arc<Engine>,
    running: Mutex<Option<Running>>,
    /// The names of the Alertmanagers that are told.
    alertmanagers: Arc<StdMutex<BTreeSet<String>>>,
}

#[derive(Debug)]
struct Running {
    options: DeliveryOptions,
    tasks: JoinSet<()>,
}

/// The Alertmanagers that are told.
struct Alertmanagers {
    engine: Arc<Engine>,
    options: DeliveryOptions,
    tasks: JoinSet<()>,
    listed: ListedTargets,
    /// By URL.
    running: BTreeMap<String, AbortHandle>,
    /// The names of all that were told before, also by an earlier configuration.
    names: Arc<StdMutex<BTreeSet<String>>>,
    /// The mistakes in files that list Alertmanagers, by file.
    failures: BTreeMap<String, String>,
}

impl Deliveries {
    /// Starts sending.
    pub async fn start(engine: Arc<Engine>, options: DeliveryOptions) -> Self {
        let deliveries = Self { engine, running: Mutex::new(None), alertmanagers: Arc::default() };
        deliveries.reconfigure(options).await;
        deliveries
    }

    /// Sends to others from now on. Who is told by both configurations is told nothing twice.
    pub async fn reconfigure(&self, options: DeliveryOptions) {
        let mut running = self.running.lock().await;
        if running.as_ref().is_some_and(|running| running.options == options) {
            return;
        }
        let mut before = running.take();
        if let Some(before) = &mut before {
            // Their files are complete before others read them.
            before.tasks.shutdown().await;
        }
        let mut tasks = JoinSet::new();
        let names = |options: &DeliveryOptions| -> Vec<String> {
            options.webhooks.iter().map(|webhook| webhook.name()).collect()
        };
        let now = names(&options);
        let gone = before.iter().flat_map(|before| names(&before.options)).filter(|name| !now.contains(name));
        for name in gone {
            self.engine.remotes.forget(&name);
            self.engine.metrics.remotes.forget(&name);
        }
        for config in &options.webhooks {
            let (engine, config, data) = (self.engine.clone(), config.clone(), options.data_dir.clone());
            tasks.spawn(async move {
                let name = config.name();
                let shared = engine.clone();
                let made = move || Webhook::new(engine, config, data.as_deref());
                match tokio::task::spawn_blocking(made).await {
                    Ok(Ok(webhook)) => webhook.run().await,
                    Ok(Err(error)) => fails_always(&shared, &name, &error).await,
                    Err(_) => {}
                }
            });
        }
        let alertmanagers = Alertmanagers {
            engine: self.engine.clone(),
            options: options.clone(),
            tasks: JoinSet::new(),
            listed: ListedTargets::new(),
            running: BTreeMap::new(),
            names: self.alertmanagers.clone(),
            failures: BTreeMap::new(),
        };
        tasks.spawn(alertmanagers.run());
        *running = Some(Running { options, tasks });
    }
}

/// Notes that a server cannot be sent to, as long as its configuration is in force.
async fn fails_always(engine: &Engine, name: &str, error: &anyhow::Error) {
    loop {
        engine.remotes.fails(name, &text::error(&**error), engine.clock.now_ms());
        tokio::time::sleep(LOOK).await;
    }
}

impl Alertmanagers {
    /// Follows the files that list Alertmanagers.
    async fn run(mut self) {
        loop {
            let (options, mut listed) = (self.options.clone(), std::mem::take(&mut self.listed));
            let found = tokio::task::spawn_blocking(move || (targets(&options, &mut listed), listed)).await;
            if let Ok(((found, failures), listed)) = found {
                self.listed = listed;
                self.follow(found);
                self.log(failures);
            }
            if self.options.alertmanager_files.is_empty() {
                // They do not change.
                while self.tasks.join_next().await.is_some() {}
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn follow(&mut self, found: Vec<Target>) {
        self.running.retain(|url, task| {
            let stays = found.iter().any(|found| found.url == *url);
            if !stays {
                task.abort();
            }
            stays
        });
        let names: BTreeSet<String> = found.iter().map(|target| target.name.clone()).collect();
        let mut told = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in told.difference(&names) {
            self.engine.remotes.forget(gone);
            self.engine.metrics.remotes.forget(gone);
        }
        *told = names;
        drop(told);
        for target in found {
            if self.running.contains_key(&target.url) {
                continue;
            }
            let (engine, own, resend_delay) = (self.engine.clone(), target.clone(), self.options.resend_delay.get());
            let task = self.tasks.spawn(async move {
                let name = own.name.clone();
                match Alertmanager::new(engine.clone(), own, resend_delay) {
                    Ok(alertmanager) => alertmanager.run().await,
                    Err(error) => fails_always(&engine, &name, &error).await,
                }
            });
            self.running.insert(target.url, task);
        }
    }

    fn log(&mut self, failures: BTreeMap<String, String>) {
        for (file, why) in &failures {
            if self.failures.get(file) != Some(why) {
                tracing::error!(file, error = why, "cannot read a file that lists Alertmanagers");
            }
        }
        self.failures = failures;
    }
}
