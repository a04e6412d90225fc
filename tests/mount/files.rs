//! A database as a file among files: shared by processes, locked, copied in and over, linked, empty, sparse, replaced.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, Served, guid};
use super::support::process::{binary, output, succeeded};
use super::support::sqlite::{self, Session, companion};

const EVENT_TIME: Duration = Duration::from_secs(10);
const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES ('first')";

impl Daemon {
    /// All that the file has is stored, and comes back.
    fn assert_follows(&self, client: &str, name: &str) {
        self.sync(client);
        let restored = self.restore(client, &["--force"], name);
        sqlite::assert_same(&self.database(client), &restored);
        assert_eq!(self.health(client)["status"], "active");
    }

    fn is_stored(&self, client: &str) -> bool {
        self.path("store/databases").join(client).exists()
    }
}

/// The wal-index is memory that processes share; the daemon has it from the backing file.
#[test]
fn sqlite_30_processes_see_each_others_commits_at_once() {
    for served in Served::ALL {
        let daemon = Daemon::start(Options::served(served));
        let client = guid(1);
        let database = daemon.database(&client);
        sqlite::query(&database, CREATE);
        let mut sessions = [Session::open(&database), Session::open(&database)];
        for round in 2..=40 {
            let writer = &mut sessions[round % 2];
            writer.run(&format!("INSERT INTO t VALUES ({round});"));
            let reader = &mut sessions[(round + 1) % 2];
            let seen = reader.run("SELECT count(*) FROM t;");
            assert_eq!(seen, round.to_string());
        }
        daemon.assert_follows(&client, "restored.db");
    }
}

/// Locks are between those who use the mount, the daemon has none, and its looks wait for none.
#[test]
fn sqlite_31_locks_hold_between_applications_and_the_daemon_takes_none() {
    for mode in ["WAL", "DELETE"] {
        let daemon = Daemon::start(Options::default());
        let client = guid(1);
        let database = daemon.database(&client);
        let mut writer = Session::open(&database);
        writer.run(&format!("PRAGMA journal_mode={mode}; CREATE TABLE t(x);"));
        daemon.sync(&client);
        writer.run("BEGIN IMMEDIATE; INSERT INTO t VALUES (1);");
        let other = output(
            Command::new("sqlite3")
                .arg(&database)
                .arg("INSERT INTO t VALUES (2)"),
        );
        let refused = String::from_utf8_lossy(&other.stderr);
        assert!(refused.contains("database is locked"), "{refused}");
        // The line of a lock has its owner, and at its end device, inode and range; both sides show the same inode.
        let table = fs::read_to_string("/proc/locks").expect("the table of locks");
        let inode = format!(":{} ", fs::metadata(&database).expect("a file").ino());
        let of_file: Vec<_> = table.lines().filter(|line| line.contains(&inode)).collect();
        let pid = format!(" {} ", daemon.pid());
        assert!(!of_file.is_empty(), "the writer has some:\n{table}");
        assert!(
            !of_file.iter().any(|line| line.contains(&pid)),
            "{of_file:?}"
        );
        writer.run("COMMIT;");
        sqlite::query(&database, "INSERT INTO t VALUES (3)");
        daemon.assert_follows(&client, "restored.db");
    }
}

