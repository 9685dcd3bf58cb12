//! The sampler `containers`: an instance is a container of Docker or Podman. Without an engine it is a cgroup of a
//! container, or of a systemd unit.
//!
//! # Layout
//!
//! * `api`: answers of Docker's API. `cgroup`, `names`: cgroups, and which of them are containers.
//! * `row`: the fields.

mod api;
mod cgroup;
mod names;
mod row;

use api::{ContainerStats, InspectedContainer, ListedContainer};
use cgroup::{Cgroup, CgroupVersion};
use dropsonde_guest::clock::Instant;
use dropsonde_guest::files::FileError;
use dropsonde_guest::http::{HttpError, Request, Response, send_all};
use dropsonde_guest::log::Troubles;
use dropsonde_guest::{Config, Failure, Field, Instance, Need, Reading, Readings, Sampler, Tick, export_sampler};
use row::{Before, FIELDS, Usage};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest request to the engine.
const TIMEOUT: Duration = Duration::from_secs(4);

/// The host's name of the socket.
const ENGINE: &str = "http://engine.unix";

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ContainersConfig {
    /// The engine's Unix socket. Empty: only cgroups are read.
    socket: String,
    /// The version of the engine's API, such as `v1.41`.
    api: String,
    /// Patterns of systemd units that are instances where cgroups are read.
    units: Vec<String>,
}

impl Default for ContainersConfig {
    fn default() -> Self {
        Self { socket: "/run/docker.sock".to_owned(), api: "v1.41".to_owned(), units: Vec::new() }
    }
}

#[derive(Debug, Default)]
struct Containers {
    config: ContainersConfig,
    found: Found,
    /// Whether the engine has answered.
    has_engine: bool,
    /// The CPU time of the reading before, by instance.
    before: BTreeMap<String, Before>,
    /// When the plugin began: the start of its own clock.
    began: Option<Instant>,
    troubles: Troubles,
}

/// The usage of an instance, and when it was read.
#[derive(Debug)]
struct TimedUsage {
    usage: Usage,
    /// After the tick.
    offset_ms: i32,
    /// Only differences between readings of one instance have a meaning.
    at_seconds: f64,
}

/// The instances, by id.
#[derive(Debug)]
enum Found {
    Containers(BTreeMap<String, (ListedContainer, InspectedContainer)>),
    Cgroups(CgroupVersion, BTreeMap<String, Cgroup>),
}

impl Default for Found {
    fn default() -> Self {
        Self::Containers(BTreeMap::new())
    }
}

impl Sampler for Containers {
    fn needs(config: &Config) -> Result<Vec<Need>, Failure> {
        let ContainersConfig { socket, api, .. } = config.parse()?;
        let cgroups = [Need::read("/sys/fs/cgroup"), Need::read("/sys/fs/cgroup/**")];
        let engine = (!socket.is_empty()).then(|| {
            Need::http(format!(
                "GET unix:{socket} as engine /{api}/containers/json /{api}/containers/*/json /{api}/containers/*/stats"
            ))
        });
        Ok(engine.into_iter().chain(cgroups).collect())
    }

    fn init(&mut self, config: &Config) -> Result<(), Failure> {
        self.config = config.parse()?;
        self.began = Some(Instant::now());
        Ok(())
    }

    fn fields(&self) -> Vec<Field> {
        row::fields()
    }

    fn discover(&mut self, _: &Tick) -> Result<Vec<Instance>, Failure> {
        self.look()?;
        Ok(match &self.found {
            Found::Containers(containers) => containers
                .iter()
                .map(|(id, (listed, _))| Instance { id: id.clone(), labels: listed.instance_labels() })
                .collect(),
            Found::Cgroups(_, cgroups) => cgroups
                .iter()
                .map(|(id, cgroup)| Instance::new(id).label("name", id).label("engine", cgroup.name.engine))
                .collect(),
        })
    }

    fn sample(&mut self, _: &str) -> Result<Reading, Failure> {
        Err(Failure::unavailable("containers are read together"))
    }

    fn sample_all(&mut self, tick: &Tick, instances: &[String]) -> Result<Readings, Failure> {
        // A new instance of the plugin has to look again.
        if matches!(&self.found, Found::Containers(containers) if containers.is_empty()) {
            self.look()?;
        }
        let usages: Vec<Result<TimedUsage, Failure>> = match &self.found {
            Found::Containers(containers) => self.ask_for_all(containers, tick, instances),
            Found::Cgroups(version, cgroups) => instances
                .iter()
                .map(|id| {
                    let cgroup = cgroups.get(id).ok_or(Failure::Gone)?;
                    let usage = cgroup.usage(*version).map_err(|error| match error {
                        FileError::NotFound(_) => Failure::Gone,
                        other => other.into(),
                    })?;
                    let at_seconds = self.began.map_or(0.0, |began| began.elapsed().as_secs_f64());
                    Ok(TimedUsage { usage, offset_ms: 0, at_seconds })
                })
                .collect(),
        };
        let mut readings = Readings::empty(instances.len(), FIELDS);
        for (row, (id, usage)) in instances.iter().zip(usages).enumerate() {
            match usage {
                Ok(TimedUsage { usage, offset_ms, at_seconds }) => {
                    let before = self.before.get(id).copied();
                    if let Some(offset) = readings.offsets_ms.get_mut(row) {
                        *offset = offset_ms;
                    }
                    if let Some(values) = readings.values.get_mut(row * FIELDS..(row + 1) * FIELDS) {
                        values.copy_from_slice(&usage.row(before, at_seconds));
                    }
                    self.before.insert(id.clone(), Before { cpu_seconds: usage.cpu_seconds, at_seconds });
                }
                Err(failure) => readings.failures.push((row as u32, failure)),
            }
        }
        self.before.retain(|id, _| instances.contains(id));
        Ok(readings)
    }
}

