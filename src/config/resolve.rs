//! From the configuration as written to the configuration as meant: defaults, and what excludes one another.

use std::sync::Arc;
use std::time::Duration;

use super::directories::{Directory, watch_paths};
use super::encryption::encryption;
use super::outside::{keep_outside, settled_socket, state_dir};
use super::tenants::{NamedBelow, named, own_stores, terms};
use super::{CaptureWay, Config, ConfigError, Limits, SpoolReserve, WatchPath, Written};
use crate::replicate::drills::{Drills, Sample};
use crate::tenant::discovery::{DEFAULT_GUID_PATTERN, Rules, RulesWritten};
use crate::tenant::policy::Policy;
use crate::tenant::terms::Terms;

/// How often the store is listed unless it is configured.
const STORE_LISTING: Duration = Duration::from_secs(24 * 3600);

const DEFAULT_PATTERN: &str = "*.db";
const DEFAULT_WATCH_PATHS: usize = 10;

/// What is tolerated of what is not there.
pub(super) enum Absent {
    /// Nothing: the configuration is to be run.
    Refused,
    /// It is only looked at; what is not there is noted here.
    Noted(Vec<String>),
}

impl Absent {
    /// Notes what is not there, or refuses it.
    pub(super) fn note(&mut self, error: ConfigError) -> Result<(), ConfigError> {
        match self {
            Self::Refused => Err(error),
            Self::Noted(notes) => {
                notes.push(error.to_string());
                Ok(())
            }
        }
    }
}

impl Written {
    /// What holds for tenants without terms of their own.
    pub fn policy(&self) -> Policy {
        self.defaults.over(&Policy::default())
    }

