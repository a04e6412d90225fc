//! The configuration as written, in the file or by flags: each value parsed, nothing required yet.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::units::{self, Host};
use super::{AccessLists, CaptureWay, ConfigError, DEFAULT_PORT, LogFormat, SpoolReserve};
use crate::api::Listen;
use crate::replicate::drills::Sample;
use crate::store::spec::{EncryptionAlgorithm, S3Options, Secret, StoreSpec};
use crate::tenant::policy::PolicyWritten;

/// What was written; absent means the default. Flags are written over the file by assigning the fields.
#[derive(Clone, Debug, Default)]
pub struct Written {
    pub store: Option<StoreSpec>,
    /// Without its encryption, which is written in two keys.
    pub s3: S3Options,
    pub sse: Option<EncryptionAlgorithm>,
    pub kms_key_id: Option<String>,
    pub host: Option<Host>,
    pub port: Option<u16>,
    pub api_token: Option<Secret>,
    /// What the flag says: an address, or `none`. Before `host` and `port`.
    pub listen: Option<Option<Listen>>,
    /// Empty for the directories of `clients`.
    pub watch_paths: Vec<WatchPathWritten>,
    /// What the flag says, for the one watch path.
    pub mountpoint: Option<PathBuf>,
    pub discovery: Option<bool>,
    /// Empty for the default.
    pub patterns: Vec<String>,
    pub guid_validation: Option<bool>,
    pub guid_pattern: Option<String>,
    pub tenant_regex: Option<String>,
    /// Of all tenants; the limits of each stand here too.
    pub defaults: PolicyWritten,
    pub clients: Vec<ClientWritten>,
    pub tenants: Vec<TenantWritten>,
    pub gate_timeout: Option<Duration>,
    pub access_lists: Option<AccessLists>,
    pub capture_way: Option<CaptureWay>,
    pub max_tenants: Option<usize>,
    pub max_watch_paths: Option<usize>,
    pub max_concurrent_syncs: Option<usize>,
    pub spool_bytes: Option<u64>,
    pub spool_reserve: Option<SpoolReserve>,
    pub max_lag: Option<Duration>,
    pub drill_interval: Option<Duration>,
    pub drill_sample: Option<Sample>,
    /// None within for `off`.
    pub listing_interval: Option<Option<Duration>>,
    pub state_dir: Option<PathBuf>,
    pub log_format: LogFormat,
    /// Every file is served by the daemon itself.
    pub no_passthrough: bool,
}

impl Written {
    /// Where the API listens; none where it does not.
    ///
    /// # Errors
    /// `Key`, for a socket with a port.
    pub fn listen(&self) -> Result<Option<Listen>, ConfigError> {
        if let Some(listen) = &self.listen {
            return Ok(listen.clone());
        }
        match (&self.host, self.port) {
            (Some(Host::Unix(path)), None) => Ok(Some(Listen::Unix(path.clone()))),
            (Some(Host::Unix(_)), Some(_)) => Err(ConfigError::Key {
                key: "server.port".to_owned(),
                reason: "a socket (`server.host: unix:PATH`) has no port; leave it out".to_owned(),
            }),
            (host, port) => {
                let host = match host {
                    Some(Host::Ip(host)) => *host,
                    _ => Ipv4Addr::LOCALHOST.into(),
                };
                let port = port.unwrap_or(DEFAULT_PORT);
                Ok(Some(Listen::Tcp(SocketAddr::new(host, port))))
            }
        }
    }

    /// The section of `autoDiscovery.watchPaths` that is being read.
    pub(super) fn watch_path(&mut self) -> &mut WatchPathWritten {
        self.watch_paths
            .last_mut()
            .expect("BUG: no watch path was begun")
    }

    /// The section of `clients` that is being read.
    pub(super) fn client(&mut self) -> &mut ClientWritten {
        self.clients.last_mut().expect("BUG: no client was begun")
    }

    /// The section of `tenants` that is being read.
    pub(super) fn tenant(&mut self) -> &mut TenantWritten {
        self.tenants.last_mut().expect("BUG: no tenant was begun")
    }
}

/// One of `clients`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClientWritten {
    pub client_id: Option<String>,
    pub db_path: Option<PathBuf>,
    pub s3_prefix: Option<String>,
    pub policy: PolicyWritten,
}

/// One of `tenants`.
#[derive(Clone, Debug, Default)]
pub struct TenantWritten {
    pub tenant_id: Option<String>,
    pub bucket: Option<StoreSpec>,
    pub prefix: Option<String>,
    pub s3: S3Options,
    pub policy: PolicyWritten,
}

/// One watch path, from the file or from `-watch-path`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WatchPathWritten {
    pub path: Option<PathBuf>,
    pub mountpoint: Option<PathBuf>,
    pub prefix: String,
}

impl WatchPathWritten {
    /// `[PREFIX=]DIR`, as the flag takes it. A directory whose own name has a `=` is written with `./` or `/` before it.
    pub fn parse_flag(text: &str) -> Result<Self, String> {
        let (prefix, dir) = match text.split_once('=') {
            Some((prefix, dir)) if !prefix.starts_with(['.', '/']) => (units::prefix(prefix)?, dir),
            _ => (String::new(), text),
        };
        if dir.is_empty() {
            return Err("the directory is missing: write [PREFIX=]DIR".to_owned());
        }
        Ok(Self {
            path: Some(dir.into()),
            mountpoint: None,
            prefix,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_path_flag_with_and_without_prefix() {
        let parsed = WatchPathWritten::parse_flag("staging=/data").expect("a prefix");
        assert_eq!(parsed.prefix, "staging");
        assert_eq!(parsed.path, Some("/data".into()));
        let plain = WatchPathWritten::parse_flag("/data/a=b").expect("no prefix");
        assert_eq!(plain.prefix, "");
        assert_eq!(plain.path, Some("/data/a=b".into()));
        assert!(WatchPathWritten::parse_flag("").is_err());
        assert!(WatchPathWritten::parse_flag("a=").is_err());
        assert!(WatchPathWritten::parse_flag("databases=/data").is_err());
    }
}
