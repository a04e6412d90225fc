//! From the body of a registration to what is asked of the roster: names that are names, a path below a watch path, a
//! prefix below STORE. Pure.

use std::path::{Component, Path, PathBuf};

use super::bodies::NewDatabase;
use crate::capture::STATE_FOLDER;
use crate::tenant::discovery::is_safe_name;
use crate::tenant::places::refuse_reserved;
use crate::tenant::request::{RegisterRequest, RequestError};

/// Bytes; a path that the kernel takes is shorter.
const MAX_PATH: usize = 4096;
/// Bytes; a key is at most 900, and object names come behind it.
const MAX_PREFIX: usize = 512;

/// Checks a body. `roots` are the directories in which applications see databases.
pub fn registration(body: NewDatabase, roots: &[PathBuf]) -> Result<RegisterRequest, RequestError> {
    let db_path = body
        .db_path
        .as_deref()
        .map(|text| database_path(text, roots))
        .transpose()?;
    match (&body.tenant_id, &body.client_id) {
        (Some(_), Some(_)) => {
            return Err(bad_id("tenantId and clientId exclude each other; give one"));
        }
        (None, None) => return Err(bad_id("tenantId or clientId is missing")),
        (Some(tenant), None) => {
            check_name("tenantId", tenant)?;
            if body.s3_prefix.is_some() {
                return Err(bad_id("s3Prefix goes with clientId, not with tenantId"));
            }
            check_stem(body.db_name.as_deref(), db_path.as_deref())?;
        }
        (None, Some(client)) => {
            check_name("clientId", client)?;
            if body.db_name.is_some() {
                return Err(bad_id("dbName goes with tenantId, not with clientId"));
            }
        }
    }
    if let Some(prefix) = &body.s3_prefix {
        check_prefix(prefix)?;
    }
    Ok(RegisterRequest {
        tenant_id: body.tenant_id,
        db_name: body.db_name,
        client_id: body.client_id,
        db_path,
        s3_prefix: body.s3_prefix,
    })
}

fn invalid(code: &'static str, message: impl Into<String>) -> RequestError {
    RequestError::Invalid {
        code,
        message: message.into(),
    }
}

fn bad_id(message: &str) -> RequestError {
    invalid("bad_id", message)
}

fn check_name(field: &str, name: &str) -> Result<(), RequestError> {
    if is_safe_name(name) {
        return Ok(());
    }
    Err(invalid(
        "bad_id",
        format!("{field} has to be 1 to 200 letters, digits, `.`, `_` and `-`, without a path"),
    ))
}

/// A tenant's database is named by its file.
fn check_stem(db_name: Option<&str>, db_path: Option<&Path>) -> Result<(), RequestError> {
    let path = db_path.ok_or_else(|| invalid("bad_path", "dbPath is missing"))?;
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    let stem = stem.expect("BUG: a path that was text, with a file name");
    if db_name.is_some_and(|name| name != stem) {
        return Err(bad_id("dbName has to be the stem of dbPath's file name"));
    }
    check_name("dbPath's file name", stem)
}

/// An absolute path in one spelling, below one of `roots`.
fn database_path(text: &str, roots: &[PathBuf]) -> Result<PathBuf, RequestError> {
    let wrong = |message: &str| Err(invalid("bad_path", message));
    if text.len() > MAX_PATH || text.contains(char::is_control) {
        return wrong("dbPath is too long, or has control characters");
    }
    let plain = |part: &str| !matches!(part, "." | "..");
    if !text.starts_with('/') || text.ends_with('/') || !text.split('/').all(plain) {
        return wrong("dbPath has to be the absolute path of a file, without `.` and `..`");
    }
    // Without doubled slashes.
    let path: PathBuf = Path::new(text).components().collect();
    let is_below = |root: &PathBuf| {
        path.strip_prefix(root).is_ok_and(|rest| {
            let mut parts = rest.components().peekable();
            // The mount does not show that folder.
            let first = parts.peek().map(|part| part.as_os_str());
            first.is_some_and(|first| first != STATE_FOLDER)
                && parts.all(|part| matches!(part, Component::Normal(_)))
        })
    };
    if roots.iter().any(is_below) {
        return Ok(path);
    }
    let roots: Vec<_> = roots
        .iter()
        .map(|root| root.display().to_string())
        .collect();
    Err(invalid(
        "foreign_path",
        format!("dbPath has to lie below a watch path: {}", roots.join(", ")),
    ))
}