    /// The configuration of `mount`: everything required is there, and the directories exist.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        self.resolve_with(&mut Absent::Refused)
    }

    /// The configuration, and what of it is not there yet.
    pub fn look_at(self) -> Result<(Config, Vec<String>), ConfigError> {
        let mut absent = Absent::Noted(Vec::new());
        let config = self.resolve_with(&mut absent)?;
        match absent {
            Absent::Noted(notes) => Ok((config, notes)),
            Absent::Refused => Ok((config, Vec::new())),
        }
    }

    fn resolve_with(mut self, absent: &mut Absent) -> Result<Config, ConfigError> {
        self.s3.encryption = encryption(&self)?;
        if self.no_passthrough && self.capture_way == Some(CaptureWay::Passthrough) {
            return Err(ConfigError::Key {
                key: "mount.capture".to_owned(),
                reason:
                    "`passthrough` contradicts -no-passthrough; write `auto`, or leave out the flag"
                        .to_owned(),
            });
        }
        let own_stores = own_stores(&self)?;
        let each_has_its_own =
            !self.tenants.is_empty() && self.tenants.iter().all(|tenant| tenant.bucket.is_some());
        if self.store.is_none() && !each_has_its_own {
            absent.note(ConfigError::NoStore)?;
        }
        let terms = Arc::new(terms(&self, &own_stores)?);
        let directories = watch_paths(&mut self, absent)?;
        let most = self.max_watch_paths.unwrap_or(DEFAULT_WATCH_PATHS);
        if directories.len() > most {
            return Err(ConfigError::Key {
                key: "autoDiscovery.watchPaths".to_owned(),
                reason: format!(
                    "{} watch paths, and `limits.maxWatchPaths` is {most}",
                    directories.len()
                ),
            });
        }
        let mut named = named(&self, &directories, &terms)?;
        let watch_paths = directories.into_iter().map(|directory| {
            let rules = self.rules(&directory, named.remove(&directory.path), &terms);
            Ok(WatchPath {
                rules: Rules::new(rules)?,
                path: directory.path,
                mountpoint: directory.mountpoint,
                prefix: directory.prefix,
            })
        });
        let watch_paths = watch_paths.collect::<Result<Vec<_>, ConfigError>>()?;
        let state_dir = state_dir(self.state_dir.as_deref(), &watch_paths)?;
        keep_outside(&self, &watch_paths, state_dir.as_deref(), &|name| {
            std::env::var_os(name)
        })?;
        let listen = self
            .listen()?
            .map(|listen| settled_socket(listen, &watch_paths));
        let listen = listen.transpose()?;
        if let Some(address) = listen.as_ref().filter(|address| !address.is_local())
            && self.api_token.is_none()
        {
            return Err(ConfigError::NoToken(address.clone()));
        }
        Ok(Config {
            listen,
            api_token: self.api_token,
            watch_paths,
            terms,
            own_stores,
            gate_timeout: self.gate_timeout.unwrap_or(Duration::from_secs(5)),
            access_lists: self.access_lists.unwrap_or_default(),
            limits: Limits {
                max_tenants: self.max_tenants.unwrap_or(1_000),
                max_watch_paths: most,
                max_concurrent_syncs: self.max_concurrent_syncs.unwrap_or(50),
                spool_bytes: self.spool_bytes.unwrap_or(10 << 30),
                spool_reserve: self.spool_reserve.unwrap_or(SpoolReserve::Percent(5)),
                max_lag: self.max_lag.unwrap_or(Duration::from_secs(30)),
            },
            store_listing: self.listing_interval.unwrap_or(Some(STORE_LISTING)),
            drills: self.drill_interval.map(|interval| Drills {
                interval,
                sample: self.drill_sample.unwrap_or(Sample::Count(1)),
            }),
            state_dir,
            log_format: self.log_format,
            passthrough: !self.no_passthrough,
            capture_way: self.capture_way.unwrap_or_default(),
            store: self.store,
            s3: self.s3,
        })
    }

    fn rules(
        &self,
        directory: &Directory,
        named: Option<NamedBelow>,
        terms: &Arc<Terms>,
    ) -> RulesWritten {
        let mut patterns = self.patterns.clone();
        if patterns.is_empty() {
            patterns.push(DEFAULT_PATTERN.to_owned());
        }
        let guid_pattern = self.guid_pattern.as_deref().unwrap_or(DEFAULT_GUID_PATTERN);
        RulesWritten {
            prefix: directory.prefix.clone(),
            seen_at: directory.mountpoint.clone(),
            discovery: self.discovery.unwrap_or(true),
            patterns,
            guid_validation: self.guid_validation,
            guid_pattern: guid_pattern.to_owned(),
            tenant_regex: self.tenant_regex.clone(),
            named: named.unwrap_or_default(),
            terms: terms.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::api::Listen;
    use crate::config::WatchPathWritten;
    use crate::config::units::Host;
    use crate::config::written::{ClientWritten, TenantWritten};
    use crate::store::spec::StoreSpec;
    use crate::store::spec::{S3Options, Secret};

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

        fn watch_path(&self, name: &str) -> WatchPathWritten {
            WatchPathWritten {
                path: Some(self.path(name)),
                ..Default::default()
            }
        }

        fn written(&self) -> Written {
            Written {
                store: Some(StoreSpec::Directory(self.path("store"))),
                watch_paths: vec![self.watch_path("data")],
                ..Default::default()
            }
        }
    }

    #[test]
    fn the_defaults() {
        let scratch = Scratch::new();
        let config = scratch.written().resolve().expect("complete");
        assert_eq!(config.listen, "127.0.0.1:8080".parse().ok());
        assert_eq!(config.watch_paths[0].mountpoint, scratch.path("data"));
        assert_eq!(*config.terms.defaults, Policy::default());
        assert_eq!(config.limits.spool_bytes, 10 << 30);
        assert!(config.passthrough && config.state_dir.is_none());
    }

    #[test]
    fn other_machines_need_the_token() {
        let scratch = Scratch::new();
        let everywhere: Listen = "0.0.0.0:80".parse().expect("an address");
        let host = Host::Ip([0, 0, 0, 0].into());
        for (host, listen) in [(Some(host), None), (None, Some(Some(everywhere.clone())))] {
            let mut written = scratch.written();
            (written.host, written.port, written.listen) = (host, Some(80), listen);
            let error = written.clone().resolve().expect_err("no token").to_string();
            assert!(error.contains("`server.apiToken`"), "{error}");
            written.api_token = Some(Secret("not-to-be-shown".to_owned()));
            let config = written.resolve().expect("a token");
            assert_eq!(config.listen.as_ref(), Some(&everywhere));
            assert!(!format!("{config:?}").contains("not-to-be-shown"));
        }
    }

    #[test]
    fn a_socket_lies_below_no_watch_path_and_has_no_port() {
        let scratch = Scratch::new();
        let mut written = scratch.written();
        let socket = scratch.path("api.sock");
        written.host = Some(Host::Unix(socket.clone()));
        let config = written.clone().resolve().expect("no token is needed");
        assert_eq!(config.listen, Some(Listen::Unix(socket)));
        written.port = Some(80);
        let error = written.clone().resolve().expect_err("a port").to_string();
        assert!(error.contains("`server.port`"), "{error}");
        let within = Listen::Unix(scratch.path("data/api.sock"));
        written.listen = Some(Some(within));
        let error = written.resolve().expect_err("mounted over").to_string();
        assert!(error.contains("the API's socket lies under"), "{error}");
    }

    #[test]
    fn what_is_required_is_named() {
        let scratch = Scratch::new();
        let mut without = scratch.written();
        without.store = None;
        assert!(matches!(without.resolve(), Err(ConfigError::NoStore)));
        let mut without = scratch.written();
        without.watch_paths.clear();
        assert!(matches!(without.resolve(), Err(ConfigError::NoWatchPath)));
    }

    #[test]
    fn a_watch_path_is_a_directory_by_its_true_name() {
        let scratch = Scratch::new();
        std::os::unix::fs::symlink(scratch.path("data"), scratch.path("link")).expect("a link");
        fs::write(scratch.path("file"), "").expect("a file");
        let at = |name: &str| {
            let mut written = scratch.written();
            written.watch_paths = vec![scratch.watch_path(name)];
            written.resolve()
        };
        assert_eq!(
            at("link/").expect("a link").watch_paths[0].path,
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
            let expected = (!fine.starts_with("data/")).then(|| scratch.path(fine));
            assert_eq!(
                config.state_dir, expected,
                "the default's name leads into the mount"
            );
        }
    }

    #[test]
    fn a_mountpoint_of_its_own() {
        let scratch = Scratch::new();
        let at = |mountpoint: &str| {
            let mut written = scratch.written();
            written.watch_paths[0].mountpoint = Some(scratch.path(mountpoint));
            written.resolve()
        };
        assert_eq!(
            at("mnt").expect("beside").watch_paths[0].mountpoint,
            scratch.path("mnt")
        );
        assert!(at("").is_err(), "around the watch path");
        assert!(at("none").is_err(), "missing");
    }

    fn client(id: &str, path: PathBuf) -> ClientWritten {
        ClientWritten {
            client_id: Some(id.to_owned()),
            db_path: Some(path),
            ..Default::default()
        }
    }

    fn refused(written: Written) -> String {
        let error = written.resolve().expect_err("not to be used").to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    }

    #[test]
    fn clients_lie_below_watch_paths_or_make_them() {
        let scratch = Scratch::new();
        let mut written = scratch.written();
        written.clients = vec![client("a", scratch.path("data/sub/a.db"))];
        let config = written.clone().resolve().expect("below");
        let named = config.watch_paths[0].rules.named();
        assert!(named.contains_key(std::path::Path::new("sub/a.db")));

        written.clients.push(client("b", scratch.path("mnt/b.db")));
        let error = refused(written.clone());
        assert!(
            error.contains("add the line `- ") && error.contains("/mnt`"),
            "{error}"
        );

        // Without watch paths they are the clients' directories, the upper of two.
        written.watch_paths.clear();
        written.clients.push(client("c", scratch.path("data/c.db")));
        let config = written.resolve().expect("their parents");
        let paths: Vec<_> = config
            .watch_paths
            .iter()
            .map(|one| one.path.clone())
            .collect();
        assert_eq!(paths, [scratch.path("data"), scratch.path("mnt")]);
    }

    #[test]
    fn clients_that_contradict_each_other_are_refused() {
        let scratch = Scratch::new();
        let with = |clients: Vec<ClientWritten>| {
            let mut written = scratch.written();
            written.clients = clients;
            refused(written)
        };
        let at = |id: &str, name: &str, s3_prefix: Option<&str>| ClientWritten {
            s3_prefix: s3_prefix.map(str::to_owned),
            ..client(id, scratch.path(name))
        };
        let twice = with(vec![at("a", "data/a.db", None), at("a", "data/b.db", None)]);
        assert!(twice.contains("client a is there twice"), "{twice}");
        let same_file = with(vec![at("a", "data/a.db", None), at("b", "data/a.db", None)]);
        assert!(same_file.contains("a.db is there twice"), "{same_file}");
        let within = with(vec![
            at("a", "data/a.db", Some("x")),
            at("b", "data/b.db", Some("x/y")),
        ]);
        assert!(within.contains("clients b and a would share"), "{within}");
        for path in ["relative.db", "/data/../etc/x.db", "/"] {
            let error = with(vec![client("a", path.into())]);
            assert!(error.contains("absolute path of a file"), "{error}");
        }
        let nameless = with(vec![ClientWritten::default()]);
        assert!(nameless.contains("`clientId`"), "{nameless}");
    }

    #[test]
    fn several_watch_paths_lie_beside_each_other_and_are_bounded() {
        let scratch = Scratch::new();
        let mut written = scratch.written();
        written.watch_paths.push(scratch.watch_path("mnt"));
        assert_eq!(written.clone().resolve().expect("two").watch_paths.len(), 2);
        written.max_watch_paths = Some(1);
        assert!(refused(written.clone()).contains("`limits.maxWatchPaths` is 1"));
        written.max_watch_paths = None;
        written.mountpoint = Some(scratch.path("store"));
        assert!(refused(written.clone()).contains("-mountpoint is for one watch path"));
        written.mountpoint = None;
        fs::create_dir(scratch.path("data/sub")).expect("a directory");
        written.watch_paths.push(scratch.watch_path("data/sub"));
        assert!(refused(written).contains("one within the other"));
    }

    #[test]
    fn a_tenants_own_keys_go_with_the_store_of_all_or_with_its_own() {
        let scratch = Scratch::new();
        let mut written = scratch.written();
        written.store = Some(StoreSpec::parse("s3://all/p").expect("a store"));
        written.s3.region = Some("eu-1".to_owned());
        let secret = |text: &str| Some(Secret(text.to_owned()));
        let tenant = |id: &str, bucket: Option<&str>| TenantWritten {
            tenant_id: Some(id.to_owned()),
            bucket: bucket.map(|bucket| StoreSpec::parse(bucket).expect("a store")),
            s3: S3Options {
                access_key: secret("key"),
                secret_key: secret("secret"),
                ..Default::default()
            },
            ..Default::default()
        };
        written.tenants = vec![tenant("a", None), tenant("b", Some("own"))];
        let config = written.clone().resolve().expect("complete");
        let shown: Vec<_> = config
            .own_stores
            .iter()
            .map(|own| own.store.to_string())
            .collect();
        assert_eq!(shown, ["s3://all/p", "s3://own"]);
        assert_eq!(config.own_stores[1].s3.region.as_deref(), Some("eu-1"));

        let mut halved = written.clone();
        halved.tenants[0].s3.secret_key = None;
        assert!(refused(halved).contains("go together"));
        let mut twice = written.clone();
        twice.tenants[1].tenant_id = Some("a".to_owned());
        assert!(refused(twice).contains("tenant a is there twice"));
        // Where each has its own, there need be none for all.
        written.store = None;
        assert!(refused(written.clone()).contains("no store is configured"));
        written.tenants.remove(0);
        assert!(written.resolve().expect("each has one").store.is_none());
    }

    #[test]
    fn what_is_only_looked_at_may_lack_what_is_not_there_yet() {
        let (config, notes) = Written::default().look_at().expect("nothing is wrong");
        assert_eq!((config.watch_paths.len(), notes.len()), (0, 2));
    }
}
