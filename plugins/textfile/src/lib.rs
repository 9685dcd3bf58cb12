//! The sampler `textfile`: an instance is a folder of `*.prom` files, which programs write in Prometheus' text format.

use dropsonde_guest::log::Troubles;
use dropsonde_guest::{
    Aggregation, Config, Failure, Field, Instance, Need, Reading, Readings, Sampler, Tick, export_sampler, files,
};
use dropsonde_openmetrics::ExpositionFormat;
use dropsonde_openmetrics::read::read;
use mapping::{Mapping, MappingConfig, Scrape, ScrapedSeries, all_fields};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// Most bytes of one file.
const LARGEST: usize = 4 << 20;

/// The fields before those of mappings.
const OWN_FIELDS: usize = 3;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TextfileConfig {
    folders: Vec<FolderConfig>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FolderConfig {
    id: String,
    path: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    mapping: MappingConfig,
}

#[derive(Debug, Default)]
struct Textfile {
    folders: BTreeMap<String, Folder>,
    fields: Vec<Field>,
    /// The position of each field.
    positions: HashMap<String, usize>,
    troubles: Troubles,
}

#[derive(Debug)]
struct Folder {
    config: FolderConfig,
    mapping: Rc<Mapping>,
    series: ScrapedSeries,
}

/// The files of a folder.
struct ReadFolder {
    files: usize,
    /// Why files were left out.
    failed: Vec<String>,
    /// The time of the oldest file, in milliseconds since 1970.
    oldest_ms: Option<u64>,
    scrape: Scrape,
}

impl Sampler for Textfile {
    fn needs(config: &Config) -> Result<Vec<Need>, Failure> {
        let TextfileConfig { folders } = config.parse()?;
        let needs = |folder: &FolderConfig| {
            let path = folder.path.trim_end_matches('/');
            [Need::read(path), Need::read(format!("{path}/*.prom"))]
        };
        Ok(folders.iter().flat_map(needs).collect())
    }

    fn init(&mut self, config: &Config) -> Result<(), Failure> {
        let mut mappings = Vec::new();
        for config in config.parse::<TextfileConfig>()?.folders {
            let id = config.id.clone();
            let wrong = |why: String| Failure::invalid(format!("the folder {id}: {why}"));
            let mapping = Rc::new(Mapping::new(&config.mapping).map_err(wrong)?);
            mappings.push(mapping.clone());
            let folder = Folder { config, series: ScrapedSeries::new(mapping.clone()), mapping };
            if self.folders.insert(id.clone(), folder).is_some() {
                return Err(wrong("there are two folders of this id".to_owned()));
            }
        }
        let own: [Field; OWN_FIELDS] = [
            Field::gauge("files", "Files that were read").aggregation(Aggregation::Min).precision(1.0),
            Field::gauge("failed_files", "Files that could not be read").aggregation(Aggregation::Max).precision(1.0),
            Field::gauge("oldest_file_seconds", "Age of the oldest file")
                .unit("s")
                .aggregation(Aggregation::Max)
                .precision(1.0),
        ];
        self.fields = own.into();
        self.fields.extend(all_fields(&mappings)?);
        self.positions = self.fields.iter().map(|field| field.name.clone()).zip(0..).collect();
        Ok(())
    }

    fn fields(&self) -> Vec<Field> {
        self.fields.clone()
    }

    fn discover(&mut self, _: &Tick) -> Result<Vec<Instance>, Failure> {
        let instance = |folder: &Folder| Instance {
            id: folder.config.id.clone(),
            labels: folder.config.labels.clone().into_iter().collect(),
        };
        Ok(self.folders.values().map(instance).collect())
    }

    fn sample(&mut self, _: &str) -> Result<Reading, Failure> {
        Err(Failure::unavailable("the age of files depends on the time of the tick"))
    }

    fn sample_all(&mut self, tick: &Tick, instances: &[String]) -> Result<Readings, Failure> {
        let mut readings = Readings::default();
        for id in instances {
            let row = self.row(id, tick);
            readings.push(row, &self.fields);
        }
        Ok(readings)
    }
}

impl Textfile {
    fn row(&mut self, id: &str, tick: &Tick) -> Result<Reading, Failure> {
        let folder = self.folders.get_mut(id).ok_or(Failure::Gone)?;
        let ReadFolder { files, failed, oldest_ms, scrape } = folder.read()?;
        let values = folder.series.end(scrape, &mut |_| {}).map_err(Failure::unavailable)?;
        self.troubles.report(&folder.config.path, (!failed.is_empty()).then(|| failed.join("; ")));
        let age = oldest_ms.map_or(f64::NAN, |oldest_ms| tick.at_ms.saturating_sub(oldest_ms) as f64 / 1000.0);
        let mut row = vec![f64::NAN; self.fields.len()];
        for (place, value) in row.iter_mut().zip([files as f64, failed.len() as f64, age]) {
            *place = value;
        }
        for (mapped, value) in folder.mapping.fields.iter().zip(values) {
            let position = self.positions.get(&mapped.field.name);
            if let Some(place) = position.and_then(|position| row.get_mut(*position)) {
                *place = value;
            }
        }
        Ok(Reading::from(row))
    }
}

// === impl Folder ===

impl Folder {
    /// Reads all files. One that cannot be read, or that is not an exposition, is left out as a whole.
    fn read(&self) -> Result<ReadFolder, Failure> {
        let path = self.config.path.trim_end_matches('/');
        let mut found = ReadFolder {
            files: 0,
            failed: Vec::new(),
            oldest_ms: None,
            scrape: Scrape::new(self.mapping.clone(), ExpositionFormat::Text),
        };
        for entry in files::entries(path)?.into_iter().filter(|entry| entry.name.ends_with(".prom")) {
            let file = format!("{path}/{}", entry.name);
            match found.add(&file) {
                Ok(()) => found.files += 1,
                Err(why) => found.failed.push(format!("{}: {why}", entry.name)),
            }
        }
        Ok(found)
    }
}

// === impl ReadFolder ===

impl ReadFolder {
    fn add(&mut self, file: &str) -> Result<(), String> {
        let modified_ms = files::modified_ms(file).map_err(|error| error.to_string())?;
        let mut bytes = files::read_large(file, LARGEST).map_err(|error| error.to_string())?;
        read(&bytes, ExpositionFormat::Text, &mut |_| {}).map_err(|error| error.to_string())?;
        // The next file begins on a line of its own.
        bytes.push(b'\n');
        self.scrape.push(&bytes, &mut |_| {})?;
        self.oldest_ms = Some(self.oldest_ms.map_or(modified_ms, |oldest_ms| oldest_ms.min(modified_ms)));
        Ok(())
    }
}

export_sampler!(Textfile);

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::{Duration, UNIX_EPOCH};

    fn plugin(json: &str) -> Result<Textfile, Failure> {
        let mut plugin = Textfile::default();
        plugin.init(&Config::from_json(json))?;
        Ok(plugin)
    }

    #[test]
    fn a_folder_is_read_as_one_exposition_without_files_that_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str, at: u64| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(at)).unwrap();
        };
        write("a.prom", "backup_bytes{db=\"a\"} 10", 1_000);
        write("b.prom", "# TYPE backup_bytes gauge\nbackup_bytes{db=\"b\"} 5\n", 900);
        write("broken.prom", "backup_bytes{db=\"c\"} 7\nthis is none\n", 100);
        write("note.txt", "not read", 100);
        let path = folder.path().to_str().unwrap();
        let json = format!(
            r#"{{"folders": [{{"id": "host", "path": "{path}/", "mapping": {{"backup_bytes": {{"value": "backup_bytes"}}}}}}]}}"#
        );
        let mut plugin = plugin(&json).unwrap();
        let tick = Tick { at_ms: 1_060_000, monotonic_ns: 0, budget_ms: 100, interval_ms: 10_000 };
        let readings = plugin.sample_all(&tick, &["host".to_owned(), "other".to_owned()]).unwrap();
        assert_eq!(readings.values[..4], [2.0, 1.0, 160.0, 15.0]);
        assert_eq!(readings.failures, [(1, Failure::Gone)]);
        let troubles: Vec<_> = plugin.troubles.iter().collect();
        assert!(troubles.len() == 1 && troubles[0].1.starts_with("broken.prom: line 2"), "{troubles:?}");
        let needs = Textfile::needs(&Config::from_json(&json)).unwrap();
        assert_eq!(needs, [Need::read(path), Need::read(format!("{path}/*.prom"))]);
    }

    #[test]
    fn a_folder_that_is_not_there_has_no_reading_and_says_why() {
        let mut plugin = plugin(r#"{"folders": [{"id": "a", "path": "/no/such/folder"}]}"#).unwrap();
        let tick = Tick { at_ms: 0, monotonic_ns: 0, budget_ms: 100, interval_ms: 10_000 };
        let readings = plugin.sample_all(&tick, &["a".to_owned()]).unwrap();
        assert!(matches!(&readings.failures[..], [(0, Failure::Unavailable(why))] if why.contains("/no/such/folder")));
    }
}
