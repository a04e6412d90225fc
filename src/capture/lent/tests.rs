//! What is read through the handles of applications.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use super::*;
use crate::capture::Next;
use crate::capture::model::Model;
use crate::capture::queue::Queue;
use crate::capture::workers;
use crate::fault::{Point, watched};

/// The file with that suffix, as an application opens it.
fn open(model: &Model, suffix: &str) -> Arc<File> {
    let path = companion(&model.dir.path().join("data").join(&model.db.path), suffix);
    let opened = File::options().read(true).write(true).open(path);
    Arc::new(opened.expect("it is there"))
}

/// A model that has its first image, and whose log and wal-index are lent.
fn lent() -> (Model, [Arc<File>; 2]) {
    let model = Model::new(21, 16 << 20);
    workers::make_image(&model.db, &model.capture.shared).expect("a first image");
    let files = ["-wal", "-shm"].map(|suffix| open(&model, suffix));
    files
        .iter()
        .for_each(|file| model.db.lend(file).expect("lent"));
    (model, files)
}

fn look(model: &Model) -> u64 {
    let drained = workers::drain(&model.db, &model.capture.shared).expect("looked");
    assert_eq!(drained.next, Next::Nothing);
    model.db.history().mark.expect("a mark").txid
}

fn is_lent(model: &Model, suffix: &str, file: &Arc<File>) -> bool {
    let opened = model
        .db
        .open_companion(&model.capture.shared.backing, suffix);
    let opened = opened.expect("no error").expect("it is there");
    Arc::ptr_eq(&opened.file, file)
}

#[test]
fn a_look_reads_through_handles_that_are_open_and_keeps_none_of_them() {
    let (mut model, files) = lent();
    let before = look(&model);
    model.execute("INSERT INTO t VALUES (1000, 'through the handle')");
    let (log, used) = (files[0].clone(), Rc::new(RefCell::new(Vec::new())));
    let noted = used.clone();
    watched::set(Some(Rc::new(move |point| {
        if point == Point::LogOpened {
            noted.borrow_mut().push(Arc::strong_count(&log));
        }
    })));
    let after = look(&model);
    watched::set(None);
    // The test has it twice, the database and the look once each.
    assert_eq!((after, &*used.borrow()), (before + 1, &vec![4]));
    assert!(is_lent(&model, "-wal", &files[0]) && is_lent(&model, "-shm", &files[1]));

    for file in &files {
        model.db.take_back(file);
        assert_eq!(Arc::strong_count(file), 1, "kept by nobody else");
    }
    assert!(!is_lent(&model, "-wal", &files[0]) && !is_lent(&model, "-shm", &files[1]));
    model.execute("INSERT INTO t VALUES (1001, 'with a descriptor of its own')");
    assert_eq!(look(&model), after + 1);
}

#[test]
fn a_handle_that_is_closed_during_a_look_serves_it_to_its_end() {
    let (mut model, files) = lent();
    let before = look(&model);
    model.execute("INSERT INTO t VALUES (1000, 'read to the end')");
    let inode = files[0].metadata().expect("a file").ino();
    let (db, files) = (model.db.clone(), RefCell::new(Some(files)));
    watched::set(Some(Rc::new(move |point| {
        let closed = files.borrow_mut().take_if(|_| point == Point::LogOpened);
        closed.iter().flatten().for_each(|file| db.take_back(file));
    })));
    let after = look(&model);
    watched::set(None);
    assert_eq!(after, before + 1);
    assert!(model.db.lent(inode).is_none());
}

#[test]
fn what_stands_under_the_name_is_read_and_not_what_is_open() {
    let (mut model, files) = lent();
    look(&model);
    let shared = model.capture.shared.clone();
    let path = companion(&model.dir.path().join("data").join(&model.db.path), "-wal");
    let aside = path.with_extension("aside");
    std::fs::copy(&path, &aside).expect("copied");
    model.execute("INSERT INTO t VALUES (1000, 'in the file that loses its name')");
    std::fs::rename(&aside, &path).expect("renamed");
    assert!(!is_lent(&model, "-wal", &files[0]));
    let before = model.db.history().mark;
    // The wal-index tells of more than this log has.
    workers::drain(&model.db, &shared).expect("looked");
    assert_eq!(
        model.db.history().mark.and_then(|mark| mark.wal),
        before.and_then(|mark| mark.wal)
    );
    let further = open(&model, "-wal");
    model.db.lend(&further).expect("lent");
    assert!(is_lent(&model, "-wal", &further));
    std::fs::remove_file(&path).expect("removed");
    let gone = model.db.open_companion(&shared.backing, "-wal");
    assert!(gone.expect("no error").is_none());
}

#[test]
fn what_is_open_goes_with_its_directory() {
    let database = |path: &str| {
        Arc::new(Database::new(
            Path::new(path).into(),
            Queue::new(1, Path::new("state").into()).0,
        ))
    };
    let (from, to) = (database("here/a.db"), database("there/a.db"));
    let open = || Arc::new(tempfile::tempfile().expect("a file"));
    let files = [open(), open()];
    let is_lent = |db: &Database, file: &File| {
        let inode = file.metadata().expect("a file").ino();
        db.lent(inode).is_some()
    };
    from.lend(&files[0]).expect("lent");
    from.move_to(&to);
    // Whoever opened it knows it by the old name.
    from.lend(&files[1]).expect("lent");
    for file in &files {
        assert!(is_lent(&to, file) && !is_lent(&from, file));
        from.take_back(file);
        assert!(!is_lent(&to, file));
        assert_eq!(Arc::strong_count(file), 1);
    }
}
