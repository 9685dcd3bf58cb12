//! Series for benchmarks.

use dropsonde_store::{Schema, StoredField};
use std::fs;
use std::path::Path;

/// The interval between rows, in milliseconds.
pub(crate) const STEP_MS: i64 = 10_000;

/// Names and precisions of the seven fields of a busy service, as samplers declare them.
const FIELDS: [(&str, f64); 7] = [
    ("cpu_percent", 0.01),
    ("memory_used_mb", 1.0),
    ("memory_limit_mb", 1.0),
    ("network_in_bytes_per_sec", 1.0),
    ("network_out_bytes_per_sec", 1.0),
    ("requests_per_sec", 0.1),
    ("latency_p95_ms", 0.01),
];

/// Rows of seven fields of some instances, ten seconds apart.
pub(crate) struct Corpus {
    pub(crate) rows: usize,
    start_ms: i64,
    /// The columns, by instance, then by field.
    columns: Vec<Vec<f64>>,
}

impl Corpus {
    /// Reads columns of little-endian doubles, by instance and field. FILE.json beside the file has the number of rows
    /// and the start time.
    pub(crate) fn read(path: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".json");
        let manifest: serde_json::Value = serde_json::from_slice(&fs::read(beside)?)?;
        let rows = manifest["samples"].as_u64().ok_or("no `samples` in its manifest")? as usize;
        let start_s = manifest["start_s"].as_i64().ok_or("no `start_s` in its manifest")?;
        let values = fs::read(path)?;
        let value = |bytes: &[u8]| f64::from_le_bytes(bytes.try_into().unwrap());
        let values: Vec<f64> = values.chunks_exact(8).map(value).collect();
        Ok(Self { rows, start_ms: start_s * 1000, columns: values.chunks_exact(rows).map(<[f64]>::to_vec).collect() })
    }

    /// Generates series with a daily rhythm, noise, and some random walks. They are the same in every run.
    pub(crate) fn made(instances: usize, rows: usize) -> Self {
        let column = |n: usize| {
            let mut random = Random(n as u64 + 1);
            let (phase, busy) = (random.unit() * std::f64::consts::TAU, 0.5 + random.unit());
            let mut walk = 1000.0 * (1.0 + random.unit());
            let value = |row: usize| {
                let day = (row as f64 * std::f64::consts::TAU / 8640.0 + phase).sin() * 0.4 + 0.6;
                let noise = 1.0 + 0.01 * (random.unit() - 0.5);
                if random.unit() < 0.1 {
                    walk = (walk + 16.0 * (random.unit() - 0.5)).clamp(200.0, 4000.0);
                }
                match n % 7 {
                    0 => (40.0 * busy * day * noise).min(100.0),
                    1 => walk,
                    2 => 4096.0,
                    3 | 4 => 400_000.0 * busy * day * noise,
                    5 => 300.0 * busy * day * noise,
                    _ => 20.0 / busy * (1.5 - day) * noise,
                }
            };
            (0..rows).map(value).collect()
        };
        Self { rows, start_ms: 1_700_000_000_000, columns: (0..instances * 7).map(column).collect() }
    }

    pub(crate) fn instances(&self) -> usize {
        self.columns.len() / FIELDS.len()
    }

    pub(crate) fn values(&self) -> usize {
        self.columns.len() * self.rows
    }

    pub(crate) fn schema(&self) -> Schema {
        let field = |(name, precision)| StoredField { precision, ..StoredField::gauge(name) };
        Schema::new("bench", FIELDS.into_iter().map(field).collect())
    }

    pub(crate) fn at_ms(&self, row: usize) -> i64 {
        self.start_ms + row as i64 * STEP_MS
    }

    pub(crate) fn row(&self, instance: usize, row: usize, into: &mut [f64]) {
        let columns = &self.columns[instance * FIELDS.len()..][..FIELDS.len()];
        into.iter_mut().zip(columns).for_each(|(value, column)| *value = column[row]);
    }
}

/// Reads the last column of each CSV file and skips the first line.
pub(crate) fn csv_files(folder: &Path) -> Result<Vec<Vec<f64>>, Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "csv") {
            let text = fs::read_to_string(&path)?;
            let values = text.lines().skip(1).filter_map(|line| line.rsplit(',').next()?.parse().ok());
            files.push(values.collect());
        }
    }
    Ok(files)
}

/// A xorshift64* generator.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }
}
