//! Samples of targets that are kept as series in history: those of the metrics that a target's `keep` names.

use crate::config::ScrapeSettings;
use dropsonde_guest::series::{self, DefineError, MetricType, Series};
use dropsonde_openmetrics::read::{ExpositionLine, ScrapedSample};
use mapping::whole;
use regex_lite::Regex;
use serde::{Deserialize, Deserializer, de::Error as _};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::rc::Rc;

/// Most samples that one scrape of a target keeps.
const MOST_KEPT: usize = 50_000;

/// The scrapes for which a series that is gone is remembered.
const REMEMBERED: u32 = 10;

/// `keep` of a target: `"all"`, `"none"`, or a list of patterns of metric names.
#[derive(Debug, Clone, Default)]
pub(crate) enum Keep {
    #[default]
    Nothing,
    All,
    Some(Rc<NamePatterns>),
}

/// Patterns of names, in which `*` is any text and `?` any character.
#[derive(Debug)]
pub(crate) struct NamePatterns {
    written: Vec<String>,
    any: Regex,
}

/// The series of one target, from one scrape to the next.
#[derive(Debug, Default)]
pub(crate) struct KeptSeries {
    /// By the hash of name and labels, with the scrape that had it last.
    known: HashMap<u64, (Fate, u32)>,
    scrapes: u32,
    /// The points of the last scrape, which polls in between report again.
    points: Vec<(Series, f64)>,
    about: Option<AboutScrape>,
    /// Why the host refused a series.
    refusal: Option<String>,
}

/// The decision about a series.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Kept(Series),
    NotWanted,
    /// The host did not take it.
    Refused,
}

/// The series about the scrape itself, named as in Prometheus.
#[derive(Debug, Clone, Copy)]
struct AboutScrape {
    up: Series,
    duration_seconds: Series,
    samples: Series,
}

/// The samples of a scrape under way. Nothing counts until it has ended well.
#[derive(Debug)]
pub(crate) struct KeptScrape {
    keep: Keep,
    honor_labels: bool,
    family: Family,
    known: HashMap<u64, (Fate, u32)>,
    scrape: u32,
    samples: usize,
    points: Vec<(Series, f64)>,
    refused: usize,
    /// Why the first of the refused ones was refused, in this scrape or an earlier one.
    refusal: Option<String>,
}

/// The metric that the last comment was about.
#[derive(Debug, Default)]
struct Family {
    name: String,
    kind: String,
    help: String,
}

// === impl Keep ===

impl Keep {
    fn has(&self, sample: &str, family: Option<&str>) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Some(patterns) => {
                let NamePatterns { any, .. } = &**patterns;
                any.is_match(sample) || family.is_some_and(|family| any.is_match(family))
            }
        }
    }
}

impl PartialEq for Keep {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nothing, Self::Nothing) | (Self::All, Self::All) => true,
            (Self::Some(one), Self::Some(other)) => one.written == other.written,
            _ => false,
        }
    }
}

impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) if text == "all" => Ok(Self::All),
            serde_json::Value::String(text) if text == "none" => Ok(Self::Nothing),
            serde_json::Value::Array(patterns) if patterns.is_empty() => Ok(Self::Nothing),
            serde_json::Value::Array(patterns) => {
                let written = patterns.into_iter().map(|pattern| match pattern {
                    serde_json::Value::String(pattern) => Ok(pattern),
                    other => Err(D::Error::custom(format!("keep: {other} is not a pattern of metric names"))),
                });
                let written: Vec<String> = written.collect::<Result<_, _>>()?;
                let any = written.iter().map(|pattern| regex_of(pattern)).collect::<Vec<_>>().join("|");
                let any = whole(&any).map_err(|why| D::Error::custom(format!("keep: {why}")))?;
                Ok(Self::Some(Rc::new(NamePatterns { written, any })))
            }
            _ => Err(D::Error::custom(r#"keep is "all", "none" or a list of patterns such as ["node_cpu_*", "up"]"#)),
        }
    }
}

