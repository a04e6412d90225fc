//! `database.json`: whose database a generation is of, and what its file was like when the generation began.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};
use serde::{Deserialize, Serialize};

/// What of a path is written as `%XX`, besides bytes above 7f.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// Owner and mode of a file or directory.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    pub uid: u32,
    pub gid: u32,
    /// Permission bits, 0 to 0777; in JSON octal, as text.
    #[serde(with = "octal")]
    pub mode: u32,
}

/// What a `database.json` says, as it is written. What is read is a claim of whoever may write to the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    pub tenant_id: String,
    pub db_name: String,
    /// Of the database's file, below the watch path: any bytes.
    pub path: PathBuf,
    /// The id of the instance that has written it.
    pub instance: Option<String>,
    /// Bytes.
    pub page_size: Option<u32>,
    /// RFC 3339.
    pub started_at: Option<String>,
    /// Of the file.
    pub file: Option<Attributes>,
    /// Of each directory of the path, the first one first; or of none.
    pub directories: Vec<Attributes>,
}

/// The same in JSON. `escapedPath` is there only where `path`, which is text, does not say every byte.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Text {
    tenant_id: String,
    db_name: String,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    escaped_path: Option<String>,
    instance: Option<String>,
    page_size: Option<u32>,
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<Attributes>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    directories: Vec<Attributes>,
}

impl Description {
    /// JSON that ends in a newline.
    pub fn to_text(&self) -> String {
        let is_text = self.path.to_str().is_some();
        let text = Text {
            tenant_id: self.tenant_id.clone(),
            db_name: self.db_name.clone(),
            path: self.path.to_string_lossy().into_owned(),
            escaped_path: (!is_text).then(|| escaped(&self.path)),
            instance: self.instance.clone(),
            page_size: self.page_size,
            started_at: self.started_at.clone(),
            file: self.file,
            directories: self.directories.clone(),
        };
        let json = serde_json::to_string_pretty(&text);
        json.expect("BUG: text and numbers are JSON") + "\n"
    }

    /// Reads what was written; none where it is no description, or has two paths that do not agree.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text: Text = serde_json::from_slice(text).ok()?;
        let path = match &text.escaped_path {
            None => PathBuf::from(&text.path),
            Some(escaped) => unescaped(escaped),
        };
        (path.to_string_lossy() == text.path).then_some(Self {
            tenant_id: text.tenant_id,
            db_name: text.db_name,
            path,
            instance: text.instance,
            page_size: text.page_size,
            started_at: text.started_at,
            file: text.file,
            directories: text.directories,
        })
    }
}

/// A path in printable ASCII: control characters, `%` and bytes above 7f are `%XX`.
pub fn escaped(path: &Path) -> String {
    percent_encode(path.as_os_str().as_bytes(), ESCAPED).to_string()
}

fn unescaped(text: &str) -> PathBuf {
    let bytes: Vec<u8> = percent_decode_str(text).collect();
    OsString::from_vec(bytes).into()
}

/// A mode in JSON.
mod octal {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(mode: &u32, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{mode:04o}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
        let text = String::deserialize(from)?;
        u32::from_str_radix(&text, 8).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use proptest::prelude::*;

    use super::*;

    fn of(path: &[u8]) -> Description {
        Description {
            tenant_id: "acme".to_owned(),
            db_name: "orders".to_owned(),
            path: OsStr::from_bytes(path).into(),
            instance: Some("00".to_owned()),
            page_size: Some(4096),
            started_at: None,
            file: Some(Attributes {
                uid: 1000,
                gid: 33,
                mode: 0o640,
            }),
            directories: vec![],
        }
    }

    proptest! {
        #[test]
        fn every_path_reads_back(bytes: Vec<u8>) {
            let description = of(&bytes);
            let text = description.to_text();
            prop_assert_eq!(Description::parse(text.as_bytes()), Some(description));
        }
    }

    #[test]
    fn a_path_that_is_text_is_written_as_it_is() {
        let text = of("50% ü\n/a.db".as_bytes()).to_text();
        assert!(text.contains(r#""path": "50% ü\n/a.db""#), "{text}");
        assert!(text.contains(r#""mode": "0640""#), "{text}");
        assert!(!text.contains("escapedPath"), "{text}");
        let text = of(b"50%\n\xff/a.db").to_text();
        assert!(
            text.contains(r#""escapedPath": "50%25%0A%FF/a.db""#),
            "{text}"
        );
        let other = text.replace("%FF/a.db", "%FF/b.db");
        assert_eq!(Description::parse(other.as_bytes()), None);
    }

    #[test]
    fn what_earlier_versions_have_written_reads_as_it_stands() {
        let text = r#"{"tenantId": "t", "dbName": "d", "path": "%41/d.db"}"#;
        let read = Description::parse(text.as_bytes()).expect("a description");
        assert_eq!(read.path, Path::new("%41/d.db"));
        assert_eq!((read.file, read.directories.len()), (None, 0));
    }
}
