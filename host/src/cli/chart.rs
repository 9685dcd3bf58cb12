//! Draws series with characters.

use std::fmt::Write as _;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Height of a large chart, in rows.
const HEIGHT: usize = 12;

/// Returns the number of columns of the terminal; 80 if standard output is not a terminal.
pub(super) fn width() -> usize {
    let window = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    window.map(|window| usize::from(window.ws_col)).filter(|&columns| columns > 0).unwrap_or(80)
}

/// Draws one line per row: name, lowest, highest and last value, and the course of the values. `head` says what the
/// names are.
pub(super) fn lines(head: &str, rows: &[(&str, Vec<Option<f64>>)], width: usize) -> String {
    let names = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(head.len());
    let columns = width.saturating_sub(names + 3 * 11 + 2).max(10);
    let mut drawn = format!("{head:<names$} {:>10} {:>10} {:>10}\n", "LOWEST", "HIGHEST", "LAST");
    for (name, values) in rows {
        let Some((low, high)) = extent(values) else { continue };
        let last = values.iter().rev().find_map(|value| *value).unwrap_or(f64::NAN);
        let course: String = fit(values, columns).into_iter().map(|value| bar(value, low, high)).collect();
        let [low, high, last] = [low, high, last].map(short);
        let _ = writeln!(drawn, "{name:<names$} {low:>10} {high:>10} {last:>10}  {course}");
    }
    drawn
}

/// Draws one field as a large chart with a scale. Gaps stay empty.
pub(super) fn chart(name: &str, values: &[Option<f64>], width: usize) -> String {
    const SCALE: usize = 11;
    let Some((low, high)) = extent(values) else { return format!("{name} has no values\n") };
    let values = fit(values, width.saturating_sub(SCALE + 1).max(10));
    let mut drawn = format!("{name}\n");
    for row in (0..HEIGHT).rev() {
        let level = low + (high - low) * row as f64 / (HEIGHT - 1) as f64;
        let labelled = row == HEIGHT - 1 || row == 0 || row == HEIGHT / 2;
        let label = if labelled { short(level) } else { String::new() };
        let cells: String = values.iter().map(|value| cell(*value, low, high, row)).collect();
        let _ = writeln!(drawn, "{label:>10} │{}", cells.trim_end());
    }
    drawn
}

/// Returns the part of a column's bar that is in one row of a large chart.
fn cell(value: Option<f64>, low: f64, high: f64, row: usize) -> char {
    let Some(value) = value else { return ' ' };
    let eighths = (share(value, low, high) * (HEIGHT * BARS.len() - 1) as f64).round() as usize + 1;
    match eighths.saturating_sub(row * BARS.len()) {
        0 => ' ',
        filled => BARS.get(filled - 1).copied().unwrap_or('█'),
    }
}

fn bar(value: Option<f64>, low: f64, high: f64) -> char {
    let Some(value) = value else { return ' ' };
    let step = (share(value, low, high) * (BARS.len() - 1) as f64).round() as usize;
    BARS.get(step).copied().unwrap_or('█')
}

/// Returns where `value` lies between `low` and `high`, 0 to 1; 0 if those two are equal.
fn share(value: f64, low: f64, high: f64) -> f64 {
    if high > low { ((value - low) / (high - low)).clamp(0.0, 1.0) } else { 0.0 }
}

/// Reduces values to at most `columns`, by the mean of the values in each column.
fn fit(values: &[Option<f64>], columns: usize) -> Vec<Option<f64>> {
    if values.len() <= columns {
        return values.to_vec();
    }
    let part = |column: usize| {
        let (from, to) = (column * values.len() / columns, (column + 1) * values.len() / columns);
        let present: Vec<f64> = values.get(from..to).unwrap_or_default().iter().copied().flatten().collect();
        (!present.is_empty()).then(|| present.iter().sum::<f64>() / present.len() as f64)
    };
    (0..columns).map(part).collect()
}

fn extent(values: &[Option<f64>]) -> Option<(f64, f64)> {
    let mut present = values.iter().copied().flatten();
    let first = present.next()?;
    Some(present.fold((first, first), |(low, high), value| (low.min(value), high.max(value))))
}

/// Formats a number with at most two decimals; large ones in thousands (k), millions (M) or billions (G).
pub(super) fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        size if size >= 1e10 => (value / 1e9, "G"),
        size if size >= 1e7 => (value / 1e6, "M"),
        size if size >= 1e5 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{scaled:.2}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_chart_scales_from_lowest_to_highest_and_leaves_gaps_empty() {
        let drawn = lines("FIELD", &[("x", vec![Some(0.0), None, Some(7.0), Some(3.5)])], 80);
        assert!(drawn.ends_with("▁ █▅\n"), "{drawn}");
    }

    #[test]
    fn points_beyond_the_number_of_columns_are_averaged() {
        let values: Vec<_> = (0..1000).map(|i| Some(f64::from(i))).collect();
        let fitted = fit(&values, 10);
        assert_eq!((fitted.len(), fitted[0], fitted[9]), (10, Some(49.5), Some(949.5)));
    }

    #[test]
    fn a_large_chart_draws_the_highest_value_at_the_top_and_the_lowest_at_the_bottom() {
        let drawn = chart("x", &[Some(10.0), Some(0.0)], 40);
        let rows: Vec<_> = drawn.lines().collect();
        assert_eq!(rows.len(), 1 + HEIGHT);
        assert_eq!((rows[1], rows[HEIGHT]), ("        10 │█", "         0 │█▁"));
        assert_eq!(chart("x", &[None], 40), "x has no values\n");
    }

    #[test]
    fn large_numbers_are_shortened_with_a_unit() {
        assert_eq!([short(0.0), short(12.345), short(123_456.0), short(2e10)], ["0", "12.35", "123.46k", "20G"]);
    }
}
