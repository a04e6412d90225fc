//! The query of a request: which parameters it has, and what they mean.

use std::time::Duration;

use super::replies::Refusal;
use super::routes::Parameter;
use crate::clock;
use crate::format::quantity;
use crate::restore::{At, Target};
use crate::tenant::roster::Status;

/// How long a sync may be waited for, unless the query says otherwise, and at most.
const WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The status of files that are no client's.
pub const IGNORED: &str = "ignored";

/// Which clients the query means by their status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AskedFor {
    All,
    Only(Status),
    /// No clients, but the files that look like databases and are none of ours.
    Ignored,
}

impl AskedFor {
    pub fn includes(self, status: Status) -> bool {
        match self {
            Self::All => true,
            Self::Only(asked) => asked == status,
            Self::Ignored => false,
        }
    }
}

/// The parameters of a query, in order: each one known to the route, each at most once.
pub struct Query(Vec<(String, String)>);

impl Query {
    /// None for a query that can't be read.
    pub fn new(
        written: Option<Vec<(String, String)>>,
        known: &[Parameter],
    ) -> Result<Self, Refusal> {
        let written = written.ok_or_else(|| Refusal::bad_query("the query can't be read"))?;
        for (at, (name, _)) in written.iter().enumerate() {
            if !known.iter().any(|parameter| parameter.name == name) {
                let known: Vec<_> = known.iter().map(|parameter| parameter.name).collect();
                let known = match known.as_slice() {
                    [] => "this call has none".to_owned(),
                    known => format!("known here: {}", known.join(", ")),
                };
                return Err(Refusal::bad_query(format!(
                    "there is no parameter {name:?}; {known}"
                )));
            }
            if written[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(Refusal::bad_query(format!("{name:?} is given twice")));
            }
        }
        Ok(Self(written))
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn asked_for(&self) -> Result<AskedFor, Refusal> {
        let Some(word) = self.text("status") else {
            return Ok(AskedFor::All);
        };
        if word == IGNORED {
            return Ok(AskedFor::Ignored);
        }
        Status::ALL
            .into_iter()
            .find(|status| status.as_str() == word)
            .map(AskedFor::Only)
            .ok_or_else(|| Refusal::bad_query(format!("there is no status {word:?}")))
    }

    /// Which moment is meant; the newest where the query names none.
    pub fn target(&self) -> Result<Target, Refusal> {
        let at = match (self.text("timestamp"), self.text("txid")) {
            (None, None) => At::Newest,
            (Some(_), Some(_)) => {
                let message = "timestamp and txid exclude each other; give one";
                return Err(Refusal::bad_query(message));
            }
            (Some(text), None) => At::Time(clock::parse_rfc3339(text).ok_or_else(|| {
                Refusal::bad_query(format!(
                    "timestamp={text:?} is no time with its offset, as 2025-01-15T10:30:45Z"
                ))
            })?),
            (None, Some(text)) => At::Txid(txid(text)?),
        };
        let generation = None;
        Ok(Target { generation, at })
    }

    pub fn timeout(&self) -> Result<Duration, Refusal> {
        let Some(text) = self.text("timeout") else {
            return Ok(WAIT);
        };
        quantity::duration(text)
            .ok()
            .filter(|timeout| *timeout <= LONGEST_WAIT)
            .ok_or_else(|| {
                Refusal::bad_query(format!("timeout={text:?} is no duration of at most 5m"))
            })
    }
}

fn txid(text: &str) -> Result<u64, Refusal> {
    // What the parser takes besides digits is a plus.
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse().ok().filter(|_| plain);
    number.ok_or_else(|| Refusal::bad_query(format!("txid={text:?} is no number of a transaction")))
}