fn regex_of(pattern: &str) -> String {
    let part = |c: char| match c {
        '*' => ".*".to_owned(),
        '?' => ".".to_owned(),
        other => regex_lite::escape(other.encode_utf8(&mut [0; 4])),
    };
    pattern.chars().map(part).collect()
}

// === impl KeptSeries ===

impl KeptSeries {
    /// Begins a scrape; none if nothing is kept.
    pub(crate) fn begin(&mut self, how: &ScrapeSettings) -> Option<KeptScrape> {
        if how.keep == Keep::Nothing {
            return None;
        }
        self.scrapes = self.scrapes.wrapping_add(1);
        // Before the samples, which may use up all series that the plugin may have.
        if self.about.is_none() {
            self.about = AboutScrape::define().ok();
        }
        Some(KeptScrape {
            keep: how.keep.clone(),
            honor_labels: how.honor_labels,
            family: Family::default(),
            known: std::mem::take(&mut self.known),
            scrape: self.scrapes,
            samples: 0,
            points: Vec::with_capacity(self.points.len()),
            refused: 0,
            refusal: self.refusal.take(),
        })
    }

    /// Reports what a scrape kept, if it ended well, and how it went. Returns what is wrong with its samples, if
    /// anything.
    pub(crate) fn end(&mut self, id: &str, scrape: KeptScrape, is_up: bool, took_ms: f64) -> Option<String> {
        let KeptScrape { known, scrape: nth, samples, points, refused, refusal, .. } = scrape;
        (self.known, self.refusal) = (known, refusal);
        self.points.clear();
        if is_up {
            self.points = points;
            self.known.retain(|_, (_, seen)| nth.wrapping_sub(*seen) < REMEMBERED);
        }
        if let Some(AboutScrape { up, duration_seconds, samples: count }) = self.about {
            self.points.extend([(up, f64::from(u8::from(is_up))), (duration_seconds, took_ms / 1000.0)]);
            if is_up {
                self.points.push((count, samples as f64));
            }
        }
        self.repeat(id);
        if !is_up {
            return None;
        }
        self.refusal.take_if(|_| refused == 0);
        self.refusal.as_ref().map(|why| format!("{refused} samples are not kept, the first because {why}"))
    }

    /// Reports the samples of the last scrape again: a series that is not reported at a tick ends.
    pub(crate) fn repeat(&self, id: &str) {
        if !self.points.is_empty() {
            series::report(id, &self.points);
        }
    }
}

impl AboutScrape {
    fn define() -> Result<Self, DefineError> {
        let gauge = |name: &str, help: &str| series::define(name, MetricType::Gauge, help, &[]);
        Ok(Self {
            up: gauge("up", "Whether the last scrape of the target succeeded: 1 or 0.")?,
            duration_seconds: gauge("scrape_duration_seconds", "Time that the scrape of the target took.")?,
            samples: gauge("scrape_samples_scraped", "Samples that the target exposed.")?,
        })
    }
}

// === impl KeptScrape ===

impl KeptScrape {
    /// Takes the next line of an exposition.
    pub(crate) fn take(&mut self, line: &ExpositionLine<'_>) {
        match line {
            ExpositionLine::Sample(sample) => self.sample(sample),
            ExpositionLine::Kind { name, kind } => self.family.of(name).kind = (*kind).to_owned(),
            ExpositionLine::Help { name, text } => self.family.of(name).help = (*text).to_owned(),
            ExpositionLine::Unit { .. } => {}
        }
    }

