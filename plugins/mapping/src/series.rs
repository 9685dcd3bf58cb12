//! Computes fields from the series of a target, and remembers the series from one scrape to the next.

use crate::fields::{Combination, MappedField, Mapping, Measure, SeriesReading};
use crate::histogram::{Bucket, quantile};
use dropsonde_openmetrics::ExpositionFormat;
use dropsonde_openmetrics::read::{ExpositionLine, ExpositionReader, ScrapedSample};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

/// The scrapes for which a series that is gone is remembered: it goes on if it comes back, as in PromQL's window.
const REMEMBERED: u32 = 5;

/// Most series of which one scrape makes fields: a target must not take the memory of all.
const MOST_SERIES: usize = 50_000;

/// The series of one target.
#[derive(Debug)]
pub struct ScrapedSeries {
    mapping: Rc<Mapping>,
    /// By selection: the last value of each series, and the scrape that had it.
    last: Vec<HashMap<u64, (f64, u32)>>,
    /// By selection: the sum of all increases.
    totals: Vec<f64>,
    scrapes: u32,
}

/// A scrape under way. Nothing counts until it has ended well.
#[derive(Debug)]
pub struct Scrape {
    reader: ExpositionReader,
    mapping: Rc<Mapping>,
    /// By selection.
    found: Vec<Vec<Found>>,
    count: usize,
}

/// A sample of a selection.
#[derive(Debug, Clone, Copy)]
struct Found {
    /// The hash of the series' labels.
    series: u64,
    value: f64,
    /// The label `le` of a bucket.
    upper: f64,
}

/// What a scrape found for a selection.
#[derive(Debug)]
enum Outcome {
    Nothing,
    Values(Vec<f64>),
    /// The increase since the scrape before, none for the first scrape; and the total so far.
    Increase(Option<f64>, f64),
    Buckets(Vec<Bucket>),
}

// === impl Scrape ===

impl Scrape {
    pub fn new(mapping: Rc<Mapping>, format: ExpositionFormat) -> Self {
        let found = vec![Vec::new(); mapping.selections.len()];
        Self { reader: ExpositionReader::new(format), mapping, found, count: 0 }
    }

    /// Reads the next piece of an exposition. `also` gets each line.
    pub fn push(&mut self, piece: &[u8], also: &mut dyn FnMut(&ExpositionLine<'_>)) -> Result<(), String> {
        let Self { reader, mapping, found, count } = self;
        let mut read = |line: ExpositionLine<'_>| {
            also(&line);
            *count += take(mapping, found, line);
        };
        reader.push(piece, &mut read).map_err(|error| error.to_string())?;
        if *count > MOST_SERIES {
            return Err(format!("its fields are made of more than {MOST_SERIES} series; select fewer"));
        }
        Ok(())
    }

    fn finish(mut self, also: &mut dyn FnMut(&ExpositionLine<'_>)) -> Result<Vec<Vec<Found>>, String> {
        let Self { reader, mapping, ref mut found, .. } = self;
        let end = reader.finish(&mut |line| {
            also(&line);
            take(&mapping, found, line);
        });
        end.map_err(|error| error.to_string())?;
        Ok(self.found)
    }
}

/// Takes what selections find in a line. Returns how much that is.
fn take(mapping: &Mapping, found: &mut [Vec<Found>], line: ExpositionLine<'_>) -> usize {
    let ExpositionLine::Sample(sample) = line else { return 0 };
    let mut count = 0;
    for position in mapping.of_metric(sample.name) {
        let (Some(selection), Some(found)) = (mapping.selections.get(*position), found.get_mut(*position)) else {
            continue;
        };
        // NaN is no value: Prometheus exposes it for a quantile of nothing.
        if sample.value.is_nan() || !selection.matches(sample.labels) {
            continue;
        }
        let upper = match selection.reading {
            SeriesReading::Buckets => upper_bound(&sample),
            SeriesReading::Values | SeriesReading::Increase => Some(0.0),
        };
        let Some(upper) = upper else { continue };
        let mut hasher = DefaultHasher::new();
        sample.labels.as_str().hash(&mut hasher);
        found.push(Found { series: hasher.finish(), value: sample.value, upper });
        count += 1;
    }
    count
}

fn upper_bound(sample: &ScrapedSample<'_>) -> Option<f64> {
    sample.labels.get("le")?.parse().ok().filter(|upper: &f64| !upper.is_nan())
}

// === impl ScrapedSeries ===

impl ScrapedSeries {
    pub fn new(mapping: Rc<Mapping>) -> Self {
        let selections = mapping.selections.len();
        Self { mapping, last: vec![HashMap::new(); selections], totals: vec![0.0; selections], scrapes: 0 }
    }