fn check_prefix(prefix: &str) -> Result<(), RequestError> {
    if prefix.len() > MAX_PREFIX || !prefix.split('/').all(is_safe_name) {
        // A name of the store's is no safe one either, and is told as what it is.
        refuse_reserved(prefix, false).map_err(|reason| invalid("bad_prefix", reason))?;
        return Err(invalid(
            "bad_prefix",
            "s3Prefix has to be names of letters, digits, `.`, `_` and `-`, joined by `/`, and not below registry/",
        ));
    }
    refuse_reserved(prefix, false).map_err(|reason| invalid("bad_prefix", reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GUID: &str = "12345678-1234-5678-9abc-123456789012";

    fn roots() -> Vec<PathBuf> {
        vec!["/data".into(), "/srv/eu".into()]
    }

    fn body(fields: &[(&str, &str)]) -> NewDatabase {
        let mut body = NewDatabase::default();
        for (name, value) in fields {
            let field = match *name {
                "tenantId" => &mut body.tenant_id,
                "dbPath" => &mut body.db_path,
                "dbName" => &mut body.db_name,
                "clientId" => &mut body.client_id,
                "s3Prefix" => &mut body.s3_prefix,
                other => panic!("{other}"),
            };
            *field = Some((*value).to_owned());
        }
        body
    }

    #[test]
    fn both_forms() {
        let request = registration(
            body(&[
                ("tenantId", "tenant-001"),
                ("dbPath", "/data//tenant-001/orders.db"),
                ("dbName", "orders"),
            ]),
            &roots(),
        )
        .expect("the first form");
        assert_eq!(request.db_path, Some("/data/tenant-001/orders.db".into()));
        let request = registration(body(&[("clientId", GUID)]), &roots()).expect("the second");
        assert_eq!(request.client_id.as_deref(), Some(GUID));
        let prefix = format!("databases/{GUID}");
        let path = format!("/srv/eu/{GUID}.db");
        let whole = [
            ("clientId", GUID),
            ("dbPath", path.as_str()),
            ("s3Prefix", prefix.as_str()),
        ];
        let request = registration(body(&whole), &roots()).expect("all of it");
        assert_eq!(request.s3_prefix, Some(prefix.clone()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);
        let cases: &[Case] = &[
            (&[], "bad_id", "is missing"),
            (&[("tenantId", "a"), ("clientId", "b")], "bad_id", "exclude"),
            (&[("tenantId", "a")], "bad_path", "dbPath is missing"),
            (
                &[("tenantId", ""), ("dbPath", "/data/x.db")],
                "bad_id",
                "tenantId",
            ),
            (
                &[("tenantId", "a"), ("dbPath", "/data/x.db"), ("dbName", "y")],
                "bad_id",
                "the stem",
            ),
            (
                &[
                    ("tenantId", "a"),
                    ("dbPath", "/data/x.db"),
                    ("s3Prefix", "p"),
                ],
                "bad_id",
                "s3Prefix goes with",
            ),
            (
                &[("clientId", GUID), ("dbName", GUID)],
                "bad_id",
                "dbName goes",
            ),
            (
                &[("clientId", GUID), ("dbPath", "x.db")],
                "bad_path",
                "absolute",
            ),
            (
                &[("clientId", GUID), ("dbPath", "/data/")],
                "bad_path",
                "absolute",
            ),
            (
                &[("clientId", GUID), ("dbPath", "/data")],
                "foreign_path",
                "/data, /srv/eu",
            ),
            (
                &[("clientId", GUID), ("dbPath", "/data/../etc/x.db")],
                "bad_path",
                "`..`",
            ),
            (
                &[("clientId", GUID), ("dbPath", "/etc/passwd")],
                "foreign_path",
                "below",
            ),
            (
                &[
                    ("clientId", GUID),
                    ("dbPath", "/data/.litestream-multitenant/state.db"),
                ],
                "foreign_path",
                "below",
            ),
            (
                &[("clientId", GUID), ("dbPath", "/database/x.db")],
                "foreign_path",
                "below",
            ),
            (
                &[("clientId", GUID), ("dbPath", "/data/a\0b.db")],
                "bad_path",
                "control",
            ),
            (
                &[("clientId", GUID), ("s3Prefix", "/a")],
                "bad_prefix",
                "s3Prefix",
            ),
            (
                &[("clientId", GUID), ("s3Prefix", "a/../b")],
                "bad_prefix",
                "s3Prefix",
            ),
            (
                &[("clientId", GUID), ("s3Prefix", ".incoming/x")],
                "bad_prefix",
                ".incoming",
            ),
            (
                &[("clientId", GUID), ("s3Prefix", "x/.incoming")],
                "bad_prefix",
                "uses that name itself",
            ),
            (
                &[("clientId", GUID), ("s3Prefix", "databases/a/wal/b")],
                "bad_prefix",
                "wal",
            ),
            (
                &[("clientId", GUID), ("s3Prefix", "databases")],
                "bad_prefix",
                "databases",
            ),
            (
                &[("tenantId", ".incoming"), ("dbPath", "/data/x.db")],
                "bad_id",
                "tenantId",
            ),
            (
                &[("clientId", GUID), ("s3Prefix", "registry/x")],
                "bad_prefix",
                "registry",
            ),
        ];
        for (fields, code, part) in cases {
            let error = registration(body(fields), &roots()).expect_err(code);
            assert_eq!(error.code(), *code, "{fields:?}: {error}");
            assert!(error.to_string().contains(part), "{fields:?}: {error}");
        }
    }

    /// Names as an attacker would write them, joined in any order.
    fn hostile() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("..".to_owned()),
            Just(".".to_owned()),
            Just("/".to_owned()),
            Just("\\".to_owned()),
            Just("%2e%2e".to_owned()),
            Just("%2f".to_owned()),
            Just("\0".to_owned()),
            Just("\n".to_owned()),
            Just("/data".to_owned()),
            Just("/data/".to_owned()),
            Just("/etc/shadow".to_owned()),
            Just("databases".to_owned()),
            Just("registry".to_owned()),
            // Look-alikes: full width, a division slash, one dot leader, a right-to-left mark, Cyrillic.
            Just("．．／".to_owned()),
            Just("∕".to_owned()),
            Just("․․".to_owned()),
            Just("\u{202e}".to_owned()),
            Just("а".to_owned()),
            Just(GUID.to_owned()),
            Just(GUID.to_uppercase()),
            Just("x.db".to_owned()),
            Just("x".repeat(300)),
            "[a-z0-9._-]{0,5}",
            any::<char>().prop_map(String::from),
        ];
        prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    /// A name that is one part of a path and of a key.
    fn is_one_part(name: &str) -> bool {
        let parts: Vec<_> = Path::new(name).components().collect();
        parts == [Component::Normal(name.as_ref())] && name.len() <= 255 && name.is_ascii()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn no_name_leads_out_of_its_place(
            tenant in prop::option::of(hostile()),
            client in prop::option::of(hostile()),
            path in prop::option::of(hostile()),
            name in prop::option::of(hostile()),
            prefix in prop::option::of(hostile()),
        ) {
            let body = NewDatabase {
                tenant_id: tenant,
                client_id: client,
                db_path: path,
                db_name: name,
                s3_prefix: prefix,
            };
            let Ok(request) = registration(body, &roots()) else {
                return Ok(());
            };
            for name in [&request.tenant_id, &request.client_id, &request.db_name] {
                prop_assert!(name.as_deref().is_none_or(is_one_part), "{request:?}");
            }
            if let Some(path) = &request.db_path {
                let below = path.strip_prefix("/data").or(path.strip_prefix("/srv/eu"));
                let below = below.expect("below a watch path");
                prop_assert!(below.components().count() > 0);
                let plain = |part| matches!(part, Component::Normal(_));
                prop_assert!(below.components().all(plain), "{request:?}");
            }
            if let Some(prefix) = &request.s3_prefix {
                prop_assert!(prefix.split('/').all(is_one_part), "{request:?}");
                prop_assert!(!prefix.starts_with("registry/"));
            }
        }

        /// The same, where most of it is in order: the property above must not hold for want of accepted bodies.
        #[test]
        fn what_is_in_order_is_accepted(
            tenant in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,30}",
            stem in "[a-zA-Z0-9][a-zA-Z0-9_-]{0,30}",
        ) {
            let path = format!("/data/{tenant}/{stem}.db");
            let body = body(&[("tenantId", &tenant), ("dbPath", &path), ("dbName", &stem)]);
            prop_assert!(registration(body, &roots()).is_ok());
        }
    }
}