/// By `cp`, by `.backup`, by the rename of a finished file, by a hard link, of any size.
#[test]
fn sqlite_32_a_database_that_is_copied_in_is_replicated_when_it_is_whole() {
    let mut daemon = Daemon::start(Options::default());
    let source = daemon.path("source.db");
    sqlite::query(&source, CREATE);
    sqlite::query(
        &source,
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
         INSERT INTO t SELECT hex(randomblob(100)) FROM n",
    );
    let aside = daemon.data().join("aside");
    succeeded(Command::new("cp").arg(&source).arg(&aside));
    let [copied, backed_up, renamed, linked] = [1, 2, 3, 4].map(guid);
    succeeded(
        Command::new("cp")
            .arg(&source)
            .arg(daemon.database(&copied)),
    );
    let backup = format!(".backup '{}'", daemon.database(&backed_up).display());
    sqlite::query(&source, &backup);
    fs::hard_link(&aside, daemon.database(&linked)).expect("linked");
    fs::copy(&source, daemon.data().join("another")).expect("copied");
    fs::rename(daemon.data().join("another"), daemon.database(&renamed)).expect("renamed");
    for client in [&copied, &backed_up, &renamed, &linked] {
        daemon.assert_follows(client, &format!("{client}.db"));
        let restored = daemon.path(&format!("{client}.db"));
        sqlite::assert_same(&source, &restored);
        // And it goes on as a live database.
        sqlite::query(&daemon.database(client), "INSERT INTO t VALUES ('live')");
        daemon.assert_follows(client, &format!("{client}.db"));
        assert_eq!(daemon.generations(client).len(), 1);
    }
    daemon.command(&["verify"], |_| {});
    assert!(daemon.terminate().success());
}

/// `.restore` and `.backup` write over what is there, in one transaction; `cp` over a closed database does without any.
#[test]
fn sqlite_32_a_database_that_is_copied_over_another_is_a_state_of_it() {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    daemon.assert_follows(&client, "first.db");
    let other = daemon.path("other.db");
    sqlite::query(
        &other,
        "CREATE TABLE t(x); CREATE TABLE u(y); INSERT INTO u VALUES (zeroblob(90000))",
    );
    sqlite::query(&database, &format!(".restore '{}'", other.display()));
    daemon.assert_follows(&client, "restored.db");
    sqlite::assert_same(&other, &database);

    sqlite::query(&other, "INSERT INTO u VALUES (randomblob(30000)), (2)");
    sqlite::query(&other, &format!(".backup '{}'", database.display()));
    daemon.assert_follows(&client, "restored.db");
    sqlite::assert_same(&other, &database);

    sqlite::query(&other, "DELETE FROM u; VACUUM");
    succeeded(Command::new("cp").arg(&other).arg(&database));
    daemon.assert_follows(&client, "restored.db");
    sqlite::assert_same(&other, &database);
    daemon.command(&["verify"], |_| {});
    assert!(daemon.terminate().success());
}

/// The application's rename goes through, SQLite applies the old log to the new file, and the replica has just that.
#[test]
fn sqlite_33_a_file_that_is_renamed_over_a_database_with_a_log_begins_a_generation() {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    sqlite::with_unflushed_log(&database, "INSERT INTO t VALUES ('in the log')");
    let before = daemon.sync(&client).to_string();
    let other = daemon.data().join("other");
    sqlite::query(&other, &format!("{CREATE}; INSERT INTO t VALUES ('other')"));
    let mark = daemon.log.mark();
    fs::rename(&other, &database).expect("renamed over");
    let told = daemon.log.wait_from(
        mark,
        "Another file was put in the database's place",
        Instant::now() + EVENT_TIME,
    );
    assert_eq!(told["level"], "warn");
    daemon.assert_follows(&client, "restored.db");
    assert_eq!(daemon.generations(&client).len(), 2);
    let restored = daemon.restore(&client, &["--txid", &before], "before.db");
    let last = sqlite::query(&restored, "SELECT group_concat(x) FROM t");
    assert_eq!(last, "first,in the log");
    daemon.command(&["verify"], |_| {});
    assert!(daemon.terminate().success());
}

#[test]
fn sqlite_34_an_empty_file_is_an_empty_database() {
    let mut daemon = Daemon::prepare(Options::default());
    let (before, new) = (guid(1), guid(2));
    fs::write(daemon.database(&before), "").expect("an empty file");
    daemon.restart();
    fs::write(daemon.database(&new), "").expect("an empty file");
    for client in [&before, &new] {
        let health = daemon.wait_health(client, |health| health["status"] == "active");
        assert_eq!(health["txid"], 0, "{health}");
        daemon.sync(client);
        assert!(!daemon.is_stored(client));
        sqlite::query(&daemon.database(client), CREATE);
        daemon.assert_follows(client, &format!("{client}.db"));
    }
    assert!(daemon.terminate().success());
}

