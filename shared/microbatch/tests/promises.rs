//! Every promise is cited by a test, where the table of promises says so, and no test cites one that does not exist.
//!
//! A test cites P7 by that word in a comment, directly above it or inside it, or by a name that starts with `p7_`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The table, as it stands in the documentation.
const PROMISES: &str = include_str!("../src/promises.md");

/// Where tests are, below the root. Of what is not in a folder `tests`, only modules under `#[cfg(test)]` count.
const SOURCES: [&str; 3] = ["shared", "functions", "tests/e2e"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A promise and the files, or folders with a final `/`, that show it.
struct Row {
    number: u32,
    shown_by: Vec<String>,
}

fn rows() -> Vec<Row> {
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let lines = PROMISES.lines().filter(|line| line.starts_with("| P"));
    lines
        .map(|line| match cells(line).as_slice() {
            [number, promise, files] => {
                assert!(!promise.is_empty(), "{number} says nothing");
                let number = number[1..].parse().unwrap_or_else(|_| panic!("expected P and a number, found {number}"));
                Row { number, shown_by: files.split('`').skip(1).step_by(2).map(str::to_owned).collect() }
            }
            other => panic!("expected three cells, found {other:?}"),
        })
        .collect()
}

/// What the tests of each file cite, by its path below the root.
fn citations() -> BTreeMap<String, BTreeSet<u32>> {
    let mut files = Vec::new();
    for folder in SOURCES {
        find_sources(&root().join(folder), &mut files);
    }
    // This file speaks of citations, and makes none.
    let others = files.into_iter().filter(|file| !file.ends_with("shared/microbatch/tests/promises.rs"));
    let cited = others.map(|file| {
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let below = file.strip_prefix(root()).expect("below the root");
        let path: Vec<_> = below.components().map(|part| part.as_os_str().to_string_lossy()).collect();
        (path.join("/"), cited_in(&text, path.contains(&"tests".into())))
    });
    cited.collect()
}

fn find_sources(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            find_sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// What the tests of a source cite. Outside a folder `tests`, they stand below `#[cfg(test)]`, at its end.
fn cited_in(source: &str, is_test: bool) -> BTreeSet<u32> {
    let lines: Vec<&str> = source.lines().collect();
    let from = if is_test { Some(0) } else { lines.iter().position(|line| line.trim() == "#[cfg(test)]") };
    let mut cited = BTreeSet::new();
    let Some(from) = from else { return cited };
    for (number, line) in lines.iter().enumerate().skip(from) {
        if is_test_attribute(line) {
            cited.extend(cited_by_test(&lines, number));
        }
    }
    cited
}

/// `#[test]`, or `#[tokio::test]` with whatever it says.
fn is_test_attribute(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("#[test]") || line.starts_with("#[tokio::test")
}

/// What the test cites whose attribute stands on this line.
fn cited_by_test(lines: &[&str], attribute: usize) -> BTreeSet<u32> {
    let mut cited = BTreeSet::new();
    let is_above = |line: &&&str| line.trim_start().starts_with("//") || line.trim_start().starts_with("#[");
    for line in lines[..attribute].iter().rev().take_while(is_above) {
        cited.extend(cited_by_comment(line));
    }
    let Some(start) = (attribute..lines.len()).find(|number| function_name(lines[*number]).is_some()) else {
        return cited;
    };
    cited.extend(function_name(lines[start]).into_iter().flat_map(cited_by_name));
    // To the brace that stands below the beginning of the function, which is where it is formatted to stand.
    let indent = lines[start].len() - lines[start].trim_start().len();
    let end = format!("{}}}", " ".repeat(indent));
    let is_one_line = lines[start].ends_with('}');
    for (number, line) in lines.iter().enumerate().skip(attribute) {
        cited.extend(cited_by_comment(line));
        if *line == end || (is_one_line && number == start) {
            break;
        }
    }
    cited
}

fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let is_signature = before.split_whitespace().all(|word| matches!(word, "pub" | "async"));
    is_signature.then(|| after.split(['(', '<']).next().unwrap_or(after))
}

/// The words P1, P2 and so on of a comment.
fn cited_by_comment(line: &str) -> impl Iterator<Item = u32> {
    let comment = line.split_once("//").map_or("", |(_, comment)| comment);
    comment.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter_map(|word| number_after('P', word))
}

/// `p7_p11_` in front of a name, and `p1_to_p5_`.
fn cited_by_name(name: &str) -> impl Iterator<Item = u32> {
    let leads = number_after('p', name.split('_').next().unwrap_or_default()).is_some();
    name.split('_').take_while(move |_| leads).filter_map(|word| number_after('p', word))
}

fn number_after(prefix: char, word: &str) -> Option<u32> {
    let digits = word.strip_prefix(prefix)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[test]
fn every_promise_is_cited_by_a_test() {
    let cited: BTreeSet<u32> = citations().into_values().flatten().collect();
    let missing: Vec<String> =
        rows().iter().filter(|row| !cited.contains(&row.number)).map(|row| format!("P{}", row.number)).collect();
    assert!(missing.is_empty(), "no test cites {}: name one for it, or cite it above one", missing.join(", "));
}

#[test]
fn every_promise_is_cited_where_the_table_says() {
    let citations = citations();
    let mut wrong = Vec::new();
    for Row { number, shown_by } in rows() {
        assert!(!shown_by.is_empty(), "P{number}: the table must name a file that shows it");
        for shown in shown_by {
            let shows = |file: &str| if shown.ends_with('/') { file.starts_with(&shown) } else { file == shown };
            let mut files = citations.iter().filter(|(file, _)| shows(file)).peekable();
            if files.peek().is_none() {
                wrong.push(format!("P{number}: {shown} is not there"));
            } else if !files.any(|(_, cited)| cited.contains(&number)) {
                wrong.push(format!("P{number}: no test in {shown} cites it"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_test_cites_a_promise_that_does_not_exist() {
    let promised: BTreeSet<u32> = rows().iter().map(|row| row.number).collect();
    let unknown: Vec<String> = citations()
        .into_iter()
        .flat_map(|(file, cited)| cited.into_iter().map(move |number| (file.clone(), number)))
        .filter(|(_, number)| !promised.contains(number))
        .map(|(file, number)| format!("{file}: P{number}"))
        .collect();
    assert!(unknown.is_empty(), "there is no such promise:\n{}", unknown.join("\n"));
}

#[test]
fn the_promises_are_numbered_from_one() {
    let numbers: Vec<u32> = rows().iter().map(|row| row.number).collect();
    assert_eq!(numbers, (1..=16).collect::<Vec<_>>());
}

#[test]
fn citations_are_read_where_they_count() {
    let source = r#"
//! P1: of the file, and of no test.

fn helper() {
    // P2.
}

/// P3, P33x and xP4: the first is one.
#[tokio::test(start_paused = true)]
async fn p5_p6_is_named() {
    let text = "P7"; // P8.
    if true {
        // P9
    }
}

proptest! {
    // P10: not directly above.

    /// P11.
    #[test]
    #[ignore = "P12 is no comment"]
    fn the_p13_is_not_in_front(
        value in 0..1,
    ) {
        /* none */
    }
}

mod more {
    #[test]
    fn p14_to_p15() {}
    // P16.
}
"#;
    assert_eq!(cited_in(source, true), BTreeSet::from([3, 5, 6, 8, 9, 11, 14, 15]));
    assert_eq!(cited_in(source, false), BTreeSet::new());
    let unit = format!("// P1.\n#[test]\nfn early() {{\n}}\n#[cfg(test)]\n{source}");
    assert_eq!(cited_in(&unit, false), cited_in(source, true));
}
