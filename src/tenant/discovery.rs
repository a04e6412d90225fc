//! From a file's name to the database it belongs to: those that were named, the patterns, the tenants' directories, and the
//! GUID rule. Pure.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glob::Pattern;
use regex::Regex;

use super::ids::Identity;
use super::policy::PolicyWritten;
use super::terms::Terms;
use crate::format::keys::{FOLDERS_OF_REPLICA, INCOMING};

/// The seed's GUID pattern, without anchors: it has to match a whole file name or a whole stem.
pub const DEFAULT_GUID_PATTERN: &str =
    "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";

/// The folder at the backing directory's root that holds the state, and that the mount does not show.
pub const STATE_FOLDER: &str = ".litestream-multitenant";

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

/// What the rules of one watch path are made of.
#[derive(Clone, Debug)]
pub struct RulesWritten {
    /// The watch path's prefix in the store; empty where it has none.
    pub prefix: String,
    /// Where applications see the watch path, absolute.
    pub seen_at: PathBuf,
    /// False: only databases that are named in `clients` or registered by hand.
    pub discovery: bool,
    /// Globs on the file name.
    pub patterns: Vec<String>,
    /// Whether a name has to be a GUID; none where nothing was written.
    pub guid_validation: Option<bool>,
    /// Must match the whole file name, or the whole stem.
    pub guid_pattern: String,
    /// Has a group `tenant`, and is matched in the directory part of the path that applications see.
    pub tenant_regex: Option<String>,
    /// Databases that were named one by one, by their path below the watch path.
    pub named: HashMap<PathBuf, Named>,
    pub terms: Arc<Terms>,
}

impl RulesWritten {
    /// The rules of a configuration that says nothing of them.
    pub fn default_for(seen_at: &Path) -> Self {
        Self {
            prefix: String::new(),
            seen_at: seen_at.to_owned(),
            discovery: true,
            patterns: vec!["*.db".to_owned()],
            guid_validation: None,
            guid_pattern: DEFAULT_GUID_PATTERN.to_owned(),
            tenant_regex: None,
            named: HashMap::new(),
            terms: Arc::new(Terms {
                store: Some("a store".to_owned()),
                ..Terms::default()
            }),
        }
    }
}

/// A database that was named in `clients`, or registered by hand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    pub tenant: String,
    pub db_name: String,
    /// It goes by its tenant's name alone, as a GUID does.
    pub single: bool,
    /// Where its objects lie, as it was written; none for the derived place.
    pub s3_prefix: Option<String>,
    pub policy: PolicyWritten,
}

impl Named {
    /// A database that goes by one name.
    pub fn single(name: &str) -> Self {
        Self {
            tenant: name.to_owned(),
            db_name: name.to_owned(),
            single: true,
            s3_prefix: None,
            policy: PolicyWritten::default(),
        }
    }
}

/// The rules that turn file names below one watch path into clients.
#[derive(Clone, Debug)]
pub struct Rules {
    written: RulesWritten,
    patterns: Vec<Pattern>,
    /// None where any name will do.
    guid: Option<Regex>,
    tenant: Option<TenantRule>,
}

#[derive(Clone, Debug)]
struct TenantRule {
    regex: Regex,
    needs_guid: bool,
}

/// What the rules make of a file's name.
#[derive(Clone, PartialEq, Debug)]
pub enum Verdict {
    /// A database, with its identity.
    Client(Identity),
    /// It looks like a database, and no rule says whose.
    Ignored,
    /// Nobody needs to watch it.
    Plain,
}

/// A discovery rule that can't be used, with the reason.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    #[error("the GUID pattern {pattern:?} does not compile: {reason}")]
    GuidPattern { pattern: String, reason: String },
    #[error("the tenant pattern {pattern:?} does not compile: {reason}")]
    TenantRegex { pattern: String, reason: String },
    #[error("the tenant pattern {pattern:?} has no group `tenant`: write it as (?P<tenant>[^/]+)")]
    NoTenantGroup { pattern: String },
    #[error("the file pattern {pattern:?} is no glob: {reason}")]
    FilePattern { pattern: String, reason: String },
}

