use clap::ValueEnum;
use std::io::IsTerminal as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{EnvFilter, LevelFilter, ParseError};
use tracing_subscriber::registry::LookupSpan;

/// How lines look, and which there are.
#[derive(Debug, Clone)]
pub struct LogOptions {
    pub format: Format,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives as `info,dropsonde::plugins=debug`.
    pub level: String,
}

/// What a line looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// An object per line
    Json,
}

/// Why a level means nothing.
#[derive(Debug, thiserror::Error)]
pub enum BadLevel {
    #[error("{0:?} is no level: error, warn, info, debug, trace or off")]
    Word(String),
    #[error(transparent)]
    Directive(#[from] ParseError),
}

/// They would show what guests write, whatever its length, or each request to a collector.
const QUIET: [&str; 4] = ["wasmtime=warn", "wasmtime_wasi=warn", "wasmtime_wasi_http=warn", "hyper_util=warn"];

impl LogOptions {
    /// Which lines there are. Directives that mean nothing are an error, and so is a word that is no level: as the name of a
    /// target it would silence everything else.
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
        // A line that cannot be written is no reason to write another, which would panic.
        let lines = tracing_subscriber::fmt::layer().log_internal_errors(false);
        let lines = lines.with_writer(std::io::stderr).with_target(false);
        let filter = Self::filter(&self.level).unwrap_or_else(|_| EnvFilter::new("info"));
        match self.format {
            Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed(),
            Format::Json => {
                lines.with_target(true).json().flatten_event(true).with_span_list(false).with_filter(filter).boxed()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_a_word_or_directives_and_nonsense_is_an_error() {
        assert!(LogOptions::filter("debug").is_ok());
        assert!(LogOptions::filter("info,plugin=trace").is_ok());
        for nonsense in ["dropsonde=loud", "warning", "info,verbose"] {
            assert!(LogOptions::filter(nonsense).is_err(), "{nonsense}");
        }
    }
}
