//! The configuration: the file as written, merged with flags, becomes the configuration as meant.

mod directories;
mod document;
mod encryption;
pub mod keys;
mod lists;
mod outside;
mod resolve;
mod show;
mod table;
mod tenants;
pub mod units;
mod walk;
mod written;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use document::{load, read};
pub use written::{WatchPathWritten, Written};

use crate::api::Listen;
pub use crate::capture::reserve::SpoolReserve;
use crate::replicate::drills::Drills;
use crate::store::spec::{S3Options, Secret, StoreSpec};
use crate::tenant::discovery::Rules;
use crate::tenant::terms::Terms;

/// Read where no `-config` is given and the file exists.
pub const DEFAULT_FILE: &str = "/etc/litestream-multitenant.yml";

/// Where the API listens unless it is configured.
pub const DEFAULT_PORT: u16 = 8080;

/// The folder below the backing directory where state lives unless `-state-dir` says otherwise.
pub const DEFAULT_STATE_FOLDER: &str = ".litestream-multitenant";

/// The configuration as meant: complete, checked, with absolute paths.
#[derive(Clone, Debug)]
pub struct Config {
    /// Of those tenants that have none of their own; none where each has to have its own.
    pub store: Option<StoreSpec>,
    pub s3: S3Options,
    pub own_stores: Vec<OwnStore>,
    /// Where the API listens; none for `-listen none`.
    pub listen: Option<Listen>,
    /// Every request needs it; without one the API listens on loopback only.
    pub api_token: Option<Secret>,
    /// At least one.
    pub watch_paths: Vec<WatchPath>,
    pub terms: Arc<Terms>,
    /// The longest that one file operation waits for its capture.
    pub gate_timeout: Duration,
    /// Whether applications have extended attributes, and the kernel asks for them.
    pub access_lists: AccessLists,
    pub limits: Limits,
    /// Restore drills in the background; none where they are off.
    pub drills: Option<Drills>,
    /// How often the store is listed for what idle clients have there; none for never.
    pub store_listing: Option<Duration>,
    /// None for the default, `DEFAULT_STATE_FOLDER` below each backing directory.
    pub state_dir: Option<PathBuf>,
    pub log_format: LogFormat,
    /// Whether the kernel may pass reads and writes of `.db` and `-shm` through.
    pub passthrough: bool,
    /// How commits are heard of.
    pub capture_way: CaptureWay,
}

/// How commits are heard of (`mount.capture`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CaptureWay {
    /// By passthrough where that works, else by interception.
    #[default]
    Auto,
    /// Writes to logs go through the daemon.
    Intercept,
    /// The kernel passes them to the backing file, and the daemon is told.
    Passthrough,
}

impl CaptureWay {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            CaptureWay::Auto => "auto",
            CaptureWay::Intercept => "intercept",
            CaptureWay::Passthrough => "passthrough",
        }
    }
}

/// When applications have access control lists.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum AccessLists {
    /// Where there are some when the directory is mounted.
    #[default]
    Auto,
    Always,
}

impl AccessLists {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            AccessLists::Auto => "auto",
            AccessLists::Always => "always",
        }
    }
}

/// A tenant's own store, or its own keys to the store of all.
#[derive(Clone, Debug)]
pub struct OwnStore {
    pub tenant: String,
    pub store: StoreSpec,
    pub s3: S3Options,
    /// Another bucket than that of all, or one of that name on another server.
    pub elsewhere: bool,
}

/// A directory of databases, where the file system is mounted for it, and the rules for what is below it.
#[derive(Clone, Debug)]
pub struct WatchPath {
    pub path: PathBuf,
    /// The watch path itself unless another is configured.
    pub mountpoint: PathBuf,
    /// Without a slash at either end; empty where none is configured.
    pub prefix: String,
    pub rules: Rules,
}

/// What one instance may use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    pub max_tenants: usize,
    /// There are no more.
    pub max_watch_paths: usize,
    /// Uploads in flight, all tenants together.
    pub max_concurrent_syncs: usize,
    /// Bytes of captured data that may wait on local disk, all tenants together.
    pub spool_bytes: u64,
    pub spool_reserve: SpoolReserve,
    /// Beyond this lag health is `degraded`.
    pub max_lag: Duration,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Json,
    Text,
}

/// A configuration that can't be used. Always wrong usage (exit code 2); the text is one line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: {reason}", file.display())]
    Unreadable { file: PathBuf, reason: String },
    #[error("{}:{line}:{column}: {reason}", file.display())]
    InFile {
        file: PathBuf,
        line: usize,
        column: usize,
        reason: String,
    },
    #[error("no store is configured: give `-bucket STORE`, or `bucket` in the configuration")]
    NoStore,
    #[error(
        "no watch path is configured: give `-watch-path DIR`, or `autoDiscovery.watchPaths` in the configuration"
    )]
    NoWatchPath,
    #[error(
        "the API's address {0} is not loopback and needs `server.apiToken`: set that key, or write 127.0.0.1"
    )]
    NoToken(Listen),
    #[error("{}: {reason}", path.display())]
    Path { path: PathBuf, reason: String },
    #[error("`{key}`: {reason}")]
    Key { key: String, reason: String },
    #[error(transparent)]
    Rule(#[from] crate::tenant::discovery::RuleError),
}
