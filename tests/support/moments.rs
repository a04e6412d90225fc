//! What live connections saw at a database's transactions, and that a restore of each shows just that.

use std::collections::BTreeMap;

use super::daemon::Daemon;
use super::sqlite::{self, Session};

/// The states of one database, by their transactions.
pub struct Moments<'a> {
    daemon: &'a Daemon,
    client: String,
    seen: BTreeMap<u64, String>,
}

impl<'a> Moments<'a> {
    pub fn of(daemon: &'a Daemon, client: &str) -> Self {
        Self {
            daemon,
            client: client.to_owned(),
            seen: BTreeMap::new(),
        }
    }

    /// Waits until all is stored, and notes what the connection shows then; the newest transaction.
    pub fn see(&mut self, session: &mut Session) -> u64 {
        let txid = self.daemon.sync(&self.client);
        self.note(txid, session);
        txid
    }

    /// Notes what the connection shows as the state of a transaction that is yet to be stored.
    pub fn note(&mut self, txid: u64, session: &mut Session) {
        let shown = session.run(".dump");
        let known = self.seen.entry(txid).or_insert_with(|| shown.clone());
        assert!(*known == shown, "{txid}: {known}\n{shown}");
    }

    /// Every stored moment that is not `excused` shows what was seen then, and all that was seen is one.
    pub fn assert_restored(&self, excused: &[u64]) {
        let generations = self.daemon.generations(&self.client);
        let moments = generations
            .iter()
            .flat_map(|generation| generation["moments"].as_array().expect("a list"));
        let stored: Vec<u64> = moments
            .map(|moment| moment["txid"].as_u64().expect("a number"))
            .filter(|txid| !excused.contains(txid))
            .collect();
        let seen: Vec<u64> = self.seen.keys().copied().collect();
        assert_eq!(stored, seen, "{}", self.daemon.log.text());
        for (txid, shown) in &self.seen {
            let name = format!("moment-{}-{txid}.db", self.client);
            let flags = ["--force", "--txid", &txid.to_string()];
            let restored = self.daemon.restore(&self.client, &flags, &name);
            let restored = sqlite::query(&restored, ".dump");
            assert!(restored == *shown, "{txid}:\n{shown}\nnot\n{restored}");
        }
    }
}
