//! The engine answers as the tests of PromQL expect: those here are ours. `cargo run --example promqltest -- FOLDER` runs
//! those of Prometheus.

mod run;
mod script;

use std::collections::BTreeSet;

fn passes(text: &str) {
    let outcome = run::run(text, &BTreeSet::new());
    let is_good =
        |outcome: &run::Outcome| outcome.failures.is_empty() && outcome.passed > 0 && outcome.out_of_scope == 0;
    assert!(outcome.as_ref().is_ok_and(is_good), "{outcome:#?}");
}

#[test]
fn selectors_find_the_samples_that_are_current() {
    passes(include_str!("selectors.test"));
}

#[test]
fn windows_are_summarised() {
    passes(include_str!("windows.test"));
}

#[test]
fn operators_combine_the_series_that_match() {
    passes(include_str!("operators.test"));
}

#[test]
fn aggregations_and_functions_compute_the_values_of_series() {
    passes(include_str!("aggregations.test"));
}

#[test]
fn histograms_of_buckets_have_quantiles_and_fractions() {
    passes(include_str!("histograms.test"));
}

#[test]
fn a_case_with_a_wrong_answer_fails() {
    for text in [
        "load 1m\n  x 1\n\neval instant at 0 x\n  x 2\n",
        "load 1m\n  x 1\n\neval instant at 0 x\n",
        "eval instant at 0 x\n  x 1\n",
        "eval instant at 0 1\n  expect fail\n",
        "eval instant at 0 no(1)\n  1\n",
        "eval instant at 0 vector(1)\n  expect warn\n  {} 1\n",
        "load 1m\n  x{a=\"1\"} 1\n  x{a=\"2\"} 2\n\neval instant at 0 sort(x)\n  expect ordered\n  x{a=\"2\"} 2\n  x{a=\"1\"} 1\n",
    ] {
        assert_eq!(run::run(text, &BTreeSet::new()).unwrap().failures.len(), 1, "{text}");
    }
}
