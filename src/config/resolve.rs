//! From the configuration as written to the configuration as meant: defaults, directories, and what they exclude.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::{
    Config, ConfigError, DEFAULT_STATE_FOLDER, Limits, SpoolReserve, WatchPath, WatchPathWritten,
    Written,
};
use crate::store::spec::StoreSpec;
use crate::tenant::discovery::{DEFAULT_GUID_PATTERN, Rules};

const DEFAULT_PATTERN: &str = "*.db";
const DEFAULT_PORT: u16 = 8080;
const DEFAULT_SNAPSHOT_INTERVAL: Duration = Duration::from_secs(3600);
const DEFAULT_RETENTION: Duration = Duration::from_secs(72 * 3600);

impl Written {
    /// The store, which every command needs.
    pub fn required_store(&self) -> Result<StoreSpec, ConfigError> {
        self.store.clone().ok_or(ConfigError::NoStore)
    }

    /// How long every moment stays restorable.
    pub fn retention(&self) -> Duration {
        self.retention.unwrap_or(DEFAULT_RETENTION)
    }

    /// The configuration of `mount`: everything required is there, and the directories exist.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let store = self.required_store()?;
        let retention = self.retention();
        let watch_path = watch_path(self.watch_path.unwrap_or_default())?;
        let state_dir = self.state_dir.as_deref().map(absolute).transpose()?;
        if let StoreSpec::Directory(dir) = &store {
            outside(&watch_path, "the store", &settled(dir)?)?;
        }
        if let Some(dir) = &state_dir {
            let settled = settled(dir)?;
            if settled != watch_path.path.join(DEFAULT_STATE_FOLDER) {
                outside(&watch_path, "the state directory", &settled)?;
            }
        }
        let patterns = match self.patterns {
            patterns if patterns.is_empty() => vec![DEFAULT_PATTERN.to_owned()],
            patterns => patterns,
        };
        let guid_pattern = self.guid_pattern.as_deref().unwrap_or(DEFAULT_GUID_PATTERN);
        let rules = Rules::new(&watch_path.prefix, &patterns, guid_pattern)?;
        let listen = self.listen.unwrap_or_else(|| {
            let host = self.host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
            Some(SocketAddr::new(host, self.port.unwrap_or(DEFAULT_PORT)))
        });
        if let Some(address) = listen.filter(|address| !address.ip().is_loopback())
            && self.api_token.is_none()
        {
            return Err(ConfigError::NoToken(address));
        }
        Ok(Config {
            store,
            s3: self.s3,
            listen,
            api_token: self.api_token,
            watch_path,
            rules,
            sync_interval: self.sync_interval.unwrap_or(Duration::from_secs(1)),
            snapshot_interval: self.snapshot_interval.unwrap_or(DEFAULT_SNAPSHOT_INTERVAL),
            retention,
            gate_timeout: self.gate_timeout.unwrap_or(Duration::from_secs(5)),
            limits: Limits {
                max_tenants: self.max_tenants.unwrap_or(1_000),
                max_concurrent_syncs: self.max_concurrent_syncs.unwrap_or(50),
                memory_bytes_per_tenant: self.memory_bytes_per_tenant.unwrap_or(16 << 20),
                spool_bytes: self.spool_bytes.unwrap_or(10 << 30),
                spool_reserve: self.spool_reserve.unwrap_or(SpoolReserve::Percent(5)),
                max_lag: self.max_lag.unwrap_or(Duration::from_secs(30)),
            },
            state_dir,
            log_format: self.log_format,
            passthrough: !self.no_passthrough,
        })
    }
}

fn watch_path(written: WatchPathWritten) -> Result<WatchPath, ConfigError> {
    let path = directory(&written.path.ok_or(ConfigError::NoWatchPath)?)?;
    let mountpoint = match written.mountpoint {
        Some(mountpoint) => directory(&mountpoint)?,
        None => path.clone(),
    };
    let nested = mountpoint.starts_with(&path) || path.starts_with(&mountpoint);
    if mountpoint != path && nested {
        return Err(ConfigError::Path {
            path: mountpoint,
            reason: "the mount point and the watch path lie one within the other; choose another mount point".to_owned(),
        });
    }
    Ok(WatchPath {
        path,
        mountpoint,
        prefix: written.prefix,
    })
}

/// A directory that exists, by its absolute path without links. What a dead mount covers counts as one.
fn directory(path: &Path) -> Result<PathBuf, ConfigError> {
    let wrong = |reason: String| ConfigError::Path {
        path: path.to_owned(),
        reason,
    };
    match fs::canonicalize(path).and_then(|path| Ok((fs::metadata(&path)?, path))) {
        Ok((found, path)) if found.is_dir() => Ok(path),
        Ok(_) => Err(wrong("is no directory; name one".to_owned())),
        Err(error) if is_dead_mount(&error) => absolute(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(wrong(
            "there is no such directory; create it first".to_owned(),
        )),
        Err(error) => Err(wrong(format!("look at the directory: {error}"))),
    }
}

/// A mount whose daemon died; it is cleared before the new mount.
fn is_dead_mount(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOTCONN)
}

fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    let absolute = std::path::absolute(path).map_err(|error| ConfigError::Path {
        path: path.to_owned(),
        reason: format!("make the path absolute: {error}"),
    })?;
    // Collected again, since a slash at the end would stay.
    Ok(absolute.components().collect())
}

