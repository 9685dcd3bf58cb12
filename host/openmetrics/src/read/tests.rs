use super::*;
use crate::{ExpositionText, FamilyKind, label_text};
use proptest::prelude::*;

/// A sample with everything unescaped: name, labels, value, time.
type Owned = (String, Vec<(String, String)>, f64, Option<i64>);

fn samples_of(text: &str, format: ExpositionFormat) -> Result<Vec<Owned>, ReadError> {
    let mut samples = Vec::new();
    read(text.as_bytes(), format, &mut |line| {
        if let ExpositionLine::Sample(ScrapedSample { name, labels, value, at_ms }) = line {
            let labels = labels.iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
            samples.push((name.to_owned(), labels, value, at_ms));
        }
    })?;
    Ok(samples)
}

fn one(line: &str) -> Owned {
    samples_of(line, ExpositionFormat::Text).unwrap().remove(0)
}

fn why(text: &str, format: ExpositionFormat) -> LineFault {
    samples_of(text, format).unwrap_err().why
}

fn owned(labels: &[(&str, &str)]) -> Vec<(String, String)> {
    labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_sample_has_a_name_labels_a_value_and_perhaps_a_time() {
    assert_eq!(one("up 1"), ("up".to_owned(), owned(&[]), 1.0, None));
    assert_eq!(one("up{} 1"), ("up".to_owned(), owned(&[]), 1.0, None));
    assert_eq!(one("up{a=\"b\"}1"), ("up".to_owned(), owned(&[("a", "b")]), 1.0, None));
    assert_eq!(
        one("\t up { a = \"b\" , c=\"\" , } \t -2.5e3  1700000000000 "),
        ("up".to_owned(), owned(&[("a", "b"), ("c", "")]), -2500.0, Some(1_700_000_000_000))
    );
    assert_eq!(one("a:b_1{l=\"x\"} 0.1").0, "a:b_1");
}

#[test]
fn escapes_stand_for_backslash_quote_and_newline_and_nothing_else() {
    let labels = one(r#"up{a="\\ \" \n \x }{,=",b="ä"} 1"#).1;
    assert_eq!(labels, owned(&[("a", "\\ \" \n \\x }{,="), ("b", "ä")]));
}

#[test]
fn names_in_quotes_stand_first_among_the_labels() {
    assert_eq!(
        one(r#"{"my.metric","a.b"="c",d="e"} 1"#),
        ("my.metric".to_owned(), owned(&[("a.b", "c"), ("d", "e")]), 1.0, None)
    );
    for wrong in [r#"up{"my.metric"} 1"#, r#"{"a","b"} 1"#, "{} 1", r#"{a="b"} 1"#] {
        assert!(samples_of(wrong, ExpositionFormat::Text).is_err(), "{wrong}");
    }
}

#[test]
fn numbers_are_read_as_go_writes_them() {
    for (text, number) in [
        ("0", 0.0),
        ("-0", -0.0),
        ("+3", 3.0),
        ("123456789012345", 123_456_789_012_345.0),
        ("1234567890123456789", 1_234_567_890_123_456_789.0),
        ("1.7976931348623157e+308", f64::MAX),
        ("4.9E-324", 5e-324),
        (".5", 0.5),
        ("+Inf", f64::INFINITY),
        ("-Inf", f64::NEG_INFINITY),
        ("inf", f64::INFINITY),
    ] {
        assert_eq!(one(&format!("up {text}")).2, number, "{text}");
    }
    assert!(one("up NaN").2.is_nan());
    for wrong in ["", "x", "0x10", "1_000", "1e", "--1", "1,0", "١"] {
        assert_eq!(why(&format!("up {wrong}"), ExpositionFormat::Text), LineFault::Value, "{wrong}");
    }
}

#[test]
fn comments_say_kind_help_and_unit_and_others_mean_nothing() {
    let mut lines = Vec::new();
    let text = "# TYPE a counter\n# HELP a What it \\n is.\n#  UNIT\ta seconds\n# EOF\n# a comment\n#\n\n \n# TYPE \"b.c\" gauge\n";
    read(text.as_bytes(), ExpositionFormat::Text, &mut |line| lines.push(format!("{line:?}"))).unwrap();
    assert_eq!(
        lines,
        [
            r#"Kind { name: "a", kind: "counter" }"#,
            r#"Help { name: "a", text: "What it \\n is." }"#,
            r#"Unit { name: "a", unit: "seconds" }"#,
            r#"Kind { name: "b.c", kind: "gauge" }"#,
        ]
    );
    assert_eq!(why("# TYPE a\n", ExpositionFormat::Text), LineFault::Comment);
    assert_eq!(why("# TYPE a-b counter\n", ExpositionFormat::Text), LineFault::Name);
}

#[test]
fn openmetrics_has_times_in_seconds_exemplars_and_an_end() {
    let text = "a_total 1 1.5 # {trace_id=\"x\"} 0.5 1\nb_bucket{le=\"+Inf\"} 2 # {} 1\n# EOF\n";
    let samples = samples_of(text, ExpositionFormat::OpenMetrics).unwrap();
    assert_eq!((samples.len(), samples[0].3, samples[1].2), (2, Some(1500), 2.0));
    assert_eq!(why("a 1\n", ExpositionFormat::OpenMetrics), LineFault::NoEnd);
    assert_eq!(why("a 1\n# EOF\nb 1\n", ExpositionFormat::OpenMetrics), LineFault::AfterEnd);
    assert_eq!(why("a 1 x\n# EOF\n", ExpositionFormat::OpenMetrics), LineFault::Time);
    assert_eq!(why("a 1 # {x=\"y\"} 1\n", ExpositionFormat::Text), LineFault::Rest, "only OpenMetrics has exemplars");
}

#[test]
fn a_mistake_is_named_with_its_line() {
    for (text, line, kind) in [
        ("a 1\nb\n", 2, LineFault::Name),
        ("a 1\n1a 2\n", 2, LineFault::Name),
        ("a{b=\"c\" 1", 1, LineFault::Labels),
        ("a{b=c} 1", 1, LineFault::Labels),
        ("a{b=\"c} 1", 1, LineFault::Labels),
        ("a{=\"c\"} 1", 1, LineFault::Labels),
        ("a{b:c=\"d\"} 1", 1, LineFault::Labels),
        ("a{b=\"c\"d=\"e\"} 1", 1, LineFault::Labels),
        ("a{,} 1", 1, LineFault::Labels),
        ("a 1 1.5", 1, LineFault::Time),
        ("a 1 1 1", 1, LineFault::Rest),
        ("a 1\r\n", 1, LineFault::Value),
    ] {
        let error = samples_of(text, ExpositionFormat::Text).unwrap_err();
        assert_eq!((error.line, error.why), (line, kind), "{text}");
    }
    let cut = read(b"a{b=\"\xff\"} 1", ExpositionFormat::Text, &mut |_| {}).unwrap_err();
    assert_eq!(cut.to_string(), "line 1: it is not UTF-8");
}

#[test]
fn a_line_without_an_end_does_not_fill_memory() {
    let mut reader = ExpositionReader::new(ExpositionFormat::Text);
    let error = (0..).find_map(|_| reader.push(&[b'a'; 1000], &mut |_| {}).err()).unwrap();
    assert_eq!((error.why, reader.partial.len() <= LONGEST), (LineFault::TooLong, true));
}

#[test]
fn what_this_crate_writes_is_read_back() {
    for format in [ExpositionFormat::Text, ExpositionFormat::OpenMetrics] {
        let mut text = ExpositionText::new(format);
        text.family("requests_total", "Requests.", FamilyKind::Counter);
        text.sample(&["requests_total"], &[&label_text("path", "/\"a\\\n")], 3.0);
        text.end();
        let samples = samples_of(std::str::from_utf8(&text.bytes).unwrap(), format).unwrap();
        assert_eq!(samples, [("requests_total".to_owned(), owned(&[("path", "/\"a\\\n")]), 3.0, None)]);
    }
}

proptest! {
    #[test]
    fn pieces_of_any_size_give_the_same_lines(
        text in r#"((a|b_total)(\{(x="[^"\\\n]{0,3}",?)?\})? -?[0-9]{1,18}(\.[0-9])?( 17)?\n|# (TYPE|HELP) a x\n|\n){0,8}"#,
        sizes in prop::collection::vec(1_usize..9, 1..40),
    ) {
        let (mut whole, mut pieces) = (Vec::new(), Vec::new());
        let expected = read(text.as_bytes(), ExpositionFormat::Text, &mut |line| whole.push(format!("{line:?}")));
        let mut take = |line: ExpositionLine<'_>| pieces.push(format!("{line:?}"));
        let mut reader = ExpositionReader::new(ExpositionFormat::Text);
        let (mut rest, mut sizes) = (text.as_bytes(), sizes.iter().cycle());
        let mut result = Ok(());
        while !rest.is_empty() && result.is_ok() {
            let (piece, others) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            result = reader.push(piece, &mut take);
            rest = others;
        }
        prop_assert_eq!(result.and_then(|()| reader.finish(&mut take)), expected);
        prop_assert_eq!(pieces, whole);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut take = |line: ExpositionLine<'_>| if let ExpositionLine::Sample(sample) = line { sample.labels.iter().for_each(drop) };
        let _ = read(&bytes, ExpositionFormat::Text, &mut take);
    }

    #[test]
    fn any_line_of_the_grammars_characters_is_read_or_refused(line in r#"[ab"\\{},= #1\n\t]{0,40}"#) {
        let mut take = |line: ExpositionLine<'_>| if let ExpositionLine::Sample(sample) = line { sample.labels.iter().for_each(drop) };
        let _ = read(line.as_bytes(), ExpositionFormat::OpenMetrics, &mut take);
    }
}
