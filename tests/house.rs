//! The rules of the house, held by a scan of the source: calls go downward only, formats are pure, and each outer
//! world (FUSE, the S3 client) is named in one place.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

/// From the top down: a module uses those after it, and itself.
const ORDER: [&str; 18] = [
    "cli",
    "daemon",
    "simulation",
    "config",
    "api",
    "replicate",
    "restore",
    "mount",
    "capture",
    "tenant",
    "store",
    "format",
    "paths",
    "random",
    "clock",
    "meter",
    "room",
    "fault",
];
/// Above all of them.
const TOP: [&str; 2] = ["main", "lib"];
const MAX_LINES: usize = 600;

static CRATE_PATH: LazyLock<Regex> =
    LazyLock::new(|| regex(r"\b(?:crate|litestream_multitenant)::([a-z_]+|\{)"));
static S3_CLIENT: LazyLock<Regex> = LazyLock::new(|| regex(r"\baws_"));
static FUSER: LazyLock<Regex> = LazyLock::new(|| regex(r"\bfuser\b"));
/// What would make a format depend on more than its input.
static IMPURE: LazyLock<Regex> =
    LazyLock::new(|| regex(r"\b(std::fs|io::File|tokio|SystemTime|Instant)\b"));

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a regex")
}

/// One file of `src/`.
struct Source {
    /// Below `src/`.
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    /// The first part of the path, without its extension.
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The text without comments: what they name is used by nobody.
    fn code(&self) -> String {
        let without = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
        let lines: Vec<_> = self.text.lines().map(without).collect();
        lines.join("\n")
    }

    /// The modules of this crate that the file names: `crate::a::…`, and each name of `crate::{a::…, b}`.
    fn uses(&self) -> Vec<String> {
        let code = self.code();
        let mut used = Vec::new();
        for found in CRATE_PATH.captures_iter(&code) {
            let name = &found[1];
            if name != "{" {
                used.push(name.to_owned());
                continue;
            }
            let list = &code[found.get(0).expect("the whole match").end()..];
            used.extend(first_names(list));
        }
        used
    }

    /// What the file does against the rules, a line each.
    fn offences(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut say = |what: String| found.push(format!("src/{}: {what}", self.path));
        if !self.text.starts_with("//! ") {
            say("does not begin with a sentence that says what it is for".to_owned());
        }
        let lines = self.text.lines().count();
        if lines > MAX_LINES {
            say(format!("has {lines} lines, more than {MAX_LINES}"));
        }
        let module = self.module();
        let place = |name: &str| ORDER.iter().position(|one| *one == name);
        if place(module).is_none() && !TOP.contains(&module) {
            say(format!("the module `{module}` has no place in the order"));
        }
        for used in self.uses() {
            match (place(module), place(&used)) {
                (_, None) => say(format!("uses `{used}`, which has no place in the order")),
                (Some(here), Some(there)) if there < here => {
                    say(format!("uses `{used}`, which lies above `{module}`"));
                }
                _ => {}
            }
        }
        let code = self.code();
        if S3_CLIENT.is_match(&code) && !self.path.starts_with("store/s3") {
            say("names the S3 client, which only store/s3 does".to_owned());
        }
        if FUSER.is_match(&code) && module != "mount" {
            say("names fuser, which only mount does".to_owned());
        }
        if IMPURE.is_match(&code) && module == "format" {
            say("does I/O or asks the time, and formats are pure".to_owned());
        }
        found
    }
}

/// The first part of each path in a list that begins behind its `{` and ends at the matching `}`.
fn first_names(list: &str) -> Vec<String> {
    let mut depth = 0;
    let mut entries = vec![String::new()];
    for c in list.chars() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => entries.push(String::new()),
            c if depth == 0 => entries.last_mut().expect("never empty").push(c),
            _ => {}
        }
    }
    entries
        .iter()
        .map(|entry| entry.trim().split("::").next().unwrap_or_default())
        .filter(|name| !name.is_empty() && *name != "self")
        .map(|name| {
            let name = name.split_whitespace().next().unwrap_or_default();
            name.to_owned()
        })
        .collect()
}

fn sources(dir: &Path, root: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, root, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let below = path.strip_prefix(root).expect("below the root");
            let text = fs::read_to_string(&path).expect("text");
            found.push(Source::new(below.to_str().expect("text"), &text));
        }
    }
}

#[test]
fn the_source_keeps_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &root, &mut found);
    assert!(found.len() > 50, "the scan finds the source");
    for module in ORDER {
        let is_there = found.iter().any(|source| source.module() == module);
        assert!(is_there, "there is no module `{module}` any more");
    }
    let offences: Vec<_> = found.iter().flat_map(Source::offences).collect();
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

#[test]
fn the_scan_sees_what_it_looks_for() {
    let head = "//! What it is for.\n";
    let planted = [
        ("format/x.rs", "use crate::store::Body;", "lies above"),
        ("format/x.rs", "fn f() { crate::clock::now_ms() }", ""),
        (
            "tenant/x.rs",
            "use crate::{clock::{self, UnixMs}, capture};",
            "uses `capture`",
        ),
        ("tenant/x.rs", "// crate::capture tells of it", ""),
        ("tenant/x.rs", "use crate::util::x;", "no place"),
        ("util.rs", "", "`util` has no place"),
        ("lib.rs", "pub mod cli; use crate::cli;", ""),
        ("capture/x.rs", "use fuser::Session;", "names fuser"),
        ("mount/x.rs", "use fuser::Session;", ""),
        ("store/x.rs", "use aws_sdk_s3::Client;", "the S3 client"),
        ("store/s3/x.rs", "use aws_sdk_s3::Client;", ""),
        ("format/x.rs", "use std::fs;", "formats are pure"),
        ("format/x.rs", "use std::io::Read;", ""),
        (
            "format/x.rs",
            "let t = SystemTime::now();",
            "formats are pure",
        ),
    ];
    for (path, code, offence) in planted {
        let offences = Source::new(path, &format!("{head}{code}\n")).offences();
        let expected = usize::from(!offence.is_empty());
        assert_eq!(offences.len(), expected, "{path}: {code}: {offences:?}");
        assert!(
            offences.iter().all(|one| one.contains(offence)),
            "{offences:?}"
        );
    }
    assert_eq!(
        Source::new("clock.rs", "use std::time;\n").offences().len(),
        1
    );
    let long = head.repeat(MAX_LINES + 1);
    assert_eq!(Source::new("clock.rs", &long).offences().len(), 1);
}
