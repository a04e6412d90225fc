//! What the daemon reads and writes while it runs has to lie elsewhere than what it mounts: through its own mount it would
//! wait for itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::directories::settled;
use super::{ConfigError, DEFAULT_STATE_FOLDER, WatchPath, Written};
use crate::api::Listen;
use crate::paths::reach;
use crate::store::spec::StoreSpec;

/// Reads a variable of the environment.
pub(super) type Variable<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Variables that name files which the S3 client reads again and again.
const READ_BY_S3: [&str; 7] = [
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// Refuses stores, state, temporary files and keys that a mount would cover.
pub(super) fn keep_outside(
    written: &Written,
    watch_paths: &[WatchPath],
    state_dir: Option<&Path>,
    variable: Variable<'_>,
) -> Result<(), ConfigError> {
    let own = written
        .tenants
        .iter()
        .filter_map(|tenant| tenant.bucket.as_ref());
    let stores: Vec<_> = written.store.iter().chain(own).collect();
    for store in &stores {
        if let StoreSpec::Directory(dir) = store {
            outside(watch_paths, "the store", &settled(dir)?)?;
        }
    }
    let temporary = variable("TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    let what = "the directory of temporary files (TMPDIR)";
    outside(watch_paths, what, &settled(&temporary)?)?;
    if stores
        .iter()
        .any(|store| matches!(store, StoreSpec::S3 { .. }))
    {
        for name in READ_BY_S3 {
            if let Some(file) = variable(name) {
                outside(watch_paths, name, &settled(Path::new(&file))?)?;
            }
        }
        let home = variable("HOME").map(|home| Path::new(&home).join(".aws"));
        let is_there = |folder: &PathBuf| reach(folder).map_or(true, |found| found.is_whole());
        if let Some(folder) = home.filter(is_there) {
            outside(watch_paths, "the folder of AWS's keys", &settled(&folder)?)?;
        }
    }
    match state_dir {
        Some(dir) => outside(watch_paths, "the state directory", dir),
        None => Ok(()),
    }
}

/// Where the API listens: a socket by its path without links, below no watch path.
pub(super) fn settled_socket(
    listen: Listen,
    watch_paths: &[WatchPath],
) -> Result<Listen, ConfigError> {
    let Listen::Unix(path) = &listen else {
        return Ok(listen);
    };
    let path = settled(path)?;
    outside(watch_paths, "the API's socket", &path)?;
    Ok(Listen::Unix(path))
}

/// The state directory, its links followed now, and not when another place may be behind them. None for the default, whose
/// name would lead into the mount: it is reached from the directory underneath.
pub(super) fn state_dir(
    written: Option<&Path>,
    watch_paths: &[WatchPath],
) -> Result<Option<PathBuf>, ConfigError> {
    let settled = written.map(settled).transpose()?;
    let is_default =
        |dir: &PathBuf| matches!(watch_paths, [one] if *dir == one.path.join(DEFAULT_STATE_FOLDER));
    Ok(settled.filter(|dir| !is_default(dir)))
}

/// Refuses a path that a mount would cover.
fn outside(watch_paths: &[WatchPath], what: &str, path: &Path) -> Result<(), ConfigError> {
    let covered = watch_paths
        .iter()
        .flat_map(|one| [&one.path, &one.mountpoint]);
    for covered in covered {
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
    use crate::config::WatchPathWritten;

    /// What is said of a store, a watch path of a scratch directory, and one variable that names a place there.
    fn said(store: &str, name: &str, below: &str) -> Result<(), ConfigError> {
        let scratch = tempfile::tempdir().expect("a directory");
        let data = scratch.path().join("data");
        for folder in ["data/home/.aws", "home/.aws", "link"] {
            std::fs::create_dir_all(scratch.path().join(folder)).expect("a folder");
        }
        std::os::unix::fs::symlink(&data, scratch.path().join("link/data")).expect("a link");
        let written = || Written {
            store: Some(StoreSpec::parse(store).expect("a store")),
            watch_paths: vec![WatchPathWritten {
                path: Some(data.clone()),
                ..WatchPathWritten::default()
            }],
            ..Written::default()
        };
        let config = written().resolve().expect("a configuration");
        let place = scratch.path().join(below).into_os_string();
        keep_outside(&written(), &config.watch_paths, None, &|asked| {
            (asked == name).then(|| place.clone())
        })
    }

    #[test]
    fn what_is_read_while_it_runs_is_not_below_a_mount() {
        for name in READ_BY_S3.iter().chain(&["TMPDIR", "HOME"]) {
            for below in ["data/home", "link/data/home"] {
                let error = said("s3://bucket", name, below)
                    .expect_err(name)
                    .to_string();
                assert!(error.contains("which is mounted over"), "{error}");
            }
            said("s3://bucket", name, "home").expect("elsewhere");
        }
        said("file:///nowhere", "AWS_CONFIG_FILE", "data/home").expect("nobody reads it");
        said("file:///nowhere", "TMPDIR", "data").expect_err("drills write there");
    }
}
