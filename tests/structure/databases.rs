//! Databases that SQLite makes: of any form, and after any steps of an application.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rusqlite::Connection;
use tempfile::TempDir;

/// Where a database's header has the bytes that each page reserves, and the page of an empty one where cells begin.
const RESERVED_AT: usize = 20;
const CONTENT_AT: usize = 105;

#[derive(Clone, Debug)]
pub struct Options {
    pub page_size: u32,
    pub reserved: u8,
    pub auto_vacuum: u8,
    pub encoding: &'static str,
    pub wal: bool,
}

impl Options {
    pub fn any() -> impl Strategy<Value = Self> {
        let page_size = prop::sample::select(vec![512, 1024, 4096, 8192, 65536]);
        let encoding = prop::sample::select(vec!["UTF-8", "UTF-16le", "UTF-16be"]);
        let reserved = prop::sample::select(vec![0, 0, 8, 32]);
        (page_size, reserved, 0..3u8, encoding, any::<bool>()).prop_map(
            |(page_size, reserved, auto_vacuum, encoding, wal)| Self {
                page_size,
                reserved,
                auto_vacuum,
                encoding,
                wal,
            },
        )
    }
}

/// One step of an application.
#[derive(Clone, Debug)]
pub enum Step {
    CreateTable(u8),
    CreateIndex(u8),
    DropTable(u8),
    Insert {
        table: u8,
        rows: u16,
        bytes: u32,
    },
    Delete {
        table: u8,
        each: u8,
    },
    Grow {
        table: u8,
        bytes: u32,
    },
    Document(u8),
    Box(u8),
    View(u8),
    /// Its name is longer than some pages.
    LongName(u8),
    Vacuum,
    IncrementalVacuum(u8),
}

impl Step {
    pub fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            2 => any::<u8>().prop_map(Self::CreateTable),
            2 => any::<u8>().prop_map(Self::CreateIndex),
            1 => any::<u8>().prop_map(Self::DropTable),
            6 => (any::<u8>(), 1..400u16, prop_oneof![0..60u32, 0..3000u32, 50_000..200_000u32])
                .prop_map(|(table, rows, bytes)| Self::Insert {
                    table,
                    rows: if bytes > 10_000 { rows % 8 + 1 } else { rows },
                    bytes,
                }),
            4 => (any::<u8>(), 1..6u8).prop_map(|(table, each)| Self::Delete { table, each }),
            2 => (any::<u8>(), 0..20_000u32).prop_map(|(table, bytes)| Self::Grow { table, bytes }),
            1 => any::<u8>().prop_map(Self::Document),
            1 => any::<u8>().prop_map(Self::Box),
            1 => any::<u8>().prop_map(Self::View),
            1 => any::<u8>().prop_map(Self::LongName),
            1 => Just(Self::Vacuum),
            2 => any::<u8>().prop_map(Self::IncrementalVacuum),
        ]
    }

    /// Of 4 tables two have no rowid.
    pub fn sql(&self) -> String {
        let name = |table: u8| format!("t{}", table % 4);
        match *self {
            Self::CreateTable(table) if table % 2 == 0 => format!(
                "CREATE TABLE {}(k PRIMARY KEY, v, w) WITHOUT ROWID",
                name(table)
            ),
            Self::CreateTable(table) => format!("CREATE TABLE {}(k, v, w UNIQUE)", name(table)),
            Self::CreateIndex(table) => {
                format!("CREATE INDEX i{table} ON {}(v, k)", name(table))
            }
            Self::DropTable(table) => format!("DROP TABLE {}", name(table)),
            Self::Insert { table, rows, bytes } => format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
                 INSERT OR REPLACE INTO {} SELECT random(), \
                 CASE i % 2 WHEN 0 THEN randomblob({bytes}) ELSE zeroblob({bytes}) END, random() FROM n",
                name(table)
            ),
            Self::Delete { table, each } => {
                format!("DELETE FROM {} WHERE k % {each} = 0", name(table))
            }
            Self::Grow { table, bytes } => format!(
                "UPDATE {} SET v = randomblob({bytes}) WHERE k % 5 = 1",
                name(table)
            ),
            Self::Document(words) => format!(
                "CREATE VIRTUAL TABLE IF NOT EXISTS d USING fts5(body); \
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {words}) \
                 INSERT INTO d SELECT hex(randomblob(i)) || ' word ' || i FROM n"
            ),
            Self::Box(boxes) => format!(
                "CREATE VIRTUAL TABLE IF NOT EXISTS r USING rtree(id, a, b); \
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {boxes}) \
                 INSERT INTO r SELECT NULL, i, i + 2 FROM n"
            ),
            Self::View(view) => format!("CREATE VIEW v{view} AS SELECT {view}"),
            Self::LongName(table) => {
                format!(
                    "CREATE TABLE l{}(x, y)",
                    "n".repeat(800 + usize::from(table))
                )
            }
            Self::Vacuum => "VACUUM".to_owned(),
            Self::IncrementalVacuum(pages) => format!("PRAGMA incremental_vacuum({pages})"),
        }
    }
}

