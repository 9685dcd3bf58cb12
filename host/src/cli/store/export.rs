//! Exports history on disk as CSV, with one line per value, or as OpenMetrics.

use super::{ExportArgs, ExportFormat, explain_folder_error, folder};
use crate::cli::Cli;
use crate::cli::out::{Out, aside};
use anyhow::{Context, Result, bail};
use clap::CommandFactory;
use clap::error::ErrorKind;
use dropsonde_engine::json;
use dropsonde_engine::plugins::FieldMetric;
use dropsonde_engine::tracked::noted_labels;
use dropsonde_model::labels::NAME;
use dropsonde_model::{Labels, MetricType};
use dropsonde_openmetrics::{self as openmetrics, ExpositionText, FamilyKind};
use dropsonde_store::InstanceId;
use dropsonde_store::inspect::{self, Export, ExportFilter, ExportedFrame};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::Arc;

pub(in crate::cli) fn export(args: ExportArgs, out: &mut Out) -> Result<()> {
    let mut filter = ExportFilter { instances: args.instance, ..ExportFilter::default() };
    filter.since_ms = args.since.unwrap_or(filter.since_ms);
    filter.until_ms = args.until.unwrap_or(filter.until_ms);
    if filter.since_ms > filter.until_ms {
        Cli::command().error(ErrorKind::ValueValidation, "--since is later than --until").exit();
    }
    let folder = folder(&args.data)?;
    let export = explain_folder_error(&folder, inspect::export(&folder, &filter))?;
    let has = |id: &InstanceId| export.frames.iter().any(|frame| frame.instance() == id);
    if let Some(id) = filter.instances.iter().find(|id| !has(id)) {
        bail!("there is no history of instance {id} in {}", folder.display());
    }
    let unread = match args.format {
        ExportFormat::Csv => csv(&export, out),
        ExportFormat::OpenMetrics => open_metrics(&export, out),
    };
    let unread = unread.and_then(|unread| out.flush().map(|()| unread)).context("cannot write the export")?;
    for name in &export.restored.newer {
        aside(format_args!("note: left out {name}: written by a newer version"));
    }
    for (name, why) in &export.restored.unreadable {
        aside(format_args!("note: left out {name}: cannot read it: {why}"));
    }
    if unread > 0 || export.restored.damaged > 0 || !export.restored.unreadable.is_empty() {
        bail!("damaged parts are not exported, all else is; `dropsonde store verify` lists the damage");
    }
    Ok(())
}

/// Writes one line per value. Returns the number of blocks that could not be read.
fn csv(export: &Export, out: &mut impl Write) -> io::Result<u64> {
    let mut lines = csv::Writer::from_writer(out);
    lines.write_record(["at", "instance", "sampler", "field", "value"]).map_err(own_error)?;
    let mut unread = 0;
    let mut number = Vec::new();
    for frame in &export.frames {
        let schema = frame.schema();
        let fields: Vec<String> = match schema.series() {
            Some(series) => series.iter().map(|(labels, _)| series_name(labels)).collect(),
            None => schema.fields().iter().map(|field| field.name.to_string()).collect(),
        };
        unread += frame.rows(|row| {
            let at = json::time(row.at_ms);
            let values = fields.iter().zip(&row.values).filter(|(_, value)| !value.is_nan());
            for (field, &value) in values {
                number.clear();
                json::number(&mut number, value);
                let (instance, sampler) = (frame.instance().as_str(), &**schema.sampler());
                let line = [at.as_bytes(), instance.as_bytes(), sampler.as_bytes(), field.as_bytes(), &number];
                lines.write_record(line).map_err(own_error)?;
            }
            Ok::<_, io::Error>(())
        })?;
    }
    lines.flush()?;
    Ok(unread)
}

/// Returns the error of the output, whose kind tells whether its reader has gone.
fn own_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

/// All series of one metric.
#[derive(Default)]
struct ExportFamily<'a> {
    is_counter: bool,
    series: BTreeMap<SeriesKey<'a>, Vec<ExportColumn<'a>>>,
}

/// An instance and a sampler. If the sampler has changed its fields or its interval, the series has several columns.
type SeriesKey<'a> = (&'a InstanceId, &'a Arc<str>);

