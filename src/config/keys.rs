//! What a key of the configuration file is: whether it works yet, how it is read, and which one was meant.

use super::table::TABLES;
use super::written::Written;

/// Reads a value into its place; the error is a sentence that says what is wrong with it.
pub type Set = fn(&mut Written, &str) -> Result<(), String>;

/// What stands behind a key.
#[derive(Clone, Copy)]
pub enum Meaning {
    /// Further keys.
    Section,
    /// One value.
    Value(Set),
    /// A list of values.
    List(Set),
    /// A list of sections, each with the same keys.
    Elements(&'static Elements),
}

/// The sections of a list.
pub struct Elements {
    /// The path that the keys of one stand below, as `clients[]`.
    pub path: &'static str,
    /// Makes room for the next one, which the keys that follow are of.
    pub begin: fn(&mut Written),
    /// How one is read that is a single value.
    pub text: Option<Set>,
}

/// A key by its whole path, as `limits.maxLag`.
pub struct Key {
    pub path: &'static str,
    pub meaning: Meaning,
    /// As the documentation shows it; empty where there is none.
    pub default: &'static str,
    pub doc: &'static str,
    /// The other spelling of the same key, where there is one.
    pub same_as: Option<&'static str>,
}

impl Key {
    /// The path of the section that the key stands in; empty at the top.
    fn section(&self) -> &'static str {
        self.path
            .rsplit_once('.')
            .map_or("", |(section, _)| section)
    }

    fn name(&self) -> &'static str {
        self.path
            .rsplit_once('.')
            .map_or(self.path, |(_, name)| name)
    }
}

/// Every key, of all tables.
pub fn all() -> impl Iterator<Item = &'static Key> {
    TABLES.into_iter().flatten()
}

/// The key `name` of `section`.
pub fn find(section: &str, name: &str) -> Option<&'static Key> {
    all().find(|key| key.name() == name && key.section() == section)
}

/// The known key that looks most like `name`; of equals, one of the same section.
pub fn nearest(section: &str, name: &str) -> &'static str {
    let written = name.to_lowercase();
    all()
        .min_by_key(|key| {
            let distance = edit_distance(&written, &key.name().to_lowercase());
            (distance, key.section() != section)
        })
        .map(|key| key.path)
        .expect("BUG: the table of keys is empty")
}

/// How many characters must be changed, added or removed to make `b` of `a`.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_consistent() {
        for key in all() {
            let same = all().filter(|other| other.path == key.path);
            assert_eq!(same.count(), 1, "{} twice", key.path);
            let section = key.section();
            let list = section.strip_suffix("[]").unwrap_or(section);
            assert!(
                section.is_empty() || all().any(|other| other.path == list),
                "{section} has no row"
            );
            if let Meaning::Elements(elements) = key.meaning {
                assert_eq!(elements.path.strip_suffix("[]"), Some(key.path));
            }
            if let Some(other) = key.same_as {
                assert!(all().any(|key| key.path == other), "{other}");
            }
        }
    }

    #[test]
    fn the_nearest_key_is_named() {
        assert_eq!(nearest("", "buckett"), "bucket");
        assert_eq!(nearest("server", "bucke"), "server.bucket");
        assert_eq!(
            nearest("tenantDefaults", "sync_interval"),
            "tenantDefaults.syncInterval"
        );
        assert_eq!(nearest("", "endpoint"), "s3.endpoint");
        assert_eq!(nearest("limits", "maxlag"), "limits.maxLag");
    }

    #[test]
    fn distances() {
        assert_eq!(edit_distance("", ""), 0);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("flaw", "lawn"), 2);
    }

    /// The table as docs/configuration.md shows it.
    fn documented() -> String {
        let mut text = String::from("| key | default | meaning |\n| --- | --- | --- |\n");
        for key in all().filter(|key| !key.doc.is_empty()) {
            let other = all().find(|other| other.same_as == Some(key.path));
            let other = other.map_or_else(String::new, |other| format!(", or `{}`", other.path));
            let default = key.default.replace('|', "\\|");
            text.push_str(&format!(
                "| `{}`{other} | {default} | {} |\n",
                key.path, key.doc
            ));
        }
        text
    }

    #[test]
    fn the_documentation_has_every_key() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let text = std::fs::read_to_string(path).expect("the documentation");
        let table = documented();
        assert!(text.contains(&table), "{path} should have:\n{table}");
    }
}