/// wal2 keeps two logs in turns. No SQLite here has it: the header is made, the database is real.
#[test]
fn sqlite_36_a_log_of_another_format_is_told_and_stored_when_it_is_gone() {
    const WAL2: u32 = 3_021_000;
    let mut daemon = Daemon::start(Options::default());
    daemon.may_miss_gates();
    let (client, sound) = (guid(1), guid(2));
    let (database, aside) = (daemon.database(&client), daemon.path("aside.db"));
    sqlite::query(&aside, "CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    let log = companion(&database, "-wal");
    let mut header = [0; 32];
    header[..4].copy_from_slice(&0x377f_0682_u32.to_be_bytes());
    header[4..8].copy_from_slice(&WAL2.to_be_bytes());
    let mut file = fs::read(&aside).expect("a database");
    // The versions to read and to write it with.
    file[18..20].copy_from_slice(&[3, 3]);
    fs::write(&database, &file).expect("written");
    fs::write(&log, header).expect("written");
    let health = daemon.wait_health(&client, |health| health["status"] == "failing");
    let error = health["lastError"].as_str().unwrap_or_default();
    assert!(error.starts_with("unsupported_log"), "{health}");
    assert!(error.contains(&WAL2.to_string()), "{health}");
    sqlite::query(&daemon.database(&sound), CREATE);
    daemon.assert_follows(&sound, "sound.db");

    fs::remove_file(&log).expect("closed in order");
    daemon.wait_health(&client, |health| health["status"] == "active");
    daemon.sync(&client);
    let restored = daemon.restore(&client, &[], "restored.db");
    assert!(fs::read(restored).expect("readable") == file);
    // No SQLite here reads it, which is no damage.
    let verified = output(
        binary()
            .args(["verify", &client, "-config"])
            .arg(daemon.config()),
    );
    let text = String::from_utf8_lossy(&verified.stderr);
    assert_eq!(verified.status.code(), Some(1), "{text}");
    assert!(daemon.terminate().success());
}

/// Space is there, holes are holes, and the file is longer than the database says: as after a growth in chunks.
#[test]
fn a_sparse_file_is_replicated_up_to_the_size_that_its_header_says() {
    let daemon = Daemon::start(Options::default());
    // In what is grown by a hole no log can be followed.
    daemon.may_miss_gates();
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    sqlite::query(
        &database,
        "INSERT INTO t VALUES (zeroblob(3000000)); DELETE FROM t WHERE rowid = 2",
    );
    let pages: u64 = sqlite::query(&database, "PRAGMA page_count")
        .parse()
        .expect("pages");
    let file = File::options().write(true).open(&database).expect("open");
    file.set_len(64 << 20).expect("grown");
    drop(file);
    punch(&database, 40 << 20, 8 << 20);
    daemon.assert_follows(&client, "restored.db");
    let restored = daemon.path("restored.db");
    assert_eq!(fs::metadata(&restored).expect("a file").len(), pages * 4096);
    sqlite::query(&database, "INSERT INTO t VALUES (zeroblob(3000000))");
    daemon.assert_follows(&client, "restored.db");
}

fn punch(file: &Path, offset: u64, length: u64) {
    succeeded(
        Command::new("fallocate")
            .args(["-p", "-o", &offset.to_string(), "-l", &length.to_string()])
            .arg(file),
    );
    let mut byte = [1];
    let file = File::open(file).expect("open");
    file.read_exact_at(&mut byte, offset).expect("read");
    assert_eq!(byte, [0]);
}

/// The page that holds the byte at 1 GiB, SQLite's lock byte, is in no log and no journal, and zeros in a restore.
#[test]
fn sqlite_11_a_database_beyond_its_lock_page_is_stored_without_it() {
    const PAGE: u64 = 65536;
    const LOCK_PAGE: u64 = (1 << 30) / PAGE + 1;
    let mut daemon = Daemon::prepare(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, "PRAGMA page_size = 65536; CREATE TABLE t (x)");
    // As if all pages before it were in use: a hole, so that it does not take long.
    let file = File::options().write(true).open(&database).expect("open");
    file.set_len((LOCK_PAGE - 1) * PAGE).expect("grown");
    let pages = u32::try_from(LOCK_PAGE - 1).expect("few").to_be_bytes();
    file.write_all_at(&pages, 28).expect("written");
    drop(file);
    daemon.restart();
    assert_eq!(daemon.sync(&client), 1);

    let mut session = Session::open(&database);
    for (mode, blobs) in [("DELETE", 2), ("WAL", 3)] {
        session.run(&format!("PRAGMA journal_mode = {mode};"));
        for _ in 0..blobs {
            session.run("INSERT INTO t VALUES (zeroblob(300000));");
        }
        daemon.sync(&client);
    }
    let pages: u64 = session.run("PRAGMA page_count;").parse().expect("pages");
    assert!(pages > LOCK_PAGE + 20, "{pages} pages");
    let path = daemon.restore(&client, &[], "restored.db");
    let restored = File::open(&path).expect("restored");
    assert_eq!(restored.metadata().expect("its size").len(), pages * PAGE);
    let mut page = vec![1; PAGE as usize];
    restored
        .read_exact_at(&mut page, (LOCK_PAGE - 1) * PAGE)
        .expect("read");
    assert!(page.iter().all(|byte| *byte == 0));
    let shown = sqlite::query(&path, "SELECT count(*), sum(length(x)) FROM t");
    assert_eq!(shown, "5|1500000");
    assert_eq!(daemon.generations(&client).len(), 1);
    drop(session);
    assert!(daemon.terminate().success());
}

const ATTRIBUTE: &str = "user.note";

fn set_attribute(path: &Path) -> rustix::io::Result<()> {
    rustix::fs::setxattr(path, ATTRIBUTE, b"text", rustix::fs::XattrFlags::empty())
}

fn attribute(path: &Path) -> rustix::io::Result<usize> {
    rustix::fs::getxattr(path, ATTRIBUTE, &mut [0; 16][..])
}

/// Questions for attributes that the daemon was asked.
fn questions(daemon: &Daemon) -> u64 {
    let name = "litestream_fuse_operations_total{operation=\"getxattr\"} ";
    let metrics = daemon.metrics();
    let value = metrics.lines().find_map(|line| line.strip_prefix(name));
    value.map_or(0, |value| value.parse().expect("a number"))
}

#[test]
fn extended_attributes_are_those_of_the_directory_underneath() {
    let daemon = Daemon::start(Options::default());
    let path = daemon.data().join("notes.txt");
    fs::write(&path, "plain").expect("written");
    set_attribute(&path).expect("set");
    assert_eq!(attribute(&path), Ok(4));
    rustix::fs::removexattr(&path, ATTRIBUTE).expect("removed");
    assert_eq!(attribute(&path), Err(rustix::io::Errno::NODATA));
}

/// Version 2, then tag, rights and an identifier that means nothing for the owner, the group, the mask and all others.
fn access_list() -> Vec<u8> {
    let entries = [(1_u16, 7_u16), (2, 7), (4, 5), (0x10, 7), (0x20, 0)];
    let entries = entries.map(|(tag, rights)| {
        let words = [tag.to_le_bytes(), rights.to_le_bytes()].concat();
        [words, vec![if tag == 2 { 1 } else { 0xff }; 4]].concat()
    });
    [vec![2, 0, 0, 0], entries.concat()].concat()
}

const ACCESS_LIST: &str = "system.posix_acl_access";
const UNSUPPORTED: rustix::io::Errno = rustix::io::Errno::OPNOTSUPP;

fn give_access_list(path: &Path) -> rustix::io::Result<()> {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(path, ACCESS_LIST, &access_list(), flags)
}

fn has_access_list(path: &Path) -> rustix::io::Result<usize> {
    rustix::fs::getxattr_query(path, ACCESS_LIST)
}

fn attribute_names(path: &Path) -> rustix::io::Result<Vec<u8>> {
    let mut names = [0; 256];
    let length = rustix::fs::listxattr(path, &mut names[..])?;
    Ok(names[..length].to_vec())
}

#[test]
fn a_listing_asks_two_questions_for_all_files_where_there_are_no_access_lists() {
    let daemon = Daemon::start(Options::default());
    for number in 0..20 {
        fs::write(daemon.data().join(format!("{number}.txt")), "plain").expect("written");
    }
    let before = questions(&daemon);
    succeeded(Command::new("ls").arg("-l").arg(daemon.data()));
    let asked = questions(&daemon) - before;
    assert!(asked <= 2, "{asked} questions for 20 files");

    let path = daemon.data().join("1.txt");
    assert_eq!(has_access_list(&path), Err(UNSUPPORTED));
    assert_eq!(give_access_list(&path), Err(UNSUPPORTED));
    assert_eq!(attribute_names(&path), Err(UNSUPPORTED), "nobody has any");
    set_attribute(&path).expect("set");
    assert_eq!(attribute_names(&path), Ok(b"user.note\0".to_vec()));
    let other = daemon.data().join("2.txt");
    assert_eq!(attribute_names(&other), Ok(Vec::new()));
}

/// Whoever was kept out by it would be let in.
#[test]
fn access_lists_that_are_there_before_the_mount_are_kept() {
    let mut daemon = Daemon::prepare(Options::default());
    // Wherever it lies.
    for (place, name) in [
        ("", "system.posix_acl_default"),
        ("folder", "system.posix_acl_default"),
        ("folder", ACCESS_LIST),
        ("folder/notes.txt", ACCESS_LIST),
    ] {
        let path = daemon.data().join(place);
        fs::create_dir_all(daemon.data().join("folder")).expect("made");
        fs::write(daemon.data().join("folder/notes.txt"), "plain").expect("written");
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&path, name, &access_list(), flags).expect("set");
        let listed = attribute_names(&path).expect("listed");
        daemon.restart();
        assert_eq!(attribute_names(&path), Ok(listed), "{place}: {name}");
        let other = daemon.data().join("other.txt");
        fs::write(&other, "plain").expect("written");
        give_access_list(&other).expect("given");
        assert_eq!(has_access_list(&other), Ok(access_list().len()));
        fs::remove_file(&other).expect("removed");
        assert!(daemon.terminate().success());
        rustix::fs::removexattr(&path, name).expect("taken away");
    }
}