struct ExportColumn<'a> {
    frame: &'a ExportedFrame,
    field: usize,
    factor: f64,
}

/// Writes one metric after the other, as OpenMetrics requires. Returns the number of blocks that could not be read.
fn open_metrics(export: &Export, out: &mut impl Write) -> io::Result<u64> {
    let mut unread = 0;
    let mut text = ExpositionText::new(openmetrics::ExpositionFormat::OpenMetrics);
    let known = noted_labels(&export.notes);
    for (name, family) in families(export) {
        let (kind, suffix) = if family.is_counter { (FamilyKind::Counter, "_total") } else { (FamilyKind::Gauge, "") };
        let name = name + suffix;
        text.family(&name, "", kind);
        for ((instance, sampler), columns) in family.series {
            let own = known.get(instance).into_iter().flat_map(Labels::iter);
            let labels = own.chain([("id", instance.as_str()), ("sampler", &**sampler)]);
            let labels = labels.map(|(key, value)| openmetrics::label_text(key, value)).collect::<Vec<_>>().join(",");
            let mut samples: Vec<(i64, f64)> = Vec::new();
            for ExportColumn { frame, field, factor } in &columns {
                let take = |at_ms, reading: f64| {
                    samples.push((at_ms, reading * factor));
                    Ok::<_, Infallible>(())
                };
                unread += frame.readings(*field, take).unwrap_or_default();
            }
            if columns.len() > 1 {
                samples.sort_by_key(|(at_ms, _)| *at_ms);
                samples.dedup_by_key(|(at_ms, _)| *at_ms);
            }
            for (at_ms, value) in samples.into_iter().filter(|(_, value)| value.is_finite()) {
                text.sample_at(&[&name], &[&labels], value, at_ms);
                out.write_all(&text.bytes)?;
                text.bytes.clear();
            }
        }
    }
    unread += labelled(export, &mut text, out)?;
    text.end();
    out.write_all(&text.bytes)?;
    Ok(unread)
}

/// The columns that hold the samples of each series of one metric, by the series' labels as text.
type LabelledFamily<'a> = BTreeMap<String, Vec<(&'a ExportedFrame, usize)>>;

