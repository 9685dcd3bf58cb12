//! Definitions of schemas and frames in files. Each file defines the ids that it uses, so no file depends on another.

use super::record::{self, RecordKind, RecordTooLarge};
use crate::codec::{ByteReader, CorruptData, put_bytes, put_f64, put_u64};
use crate::series::PackedLabels;
use crate::{Aggregation, InstanceId, Kind, Schema, StoredField};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

/// The identity of a frame, independent of files.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FrameKey {
    pub(crate) instance: InstanceId,
    pub(crate) schema: Schema,
    pub(crate) interval_ms: i64,
    /// The frame's number, which tells it from removed frames with the same key.
    pub(crate) born: u64,
    /// The owner whose share of memory and disk the frame uses; most often the sampler.
    pub(crate) owner: Arc<str>,
}

/// No number in a key is NaN.
impl Eq for FrameKey {}

impl Hash for FrameKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Two frames in one folder have different numbers unless something went wrong.
        self.born.hash(state);
    }
}

/// The schemas and frames that a writer has defined in a file so far.
#[derive(Debug, Default)]
pub(crate) struct WrittenDefinitions {
    schemas: Vec<(Schema, i64)>,
    frames: HashSet<u32>,
}

/// The schemas and frames that a reader has found in a file so far.
#[derive(Debug, Default)]
pub(crate) struct ReadDefinitions {
    schemas: HashMap<u64, (Schema, i64)>,
    frames: ById<FrameKey>,
    /// Names of owners and groups, kept to share their strings. There are few.
    names: BTreeSet<Arc<str>>,
}

/// A map by frame id. Ids are consecutive and are looked up millions of times while a log is read, hence the simple
/// hash.
pub(crate) type ById<T> = HashMap<u32, T, BuildHasherDefault<IdHasher>>;

#[derive(Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(u32::from(byte)));
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl WrittenDefinitions {
    /// Appends the definition of the frame `id`, unless the file has it already.
    pub(crate) fn define(&mut self, out: &mut Vec<u8>, id: u32, key: &FrameKey) -> Result<(), RecordTooLarge> {
        if !self.frames.insert(id) {
            return Ok(());
        }
        if let Some(labels) = key.schema.labels() {
            return record::put(out, RecordKind::LabelledFrame, |out| put_labelled_frame(out, id, labels, key));
        }
        let schema = self.schema(out, key)?;
        record::put(out, RecordKind::Frame, |out| put_frame(out, id, schema, key))
    }

    /// Appends the definition of a frame's schema, unless the file has it already. Returns the schema's number.
    fn schema(&mut self, out: &mut Vec<u8>, key: &FrameKey) -> Result<u64, RecordTooLarge> {
        let same = |(schema, interval_ms): &(Schema, i64)| *interval_ms == key.interval_ms && *schema == key.schema;
        let known = self.schemas.iter().position(same);
        let number = known.unwrap_or(self.schemas.len()) as u64;
        if known.is_none() {
            self.schemas.push((key.schema.clone(), key.interval_ms));
            record::put(out, RecordKind::Schema, |out| put_schema(out, number, key))?;
        }
        Ok(number)
    }
}

