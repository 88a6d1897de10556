//! The README shows the command's help as it is, and the events' README names every event.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn the_help_in_the_readme_is_the_commands() {
    let output = Command::new(env!("CARGO_BIN_EXE_microbatch")).arg("-h").output().expect("it starts");
    let help = String::from_utf8(output.stdout).expect("text");
    assert!(read("README.md").contains(&help), "the README must hold:\n{help}");
}

#[test]
fn the_events_readme_names_each_event_once_and_each_has_its_response() {
    let entries = fs::read_dir(root().join("events")).expect("the events folder");
    let files = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"));
    let (mut events, mut responses) = (BTreeSet::new(), BTreeSet::new());
    for file in files.filter(|file| file != "README.md") {
        let name = file.strip_suffix(".json").unwrap_or_else(|| panic!("only events belong there, found {file}"));
        match name.strip_suffix(".response") {
            Some(name) => responses.insert(name.to_owned()),
            None => events.insert(name.to_owned()),
        };
    }
    assert_eq!(responses, events);

    let readme = read("events/README.md");
    let mut named: Vec<&str> =
        readme.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(".json` |")).map(|row| row.0).collect();
    named.sort_unstable();
    assert_eq!(named, Vec::from_iter(&events));
}
