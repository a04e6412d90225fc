//! `--owner` and `--mode`: users and groups by the names of this machine's files, or by their numbers.

use std::fs;

/// A user and a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Account {
    pub uid: u32,
    /// None where only a number was given, of which no group is known.
    pub gid: Option<u32>,
}

const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";

pub(super) fn parse(text: &str) -> Result<Account, String> {
    let read = |path| fs::read_to_string(path).map_err(|error| format!("read {path}: {error}"));
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let users = read(USERS)?;
    let entry = entries(&users).find(|fields| match number(user) {
        Some(uid) => fields[2] == uid.to_string(),
        None => fields[0] == user,
    });
    let unknown = |kind, name, path| format!("no {kind} {name:?} in {path}; give its number");
    let uid = number(user)
        .or_else(|| number(entry.as_ref()?[2]))
        .ok_or_else(|| unknown("user", user, USERS))?;
    let gid = match group {
        None => entry.and_then(|fields| number(fields[3])),
        Some(group) => Some(match number(group) {
            Some(gid) => gid,
            None => {
                let groups = read(GROUPS)?;
                let entry = entries(&groups).find(|fields| fields[0] == group);
                let gid = entry.and_then(|fields| number(fields[2]));
                gid.ok_or_else(|| unknown("group", group, GROUPS))?
            }
        }),
    };
    Ok(Account { uid, gid })
}

/// The lines that have what every user and every group has, by their fields; those of a group are one fewer.
fn entries(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = text.lines().map(|line| line.split(':').collect());
    lines.filter(|fields: &Vec<_>| fields.len() >= 4)
}

/// A number of a user or group; the highest means none.
fn number(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = is_number.then(|| text.parse().ok()).flatten();
    number.filter(|number| *number != u32::MAX)
}

pub(super) fn parse_mode(text: &str) -> Result<u32, String> {
    let is_octal =
        (3..=4).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = is_octal
        .then(|| u32::from_str_radix(text, 8).ok())
        .flatten();
    mode.filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "no permissions: write them as 0640".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_of_accounts() {
        let root = Account {
            uid: 0,
            gid: Some(0),
        };
        for text in ["root", "0", "root:root", "0:0", "root:0"] {
            assert_eq!(parse(text), Ok(root), "{text}");
        }
        let unnamed = |gid| {
            Ok(Account {
                uid: 4_000_123,
                gid,
            })
        };
        assert_eq!(parse("4000123"), unnamed(None));
        assert_eq!(parse("4000123:7"), unnamed(Some(7)));
        for text in [
            "",
            ":",
            ":root",
            "root:",
            "no-such-user",
            "root:no-such",
            "4294967295",
            "-1",
            "+1",
            "root:root:root",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn permissions_are_three_octal_digits() {
        assert_eq!(parse_mode("0640"), Ok(0o640));
        assert_eq!(parse_mode("600"), Ok(0o600));
        for text in [
            "",
            "4755",
            "0o640",
            "888",
            "6",
            "rw-r-----",
            "-640",
            "00640",
        ] {
            assert!(parse_mode(text).is_err(), "{text}");
        }
    }
}
