//! Which file a client may be said to have. A store says of each client a path and names, and whoever may write to the
//! store may say so: that is a claim, which the rules of this configuration decide. Pure.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use super::discovery::{Named, Rules, STATE_FOLDER, is_of_another};
use super::ids::tenant_of_label;

/// How good a claim is, the best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Standing {
    /// `clients` gives the file to the client.
    Configured,
    /// Discovery gives it, or would where it is off.
    Discovered,
    /// No rule takes the file, as one that was registered by hand. It has the names of the client: its stem is the
    /// database's name, and one of its directories has the tenant's name, or the client goes by one name.
    Named,
    /// No configuration is known, nothing speaks for the client, and no rule for anybody else. Only a client that goes by one
    /// name has this: `clients` may give it any file.
    Unopposed,
}

/// Why a claim counts for nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Baseless {
    #[error("it is no path below a watch path")]
    NoPath,
    #[error("a folder named {STATE_FOLDER} holds no database of a client")]
    StateFolder,
    #[error("SQLite keeps a log, an index or a journal of another database under such a name")]
    Companion,
    #[error("the rules give that file to {0}")]
    OfAnother(String),
    #[error("`clients` gives {client} the file {path} instead")]
    HasAnother { client: String, path: String },
    #[error("it lies in the place of {0}")]
    InPlaceOf(String),
    #[error("it is claimed for {0} as well, with as much right")]
    Contested(String),
    #[error(
        "no rule gives that file to {0}, and it has not the names of that client: `clients` can give it"
    )]
    NotItsOwn(String),
}

/// The rules that decide about claims below one watch path.
#[derive(Clone, Copy, Debug)]
pub enum Judge<'a> {
    /// Those of the configuration.
    Configuration(&'a Rules),
    /// There is no configuration: the rules that hold where nothing is written.
    Defaults(&'a Rules),
}

impl Judge<'_> {
    /// How good the claim of the client with this label to the file at `path` (below the watch path) is.
    ///
    /// # Errors
    /// Why it is none.
    pub fn weigh(self, label: &str, path: &Path) -> Result<Standing, Baseless> {
        refuse_unfit(path)?;
        let (Self::Configuration(rules) | Self::Defaults(rules)) = self;
        let configured = rules.named().iter();
        let mut configured = configured.filter(|(_, named)| goes_by(named, label));
        if let Some((own, _)) = configured.next() {
            return match own == path {
                true => Ok(Standing::Configured),
                false => Err(Baseless::HasAnother {
                    client: label.to_owned(),
                    path: own.display().to_string(),
                }),
            };
        }
        if let Some(rightful) = rules.rightful(path) {
            return match *rightful.label == *label {
                true => Ok(Standing::Discovered),
                false => Err(Baseless::OfAnother(rightful.label.to_string())),
            };
        }
        if has_names_of(label, path) {
            return Ok(Standing::Named);
        }
        match self {
            Self::Defaults(_) if !label.contains('/') => Ok(Standing::Unopposed),
            _ => Err(Baseless::NotItsOwn(label.to_owned())),
        }
    }
}

/// A client that is said to have a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claimant {
    /// The watch path's prefix; empty where it has none.
    pub prefix: String,
    pub label: String,
    /// Below the watch path.
    pub path: PathBuf,
    /// Whether its objects lie where the configuration has them.
    pub is_at_home: bool,
}

impl Claimant {
    /// Below the directory of all watch paths' prefixes.
    fn whole_path(&self) -> PathBuf {
        Path::new(&self.prefix).join(&self.path)
    }
}

/// Who else has a place below the same directory.
#[derive(Clone, Debug, Default)]
pub struct Neighbours<'a> {
    /// Tenants, and clients that go by one name.
    pub tenants: HashSet<&'a str>,
    /// Of all watch paths.
    pub prefixes: HashSet<&'a str>,
}

