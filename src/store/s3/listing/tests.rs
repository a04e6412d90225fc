//! Whole listings as servers give them, and each way in which one is not whole.

use super::*;

fn entries(keys: &[&str]) -> Vec<Entry<()>> {
    let found = |key: &&str| Some((key.trim_end_matches('/').to_owned(), ()));
    keys.iter()
        .map(|key| Entry {
            key: (*key).to_owned(),
            found: found(key),
        })
        .collect()
}

fn page(keys: &[&str], is_truncated: bool, token: Option<&str>) -> Page<()> {
    Page {
        objects: entries(keys),
        folders: Vec::new(),
        is_truncated: Some(is_truncated),
        token: token.map(str::to_owned),
        key_count: Some(keys.len() as i32),
        max_keys: Some(1000),
    }
}

fn listing(confirms: bool) -> Listing<()> {
    Listing {
        most: 10,
        most_pages: 8,
        ..Listing::new("databases/x/".to_owned(), "k".to_owned(), confirms)
    }
}

/// What comes of these answers, one after the other: the keys, and all that was asked for.
fn listed(confirms: bool, answers: Vec<Page<()>>) -> Result<(Vec<String>, Vec<Ask>), StoreError> {
    let mut listing = listing(confirms);
    let mut asked = vec![Ask::Start];
    for answer in answers {
        let ask = asked.last().expect("never empty").clone();
        match listing.add_page(&ask, answer)? {
            Some(next) => asked.push(next),
            None => return Ok((listing.found().into_keys().collect(), asked)),
        }
    }
    panic!("it goes on: {asked:?}");
}

fn refusal(confirms: bool, answers: Vec<Page<()>>) -> String {
    let error = listed(confirms, answers).expect_err("refused");
    assert!(matches!(error, StoreError::Incomplete { .. }), "{error:?}");
    assert!(!error.is_retryable());
    error.to_string()
}

fn after(key: &str) -> Ask {
    Ask::After(key.to_owned())
}

fn confirm(key: &str) -> Ask {
    Ask::Confirm(key.to_owned())
}

#[test]
fn a_listing_that_says_that_it_is_whole_is_asked_once_more_where_the_server_is_not_aws() {
    let one = page(&["k1", "k2"], false, None);
    let (keys, asked) = listed(false, vec![one.clone()]).expect("whole");
    assert_eq!((keys.len(), asked.len()), (2, 1));
    let (keys, asked) = listed(true, vec![one, page(&[], false, None)]).expect("whole");
    assert_eq!(keys, ["k1", "k2"]);
    assert_eq!(asked, [Ask::Start, confirm("k2")]);
    let (keys, asked) = listed(true, vec![page(&[], false, None)]).expect("nothing");
    assert_eq!((keys.len(), asked.len()), (0, 1));
}

#[test]
fn a_listing_that_was_cut_goes_on_whatever_the_server_says() {
    let pages = |first: Page<()>| {
        let second = page(&["k3", "k4"], false, None);
        vec![first, second, page(&[], false, None)]
    };
    let cut_silently = pages(page(&["k1", "k2"], false, None));
    let (keys, asked) = listed(true, cut_silently).expect("mended");
    assert_eq!(keys, ["k1", "k2", "k3", "k4"]);
    assert_eq!(asked, [Ask::Start, confirm("k2"), confirm("k4")]);

    let without_token = pages(page(&["k1", "k2"], true, None));
    let (keys, asked) = listed(true, without_token).expect("mended");
    assert_eq!(keys.len(), 4);
    assert_eq!(asked, [Ask::Start, after("k2"), confirm("k4")]);

    let with_token = pages(page(&["k1", "k2"], true, Some("t")));
    let (keys, asked) = listed(false, with_token).expect("whole");
    assert_eq!(keys.len(), 4);
    assert_eq!(asked, [Ask::Start, Ask::Token("t".to_owned())]);
}

