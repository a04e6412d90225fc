//! Writes to many databases at once, as an application with many tenants does, and says how long each commit took.
//!
//! Database N is `12345678-1234-5678-9abc-` and N in 12 digits. For each commit that was acknowledged, its number goes
//! to the file of that name in ACKS, and to TIMES a line with the moment in Unix milliseconds and the microseconds that
//! the commit took.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use rusqlite::{Connection, params};

#[derive(Parser)]
struct Args {
    /// The directory of the databases.
    directory: PathBuf,
    #[arg(long)]
    acks: PathBuf,
    #[arg(long)]
    times: PathBuf,
    #[arg(long, default_value_t = 50)]
    databases: u32,
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Milliseconds between two commits of a database.
    #[arg(long, default_value_t = 40)]
    pause_ms: u64,
    /// Pages in the log before SQLite checkpoints by itself.
    #[arg(long, default_value_t = 40)]
    autocheckpoint: u32,
    /// Bytes of the row that each commit adds.
    #[arg(long, default_value_t = 300)]
    row_bytes: u32,
}

fn main() {
    let args = Args::parse();
    std::thread::scope(|writers| {
        for number in 1..=args.databases {
            let args = &args;
            writers.spawn(move || {
                if let Err(error) = write(args, number) {
                    // The whole application ends: whoever watches it sees that.
                    eprintln!("many_tenants: database {number}: {error}");
                    std::process::exit(1);
                }
            });
        }
    });
}

fn write(args: &Args, number: u32) -> Result<(), Box<dyn std::error::Error>> {
    let name = format!("12345678-1234-5678-9abc-{number:012}");
    let mut acks = append(&args.acks.join(&name))?;
    let mut times = append(&args.times)?;
    let connection = open(args, &args.directory.join(format!("{name}.db")))?;
    let end = Instant::now() + Duration::from_secs(args.seconds);
    // Not all of them at the same moment.
    std::thread::sleep(Duration::from_millis(
        u64::from(number) * 7 % args.pause_ms.max(1),
    ));
    while Instant::now() < end {
        let begun = Instant::now();
        connection.execute(
            "INSERT INTO commits (body) VALUES (randomblob(?1))",
            params![args.row_bytes],
        )?;
        let took = begun.elapsed();
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        // One write for the whole line, since the writers share that file.
        times.write_all(format!("{now} {}\n", took.as_micros()).as_bytes())?;
        acks.write_all(format!("{}\n", connection.last_insert_rowid()).as_bytes())?;
        std::thread::sleep(Duration::from_millis(args.pause_ms));
    }
    Ok(())
}

fn open(args: &Args, path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "wal_autocheckpoint", args.autocheckpoint)?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS commits (n INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    )?;
    Ok(connection)
}

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}
