//! `demo`: the whole way of a commit, in a scratch directory: mount, write, kill, start again, restore, compare.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tempfile::TempDir;

use super::child::Child;
use super::{Failure, block_on, print};
use crate::restore::{At, Target, restore_to_file};
use crate::store::ObjectStore;
use crate::store::spec::{S3Options, StoreSpec};
use crate::tenant::ids::{ClientId, derived_prefix};

const TENANTS: [(&str, &str); 3] = [
    ("ACME", "12345678-1234-5678-9abc-123456789012"),
    ("Beta", "98765432-4321-8765-cba9-876543210987"),
    ("Gamma", "abcdef01-2345-6789-abcd-ef0123456789"),
];
/// Orders that each tenant gets in each of the three rounds of writing.
const ORDERS: i64 = 40;
/// How long a round may take to reach the store.
const SYNC_TIME: Duration = Duration::from_secs(20);

/// An order's number, its customer, and its price in cents.
type Order = (i64, String, i64);

pub(super) fn run() -> Result<(), Failure> {
    let scratch = tempfile::tempdir().map_err(failed("make a scratch directory"))?;
    let mut demo = Demo::new(&scratch)?;
    let outcome = demo.run();
    // Before the scratch directory goes: nothing may be mounted in it then.
    demo.child.stop();
    outcome
}

struct Demo {
    started: Instant,
    step: u32,
    data: PathBuf,
    store: PathBuf,
    restored: PathBuf,
    child: Child,
}

impl Demo {
    fn new(scratch: &TempDir) -> Result<Self, Failure> {
        let path = |name: &str| scratch.path().join(name);
        for name in ["data", "store", "restored"] {
            std::fs::create_dir(path(name)).map_err(failed("make a directory"))?;
        }
        Ok(Self {
            started: Instant::now(),
            step: 0,
            data: path("data"),
            store: path("store"),
            restored: path("restored"),
            child: Child::new(path("data"), path("store")),
        })
    }

    fn run(&mut self) -> Result<(), Failure> {
        self.say(&format!(
            "mount over {}, replicas go to {}",
            self.data.display(),
            self.store.display()
        ))?;
        self.child.start()?;

        self.say(&format!(
            "three tenants make a database each, and commit {ORDERS} orders each"
        ))?;
        self.write_orders()?;
        let first_txids = self.sync_all()?;
        let first_orders = self.orders_of_all()?;
        self.say(&format!("all of it is in the store; {}", self.lag()?))?;

        self.say(&format!(
            "{ORDERS} more orders each, and at once kill -9 of the daemon"
        ))?;
        self.write_orders()?;
        self.child.kill()?;

        self.say("start again: the dead mount is cleared, the capture goes on where it was")?;
        self.child.start()?;
        self.write_orders()?;
        self.sync_all()?;
        let orders = self.orders_of_all()?;
        self.say(&format!(
            "{ORDERS} more orders each, all of it in the store; {}",
            self.lag()?
        ))?;

        self.say("restore each tenant from the store alone, and compare")?;
        self.restore_and_compare("newest", &[None; 3], &orders)?;
        self.say("restore each tenant as it was before the kill, and compare")?;
        self.restore_and_compare("before", &first_txids.map(Some), &first_orders)?;

        self.say("stop: sync, unmount")?;
        self.child.terminate()?;
        self.say("done: nothing was lost, and every state is restorable")
    }

    fn say(&mut self, text: &str) -> Result<(), Failure> {
        self.step += 1;
        let elapsed = self.started.elapsed().as_secs_f64();
        print(&format!("{elapsed:6.2} s  {:>2}. {text}\n", self.step))
    }

    fn database(&self, guid: &str) -> PathBuf {
        self.data.join(format!("{guid}.db"))
    }

    /// One transaction an order, as an application would; the connections are closed afterwards.
    fn write_orders(&self) -> Result<(), Failure> {
        for (customer, guid) in TENANTS {
            write_orders(&self.database(guid), customer).map_err(failed("write orders"))?;
        }
        Ok(())
    }

