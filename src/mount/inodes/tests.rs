//! The table's own tests: no file system is there.

use super::*;

const DEVICE: u64 = 7;

fn inode(number: u64) -> BackingInode {
    BackingInode {
        device: DEVICE,
        number,
    }
}

fn table() -> Inodes {
    Inodes::new(inode(2))
}

fn add(inodes: &Inodes, parent: NodeId, name: &str, number: u64, directory: bool) -> NodeId {
    inodes
        .look_up(parent, OsStr::new(name), inode(number), directory, || 5)
        .expect("the parent is known")
        .0
}

fn paths(inodes: &Inodes, id: NodeId) -> Vec<String> {
    let mut paths: Vec<_> = inodes
        .paths(id)
        .into_iter()
        .map(|path| path.display().to_string())
        .collect();
    paths.sort();
    paths
}

fn descriptor() -> Arc<OwnedFd> {
    Arc::new(std::fs::File::open("/").expect("the root").into())
}

fn rename(inodes: &Inodes, number: u64, from: (NodeId, &str), to: (NodeId, &str)) {
    inodes.begin_move(inode(number), &descriptor());
    inodes.end_move(
        inode(number),
        (from.0, OsStr::new(from.1)),
        (to.0, OsStr::new(to.1)),
        true,
    );
}

#[test]
fn a_node_id_is_the_backing_inode_number() {
    let inodes = table();
    assert_eq!(add(&inodes, ROOT, "a", 12, false), 12);
    let far = BackingInode {
        device: 8,
        number: 12,
    };
    let foreign = inodes.look_up(ROOT, OsStr::new("b"), far, false, || 0);
    let (foreign, _) = foreign.expect("the root is known");
    assert_ne!(foreign, 12, "same number, other device");
    let clash = inodes.look_up(ROOT, OsStr::new("c"), inode(ROOT), false, || 0);
    assert_ne!(clash.expect("the root is known").0, ROOT);
}

#[test]
fn a_directory_rename_moves_all_below() {
    let inodes = table();
    let a = add(&inodes, ROOT, "a", 10, true);
    let b = add(&inodes, a, "b", 11, true);
    let file = add(&inodes, b, "x.db", 12, false);
    assert_eq!(paths(&inodes, file), ["a/b/x.db"]);
    rename(&inodes, 10, (ROOT, "a"), (ROOT, "c"));
    assert_eq!(paths(&inodes, file), ["c/b/x.db"]);
    rename(&inodes, 11, (a, "b"), (ROOT, "d"));
    assert_eq!(paths(&inodes, file), ["d/x.db"]);
}

#[test]
fn hard_links_are_names_of_one_node() {
    let inodes = table();
    let dir = add(&inodes, ROOT, "d", 10, true);
    let file = add(&inodes, ROOT, "x", 12, false);
    assert_eq!(add(&inodes, dir, "y", 12, false), file);
    assert_eq!(paths(&inodes, file), ["d/y", "x"]);
    inodes.detach(ROOT, OsStr::new("x"), inode(12), &descriptor());
    assert_eq!(paths(&inodes, file), ["d/y"]);
    let (_, routes) = inodes.routes(file).expect("known");
    assert!(routes[0].base.is_none(), "a name is left, so no pin");
}

#[test]
fn an_unlinked_node_is_reached_by_its_pin_until_it_is_forgotten() {
    let inodes = table();
    let file = add(&inodes, ROOT, "x", 12, false);
    let pin = descriptor();
    inodes.detach(ROOT, OsStr::new("x"), inode(12), &pin);
    let (_, routes) = inodes.routes(file).expect("known");
    assert!(Arc::ptr_eq(routes[0].base.as_ref().expect("a pin"), &pin));
    drop(routes);
    inodes.forget(file, 1);
    assert!(inodes.routes(file).is_none());
    assert_eq!(Arc::strong_count(&pin), 1, "closed");
}

