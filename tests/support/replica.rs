//! Small replicas made of model states, and a place to restore them to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use litestream_multitenant::format::keys::{GenerationId, ObjectKey};
use litestream_multitenant::format::ltx::{DatabaseChecksum, Encoder, Header, page_checksum};
use litestream_multitenant::restore::{At, RestoreError, Restored, Target, restore_to_file};
use litestream_multitenant::store::{Body, ObjectStore};
use tempfile::TempDir;

pub const PREFIX: &str = "databases/12345678-1234-5678-9abc-123456789012";
pub const FIRST: GenerationId = GenerationId(0x1_0000_0000);
pub const SECOND: GenerationId = GenerationId(0x2_0000_0000);
pub const NEWEST: Target = Target {
    generation: None,
    at: At::Newest,
};

/// A database after some transaction.
#[derive(Clone)]
pub struct State {
    pub txid: u64,
    pub time_ms: i64,
    pub bytes: Vec<u8>,
}

/// Encodes what turns one state into another, without looking at any of the program's own capture.
pub struct Model {
    pub page_size: usize,
    pub generation: GenerationId,
    pub states: Vec<State>,
    pub objects: BTreeMap<ObjectKey, Vec<u8>>,
}

impl Model {
    pub fn new(page_size: usize, generation: GenerationId) -> Self {
        Self {
            page_size,
            generation,
            states: Vec::new(),
            objects: BTreeMap::new(),
        }
    }

    /// States of a real SQLite database that grows, shrinks and changes; different for each seed.
    pub fn of_sqlite(
        page_size: usize,
        generation: GenerationId,
        first_txid: u64,
        seed: u32,
    ) -> Self {
        let directory = TempDir::new().expect("a scratch directory");
        let path = directory.path().join("model.db");
        let connection = rusqlite::Connection::open(&path).expect("a database");
        let mut model = Self::new(page_size, generation);
        let statements = [
            format!("PRAGMA page_size = {page_size}; PRAGMA user_version = {seed}; CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB);"),
            format!("INSERT INTO t (b) VALUES ('seed {seed}');"),
            "INSERT INTO t (b) SELECT zeroblob(3000) FROM generate_series_of_20;".replace(
                "generate_series_of_20",
                "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20) SELECT i FROM n)",
            ),
            "UPDATE t SET b = 'changed' WHERE a = 1;".to_owned(),
            "DELETE FROM t WHERE a > 5;".to_owned(),
            "VACUUM;".to_owned(),
            "INSERT INTO t (b) VALUES (zeroblob(9000));".to_owned(),
        ];
        for (n, statement) in (0..).zip(statements) {
            connection.execute_batch(&statement).expect("valid SQL");
            model.commit(State {
                txid: first_txid + n,
                time_ms: 1_000 * (first_txid + n) as i64,
                bytes: fs::read(&path).expect("readable"),
            });
        }
        model
    }

    pub fn pages(&self, bytes: &[u8]) -> BTreeMap<u32, Vec<u8>> {
        (1..)
            .zip(bytes.chunks(self.page_size).map(<[u8]>::to_vec))
            .collect()
    }

    pub fn header(&self, state: &State) -> Header {
        Header {
            no_checksum: false,
            page_size: self.page_size as u32,
            commit: (state.bytes.len() / self.page_size) as u32,
            min_txid: 1,
            max_txid: state.txid,
            timestamp_ms: state.time_ms,
            pre_apply_checksum: 0,
            wal_offset: 0,
            wal_size: 0,
            wal_salt: (0, 0),
            node_id: 1,
        }
    }

    pub fn checksum(&self, bytes: &[u8]) -> u64 {
        let mut sum = DatabaseChecksum::EMPTY;
        for (pgno, page) in self.pages(bytes) {
            sum.toggle(page_checksum(pgno, &page));
        }
        sum.value()
    }

    pub fn snapshot(&self, state: &State) -> Vec<u8> {
        let pages = self.pages(&state.bytes);
        encode(self.header(state), &pages, self.checksum(&state.bytes))
    }

    pub fn segment_header(&self, from: &State, to: &State) -> Header {
        Header {
            min_txid: from.txid + 1,
            pre_apply_checksum: self.checksum(&from.bytes),
            ..self.header(to)
        }
    }

    pub fn changed(&self, from: &State, to: &State) -> BTreeMap<u32, Vec<u8>> {
        let before = self.pages(&from.bytes);
        let mut changed = self.pages(&to.bytes);
        changed.retain(|pgno, page| before.get(pgno) != Some(page));
        changed
    }

    pub fn segment(&self, from: &State, to: &State) -> Vec<u8> {
        let header = self.segment_header(from, to);
        encode(header, &self.changed(from, to), self.checksum(&to.bytes))
    }

    /// Adds a state, and the object that leads to it.
    pub fn commit(&mut self, state: State) {
        let seq = self.states.len() as u32;
        let (key, object) = match self.states.last() {
            None => (
                ObjectKey::Snapshot(self.generation, 0),
                self.snapshot(&state),
            ),
            Some(last) => (
                ObjectKey::Segment(self.generation, seq),
                self.segment(last, &state),
            ),
        };
        self.objects.insert(key, object);
        self.states.push(state);
    }

    pub async fn store(&self, store: &dyn ObjectStore, prefix: &str) {
        for (key, object) in &self.objects {
            let body = Body::Bytes(Bytes::copy_from_slice(object));
            store
                .put_new(&key.below(prefix), &body)
                .await
                .expect("stored");
        }
    }
}

pub fn encode(header: Header, pages: &BTreeMap<u32, Vec<u8>>, post_apply: u64) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), header).expect("header");
    for (&pgno, page) in pages {
        encoder.page(pgno, page).expect("in order");
    }
    encoder.finish(post_apply).expect("complete").0
}

/// A directory to restore into.
pub struct Place {
    pub directory: TempDir,
}

impl Place {
    pub fn new() -> Self {
        let directory = TempDir::new().expect("a scratch directory");
        Self { directory }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("restored.db")
    }

    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).expect("readable");
        let names = entries.map(|entry| entry.expect("readable").file_name());
        names
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }
}

pub async fn restore_by_force(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
) -> Result<Restored, RestoreError> {
    restore_to_file(store, PREFIX, &NEWEST, path, true, &|_| {}).await
}

pub async fn restore(
    store: &Arc<dyn ObjectStore>,
    prefix: &str,
    target: Target,
    path: &Path,
) -> Result<Restored, RestoreError> {
    restore_to_file(store, prefix, &target, path, false, &|_| {}).await
}

pub fn at_txid(txid: u64) -> Target {
    let at = At::Txid(txid);
    Target { at, ..NEWEST }
}
