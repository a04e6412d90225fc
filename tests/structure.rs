//! The check of a database's structure against real databases: none that SQLite has in order has a flaw, and what
//! SQLite finds in pages that were zeroed, cut off, swapped or taken from another moment is found, too.

#[path = "structure/databases.rs"]
mod databases;

use databases::{Database, Options, steps, table_steps};
use litestream_multitenant::format::structure::{Check, Flaw, Structure};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

/// Databases of each property, unless `STRUCTURE_CASES` says how many.
const CASES: u32 = 40;
fn check(page_size: u32, image: &[u8]) -> Result<Structure, Flaw> {
    let pages = image.chunks(page_size as usize);
    let mut check = Check::new(page_size, pages.len() as u32);
    for (page, number) in pages.zip(1..) {
        check.page(number, page);
    }
    check.finish()
}

fn run<T: std::fmt::Debug>(
    strategy: &impl Strategy<Value = T>,
    test: impl Fn(T) -> Result<(), TestCaseError>,
) {
    let asked = std::env::var("STRUCTURE_CASES").ok();
    let asked = asked.map(|text| text.parse().expect("STRUCTURE_CASES is a number"));
    let config = Config {
        cases: asked.unwrap_or(CASES),
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    if let Err(failure) = TestRunner::new(config).run(strategy, test) {
        panic!("{failure}");
    }
}

#[test]
fn what_sqlite_has_in_order_has_no_flaw() {
    run(&(Options::any(), steps(30)), |(options, steps)| {
        let page_size = options.page_size;
        let database = Database::new(options);
        for some in steps.chunks(4) {
            database.take(some);
            let mut image = database.image();
            prop_assert_eq!(check(page_size, &image), Ok(Structure::Sound));
            // As SQLite before 3.7 leaves it: the size in the header is nothing, or of an earlier change.
            image[28..32].fill(0);
            prop_assert_eq!(check(page_size, &image), Ok(Structure::Sound));
            image[28..32].copy_from_slice(&1u32.to_be_bytes());
            image[92] ^= 1;
            prop_assert_eq!(check(page_size, &image), Ok(Structure::Sound));
        }
        Ok(())
    });
}

/// The page that holds byte 1 GiB is nobody's; pages are as large as they can be, so that few are before it.
#[test]
fn the_lock_page_may_be_left_out_and_is_never_pointed_to() {
    const PAGE_SIZE: usize = 65536;
    const LOCK_PAGE: u32 = 16385;
    /// Leaves of one trunk of the freelist.
    const LEAVES: u32 = PAGE_SIZE as u32 / 4 - 2;
    let database = Database::new(Options {
        page_size: PAGE_SIZE as u32,
        reserved: 0,
        auto_vacuum: 0,
        encoding: "UTF-8",
        wal: false,
    });
    let pages = LOCK_PAGE + 2;
    let mut first = database.image();
    first[28..32].copy_from_slice(&pages.to_be_bytes());
    first[32..36].copy_from_slice(&2u32.to_be_bytes());
    first[36..40].copy_from_slice(&(LEAVES + 3).to_be_bytes());
    let trunk = |next: u32, leaves: std::ops::RangeInclusive<u32>| {
        let mut page = vec![0; PAGE_SIZE];
        let words = [next, leaves.clone().count() as u32]
            .into_iter()
            .chain(leaves);
        for (place, word) in page.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        page
    };
    let check = |leaf: u32| {
        let mut check = Check::new(PAGE_SIZE as u32, pages);
        check.page(1, &first);
        check.page(2, &trunk(LOCK_PAGE + 1, 3..=LOCK_PAGE - 1));
        let free = [1; PAGE_SIZE];
        (3..LOCK_PAGE).for_each(|number| check.page(number, &free));
        check.page(LOCK_PAGE + 1, &trunk(0, leaf..=leaf));
        check.page(LOCK_PAGE + 2, &free);
        check.finish()
    };
    assert_eq!(check(LOCK_PAGE + 2), Ok(Structure::Sound));
    let (page, from) = (LOCK_PAGE, LOCK_PAGE + 1);
    assert_eq!(check(LOCK_PAGE), Err(Flaw::Reference { page, from }));
}

#[test]
fn an_image_is_sound_only_whole_and_encrypted_only_without_plain_pages() {
    assert_eq!(check(4096, &[]), Ok(Structure::Sound));
    let options = Options {
        page_size: 512,
        reserved: 0,
        auto_vacuum: 0,
        encoding: "UTF-8",
        wal: false,
    };
    let database = Database::new(options);
    database.run("CREATE TABLE t(x); INSERT INTO t VALUES (1), (2)");
    let image = database.image();
    assert_eq!(check(512, &image), Ok(Structure::Sound));
    let other_size = "has another page size than the image";
    assert_eq!(
        check(1024, &image),
        Err(Flaw::Header { reason: other_size })
    );
    let short = check(512, &image[..512]);
    assert_eq!(
        short,
        Err(Flaw::Short {
            header: 2,
            pages: 1
        })
    );

    let mut headless = image.clone();
    headless[..512].fill(b'x');
    assert_eq!(check(512, &headless), Err(Flaw::NoHeader { plain: 2 }));
    headless[..512].fill(0);
    let zeros = "is all zeros";
    assert_eq!(check(512, &headless), Err(Flaw::Header { reason: zeros }));

    // A cipher leaves noise; with `cipher_plaintext_header_size` it leaves the first bytes as they are.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut encrypted = image.clone();
    for byte in &mut encrypted {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte ^= (state >> 32) as u8;
    }
    assert_eq!(check(512, &encrypted), Ok(Structure::Encrypted));
    encrypted[..32].copy_from_slice(&image[..32]);
    assert_eq!(check(512, &encrypted), Ok(Structure::Encrypted));
    encrypted[512..].copy_from_slice(&image[512..]);
    assert!(check(512, &encrypted).is_err());
}

#[test]
fn pages_come_in_order_each_once_and_all_of_them() {
    let database = Database::new(Options {
        page_size: 512,
        reserved: 0,
        auto_vacuum: 0,
        encoding: "UTF-8",
        wal: false,
    });
    database.run("CREATE TABLE t(x); CREATE TABLE u(x)");
    let image = database.image();
    let feed = |numbers: &[u32]| {
        let mut check = Check::new(512, 3);
        for number in numbers {
            let at = (*number as usize).saturating_sub(1) * 512;
            check.page(*number, image.get(at..at + 512).unwrap_or(&[0; 512]));
        }
        check.finish()
    };
    assert_eq!(feed(&[1, 2, 3]), Ok(Structure::Sound));
    for (numbers, page) in [(&[1, 2][..], 3), (&[1, 3], 2), (&[2, 3], 1), (&[], 1)] {
        assert_eq!(feed(numbers), Err(Flaw::Missing { page }), "{numbers:?}");
    }
    for (numbers, page) in [
        (&[1, 2, 2][..], 2),
        (&[1, 3, 2], 2),
        (&[1, 2, 3, 4], 4),
        (&[0], 0),
    ] {
        assert_eq!(feed(numbers), Err(Flaw::Sequence { page }), "{numbers:?}");
    }
}

/// How many of the changes that SQLite finds were found.
#[derive(Default, Debug)]
struct Rate {
    found: std::cell::Cell<u32>,
    all: std::cell::Cell<u32>,
}

impl Rate {
    /// Compares with what SQLite says: what has a flaw is never in order.
    fn note(&self, database: &Database, image: &[u8]) -> Result<bool, TestCaseError> {
        let checked = check(database.options.page_size, image);
        let finding = database.findings(image, "quick_check");
        if let Err(flaw) = checked {
            prop_assert!(
                finding.is_some(),
                "SQLite finds nothing, and here is {flaw}"
            );
        }
        // Of pages that nothing points to, and of what is in rows, nothing is said here.
        let is_structure = |line: &str| !line.starts_with("***") && !line.ends_with("never used");
        let is_known = finding
            .as_deref()
            .is_some_and(|all| all.lines().any(is_structure));
        let is_found = checked != Ok(Structure::Sound);
        if is_known {
            self.all.set(self.all.get() + 1);
            self.found.set(self.found.get() + u32::from(is_found));
            if !is_found {
                println!(
                    "not found: {}",
                    finding.unwrap_or_default().replace('\n', "; ")
                );
            }
        }
        Ok(!is_known || is_found)
    }

    fn percent(&self) -> u32 {
        assert!(self.all.get() >= 50, "too few to tell: {self:?}");
        println!("{self:?}");
        self.found.get() * 100 / self.all.get()
    }
}

#[test]
fn pages_that_are_zeroed_or_cut_off_are_always_found() {
    let rate = Rate::default();
    let changes = prop::collection::vec((any::<Index>(), any::<bool>()), 12);
    run(
        &(Options::any(), table_steps(12), changes),
        |(options, steps, changes)| {
            let page_size = options.page_size as usize;
            let database = Database::new(options);
            database.take(&steps);
            let image = database.image();
            for (at, is_cut) in changes {
                let at = page_size * at.index(image.len() / page_size);
                let mut changed = image.clone();
                match is_cut && at > 0 {
                    true => changed.truncate(at),
                    false => changed[at..at + page_size].fill(0),
                }
                prop_assert!(
                    rate.note(&database, &changed)?,
                    "page {}",
                    at / page_size + 1
                );
            }
            Ok(())
        },
    );
    assert_eq!(rate.percent(), 100);
}

#[test]
fn pages_in_each_others_place_are_found_mostly() {
    let rate = Rate::default();
    let changes = prop::collection::vec(any::<(Index, Index)>(), 12);
    run(
        &(Options::any(), table_steps(12), changes),
        |(options, steps, changes)| {
            let page_size = options.page_size as usize;
            let database = Database::new(options);
            database.take(&steps);
            let image = database.image();
            let pages = image.len() / page_size;
            for (one, other) in changes {
                let (one, other) = (one.index(pages), other.index(pages));
                let (low, high) = (one.min(other) * page_size, one.max(other) * page_size);
                if low == high {
                    continue;
                }
                let mut changed = image.clone();
                let (before, after) = changed.split_at_mut(high);
                before[low..low + page_size].swap_with_slice(&mut after[..page_size]);
                rate.note(&database, &changed)?;
            }
            Ok(())
        },
    );
    assert!(rate.percent() >= 65, "{rate:?}");
}

#[test]
fn pages_of_two_moments_are_found_mostly() {
    let rate = Rate::default();
    let changes = prop::collection::vec(any::<(Index, bool)>(), 6);
    let strategy = (Options::any(), table_steps(10), table_steps(10), changes);
    run(&strategy, |(options, earlier, later, changes)| {
        let page_size = options.page_size as usize;
        let database = Database::new(options);
        database.take(&earlier);
        let old = database.image();
        database.take(&later);
        let new = database.image();
        for (at, is_head) in changes {
            let at = page_size * at.index(old.len().min(new.len()) / page_size);
            let (head, tail) = if is_head { (&old, &new) } else { (&new, &old) };
            let mixed = [&head[..at], &tail[at..]].concat();
            rate.note(&database, &mixed)?;
        }
        Ok(())
    });
    assert!(rate.percent() >= 85, "{rate:?}");
}
