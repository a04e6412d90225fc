//! The formats: SQLite's file header and write-ahead log, LTX, and the plans made from object keys. Pure.

pub mod ltx;
pub mod plan;
pub mod sqlite;
pub mod wal;
