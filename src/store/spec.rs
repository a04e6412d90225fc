//! STORE as the user writes it: `name`, `s3://name/prefix` or `file:///directory`; and how an S3 server is reached.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::directory::DirectoryStore;
use super::metered::Metered;
use super::s3::S3Store;
use super::{ObjectStore, StoreError, check_key};
use crate::format::keys::INCOMING;

/// Which store, without its credentials.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreSpec {
    /// An existing or new directory, absolute.
    Directory(PathBuf),
    S3 {
        bucket: String,
        /// Without a slash at either end; empty for the bucket's root.
        prefix: String,
    },
}

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How an S3 server is reached; all absent means AWS and the SDK's own chain.
#[derive(Clone, Debug, Default)]
pub struct S3Options {
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Defaults to true where an endpoint is given.
    pub path_style: Option<bool>,
    pub access_key: Option<Secret>,
    pub secret_key: Option<Secret>,
    /// None: as the bucket encrypts by itself.
    pub encryption: Option<Encryption>,
}

/// How the server is to encrypt what it stores.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Encryption {
    pub algorithm: EncryptionAlgorithm,
    /// With a key of KMS alone; none for the account's own one.
    pub kms_key_id: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EncryptionAlgorithm {
    /// The server's own keys.
    Aes256,
    Kms,
    /// With two layers.
    KmsDsse,
}

impl EncryptionAlgorithm {
    const ALL: [Self; 3] = [Self::Aes256, Self::Kms, Self::KmsDsse];

    /// As S3 and the configuration write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aes256 => "AES256",
            Self::Kms => "aws:kms",
            Self::KmsDsse => "aws:kms:dsse",
        }
    }

    /// Reads what the user wrote; the error says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|one| one.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is none of AES256, aws:kms, aws:kms:dsse"))
    }

    pub fn has_kms_key(self) -> bool {
        self != Self::Aes256
    }
}

impl StoreSpec {
    /// Reads what the user wrote; the error is a sentence that says what is wrong and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("file://") {
            return parse_directory(text, path);
        }
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            return parse_bucket(text, bucket, prefix);
        }
        if text.contains(['/', ':']) {
            return Err(format!(
                "{text:?} is no store: write a bucket's name, s3://name/prefix or file:///directory"
            ));
        }
        parse_bucket(text, text, "")
    }

    /// Opens the store; an S3 server is not contacted yet.
    ///
    /// # Errors
    /// `Failed` for options that contradict each other, or where no region is known.
    pub async fn open(&self, options: &S3Options) -> Result<Arc<dyn ObjectStore>, StoreError> {
        let store: Arc<dyn ObjectStore> = match self {
            Self::Directory(path) => Arc::new(DirectoryStore::new(path.clone())),
            Self::S3 { bucket, prefix } => Arc::new(S3Store::open(bucket, prefix, options).await?),
        };
        Ok(Arc::new(Metered::new(store)))
    }
}

fn parse_directory(text: &str, path: &str) -> Result<StoreSpec, String> {
    // Components drop doubled and trailing slashes, and single dots.
    let directory: PathBuf = Path::new(path).components().collect();
    let absolute = directory.is_absolute() && directory.parent().is_some();
    if !absolute || path.contains('\0') || path.split('/').any(|name| name == "..") {
        return Err(format!(
            "{text:?} names no directory: write file:// and an absolute path without \"..\", as in file:///var/backup"
        ));
    }
    if directory.iter().any(|name| name == INCOMING) {
        return Err(format!(
            "{text:?} lies in the folder {INCOMING:?} of another store, which is cleared: choose another directory"
        ));
    }
    Ok(StoreSpec::Directory(directory))
}

fn parse_bucket(text: &str, bucket: &str, prefix: &str) -> Result<StoreSpec, String> {
    let is_safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if !(3..=255).contains(&bucket.len()) || !bucket.bytes().all(is_safe) || bucket.starts_with('.')
    {
        return Err(format!(
            "{text:?} names no bucket: a bucket's name has 3 to 63 letters, digits, dots and hyphens"
        ));
    }
    let prefix = prefix.trim_matches('/');
    if !prefix.is_empty() && check_key(prefix).is_err() {
        return Err(format!(
            "{text:?} has no usable prefix: its parts have to be names, without \"..\" or doubled slashes"
        ));
    }
    Ok(StoreSpec::S3 {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
    })
}

impl fmt::Display for StoreSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "file://{}", path.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(bucket: &str, prefix: &str) -> StoreSpec {
        StoreSpec::S3 {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        }
    }

    #[test]
    fn every_form_of_a_store() {
        for (text, spec, shown) in [
            ("my-backups", s3("my-backups", ""), "s3://my-backups"),
            ("s3://my-backups", s3("my-backups", ""), "s3://my-backups"),
            ("s3://my-backups/", s3("my-backups", ""), "s3://my-backups"),
            ("s3://b.c-d/a/b/", s3("b.c-d", "a/b"), "s3://b.c-d/a/b"),
            (
                "file:///var//backup/",
                StoreSpec::Directory(PathBuf::from("/var/backup")),
                "file:///var/backup",
            ),
        ] {
            let parsed = StoreSpec::parse(text).expect(text);
            assert_eq!(parsed, spec, "{text}");
            assert_eq!(parsed.to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_store_says_what_to_write() {
        for (text, expected) in [
            ("", "names no bucket"),
            ("ab", "names no bucket"),
            ("my bucket", "names no bucket"),
            ("s3:///prefix", "names no bucket"),
            ("/var/backup", "file:///directory"),
            ("bucket/prefix", "s3://name/prefix"),
            ("gs://bucket", "is no store"),
            ("file://relative", "absolute path"),
            ("file:///", "absolute path"),
            ("file:///./", "absolute path"),
            ("file:///.//./", "absolute path"),
            ("file:///a/../b", "absolute path"),
            ("file:///a/.incoming", "another store"),
            ("file:///a/.incoming/b", "another store"),
            ("s3://bucket/a//b", "usable prefix"),
            ("s3://bucket/a/../b", "usable prefix"),
        ] {
            let error = StoreSpec::parse(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains('\n'));
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let options = S3Options {
            access_key: Some(Secret("AKIA-visible".to_owned())),
            secret_key: Some(Secret("very-secret".to_owned())),
            ..S3Options::default()
        };
        let shown = format!("{options:?}");
        assert!(
            !shown.contains("visible") && !shown.contains("very-secret"),
            "{shown}"
        );
    }
}