    fn orders_of_all(&self) -> Result<[Vec<Order>; 3], Failure> {
        let mut all = [const { Vec::new() }; 3];
        for (orders, (_, guid)) in all.iter_mut().zip(TENANTS) {
            *orders = read_orders(&self.database(guid)).map_err(failed("read the orders"))?;
        }
        Ok(all)
    }

    /// Waits until everything is in the store; the newest transaction of each tenant.
    fn sync_all(&self) -> Result<[u64; 3], Failure> {
        let mut txids = [0; 3];
        for (txid, (_, guid)) in txids.iter_mut().zip(TENANTS) {
            let path = format!(
                "/api/databases/{guid}/{guid}/sync?timeout={}s",
                SYNC_TIME.as_secs()
            );
            let answer = self.child.ask("POST", &path, SYNC_TIME)?;
            *txid = answer["txid"]
                .as_u64()
                .ok_or_else(|| Failure::Other(format!("sync {guid}: {answer}")))?;
        }
        Ok(txids)
    }

    /// What health says of the lag of all.
    fn lag(&self) -> Result<String, Failure> {
        let answer = self.child.ask("GET", "/api/health/clients", SYNC_TIME)?;
        let clients = answer["clients"].as_array().cloned().unwrap_or_default();
        let lags = clients
            .iter()
            .filter_map(|client| client["replicationLagMs"].as_u64());
        let worst = lags.max().unwrap_or(0);
        Ok(format!("{} clients, lag {worst} ms", clients.len()))
    }

    /// Restores every tenant, to its newest moment or to a transaction, and compares with the orders.
    fn restore_and_compare(
        &self,
        name: &str,
        txids: &[Option<u64>; 3],
        expected: &[Vec<Order>; 3],
    ) -> Result<(), Failure> {
        for (((customer, guid), txid), expected) in TENANTS.iter().zip(txids).zip(expected) {
            let output = self.restored.join(format!("{guid}-{name}.db"));
            let txid = block_on(restore(&self.store, guid, *txid, &output))?;
            let orders = read_orders(&output).map_err(failed("read the restored orders"))?;
            if orders != *expected {
                return Err(Failure::Other(format!(
                    "{customer}: {} orders were restored, and they are not the {} that were committed",
                    orders.len(),
                    expected.len()
                )));
            }
            print(&format!(
                "              {customer:<5} transaction {txid}: {} orders, all equal; integrity_check ok\n",
                orders.len()
            ))?;
        }
        Ok(())
    }
}

async fn restore(
    store: &Path,
    guid: &str,
    txid: Option<u64>,
    output: &Path,
) -> Result<u64, Failure> {
    let spec = StoreSpec::Directory(store.to_owned());
    let store: Arc<dyn ObjectStore> = spec.open(&S3Options::default()).await?;
    let prefix = derived_prefix(&ClientId::single("", guid), true);
    let target = Target {
        generation: None,
        at: txid.map_or(At::Newest, At::Txid),
    };
    let restored = restore_to_file(&store, &prefix, &target, output, false, &|_| {}).await?;
    Ok(restored.txid)
}

fn write_orders(database: &Path, customer: &str) -> rusqlite::Result<()> {
    let connection = Connection::open(database)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, customer TEXT NOT NULL, cents INTEGER NOT NULL)",
    )?;
    for n in 1..=ORDERS {
        connection.execute(
            "INSERT INTO orders (customer, cents) VALUES (?1, ?2)",
            (format!("{customer} {n}"), n * 199),
        )?;
    }
    connection.close().map_err(|(_, error)| error)
}

/// All orders of a sound database.
fn read_orders(database: &Path) -> rusqlite::Result<Vec<Order>> {
    let connection = Connection::open(database)?;
    let finding: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    if finding != "ok" {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
            Some(finding),
        ));
    }
    let mut select = connection.prepare("SELECT id, customer, cents FROM orders ORDER BY id")?;
    let orders = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    orders.collect()
}

/// An error of the demo itself: what it wanted to do, and why not.
pub(super) fn failed<E: std::fmt::Display>(action: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure::Other(format!("demo: {action}: {error}"))
}