/// Where a path that need not exist yet would lie, links followed as far as it exists.
fn settled(path: &Path) -> Result<PathBuf, ConfigError> {
    let path = absolute(path)?;
    for ancestor in path.ancestors() {
        let Ok(mut settled) = fs::canonicalize(ancestor) else {
            continue;
        };
        let rest = path.strip_prefix(ancestor).expect("BUG: no ancestor of it");
        for component in rest.components() {
            match component {
                Component::ParentDir => {
                    settled.pop();
                }
                other => settled.push(other),
            }
        }
        return Ok(settled);
    }
    Ok(path)
}

fn outside(watch_path: &WatchPath, what: &str, path: &Path) -> Result<(), ConfigError> {
    for covered in [&watch_path.path, &watch_path.mountpoint] {
        if path.starts_with(covered) {
            return Err(ConfigError::Path {
                path: path.to_owned(),
                reason: format!(
                    "{what} lies under {}, which is mounted over; choose another place",
                    covered.display()
                ),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::spec::Secret;

    struct Scratch(tempfile::TempDir);

    impl Scratch {
        fn new() -> Self {
            let scratch = tempfile::tempdir().expect("a scratch directory");
            for dir in ["data", "store", "mnt"] {
                fs::create_dir(scratch.path().join(dir)).expect("a directory");
            }
            Self(scratch)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().canonicalize().expect("exists").join(name)
        }

        fn written(&self) -> Written {
            Written {
                store: Some(StoreSpec::Directory(self.path("store"))),
                watch_path: Some(WatchPathWritten {
                    path: Some(self.path("data")),
                    ..Default::default()
                }),
                ..Default::default()
            }
        }
    }

    #[test]
    fn the_defaults() {
        let scratch = Scratch::new();
        let config = scratch.written().resolve().expect("complete");
        assert_eq!(config.listen, Some(([127, 0, 0, 1], 8080).into()));
        assert_eq!(config.watch_path.mountpoint, scratch.path("data"));
        assert_eq!(config.sync_interval, Duration::from_secs(1));
        assert_eq!(config.limits.spool_bytes, 10 << 30);
        assert!(config.passthrough && config.state_dir.is_none());
    }

    #[test]
    fn other_machines_need_the_token() {
        let scratch = Scratch::new();
        let everywhere = SocketAddr::from(([0, 0, 0, 0], 80));
        for (host, listen) in [
            (Some(everywhere.ip()), None),
            (None, Some(Some(everywhere))),
        ] {
            let mut written = scratch.written();
            (written.host, written.port, written.listen) = (host, Some(80), listen);
            let error = written.clone().resolve().expect_err("no token").to_string();
            assert!(error.contains("`server.apiToken`"), "{error}");
            written.api_token = Some(Secret("not-to-be-shown".to_owned()));
            let config = written.resolve().expect("a token");
            assert_eq!(config.listen, Some(everywhere));
            assert!(!format!("{config:?}").contains("not-to-be-shown"));
        }
    }

    #[test]
    fn what_is_required_is_named() {
        let scratch = Scratch::new();
        let mut without = scratch.written();
        without.store = None;
        assert!(matches!(without.resolve(), Err(ConfigError::NoStore)));
        let mut without = scratch.written();
        without.watch_path = None;
        assert!(matches!(without.resolve(), Err(ConfigError::NoWatchPath)));
    }

    #[test]
    fn a_watch_path_is_a_directory_by_its_true_name() {
        let scratch = Scratch::new();
        std::os::unix::fs::symlink(scratch.path("data"), scratch.path("link")).expect("a link");
        fs::write(scratch.path("file"), "").expect("a file");
        let at = |name: &str| {
            let mut written = scratch.written();
            written.watch_path = Some(WatchPathWritten {
                path: Some(scratch.path(name)),
                ..Default::default()
            });
            written.resolve()
        };
        assert_eq!(
            at("link/").expect("a link").watch_path.path,
            scratch.path("data")
        );
        for (name, reason) in [("none", "no such directory"), ("file", "no directory")] {
            let error = at(name).expect_err(name).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn store_and_state_stay_out_of_the_mount() {
        let scratch = Scratch::new();
        std::os::unix::fs::symlink(scratch.path("data"), scratch.path("link")).expect("a link");
        for below in ["data", "data/store", "link/a/b", "store/../data/x"] {
            let mut written = scratch.written();
            written.store = Some(StoreSpec::Directory(scratch.path(below)));
            let error = written.resolve().expect_err(below).to_string();
            assert!(error.contains("the store lies under"), "{error}");
            let mut written = scratch.written();
            written.state_dir = Some(scratch.path(below));
            assert!(written.resolve().is_err(), "{below}");
        }
        for fine in ["data/.litestream-multitenant", "state", "data2"] {
            let mut written = scratch.written();
            written.state_dir = Some(scratch.path(fine));
            let config = written.resolve().expect(fine);
            assert_eq!(config.state_dir, Some(scratch.path(fine)));
        }
    }

    #[test]
    fn a_mountpoint_of_its_own() {
        let scratch = Scratch::new();
        let at = |mountpoint: &str| {
            let mut written = scratch.written();
            let watch_path = written.watch_path.as_mut().expect("there is one");
            watch_path.mountpoint = Some(scratch.path(mountpoint));
            written.resolve()
        };
        assert_eq!(
            at("mnt").expect("beside").watch_path.mountpoint,
            scratch.path("mnt")
        );
        assert!(at("").is_err(), "around the watch path");
        assert!(at("none").is_err(), "missing");
    }
}