/// Writes labelled series. The parts of a histogram are metrics of their own, because their samples are in the order of
/// series and not in that of times.
fn labelled(export: &Export, text: &mut ExpositionText, out: &mut impl Write) -> io::Result<u64> {
    let mut families: BTreeMap<String, (FamilyKind, LabelledFamily<'_>)> = BTreeMap::new();
    for frame in &export.frames {
        for (column, (labels, metric_type)) in frame.schema().series().unwrap_or_default().into_iter().enumerate() {
            let name = labels.get(NAME).unwrap_or_default();
            let kind = match metric_type {
                MetricType::Counter if name.ends_with("_total") => FamilyKind::Counter,
                MetricType::Gauge => FamilyKind::Gauge,
                _ => FamilyKind::Unknown,
            };
            // A name has one type: the first one.
            let (_, family) = families.entry(name.to_owned()).or_insert_with(|| (kind, LabelledFamily::new()));
            family.entry(label_list(&labels)).or_default().push((frame, column));
        }
    }
    let mut unread = 0;
    for (name, (kind, series)) in families {
        text.family(&name, "", kind);
        for (labels, columns) in series {
            let mut samples: Vec<(i64, f64)> = Vec::new();
            for (frame, column) in columns {
                let take = |at_ms, reading: f64| {
                    samples.push((at_ms, reading));
                    Ok::<_, Infallible>(())
                };
                unread += frame.readings(column, take).unwrap_or_default();
            }
            samples.sort_by_key(|(at_ms, _)| *at_ms);
            samples.dedup_by_key(|(at_ms, _)| *at_ms);
            for (at_ms, value) in samples {
                text.sample_at(&[&name], &[&labels], value, at_ms);
                out.write_all(&text.bytes)?;
                text.bytes.clear();
            }
        }
    }
    Ok(unread)
}

fn label_list(labels: &Labels) -> String {
    let own = labels.iter().filter(|(key, _)| *key != NAME);
    own.map(|(key, value)| openmetrics::label_text(key, value)).collect::<Vec<_>>().join(",")
}

fn series_name(labels: &Labels) -> String {
    let own = labels.iter().filter(|(key, _)| *key != NAME);
    openmetrics::series_text(labels.get(NAME).unwrap_or_default(), own)
}

/// Groups columns by the name of their metric. A name has one kind of metric and at most one column per frame. A column
/// without a free name is left out, and a note is printed.
fn families(export: &Export) -> BTreeMap<String, ExportFamily<'_>> {
    let fields = |frame: &'_ ExportedFrame| frame.schema().fields().len();
    let of_samplers = export.frames.iter().filter(|frame| frame.schema().series().is_none());
    let columns = of_samplers.flat_map(|frame| (0..fields(frame)).map(move |field| (frame, field)));
    let named = columns.filter_map(|(frame, field)| {
        let names = FieldMetric::of_kept(frame.schema().fields().get(field)?);
        Some((frame, field, names))
    });
    let mut named: Vec<_> = named.collect();
    // Fields with only one possible name come first.
    named.sort_by_key(|(.., [first, second])| (first.is_counter, first.name != second.name));
    let mut families: BTreeMap<String, ExportFamily<'_>> = BTreeMap::new();
    let mut left_out = BTreeSet::new();
    for (frame, field, names) in named {
        let series = (frame.instance(), frame.schema().sampler());
        let taken = |columns: &Vec<ExportColumn<'_>>| columns.iter().any(|column| std::ptr::eq(column.frame, frame));
        let family_name = |metric: &FieldMetric| metric.name.strip_suffix("_total").unwrap_or(&metric.name).to_owned();
        let free = names.into_iter().find(|metric| {
            families.get(&family_name(metric)).is_none_or(|family| {
                family.is_counter == metric.is_counter && !family.series.get(&series).is_some_and(taken)
            })
        });
        match free {
            Some(metric) => {
                let family = families.entry(family_name(&metric)).or_default();
                family.is_counter = metric.is_counter;
                family.series.entry(series).or_default().push(ExportColumn { frame, field, factor: metric.factor });
            }
            None => drop(left_out.insert((series.1, field_name(frame, field)))),
        }
    }
    for (sampler, field) in left_out {
        aside(format_args!("note: left out {field} of {sampler}: another metric has its name; --format csv has both"));
    }
    families
}