#[test]
fn a_last_page_that_is_full_or_has_a_token_is_doubted_of_any_server() {
    let full = Page {
        max_keys: Some(2),
        ..page(&["k1", "k2"], false, None)
    };
    for doubtful in [full, page(&["k1", "k2"], false, Some("t"))] {
        let whole = vec![doubtful.clone(), page(&[], false, None)];
        let (_, asked) = listed(false, whole).expect("whole");
        assert_eq!(asked, [Ask::Start, confirm("k2")]);
        let said = refusal(false, vec![doubtful, page(&["k1", "k2"], false, None)]);
        assert!(said.contains("ignores start-after"), "{said}");
    }
}

#[test]
fn a_server_that_does_not_know_start_after_is_taken_at_its_word_where_nothing_speaks_against_it() {
    let all = page(&["k1", "k2"], false, None);
    let (keys, _) = listed(true, vec![all.clone(), all.clone()]).expect("the same");
    assert_eq!(keys, ["k1", "k2"]);
    let said = refusal(true, vec![all, page(&["k0", "k1"], false, None)]);
    assert!(said.contains("not in order"), "other than before: {said}");
}

#[test]
fn a_page_that_contradicts_itself_or_another_is_refused_by_name() {
    let first = || page(&["k2", "k3"], true, Some("t"));
    let mut silent = page(&["k1"], false, None);
    silent.is_truncated = None;
    let mut counted = page(&["k1"], false, None);
    counted.key_count = Some(2);
    for (answers, expected) in [
        (vec![silent], "does not say whether it is the last"),
        (vec![counted], "fewer keys than it says"),
        (
            vec![first(), page(&["k4"], true, Some("t"))],
            "repeats a continuation token",
        ),
        (vec![first(), first()], "not in order, or come twice"),
        (vec![first(), page(&["k1"], false, None)], "not in order"),
        (vec![page(&["k2", "k1"], false, None)], "not in order"),
        (
            vec![page(&["k1", "other"], false, None)],
            "ignores the prefix",
        ),
        (vec![page(&[], true, None)], "does not give it"),
        (
            vec![page(&["k1"], true, None), page(&[], true, None)],
            "does not give it",
        ),
    ] {
        let said = refusal(false, answers);
        assert!(said.contains(expected), "{said}");
        assert!(said.starts_with("databases/x/: "), "{said}");
    }
}

#[test]
fn folders_go_on_behind_the_last_one() {
    let folders = |keys: &[&str], is_truncated| Page {
        folders: entries(keys),
        ..page(&[], is_truncated, None)
    };
    let answers = vec![
        folders(&["ka/", "kb-1/", "kb/"], true),
        folders(&["kb/", "kc/"], false),
        folders(&[], false),
    ];
    let (names, asked) = listed(true, answers).expect("whole");
    assert_eq!(names, ["ka", "kb", "kb-1", "kc"]);
    assert_eq!(asked, [Ask::Start, after("kb0"), confirm("kc0")]);
}

#[test]
fn an_object_whose_key_ends_in_a_slash_hides_nothing_below_it() {
    let first = page(&["k/"], true, None);
    let answers = vec![first, page(&["k/1"], false, None)];
    let (_, asked) = listed(false, answers).expect("whole");
    assert_eq!(asked, [Ask::Start, after("k/")]);
}

#[test]
fn a_listing_without_an_end_is_refused() {
    let mut many = listing(false);
    let keys: Vec<_> = (0..11).map(|n| format!("k{n:02}")).collect();
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    let error = many
        .add_page(&Ask::Start, page(&keys, true, Some("t")))
        .expect_err("one more than there may be");
    assert!(error.to_string().contains("its listing does not end"));

    let mut empty = listing(false);
    let mut ask = Ask::Start;
    let mut refused = None;
    for n in 0..9 {
        match empty.add_page(&ask, page(&[], true, Some(&format!("t{n}")))) {
            Ok(next) => ask = next.expect("there is more"),
            Err(error) => refused = Some(error.to_string()),
        }
    }
    assert!(refused.is_some_and(|said| said.contains("does not end")));
}
