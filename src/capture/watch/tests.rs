//! What is heard of logs.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::*;
use crate::capture::queue::Queue;
use crate::capture::{FileKind, OpenedAs};

#[test]
fn breaths_become_long_unless_one_log_is_heard_of_again_and_again() {
    let mut breath = BREATH;
    for _ in 0..10 {
        breath = next_breath(breath, false);
    }
    assert_eq!(breath, LONG_BREATH);
    assert_eq!(next_breath(breath, true), BREATH);
}

/// A log, its database, and a watch of it.
struct Scene {
    watch: Watch,
    db: Arc<Database>,
    log: tempfile::NamedTempFile,
}

impl Scene {
    fn begin(is_calm: bool) -> Self {
        let watch = Watch::new().expect("an instance");
        watch.is_calm.store(is_calm, Ordering::SeqCst);
        let db = Database::new(
            Path::new("a.db").into(),
            Queue::new(1, Path::new("state").into()).0,
        );
        let log = tempfile::NamedTempFile::new().expect("a file");
        let scene = Self {
            watch,
            db: Arc::new(db),
            log,
        };
        scene.add();
        scene
    }

    fn add(&self) {
        let file = self.log.as_file();
        let inode = file.metadata().expect("a file").ino();
        self.watch
            .add(&self.db, file.as_fd(), inode)
            .expect("watched");
    }

    fn write(&self) {
        self.log.as_file().write_all(b"x").expect("written");
    }

    /// What is heard now.
    fn read(&self) -> Vec<Written> {
        let mut logs = Vec::new();
        let mut tell = |written: Option<Written>| logs.push(written.expect("few events"));
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER_SIZE];
        self.watch.read(&mut buffer, &mut tell).expect("read");
        logs
    }

    fn is_heard_of(&self) -> bool {
        self.write();
        !self.read().is_empty()
    }
}

#[test]
fn a_watch_ends_with_what_it_tells_and_stays_where_none_is_fast() {
    let scene = Scene::begin(false);
    assert!(scene.is_heard_of());
    assert!(!scene.is_heard_of());
    assert_eq!(scene.db.watched(), None);

    let mut scene = Scene::begin(true);
    assert!(scene.is_heard_of() && scene.is_heard_of());
    assert!(scene.db.watched().is_some());
    let next = tempfile::NamedTempFile::new().expect("a file");
    drop(std::mem::replace(&mut scene.log, next));
    assert!(!scene.read().is_empty(), "it is gone");
    assert_eq!(scene.db.watched(), None);
    scene.add();
    assert!(scene.is_heard_of());
}

#[test]
fn a_watch_that_stays_ends_where_its_log_is_fast_or_another_is() {
    let db = |scene: &Scene| vec![Arc::as_ptr(&scene.db)];
    let scene = Scene::begin(true);
    let is_fast = |before: &[Vec<_>; 2]| {
        scene.write();
        let is_fast = scene.watch.is_any_fast(&scene.read(), before);
        assert_eq!(scene.db.watched().is_none(), is_fast);
        is_fast
    };
    assert!(!is_fast(&[db(&scene), vec![]]), "in the middle of a commit");
    assert!(!is_fast(&[vec![], db(&scene)]));
    assert!(is_fast(&[db(&scene), db(&scene)]));
    assert!(!scene.is_heard_of());

    scene.add();
    scene.watch.is_calm.store(false, Ordering::SeqCst);
    scene.write();
    assert!(!scene.watch.is_any_fast(&scene.read(), &Default::default()));
    assert!(!scene.is_heard_of());
    scene.add();
    scene.write();
    let before = [db(&scene), vec![]];
    assert!(scene.watch.is_any_fast(&scene.read(), &before));
}

/// Else that look would rely on it.
#[test]
fn a_watch_that_stays_ends_before_its_log_is_looked_at() {
    let scene = Scene::begin(true);
    let (told, heard) = std::sync::mpsc::channel();
    let tell = move |heard| {
        if let Heard::Log(db) = heard {
            told.send(db.watched()).expect("the test waits");
        }
    };
    let watched_when_heard = || {
        scene.write();
        let limit = Duration::from_secs(20);
        heard.recv_timeout(limit).expect("heard of").is_some()
    };
    std::thread::scope(|scope| {
        let listening = scope.spawn(|| scene.watch.listen(tell));
        assert!(watched_when_heard());
        assert!(!watched_when_heard(), "few logs are written");
        scene.watch.end();
        let ended = listening.join().expect("no panic");
        ended.expect("listened");
    });
}

#[test]
fn a_watch_that_stays_ends_with_its_database() {
    let mut scene = Scene::begin(true);
    scene.db = Arc::new(Database::new(
        Path::new("b.db").into(),
        Queue::new(1, Path::new("state").into()).0,
    ));
    assert!(!scene.is_heard_of());
    assert!(scene.watch.lock().is_empty());
}

/// As many events as the kernel keeps for one instance, and more, before anybody reads them.
#[test]
fn where_events_overflow_every_log_is_looked_at() {
    let kept = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events");
    let kept: usize = kept.expect("a limit").trim().parse().expect("a number");
    let watch = Watch::new().expect("an instance");
    let mut files = [(); 2].map(|()| tempfile::NamedTempFile::new().expect("a file"));
    for file in &files {
        inotify::add_watch(&watch.events, file.path(), WatchFlags::MODIFY).expect("watched");
    }
    // Events of the same file are told as one.
    for _ in 0..kept {
        for file in &mut files {
            file.write_all(b"x").expect("written");
        }
    }
    let mut overflows = 0;
    let mut tell = |written: Option<Written>| overflows += usize::from(written.is_none());
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER_SIZE];
    watch.read(&mut buffer, &mut tell).expect("read");
    assert_eq!(overflows, 1);
}

/// The watch of a log that is open stays good until another one has its name.
#[test]
fn another_log_under_the_name_is_heard_of_before_it_is_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = std::fs::File::open(dir.path()).expect("a directory");
    let backing = Backing::new(Arc::new(root.into()));
    let watching = Watching::begin(LogPassing::Required).expect("an instance");
    let watch = watching.watch.clone().expect("watching");
    watch.is_calm.store(true, Ordering::SeqCst);
    let db = Arc::new(Database::new(
        Path::new("a.db").into(),
        Queue::new(1, Path::new("state").into()).0,
    ));
    let how = OpenedAs {
        writable: true,
        passthrough: true,
        external: false,
    };
    db.opened(FileKind::Database, how);
    db.opened(FileKind::Wal, how);
    let path = dir.path().join("a.db-wal");
    let make = |path: &Path| Arc::new(File::create(path).expect("a file"));
    let inode = |file: &File| file.metadata().expect("a file").ino();
    let listen = || {
        let heard = watching.listen_again(&db, &backing).expect("listened");
        heard.expect("there is a log")
    };

    let open = make(&path);
    db.lend(&open).expect("lent");
    for _ in 0..2 {
        let heard = listen();
        assert!(Arc::ptr_eq(&heard.file, &open));
        heard.refuse_other(&db, inode(&open)).expect("the same");
    }
    // It is not missed where there is none.
    listen().refuse_other(&db, 0).expect("no other");

    let other = dir.path().join("other");
    let next = make(&other);
    std::fs::rename(&other, &path).expect("renamed");
    let refused = listen().refuse_other(&db, inode(&next));
    assert!(matches!(refused, Err(CaptureError::Disturbed)));
    let heard = listen();
    assert_eq!(
        (heard.inode, db.watched()),
        (inode(&next), Some(inode(&next)))
    );
    heard.refuse_other(&db, inode(&next)).expect("heard of");
}
