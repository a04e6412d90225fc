//! `retain`: deletes what of the replicas has outlived its retention, or prints what that would be.

use serde::Serialize;

use super::args::RetainArgs;
use super::{Failure, print, print_json, table};
use crate::replicate::retention::{carry_out, plan_for};
use crate::restore::list_clients;
use crate::store::probe_time;

pub(super) async fn run(args: RetainArgs) -> Result<(), Failure> {
    let retention = args.store.load()?.policy().retention;
    let store = args.store.open().await?;
    let now = probe_time(&*store).await?;
    let mut clients = Vec::new();
    for listed in list_clients(&store).await? {
        let plan = plan_for(&*store, &listed.s3_prefix, retention, now).await?;
        if !args.dry_run {
            carry_out(&*store, &listed.s3_prefix, &plan).await?;
        }
        clients.push(Outlived {
            client: listed.client,
            prefix: (!listed.prefix.is_empty()).then_some(listed.prefix),
            objects: plan.delete.len(),
            bytes: plan.bytes(),
            keys: args.dry_run.then(|| {
                let keys = plan.delete.iter();
                keys.map(|object| object.key.below(&listed.s3_prefix))
                    .collect()
            }),
        });
    }
    if args.json {
        return print_json(&Results { clients });
    }
    print(&text(&clients, args.dry_run))
}

#[derive(Serialize)]
struct Results {
    clients: Vec<Outlived>,
}

/// What goes, or would go, of one client.
#[derive(Serialize)]
struct Outlived {
    client: String,
    prefix: Option<String>,
    objects: usize,
    bytes: u64,
    /// In the order of deletion; only of a plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<String>>,
}

fn text(clients: &[Outlived], is_plan: bool) -> String {
    let mut text = String::new();
    for key in clients
        .iter()
        .flat_map(|client| client.keys.iter().flatten())
    {
        text.push_str(&format!("{key}\n"));
    }
    let rows: Vec<_> = clients
        .iter()
        .filter(|client| client.objects > 0)
        .map(|client| {
            vec![
                client.client.clone(),
                client.prefix.clone().unwrap_or_default(),
                client.objects.to_string(),
                client.bytes.to_string(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return "Nothing has outlived its retention.\n".to_owned();
    }
    let done = if is_plan { "TO DELETE" } else { "DELETED" };
    text + &table(&["CLIENT", "PREFIX", done, "BYTES"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_names_the_keys_and_a_run_only_counts() {
        let client = |keys: Option<&[&str]>, objects| Outlived {
            client: "abc".to_owned(),
            prefix: None,
            objects,
            bytes: 10,
            keys: keys.map(|keys| keys.iter().map(|key| (*key).to_owned()).collect()),
        };
        assert_eq!(
            text(&[client(Some(&["a/1", "a/2"]), 2)], true),
            "a/1\na/2\nCLIENT  PREFIX  TO DELETE  BYTES\nabc             2          10\n"
        );
        assert_eq!(
            text(&[client(None, 2)], false),
            "CLIENT  PREFIX  DELETED  BYTES\nabc             2        10\n"
        );
        let none = text(&[client(None, 0)], false);
        assert_eq!(none, "Nothing has outlived its retention.\n");
    }
}
