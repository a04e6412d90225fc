//! A FUSE file system that sees every commit of one SQLite database per tenant and replicates it to object storage.
//!
//! Calls go downward only, in this order of modules; see ARCHITECTURE.md.

pub mod api;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod fault;
pub mod format;
pub mod meter;
pub mod mount;
pub mod paths;
pub mod random;
pub mod replicate;
pub mod restore;
pub mod room;
#[cfg(test)]
mod simulation;
pub mod store;
pub mod tenant;
