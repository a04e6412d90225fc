//! `restore --all` puts a client where the rules let it be, and not where its replica says.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use super::files::{Scratch, described, guid};
use super::replica::FIRST;

/// Stores a client whose replica says that it lay there.
fn store(scratch: &Scratch, client: &str, path: &str) {
    let (tenant, db_name) = client.split_once('/').unwrap_or((client, client));
    let mut description: Value = described(tenant, path);
    description["dbName"] = json!(db_name);
    scratch.store(client, FIRST, Some(&description));
}

fn files_below(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let below = path.strip_prefix(directory).expect("below it");
                    found.push(below.to_str().expect("text").to_owned());
                }
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_replica_chooses_no_place_of_another_and_the_others_go_on() {
    let scratch = Scratch::new();
    let other = format!("x/{}.db", guid(77));
    let hostile = [
        ("aaa/evil", "bank/orders.db"),
        (&guid(10), "bank/orders.db"),
        (&guid(11), "bank/new.db"),
        (&guid(12), "bank/orders.db-wal"),
        (&guid(13), "bank/orders.db-journal"),
        (&guid(14), "bank/orders.db-shm"),
        (&guid(15), ".litestream-multitenant/state.db"),
        (&guid(16), "a/.litestream-multitenant/x.db"),
        (&guid(17), &other),
        ("aaa/orders", "bank/aaa/orders.db"),
        ("zzz/evil", "zzz/other.db"),
    ];
    for (client, path) in hostile {
        store(&scratch, client, path);
    }
    let own = format!("bank/{}.db", guid(1));
    let sound = [("bank/orders", "bank/orders.db"), (&guid(1), &own)];
    for (client, path) in sound {
        store(&scratch, client, path);
    }
    let outcome = scratch.restore(&["--all", "all"]);
    assert_eq!(outcome.code, 1, "{}", outcome.out);
    for (client, path) in hostile {
        let mut lines = outcome.err.lines();
        let is_of = |line: &&str| line.contains(client) && line.contains(path);
        let line = lines
            .find(is_of)
            .unwrap_or_else(|| panic!("{client}: {}", outcome.err));
        assert!(
            line.contains("restore this one by its name with -o"),
            "{line}"
        );
    }
    let mut expected = sound.map(|(_, path)| path.to_owned());
    expected.sort();
    assert_eq!(files_below(&scratch.path("all")), expected);
    let last = outcome.out.lines().last().expect("a line");
    assert_eq!(last, "databases: 2 restored, 0 skipped, 11 failed");
    let dry = scratch.restore(&["--all", "dry", "--dry-run"]);
    assert_eq!(dry.code, 1);
    assert_eq!(
        dry.out.matches("would be restored").count(),
        2,
        "{}",
        dry.out
    );
}

#[test]
fn the_configuration_decides_whose_a_file_is() {
    let scratch = Scratch::new();
    let (first, second) = (guid(1), guid(2));
    store(&scratch, &first, "shared/system.data");
    store(&scratch, &second, "shared/system.data");
    let contested = scratch.restore(&["--all", "contested"]);
    assert_eq!(contested.code, 1);
    assert_eq!(
        contested.err.matches("as much right").count(),
        2,
        "{}",
        contested.err
    );
    assert!(
        files_below(scratch.path("contested").parent().expect("it"))
            .iter()
            .all(|file| !file.starts_with("contested"))
    );
    let config = scratch.path("config.yml");
    let text = format!(
        "autoDiscovery: {{watchPaths: [/data]}}\nclients: [{{clientId: {second}, dbPath: /data/shared/system.data}}]\n"
    );
    fs::write(&config, text).expect("written");
    let words = ["--all", "all", "-config", "config.yml"];
    let outcome = scratch.restore(&words);
    assert_eq!(outcome.code, 1);
    assert!(
        outcome
            .err
            .contains(&format!("the rules give that file to {second}")),
        "{}",
        outcome.err
    );
    assert!(
        outcome
            .out
            .contains(&format!("restored {second} to all/shared/system.data")),
        "{}",
        outcome.out
    );
}

#[test]
fn no_link_below_the_directory_is_followed() {
    let scratch = Scratch::new();
    let path = format!("folder/{}.db", guid(1));
    let sound = format!("{}.db", guid(2));
    store(&scratch, &guid(1), &path);
    store(&scratch, &guid(2), &sound);
    for folder in ["all", "outside"] {
        fs::create_dir(scratch.path(folder)).expect("made");
    }
    symlink(scratch.path("outside"), scratch.path("all/folder")).expect("a link");
    for more in [&[][..], &["--force"], &["--if-missing"]] {
        let outcome = scratch.restore(&[&["--all", "all"], more].concat());
        assert_eq!(outcome.code, 1, "{}", outcome.out);
        let is_told = |line: &str| line.contains(&guid(1)) && line.contains("all/folder");
        assert!(outcome.err.lines().any(is_told), "{}", outcome.err);
        assert!(scratch.path("all").join(&sound).exists());
    }
    assert_eq!(files_below(&scratch.path("outside")), [] as [&str; 0]);
    // The directory itself is the user's choice.
    symlink(scratch.path("outside"), scratch.path("chosen")).expect("a link");
    let outcome = scratch.restore(&["--all", "chosen"]);
    assert_eq!(outcome.code, 0, "{}", outcome.err);
    assert!(scratch.path("outside").join(&path).exists());
}
