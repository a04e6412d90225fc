//! What is captured of a real SQLite's files, and restored, equals what SQLite shows.

mod bench;
mod logs;
mod model;
#[path = "../support/wal.rs"]
mod wal;