#[test]
fn a_removal_that_failed_leaves_the_name() {
    let inodes = table();
    let file = add(&inodes, ROOT, "x", 12, false);
    inodes.detach(ROOT, OsStr::new("x"), inode(12), &descriptor());
    inodes.reattach(ROOT, OsStr::new("x"), inode(12));
    let (_, routes) = inodes.routes(file).expect("known");
    assert!(routes[0].base.is_none());
    assert_eq!(paths(&inodes, file), ["x"]);
}

#[test]
fn while_a_directory_moves_what_is_below_is_reached_past_its_names() {
    let inodes = table();
    let dir = add(&inodes, ROOT, "a", 10, true);
    let file = add(&inodes, dir, "x", 12, false);
    let pin = descriptor();
    inodes.begin_move(inode(10), &pin);
    let (_, routes) = inodes.routes(file).expect("known");
    assert!(Arc::ptr_eq(routes[0].base.as_ref().expect("a pin"), &pin));
    assert_eq!(routes[0].path, PathBuf::from("x"));
    let (from, to) = (OsStr::new("a"), OsStr::new("b"));
    inodes.end_move(inode(10), (ROOT, from), (ROOT, to), false);
    assert_eq!(paths(&inodes, file), ["a/x"], "it failed");
    assert_eq!(Arc::strong_count(&pin), 2, "one here, one in the route");
}

#[test]
fn a_parent_stays_while_a_name_below_it_is_known() {
    let inodes = table();
    let dir = add(&inodes, ROOT, "d", 10, true);
    let file = add(&inodes, dir, "x", 12, false);
    inodes.forget(dir, 1);
    assert_eq!(paths(&inodes, file), ["d/x"]);
    inodes.forget(file, 1);
    assert!(inodes.routes(dir).is_none(), "both are gone");
    assert!(
        inodes
            .look_up(dir, OsStr::new("y"), inode(13), false, || 0)
            .is_none()
    );
}

#[test]
fn lookups_and_the_generation_of_a_node() {
    let inodes = table();
    add(&inodes, ROOT, "x", 12, false);
    let again = inodes.look_up(ROOT, OsStr::new("x"), inode(12), false, || 99);
    assert_eq!(again, Some((12, 5)), "the first answer holds");
    inodes.forget(12, 1);
    assert!(inodes.routes(12).is_some());
    inodes.forget(12, 1);
    assert!(inodes.routes(12).is_none());
}

#[test]
fn names_that_were_falsified_from_outside_end_the_climb() {
    let inodes = table();
    let a = add(&inodes, ROOT, "a", 10, true);
    let b = add(&inodes, a, "b", 11, true);
    assert_eq!(add(&inodes, b, "a", 10, true), a);
    assert!(inodes.paths(b).is_empty());
}

#[test]
fn cached_pages_are_kept_only_from_one_cached_open_to_the_next() {
    let inodes = table();
    let file = add(&inodes, ROOT, "x", 12, false);
    let opens = [true, true, false, true, true];
    let kept = opens.map(|cached| inodes.keeps_page_cache(file, cached));
    assert_eq!(kept, [false, true, false, false, true]);
}

#[test]
fn that_an_attribute_is_missing_is_known_until_one_is_given() {
    let inodes = table();
    let id = add(&inodes, ROOT, "x", 10, false);
    let (access, other) = (OsStr::new("system.posix_acl_access"), OsStr::new("user.a"));
    let moment = |name: &OsStr| match inodes.seek_attribute(id, name) {
        Sought::Unknown(moment) => moment,
        Sought::Missing => panic!("nobody has asked its file"),
    };
    inodes.note_missing(id, other, moment(other));
    moment(other);
    // One is given while its file is asked: before the answer or behind it.
    let asked = moment(access);
    inodes.attributes_changed(id);
    inodes.note_missing(id, access, asked);
    inodes.note_missing(id, access, moment(access));
    assert_eq!(inodes.seek_attribute(id, access), Sought::Missing);
    moment(OsStr::new("system.posix_acl_default"));
    inodes.attributes_changed(id);
    moment(access);
}
