//! Every fix, pasted where it says it belongs, mends what was found.

use std::rc::Rc;

use super::node::{Entry, Kind, Node};
use super::parse::{Parsed, parse};
use super::report::Finding;
use super::{Checked, check_parsed};

#[path = "../../tests/check/seeds.rs"]
#[expect(dead_code, unreachable_pub, reason = "shared with the tests of the command, which read all of it")]
mod seeds;

use self::seeds::SEEDS;

/// Rules whose fix leaves something to decide or to take away: which queue is to be the dead-letter queue, which of two
/// lines goes, to which statement a permission is added.
const DECISIONS: [&str; 10] =
    ["MB017", "MB020", "MB030", "MB031", "MB040", "MB042", "MB043", "MB044", "MB045", "MB060"];

/// What a fix's place says of lists.
const EACH: &str = ", in each entry";

fn checked(root: Rc<Node>) -> Checked {
    let parsed = Parsed { root, repeated_keys: Vec::new() };
    check_parsed("t", &parsed, &[]).expect("a template").0
}

/// `node` with what `fix` holds under the keys of `path`.
fn pasted(node: Option<&Node>, path: &[&str], fix: &Node) -> Rc<Node> {
    if let ([], Kind::Sequence(more)) = (path, &fix.kind) {
        let mut items = node.map(|node| node.items().to_vec()).unwrap_or_default();
        // A statement alone is a list of it.
        let alone = node.map(Node::entries).filter(|entries| !entries.is_empty());
        items.extend(alone.map(|entries| Rc::new(Node::new(1, Kind::Mapping(entries.to_vec())))));
        items.extend(more.iter().cloned());
        return Rc::new(Node::new(1, Kind::Sequence(items)));
    }
    let mut entries = node.map(|node| node.entries().to_vec()).unwrap_or_default();
    let mut put = |entry: Entry| {
        entries.retain(|known| known.key != entry.key);
        entries.push(entry);
    };
    match path {
        [] => fix.entries().iter().cloned().for_each(put),
        [key, rest @ ..] if key.ends_with(EACH) => {
            let key = key.trim_end_matches(EACH);
            let items = node.and_then(|node| node.get(key)).map(|entry| entry.value.items().to_vec());
            let items = items.unwrap_or_default().iter().map(|item| pasted(Some(item), rest, fix)).collect();
            put(Entry { key: key.to_owned(), line: 1, value: Rc::new(Node::new(1, Kind::Sequence(items))) });
        }
        [key, rest @ ..] => {
            let value = node.and_then(|node| node.get(key)).map(|entry| Rc::clone(&entry.value));
            put(Entry { key: (*key).to_owned(), line: 1, value: pasted(value.as_deref(), rest, fix) });
        }
    }
    Rc::new(Node::new(1, Kind::Mapping(entries)))
}

#[test]
fn every_fix_mends_what_was_found() {
    for seed in SEEDS.iter().filter(|seed| !DECISIONS.contains(&seed.rule)) {
        let root = parse(&seed.template()).expect("YAML").root;
        let mut mended = Rc::clone(&root);
        for finding in checked(root).findings {
            let (fix_in, fix) = finding.fix();
            let fix = parse(fix).unwrap_or_else(|error| panic!("{}: {error:?} in {fix}", seed.rule)).root;
            let path: Vec<&str> = fix_in.split('.').collect();
            let path = if path == ["Resources"] { path } else { [vec!["Resources"], path].concat() };
            mended = pasted(Some(&mended), &path, &fix);
        }
        let left: Vec<Finding> = checked(mended).findings;
        assert!(left.iter().all(|finding| finding.rule != seed.rule), "{} {:?}: {left:#?}", seed.rule, seed.edits);
    }
}