/// A database of its own, in a scratch directory.
pub struct Database {
    scratch: TempDir,
    pub options: Options,
}

impl Database {
    pub fn new(options: Options) -> Self {
        let database = Self {
            scratch: TempDir::new().expect("a directory"),
            options,
        };
        let options = &database.options;
        let first = format!(
            "PRAGMA page_size={}; PRAGMA encoding='{}'; PRAGMA auto_vacuum={}; PRAGMA user_version=1",
            options.page_size, options.encoding, options.auto_vacuum
        );
        database.run(&first);
        if options.reserved > 0 {
            let mut bytes = database.image();
            bytes[RESERVED_AT] = options.reserved;
            let content = options.page_size - u32::from(options.reserved);
            bytes[CONTENT_AT..CONTENT_AT + 2].copy_from_slice(&(content as u16).to_be_bytes());
            fs::write(database.path(), bytes).expect("written");
        }
        if options.wal {
            database.run("PRAGMA journal_mode=WAL");
        }
        database
    }

    pub fn path(&self) -> PathBuf {
        self.scratch.path().join("x.db")
    }

    pub fn image(&self) -> Vec<u8> {
        fs::read(self.path()).expect("read")
    }

    pub fn run(&self, sql: &str) {
        let connection = Connection::open(self.path()).expect("opened");
        connection.execute_batch(sql).expect(sql);
    }

    /// Takes the steps, but for those that the database refuses since a table is not there, or is there already.
    pub fn take(&self, steps: &[Step]) {
        let connection = Connection::open(self.path()).expect("opened");
        for step in steps {
            let sql = step.sql();
            if let Err(error) = connection.execute_batch(&sql) {
                let told = error.to_string();
                let is_refused = told.contains("no such table") || told.contains("already exists");
                assert!(is_refused, "{told}: {sql}");
            }
        }
    }

    /// What `quick_check` and `integrity_check` find in an image, a line each; none where they find nothing.
    pub fn findings(&self, image: &[u8], pragma: &str) -> Option<String> {
        let path = self.scratch.path().join("changed.db");
        fs::write(&path, image).expect("written");
        let found = findings(&path, pragma);
        for suffix in ["-wal", "-shm"] {
            let side = self.scratch.path().join(format!("changed.db{suffix}"));
            fs::remove_file(side).ok();
        }
        found.err()
    }
}

pub fn findings(path: &Path, pragma: &str) -> Result<(), String> {
    let connection = Connection::open(path).expect("opened");
    let ask = || {
        let mut asked = connection.prepare(&format!("PRAGMA {pragma}"))?;
        let lines = asked.query_map([], |row| row.get::<_, String>(0))?;
        lines.collect::<Result<Vec<_>, _>>()
    };
    match ask() {
        Ok(lines) if lines == ["ok"] => Ok(()),
        Ok(lines) => Err(lines.join("\n")),
        Err(error) => Err(error.to_string()),
    }
}

/// Steps that leave only tables and indexes: where the first of a schema's tables in SQLite's own order is a view or
/// virtual, its check passes over the freelist and the pointer map. Nor with roots that an overflow page names.
pub fn table_steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let is_table = |step: &Step| {
        !matches!(
            step,
            Step::Document(_) | Step::Box(_) | Step::View(_) | Step::LongName(_)
        )
    };
    steps(most).prop_map(move |mut steps| {
        steps.retain(is_table);
        steps
    })
}

pub fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let tables = (0..4u8).prop_map(Step::CreateTable);
    let tables = prop::collection::vec(tables, 2..5);
    (tables, prop::collection::vec(Step::any(), 1..most)).prop_map(|(mut tables, steps)| {
        tables.extend(steps);
        tables
    })
}