/// A glob on file names.
///
/// # Errors
/// `FilePattern`, for one that could match a path or nothing.
pub fn file_pattern(pattern: &str) -> Result<Pattern, RuleError> {
    let wrong = |reason: &str| RuleError::FilePattern {
        pattern: pattern.to_owned(),
        reason: reason.to_owned(),
    };
    if pattern.is_empty() || pattern.contains('/') {
        return Err(wrong("it has to be a file name, as in *.db"));
    }
    Pattern::new(pattern).map_err(|error| wrong(error.msg))
}

/// A pattern that has to match a whole file name or a whole stem.
///
/// # Errors
/// `GuidPattern`
pub fn guid_pattern(pattern: &str) -> Result<Regex, RuleError> {
    // Compiled alone first, so that an unbalanced group can't slip past the anchors.
    Regex::new(pattern)
        .and_then(|_| Regex::new(&format!("^(?:{pattern})$")))
        .map_err(|error| RuleError::GuidPattern {
            pattern: pattern.to_owned(),
            reason: one_line(&error.to_string()),
        })
}

/// A pattern that finds the tenant in the directory part of a path.
///
/// # Errors
/// `TenantRegex`, `NoTenantGroup`
pub fn tenant_pattern(pattern: &str) -> Result<Regex, RuleError> {
    let regex = Regex::new(pattern).map_err(|error| RuleError::TenantRegex {
        pattern: pattern.to_owned(),
        reason: one_line(&error.to_string()),
    })?;
    if regex.capture_names().flatten().any(|name| name == "tenant") {
        return Ok(regex);
    }
    Err(RuleError::NoTenantGroup {
        pattern: pattern.to_owned(),
    })
}

impl Rules {
    /// Compiles the rules of one watch path.
    ///
    /// # Errors
    /// The first pattern that can't be used.
    pub fn new(written: RulesWritten) -> Result<Self, RuleError> {
        let patterns = written.patterns.iter().map(|glob| file_pattern(glob));
        let tenant = written.tenant_regex.as_deref().map(tenant_pattern);
        let tenant = tenant.transpose()?.map(|regex| TenantRule {
            regex,
            needs_guid: written.guid_validation == Some(true),
        });
        let any_name = tenant.is_none() && written.guid_validation == Some(false);
        let guid = guid_pattern(&written.guid_pattern)?;
        Ok(Self {
            patterns: patterns.collect::<Result<_, _>>()?,
            guid: (!any_name).then_some(guid),
            tenant,
            written,
        })
    }

    /// The watch path's prefix in the store; empty where it has none.
    pub fn prefix(&self) -> &str {
        &self.written.prefix
    }

    /// Whether a client that is registered by hand has to be named by a GUID.
    pub fn wants_guids(&self) -> bool {
        self.guid.is_some()
    }

    /// Whether `name` is a GUID as the pattern has it.
    pub fn is_guid(&self, name: &str) -> bool {
        self.guid.as_ref().is_none_or(|guid| guid.is_match(name))
    }

    /// The databases that were named one by one, by their path below the watch path.
    pub fn named(&self) -> &HashMap<PathBuf, Named> {
        &self.written.named
    }

    /// What they were made of, but for the databases that were named.
    pub fn written(&self) -> &RulesWritten {
        &self.written
    }

    /// What the file at `path` (relative to the watch path) is, by its name alone.
    pub fn examine(&self, path: &Path) -> Verdict {
        if let Some(named) = self.written.named.get(path) {
            return Verdict::Client(self.identity(named));
        }
        let Some(name) = path.file_name().and_then(OsStr::to_str) else {
            return Verdict::Plain;
        };
        let matches = self.patterns.iter().any(|pattern| pattern.matches(name));
        if !self.written.discovery || !matches || is_of_another(name) {
            return Verdict::Plain;
        }
        self.found(path, name).map_or(Verdict::Ignored, |named| {
            Verdict::Client(self.identity(&named))
        })
    }

