//! `list`: the clients in the store, or the moments of one that can be restored.

use serde::Serialize;

use super::args::ListArgs;
use super::replicas::left_out;
use super::{Failure, client, print, print_json, table};
use crate::clock::rfc3339;
use crate::restore::{ListedClient, ListedGeneration, list_moments};

pub(super) async fn run(args: ListArgs) -> Result<(), Failure> {
    let replicas = args.store.open().await?;
    let Some(text) = args.client else {
        let listing = replicas.list().await?;
        if args.json {
            print_json(&ClientsJson::new(&listing.clients))?;
        } else {
            print(&clients_table(&listing.clients))?;
        }
        return left_out(&listing);
    };
    let client = client::resolve(&replicas, &text).await?;
    let generations = list_moments(&client.store, &client.s3_prefix).await?;
    if args.json {
        print_json(&GenerationsJson {
            generations: &generations,
        })
    } else {
        print(&generations_table(&generations))
    }
}

#[derive(Serialize)]
struct ClientsJson<'a> {
    clients: Vec<ClientJson<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClientJson<'a> {
    client: &'a str,
    prefix: Option<&'a str>,
    s3_prefix: &'a str,
    removed_at: Option<String>,
}

impl<'a> ClientsJson<'a> {
    fn new(clients: &'a [ListedClient]) -> Self {
        let clients = clients
            .iter()
            .map(|listed| ClientJson {
                client: &listed.client,
                prefix: Some(listed.prefix.as_str()).filter(|prefix| !prefix.is_empty()),
                s3_prefix: &listed.s3_prefix,
                removed_at: removed_at(listed),
            })
            .collect();
        Self { clients }
    }
}

fn removed_at(client: &ListedClient) -> Option<String> {
    client.removed.map(|removed| rfc3339(removed.at))
}

fn clients_table(clients: &[ListedClient]) -> String {
    let rows: Vec<_> = clients
        .iter()
        .map(|listed| {
            let removed = removed_at(listed).unwrap_or_default();
            let (client, prefix) = (listed.client.clone(), listed.prefix.clone());
            vec![client, prefix, listed.s3_prefix.clone(), removed]
        })
        .collect();
    table(&["CLIENT", "PREFIX", "IN THE STORE", "REMOVED"], &rows)
}

#[derive(Serialize)]
struct GenerationsJson<'a> {
    generations: &'a [ListedGeneration],
}

fn generations_table(generations: &[ListedGeneration]) -> String {
    let rows: Vec<_> = generations
        .iter()
        .filter_map(|generation| {
            let (first, last) = (generation.moments.first()?, generation.moments.last()?);
            Some(vec![
                generation.id.to_string(),
                generation.moments.len().to_string(),
                format!("{} to {}", first.txid, last.txid),
                rfc3339(first.time_ms),
                rfc3339(last.time_ms),
            ])
        })
        .collect();
    table(&["GENERATION", "MOMENTS", "TXID", "FROM", "TO"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::keys::GenerationId;
    use crate::restore::{Moment, Removed};

    #[test]
    fn clients_as_json_and_as_a_table() {
        let clients = [
            ListedClient {
                client: "abc".to_owned(),
                prefix: String::new(),
                s3_prefix: "databases/abc".to_owned(),
                elsewhere: false,
                removed: None,
            },
            ListedClient {
                client: "abc".to_owned(),
                prefix: "eu".to_owned(),
                s3_prefix: "eu/databases/abc".to_owned(),
                elsewhere: false,
                removed: Some(Removed { at: 0, told: 7 }),
            },
        ];
        let json = serde_json::to_value(ClientsJson::new(&clients)).expect("JSON");
        let expected = serde_json::json!({"clients": [
            {"client": "abc", "prefix": null, "s3Prefix": "databases/abc", "removedAt": null},
            {"client": "abc", "prefix": "eu", "s3Prefix": "eu/databases/abc", "removedAt": "1970-01-01T00:00:00.000Z"},
        ]});
        assert_eq!(json, expected);
        assert!(clients_table(&clients).contains("abc     eu      eu/databases/abc"));
    }

    #[test]
    fn generations_as_json_and_as_a_table() {
        let moment = |txid, time_ms| Moment { txid, time_ms };
        let generations = [ListedGeneration {
            id: GenerationId(0x1a),
            moments: vec![moment(1, 0), moment(5, 1_000)],
        }];
        let json = serde_json::to_value(GenerationsJson {
            generations: &generations,
        })
        .expect("JSON");
        let expected = serde_json::json!({"generations": [{"id": "000000000000001a", "moments": [
            {"txid": 1, "time": "1970-01-01T00:00:00.000Z"},
            {"txid": 5, "time": "1970-01-01T00:00:01.000Z"},
        ]}]});
        assert_eq!(json, expected);
        assert!(generations_table(&generations).contains("000000000000001a  2        1 to 5"));
    }
}
