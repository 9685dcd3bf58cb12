use super::*;
use proptest::prelude::*;

/// A host with two series of the metric `up`.
struct Host;

impl Surroundings for Host {
    fn query(&self, expression: &str) -> Result<Vec<Sample>, String> {
        let sample = |instance: &str, value| Sample {
            labels: BTreeMap::from([("__name__".into(), "up".into()), ("instance".into(), instance.into())]),
            value,
        };
        match expression {
            "up" => Ok(vec![sample("b:80", 2.0), sample("a:80", 1.0)]),
            "nothing" => Ok(Vec::new()),
            other => Err(format!("cannot read {other}")),
        }
    }

    fn now_ms(&self) -> i64 {
        1_435_065_584_128
    }

    fn external_url(&self) -> &str {
        "http://host:9090/path"
    }
}

fn expand(text: &str) -> Result<String, String> {
    let template = Template::parse(text).map_err(|error| error.why)?;
    let variables = Variables {
        labels: BTreeMap::from([("instance".into(), "web-1.example:9090".into()), ("job".into(), "a\"<b>".into())]),
        value: 1_234_567.5,
        external_labels: BTreeMap::from([("region".into(), "north".into())]),
    };
    template.expand(&variables, &Host).map_err(|error| error.why)
}

#[test]
fn actions_write_values_and_texts_stay_as_they_are() {
    for (text, expected) in [
        ("plain text", "plain text"),
        ("{{ $labels.instance }} of {{ .Labels.job }}", "web-1.example:9090 of a\"<b>"),
        ("{{ $value }} {{ .Value }}", "1.2345675e+06 1.2345675e+06"),
        ("{{ $labels.missing }}|", "|"),
        ("{{ $externalLabels.region }} {{ $externalURL }}", "north http://host:9090/path"),
        ("a {{- \" b \" -}} c", "a b c"),
        ("a\n{{- /* nothing */ -}}\n b", "ab"),
        (
            "{{ 1 }} {{ 1.50 }} {{ 1e6 }} {{ 0x1F }} {{ -3 }} {{ 'a' }} {{ true }} {{ `raw\\n` }}",
            "1 1.5 1e+06 31 -3 97 true raw\\n",
        ),
        ("{{ \"tab\\t\\u00e9\\x41\" }}", "tab\téA"),
        ("{{ $x := 1 }}{{ $x = 2 }}{{ $x }}", "2"),
        ("{{ (query \"up\" | first).Labels.instance }}", "b:80"),
        ("{{ $labels }}", "map[instance:web-1.example:9090 job:a\"<b>]"),
        ("{{ \"}}\" }}", "}}"),
    ] {
        assert_eq!(expand(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn conditions_and_ranges_choose_and_repeat() {
    for (text, expected) in [
        ("{{ if gt $value 5.0 }}high{{ else }}low{{ end }}", "high"),
        ("{{ if eq $labels.job \"x\" }}1{{ else if match \"web-.*\" $labels.instance }}2{{ else }}3{{ end }}", "2"),
        ("{{ if and true (not false) 0 }}yes{{ else }}no{{ end }}", "no"),
        ("{{ or \"\" 0 \"last\" }} {{ and 1 \"\" 2 }}|", "last |"),
        ("{{ with $labels.job }}[{{ . }}]{{ end }}{{ with $labels.missing }}x{{ else }}none{{ end }}", "[a\"<b>]none"),
        ("{{ range query \"up\" }}{{ .Labels.instance }}={{ .Value }};{{ end }}", "b:80=2;a:80=1;"),
        (
            "{{ range $nth, $s := query \"up\" | sortByLabel \"instance\" }}{{ $nth }}{{ $s | value }} {{ end }}",
            "01 12 ",
        ),
        ("{{ range query \"nothing\" }}x{{ else }}none{{ end }}", "none"),
        ("{{ range $name, $text := $labels }}{{ $name }} {{ end }}", "instance job "),
        ("{{ range query \"up\" }}{{ if eq .Value 2.0 }}{{ continue }}{{ end }}{{ .Value }}{{ break }}{{ end }}", "1"),
        ("{{ $sum := 0 }}{{ range 3 }}{{ $sum = . }}{{ end }}{{ $sum }}", "2"),
        ("{{ if true }}{{ $x := 5 }}{{ $x }}{{ end }}", "5"),
    ] {
        assert_eq!(expand(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn functions_are_those_of_prometheus() {
    for (text, expected) in [
        ("{{ query \"up\" | first | value }}", "2"),
        ("{{ query \"up\" | first | label \"instance\" }}", "b:80"),
        ("{{ reReplaceAll \"([a-z]+)-1\\\\.(.*)\" \"$2/$1\" $labels.instance }}", "example:9090/web"),
        (
            "{{ $labels.instance | stripPort }} {{ $labels.instance | stripDomain }} {{ stripDomain \"127.0.0.1:80\" }} {{ stripPort \"[::1]:80\" }}",
            "web-1.example web-1:9090 127.0.0.1:80 ::1",
        ),
        ("{{ title \"it's a-b c_d\" }} {{ toUpper \"aé\" }} {{ toLower \"AÉ\" }}", "It'S A-B C_d AÉ aé"),
        ("{{ len \"abc\" }} {{ len $labels }} {{ index $labels \"job\" }} {{ slice \"abcd\" 1 3 }}", "3 2 a\"<b> bc"),
        ("{{ print 1 2 \"a\" 3 }} {{ println 1 \"a\" }}", "1 2a3 1 a\n"),
        (
            "{{ html \"<a & 'b'>\" }} {{ urlquery \"a b&c\" }} {{ urlQueryEscape \"a/b\" }}",
            "&lt;a &amp; &#39;b&#39;&gt; a+b%26c a%2Fb",
        ),
        (
            "{{ graphLink \"up == 1\" }} {{ tableLink \"up\" }}",
            "/graph?g0.expr=up+%3D%3D+1&g0.tab=0 /graph?g0.expr=up&g0.tab=1",
        ),
        ("{{ with args 1 \"b\" }}{{ .arg0 }}{{ .arg1 }}{{ end }}", "1b"),
        ("{{ eq 1 2 1 }} {{ ne \"a\" \"b\" }} {{ lt 1.5 2.5 }} {{ ge \"b\" \"a\" }}", "true true true true"),
        (
            "{{ parseDuration \"1h30m\" }} {{ now }} {{ externalURL }} {{ pathPrefix }}",
            "5400 1.435065584128e+09 http://host:9090/path /path",
        ),
        ("{{ 1435065584.128 | toTime }} {{ toDuration 3661.5 }}", "2015-06-23 13:19:44.128 +0000 UTC 1h1m1.5s"),
    ] {
        assert_eq!(expand(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn numbers_are_written_for_people() {
    for (function, cases) in [
        (
            "humanize",
            &[
                ("0.0", "0"),
                ("1.0", "1"),
                ("1234567.0", "1.235M"),
                (".12", "120m"),
                ("\"1e-5\"", "10u"),
                ("\"+Inf\"", "+Inf"),
            ][..],
        ),
        ("humanize1024", &[("0.0", "0"), ("1.0", "1"), ("1048576.0", "1Mi"), (".12", "0.12"), ("1024", "1ki")]),
        (
            "humanizeDuration",
            &[
                ("0", "0s"),
                ("1.0", "1s"),
                ("60", "1m 0s"),
                ("3600", "1h 0m 0s"),
                ("90000", "1d 1h 0m 0s"),
                ("-183845.0", "-2d 3h 4m 5s"),
                ("899.99", "14m 59s"),
                (".12345", "123.5ms"),
                (".0001", "100us"),
                ("1.2345", "1.234s"),
            ],
        ),
        (
            "humanizePercentage",
            &[("-0.22222", "-22.22%"), ("0.0", "0%"), ("0.1234567", "12.35%"), ("1.23456", "123.5%")],
        ),
        (
            "humanizeTimestamp",
            &[("1435065584.128", "2015-06-23 13:19:44.128 +0000 UTC"), ("0", "1970-01-01 00:00:00 +0000 UTC")],
        ),
    ] {
        for (value, expected) in cases {
            let text = format!("{{{{ {function} {value} }}}}");
            assert_eq!(expand(&text).as_deref(), Ok(*expected), "{text}");
        }
    }
}

#[test]
fn formats_are_those_of_go() {
    for (arguments, expected) in [
        ("\"%.2f %5.1f|%-6s|%6s|\" 1.005 2.25 \"ab\" \"cd\"", "1.00   2.2|ab    |    cd|"),
        ("\"%d %05d %+d %x %t %%\" 7 42 3 255 true", "7 00042 +3 ff true %"),
        ("\"%v %v %v %s\" 1.0 \"a\" 1000000.0 \"b\"", "1 a 1e+06 b"),
        ("\"%e %g %.3g\" 123456.0 0.00001 1234.5", "1.234560e+05 1e-05 1.23e+03"),
        ("\"%q\" \"a\\\"b\"", "\"a\\\"b\""),
        ("\"%d\" 1.5", "%!d(float64=1.5)"),
        ("\"%s\" 1.5", "%!s(float64=1.5)"),
        ("\"%d %d\" 1", "1 %!d(MISSING)"),
        ("\"%d\" 1 \"x\"", "1%!(EXTRA string=x)"),
    ] {
        let text = format!("{{{{ printf {arguments} }}}}");
        assert_eq!(expand(&text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn mistakes_are_found_when_a_template_is_read() {
    for (text, why) in [
        ("{{", "unclosed action"),
        ("{{ }}", "missing value"),
        ("{{ $x }}", "undefined variable \"$x\""),
        ("{{ if true }}{{ $x := 1 }}{{ end }}{{ $x }}", "undefined variable"),
        ("{{ nope 1 }}", "function \"nope\" not defined"),
        ("{{ if true }}", "has no {{end}}"),
        ("{{ end }}", "unexpected {{end}}"),
        ("{{ break }}", "outside {{range}}"),
        ("{{ \"abc }}", "unclosed action"),
        ("{{ 1x }}", "bad number"),
        ("{{ (1 }}", "unclosed left paren"),
        ("{{ nil }}", "nil is not a command"),
        ("{{ template \"x\" }}", "not supported"),
        ("{{ if true }}{{ else }}{{ else }}{{ end }}", "expected end"),
    ] {
        let found = Template::parse(text).map(|_| ()).map_err(|error| error.to_string());
        assert!(found.as_ref().is_err_and(|found| found.contains(why)), "{text}: {found:?}");
    }
}

#[test]
fn what_cannot_be_computed_says_why() {
    for (text, why) in [
        ("{{ .Nope }}", "there is no field Nope"),
        ("{{ query \"broken\" }}", "error calling query: cannot read broken"),
        ("{{ query \"nothing\" | first }}", "no elements"),
        ("{{ humanize \"abc\" }}", "not a number"),
        ("{{ eq 1 \"a\" }}", "incompatible types"),
        ("{{ \"a\" | \"b\" }}", "can't give argument to non-function"),
        ("{{ toUpper 1 }}", "expected string; got int"),
        ("{{ reReplaceAll \"(\" \"\" \"\" }}", "not a regular expression"),
        ("{{ range $value }}{{ end }}", "can't iterate"),
        ("{{ range 1000 }}{{ range 1000 }}x{{ end }}{{ end }}", "turns"),
    ] {
        let found = expand(text);
        assert!(found.as_ref().is_err_and(|found| found.contains(why)), "{text}: {found:?}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_and_expanded_or_has_a_mistake(
        parts in proptest::collection::vec(prop_oneof![
            Just("{{".to_owned()), Just("}}".to_owned()), Just(" if ".to_owned()), Just(" end ".to_owned()),
            Just(" else ".to_owned()), Just(" range ".to_owned()), Just("$labels".to_owned()), Just(".a".to_owned()),
            Just(" | ".to_owned()), Just("printf \"%5.2f\" ".to_owned()), Just("(".to_owned()), Just(")".to_owned()),
            Just(" $x := ".to_owned()), Just("-".to_owned()), Just("query \"up\"".to_owned()), any::<String>(),
        ], 0..24),
    ) {
        let _ = expand(&parts.concat());
    }
}
