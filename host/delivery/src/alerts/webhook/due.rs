//! Compares the alerts of a group with those that a webhook knows.

use super::known::KnownGroup;
use super::{Alerts, GroupAlerts};
use crate::alerts::options::WebhookConfig;
use crate::alerts::payload::SentAlert;
use std::sync::Arc;

/// The times that a webhook configures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    wait_ms: i64,
    interval_ms: i64,
    repeat_ms: i64,
    sends_resolved: bool,
}

/// The message about a group, and whether it is time for it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Due {
    /// The alerts of the message: firing ones first.
    pub(super) alerts: Vec<Arc<SentAlert>>,
    /// The alerts that it will believe to fire.
    pub(super) firing: Alerts,
    /// Whether it is told now.
    pub(super) is_now: bool,
    /// The number of alerts that it was not told of.
    pub(super) untold: usize,
}

impl Timing {
    pub(super) fn of(config: &WebhookConfig) -> Self {
        Self {
            wait_ms: config.group_wait.as_ms(),
            interval_ms: config.group_interval.as_ms(),
            repeat_ms: config.repeat_interval.as_ms(),
            sends_resolved: config.send_resolved,
        }
    }
}

/// Compares what a webhook knows of a group with its alerts. `since_ms`: since when a group waits that it knows nothing
/// of. `is_complete`: whether an alert that is not there is over.
pub(super) fn due(
    known: Option<&KnownGroup>,
    alerts: Option<&GroupAlerts>,
    timing: &Timing,
    since_ms: i64,
    now_ms: i64,
    is_complete: bool,
) -> Due {
    let (nothing, no_alerts) = (KnownGroup::default(), GroupAlerts::default());
    let believed = &known.unwrap_or(&nothing).firing;
    let GroupAlerts { alerts, withheld } = alerts.unwrap_or(&no_alerts);
    let mut firing = Alerts::new();
    let mut resolved: Vec<Arc<SentAlert>> = Vec::new();
    let mut untold = 0;
    for (key, alert) in alerts.iter().filter(|(_, alert)| alert.resolved_ms.is_none()) {
        // An alert that was resolved and fires again is another one.
        let is_known = believed.get(key).is_some_and(|known| known.starts_ms == alert.starts_ms);
        untold += usize::from(!is_known);
        firing.insert(key.clone(), alert.clone());
    }
    for (key, before) in believed {
        match alerts.get(key) {
            Some(now) if now.resolved_ms.is_none() => {}
            Some(over) => resolved.push(over.clone()),
            // It hears of its end when it may hear of it again.
            None if withheld.contains(key) => drop(firing.insert(key.clone(), before.clone())),
            // Its rule is gone, or it was resolved long ago.
            None if is_complete => {
                resolved.push(Arc::new(SentAlert { resolved_ms: Some(now_ms), ..(**before).clone() }))
            }
            // Its rule may come back.
            None => drop(firing.insert(key.clone(), before.clone())),
        }
    }
    let told = timing.sends_resolved && !resolved.is_empty();
    if timing.sends_resolved {
        untold += resolved.len();
    }
    let is_now = match known {
        // A clock that was set back must not silence anybody.
        None => !firing.is_empty() && !(0..timing.wait_ms).contains(&now_ms.saturating_sub(since_ms)),
        Some(known) => {
            let passed_ms = now_ms.saturating_sub(known.told_ms);
            let is_after = |wait_ms: i64| !(0..wait_ms).contains(&passed_ms);
            let is_over = firing.is_empty() && !resolved.is_empty();
            let is_news = untold > 0 && (told || !firing.is_empty());
            let is_repeat = firing.keys().any(|key| !withheld.contains(key)) && is_after(timing.repeat_ms);
            (is_news && is_after(timing.interval_ms)) || is_repeat || (is_over && !timing.sends_resolved)
        }
    };
    let told_of = firing.iter().filter(|(key, _)| !withheld.contains(*key));
    let mut message: Vec<Arc<SentAlert>> = told_of.map(|(_, alert)| alert.clone()).collect();
    if timing.sends_resolved {
        message.extend(resolved);
    }
    Due { alerts: message, firing, is_now, untold }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    const TIMING: Timing = Timing { wait_ms: 5_000, interval_ms: 60_000, repeat_ms: 3_600_000, sends_resolved: true };

    fn alert(id: &str, starts_ms: i64, resolved_ms: Option<i64>) -> SentAlert {
        SentAlert {
            labels: BTreeMap::from([("id".to_owned(), id.to_owned())]),
            annotations: BTreeMap::new(),
            starts_ms,
            resolved_ms,
            url: String::new(),
        }
    }

    fn alerts(all: &[SentAlert]) -> GroupAlerts {
        let alerts = all.iter().map(|alert| (alert.key().into(), Arc::new(alert.clone()))).collect();
        GroupAlerts { alerts, ..GroupAlerts::default() }
    }

    fn known(firing: &[SentAlert], told_ms: i64) -> KnownGroup {
        KnownGroup { firing: alerts(firing).alerts, told_ms, notices: 1 }
    }

    #[test]
    fn an_alert_that_is_silenced_is_neither_repeated_alone_nor_resolved() {
        let group = known(&[alert("a", 0, None)], 0);
        let withheld = BTreeSet::from([Arc::from(alert("a", 0, None).key())]);
        let silenced = GroupAlerts { withheld: withheld.clone(), ..GroupAlerts::default() };
        let now = due(Some(&group), Some(&silenced), &TIMING, 0, 70_000, true);
        assert!(!now.is_now && now.firing.len() == 1, "{now:?}");
        // Another alert of the group is told of without it.
        let other = GroupAlerts { withheld, ..alerts(&[alert("b", 5, None)]) };
        let now = due(Some(&group), Some(&other), &TIMING, 0, 70_000, true);
        assert!(now.is_now && now.alerts == [Arc::new(alert("b", 5, None))] && now.firing.len() == 2, "{now:?}");
        // After its silence, the end of an alert is told.
        assert_eq!(told(Some(&group), &[alert("a", 0, Some(9))], 70_000), Some(vec!["resolved"]));
    }

    /// Returns the states in the message, if one is sent now.
    fn told(known: Option<&KnownGroup>, now: &[SentAlert], now_ms: i64) -> Option<Vec<&'static str>> {
        let due = due(known, Some(&alerts(now)), &TIMING, 0, now_ms, true);
        due.is_now.then(|| due.alerts.iter().map(|alert| alert.status()).collect())
    }

    #[test]
    fn the_first_message_of_a_group_waits_for_more_alerts() {
        let firing = [alert("a", 0, None)];
        assert_eq!(told(None, &firing, 4_999), None);
        assert_eq!(told(None, &firing, 5_000), Some(vec!["firing"]));
        assert_eq!(told(None, &[alert("a", 0, Some(100))], 5_000), None, "it came and went");
    }

    #[test]
    fn nothing_is_told_twice_until_it_is_repeated() {
        let group = known(&[alert("a", 0, None)], 10_000);
        assert_eq!(told(Some(&group), &[alert("a", 0, None)], 100_000), None);
        assert_eq!(told(Some(&group), &[alert("a", 0, None)], 3_609_999), None);
        assert_eq!(told(Some(&group), &[alert("a", 0, None)], 3_610_000), Some(vec!["firing"]));
    }

    #[test]
    fn changes_are_told_once_an_interval() {
        let group = known(&[alert("a", 0, None)], 10_000);
        let two = [alert("a", 0, None), alert("b", 20_000, None)];
        assert_eq!(told(Some(&group), &two, 69_999), None);
        assert_eq!(told(Some(&group), &two, 70_000), Some(vec!["firing", "firing"]));
        assert_eq!(told(Some(&group), &[alert("a", 0, Some(30_000))], 70_000), Some(vec!["resolved"]));
        let again = [alert("a", 40_000, None)];
        assert_eq!(told(Some(&group), &again, 70_000), Some(vec!["firing"]), "it was resolved in between");
    }

    #[test]
    fn an_alert_that_is_gone_is_resolved_once_all_rules_are_read() {
        let group = known(&[alert("a", 0, None)], 0);
        let due = |is_complete| due(Some(&group), None, &TIMING, 0, 70_000, is_complete);
        assert!(!due(false).is_now && due(false).firing.len() == 1);
        assert!(due(true).is_now && due(true).firing.is_empty());
        assert_eq!(due(true).alerts[0].status(), "resolved");
    }

    #[test]
    fn a_webhook_that_wants_no_resolved_alerts_is_not_told_of_them_and_told_when_they_fire_again() {
        let timing = Timing { sends_resolved: false, ..TIMING };
        let group = known(&[alert("a", 0, None)], 0);
        let over = due(Some(&group), Some(&alerts(&[alert("a", 0, Some(9))])), &timing, 0, 70_000, true);
        assert!(over.alerts.is_empty() && over.firing.is_empty());
        let again = due(Some(&group), Some(&alerts(&[alert("a", 50, None)])), &timing, 0, 70_000, true);
        assert!(again.is_now);
    }

    #[test]
    fn a_clock_that_was_set_back_silences_nobody() {
        let group = known(&[alert("a", 0, None)], 1_000_000);
        assert_eq!(told(Some(&group), &[alert("a", 0, Some(5))], 500), Some(vec!["resolved"]));
    }
}
