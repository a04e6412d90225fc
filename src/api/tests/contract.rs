//! The description of the API against what is answered, by a program that others wrote (PyPI: schemathesis).

use std::path::Path;
use std::process::Command;

use super::{GUID, Served};
use crate::api::table::ROUTES;

/// Requests of each call in one round, and how many seconds rounds are made for.
const EXAMPLES: &str = "25";
const TIME_LIMIT: &str = "15";

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_as_they_are_described() {
    let api = Served::start_with(|state| {
        // Or the first removal would leave nothing to ask for.
        state.changes.unregister = Box::new(|_| Box::pin(async { Ok(()) }));
    })
    .await;
    api.register("", GUID);
    for client in ["nothing", "tenant-001"] {
        api.register("", client);
    }
    let mut command = schemathesis();
    command
        .arg("run")
        .arg(format!("http://{}/api/openapi.json", api.addr))
        .args(["--max-examples", EXAMPLES, "--max-time", TIME_LIMIT])
        .args(["--phases", "examples,coverage,fuzzing"])
        // A path may be well formed and not lie below a watch path.
        .args([
            "--checks",
            "all",
            "--exclude-checks",
            "positive_data_acceptance",
        ])
        // Its answer has no end.
        .args(["--exclude-path", "/api/events"])
        .arg("--generation-deterministic")
        .args(["--no-color", "--warnings", "off", "--continue-on-failure"]);
    let ran = tokio::task::spawn_blocking(move || command.output());
    let output = ran.await.expect("it runs").expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // All of them but the events, and the description that it has read.
    let tested = format!("Tested: {}", ROUTES.len() - 2);
    assert!(text.contains(&tested), "{text}");
}

fn schemathesis() -> Command {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/schemathesis");
    assert!(
        program.exists(),
        "{} is missing: `tests/run` makes it",
        program.display()
    );
    let mut command = Command::new(program);
    // What it writes beside itself.
    command.current_dir(std::env::temp_dir());
    command
}
