//! What tests share: the real daemon over a scratch directory, writers in other processes, and what SQLite says.

pub mod daemon;
pub mod fault;
pub mod garage;
pub mod log;
pub mod moments;
pub mod moto;
pub mod mounts;
pub mod process;
pub mod proxy;
pub mod python;
#[allow(dead_code, reason = "the tests of stores need all of it")]
pub mod quirky;
pub mod s3;
pub mod scale;
pub mod servers;
pub mod sqlite;
pub mod tree;
pub mod users;
pub mod wal;
pub mod workload;
