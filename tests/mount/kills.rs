//! The daemon is killed under load, then the writers, round after round: nothing that was acknowledged and synced is
//! missing, and after settling the replica equals the source.

use super::support::daemon::{Daemon, Options, Served, guid};
use super::support::sqlite;
use super::support::workload::{Workload, acknowledged, assert_has_all};

const ROUNDS: u32 = 20;

fn rounds(served: Served) {
    let mut daemon = Daemon::start(Options {
        sync_interval: "20ms",
        time_limit: std::time::Duration::from_secs(170),
        ..Options::served(served)
    });
    let clients = [guid(1), guid(2)];
    for round in 0..ROUNDS {
        let synchronous = ["off", "normal", "full"][round as usize % 3];
        let writers: Vec<_> = clients
            .iter()
            .enumerate()
            .map(|(number, client)| {
                let acks = daemon.path(&format!("acks-{number}-{round}"));
                let arguments = format!(
                    "--seconds 60 --synchronous {synchronous} --autocheckpoint 40 --seed {}",
                    round + 1
                );
                let writer = Workload::start(&daemon.database(client), &acks, &arguments);
                (writer, acks)
            })
            .collect();
        for (writer, _) in &writers {
            writer.wait_for_acks(20 + round as usize);
        }
        // What is synced now must be there whatever happens afterwards.
        let synced: Vec<_> = clients
            .iter()
            .zip(&writers)
            .map(|(client, (_, acks))| {
                let acked = acknowledged(acks);
                (client, acked, daemon.sync(client))
            })
            .collect();
        daemon.kill9();
        for (client, acked, txid) in &synced {
            let restored = daemon.restore(client, &[], &format!("synced-{round}-{client}.db"));
            assert_has_all(&restored, acked);
            assert!(*txid > 0);
        }
        let acks: Vec<_> = writers
            .into_iter()
            .map(|(writer, acks)| {
                writer.kill9();
                acks
            })
            .collect();
        daemon.restart();
        for (client, acks) in clients.iter().zip(&acks) {
            daemon.sync(client);
            let restored = daemon.restore(client, &[], &format!("settled-{round}-{client}.db"));
            assert_has_all(&restored, &acknowledged(acks));
            sqlite::assert_same(&daemon.database(client), &restored);
        }
    }
    for client in &clients {
        let listed = daemon.command(&["list", client, "-json"], |_| {});
        let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
        let count = listed["generations"].as_array().map_or(0, Vec::len);
        assert_eq!(
            count,
            1,
            "no kill breaks the history:\n{}",
            daemon.log.text()
        );
    }
    daemon.command(&["verify"], |_| {});
}

#[test]
fn twenty_rounds_of_kills() {
    rounds(Served::LogsPassed);
}

#[test]
fn twenty_rounds_of_kills_without_passthrough() {
    rounds(Served::ByDaemon);
}

#[test]
fn twenty_rounds_of_kills_intercepted() {
    rounds(Served::LogsIntercepted);
}
