//! The configuration is read again while it runs: what can change does, and what can't is said.

use std::collections::HashMap;

use super::{Instance, Reload, uplink};
use crate::config::{Config, WatchPath};
use crate::tenant::roster::Roster;

impl Instance {
    /// Puts the configuration as it is now in force. Gives the one that holds from now on: the present one where the new
    /// one can't be used.
    pub(super) async fn reload(&self, present: Config, reload: &Reload) -> Config {
        self.uplink.stores.renew_keys();
        let read = tokio::task::block_in_place(reload);
        let new = match read {
            Ok(new) => new,
            Err(error) => {
                tracing::error!(error = %error, "The configuration can't be used; the present one holds on");
                return present;
            }
        };
        for key in unchangeable(&present, &new) {
            tracing::warn!(
                key,
                "Can't change while running; takes effect at the next start"
            );
        }
        if let Some(moved) = moved_place(&present, &new, &self.roster) {
            tracing::error!(
                key = %moved,
                "Replicas can't change their place while it runs; the present configuration holds on until the next start"
            );
            return present;
        }
        if let Err(error) = uplink::open_own(&self.uplink.stores, &new).await {
            tracing::error!(error = %error, "A tenant's store can't be used; the present configuration holds on");
            return present;
        }
        let rules: HashMap<_, _> = new
            .watch_paths
            .iter()
            .map(|watch_path| (watch_path.mountpoint.clone(), watch_path.rules.clone()))
            .collect();
        tokio::task::block_in_place(|| self.fleet.set_rules(rules));
        // With the limits of each tenant, which are part of the rules.
        self.roster.readmit(Some(new.limits.max_tenants));
        tracing::info!("The configuration was read again");
        Config {
            terms: new.terms,
            ..present
        }
    }
}

/// What would send the objects of a registered client elsewhere, or those of a new one where nobody looks for them.
fn moved_place(present: &Config, new: &Config, roster: &Roster) -> Option<String> {
    let has_other_prefix = |one: &WatchPath| {
        let before = present.watch_paths.iter();
        let mut before = before.filter(|before| before.mountpoint == one.mountpoint);
        before.any(|before| before.prefix != one.prefix)
    };
    if new.watch_paths.iter().any(has_other_prefix) {
        return Some("autoDiscovery.watchPaths[].prefix".to_owned());
    }
    let of_all = |config: &Config| (config.terms.store.clone(), config.terms.server.clone());
    if of_all(present) != of_all(new) {
        return Some("bucket or s3.endpoint".to_owned());
    }
    let clients = roster.all();
    let mut tenants = clients.iter().map(|client| &client.id.tenant);
    let moved = tenants.find(|tenant| present.terms.store_of(tenant) != new.terms.store_of(tenant));
    moved.map(|tenant| format!("tenants[].s3Config of {tenant}"))
}

/// The keys that say something else now, and can't take effect before the next start.
fn unchangeable(present: &Config, new: &Config) -> Vec<&'static str> {
    let paths = |config: &Config| -> Vec<_> {
        let each = config.watch_paths.iter();
        each.map(|one| (one.path.clone(), one.mountpoint.clone(), one.prefix.clone()))
            .collect()
    };
    let s3 = |config: &Config| {
        let s3 = &config.s3;
        (
            (s3.endpoint.clone(), s3.region.clone(), s3.path_style),
            (s3.access_key.clone(), s3.secret_key.clone()),
            s3.encryption.clone(),
        )
    };
    let limits = |config: &Config| {
        let limits = &config.limits;
        (
            limits.max_concurrent_syncs,
            limits.spool_bytes,
            limits.spool_reserve,
        )
    };
    [
        ("bucket", present.store != new.store),
        ("s3", s3(present) != s3(new)),
        (
            "server",
            present.listen != new.listen || present.api_token != new.api_token,
        ),
        ("autoDiscovery.watchPaths", paths(present) != paths(new)),
        (
            "verification",
            present.drills != new.drills || present.store_listing != new.store_listing,
        ),
        ("mount.capture", present.capture_way != new.capture_way),
        (
            "mount.gateTimeout",
            present.gate_timeout != new.gate_timeout,
        ),
        (
            "mount.accessControlLists",
            present.access_lists != new.access_lists,
        ),
        (
            "limits.maxLag",
            present.limits.max_lag != new.limits.max_lag,
        ),
        (
            "limits.maxConcurrentSyncs, limits.spoolBytes or limits.spoolReserve",
            limits(present) != limits(new),
        ),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}
