//! The identity of one replicated database.

use std::fmt;

/// Which database a replica belongs to: the watch path's prefix, the tenant and the database's name.
///
/// For a GUID database tenant and name are both the GUID. All parts are checked where they enter the program,
/// so an identity can be put into a key or a log line as it is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ClientId {
    /// The watch path's prefix; empty where it has none.
    pub prefix: String,
    pub tenant: String,
    pub db_name: String,
}

impl ClientId {
    /// The identity of a database that is named by its GUID.
    pub fn guid(prefix: &str, guid: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            tenant: guid.to_owned(),
            db_name: guid.to_owned(),
        }
    }

    /// What logs, metrics and the API call it: the GUID, or `tenant/dbName`; without the watch path's prefix.
    pub fn label(&self) -> String {
        if self.tenant == self.db_name {
            self.tenant.clone()
        } else {
            format!("{}/{}", self.tenant, self.db_name)
        }
    }

    /// Where its objects lie below the store's root, without a slash at either end: `databases/<guid>`.
    pub fn replica_prefix(&self) -> String {
        let mut key = String::new();
        if !self.prefix.is_empty() {
            key.push_str(&self.prefix);
            key.push('/');
        }
        key.push_str("databases/");
        key.push_str(&self.label());
        key
    }
}

impl fmt::Display for ClientId {
    /// `PREFIX/` before the label where there is a prefix: the form that `restore` and `verify` take.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.prefix.is_empty() {
            write!(f, "{}/", self.prefix)?;
        }
        f.write_str(&self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_prefixes() {
        let plain = ClientId::guid("", "12345678-1234-5678-9abc-123456789012");
        assert_eq!(plain.label(), "12345678-1234-5678-9abc-123456789012");
        assert_eq!(
            plain.replica_prefix(),
            "databases/12345678-1234-5678-9abc-123456789012"
        );
        let staged = ClientId::guid("staging", "12345678-1234-5678-9abc-123456789012");
        assert_eq!(
            staged.replica_prefix(),
            "staging/databases/12345678-1234-5678-9abc-123456789012"
        );
        assert_eq!(
            staged.to_string(),
            "staging/12345678-1234-5678-9abc-123456789012"
        );
    }
}
