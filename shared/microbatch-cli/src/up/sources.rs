//! The source files of a built function, and whether they changed: by what cargo notes beside each binary.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The files that a binary was built from, with their times when they were looked at last.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    times: BTreeMap<PathBuf, Option<SystemTime>>,
}

impl Sources {
    /// Takes over what a new build was made from. Times of files known before are kept: a change during the build counts.
    pub(crate) fn update(&mut self, program: &Path) {
        // `target/debug/NAME.d` names every source file of the package and of its path dependencies.
        let noted = std::fs::read_to_string(program.with_extension("d")).unwrap_or_default();
        let mut files = files_of(&noted);
        files.extend(files.iter().filter_map(|file| manifest_of(file)).collect::<BTreeSet<_>>());
        self.times = files
            .into_iter()
            .map(|file| {
                let time = self.times.get(&file).copied().unwrap_or_else(|| time_of(&file));
                (file, time)
            })
            .collect();
    }

    /// Adds the source files that a failed build may have read for the first time: no note names them, and the next change
    /// may be theirs.
    pub(crate) fn add_unnoted(&mut self) {
        let manifests: Vec<PathBuf> = self.times.keys().filter(|file| file.ends_with("Cargo.toml")).cloned().collect();
        let mut folders: Vec<PathBuf> =
            manifests.iter().filter_map(|manifest| Some(manifest.parent()?.join("src"))).collect();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let (path, kind) = (entry.path(), entry.file_type());
                if kind.is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    self.times.entry(path.clone()).or_insert_with(|| time_of(&path));
                }
            }
        }
    }

    /// Looks at the files; whether one changed since the last time.
    pub(crate) fn changed(&mut self) -> bool {
        let mut changed = false;
        for (file, known) in &mut self.times {
            let time = time_of(file);
            changed |= *known != time;
            *known = time;
        }
        changed
    }
}

fn time_of(file: &Path) -> Option<SystemTime> {
    file.metadata().and_then(|metadata| metadata.modified()).ok()
}

/// The package's manifest above a source file.
fn manifest_of(file: &Path) -> Option<PathBuf> {
    file.ancestors().skip(1).map(|folder| folder.join("Cargo.toml")).find(|manifest| manifest.is_file())
}

/// The files in the form of a Makefile's rule: `program: file file`, a space in a name written as `\ `.
fn files_of(noted: &str) -> BTreeSet<PathBuf> {
    let rule = noted.lines().next().unwrap_or_default();
    let Some((_, files)) = rule.split_once(": ") else { return BTreeSet::new() };
    let files = files.replace("\\ ", "\0");
    files.split_whitespace().map(|file| PathBuf::from(file.replace('\0', " "))).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    #[test]
    fn cargos_notes_are_read() {
        let noted = "/t/debug/f: /w/f/src/main.rs /w/my\\ lib/src/lib.rs\n";
        let expected: Vec<PathBuf> = vec!["/w/f/src/main.rs".into(), "/w/my lib/src/lib.rs".into()];
        assert_eq!(Vec::from_iter(files_of(noted)), expected);
        assert!(files_of("").is_empty() && files_of("no rule").is_empty());
    }

    #[test]
    fn a_file_that_only_a_failed_build_has_read_is_watched_too() {
        let folder = std::env::temp_dir().join(format!("microbatch-unnoted-{}", std::process::id()));
        fs::create_dir_all(folder.join("src/inner")).expect("a folder");
        let (program, known, new) = (folder.join("f"), folder.join("src/main.rs"), folder.join("src/inner/new.rs"));
        for file in [&folder.join("Cargo.toml"), &known] {
            fs::write(file, "").expect("written");
        }
        fs::write(program.with_extension("d"), format!("{}: {}\n", program.display(), known.display()))
            .expect("written");
        let mut sources = Sources::default();
        sources.update(&program);
        fs::write(&new, "wrong").expect("written");
        sources.add_unnoted();
        assert!(sources.times.contains_key(&new) && !sources.changed());
        fs::File::options()
            .write(true)
            .open(&new)
            .expect("it is there")
            .set_modified(SystemTime::UNIX_EPOCH)
            .expect("a time");
        assert!(sources.changed());
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn a_change_is_seen_once_also_one_during_a_build() {
        let folder = std::env::temp_dir().join(format!("microbatch-sources-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let (program, source) = (folder.join("f"), folder.join("main.rs"));
        fs::write(&source, "1").expect("written");
        fs::write(folder.join("Cargo.toml"), "").expect("written");
        fs::write(program.with_extension("d"), format!("{}: {}\n", program.display(), source.display()))
            .expect("written");
        let mut sources = Sources::default();
        sources.update(&program);
        assert_eq!(sources.times.len(), 2);
        assert!(!sources.changed());
        let touch = |file: &Path| {
            let file = fs::File::options().write(true).open(file).expect("it is there");
            file.set_modified(SystemTime::now() + Duration::from_secs(5)).expect("a time");
        };
        touch(&source);
        sources.update(&program);
        assert!(sources.changed() && !sources.changed());
        touch(&folder.join("Cargo.toml"));
        assert!(sources.changed());
        fs::remove_file(&source).expect("removed");
        assert!(sources.changed() && !sources.changed());
        fs::remove_dir_all(&folder).expect("removed");
    }
}
