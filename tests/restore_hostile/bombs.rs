//! Objects that are far larger than they look, or never end, take neither memory without bound nor the disk.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use litestream_multitenant::clock::UnixMs;
use litestream_multitenant::format::keys::ObjectKey;
use litestream_multitenant::format::ltx::{DatabaseChecksum, Encoder, Header, page_checksum};
use litestream_multitenant::restore::{describe, list_moments, verify_replica};
use litestream_multitenant::store::{Body, ObjectInfo, ObjectStore, Put, StoreError};
use tokio::io::AsyncRead;

use super::replica::{FIRST, Model, NEWEST, PREFIX, Place, State, restore};
use super::support::Scratch;

const GUID: &str = "12345678-1234-5678-9abc-123456789012";
const SNAPSHOT: ObjectKey = ObjectKey::Snapshot(FIRST, 0);
const SEGMENT: ObjectKey = ObjectKey::Segment(FIRST, 1);
/// Bytes that a restore or a verification may take: a few objects, the program itself, and nothing that grows with what they
/// become.
const MEMORY: u64 = 100 << 20;

/// What became of the program, and the most memory that it had, in bytes.
struct Ended {
    code: i32,
    error: String,
    peak: u64,
}

/// Runs the binary against the replica in a directory store.
fn run(scratch: &Scratch, words: &[&str]) -> Ended {
    let root = scratch.object_path("");
    let place = Place::new();
    let log = place.directory.path().join("stderr");
    let child = Command::new(env!("CARGO_BIN_EXE_litestream-multitenant"))
        .args(words)
        .arg("-bucket")
        .arg(format!("file://{}", root.display()))
        .stdout(Stdio::null())
        .stderr(File::create(&log).expect("a file"))
        .spawn()
        .expect("the binary runs");
    let (code, peak) = wait_for(child);
    let error = fs::read_to_string(log).expect("text");
    Ended { code, error, peak }
}

fn wait_for(child: Child) -> (i32, u64) {
    let pid = i32::try_from(child.id()).expect("a process id");
    let mut status = 0;
    // SAFETY: all zeros are a value of it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both places are ours, and the child is waited for here alone.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    assert_eq!(waited, pid, "{}", std::io::Error::last_os_error());
    assert!(libc::WIFEXITED(status), "it ends by itself: {status:#x}");
    (libc::WEXITSTATUS(status), usage.ru_maxrss as u64 * 1024)
}

fn small_model(page_size: usize) -> Model {
    let mut model = Model::new(page_size, FIRST);
    for txid in [1, 2] {
        model.commit(State {
            txid,
            time_ms: 0,
            bytes: vec![txid as u8; page_size],
        });
    }
    model
}

/// A snapshot of empty pages. Page by page, as a child begins with the peak of its parent.
fn zeros(header: Header) -> Vec<u8> {
    let page = vec![0; header.page_size as usize];
    let mut encoder = Encoder::new(Vec::new(), header).expect("header");
    let mut sum = DatabaseChecksum::EMPTY;
    for pgno in 1..=header.commit {
        encoder.page(pgno, &page).expect("in order");
        sum.toggle(page_checksum(pgno, &page));
    }
    encoder.finish(sum.value()).expect("complete").0
}

/// 256 MiB of zeros in a megabyte, never in memory as a whole: a restore gives what was stored, and `verify` says that it
/// is no database.
#[tokio::test]
async fn what_inflates_to_a_large_database_takes_little_memory() {
    let scratch = Scratch::directory().await;
    let mut model = small_model(65536);
    model.objects.clear();
    let header = Header {
        commit: 4096,
        ..model.header(&model.states[0])
    };
    model.objects.insert(SNAPSHOT, zeros(header));
    assert!(model.objects[&SNAPSHOT].len() < 2 << 20);
    model.store(&*scratch.store, PREFIX).await;
    let place = Place::new();
    let output = place.path();
    let output = output.to_str().expect("text");
    let restored = run(&scratch, &["restore", GUID, "-o", output]);
    assert_eq!(restored.code, 0, "{}", restored.error);
    assert_eq!(fs::metadata(output).expect("restored").len(), 256 << 20);
    assert!(restored.peak < MEMORY, "{} bytes", restored.peak);
    let verified = run(&scratch, &["verify", GUID]);
    assert_eq!(verified.code, 3, "{}", verified.error);
    assert!(verified.peak < MEMORY, "{} bytes", verified.peak);
}

/// Runs both commands, and expects that they name the object.
fn expect_refusal(scratch: &Scratch, key: ObjectKey, name: &str) {
    let place = Place::new();
    let output = place.path();
    let words = ["restore", GUID, "-o", output.to_str().expect("text")];
    let restored = run(scratch, &words);
    assert_eq!(restored.code, 1, "{name}: {}", restored.error);
    assert_eq!(restored.error.lines().count(), 1, "{}", restored.error);
    assert!(
        restored.error.contains(&key.below(PREFIX)),
        "{name}: {}",
        restored.error
    );
    assert!(place.names().is_empty(), "{name}: files are left");
    assert!(restored.peak < MEMORY, "{name}: {} bytes", restored.peak);
    let verified = run(scratch, &["verify", GUID]);
    assert_eq!(verified.code, 3, "{name}: {}", verified.error);
    assert!(verified.peak < MEMORY, "{name}: {} bytes", verified.peak);
}

