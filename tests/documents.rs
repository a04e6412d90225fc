//! What the documents name is there: every test by its name, every file by its path.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

const DOCUMENTS: [&str; 4] = [
    "README.md",
    "docs/seed.md",
    "docs/semantics.md",
    "docs/security.md",
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