    /// Ends a scrape. `also` gets the last line, if it has no end. Returns the value of each field of the mapping; NaN is
    /// none.
    pub fn end(&mut self, scrape: Scrape, also: &mut dyn FnMut(&ExpositionLine<'_>)) -> Result<Vec<f64>, String> {
        let found = scrape.finish(also)?;
        self.scrapes = self.scrapes.wrapping_add(1);
        let outcomes: Vec<Outcome> =
            found.into_iter().enumerate().map(|(position, found)| self.outcome(position, found)).collect();
        let scaled = |field: &MappedField| {
            let value = value(&field.measure, &outcomes);
            match field.measure {
                // The host scales the rate of a total.
                Measure::Rate(_) => value,
                _ => value * field.scale,
            }
        };
        Ok(self.mapping.fields.iter().map(scaled).collect())
    }

    fn outcome(&mut self, position: usize, found: Vec<Found>) -> Outcome {
        let reading = self.mapping.selections.get(position).map(|selection| selection.reading);
        let (Some(reading), Some(last), Some(total)) =
            (reading, self.last.get_mut(position), self.totals.get_mut(position))
        else {
            return Outcome::Nothing;
        };
        if found.is_empty() {
            return Outcome::Nothing;
        }
        if reading == SeriesReading::Values {
            return Outcome::Values(found.iter().map(|found| found.value).collect());
        }
        let scrape = self.scrapes;
        let (mut increase, mut buckets) = (None, Vec::new());
        for Found { series, value, upper } in found {
            let before = last.insert(series, (value, scrape));
            // A counter that fell has begun again at 0. What a new series counted before it was seen is not known.
            let more = before.map(|(before, _)| if value >= before { value - before } else { value });
            if let Some(more) = more {
                *increase.get_or_insert(0.0) += more;
                *total += more;
                if reading == SeriesReading::Buckets {
                    buckets.push(Bucket { upper, count: more });
                }
            }
        }
        last.retain(|_, (_, seen)| scrape.wrapping_sub(*seen) < REMEMBERED);
        match reading {
            SeriesReading::Buckets => Outcome::Buckets(buckets),
            _ => Outcome::Increase(increase, *total),
        }
    }
}

/// Returns the value of a measure; NaN if there is none.
fn value(measure: &Measure, outcomes: &[Outcome]) -> f64 {
    let first = |positions: &[usize], outcomes: &[Outcome]| {
        let is_there = |position: &usize| !matches!(outcomes.get(*position), None | Some(Outcome::Nothing));
        positions.iter().position(is_there)
    };
    let value = match measure {
        Measure::Rate(positions) => {
            first(positions, outcomes).and_then(|nth| match outcomes.get(*positions.get(nth)?)? {
                Outcome::Increase(_, total) => Some(*total),
                _ => None,
            })
        }
        Measure::Quantile(q, positions) => {
            first(positions, outcomes).and_then(|nth| match outcomes.get(*positions.get(nth)?)? {
                Outcome::Buckets(buckets) => quantile(*q, &mut buckets.clone()),
                _ => None,
            })
        }
        Measure::Percent(parts, wholes) => first(wholes, outcomes).and_then(|nth| {
            let whole = outcomes.get(*wholes.get(nth)?)?.sum()?;
            // Many programs have no series of errors before the first one.
            let part = outcomes.get(*parts.get(nth)?)?.sum().unwrap_or(0.0);
            (whole > 0.0).then(|| 100.0 * part / whole)
        }),
        Measure::Value(by, positions, minus) => first(positions, outcomes).and_then(|nth| {
            let value = outcomes.get(*positions.get(nth)?)?.combined(*by)?;
            match minus.get(nth) {
                Some(minus) => Some(value - outcomes.get(*minus)?.combined(*by)?),
                None => Some(value),
            }
        }),
        Measure::Count(comparison, positions) => first(positions, outcomes).and_then(|nth| {
            let Outcome::Values(values) = outcomes.get(*positions.get(nth)?)? else { return None };
            Some(values.iter().filter(|value| comparison.holds(**value)).count() as f64)
        }),
    };
    value.unwrap_or(f64::NAN)
}

// === impl Outcome ===

impl Outcome {
    fn sum(&self) -> Option<f64> {
        match self {
            Self::Nothing | Self::Buckets(_) => None,
            Self::Values(values) => Some(values.iter().sum()),
            Self::Increase(increase, _) => *increase,
        }
    }

