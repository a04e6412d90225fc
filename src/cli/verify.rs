//! `verify`: restores replicas into a scratch directory, and says of each whether it is whole.

use serde::Serialize;

use super::args::VerifyArgs;
use super::progress::Bar;
use super::replicas::{Chosen, left_out};
use super::{Failure, client, one_line, print, print_json};
use crate::restore::{Integrity, Listing, RestoreError, Verified, verify_replica};

pub(super) async fn run(args: VerifyArgs) -> Result<(), Failure> {
    let replicas = args.store.open().await?;
    let mut chosen = Vec::new();
    for text in &args.clients {
        let one = client::resolve(&replicas, text).await?;
        let name = text.clone();
        chosen.push(Chosen { name, ..one });
    }
    let mut listing = Listing::default();
    if args.clients.is_empty() {
        listing = replicas.list().await?;
        let listed = listing.clients.iter();
        chosen.extend(listed.filter_map(|listed| replicas.chosen(listed)));
    }
    let scratch = tempfile::tempdir()
        .map_err(|error| Failure::Other(format!("make a scratch directory: {error}")))?;
    let mut results = Vec::new();
    let bar = Bar::of_clients(chosen.len());
    for one in chosen {
        let outcome = verify_replica(&one.store, &one.s3_prefix, scratch.path()).await;
        let result = Verdict::new(one.name, outcome);
        bar.one_more();
        if !args.json {
            bar.suspend(|| print(&result.line()))?;
        }
        results.push(result);
    }
    drop(bar);
    let failure = failure(&results);
    let is_empty = results.is_empty();
    if args.json {
        print_json(&Results { results })?;
    }
    failure.map_or(Ok(()), Err)?;
    left_out(&listing)?;
    if is_empty {
        return Err(Failure::Other(format!(
            "{}: there is nothing to verify; the store is empty, or there is none at this place",
            replicas.describe()
        )));
    }
    Ok(())
}

#[derive(Serialize)]
struct Results {
    results: Vec<Verdict>,
}

/// What came of one replica.
#[derive(Serialize)]
struct Verdict {
    client: String,
    generation: Option<String>,
    txid: Option<u64>,
    /// What SQLite said; only its page checksums speak for an encrypted database.
    #[serde(skip)]
    integrity: Option<Integrity>,
    /// `ok`, `damaged`, or `unknown` where it could not be told.
    result: &'static str,
    error: Option<String>,
}

impl Verdict {
    fn new(client: String, outcome: Result<Verified, RestoreError>) -> Self {
        match outcome {
            Ok(verified) => Self {
                client,
                generation: Some(verified.generation.to_string()),
                txid: Some(verified.txid),
                integrity: Some(verified.integrity),
                result: "ok",
                error: None,
            },
            Err(error) => Self {
                client,
                generation: None,
                txid: None,
                integrity: None,
                result: if error.is_damage() {
                    "damaged"
                } else {
                    "unknown"
                },
                error: Some(one_line(&error.to_string())),
            },
        }
    }

    fn line(&self) -> String {
        let detail = match (&self.generation, self.txid, &self.error) {
            (Some(generation), Some(txid), None) => {
                let checked = match self.integrity {
                    Some(Integrity::Encrypted) => ", by checksums alone: it is encrypted",
                    Some(Integrity::Ok) | None => "",
                };
                format!("transaction {txid} of generation {generation}{checked}")
            }
            (_, _, error) => error.clone().unwrap_or_default(),
        };
        format!("{}  {:<7}  {detail}\n", self.client, self.result)
    }
}

/// Damage weighs more than what could not be told.
fn failure(results: &[Verdict]) -> Option<Failure> {
    let count = |result: &str| results.iter().filter(|one| one.result == result).count();
    let (damaged, unknown, all) = (count("damaged"), count("unknown"), results.len());
    if damaged > 0 {
        return Some(Failure::Damage(format!(
            "{damaged} of {all} replicas are damaged; restore from an older generation, and take a new snapshot"
        )));
    }
    (unknown > 0).then(|| {
        Failure::Other(format!(
            "{unknown} of {all} replicas could not be checked; see the line of each"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(result: &'static str) -> Verdict {
        Verdict {
            client: "abc".to_owned(),
            generation: None,
            txid: None,
            integrity: None,
            result,
            error: None,
        }
    }

    #[test]
    fn damage_decides_the_exit_code() {
        let code = |results: &[&'static str]| {
            let results: Vec<_> = results.iter().map(|result| verdict(result)).collect();
            failure(&results).map_or(0, |failure| failure.exit_code())
        };
        assert_eq!(code(&[]), 0);
        assert_eq!(code(&["ok", "ok"]), 0);
        assert_eq!(code(&["ok", "unknown"]), 1);
        assert_eq!(code(&["unknown", "damaged", "ok"]), 3);
    }

    #[test]
    fn one_verdict_as_json() {
        let json = serde_json::to_value(Results {
            results: vec![verdict("unknown")],
        })
        .expect("JSON");
        let expected = serde_json::json!({"results": [
            {"client": "abc", "generation": null, "txid": null, "result": "unknown", "error": null},
        ]});
        assert_eq!(json, expected);
    }
}
