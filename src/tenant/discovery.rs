//! From a file's name to the database it belongs to: the patterns and the GUID rule. Pure.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use regex::Regex;

use super::ids::ClientId;

/// The seed's GUID pattern, without anchors: it has to match a whole file name or a whole stem.
pub const DEFAULT_GUID_PATTERN: &str =
    "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";

/// What a file is to its database.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FileKind {
    /// The database file itself.
    Database,
    /// Its write-ahead log, `<name>-wal`.
    Wal,
    /// Its wal-index, `<name>-shm`.
    Shm,
    /// Its rollback journal, `<name>-journal`.
    Journal,
}

const SUFFIXES: [(&str, FileKind); 3] = [
    ("-wal", FileKind::Wal),
    ("-shm", FileKind::Shm),
    ("-journal", FileKind::Journal),
];

/// The rules that turn file names below one watch path into clients.
#[derive(Clone, Debug)]
pub struct Rules {
    prefix: String,
    extensions: Vec<String>,
    guid: Regex,
}

/// A discovery rule that can't be used, with the reason.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    #[error("the GUID pattern {pattern:?} does not compile: {reason}")]
    GuidPattern { pattern: String, reason: String },
    #[error(
        "the file pattern {pattern:?} is not supported yet: write it as \"*.\" and an extension"
    )]
    FilePattern { pattern: String },
}

impl Rules {
    /// `patterns` are globs of the form `*.ext`; `guid_pattern` is matched against the whole file name or stem.
    pub fn new(prefix: &str, patterns: &[String], guid_pattern: &str) -> Result<Self, RuleError> {
        let extensions = patterns
            .iter()
            .map(|pattern| {
                pattern
                    .strip_prefix('*')
                    .filter(|ext| ext.len() > 1 && ext.starts_with('.'))
                    .filter(|ext| !ext.contains(['*', '?', '[', '/']))
                    .map(str::to_owned)
                    .ok_or_else(|| RuleError::FilePattern {
                        pattern: pattern.clone(),
                    })
            })
            .collect::<Result<_, _>>()?;
        // Compiled alone first, so that an unbalanced group can't slip past the anchors below.
        let guid = Regex::new(guid_pattern)
            .and_then(|_| Regex::new(&format!("^(?:{guid_pattern})$")))
            .map_err(|error| RuleError::GuidPattern {
                pattern: guid_pattern.to_owned(),
                reason: one_line(&error.to_string()),
            })?;
        Ok(Self {
            prefix: prefix.to_owned(),
            extensions,
            guid,
        })
    }

    /// The identity of the database file at `path` (relative to the watch path), or none where no rule takes it.
    pub fn identify(&self, path: &Path) -> Option<ClientId> {
        let name = path.file_name()?.to_str()?;
        let extension = self
            .extensions
            .iter()
            .find(|ext| name.len() > ext.len() && name.ends_with(ext.as_str()))?;
        let stem = &name[..name.len() - extension.len()];
        let whole = self.guid.is_match(stem) || self.guid.is_match(name);
        (whole && is_safe_name(stem)).then(|| ClientId::guid(&self.prefix, stem))
    }

    /// The database file that `path` belongs to, and as what; none for a file that nobody needs to watch.
    pub fn classify(&self, path: &Path) -> Option<(PathBuf, FileKind)> {
        let name = path.file_name()?.as_bytes();
        for (suffix, kind) in SUFFIXES {
            if let Some(base) = name.strip_suffix(suffix.as_bytes()) {
                let database = path.with_file_name(OsStr::from_bytes(base));
                return self.identify(&database).map(|_| (database, kind));
            }
        }
        self.identify(path)
            .map(|_| (path.to_owned(), FileKind::Database))
    }
}

/// Whether a name can stand in a key and in a path as it is, whatever the configured pattern lets through.
pub fn is_safe_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 200
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: &str = "12345678-1234-5678-9abc-123456789012";

    fn rules() -> Rules {
        Rules::new("", &["*.db".to_owned()], DEFAULT_GUID_PATTERN).expect("default rules")
    }

    #[test]
    fn a_guid_database_and_its_companions() {
        let db = PathBuf::from(format!("a/{GUID}.db"));
        for (suffix, kind) in [
            ("", FileKind::Database),
            ("-wal", FileKind::Wal),
            ("-shm", FileKind::Shm),
            ("-journal", FileKind::Journal),
        ] {
            let path = PathBuf::from(format!("a/{GUID}.db{suffix}"));
            assert_eq!(rules().classify(&path), Some((db.clone(), kind)));
        }
        assert_eq!(rules().identify(&db), Some(ClientId::guid("", GUID)));
    }

    #[test]
    fn the_pattern_matches_whole_names_only() {
        let rules = rules();
        for name in [
            format!("x{GUID}.db"),
            format!("{GUID}x.db"),
            format!("{GUID}.sqlite"),
            GUID.to_owned(),
            format!("{GUID}.db-wal2"),
            format!("{}.db", GUID.to_uppercase()),
            ".db".to_owned(),
            "system.db".to_owned(),
        ] {
            assert_eq!(rules.classify(Path::new(&name)), None, "{name}");
        }
        // The seed's command line has a pattern that includes the extension.
        let with_extension = Rules::new(
            "",
            &["*.db".to_owned()],
            &format!("{DEFAULT_GUID_PATTERN}\\.db"),
        )
        .expect("the seed's pattern");
        assert!(
            with_extension
                .identify(Path::new(&format!("{GUID}.db")))
                .is_some()
        );
    }

    #[test]
    fn what_a_wide_pattern_lets_through_still_cannot_escape() {
        let wide = Rules::new("", &["*.db".to_owned()], ".*").expect("a wide pattern");
        for name in ["...db", "a b.db", "a%2fb.db", "é.db", "a\nb.db"] {
            assert_eq!(wide.identify(Path::new(name)), None, "{name:?}");
        }
        assert!(wide.identify(Path::new("plain.db")).is_some());
    }

    #[test]
    fn rules_that_cannot_be_used_say_why() {
        let error = Rules::new("", &[], "a)(b").expect_err("unbalanced");
        assert!(error.to_string().contains("does not compile"), "{error}");
        assert!(!error.to_string().contains('\n'));
        assert!(Rules::new("", &["tenant-?.db".to_owned()], ".*").is_err());
    }
}
