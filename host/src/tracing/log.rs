use clap::ValueEnum;
use std::io::IsTerminal as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{EnvFilter, LevelFilter, ParseError};
use tracing_subscriber::registry::LookupSpan;

/// Format and level of log lines.
#[derive(Debug, Clone)]
pub struct LogOptions {
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives as `info,dropsonde::plugins=debug`.
    pub level: String,
}

/// The format of a log line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Plain text for people
    #[default]
    Text,
    /// One JSON object per line
    Json,
}

/// The error of an unknown level.
#[derive(Debug, thiserror::Error)]
pub enum BadLevel {
    #[error("unknown level {0:?}: use error, warn, info, debug, trace or off")]
    Word(String),
    #[error(transparent)]
    Directive(#[from] ParseError),
}

/// Directives for libraries that would log guests' output of any length, or each request to a collector.
const QUIET: [&str; 4] = ["wasmtime=warn", "wasmtime_wasi=warn", "wasmtime_wasi_http=warn", "hyper_util=warn"];

impl LogOptions {
    /// Returns the filter for a level. A wrong directive is an error, and so is a word that is not a level: taken as
    /// the name of a target, it would silence everything else.
    pub fn filter(level: &str) -> Result<EnvFilter, BadLevel> {
        let is_level = |word: &str| word.is_empty() || word.contains(['=', '[']) || word.parse::<LevelFilter>().is_ok();
        if let Some(word) = level.split(',').map(str::trim).find(|word| !is_level(word)) {
            return Err(BadLevel::Word(word.to_owned()));
        }
        let filter = EnvFilter::builder().parse(level)?;
        Ok(QUIET.iter().filter_map(|one| one.parse().ok()).fold(filter, EnvFilter::add_directive))
    }

    pub(super) fn layer<S>(&self) -> Box<dyn Layer<S> + Send + Sync>
    where
        S: ::tracing::Subscriber + for<'a> LookupSpan<'a>,
    {
        // If a line cannot be written, a line about that error would panic.
        let lines = tracing_subscriber::fmt::layer().log_internal_errors(false);
        let lines = lines.with_writer(std::io::stderr).with_target(false);
        let filter = Self::filter(&self.level).unwrap_or_else(|_| EnvFilter::new("info"));
        match self.format {
            LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed(),
            LogFormat::Json => {
                lines.with_target(true).json().flatten_event(true).with_span_list(false).with_filter(filter).boxed()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_levels_and_directives_are_accepted_and_unknown_words_are_refused() {
        assert!(LogOptions::filter("debug").is_ok());
        assert!(LogOptions::filter("info,plugin=trace").is_ok());
        for nonsense in ["dropsonde=loud", "warning", "info,verbose"] {
            assert!(LogOptions::filter(nonsense).is_err(), "{nonsense}");
        }
    }
}
