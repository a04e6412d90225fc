//! What the rules make of file names.

use proptest::prelude::*;

use super::*;

const GUID: &str = "12345678-1234-5678-9abc-123456789012";

fn written() -> RulesWritten {
    RulesWritten::default_for(Path::new("/data"))
}

fn rules(change: impl FnOnce(&mut RulesWritten)) -> Rules {
    let mut written = written();
    change(&mut written);
    Rules::new(written).expect("rules")
}

fn label(rules: &Rules, path: &str) -> Option<String> {
    rules
        .identify(Path::new(path))
        .map(|found| found.label.to_string())
}

#[test]
fn a_guid_database_and_its_companions() {
    let rules = rules(|_| {});
    let db = PathBuf::from(format!("a/{GUID}.db"));
    assert_eq!(
        label(&rules, &format!("a/{GUID}.db")).as_deref(),
        Some(GUID)
    );
    for (suffix, kind) in SUFFIXES {
        let path = PathBuf::from(format!("a/{GUID}.db{suffix}"));
        assert_eq!(Rules::companion(&path), Some((db.clone(), kind)));
        assert_eq!(rules.examine(&path), Verdict::Plain);
    }
    assert_eq!(Rules::companion(&db), None);
}

#[test]
fn the_pattern_matches_whole_names_only() {
    let plain = rules(|_| {});
    for (name, verdict) in [
        (format!("x{GUID}.db"), Verdict::Ignored),
        (format!("{GUID}x.db"), Verdict::Ignored),
        (format!("{}.db", GUID.to_uppercase()), Verdict::Ignored),
        ("system.db".to_owned(), Verdict::Ignored),
        (format!("{GUID}.sqlite"), Verdict::Plain),
        (GUID.to_owned(), Verdict::Plain),
        (format!("{GUID}.db-wal2"), Verdict::Plain),
    ] {
        assert_eq!(plain.examine(Path::new(&name)), verdict, "{name}");
    }
    // The seed's command line has a pattern that includes the extension.
    let with_extension =
        rules(|written| written.guid_pattern = format!("{DEFAULT_GUID_PATTERN}\\.db"));
    assert_eq!(
        label(&with_extension, &format!("{GUID}.db")).as_deref(),
        Some(GUID)
    );
}

#[test]
fn any_name_will_do_where_guids_are_not_asked_for() {
    let rules = rules(|written| written.guid_validation = Some(false));
    let found = rules
        .identify(Path::new("shop/orders.db"))
        .expect("a client");
    assert_eq!(&*found.label, "orders");
    assert_eq!(found.s3_prefix, "databases/orders");
}

#[test]
fn a_tenants_directory() {
    let seed = |written: &mut RulesWritten| {
        written.seen_at = "/data/tenants".into();
        written.patterns = vec!["*.db".to_owned(), "*.sqlite".to_owned()];
        written.tenant_regex = Some("tenants/(?P<tenant>[^/]+)".to_owned());
    };
    let by_directory = rules(seed);
    let found = by_directory
        .identify(Path::new("acme/orders.sqlite"))
        .expect("a client");
    assert_eq!(&*found.label, "acme/orders");
    assert_eq!(found.s3_prefix, "databases/acme/orders");
    assert_eq!(
        label(&by_directory, "acme/acme.db").as_deref(),
        Some("acme/acme"),
        "a tenant's database may have its name"
    );
    // What lies in no tenant's directory falls to the GUID rule.
    assert_eq!(
        label(&by_directory, &format!("{GUID}.db")).as_deref(),
        Some(GUID)
    );
    assert_eq!(
        by_directory.examine(Path::new("other.db")),
        Verdict::Ignored
    );

    let with_guids = rules(|written| {
        seed(written);
        written.guid_validation = Some(true);
    });
    assert_eq!(
        with_guids.examine(Path::new("acme/orders.db")),
        Verdict::Ignored
    );
    let in_it = label(&with_guids, &format!("acme/{GUID}.db"));
    assert_eq!(in_it, Some(format!("acme/{GUID}")));
}

#[test]
fn a_database_that_was_named_needs_no_rule() {
    let named = Named {
        s3_prefix: Some("elsewhere/it".to_owned()),
        ..Named::single("system")
    };
    let rules = rules(|written| {
        written.discovery = false;
        written.named = [("shared/system.dat".into(), named)].into();
    });
    let found = rules
        .identify(Path::new("shared/system.dat"))
        .expect("a client");
    assert_eq!((&*found.label, found.is_listed), ("system", true));
    assert_eq!(found.s3_prefix, "elsewhere/it");
    assert_eq!(
        rules.examine(Path::new(&format!("{GUID}.db"))),
        Verdict::Plain
    );
}

#[test]
fn rules_that_cannot_be_used_say_why() {
    let refused = |change: fn(&mut RulesWritten)| {
        let mut written = written();
        change(&mut written);
        Rules::new(written).expect_err("unusable").to_string()
    };
    let unbalanced = refused(|written| written.guid_pattern = "a)(b".to_owned());
    assert!(unbalanced.contains("does not compile"), "{unbalanced}");
    assert!(!unbalanced.contains('\n'));
    let nameless = refused(|written| written.tenant_regex = Some("tenants/(.+)".to_owned()));
    assert!(nameless.contains("(?P<tenant>"), "{nameless}");
    let broken = refused(|written| written.tenant_regex = Some("(?P<tenant>".to_owned()));
    assert!(broken.contains("does not compile"), "{broken}");
    for glob in ["", "a/b.db", "[", "***"] {
        let mut written = written();
        written.patterns = vec![glob.to_owned()];
        let error = Rules::new(written).expect_err(glob).to_string();
        assert!(error.contains("is no glob"), "{error}");
    }
}

/// Names that try to leave their place.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("..".to_owned()),
        Just("/".to_owned()),
        Just("%2e%2e%2f".to_owned()),
        Just("\0".to_owned()),
        Just("\n".to_owned()),
        Just("\u{2025}\u{ff0f}".to_owned()),
        Just("\u{430}cme".to_owned()),
        Just("databases".to_owned()),
        Just("wal".to_owned()),
        Just("a".repeat(300)),
        "[A-Za-z0-9._-]{1,8}",
        any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(piece, 1..5).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// Whatever a file and its directory are called: what is taken up has a place of its own, one or two names below
    /// `databases/`, and different names have different places.
    #[test]
    fn no_name_leads_out_of_its_place(directory in hostile(), name in hostile()) {
        let rules = rules(|written| {
            written.guid_pattern = ".*".to_owned();
            written.tenant_regex = Some("/data/(?P<tenant>.+)/".to_owned());
        });
        let path = format!("{directory}/{name}.db");
        let path = path.trim_start_matches('/');
        if let Some(found) = rules.identify(Path::new(path)) {
            let below = found.s3_prefix.strip_prefix("databases/");
            let segments: Vec<_> = below.expect("below databases/").split('/').collect();
            prop_assert!(segments.len() <= 2, "{}", found.s3_prefix);
            for segment in segments {
                prop_assert!(is_safe_name(segment), "{segment:?}");
                prop_assert!(path.contains(segment));
            }
        }
    }
}
