//! Texts: keys in a store, descriptions of databases, the configuration, and requests of the API.

use std::path::{Component, Path, PathBuf};

use litestream_multitenant::api::bodies::{self, NewDatabase, NewStatus};
use litestream_multitenant::api::query::Query;
use litestream_multitenant::api::{routes, validation};
use litestream_multitenant::config;
use litestream_multitenant::format::keys::{GenerationId, ObjectKey};
use litestream_multitenant::format::registry::RegistryKey;
use litestream_multitenant::restore::parse_description;
use litestream_multitenant::store::spec::StoreSpec;

const REPLICA: &str = "databases/12345678-1234-5678-9abc-123456789012";
const NOW_MS: i64 = 1_736_937_045_000;

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// Every key has one spelling, and after every generation there is a next one.
pub fn keys(data: &[u8]) {
    let Some(text) = text(data) else {
        return;
    };
    for key in [text.to_owned(), format!("{REPLICA}/{text}")] {
        if let Some(parsed) = ObjectKey::parse(REPLICA, &key) {
            assert_eq!(parsed.below(REPLICA), key);
            check_generation(parsed.generation());
        }
    }
    if let Ok(generation) = text.parse::<GenerationId>() {
        check_generation(generation);
    }
    if let Ok(store) = StoreSpec::parse(text) {
        let shown = store.to_string();
        assert_eq!(StoreSpec::parse(&shown), Ok(store), "{shown}");
    }
}

fn check_generation(id: GenerationId) {
    let shown = id.to_string();
    assert_eq!(shown.parse(), Ok(id));
    let next = GenerationId::next(NOW_MS, Some(id), 0);
    assert!(
        next > id || id.0 == u64::MAX,
        "{next} does not come after {id}"
    );
}

/// Every key has one spelling, and nothing that it names leads elsewhere.
pub fn registry(data: &[u8]) {
    let Some(text) = text(data) else {
        return;
    };
    for key in [text.to_owned(), format!("registry/{text}.json")] {
        let Some(parsed) = RegistryKey::parse(&key) else {
            continue;
        };
        assert_eq!(parsed.to_string(), key);
        match parsed {
            RegistryKey::WatchPath(prefix) => check_names(&prefix),
            RegistryKey::Placed {
                prefix,
                label,
                s3_prefix,
            }
            | RegistryKey::Elsewhere {
                prefix,
                label,
                s3_prefix,
            } => {
                check_names(format!("{prefix}/{label}").trim_start_matches('/'));
                check_names(&label);
                check_names(&s3_prefix);
            }
            RegistryKey::Removed { .. } | RegistryKey::Held { .. } => {}
        }
    }
}

/// What is joined to a directory stays below it.
fn check_below(path: impl AsRef<Path>) {
    let path = path.as_ref();
    let is_name = |part: Component| matches!(part, Component::Normal(_));
    assert!(path.components().all(is_name), "{path:?} leads elsewhere");
    assert!(path.file_name().is_some(), "{path:?} is no file");
    let bytes = path.as_os_str().as_encoded_bytes();
    assert!(!bytes.contains(&0), "{path:?} ends early");
}

/// The same of what is made of names that everybody can read.
fn check_names(path: &str) {
    check_below(path);
    assert!(!path.contains(char::is_control), "{path:?} is no name");
}

/// What a store says of a database is one below the watch path, or nothing.
pub fn description(data: &[u8]) {
    let Some(description) = parse_description(data) else {
        return;
    };
    check_below(&description.path);
    check_names(&description.tenant_id);
    check_names(&description.db_name);
    let again = parse_description(description.to_text().as_bytes());
    assert_eq!(again, Some(description), "it does not read back");
}

/// A configuration means something, or one line says what is wrong with it.
pub fn configuration(data: &[u8]) {
    let Some(text) = text(data) else {
        return;
    };
    let environment = |name: &str| (name == "SET").then(|| "from the environment".to_owned());
    let read = config::read(text, Path::new("fuzzed.yml"), &environment);
    let looked_at = read.and_then(config::Written::look_at);
    match looked_at {
        Ok((config, notes)) => {
            assert!(notes.iter().all(|note| !note.contains('\n')), "{notes:?}");
            assert!(!config.show().is_empty());
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
}

/// Method, path and query in a line each; the rest is the body.
pub fn api(data: &[u8]) {
    let mut parts = data.splitn(4, |byte| *byte == b'\n');
    let mut next = || parts.next().unwrap_or_default();
    let (method, path, query, body) = (text(next()), text(next()), text(next()), next());
    check_body(body);
    let (Some(method), Some(path), Some(query)) = (method, path, query) else {
        return;
    };
    let Ok(method) = method.parse() else {
        return;
    };
    if let Ok((route, _)) = routes::find(&method, path) {
        check_query(query, route);
    }
}

fn check_query(query: &str, route: &routes::Route) {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_owned(), value.to_owned())
    };
    let pairs = query.split('&').filter(|one| !one.is_empty()).map(pair);
    let refusals = match Query::new(Some(pairs.collect()), route.query) {
        Err(refusal) => vec![refusal],
        Ok(query) => [
            query.asked_for().err(),
            query.target().err(),
            query.timeout().err(),
        ]
        .into_iter()
        .flatten()
        .collect(),
    };
    for refusal in refusals {
        assert!(!refusal.message.contains('\n'), "{}", refusal.message);
    }
}

fn check_body(body: &[u8]) {
    if let Err(refusal) = bodies::parse::<NewStatus>(body) {
        assert!(!refusal.message.contains('\n'), "{}", refusal.message);
    }
    let Ok(body) = bodies::parse::<NewDatabase>(body) else {
        return;
    };
    let roots = [PathBuf::from("/data"), PathBuf::from("/srv/eu")];
    match validation::registration(body, &roots) {
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
        Ok(request) => {
            for name in [&request.tenant_id, &request.db_name, &request.client_id] {
                name.iter().for_each(check_below);
            }
            if let Some(prefix) = &request.s3_prefix {
                check_below(prefix);
                assert!(!prefix.starts_with("registry/"));
            }
            if let Some(path) = &request.db_path {
                let below = roots.iter().find_map(|root| path.strip_prefix(root).ok());
                check_below(below.expect("below one of the roots"));
            }
        }
    }
}
