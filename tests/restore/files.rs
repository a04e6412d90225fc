//! Restored files as they come to stand on the disk: place, name, owner and mode, by the program's commands.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::GUID;
use super::replica::{FIRST, Model, SECOND, State};
use litestream_multitenant::format::description::{Attributes, Description};
use litestream_multitenant::format::keys::{GenerationId, ObjectKey};
use serde_json::{Value, json};
use tempfile::TempDir;

/// `nobody`.
const USER: u32 = 65534;

pub(super) fn guid(n: u32) -> String {
    format!("{}{n:02}", &GUID[..34])
}

/// A store in a directory, and a place to restore to.
pub(super) struct Scratch(TempDir);

pub(super) struct Outcome {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Scratch {
    pub fn new() -> Self {
        let scratch = TempDir::new().expect("a scratch directory");
        // Others than root come to it, too.
        fs::set_permissions(scratch.path(), Permissions::from_mode(0o755)).expect("opened");
        Self(scratch)
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn put(&self, client: &str, key: ObjectKey, bytes: &[u8]) {
        let path = self
            .path("store")
            .join(key.below(&format!("databases/{client}")));
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, bytes).expect("written");
    }

    /// Stores a generation of one page, with what its description says.
    pub fn store(&self, client: &str, generation: GenerationId, description: Option<&Value>) {
        let mut model = Model::new(512, generation);
        model.commit(State {
            txid: 1,
            time_ms: generation.started_ms(),
            bytes: vec![1; 512],
        });
        for (key, object) in &model.objects {
            self.put(client, *key, object);
        }
        if let Some(description) = description {
            let text = description.to_string();
            self.put(client, ObjectKey::Database(generation), text.as_bytes());
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_litestream-multitenant"));
        command
            .args(words)
            .arg(format!("-bucket=file://{}", self.path("store").display()))
            .current_dir(self.0.path());
        command
    }

    pub fn restore(&self, words: &[&str]) -> Outcome {
        run(self.command(&["restore"]).args(words))
    }

    /// Restores, and gives owner, group and mode of what came of it.
    fn restored(&self, name: &str, words: &[&str]) -> (u32, u32, u32) {
        let mut all = vec![GUID, "-o", name];
        all.extend(words);
        let outcome = self.restore(&all);
        assert_eq!(outcome.code, 0, "{words:?}: {}", outcome.err);
        attributes(&self.path(name))
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(directory)).expect("a directory");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<_> = names
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

fn run(command: &mut Command) -> Outcome {
    let output = command.output().expect("the binary runs");
    Outcome {
        code: output.status.code().expect("it ends by itself"),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

pub(super) fn attributes(path: &Path) -> (u32, u32, u32) {
    let found = fs::symlink_metadata(path).expect("there");
    (found.uid(), found.gid(), found.mode() & 0o7777)
}

pub(super) fn described(client: &str, path: &str) -> Value {
    json!({"tenantId": client, "dbName": client, "path": path})
}

fn with_file(uid: u32, gid: u32, mode: &str) -> Value {
    let mut description = described(GUID, "x.db");
    description["file"] = json!({"uid": uid, "gid": gid, "mode": mode});
    description
}

#[test]
fn root_gives_back_owner_group_and_mode_but_for_what_makes_programs() {
    let scratch = Scratch::new();
    scratch.store(GUID, FIRST, None);
    // As it was before any of this was written.
    assert_eq!(scratch.restored("plain.db", &[]), (0, 0, 0o644));
    scratch.store(GUID, FIRST, Some(&with_file(1234, 2345, "0640")));
    assert_eq!(scratch.restored("old.db", &[]), (1234, 2345, 0o640));
    scratch.store(GUID, SECOND, Some(&with_file(1234, 0, "7777")));
    assert_eq!(scratch.restored("new.db", &[]), (1234, 0, 0o666));
    // The newest generation tells, whichever is restored; one that tells nothing leaves it to that.
    let first = FIRST.to_string();
    let of_first = ["-generation", &first];
    assert_eq!(scratch.restored("first.db", &of_first), (1234, 0, 0o666));
    scratch.store(GUID, SECOND, Some(&described(GUID, "x.db")));
    assert_eq!(scratch.restored("told.db", &of_first), (1234, 2345, 0o640));
    assert_eq!(scratch.restored("untold.db", &[]), (0, 0, 0o644));
}

#[test]
fn the_user_decides_over_what_the_store_says() {
    let scratch = Scratch::new();
    scratch.store(GUID, FIRST, Some(&with_file(1234, 2345, "0640")));
    for (name, words, expected) in [
        ("owner", &["-owner", "77:88"][..], (77, 88, 0o640)),
        ("user", &["-owner", "4000123"], (4_000_123, 2345, 0o640)),
        ("name", &["-owner", "root"], (0, 0, 0o640)),
        ("mode", &["-mode", "0600"], (1234, 2345, 0o600)),
        ("both", &["-owner=nobody", "-mode=664"], (USER, USER, 0o664)),
    ] {
        assert_eq!(scratch.restored(name, words), expected, "{name}");
    }
    // A file that is replaced keeps what it has, unless the user says otherwise.
    assert_eq!(scratch.restored("owner", &["-force"]), (77, 88, 0o640));
    let words = ["-force", "-mode", "0604"];
    assert_eq!(scratch.restored("owner", &words), (77, 88, 0o604));
    for words in [
        ["-owner", "no-such-user"],
        ["-owner", "root:no-such-group"],
        ["-mode", "4755"],
        ["-mode", "rw"],
    ] {
        let outcome = scratch.restore(&[&[GUID, "-o", "x"], &words[..]].concat());
        assert_eq!(outcome.code, 2, "{words:?}: {}", outcome.err);
        assert!(outcome.err.contains(words[1]), "{}", outcome.err);
    }
}

/// What the user can't give stays the user's, and nobody may read what nobody could.
#[test]
fn an_ordinary_user_restores_for_itself() {
    let scratch = Scratch::new();
    let home = scratch.path("home");
    fs::create_dir(&home).expect("made");
    std::os::unix::fs::chown(&home, Some(USER), Some(USER)).expect("given");
    let binary = scratch.path("binary");
    fs::copy(env!("CARGO_BIN_EXE_litestream-multitenant"), &binary).expect("copied");
    let restore = |name: &str, more: &[&str]| {
        let mut command = Command::new(&binary);
        command
            .args(["restore", GUID, "-o", name])
            .arg(format!(
                "-bucket=file://{}",
                scratch.path("store").display()
            ))
            .args(more)
            .current_dir(&home)
            .uid(USER)
            .gid(USER);
        run(&mut command)
    };
    let cases = [
        (0, 0, "0640", 0o600),
        (0, 0, "0664", 0o644),
        (0, USER, "0640", 0o640),
        (USER, 0, "4777", 0o666),
    ];
    for (n, (uid, gid, mode, expected)) in cases.into_iter().enumerate() {
        scratch.store(GUID, FIRST, Some(&with_file(uid, gid, mode)));
        let name = format!("{n}.db");
        let outcome = restore(&name, &[]);
        assert_eq!(outcome.code, 0, "{}", outcome.err);
        assert_eq!(attributes(&home.join(&name)), (USER, USER, expected), "{n}");
    }
    let outcome = restore("given.db", &["-owner", "root"]);
    assert_eq!(outcome.code, 1, "{}", outcome.err);
    assert!(outcome.err.contains("owner"), "{}", outcome.err);
    assert!(!home.join("given.db").exists());
    assert_eq!(scratch.names("home").len(), cases.len(), "nothing is left");
}

#[test]
fn all_come_to_the_directories_that_they_were_in() {
    let scratch = Scratch::new();
    let raw = |path: &[u8], directories: usize| {
        let owner = |uid| Attributes {
            uid,
            gid: 5,
            mode: 0o710,
        };
        let description = Description {
            tenant_id: GUID.to_owned(),
            db_name: GUID.to_owned(),
            path: OsStr::from_bytes(path).into(),
            instance: None,
            page_size: None,
            started_at: None,
            file: Some(owner(9)),
            directories: (0..directories as u32).map(owner).collect(),
        };
        serde_json::from_str::<Value>(&description.to_text()).expect("JSON")
    };
    let paths: [&[u8]; 7] = [
        b"a.db",
        b"a/b/c.db",
        b"a/\xff\xfe/%41.db",
        b"tab\tand\nline/c.db",
        b"\x1b[2J\x7f/c.db",
        "ü/ \u{85}.db".as_bytes(),
        b"-o/--all.db",
    ];
    for (n, path) in (0..).zip(paths) {
        let directories = path.iter().filter(|byte| **byte == b'/').count();
        scratch.store(&guid(n), FIRST, Some(&raw(path, directories)));
    }
    let outcome = scratch.restore(&["--all", "all/of/them"]);
    assert_eq!(outcome.code, 0, "{}", outcome.err);
    let last = outcome.out.lines().last().expect("a line");
    assert_eq!(last, "databases: 7 restored, 0 skipped, 0 failed");
    assert_eq!(
        outcome.out.lines().count(),
        8,
        "a line each: {}",
        outcome.out
    );
    assert!(!outcome.out.contains('\x1b'), "{:?}", outcome.out);
    let top = scratch.path("all/of/them");
    for path in paths {
        let restored = top.join(OsStr::from_bytes(path));
        assert_eq!(attributes(&restored), (9, 5, 0o600), "{path:?}");
    }
    assert_eq!(attributes(&top).0, 0);
    assert_eq!(attributes(&top.join("a")), (0, 5, 0o710));
    assert_eq!(attributes(&top.join("a/b")), (1, 5, 0o710));

    fs::remove_file(top.join("a.db")).expect("removed");
    let outcome = scratch.restore(&["--all", "all/of/them"]);
    assert_eq!(outcome.code, 1, "{}", outcome.err);
    let last = outcome.out.lines().last().expect("a line");
    assert_eq!(last, "databases: 1 restored, 0 skipped, 6 failed");
    let outcome = scratch.restore(&["--all", "all/of/them", "-if-missing"]);
    let last = outcome.out.lines().last().expect("a line");
    assert_eq!(
        (outcome.code, last),
        (0, "databases: 0 restored, 7 skipped, 0 failed")
    );

    let words = ["--all", "other", "-owner", "7:8", "-mode", "0660"];
    assert_eq!(scratch.restore(&words).code, 0);
    let other = scratch.path("other");
    assert_eq!(attributes(&other.join("a/b/c.db")), (7, 8, 0o660));
    assert_eq!(attributes(&other.join("a/b")), (7, 8, 0o710));
    assert_eq!(attributes(&other).0, 7);
}

#[test]
fn no_place_is_taken_from_a_description_that_leads_elsewhere() {
    let scratch = Scratch::new();
    let mut texts: Vec<String> = [
        "",
        "/etc/x.db",
        "../x.db",
        "a/../../x.db",
        "a/./x.db",
        "./x.db",
        "a//x.db",
        "a/",
        "a\0b.db",
        "..",
    ]
    .map(|path| described(GUID, path).to_string())
    .into();
    for (path, escaped) in [
        ("a/x.db", "..%2Fx.db"),
        ("../x.db", "%2E%2E/x.db"),
        ("a\0.db", "a%00.db"),
        ("x.db", "y.db"),
    ] {
        let mut description = described(GUID, path);
        description["escapedPath"] = escaped.into();
        texts.push(description.to_string());
    }
    texts.extend(["".to_owned(), "no description".to_owned(), "[]".to_owned()]);
    let long = described(GUID, &format!("{}x.db", "a/".repeat(2048)));
    texts.push(long.to_string());
    for (n, text) in (0..).zip(&texts) {
        scratch.store(&guid(n), FIRST, None);
        scratch.put(&guid(n), ObjectKey::Database(FIRST), text.as_bytes());
    }
    let outcome = scratch.restore(&["--all", "all"]);
    assert_eq!(outcome.code, 1);
    for n in 0..texts.len() as u32 {
        let line = outcome.err.lines().find(|line| line.contains(&guid(n)));
        let line = line.unwrap_or_else(|| panic!("{n}: {}", outcome.err));
        assert!(
            line.contains("database.json") && line.contains("-o"),
            "{line}"
        );
    }
    assert!(!scratch.path("all").exists());
    assert_eq!(scratch.names("."), ["store"]);
    // By its name it can be restored all the same.
    let outcome = scratch.restore(&[&guid(0), "-o", "one.db"]);
    assert_eq!(outcome.code, 0, "{}", outcome.err);
}

#[test]
fn a_name_may_be_as_long_as_the_file_system_takes() {
    let scratch = Scratch::new();
    scratch.store(GUID, FIRST, None);
    for length in [1, 200, 230, 247, 251, 252, 254, 255] {
        let name = "n".repeat(length);
        let outcome = scratch.restore(&[GUID, "-o", &name]);
        assert_eq!(outcome.code, 0, "{length}: {}", outcome.err);
        let outcome = scratch.restore(&[GUID, "-o", &name, "-force"]);
        assert_eq!(outcome.code, 0, "{length}: {}", outcome.err);
        assert!(scratch.path(&name).exists());
        let outcome = scratch.restore(&[GUID, "-o", &name]);
        assert_eq!(outcome.code, 1, "{length}: {}", outcome.out);
        assert!(outcome.err.contains("exists already"), "{}", outcome.err);
    }
    let outcome = scratch.restore(&[GUID, "-o", &"n".repeat(256)]);
    assert_eq!(outcome.code, 1);
    assert_eq!(outcome.err.lines().count(), 1, "{}", outcome.err);
    assert_eq!(scratch.names(".").len(), 9, "nothing is left beside them");
}

#[test]
fn what_is_not_stored_yet_is_no_error_where_that_is_said() {
    let scratch = Scratch::new();
    let words = [GUID, "-o", "x.db", "-if-missing"];
    let asked = [&words[..], &["-if-replica-exists"]].concat();
    let tenant = ["acme/orders", "-o", "x.db", "-if-replica-exists"];
    for is_there in [false, true] {
        if is_there {
            fs::create_dir(scratch.path("store")).expect("made");
        }
        assert_eq!(scratch.restore(&words).code, 1);
        for words in [&asked[..], &tenant] {
            let outcome = scratch.restore(words);
            assert_eq!(outcome.code, 0, "{}", outcome.err);
            assert!(outcome.out.contains("nothing to do"), "{}", outcome.out);
        }
        let outcome = scratch.restore(&["--all", "all"]);
        assert_eq!(outcome.code, 0, "{}", outcome.err);
        assert_eq!(outcome.out, "databases: 0 restored, 0 skipped, 0 failed\n");
    }
    assert!(!scratch.path("x.db").exists());
    // Begun, and nothing of it stored.
    let description = described(GUID, "x.db").to_string();
    scratch.put(GUID, ObjectKey::Database(FIRST), description.as_bytes());
    assert_eq!(scratch.restore(&asked).code, 0);
    // What is there is restored, and what can't be is an error.
    scratch.store(GUID, FIRST, None);
    let early = [&asked[..], &["-timestamp", "1970-01-01T00:00:00Z"]].concat();
    assert_eq!(scratch.restore(&early).code, 1);
    assert_eq!(scratch.restore(&asked).code, 0);
    assert!(scratch.path("x.db").exists());
    fs::remove_file(scratch.path("x.db")).expect("removed");
    scratch.put(GUID, ObjectKey::Snapshot(FIRST, 0), b"damaged");
    assert_eq!(scratch.restore(&asked).code, 1);
    let outcome = run(Command::new(env!("CARGO_BIN_EXE_litestream-multitenant"))
        .args(["restore", GUID, "-o", "x", "-if-replica-exists"])
        .args(["-bucket", "s3://no-such-place"])
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        .envs([
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
            ("AWS_REGION", "c"),
        ]));
    assert_eq!(outcome.code, 1, "a store that is down is no empty one");
}
