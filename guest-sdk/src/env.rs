//! Environment variables of the host that the operator granted. Natively, all variables of the process.

/// Returns the value of a variable. None if it is not granted or not set.
pub fn var(name: &str) -> Option<String> {
    #[cfg(target_family = "wasm")]
    {
        let all = wasip2::cli::environment::get_environment();
        all.into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }
    #[cfg(not(target_family = "wasm"))]
    std::env::var(name).ok()
}