/// An object whose one page is this block, however long it says that it is.
fn object_of_block(header: Header, claimed: u32, block: &[u8]) -> Vec<u8> {
    let mut object = header.encode().to_vec();
    object.extend(1_u32.to_be_bytes());
    object.extend(1_u16.to_be_bytes());
    object.extend(claimed.to_be_bytes());
    object.extend(block);
    object
}

#[tokio::test]
async fn a_page_that_inflates_without_end_is_refused() {
    let model = small_model(65536);
    let header = model.segment_header(&model.states[0], &model.states[1]);
    // One zero, repeated 255 times for each byte that follows: 16 MiB of it.
    let mut bomb = vec![0x1f, 0, 1, 0];
    bomb.resize(65_000, 0xff);
    for (name, claimed) in [
        ("a page of 16 MiB", bomb.len() as u32),
        ("a page of 4 GiB", u32::MAX),
    ] {
        let scratch = Scratch::directory().await;
        model.store(&*scratch.store, PREFIX).await;
        let object = object_of_block(header, claimed, &bomb);
        fs::write(scratch.object_path(&SEGMENT.below(PREFIX)), object).expect("written");
        expect_refusal(&scratch, SEGMENT, name);
    }
}

/// A terabyte that takes no room in the store would fill the disk that it is restored on.
#[tokio::test]
async fn an_object_longer_than_its_header_allows_is_refused_before_it_is_fetched() {
    let model = small_model(4096);
    for (name, key) in [("a snapshot", SNAPSHOT), ("a segment", SEGMENT)] {
        for keeps_header in [true, false] {
            let scratch = Scratch::directory().await;
            model.store(&*scratch.store, PREFIX).await;
            let path = scratch.object_path(&key.below(PREFIX));
            stretch(&path, keeps_header);
            expect_refusal(&scratch, key, name);
        }
    }
}

fn stretch(path: &Path, keeps_header: bool) {
    let file = File::options().write(true).open(path).expect("there");
    if !keeps_header {
        file.set_len(0).expect("cut");
    }
    file.set_len(1 << 40).expect("a sparse file");
}

/// A store that is as it says, but for the bodies of the objects of one kind.
struct Endless {
    store: Arc<dyn ObjectStore>,
    kind: &'static str,
}

#[async_trait]
impl ObjectStore for Endless {
    async fn put_new(&self, key: &str, body: &Body) -> Result<Put, StoreError> {
        self.store.put_new(key, body).await
    }

    async fn get(&self, key: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>, StoreError> {
        match key.ends_with(self.kind) {
            true => Ok(Box::new(tokio::io::repeat(b'{'))),
            false => self.store.get(key).await,
        }
    }

    async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        self.store.get_range(key, offset, len).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.store.list(prefix).await
    }

    async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.store.list_folders(prefix).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        self.store.delete(keys).await
    }

    async fn now(&self, prefix: &str) -> Result<UnixMs, StoreError> {
        self.store.now(prefix).await
    }

    fn describe(&self) -> String {
        self.store.describe()
    }
}

/// So is an object that grows while it is read: more than was listed is never taken.
#[tokio::test]
async fn a_body_without_end_is_given_up_by_its_key() {
    for (kind, key) in [(".snapshot", SNAPSHOT), (".wal", SEGMENT)] {
        let scratch = Scratch::directory().await;
        small_model(512).store(&*scratch.store, PREFIX).await;
        let store: Arc<dyn ObjectStore> = Arc::new(Endless {
            store: scratch.store.clone(),
            kind,
        });
        let place = Place::new();
        let restored = restore(&store, PREFIX, NEWEST, &place.path()).await;
        let verified = verify_replica(&store, PREFIX, place.directory.path()).await;
        for error in [restored.expect_err(kind), verified.expect_err(kind)] {
            let text = error.to_string();
            assert!(text.contains(&key.below(PREFIX)), "{text}");
            assert!(text.contains("others came"), "{text}");
        }
        assert!(place.names().is_empty());
        // Headers are read by range, and nothing else is.
        let listed = list_moments(&store, PREFIX).await.expect("listed");
        assert_eq!(listed[0].moments.len(), 2);
    }
}

#[tokio::test]
async fn a_description_without_end_is_none() {
    let scratch = Scratch::directory().await;
    let store: Arc<dyn ObjectStore> = Arc::new(Endless {
        store: scratch.store.clone(),
        kind: "database.json",
    });
    let described = describe(&store, PREFIX, FIRST).await;
    assert_eq!(described.expect("an answer"), None);
}