    /// Fails if there were too many samples.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.points.len() > MOST_KEPT {
            return Err(format!("it has more than {MOST_KEPT} samples to keep; name fewer metrics in `keep`"));
        }
        Ok(())
    }

    fn sample(&mut self, sample: &ScrapedSample<'_>) {
        self.samples += 1;
        // The limit is checked after each piece.
        if self.points.len() > MOST_KEPT {
            return;
        }
        let mut hasher = DefaultHasher::new();
        (sample.name, sample.labels.as_str()).hash(&mut hasher);
        let hash = hasher.finish();
        let fate = match self.known.get(&hash) {
            Some((fate, _)) => *fate,
            None => self.decide(sample),
        };
        self.known.insert(hash, (fate, self.scrape));
        match fate {
            Fate::Kept(series) => self.points.push((series, sample.value)),
            Fate::NotWanted => {}
            Fate::Refused => self.refused += 1,
        }
    }

    fn decide(&mut self, sample: &ScrapedSample<'_>) -> Fate {
        let suffix = self.family.suffix_of(sample.name);
        let family = suffix.map(|_| &*self.family.name);
        if !self.keep.has(sample.name, family) {
            return Fate::NotWanted;
        }
        let metric_type = suffix.map_or(MetricType::Unknown, |suffix| self.family.metric_type(suffix));
        let help = suffix.map_or("", |_| &self.family.help);
        let labels: Vec<_> = sample.labels.iter().collect();
        let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        let define = if self.honor_labels { series::define_keeping_labels } else { series::define };
        match define(sample.name, metric_type, help, &labels) {
            Ok(series) => Fate::Kept(series),
            Err(why) => {
                self.refusal.get_or_insert_with(|| match why {
                    DefineError::Invalid(why) => why,
                    DefineError::TooMany(most) => {
                        format!("the plugin has {most} series, as many as metrics.max_series_per_plugin allows")
                    }
                });
                Fate::Refused
            }
        }
    }
}

// === impl Family ===

impl Family {
    /// Returns the family of a metric, anew if the last comment was about another one.
    fn of(&mut self, name: &str) -> &mut Self {
        if self.name != name {
            *self = Self { name: name.to_owned(), ..Self::default() };
        }
        self
    }