    fn combined(&self, by: Combination) -> Option<f64> {
        let Self::Values(values) = self else { return None };
        let sum: f64 = values.iter().sum();
        Some(match by {
            Combination::Sum => sum,
            Combination::Mean => sum / values.len() as f64,
            Combination::Min => values.iter().copied().fold(f64::INFINITY, f64::min),
            Combination::Max => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            Combination::Count => values.len() as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the values of the fields of a mapping after each exposition.
    fn scrape(mapping: &str, expositions: &[&str]) -> Vec<Vec<f64>> {
        let mapping = Mapping::new(&serde_json::from_str(mapping).unwrap()).unwrap();
        let mut series = ScrapedSeries::new(Rc::new(mapping));
        let scrape = |exposition: &&str| {
            let mut scrape = Scrape::new(series.mapping.clone(), ExpositionFormat::Text);
            // In pieces, as they come from the network.
            exposition.as_bytes().chunks(7).for_each(|piece| scrape.push(piece, &mut |_| {}).unwrap());
            series.end(scrape, &mut |_| {}).unwrap()
        };
        expositions.iter().map(scrape).collect()
    }

    /// Returns the values of the only field.
    fn only(mapping: &str, expositions: &[&str]) -> Vec<f64> {
        scrape(&format!(r#"{{"x": {mapping}}}"#), expositions).into_iter().map(|values| values[0]).collect()
    }

    #[test]
    fn a_total_grows_by_the_increase_of_each_series_also_across_resets_and_new_series() {
        let totals = only(
            r#"{"rate": "a_total"}"#,
            &[
                "a_total{i=\"1\"} 10\na_total{i=\"2\"} 5\n",
                "a_total{i=\"1\"} 12\na_total{i=\"2\"} 6\n",
                "a_total{i=\"1\"} 1\na_total{i=\"2\"} 7\n",
                "a_total{i=\"1\"} 2\na_total{i=\"2\"} 8\na_total{i=\"3\"} 1000\n",
                "a_total{i=\"1\"} 2\na_total{i=\"3\"} 1001\n",
                "a_total{i=\"1\"} 2\na_total{i=\"2\"} 10\na_total{i=\"3\"} 1001\n",
                "",
            ],
        );
        assert_eq!(totals[..6], [0.0, 3.0, 5.0, 7.0, 8.0, 10.0]);
        assert!(totals[6].is_nan());
    }

    #[test]
    fn a_quantile_is_of_the_interval_and_of_all_series_together() {
        let exposition = |small: u32, large: u32| {
            format!(
                "d_bucket{{i=\"1\",le=\"0.1\"}} {small}\nd_bucket{{i=\"1\",le=\"+Inf\"}} {small}\n\
                 d_bucket{{i=\"2\",le=\"0.1\"}} 7\nd_bucket{{i=\"2\",le=\"1.0\"}} {large}\nd_bucket{{i=\"2\",le=\"+Inf\"}} {large}\n"
            )
        };
        let expositions = [exposition(1000, 50), exposition(1050, 100), exposition(1050, 100)];
        let p = only(r#"{"quantile": 0.5, "of": "d_bucket"}"#, &expositions.each_ref().map(String::as_str));
        assert!(p[0].is_nan(), "nothing is known of the time before");
        assert_eq!(p[1], 0.1);
        assert!(p[2].is_nan(), "no traffic");
    }

    #[test]
    fn an_error_rate_is_of_the_interval_and_has_no_value_without_traffic() {
        let rates = only(
            r#"{"percent": "a_total{code=~\"5..\"}", "of": "a_total"}"#,
            &[
                "a_total{code=\"200\"} 100\n",
                "a_total{code=\"200\"} 150\n",
                "a_total{code=\"200\"} 150\n",
                "a_total{code=\"200\"} 150\na_total{code=\"500\"} 1\n",
                "a_total{code=\"200\"} 225\na_total{code=\"500\"} 26\n",
            ],
        );
        assert!(rates[0].is_nan() && rates[2].is_nan() && rates[3].is_nan());
        assert_eq!((rates[1], rates[4]), (0.0, 25.0));
    }

    #[test]
    fn values_are_combined_counted_and_scaled() {
        let exposition = "u{b=\"1\"} 1\nu{b=\"2\"} 0\nu{b=\"3\"} 2\nu{b=\"4\"} NaN\n";
        for (mapping, expected) in [
            (r#"{"value": "u"}"#, 3.0),
            (r#"{"value": "u", "by": "min"}"#, 0.0),
            (r#"{"value": "u", "by": "max", "scale": 10}"#, 20.0),
            (r#"{"value": "u", "by": "mean"}"#, 1.0),
            (r#"{"value": "u", "by": "count"}"#, 3.0),
            (r#"{"count": "u", "where": "== 1"}"#, 1.0),
            (r#"{"count": "u", "where": "> 0"}"#, 2.0),
            (r#"{"percent": "u{b=\"1\"}", "of": "u"}"#, 100.0 / 3.0),
            (r#"{"value": "u", "minus": "u{b=\"3\"}"}"#, 1.0),
            (r#"{"value": ["missing", "u{b=\"3\"}"]}"#, 2.0),
        ] {
            assert_eq!(only(mapping, &[exposition])[0], expected, "{mapping}");
        }
        assert!(only(r#"{"count": "missing", "where": "> 0"}"#, &[exposition])[0].is_nan());
    }

    #[test]
    fn a_scrape_that_ends_badly_counts_for_nothing() {
        let mapping = Mapping::new(&serde_json::from_str(r#"{"x": {"rate": "a_total"}}"#).unwrap()).unwrap();
        let mut series = ScrapedSeries::new(Rc::new(mapping));
        let mut scrape = |text: &str| {
            let mut scrape = Scrape::new(series.mapping.clone(), ExpositionFormat::OpenMetrics);
            scrape.push(text.as_bytes(), &mut |_| {}).unwrap();
            series.end(scrape, &mut |_| {})
        };
        assert_eq!(scrape("a_total 10\n# EOF\n"), Ok(vec![0.0]));
        assert!(scrape("a_total 1\n").is_err(), "it was cut off");
        assert_eq!(scrape("a_total 11\n# EOF\n"), Ok(vec![1.0]));
    }

    #[test]
    fn a_target_of_too_many_series_is_refused() {
        let mapping = Mapping::new(&serde_json::from_str(r#"{"x": {"value": "a"}}"#).unwrap()).unwrap();
        let mut scrape = Scrape::new(Rc::new(mapping), ExpositionFormat::Text);
        let lines: String = (0..MOST_SERIES).map(|nth| format!("a{{n=\"{nth}\"}} 1\nb 1\n")).collect();
        assert_eq!(scrape.push(lines.as_bytes(), &mut |_| {}), Ok(()));
        assert!(scrape.push(b"a 1\n", &mut |_| {}).unwrap_err().contains("more than 50000 series"));
    }
}
