//! Scripts that need packages of PyPI, in the virtual environment that `tests/run` makes.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// A script of `tests/python/`.
pub fn script(name: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("target/python/bin/python");
    assert!(
        python.exists(),
        "{} is missing: `tests/run` makes it",
        python.display()
    );
    let mut command = Command::new(python);
    command.arg(root.join("tests/python").join(name));
    command
}

/// What a script makes of a text; it must succeed.
pub fn piped(command: &mut Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the script starts");
    // Dropped at the end of the statement, so that the script sees the end of its input.
    let written = child
        .stdin
        .take()
        .expect("it is piped")
        .write_all(input.as_bytes());
    written.expect("the script reads its input");
    let output = child.wait_with_output().expect("the script ends");
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).expect("text")
}
