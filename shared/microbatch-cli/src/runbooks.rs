//! The runbooks' commands are parsed by the command's own parser: an option that is renamed fails here, and not at night.

use std::{fs, path::PathBuf};

use clap::Parser;

use crate::args::Cli;

/// The pages' names and texts: the runbooks, and the page that says how to deploy.
fn pages() -> Vec<(String, String)> {
    let infra = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../infra");
    let runbooks =
        fs::read_dir(infra.join("runbooks")).expect("the runbooks").map(|entry| entry.expect("an entry").path());
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path.display().to_string(), text)
    };
    runbooks.chain([infra.join("README.md")]).map(read).collect()
}

/// The lines of shell in a page, and whether each is in prose: those after `$ ` in blocks of code, and spans of code.
fn lines(page: &str) -> Vec<(String, bool)> {
    let mut lines = Vec::new();
    for (at, part) in page.split("```").enumerate() {
        if at % 2 == 1 {
            lines.extend(
                part.lines().filter_map(|line| Some((line.trim_start().strip_prefix("$ ")?.to_owned(), false))),
            );
        } else {
            lines.extend(part.split('`').skip(1).step_by(2).map(|span| (span.replace('\n', " "), true)));
        }
    }
    lines
}

/// The arguments of each call of `microbatch` in a line of shell, also behind a pipe.
fn calls(line: &str) -> Vec<Vec<String>> {
    let mut calls = Vec::new();
    for words in commands(line) {
        let arguments = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["microbatch", ..] => &words[1..],
            ["cargo", "local", ..] => &words[2..],
            _ => continue,
        };
        calls.push(arguments.to_vec());
    }
    calls
}

/// The words of each command of a line: quotes taken off, redirections and comments left out.
fn commands(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let mut quote = None;
    for character in line.chars().chain(['|']) {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, ' ' | '|' | '&' | ';') => {
                words.extend(word.take());
                if character != ' ' {
                    commands.push(std::mem::take(&mut words));
                }
            }
            _ => word.get_or_insert_default().push(character),
        }
    }
    for words in &mut commands {
        let end = words.iter().position(|word| word.starts_with(['>', '#']) || word.starts_with("2>"));
        words.truncate(end.unwrap_or(words.len()));
    }
    commands
}

#[test]
fn every_command_in_the_runbooks_is_one() {
    let (mut parsed, mut skipped, mut problems) = (0, 0, Vec::new());
    for (page, text) in pages() {
        for (line, in_prose) in lines(&text) {
            for arguments in calls(&line) {
                let first = arguments.first().map_or("", String::as_str);
                // In prose a command is often named without what it takes.
                let is_only_named = in_prose && arguments.len() < 2 && !first.starts_with('-');
                if is_only_named {
                    skipped += 1;
                    continue;
                }
                parsed += 1;
                let all = std::iter::once("microbatch").chain(arguments.iter().map(String::as_str));
                if let Err(error) = Cli::try_parse_from(all) {
                    problems.push(format!("{page}: {line}\n{error}"));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(parsed > 3 && parsed + skipped > 40, "only {parsed} were parsed, {skipped} skipped");
}

#[test]
fn calls_are_found_in_lines_of_shell() {
    let page = "text `microbatch cost` and\n```console\n$ aws x --y 'a | b' | microbatch stats - --timeout 30 > out\n   $ cargo local up  # now\nanswer\n```\n";
    let found: Vec<_> = lines(page).iter().flat_map(|(line, _)| calls(line)).collect();
    let expected = [vec!["cost"], vec!["stats", "-", "--timeout", "30"], vec!["up"]];
    assert_eq!(found, expected);
    assert_eq!(calls(r#"microbatch resolve 'a#b c' --by "d""#), [["resolve", "a#b c", "--by", "d"]]);
}
