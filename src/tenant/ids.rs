//! The identity of one replicated database.

use std::sync::Arc;

use super::policy::Policy;

/// Which database a replica belongs to: the watch path's prefix, the tenant and the database's name.
///
/// For a GUID database tenant and name are both the GUID. All parts are checked where they enter the program,
/// so an identity can be put into a key or a log line as it is. What is said twice is kept once: there are many of them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ClientId {
    /// The watch path's prefix; empty where it has none.
    pub prefix: Arc<str>,
    pub tenant: Arc<str>,
    pub db_name: Arc<str>,
}

impl ClientId {
    /// The identity of a database that goes by one name, as a GUID.
    pub fn single(prefix: &str, name: &str) -> Self {
        let name: Arc<str> = name.into();
        Self {
            prefix: match prefix {
                "" => Arc::default(),
                prefix => prefix.into(),
            },
            tenant: name.clone(),
            db_name: name,
        }
    }
}

/// Where the objects of a database lie unless something else is configured, below the store's root and without a slash
/// at either end: `databases/<guid>`, or `databases/<tenant>/<dbName>`, behind the watch path's prefix.
pub fn derived_prefix(id: &ClientId, single: bool) -> String {
    let mut key = String::new();
    if !id.prefix.is_empty() {
        key.push_str(&id.prefix);
        key.push('/');
    }
    key.push_str("databases/");
    key.push_str(&label_of(id, single));
    key
}

/// What logs, metrics and the API call a database: the GUID, or `tenant/dbName`; without the watch path's prefix.
pub fn label_of(id: &ClientId, single: bool) -> Arc<str> {
    if single {
        id.tenant.clone()
    } else {
        format!("{}/{}", id.tenant, id.db_name).into()
    }
}

/// The tenant of a database that goes by this label.
pub fn tenant_of_label(label: &str) -> &str {
    label.split('/').next().unwrap_or(label)
}

/// `PREFIX/` before a label where there is a prefix: the form that `restore` and `verify` take.
pub fn full_label(prefix: &str, label: &str) -> String {
    match prefix {
        "" => label.to_owned(),
        prefix => format!("{prefix}/{label}"),
    }
}

/// A database's names and places, with what holds for it.
#[derive(Clone, PartialEq, Debug)]
pub struct Identity {
    pub id: ClientId,
    /// The GUID, or `tenant/dbName`.
    pub label: Arc<str>,
    /// Where its objects lie below its store's root, without a slash at either end.
    pub s3_prefix: String,
    /// Whether the registry in the store has to name it: its place can't be told from its names, or no rule would take
    /// it up again.
    pub is_listed: bool,
    /// The store and that place: no two databases' may be equal, or lie one within the other. None where there is no
    /// store for it.
    pub location: Option<Arc<str>>,
    pub policy: Arc<Policy>,
}

impl Identity {
    /// `PREFIX/` before the label where there is a prefix: the form that `restore` and `verify` take.
    pub fn full_label(&self) -> String {
        full_label(&self.id.prefix, &self.label)
    }
}

#[cfg(test)]
impl Identity {
    /// Of a database that goes by one name, where nothing is configured.
    pub fn plain(prefix: &str, name: &str) -> Self {
        use super::discovery::Named;
        use super::terms::Terms;
        let terms = Terms {
            store: Some("a store".to_owned()),
            ..Terms::default()
        };
        terms.identity(prefix, &Named::single(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_places() {
        let plain = ClientId::single("", "12345678-1234-5678-9abc-123456789012");
        assert_eq!(
            &*label_of(&plain, true),
            "12345678-1234-5678-9abc-123456789012"
        );
        assert_eq!(
            derived_prefix(&plain, true),
            "databases/12345678-1234-5678-9abc-123456789012"
        );
        let staged = ClientId::single("staging", "acme");
        assert_eq!(derived_prefix(&staged, true), "staging/databases/acme");
        // A tenant may have a database of its own name, and others beside it.
        assert_eq!(
            derived_prefix(&staged, false),
            "staging/databases/acme/acme"
        );
    }
}
