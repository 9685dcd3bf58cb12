//! Finds mistakes in the configuration of deliveries, without sending anything.

use crate::access::AccessConfig;
use crate::alerts::targets::{ListedTargets, targets};
use crate::client::Client;
use crate::options::DeliveryOptions;
use std::path::Path;

/// Reads all files that a configuration names. Returns what is wrong with them, a sentence each.
pub fn check(options: &DeliveryOptions) -> Vec<String> {
    let mut wrong = Vec::new();
    for (nth, alertmanager) in options.alerting.alertmanagers.iter().enumerate() {
        wrong.extend(access(&format!("alerting.alertmanagers[{nth}]"), &alertmanager.access));
    }
    for (nth, webhook) in options.alerting.webhooks.iter().enumerate() {
        let key = format!("alerting.webhooks[{nth}]");
        wrong.extend(webhook.url_file.as_ref().and_then(|file| unreadable(&key, file)));
        wrong.extend(access(&key, &webhook.access()));
    }
    for destination in &options.destinations {
        let (key, remote) = (format!("{} {}", destination.protocol.key(), destination.name()), &destination.config);
        wrong.extend(remote.url_file.as_ref().and_then(|file| unreadable(&key, file)));
        wrong.extend(access(&key, &remote.access()));
    }
    if let Some(database) = &options.read_through {
        wrong.extend(access("read_through", &database.access()));
    }
    wrong.extend(
        targets(&options.alerting, &mut ListedTargets::new())
            .1
            .into_iter()
            .map(|(file, why)| format!("alerting.alertmanager_files: {file}: {why}")),
    );
    wrong
}

fn access(key: &str, access: &AccessConfig) -> Vec<String> {
    let files = access.bearer_token_file.iter().chain(&access.password_file);
    let mut wrong: Vec<String> = files.filter_map(|file| unreadable(key, file)).collect();
    if let Err(error) = Client::new(access) {
        wrong.push(format!("{key}: {error:#}"));
    }
    wrong
}

fn unreadable(key: &str, file: &Path) -> Option<String> {
    let error = std::fs::read_to_string(file).err()?;
    Some(format!("{key}: cannot read {}: {}", file.display(), dropsonde_model::text::os_error(&error)))
}