/// Decides which claimants get their files, for each in order. `judges` gives those of a prefix's watch paths. Which comes
/// first decides nothing.
pub fn decide<'a>(
    claimants: &[Claimant],
    neighbours: &Neighbours<'_>,
    judges: impl Fn(&str) -> Vec<Judge<'a>>,
) -> Vec<Result<(), Baseless>> {
    let ranks: Vec<_> = claimants
        .iter()
        .map(|claimant| {
            let standing = best(&judges(&claimant.prefix), claimant)?;
            refuse_place_of_others(claimant, standing, neighbours)?;
            Ok((standing, !claimant.is_at_home))
        })
        .collect();
    let mut at: HashMap<PathBuf, Vec<usize>> = HashMap::new();
    for (number, rank) in ranks.iter().enumerate() {
        if rank.is_ok() {
            at.entry(claimants[number].whole_path())
                .or_default()
                .push(number);
        }
    }
    // Claimants of one file, or of a file and one that would lie below it.
    let mut rivals: Vec<Vec<usize>> = vec![Vec::new(); claimants.len()];
    for (path, numbers) in &at {
        for &number in numbers {
            let above = path.ancestors().filter_map(|above| at.get(above)).flatten();
            for &other in above.filter(|other| **other != number) {
                rivals[number].push(other);
                rivals[other].push(number);
            }
        }
    }
    let decided = ranks.iter().zip(&rivals).map(|(rank, rivals)| {
        let rank = rank.as_ref().map_err(Baseless::clone)?;
        let rivals = rivals
            .iter()
            .filter_map(|other| Some((ranks[*other].as_ref().ok()?, other)));
        match rivals.min() {
            Some((other, number)) if other < rank => {
                Err(Baseless::OfAnother(claimants[*number].label.clone()))
            }
            Some((other, number)) if other == rank => {
                Err(Baseless::Contested(claimants[*number].label.clone()))
            }
            _ => Ok(()),
        }
    });
    decided.collect()
}

/// What the judge says who gives the claimant most.
fn best(judges: &[Judge<'_>], claimant: &Claimant) -> Result<Standing, Baseless> {
    let mut best = Err(Baseless::NotItsOwn(claimant.label.clone()));
    for judge in judges {
        match (judge.weigh(&claimant.label, &claimant.path), &best) {
            (Ok(standing), Ok(before)) if *before <= standing => {}
            (Err(_), Ok(_)) => {}
            (weighed, _) => best = weighed,
        }
    }
    best
}

/// Refuses what lies in another watch path's place; and where no rule has given the file, in another tenant's.
///
/// # Errors
/// `InPlaceOf`, `StateFolder`
pub fn refuse_place_of_others(
    claimant: &Claimant,
    standing: Standing,
    neighbours: &Neighbours<'_>,
) -> Result<(), Baseless> {
    let whole = claimant.whole_path();
    if whole.iter().any(|name| name == OsStr::new(STATE_FOLDER)) {
        return Err(Baseless::StateFolder);
    }
    let mut others = neighbours.prefixes.iter();
    let inner = others.find(|prefix| {
        let is_longer = prefix.len() > claimant.prefix.len();
        is_longer && whole.starts_with(Path::new(prefix))
    });
    if let Some(prefix) = inner {
        return Err(Baseless::InPlaceOf((*prefix).to_owned()));
    }
    let own = tenant_of_label(&claimant.label);
    match place_of(&claimant.path, &neighbours.tenants) {
        Some(tenant) if standing >= Standing::Named && tenant != own => {
            Err(Baseless::InPlaceOf(tenant.to_owned()))
        }
        _ => Ok(()),
    }
}

/// Refuses what can be no client's file, whatever the rules are.
fn refuse_unfit(path: &Path) -> Result<(), Baseless> {
    let mut parts = path.components().peekable();
    let are_names = |part| matches!(part, Component::Normal(_));
    if parts.peek().is_none() || !parts.all(are_names) {
        return Err(Baseless::NoPath);
    }
    if path.iter().any(|name| name == OsStr::new(STATE_FOLDER)) {
        return Err(Baseless::StateFolder);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match is_of_another(&name) {
        true => Err(Baseless::Companion),
        false => Ok(()),
    }
}

fn goes_by(named: &Named, label: &str) -> bool {
    match label.split_once('/') {
        None => named.single && named.tenant == label,
        Some((tenant, db_name)) => {
            !named.single && named.tenant == tenant && named.db_name == db_name
        }
    }
}

/// Whether the stem is the database's name, and one of the directories the tenant's, where it is not the client's only name.
fn has_names_of(label: &str, path: &Path) -> bool {
    let stem = path.file_stem();
    match label.split_once('/') {
        None => stem == Some(OsStr::new(label)),
        Some((tenant, db_name)) => {
            stem == Some(OsStr::new(db_name)) && lies_in_place_of(tenant, path)
        }
    }
}

/// The tenant in whose place a path lies: the first of its directories that has a tenant's name.
fn place_of<'a>(path: &Path, tenants: &HashSet<&'a str>) -> Option<&'a str> {
    let mut above = path.parent().into_iter().flat_map(Path::iter);
    above.find_map(|name| tenants.get(name.to_str()?).copied())
}

