//! Sends alerts to Alertmanagers, and as messages to webhooks.
//!
//! * [`options`]: the servers. `targets`: where Alertmanagers are. `alertmanager`: one of them.
//! * `webhook`: one webhook: the alerts that it knows, and messages about those that it does not.
//! * `report`: counts requests. `payload`: alerts as other servers read them.

mod alertmanager;
pub(crate) mod options;
mod payload;
mod report;
pub(crate) mod targets;
mod webhook;

use alertmanager::Alertmanager;
use dropsonde_engine::Engine;
use dropsonde_model::text;
use options::AlertingOptions;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use targets::{ListedTargets, Target, targets};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use webhook::Webhook;

/// The time between two looks at the files that list Alertmanagers.
const LOOK: Duration = Duration::from_secs(5);

/// The longest wait for webhooks that are told something at this moment.
const PATIENCE: Duration = Duration::from_secs(5);

/// Servers that are told of alerts, until it is dropped.
#[derive(Debug)]
pub(crate) struct AlertDelivery {
    pub(crate) options: AlertingOptions,
    webhooks: JoinSet<()>,
    _alertmanagers: JoinSet<()>,
    stopping: watch::Sender<bool>,
}

/// The names of the Alertmanagers that are told, or were by an earlier configuration.
pub(crate) type AlertmanagerNames = Arc<Mutex<BTreeSet<String>>>;

/// The Alertmanagers that are told.
struct Alertmanagers {
    engine: Arc<Engine>,
    options: AlertingOptions,
    tasks: JoinSet<()>,
    listed: ListedTargets,
    /// By URL.
    running: BTreeMap<String, AbortHandle>,
    /// The names of all that were told before, also by an earlier configuration.
    names: AlertmanagerNames,
    /// The mistakes in files that list Alertmanagers, by file.
    failures: BTreeMap<String, String>,
}

impl AlertDelivery {
    /// Starts to tell servers. `data_dir`: the folder for the alerts that webhooks know.
    pub(crate) fn start(
        engine: &Arc<Engine>,
        options: &AlertingOptions,
        data_dir: Option<&Path>,
        names: AlertmanagerNames,
    ) -> Self {
        let (mut webhooks, mut tasks) = (JoinSet::new(), JoinSet::new());
        let stopping = watch::Sender::new(false);
        for config in &options.webhooks {
            let (engine, config, data) = (engine.clone(), config.clone(), data_dir.map(Path::to_owned));
            let mut stopping = stopping.subscribe();
            webhooks.spawn(async move {
                let name = config.name();
                let shared = engine.clone();
                let made = move || Webhook::new(engine, config, data.as_deref());
                match tokio::task::spawn_blocking(made).await {
                    Ok(Ok(webhook)) => webhook.run(stopping).await,
                    Ok(Err(error)) => tokio::select! {
                        () = fails_always(&shared, &name, &error) => {}
                        _ = stopping.wait_for(|&stopping| stopping) => {}
                    },
                    Err(_) => {}
                }
            });
        }
        let alertmanagers = Alertmanagers {
            engine: engine.clone(),
            options: options.clone(),
            tasks: JoinSet::new(),
            listed: ListedTargets::new(),
            running: BTreeMap::new(),
            names,
            failures: BTreeMap::new(),
        };
        tasks.spawn(alertmanagers.run());
        Self { options: options.clone(), webhooks, _alertmanagers: tasks, stopping }
    }

    /// Stops, and forgets the webhooks that are not among those of `next`.
    pub(crate) async fn stop(mut self, engine: &Engine, next: &AlertingOptions) {
        // What they are told at this moment is in their files before others read them.
        self.stopping.send_replace(true);
        let all_end = async { while self.webhooks.join_next().await.is_some() {} };
        if tokio::time::timeout(PATIENCE, all_end).await.is_err() {
            tracing::warn!("a webhook does not answer; it may be told of alerts twice");
        }
        let names = |options: &AlertingOptions| -> Vec<String> {
            options.webhooks.iter().map(|webhook| webhook.name()).collect()
        };
        let now = names(next);
        for name in names(&self.options).into_iter().filter(|name| !now.contains(name)) {
            engine.remotes.forget(&name);
            engine.metrics.remotes.forget(&name);
        }
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
