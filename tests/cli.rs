//! The command line as a user meets it: the real binary, its exit codes, and one line for every error.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

const GUID: &str = "12345678-1234-5678-9abc-123456789012";

struct Scratch(TempDir);

struct Outcome {
    code: i32,
    out: String,
    err: String,
}

impl Scratch {
    fn new() -> Self {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        fs::create_dir(scratch.path().join("data")).expect("a directory");
        fs::write(scratch.path().join("file"), "kept").expect("a file");
        Self(scratch)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().expect("it exists").join(name)
    }

    /// Runs the binary; `@` in a word is the scratch directory.
    fn run(&self, words: &[&str]) -> Outcome {
        let root = self.path("");
        let root = root.to_str().expect("text").trim_end_matches('/');
        let output = Command::new(env!("CARGO_BIN_EXE_litestream-multitenant"))
            .args(words.iter().map(|word| word.replace('@', root)))
            .env_remove("RUST_LOG")
            .output()
            .expect("the binary runs");
        Outcome {
            code: output.status.code().expect("it ends by itself"),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// Runs it, and expects this exit code with one line on standard error.
    fn fails(&self, code: i32, words: &[&str]) -> String {
        let Outcome {
            code: was,
            out,
            err,
        } = self.run(words);
        assert_eq!(was, code, "{words:?}: {err}");
        assert_eq!(err.lines().count(), 1, "{words:?}: {err}");
        assert!(err.starts_with("litestream-multitenant: "), "{err}");
        assert!(out.is_empty(), "{out}");
        err
    }

    fn config(&self, text: &str) {
        fs::write(self.path("config.yml"), text).expect("a configuration");
    }
}

const STORE: [&str; 2] = ["-bucket", "file://@/store"];

#[test]
fn wrong_usage_ends_with_two_and_one_line() {
    let scratch = Scratch::new();
    let store = STORE[1];
    for (words, part) in [
        (vec!["-bucket", store], "-watch-path DIR"),
        (vec!["-watch-path", "@/data"], "-bucket STORE"),
        (
            vec!["-bucket", store, "-watch-path", "@/none"],
            "no such directory",
        ),
        (
            vec!["-bucket", store, "-watch-path", "@/file"],
            "is no directory",
        ),
        (
            vec!["-bucket", "file://@/data/store", "-watch-path", "@/data"],
            "the store lies under",
        ),
        (
            vec!["-bucket", "file:///", "-watch-path", "@/data"],
            "file:///",
        ),
        (
            vec![
                "-bucket",
                store,
                "-watch-path",
                "@/data",
                "-state-dir",
                "@/data/x",
            ],
            "the state directory",
        ),
        (
            vec![
                "-bucket",
                store,
                "-watch-path",
                "@/data",
                "-guid-pattern",
                "(",
            ],
            "does not compile",
        ),
        (
            vec![
                "-bucket",
                store,
                "-watch-path",
                "@/data",
                "-listen",
                "0.0.0.0:80",
            ],
            "`server.apiToken`",
        ),
        (
            vec![
                "-bucket",
                store,
                "-watch-path",
                "@/data",
                "-watch-path",
                "@",
            ],
            "one within the other",
        ),
        (
            vec!["-bucket", store, "-watch-path", "../=@/data"],
            "no such directory",
        ),
        (
            vec!["-bucket", store, "-watch-path", "a//b=@/data"],
            "no prefix",
        ),
        (vec!["-nonsense"], "--help"),
        (vec!["export", GUID], "`export` is not supported yet"),
        (
            vec!["restore", "--all", "@/all", "-txid", "1", "-bucket", store],
            "--txid",
        ),
        (
            vec!["restore", "../x", "-o", "@/x", "-bucket", store],
            "no CLIENT",
        ),
        (vec!["restore", GUID, "-o", "@/x"], "-bucket STORE"),
        (vec!["-config", "@/none.yml"], "none.yml"),
        (vec!["-config", "@/data"], "read the configuration"),
    ] {
        let error = scratch.fails(2, &words);
        assert!(error.contains(part), "{words:?}: {error}");
    }
    assert_eq!(
        fs::read_dir(scratch.path("data"))
            .expect("a directory")
            .count(),
        0
    );
}

#[test]
fn a_configuration_error_names_file_line_and_key() {
    let scratch = Scratch::new();
    for (text, place, part) in [
        (
            "bucket: some-name\nlimits:\n  maxLagg: 3s\n",
            ":3:3: ",
            "`limits.maxLag`",
        ),
        ("clients: []\n", ":1:10: ", "the list is empty"),
        (
            "tenantDefaults:\n  durability: somewhere\n",
            ":2:15: ",
            "neither local nor store",
        ),
        (
            "bucket: some-name\nserver: {bucket: another}\n",
            ":2:10: ",
            "mean the same",
        ),
        ("bucket: ${LSMT_NOT_SET}\n", ":1:9: ", "LSMT_NOT_SET"),
        ("bucket: [some-name\n", ":1:9: ", "one value"),
    ] {
        scratch.config(text);
        let error = scratch.fails(2, &["-config", "@/config.yml"]);
        let place = format!("config.yml{place}");
        assert!(
            error.contains(&place) && error.contains(part),
            "{text:?}: {error}"
        );
    }
}

#[test]
fn a_secret_is_never_printed() {
    let scratch = Scratch::new();
    scratch.config(
        "s3: {accessKey: hush-key, secretKey: hush-secret, region: eu}\nbucket: file:///\n",
    );
    let error = scratch.fails(2, &["-config", "@/config.yml"]);
    assert!(!error.contains("hush"), "{error}");
}

#[test]
fn the_default_commands_know_help_and_version() {
    let scratch = Scratch::new();
    for words in [["-help"], ["--version"]] {
        let outcome = scratch.run(&words);
        assert_eq!((outcome.code, outcome.err.as_str()), (0, ""), "{words:?}");
        assert!(outcome.out.contains("litestream-multitenant"));
    }
}

#[test]
fn an_empty_store_has_nothing_to_list_or_restore() {
    let scratch = Scratch::new();
    let [flag, store] = STORE;
    let listed = scratch.run(&["list", "-json", flag, store]);
    assert_eq!(
        (listed.code, listed.out.trim()),
        (0, "{\"clients\":[]}"),
        "{}",
        listed.err
    );
    // Whoever has mistyped the store is not told that all is sound.
    let error = scratch.fails(1, &["verify", flag, store]);
    assert!(error.contains("there is nothing to verify"), "{error}");
    let verified = scratch.run(&["verify", "-json", flag, store]);
    assert_eq!(
        (verified.code, verified.out.trim()),
        (1, "{\"results\":[]}"),
        "{}",
        verified.err
    );
    let error = scratch.fails(1, &["restore", GUID, "-o", "@/new", flag, store]);
    assert!(error.contains(GUID), "{error}");
    assert!(!scratch.path("new").exists());
    let error = scratch.fails(1, &["restore", "eu/x", "-o", "@/new", flag, store]);
    assert!(error.contains("eu/x"), "{error}");
}

#[test]
fn an_existing_file_is_kept() {
    let scratch = Scratch::new();
    let [flag, store] = STORE;
    let outcome = scratch.run(&["restore", GUID, "-o", "@/file", "-if-missing", flag, store]);
    assert_eq!(outcome.code, 0, "{}", outcome.err);
    scratch.fails(1, &["restore", GUID, "-o", "@/file", flag, store]);
    let kept = fs::read_to_string(scratch.path("file")).expect("it is there");
    assert_eq!(kept, "kept");
}

#[test]
fn the_manual_page_is_up_to_date() {
    let printed = Scratch::new().run(&["man"]);
    assert_eq!(printed.code, 0, "{}", printed.err);
    let kept = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/mount/litestream-multitenant.1"
    );
    let kept = fs::read_to_string(kept).expect("the page");
    assert!(
        kept == printed.out,
        "run `litestream-multitenant man > mount/litestream-multitenant.1`"
    );
}

#[test]
fn shells_take_the_completions() {
    let scratch = Scratch::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = scratch.run(&["completions", shell]);
        assert_eq!(script.code, 0, "{}", script.err);
        for word in ["restore", "if-missing", "watch-path"] {
            assert!(script.out.contains(word), "{shell}: {word}");
        }
    }
    let script = scratch.path("script");
    fs::write(&script, scratch.run(&["completions", "bash"]).out).expect("written");
    let checked = Command::new("bash").arg("-n").arg(script).status();
    assert!(checked.expect("bash runs").success());
    let error = scratch.fails(2, &["completions", "tcsh"]);
    assert!(error.contains("tcsh"), "{error}");
}

#[test]
fn help_is_enough_to_begin_with() {
    let scratch = Scratch::new();
    for (words, parts) in [
        (
            vec!["-help"],
            vec!["Examples:", "demo", "-exec", "Exit codes"],
        ),
        (
            vec!["restore", "-help"],
            vec!["Examples:", "--timestamp", "--all"],
        ),
        (vec!["status", "-help"], vec!["Examples:", "--listen"]),
    ] {
        let help = scratch.run(&words);
        assert_eq!((help.code, help.err.as_str()), (0, ""), "{words:?}");
        for part in parts {
            assert!(help.out.contains(part), "{words:?}: {part}");
        }
    }
}
