//! What the documents name is there: every test by its name, every file by its path.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;

const DOCUMENTS: [&str; 7] = [
    "README.md",
    "docs/seed.md",
    "docs/semantics.md",
    "docs/security.md",
    "docs/sqlite.md",
    "docs/stores.md",
    "docs/testing.md",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The names of all tests, and those of the modules that they are in.
fn tests_and_modules() -> (BTreeSet<String>, BTreeSet<String>) {
    let test =
        Regex::new(r"(?m)#\[(?:tokio::)?test[^\]]*\]\s*(?:async )?fn (\w+)|^    fn (\w+)\(.* in ")
            .expect("a regex");
    let mut files = Vec::new();
    for dir in ["src", "tests"] {
        sources(&root().join(dir), &mut files);
    }
    let (mut tests, mut modules) = (BTreeSet::new(), BTreeSet::new());
    for file in files {
        let text = fs::read_to_string(&file).expect("text");
        let names = test.captures_iter(&text);
        tests.extend(names.filter_map(|name| {
            let name = name.get(1).or_else(|| name.get(2))?;
            Some(name.as_str().to_owned())
        }));
        let folders = file.parent().into_iter().flat_map(Path::iter);
        let names = folders.chain(file.file_stem());
        modules.extend(names.map(|name| name.to_string_lossy().into_owned()));
    }
    (tests, modules)
}

#[test]
fn every_test_that_is_named_exists() {
    let (tests, modules) = tests_and_modules();
    assert!(tests.len() > 300, "the scan finds the tests");
    let code =
        Regex::new(r"`([a-z_0-9]+(?:::[a-z_0-9]+)+|[a-z]+(?:_[a-z0-9]+){3,})`").expect("a regex");
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let text = fs::read_to_string(root().join(document)).expect(document);
        for named in code.captures_iter(&text) {
            let path: Vec<_> = named[1].split("::").collect();
            let (name, above) = path.split_last().expect("a name");
            let is_module = |name: &str| modules.contains(name) || name == "tests";
            let is_known = (tests.contains(*name) || (!above.is_empty() && is_module(name)))
                && above.iter().all(|module| is_module(module));
            if !is_known && !named[1].starts_with("litestream_") {
                missing.push(format!("{document}: {}", &named[1]));
            }
        }
    }
    assert!(missing.is_empty(), "\n{}", missing.join("\n"));
}

#[test]
fn every_file_that_is_linked_exists() {
    let link = Regex::new(r"\]\(([^)#:]+)\)").expect("a regex");
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let text = fs::read_to_string(root().join(document)).expect(document);
        let beside = root().join(document);
        let beside = beside.parent().expect("a directory");
        for target in link.captures_iter(&text) {
            if !beside.join(&target[1]).exists() {
                missing.push(format!("{document}: {}", &target[1]));
            }
        }
    }
    assert!(missing.is_empty(), "\n{}", missing.join("\n"));
}

#[test]
fn the_tables_of_benchmarks_are_those_of_the_results() {
    let check = Command::new("python3")
        .arg(root().join("benches/report.py"))
        .arg("--check")
        .output()
        .expect("python3 is a program");
    let told = String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success(), "{told}");
}

/// The number of the row that a test is named after: `4a` of `sqlite_04a_…`.
fn row_of(test: &str) -> Option<String> {
    let (number, _) = test.strip_prefix("sqlite_")?.split_once('_')?;
    Some(number.trim_start_matches('0').to_owned())
}

#[test]
fn every_row_of_what_sqlite_does_has_its_tests() {
    let text = fs::read_to_string(root().join("docs/sqlite.md")).expect("the table");
    let row = Regex::new(r"(?m)^\| (\d+[a-z]?) \|.*$").expect("a regex");
    let name = Regex::new(r"`(?:[a-z_]+::)*(sqlite_\w+)`").expect("a regex");
    let mut named = BTreeSet::new();
    let mut rows = BTreeSet::new();
    for found in row.captures_iter(&text) {
        let (line, number) = (&found[0], &found[1]);
        let tests: Vec<_> = name
            .captures_iter(line)
            .map(|name| name[1].to_owned())
            .collect();
        let is_of_row = |test: &String| row_of(test).as_deref() == Some(number);
        assert!(!tests.is_empty() && tests.iter().all(is_of_row), "{line}");
        assert!(rows.insert(number.to_owned()), "{number} is there twice");
        named.extend(tests);
    }
    let (tests, _) = tests_and_modules();
    let of_rows: BTreeSet<_> = tests
        .into_iter()
        .filter(|test| row_of(test).is_some())
        .collect();
    assert_eq!(named, of_rows, "the table names each of these tests");
    for number in (1..=17).chain(20..=24).chain(30..=37) {
        assert!(rows.contains(&number.to_string()), "row {number} is gone");
    }
}
