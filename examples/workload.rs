//! Drives a SQLite database as an application would, and says which commits were acknowledged to it.
//!
//! Each transaction adds the next number to the table `commits`, and its number is printed once COMMIT has
//! returned: whatever was printed must be in a restore, and a restore holds the numbers from 1 on without a gap.
//! Several instances may work on one database; all of them tolerate a busy database, and nothing else.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use rusqlite::{Connection, ErrorCode, params};

#[derive(Parser)]
struct Args {
    /// The database; made where it does not exist.
    path: PathBuf,
    /// Stop after this many seconds.
    #[arg(long)]
    seconds: Option<f64>,
    /// Stop after this many acknowledged transactions.
    #[arg(long)]
    transactions: Option<u64>,
    #[arg(long, default_value = "wal")]
    journal_mode: String,
    #[arg(long, default_value = "normal")]
    synchronous: String,
    #[arg(long, default_value = "normal")]
    locking_mode: String,
    /// Bytes; only for a new database.
    #[arg(long, default_value_t = 4096)]
    page_size: u32,
    /// Pages in the log before SQLite checkpoints by itself; 0 for never.
    #[arg(long, default_value_t = 1000)]
    autocheckpoint: u32,
    /// Pages in SQLite's cache; a small number makes transactions spill.
    #[arg(long, default_value_t = 2000)]
    cache_pages: u32,
    /// Rows that one insert adds, at most.
    #[arg(long, default_value_t = 8)]
    rows: u64,
    /// Bytes of a row, at most.
    #[arg(long, default_value_t = 400)]
    row_bytes: u64,
    /// What to do, each as likely as the others; a name may be repeated.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Step::Insert, Step::Update, Step::Delete])]
    steps: Vec<Step>,
    /// Where acknowledged numbers go, a line each; standard output by default.
    #[arg(long)]
    ack: Option<PathBuf>,
    /// Milliseconds between two transactions.
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// Makes the steps and rows of this instance differ from another's.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    Insert,
    Update,
    Delete,
    /// Writes, and takes all of it back.
    Rollback,
    /// Writes, takes a part back, and commits the rest.
    Savepoint,
    CheckpointPassive,
    CheckpointFull,
    CheckpointRestart,
    CheckpointTruncate,
    Vacuum,
    /// Closes the connection and opens it again.
    Reopen,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("workload: {}: {error}", args.path.display());
            ExitCode::FAILURE
        }
    }
}

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn run(args: &Args) -> Outcome {
    let mut acks: Box<dyn Write> = match &args.ack {
        Some(path) => Box::new(append(path)?),
        None => Box::new(std::io::stdout()),
    };
    let mut random = Random(args.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let started = Instant::now();
    let mut connection = open(args)?;
    let mut acknowledged = 0;
    loop {
        let time_is_up = args
            .seconds
            .is_some_and(|seconds| started.elapsed().as_secs_f64() >= seconds);
        let enough = args.transactions.is_some_and(|all| acknowledged >= all);
        if time_is_up || enough {
            return close(connection);
        }
        let step = args.steps[random.below(args.steps.len() as u64) as usize];
        if step == Step::Reopen {
            close(connection)?;
            connection = open(args)?;
        } else if let Some(number) = retried(|| take(step, args, &mut connection, &mut random))? {
            // One write for the whole line, so that instances that share a file don't mix theirs.
            acks.write_all(format!("{number}\n").as_bytes())?;
            acks.flush()?;
            acknowledged += 1;
        }
        if args.pause_ms > 0 {
            std::thread::sleep(Duration::from_millis(args.pause_ms));
        }
    }
}

fn append(path: &PathBuf) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn open(args: &Args) -> Outcome<Connection> {
    let connection = retried(|| {
        let connection = Connection::open(&args.path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "page_size", args.page_size)?;
        connection.pragma_update(None, "locking_mode", &args.locking_mode)?;
        connection.pragma_update(None, "journal_mode", &args.journal_mode)?;
        connection.pragma_update(None, "synchronous", &args.synchronous)?;
        connection.pragma_update(None, "wal_autocheckpoint", args.autocheckpoint)?;
        connection.pragma_update(None, "cache_size", args.cache_pages)?;
        connection.execute_batch(
            "BEGIN IMMEDIATE;
             CREATE TABLE IF NOT EXISTS commits (n INTEGER PRIMARY KEY, seed INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
             COMMIT;",
        )?;
        Ok(connection)
    })?;
    Ok(connection)
}

fn close(connection: Connection) -> Outcome {
    connection.close().map_err(|(_, error)| error.into())
}

/// Repeats while the database is busy.
fn retried<T>(mut attempt: impl FnMut() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    loop {
        match attempt() {
            Err(error) if is_busy(&error) => {}
            other => return other,
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// Takes one step; a transaction that was acknowledged gives its number.
fn take(
    step: Step,
    args: &Args,
    connection: &mut Connection,
    random: &mut Random,
) -> rusqlite::Result<Option<i64>> {
    let checkpoint = |connection: &Connection, kind: &str| {
        connection
            .query_row(&format!("PRAGMA wal_checkpoint({kind})"), [], |_| Ok(()))
            .map(|()| None)
    };
    match step {
        Step::CheckpointPassive => checkpoint(connection, "PASSIVE"),
        Step::CheckpointFull => checkpoint(connection, "FULL"),
        Step::CheckpointRestart => checkpoint(connection, "RESTART"),
        Step::CheckpointTruncate => checkpoint(connection, "TRUNCATE"),
        Step::Vacuum => connection.execute_batch("VACUUM").map(|()| None),
        _ => transaction(step, args, connection, random),
    }
}

fn transaction(
    step: Step,
    args: &Args,
    connection: &mut Connection,
    random: &mut Random,
) -> rusqlite::Result<Option<i64>> {
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let number = transaction.query_row(
        "INSERT INTO commits (n, seed) SELECT coalesce(max(n), 0) + 1, ? FROM commits RETURNING n",
        params![args.seed as i64],
        |row| row.get(0),
    )?;
    match step {
        Step::Update => {
            transaction.execute(
                "UPDATE rows SET body = randomblob(?1) WHERE id % 7 = ?2",
                params![random.size(args.row_bytes), random.size(7) - 1],
            )?;
        }
        Step::Delete => {
            transaction.execute(
                "DELETE FROM rows WHERE id % 5 = ?1",
                params![random.size(5) - 1],
            )?;
        }
        Step::Savepoint => {
            transaction.execute_batch("SAVEPOINT part")?;
            insert(&transaction, args, random)?;
            transaction.execute_batch("ROLLBACK TO part; RELEASE part")?;
            insert(&transaction, args, random)?;
        }
        _ => insert(&transaction, args, random)?,
    }
    if step == Step::Rollback {
        transaction.rollback()?;
        return Ok(None);
    }
    transaction.commit()?;
    Ok(Some(number))
}

fn insert(connection: &Connection, args: &Args, random: &mut Random) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached("INSERT INTO rows (body) VALUES (randomblob(?))")?;
    for _ in 0..random.size(args.rows) {
        insert.execute(params![random.size(args.row_bytes)])?;
    }
    Ok(())
}

/// xorshift64*: the steps of a seed are always the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// From 1 to `most`.
    fn size(&mut self, most: u64) -> i64 {
        1 + self.below(most) as i64
    }
}
