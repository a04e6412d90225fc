//! The description of the API against what is answered, by a program that others wrote (PyPI: schemathesis).

use std::path::Path;
use std::process::Command;

use super::{GUID, Served};
use crate::api::table::ROUTES;
use crate::store::spec::Secret;

/// Requests of each call that are left to chance, besides those that the description asks for.
const EXAMPLES: &str = "20";
const TOKEN: &str = "the-token-of-the-contract";

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_as_they_are_described() {
    hold_to_the_description(None).await;
}

/// Among the checks is one that leaves the token out, and one that sends a wrong one.
#[tokio::test(flavor = "multi_thread")]
async fn answers_are_as_they_are_described_where_a_token_is_needed() {
    hold_to_the_description(Some(TOKEN)).await;
}

async fn hold_to_the_description(token: Option<&str>) {
    let api = Served::start_with(|state| {
        state.token = token.map(|token| Secret(token.to_owned()));
        // Or the first removal would leave nothing to ask for.
        state.changes.unregister = Box::new(|_| Box::pin(async { Ok(()) }));
    })
    .await;
    for client in [GUID, "nothing", "tenant-001"] {
        api.register("", client);
    }
    let mut command = schemathesis();
    command
        .arg("run")
        .arg(format!("http://{}/api/openapi.json", api.addr))
        .args(["--max-examples", EXAMPLES])
        .args(["--phases", "examples,coverage,fuzzing"])
        // A path may be well formed and not lie below a watch path.
        .args(["--checks", "all", "--exclude-checks"])
        .arg("positive_data_acceptance")
        // Its answer has no end.
        .args(["--exclude-path", "/api/events"])
        .arg("--generation-deterministic")
        .args(["--no-color", "--warnings", "off", "--continue-on-failure"]);
    if let Some(token) = token {
        command.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
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
