//! Presets: mappings for expositions that many programs have. Where programs name the same thing differently, a field
//! has a list of selectors, and the first that finds series is used.

use mapping::MappingConfig;

/// Names and mappings.
const PRESETS: [(&str, &str); 4] = [
    ("http-server", include_str!("presets/http-server.json")),
    ("reverse-proxy", include_str!("presets/reverse-proxy.json")),
    ("process", include_str!("presets/process.json")),
    ("node", include_str!("presets/node.json")),
];

/// Returns a preset; an error with the names of all if there is none of this name.
pub(crate) fn preset(name: &str) -> Result<MappingConfig, String> {
    let Some((_, json)) = PRESETS.iter().find(|(other, _)| *other == name) else {
        let names: Vec<_> = PRESETS.iter().map(|(name, _)| *name).collect();
        return Err(format!("there is no preset {name:?}; there are {}", names.join(", ")));
    };
    serde_json::from_str(json).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mapping::Mapping;

    #[test]
    fn every_preset_is_a_valid_mapping() {
        for (name, _) in PRESETS {
            let mapping = Mapping::new(&preset(name).unwrap()).unwrap();
            assert!(mapping.fields.len() >= 4, "{name}");
        }
        assert!(preset("web").unwrap_err().contains("http-server, reverse-proxy, process, node"));
    }

    #[test]
    fn the_preset_of_a_reverse_proxy_has_the_four_fields_of_a_hosts_history() {
        let names: Vec<String> = preset("reverse-proxy").unwrap().into_keys().collect();
        assert_eq!(names, ["active_backends", "error_rate", "p99_ms", "requests_sec"]);
    }
}