#[test]
fn access_lists_can_be_had_where_there_are_none_yet() {
    let daemon = Daemon::start(Options {
        config: "mount: {accessControlLists: always}\n".to_owned(),
        ..Options::default()
    });
    let path = daemon.data().join("notes.txt");
    fs::write(&path, "plain").expect("written");
    assert_eq!(has_access_list(&path), Err(rustix::io::Errno::NODATA));
    give_access_list(&path).expect("given");
    assert_eq!(has_access_list(&path), Ok(access_list().len()));
    assert_eq!(
        attribute_names(&path),
        Ok(b"system.posix_acl_access\0".to_vec())
    );
}

/// The kernel asks for such a file by a request that the daemon's library does not know; what programs do then works.
#[test]
fn a_file_without_a_name_is_refused_and_programs_make_one_with_a_name() {
    let daemon = Daemon::start(Options::default());
    for _ in 0..2 {
        let refused = File::options()
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .open(daemon.data())
            .expect_err("it has no name");
        assert_eq!(refused.raw_os_error(), Some(libc::EOPNOTSUPP), "{refused}");
    }
    let file = tempfile::tempfile_in(daemon.data()).expect("one with a name, removed at once");
    file.write_all_at(b"content", 0).expect("written");
    let script = "import sys, tempfile; tempfile.TemporaryFile(dir=sys.argv[1]).write(b'x')";
    succeeded(
        Command::new("python3")
            .args(["-c", script])
            .arg(daemon.data()),
    );
    assert_eq!(fs::read_dir(daemon.data()).expect("listed").count(), 0);
}
