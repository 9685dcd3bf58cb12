use super::*;
use proptest::prelude::*;

const EXPERIMENTAL: ParseOptions = ParseOptions { experimental: true };

fn printed(text: &str) -> String {
    parse(text, EXPERIMENTAL).unwrap_or_else(|error| panic!("{text}: {error}")).to_string()
}

fn refused(text: &str) -> String {
    match parse(text, ParseOptions::default()) {
        Ok(expr) => panic!("{text} was read as {expr}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn an_error_is_short_however_long_the_expression_is() {
    let long = "a".repeat(100_000);
    for text in [format!("{long}(x)"), format!("x[{long}]"), format!("x{{a=~'({long}'}}"), format!("x {long}")] {
        assert!(refused(&text).len() < 500, "{}", refused(&text));
    }
}

#[test]
fn the_regular_expressions_of_an_expression_have_one_limit() {
    let matchers: String = (0..200).map(|nth| format!("a=~'b.+{nth}',")).collect();
    let why = refused(&format!("up{{{matchers}}}"));
    assert!(why.ends_with("the regular expressions are too large together"), "{why}");
}

#[test]
fn expressions_are_printed_as_they_were_meant() {
    for (text, expected) in [
        ("1", "1"),
        ("- 1", "-1"),
        ("1e-7", "0.0000001"),
        ("5m", "5m"),
        ("Inf", "+Inf"),
        ("x + Inf", "x + +Inf"),
        ("x - Inf ^ y", "x - Inf ^ y"),
        ("'a\\'b'", r#""a'b""#),
        ("up", "up"),
        ("{__name__='up'}", r#"{__name__="up"}"#),
        ("up{zone!='b',job=\"a\",}", r#"up{job="a",zone!="b"}"#),
        (r#"{"my.metric","my label"=~"x"}"#, r#"{"my label"=~"x",__name__="my.metric"}"#),
        ("x[5m]", "x[5m]"),
        ("x[300]", "x[5m]"),
        ("x[5m+1m]", "x[5m + 1m]"),
        ("x[(5)]", "x[(5)]"),
        ("x[step()*2:]", "x[step() * 2:]"),
        ("x offset 1m + 1m", "x offset 1m + 1m"),
        ("x offset -(1m)", "x offset -(1m)"),
        ("x @ 1.5 offset 5m", "x @ 1.500 offset 5m"),
        ("x offset 5m @ end()", "x @ end() offset 5m"),
        ("x[5m] @ start()", "x[5m] @ start()"),
        ("rate(x[5m])[1h:1m] offset 1d", "rate(x[5m])[1h:1m] offset 1d"),
        ("SUM BY (a) (x)", "sum by (a) (x)"),
        ("sum(x) without(a,'b c')", r#"sum without (a, "b c") (x)"#),
        ("sum", "sum"),
        ("topk(3,x)", "topk(3, x)"),
        ("-x^2", "-x ^ 2"),
        ("a and b or c", "a and b or c"),
        ("a==bool b", "a == bool b"),
        ("a*on(x)group_left(y)b", "a * on (x) group_left (y) b"),
        ("a + ignoring() group_right b", "a + ignoring () group_right () b"),
        ("a + fill(0) b", "a + fill (0) b"),
        ("a + fill_right(1) fill_left(-2) b", "a + fill_left (-2) fill_right (1) b"),
        ("fill + fill_left", "fill + fill_left"),
        ("(a)", "(a)"),
        ("a # the end", "a"),
        ("histogram_quantile(0.9,x)", "histogram_quantile(0.9, x)"),
    ] {
        assert_eq!(printed(text), expected, "{text}");
        assert_eq!(printed(expected), expected, "printed again");
    }
}

#[test]
fn long_expressions_are_printed_on_several_lines() {
    let long = "sum by (job) (rate(http_requests_total{job=\"api\",code=~\"5..\"}[5m])) / on (job) group_left () \
                (sum by (job) (rate(http_requests_total{job=\"api\"}[5m])))";
    let expected = "  sum by (job) (rate(http_requests_total{code=~\"5..\",job=\"api\"}[5m]))\n\
                    / on (job) group_left ()\n  (sum by (job) (rate(http_requests_total{job=\"api\"}[5m])))";
    assert_eq!(parse(long, EXPERIMENTAL).unwrap().pretty(), expected);
    assert_eq!(parse("1+1", EXPERIMENTAL).unwrap().pretty(), "1 + 1");
}

#[test]
fn operators_bind_as_in_prometheus() {
    let shape = |text: &str| {
        fn shape(expr: &Expr) -> String {
            match &expr.kind {
                ExprKind::Binary { operator, left, right, .. } => {
                    format!("({}{}{})", shape(left), operator.as_str(), shape(right))
                }
                ExprKind::Unary { expr, .. } => format!("(-{})", shape(expr)),
                ExprKind::Parentheses(expr) => shape(expr),
                _ => expr.to_string(),
            }
        }
        shape(&parse(text, EXPERIMENTAL).unwrap())
    };
    for (text, expected) in [
        ("a+b*c", "(a+(b*c))"),
        ("a*b+c", "((a*b)+c)"),
        ("a-b-c", "((a-b)-c)"),
        ("a^b^c", "(a^(b^c))"),
        ("-a^b", "(-(a^b))"),
        ("-a*b", "((-a)*b)"),
        ("a^-b*c", "((a^(-b))*c)"),
        ("a or b and c unless d", "(aor((bandc)unlessd))"),
        ("a==b+c", "(a==(b+c))"),
        ("a atan2 b*c", "((aatan2b)*c)"),
    ] {
        assert_eq!(shape(text), expected, "{text}");
    }
}

#[test]
fn an_error_tells_the_place_and_what_was_expected() {
    for (text, expected) in [
        ("", "1:1: parse error: there is no expression"),
        ("1 +", "1:4: parse error: expected an expression, but the text ends"),
        ("sum(", "1:5: parse error: expected an expression, but the text ends"),
        ("(a", "1:3: parse error: expected an operator or `)`, but the text ends"),
        ("a b", "1:3: parse error: expected an operator or the end of the expression, but found `b`"),
        ("no(a)", "1:1: parse error: there is no function `no`"),
        ("info(a)", "1:1: parse error: joining with info metrics is not supported, so there is no function `info`"),
        ("rate(a)", "1:6: parse error: `rate` takes a range vector, but this is an instant vector"),
        ("rate()", "1:1: parse error: `rate` takes 1 argument(s), but has 0"),
        ("sum(1)", "1:5: parse error: `sum` aggregates an instant vector, but this is a scalar"),
        ("topk(x)", "1:1: parse error: `topk` takes 2 argument(s), but has 1"),
        ("a[5m", "1:5: parse error: expected `:` or `]`, but the text ends"),
        ("a[0]", "1:3: parse error: the duration must be greater than 0"),
        ("a[5x]", "1:3: parse error: `5x` is not a duration such as 5m or 1h30m"),
        ("a offset 5m[5m]", "1:12: parse error: the range must stand before `offset` and `@`"),
        (
            "rate(sum(a)[5m])",
            "1:12: parse error: a range must stand behind a selector; for other expressions write `[5m:]`",
        ),
        ("(a) offset 5m", "1:5: parse error: `offset` must stand behind a selector or a subquery"),
        ("a @ 1 @ 2", "1:7: parse error: `@` is given twice"),
        ("1 == 1", "1:3: parse error: a comparison of scalars must be written `== bool`"),
        ("a + bool b", "1:3: parse error: `bool` can stand only behind a comparison"),
        ("a and 1", "1:1: parse error: `and` works on instant vectors only, not on scalars"),
        ("a\n+ }", "2:3: parse error: expected an expression, but found `}`"),
        ("limitk(1, a)", "1:1: parse error: `limitk` is experimental, and experimental functions are off"),
        ("a[5m] smoothed", "1:7: parse error: the modifiers `anchored` and `smoothed` are not supported"),
        ("a >/ b", "1:3: parse error: native histograms and their operators are not supported"),
    ] {
        assert_eq!(refused(text), expected, "{text}");
    }
}

#[test]
fn an_expression_that_is_nested_too_deep_is_refused() {
    for text in [
        "(".repeat(10_000),
        "-".repeat(10_000),
        "1^".repeat(10_000),
        format!("1{}", "+1".repeat(10_000)),
        format!("a{}", "[5m:]".repeat(10_000)),
        format!("a[{}", "(".repeat(10_000)),
        format!("a[{}", "-".repeat(10_000)),
        format!("a[1{}]", "+1".repeat(10_000)),
    ] {
        assert!(refused(&text).contains("deep"), "{}", text.get(..20).unwrap());
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[a-c_:0-9.{}()\\[\\]=~!<>@+*/^%, \"\\-]{0,40}") {
        if let Ok(expr) = parse(&text, EXPERIMENTAL) {
            let printed = expr.to_string();
            prop_assert_eq!(parse(&printed, EXPERIMENTAL).map(|again| again.to_string()), Ok(printed.clone()));
        }
    }

    #[test]
    fn any_words_are_read_or_refused(words in proptest::collection::vec(
        prop::sample::select(vec![
            "sum", "by", "(", ")", "a", "b", "{", "}", "x='1'", ",", "[5m]", "[1h:1m]", "offset", "5m", "@", "1", "start()",
            "+", "-", "^", "and", "on(x)", "group_left", "bool", "==", "rate", "topk", "'s'", "fill(1)", "without", "=~",
        ]), 0..14,
    )) {
        let text = words.join(" ");
        if let Ok(expr) = parse(&text, EXPERIMENTAL) {
            let printed = expr.to_string();
            prop_assert_eq!(parse(&printed, EXPERIMENTAL).map(|again| again.to_string()), Ok(printed.clone()));
        }
    }
}