fn field_name(frame: &ExportedFrame, field: usize) -> &str {
    frame.schema().fields().get(field).map(|field| &*field.name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_store::{Schema, Store, StoreLimits, StoredField};

    fn exported(push: impl Fn(&Store)) -> (tempfile::TempDir, Export) {
        let folder = tempfile::tempdir().unwrap();
        let (store, keeper, _) = Store::open(folder.path(), &StoreLimits::default()).unwrap();
        push(&store);
        keeper.close(0);
        let export = inspect::export(folder.path(), &ExportFilter::default()).unwrap();
        (folder, export)
    }

    fn open_metrics_of(push: impl Fn(&Store)) -> String {
        let (_folder, export) = exported(push);
        let mut out = Vec::new();
        assert_eq!(open_metrics(&export, &mut out).unwrap(), 0);
        String::from_utf8(out).unwrap()
    }

    fn id(id: &str) -> InstanceId {
        InstanceId::new(id).unwrap()
    }

    #[test]
    fn csv_has_one_line_per_value_with_counters_as_rates() {
        let (_folder, export) = exported(|store| {
            let schema = Schema::new("s", vec![StoredField::gauge("x"), StoredField::counter("ops_per_sec", 1.0)]);
            let frame = store.frame(&id("a,\"b\""), &schema, 1000);
            frame.push(1000, &[0.5, 10.0]);
            frame.push(2500, &[f64::NAN, 13.0]);
        });
        let mut out = Vec::new();
        assert_eq!(csv(&export, &mut out).unwrap(), 0);
        let lines = "at,instance,sampler,field,value\n1970-01-01T00:00:01Z,\"a,\"\"b\"\"\",s,x,0.5\n\
                     1970-01-01T00:00:02.5Z,\"a,\"\"b\"\"\",s,ops_per_sec,2\n";
        assert_eq!(String::from_utf8(out).unwrap(), lines);
    }

    #[test]
    fn openmetrics_groups_samples_by_metric_in_base_units_with_counters_as_totals() {
        let text = open_metrics_of(|store| {
            let schema =
                Schema::new("s", vec![StoredField::gauge("used_mb"), StoredField::counter("ops_per_sec", 1.0)]);
            for instance in ["a", "b\"\\"] {
                let frame = store.frame(&id(instance), &schema, 1000);
                frame.push(1000, &[0.5, 10.0]);
                frame.push(2500, &[f64::NAN, 13.0]);
            }
        });
        let lines = "# TYPE dropsonde_sample_ops counter\n\
                     dropsonde_sample_ops_total{id=\"a\",sampler=\"s\"} 10 1\n\
                     dropsonde_sample_ops_total{id=\"a\",sampler=\"s\"} 13 2.500\n\
                     dropsonde_sample_ops_total{id=\"b\\\"\\\\\",sampler=\"s\"} 10 1\n\
                     dropsonde_sample_ops_total{id=\"b\\\"\\\\\",sampler=\"s\"} 13 2.500\n\
                     # TYPE dropsonde_sample_used_bytes gauge\n\
                     # UNIT dropsonde_sample_used_bytes bytes\n\
                     dropsonde_sample_used_bytes{id=\"a\",sampler=\"s\"} 524288 1\n\
                     dropsonde_sample_used_bytes{id=\"b\\\"\\\\\",sampler=\"s\"} 524288 1\n# EOF\n";
        assert_eq!(text, lines);
    }

    #[test]
    fn openmetrics_has_the_last_labels_of_each_instance() {
        let text = open_metrics_of(|store| {
            let schema = Schema::new("s", vec![StoredField::gauge("x")]);
            let (wanted, note) = (r#"{"labels":{"site":"fra\"1","workload":"web"}}"#, "tracked/a");
            store.frame(&id("a"), &schema, 1000).push(1000, &[0.5]);
            store.note(note, Some(wanted.as_bytes().to_vec())).unwrap();
            store.frame(&id("b"), &schema, 1000).push(1000, &[0.5]);
            let earlier = r#"{"discovered_by":{"s":{"k":"plugin"}},"asked":{"labels":{"k":"program"}}}"#;
            store.note("tracked/b", Some(earlier.as_bytes().to_vec())).unwrap();
        });
        for line in [
            "dropsonde_sample_x{site=\"fra\\\"1\",workload=\"web\",id=\"a\",sampler=\"s\"} 0.5 1",
            "dropsonde_sample_x{k=\"program\",id=\"b\",sampler=\"s\"} 0.5 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} in {text}");
        }
    }

    #[test]
    fn a_sampler_whose_interval_changed_twice_is_exported_as_one_ordered_series() {
        let text = open_metrics_of(|store| {
            let schema = Schema::new("s", vec![StoredField::gauge("x")]);
            for (at_ms, interval_ms) in [(1000, 1000), (2000, 2000), (4000, 2000), (5000, 1000)] {
                store.frame(&id("a"), &schema, interval_ms).push(at_ms, &[at_ms as f64]);
            }
        });
        let at: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("dropsonde_sample_x{id=\"a\"")).collect();
        assert_eq!(at, [1, 2, 4, 5].map(|s| format!(",sampler=\"s\"}} {s}000 {s}")));
    }

    #[test]
    fn fields_with_the_same_metric_name_keep_their_own_names() {
        let text = open_metrics_of(|store| {
            let both = Schema::new("s", vec![StoredField::counter("ops_per_sec", 1.0), StoredField::gauge("ops")]);
            store.frame(&id("a"), &both, 1000).push(1000, &[1.0, 2.0]);
            let counters =
                Schema::new("t", vec![StoredField::counter("io_per_sec", 1.0), StoredField::counter("io", 1.0)]);
            store.frame(&id("a"), &counters, 1000).push(1000, &[3.0, 4.0]);
        });
        for line in [
            "dropsonde_sample_ops_per_sec_total{id=\"a\",sampler=\"s\"} 1 1",
            "dropsonde_sample_ops{id=\"a\",sampler=\"s\"} 2 1",
            "dropsonde_sample_io_per_sec_total{id=\"a\",sampler=\"t\"} 3 1",
            "dropsonde_sample_io_total{id=\"a\",sampler=\"t\"} 4 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} in {text}");
        }
    }
}
