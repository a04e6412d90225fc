//! The formats: SQLite's file header and write-ahead log, LTX, object keys, and the plans made from them. Pure.

pub mod keys;
pub mod ltx;
pub mod plan;
pub mod sqlite;
pub mod wal;
