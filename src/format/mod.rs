//! The formats: SQLite's file header, write-ahead log and wal-index, LTX, object keys, values as people write them, and
//! the plans made from them. Pure.

pub mod description;
pub mod journal;
pub mod keys;
pub mod ltx;
pub mod plan;
pub mod quantity;
pub mod registry;
pub mod scanner;
pub mod sqlite;
pub mod structure;
pub mod wal;
pub mod wal_index;