impl ReadDefinitions {
    /// Reads a record that defines a schema or a frame; ignores other records.
    pub(crate) fn learn(&mut self, kind: RecordKind, payload: &[u8]) -> Result<(), CorruptData> {
        let mut reader = ByteReader(payload);
        match kind {
            RecordKind::Schema => {
                let (number, schema) = read_schema(&mut reader)?;
                self.schemas.insert(number, schema);
            }
            RecordKind::Frame => self.read_frame(&mut reader)?,
            RecordKind::LabelledFrame => self.read_labelled_frame(&mut reader)?,
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn frame(&self, id: u32) -> Result<&FrameKey, CorruptData> {
        self.frames.get(&id).ok_or(CorruptData)
    }

    fn read_frame(&mut self, reader: &mut ByteReader<'_>) -> Result<(), CorruptData> {
        let id = u32::try_from(reader.u64()?).map_err(|_| CorruptData)?;
        let (schema, interval_ms) = self.schemas.get(&reader.u64()?).cloned().ok_or(CorruptData)?;
        let born = reader.u64()?;
        let instance = InstanceId::new(reader.text()?).map_err(|_| CorruptData)?;
        let owner = if reader.is_empty() { schema.sampler().clone() } else { self.name(reader.text()?) };
        self.frames.insert(id, FrameKey { instance, schema, interval_ms, born, owner });
        Ok(())
    }

    fn read_labelled_frame(&mut self, reader: &mut ByteReader<'_>) -> Result<(), CorruptData> {
        let id = u32::try_from(reader.u64()?).map_err(|_| CorruptData)?;
        let born = reader.u64()?;
        let instance = InstanceId::new(reader.text()?).map_err(|_| CorruptData)?;
        let owner = self.name(reader.text()?);
        let group = self.name(reader.text()?);
        let interval_ms = i64::try_from(reader.u64()?).map_err(|_| CorruptData)?;
        let columns = reader.up_to(Schema::MOST_FIELDS)?;
        let schema = Schema::labelled(group, PackedLabels::read(columns, reader.bytes()?)?);
        self.frames.insert(id, FrameKey { instance, schema, interval_ms, born, owner });
        Ok(())
    }

    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        self.names.insert(name.clone());
        name
    }
}

fn put_frame(out: &mut Vec<u8>, id: u32, schema: u64, key: &FrameKey) {
    put_u64(out, u64::from(id));
    put_u64(out, schema);
    put_u64(out, key.born);
    put_bytes(out, key.instance.as_str().as_bytes());
    if key.owner != *key.schema.sampler() {
        put_bytes(out, key.owner.as_bytes());
    }
}

fn put_labelled_frame(out: &mut Vec<u8>, id: u32, labels: &PackedLabels, key: &FrameKey) {
    put_u64(out, u64::from(id));
    put_u64(out, key.born);
    put_bytes(out, key.instance.as_str().as_bytes());
    put_bytes(out, key.owner.as_bytes());
    put_bytes(out, key.schema.sampler().as_bytes());
    put_u64(out, key.interval_ms.max(1) as u64);
    put_u64(out, labels.columns() as u64);
    put_bytes(out, labels.bytes());
}

fn put_schema(out: &mut Vec<u8>, number: u64, key: &FrameKey) {
    put_u64(out, number);
    put_bytes(out, key.schema.sampler().as_bytes());
    put_u64(out, key.interval_ms.max(1) as u64);
    put_u64(out, key.schema.columns() as u64);
    let delay = StoredField { precision: Schema::DELAY_PRECISION, ..StoredField::gauge(Schema::DELAY) };
    for field in key.schema.fields().iter().chain(key.schema.has_delay().then_some(&delay)) {
        put_bytes(out, field.name.as_bytes());
        match field.kind {
            Kind::Gauge => out.push(0),
            Kind::Counter { scale } => {
                out.push(1);
                put_f64(out, scale);
            }
        }
        out.push(match field.aggregation {
            Aggregation::Mean => 0,
            Aggregation::Min => 1,
            Aggregation::Max => 2,
            Aggregation::Last => 3,
            Aggregation::Sum => 4,
        });
        put_f64(out, field.precision);
    }
}

fn read_schema(reader: &mut ByteReader<'_>) -> Result<(u64, (Schema, i64)), CorruptData> {
    let number = reader.u64()?;
    let sampler = reader.text()?;
    let interval_ms = i64::try_from(reader.u64()?).map_err(|_| CorruptData)?;
    let fields = (0..reader.up_to(Schema::MOST_FIELDS + 1)?).map(|_| {
        let name = reader.text()?.into();
        let kind = match reader.u8()? {
            0 => Kind::Gauge,
            1 => Kind::Counter { scale: reader.f64()? },
            _ => return Err(CorruptData),
        };
        let aggregation = match reader.u8()? {
            0 => Aggregation::Mean,
            1 => Aggregation::Min,
            2 => Aggregation::Max,
            3 => Aggregation::Last,
            4 => Aggregation::Sum,
            _ => return Err(CorruptData),
        };
        Ok(StoredField { name, kind, aggregation, precision: reader.f64()? })
    });
    let mut fields = fields.collect::<Result<Vec<_>, _>>()?;
    let has_delay = fields.pop_if(|last| &*last.name == Schema::DELAY).is_some();
    Ok((number, (Schema::with(sampler.into(), fields, has_delay), interval_ms)))
}