impl Containers {
    /// Looks for containers: by the engine, or else among the cgroups.
    fn look(&mut self) -> Result<(), Failure> {
        let listed = if self.config.socket.is_empty() { Err(None) } else { self.list().map_err(Some) };
        match listed {
            Ok(containers) => {
                self.troubles.report(&self.config.socket, None);
                self.has_engine = true;
                self.found = Found::Containers(containers);
            }
            // An engine that answered before is only restarting: its containers would get other names.
            Err(Some(why)) if self.has_engine => return Err(Failure::unavailable(why)),
            Err(why) => {
                let version = cgroup::version()?;
                let cgroups = cgroup::find(version, &self.config.units)?;
                let why = why.map(|why| format!("{why}; reading cgroups instead"));
                self.troubles.report(&self.config.socket, why);
                let named = cgroups.into_iter().map(|cgroup| (cgroup.name.id.clone(), cgroup));
                self.found = Found::Cgroups(version, named.collect());
            }
        }
        Ok(())
    }

    /// Asks the engine for its running containers, and for what does not change while they run.
    fn list(&self) -> Result<BTreeMap<String, (ListedContainer, InspectedContainer)>, String> {
        let response = self.get("json").send(TIMEOUT).map_err(|error| error.to_string())?;
        let listed: Vec<ListedContainer> = parse(Ok(response))?;
        let requests: Vec<Request> = listed.iter().map(|listed| self.get(&format!("{}/json", listed.id))).collect();
        let inspected = send_all(&requests, TIMEOUT);
        let named = listed.into_iter().zip(inspected).map(|(listed, inspected)| {
            // What is not known is left out of the rows.
            (listed.name(), (listed, parse(inspected).unwrap_or_default()))
        });
        Ok(named.collect())
    }

    fn ask_for_all(
        &self,
        containers: &BTreeMap<String, (ListedContainer, InspectedContainer)>,
        tick: &Tick,
        instances: &[String],
    ) -> Vec<Result<TimedUsage, Failure>> {
        let known: Vec<_> = instances.iter().map(|id| containers.get(id)).collect();
        let requests: Vec<Request> = known
            .iter()
            .flatten()
            .map(|(listed, _)| self.get(&format!("{}/stats?stream=false&one-shot=true", listed.id)))
            .collect();
        let mut responses = send_all(&requests, TIMEOUT).into_iter();
        let usage = |container: Option<&(ListedContainer, InspectedContainer)>| {
            let (_, inspected) = container.ok_or(Failure::Gone)?;
            match responses.next() {
                // It ended since the containers were listed.
                Some(Ok(Response { status: 404, .. })) => Err(Failure::Gone),
                Some(response) => {
                    let stats: ContainerStats = parse(response).map_err(Failure::unavailable)?;
                    // How long the engine takes to answer varies: the time of its reading counts.
                    let offset_ms = stats.offset_ms(tick.at_ms).unwrap_or(0);
                    let at_seconds = (tick.at_ms as f64 + f64::from(offset_ms)) / 1e3;
                    Ok(TimedUsage { usage: stats.usage(inspected, tick.at_ms), offset_ms, at_seconds })
                }
                None => Err(Failure::unavailable("the engine was not asked")),
            }
        };
        known.into_iter().map(usage).collect()
    }

    fn get(&self, path: &str) -> Request {
        Request::get(format!("{ENGINE}/{}/containers/{path}", self.config.api))
    }
}

/// Parses an answer of the engine.
fn parse<T: DeserializeOwned>(response: Result<Response, HttpError>) -> Result<T, String> {
    let response = response.map_err(|error| error.to_string())?;
    if response.status != 200 {
        return Err(format!("the engine answered with status {}: {}", response.status, response.text().trim()));
    }
    response.json().map_err(|failure| failure.reason().to_owned())
}

export_sampler!(Containers);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_asks_for_nothing_but_reading_containers() {
        let needs = Containers::needs(&Config::from_json("{}")).unwrap();
        let engine = "GET unix:/run/docker.sock as engine /v1.41/containers/json \
                      /v1.41/containers/*/json /v1.41/containers/*/stats";
        assert_eq!(needs[0], Need::http(engine));
        let none = Containers::needs(&Config::from_json("{\"socket\": \"\"}")).unwrap();
        assert!(none.iter().all(|need| matches!(need, Need::Read(_))));
    }
}
