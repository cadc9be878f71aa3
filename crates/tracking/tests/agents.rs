//! Who fetches pixels, by what people have seen of it. `cargo test -p tracking --test agents -- --nocapture` prints the
//! table of what was found against what was the case.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic, and this one prints a table"
)]

use std::collections::BTreeMap;

use tracking::agents::{Agent, AgentClass, Agents, Confidence};

struct Case<'a> {
    is_held_back: bool,
    what: &'a str,
    class: &'a str,
    user_agent: &'a str,
    found: Agent,
}

fn cases() -> Vec<Case<'static>> {
    let agents = Agents::default();
    include_str!("agents/corpus.tsv")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            let [held, what, class, after, address, user_agent, source] = columns[..] else {
                panic!("{line}: seven columns");
            };
            assert!(!source.is_empty(), "{line}: no source");
            assert!(["", "held"].contains(&held), "{line}");
            let after_ms = (!after.is_empty()).then(|| after.parse::<i64>().unwrap() * 1_000);
            let given = Some(user_agent).filter(|text| !text.is_empty());
            Case {
                is_held_back: held == "held",
                what,
                class,
                user_agent,
                found: agents.of(given, address.parse().unwrap(), after_ms),
            }
        })
        .collect()
}

#[test]
fn a_third_of_the_corpus_is_held_back_from_the_rules() {
    let cases = cases();
    let held_back = cases.iter().filter(|case| case.is_held_back).count();
    assert!(held_back * 3 >= cases.len(), "{held_back} of {}", cases.len());
}

#[test]
fn the_confusion_table() {
    let mut classes: BTreeMap<(&str, &str, &str), (usize, usize)> = BTreeMap::new();
    let mut confidences: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in cases() {
        let found = case.found.class().as_str();
        let count = classes.entry((case.what, case.class, found)).or_default();
        count.0 += 1;
        count.1 += usize::from(case.is_held_back);
        let confidence = case.found.confidence();
        *confidences.entry((case.what, confidence.as_str())).or_default() += 1;
        let is_believable = match case.what {
            "person" => !confidence.is_automated(),
            "scanner" | "program" => matches!(confidence, Confidence::Automated | Confidence::Unclear),
            "prefetch" | "nobody_knows" => confidence == Confidence::Unclear,
            other => panic!("{other}: nothing that anybody is"),
        };
        if !is_believable || case.class != found {
            wrong.push(format!(
                "{} {}: {:?}: {}",
                case.what, case.class, case.found, case.user_agent
            ));
        }
    }
    println!(
        "{:<14} {:<18} {:<18} {:>5} {:>5}",
        "what", "class", "found", "cases", "held"
    );
    for ((what, class, found), (count, held)) in classes {
        println!("{what:<14} {class:<18} {found:<18} {count:>5} {held:>5}");
    }
    println!("\n{:<14} {:<10} {:>5}", "what", "confidence", "cases");
    for ((what, confidence), count) in confidences {
        println!("{what:<14} {confidence:<10} {count:>5}");
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn people_who_say_what_they_use_are_counted_as_people() {
    for case in cases() {
        if case.what == "person" {
            assert!(
                case.found.confidence().is_human(),
                "{:?}: {}",
                case.found,
                case.user_agent
            );
        }
    }
}

#[test]
fn every_class_is_in_the_corpus() {
    for class in AgentClass::ALL {
        assert!(
            cases().iter().any(|case| case.class == class.as_str()),
            "{class:?}"
        );
    }
}