    /// The identity that these rules give the file at `path` (relative to the watch path), also where discovery is off.
    pub fn rightful(&self, path: &Path) -> Option<Identity> {
        if let Some(named) = self.written.named.get(path) {
            return Some(self.identity(named));
        }
        let name = path.file_name()?.to_str()?;
        let matches = self.patterns.iter().any(|pattern| pattern.matches(name));
        if !matches || is_of_another(name) {
            return None;
        }
        self.found(path, name).map(|named| self.identity(&named))
    }

    /// The identity of the database file at `path` (relative to the watch path), or none where no rule takes it.
    pub fn identify(&self, path: &Path) -> Option<Identity> {
        match self.examine(path) {
            Verdict::Client(identity) => Some(identity),
            Verdict::Ignored | Verdict::Plain => None,
        }
    }

    /// Whose database it is by the rules of discovery.
    fn found(&self, path: &Path, name: &str) -> Option<Named> {
        let stem = Path::new(name).file_stem()?.to_str()?;
        if !is_safe_name(stem) {
            return None;
        }
        let is_guid = self.is_guid(stem) || self.is_guid(name);
        if let Some(rule) = &self.tenant
            && let Some(tenant) = self.tenant_of(rule, path)
        {
            let fits = !rule.needs_guid || is_guid;
            return (fits && is_safe_name(&tenant) && !is_folder_of_replica(stem)).then(|| Named {
                tenant,
                db_name: stem.to_owned(),
                single: false,
                s3_prefix: None,
                policy: PolicyWritten::default(),
            });
        }
        is_guid.then(|| Named::single(stem))
    }

    fn tenant_of(&self, rule: &TenantRule, path: &Path) -> Option<String> {
        let directory = self.written.seen_at.join(path.parent()?);
        let mut text = directory.to_str()?.to_owned();
        if !text.ends_with('/') {
            text.push('/');
        }
        let found = rule.regex.captures(&text)?;
        Some(found.name("tenant")?.as_str().to_owned())
    }

    /// The identity of a database whose names are known, with what holds for it.
    pub fn identity(&self, named: &Named) -> Identity {
        self.written.terms.identity(&self.written.prefix, named)
    }

    /// The database file that `path` would be a companion of, and as what; none for another file.
    pub fn companion(path: &Path) -> Option<(PathBuf, FileKind)> {
        let name = path.file_name()?.as_bytes();
        SUFFIXES.iter().find_map(|(suffix, kind)| {
            let base = name.strip_suffix(suffix.as_bytes())?;
            Some((path.with_file_name(OsStr::from_bytes(base)), *kind))
        })
    }
}

/// Whether SQLite keeps a file of that name for another database: a log, a wal-index or a journal.
pub fn is_of_another(name: &str) -> bool {
    SUFFIXES.iter().any(|(suffix, _)| name.ends_with(suffix)) || is_super_journal(name)
}

/// Whether SQLite gives a file this name that holds a transaction of several databases together: `<name>-mj` and nine
/// hexadecimal digits, the seventh of which is a 9.
fn is_super_journal(name: &str) -> bool {
    const DIGITS: usize = 9;
    let digits = name.rsplit_once("-mj").map(|(_, digits)| digits.as_bytes());
    digits.is_some_and(|digits| {
        digits.len() == DIGITS && digits[6] == b'9' && digits.iter().all(u8::is_ascii_hexdigit)
    })
}

/// Whether a name can stand in a key and in a path as it is, whatever the configured pattern lets through.
pub fn is_safe_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 200
        && !matches!(name, "." | ".." | INCOMING)
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Whether a database of that name would lie, below its tenant, where a replica has its own folders.
pub fn is_folder_of_replica(name: &str) -> bool {
    FOLDERS_OF_REPLICA.contains(&name)
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