    /// Returns what the name of a sample has behind that of the family; none if it is none of the family's.
    fn suffix_of<'s>(&self, sample: &'s str) -> Option<&'s str> {
        const SUFFIXES: [&str; 9] =
            ["", "_total", "_bucket", "_sum", "_count", "_created", "_info", "_gsum", "_gcount"];
        let suffix = sample.strip_prefix(self.name.as_str()).filter(|_| !self.name.is_empty())?;
        SUFFIXES.contains(&suffix).then_some(suffix)
    }

    fn metric_type(&self, suffix: &str) -> MetricType {
        match (self.kind.as_str(), suffix) {
            (_, "_created") => MetricType::Gauge,
            ("counter", "" | "_total") => MetricType::Counter,
            ("gauge" | "info" | "stateset", _) => MetricType::Gauge,
            ("histogram", "_bucket" | "_sum" | "_count") => MetricType::Histogram,
            ("summary", _) => MetricType::Summary,
            _ => MetricType::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_openmetrics::ExpositionFormat;
    use dropsonde_openmetrics::read::read;

    fn keep(json: &str) -> Keep {
        serde_json::from_str(json).unwrap()
    }

    fn scraped(series: &mut KeptSeries, keep: &Keep, exposition: &str) -> KeptScrape {
        let how = ScrapeSettings { keep: keep.clone(), ..ScrapeSettings::of_nothing() };
        let mut scrape = series.begin(&how).unwrap();
        read(exposition.as_bytes(), ExpositionFormat::Text, &mut |line| scrape.take(&line)).unwrap();
        scrape
    }

    /// Returns what is reported of a target after a scrape that ended well.
    fn reported(keep: &Keep, exposition: &str) -> Vec<(String, f64)> {
        let mut series = KeptSeries::default();
        let scrape = scraped(&mut series, keep, exposition);
        assert_eq!(series.end("web-1", scrape, true, 5.0), None);
        series::reported("web-1")
    }

    const EXPOSITION: &str = "# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"1\"} 3\na_total{x=\"2\"} 4\n\
                              # TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\nh_sum 1.5\nh_count 2\nother 7\n";

    #[test]
    fn all_samples_are_kept_or_those_of_metrics_that_a_pattern_names() {
        let names = |json: &str| -> Vec<String> {
            let names = reported(&keep(json), EXPOSITION).into_iter().map(|(series, _)| series);
            names.filter(|series| !series.starts_with("scrape_") && series != "up").collect()
        };
        assert_eq!(names(r#""all""#).len(), 6);
        assert_eq!(names(r#"["a_*"]"#), ["a_total{x=\"1\"}", "a_total{x=\"2\"}"]);
        assert_eq!(names(r#"["h"]"#), ["h_bucket{le=\"+Inf\"}", "h_sum", "h_count"], "the name of a histogram");
        assert_eq!(names(r#"["h_s?m", "oth*"]"#), ["h_sum", "other"]);
        assert_eq!(names(r#"["b"]"#), [""; 0]);
        assert_eq!((keep("[]"), keep(r#""none""#)), (Keep::Nothing, Keep::Nothing));
        assert!(KeptSeries::default().begin(&ScrapeSettings::of_nothing()).is_none());
    }

    #[test]
    fn a_scrape_is_told_of_as_prometheus_does_and_a_failed_one_ends_the_other_series() {
        let (all, mut series) = (keep(r#""all""#), KeptSeries::default());
        let scrape = scraped(&mut series, &all, "a 1\nb 2\n");
        series.end("web-1", scrape, true, 5.0);
        let expected = [("a", 1.0), ("b", 2.0), ("up", 1.0), ("scrape_duration_seconds", 0.005)]
            .into_iter()
            .chain([("scrape_samples_scraped", 2.0)]);
        let expected: Vec<(String, f64)> = expected.map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(series::reported("web-1"), expected);
        series.repeat("web-1");
        assert_eq!(series::reported("web-1"), expected);
        let scrape = scraped(&mut series, &all, "a 1\n");
        series.end("web-1", scrape, false, 9.0);
        let expected = [("up".to_owned(), 0.0), ("scrape_duration_seconds".to_owned(), 0.009)];
        assert_eq!(series::reported("web-1"), expected);
    }

    #[test]
    fn types_are_those_of_the_comments_before_the_samples() {
        let of = |kind: &str, sample: &str| {
            let family = Family { name: "m".to_owned(), kind: kind.to_owned(), help: String::new() };
            family.suffix_of(sample).map(|suffix| family.metric_type(suffix))
        };
        assert_eq!(of("counter", "m_total"), Some(MetricType::Counter));
        assert_eq!(of("counter", "m_created"), Some(MetricType::Gauge));
        assert_eq!(of("gauge", "m"), Some(MetricType::Gauge));
        assert_eq!(of("histogram", "m_bucket"), Some(MetricType::Histogram));
        assert_eq!(of("summary", "m"), Some(MetricType::Summary));
        assert_eq!(of("untyped", "m"), Some(MetricType::Unknown));
        assert_eq!((of("gauge", "m_other"), of("gauge", "n")), (None, None));
    }

    #[test]
    fn why_samples_are_not_kept_stays_the_same_from_scrape_to_scrape() {
        let mut series = KeptSeries::default();
        let how = ScrapeSettings { keep: Keep::All, ..ScrapeSettings::of_nothing() };
        let mut told = |refused, why: Option<&str>| {
            let mut scrape = series.begin(&how).unwrap();
            scrape.refused = refused;
            scrape.refusal = scrape.refusal.or(why.map(str::to_owned));
            series.end("web-1", scrape, true, 1.0)
        };
        let expected = Some("2 samples are not kept, the first because of a rule".to_owned());
        assert_eq!((told(2, Some("of a rule")), told(2, None)), (expected.clone(), expected));
        assert_eq!(told(0, None), None, "the host takes them all");
        assert_eq!(
            told(1, Some("of a limit")).as_deref(),
            Some("1 samples are not kept, the first because of a limit")
        );
    }

    #[test]
    fn a_target_of_too_many_samples_is_refused() {
        let mut series = KeptSeries::default();
        let lines: String = (0..=MOST_KEPT).map(|_| "a 1\n").collect();
        let scrape = scraped(&mut series, &keep(r#""all""#), &lines);
        assert!(scrape.check().unwrap_err().contains("more than 50000 samples to keep"));
    }

    #[test]
    fn keep_that_is_none_of_its_forms_is_refused() {
        for json in [r#""some""#, "7", "[7]", r#"{"a": 1}"#] {
            assert!(serde_json::from_str::<Keep>(json).is_err(), "{json}");
        }
    }
}