/// Whether one of the directories of a path has the tenant's name.
fn lies_in_place_of(tenant: &str, path: &Path) -> bool {
    let mut above = path.parent().into_iter().flat_map(Path::iter);
    above.any(|name| name == OsStr::new(tenant))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use crate::tenant::discovery::RulesWritten;

    const GUID: &str = "12345678-1234-5678-9abc-123456789012";
    const OTHER: &str = "12345678-1234-5678-9abc-123456789013";

    fn rules(change: impl FnOnce(&mut RulesWritten)) -> Rules {
        let mut written = RulesWritten::default_for(Path::new("/data"));
        change(&mut written);
        Rules::new(written).expect("rules")
    }

    #[test]
    fn a_claim_is_as_good_as_the_rules_make_it() {
        let by_folder = rules(|written| {
            written.tenant_regex = Some("/data/(?P<tenant>[^/]+)/".to_owned());
            let named = super::Named::single("system");
            written.named = [(PathBuf::from("shared/system.data"), named)].into();
        });
        let plain = rules(|_| {});
        let off = rules(|written| written.discovery = false);
        let guid_file = format!("x/{GUID}.db");
        let (by_folder, plain) = (
            Judge::Configuration(&by_folder),
            Judge::Configuration(&plain),
        );
        use Standing::{Configured, Discovered, Named as ByName};
        for (judge, label, path, expected) in [
            (by_folder, "system", "shared/system.data", Some(Configured)),
            (by_folder, "system", "shared/system.db", None),
            (by_folder, "shared/system", "shared/system.data", None),
            (by_folder, "bank/orders", "bank/orders.db", Some(Discovered)),
            (by_folder, "evil/orders", "bank/orders.db", None),
            (by_folder, "evil/orders", "bank/evil/orders.db", None),
            (by_folder, "bank/orders", "bank/orders.dat", Some(ByName)),
            (by_folder, GUID, "bank/secret.dat", None),
            (plain, GUID, &guid_file, Some(Discovered)),
            (plain, OTHER, &guid_file, None),
            (plain, "t/orders", "t/orders.dat", Some(ByName)),
            (plain, "t/orders", "u/orders.dat", None),
            (plain, "t/orders", "t/other.dat", None),
            (plain, "system", "system.dat", Some(ByName)),
            (plain, GUID, "secret.dat", None),
            (
                Judge::Configuration(&off),
                GUID,
                &guid_file,
                Some(Discovered),
            ),
        ] {
            let weighed = judge.weigh(label, Path::new(path));
            assert_eq!(
                weighed.as_ref().ok(),
                expected.as_ref(),
                "{label} {path}: {weighed:?}"
            );
        }
    }

    #[test]
    fn without_a_configuration_one_name_may_have_what_nobody_else_has() {
        let defaults = rules(|_| {});
        let judge = Judge::Defaults(&defaults);
        let bytes = Path::new(OsStr::from_bytes(b"a/\xff/b.db"));
        assert_eq!(judge.weigh(GUID, bytes), Ok(Standing::Unopposed));
        let own = format!("{GUID}.db");
        assert_eq!(judge.weigh(GUID, Path::new(&own)), Ok(Standing::Discovered));
        let refused = judge.weigh("evil/x", Path::new("bank/x.db"));
        assert_eq!(refused, Err(Baseless::NotItsOwn("evil/x".to_owned())));
        let other = format!("a/{OTHER}.db");
        let refused = judge.weigh(GUID, Path::new(&other));
        assert_eq!(refused, Err(Baseless::OfAnother(OTHER.to_owned())));
    }

    #[test]
    fn what_sqlite_or_the_state_keeps_is_nobodys_database() {
        let defaults = rules(|_| {});
        for path in [
            "bank/orders.db-wal",
            "bank/orders.db-shm",
            "bank/orders.db-journal",
            "bank/orders.db-mj0123459ab",
            ".litestream-multitenant/state.db",
            "a/.litestream-multitenant/state.db",
            "../x.db",
            "/x.db",
            "",
        ] {
            let weighed = Judge::Defaults(&defaults).weigh(GUID, Path::new(path));
            let is_unfit = matches!(
                weighed,
                Err(Baseless::NoPath | Baseless::StateFolder | Baseless::Companion)
            );
            assert!(is_unfit, "{path}: {weighed:?}");
        }
    }

    fn decided(claims: &[(&str, &str, &str)], judge: Judge<'_>) -> Vec<Result<(), Baseless>> {
        let claimants: Vec<_> = claims
            .iter()
            .map(|(prefix, label, path)| Claimant {
                prefix: (*prefix).to_owned(),
                label: (*label).to_owned(),
                path: path.into(),
                is_at_home: true,
            })
            .collect();
        let neighbours = Neighbours {
            tenants: claims
                .iter()
                .map(|claim| tenant_of_label(claim.1))
                .collect(),
            prefixes: claims.iter().map(|claim| claim.0).collect(),
        };
        let forward = decide(&claimants, &neighbours, |_| vec![judge]);
        let backward: Vec<_> = claimants.into_iter().rev().collect();
        let mut again = decide(&backward, &neighbours, |_| vec![judge]);
        again.reverse();
        let are_ok =
            |decided: &[Result<(), _>]| decided.iter().map(Result::is_ok).collect::<Vec<_>>();
        assert_eq!(are_ok(&forward), are_ok(&again), "the order decides");
        forward
    }

    #[test]
    fn the_better_claim_gets_the_file_whichever_comes_first() {
        let defaults = rules(|_| {});
        let judge = Judge::Defaults(&defaults);
        let own = format!("a/{GUID}.db");
        let of = |label: &str| Err(Baseless::InPlaceOf(label.to_owned()));
        for (claims, expected) in [
            // The place of a tenant that is there.
            (
                vec![
                    ("", GUID, "bank/orders.db"),
                    ("", "bank/orders", "bank/orders.db"),
                ],
                vec![of("bank"), Ok(())],
            ),
            (
                vec![
                    ("", GUID, "bank/new.db"),
                    ("", "bank/orders", "bank/orders.db"),
                ],
                vec![of("bank"), Ok(())],
            ),
            (
                vec![
                    ("", "t/orders", "bank/t/orders.db"),
                    ("", "bank/x", "bank/x.db"),
                ],
                vec![of("bank"), Ok(())],
            ),
            (
                vec![("", GUID, "bank/orders.db"), ("", OTHER, "bank/orders.db")],
                vec![
                    Err(Baseless::Contested(OTHER.to_owned())),
                    Err(Baseless::Contested(GUID.to_owned())),
                ],
            ),
            (
                vec![("", GUID, &own), ("", "x", "a")],
                vec![Ok(()), Err(Baseless::OfAnother(GUID.to_owned()))],
            ),
            (
                vec![("", GUID, "staging/x.db"), ("staging", OTHER, "x.db")],
                vec![of("staging"), Ok(())],
            ),
            (
                vec![(STATE_FOLDER, GUID, "x.db")],
                vec![Err(Baseless::StateFolder)],
            ),
        ] {
            assert_eq!(decided(&claims, judge), expected, "{claims:?}");
        }
    }
}
