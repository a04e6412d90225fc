//! What a configuration says of tenants and clients: their terms, their stores, and the databases that are named.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::directories::{Directory, settled};
use super::written::{ClientWritten, TenantWritten};
use super::{ConfigError, OwnStore, Written};
use crate::store::spec::{S3Options, StoreSpec};
use crate::tenant::discovery::Named;
use crate::tenant::places::Places;
use crate::tenant::terms::{TenantTerms, Terms};

/// The databases that were named, by their path below one watch path.
pub(super) type NamedBelow = HashMap<PathBuf, Named>;

fn wrong(key: &str, reason: String) -> ConfigError {
    ConfigError::Key {
        key: key.to_owned(),
        reason,
    }
}

/// The stores of those tenants that have one of their own, or their own keys or server.
pub(super) fn own_stores(written: &Written) -> Result<Vec<OwnStore>, ConfigError> {
    let mut stores = Vec::new();
    for tenant in &written.tenants {
        let name = id_of(tenant)?;
        let s3 = &tenant.s3;
        if s3.access_key.is_some() != s3.secret_key.is_some() {
            return Err(wrong(
                "tenants[].s3Config",
                format!(
                    "tenant {name}: `accessKey` and `secretKey` go together; write both or none"
                ),
            ));
        }
        let has_server = s3.access_key.is_some() || s3.endpoint.is_some() || s3.region.is_some();
        let Some(store) = tenant.bucket.clone().or_else(|| {
            let shared = written.store.clone();
            shared.filter(|_| has_server)
        }) else {
            continue;
        };
        if has_server && matches!(store, StoreSpec::Directory(_)) {
            return Err(wrong(
                "tenants[].s3Config",
                format!(
                    "tenant {name}: {store} is a directory, and takes no keys, endpoint or region"
                ),
            ));
        }
        let s3 = over(s3, &written.s3);
        stores.push(OwnStore {
            tenant: name.to_owned(),
            elsewhere: Some(&store) != written.store.as_ref() || s3.endpoint != written.s3.endpoint,
            store,
            s3,
        });
    }
    Ok(stores)
}

/// A tenant's server and keys; what it does not say is as for all.
fn over(own: &S3Options, shared: &S3Options) -> S3Options {
    let keys = if own.access_key.is_some() {
        own
    } else {
        shared
    };
    S3Options {
        endpoint: own.endpoint.clone().or_else(|| shared.endpoint.clone()),
        region: own.region.clone().or_else(|| shared.region.clone()),
        path_style: own.path_style.or(shared.path_style),
        access_key: keys.access_key.clone(),
        secret_key: keys.secret_key.clone(),
        encryption: shared.encryption.clone(),
    }
}

fn id_of(tenant: &TenantWritten) -> Result<&str, ConfigError> {
    tenant.tenant_id.as_deref().ok_or_else(|| {
        let reason = "a tenant without its `tenantId`; write it".to_owned();
        wrong("tenants[]", reason)
    })
}

/// The terms of all tenants.
pub(super) fn terms(written: &Written, own_stores: &[OwnStore]) -> Result<Terms, ConfigError> {
    let defaults = written.policy();
    let mut tenants = HashMap::new();
    for tenant in &written.tenants {
        let name = id_of(tenant)?;
        let own = own_stores.iter().find(|store| store.tenant == name);
        let terms = TenantTerms {
            policy: Arc::new(tenant.policy.over(&defaults)),
            prefix: tenant.prefix.clone(),
            store: own.map(|own| own.store.to_string()),
            server: own.and_then(|own| own.s3.endpoint.clone()),
        };
        if tenants.insert(name.to_owned(), terms).is_some() {
            return Err(wrong("tenants[]", format!("tenant {name} is there twice")));
        }
    }
    Ok(Terms {
        defaults: Arc::new(defaults),
        tenants,
        store: written.store.as_ref().map(ToString::to_string),
        server: written.s3.endpoint.clone(),
    })
}

/// The databases of `clients`, by the watch path that each lies below.
pub(super) fn named(
    written: &Written,
    directories: &[Directory],
    terms: &Terms,
) -> Result<HashMap<PathBuf, NamedBelow>, ConfigError> {
    let mut all: HashMap<PathBuf, NamedBelow> = HashMap::new();
    let mut ids = HashSet::new();
    let mut places = Places::default();
    for client in &written.clients {
        let required = |what: &str| {
            wrong(
                "clients[]",
                format!("a client without its `{what}`; write it"),
            )
        };
        let id = client
            .client_id
            .as_deref()
            .ok_or_else(|| required("clientId"))?;
        let path = client
            .db_path
            .as_deref()
            .ok_or_else(|| required("dbPath"))?;
        let (directory, below) = place(path, directories)?;
        let named = named_by(client, id);
        if !ids.insert((directory.prefix.clone(), id.to_owned())) {
            return Err(wrong("clients[]", format!("client {id} is there twice")));
        }
        let identity = terms.identity(&directory.prefix, &named);
        if let Some(location) = &identity.location
            && let Err(other) = places.take(location, id)
        {
            return Err(wrong(
                "clients[].s3Prefix",
                format!(
                    "clients {id} and {other} would share `{}` in the store; give each a place of its own",
                    identity.s3_prefix
                ),
            ));
        }
        let here = all.entry(directory.path.clone()).or_default();
        if here.insert(below, named).is_some() {
            return Err(wrong(
                "clients[].dbPath",
                format!("{} is there twice", path.display()),
            ));
        }
    }
    Ok(all)
}

fn named_by(client: &ClientWritten, id: &str) -> Named {
    Named {
        s3_prefix: client.s3_prefix.clone(),
        policy: client.policy.clone(),
        ..Named::single(id)
    }
}

/// The watch path that a database's file lies below, and its path there.
fn place<'a>(
    path: &Path,
    directories: &'a [Directory],
) -> Result<(&'a Directory, PathBuf), ConfigError> {
    let at = |reason: String| ConfigError::Path {
        path: path.to_owned(),
        reason,
    };
    let is_plain = |part: Component| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || !path.components().all(is_plain) || path.file_name().is_none() {
        return Err(at(
            "`clients[].dbPath` has to be the absolute path of a file, without `..`".to_owned(),
        ));
    }
    let parent = path.parent().unwrap_or(path);
    let name = path.file_name().expect("BUG: checked above");
    // As it was written, or by the directory's true name.
    for candidate in [parent.to_owned(), settled(parent)?] {
        for directory in directories {
            if let Ok(below) = candidate.strip_prefix(&directory.mountpoint) {
                return Ok((directory, below.join(name)));
            }
        }
    }
    Err(at(format!(
        "it lies below no watch path; add the line `- {}` to `autoDiscovery.watchPaths`",
        parent.display()
    )))
}
