//! Environment variables, granted by name. A plugin cannot see any other variable of the host.

use wasmtime_wasi::WasiCtxBuilder;

#[derive(Debug, Clone, Default)]
pub(crate) struct Env(Vec<String>);

impl Env {
    pub(crate) fn grant(&mut self, name: &str) -> Result<(), String> {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err("it is not the name of an environment variable".to_owned());
        }
        self.0.push(name.to_owned());
        Ok(())
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.0
    }

    /// Passes on the granted variables that are set now and are valid UTF-8.
    pub(crate) fn show(&self, wasi: &mut WasiCtxBuilder) {
        for name in &self.0 {
            if let Ok(value) = std::env::var(name) {
                wasi.env(name, value);
            }
        }
    }
}
