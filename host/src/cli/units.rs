//! Units of fields, by the ends of their names.

/// Endings of names with their units, the longer ones first.
const ENDINGS: [(&str, &str); 13] = [
    ("_bytes_per_sec", "bytes/s"),
    ("_mb_per_sec", "MiB/s"),
    ("_per_second", "/s"),
    ("_per_sec", "/s"),
    ("_percent", "%"),
    ("_pct", "%"),
    ("_ratio", ""),
    ("_bytes", "bytes"),
    ("_mb", "MiB"),
    ("_seconds", "s"),
    ("_ms", "ms"),
    ("_celsius", "°C"),
    ("_mhz", "MHz"),
];

/// Returns the unit of a field; empty if its name does not say one.
pub(super) fn of(field: &str) -> &'static str {
    ENDINGS.iter().find(|(ending, _)| field.ends_with(ending)).map_or("", |(_, unit)| unit)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_end_of_a_name_is_its_unit() {
        let of = super::of;
        assert_eq!((of("cpu_percent"), of("memory_used_mb"), of("disk_read_bytes_per_sec")), ("%", "MiB", "bytes/s"));
        assert_eq!((of("load_1m"), of("processes"), of("latency_p95_ms")), ("", "", "ms"));
    }
}
